"""The stage export as DVC runs it: a script, paths on its command line, params through DVC."""

import csv
import re
from pathlib import Path

import geopandas as gpd
import pytest

from sandwatch.files import sha256
from sandwatch.schemas import Aoi, Scenes
from tests.conftest import GRID, ROOT, Workspace, a_site, reflectance, write_raster

OBS = "Bhargavi_1_2023-01-01"
PATHS = {
    "aoi": "aoi.parquet",
    "rivers": "rivers.geojson",
    "inputs": "imagery",
    "scenes": "scenes",
    "manifest": "s.parquet",
}


@pytest.fixture
def region(workspace: Workspace) -> Workspace:
    """One site, one scene on its grid."""
    site = a_site()
    row = {
        "site_id": site.site_id, "river": site.river, "district": site.district, "role": "both",
        "longitude": site.longitude, "latitude": site.latitude, "months": "2023-01-01", "utm_crs": GRID.crs,
        "left_m": GRID.left, "top_m": GRID.top, "width_px": GRID.width, "height_px": GRID.height, "area_km2": 0.06,
        "group": 0, "fold": "train",
    }  # fmt: skip
    Aoi.write(gpd.GeoDataFrame([row], geometry=[site.aoi], crs="EPSG:4326"), workspace.root / "aoi.parquet")
    (workspace.root / "rivers.geojson").write_text("not read by this source")
    write_raster(workspace.root / "imagery" / "a.tif", reflectance(3))
    with (workspace.root / "imagery" / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["obs_id", "product", "path", "bands", "scale", "offset"], [OBS, "s2", "a.tif", "B4 B3 B2", 1, 0]]
        )
    workspace.set_params(imagery={"source": "files"}, bands={"s2": ["B4", "B3", "B2"], "s1": []})
    return workspace


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_files_twice(region: Workspace) -> None:
    done = region.run("export", **PATHS)
    assert done.returncode == 0, done.stderr
    assert f"export: 1 of 1, {OBS} exported: 100% of the AOI valid" in done.stdout
    once = hashes(region.root / "scenes") | {"manifest": sha256(region.root / "s.parquet")}
    assert set(once) == {f"{OBS}/s2.tif", f"{OBS}/rgb.tif", "manifest"}
    assert region.run("export", **PATHS).returncode == 0
    assert hashes(region.root / "scenes") | {"manifest": sha256(region.root / "s.parquet")} == once
    assert Scenes.read(region.root / "s.parquet")["source"].tolist() == ["files", "files"]


def test_a_mistake_is_one_line(region: Workspace) -> None:
    write_raster(region.root / "imagery" / "a.tif", reflectance(3), crs=None)
    done = region.run("export", **PATHS)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "a.tif: got CRS None" in done.stderr
    assert not (region.root / "s.parquet").exists()


def test_one_synthetic_site(region: Workspace) -> None:
    region.set_params(
        imagery={"source": "synthetic"}, bands={"s2": ["B4", "B3", "B2", "B8"], "s1": ["VV"]}, aoi={"extent_m": 2000}
    )
    sample = ROOT / "data" / "regions" / "sample"
    lines = (sample / "sites.csv").read_text().splitlines()
    kept = [lines[0], *[re.sub(r";[\d-]+", "", line) for line in lines if "UpperFord" in line or "Velune_Kiln" in line]]
    (region.root / "sites.csv").write_text("\n".join(kept) + "\n")
    rivers = str(sample / "rivers.geojson")
    assert region.run("aoi", sites="sites.csv", rivers=rivers, aoi="aoi.parquet").returncode == 0
    done = region.run("export", **{**PATHS, "rivers": rivers})
    assert done.returncode == 0, done.stderr
    table = Scenes.read(region.root / "s.parquet")
    assert set(table["product"]) == {"s2", "s1", "rgb"}
    assert set(table["source"]) == {"synthetic"}
    assert (table["valid_fraction"] > 0.5).any()
