"""Every entry of the registry: its network takes a file of the published names and shapes, all of it, or refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sandwatch.errors import InputError
from sandwatch.model.channels import WAVELENGTH_NM
from sandwatch.model.entry import Entry, Known, clipped, radar, reflectances, standardised, stretched
from sandwatch.model.network import KINDS
from sandwatch.model.registry import ENTRIES, entry, find
from sandwatch.train.initial import Initial, initial
from tests.unit.model.families import published

REST: dict[str, dict[str, Any]] = {
    "smp": {"architecture": "Unet", "depth": 5, "decoder_channels": []},
    "vit": {"decoder": "linear", "decoder_channels": 32},
    "swin": {"decoder": "linear", "decoder_channels": 32},
}
"""The keys of each kind that an entry leaves to the user."""
FILES = {
    "smp": lambda one: published.resnet(one.network["encoder"], len(one.bands)),
    "vit": lambda one: published.vit(one.network["backbone"], len(one.bands)),
    "swin": lambda one: published.swin(one.network["backbone"], len(one.bands)),
}
"""What a published file of each kind holds; those of the others are in the tests of their families."""
HERE = [one for one in ENTRIES if one.network["kind"] in FILES]


def network_of(one: Entry) -> dict[str, object]:
    return REST[str(one.network["kind"])] | one.network


def tensors_of(one: Entry) -> dict[str, Tensor]:
    return published.cheap(FILES[str(one.network["kind"])](one))


def begun(one: Entry, tensors: dict[str, Tensor], folder: Path, patch: pytest.MonkeyPatch) -> Initial:
    """A network that starts from a file, for scenes whose bands lie in another order; of shapes alone, at no cost."""
    weights = published.store(tensors, one, folder, patch)
    bands = tuple(reversed([band.name for band in one.bands]))
    # It looks for gradients, which nothing has that is only a shape; of a whole encoder it finds no idle part.
    patch.setattr("sandwatch.model.families.smp._drop_unused", lambda *_: None)
    with torch.device("meta"):
        return initial(
            published.begins(network_of(one), weights), bands, dict.fromkeys(bands, (1000.0, 200.0)), 96, folder
        )


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
@pytest.mark.parametrize("name", [one.name for one in HERE])
def test_a_published_file_fits_the_network_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = entry(name)
    made = begun(one, tensors_of(one), tmp_path, monkeypatch)
    assert [channel.name for channel in made.match.channels] == [band.name for band in one.bands]
    assert [channel.band for channel in made.match.channels] == [band.name for band in one.bands]
    assert made.start is not None
    assert (made.start.name, made.start.licence) == (one.name, one.licence)


@pytest.mark.parametrize("name", {str(one.network["kind"]): one.name for one in HERE}.values())
def test_half_a_file_is_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of(entry(name))
    half = dict(list(tensors.items())[: len(tensors) // 2])
    with pytest.raises(InputError, match=rf"weights {name}: .*got no tensor for .* of \d+\)"):
        begun(entry(name), half, tmp_path, monkeypatch)


def test_entries_have_names_of_their_own_and_say_what_people_must_know() -> None:
    assert len({one.name for one in ENTRIES}) == len(ENTRIES)
    for one in ENTRIES:
        assert find(one.name) is one
        assert one.network["kind"] in KINDS
        assert {band.name for band in one.bands} <= {*WAVELENGTH_NM, "VV", "VH"}
        assert one.licence
        assert one.source
        assert one.megabytes >= 0
        assert len(one.sha256) in (0, 8, 64)


def test_an_address_ends_with_the_first_digits_of_the_hash_where_they_are_known() -> None:
    for one in HERE:
        if len(one.sha256) == 8:
            assert one.address.endswith(f"-{one.sha256}.pth")
        assert one.address.startswith("hub:")
        assert one.address.count("/") == 2


def value(one: Known, pixel: float) -> float:
    assert one.mean is not None
    assert one.std is not None
    scaled = (pixel - one.mean) / one.std
    return min(max(scaled, -1e9 if one.low is None else one.low), 1e9 if one.high is None else one.high)


def known(name: str, band: str) -> Known:
    return next(one for one in entry(name).bands if one.name == band)


def test_scales_are_those_that_the_weights_were_trained_in() -> None:
    """Reflectance x 10000 and centi-dB, against what the publishers' code makes of them."""
    for pixel in (0, 777, 3000, 9_999, 14_000):
        assert value(known("ssl4eo-s12/resnet50/moco/l1c", "B8A"), pixel) == pytest.approx(min(pixel / 10_000, 1))
        assert value(known("satlas/swin-v2-t/si/ms", "B11"), pixel) == pytest.approx(min(pixel / 8160, 1))
        assert value(known("satlas/swin-v2-t/si/ms", "B4"), pixel) == pytest.approx(min(pixel / 3558, 1))
        low, high = 1373.1 - 2 * 1144.9, 1373.1 + 2 * 1144.9
        softcon = min(max((pixel - low) / (high - low), 0), 1)
        assert value(known("ssl4eo-s12/vit-b14/softcon/l1c", "B4"), pixel) == pytest.approx(softcon)
    for decibels in (-40.0, -20.26, -12.59, 3.0):
        low, high = -20.26 - 2 * 5.91, -20.26 + 2 * 5.91
        decur = min(max((decibels - low) / (high - low), 0), 1)
        assert value(known("ssl4eo-s12/resnet50/decur/s1", "VH"), decibels * 100) == pytest.approx(decur)


def test_bands_are_named_in_the_order_of_the_weights() -> None:
    bands = {one.name: [band.name for band in one.bands] for one in ENTRIES}
    assert bands["satlas/resnet152/mi/ms"] == ["B4", "B3", "B2", "B5", "B6", "B7", "B8", "B11", "B12"]
    assert bands["satlas/resnet50/si/rgb"] == ["B4", "B3", "B2"]
    assert bands["ssl4eo-s12/vit-s16/mae/s1"] == ["VV", "VH"]
    assert bands["ssl4eo-s12/vit-s16/dino/l1c"][8:] == ["B8A", "B9", "B10", "B11", "B12"]


def test_helpers_of_entries_scale_as_they_say() -> None:
    assert clipped(reflectances(["B2"], scale=100.0)) == (Known(name="B2", mean=0.0, std=100.0, low=0.0, high=1.0),)
    (vv,) = stretched(radar(["VV"], [-12.0], [4.0]))
    assert (vv.mean, vv.std, vv.low, vv.high) == (-2000.0, 1600.0, 0.0, 1.0)
    (b2,) = stretched(standardised(["B2"], [1000.0], [100.0]))
    assert (b2.mean, b2.std) == (800.0, 400.0)
