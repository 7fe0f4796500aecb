"""Work in parallel that ends when it is told to: no queue is waited for, and no process stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from sandwatch.errors import InputError
from sandwatch.running import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. Where its block ends by an error or Ctrl-C, what has not begun by then never does."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def each(
    work: Callable[[Task], Result], tasks: Sequence[Task], processes: int, *, named: Callable[[Task], str] = str
) -> Iterator[Result]:
    """Yields the result of each task as it is done, in parallel.

    Where a task fails, or the caller leaves the loop or is interrupted, the processes are ended at once.

    Args:
        work: can be pickled. It is sent to a process once, with all that it holds, not with every task.
        tasks: each can be pickled.
        processes: how many; 1 for this one alone.
        named: what to call a task whose process was ended.

    Raises:
        InputError: a process was ended from outside, most often because memory ran out.
    """
    if processes <= 1:
        yield from map(work, tasks)
        return
    others = multiprocessing.active_children()
    # Spawned, not forked: libraries have threads, which a fork would leave behind with their locks held.
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(work,)
    )
    waiting, begun = iter(tasks), dict[Future[Result], Task]()

    def begin() -> None:
        """Gives every process a task, and no more: what has begun is what is being worked on."""
        # A terminal sends Ctrl-C to all processes. Those born while it is blocked never see it: this one ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for task in islice(waiting, processes - len(begun)):
                begun[pool.submit(_do, task)] = task
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        begin()
        while begun:
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del begun[future]
                begin()
                yield result
    except BrokenProcessPool:
        raise InputError(
            f"a process that worked on {' or '.join(map(named, begun.values()))}",
            got="its end, by the system or by somebody",
            expected="a result",
            fix="run the same command again; if memory runs out, with fewer processes: "
            f"SANDWATCH_WORKERS={max(processes // 2, 1)}",
        ) from None
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_sent: Callable[[Any], Any]
"""In a process of :func:`each`: its work."""


def _begin(work: Callable[[Any], Any]) -> None:
    """Runs first in each process of the pool."""
    global _sent
    _sent = work
    end_with_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(task: Any) -> Any:
    return _sent(task)


def _end_with_parent() -> None:
    """Waits for the parent's end, however it comes, and ends this process: nobody would take its results."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
