"""Shares time between kinds of attacks, and says what came of them."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import queue
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import kinds
from tests.torture.attack import OUTCOMES, ROOT
from tests.torture.processes import MARK, end_all

PREPARE_S = 2_400.0
"""Longest that a kind may take to prepare, seconds: some run the whole pipeline once, on a machine that may be busy."""
SHOWN = 3
"""Failures of one sort that are written out; the rest is counted."""


def known() -> dict[str, str]:
    """The kinds: module by name."""
    return {module.name: f"{kinds.__name__}.{module.name}" for module in pkgutil.iter_modules(kinds.__path__)}


@dataclass(kw_only=True)
class Result:
    """What came of a kind.

    Attributes:
        name: of it.
        tries: how many were made.
        outcomes: of inputs; a try may hold many.
        failures: (try, word, what was seen) of each that failed.
        seconds: that it took, with its preparation.
    """

    name: str
    tries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0


class _Worker:
    """A process that makes tries, and all that these start; nothing of it outlives :meth:`end`."""

    def __init__(self, module: str, seed: int, scratch: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._said = (scratch / f"said-{self._mark}").open("w+", errors="replace")  # end() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.worker", module, str(seed), str(scratch)],
            cwd=ROOT,
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,
        )

    def answer(self, asked: str, seconds: float) -> dict[str, object]:
        """What it answers; how it failed to, where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(asked)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone, and the end of its answers says so
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return {"failure": "hang", "detail": f"more than {seconds:.0f} s; {self.last_words()}"}
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            return {"failure": "crash", "detail": f"{how}; {self.last_words()}"}
        answer: dict[str, object] = json.loads(line)
        return answer

    def last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return f"last words: {lines[-1][:200]!r}" if lines else "without a word"

    def words(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        end_all(self._mark)
        self._process.wait()
        self._said.close()


@contextmanager
def _asked(module: str, seed: int, scratch: Path) -> Iterator[_Worker]:
    worker = _Worker(module, seed, scratch)
    try:
        yield worker
    finally:
        worker.end()


def torture(module: str, *, seed: int, seconds: float, room: Path, only: int | None = None) -> Result:
    """Makes tries of one kind for some time, at least one; a try that hangs or crashes ends the process, not the bench.

    Args:
        module: of the kind.
        seed: of all tries.
        seconds: how long, without the preparation.
        room: a folder of all kinds, in which this one gets one of its own.
        only: the number of the one try to make, whose traceback is printed; None for 0, 1, 2, ...
    """
    result = Result(name=module.rpartition(".")[2])
    began, number = time.monotonic(), only or 0
    until = None
    with tempfile.TemporaryDirectory(prefix=f"{result.name}-", dir=room, ignore_cleanup_errors=True) as scratch:
        while until is None or (only is None and time.monotonic() < until):
            with _asked(module, seed, Path(scratch)) as worker:
                ready = worker.answer("", PREPARE_S)
                if "failure" in ready:
                    result.failures.append((number, str(ready["failure"]), f"in preparation: {ready['detail']}"))
                    break
                until = until or time.monotonic() + seconds
                while True:
                    answer = worker.answer(f"{number}\n", float(str(ready["deadline_s"])))
                    result.tries, number = result.tries + 1, number + 1
                    if "outcomes" in answer:
                        result.outcomes.update(answer["outcomes"])  # type: ignore[call-overload]
                    else:
                        result.failures.append((number - 1, str(answer["failure"]), str(answer["detail"])))
                    if only is not None:
                        sys.stderr.write(worker.words())
                    if only is not None or answer.get("failure") in ("hang", "crash") or time.monotonic() >= until:
                        break
    result.seconds = time.monotonic() - began
    return result


def torture_all(modules: Sequence[str], *, seed: int, minutes: float, lanes: int, room: Path) -> list[Result]:
    """Shares time between kinds by their shares; as many at once as there are lanes.

    Args:
        modules: of the kinds.
        seed: of all tries.
        minutes: how long in all, without preparations.
        lanes: how many kinds at once.
        room: an empty folder.

    Returns:
        A result for each, in the order of ``modules``; a line for each is printed as it is done.
    """
    shares = {module: importlib.import_module(module).Attack.share for module in modules}
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for module in sorted(modules, key=lambda one: -shares[one]):
        waiting.put(module)
    done: dict[str, Result] = {}

    def lane() -> None:
        while True:
            try:
                module = waiting.get_nowait()
            except queue.Empty:
                return
            seconds = 60 * minutes * min(lanes, len(modules)) * shares[module] / sum(shares.values())
            done[module] = torture(module, seed=seed, seconds=seconds, room=room)
            print(_row(done[module]), flush=True)

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[module] for module in modules]


def _row(result: Result) -> str:
    counts = "".join(f"{result.outcomes[outcome]:>12,}" for outcome in OUTCOMES)
    heads = f"{result.name:<10}{result.tries:>9,}{sum(result.outcomes.values()):>9,}"
    return f"{heads}{counts}{len(result.failures):>8,}{result.seconds:>7.0f} s"


def _sort(detail: str) -> str:
    """What failures of one sort say alike: all before the first thing that is quoted or counted."""
    return re.split(r"['\"\[{(;\d]", detail.partition(": ")[0])[0]


def report(results: Sequence[Result], seed: int) -> bool:
    """Prints the table, and for each failure the command that repeats it.

    Returns:
        Whether nothing failed.
    """
    heads = "".join(f"{outcome:>12}" for outcome in OUTCOMES)
    print(f"\n{'kind':<10}{'tries':>9}{'inputs':>9}{heads}{'FAILED':>8}")
    for result in results:
        print(_row(result))
    for result in results:
        sorts: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for number, word, detail in result.failures:
            sorts.setdefault((word, _sort(detail)), []).append((number, detail))
        for (word, _), failures in sorts.items():
            for number, detail in failures[:SHOWN]:
                print(f"FAILED {word}: {detail}")
                print(f"  again: python -m tests.torture --only {result.name} --seed {seed} --try {number}")
            if len(failures) > SHOWN:
                print(f"  and {len(failures) - SHOWN} more of this sort")
    for result in results:
        if result.outcomes["skipped"] and not result.outcomes["right"]:
            print(f"NOT TESTED: {result.name}: all {result.outcomes['skipped']} tries were skipped")
    failed = sum(len(result.failures) for result in results)
    print(f"seed {seed}: {failed or 'nothing'} failed")
    return not failed
