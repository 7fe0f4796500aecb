"""The stage export as DVC runs it: a script, paths on its command line, params through DVC."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import geopandas as gpd
import pytest
from shapely import LineString

from sandwatch.files import sha256
from sandwatch.geometry import reproject
from sandwatch.raster import read_tags
from sandwatch.schemas import Aoi, Scenes
from tests.conftest import GRID, ROOT, Workspace, a_site, reflectance, write_geojson, write_raster

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
    shutil.rmtree(region.root / ".cache")  # what was done is done again
    assert region.run("export", **PATHS).returncode == 0
    assert hashes(region.root / "scenes") | {"manifest": sha256(region.root / "s.parquet")} == once
    assert Scenes.read(region.root / "s.parquet")["source"].tolist() == ["files", "files"]
    assert {read_tags(path)["IMAGERY"] for path in (region.root / "scenes").rglob("*.tif")} == {"real"}


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
    assert {read_tags(path)["IMAGERY"] for path in (region.root / "scenes").rglob("*.tif")} == {"synthetic"}
    assert (table["valid_fraction"] > 0.5).any()


@pytest.fixture
def running(region: Workspace) -> Iterator["subprocess.Popen[str]"]:
    """The stage with two workers, in a session of its own, once the first of its many observations is done."""
    months = [f"20{year}-{month:02}-01" for year in range(10, 22) for month in range(1, 13)]
    table = Aoi.read(region.root / "aoi.parquet")
    Aoi.write(table.assign(months=";".join(months)), region.root / "aoi.parquet")
    left, bottom, right, top = GRID.bounds
    across = reproject(LineString([(left - 500, bottom), (right + 500, top)]), GRID.crs, "EPSG:4326")
    write_geojson(region.root / "rivers.geojson", {"Bhargavi": across})
    region.set_params(imagery={"source": "synthetic"})
    command = [sys.executable, str(ROOT / "stages" / "export.py")]
    command += [part for name, path in PATHS.items() for part in (f"--{name}", path)]
    with subprocess.Popen(
        command, cwd=region.root, env={**os.environ, "SANDWATCH_WORKERS": "2"}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit "ignored"
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("export: 1 of 144"), process.stderr.read()
        assert len(session(process.pid)) >= 3
        yield process
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if int(of) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def test_what_a_killed_run_had_exported_is_not_exported_again(region: Workspace) -> None:
    months = [f"20{year}-{month:02}-01" for year in (22, 23) for month in range(1, 13)]
    table = Aoi.read(region.root / "aoi.parquet")
    Aoi.write(table.assign(months=";".join(months)), region.root / "aoi.parquet")
    rows = [[f"Bhargavi_1_{month}", "s2", "a.tif", "B4 B3 B2", 1, 0] for month in months]
    with (region.root / "imagery" / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["obs_id", "product", "path", "bands", "scale", "offset"], *rows])
    command = [sys.executable, str(ROOT / "stages" / "export.py")]
    command += [part for name, path in PATHS.items() for part in (f"--{name}", path)]
    with subprocess.Popen(
        command, cwd=region.root, env={**os.environ, "SANDWATCH_WORKERS": "1"}, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline()[:17] for _ in range(2)] == ["export: 1 of 24, ", "export: 2 of 24, "]
        process.kill()
    kept = len(list((region.root / ".cache/sandwatch/work/units").iterdir()))
    assert 2 <= kept < 24
    shutil.rmtree(region.root / "scenes")  # as DVC does before it runs the stage again
    done = region.run("export", **PATHS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exported: 100% of the AOI valid (by an earlier run)") == kept
    found = hashes(region.root / "scenes")
    assert len(found) == 48
    assert len(set(found.values())) == 2  # the same file every month: what was taken is what was made now
    manifest = Scenes.read(region.root / "s.parquet")
    assert dict(zip(manifest["path"], manifest["sha256"], strict=True)) == found


@pytest.mark.parametrize("to", ["terminal", "stage alone"])
def test_ctrl_c_ends_the_stage_and_its_workers_at_once(running: "subprocess.Popen[str]", to: str) -> None:
    (os.killpg if to == "terminal" else os.kill)(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert said == "stopped: Ctrl-C; dvc repro runs this stage again, with the work that was finished\n"
    assert running.returncode == 130
    assert wait_until(lambda: not session(running.pid))


def test_no_worker_outlives_the_stage(running: "subprocess.Popen[str]") -> None:
    running.kill()
    assert wait_until(lambda: not session(running.pid))
