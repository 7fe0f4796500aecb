"""Looking at results leaves files beside them; that changes nothing, and a real change is still found."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sandwatch.audit.hashes import folder_md5, hash_folder
from sandwatch.audit.history import History
from sandwatch.audit.objects import MissingError, Objects
from sandwatch.audit.verify import _working_tree
from sandwatch.files import LEFT_BEHIND
from sandwatch.model.card import hash_inputs

ROOT = Path(__file__).parents[3]
MAKE = """
from pathlib import Path
import numpy as np, rasterio
from rasterio.transform import from_origin
Path("data/scenes/a").mkdir(parents=True)
with rasterio.open("data/scenes/a/s2.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="uint16",
                   crs="EPSG:32643", transform=from_origin(0, 0, 10, 10)) as file:
    file.write(np.arange(64, dtype="uint16").reshape(1, 8, 8))
"""
PIPELINE = """
stages:
  make:
    cmd: python make.py
    deps: [make.py, data/regions]
    outs: [data/scenes]
"""


def run(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose one stage reads a folder and writes a raster, with what this one tells DVC to ignore."""
    root = tmp_path_factory.mktemp("repository")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    shutil.copyfile(ROOT / ".dvcignore", root / ".dvcignore")
    (root / "make.py").write_text(MAKE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "data/regions").mkdir(parents=True)
    (root / "data/regions/sites.csv").write_text("sites\n")
    (root / ".gitignore").write_text("/data/scenes\n")
    run(root, sys.executable, "-m", "dvc", "repro", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-q", "-m", "made")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    copied = shutil.copytree(made, tmp_path / "copy")
    yield copied
    shutil.rmtree(copied)


def look(root: Path) -> None:
    """As `gdalinfo -stats` does, and as file managers do."""
    with rasterio.open(root / "data/scenes/a/s2.tif") as file:
        file.statistics(1, approx=False)
    assert (root / "data/scenes/a/s2.tif.aux.xml").is_file()
    for folder in (root / "data/scenes", root / "data/scenes/a", root / "data/regions"):
        for name in (".DS_Store", "._s2.tif", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"left behind")


def test_looking_at_a_raster_changes_nothing(root: Path) -> None:
    lock = (root / "dvc.lock").read_text()
    recorded = hash_folder(root / "data/scenes")
    look(root)
    assert "up to date" in run(root, sys.executable, "-m", "dvc", "status")
    link = _working_tree(History(root))
    assert link.state == "verified", link.detail
    assert hash_folder(root / "data/scenes") == recorded
    assert folder_md5(recorded) in lock
    assert hash_inputs([root / "data/scenes"]).keys() == {(root / "data/scenes/a/s2.tif").as_posix()}
    history = History(root)
    stage = history.lock(history.revisions[0]).stage("make")
    assert stage is not None
    (root / "dvc.lock").write_text(lock + "\n")  # the working tree is a revision then
    tree = History(root).revisions[0]
    assert tree.kind == "working tree"
    assert History(root).hashes(tree, list(stage.deps), "dvc") == stage.deps
    shutil.rmtree(root / ".dvc/cache")
    assert Objects(root, offline=True).tree(stage.outs["data/scenes"], "data/scenes") == recorded


def test_a_real_change_is_found_all_the_same(root: Path) -> None:
    look(root)
    with rasterio.open(root / "data/scenes/a/s2.tif", "r+") as file:
        file.write(np.zeros((1, 8, 8), "uint16"))
    link = _working_tree(History(root))
    assert (link.state, link.detail) == ("broken", "data/scenes/a/s2.tif is not what dvc.lock says")


def test_a_file_that_nobody_leaves_behind_is_found(root: Path) -> None:
    (root / "data/scenes/a/s2.xml").write_text("more")
    assert "data/scenes/a/s2.xml" in _working_tree(History(root)).detail
    lock = History(root).lock(History(root).revisions[0]).stage("make")
    assert lock is not None
    shutil.rmtree(root / ".dvc/cache")
    with pytest.raises(MissingError):
        Objects(root, offline=True).tree(lock.outs["data/scenes"], "data/scenes")


def test_what_git_holds_is_hashed_as_dvc_hashed_it_at_that_revision(root: Path) -> None:
    """From before .dvcignore held a pattern, a file of that name in a folder that a stage reads was part of it."""
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@e.org")
    (root / "data/regions/a.tif.aux.xml").write_text("seen")
    with_it = folder_md5({"sites.csv": _md5(b"sites\n"), "a.tif.aux.xml": _md5(b"seen")})
    without = folder_md5({"sites.csv": _md5(b"sites\n")})
    run(root, "git", "add", "-f", "data/regions")
    run(root, *git, "commit", "-q", "-m", "seen")
    (root / ".dvcignore").write_text("")
    run(root, *git, "commit", "-q", "-a", "-m", "as before")
    history = History(root)
    for name, expected in (("HEAD~1", without), ("HEAD", with_it)):
        revision = history.resolve(name)
        assert revision is not None
        assert history.hashes(revision, ["data/regions"], "dvc") == {"data/regions": expected}


def test_dvc_is_told_the_same() -> None:
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert set(LEFT_BEHIND) <= set(lines)


def _md5(content: bytes) -> str:
    import hashlib

    return hashlib.md5(content).hexdigest()
