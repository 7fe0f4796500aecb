"""A clone of the working tree with a small region, in which the pipeline ran once: what an undisturbed run gives."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from sandwatch.audit.hashes import folder_md5, hash_folder, md5
from tests.integration.conftest import started
from tests.torture.attack import expect

SITES = (
    "Karsho_GreyBank", "Karsho_Heron", "Lotavi_FarMouth", "Mirembo_LongBar", "Ondara_ReedBend", "Quessa_Tamarisk",
    "Velune_Kiln",
)  # fmt: skip
"""One month of each. Enough for every fold to have mines, and little enough for a stage to take seconds."""
SMALLER: dict[str, dict[str, Any]] = {
    "aoi": {"extent_m": 2000},
    "chips": {"size_px": 64, "stride_px": 64},
    "train": {"epochs": 2, "windows_per_epoch": 8, "batch_size": 4},
    "scoring": {"overlap_px": 16, "batch_size": 8},
    "evaluate": {"bootstrap_samples": 5, "worst_misses": 1},
}
SECONDS = ".dvc/tmp/seconds.json"
"""File of a clone that was built: how long each stage took."""
RUN_MARK = "SANDWATCH_TORTURE_RUN"
"""In the environment of all that one run of ``dvc`` starts."""


class Sample:
    """The clone.

    Attributes:
        root: of it.
        stages: of its pipeline, in order.
        seconds: that each took, DVC's part included.
    """

    def __init__(self, scratch: Path) -> None:
        """Makes it in a folder, a copy of the one beside that folder, in which the pipeline ran, where it did."""
        self.root, self._kept = scratch / "sample", scratch / "kept"
        built = scratch.parent / "built"
        with FileLock(scratch.parent / "built.lock"):
            if not built.is_dir():
                _build(scratch.parent / "building").rename(built)
        shutil.copytree(built, self.root, symlinks=True)
        self.seconds: dict[str, float] = json.loads((self.root / SECONDS).read_text())
        self.lock = self._locked()
        self.stages = tuple(self.lock)
        self._text = (self.root / "dvc.lock").read_bytes()
        for path in (path for stage in self.stages for path in self.outs(stage)):
            _copy(self.root / path, self._kept / path)
        self._hashes = {path: hashes(self.root / path) for stage in self.stages for path in self.outs(stage)}

    def start(self, *arguments: str, mark: str) -> subprocess.Popen[str]:
        """Starts ``dvc`` in a session of its own, as from a shell; what it prints comes together."""
        return _start(self.root, *arguments, mark=mark)

    def run(self, *arguments: str, mark: str) -> tuple[int, str]:
        """Runs ``dvc``: its status, and what it printed."""
        run = self.start(*arguments, mark=mark)
        said, _ = run.communicate()
        return run.returncode, said

    def outs(self, stage: str) -> tuple[str, ...]:
        """The outputs of a stage."""
        return tuple(self.lock[stage]["outs"])

    def given(self, stage: str) -> list[str]:
        """The files that earlier stages made and a stage reads, from the root."""
        made = {path for other in self.stages for path in self.outs(other)}
        deps = [path for path in self.lock[stage]["deps"] if path in made and not path.startswith("data/code")]
        return sorted(path if not name else f"{path}/{name}" for path in deps for name in self._hashes[path])

    def judge(self, stage: str) -> None:
        """Raises a failure unless the lock and a stage's outputs are those of the undisturbed run."""
        expect((self.root / "dvc.lock").read_bytes() == self._text, "wrong hash", f"dvc.lock after {stage} is another")
        self.judge_files(stage, {path: self._hashes[path] for path in self.outs(stage)})

    def judge_files(self, stage: str, expected: dict[str, dict[str, str]]) -> None:
        """Raises a failure unless the outputs of a stage hold these files and nothing else."""
        for path, files in expected.items():
            found = hashes(self.root / path)
            strangers = sorted(found.keys() - files.keys())
            expect(not strangers, "stranger", f"{path} holds {strangers[:3]} after {stage}")
            wrong = sorted(name for name in files if found.get(name) != files[name])
            expect(not wrong, "wrong hash", f"{path}/{wrong[:1]} is another after {stage}")

    def judge_lock(self, stage: str, victim: str) -> None:
        """Raises a failure where the lock says of a stage that what is not so: what it read made what it wrote."""
        now = self._locked().get(stage)
        expect(now is not None, "wrong hash", f"dvc.lock lost {stage}")
        assert now is not None
        same = now["outs"] == self.lock[stage]["outs"]
        expect(
            same or now["deps"] != self.lock[stage]["deps"],
            "wrong hash", f"dvc.lock says that {stage} made other outputs of the same inputs",
        )  # fmt: skip
        expect(
            same or not victim.startswith("data/scenes/"),
            "false", f"{stage} made other outputs of {victim}, which is not what the manifest says",
        )  # fmt: skip
        for path, oid in now["outs"].items():
            there = self.root / path
            found = folder_md5(hash_folder(there)) if there.is_dir() else md5(there)
            expect(found == oid, "wrong hash", f"dvc.lock says another hash of {path} than lies there")

    def restore(self, stages: Iterable[str]) -> None:
        """Puts outputs of stages and the lock back."""
        for path in (path for stage in stages for path in self.outs(stage)):
            there = self.root / path
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)
            else:
                there.unlink(missing_ok=True)
            _copy(self._kept / path, there)
        (self.root / "dvc.lock").write_bytes(self._text)
        for left in (self.root / ".dvc/tmp").glob("*lock*"):
            left.unlink()

    def _locked(self) -> dict[str, dict[str, dict[str, str]]]:
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {
            name: {part: {entry["path"]: entry["md5"] for entry in stage.get(part, ())} for part in ("deps", "outs")}
            for name, stage in stages.items()
        }


def _build(root: Path) -> Path:
    """Makes the clone and runs the pipeline; how long each stage took stands in a file of it."""
    shutil.rmtree(root, ignore_errors=True)  # of another process that failed
    root.mkdir()
    workspace = started(root)
    sites = root / "data/regions/sample/sites.csv"
    with sites.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["site_id"] in SITES]
    with sites.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    workspace.set_params(SMALLER)
    (root / ".dvc/config.local").write_text("[core]\n    analytics = false\n    check_update = false\n")
    workspace.commit("smaller")
    run, seconds, said, stage, began = _start(root, "repro", mark=""), {}, [], "", 0.0
    assert run.stdout is not None
    for line in run.stdout:
        said.append(line)
        if found := re.match(r"Running stage '(\w+)'", line):
            stage, began = found[1], time.monotonic()
        elif line.startswith("Updating lock file"):
            seconds[stage] = time.monotonic() - began
    expect(run.wait() == 0, "the bench", f"the pipeline did not run: {last_line(''.join(said))}")
    (root / SECONDS).write_text(json.dumps(seconds))
    return root


def _start(root: Path, *arguments: str, mark: str) -> subprocess.Popen[str]:
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        RUN_MARK: mark,
    }
    return subprocess.Popen(
        ["dvc", *arguments], cwd=root, env=env, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def hashes(path: Path) -> dict[str, str]:
    """The files of an output by path in it, '' for itself; none where there is nothing."""
    if path.is_dir():
        return hash_folder(path)
    return {"": md5(path)} if path.is_file() else {}


def traceback_in(said: str) -> str:
    """The last line of a traceback in what was printed; '' where there is none."""
    if "Traceback (most recent call last)" not in said:
        return ""
    after = said.partition("Traceback (most recent call last)")[2].splitlines()
    return next((line for line in after[1:] if line and not line.startswith(" ")), "a traceback")[:300]


def last_line(said: str) -> str:
    """The line that says most, for a report."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["nothing"])[0][:300]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
