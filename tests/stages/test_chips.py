"""The stage as DVC runs it: a script, paths on its command line, params through DVC."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import yaml
from shapely.geometry import box

from sandwatch import raster
from sandwatch.files import sha256, write_json
from sandwatch.grid import Grid, Window
from sandwatch.schemas import Aoi, CanonicalIgnored, CanonicalLabels, CanonicalObservations, ChipLabels, Scenes, Windows
from sandwatch.train.data import Chips

ROOT = Path(__file__).parents[2]
UTM = "EPSG:32645"
GRIDS = {
    site: Grid(crs=UTM, left=500_000.0 + 60_000.0 * i, top=2_400_000.0, width=80, height=60)
    for i, site in enumerate(("near", "between", "far"))
}
MONTH = "2020-01-01"


def on_ground(grid: Grid, row: int, col: int, height: int, width: int) -> gpd.GeoSeries:
    area = box(*grid.crop(Window(row=row, col=col, height=height, width=width)).bounds).buffer(-1)
    return gpd.GeoSeries([area], crs=UTM).to_crs("EPSG:4326")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A DVC repository with three sites, a month and a polygon each."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["bands"] = {"s2": ["B2", "B4"], "s1": []}
    params["chips"].update(size_px=32, stride_px=16)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
    sites, scenes, observations, labels = [], [], [], []
    for i, ((site, grid), fold) in enumerate(zip(GRIDS.items(), ("train", "val", "test"), strict=True)):
        obs_id = f"{site}_{MONTH}"
        pixels = np.random.default_rng(i).integers(1, 4000, (2, *grid.shape)).astype(np.uint16)
        raster.write_cog(tmp_path / "scenes" / obs_id / "s2.tif", pixels, grid, bands=("B2", "B4"), nodata=0)
        sites.append(
            {
                "site_id": site,
                "river": "r",
                "district": "d",
                "role": "label",
                "longitude": 87.0,
                "latitude": 21.7,
                "months": MONTH,
                "utm_crs": UTM,
                "left_m": grid.left,
                "top_m": grid.top,
                "width_px": grid.width,
                "height_px": grid.height,
                "area_km2": 0.48,
                "group": i,
                "fold": fold,
                "geometry": on_ground(grid, 0, 0, 60, 80)[0],
            }
        )
        scenes.append(
            {
                "obs_id": obs_id,
                "site_id": site,
                "date": MONTH,
                "product": "s2",
                "status": "exported",
                "detail": None,
                "path": f"{obs_id}/s2.tif",
                "bands": "B2,B4",
                "crs": UTM,
                "transform": "",
                "width_px": grid.width,
                "height_px": grid.height,
                "dtype": "uint16",
                "nodata": 0.0,
                "valid_fraction": 1.0,
                "source": "files",
                "source_images": "[]",
                "sha256": sha256(tmp_path / "scenes" / obs_id / "s2.tif"),
            }
        )
        observations.append(
            {
                "obs_id": obs_id,
                "site_id": site,
            }
        )
        labels.append(
            {
                "feature_id": f"{site}-a",
                "obs_id": obs_id,
                "class_name": "Sand mine",
                "confidence": "high",
                "geometry": on_ground(grid, 20, 30, 10, 12)[0],
            }
        )
    Aoi.write(gpd.GeoDataFrame(sites, crs="EPSG:4326"), tmp_path / "aoi.parquet")
    Scenes.write(pd.DataFrame(scenes), tmp_path / "scenes.parquet")
    CanonicalObservations.write(pd.DataFrame(observations), tmp_path / "canonical" / "observations.parquet")
    CanonicalLabels.write(gpd.GeoDataFrame(labels, crs="EPSG:4326"), tmp_path / "canonical" / "labels.parquet")
    nothing = gpd.GeoDataFrame({"obs_id": []}, geometry=[], crs="EPSG:4326")
    CanonicalIgnored.write(nothing, tmp_path / "canonical" / "ignored.parquet")
    write_json(tmp_path / "canonical" / "fingerprint.json", {"label_fingerprint": "5" * 64})
    return tmp_path


def run(workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "stages" / "chips.py")]
    for name, value in {
        "aoi": "aoi.parquet",
        "manifest": "scenes.parquet",
        "scenes": "scenes",
        "canonical": "canonical",
        "chips": "chips",
        "metrics": "metrics.json",
    }.items():
        command += [f"--{name}", value]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def contents(workspace: Path) -> dict[str, bytes]:
    files = {path.relative_to(workspace).as_posix(): path for path in (workspace / "chips").rglob("*")}
    return {name: path.read_bytes() for name, path in files.items() if path.is_file()}


def test_the_stage_writes_chips_that_training_reads(workspace: Path) -> None:
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    windows = Windows.read(workspace / "chips" / "windows.parquet")
    chip_labels = ChipLabels.read(workspace / "chips" / "chip_labels.parquet")
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert metrics["observations"] == 3
    assert metrics["labels_without_chip"] == 0
    assert [metrics[f"windows_{fold}"] for fold in ("train", "val", "test")] == [
        (windows["fold"] == fold).sum() for fold in ("train", "val", "test")
    ]
    assert metrics["train_test_min_distance_km"] == pytest.approx(119.2, abs=0.1)
    whole = windows[(windows["row"] == 16) & (windows["col"] == 16)].set_index("obs_id")["chip_id"]
    given = chip_labels.set_index(["chip_id", "feature_id"])["pixels"]
    assert given[whole[f"near_{MONTH}"], "near-a"] == 10 * 12

    chips = Chips(workspace / "chips")
    pixels, mask = chips.gather(np.flatnonzero(chips.chip_id == whole[f"far_{MONTH}"]))
    assert (mask[0, 4:14, 14:26] == 2).all()
    assert (mask == 2).sum() == 120
    scene = raster.read(workspace / "scenes" / f"far_{MONTH}" / "s2.tif", bands=("B2", "B4"))
    np.testing.assert_array_equal(pixels[0], scene[:, 16:48, 16:48])
    assert json.loads((workspace / "chips" / "about.json").read_text()) == {
        "label_fingerprint": "5" * 64,
        "imagery": "real",
        "labels": "synthetic",
    }
    first = contents(workspace)
    shutil.rmtree(workspace / "chips")
    assert run(workspace).returncode == 0
    assert contents(workspace) == first


def test_a_fingerprint_that_is_none_is_one_line(workspace: Path) -> None:
    (workspace / "canonical" / "fingerprint.json").write_bytes(b"")
    done = run(workspace)
    assert done.returncode == 1
    assert re.match(r"error: canonical/fingerprint.json: got .+; expected .+; run dvc checkout annot", done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_label_revision_leaves_the_pixels_as_they_are(workspace: Path) -> None:
    run(workspace)
    before = contents(workspace)
    path = workspace / "canonical" / "labels.parquet"
    labels = CanonicalLabels.read(path)
    labels.loc[labels["feature_id"] == "near-a", "geometry"] = on_ground(GRIDS["near"], 20, 30, 9, 12).to_numpy()
    CanonicalLabels.write(labels, path)
    assert run(workspace).returncode == 0
    after = contents(workspace)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"chips/chip_labels.parquet", "chips/windows.parquet", f"chips/masks/near_{MONTH}.npy"}


def test_the_number_of_workers_is_that_of_the_environment(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDWATCH_WORKERS", "many")
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: environment variable SANDWATCH_WORKERS: got 'many'; expected a whole number")


def test_folds_too_near_each_other_are_refused_in_one_line(workspace: Path) -> None:
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["split"]["min_distance_km"] = 70
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: observations between_{MONTH} (val) and far_{MONTH} (test): got 59.2 km")
    assert len(done.stderr.splitlines()) == 1
    assert not (workspace / "chips").exists()
