"""`sandwatch sweep` as a user drives it, with real DVC, Optuna and git, and a stage that trains nothing."""

import csv
import io
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from .conftest import ROOT, Workspace, started

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow  # seconds of dvc a trial

SWEEP: dict[str, Any] = {
    "target": "train",
    "trials": 5,
    "seed": 1,
    "search": {
        "train.learning_rate": {"low": 0.0002, "high": 0.02, "log": True},
        "train.patience": {"low": 1, "high": 9},
    },
}
DAG = {
    "stages": {
        "train": {
            "cmd": "python toy.py",
            "params": ["train.learning_rate", "train.patience"],
            "deps": ["toy.py"],
            "outs": ["results/train"],
        }
    },
    "metrics": ["results/train/metrics.json"],
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A clone whose train is toy.py; nothing has run."""
    workspace = started(tmp_path_factory.mktemp("toy") / "clone")
    (workspace.root / "toy.py").write_text((ROOT / "tests/integration/toy.py").read_text())
    (workspace.root / "dvc.yaml").write_text(yaml.safe_dump(DAG))
    workspace.run("git", "rm", "-rq", "results")
    workspace.commit("toy")
    return workspace


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where toy.py says what it ran, and is told what to do."""
    folder = tmp_path / "told"
    folder.mkdir()
    monkeypatch.setenv("TOY", str(folder))
    return folder


@pytest.fixture
def clone(toy: Workspace, tmp_path: Path, told: Path) -> Workspace:
    (toy.root / ".dvc/cache").mkdir(exist_ok=True)
    copy = toy.copy(tmp_path / "clone")
    write(copy)
    return copy


def write(workspace: Workspace, **changes: Any) -> None:
    """Writes the sweep's file, beside the clone."""
    (workspace.root.parent / "rates.yaml").write_text(yaml.safe_dump(SWEEP | changes))


def ran(told: Path) -> list[float]:
    return [float(line) for line in (told / "ran").read_text().split()] if (told / "ran").exists() else []


def rows(workspace: Workspace, name: str) -> dict[str, tuple[float, float]]:
    """Learning rate and AP of the experiments of a sweep, by number."""
    table = csv.DictReader(io.StringIO(workspace.run("dvc", "exp", "show", "--csv")))
    return {
        row["Experiment"].removeprefix(f"{name}-"): (float(row["train.learning_rate"]), float(row["val_ap"]))
        for row in table
        if row["Experiment"].startswith(f"{name}-")
    }


def start(workspace: Workspace, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, cwd=workspace.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(what: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_trials_are_experiments_and_a_failed_one_stops_nothing(clone: Workspace, told: Path) -> None:
    printed = clone.run("sandwatch", "sweep", "../rates.yaml")
    assert clone.run("git", "status", "--porcelain") == ""
    rates = ran(told)
    assert len(rates) == 5
    failed = [str(number) for number, rate in enumerate(rates, 1) if rate > 0.01]
    assert failed  # else this seed tests too little
    found = rows(clone, "rates")
    assert {number: rate for number, (rate, _) in found.items()} == {
        str(number): rate for number, rate in enumerate(rates, 1) if str(number) not in failed
    }
    for number in failed:
        assert f"rates-{number} failed: training: got scores that are no numbers at {rates[int(number) - 1]}" in printed
    best = max(found, key=lambda number: found[number][1])
    assert f"dvc exp apply rates-{best}" in printed
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("rates-") and "failed" not in line]
    assert listed == [f"rates-{number}" for number in sorted(found, key=lambda number: -found[number][1])]

    again = clone.run("sandwatch", "sweep", "../rates.yaml")
    assert ran(told) == rates  # neither those that trained nor those that failed ran again
    assert again in printed

    write(clone, trials=6)
    clone.run("sandwatch", "sweep", "../rates.yaml")
    assert ran(told)[:-1] == rates  # more trials: one more


def test_a_killed_sweep_goes_on_as_if_nothing_had_been(clone: Workspace, told: Path) -> None:
    write(clone, trials=2)
    clone.run("sandwatch", "sweep", "../rates.yaml")
    before = ran(told)
    write(clone)
    (told / "hold").touch()
    running = start(clone, "sandwatch", "sweep", "../rates.yaml")
    wait_for(lambda: len(ran(told)) == 3)
    below = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive  # dvc and its stage have ended with it
    (told / "hold").unlink()
    killed = ran(told)
    assert "rates-3" not in clone.run("git", "for-each-ref", "refs/exps")

    clone.run("sandwatch", "sweep", "../rates.yaml")
    assert ran(told)[:4] == [*killed, killed[2]]  # the third again, with its values; neither of those before
    assert killed[:2] == before
    clone.run("sandwatch", "sweep", "../rates.yaml", "--name", "whole")
    assert rows(clone, "rates") == rows(clone, "whole")  # and none that DVC takes to be running still
    assert not list((clone.root / ".dvc/tmp/exps/standalone").glob("tmp*"))


def test_ctrl_c_stops_with_one_line_and_leaves_nothing(clone: Workspace, told: Path) -> None:
    (told / "hold").touch()
    running = start(clone, "sandwatch", "sweep", "../rates.yaml")
    wait_for(lambda: ran(told))
    below = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert printed.splitlines()[-1] == "stopped: Ctrl-C; the same command goes on where this one stopped"
    assert "sandwatch/cli" not in printed  # no traceback of ours
    assert not psutil.wait_procs(below, timeout=10)[1]
    assert not list((clone.root / ".dvc/tmp/exps/standalone").glob("tmp*"))


def test_it_stops_where_all_fail_and_tries_them_again_once_that_is_mended(clone: Workspace, told: Path) -> None:
    (told / "broken").touch()
    printed = clone.run("sandwatch", "sweep", "../rates.yaml", fails=True)
    first = ran(told)
    assert len(first) == 3
    assert printed.splitlines()[-1].startswith(
        "error: sweep rates: got 3 trials in a row that failed, the last because of training: got scores that are no"
    )
    (told / "broken").unlink()
    clone.run("sandwatch", "sweep", "../rates.yaml")
    assert ran(told)[3:6] == first


def test_what_cannot_be_compared_is_refused(clone: Workspace, told: Path) -> None:
    write(clone, trials=1)
    clone.run("sandwatch", "sweep", "../rates.yaml")
    write(clone, trials=2, seed=2)
    assert "rates-1: got other params" in clone.run("sandwatch", "sweep", "../rates.yaml", fails=True)
    write(clone, trials=2)
    clone.set_params({"train": {"epochs": 3}})
    assert "rates-1: got other params" in clone.run("sandwatch", "sweep", "../rates.yaml", fails=True)
    clone.run("git", "checkout", "params.yaml")
    assert len(ran(told)) == 1  # so far nothing ran
    with (clone.root / "toy.py").open("a") as file:
        file.write("# other code\n")
    printed = clone.run("sandwatch", "sweep", "../rates.yaml", fails=True)
    assert "experiments rates-1 and rates-2: got different toy.py" in printed


@pytest.fixture(scope="module")
def trained(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A repository in which all stages ran, to sweep in."""
    return built.copy(tmp_path_factory.mktemp("trained") / "clone")


def test_a_cross_validated_trial_and_point_are_followed_to_their_labels(trained: Workspace) -> None:
    rates = {"train.learning_rate": {"low": 0.001, "high": 0.003}}
    sweep = SWEEP | {"target": "cv", "folds": 3, "trials": 1, "search": rates}
    (trained.root.parent / "real.yaml").write_text(yaml.safe_dump(sweep))
    printed = trained.run("sandwatch", "sweep", "../real.yaml")
    assert "1 trials of 1 trained" in printed
    answer = json.loads(trained.run("sandwatch", "audit", "real-1", "--json"))
    assert {link["state"] for link in answer["links"] if link["name"] in ("card", "chips", "labels")} == {"verified"}
    trained.run("dvc", "exp", "apply", "real-1")
    summary = json.loads((trained.root / "results/cv.json").read_text())
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("real-1 ")]
    assert [float(part) for part in row[1:3]] == [round(summary["ap"][what], 4) for what in ("mean", "std")]
    trained.run("git", "reset", "-q", "--hard")

    (point,) = [
        line.split()
        for line in trained.run("sandwatch", "curve", "--folds", "3", "--shares", "50", "--name", "cv").splitlines()
        if line.startswith("50 %")
    ]
    trained.run("dvc", "exp", "apply", "cv-50")
    cards = [json.loads((trained.root / f"models/cv/{number}/model.json").read_text()) for number in (1, 2, 3)]
    assert float(point[2]) == round(sum(card["observations"] for card in cards) / 3, 1)
    answer = json.loads(trained.run("sandwatch", "audit", "models/cv/2/model.safetensors", "--json"))
    assert {link["state"] for link in answer["links"] if link["name"] in ("card", "chips", "labels")} == {"verified"}
    trained.run("git", "reset", "-q", "--hard")


def test_a_curve_counts_what_trained_and_the_audit_agrees(trained: Workspace) -> None:
    printed = trained.run("sandwatch", "curve", "--shares", "40,100")
    (small, large) = [line.split() for line in printed.splitlines() if line.startswith(("40 %", "100 %"))]
    assert small[-1] == "curve-40"
    for column in (2, 4):  # observations and mines
        assert int(small[column]) < int(large[column])
    answer = json.loads(trained.run("sandwatch", "audit", "curve-40", "--json"))
    assert {link["state"] for link in answer["links"] if link["name"] in ("card", "chips", "labels")} == {"verified"}
    used = [row for row in answer["labels"] if "train" in row["fold"]]
    assert len(used) == int(small[4])
    assert len({row["obs_id"] for row in used}) <= int(small[2])
    again = trained.run("sandwatch", "curve", "--shares", "40,100")
    assert again in printed
    assert "Reproducing" not in again
