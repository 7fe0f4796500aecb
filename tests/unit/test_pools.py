"""Pools end when they are told to."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandwatch.errors import InputError
from sandwatch.pools import each, threads
from tests.unit.test_running import written


def test_what_threads_have_not_begun_when_the_block_fails_never_begins() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def interrupted() -> None:
        with threads(2) as pool:
            futures = [pool.submit(work, number) for number in range(100)]
            futures[3].result()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 50


class Slow:
    """Fails at task 0; any other takes a minute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, task: int) -> int:
        if task == 0:
            while not (self.folder / "1").exists():  # another process has begun the other task
                time.sleep(0.01)
            raise InputError("task 0", got="0", expected="another", fix="none")
        (self.folder / str(task)).touch()
        time.sleep(60)
        return task


def test_a_failing_task_ends_the_others(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match="task 0"):
        list(each(Slow(tmp_path), range(9), 2))
    assert time.monotonic() - begin < 40
    assert not multiprocessing.active_children()
    assert not (tmp_path / "8").exists()


def doubled(task: int) -> int:
    return 2 * task


def test_leaving_the_loop_ends_the_processes() -> None:
    results: Iterator[int] = each(doubled, range(50), 2)
    assert next(results) % 2 == 0
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_gives_its_result(processes: int) -> None:
    assert sorted(each(doubled, range(9), processes)) == [2 * task for task in range(9)]


class Waits:
    """Says which process it runs in, and then takes long."""

    def __init__(self, folder: Path, *, stubborn: bool = False) -> None:
        self.folder, self.stubborn = folder, stubborn

    def __call__(self, task: str) -> str:
        (self.folder / f"{task}.pid").write_text(str(os.getpid()))
        if self.stubborn:
            return str(3**10**9)  # no other thread of this process runs meanwhile
        time.sleep(60)
        return task


def test_a_killed_process_is_told_with_its_task(tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(written(tmp_path / "b.pid"), signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(
        InputError,
        match=r"^a process that worked on site (a or site )?b( or site a)?: got its end, .*SANDWATCH_WORKERS=1$",
    ):
        list(each(Waits(tmp_path), ["a", "b", "c", "d"], 2, named=lambda task: f"site {task}"))
    assert not multiprocessing.active_children()
    assert not (tmp_path / "c.pid").exists()


def run_each(folder: Path) -> None:
    list(each(Waits(folder, stubborn=True), ["a", "b"], 2))


def test_no_process_outlives_a_killed_stage(tmp_path: Path) -> None:
    script = f"from pathlib import Path\nfrom tests.unit.test_pools import run_each\nrun_each(Path({str(tmp_path)!r}))"
    stage = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    workers = [written(tmp_path / f"{task}.pid") for task in "ab"]
    family = psutil.Process(stage.pid).children(recursive=True)
    assert {process.pid for process in family} >= set(workers)
    stage.kill()
    stage.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
