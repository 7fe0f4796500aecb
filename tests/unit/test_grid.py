"""Grid arithmetic: round trips, and windows that cover everything."""

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window as RasterioWindow
from rasterio.windows import bounds as rasterio_bounds

from sandwatch.grid import Grid, Window, tile, utm_crs
from tests.strategies import grids, windows


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30))
def test_tiles_cover_every_pixel_and_start_inside(height: int, width: int, size: int, stride: int) -> None:
    stride = min(stride, size)
    seen = np.zeros((height, width), dtype=int)
    found = list(tile(height, width, size, stride))
    for window in found:
        seen[window.slices] += 1
        assert window.height == window.width == size
        assert window.row + size <= max(height, size)
        assert window.col + size <= max(width, size)
    assert (seen >= 1).all()
    assert len(set(found)) == len(found)


def test_tiles_without_overlap_cover_every_pixel_once_where_they_fit() -> None:
    seen = np.zeros((96, 64), dtype=int)
    for window in tile(96, 64, 32, 32):
        seen[window.slices] += 1
    assert (seen == 1).all()


@given(st.data())
def test_cropped_bounds_are_those_of_rasterio(data: st.DataObject) -> None:
    grid = data.draw(grids())
    window = data.draw(windows(grid))
    expected = rasterio_bounds(RasterioWindow(window.col, window.row, window.width, window.height), grid.transform)
    assert grid.crop(window).bounds == expected


@given(st.data())
def test_a_window_survives_the_way_over_bounds(data: st.DataObject) -> None:
    grid = data.draw(grids())
    window = data.draw(windows(grid))
    part = Grid.covering(grid.crop(window).bounds, grid.crs)
    back = Window(
        row=round((grid.top - part.top) / 10),
        col=round((part.left - grid.left) / 10),
        height=part.height,
        width=part.width,
    )
    assert back == window


@given(*[st.floats(1e5, 9e5) for _ in range(2)], *[st.floats(0.0, 3e4) for _ in range(2)])
def test_covering_is_the_smallest_snapped_grid(left: float, bottom: float, width: float, height: float) -> None:
    bounds = (left, bottom, left + width, bottom + height)
    grid = Grid.covering(bounds, "EPSG:32645")
    assert grid.left % 10 == grid.top % 10 == 0
    assert grid.bounds[0] <= bounds[0]
    assert grid.bounds[1] <= bounds[1]
    assert grid.bounds[2] >= bounds[2]
    assert grid.bounds[3] >= bounds[3]
    assert bounds[0] - grid.bounds[0] < 10
    assert grid.bounds[2] - bounds[2] <= 10
    assert grid.bounds[3] - bounds[3] < 10


@given(st.data(), st.integers(0, 60))
def test_intersects_agrees_with_pixels(data: st.DataObject, gap: int) -> None:
    grid = data.draw(grids(max_px=80))
    a, b = data.draw(windows(grid)), data.draw(windows(grid))
    pixels = np.zeros((grid.height + 200, grid.width + 200), dtype=bool)
    rows, cols = a.slices
    pixels[rows.start + 100 - gap : rows.stop + 100 + gap, cols.start + 100 - gap : cols.stop + 100 + gap] = True
    other = np.zeros_like(pixels)
    rows, cols = b.slices
    other[rows.start + 100 : rows.stop + 100, cols.start + 100 : cols.stop + 100] = True
    assert a.intersects(b, gap) == b.intersects(a, gap) == (pixels & other).any()


@pytest.mark.parametrize(
    ("longitude", "latitude", "zone"),
    [(85.88, 20.26, 32645), (-60.1, -3.0, 32720), (180.0, 10.0, 32660), (-180.0, 10.0, 32601), (0.0, 0.0, 32631)],
)
def test_utm_zone(longitude: float, latitude: float, zone: int) -> None:
    assert utm_crs(longitude, latitude) == f"EPSG:{zone}"


@given(st.floats(-179.99, 179.99).map(lambda x: round(x, 6)), st.floats(-79.0, 55.0).map(lambda y: round(y, 6)))
def test_utm_zone_is_one_that_proj_holds_fit(longitude: float, latitude: float) -> None:
    area = pyproj.CRS(utm_crs(longitude, latitude)).area_of_use
    assert area is not None
    assert area.west <= longitude <= area.east
    assert area.south <= latitude <= area.north
