"""Distances between geometries on the Earth, and which are near each other, without looking at all pairs.

Distances are geodesic, on WGS 84, between geometries in EPSG:4326. They are found in an azimuthal equidistant
projection centred between two geometries, whose scale is off by less than (r / R)^2 / 6 at distance r from its centre
(Source: Snyder, Map Projections, USGS PP 1395, p. 191-202): a part in 100,000 at 50 km.

:func:`distance_km` alone decides. It isn't asked where the vertices of two geometries, as points in space, are so near
or so far that its answer is certain, and trees of vertices spare looking at them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from shapely.geometry.base import BaseGeometry

from sandwatch.geometry import Geometries, transformer

Areas = Sequence[BaseGeometry] | Geometries
Indices = npt.NDArray[np.int64] | npt.NDArray[np.int32]
Metres = npt.NDArray[np.float32] | npt.NDArray[np.float64]

EARTH = pyproj.Geod(ellps="WGS84")
RADIUS_M = 6_335_000.0
"""Metres. No arc on WGS 84 is bent more than one of this radius. Source: its least radius of curvature, 6,335,439 m."""
DEGREE_M = 111_700.0
"""The most metres in a degree of latitude or longitude. Source: WGS 84, at the poles."""
TOLERANCE_M = 2.0
"""What is called certain is so by this much, metres: points in space are kept to half a metre, as float32."""
MORTON = (
    (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)  # fmt: skip
"""Shifts and masks that put two zeros between the 21 bits of a number. Source: Morton 1966, the Z-order curve."""
AT_ONCE = 1 << 18
"""Pairs of boxes compared at once, so that memory is bounded: some 50 MB."""
BLOCK = 1 << 13
"""Geometries taken apart at once, so that memory is bounded."""
CLUSTER = 8
"""Vertices that are looked at together: some kilometres of a scene's edge."""


def distance_km(first: BaseGeometry, second: BaseGeometry) -> float:
    """Geodesic distance between the nearest points of two geometries, kilometres; 0 where they touch.

    Args:
        first: any geometry in EPSG:4326 that doesn't cross the antimeridian; the pair may lie on either side of it.
        second: another.
    """
    near = [_centre(first), _centre(second)]
    for _ in range(2):  # again around the nearest points themselves, where the projection is true
        centre = _midpoint(*near)
        line = shapely.shortest_line(_to_plane(first, *centre), _to_plane(second, *centre))
        near = [_from_plane(x, y, *centre) for x, y in line.coords]
    return float(EARTH.inv(*near[0], *near[1])[2]) / 1000.0


def min_distance_km(first: Areas, second: Areas) -> float:
    """The least distance between a geometry of ``first`` and one of ``second``, kilometres.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(first) or not len(second):
        raise ValueError("no distance to nothing")
    geometries = [*first, *second]
    vertices = _Vertices(geometries)
    others = _Tree(vertices, vertices.owner >= len(first))
    near, whose = others.nearest(vertices.owner < len(first))
    order = np.argsort(near, kind="stable").tolist()
    best = distance_km(geometries[order[0]], geometries[whose[order[0]]])
    for i in order:
        reach = vertices.certain(best)[1]
        if not best or near[i] > reach:
            break
        best = min([best, *(distance_km(geometries[i], geometries[j]) for j in others.within(i, reach))])
    return best


def groups(geometries: Areas, km: float) -> Indices:
    """Groups by single linkage: two geometries of different groups are farther apart than ``km``.

    Args:
        geometries: points or areas in EPSG:4326.
        km: geometries this near, or nearer, are in one group.

    Returns:
        The group of each geometry, int64 (n,), numbered in the order of their first members.
    """
    if not len(geometries):
        return np.empty(0, np.int64)
    vertices = _Vertices(geometries)
    sure, reach = vertices.certain(km)
    label: Indices = np.arange(len(geometries))
    label, _ = _link(_Boxes(*vertices.discs(), label), label, sure, sure)
    label, uncertain = _link(_Boxes(*vertices.clusters()), label, sure, reach)
    group = list(range(len(geometries)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    for i, j in uncertain.tolist():
        a, b = root(label[i]), root(label[j])
        if a != b and distance_km(geometries[i], geometries[j]) <= km:
            group[b] = a
    _, first, found = np.unique([root(i) for i in label.tolist()], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[found]


def first_too_near(geometries: Areas, kinds: Sequence[str], km: float) -> tuple[int, int, float] | None:
    """The first two geometries of different kinds that are no farther apart than ``km``; None if there are none.

    Args:
        geometries: in EPSG:4326.
        kinds: one for each of the geometries.
        km: kilometres.

    Returns:
        (i, j, their distance in kilometres) with the least i, and of those with the least j above it.
    """
    if not len(geometries):
        return None
    vertices, kind = _Vertices(geometries), np.asarray(kinds)
    reach = vertices.certain(km)[1]
    others = {one: _Tree(vertices, kind[vertices.owner] != one) for one in np.unique(kind).tolist()}
    near = [tree.nearest(kind[vertices.owner] == one, reach)[0] <= reach for one, tree in others.items()]
    for i in np.flatnonzero(np.any(near, axis=0)).tolist():
        for j in others[kinds[i]].within(i, reach):
            if i < j and (distance := distance_km(geometries[i], geometries[j])) <= km:
                return i, j, distance
    return None


class _Vertices:
    """The vertices of geometries as points in space, and what they tell of distances.

    Attributes:
        points: metres from the centre of the Earth, float32 (n, 3), in the order of the geometries.
        owner: whose each vertex is, (n,).
        starts: where the vertices of each geometry begin.
    """

    def __init__(self, geometries: Areas) -> None:
        self._geometries = np.asarray(geometries, dtype=object)
        blocks = range(0, len(self._geometries), BLOCK)
        found = [_outlines(self._geometries[first : first + BLOCK]) for first in blocks]
        points, owner, edges, areas = zip(*found, strict=True)
        self.points = np.concatenate(points)
        self.owner: Indices = np.concatenate([part + first for part, first in zip(owner, blocks, strict=True)])
        self.starts: Indices = np.flatnonzero(np.diff(self.owner, prepend=-1))
        low, high = (bound.reduceat(self.points, self.starts) for bound in (np.minimum, np.maximum))
        self._size = float(np.linalg.norm(high - low, axis=1).max())
        self._edge = max(edges)
        self._depth = DEGREE_M * math.sqrt(max(areas) / math.pi)  # no disc within an area has more area

    def of(self, i: int) -> npt.NDArray[np.float64]:
        """Those of one geometry."""
        first, end = np.searchsorted(self.owner, [i, i + 1])
        return self.points[first:end]

    def discs(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """A disc within each geometry: its centre in space, (n, 1, 3), and radius, metres; 0 for lines and points."""
        centres = shapely.point_on_surface(self._geometries)
        areas = shapely.get_dimensions(self._geometries) == 2
        radius = np.where(areas, shapely.distance(centres, shapely.boundary(self._geometries)), 0.0)
        latitude = np.minimum(np.abs(shapely.get_y(centres)) + radius, 90.0)
        # Less by what edges that are straight in degrees bend on the Earth, and by more than its flattening.
        radius = 0.9 * DEGREE_M * np.cos(np.radians(latitude)) * radius - 2.0 * self._edge**2 / RADIUS_M
        return _in_space(shapely.get_coordinates(centres))[:, None], np.maximum(radius, 0.0)

    def clusters(self) -> tuple[Metres, Metres, Indices]:
        """The vertices, :data:`CLUSTER` successive ones of a geometry at a time, no radius, and whose they are."""
        counts = np.diff(self.starts, append=len(self.owner))
        clusters = -(-counts // CLUSTER)
        owner = np.repeat(np.arange(len(counts)), clusters)
        first = CLUSTER * (np.arange(len(owner)) - np.repeat(np.cumsum(clusters) - clusters, clusters))
        place = np.minimum(first[:, None] + np.arange(CLUSTER), counts[owner, None] - 1)  # the last is there again
        return self.points[self.starts[owner, None] + place], np.zeros(len(owner), np.float32), owner

    def certain(self, km: float) -> tuple[float, float]:
        """Up to and beyond which metres between vertices, straight through space, the answer is certain.

        Geometries of which two vertices are as near as the first, or nearer, are no farther apart than ``km``.
        Geometries that are no farther apart than ``km`` have two vertices as near as the second, or nearer.
        """
        metres = 1000.0 * km
        # Around a point among two geometries, the projection shortens no line, and lengthens none by more than this.
        angle = (2.0 * metres + 8.0 * self._size) / RADIUS_M
        true = math.sin(angle) / angle if 0.0 < angle < math.pi else float(angle == 0.0)
        sure = 2.0 * RADIUS_M * math.sin(metres * true / (2.0 * RADIUS_M)) - TOLERANCE_M
        # A nearest point lies on an edge, half its length or less from a vertex, unless one area is within the other.
        reach = (max(metres, self._depth) + self._edge) / true**2 + TOLERANCE_M if true else math.inf
        return sure, reach


class _Tree:
    """A tree of some of the vertices of geometries."""

    def __init__(self, vertices: _Vertices, chosen: npt.NDArray[np.bool_]) -> None:
        self._vertices, self._owner = vertices, vertices.owner[chosen]
        self._tree: Any = KDTree(vertices.points[chosen])

    def nearest(self, asked: npt.NDArray[np.bool_], reach: float = math.inf) -> tuple[npt.NDArray[np.float64], Indices]:
        """For each geometry, metres through space from its asked vertices to the tree's nearest, and whose that is.

        Infinite where none of its vertices is asked, or none is within ``reach``.
        """
        apart, place = self._tree.query(self._vertices.points[asked], distance_upper_bound=reach)
        near, whose = (np.full(len(self._vertices.starts), none) for none in (math.inf, -1))
        order = np.argsort(-apart, kind="stable")  # of what is written to one place, the last stays: the nearest
        owner = self._vertices.owner[asked][order]
        near[owner], whose[owner] = apart[order], np.append(self._owner, -1)[place[order]]
        return near, whose

    def within(self, i: int, reach: float) -> list[int]:
        """Geometries with a vertex in the tree that is within ``reach`` of one of geometry ``i``, in order."""
        found: set[int] = set()
        for point in self._vertices.of(i):
            found.update(self._owner[self._tree.query_ball_point(point, reach)].tolist())
        return sorted(found)


class _Boxes:
    """Boxes around clusters of points, boxes around two of those that lie near, and so on to one box around all.

    Box i is around boxes 2 i and 2 i + 1; those from ``leaves`` on are around a cluster each. To make their number a
    power of two, some clusters are there twice.

    Attributes:
        leaves: how many are around clusters.
        points, radius, owner: the points of each cluster, (leaves, n, 3), around each of which its owner fills a ball
            of that radius; metres.
        low, high: corners of the boxes, (3, 2 * leaves).
        size: their diagonals.
        smallest, largest: radius in them.
    """

    def __init__(self, points: Metres, radius: Metres, owner: Indices) -> None:
        self.leaves = 1 << (len(points) - 1).bit_length()
        order = _along_a_curve(points[:, 0])[np.arange(self.leaves) * len(points) // self.leaves]
        self.points, self.radius, self.owner = points[order], radius[order], owner[order].astype(np.int32)
        self.low, _ = self.ends(self.points.min(axis=1).T)
        _, self.high = self.ends(self.points.max(axis=1).T)
        self.smallest, self.largest = self.ends(self.radius)
        self.size = _length(self.high - self.low)

    def ends(self, values: Any) -> tuple[Any, Any]:
        """The least and the most in each box of ``values`` (..., leaves), which the clusters have."""
        found = []
        for end in (np.minimum, np.maximum):
            boxes, first = np.concatenate([np.zeros_like(values), values], axis=-1), self.leaves
            while first > 1:
                below, first = boxes[..., first : 2 * first], first // 2
                boxes[..., first : 2 * first] = end(below[..., ::2], below[..., 1::2])
            found.append(boxes)
        return found[0], found[1]

    def first(self, boxes: Indices) -> tuple[Indices, Indices]:
        """The first cluster in each of some boxes, and how many are in it."""
        exponent: Indices = np.frexp(boxes)[1].astype(np.int64)
        count = np.right_shift(2 * self.leaves, exponent)
        return boxes * count - self.leaves, count

    def clusters(self, boxes: Indices) -> tuple[Indices, Indices]:
        """All clusters in some boxes, and for each the first in the same box."""
        start, count = self.first(boxes)
        first: Any = np.repeat(start, count)
        before: Any = np.cumsum(count)
        return np.arange(len(first)) - np.repeat(before - count, count) + first, first

    def apart(self, one: Indices, other: Indices) -> npt.NDArray[np.float64]:
        """Metres between pairs of clusters."""
        found = np.empty(len(one))
        step = max(AT_ONCE // self.points.shape[1] ** 2, 1)
        for start in range(0, len(one), step):
            some = slice(start, start + step)
            between = self.points[one[some], :, None] - self.points[other[some], None]
            found[some] = _length(np.moveaxis(between, -1, 0)).min(axis=(1, 2))
        return found - self.radius[one] - self.radius[other]


def _link(boxes: _Boxes, label: Indices, sure: float, reach: float) -> tuple[Indices, Indices]:
    """Links geometries of which some points are certainly near.

    Boxes are compared, at first that around all with itself. Where two are too far apart, or all in them is linked
    already, that was it; where all in them is near, it is linked; else the halves of the larger are compared with the
    other. Source: Gray and Moore 2000, "N-body problems in statistical learning".

    Args:
        boxes: around the points of the geometries.
        label: a number for each geometry, the same where they are linked.
        sure: what is this near is linked, metres.
        reach: of what is farther apart nothing need be said, metres.

    Returns:
        the labels afterwards, and the pairs (n, 2) of geometries that aren't linked and may be near, the nearest first.
    """
    work, unsure = [np.ones((1, 2), np.int64)], [np.empty((0, 3))]
    least, most = boxes.ends(label[boxes.owner])
    low, high, owner = boxes.low, boxes.high, boxes.owner
    while work:
        pairs = work.pop()
        if len(pairs) > AT_ONCE:
            work.append(pairs[AT_ONCE:])
        pairs = pairs[:AT_ONCE]
        a, b = pairs.T
        gap = _length(np.maximum(np.maximum(low[:, a] - high[:, b], low[:, b] - high[:, a]), 0))
        undone = gap - boxes.largest[a] - boxes.largest[b] <= reach
        undone &= np.minimum(least[a], least[b]) != np.maximum(most[a], most[b])
        a, b = pairs[undone].T
        span = _length(np.maximum(high[:, a], high[:, b]) - np.minimum(low[:, a], low[:, b]))
        near = span - boxes.smallest[a] - boxes.smallest[b] <= sure
        single = ~near & (np.minimum(a, b) >= boxes.leaves)
        mixed = np.union1d(a[near], b[near])
        one, other = boxes.clusters(mixed[least[mixed] != most[mixed]])
        ends = a[single] - boxes.leaves, b[single] - boxes.leaves
        apart = boxes.apart(*ends)
        one = owner[np.concatenate([one, boxes.first(a[near])[0], ends[0][apart <= sure]])]
        other = owner[np.concatenate([other, boxes.first(b[near])[0], ends[1][apart <= sure]])]
        if len(one):
            label = _linked(label, one, other)
            least, most = boxes.ends(label[owner])
        may_be = (apart > sure) & (apart <= reach)
        unsure.append(_nearest_first(np.column_stack([apart, owner[ends[0]], owner[ends[1]]])[may_be]))
        a, b = pairs[undone][~near & ~single].T
        larger = (b >= boxes.leaves) | ((a < boxes.leaves) & (boxes.size[a] >= boxes.size[b]))
        a, b = np.where(larger, a, b), np.where(larger, b, a)
        same = a == b
        halves = [np.column_stack([2 * a + half, np.where(same, 2 * a + half, b)]) for half in (0, 1)]
        halves.append(np.column_stack([2 * a, 2 * a + 1])[same])
        if len(a):
            work.append(np.concatenate(halves))
    left = _nearest_first(np.concatenate(unsure))[:, 1:].astype(np.int64)
    return label, left[label[left[:, 0]] != label[left[:, 1]]]


def _length(vectors: Metres) -> npt.NDArray[np.float64]:
    """Lengths of vectors (3, n)."""
    length: npt.NDArray[np.float64] = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=0))
    return length


def _linked(label: Indices, one: Indices, other: Indices) -> Indices:
    """Labels after each of ``one`` was linked with that of ``other``."""
    size = int(label.max()) + 1
    links = coo_array((np.ones(len(one), bool), (label[one], label[other])), shape=(size, size))
    found: Indices = connected_components(links, directed=False)[1][label]
    return found


def _nearest_first(pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows (distance, i, j), each pair once, with its least distance, in the order of distances."""
    pairs[:, 1:].sort(axis=1)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return pairs[np.sort(np.unique(pairs[:, 1:], axis=0, return_index=True)[1])]


def _along_a_curve(points: Metres) -> Indices:
    """An order of points in which neighbours lie near each other."""
    longest = max(float(np.ptp(points, axis=0).max()), 1.0)
    cells = ((points - points.min(axis=0)) / longest * ((1 << 21) - 1)).astype(np.int64)
    for shift, mask in MORTON:
        cells = (cells | cells << shift) & mask
    return np.argsort(cells[:, 0] | cells[:, 1] << 1 | cells[:, 2] << 2, kind="stable")


def _outlines(geometries: Geometries) -> tuple[Metres, Indices, float, float]:
    """Vertices in space and whose they are, the longest edge, metres, and the largest area, square degrees."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    areas = shapely.get_dimensions(parts) == 2
    rings, area = shapely.get_rings(parts[areas], return_index=True)
    lines, owner = np.append(rings, parts[~areas]), np.append(owner[areas][area], owner[~areas])
    order = np.argsort(owner, kind="stable")
    degrees, line = shapely.get_coordinates(lines[order], return_index=True)
    points = _in_space(degrees)
    edges = np.linalg.norm(np.diff(points, axis=0), axis=1)[line[1:] == line[:-1]]
    return points, owner[order][line], float(edges.max(initial=0.0)), float(shapely.area(parts).max())


def _in_space(degrees: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Metres from the centre of the Earth, float32 (n, 3), of points on its ellipsoid."""
    x, y = degrees.T
    moved = transformer("EPSG:4979", "EPSG:4978").transform(x, y, np.zeros(len(x)))
    return np.column_stack(moved).astype(np.float32)


def _centre(geometry: BaseGeometry) -> tuple[float, float]:
    left, bottom, right, top = geometry.bounds
    return (left + right) / 2.0, (bottom + top) / 2.0


def _midpoint(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    azimuth, _, length = EARTH.inv(*a, *b)
    x, y, _ = EARTH.fwd(*a, azimuth, length / 2.0)
    return float(x), float(y)


def _to_plane(geometry: BaseGeometry, longitude: float, latitude: float) -> BaseGeometry:
    """Azimuthal equidistant projection around a centre, metres east and north."""

    def move(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        n = len(xy)
        azimuth, _, length = EARTH.inv(np.full(n, longitude), np.full(n, latitude), xy[:, 0], xy[:, 1])
        return np.column_stack((length * np.sin(np.radians(azimuth)), length * np.cos(np.radians(azimuth))))

    moved: BaseGeometry = shapely.transform(geometry, move)
    return moved


def _from_plane(x: float, y: float, longitude: float, latitude: float) -> tuple[float, float]:
    east, north, _ = EARTH.fwd(longitude, latitude, math.degrees(math.atan2(x, y)), math.hypot(x, y))
    return float(east), float(north)
