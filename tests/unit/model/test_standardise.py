"""Scenes by their own statistics: the same ground in another light gives the same pixels, and the same map."""

import numpy as np
import pytest

from sandwatch.model.scoring import score, to_steps
from sandwatch.model.standardise import Standardised, moments
from sandwatch.stack import LARGEST, NODATA
from tests.models import spec

GENERATOR = np.random.default_rng(3)


def scene(height: int = 600, width: int = 70) -> np.ndarray:
    """Two bands with gaps, higher than the rows that are read at once."""
    pixels = GENERATOR.normal([[[1200.0]], [[-900.0]]], [[[300.0]], [[150.0]]], (2, height, width)).astype(np.int16)
    pixels[:, 40:60, 10:20] = NODATA
    pixels[1, 500:, :] = NODATA
    return pixels


def test_moments_are_those_of_the_pixels_with_data() -> None:
    pixels = scene()
    mean, std = moments(pixels)
    for band in range(2):
        values = pixels[band][pixels[band] != NODATA].astype(float)
        assert mean[band] == pytest.approx(values.mean(), abs=1e-3)
        assert std[band] == pytest.approx(values.std(), abs=1e-3)


def test_a_scene_gets_the_mean_and_deviation_it_is_brought_to() -> None:
    pixels = scene()
    brought = Standardised(pixels, [2000.0, -1500.0], [500.0, 80.0])
    assert brought.shape == pixels.shape
    whole = brought[:, 0:600, 0:70]
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole == NODATA, pixels == NODATA)
    mean, std = moments(whole)
    np.testing.assert_allclose(mean, [2000, -1500], atol=0.5)
    np.testing.assert_allclose(std, [500, 80], atol=0.5)
    np.testing.assert_array_equal(brought[1:2, 7:300, 3:9], whole[1:2, 7:300, 3:9])


def test_a_scene_that_has_them_already_stays_as_it_is() -> None:
    pixels = scene()
    mean, std = moments(pixels)
    np.testing.assert_array_equal(Standardised(pixels, mean.tolist(), std.tolist())[:, :, :], pixels)


def test_nothing_becomes_no_data_and_nothing_overflows() -> None:
    pixels = np.array([[[0, 1, 2, 30_000], [NODATA, 5, 6, 7]]], np.int16)
    found = Standardised(pixels, [0.0], [20_000.0])[:, :, :]
    assert ((found == NODATA) == (pixels == NODATA)).all()
    assert found.max() == LARGEST
    empty = np.full((1, 3, 3), NODATA, np.int16)
    np.testing.assert_array_equal(Standardised(empty, [5.0], [2.0])[:, :, :], empty)


class OfFirstBand:
    """A model whose log-odds are the first band in units of its training deviation."""

    def __init__(self, standardise: str) -> None:
        bands = ("B3", "B8")
        self.spec = spec(bands=bands, standardise=standardise, mean=(1200.0, -900.0), std=(300.0, 150.0))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return ((pixels[:, :1] - 1200.0) / 300.0).astype(np.float32)


def steps(pixels: np.ndarray, standardise: str) -> np.ndarray:
    scorer = OfFirstBand(standardise)
    return np.concatenate([part.steps for part in score(pixels, scorer)])


def test_the_map_is_the_same_in_another_light_only_where_scenes_are_standardised() -> None:
    """By the one rule from windows to scores, which train, evaluate and infer all call."""
    pixels = scene()
    hazy = np.where(pixels == NODATA, NODATA, np.rint(pixels * 0.5 + 700)).astype(np.int16)
    same = [steps(one, "scene").astype(int) for one in (pixels, hazy)]
    np.testing.assert_allclose(*same, atol=int(to_steps(np.array([0.02]), 1.5, 0.0)[0]) - 5000)  # whole numbers, halved
    assert np.abs(steps(pixels, "none").astype(int) - steps(hazy, "none").astype(int)).max() > 1000
