"""The oracle: of the painted mines, drawn with errors and behind clouds, at least 95 % have one track each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shapely import LineString

from sandwatch import params
from sandwatch.geometry import WGS84, reproject
from sandwatch.grid import Grid
from sandwatch.imagery import Site
from sandwatch.imagery.params import Synthetic
from sandwatch.mines.table import Mines
from sandwatch.mines.tracking import track
from tests.unit.mines.truth import MONTHS, Drawn, drawn, recovered, with_gaps

NEAR_M = params.read(Path(__file__).parents[3] / "params.yaml", Mines).near_m
CRS = "EPSG:32728"
RIVER = LineString([(600_000, 7_501_000), (601_500, 7_501_300), (602_500, 7_502_400), (604_000, 7_503_100)])
SYNTHETIC = Synthetic(seed=647, cloud_fraction=0.1, annotator_error_m=8.0)


@pytest.fixture(scope="module")
def sites() -> dict[str, Drawn]:
    """Four years of small sites, which are worlds of their own."""
    grid = Grid(crs=CRS, left=600_300.0, top=7_503_100.0, width=310, height=260)
    rivers = reproject(RIVER, CRS, WGS84)
    return {
        name: drawn(
            Site(site_id=name, river="", district="", longitude=0, latitude=0, months=(), grid=grid, aoi=rivers),
            rivers,
            SYNTHETIC,
        )
        for name in ("Bend", "Ford", "Weir", "Kiln", "Reed", "Isle")
    }


def share(sites: dict[str, Drawn], seeds: int, near_m: float) -> tuple[float, int]:
    """The share of true mines that are recovered behind other gaps each time, and how many were to be."""
    whole = mines = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for name, found in sites.items():
            seen = with_gaps(found, rng, months=0.2, mines=0.1)
            polygons = {month: [polygon for _, polygon in one] for month, one in seen.items()}
            numbers = {month: [number for number, _ in one] for month, one in seen.items()}
            one, of = recovered(numbers, track(name, polygons, near_m=near_m))
            whole, mines = whole + one, mines + of
    return whole / mines, mines


def test_true_mines_are_recovered_as_one_track_each(sites):
    found, mines = share(sites, 3, NEAR_M)
    assert mines > 60
    assert found >= 0.95


def test_what_is_taken_for_near_matters(sites):
    """Else the test above could not fail."""
    assert share(sites, 1, 400.0)[0] < 0.5


def test_the_truth_has_what_makes_it_hard(sites):
    """Pieces, floods that hide most, and mines that grow: else recovering them would be no feat."""
    pieces = [
        len(polygons) - len({number for number, _ in polygons})
        for found in sites.values()
        for polygons in found.values()
    ]
    assert sum(count > 0 for count in pieces) >= 5
    areas = np.array([[sum(polygon.area for _, polygon in found[month.isoformat()]) for month in MONTHS] for found in
                      sites.values()])  # fmt: skip
    flooded, dry = areas[:, [month.month == 9 for month in MONTHS]], areas[:, [month.month == 5 for month in MONTHS]]
    assert flooded.sum() < 0.6 * dry.sum()
