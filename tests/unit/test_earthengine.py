"""The parts of the Earth Engine source that need no service."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch.errors import InputError
from sandwatch.grid import Grid, Window
from sandwatch.imagery.earthengine import decibel
from sandwatch.imagery.earthengine.transfer import REQUEST_BYTES, Order, _place
from sandwatch.retries import pause

GRID = Grid(crs="EPSG:32644", left=500_000.0, top=2_000_000.0, width=700, height=500)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3_000), st.integers(1, 3_000), st.integers(1, 400))
def test_tiles_cover_each_pixel_once_within_the_limit_of_a_request(width: int, height: int, bands: int) -> None:
    grid = Grid(crs="EPSG:32644", left=0.0, top=0.0, width=width, height=height)
    order = Order(name="a", image=None, grid=grid, bands=tuple(map(str, range(bands))), dtype="float32", folder=Path())
    times = np.zeros(grid.shape, int)
    for window in order.tiles:
        times[window.slices] += 1
        assert window.height * window.width * bands * 4 <= REQUEST_BYTES
    assert (times == 1).all()


def test_a_part_is_put_where_it_belongs_and_a_stranger_is_refused() -> None:
    window = Window(row=256, col=512, height=244, width=188)
    assert _place(GRID.crop(window), GRID) == window
    for stranger in (
        Grid(crs="EPSG:32643", left=500_000.0, top=2_000_000.0, width=10, height=10),
        Grid(crs="EPSG:32644", left=500_005.0, top=2_000_000.0, width=10, height=10),
        Grid(crs="EPSG:32644", left=499_990.0, top=2_000_000.0, width=10, height=10),
        Grid(crs="EPSG:32644", left=500_000.0, top=2_000_000.0, width=701, height=10),
    ):
        with pytest.raises(ValueError, match=r"is no part of|reaches out of"):
            _place(stranger, GRID)


def test_decibel_rounds_to_a_hundredth_and_knows_nothing() -> None:
    got = decibel(np.array([[1.0, 0.1, 0.0234567, 0.0]], np.float32))
    assert np.array_equal(got, np.array([[0.0, -10.0, -16.3, np.nan]], np.float32), equal_nan=True)
    assert got.dtype == np.float32


@pytest.mark.parametrize("factor", ["fast", "-1"])
def test_a_wrong_factor_of_waits_is_one_line(monkeypatch: pytest.MonkeyPatch, factor: str) -> None:
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", factor)
    with pytest.raises(InputError, match=f"SANDWATCH_WAIT_FACTOR: got '{factor}'"):
        pause(1.0)
