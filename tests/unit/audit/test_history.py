"""Git and dvc.lock as the audit reads them."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandwatch.audit.chain import models
from sandwatch.audit.hashes import folder_md5, hash_folder
from sandwatch.audit.history import History, Lock, read_yaml
from sandwatch.audit.record import Name
from sandwatch.errors import InputError
from tests.audit_history import Made

LOCK = """schema: '2.0'
stages:
  first:
    cmd: make first --with words that
      go on
    deps:
    - path: in.csv
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 3
    params:
      params.yaml:
        first:
          answers:
            Yes: true
            No: false
    outs:
    - path: made
      hash: md5
      md5: 1123456789abcdef0123456789abcdef.dir
      size: 3
      nfiles: 2
  second:
    cmd: make second
    deps:
    - path: made
      hash: md5
      md5: 1123456789abcdef0123456789abcdef.dir
      size: 3
      nfiles: 2
    - path: '%odd'
      hash: md5
      md5: 2123456789abcdef0123456789abcdef
      size: 3
    outs:
    - path: last
      hash: md5
      md5: 3123456789abcdef0123456789abcdef
      size: 3
"""


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Path:
    """A clone with everything, that a test may change."""
    root = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(made.root), str(root))
    git(root, "fetch", "-q", "origin", "refs/exps/*:refs/exps/*")
    git(root, "config", "user.email", "t@e.org")
    git(root, "config", "user.name", "t")
    (root / ".dvc").mkdir(exist_ok=True)
    return root


def test_a_lock_is_read_without_a_parser_as_with_one() -> None:
    lock = Lock(LOCK)
    other = Lock(json.dumps(read_yaml(LOCK)))
    for read in (lock, other):
        assert read.names == ("first", "second")
        first, second = (read.stage(name) for name in read.names)
        assert first is not None
        assert second is not None
        assert dict(first.outs) == {"made": "1123456789abcdef0123456789abcdef.dir"}
        assert dict(first.deps) == {"in.csv": "0123456789abcdef0123456789abcdef"}
        assert dict(second.deps) == {
            "made": "1123456789abcdef0123456789abcdef.dir",
            "%odd": "2123456789abcdef0123456789abcdef",
        }
        assert first.params == {"first": {"answers": {"Yes": True, "No": False}}}
        assert second.params == {}
        assert read.maker("made") == "first"
        assert read.maker("in.csv") is None
        assert read.upstream("second") == ("first", "second")
        assert read.stage("third") is None


def test_a_blank_line_is_no_reason_to_think_for_ages() -> None:
    long = LOCK.replace("      size: 3\n", "      size: 3\n" + "".join(f"      more{i}: 3\n" for i in range(40)))
    assert Lock(long + "\n").names == ("first", "second")


@pytest.mark.parametrize("text", ["", "stages: 3", "stages:\n  a: [", "stages:\n  a:\n    outs: [{path: x}]\n"])
def test_what_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a lock of DVC 3"):
        Lock(text).maker("x")


@pytest.mark.parametrize("path", ["../made", "/tmp/made", "data/../../made", "3"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_lock_with_an_output_out_of_the_repository_is_refused(path: str, as_json: bool) -> None:
    text = LOCK.replace("path: made\n", f"path: {path}\n")
    lock = Lock(json.dumps(read_yaml(text)) if as_json else text)
    if path == "3":
        assert lock.stage("first") is not None
        return
    with pytest.raises(InputError, match=f"got an output '{path}', which does not lie in the repository"):
        lock.maker("x")


def test_a_lock_with_other_names_than_hashes_is_refused() -> None:
    for wrong in ("../../../etc/passwd", 3):
        lock = read_yaml(LOCK)
        lock["stages"]["first"]["outs"][0]["md5"] = wrong
        with pytest.raises(InputError, match=r"got .*; expected a lock of DVC 3"):
            Lock(json.dumps(lock)).maker("x")


def test_a_folder_hashes_as_dvc_hashes_it(tmp_path: Path) -> None:
    for name in ("b/c.txt", "b c.txt", "a.txt", "b/a/z.txt"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    git(tmp_path, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "folder"], cwd=tmp_path, check=True)
    assert folder_md5(hash_folder(tmp_path / "folder")) in (tmp_path / "folder.dvc").read_text()


def test_revisions_tags_artifacts_and_experiments(clone: Path) -> None:
    git(clone, "tag", "v1", "HEAD~3")
    git(clone, "tag", "-a", "-m", "registered", "sand-mines@v1.0.0", "HEAD~3")
    git(clone, "update-ref", "refs/exps/stash", "HEAD")
    git(clone, "update-ref", "refs/exps/exec/EXEC_HEAD", "HEAD")
    history = History(clone)
    assert [r.kind for r in history.revisions].count("commit") == 20
    experiments = [r for r in history.revisions if r.kind == "experiment"]
    assert {name for r in experiments for name in r.names} == {Name("experiment", "exp-0"), Name("experiment", "exp-1")}
    tagged = history.resolve("v1")
    assert tagged is not None
    assert set(tagged.names) == {Name("tag", "v1"), Name("artifact", "sand-mines@v1.0.0")}
    assert tagged == history.resolve("HEAD~3") == history.resolve(tagged.commit[:12])
    assert history.resolve("exp-1") in experiments
    assert history.resolve("no such thing") is None
    assert [r.time for r in history.revisions] == sorted((r.time for r in history.revisions), reverse=True)
    assert history.notes == ()


def test_the_working_tree_is_a_revision_where_its_lock_is_not_heads(clone: Path) -> None:
    assert History(clone).revisions[0].kind == "experiment"
    (clone / "dvc.lock").write_text(LOCK)
    history = History(clone)
    assert history.revisions[0].kind == "working tree"
    assert history.lock(history.revisions[0]).names == ("first", "second")
    (clone / "src/sandwatch/__pycache__").mkdir()
    (clone / "src/sandwatch/__pycache__/errors.pyc").write_text("byte code")
    (clone / ".dvcignore").write_text("__pycache__/\n")
    paths = ["src", "stages/train.py", "missing"]
    head = history.resolve("HEAD")
    assert head is not None
    assert history.hashes(history.revisions[0], paths, "dvc") == history.hashes(head, paths, "dvc")


def test_hashes_of_files_and_folders_at_a_revision(clone: Path) -> None:
    history = History(clone)
    head = history.resolve("HEAD")
    assert head is not None
    (clone / "src/sandwatch/errors.py").write_text("changed, not committed\n")
    content = b"errors\n"
    found = history.hashes(head, ["src/sandwatch/errors.py", "src", "missing"], "dvc")
    md5 = hashlib.md5(content).hexdigest()
    assert found == {"src/sandwatch/errors.py": md5, "src": folder_md5({"sandwatch/errors.py": md5})}
    assert history.hashes(head, ["src/sandwatch/errors.py"], "sha256") == {
        "src/sandwatch/errors.py": hashlib.sha256(content).hexdigest()
    }
    assert history.files(head, ["stages/train.py", "missing"]) == {"stages/train.py": b"train\n"}


def test_a_shallow_clone_says_what_it_cannot_see(made: Made, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{made.root}", "shallow")
    (tmp_path / "shallow/.dvc").mkdir(exist_ok=True)
    history = History(tmp_path / "shallow")
    assert len(history.revisions) == 2
    assert "only 2 commits can be seen" in history.notes[0]
    assert "dvc exp pull" in history.notes[1]


def test_a_repository_below_the_root_of_git(made: Made, tmp_path: Path) -> None:
    below = tmp_path / "top" / "below"
    git(tmp_path, "clone", "-q", str(made.root), str(below))
    (below / ".git").rename(tmp_path / "elsewhere")
    (below / ".dvc").mkdir(exist_ok=True)
    git(tmp_path / "top", "init", "-q")
    git(tmp_path / "top", "add", "-A")
    git(tmp_path / "top", "-c", "user.email=t@e.org", "-c", "user.name=t", "commit", "-q", "-m", "all")
    history = History.around(below / "stages")
    assert history is not None
    assert history.root == below
    assert history.hashes(history.revisions[0], ["stages/train.py"], "md5") == {
        "stages/train.py": hashlib.md5(b"train\n").hexdigest()
    }


def test_outside_any_repository_there_is_no_history(tmp_path: Path) -> None:
    assert History.around(tmp_path) is None
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match="no git repository"):
        History(tmp_path)


def commit(root: Path, files: dict[str, str], message: str = "m", *options: str) -> str:
    for path, content in files.items():
        (root / path).write_text(content)
    git(root, "add", "-f", *files)
    git(root, "commit", "-q", "--cleanup=verbatim", "-m", message, *options)
    return git(root, "rev-parse", "HEAD")


IRREGULAR = {
    "a blank last line": lambda lock: lock + "\n",
    "a comment": lambda lock: f"# by hand\n{lock}",
    "conflict markers": lambda lock: lock.replace("  train:\n", "<<<<<<< HEAD\n  train:\n=======\n>>>>>>> b\n"),
    "cut off": lambda lock: lock[: lock.rindex("md5") + 1],
    "nothing": lambda lock: "",
    "bytes": lambda lock: "\udcff\udcfe\0",
    "nested": lambda lock: lock + "more: " + "[" * 400,
    "aliases": lambda lock: lock + "".join(f"  a{i}: &a{i} [{f'*a{i - 1},' * 10 * (i > 0)}]\n" for i in range(9)),
    "a tag": lambda lock: lock.replace("size: ", "size: !!bool ", 1) + "# not as DVC writes it\n",
    "a day": lambda lock: lock + "more: 2020-99-99\n",
}


@pytest.mark.parametrize("how", IRREGULAR)
def test_a_lock_that_is_none_on_some_branch_keeps_nobody_from_the_others(clone: Path, how: str) -> None:
    git(clone, "checkout", "-q", "-b", "theirs")
    text = IRREGULAR[how]((clone / "dvc.lock").read_text())
    (clone / "dvc.lock").write_bytes(text.encode(errors="surrogateescape"))
    git(clone, "commit", "-q", "-a", "-m", "irregular")
    git(clone, "checkout", "-q", "-")
    history = History(clone)
    before = len(history.revisions)
    held = [revision for revision, lock in history.each(lambda lock: [lock.upstream(name) for name in lock.names])]
    read = how in ("a blank last line", "a comment")
    assert len(held) == before - (not read)
    assert read == (not history.notes)
    assert read or re.search(r"dvc\.lock can't be read at [0-9a-f]{10} \(theirs\), and was not", history.notes[-1])
    assert len(models(history)) == 8
    history.git.close()


def test_a_merge_that_is_not_done_keeps_nobody_from_the_past(clone: Path) -> None:
    conflicted = IRREGULAR["conflict markers"]((clone / "dvc.lock").read_text())
    (clone / "dvc.lock").write_text(conflicted)
    history = History(clone)
    assert len(models(history)) == 8
    assert "dvc.lock can't be read at working tree" in history.notes[-1]


def test_stages_that_rest_on_each_other_are_refused() -> None:
    turned = {"first": [("b", "a")], "second": [("a", "b")]}
    stages = {
        name: {key: [{"path": path, "md5": "0" * 32}] for key, path in zip(("deps", "outs"), pairs[0], strict=True)}
        for name, pairs in turned.items()
    }
    with pytest.raises(InputError, match="stages that rest on each other: second and first"):
        Lock(json.dumps({"schema": "2.0", "stages": stages})).upstream("first")


def test_a_long_chain_of_stages_is_followed_at_once() -> None:
    entry = "    {}:\n    - path: o{}\n      hash: md5\n      md5: {:032x}\n      size: 1\n".format
    stages = [f"  s{i}:\n    cmd: x\n{entry('deps', i - 1, i)}{entry('outs', i, i + 1)}" for i in range(3000)]
    assert len(Lock(f"schema: '2.0'\nstages:\n{''.join(stages)}").upstream("s2999")) == 3000


def test_what_ends_a_line_elsewhere_ends_none_in_a_subject(clone: Path) -> None:
    here = commit(clone, {"note": "1"}, "one\u2028two\x0bthree\x85four")
    history = History(clone)
    mine = history.resolve(here)
    assert mine is not None
    assert mine.subject == "one\u2028two\x0bthree\x85four"


def test_a_commit_of_the_far_future_has_a_time(clone: Path) -> None:
    tree, head = git(clone, "rev-parse", "HEAD^{tree}", "HEAD").split()
    raw = f"tree {tree}\nparent {head}\nauthor t <t@e> 1 +0000\ncommitter t <t@e> 999999999999999 +0000\n\nfar\n"
    made = subprocess.run(
        ["git", "hash-object", "-w", "-t", "commit", "--literally", "--stdin"],
        cwd=clone, input=raw.encode(), capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    git(clone, "update-ref", "refs/heads/far", made)
    assert len(History(clone).revisions) == 23


def test_paths_of_a_lock_are_asked_of_git_one_by_one(clone: Path) -> None:
    """Git takes a line break for the end of a question, and waits where what it answers fills the pipe."""
    history = History(clone)
    head = history.resolve("HEAD")
    assert head is not None
    long = [f"{'x' * 3000}{i}" for i in range(100)]
    paths = ["no\nstages/train.py", *long, "stages/train.py", "src\ud800"]
    found = history.hashes(head, paths, "md5")
    assert found == {"stages/train.py": hashlib.md5(b"train\n").hexdigest()}


def test_a_dvcignore_can_not_keep_the_audit(clone: Path) -> None:
    commit(clone, {".dvcignore": "*a*a*a*a*a*a*a*a*a*a*b\n", f"src/{'a' * 200}": ""})
    history = History(clone)
    head = history.resolve("HEAD")
    assert head is not None
    with pytest.raises(InputError, match="up to 3 wildcards"):
        history.hashes(head, ["src"], "dvc")
