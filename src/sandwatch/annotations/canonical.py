"""Reading drawn polygons, one canonical form for each, and the label fingerprint that rests on it.

``labels.parquet`` keeps vertices as they were drawn. For hashing, a polygon has a canonical form of integers, which
depends on no library's version:

1. every coordinate is ``round(degrees * 10**7)``, half to even (about 1 cm); a third coordinate is dropped;
2. in each ring the closing vertex and vertices equal to their predecessor are dropped;
3. exterior rings run counterclockwise, holes clockwise; each ring starts at its smallest (longitude, latitude), and
   where that vertex is there twice, at the one that gives the smaller sequence;
4. holes are sorted, then the polygons of a multipolygon.

The **canonical row** of a label is the UTF-8 JSON, without spaces, non-ASCII characters escaped, of
``[feature_id, obs_id, class_name, confidence, polygons]``, where polygons is a list of polygons, each a list of rings,
the exterior first, each a list of ``[longitude, latitude]``. A negative (an observation that was looked at and has no
mine) has the canonical row ``["", obs_id, "", "", []]``: it trains the model as much as a polygon does. An ignored area
(an excluded label's, whose pixels train nothing) has the canonical row ``["", obs_id, "", "ignored", polygons]``.

The **label fingerprint** is the SHA-256 of all canonical rows, sorted by their bytes, each followed by a newline.
``data/canonical/`` holds what the fingerprint covers, as tables whose bytes depend on nothing else.
Anyone can compute it again from ``labels.parquet``, ``observations.parquet`` and ``ignored.parquet``; where there is no
ignored area, it is that of the first two alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from shapely.geometry import MultiPolygon, Polygon

from sandwatch import schemas
from sandwatch.files import write_json

QUANTA_PER_DEGREE = 10**7
REPAIR_TOLERANCE = 0.01
"""A broken polygon is repaired where its area changes by no more than this share; a bow-tie's lobes cancel out in the
shoelace formula, so it is far beyond, whereas a small loop at one vertex is within."""

TANGLED = 20_000
"""More pairs of edges whose boxes overlap, and a drawing that crosses itself is beyond repair. Measured: a repair takes
15 us and 1 kB a pair; 2,000 random vertices, with 800,000 pairs, took 19 s and 1.1 GB; a free hand's 5,000 vertices
have 9,000 pairs."""
SPREAD = 10
"""How many times ``annotations.max_vertices`` a polygon may have whose edges keep apart."""
NUMBERS = frozenset({int, float})

PLAIN = r"^[ !#-\[\]-~]*$"
"""Text that JSON writes as it is: ASCII that can be printed, without quotes and backslashes."""
BLOCK = 4096
"""Polygons put into canonical form at once. Measured: all of 100,000 at once need 190 MB more, and no less time."""
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

Ring = tuple[tuple[int, int], ...]
Shape = tuple[tuple[Ring, ...], ...]
"""Canonical form: polygons, each its rings, the exterior first."""


class UnusableGeometryError(Exception):
    """A geometry can't become a label. ``reason`` is a reason of quarantine, ``str()`` the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def read_polygon(geometry: Any, max_vertices: int) -> tuple[Polygon | MultiPolygon, bool]:
    """A valid geometry from a GeoJSON Polygon or MultiPolygon, and whether it had to be repaired.

    A GeometryCollection of them is one too; lines beside them, as repairs of polygons leave them, cover nothing.

    Args:
        geometry: parsed JSON that claims to be a geometry in longitude, latitude (degrees); nothing is assumed of it.
        max_vertices: of all its rings. Looking for crossings takes their square where edges lie side by side, aslant:
            0.7 s for 5,000, 3.6 s for 10,000, 13 s for 20,000 (measured). Where they keep apart (``TANGLED``),
            ``SPREAD`` times as many may be.

    Raises:
        UnusableGeometryError: it is missing, no polygon, unreadable, too large, or broken beyond repair
            (``REPAIR_TOLERANCE``, ``TANGLED``).
    """
    if not isinstance(geometry, dict):
        raise UnusableGeometryError("geometry_missing", "no geometry")
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    shortened = False
    if kind == "GeometryCollection":
        parts, shortened = _collected(geometry)
    elif kind in ("Polygon", "MultiPolygon"):
        parts = [coordinates] if kind == "Polygon" else _sequence(coordinates)
    else:
        raise UnusableGeometryError("geometry_not_polygon", f"a {kind}, not a Polygon or MultiPolygon")
    drawn_rings = [[_sequence(ring) for ring in _sequence(part)] for part in parts]
    vertices = sum(len(ring) for part in drawn_rings for ring in part)
    if vertices > SPREAD * max_vertices:
        raise UnusableGeometryError(
            "geometry_invalid", f"{vertices} vertices, where annotations.max_vertices allows {max_vertices}"
        )
    rings = [[shapely.linearrings(_ring(ring)) for ring in part] for part in drawn_rings]
    # Not shapely.Polygon(), which takes thrice as long for the same.
    polygons = [shapely.polygons(exterior, holes or None) for exterior, *holes in rings]
    drawn = polygons[0] if kind != "MultiPolygon" and len(polygons) == 1 else MultiPolygon(polygons)
    if vertices > max_vertices and _is_tangled(drawn):
        raise UnusableGeometryError(
            "geometry_invalid",
            f"{vertices} vertices, where annotations.max_vertices allows {max_vertices} for edges so near each other",
        )
    return (drawn, shortened) if drawn.is_valid else (_repaired(drawn), True)


def _collected(collection: dict[str, Any]) -> tuple[list[Any], bool]:
    """The polygons in a GeometryCollection, as of a MultiPolygon, and whether lines were left out."""
    parts: list[Any] = []
    lines = False
    waiting = _sequence(collection.get("geometries"))[::-1]
    while waiting:
        member = waiting.pop()
        kind = member.get("type") if isinstance(member, dict) else None
        if kind == "GeometryCollection":
            waiting += _sequence(member.get("geometries"))[::-1]
        elif kind == "Polygon":
            parts.append(member.get("coordinates"))
        elif kind == "MultiPolygon":
            parts += _sequence(member.get("coordinates"))
        elif kind in ("LineString", "MultiLineString"):
            lines = True
        else:
            raise UnusableGeometryError("geometry_not_polygon", f"a {kind} in a GeometryCollection")
    if not parts:
        raise UnusableGeometryError("geometry_not_polygon", "a GeometryCollection without a polygon")
    return parts, lines


def canonical(geometry: Polygon | MultiPolygon) -> Shape:
    """The canonical form of a geometry in degrees; the module's docstring defines it."""
    return tuple(
        sorted(
            (_wound(part.exterior, 1), *sorted(_wound(hole, -1) for hole in part.interiors))
            for part in shapely.get_parts(geometry)
        )
    )


def canonical_row(feature_id: str, obs_id: str, class_name: str, confidence: str, shape: Shape) -> bytes:
    """The bytes that stand for one label in the fingerprint; the module's docstring defines them."""
    return _ENCODE([feature_id, obs_id, class_name, confidence, shape]).encode()


def write(folder: Path, rows: list[bytes], labels: Any, observations: Any, ignored: Any) -> str:
    """Writes what the label fingerprint covers and nothing else: the same fingerprint, the same bytes.

    Writes labels.parquet, observations.parquet and ignored.parquet (``schemas.CanonicalLabels``,
    ``CanonicalObservations``, ``CanonicalIgnored``), with geometries in canonical form, and fingerprint.json.

    Args:
        folder: to write to.
        rows: of the labels, as :func:`canonical_rows` gives them.
        labels: as ``schemas.Labels`` defines them.
        observations: as ``schemas.Observations`` defines them.
        ignored: as ``schemas.Ignored`` defines them.

    Returns:
        The label fingerprint.
    """
    areas = sorted(_ignored_rows(ignored))
    fingerprint = _fingerprint(rows, observations, areas)
    kept = labels[["feature_id", "obs_id", "class_name", "confidence"]]
    schemas.CanonicalLabels.write(_table(kept, rows), folder / "labels.parquet")
    schemas.CanonicalObservations.write(observations[["obs_id", "site_id"]], folder / "observations.parquet")
    names = pd.DataFrame({"obs_id": pd.Series([json.loads(row)[1] for row in areas], dtype="str")})
    schemas.CanonicalIgnored.write(_table(names, areas), folder / "ignored.parquet")
    write_json(folder / "fingerprint.json", {"label_fingerprint": fingerprint})
    return fingerprint


def _table(columns: Any, rows: Sequence[bytes]) -> gpd.GeoDataFrame:
    """A table with the geometries that canonical rows hold."""
    geometry = np.empty(len(rows), dtype=object)
    for first in range(0, len(rows), BLOCK):
        block = json.loads(b"[" + b",".join(rows[first : first + BLOCK]) + b"]")
        geometry[first : first + BLOCK] = _geometries([row[4] for row in block])
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=schemas.WGS84)


def _geometries(shapes: Sequence[Any]) -> npt.NDArray[np.object_]:
    """The geometries, in degrees, of canonical forms; those of one ring all at once."""
    made = np.empty(len(shapes), dtype=object)
    simple = np.array([len(shape) == len(shape[0]) == 1 and len(shape[0][0]) >= 3 for shape in shapes], bool)
    rings = [shapes[place][0][0] for place in np.flatnonzero(simple).tolist()]
    if rings:
        vertices = np.array([vertex for ring in rings for vertex in ring]) / QUANTA_PER_DEGREE
        ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        made[simple] = shapely.polygons(shapely.linearrings(vertices, indices=ring_of))
    for place in np.flatnonzero(~simple).tolist():
        made[place] = _geometry(shapes[place])
    return made


def _geometry(shape: Sequence[Any]) -> Polygon | MultiPolygon:
    """The geometry, in degrees, of a canonical form."""
    # A ring under a centimetre may be left with less than the three vertices that a polygon needs.
    parts = [[np.resize(ring, (max(len(ring), 3), 2)) / QUANTA_PER_DEGREE for ring in part] for part in shape]
    polygons = [Polygon(exterior, holes) for exterior, *holes in parts]
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def label_fingerprint(labels: Any, observations: Any, ignored: Any = None) -> str:
    """The label fingerprint of tables as ``schemas.Labels``, ``Observations`` and ``Ignored`` define them.

    Args:
        labels: rows in any order.
        observations: rows in any order; those without mines count.
        ignored: rows in any order; None for none.

    Returns:
        64 hexadecimal digits.
    """
    return fingerprint_of(canonical_rows(labels), observations, ignored)


def fingerprint_of(rows: list[bytes], observations: Any, ignored: Any = None) -> str:
    """As :func:`label_fingerprint`, from the rows that :func:`canonical_rows` gives of the labels."""
    return _fingerprint(rows, observations, [] if ignored is None else _ignored_rows(ignored))


def _ignored_rows(ignored: Any) -> list[bytes]:
    return canonical_rows(ignored.assign(feature_id="", class_name="", confidence="ignored"))


def _fingerprint(rows: list[bytes], observations: Any, areas: list[bytes]) -> str:
    negatives = observations["obs_id"][~observations["has_mines"]]
    digest = hashlib.sha256()
    covered = sorted([*rows, *areas, *(canonical_row("", obs_id, "", "", ()) for obs_id in negatives)])
    for first in range(0, len(covered), BLOCK):  # row by row, the calls would take as long as the hash
        digest.update(b"\n".join([*covered[first : first + BLOCK], b""]))
    return digest.hexdigest()


def canonical_rows(labels: Any) -> list[bytes]:
    """The canonical rows of a table as ``schemas.Labels`` defines it, in its order.

    Polygons without holes are done all at once, in a tenth of the time; the others one by one.
    """
    heads = _heads([labels[name] for name in ("feature_id", "obs_id", "class_name", "confidence")])
    geometries = labels["geometry"].to_numpy()
    simple = np.flatnonzero(
        (shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON)
        & (shapely.get_num_interior_rings(geometries) == 0)
    )
    rings: dict[int, str | None] = {}
    for first in range(0, len(simple), BLOCK):
        places = simple[first : first + BLOCK]
        rings.update(zip(places.tolist(), _rings(geometries[places]), strict=True))
    rows = []
    for place, head in enumerate(heads):
        ring = rings.get(place)
        shape = f"[[[{ring}]]]" if ring is not None else _ENCODE(canonical(geometries[place]))
        rows.append(f"{head},{shape}]".encode())
    return rows


def _heads(columns: list[Any]) -> list[str]:
    """The texts of each row as the start of a JSON list."""
    texts = [pa.array(column, pa.string()) for column in columns]
    if all(pc.all(pc.match_substring_regex(text, PLAIN)).as_py() for text in texts):
        quoted = [pc.binary_join_element_wise('"', text, '"', "") for text in texts]
        heads: list[str] = pc.binary_join_element_wise("[", pc.binary_join_element_wise(*quoted, ","), "").to_pylist()
        return heads
    return [_ENCODE(row)[:-1] for row in zip(*(text.to_pylist() for text in texts), strict=True)]


def _rings(polygons: npt.NDArray[np.object_]) -> list[str | None]:
    """The exterior rings of valid polygons in canonical form, as JSON without the outer brackets.

    None for a ring that has less than three distinct vertices, or its smallest one twice.
    """
    coordinates, owner = shapely.get_coordinates(polygons, return_index=True)
    x, y = np.rint(coordinates * QUANTA_PER_DEGREE).astype(np.int64).T  # half to even, as round()
    counts = np.bincount(owner, minlength=len(polygons))
    # A vertex stays where it differs from the one before; the first goes, because the closing one is the same.
    keep = np.ones(len(x), bool)
    keep[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
    keep[(np.cumsum(counts) - counts)[counts > 0]] = False
    counts = np.bincount(owner[keep], minlength=len(polygons))
    easy = counts >= 3
    keep[keep] = easy[owner[keep]]
    x, y, owner, counts = x[keep], y[keep], owner[keep], counts[easy]
    if not len(x):
        return [None] * len(polygons)
    starts = np.cumsum(counts) - counts
    following = np.arange(len(x)) + 1
    following[starts + counts - 1] = starts
    # Twice the signed area. Products may wrap around in 64 bits; their sum, which is small, then does not.
    doubled = np.add.reduceat(x * y[following] - x[following] * y, starts)
    rank = ((x + (1 << 31)).astype(np.uint64) << np.uint64(32)) | (y + (1 << 31)).astype(np.uint64)
    least = rank == np.repeat(np.minimum.reduceat(rank, starts), counts)
    once = np.add.reduceat(least.astype(np.int64), starts) == 1
    ring = np.repeat(np.arange(len(starts)), counts)
    first = np.flatnonzero(least)[np.searchsorted(ring[least], np.arange(len(starts)))] - starts
    step = (np.arange(len(x)) - np.repeat(starts, counts)) * np.repeat(np.where(doubled < 0, -1, 1), counts)
    turned = np.repeat(starts, counts) + (np.repeat(first, counts) + step) % np.repeat(counts, counts)
    points = pc.binary_join_element_wise(
        "[", pa.array(x[turned]).cast(pa.string()), ",", pa.array(y[turned]).cast(pa.string()), "]", ""
    )
    offsets = pa.array(np.append(starts, len(x)).astype(np.int32))
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, points), ",").to_pylist()
    found: list[str | None] = [None] * len(polygons)
    for place, text, usable in zip(np.flatnonzero(easy).tolist(), texts, once.tolist(), strict=True):
        found[place] = text if usable else None
    return found


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UnusableGeometryError("geometry_invalid", f"coordinates hold {str(value)[:40]!r} where a list must be")
    return value


def _ring(positions: list[Any]) -> list[tuple[float, float]]:
    points = []
    for position in positions:
        match position:
            case [longitude, latitude, *_] if (
                type(longitude) in NUMBERS
                and type(latitude) in NUMBERS  # not isinstance: true and false would be numbers
                and -180 <= longitude <= 180
                and -90 <= latitude <= 90
            ):
                points.append((float(longitude), float(latitude)))
            case _:
                raise UnusableGeometryError(
                    "geometry_invalid",
                    f"vertex {str(position)[:60]} is no longitude and latitude in degrees{_likely(position)}",
                )
    if len(set(points)) < 3:
        raise UnusableGeometryError("geometry_invalid", f"a ring of {len(set(points))} distinct vertices")
    return points


def _likely(position: Any) -> str:
    """What two numbers are that aren't longitude and latitude, for people."""
    match position:
        case [int() | float() as x, int() | float() as y, *_] if abs(x) <= 90 < abs(y) <= 180:
            return ": swapped?"
        case [int() | float() as x, int() | float() as y, *_] if abs(x) > 180 or abs(y) > 180:
            return ": metres, or pixels? reproject them: ogr2ogr -s_srs EPSG:<their code> -t_srs EPSG:4326"
    return ""


def _repaired(drawn: Polygon | MultiPolygon) -> Polygon | MultiPolygon:
    if _is_tangled(drawn):
        raise UnusableGeometryError("geometry_invalid", f"{shapely.is_valid_reason(drawn)}; too tangled to be repaired")
    valid = shapely.make_valid(drawn, method="structure", keep_collapsed=False)
    snapped = shapely.set_precision(valid, 1 / QUANTA_PER_DEGREE)
    parts = [part for part in shapely.get_parts(snapped) if part.geom_type == "Polygon" and not part.is_empty]
    repaired = MultiPolygon(parts)
    before, after = drawn.area, repaired.area  # of an invalid ring, GEOS gives the shoelace formula's area
    if not after or abs(after - before) > REPAIR_TOLERANCE * before:
        change = f"by {(after - before) / before:+.1%}" if before > 0 else "from nothing"
        why = shapely.is_valid_reason(drawn)
        raise UnusableGeometryError("geometry_invalid", f"{why}; a repair would change its area {change}")
    return parts[0] if len(parts) == 1 else repaired


def _is_tangled(drawn: Polygon | MultiPolygon) -> bool:
    """Whether more than ``TANGLED`` pairs of edges have boxes that overlap, but for an edge's neighbours and itself."""
    coordinates, ring = shapely.get_coordinates(shapely.get_rings(drawn), return_index=True)
    edges = shapely.linestrings(np.stack([coordinates[:-1], coordinates[1:]], axis=1)[ring[:-1] == ring[1:]])
    tree, pairs = shapely.STRtree(edges), -3 * len(edges)
    for first in range(0, len(edges), 16):  # a part of the pairs in memory, and an end as soon as there are too many
        pairs += tree.query(edges[first : first + 16]).shape[1]
        if pairs > 2 * TANGLED:
            return True
    return False


def _wound(ring: shapely.LinearRing, direction: int) -> Ring:
    """The quantised ring counterclockwise (1) or clockwise (-1), from its smallest vertex on."""
    points = [(round(x * QUANTA_PER_DEGREE), round(y * QUANTA_PER_DEGREE)) for x, y in ring.coords]
    distinct = [b for a, b in pairwise(points) if a != b] or points[:1]
    if _doubled_area(distinct) * direction < 0:
        distinct = distinct[::-1]
    first = distinct.index(min(distinct)) if len(set(distinct)) == len(distinct) else _least_rotation(distinct)
    return tuple(distinct[first:] + distinct[:first])


def _least_rotation(ring: Sequence[tuple[int, int]]) -> int:
    """Where a cyclic sequence starts so that it is the smallest, in linear time.

    Source: Shiloach, Fast canonization of circular strings, Journal of Algorithms 2 (1981), 107-121: two starts are
    compared, and the greater one's skips all that can't be smaller either.
    """
    n = len(ring)
    one, other, same = 0, 1, 0
    while one < n and other < n and same < n:
        a, b = ring[(one + same) % n], ring[(other + same) % n]
        if a == b:
            same += 1
            continue
        if a > b:
            one += same + 1
        else:
            other += same + 1
        if one == other:
            other += 1
        same = 0
    return min(one, other)


def _doubled_area(ring: list[tuple[int, int]]) -> int:
    """Twice the signed area, exactly. Source: the shoelace formula."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*ring, ring[0]]))
