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


@pytest.fixture(scope="module")
def recorded(fresh: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A fresh clone, in which dvc.lock records outputs that are not here; but for the first stage, which ran."""
    made = Workspace(root=tmp_path_factory.mktemp("recorded") / "clone")
    shutil.copytree(fresh.root, made.root)
    shutil.copyfile(ROOT / "dvc.lock", made.root / "dvc.lock")
    made.run("dvc", "repro", "-q", "aoi")
    made.commit("lock")
    return made


@pytest.fixture
def clone(recorded: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it that may be spoilt."""
    return recorded.copy(tmp_path / "clone")


@pytest.mark.slow  # seconds of dvc
def test_a_fresh_clone_asks_no_remote(clone: Workspace, storage: Gcs) -> None:
    to_loopback(clone, storage)
    storage.requests.clear()
    clone.run("dvc", "exp", "show", "--csv")
    for command in (("status", "-c"), ("push",)):
        assert "no remote specified" in clone.run("dvc", *command, fails=True)
    assert "no default remote set" in clone.run("dvc", "pull", fails=True)
    assert storage.requests == []


@pytest.mark.slow  # seconds of dvc
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


def test_make_repro_stops_before_anything_is_removed(clone: Workspace) -> None:
    (clone.root / ".venv").symlink_to(sys.prefix)
    misspell(clone)
    printed = clone.run("make", "--old-file", "setup", "repro", fails=True)
    assert UNKNOWN in printed
    assert NEAR in printed
    assert "dvc repro" not in printed
    assert (clone.root / "data/aoi/aoi.parquet").is_file()


def test_dvc_repro_stops_before_anything_is_removed(clone: Workspace) -> None:
    """By the stage `check`, which runs before all others: for every stage, whichever would run."""
    misspell(clone)
    path = clone.root / "params.yaml"
    path.write_text(path.read_text().replace("match_iou: 0.1", "match_iou: 2"))
    printed = clone.run("dvc", "repro", fails=True)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(UNKNOWN)
    assert errors[0].endswith(NEAR)
    assert errors[1].startswith("error: params.yaml: aoi.buffer_m: got nothing")
    assert errors[2].startswith("error: params.yaml: evaluate.match_iou: got 2")
    assert len(errors) == 3
    assert "Traceback" not in printed
    assert (clone.root / "data/aoi/aoi.parquet").is_file()


@pytest.mark.slow  # seconds of dvc
def test_a_stage_by_itself_tells_the_way_back(clone: Workspace) -> None:
    """`--single-item` runs no stage before it, and DVC has removed its outputs when it refuses."""
    before = (clone.root / "data/aoi/aoi.parquet").read_bytes()
    misspell(clone)
    printed = clone.run("dvc", "repro", "--single-item", "aoi", fails=True)
    assert UNKNOWN in printed
    assert "dvc checkout aoi brings those of dvc.lock back" in printed
    assert not (clone.root / "data/aoi").exists()
    clone.run("dvc", "checkout", "aoi")
    assert (clone.root / "data/aoi/aoi.parquet").read_bytes() == before


@pytest.mark.slow  # seconds of dvc
@pytest.mark.parametrize("where", [(), ("--temp",)])
def test_a_key_that_an_experiment_adds_is_refused(clone: Workspace, where: tuple[str, ...]) -> None:
    misspelt = ("-S", "aoi.bufer_m=3")
    assert "Key 'bufer_m' is not in struct" in clone.run("dvc", "exp", "run", *where, *misspelt, fails=True)
    assert clone.run("git", "status", "--porcelain") == ""
    printed = clone.run("dvc", "exp", "run", *where, "-S", "+aoi.bufer_m=3", fails=True)
    assert UNKNOWN in printed
    assert NEAR in printed
    assert (clone.root / "data/aoi/aoi.parquet").is_file()
