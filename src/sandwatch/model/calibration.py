"""Whether a score of 0.7 is a mine seven times in ten, and the two numbers that bring it nearer to that.

A temperature alone mends scores that are too sure of themselves. Ours are wrong in another way too: a loss in which
mine pixels weigh more, and training windows of which half hold a mine, move all log-odds up, so a bias is fitted beside
it.

Sources: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; for the temperature, and the expected
calibration error, Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. The error
here is that of the probability of mine, not of the likelier of two classes: in imagery that is nearly all "other", the
latter is good whatever the scores of mines are.
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
FLAT = 1e-9
"""Added to each curvature, so that where the loss is flat there is a step all the same. Source: Lin, Lin and Weng 2007,
who take 1e-12 for fewer numbers."""
NEWTON_STEPS, NEWTON_END = 100, 1e-9
"""At most so many steps, fewer once they are as small as this: a thousandth of the last digit that is kept."""


def calibration(histogram: LogitHistogram) -> tuple[float, float]:
    """The temperature T and bias b that minimise the negative log-likelihood of ``sigmoid(logit / T + b)``.

    Platt's targets, a little off 0 and 1 by the number of pixels, keep the minimum finite where logits separate the
    classes. The loss is convex in 1 / T and b, so Newton's steps, halved until it falls, find its one minimum; where
    that has a temperature beyond the limits, the best bias at the limit is the best within them.
    Sources: Platt 1999; Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for Support Vector Machines", 2007.

    Args:
        histogram: of log-odds before calibration, blended as the map's.

    Returns:
        (T, from 0.05 to 20; b), rounded to 6 decimals. T above 1: the scores were overconfident; b below 0: too high.

    Raises:
        ValueError: one of the classes has no pixel, so nothing can be said of both.
    """
    if not histogram.positives.any() or not histogram.negatives.any():
        raise ValueError("a calibration needs pixels of both classes")
    filled = np.flatnonzero(histogram.positives + histogram.negatives)
    logits = LOGITS[filled]
    positives, negatives = histogram.positives[filled], histogram.negatives[filled]
    mines, others = int(positives.sum()), int(negatives.sum())
    total = (positives + negatives).astype(np.float64)
    target = positives * ((mines + 1) / (mines + 2)) + negatives * (1 / (others + 2))  # expected mines a bin

    def loss(slope: float, bias: float) -> float:
        z = slope * logits + bias
        return math.fsum(total * np.array([softplus(one) for one in z]) - target * z)

    def downhill(slope: float, bias: float, *, both: bool) -> tuple[float, float]:
        """Newton's step for slope and bias, or for the bias alone."""
        scores = np.array([sigmoid(z) for z in slope * logits + bias])
        off, weight = total * scores - target, total * scores * (1 - scores)
        g_bias, c_bias = math.fsum(off), math.fsum(weight) + FLAT
        if not both:
            return 0.0, g_bias / c_bias
        g_slope, cross = math.fsum(off * logits), math.fsum(weight * logits)
        c_slope = math.fsum(weight * logits * logits) + FLAT
        determinant = c_slope * c_bias - cross * cross
        return (g_slope * c_bias - g_bias * cross) / determinant, (g_bias * c_slope - g_slope * cross) / determinant

    def minimum(slope: float, bias: float, *, both: bool) -> tuple[float, float]:
        for _ in range(NEWTON_STEPS):
            step, now = downhill(slope, bias, both=both), loss(slope, bias)
            while max(map(abs, step)) > NEWTON_END and loss(slope - step[0], bias - step[1]) > now:
                step = step[0] / 2, step[1] / 2
            slope, bias = slope - step[0], bias - step[1]
            if max(map(abs, step)) <= NEWTON_END:
                break
        return slope, bias

    slope, bias = minimum(1.0, 0.0, both=True)
    limited = min(max(slope, 1 / HOTTEST), 1 / COLDEST)
    if limited != slope:
        slope, bias = minimum(limited, 0.0, both=False)
    return round(1 / slope, 6), round(bias, 6)


def softplus(logit: float) -> float:
    """log(1 + exp(logit)), without overflow; numpy's own may differ in the last digit from processor to processor."""
    return max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))


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
        histogram: of scores, or of log-odds for what they would be without calibration.
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
