import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from sandwatch.errors import InputError
from sandwatch.model.adapter import Adapter
from sandwatch.model.card import Card, Spec
from sandwatch.model.channels import Channel
from sandwatch.model.metrics import ScoreHistogram
from sandwatch.model.network import Scoring, Views
from sandwatch.model.predictor import Predictor, Reader
from sandwatch.model.scoring import score
from sandwatch.origin import About
from sandwatch.reproducible import Compute
from sandwatch.stack import counted, mines
from sandwatch.train import loop
from sandwatch.train.augment import Variation
from sandwatch.train.average import average
from sandwatch.train.data import Chips
from sandwatch.train.initial import initial
from sandwatch.train.loop import Provenance, learn, lightning
from sandwatch.train.loss import loss
from sandwatch.train.pictures import pictures
from sandwatch.work import Work, size
from tests import tiny_chips, training
from tests.models import section

TRAIN = training.section(epochs=4, windows_per_epoch=34, learning_rate=0.01, patience=3)
ARGUMENTS: dict[str, Any] = {
    "bands": tiny_chips.BANDS,
    "model": section(encoder="tu-mobilenetv3_small_050"),
    "train": TRAIN,
    "compute": Compute(reproducible=True, threads=1, precision="32-true"),
    "scoring": Scoring(overlap_px=8, batch_size=4, views=1),
    "work": None,
    "weights": Path("data/weights"),
    "provenance": Provenance(
        about=About(label_fingerprint="1" * 64, imagery="synthetic", labels="mixed"),
        inputs={},
        code={},
        params_sha256="2" * 64,
        replicate=0,
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chips.write(tmp_path_factory.mktemp("chips"))


def run(folder: Path, out: Path, **changes: Any) -> tuple[dict[str, Any] | None, list[str]]:
    lines: list[str] = []
    arguments = {"chips": Chips(folder), "models": out / "models", "results": out / "results", "report": lines.append}
    return learn(**ARGUMENTS | arguments | changes), lines


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("trained")
    facts, lines = run(folder, out)
    assert facts is not None
    assert facts["epochs"] == 4
    assert facts["training_windows_per_second"] > 0
    return out, lines


def table(path: Path) -> list[float]:
    return [float(line.split("\t")[1]) for line in path.read_text().splitlines()[1:]]


def test_it_learns(trained: tuple[Path, list[str]]) -> None:
    out, lines = trained
    losses = table(out / "results/plots/metrics/train/loss.tsv")
    ap = table(out / "results/plots/metrics/val/AP.tsv")
    assert len(losses) == len(ap) == 4
    assert losses[-1] < 0.6 * losses[0]
    assert ap[-1] > 0.9
    assert ap[0] < ap[-1]
    metrics = json.loads((out / "results/metrics.json").read_text())
    assert metrics["val_ap"] == max(ap)
    assert metrics["best_epoch"] == ap.index(max(ap)) + 1
    assert [line for line in lines if line.startswith("epoch 4/4: loss ")]
    for name in ("train/loss", "val/loss", "val/AP", "val/F1", "lr"):
        assert len(table(out / f"results/plots/metrics/{name}.tsv")) == 4
    rates = table(out / "results/plots/metrics/lr.tsv")
    assert max(rates) > 0.5 * TRAIN.learning_rate
    assert rates[-1] < 0.001 * TRAIN.learning_rate


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_running_again_gives_the_same_bytes(trained: tuple[Path, list[str]], folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what happened before in the process does not matter
    run(folder, tmp_path)
    first, again = contents(trained[0]), contents(tmp_path)
    assert [name for name in first | again if first.get(name) != again.get(name)] == []
    assert {"models/model.safetensors", "models/model.json", "models/exposures.parquet"} <= first.keys()
    run(folder, tmp_path, train=TRAIN.model_copy(update={"seed": 1, "epochs": 1}))
    assert contents(tmp_path)["models/model.safetensors"] != first["models/model.safetensors"]


class KilledError(Exception):
    """Where a run ends that nobody wanted to end."""


def run_until(line: str, folder: Path, out: Path, **changes: Any) -> None:
    """Trains until it is about to say a line, then dies. DVC removes what it leaves behind."""

    def report(said: str) -> None:
        if said.startswith(line):
            raise KilledError

    with pytest.raises(KilledError):
        run(folder, out, report=report, **changes)
    shutil.rmtree(out)


def test_a_run_goes_on_where_another_was_killed_and_ends_with_the_same_bytes(
    trained: tuple[Path, list[str]], folder: Path, tmp_path: Path
) -> None:
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    run_until("epoch 2/4", folder, out, work=kept)  # as it dies, epoch 1 is kept
    run_until("epoch 4/4", folder, out, work=kept)
    torch.manual_seed(99)
    facts, lines = run(folder, out, work=kept)
    assert lines[0] == "epochs 1 to 3 of 4 are done, by an earlier run"
    assert [line[:9] for line in lines if line.startswith("epoch ")] == ["epoch 4/4"]
    assert contents(out) == contents(trained[0])
    assert facts is not None
    assert facts["epochs"] == 4
    assert size(tmp_path / "work") == 0  # it is over, so nothing is kept


AVERAGED: dict[str, Any] = {"ema": 0.9, "radiometry": {"gain": 0.1, "noise": 0.1}, "optimizer": "sgd"}
RECIPES: dict[str, dict[str, Any]] = {
    "gradual": AVERAGED | {"tuning": {"method": "gradual", "frozen_share": 0.5, "layer_decay": 0.7}},
    "lora": {
        "ema": 0.8,
        "tuning": {"method": "lora", "lora": {"targets": r"model\.blocks\..*conv_pwl?", "dropout": 0.2}},
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_any_recipe_goes_on_where_another_was_killed(name: str, folder: Path, tmp_path: Path) -> None:
    if name == "lora":
        training.want_peft()
    train = training.section(epochs=4, learning_rate=0.01, **RECIPES[name])
    run(folder, tmp_path / "whole", train=train)
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    run_until("epoch 2/4", folder, out, train=train, work=kept)
    run_until("epoch 4/4", folder, out, train=train, work=kept)
    torch.manual_seed(99)
    _, lines = run(folder, out, train=train, work=kept)
    assert lines[0] == "epochs 1 to 3 of 4 are done, by an earlier run"
    assert contents(out) == contents(tmp_path / "whole")
    plain = ARGUMENTS["model"].build(tiny_chips.BANDS, tiny_chips.SIZE).state_dict()
    model = load_file(out / "models/model.safetensors")
    assert model.keys() == plain.keys()
    assert (out / "results/adapter.safetensors").exists() == (name == "lora")
    if name == "lora":  # what it learnt, on what it started with, is the model; without the half of it, it isn't
        adapter = Adapter.read(out / "results/adapter.safetensors")
        torch.manual_seed(train.seed)
        moments = dict.fromkeys(tiny_chips.BANDS, (0.0, 1.0))
        start = initial(ARGUMENTS["model"], tiny_chips.BANDS, moments, tiny_chips.SIZE, folder).network.state_dict()
        assert furthest(adapter.onto(start), model) < 1e-6
        assert furthest(replace(adapter, scale=0.5 * adapter.scale).onto(start), model) > 1e-4
        assert furthest(start, model) > 1e-3


def furthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference between two states."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_a_run_killed_after_its_last_epoch_trains_no_more(
    trained: tuple[Path, list[str]], folder: Path, tmp_path: Path
) -> None:
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    run_until("choosing calibration", folder, out, work=kept)
    _, lines = run(folder, out, work=kept)
    assert lines[0] == "epochs 1 to 4 of 4 are done, by an earlier run"
    assert [line for line in lines if line.startswith("epoch ")] == []
    assert contents(out) == contents(trained[0])


def test_a_run_that_had_stopped_early_stays_stopped_and_draws_what_dropout_drew(folder: Path, tmp_path: Path) -> None:
    """With a network that has dropout, the random numbers of an epoch must not depend on where the run began."""
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    fpn = section(encoder="tu-mobilenetv3_small_050", architecture="FPN", depth=5, decoder_channels=[])
    still = {"epochs": 9, "patience": 1, "learning_rate": 1e-12, "windows_per_epoch": 8}
    changes = {"model": fpn, "train": TRAIN.model_copy(update=still)}
    facts, _ = run(folder, out, **changes)
    whole = contents(out)
    shutil.rmtree(out)
    assert facts is not None
    assert 2 <= facts["epochs"] < 9
    run_until("epoch 2/9", folder, out, **changes, work=kept)
    run_until("choosing calibration", folder, out, **changes, work=kept)
    _, lines = run(folder, out, **changes, work=kept)
    assert lines[0] == f"epochs 1 to {facts['epochs']} of 9 are done, by an earlier run"
    assert contents(out) == whole


def test_another_training_begins_anew(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, short = tmp_path / "out", TRAIN.model_copy(update={"epochs": 2})
    run_until("epoch 2/2", folder, out, train=short, work=Work(tmp_path / "work", "code"))

    def begins_anew(context: str = "code", **changes: Any) -> bool:
        def report(line: str) -> None:
            said.append(line)
            raise KilledError

        said: list[str] = []
        with pytest.raises(KilledError):
            run(folder, out, train=short, work=Work(tmp_path / "work", context), report=report, **changes)
        return said[0].startswith("epoch 1/2")

    provenance = ARGUMENTS["provenance"]
    assert not begins_anew()
    assert begins_anew("other code")
    assert begins_anew(provenance=replace(provenance, params_sha256="3" * 64))
    assert begins_anew(provenance=replace(provenance, inputs={"chips/pixels/a.npy": "4" * 64}))
    (state,) = (tmp_path / "work" / "files").iterdir()
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    assert begins_anew()
    assert f"state of the training: {state} is damaged" in capsys.readouterr().out


def test_exposures_count_what_the_kept_weights_have_seen(trained: tuple[Path, list[str]], folder: Path) -> None:
    out, _ = trained
    exposures = dict(zip(*pq.read_table(out / "models/exposures.parquet").to_pydict().values(), strict=True))
    chips = Chips(folder)
    assert set(exposures) == set(chips.chip_id[chips.of("train")])
    best = json.loads((out / "results/metrics.json").read_text())["best_epoch"]
    assert sum(exposures.values()) == best * 32  # whole batches of 8 in the 34 asked for
    barren = sum(draws for chip_id, draws in exposures.items() if chip_id.startswith("n"))
    assert 0 < barren < sum(exposures.values()) / 2


def loaded(models: Path, precision: Any = "32-true") -> Predictor:
    return Predictor.load(models / "model.safetensors", "cpu", precision=precision)


def validation(folder: Path, models: Path, precision: Any = "32-true") -> tuple[Spec, ScoreHistogram, Any, Any]:
    """The saved model's spec, and over the whole validation scene its scores, log-odds and the truth."""
    predictor, chips = loaded(models, precision), Chips(folder)
    parts = list(score(chips.pixels("c_2020-01-01"), predictor))
    steps = np.concatenate([part.steps for part in parts])
    log_odds = np.concatenate([part.log_odds[0] for part in parts])
    mask, cover = chips.mask("c_2020-01-01"), chips.cover(chips.of("val"))["c_2020-01-01"]
    assert not cover.all()
    keep = cover & counted(mask, "binary")
    truth = mines(mask, "binary")[keep]
    return predictor.spec, ScoreHistogram.of(steps[keep], truth), log_odds[keep].astype(np.float64), truth


@pytest.mark.parametrize("views", [1, 2])
def test_calibration_and_threshold_come_from_whole_validation_scenes(
    trained: tuple[Path, list[str]], folder: Path, tmp_path: Path, views: Views
) -> None:
    out = trained[0]
    if views > 1:
        out = tmp_path
        run(folder, out, scoring=Scoring(overlap_px=8, batch_size=4, views=views))
        assert (out / "models/exposures.parquet").read_bytes() == (trained[0] / "models/exposures.parquet").read_bytes()
    spec, scores, logits, truth = validation(folder, out / "models")
    assert spec.threshold == scores.best_f1()[1]

    def likelihood(temperature: float, bias: float) -> float:
        calibrated = logits / temperature + bias
        return float(np.logaddexp(0, np.where(truth, -calibrated, calibrated)).mean())

    best = likelihood(spec.temperature, spec.bias)
    assert best < min(likelihood(spec.temperature * share, spec.bias) for share in (0.95, 1.05))
    assert best < min(likelihood(spec.temperature, spec.bias + more) for more in (-0.1, 0.1))
    assert (spec.label_fingerprint, spec.imagery, spec.labels) == ("1" * 64, "synthetic", "mixed")
    assert (spec.overlap_px, spec.batch_size, spec.views) == (8, 4, views)
    assert spec.mean == Chips(folder).moments(np.flatnonzero(Chips(folder).fold == "train"))[0]


def test_pictures_show_score_and_outlines(trained: tuple[Path, list[str]], folder: Path) -> None:
    predictor, chips = loaded(trained[0] / "models"), Chips(folder)
    ((name, image),) = pictures(predictor, chips, chips.thin(chips.of("val")))
    assert (trained[0] / "results/plots/images" / f"{name}.png").is_file()
    assert chips.px_high[chips.chip_id == name] == chips.px_high[chips.thin(chips.of("val"))].max()
    assert (image.dtype, image.shape[1:]) == (np.uint8, (64 + 8 + 64, 3))
    band, image = image[:-64], image[-64:]  # these chips' imagery is synthetic, their labels are mixed
    assert set(np.unique(band)) == {0, 255}
    _, mask = chips.gather(np.flatnonzero(chips.chip_id == name))
    red = (image[:, :64] == (255, 0, 0)).all(axis=2)
    assert red.any()
    assert (mask[0].repeat(2, 0).repeat(2, 1)[red] == 2).all()


def test_it_stops_when_nothing_gets_better_and_keeps_the_best(folder: Path, tmp_path: Path) -> None:
    still = TRAIN.model_copy(update={"epochs": 9, "patience": 1, "learning_rate": 1e-12})
    facts, _ = run(folder, tmp_path, train=still)
    assert facts is not None
    assert facts["epochs"] < 9
    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    assert metrics["best_epoch"] == facts["epochs"] - 1
    assert sum(pq.read_table(tmp_path / "models/exposures.parquet")["draws"].to_pylist()) == metrics["best_epoch"] * 32
    spec, scores, _, _ = validation(folder, tmp_path / "models")
    assert spec.threshold == scores.best_f1()[1]  # of the kept weights, not of the last


def test_three_classes_are_told_apart(folder: Path, tmp_path: Path) -> None:
    model = ARGUMENTS["model"].model_copy(update={"method": "three_class"})
    every = TRAIN.loss.model_copy(update={"focal": 0.7})
    run(folder, tmp_path, model=model, train=TRAIN.model_copy(update={"loss": every}))
    card = Card.read(tmp_path / "models/model.json")
    assert card.classes == ("other", "low", "high")
    assert json.loads((tmp_path / "results/metrics.json").read_text())["val_ap"] > 0.6
    pixels, _ = Chips(folder).gather(np.array([0]))
    assert loaded(tmp_path / "models")(pixels).shape == (1, 2, 32, 32)


def test_the_threshold_is_chosen_in_the_precision_of_training(folder: Path, tmp_path: Path) -> None:
    half = Compute(reproducible=False, threads=1, precision="bf16-mixed")
    run(folder, tmp_path, compute=half, train=TRAIN.model_copy(update={"epochs": 2}))
    found = {precision: validation(folder, tmp_path / "models", precision) for precision in ("32-true", "bf16-mixed")}
    assert not np.array_equal(found["32-true"][2], found["bf16-mixed"][2])
    spec, scores, _, _ = found["bf16-mixed"]
    assert spec.threshold == scores.best_f1()[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": ("B2", "B3")}, "params.yaml: bands: got 2 bands; expected 3"),
        (
            {"scoring": Scoring(overlap_px=32, batch_size=4, views=1)},
            "scoring.overlap_px: got 32; expected less than chips.size_px = 32",
        ),
    ],
)
def test_params_that_contradict_are_refused_before_training(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(folder, tmp_path, **changes)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_mixed_precision_trains_too(folder: Path, tmp_path: Path) -> None:
    """There, gradients can't be clipped beside the fused optimizer that reproducible mode needs."""
    compute = Compute(reproducible=False, threads=1, precision="bf16-mixed")
    facts, _ = run(folder, tmp_path, compute=compute, train=TRAIN.model_copy(update={"epochs": 1}))
    assert facts is not None
    assert facts["epochs"] == 1


def test_weights_that_run_away_are_said_to(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no numbers after epoch \d; .* lower params\.yaml, train\.learning_rate"):
        run(folder, tmp_path, train=TRAIN.model_copy(update={"learning_rate": 1e30}))


@pytest.mark.parametrize("fold", ["train", "val"])
def test_folds_without_mines_are_refused(tmp_path: Path, fold: str) -> None:
    folds = {"a_2020-01-01": "train", "c_2020-01-01": "val"}
    barren = {obs_id: in_fold for obs_id, in_fold in folds.items() if in_fold != fold} | {"n_2020-01-01": fold}
    with pytest.raises(InputError, match=rf"chips of fold {fold}: got 15 windows, none with a mine pixel"):
        run(tiny_chips.write(tmp_path / "barren", barren), tmp_path)
    missing = {obs_id: in_fold for obs_id, in_fold in folds.items() if in_fold != fold}
    with pytest.raises(InputError, match=rf"chips of fold {fold}: got 0 windows"):
        run(tiny_chips.write(tmp_path / "missing", missing), tmp_path)


# --- options ------------------------------------------------------------------------------------------------------


def noise() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, 2000, (4, 3, 32, 32), generator=draw, dtype=torch.int16)
    return pixels, torch.randint(0, 3, (4, 32, 32), generator=draw, dtype=torch.uint8)


def fitted(**changes: Any) -> tuple[loop.Segmentation, Any, list[list[float]]]:
    """A module after four epochs of two steps on noise, its trainer, and the rates of its groups at each step."""
    torch.manual_seed(0)
    train, bands = training.section(epochs=4, **changes), tiny_chips.BANDS
    mean, std = [1000.0] * 3, [300.0] * 3
    task = loop.Segmentation(
        ARGUMENTS["model"].build(bands, tiny_chips.SIZE),
        reader=Reader([Channel(name=b, band=b, mean=1000.0, std=300.0) for b in bands], bands),
        variation=Variation(train, bands, mean, std),
        method="binary",
        train=train,
    )
    rates = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = loop._trainer(train, ARGUMENTS["compute"], None)
    trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
    batches: Any = DataLoader([noise()] * 2, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(task, batches, batches)
    return task, trainer, rates


def test_the_optimizer_has_what_learns_at_its_rate_and_its_decay() -> None:
    task, trainer, rates = fitted()
    (only,) = trainer.optimizers[0].param_groups
    assert [id(one) for one in only["params"]] == [id(one) for one in task.network.parameters()]
    (first, *_), peak = zip(*rates, strict=True), max(rates)[0]
    assert len(first) == 8
    assert peak == pytest.approx(0.002, rel=0.05)

    task, trainer, _ = fitted(tuning={"method": "frozen"}, weight_decay_on="matrices", optimizer="sgd")
    matrices, others = trainer.optimizers[0].param_groups
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert {one.ndim for one in matrices["params"]} == {4}
    assert {one.ndim for one in others["params"]} == {1}
    encoder = {id(one) for one in task.network.get_submodule("encoder").parameters()}
    learning = {id(one) for group in (matrices, others) for one in group["params"]}
    assert learning == {id(one) for one in task.network.parameters()} - encoder


def test_rates_fall_with_depth_and_to_a_tenth_once_all_learn() -> None:
    _, _, plain = fitted(tuning={"warmup_share": 0.5})
    full = [rate for (rate,) in plain]
    assert full.index(max(full)) == 3  # of 8 steps the first half rises
    _, _, rates = fitted(tuning={"warmup_share": 0.5, "layer_decay": 0.5, "method": "gradual", "frozen_share": 0.5})
    shares = np.array(rates) / np.array(rates)[:, :1]
    np.testing.assert_allclose(shares, np.broadcast_to(0.5 ** np.arange(shares.shape[1]), shares.shape))
    assert shares.shape[1] > 3
    np.testing.assert_allclose(np.array(rates)[:, 0] / full, [1.0] * 4 + [0.1] * 4)


def test_a_rise_of_one_step_is_none() -> None:
    """torch divides by its length."""
    _, _, rates = fitted(tuning={"warmup_share": 1 / 8})
    assert [rate for (rate,) in rates] == sorted((rate for (rate,) in rates), reverse=True)


def test_the_average_is_what_is_validated() -> None:
    task, _, _ = fitted(ema=0.6)
    pixels, mask = noise()
    task.eval()
    with torch.no_grad():
        value = {
            network: float(loss(network(task.reader(pixels)), mask, method="binary", weights=task.train_params.loss))
            for network in (task.network, task.average)
            if network is not None
        }
    assert task.val_loss.value() == pytest.approx(value[task.judged], abs=1e-5)
    assert abs(value[task.judged] - value[task.network]) > 1e-3


def test_the_average_is_what_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, np.ndarray[Any, Any]]] = []

    def spy(into: torch.nn.Module, network: torch.nn.Module, *, decay: float, step: int) -> None:
        average(into, network, decay=decay, step=step)
        assert step == len(states) + 1
        states.append({name: tensor.double().numpy().copy() for name, tensor in network.state_dict().items()})

    monkeypatch.setattr(loop, "average", spy)
    torch.manual_seed(0)
    start = ARGUMENTS["model"].build(tiny_chips.BANDS, tiny_chips.SIZE).state_dict()
    run(folder, tmp_path, train=TRAIN.model_copy(update={"ema": 0.85}))
    best = json.loads((tmp_path / "results/metrics.json").read_text())["best_epoch"]
    found = load_file(tmp_path / "models/model.safetensors")
    for name in start:
        expected = start[name].double().numpy()
        if not start[name].is_floating_point():
            assert found[name] == 4 * best
            continue
        for number, state in enumerate(states[: 4 * best], start=1):
            decay = min(0.85, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * state[name]
        np.testing.assert_allclose(found[name].double().numpy(), expected, atol=2e-6, rtol=1e-5)
    assert not np.allclose(found["segmentation_head.0.weight"], states[4 * best - 1]["segmentation_head.0.weight"])
    spec, scores, _, _ = validation(folder, tmp_path / "models")
    assert spec.threshold == scores.best_f1()[1]


def test_a_model_that_learnt_without_radar_says_what_scenes_may_lack(folder: Path, tmp_path: Path) -> None:
    bands, train = ("B2", "VV", "VH"), TRAIN.model_copy(update={"epochs": 1})
    run(folder, tmp_path / "with", bands=bands, train=train)
    run(folder, tmp_path / "without", bands=bands, train=train.model_copy(update={"radar_dropout": 0.5}))
    without = {name: Card.read(tmp_path / name / "models/model.json").without for name in ("with", "without")}
    assert without == {"with": (), "without": ("VV", "VH")}
    spec = Spec.carried(tmp_path / "without/models/model.safetensors")
    assert spec is not None
    assert spec.without == ("VV", "VH")


@pytest.mark.parametrize(
    ("bands", "message"),
    [(tiny_chips.BANDS, "sees B2, B3, B4; expected 0, .* no radar"), (("VV", "VH"), "VV; .* nothing but radar")],
)
def test_radar_dropout_that_leaves_all_or_nothing_is_refused(bands: tuple[str, ...], message: str) -> None:
    channels = [Channel(name=band, band=band, mean=0.0, std=1.0) for band in bands]
    with pytest.raises(InputError, match=rf"train\.radar_dropout: got 0\.5, for a network that .*{message}"):
        loop._without(channels, training.section(radar_dropout=0.5))
    assert loop._without(channels, training.section()) == ()


def test_a_weight_from_data_is_told_and_used(folder: Path, tmp_path: Path) -> None:
    chips = Chips(folder)
    weight = chips.mine_weight(chips.of("train"), "binary")
    short = TRAIN.model_copy(update={"epochs": 1})
    same = {}
    for name, value in (("number", weight), ("data", "from_data")):
        terms = TRAIN.loss.model_copy(update={"mine_weight": value})
        _, lines = run(folder, tmp_path / name, train=short.model_copy(update={"loss": terms}))
        assert (f"mine pixels weigh {weight:g}, from the training windows" in lines) == (name == "data")
        same[name] = (tmp_path / name / "models/model.safetensors").read_bytes()
    assert same["number"] == same["data"]


@pytest.mark.parametrize("balance", ["river", "group", "site"])
def test_sites_are_drawn_evenly_where_they_are_to(folder: Path, tmp_path: Path, balance: str) -> None:
    sampling = training.section(sampling={"balance": balance, "mine_share": 0.25}).sampling
    run(folder, tmp_path, train=TRAIN.model_copy(update={"epochs": 1, "sampling": sampling}))
    exposures = dict(zip(*pq.read_table(tmp_path / "models/exposures.parquet").to_pydict().values(), strict=True))
    times = {site: sum(n for chip_id, n in exposures.items() if chip_id.startswith(site)) for site in "abn"}
    assert sum(times.values()) == 32
    if balance == "site":
        assert sorted(times.values()) == [10, 11, 11]
    elif balance == "group":  # a and b are one
        assert times["a"] + times["b"] == times["n"] == 16
    else:  # all are on one river; n has no mine
        assert times["n"] > 11
    mined = dict(zip(Chips(folder).chip_id, Chips(folder).mine_px("binary") > 0, strict=True))
    drawn = sum(n for chip_id, n in exposures.items() if mined[chip_id])
    assert drawn == (8 if balance == "river" else pytest.approx(0.25 * (times["a"] + times["b"]), abs=1))


def test_a_share_of_the_observations_is_all_that_training_knows(folder: Path, tmp_path: Path) -> None:
    sampling = training.section(sampling={"observations_share": 0.7}).sampling
    _, lines = run(folder, tmp_path, train=TRAIN.model_copy(update={"epochs": 1, "sampling": sampling}))
    assert "2 of 3 training observations train, as train.sampling.observations_share says" in lines
    card = Card.read(tmp_path / "models/model.json")
    assert card.observations == 2
    chips = Chips(folder)
    exposed = pq.read_table(tmp_path / "models/exposures.parquet")["chip_id"].to_pylist()
    trained = np.flatnonzero(np.isin(chips.chip_id, exposed))
    names = set(chips.obs_id[trained].tolist())
    assert len(names) == 2
    assert set(exposed) == {chip for chip, obs_id in zip(chips.chip_id, chips.obs_id, strict=True) if obs_id in names}
    assert (card.mean, card.std) == chips.moments(trained)
    assert (card.mean, card.std) != chips.moments(chips.of("train"))


def test_the_card_counts_all_observations_where_all_train(trained: tuple[Path, list[str]]) -> None:
    out, lines = trained
    assert Card.read(out / "models/model.json").observations == 3
    assert not any("observations_share" in line for line in lines)
