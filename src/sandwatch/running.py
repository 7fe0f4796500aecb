"""Processes that end with those who wait for them, and outputs that one process at a time writes to.

A stage that outlived its dvc would go on writing, into what the next run makes by then.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sandwatch.errors import InputError

if TYPE_CHECKING:
    import psutil

STAGE = "DVC_STAGE"
"""Environment variable with the name of the stage that runs. DVC sets it, for all that the stage starts."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Environment variables that number processes which train together. Source: Lightning, ``rank_zero._get_rank``."""
DVC = Path(".dvc")
LOCKS = DVC / "tmp" / "sandwatch"
"""Where locks lie, beside DVC's own; their files stay, and say nothing: the system forgets a lock with its process."""
PATIENCE_S = 10.0
"""How long to wait for somebody else who writes to the same output. One without its dvc is gone long before."""
LOOK_S = 0.2
REAPERS = frozenset(("init", "systemd", "tini", "dumb-init", "docker-init"))
"""Who takes processes over whose parent has ended; so does whatever has the number 1."""
PR_SET_PDEATHSIG = 1
"""Source: Linux, prctl(2)."""


def end_with_parent() -> None:
    """Has the system end this process with the thread that started it. Linux can; other systems don't."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_dvc() -> None:
    """Ends this process, a stage, when the dvc that runs it has ended, however that came; does nothing without DVC.

    Raises:
        InputError: it has ended already, while this process began.
    """
    if STAGE not in os.environ:
        return
    end_with_parent()
    above = list(_up_to_dvc())
    if above and _only_reaps(above[-1]):
        raise InputError(
            f"stage {os.environ[STAGE]}",
            got=f"{above[-1].name()} above it, process {above[-1].pid}",
            expected="the dvc that started it",
            fix="run dvc repro again",
        )
    threading.Thread(target=_end_after, args=(above,), daemon=True).start()


def _up_to_dvc() -> Iterator[psutil.Process]:
    """The processes above this one, up to the first that isn't part of the stage: a shell may lie in between."""
    import psutil

    try:
        for process in psutil.Process().parents():
            yield process
            if STAGE not in process.environ():
                return
    except psutil.Error:  # it has ended, or is somebody else's: no part of the stage
        return


def _only_reaps(process: psutil.Process) -> bool:
    """Whether a process has only taken this one over, or the shell above it.

    Process 1 may be dvc itself, or run it, in a container: then they are of one group.
    """
    import psutil

    try:
        name = process.name()
    except psutil.Error:  # it has ended this moment, or says nothing
        name = ""
    return name in REAPERS or (process.pid == 1 and os.getpgid(0) != os.getpgid(1))


def _end_after(processes: list[psutil.Process]) -> None:
    """Waits until one of the processes has ended, and ends this one."""
    import psutil

    while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        time.sleep(LOOK_S)
    os._exit(1)


@contextmanager
def alone(outputs: Iterable[Path]) -> Iterator[None]:
    """Keeps every other stage that runs in this folder from writing to the same outputs during the block.

    Of processes that train together, the first does so for all. Outside of DVC nothing is kept.

    Raises:
        InputError: another is writing to one of them, and goes on doing so.
    """
    if not DVC.is_dir() or any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        yield
        return
    LOCKS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for output in sorted(outputs):
            name = hashlib.sha256(os.fsencode(output.resolve())).hexdigest()[:16]
            _lock(held.enter_context((LOCKS / f"{name}.lock").open("a+")), output)
        yield


def _lock(file: TextIO, output: Path) -> None:
    """Takes the lock of an output, for as long as ``file`` is open, and leaves this process's id in it."""
    patience = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < patience:
                time.sleep(LOOK_S)
                continue
            file.seek(0)
            raise InputError(
                str(output),
                got=f"another process that writes to it: {file.read()}",
                expected="one at a time",
                fix="wait until it has ended, or end it with kill and its number; then run the same command again",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return
