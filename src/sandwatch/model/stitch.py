"""Whole scenes through a model that sees windows: overlapping windows, blended, in memory bounded by one row of them.

Windows are visited row by row. A strip of pixels as high as a window is kept, and a strip of answers under it; once a
row of windows is done, the rows that no later window touches leave as finished, and both strips move down. Every row
of the scene is read once, so a scene never has to fit in memory.

Needs numpy only, so that a machine without GDAL can train and calibrate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sandwatch.errors import InputError
from sandwatch.stack import NODATA, valid

Predict = Callable[[npt.NDArray[np.int16]], npt.NDArray[np.float32]]
"""int16 (n, band, size, size), ``stack.NODATA`` without data, to what it says of each pixel: float32
(n, *layers, size, size)."""


class Sliceable(Protocol):
    """An array, a memory map, or a reader that reads only what it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extent along each axis."""

    def __getitem__(self, key: tuple[slice, ...], /) -> npt.NDArray[Any]:
        """The part under ``key``, one slice an axis."""


def stitch(
    stack: Sliceable,
    predict: Predict,
    *,
    size_px: int,
    overlap_px: int,
    batch_size: int,
    region: Sliceable | None = None,
    layers: tuple[int, ...] = (),
    may_lack: Sequence[int] = (),
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Asks a model about a scene and yields its answers in bands of finished rows, from the top down.

    Windows stand ``size_px - overlap_px`` apart; the last of a row and of a column move inward. Where windows overlap,
    answers are averaged with weights that rise linearly from a window's edge over ``overlap_px``; the weights of a
    pixel sum to 1. A window in which no pixel is asked for is skipped. A batch holds windows of one row of windows, so
    its size changes speed and memory, not results (as long as ``predict`` treats the windows of a batch apart).

    Args:
        stack: int16 (band, y, x), ``stack.NODATA`` where there is no data; where it is smaller than a window, the
            window is padded with ``stack.NODATA``.
        predict: the model.
        size_px: side of a window.
        overlap_px: how much neighbouring windows overlap, below ``size_px``.
        batch_size: the most windows in a call of ``predict``.
        region: bool (y, x), the pixels asked for; None for all.
        layers: shape of the answer for one pixel: () for a number.
        may_lack: places of the bands without which there is an answer all the same.

    Yields:
        (first row, float32 (*layers, rows, x)): answers, NaN where a band lacks data or where ``region`` is false. The
        bands follow each other without gap and cover the scene.

    Raises:
        InputError: ``overlap_px`` is not below ``size_px``.
        ValueError: ``predict`` returned another shape.
    """
    if not 0 <= overlap_px < size_px:
        raise InputError(
            "params.yaml: scoring.overlap_px",
            got=overlap_px,
            expected=f"0 to {size_px - 1}, less than a window of {size_px} px",
            fix="make the overlap smaller",
        )
    bands, height, width = stack.shape
    needed = [band for band in range(bands) if band not in may_lack]
    rows, cols = _starts(height, size_px, overlap_px), _starts(width, size_px, overlap_px)
    row_weights, col_weights = _weights(rows, size_px, overlap_px), _weights(cols, size_px, overlap_px)
    padded_width = max(width, size_px)
    pixels = np.full((bands, size_px, padded_width), NODATA, np.int16)
    wanted = np.zeros((size_px, padded_width), np.bool_)
    answers = np.zeros((*layers, size_px, padded_width))
    read_to = 0
    for row, row_weight, next_row in zip(rows, row_weights, [*rows[1:], height], strict=True):
        bottom = min(row + size_px, height)
        pixels[:, read_to - row : bottom - row, :width] = part = stack[:, read_to:bottom, 0:width]
        wanted[read_to - row : bottom - row, :width] = valid(part[needed])
        if region is not None:
            wanted[read_to - row : bottom - row, :width] &= region[read_to:bottom, 0:width]
        read_to = bottom

        asked = [
            (col, weight) for col, weight in zip(cols, col_weights, strict=True) if wanted[:, col : col + size_px].any()
        ]
        for first in range(0, len(asked), batch_size):
            batch = asked[first : first + batch_size]
            answer = predict(np.stack([pixels[:, :, col : col + size_px] for col, _ in batch]))
            if answer.shape != (len(batch), *layers, size_px, size_px):
                raise ValueError(f"predict returned {answer.shape} for {len(batch)} windows of {size_px} px")
            for (col, weight), one in zip(batch, answer, strict=True):
                answers[..., col : col + size_px] += one * row_weight[:, None] * weight

        done = next_row - row
        yield row, np.where(wanted[:done, :width], answers[..., :done, :width], np.nan).astype(np.float32)
        for strip, blank in ((pixels, NODATA), (wanted, False), (answers, 0.0)):
            strip[..., : size_px - done, :] = strip[..., done:, :]
            strip[..., size_px - done :, :] = blank


def stitch_whole(
    stack: Sliceable,
    predict: Predict,
    *,
    size_px: int,
    overlap_px: int,
    batch_size: int,
    region: Sliceable | None = None,
    layers: tuple[int, ...] = (),
) -> npt.NDArray[np.float32]:
    """The answers of :func:`stitch` as one array (*layers, y, x), for scenes that fit in memory."""
    parts = stitch(
        stack, predict, size_px=size_px, overlap_px=overlap_px, batch_size=batch_size, region=region, layers=layers
    )
    return np.concatenate([rows for _, rows in parts], axis=-2)


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of the windows along an axis: as :func:`sandwatch.grid.tile`, which needs more than numpy."""
    last = max(length - size, 0)
    return sorted({*range(0, last, size - overlap), last})


def _weights(starts: list[int], size: int, overlap: int) -> npt.NDArray[np.float64]:
    """Weights along an axis, (window, pixel of the window), that sum to 1 over the windows of every pixel.

    The weight of a pixel is the product of its weights along the two axes, so sums to 1 too.
    """
    position = np.arange(size)
    ramp = np.minimum(np.minimum(position + 1, size - position), overlap + 1).astype(np.float64)
    total = np.zeros(starts[-1] + size)
    for start in starts:
        total[start : start + size] += ramp
    return np.stack([ramp / total[start : start + size] for start in starts])
