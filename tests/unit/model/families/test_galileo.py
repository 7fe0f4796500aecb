"""Galileo: its authors' files load whole or not at all, and give the features that they give in its authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.cache import place
from sandwatch.model.families import galileo
from sandwatch.model.predictor import Reader
from sandwatch.model.registry import GALILEO_BANDS, entry
from sandwatch.train.initial import Initial
from tests.unit.model.families.stored import (
    BANDS,
    OPTICAL,
    begun,
    blocks,
    numbers,
    published,
    real,
    same_whatever_the_order_and_unit,
    section,
)

SIZE_PX = 24
RECORDED = Path(__file__).parent / "galileo_features.npz"
"""A window, (1, band, y, x) in the unit of a pixel stack and the order of OF_RECORD, and the first 32 features of
Galileo-nano's authors' own code for it: single_file_galileo.py of their commit 0f0b5b9, average of each patch's tokens,
one time, month 5, with NDVI; normalised as their Normalizer does by two deviations."""
OF_RECORD = ("VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")


def tensors(size: str, depth: int | None = None) -> dict[str, torch.Tensor]:
    """Names and shapes of the published encoders."""
    width, whole, _ = galileo.SIZES[size]
    quarter = width // 4
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (24, quarter),
        "month_embed.weight": (12, quarter),
        "s_t_channel_embed": (7, quarter),
        "sp_channel_embed": (3, quarter),
        "t_channel_embed": (3, quarter),
        "st_channel_embed": (4, quarter),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    groups = {"S1": 2, "S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2, "NDVI": 1}
    for part, of in (("space_time_embed", groups), ("space_embed", {"SRTM": 2, "DW": 9, "WC": 5})):
        for group, bands in of.items():
            shapes[f"{part}.{group}.proj.weight"] = (width, bands, 8, 8)
            shapes[f"{part}.{group}.proj.bias"] = (width,)
    flat = {"time_embed.ERA5": 2, "time_embed.TC": 3, "time_embed.VIIRS": 1, "static_embed.LS": 1}
    flat |= {"static_embed.location": 3, "static_embed.DW_static": 9, "static_embed.WC_static": 5}
    for name, inputs in flat.items():
        shapes |= {f"{name}.weight": (width, inputs), f"{name}.bias": (width,)}
    return numbers(shapes | blocks("blocks.", width, depth or whole, dict.fromkeys(("q", "k", "v", "proj"), 1)))


@pytest.mark.parametrize(("size", "depth"), [("nano", 4), ("tiny", 12), ("base", 1)])
def test_a_published_file_fills_the_encoder(
    size: str, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(galileo.SIZES, size, (galileo.SIZES[size][0], depth, galileo.SIZES[size][2]))
    stored = tensors(size)
    pin = published(f"galileo/{size}", stored, tmp_path, monkeypatch)
    model = section(kind="galileo", size=size, patch_px=8, decoder="linear", weights=pin)
    network = begun(model, BANDS, SIZE_PX, tmp_path).network
    state = network.get_submodule("encoder").state_dict()
    for name, tensor in stored.items():
        kept = {"month_embed.weight": "month_embed"}.get(name, name)
        if kept in state:
            assert torch.equal(state.pop(kept), tensor), name
    last = f"blocks.{depth - 1}.attn."
    expected = torch.cat([stored[f"{last}{one}.weight"] for one in "qkv"])
    assert torch.equal(state[f"{last}qkv.weight"], expected)
    assert all(".attn.qkv." in name for name in state)


def test_a_name_with_backbone_is_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {name.replace("space_time_embed.", "space_time_embed.backbone."): t for name, t in tensors("nano").items()}
    pin = published("galileo/nano", stored, tmp_path, monkeypatch)
    begun(section(kind="galileo", size="nano", patch_px=4, decoder="linear", weights=pin), BANDS, SIZE_PX, tmp_path)


def test_half_a_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tensors("nano")

    def start(tensors: dict[str, torch.Tensor]) -> None:
        pin = published("galileo/nano", tensors, tmp_path, monkeypatch)
        begun(section(kind="galileo", size="nano", patch_px=8, decoder="linear", weights=pin), BANDS, 24, tmp_path)

    with pytest.raises(InputError, match=r"galileo/nano: .* got no tensor for blocks\.0\.norm1\.weight \(and \d+ more"):
        start({name: tensor for name, tensor in stored.items() if not name.startswith("blocks.")})
    with pytest.raises(InputError, match=r"got 2 tensors that nothing takes: blocks\.3\.attn\.q\.weight, .*v\.weight"):
        start({name: tensor for name, tensor in stored.items() if name != "blocks.3.attn.k.weight"})
    with pytest.raises(InputError, match=r"got no tensor for space_time_embed\.S2_SWIR\.proj\.bias; "):
        start({name: tensor for name, tensor in stored.items() if name != "space_time_embed.S2_SWIR.proj.bias"})


@pytest.mark.parametrize(("decoder", "patch_px"), [("linear", 8), ("upsample", 3), ("convolutional", 2)])
def test_scores_are_the_same_whatever_the_order_and_unit(
    decoder: str, patch_px: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = published("galileo/nano", tensors("nano"), tmp_path, monkeypatch)
    model = section(kind="galileo", size="nano", patch_px=patch_px, decoder=decoder, weights=pin)
    same_whatever_the_order_and_unit(lambda bands: begun(model, bands, SIZE_PX, tmp_path), SIZE_PX)


def without_radar(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Initial:
    """A network that starts from a published file, for scenes without radar."""
    pin = published("galileo/nano", tensors("nano"), tmp_path, monkeypatch)
    section_ = section(kind="galileo", size="nano", patch_px=8, decoder="linear", weights=pin, missing_bands=model)
    return begun(section_, OPTICAL, SIZE_PX, tmp_path)


def test_a_group_that_scenes_lack_makes_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"galileo/nano: band VV: got scenes with B1, "):
        without_radar("refuse", tmp_path, monkeypatch)
    initial = without_radar("leave_out", tmp_path, monkeypatch)
    assert "VV" not in [channel.name for channel in initial.match.channels]
    assert ("VH", "-", "left out: no VV, VH") in initial.match.table
    assert "S1" not in dict(initial.network.get_submodule("encoder.space_time_embed").named_children())
    lacking = tuple(band for band in BANDS if band not in ("B5", "B8"))
    model = section(kind="galileo", size="nano", patch_px=8, decoder="linear", missing_bands="leave_out")
    initial = begun(model, lacking, SIZE_PX, tmp_path)
    assert ("B6", "B6", "left out: no B5") in initial.match.table
    names = set(dict(initial.network.get_submodule("encoder.space_time_embed").named_children()))
    assert names == {"S1", "S2_RGB", "S2_NIR_20m", "S2_SWIR"}  # no NDVI without near infrared
    with pytest.raises(InputError, match=r"got scenes with B1, B2; expected all of at least one of VV, VH; B2, B3, B4"):
        begun(model, ("B1", "B2"), SIZE_PX, tmp_path)


def test_an_encoder_of_ones_own_sees_the_bands_of_its_kind(tmp_path: Path) -> None:
    keys = {"kind": "galileo", "size": "nano", "patch_px": 8, "decoder": "linear"}
    stored = begun(section(**keys), BANDS, SIZE_PX, tmp_path).network.get_submodule("encoder").state_dict()
    path = tmp_path / "own.safetensors"
    save_file({name: tensor.contiguous() + 1 for name, tensor in stored.items()}, path)
    model = section(**keys, weights={"name": path.name, "sha256": sha256(path)})
    initial = begun(model, BANDS, SIZE_PX, tmp_path)
    assert [channel.mean for channel in initial.match.channels] == [one.mean for one in GALILEO_BANDS]
    assert torch.equal(initial.network.get_parameter("encoder.norm.weight"), stored["norm.weight"] + 1)


def test_a_band_is_seen_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(galileo.SIZES, "nano", (128, 0, 8))  # without attention nothing else sees it
    encoder = galileo.Encoder("nano", OF_RECORD, 3, 4)
    seen = torch.rand(1, 12, 12, 12)
    other = seen.clone()
    other[:, 11, 3:6, 9:12] += 0.5  # the patch in row 1, column 3
    with torch.inference_mode():
        changed = (encoder(seen) != encoder(other)).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, 3]]


def test_a_patch_that_does_not_divide_a_window_is_refused(tmp_path: Path) -> None:
    model = section(kind="galileo", size="nano", patch_px=5, decoder="linear")
    with pytest.raises(InputError, match=r"model\.patch_px: got 5; expected a divisor of chips\.size_px, 24"):
        begun(model, BANDS, 24, tmp_path)


@pytest.mark.parametrize(
    ("recorded", "patch_px", "lacking"),
    [
        ("patch 8", 8, ()),
        ("patch 3", 3, ()),
        ("patch 4 without S1", 4, ("VV", "VH")),
        ("patch 4 without red edge and SWIR", 4, ("B5", "B6", "B7", "B11", "B12")),
    ],
)
def test_real_weights_give_the_features_that_they_give_in_their_authors_code(
    recorded: str, patch_px: int, lacking: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = real("galileo/nano", "galileo-nano-encoder.pt", tmp_path, monkeypatch)
    stored = np.load(RECORDED)
    bands = tuple(band for band in OF_RECORD if band not in lacking)
    pixels = stored["pixels"][:, [OF_RECORD.index(band) for band in bands]]
    keys = {"kind": "galileo", "size": "nano", "patch_px": patch_px, "decoder": "linear"}
    initial = begun(section(**keys, weights=name, missing_bands="leave_out"), bands, SIZE_PX, tmp_path)
    assert initial.start is not None
    assert initial.start.sha256 == entry(name).sha256
    with torch.inference_mode():
        seen = Reader(initial.match.channels, bands)(torch.from_numpy(pixels))
        found = initial.network.eval().get_submodule("encoder")(seen)[0, :32]
    assert stored[recorded].std() > 0.05
    np.testing.assert_allclose(found.numpy(), stored[recorded], atol=2e-5)


def test_tables_of_times_and_months_are_those_of_the_real_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = real("galileo/nano", "galileo-nano-encoder.pt", tmp_path, monkeypatch)
    stored = torch.load(place(entry(name)), map_location="cpu", weights_only=True)
    encoder = galileo.Encoder("nano", OF_RECORD, 8, 3)
    torch.testing.assert_close(encoder.pos_embed, stored["pos_embed"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.month_embed, stored["month_embed.weight"], atol=1e-5, rtol=0)
