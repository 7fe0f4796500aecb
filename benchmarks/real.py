"""The pipeline on real observations in the predecessor's layout: one river trains, another is evaluated on.

    make real DATA=<folder>

makes a repository of its own under .real/ (a copy of this working tree, so that the sample region stays as it is),
migrates the folder into data/regions/real there, runs the seven stages with `dvc repro`, and prints what became of each
polygon, how the masks compare with the predecessor's, and the AP beside a per-pixel random forest's. Called again, it
runs only what changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sandwatch.errors import InputError
from sandwatch.stage import run

ROOT = Path(__file__).parents[1]
PARAMS: dict[str, dict[str, Any]] = {
    # The predecessor's RGBs hold these three bands, stretched to a byte.
    "bands": {"s2": ["B4", "B3", "B2"], "s1": []},
    # Its river polygons are the AOIs already: simplified, buffered and clipped to the scene.
    "aoi": {"rivers": "rivers.geojson", "extent_m": 20000, "simplify_tolerance_m": 0, "buffer_m": 0},
    "imagery": {"source": "files"},
    "annotations": {"source": "geojson", "snapshot": "predecessor"},
    "chips": {"stride_px": 40, "random_windows_per_chip_area": 6.0, "min_valid_fraction": 0.5},
}


def main(
    *,
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of observations")],
    holdout: Annotated[str, typer.Option(help="river to evaluate on")] = "Waiganga",
    workspace: Annotated[Path, typer.Option(help="where the repository of the run lies")] = ROOT / ".real",
) -> None:
    """Runs the seven stages on ``data`` and prints the report."""
    prepare(data, holdout, workspace)
    call(sys.executable, "-m", "dvc", "repro", cwd=workspace)
    call(sys.executable, "-m", "dvc", "metrics", "show", cwd=workspace)
    print(polygons(workspace))
    print(masks(data, workspace), flush=True)
    contenders = ("--only", "model", "--only", "forest")
    call(sys.executable, ROOT / "benchmarks" / "learning.py", *contenders, "--root", workspace, cwd=ROOT)
    print(f"report and pictures: {workspace.relative_to(ROOT) / 'results' / 'evaluate'}")


def call(*command: str | Path, cwd: Path) -> None:
    """Runs a command with this environment's programs first on the path; exits as it does where it fails."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def prepare(data: Path, holdout: str, workspace: Path) -> None:
    """Brings ``workspace`` to the state of this working tree, with the region and params of the real run."""
    from ruamel.yaml import YAML

    from sandwatch.params import read_file
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
    region = workspace / "data" / "regions" / "real"
    shutil.rmtree(region, ignore_errors=True)
    write_region(data.resolve(), region)
    params = read_file(ROOT / "params.yaml")
    params["region"] = "real"
    params["split"]["holdout_rivers"] = [holdout]
    for section, values in PARAMS.items():
        params[section].update(values)
    YAML().dump(params, workspace / "params.yaml")
    call("git", "add", "-A", cwd=workspace)
    author = ("-c", "user.name=sandwatch", "-c", "user.email=sandwatch@localhost")
    call("git", *author, "commit", "-q", "--allow-empty", "-m", "Real observations", cwd=workspace)


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

    from sandwatch import raster, schemas
    from sandwatch.chips import rasterise

    labels = schemas.Labels.read(workspace / "data" / "annotations" / "labels.parquet")
    labels["geometry"] = shapely.transform(labels["geometry"].to_numpy(), lambda vertices: vertices.round(6))
    lines = []
    for reference in sorted(data.glob("*/labels_mask.tif")):
        grid = raster.read_grid(reference)
        with rasterio.open(reference) as file:  # its band has no name to ask raster.read for
            expected = file.read(1) > 0
        ours = rasterise(labels[labels["obs_id"] == reference.parent.name], grid) > 0
        lines.append(
            f"mask of {reference.parent.name}: {int(expected.sum())} labelled pixels in the reference, "
            f"{int((ours != expected).sum())} pixels differ"
        )
    return "\n".join(lines) or "no labels_mask.tif in the folder: masks not compared"


if __name__ == "__main__":
    run(main)
