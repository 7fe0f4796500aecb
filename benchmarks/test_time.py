"""What test-time augmentation gains, and what it costs: the model with 1, 2, 4 and 8 views of each window.

    python benchmarks/test_time.py [--root DIR] [--member models/cv/1/model.safetensors --member ...]

Run it after `dvc repro`, with data/ and models/ in place. Judged are the pixels that the test fold owns on the holdout
rivers, by AP, which neither temperature nor threshold changes. The gain over the model as it is has an interval of its
own (95 %): the same sites are drawn for both, so that what is hard about a site counts for neither. Cost is the time
that scoring took, in this run, over that of one view. Observations are scored one after another by all contenders,
which take turns in going first, so that other work on the machine slows all of them alike.

With two or more `--member`, weights of a cross-validation's replicates, their ensemble is judged too, beside them.

The table goes to standard output, the figures to benchmarks/results/test_time.json under the root.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer

from sandwatch import params, schemas, stack
from sandwatch.evaluate import Evaluate, grid_of, region_of
from sandwatch.files import write_json
from sandwatch.model.metrics import ScoreHistogram
from sandwatch.model.network import Views
from sandwatch.model.scoring import Ensemble, Scorer, score
from sandwatch.reproducible import Compute, pin
from sandwatch.scene import SceneReader, exported
from sandwatch.split import Split
from sandwatch.stage import progress, run

WEIGHTS = Path("models/model.safetensors")
FIRST = "1 view"
LEVEL = 0.95
"""Of the intervals."""

Sites = dict[str, ScoreHistogram]


def main(
    *,
    root: Annotated[Path, typer.Option(exists=True, file_okay=False, help="a repository after dvc repro")] = Path(),
    member: Annotated[list[Path], typer.Option(help="weights of a replicate, from the root")] = [],  # noqa: B006
) -> None:
    """Compares numbers of views, and an ensemble, by AP on the holdout rivers and by time."""
    os.chdir(root)  # as `dvc repro` there: all paths of the pipeline are relative
    compute = params.read(Path("params.yaml"), Compute)
    if compute.reproducible:
        pin(compute.threads)
    from sandwatch.model.predictor import Predictor

    model = Predictor.load(WEIGHTS, "cpu", precision=compute.precision)
    contenders: dict[str, Scorer | Ensemble] = {
        f"{views} view{'s' * (views > 1)}": model.changed(views=views) for views in get_args(Views)
    }
    if len(member) > 1:
        alone = {str(path): Predictor.load(path, "cpu", precision=compute.precision) for path in member}
        contenders |= {**alone, f"ensemble of {len(alone)}": Ensemble(alone)}
    found, seconds = judged(contenders)
    figures = {name: _figures(found[FIRST], sites, seconds[name] / seconds[FIRST]) for name, sites in found.items()}
    write_json(Path("benchmarks/results/test_time.json"), figures)
    print(table(figures))


def judged(contenders: dict[str, Scorer | Ensemble]) -> tuple[dict[str, Sites], dict[str, float]]:
    """(scores by contender and site, seconds by contender) over the test fold's pixels on the holdout rivers."""
    chips, scenes, aoi = Path("data/chips"), Path("data/scenes"), schemas.Aoi.read(Path("data/aoi/aoi.parquet"))
    windows = schemas.Windows.read(chips / "windows.parquet")
    rivers = params.read(Path("params.yaml"), Split).holdout_rivers
    windows = windows[(windows.fold == "test") & (windows.kind == "grid") & windows.river.isin(rivers)]
    rasters = exported(schemas.Scenes.read(Path("data/scenes.parquet")), scenes)
    found: dict[str, Sites] = {name: {} for name in contenders}
    seconds = dict.fromkeys(contenders, 0.0)
    observations = sorted(windows.obs_id.unique())
    for number, obs_id in enumerate(observations, 1):
        own = windows[windows.obs_id == obs_id]
        site_id = str(own.site_id.iloc[0])
        grid = grid_of(aoi, site_id)
        mask = stack.load(chips / "masks" / f"{obs_id}.npy", np.uint8, grid.shape)
        region = region_of(own, mask.shape) & (mask != stack.IGNORED)
        turn = list(contenders.items())
        for name, scorer in [*turn[number % len(turn) :], *turn[: number % len(turn)]]:
            spec = scorer.spec
            keep, truth = region & stack.counted(mask, spec.method), stack.mines(mask, spec.method)
            begin, histogram = time.perf_counter(), ScoreHistogram.empty()
            with SceneReader(obs_id, rasters[obs_id], grid, spec.bands, may_lack=spec.without) as pixels:
                for part in score(pixels, scorer, region):
                    here = keep[part.rows]
                    histogram += ScoreHistogram.of(part.steps[here], truth[part.rows][here])
            seconds[name] += time.perf_counter() - begin
            found[name][site_id] = found[name].get(site_id, ScoreHistogram.empty()) + histogram
        progress(f"{number}/{len(observations)} {obs_id}")
    return found, seconds


def gain_interval(one: Sites, other: Sites, *, samples: int, seed: int) -> tuple[float, float]:
    """The interval of how much higher the AP of ``other`` is, had other sites been drawn; NaN of fewer than two sites.

    As :func:`sandwatch.model.metrics.bootstrap`, of a difference: the same draws for both.
    """
    if len(one) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).multinomial(len(one), np.full(len(one), 1 / len(one)), size=samples)
    gains = [_drawn(other, times).average_precision() - _drawn(one, times).average_precision() for times in drawn]
    low, high = np.nanquantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| on the holdout rivers | AP | gain | 95 % interval | time |", "|---|---|---|---|---|"]
    for name, one in figures.items():
        interval = "" if one["gain_low95"] is None else f"{one['gain_low95']:+.4f} to {one['gain_high95']:+.4f}"
        lines.append(f"| {name} | {one['ap']:.4f} | {one['gain']:+.4f} | {interval} | {one['time']:.2f} |")
    return "\n".join(lines)


def _drawn(sites: Sites, times: Sequence[int]) -> ScoreHistogram:
    """The sum of sites, each as many times as it was drawn."""
    pairs = [(sites[site], int(number)) for site, number in zip(sorted(sites), times, strict=True)]
    return ScoreHistogram(
        positives=sum((one.positives * number for one, number in pairs), np.zeros_like(pairs[0][0].positives)),
        negatives=sum((one.negatives * number for one, number in pairs), np.zeros_like(pairs[0][0].negatives)),
    )


def _figures(first: Sites, sites: Sites, cost: float) -> dict[str, float | int | None]:
    settings = params.read(Path("params.yaml"), Evaluate)
    whole, before = (sum(one.values(), ScoreHistogram.empty()).average_precision() for one in (sites, first))
    low, high = gain_interval(first, sites, samples=settings.bootstrap_samples, seed=settings.seed)
    values = {"ap": whole, "gain": whole - before, "gain_low95": low, "gain_high95": high}
    rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}
    return {**rounded, "time": round(cost, 2), "sites": len(sites)}


if __name__ == "__main__":
    run(main)
