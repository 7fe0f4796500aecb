"""Objects of DVC out of cache, working tree and remote."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandwatch.audit.hashes import folder_md5, hash_folder
from sandwatch.audit.objects import CorruptError, MissingError, Objects


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=root, check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a folder of two files in a cache that lies elsewhere, pushed to a remote."""
    root = tmp_path / "clone"
    (root / "data").mkdir(parents=True)
    (root / "data/a.txt").write_text("a")
    (root / "data/b.txt").write_text("bb")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, "init")
    dvc(root, "config", "cache.dir", "../elsewhere")
    dvc(root, "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    dvc(root, "add", "data")
    dvc(root, "push")
    return root


def test_cache_then_working_tree_then_remote(root: Path, tmp_path: Path) -> None:
    oid = folder_md5(hash_folder(root / "data"))
    content = hashlib.md5(b"bb").hexdigest()
    cached = Objects(root, offline=True)
    assert cached.path(content) == tmp_path / "elsewhere/files/md5" / content[:2] / content[2:]
    assert cached.tree(oid) == hash_folder(root / "data")

    shutil.rmtree(tmp_path / "elsewhere")
    lying = Objects(root, offline=True)
    assert lying.tree(oid, "data") == hash_folder(root / "data")
    assert lying.file(oid, "b.txt", "data") == root / "data/b.txt"
    with pytest.raises(MissingError, match=r"holds no c\.txt"):
        lying.file(oid, "c.txt", "data")

    (root / "data/b.txt").write_text("changed")
    with pytest.raises(MissingError, match="in neither cache nor remote"):
        Objects(root, offline=True).path(content, "data/b.txt")
    with pytest.raises(MissingError, match="in neither cache nor remote"):
        Objects(root).path(content, "data/b.txt", pull=False)
    pulling = Objects(root)
    assert pulling.file(oid, "b.txt", "data").read_text() == "bb"
    assert pulling.pulled == [oid, content]


def test_an_object_with_another_hash_is_refused(root: Path, tmp_path: Path) -> None:
    content = hashlib.md5(b"bb").hexdigest()
    path = tmp_path / "elsewhere/files/md5" / content[:2] / content[2:]
    path.unlink()
    path.write_text("b")
    with pytest.raises(CorruptError, match=r"under the name 21ad0bd836b90d08f4cf640b4c298e7c"):
        Objects(root).path(content)


def test_what_no_remote_has_is_asked_for_once(root: Path) -> None:
    objects = Objects(root)
    for _ in range(2):
        with pytest.raises(MissingError, match="in neither cache nor remote"):
            objects.path("0" * 32)
    assert objects.pulled == []


def test_without_a_default_remote_nobody_is_asked(root: Path) -> None:
    dvc(root, "config", "--unset", "core.remote")
    with pytest.raises(MissingError, match=r"cache nor remote \(no remote is set up: sandwatch remote gs://<bucket>"):
        Objects(root).path("0" * 32)
    assert Objects(root, remote="storage").pulled == []
