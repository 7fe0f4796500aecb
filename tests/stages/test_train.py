"""The stage as DVC runs it: a script, paths on its command line, params through DVC."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import save_file

from sandwatch import params as params_of
from sandwatch.files import sha256
from sandwatch.model.network import Model
from sandwatch.schemas import Windows
from tests import tiny_chips, training

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A DVC repository with tiny chips and a network that learns them in seconds."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["bands"] = {"s2": list(tiny_chips.BANDS), "s1": []}
    params["chips"]["size_px"] = tiny_chips.SIZE
    params["model"].update(encoder="tu-mobilenetv3_small_050", depth=3, decoder_channels=[16, 8, 8])
    params["train"].update(epochs=2, windows_per_epoch=16, batch_size=8)
    params["scoring"].update(overlap_px=8)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
    tiny_chips.write(tmp_path / "chips")
    (tmp_path / "weights").mkdir()
    (tmp_path / "code.json").write_text(json.dumps({"stages/train.py": "4" * 64}))
    return tmp_path


COMMAND = [sys.executable, str(ROOT / "stages" / "train.py"), "--chips", "chips", "--models", "models"]
COMMAND += ["--code", "code.json", "--weights", "weights", "--results", "results"]


def run(workspace: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=workspace, capture_output=True, text=True, check=False)


@pytest.mark.slow  # trains
def test_the_stage_gives_the_same_bytes_after_a_kill_and_a_card_that_names_what_made_it(workspace: Path) -> None:
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()][:2] == ["epoch 1/2", "epoch 2/2"]

    def outputs() -> dict[str, str]:
        files = [path for folder in ("models", "results") for path in (workspace / folder).rglob("*")]
        return {path.relative_to(workspace).as_posix(): sha256(path) for path in files if path.is_file()}

    first = outputs()
    assert {
        "models/exposures.parquet",
        "models/model.json",
        "models/model.safetensors",
        "results/metrics.json",
        "results/plots/metrics/val/AP.tsv",
    } <= first.keys()
    for name in ("models", "results"):  # as DVC does before it runs a stage
        shutil.rmtree(workspace / name)
    facts = json.loads((workspace / "runs" / "train.json").read_text())
    record = json.loads((workspace / "data/arithmetic.json").read_text())
    with subprocess.Popen(COMMAND, cwd=workspace, stdout=subprocess.PIPE, text=True) as process:
        units = workspace / ".cache/sandwatch/work/units"
        while process.poll() is None and not list(units.glob("[0-9a-f]*")):
            time.sleep(0.01)
        process.kill()
    shutil.rmtree(workspace / "results")
    for name in ("runs", "data"):  # where nothing can be written, facts of the run don't fail it
        shutil.rmtree(workspace / name)
        (workspace / name).touch()
    again = run(workspace)
    assert again.returncode == 0, again.stderr
    assert re.match(r"epochs 1 to [12] of 2 are done, by an earlier run\n", again.stdout)
    notes = [line for line in again.stdout.splitlines() if line.startswith("note: ")]
    assert [line.split(": got ")[0] for line in notes] == ["note: data/arithmetic.json", "note: runs/train.json"]
    assert outputs() == first
    assert not list(units.iterdir())

    card = json.loads((workspace / "models" / "model.json").read_text())
    assert card["label_fingerprint"] == "3" * 64
    assert card["weights_sha256"] == first["models/model.safetensors"]
    assert card["inputs"]["chips/windows.parquet"] == sha256(workspace / "chips" / "windows.parquet")
    assert card["inputs"].keys() >= {
        "chips/about.json",
        "chips/pixels/a_2020-01-01.npy",
        "chips/masks/t_2020-01-01.npy",
    }
    assert card["code"] == {"stages/train.py": "4" * 64}
    assert facts["cpu_capability"] == "AVX2"
    for name in facts:
        assert name not in card
    assert record["weights_sha256"] == first["models/model.safetensors"]
    assert record["operations"] == facts["arithmetic"]["operations"]
    assert record["fingerprint"] == facts["arithmetic"]["fingerprint"]


RECIPES = {
    "gradual": {
        "ema": 0.9,
        "optimizer": "sgd",
        "radiometry": {"gain": 0.1, "offset": 0.1, "noise": 0.1, "gamma": 0.1},
        "tuning": {"method": "gradual", "frozen_share": 0.5, "layer_decay": 0.7},
    },
    "lora": {
        "ema": 0.9,
        "tuning": {
            "method": "lora",
            "lora": {"rank": 2, "alpha": 4, "dropout": 0.2, "targets": r"model\.blocks\..*conv_pwl?"},
        },
    },
}


@pytest.mark.slow  # trains
@pytest.mark.parametrize("name", RECIPES)
def test_a_training_killed_at_random_steps_ends_with_the_same_bytes(name: str, workspace: Path) -> None:
    """Whatever it holds beside the weights: their average, adapters, an encoder that learns later."""
    if name == "lora":
        training.want_peft()
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    for key, value in RECIPES[name].items():
        params["train"][key] = params["train"][key] | value if isinstance(value, dict) else value
    params["train"].update(epochs=14, patience=14)
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    whole = {path.name: sha256(path) for path in (workspace / "models").iterdir()}
    shutil.rmtree(workspace / "models")
    draw, told = random.Random(name), []
    for _ in range(3):
        shutil.rmtree(workspace / "results")
        with subprocess.Popen(COMMAND, cwd=workspace, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told += [process.stdout.readline() for _ in range(2)]  # by the second line, an epoch is kept
            time.sleep(draw.uniform(0, 1))  # an epoch takes about as long
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (workspace / "models").exists()
    shutil.rmtree(workspace / "results")
    again = run(workspace)
    assert again.returncode == 0, again.stderr
    told.append(again.stdout.splitlines()[0])
    assert told[0].startswith("epoch 1/14")
    assert re.match(r"epochs 1 to \d+ of 14 are done, by an earlier run", told[-1]), told
    assert {path.name: sha256(path) for path in (workspace / "models").iterdir()} == whole


@pytest.mark.slow  # trains
def test_the_file_that_training_starts_from_is_pinned_and_named_in_the_card(workspace: Path) -> None:
    path = workspace / "weights" / "start.safetensors"
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["train"]["epochs"] = 1
    network = params_of.check(Model, params["model"]).build(tiny_chips.BANDS, tiny_chips.SIZE)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    params["model"]["weights"] = {"name": path.name, "sha256": sha256(path)}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    card = json.loads((workspace / "models" / "model.json").read_text())
    assert card["inputs"]["weights/start.safetensors"] == sha256(path)
    path.write_bytes(path.read_bytes() + b" ")
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: model.weights: start.safetensors: got ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow  # trains
def test_a_training_outside_reproducible_mode_claims_no_arithmetic(workspace: Path) -> None:
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["compute"].update(reproducible=False)
    params["train"].update(epochs=1)
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    assert run(workspace).returncode == 0
    assert "arithmetic" not in json.loads((workspace / "runs" / "train.json").read_text())
    assert not (workspace / "data/arithmetic.json").exists()


def test_chips_that_do_not_say_what_they_are_made_of_are_refused_in_one_line(workspace: Path) -> None:
    (workspace / "chips" / "about.json").write_text("{}")
    done = run(workspace)
    assert done.returncode == 1
    assert re.fullmatch(r"error: chips/about\.json: got .*; run dvc checkout chips or dvc repro chips\n", done.stderr)
    assert not (workspace / "models").exists()


@pytest.mark.slow  # trains
def test_a_run_that_is_ended_from_outside_fails(workspace: Path) -> None:
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["train"].update(epochs=500, patience=500)
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    with subprocess.Popen(COMMAND, cwd=workspace, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("epoch 1/500")
        process.terminate()
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert not (workspace / "models").exists()


@pytest.mark.slow
def test_two_processes_share_one_validation_window(workspace: Path) -> None:
    """One of them has none to score, and neither waits for the other for ever, nor for gradients of what is frozen."""
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["compute"]["reproducible"] = False
    params["train"].update(windows_per_epoch=8, batch_size=4, ema=0.5)
    params["train"]["tuning"].update(method="gradual", frozen_share=0.5)
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    windows = Windows.read(workspace / "chips" / "windows.parquet")
    one = windows[(windows["fold"] == "val") & (windows["px_high"] > 0)].iloc[:1]
    Windows.write(pd.concat([windows[windows["fold"] == "train"], one]), workspace / "chips" / "windows.parquet")
    places = {"PL_TRAINER_ACCELERATOR": "cpu", "PL_TRAINER_DEVICES": "2", "PL_TRAINER_STRATEGY": "ddp"}
    with subprocess.Popen(
        COMMAND, cwd=workspace, env={**os.environ, **places, "OMP_NUM_THREADS": "1"}, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            said, wrong = process.communicate(timeout=900)  # seconds alone, minutes on a busy machine
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, wrong
    assert [line.split(":")[0] for line in said.splitlines()][:2] == ["epoch 1/2", "epoch 2/2"]
    assert json.loads((workspace / "runs" / "train.json").read_text())["processes"] == 2
    assert (workspace / "models" / "model.safetensors").is_file()
