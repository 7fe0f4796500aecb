"""Objects of DVC out of cache, working tree and remote."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandwatch.audit.hashes import folder_md5, hash_folder
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.verify import _put


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


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A repository with nothing in it."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    return tmp_path


def forged(root: Path, listing: object) -> str:
    """Puts a listing into the cache under its own hash, as whoever can write to a remote can."""
    content = json.dumps(listing).encode()
    oid = hashlib.md5(content).hexdigest() + ".dir"
    path = root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return oid


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a/..", "..", ".", "", "a//b", "./a", "a/", "a\0b"]
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(bare: Path, path: str) -> None:
    oid = forged(bare, [{"md5": "0" * 32, "relpath": "a.txt"}, {"md5": "0" * 32, "relpath": path}])
    objects, message = (
        Objects(bare, offline=True),
        f"listing {oid} names {re.escape(repr(path))}, which does not lie in",
    )
    with pytest.raises(CorruptError, match=message):
        objects.tree(oid)
    with pytest.raises(CorruptError, match=message):
        objects.file(oid, path, "data")


@pytest.mark.parametrize("md5", ["../../../../etc/passwd", "", "0" * 31, "G" * 32])
def test_a_listing_with_other_names_than_hashes_is_refused(bare: Path, md5: str) -> None:
    oid = forged(bare, [{"md5": md5, "relpath": "a.txt"}])
    with pytest.raises(CorruptError, match=r"gives 'a\.txt' the MD5 .*, which is none"):
        Objects(bare, offline=True).tree(oid)


@pytest.mark.parametrize("listing", [1, [1], [{"md5": "0" * 32}], {"a": "b"}, None])
def test_what_is_no_listing_is_refused(bare: Path, listing: object) -> None:
    oid = forged(bare, listing)
    with pytest.raises(CorruptError, match=f"object {oid} is no listing of a folder"):
        Objects(bare, offline=True).tree(oid)


def test_nothing_is_put_outside_a_clone(bare: Path, tmp_path: Path) -> None:
    """Neither by a path, nor by a folder of the clone that is a link."""
    clone, victim = tmp_path / "verify/clone", tmp_path / "victim"
    clone.mkdir(parents=True)
    victim.mkdir()
    (victim / "a.txt").write_text("mine")
    (clone / "data").symlink_to(victim)
    md5 = hashlib.md5(b"sand").hexdigest()
    cached = bare / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_text("sand")
    objects, oid = Objects(bare, offline=True), forged(bare, [{"md5": md5, "relpath": "a.txt"}])
    with pytest.raises(CorruptError, match=r"data/a\.txt leads out of the clone"):
        _put({"data": oid}, clone, objects)
    with pytest.raises(CorruptError, match=r"\.\./\.\./victim/a\.txt leads out of the clone"):
        _put({"../../victim/a.txt": md5}, clone, objects)
    assert (victim / "a.txt").read_text() == "mine"
    assert list(victim.iterdir()) == [victim / "a.txt"]
    for _ in range(2):
        _put({"models": oid}, clone, objects)
    assert (clone / "models/a.txt").read_text() == "sand"


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
