"""A scene brought to the mean and deviation of the training windows, band by band.

Two dates of one river differ by sun, haze and season, which move whole bands. A model that sees every scene by the
scene's own statistics need not know them. It pays for that where what a scene holds differs from what others hold: one
that is all water is seen as bright as one that is half sand.

Needs numpy only, as :mod:`sandwatch.model.stitch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sandwatch.model.stitch import Sliceable
from sandwatch.stack import LARGEST, NODATA

ROWS = 256
"""Read at once: the height of a scene's blocks."""


class Standardised:
    """A pixel stack, each band shifted and scaled to a mean and a deviation; what has no data keeps having none.

    Numbers are rounded to the pixel stack's own unit, a hundredth of a per cent of reflectance or of a dB, so that what
    follows sees a stack like any other.
    """

    def __init__(self, stack: Sliceable, mean: Sequence[float], std: Sequence[float]) -> None:
        """Reads the whole scene once, for its own statistics.

        Args:
            stack: int16 (band, y, x), ``stack.NODATA`` without data.
            mean: of each band, to be brought to, in its unit.
            std: likewise.
        """
        self.shape = stack.shape
        self._stack = stack
        own_mean, own_std = moments(stack)
        self._scale = np.asarray(std, np.float64) / own_std
        self._shift = np.asarray(mean, np.float64) - own_mean * self._scale

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[np.int16]:
        """The part under three slices."""
        pixels = self._stack[key]
        scale, shift = (values[key[0], None, None] for values in (self._scale, self._shift))
        brought = np.rint(pixels * scale + shift).clip(NODATA + 1, LARGEST)
        return np.where(pixels == NODATA, NODATA, brought).astype(np.int16)


def moments(stack: Sliceable) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each band over all pixels with data; 0 and 1 of a band that has none.

    Sums are exact integers, so every machine finds the same.

    Args:
        stack: int16 (band, y, x), ``stack.NODATA`` without data.

    Returns:
        float64 (band,) each; the deviation is at least 1.
    """
    bands, height, width = stack.shape
    n, total, squares = (np.zeros(bands, np.int64) for _ in range(3))
    for row in range(0, height, ROWS):
        part: npt.NDArray[Any] = stack[:, row : row + ROWS, 0:width].astype(np.int64)
        there = part != NODATA
        kept = np.where(there, part, 0)
        n += there.sum(axis=(1, 2))
        total += kept.sum(axis=(1, 2))
        squares += (kept**2).sum(axis=(1, 2))
    found = [spread(*sums) for sums in zip(n.tolist(), total.tolist(), squares.tolist(), strict=True)]
    mean, std = np.array(found, np.float64).T
    return mean, std


def spread(n: int, total: int, squares: int) -> tuple[float, float]:
    """(mean, standard deviation) of ``n`` whole numbers by their sum and the sum of their squares.

    Rounded to 4 decimals; the deviation is at least 1. (0, 1) of none.
    """
    if not n:
        return 0.0, 1.0
    return round(total / n, 4), max(round(((squares * n - total**2) / n**2) ** 0.5, 4), 1.0)
