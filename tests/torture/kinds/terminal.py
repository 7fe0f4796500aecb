"""Labels whose texts hold what a terminal obeys or a spreadsheet computes: none of it in what is printed or written."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import geopandas as gpd
import pandas as pd
from rich.console import Console

from sandwatch.audit import render
from sandwatch.audit.record import Audit, LabelRows, Link, ObservationRows, Revision
from sandwatch.errors import InputError
from sandwatch.schemas import Quarantine
from tests.torture import fuzz
from tests.torture.attack import Failure, expect, obeyed
from tests.unit.annotation_rows import KNOWN

EVIL = (
    "\x1b[2J", "\x1b]0;VERIFIED\x07", "\x1b[8m", "\x9b31m", "\r\x1b[K", "\u202e\u2066", "\b\b\b",
    "\nVERIFIED: 13 links", "[red]", '=HYPERLINK("http://a")', "+1", "-1+1", "@SUM(1)", "\t=1", "\u200f", "[/]", "|",
    "<script>", "\x00", "\x7f", "\u2028",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Attack:
    """Prints an audit with such texts in every column, and writes it as CSV."""

    share = 1.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Nothing to prepare."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        audit = _audit(draw)
        said = io.StringIO()
        render.print_audit(audit, Console(file=said, width=200, force_terminal=False, color_system=None))
        printed = said.getvalue()
        expect(not obeyed(printed), "escapes", f"printed {sorted(obeyed(printed))}")
        last = [line for line in printed.splitlines() if line.startswith(("VERIFIED", "BROKEN"))]
        expect(len(last) == 1 and last[0].startswith("BROKEN"), "false", f"verdicts {last}")
        error = InputError(_text(draw), got=_text(draw), expected=_text(draw), fix=_text(draw))
        expect(not obeyed(str(error)), "escapes", f"an error says {str(error)!r}")
        path = folder / "labels.csv"
        render.write_csv(audit.labels, path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        expect(len(rows) == 1 + len(audit.labels), "lost row", f"{len(audit.labels)} labels, {len(rows) - 1} rows")
        for cell in (cell for row in rows for cell in row):
            expect(not cell.startswith(FORMULA) or _number(cell), "formula", f"a cell {cell[:80]!r}")
        return Counter(right=3)


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _text(draw: Random) -> str:
    parts = [draw.choice((fuzz.text(draw, 8), "label")), draw.choice(EVIL), draw.choice((fuzz.text(draw, 8), ""))]
    if draw.random() < 0.5:
        parts = parts[1:]
    return "".join(parts).encode("utf-8", "replace").decode()  # a table holds no surrogate alone


def _audit(draw: Random) -> Audit:
    count = draw.randint(1, 5)
    evil: Any = {
        name: [f"{_text(draw)}{number}" for number in range(count)]
        for name in ("feature_id", "label_id", "class_name", "created_by", "created_at", "updated_at", "reviews",
                     "workflow_status", "fold", "use")
    }  # fmt: skip
    zeros = ("chips", "pixels_train", "pixels_val", "pixels_test", "draws", "pixels_drawn", "positives_drawn")
    labels = gpd.GeoDataFrame(
        evil
        | {"obs_id": KNOWN[0], "origin": "real", "confidence": "low", "area_m2": 1.0, "label_sha256": "0" * 64,
           "row_sha256": "0" * 64}
        | dict.fromkeys(zeros, 0),
        geometry=gpd.points_from_xy([85.0] * count, [20.0] * count).buffer(0.001), crs="EPSG:4326",
    )  # fmt: skip
    observations = pd.DataFrame(
        {name: [_text(draw)] for name in ("label_id", "created_by", "workflow_status", "snapshot", "fold")}
        | {"obs_id": KNOWN[1], "site_id": "south", "origin": "real", "has_mines": False}
        | dict.fromkeys(("polygons", "windows", "draws"), 0)
    )
    quarantine = pd.DataFrame(
        {name: [_text(draw)] for name in ("row_id", "obs_id", "label_id", "feature_id", "detail")}
        | {"polygons": 1, "reason": "not_done", "row_sha256": "0" * 64}
    )
    revision = Revision(commit="c" * 40, kind="commit", time="2024-01-01T00:00:00", subject=_text(draw))
    try:
        tables = (
            LabelRows.checked(labels, "labels"),
            ObservationRows.checked(observations, "o"),
            Quarantine.checked(quarantine, "q"),
        )
    except InputError as error:
        raise Failure("the bench", f"tables that hold no schema: {error}") from error
    return Audit(
        links=(Link(name="weights", state="broken", detail=_text(draw)),), target=_text(draw), spec=None, card=None,
        revision=revision, labels=tables[0], observations=tables[1], quarantine=tables[2], notes=(_text(draw),),
    )  # fmt: skip
