"""Whether a score of 0.7 is a mine seven times in ten, and the one number that brings it nearer to that.

Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: temperature scaling and
the expected calibration error. The error here is that of the probability of mine, not of the likelier of two classes:
in imagery that is nearly all "other", the latter is good whatever the scores of mines are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sandwatch.model.metrics import LOGITS, Floats, Histogram, LogitHistogram, sigmoid

COLDEST, HOTTEST = 0.05, 20.0
"""Limits of a fitted temperature. Beyond them the logits separate the classes so well, or so badly, that no
temperature is better than an extreme one."""


def temperature(histogram: LogitHistogram) -> float:
    """The temperature T that minimises the negative log-likelihood of ``sigmoid(logit / T)``.

    The loss is convex in 1 / T, so bisecting its slope finds the minimum, the same on every machine.

    Args:
        histogram: of log-odds before calibration, blended as the map's.

    Returns:
        T, from 0.05 to 20, rounded to 6 decimals. Above 1 the scores were overconfident.

    Raises:
        ValueError: one of the classes has no pixel, so no temperature is better than an extreme one.
    """
    if not histogram.positives.any() or not histogram.negatives.any():
        raise ValueError("a temperature needs pixels of both classes")
    filled = np.flatnonzero(histogram.positives + histogram.negatives)
    logits = LOGITS[filled]
    positives = histogram.positives[filled].astype(np.float64)
    total = positives + histogram.negatives[filled]

    def slope(inverse: float) -> float:
        """Derivative of the loss with respect to 1 / T."""
        return math.fsum((total * np.array([sigmoid(logit) for logit in logits * inverse]) - positives) * logits)

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return round(2 / (low + high), 6)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Scores against what happened, in bins of equal width from 0 to 1.

    Attributes:
        lower: lower edge of each bin, float64 (bins,).
        score: mean score in each bin; NaN where it is empty.
        observed: share of mine pixels in each bin; NaN where it is empty.
        pixels: in each bin, int64.
    """

    lower: Floats
    score: Floats
    observed: Floats
    pixels: npt.NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over pixels of the gap between score and share; NaN without pixels."""
        filled = self.pixels > 0
        if not filled.any():
            return math.nan
        gaps = np.abs(self.score[filled] - self.observed[filled])
        return math.fsum(gaps * self.pixels[filled]) / int(self.pixels.sum())


def reliability(histogram: Histogram, bins: int) -> Reliability:
    """Compares scores with what happened.

    Args:
        histogram: of scores, or of log-odds for what they would be without a temperature.
        bins: how many, of equal width.
    """
    where = np.minimum((histogram.scores * bins).astype(np.int64), bins - 1)
    total = (histogram.positives + histogram.negatives).astype(np.float64)
    pixels = np.bincount(where, weights=total, minlength=bins)
    filled = np.where(pixels > 0, pixels, math.nan)
    return Reliability(
        lower=np.arange(bins) / bins,
        score=np.bincount(where, weights=total * histogram.scores, minlength=bins) / filled,
        observed=np.bincount(where, weights=histogram.positives.astype(np.float64), minlength=bins) / filled,
        pixels=pixels.astype(np.int64),
    )


def ece(histogram: Histogram, bins: int) -> float:
    """:attr:`Reliability.ece` of a histogram; arguments as :func:`reliability`."""
    return reliability(histogram, bins).ece
