"""The stage as DVC runs it, with a small network of the real kind: script, paths on its command line, params."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from sandwatch import schemas
from sandwatch.evaluate import grid_of
from sandwatch.files import sha256
from tests.stages.test_infer import BANDS, write_model
from tests.unit.worlds import FOLDS, World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path):
    """A DVC repository with chips of four observations and a model."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("[Ondara]", "[Bera]"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
    data = tmp_path / "data"
    data.mkdir()
    world = World(data, source="synthetic")
    for obs_id in FOLDS:
        world.stacks[obs_id] = np.concatenate([world.stacks[obs_id]] * (len(BANDS) // 2))
    world.write(BANDS)
    windows = world.windows.assign(
        chip_id=[f"{row.obs_id}_g{row.row}_{row.col}" for row in world.windows.itertuples()],
        group=0, px_other=1, px_low=0, px_high=0, px_ignored=0, aoi_fraction=1.0, valid_fraction=1.0,
    )  # fmt: skip
    schemas.Windows.write(windows, data / "chips" / "windows.parquet")
    aoi = world.aoi.assign(
        district="D", role="label", longitude=20.0, latitude=10.0, months="2024-01-01", area_km2=1.0, group=0
    )
    schemas.Aoi.write(aoi, data / "aoi" / "aoi.parquet")
    schemas.Scenes.write(world.manifest, data / "scenes.parquet")
    grid = grid_of(aoi, "low")
    label = {
        "feature_id": "f", "obs_id": "low_2024-01-01", "class_name": "Sand mine",
        "confidence": "high",
        "geometry": shapely.box(grid.left + 500, grid.top - 500, grid.left + 600, grid.top - 400),
    }  # fmt: skip
    labels = gpd.GeoDataFrame([label], crs=grid.crs).to_crs("EPSG:4326")
    schemas.CanonicalLabels.write(labels, data / "canonical" / "labels.parquet")
    write_model(tmp_path / "models")
    return tmp_path


def run_stage(workspace):
    command = [
        sys.executable, ROOT / "stages" / "evaluate.py", "--aoi", "data/aoi/aoi.parquet", "--manifest",
        "data/scenes.parquet", "--scenes", "data/scenes", "--canonical", "data/canonical", "--chips", "data/chips",
        "--weights", "models/model.safetensors", "--results", "results/evaluate",
    ]  # fmt: skip
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


@pytest.mark.slow  # runs the stage twice
def test_judges_the_network_and_gives_the_same_bytes_twice(workspace):
    done = run_stage(workspace)
    assert done.returncode == 0, done.stderr
    assert "test: 2 observations of 1 site (Bera), AP 0." in done.stdout
    results = workspace / "results" / "evaluate"
    metrics = json.loads((results / "metrics.json").read_text())
    assert 0 < metrics["ap"] < 1
    assert metrics["mines"] == 4
    assert "**SYNTHETIC imagery, labels and training imagery.**" in (results / "report.md").read_text()
    once = {path.name: sha256(path) for path in results.iterdir()}
    assert {"worst_misses.png", "reliability.png", "pr_curve.csv"} <= set(once)
    shutil.rmtree(results)
    assert run_stage(workspace).returncode == 0
    assert {path.name: sha256(path) for path in results.iterdir()} == once


def test_an_empty_test_fold_is_one_line_and_writes_nothing(workspace):
    path = workspace / "data" / "chips" / "windows.parquet"
    windows = schemas.Windows.read(path)
    schemas.Windows.write(windows[windows["fold"] != "test"], path)
    done = run_stage(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/chips/windows.parquet: got folds train, val; expected windows of the")
    assert done.stderr.count("\n") == 1
    assert not (workspace / "results").exists()
