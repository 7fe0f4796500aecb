"""River files as people have them: other codes, wrappings and formats, and coordinates that can't be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
import shapely.affinity
from shapely.geometry import GeometryCollection, LineString, Point, Polygon, box, mapping

from sandwatch.errors import InputError
from sandwatch.rivers import Rivers
from tests.servers.listener import Listener

RIVER = LineString([(80.9, 20.0), (81.0, 20.01), (81.1, 20.0)])
HERE = (80.95, 19.9, 81.05, 20.1)
FEATURE = {"type": "Feature", "properties": {"name": "Río"}, "geometry": mapping(RIVER)}


def collection(*geometries: Any, **members: Any) -> dict[str, Any]:
    rows = [
        {"properties": {"name": "Río"}, "geometry": None if g is None else mapping(g)} for g in geometries or (RIVER,)
    ]
    return {"type": "FeatureCollection", "features": rows} | members


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def near(path: Path) -> shapely.Geometry:
    return shapely.union_all(Rivers(path).near(HERE).to_numpy())


@pytest.mark.parametrize("codec", ["utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-be", "utf-8"])
@pytest.mark.parametrize(
    "content",
    [
        text_of(collection()),
        text_of([FEATURE]),
        text_of(FEATURE),
        text_of(mapping(RIVER)),
        f"{text_of(FEATURE)}\r\n{text_of(FEATURE)}\n",
        text_of(collection(crs={"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}})),
        text_of(collection(GeometryCollection([GeometryCollection([RIVER]), Point(0, 0)]))),
        text_of(collection(None, Polygon(), RIVER)),
        '<?xml version="1.0"?><kml><Placemark><name>Río</name><LineString><coordinates>80.9,20,3 81,20.01,1\n'
        "81.1,20.0,0</coordinates></LineString></Placemark></kml>",
    ],
    ids=["collection", "list", "feature", "geometry", "lines", "crs84", "nested", "null", "kml"],
)
def test_a_river_is_the_same_in_every_code_and_wrapping(tmp_path: Path, codec: str, content: str) -> None:
    (tmp_path / "rivers.geojson").write_bytes(content.encode(codec))
    assert near(tmp_path / "rivers.geojson").equals(RIVER)


def test_what_is_left_out_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rivers.geojson").write_text(text_of(collection(RIVER, None, Point(81, 20))))
    rivers = Rivers(tmp_path / "rivers.geojson")
    rivers.near(HERE)
    said = capsys.readouterr().out
    assert "rivers.geojson: left out, since neither lines nor polygons: feature 1 (no geometry), feature 2 (Poi" in said
    gpd.GeoSeries([RIVER, Point(81, 20)], crs="EPSG:4326").to_file(tmp_path / "rivers.gpkg")
    rivers = Rivers(tmp_path / "rivers.gpkg")
    assert [shapely.union_all(rivers.near(HERE).to_numpy()).equals(RIVER) for _ in range(2)] == [True, True]
    assert capsys.readouterr().out.count("left out") == 1


def test_a_kml_of_lines_polygons_and_points(tmp_path: Path) -> None:
    ring = "80.99,19.99 81.01,19.99 81.01,20.03 80.99,20.03 80.99,19.99"
    hole = "80.995,20 81,20 81,20.02 80.995,20"
    (tmp_path / "rivers.kml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?><!-- by hand -->
        <kml xmlns="http://www.opengis.net/kml/2.2"><Document><Folder>
        <Placemark><MultiGeometry><LineString><coordinates>80.9,20,5 81.1,20,5</coordinates></LineString>
        <Polygon><outerBoundaryIs><LinearRing><coordinates>{ring}</coordinates></LinearRing></outerBoundaryIs>
        <innerBoundaryIs><LinearRing><coordinates>{hole}</coordinates></LinearRing></innerBoundaryIs></Polygon>
        </MultiGeometry></Placemark><Placemark><Point><coordinates>81,20,0</coordinates></Point></Placemark>
        <Placemark><name>empty</name></Placemark></Folder></Document></kml>"""
    )
    area = Polygon(*[[[float(v) for v in p.split(",")] for p in r.split()] for r in (ring,)]).area
    found = near(tmp_path / "rivers.kml")
    assert found.area == pytest.approx(area - 0.005 * 0.02 / 2)
    assert found.bounds[0] == pytest.approx(80.9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<kml><Placemark>", "got no XML"),
        ("<kml/>", "got no feature"),
        ('<?xml version="1.0"?><!DOCTYPE kml [<!ENTITY a "b">]><kml>&a;</kml>', "got a document type"),
        ("<kml><Placemark><Point><coordinates>x,y</coordinates></Point></Placemark></kml>", "got placemark 0"),
        ("<kml><Placemark><LineString><coordinates>1,2</coordinates></LineString></Placemark></kml>", "placemark 0"),
        ("<html><body>Sign in</body></html>", "got a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "got a pointer of Git LFS"),
        ("", "got an empty file"),
        (
            text_of(collection(shapely.affinity.scale(RIVER, 5000, 99999, origin=(0, 0)))),
            "in WGS 84; expected .*metres",
        ),
        (
            text_of(FEATURE | {"geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}}),
            "feature 0: got a geo",
        ),
        (text_of(FEATURE | {"geometry": {"type": "LineString"}}), "feature 0: got a geometry that can't be read"),
        ('{"geometry": {"type": "Point", "coordinates": [NaN, 1]}}', "feature 0: got .*coordinate that is no number"),
        (text_of({"type": "Topology"}), "got neither a list of features nor a feature"),
        (text_of(collection(crs={"type": "name", "properties": {"name": "Nowhere"}})), "crs: got .*Nowhere"),
        (text_of(collection())[:-9], "got not JSON"),
    ],
)
def test_a_text_that_is_no_river_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rivers.x").write_text(content)
    with pytest.raises(InputError, match=rf"rivers\.x.*{message}") as error:
        Rivers(tmp_path / "rivers.x")
    assert "\n" not in str(error.value)


def test_unclosed_rings_are_closed(tmp_path: Path) -> None:
    square = box(80.98, 19.98, 81.02, 20.02)
    ring = [list(point) for point in square.exterior.coords[:-1]]
    (tmp_path / "r.json").write_text(text_of({"type": "Polygon", "coordinates": [ring]}))
    assert near(tmp_path / "r.json").equals(square)


@pytest.mark.parametrize("folder", ["", "HydroRIVERS v10/in/"])
def test_a_zipped_shapefile(tmp_path: Path, folder: str) -> None:
    gpd.GeoSeries([RIVER], crs="EPSG:4326").to_crs("EPSG:32644").to_file(tmp_path / "s.shp")
    with zipfile.ZipFile(tmp_path / "rivers.zip", "w") as archive:
        for path in tmp_path.glob("s.*"):
            archive.write(path, f"{folder}Ríos{path.suffix.upper()}")
            archive.writestr(f"__MACOSX/{folder}._Ríos{path.suffix}", b"\0")
        archive.writestr("read me.txt", b"")
    assert near(tmp_path / "rivers.zip").hausdorff_distance(RIVER) < 1e-6


def test_archives_that_hold_no_river(tmp_path: Path) -> None:
    def zipped(**members: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "rivers.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name.replace("__", "."), content)
        return tmp_path / "rivers.zip"

    for members, message in (
        ({"a__txt": b""}, "got no vector file in the ZIP archive"),
        ({"a__shp": b"", "b__kml": b""}, "got a.shp, b.kml in the ZIP archive; .*unpack it"),
        ({"a__geojson": b"<html>"}, r"rivers.zip, its .geojson: got a web page"),
    ):
        with pytest.raises(InputError, match=message):
            Rivers(zipped(**members))
    whole = zipped(a__geojson=text_of(collection()).encode()).read_bytes()
    (tmp_path / "rivers.zip").write_bytes(whole[:60])
    with pytest.raises(InputError, match="got a ZIP archive that can't be unpacked"):
        Rivers(tmp_path / "rivers.zip")


@pytest.mark.parametrize(("crs", "code"), [("EPSG:4326", "EPSG:4326"), ("EPSG:32644", "EPSG:<the code of its CRS>")])
def test_a_shapefile_without_prj_says_how_to_write_one(tmp_path: Path, crs: str, code: str) -> None:
    gpd.GeoSeries([RIVER], crs="EPSG:4326").to_crs(crs).to_file(tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    with pytest.raises(InputError, match=rf"a.shp: got no coordinate reference system, as a sh.* -a_srs {code} rivers"):
        Rivers(tmp_path / "a.shp")


def test_a_crs_that_doesnt_fit_its_coordinates(tmp_path: Path) -> None:
    gpd.GeoSeries([RIVER], crs="EPSG:4326").to_crs("EPSG:32644").set_crs("EPSG:4326", allow_override=True).to_file(
        tmp_path / "a.gpkg"
    )
    with pytest.raises(InputError, match=r"a.gpkg: got coordinates from .* in WGS 84; .*these look like metres"):
        Rivers(tmp_path / "a.gpkg")
    gpd.GeoSeries([RIVER], crs='LOCAL_CS["sheet",UNIT["metre",1]]').to_file(tmp_path / "b.gpkg")
    with pytest.raises(InputError, match=r"b.gpkg: got (CRS|no coordinate reference system)"):
        Rivers(tmp_path / "b.gpkg")


def test_a_kml_that_names_a_server_is_not_followed(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "r.kml").write_text(
        f"<kml><NetworkLink><Link><href>{listener.url}/a.kml</href></Link></NetworkLink><Placemark><LineString>"
        "<coordinates>80.9,20 81.1,20</coordinates></LineString></Placemark></kml>"
    )
    assert not near(tmp_path / "r.kml").is_empty
    assert listener.heard() == []
