"""``sandwatch audit``: without a sub-command it follows a model to its labels, or labels to their models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sandwatch.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT = "of"


class _Group(TyperGroup):
    """Takes what is no sub-command as arguments of the default one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Which labels made this model: sandwatch audit MODEL|RASTER|REVISION|EXPERIMENT; which models a label made: "
    "sandwatch audit --label ID (or --annotator, --from, --to).",
)
Remote = Annotated[str | None, typer.Option(help="DVC remote to pull tables from  [default: the repository's]")]
Offline = Annotated[bool, typer.Option("--offline", help="ask no remote")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@app.command(DEFAULT)
def of(
    target: Annotated[
        str | None, typer.Argument(help="a model file or folder, a score.tif, a git revision, or an experiment's name")
    ] = None,
    label: Annotated[str | None, typer.Option(help="a feature id or a label id: which models did it touch?")] = None,
    annotator: Annotated[str | None, typer.Option(help="as --label, all labels that this person created")] = None,
    since: Annotated[str | None, typer.Option("--from", help="as --label, created on this day or later")] = None,
    until: Annotated[str | None, typer.Option("--to", help="as --label, created on this day or before")] = None,
    as_json: Json = False,
    csv: Annotated[Path | None, typer.Option(help="write the table of labels (or of models) as CSV")] = None,
    geoparquet: Annotated[Path | None, typer.Option(help="write the table of labels as GeoParquet")] = None,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Follow a model, a raster, a revision or an experiment to its labels; or labels to their models.

    Columns of the table of labels: feature_id, label_id, obs_id, class_name, confidence, created_by, created_at,
    updated_at, reviews, workflow_status, area_m2, fold, use, chips, pixels_train, pixels_val, pixels_test, draws,
    pixels_drawn, positives_drawn, label_sha256, row_sha256, geometry (EPSG:4326). Exit status 1 where a link is broken.
    """
    from sandwatch.audit import render

    if target is None:
        from sandwatch.audit.backward import Question, backward

        question = Question(label=label, annotator=annotator, since=since, until=until)
        if geoparquet is not None:
            raise InputError(
                "--geoparquet", got="labels to look for", expected="a model", fix="use --json or --csv with --label"
            )
        found = backward(question, remote=remote, offline=offline)
        if csv is not None:
            render.write_csv(render.backward_table(found), csv)
        _say(as_json, lambda: render.backward_json(found), lambda console: render.print_backward(found, console))
        return
    if any((label, annotator, since, until)):
        raise InputError(
            f"sandwatch audit {target}",
            got="a model and labels to look for",
            expected="one of the two",
            fix="ask twice",
        )
    from sandwatch.audit.forward import audit

    answer = audit(target, remote=remote, offline=offline)
    if csv is not None:
        render.write_csv(render.labels_of(answer), csv)
    if geoparquet is not None:
        render.write_geoparquet(answer, geoparquet)
    _say(as_json, lambda: render.audit_json(answer), lambda console: render.print_audit(answer, console))
    if answer.broken:
        raise typer.Exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="before: a model, a raster, a revision or an experiment")],
    b: Annotated[str, typer.Argument(help="after: likewise")],
    as_json: Json = False,
    csv: Annotated[Path | None, typer.Option(help="write the labels that differ as CSV")] = None,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Say what is different between two models: labels, windows, folds, params, code, metrics by river."""
    from sandwatch.audit import render
    from sandwatch.audit.diff import diff as compare

    found = compare(a, b, remote=remote, offline=offline)
    if csv is not None:
        render.write_csv(found.labels, csv)
    _say(as_json, lambda: render.diff_json(found), lambda console: render.print_diff(found, console))


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="a model file or folder, a git revision, or an experiment's name")],
    retrain: Annotated[bool, typer.Option("--retrain", help="run the training again too")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="a stage to pull rather than to run again")] = None,
    as_json: Json = False,
    remote: Remote = None,
) -> None:
    """Derive everything behind a model again in a temporary clone, compare hashes, and give one verdict.

    Exit status 0 where every link holds, 1 where one is broken, 2 where one could not be checked.
    """
    from sandwatch.audit import render
    from sandwatch.audit.verify import verify as prove

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    answer = prove(target, retrain=retrain, keep=keep or [], remote=remote, report=report)
    _say(as_json, lambda: render.audit_json(answer), lambda console: render.print_proof(answer, console))
    if answer.broken:
        raise typer.Exit(1)
    if any(link.state == "unverified" for link in answer.links):
        raise typer.Exit(2)


@app.command()
def exclude(
    reason: Annotated[str, typer.Option(help="why, on one line; it goes into git, so it names nobody")],
    label: Annotated[list[str] | None, typer.Option(help="a feature id, or a label id for all that it holds")] = None,
    annotator: Annotated[str | None, typer.Option(help="everything that this person created")] = None,
    since: Annotated[str | None, typer.Option("--from", help="with --annotator: on this day or later")] = None,
    until: Annotated[str | None, typer.Option("--to", help="with --annotator: on this day or before")] = None,
    pixels: Annotated[
        str,
        typer.Option(help="ignore: a mine may be there, learn nothing there; other: there is none, learn that"),
    ] = "ignore",
) -> None:
    """Record labels that must not be learnt from, in a file that git tracks and the stage annotations honours.

    Ids are looked up in the snapshot that lies in data/annotations. Run it in the root of a clone.
    """
    from sandwatch.audit import render
    from sandwatch.audit.exclude import exclude as record

    outcome = record(
        Path(),
        labels=label or [],
        annotator=annotator,
        since=since,
        until=until,
        pixels=pixels,
        reason=reason,
    )
    _say(False, lambda: "", lambda console: render.print_outcome(outcome, console))


def _say(as_json: bool, values: Callable[[], str], show: Callable[[Console], None]) -> None:
    """Prints an answer: JSON for programs, tables for people."""
    if as_json:
        print(values())
        return
    from rich.console import Console

    show(Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200))
