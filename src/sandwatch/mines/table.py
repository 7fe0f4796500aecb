"""The tables of mines: ``mines.parquet``, a row a mine, and ``mine_months.parquet``, a row a mine and month.

A mine of a site is what :mod:`sandwatch.mines.tracking` follows. In each month that the site was asked for it is seen,
not seen, or not observable: there is no scene, or of the pixels where it was seen before (first, in months before
that) fewer than ``clear_share`` have a score. It is confirmed from the second month on in which it was seen and clear.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from pydantic import Field
from shapely.geometry.base import BaseGeometry

from sandwatch import schemas
from sandwatch.geometry import WGS84, reproject
from sandwatch.grid import Grid
from sandwatch.infer import steps_under
from sandwatch.mines.tracking import Track, track
from sandwatch.model.scoring import NODATA
from sandwatch.origin import kind_of
from sandwatch.params import NotNegative, Section
from sandwatch.rivers import Rivers
from sandwatch.schemas import CONFIRMED, NOT_OBSERVABLE, NOT_SEEN, POSSIBLE, SEEN
from sandwatch.stage import progress

Clear = Callable[[str, Sequence[BaseGeometry]], npt.NDArray[np.float64]]
"""Of a month and shapes in UTM: the share of each that could be looked at, 0 to 1; 0 where there is no scene."""
MARGIN_DEGREES = 0.02
"""Rivers are looked for as far beyond an AOI, which lies along one, degrees (2 km)."""
OF_MODEL = ["model_sha256", "label_fingerprint", "model_imagery", "model_labels"]
"""Columns that say which model it was."""


class Mines(Section):
    """How detections become mines."""

    section = "mines"
    near_m: NotNegative
    clear_share: Annotated[float, Field(gt=0.0, le=1.0)]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site with what its mines are measured by.

    Attributes:
        site: its row in the table of AOIs.
        detections: rows of :class:`sandwatch.schemas.Detections`, of this site.
        clear: how much of a shape could be looked at in a month.
        river: geometry of the region's rivers around the site, in the site's UTM zone.
    """

    site: Any
    detections: gpd.GeoDataFrame
    clear: Clear
    river: BaseGeometry

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of the detections' columns, from which single cells are read quickly."""
        return {name: self.detections[name].to_numpy(object) for name in self.detections.columns} | {
            name: self.detections[name].to_numpy(np.float64) for name in ("area_m2", "score_mean", "score_max")
        }

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Where each detection stands."""
        return {name: number for number, name in enumerate(self.columns["detection_id"])}


def write(aoi: gpd.GeoDataFrame, rivers: Path, predictions: Path, settings: Mines) -> None:
    """Writes ``mines.parquet`` and ``mine_months.parquet`` beside the detections that they are made of.

    Args:
        aoi: rows of :class:`sandwatch.schemas.Aoi`.
        rivers: the region's rivers.
        predictions: what ``infer`` wrote, and where to write.
        settings: section of params.yaml.

    Raises:
        InputError: the rivers, a table or a score can't be read.
    """
    detections = schemas.Detections.read(predictions / "detections.parquet")
    file = Rivers(rivers)
    places = [
        Place(
            site=site,
            detections=own,
            clear=_scored(site, predictions),
            river=_river(site, file),
        )
        for site in aoi.itertuples()
        if len(own := detections[detections["site_id"] == site.site_id])
    ]
    mines, months = find(places, settings)
    schemas.Mines.write(mines, predictions / "mines.parquet")
    schemas.MineMonths.write(months, predictions / "mine_months.parquet")
    confirmed = int((mines["status"] == CONFIRMED).sum())
    progress(f"{len(mines)} mines in {len(detections)} detections, {confirmed} of them confirmed")


def find(places: Sequence[Place], settings: Mines) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """Follows the mines of sites through their months.

    Returns:
        Rows of :class:`sandwatch.schemas.Mines` and of :class:`sandwatch.schemas.MineMonths`.
    """
    mines: list[dict[str, Any]] = []
    months: list[dict[str, Any]] = []
    for place in places:
        followed = _followed(place, settings)
        holding = {(row["within"], row["date"]) for _, rows in followed for row in rows}
        for one, rows in followed:
            months += rows
            measured = [
                row
                for row in rows
                if row["state"] == SEEN
                and row["within"] is None
                and (one.mine_id, row["date"]) not in holding
                and row["clear_share"] >= settings.clear_share
            ]
            mines.append({**_mine(one, rows, place), "growth_m2_per_year": _growth(measured)})
    return (
        gpd.GeoDataFrame(mines, columns=list(schemas.Mines.to_schema().columns), geometry="geometry", crs=WGS84),
        pd.DataFrame(months, columns=list(schemas.MineMonths.to_schema().columns)),
    )


def _followed(place: Place, settings: Mines) -> list[tuple[Track, list[dict[str, Any]]]]:
    """The mines of a site, each with its rows of months."""
    site, table = place.site, place.columns
    shapes = reproject(table["geometry"], WGS84, site.utm_crs)
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, date in enumerate(table["date"]):
        numbers[date].append(number)
    polygons = {date: [shapes[number] for number in own] for date, own in numbers.items()}
    tracks = track(site.site_id, polygons, near_m=settings.near_m)
    rows: dict[str, list[dict[str, Any]]] = {one.mine_id: [] for one in tracks}
    status: dict[str, str | None] = dict.fromkeys(rows)
    for date in sorted(site.months.split(";")):
        there = [
            one
            for one in tracks
            if (one.split_from is None or date >= one.first_seen) and (one.merged_into is None or date <= one.last_seen)
        ]
        clear = place.clear(date, [one.footprint(date) for one in there])
        for one, share in zip(there, clear.tolist(), strict=True):
            sighting = one.sightings.get(date)
            if sighting is not None:
                again = share >= settings.clear_share and date > one.first_seen
                status[one.mine_id] = CONFIRMED if again else status[one.mine_id] or POSSIBLE
            own = [numbers[date][position] for position in sighting.polygons] if sighting else []
            state = SEEN if sighting else NOT_SEEN if share >= settings.clear_share else NOT_OBSERVABLE
            rows[one.mine_id].append(
                {
                    "mine_id": one.mine_id,
                    "obs_id": f"{site.site_id}_{date}",
                    "site_id": site.site_id,
                    "river": site.river,
                    "date": date,
                    "state": state,
                    "status": status[one.mine_id],
                    "within": sighting.within if sighting else None,
                    "clear_share": round(share, 4),
                    "detection_ids": json.dumps(sorted(table["detection_id"][number] for number in own)),
                    **_measured([table[name][own] for name in ("area_m2", "score_mean", "score_max")], state),
                }
            )
    return [(one, rows[one.mine_id]) for one in tracks]


def _measured(own: Sequence[npt.NDArray[np.float64]], state: str) -> dict[str, float]:
    """Area and scores of a mine in a month, of those of its detections; NaN for what can't be said."""
    areas, means, largest = own
    if not len(areas):
        return {"area_m2": 0.0 if state == NOT_SEEN else np.nan, "score_mean": np.nan, "score_max": np.nan}
    return {
        "area_m2": float(areas.sum()),
        "score_mean": round(float((means * areas).sum() / areas.sum()), 6),
        "score_max": float(largest.max()),
    }


def _mine(one: Track, rows: Sequence[Mapping[str, Any]], place: Place) -> dict[str, Any]:
    """The row of a mine but for its growth, from its rows of months."""
    table = place.columns
    since = [row for row in rows if row["date"] >= one.first_seen]
    seen = [row for row in since if row["state"] == SEEN]
    itself = [row for row in seen if row["within"] is None]
    clear = sum(row["state"] != NOT_OBSERVABLE for row in since)
    own = [place.numbers[name] for row in itself for name in json.loads(row["detection_ids"])]
    last = [place.numbers[name] for name in json.loads(itself[-1]["detection_ids"])]
    outline = shapely.MultiPolygon(table["geometry"][last].tolist())
    distance, drawn_as = _to_river(reproject(outline, WGS84, place.site.utm_crs), place.river)
    measured = _measured([table[name][own] for name in ("area_m2", "score_mean", "score_max")], SEEN)
    return {
        "mine_id": one.mine_id,
        "site_id": place.site.site_id,
        "river": place.site.river,
        "district": place.site.district,
        "status": rows[-1]["status"],
        "state": rows[-1]["state"],
        "first_seen": one.first_seen,
        "last_seen": one.last_seen,
        "confirmed_in": next((row["date"] for row in seen if row["status"] == CONFIRMED), None),
        "split_from": one.split_from,
        "merged_into": one.merged_into,
        "months": len(since),
        "months_clear": clear,
        "months_seen": len(seen),
        "clear_share": round(clear / len(since), 4),
        "area_m2": itself[-1]["area_m2"],
        "score_mean": measured["score_mean"],
        "score_max": measured["score_max"],
        "river_m": distance,
        "river_drawn_as": drawn_as,
        **{name: table[name][own[0]] for name in OF_MODEL},
        "imagery": kind_of(table["imagery"][own].tolist()),
        "geometry": outline,
    }


def _growth(rows: Sequence[Mapping[str, Any]]) -> float:
    """The slope of the area over the months in which it was seen alone and clear, m2 a year; NaN for fewer than two.

    The median of the slopes between all pairs of months, which single months that are wrong don't move.
    Source: Theil 1950; Sen 1968, doi:10.1080/01621459.1968.10480934.
    """
    if len(rows) < 2:
        return np.nan
    from scipy.stats import theilslopes

    years = [int(row["date"][:4]) + int(row["date"][5:7]) / 12 for row in rows]
    return round(float(theilslopes([row["area_m2"] for row in rows], years).slope), 1)


def _scored(site: Any, predictions: Path) -> Clear:
    """What of a shape has a score in a month, by the pixels whose centre lies in it."""
    grid = Grid.of_site(site)

    def clear(date: str, shapes: Sequence[BaseGeometry]) -> npt.NDArray[np.float64]:
        path = predictions / f"{site.site_id}_{date}" / "score.tif"
        pixels, scored = np.zeros(len(shapes)), np.zeros(len(shapes))
        if not path.is_file():
            return scored
        for layer in _layers(shapes):
            for owners, steps in steps_under([shapes[number] for number in layer], path, grid):
                pixels[layer] += np.bincount(owners, minlength=len(layer))
                scored[layer] += np.bincount(owners, steps != NODATA, minlength=len(layer))
        return scored / np.maximum(pixels, 1)

    return clear


def _layers(shapes: Sequence[BaseGeometry]) -> list[npt.NDArray[np.intp]]:
    """Numbers of shapes in as few groups as come of taking one after the other, of which no two in a group meet."""
    all_shapes = np.array(shapes, dtype=object)
    one, other = shapely.STRtree(all_shapes).query(all_shapes, "intersects")
    meet: dict[int, list[int]] = defaultdict(list)
    for number, neighbour in zip(one.tolist(), other.tolist(), strict=True):
        meet[number].append(neighbour)
    layer: dict[int, int] = {}
    for number in range(len(shapes)):
        taken = {layer.get(neighbour) for neighbour in meet[number]}
        layer[number] = next(free for free in range(len(shapes)) if free not in taken)
    return [np.array([number for number, of in layer.items() if of == group]) for group in sorted(set(layer.values()))]


def _river(site: Any, rivers: Rivers) -> BaseGeometry:
    """The rivers around a site's AOI, in its UTM zone."""
    near = rivers.near(site.geometry.bounds)
    frame = site.geometry.envelope.buffer(MARGIN_DEGREES)
    river: BaseGeometry = shapely.union_all(shapely.intersection(near.to_numpy(), frame))
    return reproject(river, WGS84, site.utm_crs)


def _to_river(outline: BaseGeometry, river: BaseGeometry) -> tuple[float, str]:
    """Metres from an outline to the nearest river, and whether that is drawn as a line or as an area."""
    parts = shapely.get_parts(river)
    nearest = parts[int(np.argmin(shapely.distance(parts, outline)))]
    return round(
        float(shapely.distance(nearest, outline)), 1
    ), "line" if nearest.length and not nearest.area else "area"
