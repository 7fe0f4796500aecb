"""The git hook: a commit of a params.yaml that no stage would take is refused, whatever lies in the working tree."""

import os
import subprocess
from pathlib import Path

import pytest

from sandwatch import hooks
from sandwatch.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git repository with params.yaml and the folder of its region, the hook installed."""
    (tmp_path / "data/regions/sample").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    git(tmp_path, "init", "-q")
    hooks.install(tmp_path)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def git(root: Path, *words: str, fails: bool = False) -> str:
    who = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *words], cwd=root, env={**os.environ, **who}, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr


def misspell(root: Path) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("learning_rate:", "learning_rte:"))


def test_a_typo_is_not_committed(clone: Path) -> None:
    misspell(clone)
    git(clone, "add", "-A")
    (clone / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    said = git(clone, "commit", "-m", "two", fails=True)
    assert "error: params.yaml: train.learning_rte: got a key that does not exist" in said
    assert "Traceback" not in said
    git(clone, "add", "-A")
    (clone / "notes").write_text("x")
    git(clone, "add", "-A")
    misspell(clone)
    git(clone, "commit", "-q", "-m", "three")


def test_a_commit_without_params_is_not_looked_at(clone: Path) -> None:
    misspell(clone)
    (clone / "notes").write_text("x")
    git(clone, "add", "notes")
    assert "error" not in git(clone, "commit", "-m", "two")


def test_without_params_in_the_index_it_is_one_line(clone: Path) -> None:
    git(clone, "rm", "-q", "--cached", "params.yaml")
    said = git(clone, "commit", "-m", "two", fails=True)
    assert said.startswith("error: params.yaml: got none in git's index")


def test_it_is_seen_and_installed_again(clone: Path) -> None:
    assert hooks.installed(clone)
    assert hooks.install(clone) == clone / ".git/hooks/pre-commit"


def test_an_environment_that_is_gone_is_one_line(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/my venv/python")
    hooks.install(clone)
    misspell(clone)
    said = git(clone, "commit", "-a", "-m", "two", fails=True)
    assert said == "error: .git/hooks/pre-commit: its Python is gone: install or delete it\n"


def test_a_hook_of_somebody_else_is_left_alone(clone: Path) -> None:
    hook = clone / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\nexec dvc git-hook pre-commit $@\n")
    assert not hooks.installed(clone)
    with pytest.raises(InputError, match=r"got a hook that is not ours; .* add this line to it .* params --staged$"):
        hooks.install(clone)
    assert hook.read_text().startswith("#!/bin/sh\nexec dvc")


def test_without_git_it_is_one_line(tmp_path: Path) -> None:
    assert not hooks.installed(tmp_path)
    with pytest.raises(InputError, match="got no git repository"):
        hooks.install(tmp_path)
