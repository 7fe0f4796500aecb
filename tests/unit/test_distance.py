"""Distances are geodesics; what is near what is found as by looking at all pairs, and sooner."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Point, box

from sandwatch import distance
from tests.strategies import places

GEOD = pyproj.Geod(ellps="WGS84")


def nearest_by_brute_force(a: shapely.Geometry, b: shapely.Geometry) -> float:
    """Kilometres between the nearest of many points along two outlines."""
    if a.intersects(b):
        return 0.0
    points = [shapely.get_coordinates(shapely.segmentize(g, 0.002)) for g in (a, b)]
    first, second = (np.repeat(points[0], len(points[1]), axis=0), np.tile(points[1], (len(points[0]), 1)))
    return float(GEOD.inv(first[:, 0], first[:, 1], second[:, 0], second[:, 1])[2].min()) / 1000


@settings(max_examples=40, deadline=None)
@given(places(spread=0.4), places(spread=0.4))
def test_distance_is_the_geodesic_between_nearest_points(a: shapely.Geometry, b: shapely.Geometry) -> None:
    expected = nearest_by_brute_force(a, b)
    assert distance.distance_km(a, b) == pytest.approx(distance.distance_km(b, a), abs=1e-6)
    # The points lie 200 m apart; an edge of 8 km bends by less than a metre between the two maps.
    assert expected - 0.12 <= distance.distance_km(a, b) <= expected + 0.001


@pytest.mark.parametrize(
    ("a", "b"),
    [((85.0, 20.0), (85.0, 20.3)), ((179.9, 10.0), (-179.9, 10.2)), ((10.0, 79.0), (14.0, 79.5)), ((0, 0), (9, 3))],
)
def test_distance_of_points_is_that_of_geographiclib(a: tuple[float, float], b: tuple[float, float]) -> None:
    assert distance.distance_km(Point(a), Point(b)) == pytest.approx(GEOD.inv(*a, *b)[2] / 1000, abs=1e-6)


def test_distance_of_areas_that_touch_is_nought() -> None:
    assert distance.distance_km(box(85, 20, 85.1, 20.1), box(85.1, 20, 85.2, 20.1)) == 0.0


def test_min_distance_is_the_least_of_all_pairs() -> None:
    first = [Point(85, 20), Point(80, 21), Point(88, 25)]
    second = [Point(85.5, 20.5), Point(81, 21.2), Point(70, 30)]
    expected = min(distance.distance_km(a, b) for a in first for b in second)
    assert distance.min_distance_km(first, second) == expected
    with pytest.raises(ValueError, match="no distance to nothing"):
        distance.min_distance_km(first, [])


@settings(max_examples=40, deadline=None)
@given(st.lists(places(), min_size=1, max_size=12), st.floats(1, 150))
def test_groups_are_single_linkage(geometries: list[shapely.Geometry], limit: float) -> None:
    found = distance.groups(geometries, limit)
    near = np.array([[distance.distance_km(a, b) <= limit for b in geometries] for a in geometries])
    reachable = np.linalg.matrix_power(near.astype(float), len(near)) > 0
    assert np.array_equal(found[:, None] == found[None, :], reachable)
    assert list(dict.fromkeys(found)) == list(range(found.max() + 1))


@settings(max_examples=20, deadline=None)
@given(st.lists(places(), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_order(geometries: list[shapely.Geometry], random: Any) -> None:
    order = list(range(len(geometries)))
    random.shuffle(order)
    here, there = distance.groups(geometries, 60), distance.groups([geometries[i] for i in order], 60)
    assert np.array_equal((here[:, None] == here)[np.ix_(order, order)], there[:, None] == there)


# --- the rule, by all pairs -----------------------------------------------------------------------------------------


def all_pairs(geometries: Sequence[shapely.Geometry]) -> npt.NDArray[np.float64]:
    """Kilometres between any two, as distance_km has them with the earlier one first."""
    n = len(geometries)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            found[i, j] = found[j, i] = distance.distance_km(geometries[i], geometries[j])
    return found


def groups_by_all_pairs(geometries: Sequence[shapely.Geometry], km: float) -> list[int]:
    near, group = all_pairs(geometries) <= km, list(range(len(geometries)))
    for i, j in np.argwhere(near):
        group = [group[j] if one == group[i] else one for one in group]
    return [list(dict.fromkeys(group)).index(one) for one in group]


def first_by_all_pairs(
    geometries: Sequence[shapely.Geometry], kinds: Sequence[str], km: float
) -> tuple[int, int, float] | None:
    between = all_pairs(geometries)
    found = ((i, j) for i, j in np.argwhere(between <= km).tolist() if i < j and kinds[i] != kinds[j])
    return next(((i, j, float(between[i, j])) for i, j in found), None)


@st.composite
def worlds(draw: st.DrawFn) -> list[shapely.Geometry]:
    """Scenes, rectangles with a vertex a kilometre, and other areas: some one within the other, some there twice."""
    longitude = draw(st.sampled_from([85.0, 179.7, 0.0]))
    latitude = draw(st.sampled_from([0.0, 20.0, -55.0, 79.0]))
    spread = draw(st.sampled_from([0.02, 0.2, 1.0, 4.0]))
    made: list[shapely.Geometry] = []
    for _ in range(draw(st.integers(1, 9))):
        x = longitude + spread * draw(st.floats(-1, 1))
        y = latitude + spread * draw(st.floats(-1, 1))
        x = (x + 180) % 360 - 180
        wide, high = draw(st.floats(0.001, 0.09)), draw(st.floats(0.001, 0.09))
        area = box(x, y, min(x + wide, 180.0), y + high)
        kind = draw(st.sampled_from(["scene", "scene", "scene", "box", "parts", "again"]))
        if kind == "parts":
            area = shapely.MultiPolygon([area, box(x, y + 2 * high, min(x + wide, 180.0), y + 2.2 * high)])
        made.append(
            made[-1] if kind == "again" and made else area if kind == "box" else shapely.segmentize(area, 0.009)
        )
    return made


LIMITS = st.one_of(st.sampled_from([0.0, 0.3, 5.0, 50.0, 400.0]), st.floats(0, 500))


@settings(max_examples=25, deadline=None)
@given(worlds(), LIMITS, st.data())
def test_near_is_what_all_pairs_say(geometries: list[shapely.Geometry], km: float, data: st.DataObject) -> None:
    exact = data.draw(st.sampled_from([km, *all_pairs(geometries).ravel().tolist()]))  # a limit that a pair meets too
    for limit in {km, exact}:
        assert distance.groups(geometries, limit).tolist() == groups_by_all_pairs(geometries, limit)
        kinds = data.draw(st.lists(st.sampled_from("abc"), min_size=len(geometries), max_size=len(geometries)))
        expected = first_by_all_pairs(geometries, kinds, limit)
        assert distance.first_too_near(geometries, kinds, limit) == expected
    cut = data.draw(st.integers(0, len(geometries)))
    first, second = geometries[:cut], geometries[cut:]
    if first and second:
        assert distance.min_distance_km(first, second) == all_pairs(geometries)[:cut, cut:].min()


def scenes(longitudes: npt.NDArray[np.float64], latitudes: npt.NDArray[np.float64]) -> list[shapely.Geometry]:
    """Scenes of 2 to 7 km around positions."""
    rng = np.random.default_rng(0)
    wide, high = rng.uniform(0.01, 0.035, (2, len(longitudes)))
    squares = shapely.box(longitudes - wide, latitudes - high, longitudes + wide, latitudes + high)
    made: list[shapely.Geometry] = shapely.segmentize(squares, 0.009).tolist()
    return made


def everywhere(n: int, rng: np.random.Generator) -> Any:
    return rng.uniform(70, 70 + n**0.5 * 0.35, n), rng.uniform(-1, 1, n) * n**0.5 * 0.175


def in_one_place(n: int, rng: np.random.Generator) -> Any:
    return rng.uniform(80, 80.4, n), rng.uniform(20, 20.4, n)


def in_two_places(n: int, rng: np.random.Generator) -> Any:
    """51 km from each other, so that circles around scenes come nearer than 50 km."""
    return 80 + rng.uniform(0, 0.02, n) + (rng.random(n) < 0.5) * 0.575, 20 + rng.uniform(0, 0.02, n)


@pytest.mark.parametrize(
    ("where", "km"),
    [(everywhere, 50.0), (everywhere, 1.0), (in_one_place, 50.0), (in_one_place, 0.0), (in_two_places, 50.0)],
)
def test_thousands_of_scenes_take_no_quadratic_time(where: Callable[..., Any], km: float) -> None:
    """By all pairs, 2,000 took 8 s, and 4,000 took 32."""
    geometries = scenes(*where(2000, np.random.default_rng(1)))
    began = time.process_time()
    group = distance.groups(geometries, km)
    assert distance.first_too_near(geometries, ["abc"[one % 3] for one in group], km) is None
    assert time.process_time() - began < 3.0


def test_the_least_distance_of_thousands_takes_no_quadratic_time() -> None:
    geometries = scenes(*everywhere(2000, np.random.default_rng(1)))
    west, east = ([one for one in geometries if side * (one.centroid.x - 81) > 0] for side in (-1, 1))
    began = time.process_time()
    distance.min_distance_km(west, east)
    assert time.process_time() - began < 3.0
