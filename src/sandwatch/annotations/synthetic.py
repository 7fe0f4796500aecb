"""Labels of the painted world as Labelbox exports them: invented annotators who look well, but not perfectly.

They follow the true outline of a mine with an error at each vertex, call small and abandoned mines ``Low``, now and
then overlook a small one, and leave a few slips behind (a row still in review, an answer that contradicts the drawing,
a polygon that crosses itself, an unanswered question), so that the checks of the annotations stage have work to do.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from sandwatch.annotations.params import Annotations
from sandwatch.geometry import WGS84, reproject, transformer
from sandwatch.imagery import Site, river_lines, sites
from sandwatch.imagery.noise import generator, normal
from sandwatch.imagery.params import Synthetic
from sandwatch.imagery.synthetic import truth

PROJECT = "Sand mines, sample region (synthetic)"
MIN_PART_M2 = 600.0
"""Smaller pieces of a mine, such as what a flood left of it, are not drawn."""
ANNOTATORS = ("annotator1@example.org", "annotator2@example.org", "annotator3@example.org")
REVIEWER = "reviewer1@example.org"


def rows(
    aoi: gpd.GeoDataFrame,
    rivers: Path,
    manifest: pd.DataFrame,
    synthetic: Synthetic,
    annotations: Annotations,
) -> list[dict[str, Any]]:
    """One row of a Labelbox export for each observation that was sent to the annotators.

    Args:
        aoi: ``schemas.Aoi``; the annotators look at the sites of role ``label`` and ``both``.
        rivers: the region's river file, as the imagery was painted along it.
        manifest: ``schemas.Scenes``; observations whose ``s2`` was not exported were never looked at.
        synthetic: seed, and the annotators' error.
        annotations: names of the class, questions, answers and statuses.

    Returns:
        Rows sorted by observation, as ``json.loads`` gives them from a line of ``export.ndjson``; data rows carry the
        observation's name as ``global_key`` and ``external_id``. The same arguments give the same rows.

    Raises:
        InputError: the rivers can't be read, or none crosses a site.
    """
    lines = river_lines(rivers, sites(aoi))
    exported = set(manifest.loc[(manifest["product"] == "s2") & (manifest["status"] == "exported"), "obs_id"])
    seen = [
        _Seen(site, month, lines, annotations, synthetic)
        for site in sites(aoi[aoi["role"] != "infer"])
        for month in site.months
        if f"{site.site_id}_{month:%Y-%m-%d}" in exported
    ]
    _leave_slips(seen)
    return [one.row() for one in sorted(seen, key=lambda one: one.obs_id)]


class _Seen:
    """An observation as an annotator left it."""

    def __init__(
        self,
        site: Site,
        month: date,
        rivers: BaseGeometry,
        annotations: Annotations,
        synthetic: Synthetic,
    ) -> None:
        self.obs_id = f"{site.site_id}_{month:%Y-%m-%d}"
        self.site, self.annotations = site, annotations
        self.order = _hex(str(synthetic.seed), self.obs_id)
        rng = generator(synthetic.seed, self.obs_id, "annotator")
        numbers, mines = truth(site, month, rivers, synthetic)
        self.objects = []
        for mine in mines:
            overlooked, doubted = rng.random(2)
            if mine.small and overlooked < 0.3:
                continue
            low = mine.faint or doubted < 0.04
            for part, polygon in enumerate(_drawn(numbers == mine.number, site, rng, synthetic.annotator_error_m)):
                self.objects.append(self._object(f"{mine.number}.{part}", polygon, "low" if low else "high"))
        self.active = bool(self.objects)
        self.status = annotations.done_statuses[0]
        start = datetime(month.year, month.month, 1, 8, tzinfo=UTC) + timedelta(days=45)
        self.created = start + timedelta(seconds=int(rng.integers(30 * 86400)))
        self.annotator = ANNOTATORS[int(rng.integers(len(ANNOTATORS)))]
        self.seconds = 40 + 35 * len(self.objects) + int(rng.integers(60))

    def _object(self, name: str, ring: list[list[float]], confidence: str) -> dict[str, Any]:
        answer = next(key for key, value in self.annotations.confidence_answers.items() if value == confidence)
        return {
            "feature_id": _id(self.obs_id, "object", name),
            "feature_schema_id": _id("schema", self.annotations.mine_class),
            "name": self.annotations.mine_class,
            "value": _value(self.annotations.mine_class),
            "annotation_kind": "GeoPolygon",
            "classifications": [_radio(self.annotations.confidence_question, answer, self.obs_id, name)],
            "geojson": {"type": "Polygon", "coordinates": [ring]},
        }

    def add_crossed(self) -> None:
        """Adds a polygon that crosses itself beside the first one, as a hasty double click leaves it."""
        west, south = self.objects[0]["geojson"]["coordinates"][0][0]
        east, north = round(west + 0.0012, 7), round(south + 0.0009, 7)
        ring = [[west, south], [east, north], [east, south], [west, north], [west, south]]
        self.objects.append(self._object("crossed", ring, "high"))

    def row(self) -> dict[str, Any]:
        """The row of the export."""
        label = _id(self.obs_id, "label")
        created, reviewed = _time(self.created), _time(self.created + timedelta(days=2))
        answer = next(key for key, value in self.annotations.activity_answers.items() if value == self.active)
        done = self.status in self.annotations.done_statuses
        uploaded = _time(self.created - timedelta(days=9))
        return {
            "data_row": {
                "id": _id(self.obs_id, "data row"),
                "global_key": self.obs_id,
                "external_id": self.obs_id,
                "row_data": json.dumps(_layer(self.site, self.obs_id)),
                "details": {
                    "dataset_id": _id("dataset"),
                    "dataset_name": "sample region (synthetic)",
                    "created_at": uploaded,
                    "updated_at": uploaded,
                    "last_activity_at": reviewed if done else created,
                    "created_by": REVIEWER,
                },
            },
            "media_attributes": {"asset_type": "tms_geo"},
            "attachments": [],
            "metadata_fields": [],
            "embeddings": [],
            "projects": {
                _id("project"): {
                    "name": PROJECT,
                    "labels": [
                        {
                            "label_kind": "Default",
                            "version": "1.0.0",
                            "id": label,
                            "label_details": {
                                "created_at": created,
                                "updated_at": created,
                                "created_by": self.annotator,
                                "content_last_updated_at": created,
                                "reviews": [
                                    {
                                        "reviewed_at": reviewed,
                                        "reviewed_by": REVIEWER,
                                        "review_score": None,
                                        "score": 1,
                                    }
                                ]
                                if done
                                else [],
                            },
                            "performance_details": {
                                "seconds_to_create": self.seconds,
                                "seconds_to_review": self.seconds // 5 if done else 0,
                                "skipped": False,
                                "benchmark_reference_label": None,
                            },
                            "annotations": {
                                "objects": self.objects,
                                "classifications": [
                                    _radio(self.annotations.activity_question, answer, self.obs_id, "image")
                                ],
                                "relationships": [],
                            },
                        }
                    ],
                    "project_details": {
                        "ontology_id": _id("ontology"),
                        "task_id": _id("task", self.status),
                        "task_name": "Done" if done else "Initial review task",
                        "batch_id": _id("batch"),
                        "batch_name": "sample",
                        "workflow_status": self.status,
                        "priority": 5,
                        "selected_label_id": label,
                        "consensus_expected_label_count": None,
                        "workflow_history": [
                            {
                                "action": "Approve",
                                "created_at": reviewed,
                                "created_by": REVIEWER,
                                "previous_task_name": "Initial review task",
                                "previous_task_id": _id("task", "IN_REVIEW"),
                                "next_task_name": "Done",
                                "next_task_id": _id("task", self.status),
                            }
                        ]
                        if done
                        else [],
                    },
                }
            },
        }


def _leave_slips(seen: list[_Seen]) -> None:
    """One mistake of each kind, on observations chosen by the hash of their name."""
    busy = sorted((one for one in seen if len(one.objects) > 2), key=lambda one: one.order)
    quiet = sorted((one for one in seen if not one.objects), key=lambda one: one.order)
    if busy[0:1]:
        busy[0].status = "IN_REVIEW"
    if busy[1:2]:  # one careless session: an unanswered question and a crossed polygon
        busy[1].objects[-1]["classifications"] = []
        busy[1].add_crossed()
    if len(quiet) > 1:
        quiet[0].active = True


def _drawn(mask: Any, site: Site, rng: np.random.Generator, error_m: float) -> list[list[list[float]]]:
    """Rings (longitude, latitude) around the parts of a mine, as a hand would draw them on the image."""
    from rasterio.features import shapes

    rings = []
    for shape, _ in shapes(mask.astype(np.uint8), mask=mask, transform=site.grid.transform):
        outline = Polygon(shape["coordinates"][0])
        if outline.area < MIN_PART_M2:
            continue
        # A little inside the pixels' outer edges, since rasterising with all_touched adds half a pixel again.
        inner: BaseGeometry = outline.buffer(-4.0, join_style="mitre")
        if inner.geom_type != "Polygon" or inner.is_empty:
            inner = outline
        corners = shapely.get_coordinates(inner.simplify(11.0))[:-1]
        # Where the error made the outline cross itself, the hand ends at the largest loop.
        loops = shapely.get_parts(Polygon(corners + error_m * normal(rng, corners.shape)).buffer(0.0))
        drawn = reproject(max(loops, key=shapely.area), site.grid.crs, WGS84)
        ring = [
            [round(float(x), 7), round(float(y), 7)]
            for x, y in shapely.get_coordinates(shapely.get_exterior_ring(drawn))
        ]
        if ring and Polygon(ring).is_valid:
            rings.append(ring)
    return rings


def _layer(site: Site, obs_id: str) -> dict[str, Any]:
    """What Labelbox shows: a tile layer over the scene's bounds ((latitude, longitude) corners)."""
    to_wgs84 = transformer(site.grid.crs, WGS84)
    west, south, east, north = (round(float(value), 6) for value in to_wgs84.transform_bounds(*site.grid.bounds))
    return {
        "tileLayerUrl": f"https://tiles.example.org/{obs_id}/{{z}}/{{x}}/{{y}}.png",
        "bounds": [[south, west], [north, east]],
        "minZoom": 10,
        "maxZoom": 18,
        "maxNativeZoom": 15,
        "epsg": "EPSG4326",
        "tileSize": 256,
        "alternativeLayers": [],
    }


def _radio(question: str, answer: str, *where: str) -> dict[str, Any]:
    return {
        "feature_id": _id(*where, question),
        "feature_schema_id": _id("schema", question),
        "name": question,
        "value": _value(question),
        "radio_answer": {
            "feature_id": _id(*where, question, "answer"),
            "feature_schema_id": _id("schema", question, answer),
            "name": answer,
            "value": _value(answer),
            "classifications": [],
        },
    }


def _value(name: str) -> str:
    """Labelbox's machine name of a schema node."""
    return name.lower().replace(" ", "_")


def _hex(*names: str) -> str:
    return hashlib.sha256("\x1f".join(names).encode()).hexdigest()


def _id(*names: str) -> str:
    """25 characters, shaped as Labelbox's identifiers."""
    number, letters = int(_hex(*names), 16), ""
    for _ in range(23):
        number, digit = divmod(number, 36)
        letters += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return f"cl{letters}"


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
