"""From what annotators left to a frozen ``export.ndjson`` and tables: labels, observations, ignored, quarantine.

One pipeline for all sources. A source yields raw rows; they are frozen as received, but for credentials in URLs
(``redact.py``), then parsed line by line into ``record.Row`` and judged: ``rules.py`` holds every rule,
``canonical.py`` reads polygons and defines the label fingerprint, ``exclusions.py`` the record of what people took out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from sandwatch.annotations import canonical, exclusions, geojson, labelbox_export
from sandwatch.annotations.canonical import label_fingerprint
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import MalformedError, Row
from sandwatch.annotations.redact import redact
from sandwatch.annotations.rules import Judge, scenes_of
from sandwatch.errors import InputError
from sandwatch.files import whole
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import WGS84, Ignored, Labels, Observations, Quarantine
from sandwatch.stage import progress

SHOWN = 300
"""Characters of a detail that are printed; quarantine.parquet has it whole."""
Parse = Callable[[bytes, Annotations], Row]

__all__ = ["build", "freeze", "label_fingerprint", "summary"]


def build(
    params: Annotations,
    synthetic: Synthetic,
    *,
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    rivers: Path,
    inputs: Path,
    folder: Path,
    canonical_folder: Path,
) -> dict[str, Any]:
    """Freezes a snapshot of the labels and makes its tables.

    Args:
        params: the source, what the ontology calls things, and which labels count.
        synthetic: the painter's params; the source ``synthetic`` alone reads them, and ``aoi`` and ``rivers``.
        aoi: ``schemas.Aoi``.
        manifest: ``schemas.Scenes``.
        rivers: file with the river geometry.
        inputs: the region's folder ``annotations``: exclusions.csv, and what the other sources read.
        folder: gets export.ndjson, labels.parquet, observations.parquet, ignored.parquet and quarantine.parquet.
        canonical_folder: gets what the label fingerprint covers, as :func:`canonical.write` says.

    Returns:
        The stage's metrics: flat, numbers and the label fingerprint.

    Raises:
        InputError: the source or the exclusions can't be read, or :func:`freeze` finds no usable polygon.
    """
    excluded = exclusions.read(inputs)
    raw, parse = _source(params, synthetic, aoi=aoi, manifest=manifest, rivers=rivers, inputs=inputs)
    return freeze(raw, parse, params, manifest, folder, canonical_folder, excluded)


def _source(
    params: Annotations,
    synthetic: Synthetic,
    *,
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    rivers: Path,
    inputs: Path,
) -> tuple[Iterable[bytes], Parse]:
    """The raw rows of the source that params name, and what reads one of them."""
    if params.source == "geojson":
        return geojson.raw_rows(inputs, params), geojson.parse
    if params.source == "labelbox_export":
        return labelbox_export.raw_rows(inputs), labelbox_export.parse
    if params.source == "labelbox":
        from sandwatch.annotations import labelbox

        return labelbox.raw_rows(params), labelbox_export.parse
    from sandwatch.annotations import synthetic as painter

    rows = painter.rows(aoi, rivers, manifest, synthetic, params)
    return (json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n" for row in rows), labelbox_export.parse


def freeze(
    raw_rows: Iterable[bytes],
    parse: Parse,
    params: Annotations,
    manifest: pd.DataFrame,
    folder: Path,
    canonical_folder: Path,
    excluded: Mapping[str, Exclusion],
) -> dict[str, Any]:
    """Freezes raw rows and makes the tables of them; memory holds the tables and one raw row at a time.

    Args:
        raw_rows: lines as the source yields them, newlines included.
        parse: reads one of them.
        params: as for :func:`build`.
        manifest: as for :func:`build`.
        folder: as for :func:`build`.
        canonical_folder: as for :func:`build`.
        excluded: what must not be learnt from, by id; ids that nothing in the rows has are told and counted.

    Returns:
        As :func:`build`.

    Raises:
        InputError: no usable polygon is left; the snapshot and its quarantine are written, to look into.
    """
    judge, rows, redacted = Judge(params, scenes_of(manifest), excluded), 0, 0
    with whole(folder / "export.ndjson") as partial, partial.open("wb") as snapshot:
        for number, received in enumerate(raw_rows, start=1):
            line, shortened = redact(received)
            redacted += shortened
            snapshot.write(line)
            if not line.strip():
                continue
            rows += 1
            row_sha256 = hashlib.sha256(line.rstrip(b"\r\n")).hexdigest()
            try:
                row = parse(line, params)
            except MalformedError as error:
                judge.malformed(f"export.ndjson:{number}", error, row_sha256)
            else:
                judge.row(row, row_sha256)

    unmatched = sorted(excluded.keys() - judge.matched)
    if unmatched:
        progress(f"{exclusions.FILE}: {len(unmatched)} of {len(excluded)} ids match nothing in this snapshot: "
                 f"{', '.join(unmatched)}")  # fmt: skip
    if len(judge.projects) > 1:
        progress(f"note: labels of {len(judge.projects)} projects count: {', '.join(sorted(judge.projects))}; "
                 "annotations.labelbox_project can name one")  # fmt: skip
    quarantine = _table(Quarantine, judge.quarantine)
    for said in _first_of_each_reason(quarantine):
        progress(said)
    Quarantine.write(quarantine, folder / "quarantine.parquet")
    if not judge.labels:
        raise InputError(
            f"annotations, snapshot {params.snapshot}",
            got=f"no usable polygon in {rows} rows ({_top_reasons(quarantine) or 'nothing in quarantine'})",
            expected="at least one polygon to learn from",
            fix=f"see {folder / 'quarantine.parquet'} and the names under annotations in params.yaml",
        )
    labels, observations = _table(Labels, judge.labels), _table(Observations, judge.observations)
    canonical_rows = canonical.canonical_rows(labels)
    labels["label_sha256"] = [hashlib.sha256(row).hexdigest() for row in canonical_rows]
    Labels.write(labels, folder / "labels.parquet")
    ignored = _table(Ignored, judge.ignored)
    Observations.write(observations, folder / "observations.parquet")
    Ignored.write(ignored, folder / "ignored.parquet")
    return {
        "label_fingerprint": canonical.write(canonical_folder, canonical_rows, labels, observations, ignored),
        "rows": rows,
        "labels": len(labels),
        "labels_low": int((labels["confidence"] == "low").sum()),
        "labels_high": int((labels["confidence"] == "high").sum()),
        "labels_repaired": len(judge.repaired),
        "observations": len(observations),
        "negatives": int((~observations["has_mines"]).sum()),
        "mine_area_km2": round(float(labels["area_m2"].sum()) / 1e6, 4),
        "quarantined_labels": int(quarantine["polygons"].sum()),
        "quarantined_rows": rows - len(observations),
        "ignored_areas": len(ignored),
        "exclusions": len(excluded),
        "exclusions_unmatched": len(unmatched),
        "redacted_urls": redacted,
    } | {f"quarantine_{reason}": count for reason, count in sorted(Counter(quarantine["reason"]).items())}


def summary(metrics: dict[str, Any]) -> Iterator[str]:
    """The metrics of :func:`build` as lines of a table, to be printed."""
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        yield f"  {name:<{width}}  {value}"


def _first_of_each_reason(quarantine: pd.DataFrame) -> Iterator[str]:
    """A line a reason of quarantine: how often, and what the first was."""
    for reason, rows in quarantine.groupby("reason"):
        first = rows.iloc[0]
        where = next(name for name in (first["feature_id"], first["obs_id"], first["row_id"]) if isinstance(name, str))
        yield f"quarantine: {reason} {len(rows)}, such as {where}: {first['detail'][:SHOWN]}"


def _top_reasons(quarantine: pd.DataFrame) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(quarantine["reason"]).most_common(3))


def _table(model: type[Labels | Observations | Ignored | Quarantine], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of ``rows`` with the model's columns and types, where a column has no value too."""
    dtypes = model.to_schema().dtypes
    table = pd.DataFrame(rows, columns=list(dtypes))
    table = table.astype({name: dtype.type for name, dtype in dtypes.items() if name != "geometry"})
    return gpd.GeoDataFrame(table, geometry="geometry", crs=WGS84) if "geometry" in dtypes else table
