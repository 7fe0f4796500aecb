"""Annotation files, one GeoJSON an observation, listed in ``annotations.csv``; the predecessor's files among them.

The manifest has the columns ``obs_id``, ``path`` (of a file in the manifest's folder or below) and, if wanted,
``confidence_property``: the property of each feature that answers the confidence question, by default that question's
name. Files are read as JSON, so features without ``"type": "Feature"``, which geopandas reads as nothing at all, count
like any other. A collection without features is a negative; a file without content is not, because a copy that failed
looks the same.

A raw row is one JSON line a file: obs_id, path (its name alone where it is absolute: outputs don't say where they were
made), sha256 of the file, confidence_property, and content, the file's text verbatim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandwatch import features, listing, text
from sandwatch.annotations.answers import named
from sandwatch.annotations.canonical import UnusableGeometryError, canonical, read_polygon
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Drawn, Label, MalformedError, Row, guarded
from sandwatch.errors import InputError

MANIFEST = "annotations.csv"


def raw_rows(inputs: Path, params: Annotations) -> Iterator[bytes]:
    """One JSON line for each row of the manifest in the folder ``inputs``.

    Raises:
        InputError: the manifest or a file of it is missing or unreadable.
    """
    manifest = inputs / MANIFEST
    if not manifest.is_file():
        raise InputError(
            str(manifest),
            got="no such file",
            expected="a CSV with the columns obs_id and path",
            fix="list your annotation files there",
        )
    header, rows = listing.read(manifest)
    if missing := {"obs_id", "path"} - set(header):
        raise InputError(
            str(manifest),
            got=f"columns {', '.join(header) or 'none'}",
            expected="obs_id, path and, if wanted, confidence_property",
            fix=f"add {', '.join(sorted(missing))}",
        )
    for where, entry in rows:
        yield _raw_row(manifest.parent, where, entry, params)


def _raw_row(folder: Path, where: str, entry: dict[str, str], params: Annotations) -> bytes:
    obs_id, name = entry["obs_id"], entry["path"]
    path = text.found(folder, name)
    content = _content(path) if obs_id and name else None
    if content is None:
        raise InputError(
            where,
            got=f"obs_id {obs_id!r}, path {name!r}",
            expected="an observation and a GeoJSON file on this machine",
            fix="correct the line, or fetch the file first",
        )
    # Whoever writes a listing could otherwise have any file of this machine frozen, and pushed.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            where,
            got=f"path {name!r}, which leads out of {folder}",
            expected="a file in this folder, which DVC and git watch",
            fix="copy the file there",
        )
    row = {
        "obs_id": obs_id,
        "path": path.name if Path(name).is_absolute() else name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "confidence_property": entry.get("confidence_property", "") or params.confidence_question,
        "content": text.decode(content, path),
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _content(path: Path) -> bytes | None:
    """The bytes of a file, None where none can be read, be it that its name is longer than names may be."""
    try:
        return path.read_bytes() if path.is_file() else None
    except (OSError, ValueError):
        return None


def parse(line: bytes, params: Annotations) -> Row:
    """Reads one line that :func:`raw_rows` made.

    A feature's id is ``<obs_id>/<its own id>`` where it has one, else ``<obs_id>/<16 digits of the SHA-256 of its
    canonical geometry and confidence>``: neither the order of features nor that of vertices changes it, and a feature
    that is there twice shows.

    Raises:
        MalformedError: the file's content isn't GeoJSON.
        InputError: it declares a CRS other than longitude and latitude.
    """
    row = json.loads(line)
    found: list[dict[str, Any]] = []
    try:
        with guarded(lambda: len(found)):
            found = _features(row["content"], row["path"])
            drawn = tuple(_drawn(feature, row["obs_id"], row["confidence_property"], params) for feature in found)
    except MalformedError as error:
        raise MalformedError(f"{row['path']}: {error}", error.drawn) from error
    label = Label(label_id=f"{row['obs_id']}/{row['sha256'][:16]}", drawn=drawn, mines=bool(drawn))
    return Row(row_id=row["path"], names=(text.composed(row["obs_id"]),), labels=(label,))


def _features(content: str, path: str) -> list[dict[str, Any]]:
    try:
        read = features.read(content)
    except features.NoFeaturesError as error:
        raise MalformedError(str(error), error.drawn) from None
    if not read.in_degrees:
        raise InputError(
            path,
            got=f"crs {read.crs_name or read.crs}",
            expected="longitude and latitude (OGC:CRS84 or EPSG:4326)",
            fix="reproject it: ogr2ogr -t_srs EPSG:4326 new.geojson old.geojson",
        )
    return read.features


def _drawn(feature: dict[str, Any], obs_id: str, confidence_property: str, params: Annotations) -> Drawn:
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    answer = named(properties, confidence_property)
    geometry = feature.get("geometry")
    own_id = feature.get("id")
    if own_id is None:
        try:
            identity: Any = canonical(read_polygon(geometry, params.max_vertices)[0])
        except UnusableGeometryError:
            identity = geometry
        own_id = hashlib.sha256(json.dumps([identity, answer], sort_keys=True).encode()).hexdigest()[:16]
    if isinstance(answer, int | float):
        answer = text.alike(answer)
    return Drawn(
        feature_id=text.composed(f"{obs_id}/{own_id}"),
        class_name=params.mine_class,
        answer=answer if isinstance(answer, str) else None,
        geometry=geometry,
        no_answer=f"its properties are {', '.join(map(str, list(properties)[:10])) or 'none'}",
    )
