"""What the benchmarks have in common: contenders trained and judged by the very code of the stages.

All of it works on the folders of a repository after `dvc repro`, from its root: data/aoi, data/scenes, data/chips.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd

from sandwatch import params, schemas
from sandwatch.errors import InputError
from sandwatch.evaluate import Evaluate, Evaluation, evaluate, region_of
from sandwatch.model import cache, registry
from sandwatch.model.network import Model, Scoring
from sandwatch.model.scoring import Scorer
from sandwatch.origin import About
from sandwatch.reproducible import Compute
from sandwatch.split import Split
from sandwatch.stack import IGNORED, counted, mines, valid
from sandwatch.stage import progress
from sandwatch.train.params import Train

if TYPE_CHECKING:
    from sandwatch.model.card import Spec
    from sandwatch.train.data import Chips

CHIPS = Path("data/chips")
SAMPLED_PIXELS = 60_000
"""Training pixels of each class that a classifier of pixels sees, at most."""
FOREST_TREES = 200
FOREST_LEAF = 5
"""Least training pixels in a leaf."""
AROUND_PX = 9
"""Side of the square that statistics are of: 90 m, about the width of a pit."""
INDICES = (("B8", "B4"), ("B3", "B8"), ("B3", "B11"), ("B11", "B8"))
"""Normalised differences: of vegetation (Tucker 1979), water (McFeeters 1996; Xu 2006) and built or bare ground (Zha et
al. 2003)."""
LEAST = 1e-6
"""Least probability of either class, so that log-odds are numbers; a twentieth of a step of a score."""
SEED = 0
STORED = {"galileo/nano": "galileo-nano-encoder.pt", "presto": "presto.pt"}
"""What published files are called in a folder of them, by their names in the registry."""

Floats = npt.NDArray[np.float64]
Features = Callable[[npt.NDArray[np.int16]], npt.NDArray[Any]]
"""int16 (band, y, x) to what a classifier sees of each pixel, (feature, y, x)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What a repository holds after `dvc repro`, and how its params.yaml says to go on from there.

    Attributes:
        values: of params.yaml, by section.
        aoi: table :class:`sandwatch.schemas.Aoi`.
        manifest: table :class:`sandwatch.schemas.Scenes`.
        windows: table :class:`sandwatch.schemas.Windows`.
        about: what the chips are made of.
    """

    values: Mapping[str, Any]
    aoi: gpd.GeoDataFrame
    manifest: pd.DataFrame
    windows: pd.DataFrame
    about: About

    @classmethod
    def here(cls) -> Data:
        """That of the working directory."""
        return cls(
            values=params.read_file(Path("params.yaml")),
            aoi=schemas.Aoi.read(Path("data/aoi/aoi.parquet")),
            manifest=schemas.Scenes.read(Path("data/scenes.parquet")),
            windows=schemas.Windows.read(CHIPS / "windows.parquet"),
            about=About.read(CHIPS / "about.json"),
        )

    def __getitem__(self, section: type[params.S]) -> params.S:
        """A section of params.yaml, checked."""
        return params.check(section, self.values.get(section.section))


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A contender that has learnt.

    Attributes:
        scorer: it.
        cpu_seconds: of all threads, that it took to learn.
        parameters: of a network; of trees, their nodes.
    """

    scorer: Scorer
    cpu_seconds: float
    parameters: int


def network(data: Data, chips: Chips, folder: Path, weights: Path = Path("data/weights")) -> Learnt:
    """Trains the network of params.yaml, as the stage train does.

    Args:
        data: what params.yaml says, and what the chips are made of.
        chips: the windows, with the folds to learn from.
        folder: for the model and its metrics.
        weights: folder of the files to start from.
    """
    from sandwatch.model.predictor import Predictor
    from sandwatch.train import loop

    began = time.process_time()
    loop.learn(
        chips=chips,
        bands=data[params.Bands].names,
        model=data[Model],
        train=data[Train],
        compute=data[Compute],
        scoring=data[Scoring],
        provenance=loop.Provenance(about=data.about, inputs={}, code={}, replicate=0, params_sha256="0" * 64),
        work=None,
        weights=weights,
        models=folder / "models",
        results=folder / "results",
        report=lambda line: progress(f"  {line}"),
    )
    seconds = time.process_time() - began
    predictor = Predictor.load(folder / "models/model.safetensors", "cpu", precision=data[Compute].precision)
    parameters = sum(parameter.numel() for parameter in predictor.network.parameters())
    return Learnt(scorer=predictor, cpu_seconds=seconds, parameters=parameters)


def forest(data: Data, windows: pd.DataFrame, chips: Chips) -> Learnt:
    """Trains a random forest on the bands of one pixel: it knows colours but neither texture nor shape."""
    import os

    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(FOREST_TREES, min_samples_leaf=FOREST_LEAF, n_jobs=os.cpu_count(), random_state=SEED)
    learnt = _of_pixels(trees, lambda stack: stack, data, windows, chips, overlap_px=0)
    nodes = sum(int(tree.tree_.node_count) for tree in trees.estimators_)
    return Learnt(scorer=learnt.scorer, cpu_seconds=learnt.cpu_seconds, parameters=nodes)


def statistics(data: Data, windows: pd.DataFrame, chips: Chips) -> Learnt:
    """Trains a logistic regression on bands and indices of a pixel, and on their mean and deviation around it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bands = data[params.Bands].names
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return _of_pixels(line, lambda stack: around(stack, bands), data, windows, chips, overlap_px=AROUND_PX - 1)


def judged(data: Data, windows: pd.DataFrame, scorer: Scorer, holdout_rivers: Sequence[str] | None) -> Evaluation:
    """Judges a model on the windows of the fold test, as the stage evaluate does.

    Args:
        data: of the repository.
        windows: with the folds to judge by.
        scorer: the model.
        holdout_rivers: that alone are judged; None for all that tests.
    """
    return evaluate(
        aoi=data.aoi,
        manifest=data.manifest,
        scenes=Path("data/scenes"),
        windows=windows,
        chips=CHIPS,
        scorer=scorer,
        params=data[Evaluate],
        holdout_rivers=holdout_rivers,
        min_distance_km=data[Split].min_distance_km,
    )


def around(stack: npt.NDArray[np.int16], bands: Sequence[str]) -> npt.NDArray[np.float32]:
    """Bands and indices of each pixel, and their mean and deviation in a square around it.

    Args:
        stack: int16 (band, y, x), as in a pixel stack; what has no data is left out of the statistics.
        bands: names of the bands.

    Returns:
        float32 (3 x (band + index), y, x); 0 where there is no data within the square.
    """
    from scipy.ndimage import uniform_filter

    known = valid(stack)
    layers = [np.where(known, band, 0).astype(np.float64) for band in stack]
    for one, other in INDICES:
        if one in bands and other in bands:
            a, b = layers[bands.index(one)], layers[bands.index(other)]
            layers.append(np.divide(a - b, a + b, out=np.zeros(known.shape), where=a + b > 0))
    size = (AROUND_PX, AROUND_PX)
    share = uniform_filter(known.astype(np.float64), size, mode="constant")
    share[share < 0.5 / AROUND_PX**2] = np.inf  # no pixel within
    made = []
    for layer in layers:
        mean = uniform_filter(layer, size, mode="constant") / share
        square = uniform_filter(layer**2, size, mode="constant") / share
        made += [layer, mean, np.sqrt(np.maximum(square - mean**2, 0))]
    return np.stack(made).astype(np.float32)


def in_cache(name: str, weights: Path | None) -> str:
    """Makes sure that published weights are found, in a folder of theirs if one is given; their SHA-256.

    Args:
        name: in the registry.
        weights: folder with the file of ``STORED``; None to have it fetched where it isn't yet.

    Raises:
        InputError: the folder doesn't have it.
    """
    entry = registry.entry(name)
    place = cache.place(entry)
    if weights is not None and not place.exists():
        stored = (weights / STORED[name]).resolve()
        if not stored.is_file():
            raise InputError(
                f"weights {name}", got=f"no file {stored}", expected="as published", fix="name the folder that has it"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link to a folder that has gone
        place.symlink_to(stored)
    return entry.sha256


class OfPixels:
    """A classifier of single pixels as a scorer of windows (:class:`sandwatch.model.scoring.Scorer`)."""

    def __init__(self, classifier: Any, features: Features, spec: Spec) -> None:
        """Takes a fitted classifier, what it sees of each pixel, and how windows are put together."""
        self._classifier, self._features, self.spec = classifier, features, spec

    def __call__(self, pixels: npt.NDArray[np.int16], /) -> npt.NDArray[np.float32]:
        """int16 (n, band, y, x) to log-odds, float32 (n, class - 1, y, x); 0 where there is no data."""
        answer = np.zeros((len(pixels), len(self.spec.classes) - 1, *pixels.shape[2:]), np.float32)
        for stack, log_odds in zip(pixels, answer, strict=True):
            known = valid(stack)
            if known.any():
                found = self._classifier.predict_proba(self._features(stack)[:, known].T)[:, 1].clip(LEAST, 1 - LEAST)
                log_odds[0][known] = np.log(found / (1 - found))
        return answer


def _of_pixels(
    classifier: Any, features: Features, data: Data, windows: pd.DataFrame, chips: Chips, *, overlap_px: int
) -> Learnt:
    """Fits a classifier to a sample of the training pixels."""
    began = time.process_time()
    seen, truth = _sample(windows, data[Model].method, features)
    progress(f"  {len(truth)} training pixels, {int(truth.sum())} of them mine, {seen.shape[1]} features")
    classifier.fit(seen, truth)
    seconds = time.process_time() - began
    scorer = OfPixels(classifier, features, _spec(data, chips, overlap_px))
    return Learnt(scorer=scorer, cpu_seconds=seconds, parameters=seen.shape[1] + 1)


def _sample(windows: pd.DataFrame, method: str, features: Features) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """(features (n, feature), is a mine (n,)) of training pixels: at most ``SAMPLED_PIXELS`` of each class.

    Every observation gives the same share of its pixels of a class.
    """
    generator = np.random.default_rng(SEED)
    chosen = windows[(windows.fold == "train") & (windows.kind == "grid")]
    observations = sorted(chosen.obs_id.unique())
    places: dict[bool, list[npt.NDArray[np.intp]]] = {True: [], False: []}
    for obs_id in observations:
        mask = np.load(CHIPS / "masks" / f"{obs_id}.npy")
        mask[~region_of(chosen[chosen.obs_id == obs_id], mask.shape)] = IGNORED
        for is_mine, found in places.items():
            found.append(np.flatnonzero((mines(mask, method) == is_mine) & counted(mask, method)))
    share = {is_mine: min(SAMPLED_PIXELS / max(sum(map(len, found)), 1), 1.0) for is_mine, found in places.items()}
    seen, truth = [], []
    for number, obs_id in enumerate(observations):
        made = features(np.load(CHIPS / "pixels" / f"{obs_id}.npy"))
        made = made.reshape(len(made), -1)
        for is_mine, found in places.items():
            place = found[number]
            drawn = np.sort(generator.choice(place, int(len(place) * share[is_mine]), replace=False))
            seen.append(made[:, drawn].T)
            truth.append(np.full(len(drawn), is_mine))
    return np.concatenate(seen), np.concatenate(truth)


def _spec(data: Data, chips: Chips, overlap_px: int) -> Spec:
    """What evaluating must know of a classifier of pixels; a spec names a network too, which is of no use here."""
    from sandwatch.model.card import Spec
    from sandwatch.model.channels import Channel
    from sandwatch.model.network import CLASSES

    model, bands = data[Model], data[params.Bands].names
    mean, std = chips.moments(chips.of("train"))
    return Spec(
        network=model.network,
        method=model.method,
        standardise="none",
        start=None,
        bands=bands,
        channels=tuple(Channel(name=b, band=b, mean=m, std=s) for b, m, s in zip(bands, mean, std, strict=True)),
        without=(),
        classes=CLASSES[model.method],
        size_px=chips.size_px,
        mean=mean,
        std=std,
        temperature=1.0,
        bias=0.0,
        threshold=0.5,
        weights_sha256="0" * 64,
        **data[Scoring].model_dump() | {"overlap_px": overlap_px},
        **data.about.model_dump(),
    )
