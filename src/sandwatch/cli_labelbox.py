"""``sandwatch labelbox``: pictures to the annotators, and what to label next. Libraries are imported when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sandwatch.printable import printable

app = typer.Typer(help="Work with a project of Labelbox; the key is read from LABELBOX_API_KEY.", no_args_is_help=True)
PARAMS, DATA = Path("params.yaml"), Path("data")


@app.command()
def push(
    bucket: Annotated[str, typer.Argument(help="where the pictures go: gs://bucket/prefix")],
    links: Annotated[
        Literal["public", "signed", "iam"],
        typer.Option(
            help="how Labelbox gets at them: public: everyone may read the bucket; signed: addresses that end after a "
            "week; iam: the organisation's integration"
        ),
    ] = "iam",
    dataset: Annotated[str, typer.Option(help="name of the dataset; made if needed")] = "sandwatch",
    integration: Annotated[str | None, typer.Option(help="name of the IAM integration, for --links iam")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="give rows that are there a new address")] = False,
) -> None:
    """Make a data row of every exported picture (rgb.tif) that Labelbox does not have yet. Exit 1 where one failed."""
    from sandwatch import labelbox_push, schemas

    manifest = schemas.Scenes.read(DATA / "scenes.parquet")
    pushed = labelbox_push.push(
        manifest, DATA / "scenes", bucket, dataset=dataset, links=links, integration=integration, renew=renew
    )
    for obs_id, message in sorted(pushed.failed.items()):
        typer.echo(printable(f"{obs_id}: {message}"), err=True)
    typer.echo(f"{len(pushed.created)} made, {len(pushed.there)} there before, {len(pushed.failed)} failed")
    if pushed.failed:
        raise typer.Exit(1)


@app.command()
def suggest(
    budget: Annotated[int, typer.Option(min=1, max=500, help="how many windows at most")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print them")] = False,
) -> None:
    """Queue the observations that the model is least sure about, with its polygons as pre-labels."""
    from sandwatch import labelbox_suggest, params, schemas
    from sandwatch.annotations.params import Annotations
    from sandwatch.chips import Chips

    section, chips = params.read(PARAMS, Annotations), params.read(PARAMS, Chips)
    observations = schemas.Observations.read(DATA / "annotations" / "observations.parquet")
    suggestions = labelbox_suggest.rank(
        DATA / "predictions", set(observations["obs_id"]), size_px=chips.size_px, budget=budget
    )
    for number, one in enumerate(suggestions, start=1):
        typer.echo(
            f"{number:>4}  {one.uncertainty:.4f}  {one.obs_id}  row {one.window.row}, column {one.window.col}  "
            f"({one.latitude:.5f}, {one.longitude:.5f})"
        )
    if dry_run:
        return
    queued = labelbox_suggest.queue(section, suggestions, DATA / "predictions")
    for uuid, message in sorted(queued.failed.items()):
        typer.echo(printable(f"pre-label {uuid}: {message}"), err=True)
    typer.echo(
        f"{queued.batch}: {queued.polygons} pre-labels, {len(queued.failed)} refused; "
        f"{len(queued.not_queued)} observations were queued before or refused"
    )
    if queued.failed:
        raise typer.Exit(1)
