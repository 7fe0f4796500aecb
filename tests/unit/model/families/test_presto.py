"""Presto: its authors' file loads whole or not at all, and gives the features that it gives in its authors' code."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sandwatch.errors import InputError
from sandwatch.model.cache import place
from sandwatch.model.families import presto
from sandwatch.model.predictor import Reader
from sandwatch.model.registry import entry
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

SIZE_PX = 20
RECORDED = Path(__file__).parent / "presto_features.npz"
"""A window, (1, band, y, x) in the unit of a pixel stack and the order of OF_RECORD, and the first 32 features of
Presto's authors' own code for it: single_file_presto.py of their commit 13173d0, one time, month 0, with NDVI; with the
unit vector of the place set to zero but where a place is named."""
OF_RECORD = ("VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
GROUPS = {"S1": 2, "S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2}


def tensors() -> dict[str, torch.Tensor]:
    """Names and shapes of the published file."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.pos_embed": (1, 24, 64),
        "encoder.dw_embed.weight": (10, 128),
        "encoder.latlon_embed.weight": (128, 3),
        "encoder.latlon_embed.bias": (128,),
        "encoder.norm.weight": (128,),
        "encoder.norm.bias": (128,),
        "encoder.month_embed.weight": (12, 32),
        "encoder.channel_embed.weight": (10, 32),
        "decoder.mask_token": (128,),
        "decoder.pos_embed": (1, 24, 48),
        "decoder.channel_embeddings.weight": (10, 32),
    }
    for group, bands in (GROUPS | {"ERA5": 2, "SRTM": 2, "NDVI": 1}).items():
        shapes |= {
            f"encoder.eo_patch_embed.{group}.weight": (128, bands),
            f"encoder.eo_patch_embed.{group}.bias": (128,),
            f"decoder.eo_decoder_pred.{group}.weight": (bands, 128),
        }
    return numbers(shapes | blocks("encoder.blocks.", 128, 2, {"qkv": 3, "proj": 1}))


def test_a_published_file_fills_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tensors()
    pin = published("presto", stored, tmp_path, monkeypatch)
    network = begun(section(kind="presto", decoder="linear", weights=pin), BANDS, SIZE_PX, tmp_path).network
    for name, tensor in network.get_submodule("encoder").state_dict().items():
        of = "encoder.month_embed.weight" if name == "month_embed" else f"encoder.{name}"
        assert torch.equal(tensor, stored[of]), name
    pin = published("presto", {n: t for n, t in stored.items() if "blocks.1" not in n}, tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"presto: .* got no tensor for blocks\.1\.norm1\.weight \(and 11 more of \d+"):
        begun(section(kind="presto", decoder="linear", weights=pin), BANDS, SIZE_PX, tmp_path)


@pytest.mark.parametrize("decoder", ["linear", "upsample", "convolutional"])
def test_scores_are_the_same_whatever_the_order_and_unit(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = published("presto", tensors(), tmp_path, monkeypatch)
    model = section(kind="presto", decoder=decoder, weights=pin)
    same_whatever_the_order_and_unit(lambda bands: begun(model, bands, SIZE_PX, tmp_path), SIZE_PX)


def test_scenes_without_radar_make_no_token_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = published("presto", tensors(), tmp_path, monkeypatch)
    model = section(kind="presto", decoder="linear", weights=pin, missing_bands="leave_out")
    initial = begun(model, OPTICAL, SIZE_PX, tmp_path)
    assert set(dict(initial.network.get_submodule("encoder.eo_patch_embed").named_children())) == {
        *(GROUPS.keys() - {"S1"}),
        "NDVI",
    }


def test_a_pixel_is_seen_alone_by_the_encoder() -> None:
    encoder = presto.Encoder(OF_RECORD).eval()
    seen = torch.rand(2, 12, 18, 5)  # more rows than are computed at once, and not square
    other = seen.clone()
    other[1, 8, 17, 3] += 0.5
    with torch.inference_mode():
        changed = (encoder(seen) != encoder(other)).any(dim=1)
    assert changed.nonzero().tolist() == [[1, 17, 3]]


def test_gradients_are_those_without_saving_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, seen, again = presto.Encoder(OF_RECORD).eval(), torch.rand(1, 12, 18, 5), []

    def kept(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, **_: bool) -> torch.Tensor:
        again.append(len(rows))
        return function(rows)

    def gradients() -> dict[str, torch.Tensor]:
        encoder.zero_grad()
        encoder(seen).square().sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    found = gradients()
    monkeypatch.setattr(presto, "checkpoint", kept)
    for name, gradient in gradients().items():
        torch.testing.assert_close(found.pop(name), gradient, msg=name)
    assert not found
    assert again == [1, 1]  # 16 rows, and 2
    with torch.no_grad():
        encoder(seen)
    encoder.requires_grad_(False)(seen)
    assert again == [1, 1]  # nothing learns


@pytest.mark.parametrize(
    ("recorded", "lacking", "at"),
    [
        ("all", (), None),
        ("without S1", ("VV", "VH"), None),
        ("without SWIR, at 22.5 N 79.25 E", ("B11", "B12"), (22.5, 79.25)),
    ],
)
def test_real_weights_give_the_features_that_they_give_in_their_authors_code(
    recorded: str,
    lacking: tuple[str, ...],
    at: tuple[float, float] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = real("presto", "presto.pt", tmp_path, monkeypatch)
    stored = np.load(RECORDED)
    bands = tuple(band for band in OF_RECORD if band not in lacking)
    pixels = stored["pixels"][:, [OF_RECORD.index(band) for band in bands]]
    initial = begun(
        section(kind="presto", decoder="linear", weights=name, missing_bands="leave_out"), bands, 6, tmp_path
    )
    assert initial.start is not None
    assert initial.start.sha256 == entry(name).sha256
    encoder = initial.network.eval().get_submodule("encoder")
    if at is not None:
        latitude, longitude = (math.radians(angle) for angle in at)
        level = math.cos(latitude)
        encoder.place = torch.tensor([level * math.cos(longitude), level * math.sin(longitude), math.sin(latitude)])
    with torch.inference_mode():
        found = encoder(Reader(initial.match.channels, bands)(torch.from_numpy(pixels)))[0, :32]
    assert stored[recorded].std() > 0.05
    np.testing.assert_allclose(found.numpy(), stored[recorded], atol=2e-5)


def test_tables_of_times_and_months_are_those_of_the_real_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = real("presto", "presto.pt", tmp_path, monkeypatch)
    stored = torch.load(place(entry(name)), map_location="cpu", weights_only=True)
    encoder = presto.Encoder(OF_RECORD)
    torch.testing.assert_close(encoder.pos_embed, stored["encoder.pos_embed"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.month_embed, stored["encoder.month_embed.weight"], atol=1e-5, rtol=0)
