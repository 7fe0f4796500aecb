"""A stage ends with its dvc, and is alone with its outputs."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sandwatch import running
from sandwatch.errors import InputError

STUBBORN = "3 ** 10**9"
"""What takes minutes, and lets no other thread of the process run meanwhile."""


@pytest.fixture
def started() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts Python scripts, and ends them after the test."""
    processes = []

    def start(script: str, *, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if name != running.STAGE} | environment
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script)], cwd=cwd, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether that came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def written(path: Path) -> int:
    """The number in a file that another process is about to write."""
    assert until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


STAGE = """
import os, pathlib, time
from sandwatch.running import end_with_dvc
end_with_dvc()
pathlib.Path("pid").write_text(str(os.getpid()))
{work}
"""
DVC = """
import os, subprocess, sys
subprocess.run({command}, env=os.environ | {{"DVC_STAGE": "export"}})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("work", ["time.sleep(99)", STUBBORN])
def test_a_stage_ends_with_its_dvc(
    number: signal.Signals, work: str, tmp_path: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    dvc = started(DVC.format(command=[sys.executable, "-c", STAGE.format(work=work)]), cwd=tmp_path)
    stage = written(tmp_path / "pid")
    dvc.send_signal(number)
    dvc.wait()
    assert until(lambda: not lives(stage), 5)


def test_a_stage_ends_with_its_dvc_where_a_shell_lies_between(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (tmp_path / "stage.py").write_text(STAGE.format(work="time.sleep(99)"))
    command = ["sh", "-c", f"true; {sys.executable} stage.py; true"]
    dvc = started(DVC.format(command=command), cwd=tmp_path)
    stage = written(tmp_path / "pid")
    assert psutil.Process(stage).ppid() != dvc.pid
    time.sleep(2 * running.LOOK_S)
    assert lives(stage)
    dvc.kill()
    dvc.wait()
    assert until(lambda: not lives(stage), 5)


def test_a_stage_ends_whose_dvc_ended_while_it_began(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """By then a shell is all that is left of dvc, and somebody who takes orphans over is above it."""
    begins = "import os, pathlib, time\npathlib.Path('begun').write_text(str(os.getpid()))\ntime.sleep(1)\n"
    (tmp_path / "stage.py").write_text(begins + STAGE.format(work="time.sleep(99)"))
    dvc = started(DVC.format(command=["sh", "-c", f"true; {sys.executable} stage.py; true"]), cwd=tmp_path)
    stage = written(tmp_path / "begun")
    dvc.kill()
    dvc.wait()
    assert until(lambda: not lives(stage), 5)


def test_a_stage_without_dvc_outlives_its_shell(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    command = [sys.executable, "-c", STAGE.format(work="time.sleep(5)")]
    shell = started(f"import subprocess; subprocess.run({command})", cwd=tmp_path)
    stage = written(tmp_path / "pid")
    shell.kill()
    shell.wait()
    time.sleep(3 * running.LOOK_S)
    assert lives(stage)
    os.kill(stage, signal.SIGKILL)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository to be in, in which nobody waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "PATIENCE_S", 0.0)
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def test_a_second_stage_with_the_same_output_is_refused(root: Path) -> None:
    with running.alone([Path("data/scenes"), Path("data/scenes.parquet")]):
        with running.alone([Path("data/aoi")]):
            pass
        with (
            pytest.raises(InputError, match=rf"data/scenes: got another process that writes to it: {os.getpid()}; "),
            running.alone([root / "data" / "scenes"]),
        ):
            pass
    with running.alone([Path("data/scenes")]):
        pass


def test_a_killed_stage_holds_nothing(root: Path, started: Callable[..., "subprocess.Popen[str]"]) -> None:
    first = started(
        """
        import pathlib, time
        from sandwatch.running import alone
        with alone([pathlib.Path("out")]):
            pathlib.Path("began").write_text("1")
            time.sleep(99)
        """,
        cwd=root,
    )
    written(root / "began")
    with pytest.raises(InputError, match=f": {first.pid}; "), running.alone([Path("out")]):
        pass
    first.kill()
    first.wait()
    with running.alone([Path("out")]):
        pass


def test_processes_that_train_together_are_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.alone([Path("models")]):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with running.alone([Path("models")]):
            pass


def test_nothing_is_made_outside_of_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running.alone([Path("out")]):
        assert not list(tmp_path.iterdir())
