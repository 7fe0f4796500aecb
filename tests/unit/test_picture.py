"""Pictures of stacks: the right bands in the right colours, whatever the bands are."""

import numpy as np
import pytest

from sandwatch.picture import banded, colours, image, scene
from sandwatch.stack import NODATA

ALL = ("B1", "B2", "B3", "B4", "B8", "VV")


@pytest.mark.parametrize(
    ("bands", "shown", "name"),
    [
        (ALL, (3, 2, 1), "natural colour"),
        (("B8", "B11", "B12", "VV"), (2, 1, 0), "false colour (red B12, green B11, blue B8)"),
        (("B2", "B3", "B8"), (2, 1, 0), "false colour (red B8, green B3, blue B2)"),
        (("B8", "VV"), (0, 0, 0), "B8 in grey"),
        (("B8",), (0, 0, 0), "B8 in grey"),
    ],
)
def test_the_bands_make_the_colours(bands, shown, name):
    assert colours(bands) == (shown, name)


def test_black_and_white_are_two_deviations_from_the_mean_and_no_data_is_zero():
    values = np.array([[0, 800, 1_000, 1_200, 9_000, NODATA]], np.int16)
    pixels = np.stack([values, values[:, ::-1], values, np.full_like(values, 1_000)])
    red, green, blue = image(pixels, ("B8", "B11", "B12", "VV"), (1_000.0,) * 4, (100.0,) * 4)
    np.testing.assert_array_equal(red, [[0, 1, 128, 255, 255, 0]])
    np.testing.assert_array_equal(green, [[0, 255, 255, 128, 1, 0]])
    np.testing.assert_array_equal(blue, red)


def test_a_scene_has_the_contrast_of_its_own_pixels():
    s2 = np.array([[[0, 400, 500, 600]], [[3, 300, 300, 300]]], np.uint16)
    picture, name = scene(s2, ("B8", "B11"))
    assert name == "B8 in grey"
    assert (picture[:, 0, 0] == 0).all()
    assert picture[0, 0, 2] == 128
    assert 1 < picture[0, 0, 1] < 128 < picture[0, 0, 3] < 255
    assert (scene(np.zeros_like(s2), ("B8", "B11"))[0] == 0).all()


@pytest.mark.parametrize("width", [60, 300])
def test_what_is_invented_stands_on_a_band_above_a_picture(width):
    pixels = np.full((40, width, 3), 90, np.uint8)
    drawn = banded(pixels, "SYNTHETIC imagery and labels")
    band = drawn[:-40]
    np.testing.assert_array_equal(drawn[-40:], pixels)
    assert set(np.unique(band)) == {0, 255}
    assert 0.02 < (band == 255).mean() < 0.3
    assert (band[:, -2:] == 0).all()  # no letter is cut off
    assert banded(pixels, None) is pixels
