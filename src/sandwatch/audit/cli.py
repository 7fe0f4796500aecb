"""``sandwatch audit``: without a sub-command it follows a model to its labels, or labels to their models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sandwatch.errors import InputError
from sandwatch.printable import json_printable, printable

if TYPE_CHECKING:
    from rich.console import Console

    from sandwatch.audit.record import Chain

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
        str | None,
        typer.Argument(
            help="a model file or folder, a result of infer (score.tif, mask.tif, detections.parquet, item.json), "
            "a git revision, or an experiment's name"
        ),
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

    Columns of the table of labels: training (own; start 1 is that of the model that it began with, and so on),
    feature_id, label_id, obs_id, class_name, confidence, created_by, created_at, updated_at, reviews, workflow_status,
    area_m2, fold, use, chips, pixels_train, pixels_val, pixels_test, draws, pixels_drawn, positives_drawn,
    label_sha256, row_sha256, geometry (EPSG:4326).

    Exit status 0: all that was looked at holds; 1: a link is broken, or a label is unknown; 2: something can't be seen
    from here; 3: not committed yet.
    """
    from sandwatch.audit import render
    from sandwatch.audit.pseudonyms import PSEUDONYM, Pseudonyms, veiled

    if target is None:
        from sandwatch.audit.backward import Question, backward

        hidden = annotator is not None and (pseudonymous or PSEUDONYM.fullmatch(annotator) is not None)
        who = Pseudonyms.from_environment().of if hidden else None
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
        if any(model.state == "unknown" for model in found.models):
            raise typer.Exit(2)
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
    _exit(answer)


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
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="run the code of a revision that is not in HEAD's history unasked")
    ] = False,
    network: Annotated[
        bool, typer.Option("--network", help="leave network and credentials to the code, for rasters in a bucket")
    ] = False,
    as_json: Json = False,
    html: Html = None,
    pseudonymous: Pseudonymous = False,
    remote: Remote = None,
) -> None:
    """Derive everything behind a model again in a temporary clone, compare hashes, and give one verdict.

    This runs the revision's own code with your rights on this machine: without the variables and the home folder that
    hold credentials, and without a network where the system can, but with your files. Read what you did not write.

    Exit status 0: all that was looked at holds; 1: a link is broken, or nothing may be run; 2: something can't be seen
    from here; 3: not committed yet.
    """
    from sandwatch.audit import render
    from sandwatch.audit.pseudonyms import veiled
    from sandwatch.audit.verify import Foreign
    from sandwatch.audit.verify import verify as prove

    with veiled(pseudonymous) as veil:

        def report(line: str) -> None:
            print(printable(veil(line)), file=sys.stderr, flush=True)

        def allow(foreign: Foreign) -> bool:
            print("this is not in the history of what is checked out here:", file=sys.stderr)
            print(*veil(foreign).lines, sep="\n", file=sys.stderr, flush=True)
            asked = "run it, with your files and your rights on this machine?"
            return yes or (sys.stdin.isatty() and typer.confirm(asked, err=True))

        answer = veil(
            prove(
                target,
                retrain=retrain,
                keep=keep or [],
                remote=remote,
                pictures=html is not None,
                network=network,
                report=report,
                allow=allow,
            )
        )
    if html is not None:
        from sandwatch.audit.page import write_page

        write_page(answer, html)
    _say(as_json, lambda: render.audit_json(answer), lambda console: render.print_proof(answer, console))
    _exit(answer)


@app.command()
def attest(
    target: Annotated[str, typer.Argument(help="a model file or folder, a git revision, or an experiment's name")],
    out: Annotated[Path, typer.Option(help="folder to write: a new one, or an earlier release of the same model")],
    private_key: Annotated[
        Path | None,
        typer.Option(help="sign with this elliptic key (PEM; its password in SANDWATCH_KEY_PASSWORD)"),
    ] = None,
    sigstore: Annotated[bool, typer.Option("--sigstore", help="sign with Sigstore, over the network")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the attestation")] = False,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Write a committed model with an attestation of what it was made from, signed where a key is given.

    The folder gets model.safetensors, model.json, attestation.json (in-toto statement, SLSA provenance) and, where
    signed, model.sig (OpenSSF model-signing). Nothing is written unless a commit holds the model and no link is broken.
    """
    from sandwatch.audit import attest as attestation
    from sandwatch.audit import render
    from sandwatch.audit.release import with_key, with_sigstore

    if sigstore and private_key is not None:
        raise InputError("who signs", got="a key and Sigstore", expected="one of the two", fix="leave one out")
    sign = with_key(private_key) if private_key is not None else with_sigstore() if sigstore else None
    done = attestation.attest(target, out, remote=remote, offline=offline, sign=sign)
    _say(
        as_json,
        lambda: json_printable(json.dumps(done.statement, indent=2, sort_keys=True, ensure_ascii=False)),
        lambda console: render.print_released(done, console),
    )


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="that attest wrote, wherever it was moved to since")],
    public_key: Annotated[Path | None, typer.Option(help="of who must have signed it (PEM)")] = None,
    identity: Annotated[str | None, typer.Option(help="of Sigstore: address or URI of who must have signed it")] = None,
    issuer: Annotated[str | None, typer.Option(help="of Sigstore: who must have vouched for the identity")] = None,
    as_json: Json = False,
) -> None:
    """Check a release: who signed it, that its attestation is about its files, that the commit named holds the model.

    Exit status 0: all that was looked at holds; 1: a link is broken; 2: this repository lacks the commit.
    """
    from sandwatch.audit import render
    from sandwatch.audit.release import Signer
    from sandwatch.audit.release import check as examine

    found = examine(folder, Signer(public_key=public_key, identity=identity, issuer=issuer))
    _say(as_json, lambda: render.checked_json(found), lambda console: render.print_checked(found, console))
    _exit(found)


@app.command()
def croissant(
    target: Annotated[str, typer.Argument(help="a model file or folder, a git revision, or an experiment's name")],
    out: Annotated[Path, typer.Option(help="folder to write: a new one, or an earlier label set")],
    license: Annotated[str, typer.Option(help="of the labels, best as an address at spdx.org/licenses")],
    creator: Annotated[list[str], typer.Option(help="whom to cite; may be given several times")],
    url: Annotated[str, typer.Option(help="where the label set will be found")],
    name: Annotated[str | None, typer.Option(help="of the label set  [default: one that names the region]")] = None,
    annotators: Annotated[
        bool, typer.Option("--annotators", help="publish who drew and reviewed: the columns created_by and reviews")
    ] = False,
    pseudonymous: Annotated[
        bool, typer.Option("--pseudonymous", help="as --annotators, with pseudonyms by the key SANDWATCH_PSEUDONYM_KEY")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the description")] = False,
    remote: Remote = None,
    offline: Offline = False,
) -> None:
    """Write the labels behind a model as a data set to publish and cite, described in Croissant (croissant.json).

    labels.parquet: a polygon a row (EPSG:4326); observations.parquet: what was looked at, negatives too.
    """
    from sandwatch.audit import render
    from sandwatch.audit.croissant import Citation, publish
    from sandwatch.audit.pseudonyms import veiled

    citation = Citation(license=license, creators=tuple(creator), url=url, name=name)
    with veiled(pseudonymous) as veil:
        people = annotators or pseudonymous
        done = publish(target, out, citation, people=people, veil=veil, remote=remote, offline=offline)
    _say(
        as_json,
        lambda: json_printable(json.dumps(done.metadata, indent=2, sort_keys=True, ensure_ascii=False)),
        lambda console: render.print_published(done, console),
    )


def _exit(found: Chain) -> None:
    """Ends with the status of a verdict."""
    from sandwatch.audit.record import STATUS

    if status := STATUS[found.state]:
        raise typer.Exit(status)


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

    people = sys.stdout.isatty()
    show(Console(highlight=False, emoji=False, soft_wrap=not people, width=None if people else 200))
