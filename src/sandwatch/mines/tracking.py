"""From polygons of single months to mines with an identity: pure geometry, no file is opened here.

A **track** is one mine of a site through its months. Months are taken in order of time, each but once, and nothing that
was decided before is decided anew: a month that is added behind the others leaves all that they gave as it was.

A track has *ground*: all places where it was seen. No place is the ground of two tracks. In a month:

* A polygon belongs to the track whose ground it covers most; where it covers none, to the nearest within ``near_m``. So
  a mine that is gone and comes back is the same mine, and one that falls into pieces stays one.
* Polygons that belong to none are grouped where they are within ``near_m`` of each other; each group begins a track.
* **Split**: pieces of a track that lie farther apart than ``near_m`` are its pieces still, for a flood or a cloud may
  have cut it. Where a piece is apart for the second time in a row, it becomes a track, with that ground.
* **Merge**: a track without a polygon, of which a polygon of another covers at least half, was seen *within* that
  other. It is not over: when its place is seen apart again it goes on. Where it is within the same one for the second
  time in a row, it is merged: its ground is the other's from then on.

Each polygon belongs to exactly one track, so whatever splits and merges, no area is lost or counted twice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

Geometries = npt.NDArray[np.object_]

MOST = 0.5
"""A track is within a polygon that covers this share of it: most of it. The evaluation's rule, too, for a detection
that lies on no label (evaluate.match_objects)."""
GRID_M = 1.0
"""What polygons are rounded to, metres: a tenth of a pixel, so that pixel corners that went through degrees are whole
again, and shapes that share an edge share it exactly."""
ID_DIGITS = 6
"""Hexadecimal digits of a track's id. Where two that begin at one site in one month have the same, all of that month
have more."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A track in a month in which it was seen.

    Attributes:
        polygons: positions, in the month's sequence, of those that are its own; none where it is ``within`` another.
        within: id of the track whose polygon covers it.
    """

    polygons: tuple[int, ...]
    within: str | None = None


@dataclass(kw_only=True)
class Track:
    """One mine through the months of its site.

    Attributes:
        mine_id: ``<site_id>_<YYYY-MM>_<hex>``: the site, the month of its first sighting, and a hash of its shape then.
        split_from: id of the track that it was a part of before.
        merged_into: id of the track that it is a part of since the month of its last sighting.
        sightings: by month, in order of time, of the months in which it was seen.
        alone: its shape when it was last seen as itself and not within another, nor with another in it.
        seen: its shape when it was last seen as itself, with those in it.
        grounds: its ground after each sighting that changed it, by month.
        apart: pieces that were apart when it was last seen.
    """

    mine_id: str
    split_from: str | None
    merged_into: str | None = None
    sightings: dict[str, Sighting]
    alone: BaseGeometry
    seen: BaseGeometry
    grounds: dict[str, BaseGeometry]
    apart: list[BaseGeometry] = field(default_factory=list)

    @property
    def first_seen(self) -> str:
        """The month of the first sighting."""
        return next(iter(self.sightings))

    @property
    def last_seen(self) -> str:
        """The month of the last sighting."""
        return next(reversed(self.sightings))

    @property
    def ground(self) -> BaseGeometry:
        """Its ground by now."""
        return next(reversed(self.grounds.values()))

    @property
    def within(self) -> str | None:
        """The track that it was within when it was last seen."""
        return self.sightings[self.last_seen].within

    def footprint(self, month: str) -> BaseGeometry:
        """Where it is to be looked for in a month: its ground after the last sighting before, or else of the first."""
        before = [when for when in self.grounds if when < month]
        return self.grounds[before[-1] if before else self.first_seen]


def track(site_id: str, months: Mapping[str, Sequence[BaseGeometry]], *, near_m: float) -> list[Track]:
    """Makes the polygons of a site's months into tracks.

    Args:
        site_id: of the site.
        months: polygons by month (``YYYY-MM-DD``), both in any order, metres of the site's UTM zone. Those of a month
            don't overlap, but for what hands that draw neighbours let overlap.
        near_m: polygons within this distance of each other may be one mine.

    Returns:
        The tracks in the order of their first months.
    """
    tracks: list[Track] = []
    for month in sorted(months):
        if len(months[month]):
            going_on = [one for one in tracks if one.merged_into is None]
            tracks += _Month(site_id, month, months[month], going_on, near_m).follow()
    return tracks


class _Month:
    """The polygons of one month, to be given to the tracks of those before.

    Polygons and tracks go by their numbers: polygons in an order that is of their shapes alone, tracks from the oldest.
    """

    def __init__(
        self, site_id: str, month: str, polygons: Sequence[BaseGeometry], tracks: Sequence[Track], near_m: float
    ) -> None:
        self.site_id, self.month, self.tracks, self.near_m = site_id, month, tracks, near_m
        rounded = _rounded(polygons)
        self.given = sorted(range(len(rounded)), key=lambda position: shapely.to_wkb(rounded[position]))
        self.polygons = rounded[np.array(self.given)]
        self.grounds = shapely.STRtree([one.ground for one in tracks])
        self.tree = shapely.STRtree(self.polygons)

    def follow(self) -> list[Track]:
        """Gives each polygon to a track; returns the tracks that begin."""
        owned = self._owners()
        free = self._join(owned)
        begun: list[tuple[int | None, tuple[int, ...]]] = []
        apart: dict[int, list[BaseGeometry]] = {}
        for at, own in owned.items():
            main, *pieces = self._pieces(own, self.tracks[at].alone)
            stay = [piece for piece in pieces if not self._was_apart(piece, self.tracks[at])]
            begun += [(at, piece) for piece in pieces if piece not in stay]
            owned[at] = [*main, *(polygon for piece in stay for polygon in piece)]
            apart[at] = [self._shape(piece) for piece in stay]
        begun += zip(self._grown_from(free), free, strict=True)
        new = self._begin(begun)
        holders = {polygon: self.tracks[at].mine_id for at, own in owned.items() for polygon in own}
        holders |= {polygon: one.mine_id for one, (_, group) in zip(new, begun, strict=True) for polygon in group}
        within = {at: holders[polygon] for at, polygon in self._covered(owned).items()}
        merged = {at for at, other in within.items() if other == self.tracks[at].within}
        for at, own in owned.items():
            inside = [other for other, holder in within.items() if holder == self.tracks[at].mine_id]
            self._see(at, own, apart[at], inside, merged)
        for at, other in within.items():
            self.tracks[at].sightings[self.month] = Sighting(polygons=(), within=other)
            self.tracks[at].merged_into = other if at in merged else None
        return sorted(new, key=lambda one: one.mine_id)

    def _owners(self) -> dict[int, list[int]]:
        """The tracks that polygons belong to, with those polygons."""
        polygon, at = self.grounds.query(self.polygons, "dwithin", distance=self.near_m)
        grounds = self.grounds.geometries[at]
        shared = shapely.area(shapely.intersection(self.polygons[polygon], grounds, grid_size=GRID_M))
        # The most shared ground, then the nearest, then the oldest.
        best = np.lexsort([at, shapely.distance(self.polygons[polygon], grounds), -shared, polygon])
        first = best[np.flatnonzero(np.diff(polygon[best], prepend=-1))]
        owned: dict[int, list[int]] = defaultdict(list)
        for one, owner in zip(polygon[first].tolist(), at[first].tolist(), strict=True):
            owned[owner].append(one)
        return owned

    def _join(self, owned: dict[int, list[int]]) -> list[tuple[int, ...]]:
        """Gives groups of polygons on nobody's ground to the track with a polygon beside them; returns the others."""
        owners = {polygon: at for at, own in owned.items() for polygon in own}
        free = []
        for group in self._groups([polygon for polygon in range(len(self.polygons)) if polygon not in owners]):
            shapes = self.polygons[np.array(group)]
            one, other = self.tree.query(shapes, "dwithin", distance=self.near_m)
            distances = shapely.distance(shapes[one], self.polygons[other]).tolist()
            beside = [
                (distance, owners[polygon])
                for distance, polygon in zip(distances, other.tolist(), strict=True)
                if polygon in owners
            ]
            if beside:
                owned[min(beside)[1]] += group
            else:
                free.append(group)
        return free

    def _covered(self, owned: Mapping[int, Sequence[int]]) -> dict[int, int]:
        """The tracks without a polygon of which one covers most, with that polygon."""
        absent = np.array([at for at in range(len(self.tracks)) if at not in owned], np.int64)
        shapes = np.array([self.tracks[at].alone for at in absent], dtype=object)
        found, polygon = self.tree.query(shapes, "intersects")
        shared = shapely.intersection(shapes[found], self.polygons[polygon], grid_size=GRID_M)
        share = shapely.area(shared) / shapely.area(shapes[found])
        order = np.lexsort([polygon, -share])
        covered: dict[int, int] = {}
        for one in order[share[order] >= MOST].tolist():
            covered.setdefault(int(absent[found[one]]), int(polygon[one]))
        return covered

    def _pieces(self, own: Sequence[int], before: BaseGeometry) -> list[tuple[int, ...]]:
        """Polygons of a track as groups that are farther apart than ``near_m``, first the one that goes on with it."""
        groups = self._groups(own)
        if len(groups) == 1:
            return groups
        shapes = np.array([self._shape(group) for group in groups], dtype=object)
        shared = shapely.area(shapely.intersection(shapes, before, grid_size=GRID_M))
        return [groups[at] for at in np.lexsort([np.arange(len(groups)), -shapely.area(shapes), -shared])]

    def _groups(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """Polygons as groups of those that are within ``near_m`` of each other, directly or through others."""
        if len(numbers) < 2:
            return [tuple(numbers)] if numbers else []
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        shapes = self.polygons[np.array(numbers)]
        one, other = shapely.STRtree(shapes).query(shapes, "dwithin", distance=self.near_m)
        near = coo_array((np.ones(len(one)), (one, other)), shape=(len(numbers), len(numbers)))
        groups: dict[int, list[int]] = defaultdict(list)
        for number, group in zip(numbers, connected_components(near)[1].tolist(), strict=True):
            groups[group].append(number)
        return [tuple(group) for group in groups.values()]

    def _was_apart(self, piece: Sequence[int], of: Track) -> bool:
        """Whether a piece of a track lay apart from it when it was seen before, too."""
        return any(shapely.intersects(self._shape(piece), before) for before in of.apart)

    def _grown_from(self, groups: Sequence[tuple[int, ...]]) -> list[int | None]:
        """For groups on nobody's ground, the track whose last shape holds most of it: it grew with others in it."""
        shapes = np.array([self._shape(group) for group in groups], dtype=object)
        seen = np.array([one.seen for one in self.tracks], dtype=object)
        group, at = shapely.STRtree(seen).query(shapes, "intersects")
        shared = shapely.intersection(shapes[group], seen[at], grid_size=GRID_M)
        share = shapely.area(shared) / shapely.area(shapes[group])
        found: dict[int, int] = {}
        for one in np.lexsort([at, -share]).tolist():
            if share[one] >= MOST:
                found.setdefault(int(group[one]), int(at[one]))
        return [found.get(number) for number in range(len(groups))]

    def _begin(self, begun: Sequence[tuple[int | None, tuple[int, ...]]]) -> list[Track]:
        """The tracks of groups of polygons, each with the track that it was a part of."""
        shapes = [self._shape(group) for _, group in begun]
        new = []
        for mine_id, (of, group), shape in zip(self._ids(shapes), begun, shapes, strict=True):
            if of is not None:  # it takes its ground along
                self._set_ground(of, _without(self.tracks[of].ground, [shape]))
            ground = _without(shape, self._grounds_at(shape))
            new.append(
                Track(
                    mine_id=mine_id,
                    split_from=None if of is None else self.tracks[of].mine_id,
                    sightings={self.month: self._sighting(group)},
                    alone=shape,
                    seen=shape,
                    grounds={self.month: shape if ground.is_empty else ground},
                )
            )
        return new

    def _ids(self, shapes: Sequence[BaseGeometry]) -> list[str]:
        """Ids of the tracks that begin: of site, month and shapes, so that nothing that comes later changes one."""
        hashes = [hashlib.sha256(shapely.normalize(shape).wkb).hexdigest() for shape in shapes]
        digits = ID_DIGITS
        while len({one[:digits] for one in hashes}) < len(set(hashes)):
            digits += 1
        return [f"{self.site_id}_{self.month[:7]}_{one[:digits]}" for one in hashes]

    def _see(
        self, at: int, own: Sequence[int], apart: list[BaseGeometry], inside: Sequence[int], merged: Collection[int]
    ) -> None:
        """Notes that a track was seen, and where, with the tracks inside it, of which some are merged into it now."""
        one = self.tracks[at]
        one.sightings[self.month] = self._sighting(own)
        one.apart, one.seen = apart, self._shape(own)
        taken = [self.tracks[other].ground for other in inside if other in merged]
        if len(taken) == len(inside):  # else it can't be told whose ground the shape is
            one.alone = one.seen
            taken.append(_without(one.seen, self._grounds_at(one.seen, but={at, *inside})))
        if taken:
            self._set_ground(at, _polygonal(shapely.union_all([one.ground, *taken], grid_size=GRID_M)))

    def _sighting(self, own: Sequence[int]) -> Sighting:
        return Sighting(polygons=tuple(sorted(self.given[polygon] for polygon in own)))

    def _grounds_at(self, shape: BaseGeometry, but: Collection[int] = ()) -> list[BaseGeometry]:
        """The grounds, as they are by now, of the tracks whose ground lay at a shape before this month."""
        return [self.tracks[at].ground for at in sorted(self.grounds.query(shape).tolist()) if at not in but]

    def _set_ground(self, at: int, ground: BaseGeometry) -> None:
        if not ground.is_empty:
            self.tracks[at].grounds[self.month] = ground

    def _shape(self, numbers: Sequence[int]) -> BaseGeometry:
        return _polygonal(shapely.union_all(self.polygons[np.array(numbers)], grid_size=GRID_M))


def _rounded(polygons: Sequence[BaseGeometry]) -> Geometries:
    """Polygons on the grid of :data:`GRID_M`, each in its one way to be written; those too thin for it as they are."""
    given = np.array(polygons, dtype=object)
    rounded = shapely.set_precision(given, GRID_M)
    fit: Geometries = shapely.normalize(np.where(shapely.is_empty(rounded), given, rounded))
    return fit


def _without(shape: BaseGeometry, others: Sequence[BaseGeometry]) -> BaseGeometry:
    """What of a shape lies in no other."""
    return _polygonal(shapely.difference(shape, shapely.union_all(others), grid_size=GRID_M)) if others else shape


def _polygonal(shape: BaseGeometry) -> BaseGeometry:
    """A shape without the lines that are left of slivers thinner than the grid."""
    if shape.geom_type != "GeometryCollection":
        return shape
    parts = shapely.get_parts(shape)
    polygonal: BaseGeometry = shapely.union_all(parts[shapely.get_dimensions(parts) == 2], grid_size=GRID_M)
    return polygonal
