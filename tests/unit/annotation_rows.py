"""Rows of a Labelbox export and a manifest of scenes, small and made to measure."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from sandwatch.annotations.params import Annotations
from sandwatch.geometry import transformer
from sandwatch.schemas import Scenes

CRS = "EPSG:32645"
LEFT, TOP, WIDTH, HEIGHT = 500_000.0, 2_210_000.0, 200, 120
SITES = ("north", "south", "west")
KNOWN = tuple(f"{site}_2023-01-01" for site in SITES)
SKIPPED = "cloudy_2023-01-01"
NEVER_ASKED_FOR = "elsewhere_2023-01-01"

PARAMS = Annotations(
    source="labelbox_export",
    labelbox_project="",
    snapshot="test-1",
    mine_class="Sand mine",
    confidence_question="Confidence",
    confidence_answers={"Low": "low", "High": "high"},
    activity_question="Mine activity",
    activity_answers={"Yes": True, "No": False},
    done_statuses=("DONE",),
    consensus="refuse",
    max_vertices=5000,
)


def params(**changes: Any) -> Annotations:
    return PARAMS.model_copy(update=changes)


def manifest() -> pd.DataFrame:
    common = {
        "date": "2023-01-01",
        "bands": "B4,B3,B2",
        "crs": CRS,
        "transform": f"10.0,0.0,{LEFT},0.0,-10.0,{TOP}",
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "source": "files",
        "source_images": "[]",
        "sha256": None,
        "path": None,
        "detail": None,
    }
    rows = []
    for obs_id in (*KNOWN, SKIPPED):
        for product, dtype in (("s2", "uint16"), ("s1", "float32"), ("rgb", "uint8")):
            lost = obs_id == SKIPPED and product == "s1"
            no_picture = obs_id == KNOWN[2] and product == "rgb"
            rows.append(
                common
                | {
                    "obs_id": obs_id,
                    "site_id": obs_id[:-11],
                    "product": product,
                    "dtype": dtype,
                    "nodata": float("nan") if product == "s1" else 0.0,
                    "status": "skipped" if lost or no_picture else "exported",
                    "detail": "valid fraction 0.31 below 0.6" if lost or no_picture else None,
                    "valid_fraction": 0.31 if lost else 1.0,
                }
            )
    return Scenes.checked(pd.DataFrame(rows), "scenes")


def ring(x_px: float = 50, y_px: float = 40, width_px: float = 20, height_px: float = 12) -> list[list[float]]:
    """A closed ring of five corners (asymmetric), given in pixels of the scene, in degrees."""
    corners = [(0, 0), (0, 1), (0.7, 1.2), (1, 1), (1, 0), (0, 0)]
    to_degrees = transformer(CRS, "EPSG:4326")
    return [
        [
            round(v, 7)
            for v in to_degrees.transform(LEFT + 10 * (x_px + u * width_px), TOP - 10 * (y_px + v * height_px))
        ]
        for u, v in corners
    ]


def polygon(*args: float, hole: bool = False) -> dict[str, Any]:
    holes = [ring(args[0] + 5, args[1] + 4, 6, 3)] if hole else []
    return {"type": "Polygon", "coordinates": [ring(*args), *holes]}


def bow_tie() -> dict[str, Any]:
    a, b, _, c, d, _ = ring()
    return {"type": "Polygon", "coordinates": [[a, b, d, c, a]]}


def drawn(
    feature_id: str, geojson: Any = None, *, name: str = "Sand mine", confidence: str | None = "High"
) -> dict[str, Any]:
    thing: dict[str, Any] = {"feature_id": feature_id, "name": name, "value": "x", "annotation_kind": "GeoPolygon"}
    thing["classifications"] = [radio("Confidence", confidence)] if confidence else []
    thing["geojson"] = polygon() if geojson is None else geojson
    return thing


def radio(question: str, answer: str) -> dict[str, Any]:
    return {"name": question, "value": "q", "radio_answer": {"name": answer, "value": "a", "classifications": []}}


def label(
    label_id: str,
    objects: list[dict[str, Any]],
    *,
    activity: str | None = "from objects",
    skipped: bool = False,
    updated: str = "2024-04-08T16:21:26.000+00:00",
) -> dict[str, Any]:
    if activity == "from objects":
        activity = "Yes" if objects else "No"
    return {
        "label_kind": "Default",
        "version": "1.0.0",
        "id": label_id,
        "label_details": {
            "created_at": "2024-04-01T10:00:00.000+00:00",
            "updated_at": "2030-01-01T00:00:00.000+00:00",
            "created_by": "annotator@example.com",
            "content_last_updated_at": updated,
            "reviews": [{"reviewed_by": "reviewer@example.com", "score": 1}],
        },
        "performance_details": {"seconds_to_create": 34, "skipped": skipped, "benchmark_reference_label": None},
        "annotations": {
            "objects": objects,
            "classifications": [radio("Mine activity", activity)] if activity else [],
            "relationships": [],
        },
    }


def project(labels: list[dict[str, Any]], *, status: str = "DONE", selected: str | None = None) -> dict[str, Any]:
    return {
        "name": "proj",
        "labels": labels,
        "project_details": {"workflow_status": status, "selected_label_id": selected, "workflow_history": []},
    }


def row(obs_id: str | None, *projects: dict[str, Any], data_row: str | None = None) -> dict[str, Any]:
    return {
        "data_row": {
            "id": data_row or f"dr-{obs_id}",
            "global_key": obs_id,
            "external_id": obs_id,
            "row_data": json.dumps({"tileLayerUrl": "https://tiles.example/{z}/{x}/{y}.png", "epsg": "EPSG4326"}),
        },
        "media_attributes": {"asset_type": "tms_geo"},
        "projects": {f"project{number}": one for number, one in enumerate(projects)},
    }


def simple(obs_id: str, *objects: dict[str, Any], **of_label: Any) -> dict[str, Any]:
    """A row with one done label."""
    return row(obs_id, project([label(f"label-{obs_id}", list(objects), **of_label)]))


def lines(*rows: dict[str, Any] | bytes) -> list[bytes]:
    return [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in rows]


GOOD = simple(KNOWN[0], drawn("good"))
