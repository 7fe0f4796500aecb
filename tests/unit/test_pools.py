"""Pools end when they are told to."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandwatch.errors import InputError
from sandwatch.pools import each, threads


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
