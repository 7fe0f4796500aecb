"""Pixel metrics out of histograms: memory stays the same over any number of pixels.

What is judged are scores as the map stores them, so :class:`ScoreHistogram` has a bin for each step that a score can
take (:mod:`sandwatch.model.scoring`), loses nothing, and ``score >= threshold`` picks the very pixels that it counted.
What scores are made from are log-odds: :class:`LogitHistogram` has 8192 bins of equal width in them, so that those are
told apart whose scores crowd near 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from sandwatch.model.scoring import STEPS

LARGEST_LOGIT = 32.0
"""Logits beyond are counted in the outermost bins: their scores are 0 or 1 to 14 digits."""
BIN_WIDTH = 2.0**-7
"""In logit: a score moves by at most 0.002 within a bin (at a half, where the slope is 1/4)."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


LOGITS: Floats = np.arange(-LARGEST_LOGIT + BIN_WIDTH / 2, LARGEST_LOGIT, BIN_WIDTH)
"""Logit of the middle of each bin of a :class:`LogitHistogram`."""
SCORES: Floats = np.arange(STEPS + 1) / STEPS
"""Score of each bin of a :class:`ScoreHistogram`."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Pixels by what they are and what they were taken for.

    A ratio whose denominator is zero is undefined and comes as NaN.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of the detected that is mine."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the mines that is detected."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall (Source: van Rijsbergen 1979; also called Dice)."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """Intersection over union of detected and mine (Source: Jaccard 1901)."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How many mine and other pixels fell into which bin.

    Attributes:
        positives: mine pixels a bin, int64 (bins,), lowest scores first.
        negatives: other pixels a bin.
        scores: the score that each bin stands for, float64 (bins,).
    """

    positives: Counts
    negatives: Counts
    scores: ClassVar[Floats]

    @classmethod
    def empty(cls) -> Self:
        """A histogram of nothing, to add to."""
        return cls(positives=np.zeros(cls.scores.size, np.int64), negatives=np.zeros(cls.scores.size, np.int64))

    @classmethod
    def _count(cls, bins: npt.NDArray[np.integer[Any]], truth: npt.NDArray[np.bool_]) -> Self:
        if bins.size != truth.size or truth.dtype != bool:
            raise ValueError(f"{bins.size} scores, {truth.size} truths of type {truth.dtype}; want as many, bool")
        positives = np.bincount(bins[truth.ravel()], minlength=cls.scores.size)
        return cls(positives=positives, negatives=np.bincount(bins, minlength=cls.scores.size) - positives)

    def __add__(self, other: Histogram) -> Self:
        return type(self)(
            positives=self.positives + other.positives,
            negatives=self.negatives + other.negatives,
        )

    @property
    def prevalence(self) -> float:
        """Share of mine pixels: the average precision of guessing. NaN without pixels."""
        positives = int(self.positives.sum())
        return _ratio(positives, positives + int(self.negatives.sum()))

    def average_precision(self) -> float:
        """Area under the precision-recall curve as a sum of steps; NaN without mine pixels.

        Source: AP = sum over thresholds of (R_n - R_(n-1)) P_n, as scikit-learn's ``average_precision_score``. Scores
        within a bin count as tied.
        """
        positives, detected = self._cumulated()
        if positives[0] == 0:
            return math.nan
        steps = self.positives > 0
        return float((self.positives[steps] * (positives[steps] / detected[steps])).sum() / positives[0])

    def best_f1(self) -> tuple[float, float]:
        """(F1, score of the lowest bin that is detected) where F1 is best, the highest one of equals.

        Raises:
            ValueError: there are no mine pixels.
        """
        positives, detected = self._cumulated()
        if positives[0] == 0:
            raise ValueError("no mine pixels: every threshold has F1 zero")
        f1 = 2.0 * positives / (detected + positives[0])
        best = f1.size - 1 - int(np.argmax(f1[::-1]))
        return float(f1[best]), float(self.scores[best])

    def _cumulated(self) -> tuple[Counts, Counts]:
        """(mine pixels, all pixels) from each bin upward."""
        positives = np.cumsum(self.positives[::-1])[::-1]
        return positives, positives + np.cumsum(self.negatives[::-1])[::-1]


class LogitHistogram(Histogram):
    """How many mine and other pixels had which log-odds before calibration."""

    scores = np.array([sigmoid(logit) for logit in LOGITS])

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.bool_]) -> Self:
        """Counts log-odds.

        Args:
            logits: log-odds of mine, any shape.
            truth: whether it is a mine, bool of the same shape.

        Raises:
            ValueError: a logit is NaN, or the shapes differ.
        """
        if np.isnan(logits).any():
            raise ValueError("a logit is NaN")
        limited = np.clip(logits.ravel(), -LARGEST_LOGIT, np.nextafter(np.float32(LARGEST_LOGIT), np.float32(0)))
        return cls._count(((limited + LARGEST_LOGIT) / BIN_WIDTH).astype(np.int64).clip(max=LOGITS.size - 1), truth)


class ScoreHistogram(Histogram):
    """How many mine and other pixels got which score, as the map stores it."""

    scores = SCORES

    @classmethod
    def of(cls, steps: npt.NDArray[np.integer[Any]], truth: npt.NDArray[np.bool_]) -> Self:
        """Counts scores.

        Args:
            steps: scores in whole steps of 1 / ``STEPS``, any shape.
            truth: whether it is a mine, bool of the same shape.

        Raises:
            ValueError: a step is below 0 or above ``STEPS``, as where there is no score, or the shapes differ.
        """
        if steps.size and not (steps.min() >= 0 and steps.max() <= STEPS):
            raise ValueError(f"steps from {steps.min()} to {steps.max()}, not within 0 and {STEPS}")
        return cls._count(steps.ravel(), truth)

    def pr_curve(self) -> tuple[Floats, Floats, Floats]:
        """(thresholds, precision, recall), one entry a bin that holds pixels, highest threshold first.

        Recall is NaN throughout where there are no mine pixels.
        """
        positives, detected = self._cumulated()
        bins = np.flatnonzero(self.positives + self.negatives)[::-1]
        total = positives[0] if positives[0] else math.nan
        return SCORES[bins], positives[bins] / detected[bins], positives[bins] / total

    def at(self, threshold: float) -> Confusion:
        """What ``score >= threshold`` detects, exactly."""
        first = int(np.searchsorted(SCORES, threshold, side="left"))
        true_positives, false_positives = int(self.positives[first:].sum()), int(self.negatives[first:].sum())
        return Confusion(
            true_positives=true_positives,
            false_positives=false_positives,
            false_negatives=int(self.positives.sum()) - true_positives,
            true_negatives=int(self.negatives.sum()) - false_positives,
        )


def bootstrap(
    sites: Sequence[ScoreHistogram],
    statistics: Mapping[str, Callable[[ScoreHistogram], float]],
    *,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """The intervals of statistics when other sites had been drawn: percentile bootstrap over sites.

    Pixels of one site resemble each other, in one month and from month to month, so whole sites, not pixels or
    observations, are drawn with replacement (Source: Efron and Tibshirani 1993, chapters 8 and 13; Davison and Hinkley
    1997, section 3.8). With few sites the interval is rough, and below about ten it tends to be too narrow still. Draws
    for which a statistic is undefined are left out of its interval, which ``scipy.stats.bootstrap`` can't do.

    Args:
        sites: a histogram each, of all its months.
        statistics: of the sum of histograms, by name.
        samples: how many draws.
        seed: of the draws; the same seed, the same intervals.
        level: how much of the draws lies within.

    Returns:
        (low, high) by name; NaN for both with fewer than two sites, which say nothing about others.
    """
    number = len(sites)
    if number < 2:
        return dict.fromkeys(statistics, (math.nan, math.nan))
    # In float64 the products of whole numbers are exact below 2**53, and ten times as fast.
    counts = np.stack([[site.positives for site in sites], [site.negatives for site in sites]]).astype(np.float64)
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples)
    drawn = (
        ScoreHistogram(positives=positives, negatives=negatives)
        for positives, negatives in ((one.astype(np.float64) @ counts).astype(np.int64) for one in times)
    )
    values = np.array([[statistic(histogram) for statistic in statistics.values()] for histogram in drawn])
    intervals = {}
    for name, column in zip(statistics, values.T, strict=True):
        defined = column[~np.isnan(column)]
        ends = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if defined.size else (math.nan, math.nan)
        intervals[name] = (float(ends[0]), float(ends[1]))
    return intervals


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
