"""Leak-proof splits: folds of whole spatial groups, blocks where one group is all there is, and their proof."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import shapely
from pydantic import AfterValidator, Field
from shapely.geometry.base import BaseGeometry

from sandwatch.distance import first_too_near
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, Geometries, reproject, transformer
from sandwatch.grid import Grid, Window
from sandwatch.params import NotNegative, Positive, Section, Seed
from sandwatch.text import composed

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

M_PER_DEGREE = 110_574.0
"""Metres in a degree of latitude at the equator, the least anywhere. Source: WGS 84."""
M_PER_DEGREE_LONGITUDE = 111_319.0
"""Metres in a degree of longitude at the equator; times the cosine of the latitude, a lower bound elsewhere."""
LEARNING_FOLDS = ("train", "val", "test", "blocks")
EDGE_M = 1000.0
"""Longest piece of an edge of ground, metres: within it, a line of a grid and one in degrees part by centimetres."""


def ground(grid: Grid, windows: pd.DataFrame | None = None) -> BaseGeometry:
    """The ground under the pixels of a grid, or of windows on it: EPSG:4326.

    What a window has beyond the grid is padding, which lies nowhere.

    Args:
        grid: of a scene.
        windows: columns row, col and size_px, pixels.
    """
    area: BaseGeometry = shapely.box(*grid.bounds)
    if windows is not None:
        row, col, size = (windows[name].to_numpy() * grid.resolution for name in ("row", "col", "size_px"))
        left, top = grid.left + col, grid.top - row
        area = shapely.union_all(shapely.box(left, top - size, left + size, top)).intersection(area)
    return reproject(shapely.segmentize(area, EDGE_M), grid.crs, WGS84)


def grounds(grids: Sequence[Grid]) -> Geometries:
    """As :func:`ground`, of each grid, at once for those of one CRS."""
    made = np.empty(len(grids), dtype=object)
    crs = np.array([grid.crs for grid in grids], dtype=object)
    for one in set(crs):
        places = np.flatnonzero(crs == one).tolist()
        areas = shapely.box(*np.transpose([grids[i].bounds for i in places]))
        made[places] = reproject(shapely.segmentize(areas, EDGE_M), one, WGS84)
    return made


def footprints(windows: pd.DataFrame, aoi: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The ground that each fold reads of each site, whatever the month.

    Args:
        windows: rows of schemas.Windows.
        aoi: schemas.Aoi, for the sites' grids.

    Returns:
        Columns site_id, site_fold (of the site), fold (of the windows), obs_id (the first of them) and geometry.
    """
    import geopandas as gpd

    sites = aoi.set_index("site_id")
    rows = []
    for (site_id, fold), part in windows.groupby(["site_id", "fold"]):
        site = sites.loc[site_id]
        area = ground(Grid.of_site(site), part[["row", "col", "size_px"]].drop_duplicates())
        rows.append((site_id, site["fold"], fold, part["obs_id"].min(), area))
    return gpd.GeoDataFrame(rows, columns=["site_id", "site_fold", "fold", "obs_id", "geometry"], crs=WGS84)


class Split(Section):
    """Which whole spatial groups train, validate and test."""

    section = "split"
    min_distance_km: NotNegative
    holdout_rivers: tuple[Annotated[str, AfterValidator(composed)], ...] = Field(min_length=1, strict=False)
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    block_m: Positive
    block_gap_m: Positive
    seed: Seed


def folds(
    *,
    site_ids: Sequence[str],
    rivers: Sequence[str],
    observations: Sequence[int],
    group: Sequence[int],
    training_only: Sequence[bool],
    split: Split,
) -> list[str]:
    """Puts whole groups into folds. All sequences have one entry a site that is learnt from.

    A group with a site on a holdout river is ``test``. Of the other groups those validate whose share of the remaining
    observations comes nearest to ``split.val_fraction`` (at least one validates and one trains); among equally good
    choices a hash of seed and sites decides. Where one group remains, its sites are ``blocks``. Groups of sites that
    are for training only train, and count for nothing else.

    Args:
        site_ids: names, which the hash is made of.
        rivers: as ``split.holdout_rivers`` names them.
        observations: number of months of each site.
        group: from :func:`sandwatch.distance.groups`, of all that may be read of each site (:func:`ground`).
        training_only: whether the site may never be judged on: of another collection, say.
        split: section of params.yaml.

    Returns:
        ``train``, ``val``, ``test`` or ``blocks`` for each site.

    Raises:
        InputError: a holdout river has no site, no group is left to train on, or a site that is for training only is in
            one group with one that is not: where the latter is judged, the former would have taught what is there.
    """
    _apart(site_ids, group, training_only, split)
    for river in split.holdout_rivers:
        if river not in rivers:
            raise InputError(
                "params.yaml: split.holdout_rivers",
                got=f"{river!r}, which no site with role label or both lies on",
                expected=f"some of {', '.join(sorted(set(rivers))) or '(no such site at all)'}",
                fix="name a river as sites.csv writes it",
            )
    test = {g for g, river in zip(group, rivers, strict=True) if river in split.holdout_rivers}
    only = {g for g, alone in zip(group, training_only, strict=True) if alone}
    weight: dict[int, int] = {}
    members: dict[int, list[str]] = {}
    for site_id, g, count in zip(site_ids, group, observations, strict=True):
        if g not in test and g not in only:
            weight[g] = weight.get(g, 0) + count
            members.setdefault(g, []).append(site_id)
    if not weight:
        raise InputError(
            "params.yaml: split.holdout_rivers",
            got=f"{', '.join(split.holdout_rivers)}, whose groups hold every site",
            expected=f"a site farther than split.min_distance_km = {split.min_distance_km} from them to train on",
            fix="hold out fewer rivers, lower split.min_distance_km, or add sites",
        )
    if len(weight) == 1:
        return ["test" if g in test else "train" if g in only else "blocks" for g in group]
    order = sorted(weight, key=lambda g: _hash(split.seed, *sorted(members[g])))
    validating = _nearest_subset([weight[g] for g in order], split.val_fraction)
    val = {order[i] for i in validating}
    return ["test" if g in test else "val" if g in val else "train" for g in group]


def _apart(site_ids: Sequence[str], group: Sequence[int], training_only: Sequence[bool], split: Split) -> None:
    """Makes sure that no group mixes sites that are for training only with others."""
    kinds: dict[int, dict[bool, str]] = {}
    for site_id, g, alone in zip(site_ids, group, training_only, strict=True):
        kinds.setdefault(g, {}).setdefault(alone, site_id)
    mixed = next((named for named in kinds.values() if len(named) > 1), None)
    if mixed is not None:
        raise InputError(
            f"sites.csv: site {mixed[True]}",
            got=f"role train, in one group with {mixed[False]}, which may be judged",
            expected=f"more than split.min_distance_km = {split.min_distance_km:g} between such sites and all others",
            fix="give it the role label, or leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Strips across one group of sites, some of which validate and the rest of which train.

    Strips follow a line of longitude or latitude, so that they hold for overlapping sites and different UTM zones.

    Attributes:
        axis: 0 where longitudes bound the strips, 1 where latitudes do.
        validating: (low, high) of each strip that validates, degrees.
        gap: degrees along ``axis`` that are ``split.block_gap_m`` or more anywhere in the group.
    """

    axis: Literal[0, 1]
    validating: tuple[tuple[float, float], ...]
    gap: float

    def fold(self, window: Window, grid: Grid) -> Literal["train", "val"] | None:
        """The fold of a window: ``val`` where it lies in a strip that validates, ``train`` where it keeps the gap.

        So a window that trains and one that validates are never nearer than ``split.block_gap_m``, whatever their
        grids. Windows in between are None.
        """
        low, high = _extent(grid.crop(window))[self.axis]
        if any(a <= low and high <= b for a, b in self.validating):
            return "val"
        if all(high <= a - self.gap or b + self.gap <= low for a, b in self.validating):
            return "train"
        return None


def blocks(aois: Sequence[BaseGeometry], *, size_m: float, split: Split) -> Blocks:
    """Cuts the longer axis of all ``aois`` together into equal strips at least ``split.block_m`` long.

    About ``split.val_fraction`` of the strips validate, evenly spaced, at least one; the seed shifts them.

    Args:
        aois: AOIs (EPSG:4326) of the sites whose fold is ``blocks``.
        size_m: side of a window, metres.
        split: section of params.yaml.

    Raises:
        InputError: the strips are too narrow for windows that keep the gap.
    """
    left, bottom, right, top = (float(bound) for bound in shapely.total_bounds(np.asarray(aois, dtype=object)))
    if right - left > 180.0:
        raise InputError(
            "sites whose fold is blocks",
            got=f"longitudes {left:.2f} to {right:.2f}",
            expected="one group of sites on one side of the antimeridian",
            fix="leave out the sites of one side",
        )
    per_degree = (M_PER_DEGREE_LONGITUDE * math.cos(math.radians(max(abs(bottom), abs(top)))), M_PER_DEGREE)
    lengths = ((right - left) * per_degree[0], (top - bottom) * per_degree[1])
    axis: Literal[0, 1] = 0 if lengths[0] >= lengths[1] else 1
    count = max(int(lengths[axis] // split.block_m), 2)
    if lengths[axis] / count < size_m + split.block_gap_m:
        raise InputError(
            "params.yaml: split.block_m",
            got=f"{split.block_m:g}, which makes {count} blocks of {lengths[axis] / count:.0f} m",
            expected=f"blocks of {size_m + split.block_gap_m:.0f} m or more (a window and split.block_gap_m)",
            fix="raise split.block_m, lower chips.size_px, or add sites farther away, so that no blocks are needed",
        )
    chosen = min(max(round(count * split.val_fraction), 1), count - 1)
    shift = int(_hash(split.seed, "blocks"), 16) % count
    start, step = (left, bottom)[axis], (right - left, top - bottom)[axis] / count
    strips = sorted((shift + i * count // chosen) % count for i in range(chosen))
    return Blocks(
        axis=axis,
        validating=tuple((start + i * step, start + (i + 1) * step) for i in strips),
        gap=split.block_gap_m / per_degree[axis],
    )


def check_leak(
    obs_ids: Sequence[str], fold: Sequence[str], scenes: Sequence[BaseGeometry], *, min_distance_km: float
) -> None:
    """Makes sure that no scene of one fold comes near another fold's. All sequences have one entry an observation.

    Args:
        obs_ids: names of the observations.
        fold: of the observation's site; sites that are only inferred don't count.
        scenes: ground of the observation's scene (:func:`ground`): whatever is read of it lies there.
        min_distance_km: observations of different folds must be farther apart than this.

    Raises:
        InputError: names two observations of different folds that are too near each other.
    """
    found = _nearest_folds(obs_ids, fold, scenes, min_distance_km)
    if found is not None:
        names, distance = found
        raise InputError(
            names,
            got=f"{distance:.3g} km between their scenes",
            expected=f"more than split.min_distance_km = {min_distance_km:g} km between folds",
            fix="run the aoi stage again: it puts such sites into one fold",
        )


def check_windows(read: gpd.GeoDataFrame, split: Split) -> None:
    """Makes sure that what one fold reads keeps its distance from what another reads.

    Between blocks of one group that is ``split.block_gap_m``, between all others ``split.min_distance_km``.

    Args:
        read: from :func:`footprints`.
        split: section of params.yaml.

    Raises:
        InputError: names two observations whose windows are too near each other.
    """
    in_blocks = read["site_fold"] == "blocks"
    lone = read[in_blocks]
    for table, fold, km, promised in (
        (read, read["fold"].mask(in_blocks, "blocks"), split.min_distance_km, "split.min_distance_km"),
        (lone, lone["fold"], split.block_gap_m / 1000.0, "split.block_gap_m"),
    ):
        found = _nearest_folds(table["obs_id"].tolist(), fold.tolist(), table["geometry"].tolist(), km)
        if found is not None:
            names, distance = found
            raise InputError(
                names,
                got=f"{distance:.3g} km between their windows",
                expected=f"more than {km:g} km ({promised}) between folds",
                fix=f"raise {promised} in params.yaml",
            )


def _nearest_folds(
    obs_ids: Sequence[str], fold: Sequence[str], areas: Sequence[BaseGeometry], km: float
) -> tuple[str, float] | None:
    """Two observations of different folds no farther apart than ``km``, in words, and their distance; None if none."""
    first = {(f, area.wkb): i for i, (f, area) in reversed(list(enumerate(zip(fold, areas, strict=True))))}
    rows = sorted(i for (f, _), i in first.items() if f in LEARNING_FOLDS)
    found = first_too_near([areas[i] for i in rows], [fold[i] for i in rows], km)
    if found is None:
        return None
    a, b = (rows[place] for place in found[:2])
    return f"observations {obs_ids[a]} ({fold[a]}) and {obs_ids[b]} ({fold[b]})", found[2]


def _extent(grid: Grid) -> tuple[tuple[float, float], tuple[float, float]]:
    """((west, east), (south, north)) of a grid, degrees."""
    west, south, east, north = transformer(grid.crs, WGS84).transform_bounds(*grid.bounds, densify_pts=21)
    return (west, east), (south, north)


def _hash(seed: int, *names: str) -> str:
    return hashlib.sha256("\n".join((str(seed), *names)).encode()).hexdigest()


def _nearest_subset(weights: Sequence[int], fraction: float) -> list[int]:
    """Indices whose weights, 1 or more, add up nearest to ``fraction`` of all; neither none nor all of them.

    Of equally near sums the smaller is taken, of equal sums that of the earlier indices.
    """
    total = sum(weights)
    wanted = fraction * total
    exact = min(max(math.ceil(wanted - 0.5), 1), total - 1)
    # A sum beyond twice of what is wanted is farther from it than none at all, or else the least weight is the nearest.
    highest = min(max(math.floor(2.0 * wanted) + 1, min(weights)), total - 1)
    latest = np.full(highest + 1, -1)  # the index that first made a sum of earlier ones and itself
    reached = np.arange(highest + 1) == 0
    for i, weight in enumerate(weights):
        if reached[exact]:
            break
        sums = np.flatnonzero(reached[: max(highest + 1 - weight, 0)] & ~reached[weight:]) + weight
        latest[sums], reached[sums] = i, True
    sums = np.flatnonzero(latest >= 0)
    left = int(sums[np.argmin(np.abs(sums - wanted))])
    chosen = []
    while left:
        chosen.append(int(latest[left]))
        left -= weights[chosen[-1]]
    return chosen
