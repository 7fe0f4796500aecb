"""The tables of mines: states, status, areas and growth, from tables of detections and from what infer wrote."""

from __future__ import annotations

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from sandwatch import raster, schemas
from sandwatch.grid import Grid
from sandwatch.infer import infer
from sandwatch.mines.table import OF_MODEL, _layers, _scored, _to_river, find, write
from sandwatch.model.scoring import NODATA
from tests.unit.mines.places import SETTINGS, at, place, square, tables
from tests.unit.mines.test_tracking import worlds
from tests.unit.test_infer import CRS, Pointwise, make_site
from tests.unit.test_infer import SETTINGS as INFER
from tests.unit.test_infer import tables as tables_of_sites

M1, M2, M3, M4 = (f"2023-0{month}-01" for month in (1, 2, 3, 4))


def by_month(months, column):
    return dict(zip(months["date"], months[column], strict=True))


def test_cloud_and_no_scene_are_not_absence():
    mines, months = tables(
        place({M1: [square(0)], M2: [], M3: None, M4: []}, clear=lambda date: {M2: 0.49, M4: 0.5}.get(date, 1.0))
    )
    assert by_month(months, "state") == {M1: "seen", M2: "not observable", M3: "not observable", M4: "not seen"}
    assert by_month(months, "clear_share") == {M1: 1.0, M2: 0.49, M3: 0.0, M4: 0.5}
    areas = by_month(months, "area_m2")
    assert (areas[M1], areas[M4]) == (10_000.0, 0.0)
    assert np.isnan(areas[M2])
    assert np.isnan(areas[M3])
    (mine,) = mines.to_dict("records")
    assert (mine["months"], mine["months_clear"], mine["months_seen"], mine["clear_share"]) == (4, 2, 1, 0.5)
    assert (mine["state"], mine["status"], mine["last_seen"]) == ("not seen", "possible", M1)


def test_a_mine_is_confirmed_by_a_later_clear_month_and_was_possible_before():
    mines, months = tables(
        place(
            {M1: [square(0)], M2: [square(10)], M3: [], M4: [square(0)]}, clear=lambda date: 0.3 if date == M2 else 1.0
        )
    )
    assert by_month(months, "status") == {M1: "possible", M2: "possible", M3: "possible", M4: "confirmed"}
    assert (mines["status"][0], mines["confirmed_in"][0]) == ("confirmed", M4)
    mines, months = tables(place({M1: [], M2: [square(0)]}))
    assert by_month(months, "status")[M2] == "possible"
    assert pd.isna(by_month(months, "status")[M1])
    assert (mines["status"][0], mines["confirmed_in"][0], mines["months"][0]) == ("possible", None, 1) or pd.isna(
        mines["confirmed_in"][0]
    )


def test_a_mine_within_another_is_seen_and_its_area_counts_there():
    one, other, both = square(0), square(150), at(box(0, 0, 250, 100))
    mines, months = tables(place({M1: [one, other], M2: [both], M3: [one, other], M4: [both]}))
    assert months.groupby("date")["area_m2"].sum().to_dict() == {M1: 20_000, M2: 25_000, M3: 20_000, M4: 25_000}
    assert set(months["state"]) == {"seen"}
    assert months["within"].notna().sum() == 2
    assert mines["merged_into"].isna().all()
    assert sorted(mines["area_m2"]) == [10_000.0, 25_000.0]  # when it was last seen as itself
    # Growth is of months in which each was seen alone: none.
    assert set(mines["growth_m2_per_year"]) == {0.0}


def test_a_mine_that_merged_has_no_row_after():
    one, other, both = square(0), square(150), at(box(0, 0, 250, 100))
    mines, months = tables(place({M1: [one, other], M2: [both], M3: [both], M4: [both]}))
    merged = mines[mines["merged_into"].notna()].iloc[0]
    assert merged["merged_into"] in set(mines["mine_id"])
    assert (merged["last_seen"], merged["months"]) == (M3, 3)
    assert list(months["date"][months["mine_id"] == merged["mine_id"]]) == [M1, M2, M3]
    assert months.groupby("date")["area_m2"].sum().to_dict() == {M1: 20_000, M2: 25_000, M3: 25_000, M4: 25_000}


def test_a_mine_that_split_off_has_no_row_before():
    both, one, other = at(box(0, 0, 250, 100)), square(0), square(150, 70)
    mines, months = tables(place({M1: [both], M2: [one, other], M3: [one, other]}))
    split = mines[mines["split_from"].notna()].iloc[0]
    assert split["first_seen"] == M3
    assert list(months["date"][months["mine_id"] == split["mine_id"]]) == [M3]
    assert split["split_from"] in set(mines["mine_id"])


def test_growth_is_the_median_slope_over_clear_months():
    sides = {M1: 100, M2: 110, M3: 20, M4: 130}
    mines, _ = tables(
        place({date: [square(0, side)] for date, side in sides.items()}, clear=lambda date: 0.4 if date == M3 else 1.0)
    )
    slopes = [(110**2 - 100**2) * 12, (130**2 - 110**2) * 12 / 2, (130**2 - 100**2) * 12 / 3]
    assert mines["growth_m2_per_year"][0] == pytest.approx(np.median(slopes), abs=0.1)


def test_what_a_mine_is_said_to_be():
    (mine,) = tables(place({M1: [square(0), square(110)], M2: [square(0)]}))[0].to_dict("records")
    assert mine["mine_id"].startswith("bend_2023-01_")
    assert (mine["site_id"], mine["river"], mine["district"]) == ("bend", "Wain", "Lower")
    assert (mine["area_m2"], mine["score_mean"], mine["score_max"]) == (10_000.0, 0.9, pytest.approx(0.95))
    assert (mine["river_m"], mine["river_drawn_as"]) == (50.0, "line")
    assert [mine[name] for name in OF_MODEL] == ["1" * 64, "2" * 64, "synthetic", "synthetic"]
    assert mine["imagery"] == "synthetic"
    assert mine["geometry"].geom_type == "MultiPolygon"
    assert len(mine["geometry"].geoms) == 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (box(-10, 0, 10, 10), (0.0, "area")),
        (box(0, 30, 9, 40), (20.0, "area")),
        (box(0, -60, 9, -50), (30.0, "line")),
    ],
)
def test_distance_is_to_the_nearest_river_however_it_is_drawn(shape, expected):
    river = shapely.union_all([box(-100, 0, 100, 10), shapely.LineString([(-100, -20), (100, -20)])])
    assert _to_river(shape, river) == expected


def rows(table, columns=None):
    """Rows as they compare: without a value is None, whatever stands for it."""
    table = pd.DataFrame(table)[columns or list(table.columns)].astype(object)
    return table.where(table.notna(), None).to_dict("records")


@settings(max_examples=25, deadline=None)
@given(worlds(), st.integers(0, 2**16))
def test_rows_of_months_stay_as_they_were_when_a_month_is_added(world, seed):
    shares = dict(zip(world, np.random.default_rng(seed).random(len(world)).round(2), strict=True))
    world = {date: [at(polygon) for polygon in polygons] for date, polygons in world.items()}
    whole = find([place(world, clear=shares.get)], SETTINGS)[1]
    last = max(world)
    before = find([place({date: own for date, own in world.items() if date != last}, clear=shares.get)], SETTINGS)[1]
    known = whole["mine_id"].isin(before["mine_id"])
    assert rows(whole[(whole["date"] < last) & known]) == rows(before)
    assert (whole["state"][(whole["date"] < last) & ~known] != "seen").all()
    for date, polygons in world.items():  # whatever split or merged
        assert whole["area_m2"][whole["date"] == date].sum() == pytest.approx(
            sum(one.area for one in polygons), abs=1e-6
        )


@settings(max_examples=25, deadline=None)
@given(worlds(), st.data())
def test_a_cloudy_month_changes_no_state_but_to_not_observable(world, data):
    cloudy = data.draw(st.sampled_from(list(world)))
    world = {date: [at(polygon) for polygon in polygons] for date, polygons in world.items()}
    without = find([place({date: own for date, own in world.items() if date != cloudy})], SETTINGS)
    clouded = find([place({**world, cloudy: []}, clear=lambda date: 0.0 if date == cloudy else 1.0)], SETTINGS)
    assert rows(clouded[1][clouded[1]["date"] != cloudy]) == rows(without[1])
    assert set(clouded[1]["state"][clouded[1]["date"] == cloudy]) <= {"not observable"}
    same = ["mine_id", "status", "first_seen", "last_seen", "months_seen", "months_clear", "area_m2", "geometry"]
    assert rows(clouded[0], same) == rows(without[0], same)


def test_no_two_shapes_of_a_layer_meet():
    shapes = [box(0, 0, 10, 10), box(5, 5, 15, 15), box(30, 0, 40, 10), box(10, 10, 40, 40), box(0, 0, 40, 40)]
    layers = _layers(shapes)
    assert sorted(np.concatenate(layers).tolist()) == [0, 1, 2, 3, 4]
    for layer in layers:
        for one in layer:
            assert not any(shapes[one].intersects(shapes[other]) for other in layer if other != one)
    assert _layers([]) == []


def test_the_clear_share_is_of_pixels_with_a_score_in_shapes_that_overlap_too(tmp_path):
    grid = Grid(crs=CRS, left=0.0, top=400.0, width=30, height=40)
    steps = np.full((1, *grid.shape), 10, np.uint16)
    steps[0, :, 15:] = NODATA
    raster.write_cog(tmp_path / f"s_{M1}" / "score.tif", steps, grid, bands=["probability of a mine"], nodata=NODATA)
    site = pd.Series({"site_id": "s", "utm_crs": CRS, "left_m": 0.0, "top_m": 400.0, "width_px": 30, "height_px": 40})
    clear = _scored(site, tmp_path)
    shapes = [box(100, 100, 200, 200), box(100, 50, 300, 150), box(0, 0, 40, 40), box(200, 0, 300, 100)]
    assert clear(M1, shapes).tolist() == [0.5, 0.25, 1.0, 0.0]
    assert clear(M2, shapes).tolist() == [0.0] * 4
    assert clear(M1, []).tolist() == []


@pytest.fixture
def mapped(tmp_path):
    """What infer wrote of two months, in the second of which a mine lies under cloud and another is gone."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    sites = make_site(tmp_path / "scenes", months=(M1, M2))
    path = tmp_path / "scenes" / f"kanhan_{M2}" / "s2.tif"
    pixels, grid = raster.read(path, bands=["B2", "B3", "B8"]), raster.read_grid(path)
    pixels[:, 160:200, 60:120] = 0
    pixels[2, 240:275, 50:95] = 1000
    raster.write_cog(path, pixels, grid, bands=["B2", "B3", "B8"], nodata=0)
    from sandwatch.files import sha256

    for row in sites[1]:
        row["sha256"] = sha256(tmp_path / "scenes" / row["path"])
    # A third month is asked for, and there is no scene.
    sites[0]["months"] += ";2023-03-01"
    aoi, manifest = tables_of_sites(sites)
    rivers = tmp_path / "rivers.geojson"
    line = shapely.LineString([(grid.left + 700, grid.top + 500), (grid.left + 700, grid.top - 4000)])
    gpd.GeoDataFrame(geometry=[line], crs=CRS).to_crs(4326).to_file(rivers, driver="GeoJSON")
    infer(aoi, manifest, tmp_path / "scenes", Pointwise(), INFER, weights=tmp_path / "model.safetensors",
          predictions=tmp_path / "p")  # fmt: skip
    return aoi, rivers, tmp_path / "p"


def test_mines_of_what_infer_wrote(mapped, capsys):
    aoi, rivers, predictions = mapped
    write(aoi, rivers, predictions, SETTINGS)
    assert capsys.readouterr().out.endswith("3 mines in 4 detections, 1 of them confirmed\n")
    mines = schemas.Mines.read(predictions / "mines.parquet").set_index("mine_id")
    months = schemas.MineMonths.read(predictions / "mine_months.parquet")
    states = months.set_index(["mine_id", "date"])["state"].groupby("mine_id").agg(tuple)
    assert sorted(states) == [
        ("seen", "not observable", "not observable"),
        ("seen", "not seen", "not observable"),
        ("seen", "seen", "not observable"),
    ]
    assert (mines["river_drawn_as"] == "line").all()
    assert mines["river_m"].min() == 0.0
    detections = schemas.Detections.read(predictions / "detections.parquet")
    named = [one for text in months["detection_ids"] for one in json.loads(text)]
    assert sorted(named) == sorted(detections["detection_id"])
    once = {name: (predictions / name).read_bytes() for name in ("mines.parquet", "mine_months.parquet")}
    write(aoi, rivers, predictions, SETTINGS)
    assert once == {name: (predictions / name).read_bytes() for name in once}


def test_no_detection_gives_empty_tables(mapped, capsys):
    aoi, rivers, predictions = mapped
    detections = schemas.Detections.read(predictions / "detections.parquet")
    schemas.Detections.write(detections.iloc[:0], predictions / "detections.parquet")
    write(aoi, rivers, predictions, SETTINGS)
    assert schemas.Mines.read(predictions / "mines.parquet").empty
    assert schemas.MineMonths.read(predictions / "mine_months.parquet").empty
