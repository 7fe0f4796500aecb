"""The stage as DVC runs it, with a small network of the real kind: script, paths on its command line, params."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sandwatch import raster, schemas
from sandwatch.files import sha256
from sandwatch.infer import read_score
from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import score, to_scores
from sandwatch.scene import SceneReader, exported
from tests.models import section, spec
from tests.unit.test_infer import BANDS, make_site, tables

ROOT = Path(__file__).parents[2]
OBS_ID = "kanhan_2023-02-01"


def write_model(folder, method="binary", overlap_px=8, seed=1):
    """A network with random weights, its batch statistics as a trained one's, and its spec."""
    model = section(method=method)
    torch.manual_seed(seed)
    network = model.build(BANDS, 32)
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    of = spec(
        model, bands=BANDS, overlap_px=overlap_px, batch_size=8, mean=(1000.0, 1000.0, 1200.0, -1200.0),
        std=(100.0, 100.0, 300.0, 200.0), threshold=0.5, label_fingerprint="1" * 64, imagery="synthetic",
        labels="synthetic",
    )  # fmt: skip
    save_file(weights, folder / "model.safetensors", metadata=of.header())


@pytest.fixture
def workspace(tmp_path):
    """A DVC repository with a scene and a model."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
    aoi, manifest = tables(make_site(tmp_path / "data" / "scenes"))
    west, south, east, north = aoi.total_bounds
    line = {"type": "LineString", "coordinates": [[west, south], [east, north]]}
    river = {"type": "Feature", "properties": {}, "geometry": line}
    (tmp_path / "rivers.geojson").write_text(json.dumps(river))
    schemas.Aoi.write(aoi, tmp_path / "data" / "aoi" / "aoi.parquet")
    schemas.Scenes.write(manifest, tmp_path / "data" / "scenes.parquet")
    write_model(tmp_path / "models", overlap_px=12)
    return tmp_path


COMMAND = [
    sys.executable, ROOT / "stages" / "infer.py", "--aoi", "data/aoi/aoi.parquet", "--rivers", "rivers.geojson",
    "--manifest", "data/scenes.parquet", "--scenes", "data/scenes", "--weights", "models/model.safetensors",
    "--predictions", "data/predictions",
]  # fmt: skip


def run_stage(workspace):
    return subprocess.run(COMMAND, cwd=workspace, capture_output=True, text=True, check=False)


def hashes(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow  # runs the stage twice
def test_maps_a_scene_with_the_network_and_the_same_bytes_twice(workspace):
    done = run_stage(workspace)
    assert done.returncode == 0, done.stderr
    assert f"[1/1] {OBS_ID}: 3.5 km2 mapped" in done.stdout
    predictions = workspace / "data" / "predictions"
    once = hashes(predictions)
    assert {path.split("/")[-1] for path in once} == {
        "score.tif", "mask.tif", "detections.parquet", "item.json", "model.json", "collection.json",
        "mines.parquet", "mine_months.parquet",
    }  # fmt: skip

    predictor = Predictor.load(workspace / "models" / "model.safetensors", "cpu", precision="32-true")
    folder = workspace / "data" / "scenes" / OBS_ID
    rasters = exported(schemas.Scenes.read(workspace / "data" / "scenes.parquet"), folder.parent)[OBS_ID]
    with SceneReader(OBS_ID, rasters, raster.read_grid(folder / "s2.tif"), BANDS) as scene:
        expected = to_scores(np.concatenate([part.steps for part in score(scene, predictor)]))
    stored = read_score(predictions / OBS_ID / "score.tif")
    inside = ~np.isnan(stored)
    assert inside.sum() > 10_000
    np.testing.assert_allclose(stored[inside], expected[inside], atol=2e-4)
    assert stored[inside].std() > 1e-3
    weights = sha256(workspace / "models" / "model.safetensors")
    assert raster.read_tags(predictions / OBS_ID / "mask.tif")["MODEL_SHA256"] == weights

    shutil.rmtree(predictions)
    shutil.rmtree(workspace / ".cache")  # what was done is done again
    assert run_stage(workspace).returncode == 0
    assert hashes(predictions) == once


@pytest.mark.slow  # runs the stage three times
def test_what_a_killed_run_had_mapped_is_not_mapped_again(workspace):
    months = [f"2023-{month:02}-01" for month in range(1, 9)]
    aoi, manifest = tables(make_site(workspace / "data" / "scenes", months=months))
    schemas.Aoi.write(aoi, workspace / "data" / "aoi" / "aoi.parquet")
    schemas.Scenes.write(manifest, workspace / "data" / "scenes.parquet")
    with subprocess.Popen(COMMAND, cwd=workspace, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith("[1/8] kanhan_2023-01-01: 3.5 km2 mapped")
        process.kill()
    kept = len(list((workspace / ".cache/sandwatch/work/units").iterdir()))
    assert 1 <= kept < 8
    shutil.rmtree(workspace / "data" / "predictions")  # as DVC does before it runs the stage again
    done = run_stage(workspace)
    assert done.returncode == 0, done.stderr
    *scenes, mines = done.stdout.splitlines()
    assert [line.endswith(" (by an earlier run)") for line in scenes] == [n < kept for n in range(8)]
    assert " mines in " in mines
    assert len(list((workspace / "data" / "predictions").glob("*/score.tif"))) == 8


def test_a_scene_without_a_band_of_the_model_is_one_line(workspace):
    manifest = schemas.Scenes.read(workspace / "data" / "scenes.parquet")
    manifest.loc[manifest["product"] == "s1", "bands"] = "VH"
    schemas.Scenes.write(manifest, workspace / "data" / "scenes.parquet")
    done = run_stage(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: scene {OBS_ID}, s1: got bands VH; expected VV among them, which the model")
    assert done.stderr.count("\n") == 1
    assert not (workspace / "data" / "predictions").exists()
