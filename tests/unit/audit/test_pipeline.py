"""A dvc.yaml or a listing of code that is none, at any revision, is a link that breaks by name, and no traceback."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml

from sandwatch.audit.forward import audit
from sandwatch.audit.hashes import md5
from sandwatch.audit.history import read_yaml
from sandwatch.audit.record import Link
from tests.audit_history import Made


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Path:
    root = tmp_path / "clone"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    return root


def commit(root: Path) -> None:
    mallory = ["-c", "user.name=Mallory", "-c", "user.email=mallory@example.org"]
    subprocess.run(["git", "-C", str(root), *mallory, "commit", "-q", "-a", "--amend", "-m", "odd"], check=True)


def first_broken(root: Path) -> Link:
    """Of that revision; another one that holds the model is followed, since nothing is broken there."""
    found = audit("HEAD", where=root, offline=True)
    return next(holder for holder in found.holders if holder.revision.subject == "odd").broken[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"stages: [", "can't be read"),
        (b"- a list\n", "can't be read"),
        (b"stages: \xff\xfe\n", "has no stage check"),
        (b"stages: text\n", "has no stage check"),
        (b"stages: {check: text}\n", "has no stage check"),
        (b"stages: {check: {cmd: 3, deps: 4, outs: {a: b}, params: text}}\n", "check: command 3; what ran had"),
        (b"stages: {check: {cmd: python stages/check.py, deps: [{}], outs: [[]]}}\n", "check: dependencies"),
    ],
)
def test_a_pipeline_that_is_none(clone: Path, content: bytes, said: str) -> None:
    (clone / "dvc.yaml").write_bytes(content)
    commit(clone)
    link = first_broken(clone)
    assert link.name == "pipeline"
    assert said in link.detail


def test_a_stage_that_reads_models_and_writes_none_changes_nothing(clone: Path) -> None:
    """As ``cv_ensemble``, which judges the models of several others."""
    before = audit("HEAD", where=clone, offline=True)
    path = clone / "dvc.lock"
    lock = read_yaml(path.read_text())
    lock["stages"]["cv_ensemble@holdout"] = {
        "cmd": "python stages/cv_ensemble.py",
        "deps": [{"path": "models", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 3, "nfiles": 3}],
        "params": {"params.yaml": {"cv.replicates": [1, 2, 3]}},
        "outs": [{"path": "results/cv_ensemble", "hash": "md5", "md5": "1" * 32 + ".dir", "size": 3, "nfiles": 3}],
    }
    path.write_text(dumps_yaml(lock))
    commit(clone)
    after = audit("HEAD", where=clone, offline=True)
    for found in (before, after):
        assert {link.state for link in found.links if link.name in ("lock", "pipeline", "params")} == {"verified"}
    assert [(link.name, link.state) for link in after.links] == [(link.name, link.state) for link in before.links]
    assert len(after.labels) == len(before.labels) > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "data/code/chips.json: Expecting"), (b"[]", "lists no code"), (b"\xff", "data/code/chips.json: ")],
)
def test_a_listing_of_code_that_is_none(clone: Path, content: bytes, said: str) -> None:
    """The lock names it by its hash, as whoever forges both would have it."""
    forged = clone / "forged"
    forged.write_bytes(content)
    oid = md5(forged)
    place = clone / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    place.parent.mkdir(exist_ok=True)
    forged.rename(place)
    lock = (clone / "dvc.lock").read_text()
    stages = json.loads(json.dumps(read_yaml(lock)["stages"]))
    before = next(out["md5"] for out in stages["check"]["outs"] if out["path"] == "data/code/chips.json")
    parts = lock.split("- path: data/code/chips.json")
    (clone / "dvc.lock").write_text(
        "- path: data/code/chips.json".join([parts[0], *(p.replace(before, oid, 1) for p in parts[1:])])
    )
    commit(clone)
    link = first_broken(clone)
    assert link.name == "code"
    assert said in link.detail
