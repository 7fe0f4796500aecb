"""What every script in ``stages/`` shares: named paths on the command line, and errors as one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from sandwatch.errors import InputError

Input = Annotated[Path, typer.Option(exists=True, help="a dependency that dvc.yaml names")]
Output = Annotated[Path, typer.Option(help="an output that dvc.yaml names")]


def run(main: Callable[..., None]) -> None:
    """Runs a stage's ``main`` with its paths read from the command line.

    Args:
        main: a function whose parameters are all ``Input`` or ``Output``, without defaults: paths come from
            ``dvc.yaml`` and from nowhere else.

    Exits with status 1 and one line on standard error where ``main`` raises :class:`InputError`, and with 130 and one
    line after Ctrl-C, as shells do.
    """

    @wraps(main)
    def stoppable(**paths: Path) -> None:
        try:
            main(**paths)
        except KeyboardInterrupt:
            print("stopped: Ctrl-C; dvc repro begins this stage anew", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stoppable)
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def progress(line: str) -> None:
    """Prints one line about what the stage is doing, at once, so that it shows under ``dvc repro`` and in CI."""
    print(line, flush=True)


def workers() -> int:
    """How many processes or threads a stage may use: ``SANDWATCH_WORKERS``, else the processors this process may use.

    Raises:
        InputError: the variable is no whole number from 1.
    """
    given = os.environ.get("SANDWATCH_WORKERS")
    if given is None:
        return len(os.sched_getaffinity(0))
    if not given.isdecimal() or int(given) < 1:
        raise InputError(
            "environment variable SANDWATCH_WORKERS", got=repr(given), expected="a whole number from 1", fix="unset it"
        )
    return int(given)
