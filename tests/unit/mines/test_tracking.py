"""Tracks: what was decided stays, order and clouds change nothing, no area is lost, and true mines are recovered."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from sandwatch.mines.tracking import GRID_M, MOST, track

MONTHS = [f"2022-{month:02}-01" for month in range(1, 9)]
NEAR_M = 20.0
A, B = box(0, 0, 100, 100), box(150, 0, 250, 100)
BOTH = box(0, 0, 250, 100)


@st.composite
def worlds(draw):
    """Polygons of mines by month, on pixels, that come, go, grow, meet and part."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    homes = [(*rng.integers(0, 60, 2), *rng.integers(4, 16, 2)) for _ in range(rng.integers(1, 9))]
    world = {}
    for month in MONTHS[: draw(st.integers(2, len(MONTHS)))]:
        boxes = []
        for x, y, width, height in homes:
            if rng.random() < 0.7:
                west, south = x + rng.integers(-2, 3), y + rng.integers(-2, 3)
                boxes.append(box(*(10 * np.array([west, south, west + width + rng.integers(-2, 5), south + height]))))
        union = shapely.union_all(boxes)
        for _ in range(rng.integers(0, 3)):  # water cuts through
            x = 10 * int(rng.integers(0, 70))
            union = shapely.difference(union, box(x, -1000, x + 10 * int(rng.integers(1, 5)), 2000))
        world[month] = [part for part in shapely.get_parts(union) if part.area >= 1000]
    return world


def told(tracks, until=MONTHS[-1]):
    """All that tracks say of the months up to one."""
    return {
        one.mine_id: (
            one.split_from,
            {month: sighting for month, sighting in one.sightings.items() if month <= until},
            [one.footprint(month).wkb for month in MONTHS if month <= until],
        )
        for one in tracks
        if one.first_seen <= until
    }


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_a_month_that_is_added_changes_nothing_before_it(world):
    whole = track("site", world, near_m=NEAR_M)
    for until in world:
        before = track("site", {month: world[month] for month in world if month <= until}, near_m=NEAR_M)
        assert told(before, until) == told(whole, until)


@settings(max_examples=25, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_months_and_of_polygons_does_not_matter(world, order: random.Random):
    months = list(world)
    order.shuffle(months)
    places = {month: order.sample(range(len(world[month])), len(world[month])) for month in months}
    shuffled = {month: [world[month][place] for place in places[month]] for month in months}
    found = {
        one.mine_id: (one.split_from, {
            month: (sorted(places[month][polygon] for polygon in sighting.polygons), sighting.within)
            for month, sighting in one.sightings.items()
        })
        for one in track("site", shuffled, near_m=NEAR_M)
    }  # fmt: skip
    assert found == {
        one.mine_id: (one.split_from, {
            month: (sorted(sighting.polygons), sighting.within) for month, sighting in one.sightings.items()
        })
        for one in track("site", world, near_m=NEAR_M)
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(worlds(), st.data())
def test_a_month_in_which_nothing_is_seen_ends_nothing(world, data):
    cloudy = data.draw(st.sampled_from(list(world)))
    without = {month: polygons for month, polygons in world.items() if month != cloudy}
    with_empty = track("site", {**without, cloudy: []}, near_m=NEAR_M)
    assert told(with_empty) == told(track("site", without, near_m=NEAR_M))


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_each_polygon_is_of_one_track_ids_are_unique_and_no_ground_is_of_two(world):
    tracks = track("site", world, near_m=NEAR_M)
    assert len({one.mine_id for one in tracks}) == len(tracks)
    for month, polygons in world.items():
        own = [polygon for one in tracks if month in one.sightings for polygon in one.sightings[month].polygons]
        assert sorted(own) == list(range(len(polygons)))  # so no area is lost, and none counts twice
    for one in tracks:
        assert list(one.sightings) == sorted(one.sightings)
        for month, sighting in one.sightings.items():
            assert bool(sighting.polygons) == (sighting.within is None)
            if sighting.within is not None:
                holder = next(other for other in tracks if other.mine_id == sighting.within)
                assert holder.sightings[month].polygons
        if one.merged_into is not None:
            continue
        others = shapely.union_all([other.ground for other in tracks if other is not one and other.merged_into is None])
        assert shapely.intersection(one.ground, others, grid_size=GRID_M).area == 0
        assert one.first_seen[:7] in one.mine_id


def sightings(months, near_m=NEAR_M):
    """For each track by the letter of its beginning: letters of polygons by month, or the track that it is within."""
    tracks = track("site", {MONTHS[at]: list(polygons.values()) for at, polygons in enumerate(months)}, near_m=near_m)
    names = [list(polygons) for polygons in months]
    first = {
        one.mine_id: names[MONTHS.index(one.first_seen)][one.sightings[one.first_seen].polygons[0]] for one in tracks
    }
    return {
        first[one.mine_id]: "".join(
            "-" if (sighting := one.sightings.get(month)) is None
            else f"({first[sighting.within]})" if sighting.within
            else "[" + "".join(sorted(names[at][polygon] for polygon in sighting.polygons)) + "]"
            for at, month in enumerate(MONTHS[: len(months)])
        )
        for one in tracks
    }, {first[one.mine_id]: first.get(one.split_from) for one in tracks}  # fmt: skip


def test_gone_and_back_is_the_same_mine():
    found, _ = sightings([{"a": A}, {"b": B}, {}, {"a": A, "b": B}])
    assert found == {"a": "[a]--[a]", "b": "-[b]-[b]"}


def test_a_merge_is_over_when_its_mines_are_seen_apart_again():
    found, split = sightings([{"a": A, "b": B}, {"c": BOTH}, {"a": A, "b": B}, {"b": B}])
    assert found in ({"a": "[a][c][a]-", "b": "[b](a)[b][b]"}, {"b": "[b][c][b][b]", "a": "[a](b)[a]-"})
    assert set(split.values()) == {None}


def test_a_merge_is_believed_when_it_is_seen_twice_in_a_row():
    found, _ = sightings([{"a": A, "b": B}, {"c": BOTH}, {}, {"c": BOTH}, {"a": A, "b": B}, {"d": A, "e": B}])
    # From then on both are one, and part again as anything does that splits.
    assert sorted(found.values()) in (
        sorted(["[a][c]-[c][ab][d]", "[b](a)-(a)--", "-----[e]"]),
        sorted(["[a][c]-[c][ab][e]", "[b](a)-(a)--", "-----[d]"]),
        sorted(["[b][c]-[c][ab][e]", "[a](b)-(b)--", "-----[d]"]),
        sorted(["[b][c]-[c][ab][d]", "[a](b)-(b)--", "-----[e]"]),
    )


def test_a_split_is_believed_when_it_is_seen_twice_in_a_row():
    small = box(150, 0, 220, 100)
    found, split = sightings(
        [{"c": BOTH}, {"a": A, "b": small}, {"c": BOTH}, {"a": A, "b": small}, {"a": A, "b": small}]
    )
    assert found == {"c": "[c][ab][c][ab][a]", "b": "----[b]"}
    assert split == {"c": None, "b": "c"}


def test_of_equal_pieces_the_same_one_goes_on_however_they_are_listed():
    pieces = [A, B]
    ways = [
        {one.mine_id for one in track("site", dict(zip(MONTHS, ([BOTH], way, way), strict=False)), near_m=NEAR_M)}
        for way in (pieces, pieces[::-1])
    ]
    assert len(ways[0]) == 2
    assert ways[0] == ways[1]


def test_what_is_near_is_one_mine_and_what_is_farther_is_another():
    near, far = box(120, 0, 200, 100), box(121, 0, 201, 100)
    assert sightings([{"a": A, "n": near}])[0] == {"a": "[an]"} or sightings([{"a": A, "n": near}])[0] == {"n": "[an]"}
    assert sightings([{"a": A, "f": far}])[0] == {"a": "[a]", "f": "[f]"}
    assert sightings([{"a": A}, {"n": near}])[0] == {"a": "[a][n]"}
    assert sightings([{"a": A}, {"f": far}])[0] == {"a": "[a]-", "f": "-[f]"}
    # A polygon beside one that has grown is a part of it, though it lies on no ground.
    grown, beside = box(0, 0, 180, 100), box(200, 0, 260, 100)
    assert sightings([{"a": A}, {"g": grown, "b": beside}])[0] == {"a": "[a][bg]"}


def test_a_polygon_that_covers_less_than_half_of_a_mine_does_not_hold_it():
    for edge, expected in ((199, "-"), (200, "(a)")):
        found, _ = sightings([{"a": A, "b": B}, {"c": box(0, 0, edge, 100)}])
        assert found == {"a": "[a][c]", "b": f"[b]{expected}"}, edge
    assert MOST == 0.5


def test_what_grew_while_mines_were_merged_and_is_apart_then_is_told_to_come_from_them():
    wide = box(0, 0, 500, 100)
    piece = box(400, 0, 500, 100)
    found, split = sightings([{"a": A, "b": B}, {"c": wide}, {"a": A, "b": B, "p": piece}])
    assert found["p"] == "--[p]"
    assert split["p"] in ("a", "b")


def test_ids_differ_where_their_first_digits_would_be_the_same(monkeypatch):
    import sandwatch.mines.tracking as module

    monkeypatch.setattr(module, "ID_DIGITS", 1)
    boxes = [box(100 * at, 0, 100 * at + 40, 40 + at) for at in range(40)]
    ids = [one.mine_id for one in track("site", {MONTHS[0]: boxes}, near_m=NEAR_M)]
    assert len(set(ids)) == 40
    assert {len(one) for one in ids} != {len("site_2022-01_") + 1}


def test_pixel_corners_that_went_through_degrees_make_no_slivers():
    from sandwatch.geometry import WGS84, reproject, snap

    crs = "EPSG:32644"
    offset = [500_000.0, 2_500_000.0]
    places = [shapely.transform(shape, lambda xy: xy + offset) for shape in (A, BOTH, A)]
    back = [reproject(snap(reproject(place, crs, WGS84)), WGS84, crs) for place in places]
    (one,) = track("site", {month: [place] for month, place in zip(MONTHS, back, strict=False)}, near_m=NEAR_M)
    assert [ground.area for ground in one.grounds.values()] == [10_000.0, 25_000.0, 25_000.0]


def recovered(truth, tracks):
    """The share of true mines that one track each has, with all of its polygons and no other's.

    Args:
        truth: by month, the number of the true mine of each polygon.
        tracks: of the same polygons.
    """
    tracks_of, mines_of = defaultdict(set), defaultdict(set)
    for one in tracks:
        for month, sighting in one.sightings.items():
            for polygon in sighting.polygons:
                tracks_of[truth[month][polygon]].add(one.mine_id)
                mines_of[one.mine_id].add(truth[month][polygon])
    whole = [len(ids) == 1 and len(mines_of[next(iter(ids))]) == 1 for ids in tracks_of.values()]
    return sum(whole), len(whole)
