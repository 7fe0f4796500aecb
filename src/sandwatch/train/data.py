"""Batches of windows out of memory-mapped arrays, and which windows an epoch draws.

One item is a whole batch of integers, gathered in the process that trains: measured, that is two to three times as fast
as an item at a time, and worker processes make it slower. Normalisation is left to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow.lib import ArrowException
from torch.utils.data import Dataset, Sampler

from sandwatch.cross_validation import sites_of
from sandwatch.errors import InputError
from sandwatch.model.standardise import Standardised, spread
from sandwatch.model.stitch import Sliceable
from sandwatch.share import chosen
from sandwatch.stack import IGNORED, NODATA, load

TEXTS = ("chip_id", "obs_id", "site_id", "river", "fold", "kind")
NUMBERS = ("group", "row", "col", "px_other", "px_low", "px_high", "size_px")
"""Columns of ``windows.parquet``, as far as training needs them, and what they hold. Training has no pandera: it may be
on a machine that has little else than torch."""

Indices = npt.NDArray[np.int64]
Batch = tuple[torch.Tensor, torch.Tensor]


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column's values.

    Raises:
        ValueError: they are of another kind, or one is missing.
    """
    column = table[name]
    kinds = (pa.types.is_integer,) if name in NUMBERS else (pa.types.is_string, pa.types.is_large_string)
    if column.null_count or not any(fits(column.type) for fits in kinds):
        raise ValueError(f"{name} of type {column.type}, {column.null_count} missing")
    return np.array(column.to_pylist())


def folds_of(path: Path | None, replicate: int) -> dict[str, str] | None:
    """The fold of each site in a replicate of a cross-validation; None for the split's own folds.

    Args:
        path: of folds.parquet; None without a cross-validation.
        replicate: which.

    Raises:
        InputError: it is no such table, or has no such replicate.
    """
    if path is None:
        return None
    try:
        table = pq.read_table(path, columns=["replicate", "site_id", "fold"]).to_pydict()
    except (ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(str(path), got=str(error), expected="a table of folds", fix="run sandwatch cv") from None
    return sites_of(table, replicate)


class Chips:
    """The folder of chips: an index of windows over memory-mapped arrays.

    Attributes:
        chip_id, obs_id, site_id, river, fold, kind: str arrays (window,); the fold is '' where none of this training
            touches a window.
        group: spatial group of each window's site.
        row, col: first pixel of each window in its scene.
        px_other, px_low, px_high: pixels of each class in it.
        size_px: side of the windows.
    """

    def __init__(self, folder: Path, folds: Mapping[str, str] | None = None) -> None:
        """Reads ``windows.parquet`` of a folder that the chips stage wrote, and makes sure that all arrays are whole.

        Args:
            folder: data/chips.
            folds: of each site, in a replicate of a cross-validation; None for those of the split.

        Raises:
            InputError: the table is missing, empty or none, or an array is missing, not whole or of other windows.
        """
        path = folder / "windows.parquet"
        try:
            table = pq.read_table(path, columns=[*TEXTS, *NUMBERS])
            columns = {name: _column(table, name) for name in (*TEXTS, *NUMBERS)}
        except (ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(
                str(path), got=str(error), expected="a table of windows", fix="run dvc repro chips or dvc pull"
            ) from None
        if not table.num_rows:
            raise InputError(str(path), got="no rows", expected="windows", fix="run dvc repro chips")
        self.chip_id, self.obs_id, self.fold, self.kind = (columns[n] for n in ("chip_id", "obs_id", "fold", "kind"))
        self.site_id, self.river, self.group = columns["site_id"], columns["river"], columns["group"]
        self.row, self.col = columns["row"], columns["col"]
        self.px_other, self.px_low, self.px_high = (columns[n] for n in ("px_other", "px_low", "px_high"))
        if folds is not None:
            self.fold = np.array([folds.get(site_id, "") for site_id in self.site_id.tolist()])
        self.size_px = int(columns["size_px"][0])
        self._folder = folder
        self.pixels = cache(partial(self._open, "pixels", np.int16, (None, None, None)))
        self._seen: Callable[[str], Sliceable] = self.pixels
        self.mask = cache(partial(self._open, "masks", np.uint8, (None, None)))
        for obs_id in np.unique(self.obs_id):
            self._check(obs_id)

    def _check(self, obs_id: str) -> None:
        """Makes sure that the arrays of an observation fit each other, the other observations and its windows."""
        (bands, *shape), mask = self.pixels(obs_id).shape, self.mask(obs_id).shape
        own = self.obs_id == obs_id
        least = (int(self.row[own].max()), int(self.col[own].max()))
        # Only where the scene is smaller than a window does one reach beyond it, and then it starts at 0.
        reached = all(first == 0 or first + self.size_px <= length for first, length in zip(least, shape, strict=True))
        if tuple(shape) != mask or not reached or bands != self.pixels(self.obs_id[0]).shape[0]:
            raise InputError(
                f"{self._folder}, observation {obs_id}",
                got=f"pixels of {bands} bands {tuple(shape)} and a mask {mask}",
                expected=f"{self.pixels(self.obs_id[0]).shape[0]} bands, as of {self.obs_id[0]}, and both of one shape "
                f"that holds the windows at {least}",
                fix="run dvc checkout chips, or dvc repro -f chips",
            )

    def _open(self, kind: str, dtype: npt.DTypeLike, shape: tuple[None, ...], obs_id: str) -> npt.NDArray[Any]:
        """Maps an array into memory without a descriptor that stays open, as numpy's maps have: there may be thousands.

        torch closes the file once it is mapped. Its map is private, so it would take writes and not store them.
        """
        path = self._folder / kind / f"{obs_id}.npy"
        stored = load(path, dtype, shape)
        size = path.stat().st_size
        file: npt.NDArray[np.uint8] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        array: npt.NDArray[Any] = file[stored.offset :].view(stored.dtype).reshape(stored.shape)
        array.flags.writeable = False
        return array

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """From now on, gathers windows of scenes that are brought to a mean and deviation of each band."""
        self._seen = cache(lambda obs_id: Standardised(self.pixels(obs_id), mean, std))

    def of(self, fold: str) -> Indices:
        """The windows of a fold; beside those that train, only those of the regular grid."""
        own = self.fold == fold
        return np.flatnonzero(own if fold == "train" else own & (self.kind == "grid"))

    def training(self, *, share: float, seed: int, method: str) -> Indices:
        """The windows that train: those of fold ``train``, of a share of its observations (:mod:`sandwatch.share`)."""
        windows = self.of("train")
        mined = self.obs_id[windows[self.mine_px(method)[windows] > 0]]
        kept = chosen(self.obs_id[windows].tolist(), set(mined.tolist()), share=share, seed=seed)
        return windows[np.isin(self.obs_id[windows], list(kept))]

    def mine_px(self, method: str) -> npt.NDArray[np.int64]:
        """Mine pixels in each window, as far as they count (see :func:`sandwatch.stack.mines`)."""
        px: npt.NDArray[np.int64] = self.px_high if method == "binary" else self.px_high + self.px_low
        return px

    def mine_weight(self, windows: Indices, method: str) -> float:
        """How many times pixels without a mine outnumber mine pixels, of those that count in some windows.

        As a weight of mine pixels it lets both sum up to the same. 4 decimals, and no less than the last of them.
        """
        mine = int(self.mine_px(method)[windows].sum())
        return max(round(int(self.px_other[windows].sum()) / max(mine, 1), 4), 0.0001)

    def gather(self, indices: Indices) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
        """Copies windows out of the arrays.

        Args:
            indices: of windows; none gives empty arrays.

        Returns:
            int16 (n, band, y, x) and uint8 (n, y, x); what reaches beyond the scene is without data, and ignored.
        """
        size = self.size_px
        bands = self.pixels(self.obs_id[0]).shape[0]
        pixels = np.full((len(indices), bands, size, size), NODATA, np.int16)
        masks = np.full((len(indices), size, size), IGNORED, np.uint8)
        for i, index in enumerate(indices):
            rows, cols = self._slices(index)
            part = self._seen(self.obs_id[index])[:, rows, cols]
            pixels[i, :, : part.shape[1], : part.shape[2]] = part
            masks[i, : part.shape[1], : part.shape[2]] = self.mask(self.obs_id[index])[rows, cols]
        return pixels, masks

    def cover(self, indices: Indices) -> dict[str, npt.NDArray[np.bool_]]:
        """The pixels that any of some windows covers: bool (y, x) by obs_id, observations in order."""
        covers: dict[str, npt.NDArray[np.bool_]] = {}
        for index in indices[np.argsort(self.obs_id[indices], kind="stable")]:
            obs_id = str(self.obs_id[index])
            covered = covers.setdefault(obs_id, np.zeros(self.mask(obs_id).shape, bool))
            covered[self._slices(index)] = True
        return covers

    def thin(self, indices: Indices) -> Indices:
        """Leaves out windows of which half or more is covered by those kept before, so that pixels count about once."""
        covers = {obs_id: np.zeros_like(cover) for obs_id, cover in self.cover(indices).items()}
        kept = []
        for index in indices:
            part = covers[str(self.obs_id[index])][self._slices(index)]
            if 2 * int(part.sum()) < part.size:
                kept.append(index)
                part[:] = True
        return np.array(kept, np.int64)

    def moments(self, indices: Indices) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each band over the pixels that some windows cover, each counted once.

        Sums are exact integers, so every machine finds the same.

        Returns:
            (mean, std), in the unit of a pixel stack, rounded to 4 decimals; std is at least 1.

        Raises:
            InputError: a band has no data there.
        """
        covers = self.cover(indices)
        bands = self.pixels(next(iter(covers))).shape[0]
        mean, std = [], []
        for band in range(bands):
            n = total = squares = 0
            for obs_id, covered in covers.items():
                values = self.pixels(obs_id)[band][covered].astype(np.int64)
                values = values[values != NODATA]
                n, total, squares = n + values.size, total + int(values.sum()), squares + int((values**2).sum())
            if not n:
                raise InputError(
                    f"{self._folder}, band {band + 1}",
                    got="no pixel with data in the training windows",
                    expected="some",
                    fix="take the band out of params.yaml, section bands",
                )
            of_band = spread(n, total, squares)
            mean.append(of_band[0])
            std.append(of_band[1])
        return tuple(mean), tuple(std)

    def _slices(self, index: int) -> tuple[slice, slice]:
        row, col = int(self.row[index]), int(self.col[index])
        return slice(row, row + self.size_px), slice(col, col + self.size_px)


class WindowSampler:
    """Which windows each epoch draws: a function of the seed and the epoch alone.

    Windows with a mine and windows without, of each stratum, are each shuffled into endless passes, and an epoch takes
    the next of each, so that no window comes again before all of its kind have come. Strata take turns; what an epoch
    can't divide evenly comes out even over the epochs.

    Attributes:
        per_epoch: how many windows an epoch draws.
    """

    def __init__(
        self,
        windows: Indices,
        mined: npt.NDArray[np.bool_],
        *,
        strata: npt.NDArray[Any] | None = None,
        per_epoch: int,
        mine_share: float,
        seed: int,
    ) -> None:
        """Takes what to draw from.

        Args:
            windows: to draw; at least one.
            mined: which of them hold a mine.
            strata: what each of them belongs to (its river, say), so that all are drawn as often; None for one.
            per_epoch: how many windows an epoch draws.
            mine_share: share of a stratum's draws that hold a mine, where it has both kinds.
            seed: of the shuffling.
        """
        self.per_epoch, self._mine_share, self._seed = per_epoch, mine_share, seed
        strata = np.zeros(len(windows)) if strata is None else strata
        self._kinds = [
            (windows[(strata == one) & mined], windows[(strata == one) & ~mined]) for one in np.unique(strata)
        ]

    def epoch(self, number: int) -> Indices:
        """The windows of an epoch, counted from 0, in the order in which they are seen."""
        drawn = []
        before, after = self._counts(number), self._counts(number + 1)
        for kind, windows in enumerate(windows for kinds in self._kinds for windows in kinds):
            places = np.arange(before[kind], after[kind])
            for shuffled in np.unique(places // max(len(windows), 1)):
                order = np.random.default_rng([self._seed, kind, int(shuffled)]).permutation(windows)
                drawn.append(order[places[places // len(windows) == shuffled] % len(windows)])
        return np.random.default_rng([self._seed, len(before), number, 1]).permutation(np.concatenate(drawn))

    def exposures(self, epochs: int) -> dict[int, int]:
        """How often each window is drawn in the first ``epochs`` epochs; windows never drawn are left out."""
        windows, counts = np.unique(
            np.concatenate([self.epoch(number) for number in range(epochs)]), return_counts=True
        )
        return dict(zip(windows.tolist(), counts.tolist(), strict=True))

    def _counts(self, epochs: int) -> list[int]:
        """How many windows of each kind the first epochs draw: with and without a mine, stratum by stratum."""
        counts = []
        for turn, (mined, empty) in enumerate(self._kinds):
            total = (epochs * self.per_epoch - turn + len(self._kinds) - 1) // len(self._kinds)
            of_mined = round(total * self._mine_share) if len(mined) and len(empty) else total * (len(mined) > 0)
            counts += [of_mined, total - of_mined]
        return counts


class Batches(Dataset[Batch]):
    """Batches by the indices of their windows."""

    def __init__(self, chips: Chips) -> None:
        """Takes the folder to gather from."""
        self._chips = chips

    def __getitem__(self, indices: Indices) -> Batch:
        """int16 (n, band, y, x) and uint8 (n, y, x)."""
        pixels, masks = self._chips.gather(indices)
        return torch.from_numpy(pixels), torch.from_numpy(masks)


class TrainingBatches(Sampler[Indices]):
    """The batches of an epoch that one process of several trains on; all get as many."""

    def __init__(self, windows: WindowSampler, *, batch_size: int, rank: int, world: int) -> None:
        """Takes what to draw, a multiple of ``batch_size * world`` an epoch, and which process this is of how many."""
        self._windows, self._batch_size, self._rank, self._world = windows, batch_size, rank, world
        self._epoch = 0

    def set_epoch(self, number: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = number

    def __len__(self) -> int:
        return self._windows.per_epoch // (self._batch_size * self._world)

    def __iter__(self) -> Iterator[Indices]:
        yield from in_batches(self._windows.epoch(self._epoch)[self._rank :: self._world], self._batch_size)


def in_batches(indices: Indices, batch_size: int) -> Sequence[Indices]:
    """Cuts indices into batches, the last of which may be smaller; no index at all makes one batch without any.

    So each of several processes has a batch, and none waits for another that has nothing to do.
    """
    return [indices[first : first + batch_size] for first in range(0, max(len(indices), 1), batch_size)]
