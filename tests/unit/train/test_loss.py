import numpy as np
import pytest
import torch
from torch.nn import functional

from sandwatch.train.loss import loss
from sandwatch.train.params import Loss


def terms(**changes: float) -> Loss:
    return Loss(**({"bce": 0.0, "dice": 0.0, "focal": 0.0, "mine_weight": 6.0, "focal_gamma": 2.0} | changes))


torch.set_num_threads(1)
EVERY = terms(bce=1.0, dice=0.5, focal=0.7)
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


def test_a_batch_without_a_pixel_that_counts_has_a_loss_without_gradient() -> None:
    logits = BINARY.clone().requires_grad_()
    value = loss(logits, torch.full_like(MASK, 255), method="binary", weights=EVERY)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert (logits.grad == 0).all()
