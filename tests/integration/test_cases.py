"""The small real-life inputs beside the repository: each behaves as its README asks, none ends in a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cases import Outcome, run_case
from tests.conftest import SHARED

CASES = sorted(path.parent.name for path in (SHARED / "cases").glob("*/params.json"))

PASSED: dict[str, dict[str, Any]] = {
    "00-healthy": {"valid": 1.0},
    "01-nodata-nan-on-uint16": {"valid": 0.75},
    "02-nodata-minus9999-tag-on-uint16": {"valid": 0.75},
    "03b-int16-fill-minus9999-told": {"valid": 0.75},
    "08b-alpha-band-of-four": {"valid": 0.75},
    "09-internal-mask": {"valid": 0.75},
    "16-degrees-grid": {"valid": 1.0},
    "17-zero-in-one-band-over-water": {"said": "20.9% of its pixels are 0 in some bands and not in all"},
    "20-qgis-crs84-3d-ids": {},
    "26-multipolygon-hole-unclosed-duplicates": {},
    "27b-spike": {"said": "labels_repaired"},
    "28-labels-bom-crlf": {},
    "29-rivers-bom": {},
    "32-geojson-list-of-features": {},
    "35-sites-semicolon-decimal-comma": {},
    "37-sites-blank-rows-and-bom": {},
    "37b-annotations-csv-header-blanks": {},
    "41b-rivers-zipped-shapefile-at-root": {},
    "42-rivers-kml-3d": {"said": "rivers.kml: left out, since neither lines nor polygons: feature 2 (Point)"},
    "50-labelbox-healthy": {},
    "51-ndjson-bom-crlf-blank-lines": {"labels": [1, 1]},
    "52-ndjson-utf16-powershell": {"labels": [1, 1]},
    "56-nested-confidence": {"labels": [1]},
    "57-empty-is-not-unlabelled": {"labels": [1, 0]},
    "62-relationships-and-long-line": {},
}
"""Those that pass all stages: two polygons of one observation, unless another list of polygons is there."""
ENDED = {
    "03-int16-fill-minus9999-untagged": ("export", "line 2, .*s2.tif: got 25.4% of .* -9999 .*; set nodata to -9999"),
    "05-scale-offset-in-tags": ("export", "line 2, .*the tags of s2.tif .*; set offset to -1000"),
    "06-south-up": ("export", "line 2, .*s2.tif: got .*; warp it north up: gdalwarp"),
    "07-rotated": ("export", "line 2, .*s2.tif: got .*; warp it north up: gdalwarp"),
    "11-tci-8bit-scale-1": ("export", "line 2, s2.tif, scale: got reflectance x 10000 from 23 to 202"),
    "12-truncated-download": ("export", "line 2, .*s2.tif: got .*fetch it again"),
    "13-lfs-pointer": ("export", "line 2, .*s2.tif: got a pointer of Git LFS.*; fetch it: git lfs pull"),
    "15-no-crs": ("export", "line 2, .*s2.tif: got CRS None, .*gdal_edit.py -a_srs"),
    "18-tif-is-a-login-page": ("export", "line 2, .*s2.tif: got a web page"),
    "19-hundred-km-away": ("export", "line 2, .*s2.tif: got a raster that lies elsewhere"),
    "21-crs-3857-declared": ("annotations", "mines.geojson: got crs .*3857; .*ogr2ogr -t_srs EPSG:4326"),
    "36-sites-dates-dd-mm-yyyy": (
        "aoi",
        "line 2, site Testa_Bar, months: got '15/01/2023'; expected months as 2023-01",
    ),
    "38-sites-lat-lon-swapped": ("aoi", "swap longitude and latitude"),
    "40-rivers-shapefile-no-prj": ("aoi", "rivers.shp: got no coordinate reference system.*ogr2ogr -a_srs EPSG:4326"),
    "44-path-with-space": ("aoi", "aoi.rivers: got 'River lines.geojson'; expected a path of plain names"),
}
WITHHELD = {
    "23-one-polygon-lat-lon-swapped": (
        "outside_scene",
        "with longitude and latitude swapped it would lie in its scene",
    ),
    "24-null-geometry": ("geometry_missing", "no geometry"),
    "27-bowtie": ("geometry_invalid", "Self-intersection"),
    "31-properties-null": ("confidence_missing", "Confidence: None, but its properties are none"),
    "54-raster-masks": ("geometry_missing", "a raster mask"),
    "55-pixel-coordinates": ("geometry_missing", "a polygon in pixels of an image without a place"),
    "59-external-id-is-file-name": ("unknown_observation", "'Testa_Bar_2023-01-01', with which it begins, is"),
}
"""Those whose only observation is withheld, by the reason of quarantine and what its detail says."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    return lambda name: run_case(SHARED / "cases" / name, tmp_path_factory.mktemp("case"))


def test_the_cases_are_there(shared: Callable[[str], Path]) -> None:
    shared("cases")
    assert {*PASSED, *ENDED, *WITHHELD} <= {*CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str, outcome: Callable[[str], Outcome]) -> None:
    found = outcome(name)
    assert not found.crashed, found.stages
    assert not any("\n" in line for line in found.stages.values())
    if name in PASSED:
        expected = PASSED[name]
        assert found.passed, found.stages
        assert list(found.observations["polygons"]) == expected.get("labels", [2])
        assert found.valid == pytest.approx(expected.get("valid", found.valid), abs=0.01)
        assert expected.get("said", "") in found.said
    elif name in ENDED:
        stage, message = ENDED[name]
        assert list(found.stages)[-1] == stage
        assert re.search(message, found.stages[stage]), found.stages[stage]
    elif name in WITHHELD:
        reason, detail = WITHHELD[name]
        row = found.quarantine.set_index("reason").loc[reason]
        assert detail in row["detail"]
        assert found.observations.empty
