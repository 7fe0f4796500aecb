"""``sandwatch cv``: a cross-validation as one experiment of DVC. Libraries are imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

TOGETHER = "results/cv_ensemble.json"
SPREAD = ("mean", "std", "min", "max")
SHOWN = ("ap", "f1", "precision", "recall", "iou", "ece", "false_alarms_per_100km2", "mines_found", "mines")


def cv(
    folds: Annotated[int, typer.Option(min=3, help="parts that the groups are shared out over")] = 5,
    by: Annotated[
        Literal["groups", "rivers"],
        typer.Option(help="groups: parts of about as many observations; rivers: each river is left out once"),
    ] = "groups",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="judge all models together, and each alone, on the holdout rivers too")
    ] = False,
    name: Annotated[str | None, typer.Option(help="of the experiment; else DVC makes one up")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", help="a change of params.yaml for all replicates: train.learning_rate=0.001"),
    ] = None,
) -> None:
    """Train and test once for each part of the groups, as an experiment of DVC; mean and spread are its metrics.

    The holdout rivers are in no part; only --ensemble looks at them, so choose before. The working tree stays as it is;
    replicates that ran before are not run again.
    """
    from sandwatch import experiments

    target = experiments.crossed(by, folds if by == "groups" else _rivers(), ensemble=ensemble)
    name = name or experiments.invented()
    experiments.run(name, target, change or ())
    _show(name, ensemble=ensemble)


def _rivers() -> int:
    """How many rivers there are beside those that are held out.

    Raises:
        InputError: areas or chips were not made yet.
    """
    from sandwatch import schemas

    windows = schemas.Windows.read(Path("data/chips/windows.parquet"))
    return int(windows["river"][windows["fold"] != "test"].nunique())


def _show(name: str, *, ensemble: bool) -> None:
    """Prints mean and spread of an experiment's figures, and those of the ensemble beside its members'."""
    import json

    import dvc.api
    from rich.console import Console
    from rich.table import Table

    from sandwatch.experiments import SUMMARY

    made: dict[str, Any] = json.loads(dvc.api.read(SUMMARY, rev=name))
    table = Table("", *SPREAD, box=None, pad_edge=False)
    for figure in SHOWN:
        if isinstance(values := made.get(figure), dict):
            table.add_row(figure, *(f"{values[key]:.4f}" for key in SPREAD))
    Console().print(table)
    if ensemble:
        found = json.loads(dvc.api.read(TOGETHER, rev=name))
        table = Table("holdout rivers", "together", *(f"alone: {key}" for key in SPREAD), box=None, pad_edge=False)
        for figure in SHOWN:
            if isinstance(values := found["alone"].get(figure), dict):
                table.add_row(figure, f"{found['ensemble'][figure]:.4f}", *(f"{values[key]:.4f}" for key in SPREAD))
        Console().print(table)
    print(f"{made['replicates']} replicates, imagery {made['imagery']}, labels {made['labels']}")
    print(f"dvc exp show lists {name}; sandwatch audit follows each model of it, dvc exp apply {name} brings them here")
