"""A region out of the predecessor's files, in both of its layouts."""

import csv
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely import box

from sandwatch import aoi, params, raster
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.imagery import sites
from sandwatch.imagery.files import Files
from sandwatch.predecessor import Migrated, write_region
from sandwatch.rivers import Rivers
from sandwatch.schemas import Aoi
from sandwatch.split import Split
from tests.conftest import GRID, reflectance, write_geojson, write_raster

SITE = "Ganges_Patna_85-1_25-66"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def bucket(root: Path, name: str = SITE, day: str = "2022-03-01", kinds: tuple[str, ...] = ("s2", "rgb")) -> Path:
    """Writes files in the layout of the predecessor's bucket."""
    folder = root / "labels" / f"{name}_median"
    for kind in kinds:
        stem = folder / kind.removesuffix("_original") / f"{name}_median_{day}_{kind}"
        if kind in ("annotations", "annotations_original", "rivers"):
            write_geojson(
                stem.with_suffix(".geojson"), {"a": box(85.09, 25.65, 85.11, 25.67)}, features=kind == "rivers"
            )
        else:
            count = {"s2": 12, "s1": 2, "s2_l1c": 13}.get(kind, 3)
            write_raster(stem.with_suffix(".tif"), reflectance(count))
    return folder


def test_the_layout_of_the_bucket(tmp_path: Path) -> None:
    kinds = ("s2", "s1", "rgb", "s2_l1c", "annotations", "annotations_original", "rivers")
    bucket(tmp_path / "source", kinds=kinds)
    bucket(tmp_path / "source", day="2021-11-01", kinds=("rgb", "rivers"))
    found = write_region(tmp_path / "source", tmp_path / "region")
    stem = f"labels/{SITE}_median/{{0}}/{SITE}_median_2022-03-01_{{1}}"
    left = (
        stem.format("annotations", "annotations.geojson"),
        stem.format("rgb", "rgb.tif"),
        stem.format("s2_l1c", "s2_l1c.tif"),
    )
    assert found == Migrated(sites=1, scenes=3, annotations=1, left=left)
    assert read_csv(tmp_path / "region" / "sites.csv") == [
        {
            "site_id": SITE, "river": "Ganges", "district": "Patna", "longitude": "85.1", "latitude": "25.66",
            "months": "2021-11;2022-03", "role": "both",
        }
    ]  # fmt: skip
    scenes = read_csv(tmp_path / "region" / "imagery" / "scenes.csv")
    assert [(row["obs_id"][-10:], row["product"], row["bands"]) for row in scenes] == [
        ("2021-11-01", "s2", "B4 B3 B2"),
        ("2022-03-01", "s1", "VV VH"),
        ("2022-03-01", "s2", " ".join(params.S2_L2A_BANDS)),
    ]
    for row in scenes:
        path = tmp_path / "region" / "imagery" / row["path"]
        assert sha256(path) == row["sha256"]
        assert not Path(row["path"]).is_absolute()
    (annotation,) = read_csv(tmp_path / "region" / "annotations" / "annotations.csv")
    assert annotation == {
        "obs_id": f"{SITE}_2022-03-01", "path": f"{SITE}_2022-03-01.geojson", "confidence_property": "Confidence",
    }  # fmt: skip
    original = tmp_path / "source" / stem.format("annotations", "annotations_original.geojson")
    assert (tmp_path / "region" / "annotations" / annotation["path"]).read_bytes() == original.read_bytes()
    rivers = json.loads((tmp_path / "region" / "rivers.geojson").read_text())
    assert [feature["properties"] for feature in rivers["features"]] == [{"site_id": SITE, "river": "Ganges"}]


def test_the_region_goes_through_aoi_and_export(tmp_path: Path, shared: Any) -> None:
    found = write_region(shared("data/real_labels"), tmp_path / "region")
    assert (found.sites, found.scenes, found.annotations) == (2, 2, 2)
    assert [path.split("/")[-1] for path in found.left if "2018" in path] == [
        "annotations.geojson", "labels_mask.tif", "rivers_mask.tif",
    ]  # fmt: skip
    table = aoi.build(
        aoi.read_sites(tmp_path / "region" / "sites.csv"),
        Rivers(tmp_path / "region" / "rivers.geojson"),
        aoi=aoi.Aoi(rivers="rivers.geojson", extent_m=14000, simplify_tolerance_m=0, buffer_m=0),
        split_params=Split(
            min_distance_km=50, holdout_rivers=("Waiganga",), val_fraction=0.25, block_m=3000, block_gap_m=320, seed=0
        ),
    )
    assert Aoi.checked(table, "aoi")["fold"].tolist() == ["blocks", "test"]
    for row in table.itertuples():
        original = json.loads(
            (shared("data/real_labels") / f"{row.site_id}_{row.months}" / "rivers.geojson").read_text()
        )
        river = shapely.union_all([shapely.geometry.shape(feature["geometry"]) for feature in original["features"]])
        assert row.geometry.symmetric_difference(river).area / river.area < 1e-4
    places = sites(table)
    bands = params.Bands(s2=("B4", "B3", "B2"), s1=())
    source = Files.open(tmp_path / "region" / "imagery", bands=bands, places=places)
    s2 = source(places[0], date(2018, 12, 1)).s2
    assert s2 is not None
    assert (s2.pixels[:, raster.inside(places[0].aoi, places[0].grid)] > 0).mean() > 0.999
    assert [image.id for image in s2.source_images] == ["Bhargavi_Khordha_85-88_20-26_2018-12-01/rgb.tif"]


@pytest.mark.parametrize(
    ("name", "longitude", "latitude"),
    [
        ("Ganges_Patna_85-1_25-66", "85.1", "25.66"),
        ("Rio_Negro_-60-05_-3", "-60.05", "-3.0"),
        ("A_B_7_8-05", "7.0", "8.05"),
    ],
)
def test_the_decimal_point_is_a_dash(tmp_path: Path, name: str, longitude: str, latitude: str) -> None:
    bucket(tmp_path / "source", name)
    write_region(tmp_path / "source", tmp_path / "region")
    (row,) = read_csv(tmp_path / "region" / "sites.csv")
    assert (row["site_id"], row["longitude"], row["latitude"]) == (name, longitude, latitude)


def test_bands_are_named_by_description(tmp_path: Path) -> None:
    folder = bucket(tmp_path / "source", kinds=("s1",))
    write_raster(folder / "s2" / f"{SITE}_2022-03-01_s2.tif", reflectance(3), names=("B8", "QA60", "B4"), grid=GRID)
    write_region(tmp_path / "source", tmp_path / "region")
    scenes = read_csv(tmp_path / "region" / "imagery" / "scenes.csv")
    assert [row["bands"] for row in scenes if row["product"] == "s2"] == ["B8 - B4"]


@pytest.mark.parametrize("name", [".Ka_East_85-1_20-3", "Ka b_East_85-1_20-3", "Ka\n_East_85-1_20-3"])
def test_a_site_that_cant_name_files_is_refused(tmp_path: Path, name: str) -> None:
    bucket(tmp_path / "source", name)
    with pytest.raises(InputError, match=r"got a site '.*_East_85-1_20-3'; expected letters of any script.*; rename"):
        write_region(tmp_path / "source", tmp_path / "region")
    assert not (tmp_path / "region").exists()


@pytest.mark.parametrize("day", ["2022-13-01", "2022-00-01", "0000-01-01"])
def test_a_month_that_no_calendar_has_is_refused(tmp_path: Path, day: str) -> None:
    bucket(tmp_path / "source", day=day)
    with pytest.raises(InputError, match=rf"_{day}_.*: got month {day[:7]} \(.*\); expected a month of the calendar"):
        write_region(tmp_path / "source", tmp_path / "region")
    assert not (tmp_path / "region").exists()


def test_what_is_unfit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: got no raster of an observation; expected <River>_<District>_"):
        write_region(tmp_path / "empty", tmp_path / "region")
    folder = bucket(tmp_path / "source", kinds=("s2", "rivers"))
    write_raster(folder / "s2" / f"{SITE}_2022-03-15_s2.tif", reflectance(12))
    with pytest.raises(
        InputError, match=rf"another file s2 of {re.escape(SITE)}_2022-03-01, beside .*; expected one of each"
    ):
        write_region(tmp_path / "source", tmp_path / "region")
    (folder / "s2" / f"{SITE}_2022-03-15_s2.tif").unlink()
    write_raster(folder / "s2" / f"{SITE}_2022-04-01_s2.tif", np.ones((5, 4, 4), dtype=np.uint16))
    with pytest.raises(
        InputError, match=r"_2022-04-01_s2.tif: got 5 bands without names; expected band descriptions among"
    ):
        write_region(tmp_path / "source", tmp_path / "region")
    (folder / "s2" / f"{SITE}_2022-04-01_s2.tif").unlink()
    (river,) = (folder / "rivers").iterdir()
    content = json.loads(river.read_text())
    river.write_text(json.dumps(content | {"crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::32645"}}}))
    with pytest.raises(
        InputError, match=r"rivers.geojson: got CRS urn:ogc:def:crs:EPSG::32645; expected longitude and lat"
    ):
        write_region(tmp_path / "source", tmp_path / "region")
    river.write_text('{"type": "FeatureCollection"}')
    with pytest.raises(
        InputError,
        match=r"rivers.geojson: got neither a list of features nor a feature; expected a GeoJSON FeatureCollection",
    ):
        write_region(tmp_path / "source", tmp_path / "region")
    assert not (tmp_path / "region").exists()
    river.write_text(json.dumps(content))
    write_region(tmp_path / "source", tmp_path / "region")
    with pytest.raises(InputError, match=r"region: got a folder with files in it; expected a new folder"):
        write_region(tmp_path / "source", tmp_path / "region")
