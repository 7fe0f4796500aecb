"""Sites and rivers become areas of interest, or are refused by name."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from shapely import LineString, MultiPolygon, Point, Polygon, box

from sandwatch import aoi
from sandwatch.distance import distance_km
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.geometry import reproject
from sandwatch.rivers import Rivers, read
from sandwatch.schemas import Aoi
from sandwatch.split import Split
from tests.conftest import ROOT, write_geojson
from tests.servers.listener import Listener

HEADER = "site_id,river,district,longitude,latitude,months,role"
LINES = [
    "ka1,Ka,East,85.10,20.30,2023-01;2022-05,label",
    "ka2,Ka,East,85.90,20.30,2023-01,both",
    "lo1,Lo,West,81.30,22.00,2023-01-01,label",
    "mi1,Mi,South,75.30,15.00,2023-01,infer",
]
RIVERS = {
    "Ka": LineString([(85.0, 20.28), (85.09, 20.3015), (85.1, 20.302), (85.5, 20.31), (86.0, 20.29)]),
    "Lo": box(81.29, 21.9, 81.31, 22.1),
    "Mi": LineString([(75.31, 14.8), (75.3, 15.2)]),
}
AOI = aoi.Aoi(rivers="rivers.geojson", extent_m=5000, simplify_tolerance_m=250, buffer_m=1000)
SPLIT = Split(min_distance_km=50, holdout_rivers=("Lo",), val_fraction=0.25, block_m=3000, block_gap_m=320, seed=0)


def write_sites(folder: Path, *lines: str, header: str = HEADER) -> Path:
    (folder / "sites.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "sites.csv"


def build(folder: Path, *lines: str, rivers: dict[str, Any] | None = None, **changes: Any) -> gpd.GeoDataFrame:
    path = write_geojson(folder / "rivers.geojson", rivers or RIVERS)
    sites = aoi.read_sites(write_sites(folder, *(lines or LINES)))
    return aoi.build(sites, Rivers(path), aoi=AOI.model_copy(update=changes), split_params=SPLIT)


def one(folder: Path, line: str, rivers: dict[str, Any], **changes: Any) -> Any:
    """The row of a site beside the default ones."""
    table = build(folder, *LINES, line, rivers={**RIVERS, **rivers}, **changes)
    return table[table["site_id"] == line.split(",")[0]].iloc[0]


def test_an_area_is_the_buffered_river_near_its_site(tmp_path: Path) -> None:
    table = build(tmp_path)
    Aoi.checked(table, "aoi")
    row = table[table["site_id"] == "ka1"].iloc[0]
    to_metres = pyproj.Transformer.from_crs("EPSG:4326", row["utm_crs"], always_xy=True)
    x, y = to_metres.transform(85.10, 20.30)
    river = shapely.transform(RIVERS["Ka"], lambda xy: np.column_stack(to_metres.transform(*xy.T)))
    expected = river.intersection(box(x - 2500, y - 2500, x + 2500, y + 2500)).simplify(250).buffer(1000, quad_segs=8)
    found = reproject(row["geometry"], "EPSG:4326", row["utm_crs"])
    assert found.symmetric_difference(expected).area / expected.area < 1e-3
    rough = river.intersection(box(x - 2500, y - 2500, x + 2500, y + 2500)).buffer(1000)
    assert found.symmetric_difference(rough).area / rough.area > 5e-3
    assert row["area_km2"] == pytest.approx(expected.area / 1e6, rel=1e-4)
    assert row["months"] == "2022-05-01;2023-01-01"
    assert row["utm_crs"] == "EPSG:32645"
    assert found.area < river.buffer(1000).area / 3


def test_grids_cover_their_areas_and_are_snapped(tmp_path: Path) -> None:
    table = build(tmp_path)
    for row in table.itertuples():
        left, bottom, right, top = reproject(row.geometry, "EPSG:4326", row.utm_crs).bounds
        assert row.left_m % 10 == row.top_m % 10 == 0
        assert 0 <= left - row.left_m < 10
        assert 0 <= row.top_m - top < 10
        assert 0 <= row.left_m + 10 * row.width_px - right < 10
        assert 0 <= bottom - (row.top_m - 10 * row.height_px) < 10
        coordinates = shapely.get_coordinates(row.geometry)
        assert np.abs(coordinates - np.round(coordinates, 7)).max() < 1e-12
        assert row.geometry.is_valid


def test_groups_and_folds(tmp_path: Path) -> None:
    table = build(tmp_path).set_index("site_id")
    assert table["group"].to_dict() == {"ka1": 0, "ka2": 1, "lo1": 2, "mi1": 3}
    assert table.loc["lo1", "fold"] == "test"
    assert table.loc["mi1", "fold"] == "infer"
    assert {table.loc["ka1", "fold"], table.loc["ka2", "fold"]} == {"train", "val"}


def test_sites_that_are_only_inferred_do_not_chain_groups(tmp_path: Path) -> None:
    table = build(tmp_path, *LINES, "ka3,Ka,East,85.50,20.31,2023-01,infer").set_index("site_id")
    assert table.loc["ka1", "group"] != table.loc["ka2", "group"]
    assert len({table.loc[site, "group"] for site in ("ka1", "ka2", "ka3")}) == 3


def test_sites_whose_scenes_overlap_are_one_group_however_far_their_areas_are(tmp_path: Path) -> None:
    """Two parallel rivers run aslant, 4.9 km from each other: windows of one site may lie over those of the other."""
    rivers = {
        "Pa": LineString([(80.95, 19.95), (81.05, 20.05)]),
        "Pb": LineString([(80.95 + 0.0335, 19.95 - 0.0316), (81.05 + 0.0335, 20.05 - 0.0316)]),
        "Lo": RIVERS["Lo"],
    }
    lines = ["pa1,Pa,East,81.0,20.0,2023-01,label", "pb1,Pb,East,81.0335,19.9684,2023-01,label", LINES[2]]
    sites = aoi.read_sites(write_sites(tmp_path, *lines))
    path = write_geojson(tmp_path / "rivers.geojson", rivers)
    table = aoi.build(sites, Rivers(path), aoi=AOI, split_params=SPLIT.model_copy(update={"min_distance_km": 1.0}))
    table = table.set_index("site_id")
    assert distance_km(table.loc["pa1", "geometry"], table.loc["pb1", "geometry"]) == pytest.approx(2.9, abs=0.1)
    assert table.loc["pa1", "group"] == table.loc["pb1", "group"] != table.loc["lo1", "group"]


def test_a_single_group_beside_the_holdout_is_blocks(tmp_path: Path) -> None:
    table = build(tmp_path, *LINES[2:], LINES[0]).set_index("site_id")
    assert table["fold"].to_dict() == {"ka1": "blocks", "lo1": "test", "mi1": "infer"}


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp", "fgb"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32645", "EPSG:3857"])
def test_any_format_and_crs_gives_the_same_areas(tmp_path: Path, suffix: str, crs: str) -> None:
    geometries = gpd.GeoSeries([shapely.segmentize(RIVERS["Ka"], 0.001)], crs="EPSG:4326").to_crs(crs)
    path = tmp_path / f"rivers.{suffix}"
    geometries.to_file(path)
    sites = aoi.read_sites(write_sites(tmp_path, LINES[0], LINES[1].replace("Ka", "Lo")))
    found = aoi.build(sites, Rivers(path), aoi=AOI, split_params=SPLIT)
    expected = build(tmp_path).set_index("site_id").loc[found["site_id"]]
    areas = zip(found["geometry"], expected["geometry"], strict=True)
    assert all(a.symmetric_difference(b).area / b.area < 0.02 for a, b in areas)


def test_the_same_bytes_twice_and_whatever_the_order_of_sites(tmp_path: Path) -> None:
    for name, lines in (("one", LINES), ("two", LINES[::-1])):
        (tmp_path / name).mkdir()
        Aoi.write(build(tmp_path / name, *lines), tmp_path / f"{name}.parquet")
    assert sha256(tmp_path / "one.parquet") == sha256(tmp_path / "two.parquet")


def test_sites_are_read_with_mark_spaces_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_bytes(f'\ufeffsite_id, {HEADER[8:]}\r\nka1,"Ka, upper", East ,85.1,20.3,2023-01,label\r\n'.encode())
    (site,) = aoi.read_sites(path)
    assert (site.river, site.district, site.months) == ("Ka, upper", "East", (date(2023, 1, 1),))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ka1,Ka,East,85.1,20.3,2023-02,label", "line 6: got site_id ka1 again; expected each site_id once"),
        ("a/b,Ka,East,85.1,20.3,2023-01,label", "line 6, site_id: got 'a/b'; expected letters of any script"),
        (f"{'x' * 170},Ka,East,85.1,20.3,2023-01,label", "line 6, site_id: got 'x.*; expected letters of any script"),
        (",Ka,East,85.1,20.3,2023-01,label", "line 6, site_id: got ''; expected letters"),
        ("x,,East,85.1,20.3,2023-01,label", "line 6, site x, river: got nothing; expected the river's name"),
        ("x,Ka,East,85.1,20.3,2023-13,label", "line 6, site x, months: got '2023-13'; expected months as 2023-01"),
        ("x,Ka,East,85.1,20.3,,label", "line 6, site x, months: got ''; expected months"),
        ("x,Ka,East,85.1,20.3,2023-01-15,label", "site x, months: got '2023-01-15'; expected months"),
        (
            "x,Ka,East,85.1,20.3,2023-01;2023-01,label",
            "site x, months: got '2023-01;2023-01'; expected each month once",
        ),
        ("x,Ka,East,85.1,20.3,2023-01,watch", "site x, role: got 'watch'; expected one of label, train, infer, both"),
        (
            "x,Ka,East,20.3,85.1,2023-01,label",
            "site x: got longitude 20.3, latitude 85.1; .*; swap longitude and latitude",
        ),
        (
            "x,Ka,East,20.3,105.1,2023-01,label",
            "site x: got longitude 20.3, latitude 105.1; .*; swap longitude and lati",
        ),
        ("x,Ka,East,190,200,2023-01,label", "site x: got longitude 190, latitude 200; expected .*; correct them"),
        ('x,Ka,East,"85°6",20.3,2023-01,label', "site x, longitude: got '85°6'; expected decimal degrees, such as"),
        ('x,Ka,East,"1,234.5",20.3,2023-01,label', "site x, longitude: got '1,234.5'; expected decimal degrees"),
        ("x,Ka,East,nan,20.3,2023-01,label", "site x, longitude: got 'nan'; expected decimal degrees"),
        ("x,Ka,East,85,1,20.3,2023-01,label", "line 6: got .* expected 7, as in the header; check the commas"),
        ("x,Ka,East,85.1,20.3,2023-01", "line 6: got 6 values; expected 7, as in the header"),
    ],
)
def test_a_line_at_fault_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"sites.csv, {message}" if message.startswith("line") else message):
        aoi.read_sites(write_sites(tmp_path, *LINES, line))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace(",role", ""), "sites.csv, columns: got site_id, .*; add role, remove nothing"),
        (HEADER + ",note", "add nothing, remove note"),
        ("lon,lat", "got lon, lat; expected site_id, river, district, longitude, latitude, months, role; add"),
        (HEADER.replace(",", ":"), "sites.csv, columns: got site_id:river"),
        (HEADER + ",role", "sites.csv, line 1, columns: got 'role' more than once"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aoi.read_sites(write_sites(tmp_path, header=header))


def test_no_sites_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sites.csv: got no site; expected a line for each"):
        aoi.read_sites(write_sites(tmp_path))
    (tmp_path / "sites.csv").write_bytes("x,Kä".encode("cp437"))
    with pytest.raises(InputError, match=r"sites.csv, line 1: got bytes that are no UTF-8; .*; save it as UTF-8"):
        aoi.read_sites(tmp_path / "sites.csv")


def test_a_site_without_river_is_told_how_far_the_nearest_is(tmp_path: Path) -> None:
    message = r"site x at longitude 85.1, latitude 20.6: got no river within its extent, the nearest 3[23].\d km away"
    with pytest.raises(
        InputError, match=message + r"; expected a river in the square of aoi.extent_m = 5000 around it"
    ):
        one(tmp_path, "x,Ka,East,85.1,20.6,2023-01,label", {})
    with pytest.raises(InputError, match="got no river within its extent, none within 100 km either"):
        one(tmp_path, "x,Ka,East,60,60,2023-01,label", {})


def test_swapped_coordinates_are_seen_where_a_river_is(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"site x .*; swap longitude and latitude: there is a river at the swapped posit"
    ):
        one(tmp_path, "x,No,North,10.2,60.3,2023-01,label", {"No": LineString([(60.1, 10.2), (60.5, 10.2)])})


@pytest.mark.parametrize("longitude", [179.99, -179.99])
def test_a_site_at_the_antimeridian_is_refused(tmp_path: Path, longitude: float) -> None:
    with pytest.raises(
        InputError, match=rf"site x: got longitude {longitude:g}, so that its extent crosses the antimeridi"
    ):
        one(tmp_path, f"x,Re,Fiji,{longitude},-17,2023-01,label", {"Re": LineString([(179.9, -17), (180, -17)])})


def test_a_site_at_a_utm_border_stays_in_its_own_zone(tmp_path: Path) -> None:
    river = LineString([(83.9, 20.0), (84.1, 20.01)])
    row = one(tmp_path, "x,Bo,Border,84.001,20.005,2023-01,label", {"Bo": river})
    assert row["utm_crs"] == "EPSG:32645"
    assert row["geometry"].bounds[0] < 83.99 < 84.01 < row["geometry"].bounds[2]
    assert 680 <= row["width_px"] <= 720


def test_broken_polygons_are_repaired(tmp_path: Path) -> None:
    bow_tie = Polygon([(77.28, 18.0), (77.32, 18.02), (77.32, 18.0), (77.28, 18.02)])
    row = one(tmp_path, "x,Ti,East,77.3,18.01,2023-01,label", {"Ti": bow_tie})
    assert row["geometry"].is_valid
    assert row["area_km2"] > 5


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (
            Polygon([(77.25, 17.9375), (77.3125, 18.0), (77.375, 18.0625), (77.25, 17.9375)]),
            "feature 3: got a broken Polygon: .*; expec",
        ),
    ],
)
def test_what_is_no_river_is_refused_by_name(tmp_path: Path, geometry: shapely.Geometry, message: str) -> None:
    with pytest.raises(InputError, match=rf"rivers.geojson, {message}"):
        one(tmp_path, "x,Ti,East,77.3,17.99,2023-01,label", {"Ti": geometry})


def test_what_is_far_from_every_site_is_not_looked_at(tmp_path: Path) -> None:
    one(tmp_path, "x,Ti,East,77.3,18.01,2023-01,label", {"Ti": box(77.2, 18, 77.4, 18.02), "far": Point(10, 50)})


def test_a_line_without_buffer_has_no_area(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"site ka1: got an area of interest without area from aoi.buffer_m = 0"):
        build(tmp_path, buffer_m=0.0)


def test_polygons_without_buffer_are_their_own_area(tmp_path: Path) -> None:
    polygon = MultiPolygon([box(77.29, 18.0, 77.3, 18.02), box(77.305, 18.0, 77.31, 18.02)])
    path = write_geojson(tmp_path / "rivers.geojson", {"Ti": polygon, "Lo": RIVERS["Lo"]})
    sites = aoi.read_sites(write_sites(tmp_path, "x,Ti,East,77.3,18.01,2023-01,label", LINES[2]))
    flat = AOI.model_copy(update={"buffer_m": 0.0, "simplify_tolerance_m": 0.0})
    table = aoi.build(sites, Rivers(path), aoi=flat, split_params=SPLIT).set_index("site_id")
    assert table.loc["x", "geometry"].symmetric_difference(polygon).area < 1e-8


@pytest.mark.parametrize("of_the_first", [{}, {"type": "Feature"}])
def test_geojson_without_feature_type_is_read_all_the_same(tmp_path: Path, of_the_first: dict[str, str]) -> None:
    path = write_geojson(tmp_path / "rivers.geojson", RIVERS, features=False)
    content = json.loads(path.read_text())
    content["features"][0] |= of_the_first
    path.write_text(json.dumps(content))
    assert read(path, [(-180, -80, 180, 80)]).equals(shapely.union_all(list(RIVERS.values())))


def test_geojson_is_read_as_gdal_reads_it(tmp_path: Path) -> None:
    """To the bit: what an area of interest is made of doesn't depend on who parsed it."""
    frame = gpd.GeoSeries([*RIVERS.values(), None, Polygon()], crs="EPSG:4326").to_crs("EPSG:32645")
    (tmp_path / "utm.geojson").write_text(frame.to_json())  # names its CRS
    for path in (ROOT / "data/regions/sample/rivers.geojson", tmp_path / "utm.geojson"):
        by_gdal = gpd.read_file(path).geometry
        ours = Rivers(path)._all
        assert ours is not None
        assert ours.crs == by_gdal.crs
        by_gdal = by_gdal[~(by_gdal.isna() | by_gdal.is_empty)]
        assert list(ours.to_wkb()) == list(by_gdal.to_wkb())
        assert list(ours.index) == list(by_gdal.index)


VRT = """<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>/vsicurl/{url}/a.gpkg</SrcDataSource>
<SrcLayer>a</SrcLayer></OGRVRTLayer></OGRVRTDataSource>"""
WFS = "<OGRWFSDataSource><URL>{url}/wfs</URL></OGRWFSDataSource>"
COLLECTION = """{{"type": "FeatureCollection", {more}, "features": [{{"type": "Feature", "properties": {{}},
"geometry": {{"type": "LineString", "coordinates": [[1, 2], [3, 4]]}}}}]}}"""
LINKED = '"crs": {{"type": "link", "properties": {{"href": "{url}/crs", "type": "proj4"}}}}'


@pytest.mark.parametrize("name", ["rivers.geojson", "rivers.gpkg", "rivers.shp"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VRT, "got another format; expected a GeoJSON"),
        (WFS, "got another format; expected a GeoJSON"),
        (COLLECTION.format(more=LINKED.format(url="{url}")), "rivers.*, crs: got .*'link'.*; expected a name"),
    ],
    ids=["vrt", "wfs", "crs"],
)
def test_rivers_that_name_a_server_are_refused_unasked(
    tmp_path: Path, listener: Listener, content: str, message: str, name: str
) -> None:
    (tmp_path / name).write_text(content.replace("{url}", listener.url))
    with pytest.raises(InputError, match=message):
        Rivers(tmp_path / name)
    assert listener.heard() == []


def test_a_geojson_that_is_a_vrt_too_is_a_geojson(tmp_path: Path, listener: Listener) -> None:
    name = VRT.format(url=listener.url).replace("\n", "")
    (tmp_path / "rivers.geojson").write_text(COLLECTION.format(more=f'"name": "{name}"'))
    assert len(Rivers(tmp_path / "rivers.geojson").near((0, 0, 5, 5))) == 1
    assert listener.heard() == []


def test_unfit_river_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.gpkg: got .*No such file"):
        Rivers(tmp_path / "none.gpkg")
    (tmp_path / "text.geojson").write_text("hello")
    with pytest.raises(
        InputError,
        match=r"text.geojson: got another format; expected a GeoJSON, GeoPackage, FlatGeobuf, KML or shapefile",
    ):
        Rivers(tmp_path / "text.geojson")
    for content in ("{", '{"a": 1}', '{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "{" * 9999):
        (tmp_path / "text.geojson").write_text(content)
        with pytest.raises(InputError, match=r"text.geojson.*: got (not|neither|a geometry that can't be read).*"):
            Rivers(tmp_path / "text.geojson")
    (tmp_path / "text.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match=r"text.geojson: got no feature"):
        Rivers(tmp_path / "text.geojson")
    series = gpd.GeoSeries([RIVERS["Ka"]], crs="EPSG:4326")
    series.to_file(tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    with pytest.raises(InputError, match=r"a.shp: got no coordinate reference system"):
        Rivers(tmp_path / "a.shp")
    series.to_file(tmp_path / "b.gpkg", layer="one")
    series.to_file(tmp_path / "b.gpkg", layer="two")
    with pytest.raises(InputError, match=r"b.gpkg: got layers one, two; expected one"):
        Rivers(tmp_path / "b.gpkg")
    gpd.GeoDataFrame(geometry=[], crs="EPSG:4326").to_file(tmp_path / "c.gpkg", geometry_type="LineString")
    with pytest.raises(InputError, match=r"c.gpkg: got no feature"):
        Rivers(tmp_path / "c.gpkg")


def test_read_joins_what_comes_near_any_place(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "rivers.geojson", RIVERS)
    joined = read(path, [(85.4, 20.2, 85.6, 20.4), (75.2, 14.9, 75.4, 15.1)])
    assert joined.equals(shapely.union_all([RIVERS["Ka"], RIVERS["Mi"]]))
