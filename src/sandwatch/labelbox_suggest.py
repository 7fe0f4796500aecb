"""The next labels to draw: where the model is least sure, and what it would draw there.

A window's uncertainty is the mean binary entropy of the calibrated scores over its area: a window half outside the AOI
or without data counts for half. The most uncertain windows are taken one after the other, one a neighbourhood: near
windows, and other months of the same place, show much the same. Their observations go to the head of the annotators'
queue, with all that the model found there as pre-labels. An annotator always judges a whole observation, because what
is left undrawn in it is taken for "no mine".
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import requests
import shapely

from sandwatch import raster
from sandwatch.annotations.labelbox import carefully, connect, finished, mine_class, project_of
from sandwatch.annotations.params import Annotations
from sandwatch.errors import InputError, unsigned
from sandwatch.geometry import WGS84, transformer
from sandwatch.grid import RESOLUTION_M, Grid, Window, tile
from sandwatch.infer import SCORE_BAND
from sandwatch.labelbox_push import found
from sandwatch.model.scoring import NODATA, STEPS
from sandwatch.schemas import Detections

NEIGHBOURHOOD = 2.0
"""Centres of two suggested windows are at least this many sides of a window apart."""
LARGEST_BUDGET = 500
"""Rows that Labelbox queues in one call are fewer than 1,000. Source: the SDK, ``MAX_SYNC_BATCH_ROW_COUNT``."""
FIRST = 1
"""Priority of a batch, 1 to 5. Source: the SDK, ``Project.create_batch``."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A window to look at.

    Attributes:
        obs_id: the scene.
        window: in its pixels.
        longitude, latitude: of its centre.
        uncertainty: mean entropy, bits, 0 to 1.
    """

    obs_id: str
    window: Window
    longitude: float
    latitude: float
    uncertainty: float


@dataclass(frozen=True, kw_only=True)
class Queued:
    """What Labelbox was given.

    Attributes:
        batch: name of the batch and of the import of pre-labels.
        polygons: pre-labels.
        not_queued: observations that were queued before, or that Labelbox refused.
        failed: pre-labels that Labelbox refused, with its message.
    """

    batch: str
    polygons: int
    not_queued: tuple[str, ...]
    failed: Mapping[str, str]


def rank(predictions: Path, labelled: Collection[str], *, size_px: int, budget: int) -> list[Suggestion]:
    """The windows to label next, most uncertain first; the same scores give the same order.

    Args:
        predictions: the folder that ``infer`` wrote.
        labelled: observations that have labels already.
        size_px: side of a window.
        budget: how many windows at most.

    Raises:
        InputError: there is no score of an unlabelled observation.
    """
    scores = [path for path in sorted(predictions.glob("*/score.tif")) if path.parent.name not in labelled]
    if not scores:
        raise InputError(
            str(predictions),
            got="no scores of an observation without labels",
            expected="at least one",
            fix="add sites with role infer or both to sites.csv, and run: dvc repro",
        )
    candidates = [one for path in scores for one in _windows(path, size_px)]
    candidates.sort(key=lambda one: (-one.uncertainty, one.obs_id, one.window.row, one.window.col))
    earth, apart = pyproj.Geod(ellps="WGS84"), NEIGHBOURHOOD * size_px * RESOLUTION_M
    chosen: list[Suggestion] = []
    for one in candidates:
        if len(chosen) == budget:
            break
        if all(earth.inv(one.longitude, one.latitude, c.longitude, c.latitude)[2] >= apart for c in chosen):
            chosen.append(one)
    return chosen


def _windows(path: Path, size_px: int) -> Iterator[Suggestion]:
    """Every half-overlapping window of a scene that the model is at all unsure about; memory holds a strip."""
    grid = raster.read_grid(path)
    strips: dict[int, npt.NDArray[np.float64]] = {}
    for window in tile(grid.height, grid.width, size_px, size_px // 2):
        if window.row not in strips:
            height = min(size_px, grid.height - window.row)
            strip = Window(row=window.row, col=0, height=height, width=grid.width)
            strips = {window.row: _ENTROPY[raster.read(path, bands=[SCORE_BAND], window=strip)[0]]}
        part = strips[window.row][:, window.col : window.col + size_px]
        uncertainty = round(float(part.sum()) / size_px**2, 6)
        if uncertainty > 0:
            longitude, latitude = _centre(grid, window)
            yield Suggestion(
                obs_id=path.parent.name,
                window=window,
                longitude=longitude,
                latitude=latitude,
                uncertainty=uncertainty,
            )


def _centre(grid: Grid, window: Window) -> tuple[float, float]:
    left, bottom, right, top = grid.crop(window).bounds
    longitude, latitude = transformer(grid.crs, WGS84).transform((left + right) / 2, (bottom + top) / 2)
    return round(longitude, 7), round(latitude, 7)


def _entropy_of_scores() -> npt.NDArray[np.float64]:
    """Binary entropy in bits by stored score; 0 where there is none."""
    table = np.zeros(NODATA + 1)
    p = np.arange(1, STEPS) / STEPS
    table[1:STEPS] = np.round(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)), 9)
    return table


_ENTROPY = _entropy_of_scores()


def queue(params: Annotations, suggestions: Sequence[Suggestion], predictions: Path) -> Queued:
    """Queues the suggestions' observations, in a batch of the first priority, with pre-labels. Twice does no more.

    Args:
        params: which project, and what its ontology calls a mine.
        suggestions: from :func:`rank`.
        predictions: the folder that ``infer`` wrote.

    Raises:
        InputError: an observation has no data row yet, or Labelbox refuses or stays away.
    """
    client = connect()
    project = project_of(client, params)
    schema_id = mine_class(project, params)
    obs_ids = list(dict.fromkeys(suggestion.obs_id for suggestion in suggestions))
    there = found(client, obs_ids)
    if missing := [obs_id for obs_id in obs_ids if obs_id not in there]:
        raise InputError(
            f"Labelbox, data row {missing[0]}",
            got=f"no such row ({len(missing)} of {len(obs_ids)} are missing)",
            expected="a data row for each observation that is suggested",
            fix="run: sandwatch labelbox push",
        )
    annotations = [line for obs_id in obs_ids for line in _prelabels(predictions / obs_id, obs_id, schema_id)]
    content = json.dumps([obs_ids, annotations], sort_keys=True).encode()
    name = f"sandwatch suggest {hashlib.sha256(content).hexdigest()[:12]}"
    not_queued = _batch(project, name, obs_ids)
    failed = _import(client, project, name, annotations) if annotations else {}
    return Queued(batch=name, polygons=len(annotations) - len(failed), not_queued=not_queued, failed=failed)


def _prelabels(folder: Path, obs_id: str, schema_id: str) -> Iterator[dict[str, Any]]:
    """Polygons as Labelbox imports them: exterior rings alone, since its polygons have no holes.

    The confidence question is left to the person. Source: Labelbox documentation, "Import geospatial annotations": x is
    the longitude; an annotation with the same uuid replaces the one before.
    """
    table = Detections.read(folder / "detections.parquet")
    for detection in table.to_dict("records"):
        for number, polygon in enumerate(shapely.get_parts(detection["geometry"])):
            identity = f"{detection['model_sha256']}/{detection['detection_id']}/{number}"
            yield {
                "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
                "schemaId": schema_id,
                "dataRow": {"globalKey": obs_id},
                "polygon": [{"x": x, "y": y} for x, y in polygon.exterior.coords],
                "classifications": [],
            }


def _batch(project: Any, name: str, obs_ids: Sequence[str]) -> tuple[str, ...]:
    """Queues data rows once; returns those that were not queued."""
    refused: list[str] = []

    def create() -> None:
        # Looked for at each attempt: where the answer was lost, the batch was made all the same.
        if name not in {batch.name for batch in project.batches()}:
            batch = project.create_batch(name, global_keys=list(obs_ids), priority=FIRST)
            refused.extend(batch.failed_data_row_ids)

    carefully(f"batch {name!r}", create)
    return tuple(refused)


def _import(client: Any, project: Any, name: str, annotations: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Imports pre-labels once; returns Labelbox's message by uuid for those that it refused."""
    from labelbox import MALPredictionImport
    from labelbox.schema.enums import AnnotationImportState
    from lbox.exceptions import ResourceNotFoundError

    what = f"pre-labels {name!r}"

    def poll() -> Any:
        return MALPredictionImport.from_name(client, project.uid, name)

    def find_or_create() -> Any:
        try:
            existing = poll()
        except ResourceNotFoundError:
            return MALPredictionImport.create_from_objects(client, project.uid, name, list(annotations))
        if existing.state is AnnotationImportState.FAILED:
            existing.delete()
            return MALPredictionImport.create_from_objects(client, project.uid, name, list(annotations))
        return existing

    carefully(what, find_or_create)
    done = finished(what, poll, running=lambda one: one.state is AnnotationImportState.RUNNING)
    if done.state is not AnnotationImportState.FINISHED:
        raise InputError(
            f"Labelbox, {what}", got="a failed import", expected="FINISHED", fix="run again: it is started anew"
        )
    try:
        statuses = carefully(what, lambda: done.statuses)
    except requests.HTTPError:
        raise InputError(
            f"Labelbox, {what}",
            got="no report on the single pre-labels any more",
            expected="one line for each",
            fix="look at the project's Import history; Labelbox keeps reports for a day",
        ) from None
    return {
        status["uuid"]: "; ".join(unsigned(error["message"]) for error in status.get("errors", []))
        for status in statuses
        if status["status"] != "SUCCESS"
    }
