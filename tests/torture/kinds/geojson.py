"""Annotation files: spoilt GeoJSON, and the table that lists them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from sandwatch.annotations import geojson
from tests.torture import fuzz
from tests.torture.attack import together
from tests.torture.kinds.rows import polygon_of
from tests.torture.labelling import loaded, outcomes
from tests.unit.annotation_rows import KNOWN, params, polygon

FILES = 60
PARAMS = params(source="geojson")


class Attack:
    """Freezes a snapshot of many spoilt files and a good one."""

    share = 1.5
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Nothing to prepare."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        files = [_file(draw) for _ in range(draw.randint(1, FILES))]
        places = [draw.choice((*KNOWN, f"elsewhere{n}_2023-01-01")) for n in range(FILES)]
        return together(files, lambda some: _judge(some, places, folder))


def _judge(files: Sequence[bytes], places: Sequence[str], folder: Path) -> Counter[str]:
    good = {"type": "FeatureCollection", "features": [_feature(polygon(), "High")]}
    with (folder / "annotations.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("obs_id", "path"))
        for number, content in enumerate((json.dumps(good).encode(), *files)):
            (folder / f"{number}.geojson").write_bytes(content)
            writer.writerow((places[number - 1] if number else KNOWN[0], f"{number}.geojson"))
    return outcomes(list(geojson.raw_rows(folder, PARAMS)), geojson.parse, PARAMS, folder / "made", _drawn)


def _drawn(line: bytes, malformed: bool) -> int:
    content = loaded(json.loads(line)["content"].encode("utf-8", "surrogatepass"))
    if not isinstance(content, dict):
        return 0
    features = content.get("features", [content] if "geometry" in content else None)
    if not isinstance(features, list):
        return 0
    return len(features)


def _feature(geometry: Any, confidence: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {"Confidence": confidence}, "geometry": geometry}


def _file(draw: Random) -> bytes:
    features = [
        _feature(polygon_of(draw), draw.choice(("High", "Low", fuzz.text(draw)))) for _ in range(draw.randint(0, 4))
    ]
    for feature in features:
        if draw.random() < 0.3:
            feature["id"] = draw.choice((fuzz.value(draw, 1), "a"))
        if draw.random() < 0.3:
            del feature["type"]
    tree: Any = {"type": "FeatureCollection", "features": features}
    if draw.random() < 0.002:  # one file in another CRS stops the stage, by name
        tree["crs"] = draw.choice(({"properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}, fuzz.value(draw)))
    if draw.random() < 0.7:
        tree = fuzz.spoilt(draw, tree)
    content = fuzz.dumped(draw, tree)
    if draw.random() < 0.15:
        content = fuzz.spoilt_bytes(draw, content)
    # One file that is no UTF-8 stops the stage, by name, and the others of its try with it.
    return content if draw.random() < 0.002 else content.decode(errors="replace").encode()
