"""The canonical form of polygons, repair, and the label fingerprint."""

from __future__ import annotations

import hashlib
import resource
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, shape

from sandwatch import schemas
from sandwatch.annotations import canonical as canonical_tables
from sandwatch.annotations import label_fingerprint
from sandwatch.annotations.canonical import (
    UnusableGeometryError,
    canonical,
    canonical_row,
    canonical_rows,
    read_polygon,
)

E7, MOST = 10**7, 100


@st.composite
def stars(draw: st.DrawFn, at: tuple[float, float] = (85.0, 20.0)) -> list[tuple[float, float]]:
    """A valid open ring around ``at``, star-shaped, no two vertices nearer than 1e-5 degrees."""
    radii = draw(st.lists(st.floats(0.001, 0.01), min_size=3, max_size=9))
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return [(at[0] + r * float(np.cos(a)), at[1] + r * float(np.sin(a))) for r, a in zip(radii, angles, strict=True)]


@st.composite
def multipolygons(draw: st.DrawFn) -> list[list[list[tuple[float, float]]]]:
    """One to three polygons apart from each other, some with a hole that is a shrunken copy of the exterior."""
    parts = []
    for number in range(draw(st.integers(1, 3))):
        ring = draw(stars(at=(85.0 + number, 20.0)))
        rings = [ring]
        if draw(st.booleans()):
            rings.append([(85.0 + number + (x - 85.0 - number) * 0.3, 20.0 + (y - 20.0) * 0.3) for x, y in ring])
        parts.append(rings)
    return parts


def geojson(parts: list[list[list[tuple[float, float]]]]) -> dict[str, Any]:
    closed = [[[list(p) for p in [*ring, ring[0]]] for ring in part] for part in parts]
    return {"type": "MultiPolygon", "coordinates": closed}


def form_of(geometry: dict[str, Any]) -> Any:
    return canonical(read_polygon(geometry, MOST)[0])


@given(multipolygons(), st.data())
def test_start_orientation_and_order_do_not_matter(parts: Any, data: st.DataObject) -> None:
    def disguised(ring: list[tuple[float, float]]) -> list[tuple[float, float]]:
        start = data.draw(st.integers(0, len(ring) - 1))
        ring = ring[start:] + ring[:start]
        return ring[::-1] if data.draw(st.booleans()) else ring

    other = [[disguised(ring) for ring in part] for part in data.draw(st.permutations(parts))]
    assert form_of(geojson(parts)) == form_of(geojson(other))


@given(multipolygons(), st.data())
def test_a_vertex_moved_by_a_millionth_of_a_degree_matters(parts: Any, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, len(parts) - 1))
    vertex = data.draw(st.integers(0, len(parts[part][0]) - 1))
    before = form_of(geojson(parts))
    x, y = parts[part][0][vertex]
    parts[part][0][vertex] = (x + 1e-6, y)
    assert form_of(geojson(parts)) != before


@given(multipolygons(), st.floats(-4.9e-8, 4.9e-8))
def test_the_canonical_form_is_the_drawn_one_rounded(parts: Any, shift: float) -> None:
    drawn, repaired = read_polygon(geojson(parts), MOST)
    assert not repaired
    assert drawn.equals_exact(shape(geojson(parts)))
    form = canonical(drawn)
    rounded = MultiPolygon([Polygon(rings[0], rings[1:]) for rings in form])
    assert shapely.transform(rounded, lambda xy: xy / E7).hausdorff_distance(drawn) <= 1.0e-7
    assert [len(rings) for rings in form] == [len(part) for part in parts]
    on_the_grid = shapely.transform(rounded, lambda xy: xy / E7)
    assert canonical(shapely.transform(on_the_grid, lambda xy: xy + shift)) == form


def test_exteriors_are_counterclockwise_holes_clockwise_and_a_third_coordinate_is_dropped() -> None:
    outside = [[0.0, 0.0, 9.0], [0.0, 3.0, 9.0], [4.0, 3.0, 9.0], [4.0, 0.0, 9.0], [0.0, 0.0, 9.0]]
    hole = [[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
    form = form_of({"type": "Polygon", "coordinates": [outside, hole]})
    corners = ((0, 0), (4 * E7, 0), (4 * E7, 3 * E7), (0, 3 * E7))
    assert form == ((corners, ((E7, E7), (2 * E7, 2 * E7), (2 * E7, E7))),)


def test_the_order_of_holes_does_not_matter() -> None:
    holes = [[(1, 1), (2, 1), (2, 2)], [(6, 1), (7, 1), (7, 2)]]
    one, two = (Polygon([(0, 0), (9, 0), (9, 4), (0, 4)], some) for some in (holes, holes[::-1]))
    assert canonical(one) == canonical(two)
    assert len(canonical(one)[0]) == 3


def test_an_open_ring_and_repeated_vertices_are_the_same_ring() -> None:
    ring = [[0, 0], [4, 0], [4, 3], [0, 0]]
    sloppy = [[0, 0], [0, 1e-9], [4, 0], [4, 0], [4, 3]]
    assert form_of({"type": "Polygon", "coordinates": [ring]}) == form_of({"type": "Polygon", "coordinates": [sloppy]})


def test_a_small_loop_is_repaired_wherever_the_ring_starts() -> None:
    # The last edge overshoots the first corner and comes back across it: a loop of 0.02 x 0.02 on 4 x 3 degrees.
    loop = [[0, 0.01], [4, 0], [4, 3], [0, 3], [0.01, -0.01], [-0.01, -0.01]]
    repaired, was_repaired = read_polygon({"type": "Polygon", "coordinates": [loop]}, MOST)
    assert was_repaired
    assert repaired.is_valid
    assert repaired.area == pytest.approx(12, rel=0.01)
    for turned in (loop[2:] + loop[:2], loop[::-1]):
        assert form_of({"type": "Polygon", "coordinates": [turned]}) == canonical(repaired)


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ([[[0, 0], [4, 3], [4, 0], [0, 3]]], "Self-intersection.* from nothing"),
        ([[[0, 0], [4, 3], [4, 0], [0, 1]]], r"Self-intersection.* by \+\d+\.\d%"),
        ([[[0, 0], [4, 0], [4, 3]], [[9, 9], [10, 9], [10, 10]]], r"Hole lies outside shell.* by "),
        ([[[0, 0], [1, 1], [2, 2]]], r"from nothing"),
    ],
    ids=["bow-tie", "lopsided bow-tie", "hole outside", "no area"],
)
def test_what_a_repair_would_change_is_refused(coordinates: Any, message: str) -> None:
    with pytest.raises(UnusableGeometryError, match=message) as caught:
        read_polygon({"type": "Polygon", "coordinates": coordinates}, MOST)
    assert caught.value.reason == "geometry_invalid"


def test_a_smallest_vertex_that_is_there_often_costs_no_more() -> None:
    """All teeth of the comb end in one vertex of the canonical form, though they lie apart as drawn."""
    teeth = [(0.0, 0.0)]
    for number in range(1, 4001):
        teeth += [(1.0, number * 1e-12), (number * 1e-12, number * 1e-12)] if number % 2 else [(1.0, number * 1e-7)]
    start = time.process_time()
    ((form,),) = canonical(Polygon(teeth))
    assert time.process_time() - start < 1
    turns = [form[first:] + form[:first] for first in range(0, len(form), 97)]
    assert form == min([form, *turns])


@given(st.lists(st.sampled_from([(0, 0), (0, 1), (2, 1), (3, 0)]), min_size=3, max_size=12))
def test_the_start_is_that_of_the_smallest_sequence(ring: list[tuple[int, int]]) -> None:
    ((form,),) = canonical(shapely.transform(Polygon(ring), lambda xy: xy / E7))
    assert form == min(form[first:] + form[:first] for first in range(len(form)))


def scribble(vertices: int) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [np.random.default_rng(0).random((vertices, 2)).tolist()]}


@pytest.mark.parametrize("vertices", [50, 250, 1000, 4000])
def test_a_scribble_takes_little_time_and_memory(vertices: int) -> None:
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnusableGeometryError, match=r"; (a repair would|too tangled to be repaired)"):
        read_polygon(scribble(vertices), 5000)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_free_hand_s_outline_with_a_loop_is_still_repaired() -> None:
    rng, turn = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radius = 1 + 0.01 * rng.standard_normal(4000)
    ring = np.column_stack([radius * np.cos(turn), radius * np.sin(turn)])
    ring[[7, 12]] = ring[[12, 7]]
    drawn, repaired = read_polygon({"type": "Polygon", "coordinates": [ring.tolist()]}, 5000)
    assert repaired
    assert drawn.area == pytest.approx(np.pi, rel=0.01)


@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
def test_more_vertices_than_allowed_are_refused_before_anything_is_done(kind: str) -> None:
    ring = [[0, 0], [4, 0], [4, 3], [0, 0]]
    coordinates = [ring] * 3 if kind == "Polygon" else [[ring]] * 3
    with pytest.raises(
        UnusableGeometryError, match=r"^12 vertices, where annotations\.max_vertices allows 1$"
    ) as caught:
        read_polygon({"type": kind, "coordinates": coordinates}, 1)
    assert caught.value.reason == "geometry_invalid"


def test_two_vertices_within_a_centimetre_have_a_canonical_form_too() -> None:
    assert canonical(Polygon([(0, 0), (1e-9, 0), (1, 1)])) == ((((0, 0), (E7, E7)),),)


def tables(*rows: tuple[str, str, str, Polygon | MultiPolygon], negatives: tuple[str, ...] = ()) -> tuple[Any, Any]:
    labels = gpd.GeoDataFrame(
        [(*row[:2], "Sand mine", *row[2:]) for row in rows],
        columns=["feature_id", "obs_id", "class_name", "confidence", "geometry"],
        geometry="geometry",
    )
    looked_at = [(row[1], True) for row in rows] + [(name, False) for name in negatives]
    return labels, pd.DataFrame(looked_at, columns=["obs_id", "has_mines"]).drop_duplicates()


A, B = Polygon([(0, 0), (2, 0), (2, 1)]), Polygon([(5, 5), (9, 5), (9, 7)])


def test_the_fingerprint_is_what_its_definition_says() -> None:
    labels, observations = tables(("f2", "b", "high", B), ("f1", "å", "low", A), negatives=("n",))
    rows = [
        '["","n","","",[]]',
        '["f1","\\u00e5","Sand mine","low",[[[[0,0],[20000000,0],[20000000,10000000]]]]]',
        '["f2","b","Sand mine","high",[[[[50000000,50000000],[90000000,50000000],[90000000,70000000]]]]]',
    ]
    expected = hashlib.sha256("".join(row + "\n" for row in rows).encode()).hexdigest()
    assert label_fingerprint(labels, observations) == expected
    assert canonical_row("f2", "b", "Sand mine", "high", canonical(B)).decode() == rows[2]


def test_the_fingerprint_knows_every_part_of_a_label_and_not_the_order() -> None:
    base = [("f1", "a", "low", A), ("f2", "b", "high", B)]
    fingerprint = label_fingerprint(*tables(*base, negatives=("n",)))
    assert label_fingerprint(*tables(*base[::-1], negatives=("n",))) == fingerprint
    others = [
        tables(("f9", "a", "low", A), base[1], negatives=("n",)),
        tables(("f1", "c", "low", A), base[1], negatives=("n",)),
        tables(("f1", "a", "high", A), base[1], negatives=("n",)),
        tables(("f1", "a", "low", shapely.transform(A, lambda xy: xy + 1e-6)), base[1], negatives=("n",)),
        tables(base[0], negatives=("n",)),
        tables(*base),
        tables(*base, negatives=("m",)),
    ]
    assert len({fingerprint, *(label_fingerprint(*other) for other in others)}) == len(others) + 1


def test_the_canonical_table_holds_each_label_s_own_shape(tmp_path: Path) -> None:
    """Those of one ring are made all at once, the others one by one, and one has less than three vertices left."""
    holed = Polygon([(0, 0), (9, 0), (9, 9)], [[(3, 1), (6, 1), (6, 2)]])
    shapes = (
        A,
        holed,
        B,
        MultiPolygon([A, B]),
        Polygon([(0, 0), (1e-9, 0), (1, 1)]),
        Polygon([(7, 7), (8, 7), (8, 8)]),
    )
    days = [f"s_2023-0{month}-01" for month in range(1, 7)]
    labels, observations = tables(*((f"f{n}", days[n], "low", shape) for n, shape in enumerate(shapes)))
    rows = canonical_rows(labels)
    ignored = gpd.GeoDataFrame({"obs_id": days[:2]}, geometry=[B, holed])
    canonical_tables.write(tmp_path, rows, labels, observations.assign(site_id="s"), ignored)
    held = schemas.CanonicalLabels.read(tmp_path / "labels.parquet")
    assert canonical_rows(held) == rows
    areas = schemas.CanonicalIgnored.read(tmp_path / "ignored.parquet")
    assert {(row.obs_id, canonical(row.geometry)) for row in areas.itertuples()} == {
        (days[0], canonical(B)),
        (days[1], canonical(holed)),
    }
