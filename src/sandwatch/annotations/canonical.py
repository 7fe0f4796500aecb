"""One form for each drawn polygon, and the label fingerprint that rests on it.

The canonical form of a polygon is made of integers, so that it depends on no library's version:

1. every coordinate is ``round(degrees * 10**7)``, half to even (about 1 cm); a third coordinate is dropped;
2. in each ring the closing vertex and vertices equal to their predecessor are dropped;
3. exterior rings run counterclockwise, holes clockwise; each ring starts at its smallest (longitude, latitude), and
   where that vertex is there twice, at the one that gives the smaller sequence;
4. holes are sorted, then the polygons of a multipolygon.

The **canonical row** of a label is the UTF-8 JSON, without spaces, non-ASCII characters escaped, of
``[feature_id, obs_id, class_name, confidence, polygons]``, where polygons is a list of polygons, each a list of rings,
the exterior first, each a list of ``[longitude, latitude]``. A negative (an observation that was looked at and has no
mine) has the canonical row ``["", obs_id, "", "", []]``: it trains the model as much as a polygon does.

The **label fingerprint** is the SHA-256 of all canonical rows, sorted by their bytes, each followed by a newline.
``labels.parquet`` stores the canonical geometry, so that equal fingerprints mean equal masks, and anyone can compute
the fingerprint again from the tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import shapely
from shapely.geometry import MultiPolygon, Polygon

QUANTA_PER_DEGREE = 10**7
REPAIR_TOLERANCE = 0.01
"""A broken polygon is repaired where its area changes by no more than this share; a bow-tie's lobes cancel out in the
shoelace formula, so it is far beyond, whereas a small loop at one vertex is within."""

Ring = tuple[tuple[int, int], ...]
Shape = tuple[tuple[Ring, ...], ...]
"""Canonical form: polygons, each its rings, the exterior first."""


class UnusableGeometryError(Exception):
    """A geometry can't become a label. ``reason`` is a reason of quarantine, ``str()`` the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def canonical(geometry: Any) -> tuple[Shape, bool]:
    """The canonical form of a GeoJSON Polygon or MultiPolygon, and whether it had to be repaired.

    Args:
        geometry: parsed JSON that claims to be a geometry in longitude, latitude (degrees); nothing is assumed of it.

    Raises:
        UnusableGeometryError: it is missing, no polygon, unreadable, or broken beyond repair (``REPAIR_TOLERANCE``).
    """
    if not isinstance(geometry, dict):
        raise UnusableGeometryError("geometry_missing", "no geometry")
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise UnusableGeometryError("geometry_not_polygon", f"a {kind}, not a Polygon or MultiPolygon")
    parts = [coordinates] if kind == "Polygon" else _sequence(coordinates)
    shape = _normalised([[_ring(ring) for ring in _sequence(part)] for part in parts])
    polygon = to_shapely(shape)
    return (shape, False) if polygon.is_valid else (_repaired(shape, polygon), True)


def to_shapely(shape: Shape) -> Polygon | MultiPolygon:
    """The geometry in degrees: a Polygon where there is one part, else a MultiPolygon."""
    degrees = [[[(x / QUANTA_PER_DEGREE, y / QUANTA_PER_DEGREE) for x, y in ring] for ring in part] for part in shape]
    polygons = [Polygon(exterior, holes) for exterior, *holes in degrees]
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def canonical_row(feature_id: str, obs_id: str, class_name: str, confidence: str, shape: Shape) -> bytes:
    """The bytes that stand for one label in the fingerprint; the module's docstring defines them."""
    return json.dumps([feature_id, obs_id, class_name, confidence, shape], separators=(",", ":")).encode()


def label_fingerprint(labels: Any, observations: Any) -> str:
    """The label fingerprint of two tables as ``schemas.Labels`` and ``schemas.Observations`` define them.

    Args:
        labels: rows in any order.
        observations: rows in any order; those without mines count.

    Returns:
        64 hexadecimal digits.
    """
    columns = ["feature_id", "obs_id", "class_name", "confidence", "geometry"]
    rows = [
        canonical_row(feature_id, obs_id, class_name, confidence, _of_shapely(geometry))
        for feature_id, obs_id, class_name, confidence, geometry in labels[columns].itertuples(index=False, name=None)
    ]
    rows += [canonical_row("", obs_id, "", "", ()) for obs_id in observations["obs_id"][~observations["has_mines"]]]
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(row + b"\n")
    return digest.hexdigest()


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UnusableGeometryError("geometry_invalid", f"coordinates hold {str(value)[:40]!r} where a list must be")
    return value


def _ring(value: Any) -> list[tuple[int, int]]:
    """Quantised vertices of a ring, the closing one and repeated ones dropped."""
    points = []
    for position in _sequence(value):
        match position:
            case [int() | float() as longitude, int() | float() as latitude, *_] if (
                -180 <= longitude <= 180 and -90 <= latitude <= 90
            ):
                points.append((round(longitude * QUANTA_PER_DEGREE), round(latitude * QUANTA_PER_DEGREE)))
            case _:
                raise UnusableGeometryError(
                    "geometry_invalid", f"vertex {str(position)[:60]} is no longitude and latitude in degrees"
                )
    return _distinct(points)


def _distinct(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    kept = [b for a, b in pairwise([points[-1], *points]) if a != b]
    if len(kept) < 3:
        raise UnusableGeometryError("geometry_invalid", f"a ring of {max(len(kept), 1)} distinct vertices")
    return kept


def _normalised(parts: Iterable[list[list[tuple[int, int]]]]) -> Shape:
    return tuple(sorted((_wound(rings[0], 1), *sorted(_wound(hole, -1) for hole in rings[1:])) for rings in parts))


def _wound(ring: list[tuple[int, int]], direction: int) -> Ring:
    """The ring counterclockwise (1) or clockwise (-1), from its smallest vertex on."""
    if _doubled_area(ring) * direction < 0:
        ring = ring[::-1]
    least = min(ring)
    return min(tuple(ring[i:] + ring[:i]) for i, point in enumerate(ring) if point == least)


def _doubled_area(ring: list[tuple[int, int]] | Ring) -> int:
    """Twice the signed area, exactly. Source: the shoelace formula."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*ring, ring[0]]))


def _area(shape: Shape) -> int:
    return sum(abs(_doubled_area(part[0])) - sum(abs(_doubled_area(hole)) for hole in part[1:]) for part in shape)


def _repaired(shape: Shape, polygon: Polygon | MultiPolygon) -> Shape:
    why = shapely.is_valid_reason(polygon)
    valid = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    snapped = shapely.set_precision(valid, 1 / QUANTA_PER_DEGREE)
    polygons = [part for part in shapely.get_parts(snapped) if part.geom_type == "Polygon" and not part.is_empty]
    repaired = _of_shapely(MultiPolygon(polygons)) if polygons else ()
    before, after = _area(shape), _area(repaired)
    if not repaired or abs(after - before) > REPAIR_TOLERANCE * before or not to_shapely(repaired).is_valid:
        change = f"by {(after - before) / before:+.1%}" if before > 0 else "from nothing"
        raise UnusableGeometryError("geometry_invalid", f"{why}; a repair would change its area {change}")
    return repaired


def _of_shapely(geometry: Polygon | MultiPolygon) -> Shape:
    return _normalised(
        [
            [
                _distinct([(round(x * QUANTA_PER_DEGREE), round(y * QUANTA_PER_DEGREE)) for x, y in ring.coords])
                for ring in (part.exterior, *part.interiors)
            ]
            for part in shapely.get_parts(geometry)
        ]
    )
