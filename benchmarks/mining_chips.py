"""Mines against sandbars and other bare ground: what encoders, frozen and fine-tuned, are worth on real chips.

    python benchmarks/mining_chips.py DATA [--only galileo ...] [--weights FOLDER] [--ukis FILE]

DATA is a folder with ``dataset_complete.csv`` and ``<split>/images/<sample>_t1.npy``, int16 (48, 48, 6), reflectance x
10000 of B2, B3, B4, B8, B11, B12, as the repository joelibaceta/sat-mining-detector has it under ``dataset/`` (no
licence: nothing of it is kept here). 524 chips are mining, 125 natural change (river bars, turbid rivers, bare fields),
100 human activity. Its own split leaks; here sites nearer than 25 km are in one group, and groups are shared out over
five folds. Each contender is trained to tell mining from the rest, at all, 30 and 10 % of the labelled sites of the
training folds, and judged on the fold that it never saw: area under the ROC curve, and average precision, against
natural change and against human activity apart. Intervals (95 %) come from drawing groups again.

--weights names a folder with ``galileo-nano-encoder.pt`` and ``presto.pt``, as sandwatch models galileo/nano and presto
fetch them; without it they are fetched. --ukis names the wheel of ukis-csmask 1.0.0 (Apache-2.0), whose encoder, an
EfficientNet-B4, has learnt to see clouds in these very bands; reading it wants the extra export. What has no weights is
skipped. The table goes to standard output, the figures to benchmarks/results/mining_chips.json under --out, each as it
comes: what is there is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from contenders import in_cache
from sandwatch.errors import InputError
from sandwatch.files import write_json
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
BATCH = 32
RATES = {"scratch": 1e-3, "encoder": 1e-4, "head": 1e-3}
"""Peak learning rates. Source: rslearn takes 1e-4 for encoders; a head on frozen features needs more."""
THIN_PX = 4
"""Presto, which sees each pixel by itself and takes as long for it as others for a patch, is tuned on every fourth
pixel of every fourth row."""
UKIS = "model_6b_l2a"
"""The network for six bands of L2A, in the wheel."""
UKIS_ONNX_SHA256 = "d11c530978637ca420eedc40791c62bf78997dd39e1201777e2527e4bd94904e"
UKIS_MEAN = (0.26681778, 0.27799085, 0.28811994, 0.36494744, 0.22257099, 0.17859040)
UKIS_STD = (0.33633598, 0.31254560, 0.31114846, 0.27260706, 0.16653667, 0.14328985)
"""Of its reflectance, in the order of ``BANDS``. Source: model_6b_l2a.json in the wheel."""

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
    ukis = "ukis-csmask"
    ukis_tuned = "ukis-csmask-tuned"


EPOCHS = {Contender.cnn: 25, Contender.galileo_tuned: 10, Contender.presto_tuned: 10, Contender.ukis_tuned: 5}
"""Of what is trained step by step. All of them at 25 would take half a day of a processor."""


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    only: Annotated[list[Contender] | None, typer.Option(help="run these; else all")] = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="folder of the published files")] = None,
    ukis: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="wheel of ukis-csmask")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of what is trained step by step  [default: 25, 10 or 5]")
    ] = None,
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
        steps = {"epochs": epochs or EPOCHS[contender]} if contender in EPOCHS else {}
        missing = [share for share in SHARES if not _is_there(made.get(f"{contender}, {share:.0%}"), steps)]
        if not missing:
            continue
        began = time.process_time()
        try:
            fit = contender_of(contender, chips, mining, weights, ukis, steps.get("epochs", 0))
        except InputError as error:
            progress(f"SKIPPED {contender}: {error}")
            continue
        shared = time.process_time() - began  # features that all shares and folds have in common
        for share in missing:
            began = time.process_time()
            scores = judged(table, fit, share)
            cpu = {"cpu_seconds": round(shared + time.process_time() - began, 1)}
            made[f"{contender}, {share:.0%}"] = {**figures(scores, table), **cpu, **steps}
            progress(_row(f"{contender}, {share:.0%}", made[f"{contender}, {share:.0%}"]))
            write_json(results, made)
    print(f"\n{'':<24} {'natural change: AUC, AP':>30} {'human activity: AUC, AP':>30} {'CPU s':>7} epochs")
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
    name: Contender,
    chips: Pixels,
    mining: npt.NDArray[np.bool_],
    weights: Path | None,
    ukis: Path | None,
    epochs: int,
) -> Fit:
    """How a contender learns and scores. What frozen features there are is computed here, once for all.

    Raises:
        InputError: its weights are not there.
    """
    made: Callable[[], Any]
    match name:
        case Contender.statistics:
            return _on_features(_logistic, statistics(chips), mining)
        case Contender.boosting:
            return _on_features(_boosting, statistics(chips), mining)
        case Contender.galileo | Contender.presto:
            return _on_features(_logistic, _features(_encoder(name, weights), chips), mining)
        case Contender.ukis:
            return _on_features(_logistic, _features(_ukis(_states(ukis)), chips), mining)
        case Contender.cnn:
            made = _cnn
        case Contender.galileo_tuned:
            made = partial(_encoder, name, weights)
        case Contender.presto_tuned:
            made, chips = partial(_encoder, name, weights), np.ascontiguousarray(chips[:, :, ::THIN_PX, ::THIN_PX])
        case Contender.ukis_tuned:
            made = partial(_ukis, _states(ukis))
    made()  # so that what lacks is said now
    published = name != Contender.cnn
    return lambda train, test: _tuned(made, chips[train], mining[train], chips[test], epochs, published=published)


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
    keys = {"kind": "galileo", "size": "nano", "patch_px": 8} if of != "presto" else {"kind": "presto"}
    model = Model.of({**keys, "decoder": "linear"}, "binary").model_copy(
        update={
            "weights": Pinned(name=of, sha256=in_cache(of, weights)),
            "missing_bands": "leave_out",
            "new_bands": "leave_out",
        }
    )
    moments = dict.fromkeys(BANDS, (1500.0, 800.0))  # of no use: the weights know their own
    begun = initial(model, BANDS, moments, SIZE_PX, Path())
    return _behind(Reader(begun.match.channels, BANDS), begun.network.get_submodule("encoder"))


def _states(wheel: Path | None) -> dict[str, Any]:
    """The tensors of the encoder of ukis-csmask, by the names that segmentation-models-pytorch has for them.

    Raises:
        InputError: there is no wheel, or it holds another network.
    """
    import onnx
    import torch

    if wheel is None:
        fix = "pip download --no-deps ukis-csmask==1.0.0, and name the file"
        raise InputError("--ukis", got="no file", expected="the wheel of ukis-csmask 1.0.0", fix=fix)
    with zipfile.ZipFile(wheel) as parts:
        content = next((parts.read(name) for name in parts.namelist() if name.endswith(f"/{UKIS}.onnx")), b"")
    if (found := hashlib.sha256(content).hexdigest()) != UKIS_ONNX_SHA256:
        raise InputError(
            f"--ukis {wheel}",
            got=f"{UKIS}.onnx with the SHA-256 {found}",
            expected=UKIS_ONNX_SHA256,
            fix="take the wheel of version 1.0.0",
        )
    prefix = "model.encoder."
    return {
        tensor.name.removeprefix(prefix): torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype(np.float32))
        for tensor in onnx.load_from_string(content).graph.initializer
        if tensor.name.startswith(prefix)
    }


def _ukis(states: dict[str, Any]) -> Any:
    """The encoder of ukis-csmask: its four coarser stages side by side, at the resolution of the finest of them.

    With its tensors segmentation-models-pytorch's U-Net tells the classes of 99.9 % of the pixels of noise as the ONNX
    file does, which computes in half precision.
    """
    from sandwatch._torchvision import ensure_torchvision

    ensure_torchvision()
    import torch
    from segmentation_models_pytorch.encoders import get_encoder
    from torch import nn
    from torch.nn import functional

    encoder = get_encoder("efficientnet-b4", in_channels=len(BANDS), weights=None)
    missing, unexpected = nn.Module.load_state_dict(encoder, states, strict=False)  # the library's own says nothing
    of_no_use = ("num_batches_tracked", "_conv_head", "_bn1.")  # the last two classify whole images
    if unexpected or any(not name.endswith(of_no_use[0]) and not name.startswith(of_no_use[1:]) for name in missing):
        raise AssertionError(f"{missing} missing, {unexpected} unexpected")

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (UKIS_MEAN, UKIS_STD))

        def forward(self, chips: Any) -> Any:
            maps = self.encoder((chips.float() / 10_000 - self.mean) / self.std)[2:]
            return torch.cat([functional.interpolate(one, maps[0].shape[2:]) for one in maps], dim=1)

    return Stages()


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
    made: Callable[[], Any],
    chips: Pixels,
    mining: npt.NDArray[np.bool_],
    test: Pixels,
    epochs: int,
    *,
    published: bool,
) -> Floats:
    """An encoder and a linear layer on its pooled features, trained together; turns and mirrors.

    Statistics of a published encoder's batches stay as they are: there are too few chips to learn others.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(SEED)
    encoder, rate = made(), RATES["encoder" if published else "scratch"]
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
    encoder.train(not published)
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
    return f"{name:<24} {cells[0]:>30} {cells[1]:>30} {values['cpu_seconds']:7.0f} {values.get('epochs', '-'):>6}"


if __name__ == "__main__":
    typer.run(main)
