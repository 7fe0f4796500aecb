"""The git hook that ``sandwatch doctor --hooks`` installs: no commit of a params.yaml that no stage would take."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from sandwatch.errors import InputError
from sandwatch.files import whole

MARK = "# By sandwatch doctor --hooks: refuses a commit of a params.yaml that no stage would take."


def path(root: Path) -> Path | None:
    """Where git looks for the hook; None where ``root`` is in no git repository."""
    asked = subprocess.run(
        ["git", "rev-parse", "--git-path", "hooks/pre-commit"], cwd=root, capture_output=True, text=True, check=False
    )
    return root / asked.stdout.strip() if asked.returncode == 0 else None


def installed(root: Path) -> bool:
    """Whether git will run the hook."""
    hook = path(root)
    return hook is not None and hook.is_file() and MARK in hook.read_text(errors="replace")


def install(root: Path) -> Path:
    """Writes the hook, anew where it is there; it works for as long as this environment does.

    Raises:
        InputError: no git repository, or somebody else's hook is there.
    """
    hook = path(root)
    if hook is None:
        raise InputError("this folder", got="no git repository", expected="a clone", fix="git clone, or git init")
    python = shlex.quote(sys.executable)
    check = f"{python} -c 'from sandwatch.cli import main; main()' params --staged"
    if hook.exists() and not installed(root):
        raise InputError(
            str(hook), got="a hook that is not ours", expected="none", fix=f"add this line to it yourself: {check}"
        )
    with whole(hook) as partial:
        partial.write_text(
            f"#!/bin/sh\n{MARK}\n"
            "git diff --cached --quiet -- params.yaml && exit 0\n"
            f'test -x {python} || {{ echo "error: $0: its Python is gone: install or delete it" >&2; exit 1; }}\n'
            f"exec {check}\n"
        )
        partial.chmod(0o755)
    return hook


def staged(root: Path) -> bytes:
    """The params.yaml that the next commit will hold.

    Raises:
        InputError: it will hold none.
    """
    asked = subprocess.run(["git", "show", ":./params.yaml"], cwd=root, capture_output=True, check=False)
    if asked.returncode != 0:
        raise InputError(
            "params.yaml", got="none in git's index", expected="one", fix="git restore --staged params.yaml"
        )
    return asked.stdout
