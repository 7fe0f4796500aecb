"""``sandwatch sweep`` and ``sandwatch curve``: experiments that are compared. Libraries are imported when called."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

BEST = 10
"""Trials that are shown."""


def sweep(
    file: Annotated[Path, typer.Argument(help="what to search: docs/recipes/sweep.yaml is an example")],
    name: Annotated[
        str | None, typer.Option(help="its experiments are called <name>-1, ...  [default: the file's, without .yaml]")
    ] = None,
) -> None:
    """Search for better params with Optuna; each trial is an experiment of DVC. The same command again goes on.

    Trials are judged by AP on validation, or by the mean AP over folds. The holdout rivers are never looked at.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sandwatch import sweep as work
    from sandwatch.check import SECTIONS
    from sandwatch.stage import progress

    plan = work.read(file, SECTIONS)
    with _until_ctrl_c():
        trials = work.run(plan, name or file.stem, progress)
    judged = sorted((one for one in trials if one.ap is not None), key=lambda one: -one.ap.mean if one.ap else 0)
    table = Table("experiment", "AP", *(["std"] if plan.folds else []), *plan.search, box=None, pad_edge=False)
    for trial in judged[:BEST]:
        assert trial.ap is not None
        spread = [f"{trial.ap.std:.4f}"] if trial.ap.std is not None else []
        values = (escape(str(trial.values[key])) for key in plan.search)
        table.add_row(trial.name, f"{trial.ap.mean:.4f}", *spread, *values)
    Console(soft_wrap=True).print(table)
    for trial in trials:
        if trial.ap is None:
            progress(f"{trial.name} failed: {trial.reason}")
    progress(f"{len(judged)} trials of {len(trials)} trained; dvc exp show lists them, sandwatch audit follows each")
    if judged:
        progress(f"the best one's params and results come here with: dvc exp apply {judged[0].name}")


def curve(
    shares: Annotated[
        str, typer.Option(help="of the labelled training observations, per cent; each is part of the next")
    ] = "10,20,40,70,100",
    folds: Annotated[
        int | None, typer.Option(min=3, help="cross-validate each share over so many parts of the groups")
    ] = None,
    name: Annotated[str, typer.Option(help="its experiments are called <name>-10, ...")] = "curve",
    change: Annotated[
        list[str] | None, typer.Option("--set", "-S", help="a change of params.yaml for all: train.seed=1")
    ] = None,
) -> None:
    """Train on growing shares of the labels, each an experiment of DVC: AP on validation against how many there are.

    The same command again goes on. The holdout rivers are never looked at.
    """
    from rich.console import Console
    from rich.table import Table

    from sandwatch.errors import InputError
    from sandwatch.experiments import SPLIT, crossed
    from sandwatch.learning_curve import points
    from sandwatch.stage import progress

    try:
        percentages = [int(part) for part in shares.split(",")]
    except ValueError:
        raise InputError("--shares", got=shares, expected="per cent, as in 10,40,100", fix="correct it") from None
    target = crossed("groups", folds) if folds else SPLIT
    columns = ("share", "observations", "sites", "mines", "mean AP" if folds else "AP", *(["std"] if folds else []))
    table = Table(*columns, "experiment", box=None, pad_edge=False)
    with _until_ctrl_c():
        for point in points(name, target, percentages, change or (), progress):
            ap = ["undefined"] if point.ap is None else [f"{point.ap.mean:.4f}"]
            spread = [f"{point.ap.std:.4f}" if point.ap and point.ap.std is not None else ""] if folds else []
            counts = (
                f"{count:.1f}" if folds else f"{count:.0f}" for count in (point.observations, point.sites, point.mines)
            )
            table.add_row(f"{point.percent} %", *counts, *ap, *spread, point.name)
    Console(soft_wrap=True).print(table)
    what = f"test in {folds} replicates, of which counts are means" if folds else "validate"
    progress(f"AP on the groups that {what}; mines are labelled polygons; dvc exp show lists the experiments")


@contextmanager
def _until_ctrl_c() -> Iterator[None]:
    """Ends the process with one line where Ctrl-C stopped the block."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: Ctrl-C; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
