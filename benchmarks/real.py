"""The pipeline on real observations in the predecessor's layout: one river trains, another is evaluated on.

    make real DATA=<folder> [MORE=<folder>] [RECIPE=docs/recipes/real.yaml] [SEEDS=5]

makes a repository of its own under .real/ (a copy of this working tree, so that the sample region stays as it is),
migrates the folder into data/regions/real there, and trains by a recipe, once for each seed, because single runs differ
by more than recipes do. With MORE, the data/ folder of the repository tailings_seg, its scenes are mixed in, for
training only (benchmarks/tailings.py). It prints what became of each polygon, how the masks compare with the
predecessor's, and for each seed the AP in the AOI of the river that it never saw, as evaluate has it, and within the
predecessor's own rivers_mask.tif and labels_mask.tif; beside them a per-pixel random forest. Called again, it runs only
what changed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sandwatch.errors import InputError
from sandwatch.stage import progress, run

ROOT = Path(__file__).parents[1]
REGION = "real"
PARAMS: dict[str, Any] = {
    "region": REGION,
    "split.holdout_rivers": ["Waiganga"],
    # The predecessor's RGBs hold these three bands, stretched to a byte.
    "bands.s2": ["B4", "B3", "B2"],
    "bands.s1": [],
    # Its river polygons are the AOIs already: simplified, buffered and clipped to the scene.
    "aoi.rivers": "rivers.geojson",
    "aoi.extent_m": 20000,
    "aoi.simplify_tolerance_m": 0,
    "aoi.buffer_m": 0,
    "imagery.source": "files",
    # The areas of neighbouring scenes of the tailings are one AOI, of which each scene covers its part.
    "imagery.min_coverage": 0.1,
    "annotations.source": "geojson",
    "annotations.snapshot": "predecessor",
    "chips.stride_px": 40,
    "chips.random_windows_per_chip_area": 6.0,
    "chips.min_valid_fraction": 0.5,
}

EDGE_SHARE = 0.01
"""More pixels of the reference without a score: they are not just the edge, where grids differ."""


def main(
    *,
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of observations")],
    more: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="data/ of tailings_seg")] = None,
    recipe: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="how to train")] = ROOT
    / "docs/recipes/real.yaml",
    seeds: Annotated[int, typer.Option(min=1, help="how many trainings to take the mean of")] = 5,
    holdout: Annotated[str, typer.Option(help="river to evaluate on")] = "Waiganga",
    workspace: Annotated[Path, typer.Option(help="where the repository of the run lies")] = ROOT / ".real",
) -> None:
    """Trains and evaluates on ``data`` once for each seed, and prints the report."""
    from sandwatch import recipes

    prepare(data, more, workspace)
    changes = {"split.holdout_rivers": [holdout], **recipes.read(recipe)}
    found: dict[int, dict[str, float]] = {}
    for seed in reversed(range(seeds)):  # so that the first one's results stay in the workspace
        reproduce(workspace, {**changes, "train.seed": seed}, f"Seed {seed}")
        found[seed] = figures(data, holdout, workspace)
        progress(f"seed {seed}: {found[seed]}")
    print(polygons(workspace))
    print(masks(data, workspace))
    print(table(found), flush=True)
    call(sys.executable, ROOT / "benchmarks" / "learning.py", "--only", "forest", "--root", workspace, cwd=ROOT)
    print(f"report and pictures: {workspace.relative_to(ROOT) / 'results' / 'evaluate'}")


def call(*command: str | Path, cwd: Path) -> None:
    """Runs a command with this environment's programs first on the path; exits as it does where it fails."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def prepare(data: Path, more: Path | None, workspace: Path) -> None:
    """Brings ``workspace`` to the state of this working tree, with the region of the real run."""
    from sandwatch.predecessor import write_region

    if not (workspace / ".git").exists():
        workspace.mkdir(parents=True, exist_ok=True)
        call("git", "init", "-q", "-b", "main", cwd=workspace)
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file() and name not in ("dvc.lock", "params.yaml"):
            (workspace / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, workspace / name)
    region = workspace / "data" / "regions" / REGION
    shutil.rmtree(region, ignore_errors=True)
    write_region(data.resolve(), region)
    if more is not None:
        import tailings  # beside this file

        progress(f"{tailings.add(more, region)} scenes of other mines mixed in, for training only")


def settle(workspace: Path, changes: dict[str, Any], message: str) -> None:
    """Gives the workspace this repository's params but for some, and commits all that it holds."""
    from ruamel.yaml import YAML

    from sandwatch import recipes
    from sandwatch.params import read_file

    params = recipes.changed(read_file(ROOT / "params.yaml"), {**PARAMS, **changes}, "benchmarks/real.py")
    YAML().dump(params, workspace / "params.yaml")
    call("git", "add", "-A", cwd=workspace)
    author = ("-c", "user.name=sandwatch", "-c", "user.email=sandwatch@localhost")
    call("git", *author, "commit", "-q", "--allow-empty", "-m", message, cwd=workspace)


def reproduce(workspace: Path, changes: dict[str, Any], message: str) -> None:
    """Runs the pipeline with some params changed, and commits what it made."""
    progress(f"{message} ...")
    settle(workspace, changes, message)
    call(sys.executable, "-m", "dvc", "repro", "--quiet", cwd=workspace)
    settle(workspace, changes, f"{message}: results")


def figures(data: Path, holdout: str, workspace: Path) -> dict[str, float]:
    """AP in the AOI, AP of the map within the reference's river mask on the reference's grid, and that of guessing.

    Raises:
        InputError: there is no reference, or a pixel of it that was not mapped.
    """
    import numpy as np
    import rasterio
    from rasterio.warp import Resampling, reproject

    from sandwatch.model.metrics import ScoreHistogram
    from sandwatch.model.scoring import NODATA, STEPS

    inside, unmapped = ScoreHistogram.empty(), 0
    for folder in sorted(data.glob(f"{holdout}_*")):
        with rasterio.open(folder / "rivers_mask.tif") as rivers, rasterio.open(folder / "labels_mask.tif") as labels:
            asked, truth = rivers.read(1) > 0, labels.read(1) > 0
            steps = np.full(asked.shape, NODATA, np.uint16)
            with rasterio.open(workspace / "data" / "predictions" / folder.name / "score.tif") as scores:
                reproject(
                    rasterio.band(scores, 1),
                    steps,
                    dst_transform=rivers.transform,
                    dst_crs=rivers.crs,
                    src_nodata=NODATA,
                    dst_nodata=NODATA,
                    resampling=Resampling.nearest,
                )
        mapped = steps[asked] <= STEPS
        unmapped += int((~mapped).sum())
        inside += ScoreHistogram.of(np.where(mapped, steps[asked], 0), truth[asked])
    if not inside.positives.any() or unmapped > inside.negatives.sum() * EDGE_SHARE:
        raise InputError(
            f"{data}: {holdout}",
            got=f"{int(inside.positives.sum())} labelled pixels, {unmapped} without a score",
            expected="rivers_mask.tif and labels_mask.tif over the map",
            fix="name a folder that has them",
        )
    evaluated = json.loads((workspace / "results" / "evaluate" / "metrics.json").read_text())
    return {
        "in the AOI": evaluated["ap"],
        "guessing there": evaluated["prevalence"],
        "in the river mask": round(inside.average_precision(), 4),
        "guessing in it": round(inside.prevalence, 4),
    }


def table(found: dict[int, dict[str, float]]) -> str:
    """The figures of each seed, and their mean and standard deviation, as a Markdown table."""
    names = list(found[0])
    lines = [f"| AP | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| seed {seed} | {' | '.join(f'{found[seed][name]:.3f}' for name in names)} |" for seed in sorted(found)]
    if len(found) > 1:
        columns = [[one[name] for one in found.values()] for name in names]
        spreads = (f"{statistics.mean(column):.3f} +- {statistics.stdev(column):.3f}" for column in columns)
        lines.append(f"| mean and deviation | {' | '.join(spreads)} |")
    return "\n".join(lines)


def polygons(workspace: Path) -> str:
    """A line that accounts for every polygon: kept or in quarantine.

    Raises:
        InputError: a polygon of the snapshot is in neither.
    """
    from sandwatch import schemas

    folder = workspace / "data" / "annotations"
    kept = len(schemas.Labels.read(folder / "labels.parquet"))
    rejected = int(schemas.Quarantine.read(folder / "quarantine.parquet")["polygons"].sum())
    drawn = 0
    for line in (folder / "export.ndjson").read_text().splitlines():
        content = json.loads(line)["content"]
        drawn += len((json.loads(content) if isinstance(content, str) else content)["features"])
    if drawn != kept + rejected:
        raise InputError(
            "polygons", got=f"{kept} kept and {rejected} in quarantine of {drawn}", expected="all", fix="report this"
        )
    return f"polygons: {drawn} drawn, {kept} kept, {rejected} in quarantine"


def masks(data: Path, workspace: Path) -> str:
    """Lines that compare our rasterised labels with each reference mask on the reference's own grid.

    The reference was burnt from vertices rounded to 6 decimals (a tenth of a metre), so ours are rounded for this too.
    """
    import rasterio
    import shapely

    from sandwatch import schemas
    from sandwatch.chips import rasterise
    from sandwatch.grid import Grid

    labels = schemas.Labels.read(workspace / "data" / "annotations" / "labels.parquet")
    labels["geometry"] = shapely.transform(labels["geometry"].to_numpy(), lambda vertices: vertices.round(6))
    lines = []
    for reference in sorted(data.glob("*/labels_mask.tif")):
        with rasterio.open(reference) as file:  # in degrees, which no raster of ours is
            expected, transform = file.read(1) > 0, file.transform
            height, width = file.shape
            crs = file.crs.to_string()
        grid = Grid(crs=crs, left=transform.c, top=transform.f, width=width, height=height, resolution=transform.a)
        ours = rasterise(labels[labels["obs_id"] == reference.parent.name], grid) > 0
        lines.append(
            f"mask of {reference.parent.name}: {int(expected.sum())} labelled pixels in the reference, "
            f"{int((ours != expected).sum())} pixels differ"
        )
    return "\n".join(lines) or "no labels_mask.tif in the folder: masks not compared"


if __name__ == "__main__":
    run(main)
