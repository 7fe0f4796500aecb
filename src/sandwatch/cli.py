"""The command ``sandwatch``. Heavy libraries are imported where they are used, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandwatch import cli_cv, cli_export, cli_labelbox, cli_mines, cli_models, cli_sweep
from sandwatch.audit import cli as cli_audit
from sandwatch.errors import InputError
from sandwatch.files import room
from sandwatch.printable import printable

if TYPE_CHECKING:
    import geopandas as gpd

    from sandwatch.schemas import Table

app = typer.Typer(
    help="Find sand mines on rivers, reproducibly. Run it in the root of a clone.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_labelbox.app, name="labelbox")
app.add_typer(cli_audit.app, name="audit")
app.command()(cli_models.models)
app.command()(cli_cv.cv)
app.command()(cli_sweep.sweep)
app.command()(cli_sweep.curve)
app.command()(cli_export.export)
app.command()(cli_export.card)
app.command()(cli_mines.mines)
app.command()(cli_mines.changes)
MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "problem": "[red]!![/]"}


def main() -> None:
    """Runs the command line; what the user got wrong is one line on standard error and exit status 1."""
    # Reading tables loads hypothesis where it is installed, and that its plugins: half a second for nothing.
    os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
    try:
        with room(Path()):
            app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@app.command()
def doctor(
    hooks: Annotated[
        bool, typer.Option("--hooks", help="first install a git hook that refuses commits of a wrong params.yaml")
    ] = False,
) -> None:
    """Say what is installed, configured and done, and what the next command is. Exit 1 where nothing can run."""
    import os

    from rich.console import Console
    from rich.markup import escape

    from sandwatch.doctor import examine, next_step
    from sandwatch.hooks import install

    findings = examine(Path(), os.environ, Path.home())
    if hooks:
        install(Path())
        findings = examine(Path(), os.environ, Path.home())
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    topic = None
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            console.print(f"[bold]{escape(topic)}[/]")
        name, detail = (escape(printable(text)) for text in (finding.name, finding.detail))
        console.print(f"  {MARKS[finding.state]} {name:<30} {detail}")
    console.print(f"[bold]next[/]\n  {escape(printable(next_step(findings)))}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def params(
    staged: Annotated[
        bool, typer.Option("--staged", help="check what the next commit will hold, not the file")
    ] = False,
    recipe: Annotated[
        list[Path] | None, typer.Option("--with", help="first change it by a recipe, as docs/recipes has some")
    ] = None,
) -> None:
    """Check params.yaml, for all stages; a line for each fault, and exit 1. Runs nothing and removes nothing.

    With recipes it is changed, unless that would make it wrong. git restore params.yaml takes them back.
    """
    from sandwatch import recipes
    from sandwatch.check import SECTIONS
    from sandwatch.files import write_bytes
    from sandwatch.hooks import staged as read_staged
    from sandwatch.params import faults
    from sandwatch.stage import refuse

    path = Path("params.yaml")
    changes = {one: recipes.read(one) for one in recipe or ()}
    content = recipes.rewritten(path, changes) if changes else read_staged(Path()) if staged else None
    if wrong := faults(Path(), SECTIONS, content):
        refuse(wrong)
    if content is not None and changes:
        write_bytes(path, content)
        for one, values in changes.items():
            print(f"{one}: {', '.join(values)}")
    print("params.yaml: every key is known and every value allowed")


@app.command()
def remote(
    address: Annotated[str, typer.Argument(help="gs://bucket/folder, of your own")],
) -> None:
    """Make a bucket of Google Cloud Storage the place that dvc push and dvc pull use. Asks nobody, uploads nothing."""
    from sandwatch.remote import NAME, default, set_default

    before = default(Path())
    after = NAME, set_default(Path(), address)
    if before not in (None, after):
        print(f"the default remote was {before[0]}, {before[1]}; what lies there stays there")
    print(f".dvc/config: the default remote is {after[0]}, {after[1]}")
    print("commit it, so that others pull from there: git commit .dvc/config -m 'DVC remote'")
    print(
        "dvc push needs to list, read and write objects there: gcloud auth application-default login, or "
        "GOOGLE_APPLICATION_CREDENTIALS=<path of a key>"
    )


@app.command()
def show(
    obs_id: Annotated[str, typer.Argument(help="an observation, <site_id>_<YYYY-MM-01>, as in data/scenes.parquet")],
    out: Annotated[Path | None, typer.Option(help="PNG to write  [default: <obs_id>.png]")] = None,
) -> None:
    """Draw a scene with its labels and, if there, its prediction, as a PNG."""
    from sandwatch import infer, origin, params, picture, raster, report, schemas

    data = Path("data")
    manifest = schemas.Scenes.read(data / "scenes.parquet")
    exported = manifest[(manifest["status"] == "exported") & (manifest["obs_id"] == obs_id)].set_index("product")
    if exported.empty:
        raise _unknown(obs_id, sorted(set(manifest["obs_id"][manifest["status"] == "exported"])))
    product = "rgb" if "rgb" in exported.index else "s2"  # without red, green and blue among its bands, it has no rgb
    scene, bands = data / "scenes" / exported["path"][product], exported["bands"][product].split(",")
    if product == "rgb":
        image, colours = raster.read(scene, bands=params.RGB_BANDS), None
    else:
        image, colours = picture.scene(raster.read(scene, bands=bands), bands)
    score = data / "predictions" / obs_id / "score.tif"
    tags = raster.read_tags(score) if score.is_file() else {}
    labels = _rows(data / "annotations" / "labels.parquet", obs_id, schemas.Labels)
    said = origin.words(
        imagery=origin.kind_of(exported["source"]),
        labels=None if labels is None or labels.empty else origin.kind_of(labels["origin"]),
        model_imagery=tags.get("MODEL_IMAGERY"),
        model_labels=tags.get("MODEL_LABELS"),
    )
    path = out or Path(f"{obs_id}.png")
    report.scene_picture(
        path,
        image,
        raster.read_grid(scene),
        title=obs_id if colours is None else f"{obs_id}, {colours}",
        said=said,
        labels=labels,
        detections=_rows(score.with_name("detections.parquet"), obs_id, schemas.Detections),
        score=infer.read_score(score) if score.is_file() else None,
    )
    print(path)


@app.command()
def rivers(
    min_area_m2: Annotated[float, typer.Option(help="leave out water smaller than this, square metres")] = 50_000.0,
) -> None:
    """Make the file that params.yaml names in aoi.rivers from the water that Landsat ever saw (JRC, Earth Engine)."""
    from sandwatch import params
    from sandwatch.aoi import Aoi, read_sites
    from sandwatch.imagery.earthengine.water import write_rivers

    file = Path("params.yaml")
    aoi = params.read(file, Aoi)
    region = Path("data") / "regions" / str(params.read_file(file)["region"])
    path = region / aoi.rivers
    count = write_rivers(path, read_sites(region / "sites.csv"), extent_m=aoi.extent_m, min_area_m2=min_area_m2)
    print(f"{path}: {count} polygons of water; look at them, then commit the file")


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(help="the predecessor's files: a folder, or gs://bucket/prefix")],
    region: Annotated[Path, typer.Argument(help="the region to make, data/regions/<name>")],
) -> None:
    """Turn the predecessor's files into a region: sites, rivers, imagery and annotations."""
    from sandwatch.predecessor import write_region

    made = write_region(source if source.startswith("gs://") else Path(source), region)
    print(f"{region}: {made.sites} sites, {made.scenes} rasters, {made.annotations} annotation files")
    for path in made.left:
        print(f"left aside: {printable(path)}")
    print(
        f"next: in params.yaml set region: {region.name}, imagery.source: files, annotations.source: geojson and "
        "aoi.buffer_m: 0 (these rivers are buffered already), then run: sandwatch doctor"
    )


@app.command()
def cache(
    prune: Annotated[
        bool, typer.Option("--prune", help="remove it all: the next run computes everything anew")
    ] = False,
) -> None:
    """Say how much finished work is kept, which a run goes on with where another was killed, or remove it."""
    from sandwatch import work

    folder = work.place()
    if prune:
        before = work.size(folder)
        work.prune(folder, 0)
        print(f"{folder}: {before / 1e6:.1f} MB removed")
    else:
        print(f"{folder}: {work.size(folder) / 1e6:.1f} MB of at most {work.bound(folder) / 1e9:.1f} GB")


def _rows(path: Path, obs_id: str, table: type[Table]) -> gpd.GeoDataFrame | None:
    """The rows of an observation in a table, or None where there is no table yet."""
    if not path.is_file():
        return None
    rows = table.read(path)
    return rows[rows["obs_id"] == obs_id]


def _unknown(obs_id: str, known: list[str]) -> InputError:
    from difflib import get_close_matches

    near = [*(name for name in known if obs_id and obs_id in name), *get_close_matches(obs_id, known, n=5, cutoff=0.5)]
    shown = list(dict.fromkeys(near))[:5] or known[:5]
    return InputError(
        f"observation {obs_id}",
        got=f"no such picture among the {len(known)} of data/scenes.parquet",
        expected=f"an obs_id such as {', '.join(shown)}",
        fix="correct it, or run dvc repro export first",
    )
