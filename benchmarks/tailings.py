"""Further mines to learn from, never judged on: 57 scenes of tailings and pits, in the layout of their repository.

IsasGithub/tailings_seg has, under ``data/``, ``img_tiff/img_<n>.tif`` (448 x 448 px of 10 m, float32 fractions of
reflectance, bands B2, B3, B4; Sentinel-2, Brazil, 2021) and ``mask_tiff/mask_<n>.tif`` (more than 0 where tailings or a
pit were drawn). It has no licence, so nothing of it is kept here. Mines that nobody drew are in the scenes too, so they
may teach (role ``train``), and nothing is judged on them.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from sandwatch.errors import InputError
from sandwatch.files import sha256

COLLECTION = "Tailings"
"""Stands where other sites have their river, so that sampling can balance one against the other."""
MONTH = "2021-06"
"""All that is known is the year."""
SIZE = (448, 448)
INSIDE_DEGREES = 0.0002
"""The AOI stays two pixels within the scene, so that none of its pixels lacks data once it is on our grid."""


def add(source: Path, region: Path) -> int:
    """Adds the scenes that don't overlap to a region's folder, each as a site with role ``train``.

    Args:
        source: the folder with ``img_tiff`` and ``mask_tiff``.
        region: of ``imagery.source: files`` and ``annotations.source: geojson``, as ``sandwatch migrate`` writes it.

    Returns:
        How many were added.

    Raises:
        InputError: there is no such scene.
    """
    chosen: list[tuple[Path, BaseGeometry]] = []
    for path in sorted((source / "img_tiff").glob("img_*.tif")):
        with rasterio.open(path) as file:
            whole, outline = file.shape == SIZE, shapely.box(*file.bounds)
        if whole and not any(outline.intersects(other) for _, other in chosen):
            chosen.append((path, outline))
    if not chosen:
        raise InputError(
            str(source),
            got="no img_tiff/img_<n>.tif",
            expected="the scenes of tailings_seg",
            fix="name its folder data/",
        )
    rivers = json.loads((region / "rivers.geojson").read_text())
    sites, scenes, annotations = [], [], []
    for path, outline in chosen:
        number = path.stem.removeprefix("img_")
        site_id = f"{COLLECTION}_{number}"
        obs_id = f"{site_id}_{MONTH}-01"
        sites.append((site_id, COLLECTION, "", outline.centroid.x, outline.centroid.y, MONTH, "train"))
        rivers["features"].append(
            {
                "type": "Feature",
                "properties": {"site_id": site_id, "river": COLLECTION},
                "geometry": mapping(outline.buffer(-INSIDE_DEGREES)),
            }
        )
        place = os.path.relpath(path.resolve(), (region / "imagery").resolve())
        scenes.append((obs_id, "s2", place, "B2 B3 B4", "10000", "0", f"tailings_seg/{path.name}", sha256(path)))
        annotations.append((obs_id, f"{obs_id}.geojson", "Confidence"))
        drawn = {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {"Confidence": "High"}, "geometry": mapping(polygon)}
                for polygon in polygons(source / "mask_tiff" / f"mask_{number}.tif")
            ],
        }
        (region / "annotations" / f"{obs_id}.geojson").write_text(json.dumps(drawn))
    (region / "rivers.geojson").write_text(json.dumps(rivers))
    for name, rows in (
        ("sites.csv", sites),
        ("imagery/scenes.csv", scenes),
        ("annotations/annotations.csv", annotations),
    ):
        with (region / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return len(chosen)


def polygons(mask: Path) -> list[BaseGeometry]:
    """What is drawn in a mask, in its own CRS, which is longitude and latitude."""
    with rasterio.open(mask) as file:
        drawn = file.read(1) > 0
        found = rasterio.features.shapes(drawn.astype(np.uint8), mask=drawn, transform=file.transform)
        return [shape(geometry) for geometry, _ in found]
