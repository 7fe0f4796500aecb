"""Bands by name: each where the weights want it, in their unit, once; what either side lacks follows a rule."""

from typing import Any

import numpy as np
import pytest
import torch

from sandwatch.errors import InputError
from sandwatch.model.channels import Match, match
from sandwatch.model.entry import Known
from sandwatch.model.predictor import Reader
from sandwatch.stack import NODATA

KNOWN = (
    Known(name="B4", mean=0.0, std=10_000.0, low=0.0, high=1.0),
    Known(name="B8A", mean=2000.0, std=500.0),
    Known(name="VH", mean=-2000.0, std=500.0),
)
MOMENTS = {"B2": (700.0, 90.0), "B4": (1000.0, 300.0), "B8": (2500.0, 400.0), "B8A": (2600.0, 400.0),
           "VV": (-1100.0, 200.0), "VH": (-1900.0, 200.0)}  # fmt: skip


def matched(bands: tuple[str, ...], **changes: Any) -> Match:
    rules: dict[str, Any] = {
        "known": KNOWN, "missing_bands": "refuse", "new_bands": "refuse", "extensible": True, "whose": "weights x",
    }  # fmt: skip
    return match(bands, MOMENTS, **rules | changes)


def test_without_weights_bands_are_as_they_are() -> None:
    made = matched(("VV", "B4"), known=None)
    assert [(c.name, c.band, c.mean, c.std, c.fill) for c in made.channels] == [
        ("VV", "VV", -1100.0, 200.0, 0.0),
        ("B4", "B4", 1000.0, 300.0, 0.0),
    ]


def test_known_bands_are_put_in_the_order_and_unit_of_the_weights() -> None:
    made = matched(("VH", "B8A", "B4"))
    assert [c.band for c in made.channels] == ["B4", "B8A", "VH"]
    pixels = torch.tensor([[[[-2500]], [[3000]], [[12_000]]]], dtype=torch.int16)
    seen = Reader(made.channels, ("VH", "B8A", "B4"))(pixels)
    np.testing.assert_allclose(seen.flatten(), [1.0, 2.0, -1.0])  # B4 is cut off at 1
    assert made.table == (("B4", "B4", "matched"), ("B8A", "B8A", "matched"), ("VH", "VH", "matched"))


def test_where_there_is_no_data_a_channel_has_what_scenes_have_on_average() -> None:
    made = matched(("B4", "B8A", "VH"))
    seen = Reader(made.channels, ("B4", "B8A", "VH"))(torch.full((1, 3, 1, 1), NODATA, dtype=torch.int16))
    np.testing.assert_allclose(seen.flatten(), [0.1, (2600 - 2000) / 500, (-1900 + 2000) / 500], rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "expected"), [("zero", (0 - 2000) / 500), ("mean", 0.0), ("nearest", (2500 - 2000) / 500)]
)
def test_a_band_that_scenes_lack_follows_the_rule(rule: str, expected: float) -> None:
    """Nearest takes the other band's pixels, in the unit of the one that is lacking."""
    made = matched(("B4", "B8", "VH"), missing_bands=rule, new_bands="leave_out")
    pixels = torch.tensor([[[[1000]], [[2500]], [[-2000]]]], dtype=torch.int16)
    seen = Reader(made.channels, ("B4", "B8", "VH"))(pixels).flatten()
    np.testing.assert_allclose(seen, [0.1, expected, 0.0], atol=1e-6)
    assert made.table[1][2].startswith("missing: ")


def test_radar_is_nearest_to_radar_alone() -> None:
    made = matched(("B4", "B8A", "VV"), missing_bands="nearest", new_bands="leave_out")
    assert made.channels[2].band == "VV"
    with pytest.raises(InputError, match=r"weights x: band VH: got only B4, B8A; expected a band of the same sensor"):
        matched(("B4", "B8A"), missing_bands="nearest")


def test_new_bands_come_after_those_that_are_known() -> None:
    made = matched(("B2", "VV", "VH", "B8A", "B4"), new_bands="nearest")
    assert [c.name for c in made.channels] == ["B4", "B8A", "VH", "B2", "VV"]
    assert (made.known, made.nearest) == (3, (0, 2))
    assert (made.channels[3].mean, made.channels[3].std) == MOMENTS["B2"]
    left = matched(("B2", "VH", "B8A", "B4"), new_bands="leave_out")
    assert [c.name for c in left.channels] == ["B4", "B8A", "VH"]
    assert left.table[-1] == ("-", "B2", "new: left out")


@pytest.mark.parametrize(
    ("bands", "changes", "message"),
    [
        (("B4", "B8A"), {}, r"band VH: got scenes with B4, B8A; expected all of B4, B8A, VH; .*missing_bands"),
        (("B4", "B8A", "VH", "B2", "VV"), {}, r"x: bands B2, VV: got nothing that knows them; .*model\.new_bands"),
        (
            ("B4", "B8A", "VH", "B2"),
            {"new_bands": "mean", "extensible": False},
            r"model\.new_bands: weights x: got mean, for B2; expected leave_out or refuse",
        ),
        (("B4", "B8A"), {"missing_bands": "leave_out"}, r"missing_bands: got leave_out, for weights x; .* its bands"),
    ],
)  # fmt: skip
def test_what_follows_no_rule_is_refused_by_name(bands: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        matched(bands, **changes)


def test_groups_of_which_scenes_lack_a_band_are_left_out_whole() -> None:
    groups = (("B4",), ("B8A", "B11"), ("VV", "VH"))
    made = matched(("B4", "B8A", "VH"), missing_bands="leave_out", groups=groups, new_bands="leave_out")
    assert [c.name for c in made.channels] == ["B4"]
    with pytest.raises(InputError, match=r"weights x: its bands: got scenes with B8A; expected all of at least one of"):
        matched(("B8A",), missing_bands="leave_out", groups=groups)
