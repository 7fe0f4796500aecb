"""How many true mines of the painted region have one track each: drawn by annotators, and as the model saw them.

The painter knows the mines of every month (imagery/synthetic.py). First they are drawn as annotators would draw them,
every other month of four years, with errors and behind clouds; months are taken away at random, and mines in others.
Then come the detections that lie in a repository after `dvc repro`: a detection is of the true mine that it shares most
pixels with, or a false alarm. A true mine is recovered where all its polygons are of one track and all of that track's
are of it.

Run: python benchmarks/tracks.py [--root REPOSITORY] [--near-m M ...]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sandwatch import params, schemas
from sandwatch.geometry import WGS84, reproject
from sandwatch.imagery import river_lines, sites
from sandwatch.imagery.params import Synthetic
from sandwatch.imagery.synthetic import truth
from sandwatch.mines.table import Mines
from sandwatch.mines.tracking import track
from sandwatch.raster import burn

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.95
CLOUDS = 0.1
"""Mean share lost to clouds in the drawn months: thrice that of the sample region."""


def main(
    root: Annotated[Path, typer.Option(help="a repository of the painted region, after dvc repro")] = ROOT,
    near_m: Annotated[list[float] | None, typer.Option(help="distances to try; else that of params.yaml")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how often other months and mines are taken away")] = 10,
) -> None:
    """Prints the share recovered; exits with status 1 where it is below 95 % at the first distance."""
    sys.path.insert(0, str(ROOT))
    from tests.unit.mines.truth import drawn, recovered, with_gaps

    painted = params.read(root / "params.yaml", Synthetic)
    distances = near_m or [params.read(ROOT / "params.yaml", Mines).near_m]
    aoi = schemas.Aoi.read(root / "data/aoi/aoi.parquet")
    places = sites(aoi)
    lines = river_lines(root / "data/regions/sample/rivers.geojson", places)

    began = time.perf_counter()
    worlds = {
        site.site_id: drawn(site, lines, painted.model_copy(update={"cloud_fraction": CLOUDS})) for site in places
    }
    print(f"{len(worlds)} sites drawn in {time.perf_counter() - began:.0f} s")
    shares = []
    for distance in distances:
        each = []
        for seed in range(seeds):
            rng, counts = np.random.default_rng(seed), np.zeros(2, int)
            for site_id, found in worlds.items():
                seen = with_gaps(found, rng, months=0.2, mines=0.1)
                tracks = track(
                    site_id, {month: [polygon for _, polygon in own] for month, own in seen.items()}, near_m=distance
                )
                counts += recovered({month: [number for number, _ in own] for month, own in seen.items()}, tracks)
            each.append(counts)
        whole, mines = np.sum(each, axis=0)
        worst = min(one / of for one, of in each)
        shares.append(whole / mines)
        print(
            f"drawn, near_m {distance:g}: {whole} of {mines} true mines are one track each, {whole / mines:.1%} "
            f"(the worst of {seeds} draws {worst:.1%})"
        )
    for distance in distances:
        _of_the_model(root, aoi, lines, painted, distance, recovered)
    raise typer.Exit(int(shares[0] < GOAL))


def _of_the_model(root: Path, aoi: Any, lines: Any, painted: Synthetic, near_m: float, recovered: Any) -> None:
    """The same of the detections in a repository, and how often possible and confirmed mines are mines."""
    detections = schemas.Detections.read(root / "data/predictions/detections.parquet")
    whole = mines = 0
    right: Counter[tuple[str, bool]] = Counter()
    for site in sites(aoi):
        own = detections[detections["site_id"] == site.site_id]
        polygons, numbers = {}, {}
        for month in site.months:
            there = reproject(own.geometry[own["date"] == month.isoformat()].to_numpy(), WGS84, site.grid.crs)
            if len(there):
                true, _ = truth(site, month, lines, painted)
                numbers[month.isoformat()] = [_most(true[burn([(one, 1)], site.grid) == 1]) for one in there]
                polygons[month.isoformat()] = list(there)
        tracks = track(site.site_id, polygons, near_m=near_m)
        one, of = recovered(numbers, tracks)
        whole, mines = whole + one, mines + of
        for each in tracks:
            seen = [(month, polygon) for month, sighting in each.sightings.items() for polygon in sighting.polygons]
            status = "confirmed" if len(each.sightings) > 1 else "possible"
            right[status, any(numbers[month][polygon] for month, polygon in seen)] += 1
    if mines:
        print(f"detected, near_m {near_m:g}: {whole} of {mines} true mines that were seen are one track each")
    for status in ("possible", "confirmed"):
        print(f"  {status}: {right[status, True]} are mines, {right[status, False]} are none")


def _most(numbers: Any) -> int:
    """The number that most pixels have, of those that are a mine; 0 where none is."""
    counts = np.bincount(numbers[numbers > 0])
    return int(counts.argmax()) if counts.size else 0


if __name__ == "__main__":
    typer.run(main)
