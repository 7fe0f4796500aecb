"""Plain vision transformers: timm's own features, published files that fit, and bands by name."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.model.entry import Entry, reflectances
from sandwatch.model.network import Model, Vit
from sandwatch.model.predictor import Reader
from sandwatch.train.initial import Initial, initial
from tests.unit.model.families import published

NETWORK = {"kind": "vit", "backbone": "vit_tiny_patch16_224", "decoder": "segformer", "decoder_channels": 32}
BANDS = ("B2", "B3", "B4", "B8", "B11")
MOMENTS = {band: (1000.0 + 100 * number, 300.0) for number, band in enumerate((*BANDS, "VV"))}
ENTRY = Entry(
    name="test/vit/none/l2a",
    address="hub:test/vit/vit.pth",
    sha256="",
    megabytes=0,
    licence="MIT",
    network={"kind": "vit", "backbone": "vit_tiny_patch16_224"},
    bands=reflectances(BANDS),
    left=(r"head\.",),
    source="test",
)


def network(**changes: Any) -> nn.Module:
    return Model.of(NETWORK | changes, "binary").build(BANDS, 96)


def stored(backbone: str = "vit_tiny_patch16_224") -> dict[str, Tensor]:
    """A published file, with numbers in it."""
    torch.manual_seed(1)
    shapes = published.vit(backbone, len(BANDS))
    return {name: torch.randn(one.shape) * 0.05 for name, one in shapes.items()}


def started(
    tensors: dict[str, Tensor],
    folder: Path,
    patch: pytest.MonkeyPatch,
    bands: tuple[str, ...] = BANDS,
    entry: Entry = ENTRY,
    **changes: Any,
) -> Initial:
    published.listed(entry, patch)
    weights = published.store(tensors, entry, folder, patch)
    torch.manual_seed(0)
    return initial(published.begins(NETWORK, weights, **changes), bands, MOMENTS, 96, folder)


def scene(bands: tuple[str, ...]) -> Tensor:
    """int16 pixels of one scene, by the name of each band."""
    pixels = {
        band: torch.randint(200, 4000, (1, 96, 96), dtype=torch.int16, generator=torch.Generator().manual_seed(number))
        for number, band in enumerate(MOMENTS)
    }
    return torch.stack([pixels[band] for band in bands], dim=1)


def scores(begun: Initial, bands: tuple[str, ...]) -> Tensor:
    with torch.inference_mode():
        seen = Reader(begun.match.channels, bands)(scene(bands))
        found: Tensor = begun.network.eval()(seen)
    return found


def test_names_are_those_of_timm_and_the_last_features_are_its_own() -> None:
    encoder = network().get_submodule("encoder")
    theirs = timm.create_model("vit_tiny_patch16_224", in_chans=len(BANDS), img_size=96, num_classes=0)
    assert set(encoder.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(encoder.state_dict())
    pixels = torch.randn(2, len(BANDS), 96, 96)
    with torch.inference_mode():
        maps = encoder.eval()(pixels)
        tokens = theirs.eval().forward_features(pixels)[:, 1:]  # without the class token
    assert [one.shape for one in maps] == [(2, 192, 6, 6)] * 4
    torch.testing.assert_close(maps[-1], tokens.transpose(1, 2).reshape(2, 192, 6, 6))
    assert not torch.equal(maps[0], maps[-1])


def test_a_published_file_fits_whole_with_position_embeddings_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = stored()
    state = started(tensors, tmp_path, monkeypatch).network.get_submodule("encoder").state_dict()
    assert set(state) == {name for name in tensors if not name.startswith("head.")}
    for name, tensor in state.items():
        if name != "pos_embed":
            assert torch.equal(tensor, tensors[name])
    assert state["pos_embed"].shape == (1, 1 + 6 * 6, 192)
    torch.testing.assert_close(state["pos_embed"], resample_abs_pos_embed(tensors["pos_embed"], [6, 6]))
    assert torch.equal(state["pos_embed"][:, 0], tensors["pos_embed"][:, 0])  # the class token has no place


def test_half_a_file_and_that_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = stored()
    half = dict(list(tensors.items())[: len(tensors) // 2])
    with pytest.raises(InputError, match=r"test/vit.* got no tensor for blocks\.6\.norm1\.weight \(and \d+ more of"):
        started(half, tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"got 1 tensors that nothing takes: blocks\.0\.ls1\.gamma; expected those of"):
        started(tensors | {"blocks.0.ls1.gamma": torch.ones(192)}, tmp_path, monkeypatch)
    for places in (torch.zeros(1, 9, 192), torch.zeros(9, 192), torch.zeros(1, 17, 384)):
        with pytest.raises(InputError, match=r"got \(.*\) for pos_embed; expected a tensor \(1, 37, 192\)"):
            started(tensors | {"pos_embed": places}, tmp_path, monkeypatch)


def test_a_scene_scores_the_same_in_any_order_of_bands_and_any_unit_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = stored()
    first = scores(started(tensors, tmp_path, monkeypatch), BANDS)
    mixed = tuple(reversed(BANDS))
    assert torch.equal(scores(started(tensors, tmp_path, monkeypatch, bands=mixed), mixed), first)
    in_percent = published.listed(ENTRY, monkeypatch, bands=reflectances(BANDS, scale=100.0))
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"] / 100
    found = scores(started(tensors, tmp_path, monkeypatch, bands=mixed, entry=in_percent), mixed)
    torch.testing.assert_close(found, first, rtol=1e-3, atol=1e-4)
    assert first.std() > 0.01


def test_the_first_layer_gets_channels_for_bands_that_weights_do_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = stored()
    begun = started(tensors, tmp_path, monkeypatch, bands=("VV", *BANDS), new_bands="zero")
    widened = begun.network.get_parameter("encoder.patch_embed.proj.weight")
    assert [channel.name for channel in begun.match.channels] == [*BANDS, "VV"]
    assert torch.equal(widened[:, :5], tensors["patch_embed.proj.weight"])
    assert not widened[:, 5].any()


@pytest.mark.parametrize("size_px", [96, 160])
def test_a_patch_of_14_px_is_padded_inside(size_px: int) -> None:
    model = Model.of(NETWORK | {"backbone": "vit_small_patch14_dinov2", "decoder": "linear"}, "three_class")
    built = model.build(BANDS, size_px).eval()
    with torch.inference_mode():
        assert built(torch.randn(1, len(BANDS), size_px, size_px)).shape == (1, 3, size_px, size_px)
    assert "encoder.blocks.0.ls1.gamma" in built.state_dict()


def test_a_copy_is_a_network_of_its_own() -> None:
    """As a moving average of weights needs."""
    built = network().eval()
    copied = copy.deepcopy(built)
    pixels = torch.randn(1, len(BANDS), 96, 96)
    with torch.inference_mode():
        before = copied(pixels)
        built.get_parameter("encoder.patch_embed.proj.weight").zero_()
        assert torch.equal(copied(pixels), before)
        assert not torch.equal(built(pixels), before)


@pytest.mark.parametrize("backbone", ["vit_smal_patch16_224", "resnet50", "eva02_tiny_patch14_224"])
def test_what_is_no_plain_transformer_of_timm_is_refused_with_the_nearest(backbone: str) -> None:
    with pytest.raises(InputError, match=rf"model\.backbone: got '{backbone}'; expected one of timm's \d+ plain"):
        network(backbone=backbone)


@pytest.mark.parametrize("change", [{"decoder": "deeplab"}, {"decoder_channels": 48}, {"decoder_channels": 0}])
def test_an_unknown_decoder_or_a_width_that_none_can_have_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Vit.of(NETWORK | change, "binary")
