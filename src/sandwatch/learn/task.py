"""Training: loss, augmentation, the loop, the best weights, and what is learnt from validation once it is over.

Import it after :func:`sandwatch.reproducible.pin`, because it imports torch.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.learn.calibrate import temperature
from sandwatch.learn.card import CLASSES, Card, Model, Spec
from sandwatch.learn.data import Batch, Batches, Chips, Draws, Indices, TrainingBatches, in_batches
from sandwatch.learn.metrics import LogitHistogram, ScoreHistogram
from sandwatch.learn.model import Predictor, build, mine_logit, normalise
from sandwatch.learn.params import Loss, Scoring, Train
from sandwatch.learn.weights import load, save
from sandwatch.origin import About, words
from sandwatch.parquet import write_parquet
from sandwatch.picture import banded, image
from sandwatch.reproducible import Compute
from sandwatch.scoring import Scored, reaches, score, to_scores, to_steps
from sandwatch.stack import HIGH, LOW, counted, mines
from sandwatch.work import Work

ensure_torchvision()
# After the guard, because it imports torchvision.
import lightning  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping  # noqa: E402
from lightning.pytorch.plugins.io import CheckpointIO  # noqa: E402
from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: E402

SAMPLES = 4
"""Validation windows drawn as pictures."""
DICE_SMOOTH = 1.0
"""Pixels added to both sides of the Dice ratio, so that it is defined where there is neither mine nor detection."""
CLIP_NORM = 1.0
"""Largest norm of the gradient of a step. Source: Pascanu, Mikolov and Bengio 2013."""

STATE = "state of the training"
"""What a kept state is called."""

Report = Callable[[str], None]


def loss(logits: Tensor, mask: Tensor, *, method: str, weights: Loss) -> Tensor:
    """Weighted sum of cross-entropy, Dice and focal loss over the pixels that count.

    Args:
        logits: (n, 1, y, x) with method binary, else (n, 3, y, x).
        mask: uint8 (n, y, x) of mask values.
        method: of params.yaml; binary leaves out low confidence.
        weights: of the terms, and of mine pixels in cross-entropy and focal loss.

    Returns:
        A scalar. Sources: Dice, Milletari et al. 2016, over the whole batch, mean over the classes; focal loss, Lin et
        al. 2017.
    """
    if method == "binary":
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the softmax of (0, z) is the sigmoid of z
        target = (mask == HIGH)[:, None]
        target = torch.cat([~target, target], dim=1)
    else:
        target = torch.stack([mask == value for value in range(len(CLASSES[method]))], dim=1)
    keep = counted(mask, method)[:, None].float()  # (n, 1, y, x)
    one_hot = target.float() * keep  # (n, class, y, x), zero in every class where a pixel does not count
    log_likelihood = functional.log_softmax(logits.float(), dim=1)
    likelihood = log_likelihood.exp()
    class_weights = torch.ones(one_hot.shape[1], device=mask.device)
    class_weights[1:] = weights.mine_weight
    # One-hot sums rather than cross_entropy(): on CUDA that has no deterministic kernel for images.
    entropy = -(one_hot * log_likelihood * class_weights[:, None, None])
    pixels = keep.sum().clamp(min=1.0)
    total = logits.new_zeros((), dtype=torch.float32)
    if weights.bce:
        total = total + weights.bce * entropy.sum() / pixels
    if weights.dice:
        first = 1 if method == "binary" else 0  # with two classes, mine alone
        overlap = (likelihood * one_hot).sum(dim=(0, 2, 3))[first:]
        sizes = ((likelihood * keep).sum(dim=(0, 2, 3)) + one_hot.sum(dim=(0, 2, 3)))[first:]
        total = total + weights.dice * (1 - (2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)).mean()
    if weights.focal:
        # As a tensor: powers of 0.5 and 1.5 given as numbers take MKL's square root, forward or backward.
        gamma = logits.new_tensor(weights.focal_gamma, dtype=torch.float32)
        total = total + weights.focal * (entropy * (1 - likelihood) ** gamma).sum() / pixels
    return total


def augment(
    pixels: Tensor, mask: Tensor, generator: torch.Generator, *, flips: bool, quarter_turns: bool
) -> tuple[Tensor, Tensor]:
    """Mirrors and turns each sample by its own draw, pixels and mask alike.

    Args:
        pixels: (n, band, y, x), square.
        mask: (n, y, x).
        generator: on the CPU, so that every device draws the same.
        flips: both axes, each with an even chance.
        quarter_turns: none to three, with even chances.
    """
    n = len(pixels)
    turns = torch.randint(4, (n,), generator=generator) * quarter_turns
    mirror = torch.randint(2, (2, n), generator=generator, dtype=torch.bool) & flips
    # A turn by a quarter is a transposition and a mirror image; so three conditions give all eight.
    transposed = turns % 2 == 1
    upside_down = mirror[0] ^ ((turns == 1) | (turns == 2))
    left_right = mirror[1] ^ ((turns == 2) | (turns == 3))

    def apply(values: Tensor) -> Tensor:
        def where(condition: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
            return torch.where(condition.to(values.device).view(-1, *[1] * (values.ndim - 1)), changed, kept)

        values = where(transposed, values.transpose(-1, -2), values)
        values = where(upside_down, values.flip(-2), values)
        return where(left_right, values.flip(-1), values)

    return apply(pixels), apply(mask)


class Segmentation(lightning.LightningModule):
    """What a step does.

    Attributes:
        network: from normalised bands to logits.
        train_loss: mean of the epoch so far.
        val_loss: mean of the epoch's validation.
        histogram: of the epoch's validation.
        rate: learning rate of the last step.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        method: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: Train,
    ) -> None:
        """Takes a network, the statistics of its bands, and how it learns."""
        super().__init__()
        self.network = network
        self.method, self.train_params = method, train
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.train_loss, self.val_loss = _Mean(), _Mean()
        self.histogram = LogitHistogram.empty()
        self.rate = 0.0

    def configure_optimizers(self) -> Any:
        """AdamW on a one-cycle schedule. Source: Smith and Topin 2018."""
        # Fused: its square root is the processor's own, correctly rounded. That of torch's other paths is MKL's, which
        # in reproducible mode goes through an approximate reciprocal root that each maker builds differently.
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=self.train_params.learning_rate,
            weight_decay=self.train_params.weight_decay,
            # In mixed precision Lightning can't clip gradients beside it, and nobody asks for the same bits.
            fused=True if self.trainer.precision == "32-true" else None,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.train_params.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Seeds augmentation and the network's own draws from the seed, the epoch and the process."""
        self.train_loss = _Mean()
        seeds = [self.train_params.seed, self.current_epoch, self.global_rank]
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        self._generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout's, so that an epoch draws the same whether or not the one before ran here

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """int16 (n, band, y, x) and uint8 (n, y, x) to the loss."""
        self.rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        pixels, mask = augment(
            *batch, self._generator, flips=self.train_params.flips, quarter_turns=self.train_params.quarter_turns
        )
        logits = self.network(normalise(pixels, self.mean, self.std))  # (n, class, y, x)
        value = loss(logits, mask, method=self.method, weights=self.train_params.loss)
        self.train_loss.add(value, len(mask))
        return value

    def on_validation_epoch_start(self) -> None:
        """Starts to count anew."""
        self.val_loss, self.histogram = _Mean(), LogitHistogram.empty()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Adds a batch to the loss and the histogram; it has no window where there are more processes than windows."""
        pixels, mask = batch
        if not len(mask):
            return
        logits = self.network(normalise(pixels, self.mean, self.std))
        if not bool(torch.isfinite(logits).all()):
            raise InputError(
                "training",
                got=f"scores that are no numbers after epoch {self.current_epoch + 1}",
                expected="weights that settle",
                fix="lower params.yaml, train.learning_rate",
            )
        self.val_loss.add(loss(logits, mask, method=self.method, weights=self.train_params.loss), len(mask))
        keep = counted(mask, self.method)
        self.histogram += LogitHistogram.of(
            mine_logit(logits)[keep].float().cpu().numpy(), mines(mask, self.method)[keep].cpu().numpy()
        )

    def on_validation_epoch_end(self) -> None:
        """Adds up the histograms of all processes and logs what early stopping watches."""
        counts = torch.tensor(np.stack([self.histogram.positives, self.histogram.negatives]), device=self.device)
        total = self.trainer.strategy.reduce(counts, reduce_op="sum")
        self.histogram = LogitHistogram(positives=total[0].cpu().numpy(), negatives=total[1].cpu().numpy())
        self.log("val/AP", self.histogram.average_precision(), sync_dist=True)


class _Mean:
    """A mean over samples, kept on the device so that a step need not wait for it."""

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros(()), 0

    def add(self, value: Tensor, count: int) -> None:
        self._sum = self._sum.to(value.device) + value.detach() * count
        self._count += count

    def value(self) -> float:
        return round(float(self._sum) / max(self._count, 1), 6)


class Tracker(lightning.Callback):
    """Tells DVCLive and people how each epoch went, and keeps the best weights.

    Attributes:
        live: the dvclive.Live to tell; None in processes that tell nothing.
        history: metrics of each epoch that is over, by name.
        taken: how many of them an earlier run did.
        best_epoch: counted from 0; -1 before the first is over.
        best_weights: the network's state then, on the CPU.
    """

    def __init__(self, live: Any, report: Report, epochs: int) -> None:
        """Takes a dvclive.Live, None in processes that don't report, and the number of epochs planned."""
        self.live, self._report, self._planned = live, report, epochs
        self.history: list[dict[str, float]] = []
        self.taken, self.best_epoch = 0, -1
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the best epoch, by name."""
        return self.history[self.best_epoch]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Runs after the epoch's validation."""
        assert isinstance(pl_module, Segmentation)
        f1, _ = pl_module.histogram.best_f1()
        metrics = {
            "train/loss": pl_module.train_loss.value(),
            "val/loss": pl_module.val_loss.value(),
            "val/AP": round(pl_module.histogram.average_precision(), 6),
            "val/F1": round(f1, 6),
            "lr": round(pl_module.rate, 9),
        }
        better = not self.history or metrics["val/AP"] > self.best["val/AP"]
        self.history.append(metrics)
        if better:
            self.best_epoch = len(self.history) - 1
            self.best_weights = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in pl_module.network.state_dict().items()
            }
        self._log(metrics)
        if self.live is not None:
            self._report(
                f"epoch {len(self.history)}/{self._planned}: loss {metrics['train/loss']:.4f}, "
                f"validation loss {metrics['val/loss']:.4f}, AP {metrics['val/AP']:.4f}, F1 {metrics['val/F1']:.4f}, "
                f"learning rate {metrics['lr']:.2g}" + (" (best so far)" if better else "")
            )

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {"history": self.history, "best_epoch": self.best_epoch, "best_weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where an earlier run was; DVC removed what that had told DVCLive, so it is told again."""
        self.history, self.best_epoch = state_dict["history"], state_dict["best_epoch"]
        self.best_weights, self.taken = state_dict["best_weights"], len(self.history)
        for metrics in self.history:
            self._log(metrics)
        if self.live is not None:
            self._report(f"epochs 1 to {self.taken} of {self._planned} are done, by an earlier run")

    def _log(self, metrics: dict[str, float]) -> None:
        if self.live is not None:
            for name, value in metrics.items():
                self.live.log_metric(name, value)
            self.live.next_step()


class Kept(CheckpointIO):
    """The state of a training, kept among finished work, for a run that goes on where this one is killed."""

    def __init__(self, work: Work) -> None:
        """Takes where to keep it."""
        self._work = work

    def find(self, inputs: Any) -> bool:
        """Whether an earlier run of this very training left a state; if so, it is loaded.

        Args:
            inputs: all that the training depends on, as plain JSON.
        """
        self._key = self._work.key(inputs)
        content = self._work.take_bytes(self._key, STATE)
        # A state holds numbers and names; nothing else is loaded, since unpickling could run anything.
        if content is not None:
            self._state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        return content is not None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """What :meth:`find` found."""
        return self._state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keeps a state in place of the one before. Where that can't be, a line says so, and training goes on."""
        content = BytesIO()
        torch.save(checkpoint, content)
        self._work.put_bytes(self._key, content.getbuffer(), STATE)

    def remove_checkpoint(self, path: Any = None) -> None:
        """Once the training is over and what it made is written."""
        self._work.drop(self._key)


class AfterEachEpoch(Checkpoint):
    """Has the state of a training kept after each epoch.

    It is all that the next epoch depends on: weights, optimizer, schedule, early stopping, and what the tracker holds.
    What an epoch draws, windows and random numbers, depends on its number and the seed alone.
    """

    def __init__(self) -> None:
        """Begins with nothing over."""
        self._over = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Trains no further where early stopping had ended it."""
        trainer.should_stop = self._over

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Runs last, after early stopping."""
        self._over = trainer.should_stop
        trainer.save_checkpoint(STATE)

    def state_dict(self) -> dict[str, Any]:
        """Whether it was the last epoch."""
        return {"over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What an earlier run told."""
        self._over = state_dict["over"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the card says about where a model comes from.

    Attributes:
        about: what the chips are made of.
        inputs: path to SHA-256.
        code: path to digest.
        params_sha256: of the stage's params.
    """

    about: About
    inputs: dict[str, str]
    code: dict[str, str]
    params_sha256: str


def learn(
    *,
    chips: Chips,
    bands: tuple[str, ...],
    model: Model,
    train: Train,
    compute: Compute,
    scoring: Scoring,
    provenance: Provenance,
    work: Work | None,
    weights: Path,
    models: Path,
    results: Path,
    report: Report,
) -> dict[str, Any] | None:
    """Trains on the windows of fold ``train``, keeps the epoch with the best AP on fold ``val``, and calibrates it.

    Writes ``model.safetensors``, ``model.json`` and ``exposures.parquet`` (chip_id, draws: how often the weights that
    were kept had seen that training window) to ``models``, and DVCLive's metrics, plots and images to ``results``.

    Args:
        chips: the windows.
        bands: names of the bands of the arrays.
        model: section of params.yaml.
        train: section of params.yaml.
        compute: section of params.yaml; unless it asks for reproducibility, Lightning chooses devices and strategy.
        scoring: section of params.yaml: how windows are put together, to choose temperature and threshold here.
        provenance: for the card.
        work: keeps the state after each epoch until all is written, so that a run goes on where an earlier one with the
            same inputs and params was killed, and ends with the same bytes; None to keep nothing.
        weights: folder of the files to start from.
        models: folder of the model.
        results: folder of metrics and plots.
        report: is given a line now and then.

    Returns:
        Facts of the run (devices, durations), which no output may hold; None in all but the first of several processes.

    Raises:
        InputError: there is nothing to train or to validate on, the network can't be built, the weights to start from
            are not those of params.yaml, or params contradict each other.
    """
    _check(chips, bands, model, scoring)
    training, validating = chips.of("train"), chips.of("val")
    mean, std = chips.moments(training)
    torch.manual_seed(train.seed)
    network = build(model, in_channels=len(bands), size_px=chips.size_px)
    if model.encoder_weights is not None:
        load(network.get_submodule("encoder"), model.encoder_weights, weights, in_channels=len(bands))
    task = Segmentation(
        network,
        method=model.method,
        mean=mean,
        std=std,
        train=train,
    )
    kept = None if work is None else Kept(work)
    trainer = _trainer(train, compute, kept)
    first, world = trainer.is_global_zero, trainer.world_size
    step = train.batch_size * world
    has_mine = chips.mine_px(model.method)[training] > 0
    draws = Draws(
        training[has_mine],
        training[~has_mine],
        per_epoch=max(train.windows_per_epoch // step, 1) * step,
        seed=train.seed,
    )
    tracker = Tracker(_live(results) if first else None, report, train.epochs)
    trainer.callbacks.append(tracker)  # type: ignore[attr-defined]
    going_on = False
    if kept is not None:
        going_on = kept.find([provenance.inputs, provenance.params_sha256, world])
        trainer.callbacks.append(AfterEachEpoch())  # type: ignore[attr-defined]
    begin = time.perf_counter()
    try:
        trainer.fit(
            task,
            _loader(chips, TrainingBatches(draws, batch_size=train.batch_size, rank=trainer.global_rank, world=world)),
            _loader(chips, in_batches(chips.thin(validating)[trainer.global_rank :: world], train.batch_size)),
            ckpt_path=STATE if going_on else None,
        )
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # Lightning's own status is 0, which says that all went well
    seconds = time.perf_counter() - begin
    if tracker.live is None:
        return None

    task.network.load_state_dict(tracker.best_weights)
    draft = Spec(
        **model.model_dump(exclude={"encoder_weights"}),
        bands=bands,
        classes=CLASSES[model.method],
        size_px=chips.size_px,
        mean=mean,
        std=std,
        temperature=1.0,
        threshold=0.5,
        **scoring.model_dump(),
        **provenance.about.model_dump(),
        weights_sha256="0" * 64,  # known once they are written, with this spec in their header
    )
    report("choosing temperature and threshold on the validation observations")
    predictor = calibrated(
        Predictor(task.network, draft, trainer.strategy.root_device, precision=compute.precision), chips
    )
    trained = models / "model.safetensors"
    save(trained, tracker.best_weights, predictor.spec.header())
    Card(
        **predictor.spec.model_dump() | {"weights_sha256": sha256(trained)},
        inputs=provenance.inputs,
        code=provenance.code,
        params_sha256=provenance.params_sha256,
    ).write(models / "model.json")
    _write_exposures(models / "exposures.parquet", chips, training, draws.exposures(tracker.best_epoch + 1))
    for name, drawn in pictures(predictor, chips, chips.thin(validating)):
        tracker.live.log_image(f"{name}.png", drawn)
    tracker.live.summary = {
        "val_ap": tracker.best["val/AP"],
        "val_f1": tracker.best["val/F1"],
        "val_loss": tracker.best["val/loss"],
        "train_loss": tracker.best["train/loss"],
        "best_epoch": tracker.best_epoch + 1,
        "temperature": predictor.spec.temperature,
        "threshold": round(predictor.spec.threshold, 6),
    }
    tracker.live.end()
    if kept is not None:
        kept.remove_checkpoint()
    report(
        f"kept epoch {tracker.best_epoch + 1}: validation AP {tracker.best['val/AP']:.4f}, "
        f"temperature {predictor.spec.temperature:.3f}, threshold {predictor.spec.threshold:.3f}"
    )
    seen = (len(tracker.history) - tracker.taken) * draws.per_epoch
    return {
        "accelerator": str(trainer.strategy.root_device),
        "processes": world,
        "epochs": len(tracker.history),
        "seconds": round(seconds, 1),
        "training_windows_per_second": round(seen / seconds, 2),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def calibrated(predictor: Predictor, chips: Chips) -> Predictor:
    """Fits temperature, then threshold, on whole validation scenes, scored as maps are.

    The scenes are scored twice, so that no more than some rows of one are in memory.

    Args:
        predictor: with its final weights; temperature and threshold in its spec don't matter.
        chips: the windows; pixels under those of fold ``val`` count.

    Returns:
        The same with a spec that holds both.
    """
    covers, method = chips.cover(chips.of("val")), predictor.spec.method

    def validated(predictor: Predictor) -> Iterator[tuple[Scored, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """(rows, which of their pixels count, whether those are mines)."""
        for obs_id, cover in covers.items():
            mask = chips.mask(obs_id)
            keep, truth = cover & counted(mask, method), mines(mask, method)
            for part in score(chips.pixels(obs_id), predictor, cover):
                yield part, keep[part.rows], truth[part.rows][keep[part.rows]]

    log_odds, scores = LogitHistogram.empty(), ScoreHistogram.empty()
    for part, keep, truth in validated(predictor):
        log_odds += LogitHistogram.of(part.log_odds[0][keep], truth)
    predictor = predictor.changed(temperature=temperature(log_odds))
    for part, keep, truth in validated(predictor):
        scores += ScoreHistogram.of(part.steps[keep], truth)
    return predictor.changed(threshold=scores.best_f1()[1])


def pictures(predictor: Predictor, chips: Chips, windows: Indices) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Draws the windows with the most mine pixels, one an observation: image and score side by side.

    Outlines: label of high confidence red, of low confidence orange, detection cyan. A band says what is invented.

    Args:
        predictor: calibrated.
        chips: the windows.
        windows: to choose from.

    Yields:
        (chip_id, uint8 (y, x, 3)).
    """
    spec = predictor.spec
    said = words(imagery=spec.imagery, labels=spec.labels)
    order = windows[np.argsort(-chips.mine_px(spec.method)[windows], kind="stable")]
    _, firsts = np.unique(chips.obs_id[order], return_index=True)
    for index in order[np.sort(firsts)][:SAMPLES]:
        pixels, masks = chips.gather(np.array([index]))
        steps = to_steps(predictor(pixels)[0, 0], spec.temperature)
        grey = np.rint(to_scores(steps) * 255).astype(np.uint8)
        panels = [image(pixels[0], spec.bands, spec.mean, spec.std), np.stack([grey] * 3)]
        canvas = [np.moveaxis(panel, 0, -1).repeat(2, 0).repeat(2, 1) for panel in panels]
        for area, colour in ((masks[0] == LOW, (255, 165, 0)), (masks[0] == HIGH, (255, 0, 0))):
            for panel in canvas:
                panel[_outline(area.repeat(2, 0).repeat(2, 1))] = colour
        canvas[1][_outline(reaches(steps, spec.threshold).repeat(2, 0).repeat(2, 1))] = (0, 255, 255)
        gap = np.full((len(canvas[0]), 8, 3), 255, np.uint8)
        yield str(chips.chip_id[index]), banded(np.concatenate([canvas[0], gap, canvas[1]], axis=1), said)


def _outline(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of an area that have a neighbour outside it."""
    padded = np.pad(area, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return area & ~inner


def _check(chips: Chips, bands: tuple[str, ...], model: Model, scoring: Scoring) -> None:
    """Raises InputError before time is spent on what can't end well."""
    if scoring.overlap_px >= chips.size_px:
        raise InputError(
            "params.yaml: scoring.overlap_px",
            got=scoring.overlap_px,
            expected=f"less than chips.size_px = {chips.size_px}",
            fix="make the overlap smaller",
        )
    stacked = chips.pixels(str(chips.obs_id[0])).shape[0]
    if stacked != len(bands):
        raise InputError(
            "params.yaml: bands",
            got=f"{len(bands)} bands",
            expected=f"{stacked}, as in the pixel stacks of the chips",
            fix="run dvc repro chips",
        )
    for fold, what in (("train", "train"), ("val", "validate")):
        windows = chips.of(fold)
        if not chips.mine_px(model.method)[windows].any():
            raise InputError(
                f"chips of fold {fold}",
                got=f"{len(windows)} windows, none with a mine pixel that method {model.method} counts",
                expected=f"at least one, to {what} on",
                fix="label more observations, or change params.yaml, section split",
            )


def _trainer(train: Train, compute: Compute, kept: Kept | None) -> lightning.Trainer:
    """A quiet trainer: no files, no bars, its own words only where something is wrong."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # measured: workers are slower
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="lightning")  # its own business with torch
    place: dict[str, Any] = {"accelerator": "cpu", "devices": 1} if compute.reproducible else {}
    return lightning.Trainer(
        **place,
        callbacks=[EarlyStopping("val/AP", mode="max", patience=train.patience)],
        plugins=[] if kept is None else [kept],
        deterministic=compute.reproducible,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        gradient_clip_val=CLIP_NORM,
        logger=False,
        max_epochs=train.epochs,
        num_sanity_val_steps=0,
        precision=compute.precision,
        use_distributed_sampler=False,  # TrainingBatches shares out the windows
    )


def _loader(chips: Chips, batches: Sampler[Indices] | Sequence[Indices]) -> DataLoader[Batch]:
    # Each time a loader begins, it draws a seed for workers: from a generator of its own, not from the network's.
    return DataLoader(Batches(chips), batch_size=None, sampler=batches, generator=torch.Generator())


def _live(results: Path) -> Any:
    """DVCLive without what differs from run to run, and without a dvc.yaml of its own."""
    from dvclive.live import Live

    return Live(dir=str(results), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)


def _write_exposures(path: Path, chips: Chips, training: Indices, drawn: dict[int, int]) -> None:
    rows = sorted((str(chips.chip_id[index]), drawn.get(int(index), 0)) for index in training)
    names, counts = zip(*rows, strict=True)
    write_parquet({"chip_id": names, "draws": counts}, path)
