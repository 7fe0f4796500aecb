"""A copy of the working tree with a smaller sample region, on which the real `dvc` runs the real stages."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pytest.mark import ParameterSet
from filelock import FileLock
from ruamel.yaml import YAML

from sandwatch.params import read_file

ROOT = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "aoi": {"extent_m": 3000},
    "model": {"encoder": "resnet18", "depth": 3, "decoder_channels": [16, 8, 8]},
    "train": {"epochs": 2, "windows_per_epoch": 16, "batch_size": 4},
    "evaluate": {"bootstrap_samples": 20, "worst_misses": 1},
    "chips": {"random_windows_per_chip_area": 0.5, "stride_px": 160},
}


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A git and DVC repository of its own."""

    root: Path

    def run(self, *command: str, fails: bool = False) -> str:
        """Runs a command in the workspace as a user's shell would; returns what it printed, both streams."""
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.root, env=env, text=True, capture_output=True, check=False)
        printed = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, printed
        return printed

    def set_params(self, changes: dict[str, dict[str, Any]]) -> None:
        path = self.root / "params.yaml"
        values = read_file(path)
        for section, keys in changes.items():
            values[section].update(keys)
        YAML().dump(values, path)

    def lock(self) -> dict[str, dict[str, str]]:
        """stage -> output path -> hash."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}

    def copy(self, root: Path) -> "Workspace":
        """A copy that may be spoilt; objects of the cache, which nobody writes to, are shared."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("cache"))
        shutil.copytree(self.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
        return Workspace(root=root)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a repository in which all stages ran is slow; `.ci/run` runs what guards the chain."""
    for item in items:
        if "built" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


def matrix(places: Sequence[str], *faults: Any) -> list[ParameterSet]:
    """Every fault at every place, for ``parametrize``: (place, *fault) each.

    One fault a place, the next one at the next, is in the default run; the others are slow.
    """
    return [
        pytest.param(
            place,
            *(fault if isinstance(fault, tuple) else (fault,)),
            marks=() if column == row % len(faults) else pytest.mark.slow,
        )
        for row, place in enumerate(places)
        for column, fault in enumerate(faults)
    ]


def small_copy(root: Path) -> Workspace:
    """The working tree as a fresh clone would have it, smaller: one month a site, the params in SMALL. No git yet."""
    workspace = Workspace(root=root)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock":
            (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, workspace.root / name)
    sites = workspace.root / "data" / "regions" / "sample" / "sites.csv"
    with sites.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["months"] = row["months"].split(";")[0]
    with sites.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    workspace.set_params(SMALL)
    return workspace


def started(root: Path) -> Workspace:
    """The same with git, committed; nothing has run."""
    workspace = small_copy(root)
    workspace.run("git", "init", "-q", "-b", "main")
    workspace.run("git", "config", "user.email", "test@example.org")
    workspace.run("git", "config", "user.name", "test")
    workspace.commit("start")
    return workspace


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The working tree as a fresh clone would have it, with one month a site; nothing has run."""
    return started(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A repository in which one `dvc repro` ran, committed; one for all processes of a run, so nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes
    done = base / "built"
    with FileLock(base / "built.lock"):
        if not done.is_dir():
            making = started(base / f"making-{os.getpid()}")
            making.run("dvc", "repro")
            making.commit("repro")
            making.root.rename(done)
    return Workspace(root=done)


@pytest.fixture(scope="module")
def workspace(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of it for the tests of a module, one after the other."""
    return built.copy(tmp_path_factory.mktemp("workspace") / "clone")


@pytest.fixture
def copy(workspace: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A copy that one test may spoil."""
    copy = workspace.copy(tmp_path / "copy")
    yield copy
    shutil.rmtree(copy.root)
