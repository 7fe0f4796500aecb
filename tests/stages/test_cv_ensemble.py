"""The stage as DVC runs it: the models of three replicates together, and each alone, on the river held out."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from sandwatch import schemas
from tests.stages.test_evaluate import ROOT, workspace  # noqa: F401 - a fixture
from tests.stages.test_infer import write_model


@pytest.fixture
def crossed(workspace):  # noqa: F811 - a fixture
    """The workspace of ``evaluate`` after a cross-validation with three replicates of the two sites it may touch."""
    parts = (("train", "val"), ("val", "train"), ("train", "val"))
    rows = [
        (number, site, 0, fold)
        for number, folds in enumerate(parts, 1)
        for site, fold in zip(("up", "mid"), folds, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["replicate", "site_id", "group", "fold"])
    schemas.Folds.write(table, workspace / "data" / "folds.parquet")
    path = workspace / "params.yaml"
    text = path.read_text().replace("by: []", "by: [groups]").replace("replicates: []", "replicates: [1, 2, 3]")
    path.write_text(text.replace("ensemble: []", "ensemble: [holdout]"))
    for number in (1, 2, 3):
        write_model(workspace / "models" / "cv" / str(number), seed=number)
    return workspace


def run_stage(workspace):  # noqa: F811 - what the fixture made
    command = [
        sys.executable, ROOT / "stages" / "cv_ensemble.py", "--aoi", "data/aoi/aoi.parquet", "--manifest",
        "data/scenes.parquet", "--scenes", "data/scenes", "--chips", "data/chips", "--folds", "data/folds.parquet",
        "--models", "models/cv", "--results", "results/cv_ensemble", "--summary-file", "results/cv_ensemble.json",
    ]  # fmt: skip
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def test_all_together_are_judged_beside_each_alone(crossed):
    done = run_stage(crossed)
    assert done.returncode == 0, done.stderr
    assert (
        "all 3 together: SYNTHETIC imagery, labels and training imagery. test: 2 observations of 1 site" in done.stdout
    )
    results = crossed / "results"
    made = json.loads((results / "cv_ensemble.json").read_text())
    assert made["ensemble"] == json.loads((results / "cv_ensemble" / "metrics.json").read_text())
    alone = [json.loads((results / "cv_ensemble" / str(n) / "metrics.json").read_text())["ap"] for n in (1, 2, 3)]
    assert len(set(alone)) == 3
    assert made["alone"]["ap"]["min"] == min(alone)
    assert made["alone"]["ap"]["max"] == max(alone)
    assert made["alone"]["ap"]["mean"] == pytest.approx(sum(alone) / 3, abs=1e-6)
    assert made["ensemble"]["ap"] not in alone
    assert made["ensemble"]["ap_val"] is None
    rows = pd.read_csv(results / "cv_ensemble" / "observations.csv")
    assert set(rows["obs_id"]) == {"low_2024-01-01", "low_2024-05-01"}


def test_models_that_do_not_fit_each_other_are_one_line_and_write_nothing(crossed):
    shutil.rmtree(crossed / "models" / "cv" / "2")
    write_model(crossed / "models" / "cv" / "2", overlap_px=4)
    done = run_stage(crossed)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ensemble, models/cv/2/model.safetensors: got overlap_px 4; expected 8, as ")
    assert done.stderr.count("\n") == 1
    assert not (crossed / "results").exists()
