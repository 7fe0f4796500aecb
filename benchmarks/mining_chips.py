"""Mines against sandbars and other bare ground: what encoders, frozen and fine-tuned, are worth on real chips.

    python benchmarks/mining_chips.py DATA [--only galileo ...] [--weights FOLDER]

DATA is a folder with ``dataset_complete.csv`` and ``<split>/images/<sample>_t1.npy``, int16 (48, 48, 6), reflectance x
10000 of B2, B3, B4, B8, B11, B12, as the repository joelibaceta/sat-mining-detector has it under ``dataset/`` (no
licence: nothing of it is kept here). 524 chips are mining, 125 natural change (river bars, turbid rivers, bare fields),
100 human activity. Its own split leaks; here sites nearer than 25 km are in one group, and groups are shared out over
five folds. Each contender is trained to tell mining from the rest, at all, 30 and 10 % of the labelled sites of the
training folds, and judged on the fold that it never saw: area under the ROC curve, and average precision, against
natural change and against human activity apart. Intervals (95 %) come from drawing groups again.

--weights names a folder with ``galileo-nano-encoder.pt`` and ``presto.pt``, as sandwatch models galileo/nano and presto
fetch them; without it they are fetched. The table goes to standard output, the figures to
benchmarks/results/mining_chips.json under --out, each as it comes: what is there is not computed again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from sandwatch.errors import InputError
from sandwatch.files import write_json
from sandwatch.model import cache, registry
from sandwatch.model.network import Model, Pinned
from sandwatch.stage import progress

BANDS = ("B2", "B3", "B4", "B8", "B11", "B12")
SIZE_PX = 48
APART_KM = 25.0
EARTH_KM = 6371.0
FOLDS = 5
SHARES = (1.0, 0.3, 0.1)
RESAMPLED = 1000
SEED = 0
KINDS = ("natural", "human")
"""What mining is told from."""
EPOCHS, BATCH = 25, 32
RATES = {"scratch": 1e-3, "encoder": 1e-4, "head": 1e-3}
"""Peak learning rates. Source: rslearn takes 1e-4 for encoders; a head on frozen features needs more."""
STORED = {"galileo/nano": "galileo-nano-encoder.pt", "presto": "presto.pt"}

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int16]
Indices = npt.NDArray[np.int64]
Fit = Callable[[Indices, Indices], Floats]
"""(chips to learn from, chips to judge), as places in the table, to a score of each of the latter."""


class Contender(StrEnum):
    """What to run."""

    statistics = "statistics"
    boosting = "boosting"
    cnn = "cnn"
    galileo = "galileo"
    galileo_tuned = "galileo-tuned"
    presto = "presto"
    presto_tuned = "presto-tuned"


STEPWISE = (Contender.cnn, Contender.galileo_tuned, Contender.presto_tuned)
"""What is trained step by step."""


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    only: Annotated[list[Contender] | None, typer.Option(help="run these; else all")] = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="folder of the published files")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="of what is trained step by step")] = EPOCHS,
    out: Annotated[Path, typer.Option(help="folder that benchmarks/results is made in")] = Path(),
) -> None:
    """Runs the contenders, and prints a table of them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else threads that wait count as processor time
    chips, table = read(data)
    mining = (table["kind"] == "mining").to_numpy()
    progress(f"{len(table)} chips in {table['group'].nunique()} groups: {dict(table['kind'].value_counts())}")
    results = out / "benchmarks/results/mining_chips.json"
    made: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    for contender in only or list(Contender):
        steps = {"epochs": epochs} if contender in STEPWISE else {}
        missing = [share for share in SHARES if not _is_there(made.get(f"{contender}, {share:.0%}"), steps)]
        if not missing:
            continue
        began = time.process_time()
        fit = contender_of(contender, chips, mining, weights, epochs)
        shared = time.process_time() - began  # features that all shares and folds have in common
        for share in missing:
            began = time.process_time()
            scores = judged(table, fit, share)
            cpu = {"cpu_seconds": round(shared + time.process_time() - began, 1)}
            made[f"{contender}, {share:.0%}"] = {**figures(scores, table), **cpu, **steps}
            progress(_row(f"{contender}, {share:.0%}", made[f"{contender}, {share:.0%}"]))
            write_json(results, made)
    print(f"\n{'':<22} {'natural change: AUC, AP':>30} {'human activity: AUC, AP':>30} {'CPU s':>7}")
    for contender in Contender:
        for name in (f"{contender}, {share:.0%}" for share in SHARES):
            if name in made:
                print(_row(name, made[name]))


def _is_there(values: dict[str, Any] | None, steps: dict[str, int]) -> bool:
    """Whether a figure was computed before, with as many epochs."""
    return values is not None and all(values.get(key) == value for key, value in steps.items())


def read(data: Path) -> tuple[Pixels, pd.DataFrame]:
    """The chips of the later date, int16 (n, band, y, x), and what they are: kind and group."""
    from sklearn.cluster import DBSCAN

    listed = data / "dataset_complete.csv"
    if not listed.is_file():
        raise InputError(
            str(listed), got="no such file", expected="the chips of sat-mining-detector", fix="name its folder dataset/"
        )
    table = pd.read_csv(listed).sort_values("sample_id", ignore_index=True)
    paths = [data / path for path in table["t1_path"]]
    there = np.array([path.is_file() for path in paths])
    table = table[there].reset_index(drop=True)
    chips = np.stack([np.load(path, allow_pickle=False) for path, here in zip(paths, there, strict=True) if here])
    table["kind"] = table["sample_id"].str.split("_").str[0]
    # One link is enough, as for our own groups.
    places = np.radians(table[["latitude", "longitude"]].to_numpy())
    link = DBSCAN(eps=APART_KM / EARTH_KM, min_samples=1, metric="haversine", algorithm="ball_tree")
    table["group"] = link.fit_predict(places)
    return np.ascontiguousarray(np.moveaxis(chips, -1, 1)), table


def judged(table: pd.DataFrame, fit: Fit, share: float) -> Floats:
    """A score of each chip, from a model that saw no chip of its group, nor of its fold."""
    from sklearn.model_selection import GroupKFold

    mining = (table["kind"] == "mining").to_numpy()
    draw = np.random.default_rng(SEED)
    scores = np.full(len(table), np.nan)
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=SEED).split(table, groups=table["group"]):
        kept = np.concatenate(
            [
                draw.permutation(train[mining[train] == kind])[: max(round(share * (mining[train] == kind).sum()), 2)]
                for kind in (True, False)
            ]
        )
        scores[test] = fit(kept, test)
    return scores


def figures(scores: Floats, table: pd.DataFrame) -> dict[str, Any]:
    """AUC with its interval, and AP, of mining against each kind."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    made = {}
    for kind in KINDS:
        asked = table["kind"].isin(["mining", kind]).to_numpy()
        truth, found = (table["kind"] == "mining").to_numpy()[asked], scores[asked]
        groups = table["group"].to_numpy()[asked]
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        draw, drawn = np.random.default_rng(SEED), []
        for _ in range(RESAMPLED):
            again = np.concatenate([members[i] for i in draw.integers(0, len(members), len(members))])
            if 0 < truth[again].sum() < len(again):
                drawn.append(roc_auc_score(truth[again], found[again]))
        made[kind] = {
            "auc": round(float(roc_auc_score(truth, found)), 4),
            "low95": round(float(np.percentile(drawn, 2.5)), 4),
            "high95": round(float(np.percentile(drawn, 97.5)), 4),
            "ap": round(float(average_precision_score(truth, found)), 4),
        }
    return made


def contender_of(
    name: Contender, chips: Pixels, mining: npt.NDArray[np.bool_], weights: Path | None, epochs: int
) -> Fit:
    """How a contender learns and scores. What frozen features there are is computed here, once for all."""
    match name:
        case Contender.statistics:
            return _on_features(_logistic, statistics(chips), mining)
        case Contender.boosting:
            return _on_features(_boosting, statistics(chips), mining)
        case Contender.galileo | Contender.presto:
            return _on_features(_logistic, _features(_encoder(name, weights), chips), mining)
        case Contender.cnn:
            made, rate = _cnn, RATES["scratch"]
        case Contender.galileo_tuned | Contender.presto_tuned:
            made, rate = partial(_encoder, name, weights), RATES["encoder"]
    return lambda train, test: _tuned(made, rate, chips[train], mining[train], chips[test], epochs)


def _on_features(
    classifier: Callable[[Floats, npt.NDArray[np.bool_], Floats], Floats],
    features: Floats,
    mining: npt.NDArray[np.bool_],
) -> Fit:
    """A classifier of features that are known."""
    return lambda train, test: classifier(features[train], mining[train], features[test])


def statistics(chips: Pixels) -> Floats:
    """Of bands, of indices of vegetation, water and bare ground, and of their gradients: (n, statistic)."""
    values = chips.astype(np.float64) / 10_000
    blue, green, red, infrared, short, _ = values.transpose(1, 0, 2, 3)

    def ratio(a: Floats, b: Floats) -> Floats:
        return (a - b) / np.where(np.abs(a + b) < 1e-6, 1e-6, a + b)

    layers = [*values.transpose(1, 0, 2, 3), ratio(infrared, red), ratio(green, infrared),
              ratio(short + red, infrared + blue)]  # fmt: skip
    made = []
    for layer in layers:
        rows, cols = np.gradient(layer, axis=(1, 2))
        for part in (layer, np.hypot(rows, cols)):
            made += [part.mean((1, 2)), part.std((1, 2)), *np.percentile(part, (5, 50, 95), axis=(1, 2))]
    return np.stack(made, axis=1)


def _logistic(train: Floats, mining: npt.NDArray[np.bool_], test: Floats) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000, class_weight="balanced"))
    scores: Floats = model.fit(train, mining).decision_function(test)
    return scores


def _boosting(train: Floats, mining: npt.NDArray[np.bool_], test: Floats) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, class_weight="balanced", random_state=SEED)
    with threadpool_limits(1):  # so few rows are done before a second thread is awake
        scores: Floats = model.fit(train, mining).decision_function(test)
    return scores


def _cnn() -> Any:
    """Six convolutions, to features (n, 128, y / 8, x / 8), of bands in tenths of reflectance."""
    from torch import nn

    layers: list[nn.Module] = []
    width = len(BANDS)
    for number, wider in enumerate((32, 32, 64, 64, 128, 128)):
        layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number % 2 else []
        width = wider
    return _behind(None, nn.Sequential(*layers))


def _encoder(name: Contender, weights: Path | None) -> Any:
    """A published encoder behind what brings chips to it; groups of bands that chips lack are left out."""
    from sandwatch.model.predictor import Reader
    from sandwatch.train.initial import initial

    of = "galileo/nano" if name.startswith("galileo") else "presto"
    entry = registry.entry(of)
    if weights is not None:
        here = cache.place(entry)
        here.parent.mkdir(parents=True, exist_ok=True)
        if not here.exists():
            here.symlink_to((weights / STORED[of]).resolve())
    keys = {"kind": "galileo", "size": "nano", "patch_px": 8} if of != "presto" else {"kind": "presto"}
    model = Model.of({**keys, "decoder": "linear"}, "binary").model_copy(
        update={
            "weights": Pinned(name=of, sha256=entry.sha256),
            "missing_bands": "leave_out",
            "new_bands": "leave_out",
        }
    )
    moments = dict.fromkeys(BANDS, (1500.0, 800.0))  # of no use: the weights know their own
    begun = initial(model, BANDS, moments, SIZE_PX, Path())
    return _behind(Reader(begun.match.channels, BANDS), begun.network.get_submodule("encoder"))


def _features(encoder: Any, chips: Pixels) -> Floats:
    """Mean, deviation and largest of each feature over a chip: (n, 3 x feature)."""
    import torch

    found = []
    with torch.inference_mode():
        for first in range(0, len(chips), BATCH):
            maps = encoder.eval()(torch.from_numpy(chips[first : first + BATCH])).flatten(2)
            found.append(torch.cat([maps.mean(2), maps.std(2), maps.amax(2)], dim=1).double().numpy())
    return np.concatenate(found)


def _tuned(
    made: Callable[[], Any], rate: float, chips: Pixels, mining: npt.NDArray[np.bool_], test: Pixels, epochs: int
) -> Floats:
    """An encoder and a linear layer on its pooled features, trained together; turns and mirrors."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(SEED)
    encoder = made()
    with torch.inference_mode():
        width = encoder.eval()(torch.from_numpy(chips[:1])).shape[1]
    head = nn.Linear(2 * width, 1)

    def logits(batch: Any) -> Any:
        maps = encoder(batch).flatten(2)
        return head(torch.cat([maps.mean(2), maps.amax(2)], dim=1))[:, 0]

    steps = epochs * -(-len(chips) // BATCH)
    groups = [{"params": encoder.parameters(), "lr": rate}, {"params": head.parameters(), "lr": RATES["head"]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [rate, RATES["head"]], total_steps=steps)
    truth = torch.from_numpy(mining.astype(np.float32))
    weight = torch.tensor(float((~mining).sum() / max(mining.sum(), 1)))
    draw = np.random.default_rng(SEED)
    encoder.train()
    for _ in range(epochs):
        order = draw.permutation(len(chips))
        for first in range(0, len(order), BATCH):
            own = order[first : first + BATCH]
            turned = [_turned(chip, draw) for chip in chips[own]]
            loss = functional.binary_cross_entropy_with_logits(
                logits(torch.from_numpy(np.stack(turned))), truth[own], pos_weight=weight
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    encoder.eval()
    with torch.inference_mode():
        parts = [logits(torch.from_numpy(test[i : i + BATCH])).double().numpy() for i in range(0, len(test), BATCH)]
    return np.concatenate(parts)


def _turned(chip: Pixels, draw: np.random.Generator) -> Pixels:
    """A chip (band, y, x) in one of its eight orientations."""
    return np.rot90(chip, int(draw.integers(4)), (1, 2))[:, :, :: int(draw.choice((-1, 1)))]


def _behind(reader: Any, encoder: Any) -> Any:
    """An encoder behind its reader; without one, behind bands in tenths of reflectance."""
    from torch import nn

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader, self.encoder = reader, encoder

        def forward(self, chips: Any) -> Any:
            return self.encoder(chips.float() / 1000 if self.reader is None else self.reader(chips))

    return Behind()


def _row(name: str, values: dict[str, Any]) -> str:
    cells = [
        f"{v['auc']:.3f} ({v['low95']:.3f} to {v['high95']:.3f}) {v['ap']:6.3f}" for v in map(values.get, KINDS) if v
    ]
    return f"{name:<22} {cells[0]:>30} {cells[1]:>30} {values['cpu_seconds']:7.0f}"


if __name__ == "__main__":
    typer.run(main)
