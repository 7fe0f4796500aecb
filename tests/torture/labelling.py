"""Rows of labels frozen and counted: what was received is kept or in quarantine, all of it, and nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from sandwatch.annotations import freeze
from sandwatch.annotations.canonical import label_fingerprint
from sandwatch.annotations.params import Annotations
from tests.torture.attack import expect
from tests.unit.annotation_rows import manifest

MANIFEST = manifest()


def outcomes(
    lines: Sequence[bytes],
    parse: Any,
    params: Annotations,
    folder: Path,
    drawn_in: Callable[[bytes, bool], int],
) -> Counter[str]:
    """Freezes rows and counts what became of them.

    Args:
        lines: raw rows.
        parse: reads one.
        params: for both.
        folder: to write to.
        drawn_in: how many polygons a raw row holds; told whether it was found malformed.

    Raises:
        Failure: a row or a polygon is in no table, in two, or a table is not what it must be.
    """
    metrics = freeze(iter(lines), parse, params, MANIFEST, folder, folder / "canonical", {})
    # Their schemas were checked when they were written; to check again would take half of the time.
    labels, ignored = (gpd.read_parquet(folder / f"{name}.parquet") for name in ("labels", "ignored"))
    observations, quarantine = (pd.read_parquet(folder / f"{name}.parquet") for name in ("observations", "quarantine"))
    frozen = (folder / "export.ndjson").read_bytes().split(b"\n")
    received = {number: line for number, line in enumerate(frozen, 1) if line.strip()}
    sent = sum(bool(line.strip()) for line in lines)
    expect(
        len(received) == metrics["rows"] == sent, "lost row", f"{sent} sent, {len(received)} frozen, {metrics['rows']}"
    )
    malformed = {row.rpartition(":")[2] for row in quarantine["row_id"][quarantine["reason"] == "malformed_row"]}
    drawn = sum(drawn_in(line, str(number) in malformed) for number, line in received.items())
    accounted = len(labels) + int(quarantine["polygons"].sum())
    expect(accounted == drawn, "lost row", f"{drawn} polygons received, {accounted} kept or in quarantine")
    known = {*quarantine["row_sha256"], *labels["row_sha256"]}
    rest = [line for line in received.values() if hashlib.sha256(line.rstrip(b"\r\n")).hexdigest() not in known]
    negatives = int((~observations["has_mines"]).sum())
    expect(len(rest) <= negatives, "lost row", f"{len(rest)} rows in no table, {negatives} negatives: {rest[:1]}")
    expect(quarantine["detail"].str.len().gt(0).all(), "lost row", "a quarantine without a word")
    expect(
        label_fingerprint(labels, observations, ignored) == metrics["label_fingerprint"],
        "wrong hash", "the fingerprint is not that of the tables",
    )  # fmt: skip
    canonical = pd.read_parquet(folder / "canonical" / "labels.parquet", columns=["feature_id"])
    expect(set(canonical["feature_id"]) == set(labels["feature_id"]), "wrong hash", "canonical labels are others")
    return Counter(right=len(observations), quarantined=len(received) - len(observations))


def objects_in(value: Any) -> int:
    """Drawn objects anywhere in a value, however deep."""
    count, waiting = 0, [value]
    while waiting:
        box = waiting.pop()
        if isinstance(box, list):
            waiting += box
        elif isinstance(box, dict):
            for key, inside in box.items():
                if key == "objects" and isinstance(inside, list):
                    count += len(inside)
                else:
                    waiting.append(inside)
    return count


def loaded(line: bytes) -> Any:
    """JSON as Python reads it; None where it does not."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
