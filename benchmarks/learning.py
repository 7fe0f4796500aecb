"""Whether learning is real: the model beside a per-pixel random forest, and beside itself with shuffled labels.

    python benchmarks/learning.py [--only forest] [--root DIR]

Run it after `dvc repro`, with data/ and results/ in place. All three are judged on the same pixels, those that the test
fold owns on the holdout rivers, by the same metric and intervals (95 %, bootstrap over sites):

* model: as results/evaluate/metrics.json has it.
* forest: a random forest on the bands of one pixel, trained on a sample of the training fold's pixels. It knows colours
  but neither texture nor shape.
* shuffled: the model of params.yaml, trained for all its epochs on the same pixels with their labels in random order.
  Nothing can be learnt from those, so on test it should be no better than guessing, whose AP is the share of mines. A
  higher AP would mean that something other than the labels tells where the mines are: a leak.

The table goes to standard output, the figures to benchmarks/results/learning.json under the root.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from sandwatch import params, schemas
from sandwatch.evaluate import Evaluate, evaluate, region_of
from sandwatch.files import write_json
from sandwatch.model.metrics import ScoreHistogram, bootstrap
from sandwatch.model.network import Model, Scoring
from sandwatch.model.scoring import STEPS
from sandwatch.origin import About
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stack import HIGH, IGNORED, LOW, OTHER, counted, mines
from sandwatch.stage import progress, run
from sandwatch.train.params import Train

FOREST_PIXELS = 60_000
"""Training pixels of each class, at most."""
FOREST_TREES = 200
FOREST_LEAF = 5
"""Least training pixels in a leaf."""
SCORED_AT_ONCE = 200_000
SEED = 0
KEPT = ("ap", "ap_low95", "ap_high95", "prevalence")
"""Names of metrics."""

Figures = dict[str, float | int | str | None]


class Contender(StrEnum):
    """What to run."""

    MODEL = "model"
    FOREST = "forest"
    SHUFFLED = "shuffled"


def main(
    *,
    only: Annotated[list[Contender], typer.Option(help="what to run  [default: all three]")] = [],  # noqa: B006
    root: Annotated[Path, typer.Option(exists=True, file_okay=False, help="a repository after dvc repro")] = Path(),
) -> None:
    """Compares the model with a random forest and with a model trained on shuffled labels."""
    os.chdir(root)  # as `dvc repro` there: all paths of the pipeline are relative
    compute = params.read(Path("params.yaml"), Compute)
    if compute.reproducible:
        pin(compute.threads)
    found = Path("benchmarks/results/learning.json")
    figures: dict[str, Figures] = json.loads(found.read_text()) if found.is_file() else {}
    contenders = {Contender.MODEL: model, Contender.FOREST: forest, Contender.SHUFFLED: shuffled}
    for name in only or list(Contender):
        progress(f"{name} ...")
        figures[name] = contenders[name]()
    write_json(found, figures)
    print(table(figures))


def table(figures: dict[str, Figures]) -> str:
    """The figures as a Markdown table."""
    lines = ["| on the holdout rivers | AP | 95 % interval | AP of guessing |", "|---|---|---|---|"]
    for name in Contender:
        if one := figures.get(name):
            interval = "" if one["ap_low95"] is None else f"{one['ap_low95']} to {one['ap_high95']}"
            lines.append(f"| {name} | {one['ap']} | {interval} | {one['prevalence']} |")
    return "\n".join(lines)


def model() -> Figures:
    """What the evaluate stage found."""
    metrics = json.loads(Path("results/evaluate/metrics.json").read_text())
    return {name: metrics[name] for name in (*KEPT, "train_test_km")}


def forest() -> Figures:
    """A random forest on single pixels."""
    from sklearn.ensemble import RandomForestClassifier

    generator = np.random.default_rng(SEED)
    features, truth = _sample(generator)
    progress(f"  {len(truth)} training pixels, {int(truth.sum())} of them mine, {features.shape[1]} bands")
    trees = RandomForestClassifier(
        FOREST_TREES, min_samples_leaf=FOREST_LEAF, n_jobs=os.cpu_count(), random_state=SEED
    ).fit(features, truth)
    sites: dict[str, ScoreHistogram] = {}
    holdout = params.read(Path("params.yaml"), Split).holdout_rivers
    for obs_id, stack, mine, counts in _observations("test", holdout):
        pixels = stack[:, counts].T
        parts = [
            trees.predict_proba(pixels[first : first + SCORED_AT_ONCE])[:, 1]
            for first in range(0, len(pixels), SCORED_AT_ONCE)
        ]
        one = ScoreHistogram.of(np.rint(np.concatenate(parts) * STEPS).astype(np.int64), mine[counts])
        site = obs_id.rsplit("_", 1)[0]
        sites[site] = sites.get(site, ScoreHistogram.empty()) + one
        progress(f"  {obs_id}: AP {one.average_precision():.3f}")
    return _figures([sites[site] for site in sorted(sites)]) | {"training_pixels": len(truth)}


def shuffled() -> Figures:
    """The same model, trained and validated on labels in random order, judged on the true ones."""
    from sandwatch.model.predictor import Predictor
    from sandwatch.train import data, loop

    def read(section: type[params.S]) -> params.S:
        return params.read(Path("params.yaml"), section)

    compute, train, split = read(Compute), read(Train), read(Split)
    about = About(label_fingerprint="0" * 64, imagery="synthetic", labels="synthetic")
    nothing = loop.Provenance(about=about, inputs={}, code={}, replicate=0, params_sha256="0" * 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shuffle(Path("data/chips"), folder / "chips")
        loop.learn(
            chips=data.Chips(folder / "chips"),
            bands=read(params.Bands).names,
            model=read(Model),
            train=train.model_copy(update={"patience": train.epochs}),
            compute=compute,
            scoring=read(Scoring),
            provenance=nothing,
            work=None,
            weights=Path("data/weights"),
            models=folder / "models",
            results=folder / "results",
            report=lambda line: progress(f"  {line}"),
        )
        evaluation = evaluate(
            aoi=schemas.Aoi.read(Path("data/aoi/aoi.parquet")),
            manifest=schemas.Scenes.read(Path("data/scenes.parquet")),
            scenes=Path("data/scenes"),
            windows=schemas.Windows.read(Path("data/chips/windows.parquet")),
            chips=Path("data/chips"),
            scorer=Predictor.load(folder / "models/model.safetensors", "cpu", precision=compute.precision),
            params=read(Evaluate),
            holdout_rivers=split.holdout_rivers,
            min_distance_km=split.min_distance_km,
        )
    return {name: evaluation.metrics[name] for name in KEPT}


def shuffle(chips: Path, out: Path) -> None:
    """Copies a folder of chips with the labels of all training and validation pixels in random order.

    Labels move between observations of a fold, so not even the share of mines in an observation stays. Classes keep
    their numbers of pixels. Pixels that are ignored stay so; pixel stacks are linked, not copied.

    Args:
        chips: what the chips stage wrote.
        out: a folder to make.
    """
    windows = schemas.Windows.read(chips / "windows.parquet")
    (out / "masks").mkdir(parents=True)
    (out / "pixels").symlink_to((chips / "pixels").resolve())
    for path in (chips / "masks").iterdir():
        shutil.copyfile(path, out / "masks" / path.name)
    generator = np.random.default_rng(SEED)
    for fold in ("train", "val"):
        chosen = windows[windows.fold == fold]
        masks = {obs_id: np.load(out / "masks" / f"{obs_id}.npy") for obs_id in chosen.obs_id.unique()}
        where = {
            obs_id: region_of(chosen[chosen.obs_id == obs_id], mask.shape) & (mask != IGNORED)
            for obs_id, mask in masks.items()
        }
        labels = generator.permutation(np.concatenate([masks[obs_id][where[obs_id]] for obs_id in masks]))
        for obs_id, mask in masks.items():
            here = where[obs_id]
            mask[here], labels = labels[: here.sum()], labels[here.sum() :]
            np.save(out / "masks" / f"{obs_id}.npy", mask)
    masks = {obs_id: np.load(out / "masks" / f"{obs_id}.npy") for obs_id in windows.obs_id.unique()}
    parts = [
        masks[obs_id][row : row + size, col : col + size]
        for obs_id, row, col, size in windows[["obs_id", "row", "col", "size_px"]].itertuples(index=False)
    ]
    for name, value in (("px_other", OTHER), ("px_low", LOW), ("px_high", HIGH)):
        windows[name] = [int((part == value).sum()) for part in parts]
    schemas.Windows.write(windows, out / "windows.parquet")


def _observations(fold: str, rivers: Sequence[str] | None = None) -> Any:
    """Yields (obs_id, stack (band, y, x), is a mine (y, x), counts (y, x)) of the pixels that a fold owns.

    Of some rivers alone, where they are named.
    """
    method = params.read(Path("params.yaml"), Model).method
    chips = Path("data/chips")
    windows = schemas.Windows.read(chips / "windows.parquet")
    chosen = windows[(windows.fold == fold) & (windows.kind == "grid")]
    if rivers is not None:
        chosen = chosen[chosen.river.isin(rivers)]
    for obs_id in sorted(chosen.obs_id.unique()):
        mask = np.load(chips / "masks" / f"{obs_id}.npy")
        mask[~region_of(chosen[chosen.obs_id == obs_id], mask.shape)] = IGNORED
        yield (
            obs_id,
            np.load(chips / "pixels" / f"{obs_id}.npy", mmap_mode="r"),
            mines(mask, method),
            counted(mask, method),
        )


def _sample(generator: np.random.Generator) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """(pixels (n, band), is a mine (n,)) of the training fold: at most ``FOREST_PIXELS`` of each class.

    Every observation gives the same share of its pixels of a class.
    """
    observations = list(_observations("train"))
    features, truth = [], []
    for is_mine in (True, False):
        places = [np.flatnonzero((mine == is_mine) & counts) for _, _, mine, counts in observations]
        share = min(FOREST_PIXELS / max(sum(map(len, places)), 1), 1.0)
        for (_, stack, _, _), place in zip(observations, places, strict=True):
            chosen = np.sort(generator.choice(place, int(len(place) * share), replace=False))
            features.append(stack.reshape(len(stack), -1)[:, chosen].T)
            truth.append(np.full(len(chosen), is_mine))
    return np.concatenate(features), np.concatenate(truth)


def _figures(sites: list[ScoreHistogram]) -> Figures:
    settings = params.read(Path("params.yaml"), Evaluate)
    whole = sum(sites, ScoreHistogram.empty())
    statistics = {"ap": ScoreHistogram.average_precision}
    low, high = bootstrap(sites, statistics, samples=settings.bootstrap_samples, seed=settings.seed)["ap"]
    values = {"ap": whole.average_precision(), "ap_low95": low, "ap_high95": high, "prevalence": whole.prevalence}
    return {name: None if np.isnan(value) else round(value, 4) for name, value in values.items()}


if __name__ == "__main__":
    run(main)
