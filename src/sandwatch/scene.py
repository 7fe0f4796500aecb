"""The one reader of scenes, for chips, evaluate and infer: their pixels are those of the hashes in the manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sandwatch import raster
from sandwatch.errors import InputError
from sandwatch.grid import Grid, Window
from sandwatch.params import S1_BANDS
from sandwatch.stack import NODATA, encode

COLUMNS = ("obs_id", "product", "path", "sha256")
WAY_BACK = "bring it back with dvc checkout export, or make it again with dvc repro -f export"


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A raster of a scene, and the SHA-256 that the manifest says it has."""

    path: Path
    sha256: str


def exported(manifest: pd.DataFrame, folder: Path) -> dict[str, dict[str, Raster]]:
    """What was exported: the rasters of each observation, by product.

    Args:
        manifest: rows of :class:`sandwatch.schemas.Scenes`.
        folder: what the manifest's paths are relative to.
    """
    found: dict[str, dict[str, Raster]] = {}
    rows = manifest[manifest["status"] == "exported"]
    for obs_id, product, path, sha256 in zip(*(rows[name] for name in COLUMNS), strict=True):
        found.setdefault(obs_id, {})[product] = Raster(path=folder / path, sha256=sha256)
    return found


class SceneReader:
    """An observation's rasters as one int16 array (band, y, x), encoded by :mod:`sandwatch.stack`, read when asked.

    It is a context. Entering it hashes the rasters that are to be read; leaving it makes sure that they are still the
    files that were hashed, so that nothing that was read is of another file.
    """

    def __init__(
        self,
        obs_id: str,
        rasters: Mapping[str, Raster],
        grid: Grid,
        bands: Sequence[str],
        *,
        may_lack: Sequence[str] = (),
    ) -> None:
        """Opens nothing yet.

        Args:
            obs_id: the observation, to be named in errors.
            rasters: ``s2`` and, where a band is of Sentinel-1, ``s1``.
            grid: that they must be on.
            bands: Sentinel-2's first, as in a model's spec.
            may_lack: bands whose product need not be there; without it they have no data.

        Raises:
            InputError: a product that holds some of the bands was not exported.
        """
        self.shape = (len(bands), *grid.shape)
        self._obs_id, self._grid = obs_id, grid
        radar = [band for band in bands if band in S1_BANDS]
        self._bands = {"s2": [band for band in bands if band not in S1_BANDS], **({"s1": radar} if radar else {})}
        needed = [product for product, names in self._bands.items() if not set(names) <= set(may_lack)]
        if missing := [product for product in needed if product not in rasters]:
            raise InputError(
                f"observation {obs_id}",
                got=f"no {' and no '.join(missing)} among what was exported",
                expected=f"rasters with the bands {', '.join(bands)}",
                fix="run dvc repro, so that scenes, chips and model are of the same params.yaml; a model does without "
                "radar where it was trained with train.radar_dropout",
            )
        self._rasters = {product: rasters[product] for product in self._bands if product in rasters}
        self._hashed: dict[Path, tuple[int, ...]] = {}
        self._kept: dict[int, npt.NDArray[np.int16]] = {}

    def __enter__(self) -> Self:
        """Hashes the rasters.

        Raises:
            InputError: one is missing, or is not the one that was exported.
        """
        self._hashed = {one.path: self._hash(one) for one in self._rasters.values()}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Makes sure that the rasters are the files that were hashed.

        Raises:
            InputError: one was changed or replaced meanwhile.
        """
        for path, state in self._hashed.items():
            if kind is None and (not path.exists() or _state(path.stat()) != state):
                raise InputError(
                    f"observation {self._obs_id}, {path}",
                    got="a file that was changed while it was read",
                    expected="one that stays as it is until the stage has ended",
                    fix="end what writes there, and run the stage again",
                )

    def read(self, window: Window | None = None) -> npt.NDArray[np.int16]:
        """The pixels under a window, or all.

        Raises:
            InputError: a raster can't be read, lacks a band or is on another grid.
        """
        parts = {
            product: raster.read(one.path, bands=self._bands[product], grid=self._grid, window=window)
            for product, one in self._rasters.items()
        }
        pixels = encode(parts["s2"], parts.get("s1"))
        if len(pixels) == self.shape[0]:
            return pixels
        absent = np.full((self.shape[0] - len(pixels), *pixels.shape[1:]), NODATA, np.int16)
        return np.concatenate([pixels, absent])

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[np.int16]:
        """The part under three slices, read a row of blocks at a time: each once, if asked for from the top down.

        Raises:
            InputError: as :meth:`read`.
        """
        bands, rows, cols = key
        first, last, _ = rows.indices(self.shape[1])
        wanted = range(first // raster.BLOCK_PX, -(-last // raster.BLOCK_PX))
        self._kept = {row: self._kept[row] if row in self._kept else self._row_of_blocks(row) for row in wanted}
        top = wanted.start * raster.BLOCK_PX
        strip = np.concatenate([self._kept[row] for row in wanted], axis=1)
        return strip[bands, first - top : last - top, cols]

    def _row_of_blocks(self, number: int) -> npt.NDArray[np.int16]:
        row = number * raster.BLOCK_PX
        return self.read(
            Window(row=row, col=0, height=min(raster.BLOCK_PX, self._grid.height - row), width=self._grid.width)
        )

    def _hash(self, one: Raster) -> tuple[int, ...]:
        """What tells the file that has the hash of the manifest from any other."""
        try:
            with one.path.open("rb") as file:
                state = _state(os.fstat(file.fileno()))
                found = f"SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
        except OSError as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        if found != f"SHA-256 {one.sha256}":
            raise InputError(
                f"observation {self._obs_id}, {one.path}",
                got=found,
                expected=f"SHA-256 {one.sha256}, as the manifest of scenes says",
                fix=WAY_BACK,
            )
        return state


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
