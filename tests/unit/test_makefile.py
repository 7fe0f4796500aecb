"""Which Python `make` takes, with Pythons that only say their version and note what they are asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLS = "calls"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """What `make setup` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    return tmp_path


def python(path: Path, version: tuple[int, int]) -> Path:
    """A Python of a version: it runs `-c` as such, makes an environment with its like, and writes down the rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""#!{sys.executable}
import pathlib, shutil, sys
here = pathlib.Path({str(path)!r})
arguments = sys.argv[1:]
with open({CALLS!r}, "a") as calls:
    print(here.name, *arguments, file=calls)
if arguments[0] == "-c":
    sys.version_info = {(*version, 0)}
    exec(arguments[1])
if arguments[:2] == ["-m", "venv"]:
    shutil.rmtree(arguments[-1], ignore_errors=True)
    made = pathlib.Path(arguments[-1], "bin", "python")
    made.parent.mkdir(parents=True)
    shutil.copy2(here, made)
"""
    )
    path.chmod(0o755)
    return path


def make(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{house / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["make", "setup", *arguments], cwd=house, env={"PATH": path}, capture_output=True, text=True, check=False
    )


def made_anew(house: Path) -> int:
    return (house / CALLS).read_text().count("-m venv")


def test_another_python_makes_the_environment_anew_and_it_stays(house: Path) -> None:
    python(house / "bin" / "python3", (3, 11))
    other = python(house / "bin" / "python3.12", (3, 12))
    assert make(house).returncode == 0
    assert make(house).returncode == 0
    assert made_anew(house) == 1
    done = make(house, f"PYTHON={other}")
    assert (done.returncode, done.stderr) == (0, "")
    assert made_anew(house) == 2
    assert "note:" not in done.stdout
    before = (house / CALLS).read_text().count("pip")
    assert make(house).returncode == 0  # what is there stays, though python3 is another
    assert make(house, f"PYTHON={other}").returncode == 0
    assert (made_anew(house), (house / CALLS).read_text().count("pip")) == (2, before)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("python3.99", "error: python3.99: got no such program; expected Python 3.11 or newer"),
        ("python3.10", "error: python3.10: got 3.10; expected Python 3.11 or newer"),
    ],
)
def test_a_python_that_will_not_do_is_one_line(house: Path, name: str, line: str) -> None:
    python(house / "bin" / "python3.10", (3, 10))
    done = make(house, f"PYTHON={name}")
    assert done.returncode != 0
    assert done.stdout.splitlines() == [f"{line}; call make with PYTHON=python3.11"]
    assert not (house / ".venv").exists()


def test_a_python_that_was_not_tried_is_told(house: Path) -> None:
    python(house / "bin" / "python3.14", (3, 14))
    done = make(house, "PYTHON=python3.14")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "note: the pinned set was seen with Python 3.11 3.12 3.13, not with 3.14"
