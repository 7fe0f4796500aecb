"""Processes by a mark in their environment, which every child inherits, whoever its parent is by then."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "SANDWATCH_TORTURE"
"""Of all that a worker of the bench starts."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that runs.

    Attributes:
        pid, parent: ids.
        command: its arguments, blanks between.
    """

    pid: int
    parent: int
    command: str


def marked(value: str, name: str = MARK) -> list[Process]:
    """All processes with this in their environment but this one, the oldest first."""
    wanted, found = f"{name}={value}".encode(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or folder.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(Process(pid=int(folder.name), parent=int(parent), command=command))
    return sorted(found, key=lambda process: process.pid)


def end_all(value: str, name: str = MARK) -> None:
    """Kills them, and those that they start meanwhile, until there are none."""
    while found := marked(value, name):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)


def gone(value: str, name: str, seconds: float) -> list[Process]:
    """Waits until there are none; those that are left after some time."""
    until = time.monotonic() + seconds
    while (found := marked(value, name)) and time.monotonic() < until:
        time.sleep(0.05)
    return found
