"""Whether learning is real: the model beside a per-pixel random forest, and beside itself with shuffled labels.

    python benchmarks/learning.py [--only forest] [--root DIR]

Run it after `dvc repro`, with data/ and results/ in place. All three are judged on the same pixels, those that the test
fold owns on the holdout rivers, by the same code, metric and intervals (95 %, bootstrap over sites):

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
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import contenders
from sandwatch import params, schemas
from sandwatch.evaluate import Evaluation, region_of
from sandwatch.files import write_json
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stack import HIGH, IGNORED, LOW, OTHER
from sandwatch.stage import progress, run

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
    run_one = {Contender.MODEL: model, Contender.FOREST: forest, Contender.SHUFFLED: shuffled}
    for name in only or list(Contender):
        progress(f"{name} ...")
        figures[name] = run_one[name]()
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
    from sandwatch.train.data import Chips

    here = contenders.Data.here()
    learnt = contenders.forest(here, here.windows, Chips(contenders.CHIPS))
    return _figures(contenders.judged(here, here.windows, learnt.scorer, here[Split].holdout_rivers))


def shuffled() -> Figures:
    """The same model, trained and validated on labels in random order, judged on the true ones."""
    from sandwatch.train.data import Chips

    here = contenders.Data.here()
    train = here.values["train"]
    to_the_end = replace(here, values={**here.values, "train": {**train, "patience": train["epochs"]}})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shuffle(contenders.CHIPS, folder / "chips")
        learnt = contenders.network(to_the_end, Chips(folder / "chips"), folder)
        return _figures(contenders.judged(here, here.windows, learnt.scorer, here[Split].holdout_rivers))


def _figures(evaluation: Evaluation) -> Figures:
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


if __name__ == "__main__":
    run(main)
