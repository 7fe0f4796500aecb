"""Training: the loop, the best weights, and what is learnt from validation once it is over.

Import it after :func:`sandwatch.reproducible.pin`, because it imports torch.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.adapt import AFTER_FROZEN, Adapted, plain_state
from sandwatch.model.adapter import Adapter
from sandwatch.model.card import Card, Spec
from sandwatch.model.channels import Channel
from sandwatch.model.metrics import LogitHistogram
from sandwatch.model.network import CLASSES, Model, Scoring
from sandwatch.model.predictor import Predictor, Reader, mine_logit
from sandwatch.model.weights import save
from sandwatch.origin import About
from sandwatch.params import S1_BANDS
from sandwatch.parquet import write_parquet
from sandwatch.reproducible import Compute
from sandwatch.stack import counted, mines
from sandwatch.train.augment import Variation, augment
from sandwatch.train.average import average, averaged
from sandwatch.train.calibrate import calibrated
from sandwatch.train.data import Batch, Batches, Chips, Indices, TrainingBatches, WindowSampler, in_batches
from sandwatch.train.initial import initial
from sandwatch.train.keep import STATE, AfterEachEpoch, Kept
from sandwatch.train.loss import loss
from sandwatch.train.params import Train
from sandwatch.train.pictures import pictures
from sandwatch.work import Work

ensure_torchvision()
# After the guard, because it imports torchvision.
import lightning  # noqa: E402
from lightning.pytorch.callbacks import EarlyStopping  # noqa: E402
from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: E402

CLIP_NORM = 1.0
"""Largest norm of the gradient of a step. Source: Pascanu, Mikolov and Bengio 2013."""

Report = Callable[[str], None]


class Segmentation(lightning.LightningModule):
    """What a step does.

    Attributes:
        network: from normalised bands to logits; it learns.
        adapted: what of it learns when.
        average: of the network's weights, where there is one.
        train_loss: mean of the epoch so far.
        val_loss: mean of the epoch's validation.
        histogram: of the epoch's validation.
        rate: learning rate of the last step.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        reader: Reader,
        variation: Variation,
        method: str,
        train: Train,
    ) -> None:
        """Takes a network, what pixel stacks go through before they come to it, and how it learns.

        Raises:
            InputError: the network has no part that could learn so.
        """
        super().__init__()
        self.adapted = Adapted(network, train.tuning, train.epochs)
        self.network, self.reader, self.variation = network, reader, variation
        self.average = averaged(network) if train.ema else None
        self.method, self.train_params = method, train
        self.train_loss, self.val_loss = _Mean(), _Mean()
        self.histogram = LogitHistogram.empty()
        self.rate = 0.0

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the average, or else the network."""
        return self.network if self.average is None else self.average

    def configure_optimizers(self) -> Any:
        """AdamW or SGD on a one-cycle schedule, which moves momentum too. Source: Smith and Topin 2018."""
        train = self.train_params
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for _, parameter, share in self.adapted.learning():
            decays = train.weight_decay_on == "all" or parameter.ndim > 1
            groups.setdefault((share, decays), []).append(parameter)
        rates = sorted(groups, reverse=True)  # the full rate first, which is the one that is reported
        parameters = [
            {"params": groups[share, decays], "weight_decay": train.weight_decay * decays} for share, decays in rates
        ]
        # Fused: its square root is the processor's own, correctly rounded. That of torch's other paths is MKL's, which
        # in reproducible mode goes through an approximate reciprocal root that each maker builds differently.
        # In mixed precision Lightning can't clip gradients beside it, and nobody asks for the same bits.
        kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.SGD
        optimizer = kind(
            parameters, lr=train.learning_rate, fused=True if self.trainer.precision == "32-true" else None
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = _OneCycle(
            optimizer,
            [train.learning_rate * share for share, _ in rates],
            steps=steps,
            warmup_share=train.tuning.warmup_share,
            slow_from=self.adapted.slow_from(steps),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Seeds augmentation and the network's own draws from the seed, the epoch and the process."""
        self.adapted.begin(self.current_epoch)
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
        pixels = self.variation(pixels, self._generator)
        logits = self.network(self.reader(pixels))  # (n, class, y, x)
        value = loss(logits, mask, method=self.method, weights=self.train_params.loss)
        self.train_loss.add(value, len(mask))
        return value

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Runs before gradients are clipped."""
        self.adapted.hold(self.current_epoch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Averages weights, after the step."""
        if self.average is not None:
            average(self.average, self.network, decay=self.train_params.ema, step=self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Starts to count anew."""
        self.val_loss, self.histogram = _Mean(), LogitHistogram.empty()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Adds a batch to the loss and the histogram; it has no window where there are more processes than windows."""
        pixels, mask = batch
        if not len(mask):
            return
        logits = self.judged(self.reader(pixels))
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


class _OneCycle(torch.optim.lr_scheduler.OneCycleLR):
    """One cycle, which goes on at a part of its rates once all of a network learns that was frozen before."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, rates: list[float], *, steps: int, warmup_share: float, slow_from: int
    ) -> None:
        self._slow_from = slow_from
        # A rise that ends with the first step is none; torch would divide by its length.
        rise = 0.0 if warmup_share * steps == 1 else warmup_share
        super().__init__(optimizer, rates, total_steps=steps, pct_start=rise)

    def get_lr(self) -> Any:
        rates = super().get_lr()
        return [rate * AFTER_FROZEN for rate in rates] if self.last_epoch >= self._slow_from else rates


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
        best_adapter: what low-rank adapters, and what learnt beside them, were then; None where there are none.
    """

    def __init__(self, live: Any, report: Report, epochs: int, start: str | None) -> None:
        """Takes a dvclive.Live, None in processes that don't report, and what is planned.

        Args:
            live: to tell.
            report: is given a line an epoch.
            epochs: how many are planned.
            start: SHA-256 of the weights that the network started from; None where they were random.
        """
        self.live, self._report, self._planned, self._start = live, report, epochs, start
        self.history: list[dict[str, float]] = []
        self.taken, self.best_epoch = 0, -1
        self.best_weights: dict[str, Tensor] = {}
        self.best_adapter: Adapter | None = None

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
                for name, tensor in plain_state(pl_module.judged).items()
            }
            self.best_adapter = Adapter.of(pl_module.judged, self._start)
        self._log(metrics)
        if self.live is not None:
            self._report(
                f"epoch {len(self.history)}/{self._planned}: loss {metrics['train/loss']:.4f}, "
                f"validation loss {metrics['val/loss']:.4f}, AP {metrics['val/AP']:.4f}, F1 {metrics['val/F1']:.4f}, "
                f"learning rate {metrics['lr']:.2g}" + (" (best so far)" if better else "")
            )

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        adapter = None if self.best_adapter is None else vars(self.best_adapter)
        return {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "best_adapter": adapter,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where an earlier run was; DVC removed what that had told DVCLive, so it is told again."""
        self.history, self.best_epoch = state_dict["history"], state_dict["best_epoch"]
        self.best_weights, self.taken = state_dict["best_weights"], len(self.history)
        adapter = state_dict["best_adapter"]
        self.best_adapter = None if adapter is None else Adapter(**adapter)
        for metrics in self.history:
            self._log(metrics)
        if self.live is not None:
            self._report(f"epochs 1 to {self.taken} of {self._planned} are done, by an earlier run")

    def _log(self, metrics: dict[str, float]) -> None:
        if self.live is not None:
            for name, value in metrics.items():
                self.live.log_metric(name, value)
            self.live.next_step()


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the card says about where a model comes from.

    Attributes:
        about: what the chips are made of.
        inputs: path to SHA-256.
        code: path to digest.
        params_sha256: of the stage's params.
        replicate: of the cross-validation; 0 without one.
    """

    about: About
    inputs: dict[str, str]
    code: dict[str, str]
    params_sha256: str
    replicate: int


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
    were kept had seen that training window) to ``models``, and DVCLive's metrics, plots and images to ``results``; with
    method lora, ``adapter.safetensors`` of that epoch too (:mod:`sandwatch.model.adapter`).

    Args:
        chips: the windows.
        bands: names of the bands of the arrays.
        model: section of params.yaml.
        train: section of params.yaml.
        compute: section of params.yaml; unless it asks for reproducibility, Lightning chooses devices and strategy.
        scoring: section of params.yaml: how windows are put together, to choose calibration and threshold here.
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
    training = chips.training(share=train.sampling.observations_share, seed=train.seed, method=model.method)
    validating, observations = chips.of("val"), len(np.unique(chips.obs_id[training]))
    if train.sampling.observations_share < 1:
        every = len(np.unique(chips.obs_id[chips.of("train")]))
        report(f"{observations} of {every} training observations train, as train.sampling.observations_share says")
    if train.loss.mine_weight == "from_data":
        weight = chips.mine_weight(training, model.method)
        report(f"mine pixels weigh {weight:g}, from the training windows")
        train = train.model_copy(update={"loss": train.loss.model_copy(update={"mine_weight": weight})})
    mean, std = chips.moments(training)
    if model.standardise == "scene":
        chips.standardise(mean, std)
    torch.manual_seed(train.seed)
    start = initial(model, bands, dict(zip(bands, zip(mean, std, strict=True), strict=True)), chips.size_px, weights)
    for line in start.told:
        report(line)
    without = _without(start.match.channels, train)
    task = Segmentation(
        start.network,
        reader=Reader(start.match.channels, bands),
        variation=Variation(train, bands, mean, std),
        method=model.method,
        train=train,
    )
    kept = None if work is None else Kept(work)
    trainer = _trainer(train, compute, kept)
    first, world = trainer.is_global_zero, trainer.world_size
    step = train.batch_size * world
    sampler = WindowSampler(
        training,
        chips.mine_px(model.method)[training] > 0,
        strata={
            "none": None,
            "river": chips.river[training],
            "group": chips.group[training],
            "site": chips.site_id[training],
        }[train.sampling.balance],
        per_epoch=max(train.windows_per_epoch // step, 1) * step,
        mine_share=train.sampling.mine_share,
        seed=train.seed,
    )
    began = None if start.start is None else start.start.sha256
    tracker = Tracker(_live(results) if first else None, report, train.epochs, began)
    trainer.callbacks.append(tracker)  # type: ignore[attr-defined]
    going_on = False
    if kept is not None:
        going_on = kept.find([provenance.inputs, provenance.params_sha256, world])
        trainer.callbacks.append(AfterEachEpoch())  # type: ignore[attr-defined]
    begin = time.perf_counter()
    try:
        trainer.fit(
            task,
            _loader(
                chips, TrainingBatches(sampler, batch_size=train.batch_size, rank=trainer.global_rank, world=world)
            ),
            _loader(chips, in_batches(chips.thin(validating)[trainer.global_rank :: world], train.batch_size)),
            ckpt_path=STATE if going_on else None,
        )
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # Lightning's own status is 0, which says that all went well
    seconds = time.perf_counter() - begin
    if tracker.live is None:
        return None

    network = task.adapted.plain(tracker.best_weights)
    draft = Spec(
        network=model.network,
        method=model.method,
        standardise=model.standardise,
        start=start.start,
        bands=bands,
        channels=start.match.channels,
        without=without,
        classes=CLASSES[model.method],
        size_px=chips.size_px,
        mean=mean,
        std=std,
        temperature=1.0,
        bias=0.0,
        threshold=0.5,
        **scoring.model_dump(),
        **provenance.about.model_dump(),
        weights_sha256="0" * 64,  # known once they are written, with this spec in their header
    )
    report("choosing calibration and threshold on the validation observations")
    predictor = calibrated(Predictor(network, draft, trainer.strategy.root_device, precision=compute.precision), chips)
    trained = models / "model.safetensors"
    save(trained, tracker.best_weights, predictor.spec.header())
    Card(
        **predictor.spec.model_dump() | {"weights_sha256": sha256(trained)},
        inputs=provenance.inputs,
        code=provenance.code,
        params_sha256=provenance.params_sha256,
        replicate=provenance.replicate,
        observations=observations,
        matched=start.match.table,
    ).write(models / "model.json")
    _write_exposures(models / "exposures.parquet", chips, training, sampler.exposures(tracker.best_epoch + 1))
    for name, drawn in pictures(predictor, chips, chips.thin(validating)):
        tracker.live.log_image(f"{name}.png", drawn)
    tracker.live.summary = {
        "val_ap": tracker.best["val/AP"],
        "val_f1": tracker.best["val/F1"],
        "val_loss": tracker.best["val/loss"],
        "train_loss": tracker.best["train/loss"],
        "best_epoch": tracker.best_epoch + 1,
        "temperature": predictor.spec.temperature,
        "bias": predictor.spec.bias,
        "threshold": round(predictor.spec.threshold, 6),
    }
    tracker.live.end()
    if tracker.best_adapter is not None:
        tracker.best_adapter.write(results / "adapter.safetensors")
    if kept is not None:
        kept.remove_checkpoint()
    report(
        f"kept epoch {tracker.best_epoch + 1}: validation AP {tracker.best['val/AP']:.4f}, "
        f"temperature {predictor.spec.temperature:.3f}, bias {predictor.spec.bias:.3f}, "
        f"threshold {predictor.spec.threshold:.3f}"
    )
    seen = (len(tracker.history) - tracker.taken) * sampler.per_epoch
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


def _without(channels: Sequence[Channel], train: Train) -> tuple[str, ...]:
    """The bands that scenes may lack, once a network has learnt to do without them; refuses where nothing is left."""
    if not train.radar_dropout:
        return ()
    seen = {channel.band for channel in channels if channel.band is not None}
    radar = tuple(band for band in S1_BANDS if band in seen)
    if not radar or len(radar) == len(seen):
        raise InputError(
            "params.yaml: train.radar_dropout",
            got=f"{train.radar_dropout}, for a network that sees {', '.join(sorted(seen))}",
            expected="0, since it sees " + ("nothing but radar" if radar else "no radar"),
            fix="set it to 0",
        )
    return radar


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
