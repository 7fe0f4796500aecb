"""Peak memory and time of fetching a Labelbox export: 10,000 label rows must cost little more than 1,000.

Run in the root of a clone: ``python -m benchmarks.labelbox_export``. The server is another process; each measurement is
a process of its own, so that a peak is that of one fetch. Labelbox chooses how large the parts of an export are, and
the SDK holds one part at a time as bytes and as text: that is what is left of the memory.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

PROJECT = "clproject0000000000000001"
ROWS = (1_000, 10_000)
POLYGONS, VERTICES = 6, 24
PART_BYTES = 4 << 20
ALLOWED_GROWTH_MB = 16.0
"""How much more memory ten times the rows may take: less than half of what the rows weigh."""


def row(number: int) -> bytes:
    """A row of an export with six polygons of 24 vertices."""
    objects = [
        {
            "feature_id": f"clfeature{number:08d}{polygon:08d}",
            "feature_schema_id": "clfeat0000000000000000001",
            "name": "Sand mine",
            "value": "sand_mine",
            "annotation_kind": "GeoPolygon",
            "classifications": [
                {"name": "Confidence", "value": "confidence", "radio_answer": {"name": "High", "value": "high"}}
            ],
            "geojson": {
                "type": "Polygon",
                "coordinates": [
                    [[80 + number * 1e-5 + vertex * 1e-7, 20 + polygon * 1e-4] for vertex in range(VERTICES)]
                ],
            },
        }
        for polygon in range(POLYGONS)
    ]
    content = {
        "data_row": {"id": f"clrow{number:020d}", "global_key": f"site{number}_2023-01-01"},
        "projects": {
            PROJECT: {
                "labels": [{"id": f"cllabel{number:018d}", "annotations": {"objects": objects, "classifications": []}}],
                "project_details": {"workflow_status": "DONE"},
            }
        },
    }
    return json.dumps(content).encode() + b"\n"


def serve(rows: int, to_parent: Connection) -> None:
    """Serves an export of ``rows`` rows until the parent closes the pipe."""
    from tests.servers.labelbox import Project, serve_labelbox

    project = Project(id=PROJECT, export=b"".join(row(number) for number in range(rows)))
    with serve_labelbox(project) as labelbox:
        labelbox.part_bytes = PART_BYTES
        to_parent.send((labelbox.environment, len(project.export), hashlib.sha256(project.export).hexdigest()))
        to_parent.recv()


@contextmanager
def served(rows: int) -> Iterator[tuple[dict[str, str], int, str]]:
    """A server process; yields its environment, and the bytes and hash of the export."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(rows, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def fetch(environment: dict[str, str], expected: str, to_parent: Connection) -> None:
    """Fetches the export and sends rows, seconds, and MB of peak memory before and after."""
    os.environ.update(environment)
    from sandwatch import params
    from sandwatch.annotations import labelbox
    from sandwatch.annotations.params import Annotations

    section = params.check(
        Annotations,
        {
            "source": "labelbox",
            "labelbox_project": PROJECT,
            "snapshot": "benchmark",
            "mine_class": "Sand mine",
            "confidence_question": "Confidence",
            "confidence_answers": {"Low": "low", "High": "high"},
            "activity_question": "Mine activity",
            "activity_answers": {"Yes": True, "No": False},
            "done_statuses": ["DONE"],
            "consensus": "refuse",
            "max_vertices": 5000,
        },
    )
    labelbox.mine_class(labelbox.project_of(labelbox.connect(), section), section)  # the SDK is imported by now
    before, started = peak_mb(), time.perf_counter()
    digest, rows = hashlib.sha256(), 0
    for line in labelbox.raw_rows(section):
        digest.update(line)
        rows += 1
    if digest.hexdigest() != expected:
        raise SystemExit("what was fetched is not what was served")
    to_parent.send((rows, time.perf_counter() - started, before, peak_mb()))


def peak_mb() -> float:
    """The process's largest resident set so far, MB. Linux counts it in KB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures, prints a table, and fails where memory grows with the rows."""
    peaks = []
    print(f"{'rows':>8} {'MB served':>10} {'seconds':>8} {'rows/s':>8} {'peak MB before':>15} {'peak MB after':>14}")
    for rows in ROWS:
        with served(rows) as (environment, size, expected):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=fetch, args=(environment, expected, there))
            process.start()
            there.close()
            found, seconds, before, after = here.recv()
            process.join()
        peaks.append(after - before)
        print(f"{found:>8} {size / 1e6:>10.1f} {seconds:>8.1f} {found / seconds:>8.0f} {before:>15.0f} {after:>14.0f}")
    growth = peaks[1] - peaks[0]
    print(f"ten times the rows: {growth:+.1f} MB of peak memory (allowed: {ALLOWED_GROWTH_MB:.0f})")
    if growth > ALLOWED_GROWTH_MB:
        sys.exit(1)


if __name__ == "__main__":
    main()
