"""What every script in ``stages/`` shares: named paths on the command line, and errors as one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, NoReturn, get_type_hints

import typer

from sandwatch import running, storage
from sandwatch.errors import InputError
from sandwatch.files import room
from sandwatch.printable import printable

Input = Annotated[Path, typer.Option(exists=True, help="a dependency that dvc.yaml names")]
Output = Annotated[Path, typer.Option(help="an output that dvc.yaml names")]
Folds = Annotated[Path | None, typer.Option(exists=True, help="of a cross-validation; else the split's own folds")]
Replicate = Annotated[int, typer.Option(min=0, help="of the cross-validation; 0 without one")]


def run(main: Callable[..., None]) -> None:
    """Runs a stage's ``main`` with its paths read from the command line.

    Args:
        main: a function whose parameters are ``Input`` or ``Output``, without defaults: paths come from ``dvc.yaml``
            and from nowhere else. Of a stage that a cross-validation repeats, ``Folds`` and ``Replicate`` too.

    Exits with status 1 and one line on standard error where ``main`` raises :class:`InputError`, or a disk is full;
    under DVC, a second line tells the way back. After Ctrl-C with 130 and one line, as shells do. It ends with the dvc
    that runs it, and runs beside no other that has one of its outputs. Where DVC would have no room to keep what was
    made, it exits with status 1 too, and a line that tells how to keep it.
    """
    outputs = [name for name, kind in get_type_hints(main, include_extras=True).items() if kind == Output]

    @wraps(main)
    def stoppable(**paths: Path) -> None:
        try:
            running.end_with_dvc()
            with room(Path()), running.alone(paths[name] for name in outputs):
                main(**paths)
            if lacking := _not_kept():
                refuse([lacking])
        except KeyboardInterrupt:
            print("stopped: Ctrl-C; dvc repro runs this stage again, with the work that was finished", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stoppable)
    try:
        app()
    except InputError as error:
        refuse([error], _way_back())


def refuse(errors: Iterable[InputError], hints: Iterable[str] = ()) -> NoReturn:
    """Says what the user got wrong, and what helps, a line each, on standard error; exits with status 1."""
    for line in (*(f"error: {error}" for error in errors), *hints):
        print(line, file=sys.stderr)
    raise SystemExit(1)


def _way_back() -> Iterator[str]:
    """How to undo that DVC removed the outputs of the stage that runs, before it ran it."""
    stage, root = os.environ.get(running.STAGE), os.environ.get("DVC_ROOT")
    # In a temporary copy of an experiment, DVC_ROOT is the repository, whose outputs are untouched.
    if stage and root and Path(root).samefile(Path()):
        yield f"DVC removed the outputs of {stage} before it ran it: dvc checkout {stage} brings those of dvc.lock back"


def _not_kept() -> InputError | None:
    """Why DVC could not keep what the stage that it runs has made."""
    stage = os.environ.get(running.STAGE)
    return storage.shortage(stage) if stage else None


def progress(line: str) -> None:
    """Prints one line about what the stage is doing, at once, so that it shows under ``dvc repro`` and in CI."""
    print(printable(line), flush=True)


@contextmanager
def aside() -> Iterator[None]:
    """Where the block can't write what lies beside the outputs, the stage says so and goes on."""
    try:
        yield
    except (InputError, OSError) as error:
        progress(f"note: {error}; the outputs of this stage are whole without it")


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
