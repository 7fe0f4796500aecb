"""What decides whether a lock is reproduced: hashes on the same arithmetic, metrics on another."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandwatch.audit.history import Lock

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci/compare_lock.py"
DEPS = {
    "code": ["src"],
    "aoi": ["sites.csv", "code.json"],
    "chips": ["aoi.out"],
    "train": ["chips.out", "code.json"],
    "evaluate": ["train.out", "aoi.out"],
    "infer": ["train.out"],
}
OUTS = {"code": "code.json"}
HERE = {"AdamW": "aa", "exp": "bb", "libm": "cc"}
METRICS = {"ap": 0.9, "f1": 0.8}


def lock(*changed: str) -> Lock:
    stages = {
        name: {
            "cmd": name,
            "deps": [{"path": path, "md5": "0" * 32} for path in deps],
            "outs": [{"path": OUTS.get(name, f"{name}.out"), "md5": ("f" if name in changed else "1") * 32}],
        }
        for name, deps in DEPS.items()
    }  # fmt: skip
    return Lock(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(scope="module")
def compare() -> Any:
    spec = importlib.util.spec_from_file_location("compare_lock", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def compared(*changed: str, here: dict[str, str] = HERE, **metrics: float) -> tuple[list[str], list[str]]:
        found: tuple[list[str], list[str]] = module.compare(
            lock(), lock(*changed), reference={"operations": HERE, "metrics": METRICS}, here=here,
            metrics=METRICS | metrics,
        )  # fmt: skip
        return found

    return compared


OTHER = HERE | {"AdamW": "dd", "exp": "ee"}


def test_same_arithmetic_and_same_hashes_are_fine(compare: Any) -> None:
    lines, faults = compare()
    assert faults == []
    assert lines[-1] == "arithmetic as the lock was made with, 3 operations: hashes decide"
    assert "code         same hashes" in lines


def test_on_the_same_arithmetic_any_other_hash_is_a_fault_whatever_the_metrics(compare: Any) -> None:
    for stage in DEPS:
        assert compare(stage)[1] == [f"{stage}: {OUTS.get(stage, f'{stage}.out')}"]


def test_on_another_arithmetic_metrics_decide_and_the_line_names_the_operations(compare: Any) -> None:
    lines, faults = compare("train", "evaluate", "infer", here=OTHER, ap=0.93)
    assert faults == []
    assert "arithmetic differs from that of the lock in AdamW, exp: metrics decide" in lines
    assert "ap           0.9300 here, 0.9000 recorded, tolerance 0.05" in lines
    assert compare("train", here=OTHER, ap=0.8)[1] == ["ap is off by 0.1000"]
    assert compare("train", here=OTHER, f1=math.nan)[1] == ["f1 is off by nan"]


def test_an_operation_that_only_one_side_knows_is_another_arithmetic(compare: Any) -> None:
    lines, _ = compare(here={name: HERE[name] for name in ("AdamW", "exp")})
    assert "arithmetic differs from that of the lock in libm: metrics decide" in lines


@pytest.mark.parametrize("stage", ["code", "aoi", "chips"])
def test_stages_before_the_training_must_match_on_any_arithmetic(compare: Any, stage: str) -> None:
    assert len(compare(stage, here=OTHER)[1]) == 1


@pytest.mark.slow  # CI runs the script itself
def test_the_script_probes_this_machine_and_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = shutil.copyfile(SCRIPT, tmp_path / ".ci/compare_lock.py")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    metrics = dict.fromkeys(("ap", "f1", "precision", "recall", "iou"), 0.9)
    (tmp_path / "results/evaluate").mkdir(parents=True)
    (tmp_path / "results/evaluate/metrics.json").write_text(json.dumps(metrics | {"mines": 3}))
    for name, changed in (("a", ()), ("b", ("aoi", "infer"))):
        (tmp_path / f"{name}.lock").write_text(lock(*changed).text)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert call("--record").returncode == 0
    reference = json.loads((tmp_path / ".ci/reference.json").read_text())
    assert reference["metrics"] == metrics
    reference["operations"]["AdamW"] = "0" * 16
    (tmp_path / ".ci/reference.json").write_text(json.dumps(reference))
    done = call("a.lock", "b.lock")
    assert "arithmetic differs from that of the lock in AdamW: metrics decide\n" in done.stdout
    assert (done.returncode, done.stderr) == (1, "error: dvc.lock is not reproduced: aoi: aoi.out\n")
