"""Stacks as pictures, whatever their bands are."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import numpy.typing as npt

from sandwatch.params import RGB_BANDS
from sandwatch.stack import NODATA, encode, valid


def colours(bands: Sequence[str]) -> tuple[tuple[int, int, int], str]:
    """Which bands make a picture: (indices for red, green and blue, what that is called).

    Natural colour where there are the bands for it; else the first three, the last of them red, which of Sentinel-2's
    has the longest waves; of fewer than three the first in grey.
    """
    if set(RGB_BANDS) <= set(bands):
        red, green, blue = (bands.index(band) for band in RGB_BANDS)
        return (red, green, blue), "natural colour"
    if len(bands) >= 3:
        return (2, 1, 0), f"false colour (red {bands[2]}, green {bands[1]}, blue {bands[0]})"
    return (0, 0, 0), f"{bands[0]} in grey"


def image(
    pixels: npt.NDArray[np.int16], bands: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """A picture of a stack in the colours of :func:`colours`.

    Args:
        pixels: (band, y, x), ``stack.NODATA`` without data.
        bands: their names.
        mean: of each band.
        std: of each band; black is two standard deviations below the mean, white two above.

    Returns:
        uint8 (3, y, x), 1 to 255; 0 in all three where a band that is shown has no data.
    """
    shown = list(colours(bands)[0])
    middle, deviation = (np.array(values)[shown][:, None, None] for values in (mean, std))
    bright = np.rint(((pixels[shown] - middle) / (4 * deviation) + 0.5).clip(0, 1) * 254).astype(np.uint8) + np.uint8(1)
    return np.where((pixels[shown] == NODATA).any(axis=0), np.uint8(0), bright)


def banded(pixels: npt.NDArray[np.uint8], said: str | None) -> npt.NDArray[np.uint8]:
    """A picture under a black band with words in white; the picture alone where there are none.

    Args:
        pixels: uint8 (y, x, 3).
        said: what of it is invented (:func:`sandwatch.origin.words`).
    """
    if said is None:
        return pixels
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()  # drawn as bitmaps: the same pixels everywhere
    *_, width, height = font.getbbox("M")
    lines = wrap(said, max(pixels.shape[1] // width - 1, 1))
    band = Image.new("RGB", (pixels.shape[1], height * (len(lines) + 1)))
    ImageDraw.Draw(band).text((width // 2, height // 2), "\n".join(lines), "white", font, spacing=0)
    return np.concatenate([np.asarray(band), pixels])


def scene(s2: npt.NDArray[np.uint16], bands: Sequence[str]) -> tuple[npt.NDArray[np.uint8], str]:
    """A picture of a scene by the statistics of its own pixels: (as :func:`image` gives it, what its colours are).

    Args:
        s2: reflectance x 10000, uint16 (band, y, x), nodata 0.
        bands: their names.
    """
    pixels = encode(s2, None)
    seen = pixels[:, valid(pixels)]
    if not seen.size:
        return np.zeros((3, *s2.shape[1:]), np.uint8), colours(bands)[1]
    return image(pixels, bands, seen.mean(axis=1).tolist(), seen.std(axis=1).clip(min=1).tolist()), colours(bands)[1]
