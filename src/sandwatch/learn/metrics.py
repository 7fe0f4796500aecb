"""Pixel metrics out of histograms of scores: memory stays the same over any number of pixels.

A histogram has 8192 bins of equal width in the logit of the score, so scores crowded near 0 or 1 are told apart as well
as scores near a half. Thresholds are edges of bins and exact in float32, so that ``score >= threshold`` picks the very
pixels that the histogram counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

BINS = 8192
LARGEST_LOGIT = 32.0
"""Logits beyond are counted in the outermost bins: their scores are 0 or 1 to 14 digits."""
BIN_WIDTH = 2 * LARGEST_LOGIT / BINS
"""2**-7 in logit: a score moves by at most 0.002 within a bin (at a half, where the slope is 1/4)."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


LOGITS: Floats = (np.arange(BINS, dtype=np.float64) + 0.5) * BIN_WIDTH - LARGEST_LOGIT
"""Logit of the middle of each bin."""
# Rounded, so that the last digit of exp(), which differs between machines, can't move a pixel to another bin.
LOWER_EDGES: npt.NDArray[np.float32] = np.array(
    [0.0, *(float(f"{sigmoid(index * BIN_WIDTH - LARGEST_LOGIT):.12g}") for index in range(1, BINS))], dtype=np.float32
)
"""Lowest score of each bin. Near 1 several share an edge, as float32 does; the last of them takes the pixels."""


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
class ScoreHistogram:
    """How many mine and other pixels got which score.

    Attributes:
        positives: mine pixels a bin, int64 (``BINS``,), lowest scores first.
        negatives: other pixels a bin.
    """

    positives: Counts
    negatives: Counts

    @classmethod
    def empty(cls) -> Self:
        """A histogram of nothing, to add to."""
        return cls(positives=np.zeros(BINS, np.int64), negatives=np.zeros(BINS, np.int64))

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.bool_]) -> Self:
        """Counts scores.

        Args:
            scores: probability of mine in [0, 1], any shape; taken as float32.
            truth: whether it is a mine, of the same shape.

        Raises:
            ValueError: a score is NaN or outside [0, 1], or the shapes differ.
        """
        scores = scores.astype(np.float32, copy=False).ravel()
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):  # NaN fails too
            raise ValueError(f"scores from {scores.min()} to {scores.max()}, not within 0 and 1")
        return cls._count(np.searchsorted(LOWER_EDGES, scores, side="right") - 1, truth)

    @classmethod
    def of_logits(cls, logits: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.bool_]) -> Self:
        """Counts scores given as logits, which keeps apart the scores that float32 rounds to 1.

        Args:
            logits: log-odds of mine, any shape.
            truth: whether it is a mine, of the same shape.

        Raises:
            ValueError: a logit is NaN, or the shapes differ.
        """
        if np.isnan(logits).any():
            raise ValueError("a logit is NaN")
        limited = np.clip(logits.ravel(), -LARGEST_LOGIT, np.nextafter(np.float32(LARGEST_LOGIT), np.float32(0)))
        return cls._count(((limited + LARGEST_LOGIT) / BIN_WIDTH).astype(np.int64).clip(max=BINS - 1), truth)

    @classmethod
    def _count(cls, bins: npt.NDArray[np.intp], truth: npt.NDArray[np.bool_]) -> Self:
        if bins.size != truth.size or truth.dtype != bool:
            raise ValueError(f"{bins.size} scores, {truth.size} truths of type {truth.dtype}; want as many, bool")
        positives = np.bincount(bins[truth.ravel()], minlength=BINS)
        return cls(positives=positives, negatives=np.bincount(bins, minlength=BINS) - positives)

    def __add__(self, other: ScoreHistogram) -> Self:
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

    def pr_curve(self) -> tuple[Floats, Floats, Floats]:
        """(thresholds, precision, recall), one entry a bin that holds pixels, highest threshold first.

        Recall is NaN throughout where there are no mine pixels.
        """
        positives, detected = self._cumulated()
        bins = np.flatnonzero(self.positives + self.negatives)[::-1]
        total = positives[0] if positives[0] else math.nan
        return LOWER_EDGES[bins].astype(np.float64), positives[bins] / detected[bins], positives[bins] / total

    def best_f1(self) -> tuple[float, float]:
        """(F1, threshold) at the threshold of the best F1, the higher one of equals.

        Raises:
            ValueError: there are no mine pixels.
        """
        positives, detected = self._cumulated()
        if positives[0] == 0:
            raise ValueError("no mine pixels: every threshold has F1 zero")
        f1 = 2.0 * positives / (detected + positives[0])
        best = BINS - 1 - int(np.argmax(f1[::-1]))
        return float(f1[best]), float(LOWER_EDGES[best])

    def at(self, threshold: float) -> Confusion:
        """What ``score >= threshold`` detects.

        Args:
            threshold: in [0, 1]; exact where it is one of ``LOWER_EDGES`` (as :meth:`best_f1` gives them), else moved
                up to the next of them.
        """
        first = int(np.searchsorted(LOWER_EDGES, np.float32(threshold), side="left"))
        true_positives, false_positives = int(self.positives[first:].sum()), int(self.negatives[first:].sum())
        return Confusion(
            true_positives=true_positives,
            false_positives=false_positives,
            false_negatives=int(self.positives.sum()) - true_positives,
            true_negatives=int(self.negatives.sum()) - false_positives,
        )

    def _cumulated(self) -> tuple[Counts, Counts]:
        """(mine pixels, all pixels) from each bin upward."""
        positives = np.cumsum(self.positives[::-1])[::-1]
        return positives, positives + np.cumsum(self.negatives[::-1])[::-1]


def bootstrap(
    observations: Sequence[ScoreHistogram],
    statistic: Callable[[ScoreHistogram], float],
    *,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """The interval of a statistic when other observations had been drawn: percentile bootstrap over observations.

    Pixels of one observation resemble each other, so observations, not pixels, are drawn with replacement (Source:
    Efron and Tibshirani 1993, chapters 8 and 13). With few observations the interval is wide, and rough: below about
    ten it tends to be too narrow still. Draws for which the statistic is undefined are left out.

    Args:
        observations: a histogram each.
        statistic: of the sum of histograms.
        samples: how many draws.
        seed: of the draws; the same seed, the same interval.
        level: how much of the draws lies within.

    Returns:
        (low, high); NaN for both with fewer than two observations, which say nothing about others.
    """
    if len(observations) < 2:
        return math.nan, math.nan
    positives = np.stack([observation.positives for observation in observations])
    negatives = np.stack([observation.negatives for observation in observations])
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        times = np.bincount(generator.integers(len(observations), size=len(observations)), minlength=len(observations))
        drawn = ScoreHistogram(positives=times @ positives, negatives=times @ negatives)
        values.append(statistic(drawn))
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
