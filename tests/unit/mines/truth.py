"""True mines of painted sites by month, as annotators would draw what clouds and floods leave of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from sandwatch.annotations.synthetic import _drawn
from sandwatch.geometry import WGS84, reproject
from sandwatch.imagery import Site
from sandwatch.imagery.params import Synthetic
from sandwatch.imagery.synthetic import _clouds, _mined, _World
from sandwatch.mines.tracking import Track

MONTHS = [date(2019 + month // 12, month % 12 + 1, 1) for month in range(0, 48, 2)]
"""Every other one of four years: mines open in the first three, and each year has a flood."""
MIN_OBJECT_M2 = 1000.0
"""As params.yaml has it: infer drops what is smaller."""
Drawn = dict[str, list[tuple[int, BaseGeometry]]]
"""By month, the polygons that were drawn in UTM, each with the number of the mine that it is of."""


def drawn(site: Site, rivers: BaseGeometry, synthetic: Synthetic, months: Sequence[date] = MONTHS) -> Drawn:
    """What annotators draw of a site's mines; clouds are those of the painter."""
    world = _World(site, rivers, synthetic.seed)
    rng = np.random.default_rng(synthetic.seed)
    found: Drawn = {}
    for month in months:
        mined, clear = _mined(world, month), ~_clouds(world, month, synthetic)
        found[month.isoformat()] = [
            (mine.number, polygon)
            for mine in mined.mines
            for ring in _drawn((mined.numbers == mine.number) & clear, site, rng, synthetic.annotator_error_m)
            if (polygon := reproject(Polygon(ring), WGS84, site.grid.crs)).area >= MIN_OBJECT_M2
        ]
    return found


def with_gaps(found: Drawn, rng: np.random.Generator, *, months: float, mines: float) -> Drawn:
    """Without that share of the months, and in the others without that share of the mines: no scene, and missed."""
    kept = {month: polygons for month, polygons in found.items() if rng.random() >= months}
    return {
        month: [one for one in polygons if one[0] not in missed]
        for month, polygons in kept.items()
        for missed in [{number for number in {number for number, _ in polygons} if rng.random() < mines}]
    }


def recovered(truth: Mapping[str, Sequence[int]], tracks: Sequence[Track]) -> tuple[int, int]:
    """How many true mines have one track each, with all of their polygons and no other's; and how many there are.

    Args:
        truth: by month, the number of the true mine of each polygon; below 1 for what is of none.
        tracks: of the same polygons.
    """
    tracks_of: dict[int, set[str]] = defaultdict(set)
    mines_of: dict[str, set[int]] = defaultdict(set)
    for one in tracks:
        for month, sighting in one.sightings.items():
            for polygon in sighting.polygons:
                if truth[month][polygon] > 0:
                    tracks_of[truth[month][polygon]].add(one.mine_id)
                mines_of[one.mine_id].add(truth[month][polygon])
    whole = sum(len(ids) == 1 and len(mines_of[next(iter(ids))]) == 1 for ids in tracks_of.values())
    return whole, len(tracks_of)
