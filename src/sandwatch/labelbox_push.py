"""Pictures for the annotators: every exported ``rgb.tif`` as a data row of Labelbox, once.

A picture lies in a bucket, and its data row says where, and on which bounds. The row's global key and external id are
the observation's id, by which its labels find back. Labelbox reads cloud-optimised GeoTIFFs by public or signed
address, or as ``gs://`` through an IAM integration of the organisation. Source: Labelbox documentation, "Import
geospatial data" and "Google Cloud Storage".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sandwatch import gcs
from sandwatch.annotations.labelbox import carefully, connect, finished
from sandwatch.errors import InputError, unsigned
from sandwatch.geometry import WGS84, transformer
from sandwatch.origin import kind_of, marked, words
from sandwatch.stage import progress

Links = Literal["public", "signed", "iam"]
MIN_ZOOM, MAX_ZOOM = 8, 18
"""Zoom levels of the web Mercator pyramid: a scene as a speck, and a pixel of 10 m as a patch that can be traced."""
LIFETIME = timedelta(days=7)
"""Longest life of a signed address. Source: Google Cloud Storage documentation, "Signed URLs", V4."""
DATE, SITE = "captureDateTime", "tag"
"""Metadata fields that every organisation of Labelbox has."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What became of the pictures, by obs_id.

    Attributes:
        created: data rows that are there now and were not before, or have a new address.
        there: left as they were.
        failed: refused, with Labelbox's message.
    """

    created: tuple[str, ...]
    there: tuple[str, ...]
    failed: Mapping[str, str]


def push(
    manifest: pd.DataFrame,
    scenes: Path,
    bucket: str,
    *,
    dataset: str,
    links: Links,
    integration: str | None,
    renew: bool,
) -> Pushed:
    """Uploads the pictures to the bucket, and makes data rows of those that Labelbox doesn't have yet.

    Args:
        manifest: ``schemas.Scenes``.
        scenes: the folder that its paths are relative to.
        bucket: ``gs://bucket/prefix``; a picture becomes ``<prefix>/<obs_id>/rgb.tif``.
        dataset: name of the dataset of Labelbox, made if needed.
        links: how Labelbox gets at the pictures.
        integration: name of the organisation's IAM integration, for ``links="iam"``.
        renew: give data rows that are there a new address, as signed ones need every week.

    Raises:
        InputError: there is no picture, the bucket or Labelbox refuses or stays away, or there is no such integration.
    """
    pictures = manifest[(manifest["product"] == "rgb") & (manifest["status"] == "exported")].sort_values("obs_id")
    if pictures.empty:
        raise InputError(
            "data/scenes.parquet", got="no exported rgb", expected="at least one", fix="run: dvc repro export"
        )
    client = connect()
    obs_ids = list(pictures["obs_id"])
    before = found(client, obs_ids)
    todo = pictures if renew else pictures[~pictures["obs_id"].isin(before)]
    there = tuple(obs_id for obs_id in obs_ids if obs_id not in set(todo["obs_id"]))
    if todo.empty:
        return Pushed(created=(), there=there, failed={})
    home = _dataset(client, dataset, _integration(client, integration, links))
    rows = []
    for number, picture in enumerate(todo.to_dict("records"), start=1):
        uri = f"{bucket.rstrip('/')}/{picture['obs_id']}/rgb.tif"
        gcs.upload(scenes / picture["path"], uri)
        rows.append(_data_row(picture, _link(uri, links)))
        progress(f"[{number}/{len(todo)}] {picture['obs_id']}: in the bucket")
    failed = _upsert(client, home, rows)
    after = found(client, list(todo["obs_id"]))
    lost = {obs_id: "Labelbox took it and doesn't have it" for obs_id in todo["obs_id"] if obs_id not in after}
    failed = {**lost, **failed}
    return Pushed(
        created=tuple(obs_id for obs_id in todo["obs_id"] if obs_id not in failed), there=there, failed=failed
    )


def found(client: Any, global_keys: Sequence[str]) -> set[str]:
    """Those of ``global_keys`` that Labelbox has a data row for.

    Raises:
        InputError: Labelbox refuses one, or stays away.
    """
    answer = carefully("data rows", lambda: client.get_data_row_ids_for_global_keys(list(global_keys)))
    missing = {error["global_key"]: error["error"] for error in answer["errors"]}
    if denied := sorted(key for key, why in missing.items() if "not found" not in why):
        raise InputError(
            f"Labelbox, data row {denied[0]}",
            got=f"{unsigned(missing[denied[0]])} ({len(denied)} such rows)",
            expected="rows that the key may read",
            fix="use a key of the workspace that holds them",
        )
    return set(global_keys) - set(missing)


def _integration(client: Any, name: str | None, links: Links) -> Any:
    """The IAM integration called ``name``; None where ``links`` needs none."""
    if links != "iam":
        return None
    integrations = carefully("integrations", lambda: client.get_organization().get_iam_integrations())
    for integration in integrations:
        if integration.name == name and integration.valid:
            return integration
    valid = ", ".join(repr(one.name) for one in integrations if one.valid)
    raise InputError(
        "Labelbox, IAM integration",
        got=repr(name),
        expected=f"one of {valid}" if valid else "a valid one; the organisation has none",
        fix="name it with --integration, or make it under Workspace settings, Integrations",
    )


def _dataset(client: Any, name: str, integration: Any) -> Any:
    """The dataset called ``name``, made if needed, with the integration's access to the bucket."""
    from labelbox import Dataset

    def find_or_create() -> Any:
        # Looked for at each attempt: where the answer was lost, the dataset was made all the same.
        return next(iter(client.get_datasets(where=Dataset.name == name)), None) or client.create_dataset(
            name=name, iam_integration=None
        )

    dataset = carefully(f"dataset {name!r}", find_or_create)
    if integration is not None:
        carefully(f"dataset {name!r}", lambda: dataset.add_iam_integration(integration))
    return dataset


def _link(uri: str, links: Links) -> str:
    if links == "iam":
        return uri
    return gcs.signed_url(uri, LIFETIME) if links == "signed" else gcs.public_url(uri)


def _data_row(picture: Mapping[Any, Any], url: str) -> dict[str, Any]:
    a, _, left, _, e, top = (float(value) for value in picture["transform"].split(","))
    right, bottom = left + a * picture["width_px"], top + e * picture["height_px"]
    west, south, east, north = transformer(picture["crs"], WGS84).transform_bounds(left, bottom, right, top)
    return {
        "row_data": {
            "tileLayerUrl": url,
            "bounds": [[round(west, 7), round(south, 7)], [round(east, 7), round(north, 7)]],
            "epsg": "EPSG4326",
            "minZoom": MIN_ZOOM,
            "maxZoom": MAX_ZOOM,
            "version": 2,  # longitude first
        },
        "global_key": picture["obs_id"],
        "external_id": picture["obs_id"],
        "media_type": "TMS_GEO",
        "metadata_fields": [
            {"name": DATE, "value": f"{picture['date']}T00:00:00Z"},
            {"name": SITE, "value": marked(picture["site_id"], words(imagery=kind_of([picture["source"]])))},
        ],
    }


def _upsert(client: Any, dataset: Any, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Makes or updates data rows by their global key; returns Labelbox's message by key for those that it refused."""
    from labelbox.schema.identifiable import GlobalKey

    def start() -> Any:  # bears being made twice: the second time updates to the same
        return dataset.upsert_data_rows([{"key": GlobalKey(row["global_key"]), **row} for row in rows])

    uid = carefully("data rows", start).uid
    task = finished("data rows", lambda: client.get_task_by_id(uid), running=lambda task: task.status == "IN_PROGRESS")
    if task.status != "COMPLETE":
        raise InputError(
            "Labelbox, data rows", got=f"status {task.status}", expected="COMPLETE", fix="run again; nothing is doubled"
        )
    errors = carefully("data rows", lambda: task.errors) or []
    return {row["globalKey"]: unsigned(error["message"]) for error in errors for row in error["failedDataRows"]}
