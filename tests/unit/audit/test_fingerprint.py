"""Canonical rows of many labels at once are those of one label at a time."""

import geopandas as gpd
import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from sandwatch.annotations.canonical import canonical, canonical_row, canonical_rows

RING = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=7)
AT_HOME = st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.sampled_from([1e-7, 3e-8, 1e-3]))
DRAWN = st.one_of(
    st.builds(lambda ring, at: Polygon([(at[0] + x * at[2], at[1] + y * at[2]) for x, y in ring]), RING, AT_HOME),
    st.just(box(0, 0, 3, 3) - box(1, 1, 2, 2)),
    st.just(MultiPolygon([box(4, 4, 5, 5), box(0, 0, 1, 1)])),
    st.just(box(179.9999999, -90, 180, 90)),
)


CLASSES = st.one_of(
    st.just("Sand mine"), st.text(max_size=4), st.sampled_from(["Mine \u00e9", '"', "\\", "\n", "\x7f"])
)


@given(st.lists(st.tuples(DRAWN, CLASSES), min_size=1, max_size=6))
def test_all_at_once_is_one_by_one(drawn: list[tuple[shapely.Geometry, str]]) -> None:
    shapes, classes = [list(column) for column in zip(*drawn, strict=True)]
    labels = gpd.GeoDataFrame(
        {
            "feature_id": [f"f{i}" for i in range(len(drawn))],
            "obs_id": "a",
            "class_name": classes,
            "confidence": "low",
        },
        geometry=shapes,
        crs="EPSG:4326",
    )
    expected = [canonical_row(f"f{i}", "a", name, "low", canonical(shape)) for i, (shape, name) in enumerate(drawn)]
    assert canonical_rows(labels) == expected


def test_rings_that_differ_in_start_and_direction_are_one() -> None:
    rng = np.random.default_rng(1)
    angle = np.sort(rng.uniform(0, 6.28, 9))
    ring = np.stack([85 + np.cos(angle) * 1e-3, 20 + np.sin(angle) * 1e-3], axis=1)
    shapes = [Polygon(np.roll(ring, shift, axis=0)[::step]) for shift in range(9) for step in (1, -1)]
    labels = gpd.GeoDataFrame(
        {"feature_id": "f", "obs_id": "a", "class_name": "m", "confidence": "high"},
        index=range(18),
        geometry=shapes,
        crs="EPSG:4326",
    )
    assert len(set(canonical_rows(labels))) == 1
