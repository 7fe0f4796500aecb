"""Sites with detections by month, as tables, without a model."""

from __future__ import annotations

from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import shapely
from shapely import LineString, box

from sandwatch import schemas
from sandwatch.geometry import WGS84, reproject, snap
from sandwatch.mines.table import Mines, Place, find

CRS = "EPSG:32644"
SETTINGS = Mines(near_m=20.0, clear_share=0.5)
LEFT, TOP = 500_000.0, 2_500_000.0


def at(shape):
    """A shape given in metres from the corner of the site, in its UTM zone."""
    return shapely.transform(shape, lambda xy: xy + np.array([LEFT, TOP]))


def square(x, side=100, y=0):
    """A square of ``side`` metres."""
    return at(box(x, y, x + side, y + side))


def detections(months, *, site_id="bend", river="Wain", scores=0.9, imagery="synthetic", **of_model):
    """Rows of schemas.Detections of polygons by month."""
    rows = []
    for date, polygons in months.items():
        for number, polygon in enumerate(polygons, 1):
            rows.append(
                {
                    "detection_id": f"{site_id}_{date}/{number:05}", "obs_id": f"{site_id}_{date}", "site_id": site_id,
                    "river": river, "date": date, "score_mean": scores, "score_max": min(scores + 0.05, 1.0),
                    "area_m2": polygon.area, "model_sha256": "1" * 64, "label_fingerprint": "2" * 64,
                    "model_imagery": "synthetic", "model_labels": "synthetic", "imagery": imagery,
                    "scene_sha256": "{}", "geometry": snap(reproject(polygon, CRS, WGS84)), **of_model,
                }
            )  # fmt: skip
    columns = list(schemas.Detections.to_schema().columns)
    table = gpd.GeoDataFrame(rows, columns=columns, geometry="geometry", crs=WGS84)
    return schemas.Detections.checked(table, "detections")


def place(months, clear=lambda date: 1.0, *, site_id="bend", river="Wain", **of_detections):
    """A site with polygons by month (None: a month of which there is no scene), all of it as clear as its month is."""
    seen = {date: polygons for date, polygons in months.items() if polygons is not None}
    return Place(
        site=SimpleNamespace(
            site_id=site_id, river=river, district="Lower", utm_crs=CRS, months=";".join(sorted(months, reverse=True))
        ),
        detections=detections(seen, site_id=site_id, river=river, **of_detections),
        clear=lambda date, shapes: np.full(len(shapes), 0.0 if months[date] is None else clear(date)),
        river=at(LineString([(-1000, -50), (5000, -50)])),
    )


def tables(*places):
    """The two tables of sites, checked."""
    mines, months = find(places, SETTINGS)
    return schemas.Mines.checked(mines, "mines"), schemas.MineMonths.checked(months, "months")
