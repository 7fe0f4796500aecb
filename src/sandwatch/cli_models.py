"""``sandwatch models``: the weights that a network can start from. Libraries are imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sandwatch.model.entry import Entry


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="weights to fetch: a name of the list, or smp/resnet18/imagenet, timm/resnet18/a1_in1k for what these "
            "libraries have for photographs"
        ),
    ] = None,
) -> None:
    """List the weights that a network can start from; with a name, fetch them once and say what params.yaml needs."""
    from rich.console import Console
    from rich.table import Column, Table

    from sandwatch.model import registry

    console = Console()
    if name is not None:
        _fetch(registry.entry(name))
        return
    from sandwatch.model.cache import place

    longest = max(len(entry.name) for entry in registry.ENTRIES)
    table = Table(Column("weights", min_width=longest), "bands", "MB", "licence", "here", box=None, pad_edge=False)
    for entry in registry.ENTRIES:
        licence = f"{entry.licence}; forbids {entry.forbids}" if entry.forbids else entry.licence
        bands = f"{len(entry.bands)}: {' '.join(band.name for band in entry.bands)}"
        size = f"{entry.megabytes:.0f}" if entry.megabytes else "?"
        table.add_row(entry.name, bands, size, licence, "yes" if place(entry).is_file() else "")
    console.print(table)
    print("sandwatch models <weights> fetches, verifies, and prints what params.yaml needs")


def _fetch(entry: Entry) -> None:
    """Says what may not be done with weights, fetches them, and prints the section of params.yaml."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from sandwatch.files import sha256
    from sandwatch.model.cache import fetch

    print(f"{entry.name}: {entry.source}; licence: {entry.licence}")
    if entry.forbids:
        print(f"note: that licence forbids {entry.forbids}")
    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    ) as progress:
        bar = progress.add_task("", total=None)
        path = fetch(entry, lambda done, total: progress.update(bar, completed=done, total=total or None))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print("write into params.yaml, section model:")
    for key, value in entry.network.items():
        print(f"  {key}: {value}")
    print(f"  weights: {{name: {entry.name}, sha256: {sha256(path)}}}")
