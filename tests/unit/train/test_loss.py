from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from torch.nn import functional

from sandwatch._torchvision import ensure_torchvision
from sandwatch.train.loss import loss
from sandwatch.train.params import Loss
from tests import training

ensure_torchvision()
from segmentation_models_pytorch.losses import LovaszLoss, TverskyLoss  # noqa: E402


def terms(**changes: Any) -> Loss:
    return Loss(**(training.SECTION["loss"] | {"bce": 0.0, "dice": 0.0} | changes))


torch.set_num_threads(1)
EVERY = terms(bce=1.0, dice=0.5, focal=0.7, lovasz=0.3, tversky=0.4, edge_smoothing_px=1)
torch.manual_seed(0)
MASK = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 6, 7)).astype(np.uint8))
BINARY, THREE = torch.randn(2, 1, 6, 7), torch.randn(2, 3, 6, 7)


def test_binary_cross_entropy_is_torchs() -> None:
    keep = (MASK == 0) | (MASK == 2)
    expected = functional.binary_cross_entropy_with_logits(
        BINARY[:, 0][keep], (MASK[keep] == 2).float(), pos_weight=torch.tensor(6.0)
    )
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(bce=1.0)), expected)
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(bce=3.0)), 3 * expected)


def test_cross_entropy_of_three_classes_is_torchs() -> None:
    each = functional.cross_entropy(
        THREE, MASK.long(), weight=torch.tensor([1.0, 6.0, 6.0]), ignore_index=255, reduction="none"
    )
    expected = each.sum() / (MASK != 255).sum()
    torch.testing.assert_close(loss(THREE, MASK, method="three_class", weights=terms(bce=1.0)), expected)


def test_dice_is_one_less_the_overlap() -> None:
    keep = (MASK == 0) | (MASK == 2)
    score, truth = torch.sigmoid(BINARY[:, 0][keep]), (MASK[keep] == 2).float()
    expected = 1 - (2 * (score * truth).sum() + 1) / (score.sum() + truth.sum() + 1)
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(dice=1.0)), expected)
    certain = torch.where(MASK == 2, 30.0, -30.0)[:, None]
    assert loss(certain, MASK, method="binary", weights=terms(dice=1.0)) < 1e-6

    scores = torch.softmax(THREE, dim=1)
    each = []
    for value in range(3):
        score, truth = scores[:, value][MASK != 255], (MASK[MASK != 255] == value).float()
        each.append(1 - (2 * (score * truth).sum() + 1) / (score.sum() + truth.sum() + 1))
    torch.testing.assert_close(
        loss(THREE, MASK, method="three_class", weights=terms(dice=1.0)), torch.stack(each).mean()
    )


def test_focal_loss_discounts_what_is_easy() -> None:
    keep = (MASK == 0) | (MASK == 2)
    truth = MASK[keep] == 2
    right = torch.where(truth, torch.sigmoid(BINARY[:, 0][keep]), torch.sigmoid(-BINARY[:, 0][keep]))
    expected = (torch.where(truth, 6.0, 1.0) * -torch.log(right) * (1 - right) ** 2).mean()
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(focal=1.0)), expected)
    flat = loss(BINARY, MASK, method="binary", weights=terms(focal=1.0, focal_gamma=0.0))
    torch.testing.assert_close(flat, loss(BINARY, MASK, method="binary", weights=terms(bce=1.0)))


@pytest.mark.parametrize(
    ("method", "logits", "left_out"), [("binary", BINARY, (1, 255)), ("three_class", THREE, (255,))]
)
def test_pixels_that_do_not_count_have_no_gradient(
    method: str, logits: torch.Tensor, left_out: tuple[int, ...]
) -> None:
    logits = logits.clone().requires_grad_()
    loss(logits, MASK, method=method, weights=EVERY).backward()
    assert logits.grad is not None
    gradient = logits.grad.abs().sum(dim=1)
    ignored = torch.isin(MASK, torch.tensor(left_out, dtype=torch.uint8))
    assert 0 < ignored.sum() < ignored.numel()
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] > 0).all()
    loss(logits, MASK, method=method, weights=terms(lovasz=1.0)).backward()  # which sorts what counts out by itself
    assert (logits.grad.abs().sum(dim=1)[ignored] == 0).all()


def test_a_batch_without_a_pixel_that_counts_has_a_loss_without_gradient() -> None:
    logits = BINARY.clone().requires_grad_()
    value = loss(logits, torch.full_like(MASK, 255), method="binary", weights=EVERY)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """One less intersection over union, of a prediction that is wrong at some pixels. Source: Berman et al. 2018, 4."""
    union = len(true | wrong)
    return len(wrong) / union if union else 0.0


def extended(errors: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> float:
    """The Lovasz extension as the paper defines it, set by set."""
    order, total, wrong = np.argsort(-errors, kind="stable"), 0.0, set[int]()
    own = set(np.flatnonzero(true).tolist())
    for pixel in order.tolist():
        grown = wrong | {pixel}
        total += errors[pixel] * (jaccard_loss(grown, own) - jaccard_loss(wrong, own))
        wrong = grown
    return total


def test_lovasz_is_the_papers_extension_and_the_librarys() -> None:
    keep = ((MASK == 0) | (MASK == 2)).numpy()
    true = (MASK == 2).numpy()[keep]
    margins = BINARY[:, 0].numpy()[keep] * np.where(true, 1, -1)
    value = loss(BINARY, MASK, method="binary", weights=terms(lovasz=1.0))
    assert float(value) == pytest.approx(extended(np.maximum(1 - margins, 0), true), rel=1e-5)
    target = torch.where(MASK == 1, 255, (MASK == 2).long() + 255 * (MASK == 255))
    library = LovaszLoss("binary", per_image=False, ignore_index=255)(BINARY, target)
    torch.testing.assert_close(value, library)

    value = loss(THREE, MASK, method="three_class", weights=terms(lovasz=2.0))
    library = LovaszLoss("multiclass", per_image=False, ignore_index=255)(THREE, MASK.long())
    torch.testing.assert_close(value, 2 * library)
    absent = torch.where(MASK == 1, 255, MASK)  # a class that no pixel is of does not count
    library = LovaszLoss("multiclass", per_image=False, ignore_index=255)(THREE, absent.long())
    torch.testing.assert_close(loss(THREE, absent, method="three_class", weights=terms(lovasz=1.0)), library)


def test_tversky_is_the_librarys() -> None:
    by = {"tversky": 1.0, "tversky_alpha": 0.2, "tversky_beta": 0.9}
    keep = (MASK == 0) | (MASK == 2)
    library = TverskyLoss("binary", from_logits=False, smooth=1.0, alpha=0.2, beta=0.9)(
        torch.sigmoid(BINARY[:, 0][keep])[None, None], (MASK[keep] == 2).float()[None, None]
    )
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(**by)), library)
    library = TverskyLoss("multiclass", ignore_index=255, smooth=1.0, alpha=0.2, beta=0.9)(THREE, MASK.long())
    torch.testing.assert_close(loss(THREE, MASK, method="three_class", weights=terms(**by)), library)


@pytest.mark.parametrize("reach", [1, 2])
def test_targets_are_softened_near_edges_and_nowhere_else(reach: int) -> None:
    """Seen through the gradient of cross-entropy without weights: score less target."""
    mask = np.zeros((1, 24, 20), np.uint8)
    mask[0, 6:15, 5:13], mask[0, :, 17:], mask[0, 20:, :6] = 2, 255, 1
    logits = torch.zeros(1, 1, 24, 20, requires_grad=True)
    only = terms(bce=1.0, mine_weight=1.0, edge_smoothing_px=reach)
    loss(logits, torch.from_numpy(mask), method="binary", weights=only).backward()
    assert logits.grad is not None
    keep = (mask == 0) | (mask == 2)
    target = (0.5 - logits.grad[:, 0].numpy() * keep.sum()) * keep
    size = (1, 2 * reach + 1, 2 * reach + 1)
    share = np.zeros_like(target)
    for y in range(24):
        for x in range(20):
            around = slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1)
            share[0, y, x] = (mask[0][around] == 2).sum() / max(keep[0][around].sum(), 1)
    np.testing.assert_allclose(target[keep], share[keep], atol=1e-5)
    hard = (mask == 2).astype(float)
    flat = (maximum_filter(hard, size) == minimum_filter(hard, size)) & keep
    np.testing.assert_allclose(target[flat], hard[flat], atol=1e-5)
    assert ((target > 0.05) & (target < 0.95)).sum() > 20


def test_a_weight_from_data_is_a_number_before_it_comes_here() -> None:
    with pytest.raises(ValueError, match="from_data"):
        loss(BINARY, MASK, method="binary", weights=terms(bce=1.0, mine_weight="from_data"))
