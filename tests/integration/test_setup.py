"""A fresh clone asks nobody; its params are checked before DVC removes anything; the way back works. With real DVC."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..servers.gcs import Gcs, serve_gcs
from .conftest import ROOT, Workspace


@pytest.fixture(scope="module")
def storage() -> Iterator[Gcs]:
    with serve_gcs("outputs") as running:
        yield running


def to_loopback(workspace: Workspace, storage: Gcs) -> None:
    """Whatever is asked under the name `storage` is asked on loopback."""
    settings = {"endpointurl": storage.url, "allow_anonymous_login": "true", "projectname": "loopback"}
    for name, value in settings.items():
        workspace.run("dvc", "remote", "modify", "--local", "storage", name, value)


@pytest.fixture
def clone(fresh: Workspace, tmp_path: Path) -> Workspace:
    """A fresh clone with the lock file of the repository: outputs are recorded, and not here."""
    shutil.copytree(fresh.root, tmp_path / "clone")
    clone = Workspace(root=tmp_path / "clone")
    shutil.copyfile(ROOT / "dvc.lock", clone.root / "dvc.lock")
    clone.commit("lock")
    return clone


@pytest.fixture
def begun(clone: Workspace) -> Workspace:
    """A clone in which the first stage ran, committed."""
    clone.run("dvc", "repro", "-q", "aoi")
    clone.commit("aoi")
    return clone


def test_a_fresh_clone_asks_no_remote(clone: Workspace, storage: Gcs) -> None:
    to_loopback(clone, storage)
    storage.requests.clear()
    clone.run("dvc", "exp", "show", "--csv")
    for command in (("status", "-c"), ("push",)):
        assert "no remote specified" in clone.run("dvc", *command, fails=True)
    assert "no default remote set" in clone.run("dvc", "pull", fails=True)
    assert storage.requests == []


def test_one_command_sets_the_remote_up(clone: Workspace, storage: Gcs, tmp_path: Path) -> None:
    (clone.root / "data/thing").write_bytes(b"x" * 1000)
    clone.run("dvc", "add", "-q", "data/thing")
    clone.run("sandwatch", "remote", "gs://outputs/dvc")
    clone.commit("a thing, and where it lies")
    to_loopback(clone, storage)
    assert "1 file pushed" in clone.run("dvc", "push", "data/thing")
    (name,) = storage.objects("outputs")
    assert name.startswith("dvc/files/md5/")

    colleague = Workspace(root=tmp_path / "colleague")
    subprocess.run(["git", "clone", "-q", str(clone.root), str(colleague.root)], check=True)
    to_loopback(colleague, storage)
    colleague.run("dvc", "pull", "data/thing")
    assert (colleague.root / "data/thing").read_bytes() == b"x" * 1000


def misspell(workspace: Workspace) -> None:
    path = workspace.root / "params.yaml"
    path.write_text(path.read_text().replace("buffer_m:", "bufer_m:"))


UNKNOWN = "error: params.yaml: aoi.bufer_m: got a key that does not exist; expected one of buffer_m, extent_m"
NEAR = "did you mean buffer_m? correct or remove it"


def test_make_repro_stops_before_anything_is_removed(begun: Workspace) -> None:
    (begun.root / ".venv").symlink_to(sys.prefix)
    misspell(begun)
    printed = begun.run("make", "--old-file", ".venv/.installed-cpu", "repro", fails=True)
    assert UNKNOWN in printed
    assert NEAR in printed
    assert "dvc repro" not in printed
    assert (begun.root / "data/aoi/aoi.parquet").is_file()


def test_a_stage_checks_all_of_the_file_and_tells_the_way_back(begun: Workspace) -> None:
    """By `dvc repro` itself, which removes the outputs of a stage before it runs it."""
    before = (begun.root / "data/aoi/aoi.parquet").read_bytes()
    misspell(begun)
    path = begun.root / "params.yaml"
    path.write_text(path.read_text().replace("match_iou: 0.1", "match_iou: 2"))
    printed = begun.run("dvc", "repro", fails=True)
    lines = printed.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(UNKNOWN))
    assert lines[first].endswith(NEAR)
    assert lines[first + 1].startswith("error: params.yaml: aoi.buffer_m: got nothing")
    assert lines[first + 2].startswith("error: params.yaml: evaluate.match_iou: got 2")
    assert "dvc checkout aoi brings those of dvc.lock back" in lines[first + 3]
    assert "Traceback" not in printed
    begun.run("dvc", "checkout", "aoi")
    assert (begun.root / "data/aoi/aoi.parquet").read_bytes() == before


def test_a_key_that_an_experiment_adds_is_refused(begun: Workspace) -> None:
    assert "Key 'bufer_m' is not in struct" in begun.run("dvc", "exp", "run", "-S", "aoi.bufer_m=3", fails=True)
    assert begun.run("git", "status", "--porcelain") == ""
    printed = begun.run("dvc", "exp", "run", "-S", "+aoi.bufer_m=3", "aoi", fails=True)
    assert UNKNOWN in printed
    assert NEAR in printed


def test_a_temporary_experiment_takes_nothing_away(begun: Workspace) -> None:
    printed = begun.run("dvc", "exp", "run", "--temp", "-S", "+aoi.bufer_m=3", "aoi", fails=True)
    assert UNKNOWN in printed
    assert "brings those of dvc.lock back" not in printed
    assert (begun.root / "data/aoi/aoi.parquet").is_file()
