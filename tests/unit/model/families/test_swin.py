"""Swin transformers of torchvision: its own features, published files that fit, and bands by name."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from sandwatch.errors import InputError
from sandwatch.model.entry import Entry, Known, clipped, reflectances
from sandwatch.model.network import Model
from sandwatch.model.predictor import Reader
from sandwatch.train.initial import Initial, initial
from tests.unit.model.families import published

NETWORK = {"kind": "swin", "backbone": "swin_v2_t", "decoder": "segformer", "decoder_channels": 32}
BANDS = ("B4", "B3", "B2", "B8")
MOMENTS = dict.fromkeys((*BANDS, "VH"), (1200.0, 300.0))
ENTRY = Entry(
    name="test/swin/none/l2a",
    address="hub:test/swin/swin.pth",
    sha256="",
    megabytes=0,
    licence="MIT",
    network={"kind": "swin", "backbone": "swin_v2_t"},
    bands=clipped(reflectances(BANDS, scale=3558.0)),
    keys=((r"^backbone\.backbone\.", ""),),
    left=(r"norm\.", r"head\."),
    source="test",
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A published file, with numbers in it, under the names that its authors gave them."""
    torch.manual_seed(1)
    theirs = torchvision.models.swin_v2_t()
    theirs.features[0][0] = torch.nn.Conv2d(len(BANDS), 96, 4, 4)
    return {f"backbone.backbone.{name}": tensor for name, tensor in theirs.state_dict().items()}


def started(
    tensors: dict[str, Tensor],
    folder: Path,
    patch: pytest.MonkeyPatch,
    bands: tuple[str, ...] = BANDS,
    known: tuple[Known, ...] = ENTRY.bands,
) -> Initial:
    published.listed(ENTRY, patch, bands=known)
    weights = published.store(tensors, ENTRY, folder, patch)
    torch.manual_seed(0)
    return initial(published.begins(NETWORK, weights, new_bands="mean"), bands, MOMENTS, 32, folder)


def scores(begun: Initial, bands: tuple[str, ...]) -> Tensor:
    pixels = {
        band: torch.randint(200, 5000, (1, 32, 32), dtype=torch.int16, generator=torch.Generator().manual_seed(number))
        for number, band in enumerate(MOMENTS)
    }
    stack = torch.stack([pixels[band] for band in bands], dim=1)
    with torch.inference_mode():
        found: Tensor = begun.network.eval()(Reader(begun.match.channels, bands)(stack))
    return found


def test_names_are_those_of_torchvision_and_the_features_are_those_of_its_stages() -> None:
    encoder = Model.of(NETWORK, "binary").build(("B4", "B3", "B2"), 96).get_submodule("encoder")
    theirs = torchvision.models.swin_v2_t()
    assert set(encoder.state_dict()) == {name for name in theirs.state_dict() if name.startswith("features.")}
    theirs.load_state_dict(encoder.state_dict(), strict=False)
    pixels = torch.randn(1, 3, 96, 96)  # 3 cells at the coarsest stage, fewer than a window of attention
    with torch.inference_mode():
        maps = encoder.eval()(pixels)
        stages = [theirs.eval().features[:end](pixels) for end in (2, 4, 6, 8)]
    assert [tuple(one.shape[1:]) for one in maps] == [(96, 24, 24), (192, 12, 12), (384, 6, 6), (768, 3, 3)]
    for one, stage in zip(maps, stages, strict=True):
        torch.testing.assert_close(one, stage.permute(0, 3, 1, 2))


def test_a_published_file_fits_whole(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = started(tensors, tmp_path, monkeypatch).network.get_submodule("encoder").state_dict()
    assert {f"backbone.backbone.{name}" for name in state} == {name for name in tensors if ".features." in name}
    assert all(torch.equal(tensor, tensors[f"backbone.backbone.{name}"]) for name, tensor in state.items())


def test_half_a_file_is_refused_by_name(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = dict(list(tensors.items())[: len(tensors) // 2])
    with pytest.raises(InputError, match=r"weights test/swin.* got no tensor for features\.5.* \(and \d+ more of \d+"):
        started(half, tmp_path, monkeypatch)


def test_a_scene_scores_the_same_in_any_order_of_bands_and_any_unit_of_weights(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scores(started(tensors, tmp_path, monkeypatch), BANDS)
    mixed = ("B8", "B2", "B4", "B3")
    assert torch.equal(scores(started(tensors, tmp_path, monkeypatch, bands=mixed), mixed), first)
    name = "backbone.backbone.features.0.0.weight"
    of_255 = tuple(Known(name=band, mean=0.0, std=3558.0 / 255, low=0.0, high=255.0) for band in BANDS)
    other = tensors | {name: tensors[name] / 255}
    found = scores(started(other, tmp_path, monkeypatch, bands=mixed, known=of_255), mixed)
    torch.testing.assert_close(found, first, rtol=1e-3, atol=1e-4)
    assert first.std() > 0.01


def test_the_first_layer_gets_channels_for_bands_that_weights_do_not_know(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = started(tensors, tmp_path, monkeypatch, bands=("VH", *BANDS))
    widened = begun.network.get_parameter("encoder.features.0.0.weight")
    before = tensors["backbone.backbone.features.0.0.weight"]
    torch.testing.assert_close(widened[:, :4], before * 4 / 5)
    torch.testing.assert_close(widened[:, 4], before.mean(dim=1) * 4 / 5)


@pytest.mark.parametrize("decoder", ["unet", "linear"])
def test_every_part_learns(decoder: str) -> None:
    network = Model.of(NETWORK | {"decoder": decoder}, "three_class").build(BANDS, 64).eval()
    logits = network(torch.randn(1, 4, 64, 64))
    assert logits.shape == (1, 3, 64, 64)
    logits.square().sum().backward()
    assert [name for name, part in network.named_parameters() if part.grad is None or not part.grad.any()] == []


def test_windows_that_are_too_small_for_a_decoder_are_refused() -> None:
    """A group of one channel and one cell has no deviation to normalise by."""
    model = Model.of(NETWORK | {"decoder": "fpn"}, "binary")
    with pytest.raises(InputError, match=r"params\.yaml: model: got for windows of 32 px: .*; expected a decoder that"):
        model.build(BANDS, 32)


def test_only_networks_that_torchvision_has_are_taken() -> None:
    with pytest.raises(ValueError, match="swin_v2_b"):
        Model.of(NETWORK | {"backbone": "swin_v2_l"}, "binary")
