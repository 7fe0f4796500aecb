"""Signals to every process of a run of ``dvc repro`` at any moment; the next run gives what an undisturbed one does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path
from random import Random

from tests.torture.attack import expect
from tests.torture.processes import Process, end_all, gone, marked
from tests.torture.sample import RUN_MARK, Sample, last_line, traceback_in

TARGETS = ("group", "dvc", "shell", "stage", "worker")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STAGES = ("aoi", "export", "export", "annotations", "chips", "train", "evaluate", "infer")
GRACE_S = 5.0
"""After the next run, for a process of the killed one to be gone."""
STUBBORN_S = 120.0
"""For a run that was told to end by a signal that it may take its time with."""
TRIES = 3
"""Of the next run: one may refuse to start beside a stage that is still at work."""


class Attack:
    """Kills something, and runs again at once."""

    share = 6.0
    deadline_s = 600.0

    def __init__(self, scratch: Path) -> None:
        """Runs the pipeline once."""
        self._sample = Sample(scratch)

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        sample, mark = self._sample, uuid.uuid4().hex
        stage, target, number = draw.choice(STAGES), draw.choice(TARGETS), draw.choice(SIGNALS)
        moment = draw.uniform(0.0, 1.1) * sample.seconds[stage]
        what = f"{number.name} to the {target} of {stage} after {moment:.1f} s"
        run = sample.start("repro", "--force", "--single-item", "--no-run-cache", stage, mark=mark)
        try:
            killed = _kill(run, mark, target, number, moment)
            said = _ended(run)
            refusals = [last_line(said)]
            for _ in range(TRIES):
                status, printed = sample.run("repro", "--no-run-cache", stage, mark=f"{mark}-next")
                expect(not traceback_in(printed), "traceback", f"{traceback_in(printed)}, in the run after {what}")
                if not status:
                    break
                refusals.append(last_line(printed))
                gone(mark, RUN_MARK, STUBBORN_S)
            expect(not status, "not recovered", f"{refusals[-1]}, after {what}")
            left = [*gone(mark, RUN_MARK, GRACE_S), *gone(f"{mark}-next", RUN_MARK, GRACE_S)]
            expect(not left, "orphan", f"{[one.command[:80] for one in left[:2]]}, after {what}")
            try:
                sample.judge(stage)
            except Exception as error:
                error.args = (f"{error}; {what}",)
                raise
            expect(not traceback_in(said), "traceback", f"{traceback_in(said)}, of {what}")
        except Exception:
            _end(mark)
            sample.restore([stage])
            raise
        return Counter(right=1) if killed else Counter(skipped=1)


def _kill(run: subprocess.Popen[str], mark: str, target: str, number: signal.Signals, moment: float) -> bool:
    """Sends the signal when it is time and the target is there; whether there was any."""
    until = time.monotonic() + moment
    while run.poll() is None:
        if time.monotonic() >= until and (pids := _pids(run, mark, target)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if target == "group" else os.kill)(pid, number)
            return True
        time.sleep(0.01)
    return False


def _pids(run: subprocess.Popen[str], mark: str, target: str) -> list[int]:
    if target in ("group", "dvc"):
        return [run.pid]
    processes = marked(mark, RUN_MARK)
    stages = [one for one in processes if _runs_stage(one)]
    found = {
        "shell": [one for one in processes if one.parent == run.pid and "/stages/" not in one.command.split(" -c ")[0]],
        "stage": stages[:1],
        "worker": [one for one in processes if "multiprocessing.spawn" in one.command][:1],
    }[target]
    return [one.pid for one in found]


def _runs_stage(process: Process) -> bool:
    return process.command.startswith("python") and "stages/" in process.command


def _ended(run: subprocess.Popen[str]) -> str:
    """What a run printed until it ended; its stage may live on, and hold its output open."""
    assert run.stdout is not None
    try:
        run.wait(STUBBORN_S)
    except subprocess.TimeoutExpired:
        run.kill()
        expect(False, "hang", f"dvc still runs {STUBBORN_S:.0f} s after the signal")
    os.set_blocking(run.stdout.fileno(), False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(run.stdout.fileno(), 1 << 16):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


def _end(mark: str) -> None:
    for one in (mark, f"{mark}-next"):
        end_all(one, RUN_MARK)
