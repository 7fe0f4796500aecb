"""From river sites to areas of interest: sites.csv and river geometry in, the rows of aoi.parquet out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry import Point
from shapely.geometry.base import BaseGeometry

from sandwatch import ids, listing, pools, split, text
from sandwatch.distance import distance_km, groups
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, reproject, snap, transformer
from sandwatch.grid import Grid, utm_crs
from sandwatch.params import NotNegative, PlainPath, Positive, Section
from sandwatch.rivers import Rivers
from sandwatch.split import Split

if TYPE_CHECKING:
    import geopandas as gpd

COLUMNS = ("site_id", "river", "district", "longitude", "latitude", "months", "role")
ROLES = ("label", "train", "infer", "both")
UTM_LATITUDES = (-80.0, 84.0)
"""Where UTM is defined, degrees. Source: NGA, The Universal Grids, DMATM 8358.2."""
FAR_M = 100_000.0
"""How far from a site the nearest river is looked for, to name its distance in an error."""
QUARTER = 8
"""Edges of a quarter circle around a river: at a buffer of a kilometre they lie 5 m within it, half a pixel. Source:
PostGIS's default, and GEOS's."""
PLACE_DEGREES = 3.0
"""Areas are made a place of this side at a time: half a UTM zone, so that a place lies in one."""


class Aoi(Section):
    """From sites and rivers to areas of interest."""

    section = "aoi"
    rivers: PlainPath
    extent_m: Positive
    simplify_tolerance_m: NotNegative
    buffer_m: NotNegative


@dataclass(frozen=True, kw_only=True)
class Site:
    """A row of sites.csv, checked.

    Attributes:
        site_id: names files (:mod:`sandwatch.ids`).
        river: name.
        district: name, may be empty.
        longitude: degrees.
        latitude: degrees.
        months: first days of the months to observe, in order.
        role: ``label`` (learnt from or judged on), ``train`` (learnt from, never judged on), ``infer`` (mapped) or
            ``both`` (label and infer).
    """

    site_id: str
    river: str
    district: str
    longitude: float
    latitude: float
    months: tuple[date, ...]
    role: str


def read_sites(path: Path) -> list[Site]:
    """Reads sites.csv, a table with exactly :data:`COLUMNS` in any order.

    Raises:
        InputError: names the line and site at fault.
    """
    header, rows = listing.read(path)
    if sorted(header) != sorted(COLUMNS):
        raise InputError(
            f"{path}, columns",
            got=", ".join(header) or "none",
            expected=", ".join(COLUMNS),
            fix=f"add {_list(set(COLUMNS) - set(header))}, remove {_list(set(header) - set(COLUMNS))}",
        )
    sites: dict[str, Site] = {}
    for where, row in rows:
        site = _site(row, where)
        if site.site_id in sites:
            raise InputError(
                where,
                got=f"site_id {site.site_id} again",
                expected="each site_id once",
                fix="rename one, or put all months into one line",
            )
        sites[site.site_id] = site
    if not sites:
        raise InputError(str(path), got="no site", expected="a line for each site", fix="add your sites")
    return [sites[site_id] for site_id in sorted(sites)]


def build(
    sites: Sequence[Site], rivers: Rivers, *, aoi: Aoi, split_params: Split, workers: int = 1
) -> gpd.GeoDataFrame:
    """Makes the AOI, grid, group and fold of every site.

    Groups are made of the sites that are learnt from (any role but ``infer``), by the distance between their scenes,
    since windows reach out of an AOI. The others could chain distant sites into one group though no model sees them.
    They have groups of their own, numbered after those, and the fold ``infer``.

    Args:
        sites: from :func:`read_sites`.
        rivers: the region's rivers.
        aoi: section of params.yaml.
        split_params: section of params.yaml.
        workers: threads.

    Returns:
        Rows of ``schemas.Aoi``.

    Raises:
        InputError: a site has no river within its extent or lies at the antimeridian, or folds can't be made.
    """
    import geopandas as gpd

    areas = _areas(sites, rivers, aoi, workers)
    learnt = [i for i, site in enumerate(sites) if site.role != "infer"]
    others = [i for i, site in enumerate(sites) if site.role == "infer"]
    group = np.empty(len(sites), dtype=np.int64)
    fold = np.full(len(sites), "infer", dtype=object)
    scenes = np.array([area.scene for area in areas], dtype=object)
    group[learnt] = groups(scenes[learnt], split_params.min_distance_km)
    group[others] = groups(scenes[others], split_params.min_distance_km) + (group[learnt].max(initial=-1) + 1)
    fold[learnt] = split.folds(
        site_ids=[sites[i].site_id for i in learnt],
        rivers=[sites[i].river for i in learnt],
        observations=[len(sites[i].months) for i in learnt],
        group=group[learnt].tolist(),
        training_only=[sites[i].role == "train" for i in learnt],
        split=split_params,
    )
    return gpd.GeoDataFrame(
        {
            "site_id": [site.site_id for site in sites],
            "river": [site.river for site in sites],
            "district": [site.district for site in sites],
            "role": [site.role for site in sites],
            "longitude": [site.longitude for site in sites],
            "latitude": [site.latitude for site in sites],
            "months": [";".join(month.isoformat() for month in site.months) for site in sites],
            "utm_crs": [area.grid.crs for area in areas],
            "left_m": [area.grid.left for area in areas],
            "top_m": [area.grid.top for area in areas],
            "width_px": [area.grid.width for area in areas],
            "height_px": [area.grid.height for area in areas],
            "area_km2": [area.area_km2 for area in areas],
            "group": group,
            "fold": fold,
        },
        geometry=[area.geometry for area in areas],
        crs=WGS84,
    )


@dataclass(frozen=True, kw_only=True)
class _Area:
    """geometry: EPSG:4326, snapped. grid: covers it; scene: its ground. area_km2: in UTM, rounded to 100 m2."""

    geometry: BaseGeometry
    grid: Grid
    scene: BaseGeometry
    area_km2: float


def _areas(sites: Sequence[Site], rivers: Rivers, aoi: Aoi, workers: int) -> list[_Area]:
    """The areas of sites, in their order; those of a place at once, since they share its rivers."""
    places: dict[tuple[str, float, float], list[int]] = {}
    for i, site in enumerate(sites):
        corner = site.longitude // PLACE_DEGREES, site.latitude // PLACE_DEGREES
        places.setdefault((utm_crs(site.longitude, site.latitude), *corner), []).append(i)

    def work(place: tuple[tuple[str, float, float], list[int]]) -> list[_Area] | None:
        (crs, *_), members = place
        try:
            return _areas_in(crs, [sites[i] for i in members], rivers, aoi)
        except InputError:
            return None

    areas: dict[int, _Area] = {}
    faulty: list[tuple[int, str]] = []
    with pools.threads(workers) as pool:
        for ((crs, *_), members), made in zip(places.items(), pool.map(work, places.items()), strict=True):
            if made is None:
                faulty += ((i, crs) for i in members)
            else:
                areas.update(zip(members, made, strict=True))
    for i, crs in sorted(faulty):  # one by one, so that the first site at fault is named
        _areas_in(crs, [sites[i]], rivers, aoi)
    return [areas[i] for i in range(len(sites))]


def _areas_in(crs: str, sites: Sequence[Site], rivers: Rivers, aoi: Aoi) -> list[_Area]:
    """Clips the river of each site to its square, simplifies and buffers it in ``crs``, the UTM zone of all the sites.

    A whole AOI stays in the zone of its site, across the zone's border too. The buffer may reach out of the square.
    """
    half = aoi.extent_m / 2.0
    for site in sites:
        _refuse_antimeridian(site, half + aoi.buffer_m)
    degrees = np.array([(site.longitude, site.latitude) for site in sites])
    x, y = transformer(WGS84, crs).transform(*degrees.T)
    squares = shapely.box(x - half, y - half, x + half, y + half)
    to_degrees = transformer(crs, WGS84)
    near, (whose, which) = rivers.near_each(
        [
            to_degrees.transform_bounds(left, bottom, right, top, densify_pts=21)
            for left, bottom, right, top in shapely.bounds(squares).tolist()
        ]
    )
    projected = shapely.make_valid(reproject(near.to_numpy(), WGS84, crs))
    # A row a site, filled with None.
    pieces = np.full((len(sites), np.bincount(whose, minlength=1).max()), None)
    nth = np.arange(len(whose)) - np.searchsorted(whose, whose)
    pieces[whose, nth] = shapely.intersection(projected[which], squares[whose])
    river = shapely.union_all(pieces, axis=1)
    if (dry := shapely.is_empty(river)).any():
        raise _no_river(sites[int(dry.argmax())], rivers, aoi)
    area = shapely.buffer(shapely.simplify(river, aoi.simplify_tolerance_m), aoi.buffer_m, quad_segs=QUARTER)
    geometry = snap(reproject(area, crs, WGS84))
    if (thin := shapely.is_empty(geometry)).any():
        raise InputError(
            f"site {sites[int(thin.argmax())].site_id}",
            got=f"an area of interest without area from aoi.buffer_m = {aoi.buffer_m:g}",
            expected="a river with an area, or a buffer around it",
            fix="raise aoi.buffer_m; rivers that are lines need one",
        )
    stored = reproject(geometry, WGS84, crs)
    grids = [
        Grid.covering((round(left, 3), round(bottom, 3), round(right, 3), round(top, 3)), crs)
        for left, bottom, right, top in shapely.bounds(stored).tolist()
    ]
    return [
        _Area(geometry=shape, grid=grid, scene=scene, area_km2=round(area_m2 / 1e6, 4))
        for shape, grid, scene, area_m2 in zip(
            geometry, grids, split.grounds(grids), shapely.area(stored).tolist(), strict=True
        )
    ]


def _refuse_antimeridian(site: Site, reach_m: float) -> None:
    degrees = reach_m * math.sqrt(2.0) / (split.M_PER_DEGREE_LONGITUDE * math.cos(math.radians(site.latitude)))
    if abs(site.longitude) + degrees > 180.0:
        raise InputError(
            f"site {site.site_id}",
            got=f"longitude {site.longitude:g}, so that its extent crosses the antimeridian",
            expected="a site whose extent lies on one side of it",
            fix="move the site, or lower aoi.extent_m or aoi.buffer_m",
        )


def _no_river(site: Site, rivers: Rivers, aoi: Aoi) -> InputError:
    """The error for a site without river, with what helps to understand it: the nearest river, or swapped numbers."""
    fix = "correct the position, raise aoi.extent_m, or add the river to the file"
    swapped = abs(site.longitude) <= 80.0 and len(
        rivers.near(_around(site.latitude, site.longitude, aoi.extent_m / 2.0))
    )
    if swapped:
        fix = "swap longitude and latitude: there is a river at the swapped position, if the river file has them right"
    point = Point(site.longitude, site.latitude)
    distances = [distance_km(point, g) for g in rivers.near(_around(site.longitude, site.latitude, FAR_M))]
    nearest = f"the nearest {min(distances):.1f} km away" if distances else f"none within {FAR_M / 1000.0:g} km either"
    return InputError(
        f"site {site.site_id} at longitude {site.longitude:g}, latitude {site.latitude:g}",
        got=f"no river within its extent, {nearest}",
        expected=f"a river in the square of aoi.extent_m = {aoi.extent_m:g} around it",
        fix=fix,
    )


def _around(longitude: float, latitude: float, reach_m: float) -> tuple[float, float, float, float]:
    """Bounds in degrees that hold all points within ``reach_m`` of a position, cut off at the edges of the map."""
    dy = reach_m / split.M_PER_DEGREE
    dx = reach_m / (split.M_PER_DEGREE_LONGITUDE * math.cos(math.radians(min(abs(latitude) + dy, 89.0))))
    return (
        max(longitude - dx, -180.0),
        max(latitude - dy, -90.0),
        min(longitude + dx, 180.0),
        min(latitude + dy, 90.0),
    )


def _site(row: dict[str, str], where: str) -> Site:
    if not ids.names_site(row["site_id"]):
        raise InputError(
            f"{where}, site_id",
            got=repr(row["site_id"]),
            expected=f"{ids.RULE}: it names files",
            fix="rename the site",
        )
    where = f"{where}, site {row['site_id']}"
    if not row["river"]:
        raise InputError(f"{where}, river", got="nothing", expected="the river's name", fix="add it")
    role = text.alike(row["role"])
    if role not in ROLES:
        raise InputError(
            f"{where}, role", got=repr(row["role"]), expected=f"one of {', '.join(ROLES)}", fix="correct it"
        )
    longitude, latitude = (_degrees(row, name, where) for name in ("longitude", "latitude"))
    if not (abs(longitude) <= 180.0 and UTM_LATITUDES[0] <= latitude <= UTM_LATITUDES[1]):
        swapped = abs(latitude) <= 180.0 and abs(longitude) <= 80.0
        raise InputError(
            where,
            got=f"longitude {longitude:g}, latitude {latitude:g}",
            expected="longitude from -180 to 180, latitude from -80 to 84, where UTM is defined",
            fix="swap longitude and latitude" if swapped else "correct them",
        )
    return Site(
        site_id=row["site_id"],
        river=row["river"],
        district=row["district"],
        longitude=longitude,
        latitude=latitude,
        months=_months(row["months"], where),
        role=role,
    )


def _degrees(row: dict[str, str], name: str, where: str) -> float:
    value = text.number(row[name], most=180.0)
    if value is None or not math.isfinite(value):
        raise InputError(
            f"{where}, {name}",
            got=repr(row[name]),
            expected="decimal degrees, such as 85.88",
            fix="correct it",
        )
    return value


def _months(listed: str, where: str) -> tuple[date, ...]:
    """Months as ``2023-01``, or as their first days, with ``;``, ``|``, ``,`` or blanks between."""
    months = []
    for part in re.split(r"[;|,\s]+", listed.strip(";|, ")):
        month = _month(part)
        if month is None:
            raise InputError(
                f"{where}, months", got=repr(part), expected="months as 2023-01, ';' or '|' between", fix="correct it"
            )
        months.append(month)
    if len(set(months)) < len(months):
        raise InputError(f"{where}, months", got=repr(listed), expected="each month once", fix="remove the repetition")
    return tuple(sorted(months))


@lru_cache(maxsize=1024)
def _month(written: str) -> date | None:
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])(-01)?", written)
    return None if found is None or found[1] == "0000" else date(int(found[1]), int(found[2]), 1)


def _list(names: set[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"
