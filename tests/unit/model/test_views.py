"""Test-time augmentation: a mean of mirror images and turns, and a scene that is turned gets its scores turned."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.model.card import Spec
from sandwatch.model.network import Scoring
from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import score
from sandwatch.stack import NODATA
from tests.models import section, spec

from .test_card import card

IMAGES: list[tuple[int, bool]] = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]
"""Quarter turns, and then left to right: all eight ways to lay a square on itself."""
OF: dict[int, list[tuple[int, bool]]] = {1: [(0, False)], 2: [(0, False), (0, True)], 8: IMAGES}
OF[4] = [*OF[2], (2, False), (2, True)]


def laid(pixels: npt.NDArray[Any], turns: int, mirrored: bool) -> npt.NDArray[Any]:
    turned = np.rot90(pixels, turns, axes=(-2, -1))
    return np.ascontiguousarray(np.flip(turned, -1) if mirrored else turned)


def back(answer: npt.NDArray[Any], turns: int, mirrored: bool) -> npt.NDArray[Any]:
    return np.rot90(np.flip(answer, -1) if mirrored else answer, -turns, axes=(-2, -1))


def predictor(method: str = "binary", **changes: Any) -> Predictor:
    """A network with random weights, which tells up from down."""
    model = section(method=method)
    torch.manual_seed(3)
    return Predictor(model.build(("B2", "B3", "B4"), 32), spec(model, **changes), "cpu", precision="32-true")


def pixels(*shape: int) -> npt.NDArray[np.int16]:
    made = np.random.default_rng(5).normal(1000, 300, (*shape[:-2], 3, *shape[-2:])).astype(np.int16)
    made[..., :, 3:9, 20:25] = NODATA
    return made


@pytest.mark.parametrize("method", ["binary", "three_class"])
@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_log_odds_are_the_mean_of_those_of_the_views(views: int, method: str) -> None:
    alone, windows = predictor(method), pixels(2, 32, 32)
    expected = np.mean([back(alone(laid(windows, *one)), *one) for one in OF[views]], axis=0)
    found = predictor(method, views=views)(windows)
    assert (found.dtype, found.shape) == (np.float32, (2, 1 if method == "binary" else 2, 32, 32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if views == 1:
        np.testing.assert_array_equal(found, alone(windows))
    else:
        assert np.abs(found - alone(windows)).max() > 0.01


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_the_network_computes_as_often_as_there_are_views(views: int) -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            calls.append(seen.shape)
            return seen[:, :1]

    Predictor(Counting(), spec(views=views), "cpu", precision="32-true")(pixels(2, 32, 32))
    assert len(calls) == views


def scored(scene: npt.NDArray[np.int16], scorer: Predictor) -> npt.NDArray[np.float32]:
    return np.concatenate([part.log_odds for part in score(scene, scorer)], axis=1)


@pytest.mark.parametrize("method", ["binary", "three_class"])
@pytest.mark.parametrize("views", [2, 4, 8])
def test_a_scene_that_is_turned_gets_its_scores_turned(views: int, method: str) -> None:
    """Of windows that lie alike after each turn: 56 and 80 px are one and two steps of 24 px more than a window."""
    scene, scorer = pixels(56, 80), predictor(method, views=views)
    expected = scored(scene, scorer)
    apart = {one: np.nanmax(np.abs(scored(laid(scene, *one), scorer) - laid(expected, *one))) for one in IMAGES}
    assert max(apart[one] for one in OF[views]) < 1e-5
    if views < 8:
        assert min(apart[one] for one in IMAGES if one not in OF[views]) > 0.01


def test_a_changed_temperature_or_threshold_keeps_the_views() -> None:
    """So both are fitted on the mean of the views, which is what is mapped."""
    assert predictor(views=4).changed(temperature=2.0).changed(threshold=0.5).spec.views == 4


@pytest.mark.parametrize("views", [0, 3, 16, "2"])
def test_other_numbers_of_views_are_refused(views: object) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: scoring\.views: got .*; expected 1, 2, 4 or 8"):
        params.check(Scoring, {"overlap_px": 8, "batch_size": 4, "views": views})


def test_a_model_without_the_field_is_none() -> None:
    values = card().model_dump(include=set(Spec.model_fields))
    del values["views"]
    with pytest.raises(ValueError, match=r"views\s+Field required"):
        Spec(**values)
