"""Splits can't leak: no group crosses folds, blocks keep their gap, leaks are named."""

import csv
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Point, box

from sandwatch import distance, split
from sandwatch.errors import InputError
from sandwatch.grid import Grid, Window, tile
from sandwatch.split import Split

GEOD = pyproj.Geod(ellps="WGS84")


def settings_of(**changes: Any) -> Split:
    values: dict[str, Any] = {
        "min_distance_km": 50, "holdout_rivers": ("Test",), "val_fraction": 0.25, "block_m": 3000,
        "block_gap_m": 320, "seed": 0,
    }  # fmt: skip
    return Split(**{**values, **changes})


@pytest.fixture
def india(shared: Any) -> list[dict[str, str]]:
    with shared("data/observations_india.csv").open() as file:
        return list(csv.DictReader(file))


def test_india_has_19_groups_and_the_largest_7_of_64_observations(india: list[dict[str, str]]) -> None:
    position = {row["site"]: Point(float(row["longitude"]), float(row["latitude"])) for row in india}
    sites = sorted(position)
    group = dict(zip(sites, distance.groups([position[site] for site in sites], 50), strict=True))
    assert (len(india), len(sites)) == (64, 42)
    assert len(set(group.values())) == 19
    assert max(Counter(group[row["site"]] for row in india).values()) == 7


def test_the_predecessors_validation_leaks_and_ours_does_not(india: list[dict[str, str]]) -> None:
    position = {row["site"]: Point(float(row["longitude"]), float(row["latitude"])) for row in india}
    validation = [row for row in india if row["predecessor_cluster"] == "12"]
    trained = {row["site"] for row in india if row["predecessor_cluster"] != "12"}
    assert (len(validation), sum(row["site"] in trained for row in validation)) == (11, 5)
    theirs = ["val" if row["predecessor_cluster"] == "12" else "train" for row in india]
    names, at = [row["observation"] for row in india], [position[row["site"]] for row in india]
    with pytest.raises(InputError, match=r"observations \S+ \((train|val)\) and \S+ .*: got \d+.\d km"):
        split.check_leak(names, theirs, at, min_distance_km=50)

    sites = sorted(position)
    rivers = [site.split("_")[0] for site in sites]
    months = [sum(row["site"] == site for row in india) for site in sites]
    group = distance.groups([position[site] for site in sites], 50)
    ours = split.folds(
        site_ids=sites,
        rivers=rivers,
        observations=months,
        group=group.tolist(),
        training_only=[False] * len(sites),
        split=settings_of(holdout_rivers=("Sone",)),
    )
    fold = dict(zip(sites, ours, strict=True))
    split.check_leak(names, [fold[row["site"]] for row in india], at, min_distance_km=50)
    by_fold = {name: [position[site] for site in sites if fold[site] == name] for name in set(ours)}
    assert distance.min_distance_km(by_fold["train"], by_fold["test"]) > 50
    assert distance.min_distance_km(by_fold["train"], by_fold["val"]) > 50
    counts = Counter(fold[row["site"]] for row in india)
    assert counts["val"] / (counts["val"] + counts["train"]) == pytest.approx(0.25, abs=0.01)
    assert {fold[site] for site in sites if site.startswith("Sone")} == {"test"}


SITES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["Test", "Ka", "Lo", "Mi"]), st.integers(1, 9)),
    min_size=2,
    max_size=14,
)


def folds_of(rows: list[tuple[int, str, int]], **changes: Any) -> list[str]:
    group, rivers, months = zip(*rows, strict=True)
    names = [f"s{i}" for i in range(len(rows))]
    only = changes.pop("training_only", [False] * len(rows))
    return split.folds(
        site_ids=names, rivers=rivers, observations=months, group=group, training_only=only,
        split=settings_of(**changes),
    )  # fmt: skip


@given(SITES, st.floats(0.05, 0.95), st.integers(0, 3))
def test_no_group_crosses_folds(rows: list[tuple[int, str, int]], fraction: float, seed: int) -> None:
    held = {group for group, river, _ in rows if river == "Test"}
    rest = {group for group, _, _ in rows} - held
    if not held or not rest:
        with pytest.raises(InputError, match=r"holdout_rivers: got .*Test"):
            folds_of(rows, val_fraction=fraction, seed=seed)
        return
    found = folds_of(rows, val_fraction=fraction, seed=seed)
    of_group = {group: {f for f, (g, _, _) in zip(found, rows, strict=True) if g == group} for group, _, _ in rows}
    assert all(len(names) == 1 for names in of_group.values())
    assert all((fold == "test") == (group in held) for fold, (group, _, _) in zip(found, rows, strict=True))
    learning = {name for group in rest for name in of_group[group]}
    assert learning == ({"blocks"} if len(rest) == 1 else {"train", "val"})
    assert found == folds_of(rows, val_fraction=fraction, seed=seed)
    if len(rest) > 1:
        weight = {g: sum(n for group, _, n in rows if group == g) for g in rest}
        share = sum(weight[g] for g in rest if of_group[g] == {"val"}) / sum(weight.values())
        groups = list(rest)
        subsets = ([g for i, g in enumerate(groups) if bits >> i & 1] for bits in range(1, 2 ** len(groups) - 1))
        best = min(abs(sum(weight[g] for g in subset) / sum(weight.values()) - fraction) for subset in subsets)
        assert abs(share - fraction) == pytest.approx(best, abs=1e-12)


@given(SITES, st.integers(1, 4))
def test_sites_for_training_only_train_and_change_nothing_else(rows: list[tuple[int, str, int]], more: int) -> None:
    if not any(river == "Test" for _, river, _ in rows) or all(
        group in {g for g, river, _ in rows if river == "Test"} for group, _, _ in rows
    ):
        return
    added = [(100 + number, "Far", 50) for number in range(more)]
    only = [False] * len(rows) + [True] * more
    assert folds_of([*rows, *added], training_only=only) == [*folds_of(rows), *["train"] * more]


def test_a_site_for_training_only_near_one_that_is_judged_is_refused_with_both_names() -> None:
    rows = [(0, "Test", 1), (1, "Ka", 1), (2, "Ka", 1), (0, "Far", 1)]
    with pytest.raises(InputError, match=r"sites\.csv: site s3: got role train, in one group with s0, which may"):
        folds_of(rows, training_only=[False, False, False, True])


def test_the_seed_chooses_among_equally_good_groups() -> None:
    rows = [(0, "Test", 1), *[(group, "Ka", 2) for group in range(1, 9)]]
    assert len({tuple(folds_of(rows, seed=seed)) for seed in range(20)}) > 5


def test_an_unknown_holdout_river_is_named_with_the_known() -> None:
    with pytest.raises(InputError, match=r"split.holdout_rivers: got 'Nile', .*; expected some of Ka, Test"):
        folds_of([(0, "Test", 1), (1, "Ka", 1)], holdout_rivers=("Test", "Nile"))


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"holdout_rivers: got Test, whose groups hold every site; expected a site farther"
    ):
        folds_of([(0, "Test", 1), (0, "Ka", 1)])


def gap_m(a: Grid, b: Grid) -> float:
    """Metres on the ground between two grids, found along densified outlines."""
    points = []
    for grid in (a, b):
        outline = shapely.get_coordinates(shapely.segmentize(box(*grid.bounds), 50.0))
        to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
        points.append(np.column_stack(to_degrees.transform(outline[:, 0], outline[:, 1])))
    first, second = np.repeat(points[0], len(points[1]), axis=0), np.tile(points[1], (len(points[0]), 1))
    return float(GEOD.inv(first[:, 0], first[:, 1], second[:, 0], second[:, 1])[2].min())


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_windows_of_blocks_keep_the_gap_over_sites_and_utm_zones(data: st.DataObject) -> None:
    # Two overlapping sites on either side of the border between zones 44 and 45, at 84 degrees east.
    latitude = data.draw(st.sampled_from([-55.0, 0.0, 20.0, 70.0]))
    wide = data.draw(st.booleans())
    half = (6000, 2000) if wide else (2000, 6000)
    grids = []
    for longitude, zone in ((83.97, 44), (84.02, 45)):
        crs = f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
        grids.append(Grid.covering((x - half[0], y - half[1], x + half[0], y + half[1]), crs))
    to_degrees = [pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True) for grid in grids]
    aois = [box(*t.transform_bounds(*grid.bounds)) for t, grid in zip(to_degrees, grids, strict=True)]
    gap = data.draw(st.sampled_from([50.0, 320.0, 900.0]))
    cut = split.blocks(
        aois, size_m=640, split=settings_of(block_gap_m=gap, block_m=2000, seed=data.draw(st.integers(0, 5)))
    )
    windows = [(grid, window) for grid in grids for window in tile(*grid.shape, 64, 40)]
    folds = [cut.fold(window, grid) for grid, window in windows]
    assert {"train", "val", None} == set(folds)
    train, val = (
        [grid.crop(w) for (grid, w), f in zip(windows, folds, strict=True) if f == name] for name in ("train", "val")
    )
    rng = np.random.default_rng(0)
    for window in rng.permutation(np.array(val, dtype=object))[:4]:
        near = sorted(train, key=lambda other: np.hypot(other.left - window.left, other.top - window.top))
        assert min(gap_m(window, other) for other in near[:3] + near[-3:]) >= gap


def test_blocks_validate_about_the_fraction_along_the_longer_axis() -> None:
    aoi = box(85.0, 20.0, 85.02, 20.36)
    cut = split.blocks([aoi], size_m=1600, split=settings_of())
    assert cut.axis == 1
    lengths = [high - low for low, high in cut.validating]
    assert sum(lengths) / 0.36 == pytest.approx(0.25, abs=0.05)
    assert min(lengths) * 110_574 >= 3000
    assert split.blocks([aoi], size_m=1600, split=settings_of()) == cut
    assert {split.blocks([aoi], size_m=1600, split=settings_of(seed=s)).validating for s in range(9)} > {cut.validating}
    assert split.blocks([box(85.0, 20.0, 85.4, 20.02)], size_m=1600, split=settings_of()).axis == 0


def test_blocks_too_narrow_for_windows_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"split.block_m: got 3000, which makes 2 blocks of 1\d{3} m; expected blocks of 1920 m"
    ):
        split.blocks([box(85.0, 20.0, 85.01, 20.03)], size_m=1600, split=settings_of())


def test_blocks_on_both_sides_of_the_antimeridian_are_refused() -> None:
    with pytest.raises(InputError, match=r"fold is blocks: got longitudes -179.90 to 180.00; .* antimeridian"):
        split.blocks([box(179.9, 20.0, 180, 20.1), box(-179.9, 20, -179.8, 20.1)], size_m=1600, split=settings_of())


def test_a_window_between_blocks_is_dropped() -> None:
    grid = Grid(crs="EPSG:32645", left=400_000, top=2_246_000, width=200, height=1200)
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    cut = split.blocks([box(*to_degrees.transform_bounds(*grid.bounds))], size_m=640, split=settings_of())
    found = [cut.fold(Window(row=row, col=0, height=64, width=64), grid) for row in range(1137)]
    changes = [(a, b) for a, b in pairwise(found) if a != b]
    assert all(None in change for change in changes)
    assert len(changes) >= 2


def test_a_leak_names_two_observations_and_the_distance() -> None:
    names = ["a_2023-01-01", "a_2023-05-01", "b_2023-01-01", "c_2023-01-01"]
    at = [box(85, 20, 85.1, 20.1)] * 2 + [box(85.4, 20, 85.5, 20.1), box(88, 20, 88.1, 20.1)]
    split.check_leak(names, ["train", "train", "train", "test"], at, min_distance_km=50)
    with pytest.raises(InputError, match=r"observations a_2023-01-01 \(train\) and b_2023-01-01 \(val\): got 31.4 km"):
        split.check_leak(names, ["train", "train", "val", "test"], at, min_distance_km=50)
    with pytest.raises(InputError, match=r"observations a_2023-01-01 \(val\) and b_2023-01-01 \(train\): got 31.4 km"):
        split.check_leak(names, ["val", "val", "train", "test"], at, min_distance_km=50)
    with pytest.raises(InputError, match=r"a_2023-01-01 \(blocks\) and b_2023-01-01 \(test\)"):
        split.check_leak(names, ["blocks", "blocks", "test", "test"], at, min_distance_km=50)
    with pytest.raises(InputError, match=r"a_2023-01-01 \(train\) and a_2023-05-01 \(val\): got 0 km"):
        split.check_leak(names, ["train", "val", "train", "test"], at, min_distance_km=50)
    split.check_leak(names, ["train", "train", "infer", "test"], at, min_distance_km=50)
    split.check_leak([], [], [], min_distance_km=50)


def a_table(*sites: tuple[str, str, Grid]) -> pd.DataFrame:
    """The columns of schemas.Aoi that say where a site's scenes lie, of (site_id, fold, grid)."""
    return pd.DataFrame(
        [(site, fold, g.crs, g.left, g.top, g.width, g.height) for site, fold, g in sites],
        columns=["site_id", "fold", "utm_crs", "left_m", "top_m", "width_px", "height_px"],
    )


def windows_of(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    """Windows of 32 px, of (site_id, fold, row, column)."""
    table = pd.DataFrame(rows, columns=["site_id", "fold", "row", "col"])
    return table.assign(obs_id=table["site_id"] + "_2023-01-01", size_px=32)


NEAR = Grid(crs="EPSG:32644", left=810_000, top=2_246_000, width=200, height=100)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 190)), min_size=1, max_size=5))
def test_the_ground_of_windows_is_theirs_and_the_scenes(corners: list[tuple[int, int]]) -> None:
    covered = np.zeros((NEAR.height + 32, NEAR.width + 32), bool)
    for row, col in corners:
        covered[row : row + 32, col : col + 32] = True
    found = split.ground(NEAR, windows_of(*(("a", "train", *corner) for corner in corners)))
    assert split.ground(NEAR).buffer(1e-6).contains(found)
    to_metres = pyproj.Transformer.from_crs("EPSG:4326", NEAR.crs, always_xy=True)
    area = shapely.transform(found, lambda xy: np.column_stack(to_metres.transform(*xy.T))).area
    assert area == pytest.approx(covered[: NEAR.height, : NEAR.width].sum() * 100, rel=1e-4)


def test_windows_over_the_same_ground_are_refused_over_utm_zones_too() -> None:
    """Two grids on either side of 84 degrees east, from zone 44 and zone 45, over the same place."""
    across = pyproj.Transformer.from_crs("EPSG:32644", "EPSG:32645", always_xy=True)
    x, y = across.transform(NEAR.left + 1000, NEAR.top - 500)
    there = Grid.covering((x, y - 1000, x + 2000, y), "EPSG:32645")
    aoi = a_table(("a", "train", NEAR), ("b", "test", there))
    nowhere = settings_of(min_distance_km=0)
    apart = split.footprints(windows_of(("a", "train", 0, 0), ("b", "test", 0, 80)), aoi)
    split.check_windows(apart, nowhere)
    gap = distance.distance_km(*apart.geometry)
    split.check_windows(apart, settings_of(min_distance_km=gap * 0.99))
    with pytest.raises(InputError, match=rf"a_2023-01-01 \(train\) and b_2023-01-01 \(test\): got {gap:.3g} km"):
        split.check_windows(apart, settings_of(min_distance_km=gap * 1.01))
    together = windows_of(("a", "train", 50, 110), ("a", "train", 0, 0), ("b", "test", 0, 0))
    with pytest.raises(InputError, match=r"got 0 km between their windows; expected more than 0 km \(split.min_dis"):
        split.check_windows(split.footprints(together, aoi), nowhere)


def test_windows_of_blocks_are_held_to_the_gap_and_not_to_the_distance() -> None:
    aoi = a_table(("a", "blocks", NEAR))
    read = split.footprints(windows_of(("a", "train", 0, 0), ("a", "val", 0, 66)), aoi)  # 340 m between them
    split.check_windows(read, settings_of(block_gap_m=320))
    with pytest.raises(InputError, match=r"a_2023-01-01 \(train\) and a_2023-01-01 \(val\): got 0.34 km .*block_gap_m"):
        split.check_windows(read, settings_of(block_gap_m=350))
    tested = pd.concat([windows_of(("a", "train", 0, 0)), windows_of(("b", "test", 0, 0))])
    aoi = a_table(("a", "blocks", NEAR), ("b", "test", NEAR.crop(Window(row=0, col=500, height=100, width=200))))
    with pytest.raises(InputError, match=r"a_2023-01-01 \(blocks\) and b_2023-01-01 \(test\): got 4.68 km .*min_dist"):
        split.check_windows(split.footprints(tested, aoi), settings_of())
