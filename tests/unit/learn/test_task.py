import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from sandwatch.errors import InputError
from sandwatch.learn.card import Card, Model, Spec
from sandwatch.learn.data import Chips
from sandwatch.learn.metrics import ScoreHistogram
from sandwatch.learn.model import Predictor
from sandwatch.learn.params import Loss, Scoring, Train
from sandwatch.learn.task import Provenance, augment, learn, loss, pictures
from sandwatch.origin import About
from sandwatch.reproducible import Compute
from sandwatch.scoring import score
from sandwatch.stack import counted, mines
from sandwatch.work import Work, size
from tests import tiny_chips


def terms(**changes: float) -> Loss:
    return Loss(**({"bce": 0.0, "dice": 0.0, "focal": 0.0, "mine_weight": 6.0, "focal_gamma": 2.0} | changes))


torch.set_num_threads(1)
EVERY = terms(bce=1.0, dice=0.5, focal=0.7)
torch.manual_seed(0)
MASK = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 6, 7)).astype(np.uint8))
BINARY, THREE = torch.randn(2, 1, 6, 7), torch.randn(2, 3, 6, 7)


def test_binary_cross_entropy_is_torchs() -> None:
    keep = (MASK == 0) | (MASK == 2)
    expected = functional.binary_cross_entropy_with_logits(
        BINARY[:, 0][keep], (MASK[keep] == 2).float(), pos_weight=torch.tensor(6.0)
    )
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(bce=1.0)), expected)
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(bce=3.0)), 3 * expected)


def test_cross_entropy_of_three_classes_is_torchs() -> None:
    each = functional.cross_entropy(
        THREE, MASK.long(), weight=torch.tensor([1.0, 6.0, 6.0]), ignore_index=255, reduction="none"
    )
    expected = each.sum() / (MASK != 255).sum()
    torch.testing.assert_close(loss(THREE, MASK, method="three_class", weights=terms(bce=1.0)), expected)


def test_dice_is_one_less_the_overlap() -> None:
    keep = (MASK == 0) | (MASK == 2)
    score, truth = torch.sigmoid(BINARY[:, 0][keep]), (MASK[keep] == 2).float()
    expected = 1 - (2 * (score * truth).sum() + 1) / (score.sum() + truth.sum() + 1)
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(dice=1.0)), expected)
    certain = torch.where(MASK == 2, 30.0, -30.0)[:, None]
    assert loss(certain, MASK, method="binary", weights=terms(dice=1.0)) < 1e-6

    scores = torch.softmax(THREE, dim=1)
    each = []
    for value in range(3):
        score, truth = scores[:, value][MASK != 255], (MASK[MASK != 255] == value).float()
        each.append(1 - (2 * (score * truth).sum() + 1) / (score.sum() + truth.sum() + 1))
    torch.testing.assert_close(
        loss(THREE, MASK, method="three_class", weights=terms(dice=1.0)), torch.stack(each).mean()
    )


def test_focal_loss_discounts_what_is_easy() -> None:
    keep = (MASK == 0) | (MASK == 2)
    truth = MASK[keep] == 2
    right = torch.where(truth, torch.sigmoid(BINARY[:, 0][keep]), torch.sigmoid(-BINARY[:, 0][keep]))
    expected = (torch.where(truth, 6.0, 1.0) * -torch.log(right) * (1 - right) ** 2).mean()
    torch.testing.assert_close(loss(BINARY, MASK, method="binary", weights=terms(focal=1.0)), expected)
    flat = loss(BINARY, MASK, method="binary", weights=terms(focal=1.0, focal_gamma=0.0))
    torch.testing.assert_close(flat, loss(BINARY, MASK, method="binary", weights=terms(bce=1.0)))


@pytest.mark.parametrize(
    ("method", "logits", "left_out"), [("binary", BINARY, (1, 255)), ("three_class", THREE, (255,))]
)
def test_pixels_that_do_not_count_have_no_gradient(
    method: str, logits: torch.Tensor, left_out: tuple[int, ...]
) -> None:
    logits = logits.clone().requires_grad_()
    loss(logits, MASK, method=method, weights=EVERY).backward()
    assert logits.grad is not None
    gradient = logits.grad.abs().sum(dim=1)
    ignored = torch.isin(MASK, torch.tensor(left_out, dtype=torch.uint8))
    assert 0 < ignored.sum() < ignored.numel()
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] > 0).all()


def test_a_batch_without_a_pixel_that_counts_has_a_loss_without_gradient() -> None:
    logits = BINARY.clone().requires_grad_()
    value = loss(logits, torch.full_like(MASK, 255), method="binary", weights=EVERY)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def orientations(*, flips: bool, quarter_turns: bool, samples: int = 400) -> list[bytes]:
    """What became of one asymmetric image, after checking that mask and every band went the same way."""
    image = torch.arange(16, dtype=torch.int16).view(4, 4)
    pixels = torch.stack([image, image + 100]).expand(samples, 2, 4, 4)
    mask = image.to(torch.uint8).expand(samples, 4, 4)
    turned, turned_mask = augment(
        pixels, mask, torch.Generator().manual_seed(0), flips=flips, quarter_turns=quarter_turns
    )
    assert (turned.dtype, turned_mask.dtype) == (torch.int16, torch.uint8)
    torch.testing.assert_close(turned[:, 0].to(torch.uint8), turned_mask)
    torch.testing.assert_close(turned[:, 1] - 100, turned[:, 0])
    return [sample.numpy().tobytes() for sample in turned_mask]


IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)
TURNS = {np.rot90(IMAGE, k).tobytes() for k in range(4)}
MIRRORS = {image.tobytes() for image in (IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE[::-1, ::-1])}
BOTH = TURNS | {np.rot90(IMAGE[::-1], k).tobytes() for k in range(4)}


@pytest.mark.parametrize(
    ("flips", "quarter_turns", "expected"),
    [(False, False, {IMAGE.tobytes()}), (False, True, TURNS), (True, False, MIRRORS), (True, True, BOTH)],
)
def test_augmentation_gives_each_orientation_as_often(flips: bool, quarter_turns: bool, expected: set[bytes]) -> None:
    found = orientations(flips=flips, quarter_turns=quarter_turns)
    assert set(found) == expected
    times = [found.count(image) for image in expected]
    assert min(times) > 0.6 * len(found) / len(expected)


def test_augmentation_depends_on_the_seed_alone() -> None:
    assert orientations(flips=True, quarter_turns=True) == orientations(flips=True, quarter_turns=True)


TRAIN = Train(
    epochs=4,
    windows_per_epoch=34,
    batch_size=8,
    learning_rate=0.01,
    weight_decay=0.01,
    patience=3,
    loss=terms(bce=1.0, dice=0.5),
    flips=True,
    quarter_turns=True,
    seed=0,
)
ARGUMENTS: dict[str, Any] = {
    "bands": tiny_chips.BANDS,
    "model": Model(
        architecture="Unet",
        encoder="tu-mobilenetv3_small_050",
        encoder_depth=3,
        decoder_channels=(16, 8, 8),
        encoder_weights=None,
        method="binary",
    ),
    "train": TRAIN,
    "compute": Compute(reproducible=True, threads=1, precision="32-true"),
    "scoring": Scoring(overlap_px=8, batch_size=4),
    "work": None,
    "weights": Path("data/weights"),
    "provenance": Provenance(
        about=About(label_fingerprint="1" * 64, imagery="synthetic", labels="mixed"),
        inputs={},
        code={},
        params_sha256="2" * 64,
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


def test_a_run_killed_after_its_last_epoch_trains_no_more(
    trained: tuple[Path, list[str]], folder: Path, tmp_path: Path
) -> None:
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    run_until("choosing temperature", folder, out, work=kept)
    _, lines = run(folder, out, work=kept)
    assert lines[0] == "epochs 1 to 4 of 4 are done, by an earlier run"
    assert [line for line in lines if line.startswith("epoch ")] == []
    assert contents(out) == contents(trained[0])


def test_a_run_that_had_stopped_early_stays_stopped_and_draws_what_dropout_drew(folder: Path, tmp_path: Path) -> None:
    """With a network that has dropout, the random numbers of an epoch must not depend on where the run began."""
    kept, out = Work(tmp_path / "work", "code"), tmp_path / "out"
    fpn = ARGUMENTS["model"].model_copy(update={"architecture": "FPN", "encoder_depth": 5, "decoder_channels": ()})
    still = {"epochs": 9, "patience": 1, "learning_rate": 1e-12, "windows_per_epoch": 8}
    changes = {"model": fpn, "train": TRAIN.model_copy(update=still)}
    facts, _ = run(folder, out, **changes)
    whole = contents(out)
    shutil.rmtree(out)
    assert facts is not None
    assert 2 <= facts["epochs"] < 9
    run_until("epoch 2/9", folder, out, **changes, work=kept)
    run_until("choosing temperature", folder, out, **changes, work=kept)
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


def test_temperature_and_threshold_come_from_whole_validation_scenes(
    trained: tuple[Path, list[str]], folder: Path
) -> None:
    spec, scores, logits, truth = validation(folder, trained[0] / "models")
    assert spec.threshold == scores.best_f1()[1]

    def likelihood(temperature: float) -> float:
        return float(np.logaddexp(0, np.where(truth, -logits, logits) / temperature).mean())

    best = spec.temperature
    assert likelihood(best) < min(likelihood(best * 1.05), likelihood(best / 1.05))
    assert (spec.label_fingerprint, spec.imagery, spec.labels) == ("1" * 64, "synthetic", "mixed")
    assert (spec.overlap_px, spec.batch_size) == (8, 4)
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
    run(folder, tmp_path, model=model, train=TRAIN.model_copy(update={"loss": EVERY}))
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
            {"scoring": Scoring(overlap_px=32, batch_size=4)},
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
