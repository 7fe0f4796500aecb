"""The one rule by which pixels become scores and scores become mines: train, evaluate and infer all call it.

1. Windows give log-odds. Where windows overlap, log-odds are blended (:mod:`sandwatch.model.stitch`).
2. The log-odds of mine, divided by the spec's temperature and moved by its bias, are the logit of the score.
3. A score is a whole number of steps of 1 / ``STEPS``: the nearest one is what ``score.tif`` holds and what is judged.
4. A pixel is a mine where its score, so rounded, is the spec's threshold or more.

So the figures of an evaluation are those of the map, pixel for pixel. No exponential is taken of a pixel: its score is
looked up among the logits that lie halfway between two steps, which gives the same steps on every machine.

Needs numpy only, so that a machine without GDAL can train and calibrate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sandwatch.model.standardise import Standardised
from sandwatch.model.stitch import Sliceable, stitch

if TYPE_CHECKING:
    from sandwatch.model.card import Spec

STEPS = 10_000
"""Steps from a score of 0 to one of 1."""
NODATA = 65535
"""In place of a step where there is no score."""

Steps = npt.NDArray[np.uint16]
"""Scores as whole numbers, 0 to ``STEPS``, or ``NODATA``."""

# Rounded, so that the last digit of log(), which differs between machines, can't move a pixel to another step.
_HALFWAY = np.array([float(f"{math.log((step - 0.5) / (STEPS - step + 0.5)):.12g}") for step in range(1, STEPS + 1)])
"""Logit halfway between each step and the one below it."""


class Scorer(Protocol):
    """A trained model, ready to score scenes; :class:`sandwatch.model.predictor.Predictor` is one."""

    @property
    def spec(self) -> Spec:
        """What it says of itself."""

    def __call__(self, pixels: npt.NDArray[np.int16], /) -> npt.NDArray[np.float32]:
        """Log-odds of windows int16 (n, band, y, x) before calibration, float32 (n, class - 1, y, x).

        The first are those of mine. Where the spec has the classes other, low and high, those of high against low
        follow.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Some finished rows of a scene, all its columns.

    Attributes:
        rows: which.
        log_odds: blended, as :class:`Scorer` gives them: float32 (class - 1, rows, x), NaN where there is no score.
        spec: of the model.
    """

    rows: slice
    log_odds: npt.NDArray[np.float32]
    spec: Spec

    @cached_property
    def steps(self) -> Steps:
        """Calibrated scores (rows, x)."""
        return to_steps(self.log_odds[0], self.spec.temperature, self.spec.bias)

    @cached_property
    def mine(self) -> npt.NDArray[np.bool_]:
        """Where there is a mine (rows, x); false where there is no score."""
        return reaches(self.steps, self.spec.threshold)

    @cached_property
    def classes(self) -> npt.NDArray[np.uint8]:
        """Class of each pixel (rows, x), as the spec numbers them: 0 where there is no mine.

        Where the spec tells low from high confidence, a mine is the likelier of both.
        """
        likelier: npt.NDArray[np.uint8] = np.uint8(1) + (self.log_odds[1:] >= 0).sum(axis=0, dtype=np.uint8)
        return np.where(self.mine, likelier, np.uint8(0))


def score(stack: Sliceable, scorer: Scorer, region: Sliceable | None = None) -> Iterator[Scored]:
    """Scores a scene from the top down, in memory bounded by one row of windows.

    Args:
        stack: int16 (band, y, x), as in a pixel stack.
        scorer: the model.
        region: bool (y, x), the pixels asked for; None for all.

    Yields:
        Rows that follow each other without gap and cover the scene.
    """
    spec = scorer.spec
    if spec.standardise == "scene":
        stack = Standardised(stack, spec.mean, spec.std)
    parts = stitch(
        stack,
        scorer,
        layers=(len(spec.classes) - 1,),
        size_px=spec.size_px,
        overlap_px=spec.overlap_px,
        batch_size=spec.batch_size,
        region=region,
        may_lack=[place for place, band in enumerate(spec.bands) if band in spec.without],
    )
    for first, log_odds in parts:
        yield Scored(rows=slice(first, first + log_odds.shape[1]), log_odds=log_odds, spec=spec)


def to_steps(log_odds: npt.NDArray[np.floating[Any]], temperature: float, bias: float) -> Steps:
    """Scores of log-odds of any shape, divided by a temperature and moved by a bias; ``NODATA`` where they are NaN."""
    steps = np.full(log_odds.shape, NODATA, np.uint16)
    known = ~np.isnan(log_odds)
    logits = log_odds[known].astype(np.float64) / temperature + bias
    steps[known] = np.searchsorted(_HALFWAY, logits, side="right")
    return steps


def reaches(steps: Steps, threshold: float) -> npt.NDArray[np.bool_]:
    """Where a score is ``threshold`` or more."""
    reached: npt.NDArray[np.bool_] = (steps != NODATA) & (steps / STEPS >= threshold)
    return reached


def to_scores(steps: Steps) -> npt.NDArray[np.float32]:
    """Scores from 0 to 1 of steps of any shape, NaN where there is none."""
    return np.where(steps == NODATA, np.nan, steps / STEPS).astype(np.float32)
