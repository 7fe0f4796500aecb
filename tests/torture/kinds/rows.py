"""Rows of a Labelbox export: any JSON in any place, edges of dates and numbers, odd polygons, broken bytes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from sandwatch.annotations import labelbox_export
from tests.torture import fuzz
from tests.torture.attack import together
from tests.torture.labelling import loaded, objects_in, outcomes
from tests.unit.annotation_rows import GOOD, KNOWN, PARAMS, drawn, label, lines, polygon, project, row, simple

ROWS = 400
SCENE = polygon()["coordinates"][0][0]


class Attack:
    """Freezes a snapshot of many spoilt rows and a good one."""

    share = 2.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Nothing to prepare."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        sent = [_row(draw) + b"\n" for _ in range(draw.randint(1, ROWS))]
        return together(
            sent, lambda some: outcomes([*lines(GOOD), *some], labelbox_export.parse, PARAMS, folder, _drawn)
        )


def _drawn(line: bytes, malformed: bool) -> int:
    found = loaded(line)
    if malformed:
        return objects_in(found)
    return sum(
        len(label["annotations"]["objects"])
        for one in (found.get("projects") or {}).values()  # rows of a catalog have none
        for label in one.get("labels", ())
        if "objects" in label.get("annotations", {})
    )


def _row(draw: Random) -> bytes:
    choice = draw.randrange(20)
    if choice == 0:
        return fuzz.spoilt_bytes(draw, fuzz.dumped(draw, _plain(draw))).replace(b"\n", b" ")
    if choice == 1:
        return fuzz.dumped(draw, fuzz.value(draw))
    if choice == 2:
        return b"\xef\xbb\xbf" + fuzz.dumped(draw, _plain(draw))
    plain = _plain(draw)
    return fuzz.dumped(draw, plain if choice == 3 else fuzz.spoilt(draw, plain))


def _plain(draw: Random) -> Any:
    """A row as Labelbox writes it, with polygons of all sorts."""
    obs_id = draw.choice((*KNOWN, *KNOWN, fuzz.text(draw), "elsewhere_2023-01-01"))
    objects = [
        drawn(
            draw.choice((f"f{draw.randrange(10**6)}", fuzz.text(draw))),
            polygon_of(draw),
            confidence=draw.choice(("High", "Low", None, fuzz.text(draw))),
        )
        for _ in range(draw.randint(0, 4))
    ]
    if draw.random() < 0.7:
        return simple(obs_id, *objects)
    labels = [label(f"l{n}", objects, updated=draw.choice(("2024-04-08T16:21:26Z", "2024-04-08"))) for n in range(2)]
    return row(obs_id, project(labels, status=draw.choice(("DONE", "IN_REVIEW"))), data_row=fuzz.text(draw))


def polygon_of(draw: Random) -> Any:
    """A polygon of any sort, usable or not."""
    choice = draw.randrange(8)
    if choice < 3:
        return polygon(draw.randint(0, 190), draw.randint(0, 110), draw.randint(1, 30), draw.randint(1, 30))
    x, y = SCENE
    size, count = draw.choice((1e-7, 1e-3, 1.0)), draw.choice((3, 4, 5, 9, 40, 300))
    if choice == 3:  # a scribble
        ring = [[x + draw.uniform(-size, size), y + draw.uniform(-size, size)] for _ in range(count)]
    elif choice == 4:  # a comb
        ring = [[x + size * i / count, y + size * (i % 2)] for i in range(count)] + [[x, y - size]]
    elif choice == 5:  # a star that winds twice
        ring = [[x + size * math.cos(2.4 * i), y + size * math.sin(2.4 * i)] for i in range(count)]
    elif choice == 6:  # along the edges of the world
        ring = [[draw.choice((-180, 180, 0, x)), draw.choice((-90, 90, 0, y))] for _ in range(count)]
    else:
        ring = [[fuzz.value(draw, 1) for _ in range(draw.randint(0, 3))] for _ in range(4)]
    return {"type": draw.choice(("Polygon", "MultiPolygon", "LineString")), "coordinates": [[*ring, ring[0]]]}
