"""Pixels and masks as the model reads them: arrays of integers, one of each an observation, memory-mappable.

Pixels are int16 (band, y, x): Sentinel-2 keeps its unit (reflectance x 10000), Sentinel-1 becomes centi-dB. Two bytes
hold both without loss that matters: reflectance above 3.2767 saturates (none occurs on land), backscatter is rounded to
0.01 dB, a hundredth of Sentinel-1's radiometric accuracy (1 dB, 3 sigma; Source: Sentinel-1 product definition).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from sandwatch.errors import InputError

NODATA = -32768
"""Value of a pixel without data, in every band."""
LARGEST = 32767
OTHER, LOW, HIGH, IGNORED = 0, 1, 2, 255
"""Values of a mask, uint8 (y, x): no mine, mine of low and of high confidence, nothing that anybody vouches for."""


def encode(s2: npt.NDArray[np.uint16], s1: npt.NDArray[np.float32] | None) -> npt.NDArray[np.int16]:
    """Stacks a scene's rasters into one array.

    Args:
        s2: reflectance x 10000, uint16 (band, y, x), nodata 0.
        s1: backscatter in dB, float32 (band, y, x) on the same grid, nodata NaN; None where the model uses no radar.

    Returns:
        int16 (band, y, x), Sentinel-2 bands first, ``NODATA`` where a band has no data.
    """
    parts = [np.where(s2 == 0, NODATA, np.minimum(s2, LARGEST)).astype(np.int16)]
    if s1 is not None and len(s1):
        centi = np.rint(np.nan_to_num(s1, nan=0.0) * 100.0).clip(-LARGEST, LARGEST)
        parts.append(np.where(np.isnan(s1), NODATA, centi).astype(np.int16))
    return np.concatenate(parts)


def load(
    path: Path,
    dtype: npt.DTypeLike,
    shape: Sequence[int | None],
    *,
    fix: str = "run dvc checkout chips, or dvc repro -f chips",
) -> np.memmap[Any, Any]:
    """Maps an array of ours into memory, to be read.

    Args:
        path: of a .npy file.
        dtype: that it must have.
        shape: that it must have; None for any length along an axis.
        fix: the way back.

    Raises:
        InputError: there is no such file, it is cut short or longer than it says, or holds another array.
    """
    expected = f"an array of {np.dtype(dtype)} {tuple('any' if length is None else length for length in shape)}"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        found = f"an array of {array.dtype} {array.shape}"
        fits = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
        if array.dtype == dtype and fits and array.flags.c_contiguous:
            if (size := path.stat().st_size) == array.offset + array.nbytes:
                return array
            found = f"{size} bytes"
            expected = f"{array.offset + array.nbytes}, as its head says"
    # numpy reads the head with Python's own parser, which fails in all these ways.
    except (OSError, ValueError, TypeError, ArithmeticError, SyntaxError, TokenError, MemoryError) as error:
        found = str(error)[:300] or type(error).__name__
    raise InputError(str(path), got=found, expected=expected, fix=fix)


def valid(stack: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """Where every band has data: bool (y, x) of an int16 stack (band, y, x)."""
    mask: npt.NDArray[np.bool_] = (stack != NODATA).all(axis=0)
    return mask


def counted(mask: Any, method: str) -> Any:
    """Which pixels of a mask (array or tensor) count, bool: method ``binary`` leaves out low confidence."""
    known = mask != IGNORED
    return known & (mask != LOW) if method == "binary" else known


def mines(mask: Any, method: str) -> Any:
    """Which pixels of a mask (array or tensor) are mine, bool: method ``three_class`` takes low confidence too."""
    return (mask == HIGH) if method == "binary" else (mask == HIGH) | (mask == LOW)
