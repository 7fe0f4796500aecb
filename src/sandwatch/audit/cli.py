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
Pseudonymous = Annotated[
    bool,
    typer.Option("--pseudonymous", help="people's addresses as pseudonyms, by the key SANDWATCH_PSEUDONYM_KEY"),
]
Html = Annotated[Path | None, typer.Option(help="write a page with a map; it opens in a browser, without a network")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@app.command(DEFAULT)
def of(
    target: Annotated[
        str | None, typer.Argument(help="a model file or folder, a score.tif, a git revision, or an experiment's name")
    ] = None,
    label: Annotated[str | None, typer.Option(help="a feature id or a label id: which models did it touch?")] = None,
    annotator: Annotated[
        str | None, typer.Option(help="as --label, all labels that this person (or, with the key, pseudonym) created")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="as --label, created on this day or later")] = None,
    until: Annotated[str | None, typer.Option("--to", help="as --label, created on this day or before")] = None,
    as_json: Json = False,
    csv: Annotated[Path | None, typer.Option(help="write the table of labels (or of models) as CSV")] = None,
    geoparquet: Annotated[Path | None, typer.Option(help="write the table of labels as GeoParquet")] = None,
    html: Html = None,
    pseudonymous: Pseudonymous = False,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Follow a model, a raster, a revision or an experiment to its labels; or labels to their models.

    Columns of the table of labels: feature_id, label_id, obs_id, class_name, confidence, created_by, created_at,
    updated_at, reviews, workflow_status, area_m2, fold, use, chips, pixels_train, pixels_val, pixels_test, draws,
    pixels_drawn, positives_drawn, label_sha256, row_sha256, geometry (EPSG:4326). Exit status 1 where a link is broken.
    """
    from sandwatch.audit import render
    from sandwatch.audit.pseudonyms import PSEUDONYM, Pseudonyms, veiled

    if target is None:
        from sandwatch.audit.backward import Question, backward

        who = Pseudonyms.from_environment().of if annotator and PSEUDONYM.fullmatch(annotator) else None
        question = Question(label=label, annotator=annotator, since=since, until=until, who=who)
        for option, path in (("--geoparquet", geoparquet), ("--html", html)):
            if path is not None:
                raise InputError(
                    option, got="labels to look for", expected="a model", fix="use --json or --csv with --label"
                )
        with veiled(pseudonymous, annotator) as veil:
            found = veil(backward(question, remote=remote, offline=offline))
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

    with veiled(pseudonymous) as veil:
        answer = veil(audit(target, remote=remote, offline=offline, pictures=html is not None))
    if csv is not None:
        render.write_csv(render.labels_of(answer), csv)
    if geoparquet is not None:
        render.write_geoparquet(answer, geoparquet)
    if html is not None:
        from sandwatch.audit.page import write_page

        write_page(answer, html)
    _say(as_json, lambda: render.audit_json(answer), lambda console: render.print_audit(answer, console))
    if answer.broken:
        raise typer.Exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="before: a model, a raster, a revision or an experiment")],
    b: Annotated[str, typer.Argument(help="after: likewise")],
    as_json: Json = False,
    csv: Annotated[Path | None, typer.Option(help="write the labels that differ as CSV")] = None,
    pseudonymous: Pseudonymous = False,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Say what is different between two models: labels, windows, folds, params, code, metrics by river."""
    from sandwatch.audit import render
    from sandwatch.audit.diff import diff as compare
    from sandwatch.audit.pseudonyms import veiled

    with veiled(pseudonymous) as veil:
        found = veil(compare(a, b, remote=remote, offline=offline))
    if csv is not None:
        render.write_csv(found.labels, csv)
    _say(as_json, lambda: render.diff_json(found), lambda console: render.print_diff(found, console))


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="a model file or folder, a git revision, or an experiment's name")],
    retrain: Annotated[bool, typer.Option("--retrain", help="run the training again too")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="a stage to pull rather than to run again")] = None,
    as_json: Json = False,
    html: Html = None,
    pseudonymous: Pseudonymous = False,
    remote: Remote = None,
) -> None:
    """Derive everything behind a model again in a temporary clone, compare hashes, and give one verdict.

    Exit status 0 where every link holds, 1 where one is broken, 2 where one could not be checked.
    """
    from sandwatch.audit import render
    from sandwatch.audit.pseudonyms import veiled
    from sandwatch.audit.verify import verify as prove

    with veiled(pseudonymous) as veil:

        def report(line: str) -> None:
            print(veil(line), file=sys.stderr, flush=True)

        pictures = html is not None
        answer = veil(prove(target, retrain=retrain, keep=keep or [], remote=remote, pictures=pictures, report=report))
    if html is not None:
        from sandwatch.audit.page import write_page

        write_page(answer, html)
    _say(as_json, lambda: render.audit_json(answer), lambda console: render.print_proof(answer, console))
    if answer.broken:
        raise typer.Exit(1)
    if any(link.state == "unverified" for link in answer.links):
        raise typer.Exit(2)


def _say(as_json: bool, values: Callable[[], str], show: Callable[[Console], None]) -> None:
    """Prints an answer: JSON for programs, tables for people."""
    if as_json:
        print(values())
        return
    from rich.console import Console

    show(Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200))
