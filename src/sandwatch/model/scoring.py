"""The one rule by which pixels become scores and scores become mines: train, evaluate and infer all call it.

1. Windows give log-odds. Where windows overlap, log-odds are blended (:mod:`sandwatch.model.stitch`). Several models
   together (:class:`Ensemble`) are blended each for itself; then the mean is taken.
2. The log-odds of mine, divided by the spec's temperature and moved by its bias, are the logit of the score.
3. A score is a whole number of steps of 1 / ``STEPS``: the nearest one is what ``score.tif`` holds and what is judged.
4. A pixel is a mine where its score, so rounded, is the spec's threshold or more.

So the figures of an evaluation are those of the map, pixel for pixel. No exponential is taken of a pixel: its score is
looked up among the logits that lie halfway between two steps, which gives the same steps on every machine.

Needs numpy only, so that a machine without GDAL can train and calibrate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sandwatch.errors import InputError
from sandwatch.model.card import Spec, Terms
from sandwatch.model.standardise import Standardised
from sandwatch.model.stitch import Sliceable, stitch
from sandwatch.origin import kind_of

STEPS = 10_000
"""Steps from a score of 0 to one of 1."""
NODATA = 65535
"""In place of a step where there is no score."""

Steps = npt.NDArray[np.uint16]
"""Scores as whole numbers, 0 to ``STEPS``, or ``NODATA``."""

# Rounded, so that the last digit of log(), which differs between machines, can't move a pixel to another step.
_ALIKE = ("bands", "without", "method", "classes", "size_px", "overlap_px")
"""What the members of an ensemble must agree on: what they see, what they say, and where their windows lie."""
_HALFWAY = np.array([float(f"{math.log((step - 0.5) / (STEPS - step + 0.5)):.12g}") for step in range(1, STEPS + 1)])
"""Logit halfway between each step and the one below it."""


class Scorer(Protocol):
    """One trained model, ready to score scenes; :class:`sandwatch.model.predictor.Predictor` is one."""

    @property
    def spec(self) -> Spec:
        """What it says of itself."""

    def __call__(self, pixels: npt.NDArray[np.int16], /) -> npt.NDArray[np.float32]:
        """Log-odds of windows int16 (n, band, y, x) before calibration, float32 (n, class - 1, y, x).

        The first are those of mine. Where the spec has the classes other, low and high, those of high against low
        follow.
        """


class Ensemble:
    """Several trained models that score scenes together.

    Each member scores a scene as it does alone: by its own means and deviations, standardised where it was trained so,
    in its own number of views. Its log-odds, calibrated as its own spec says, are those of its scores; their mean over
    the members is the ensemble's, which needs no calibration of its own. So a member that is too sure of itself weighs
    no more than it should.

    The threshold is where the mean of the members' log-odds at their own thresholds lies. So where all members see a
    mine, the ensemble sees one, and where none does, it doesn't (but for the rounding of scores to steps).

    Source: log-odds are averaged as in a logarithmic opinion pool of two classes (Genest and Zidek 1986, "Combining
    Probability Distributions").

    Attributes:
        members: the models by name.
        spec: what scenes are read and judged by. Mean and deviation are the means of the members', for pictures.
    """

    def __init__(self, members: Mapping[str, Scorer]) -> None:
        """Puts models together.

        Args:
            members: by the name that an error calls them by, at least one.

        Raises:
            InputError: two of them differ in what they see or say, or in their windows.
        """
        self.members = dict(members)
        (name, first), *others = ((name, member.spec) for name, member in self.members.items())
        for other, spec in others:
            for field in _ALIKE:
                if getattr(spec, field) != getattr(first, field):
                    raise InputError(
                        f"ensemble, {other}",
                        got=f"{field} {_words(getattr(spec, field))}",
                        expected=f"{_words(getattr(first, field))}, as {name} has it",
                        fix="put models together that were trained with the same bands, chips, model and scoring",
                    )
        specs = [member.spec for member in self.members.values()]
        self.spec = Terms(
            **{field: getattr(first, field) for field in _ALIKE},
            mean=tuple(np.mean([spec.mean for spec in specs], axis=0).tolist()),
            std=tuple(np.mean([spec.std for spec in specs], axis=0).tolist()),
            temperature=1.0,
            bias=0.0,
            threshold=_mean_threshold([spec.threshold for spec in specs]),
            imagery=kind_of(spec.imagery for spec in specs),
            labels=kind_of(spec.labels for spec in specs),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Some finished rows of a scene, all its columns.

    Attributes:
        rows: which.
        log_odds: blended, as :class:`Scorer` gives them: float32 (class - 1, rows, x), NaN where there is no score; of
            an ensemble float64.
        spec: of the model, or of the ensemble.
    """

    rows: slice
    log_odds: npt.NDArray[np.floating[Any]]
    spec: Terms

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


def score(stack: Sliceable, scorer: Scorer | Ensemble, region: Sliceable | None = None) -> Iterator[Scored]:
    """Scores a scene from the top down, in memory bounded by one row of windows, of an ensemble one a member.

    Args:
        stack: int16 (band, y, x), as in a pixel stack.
        scorer: the model, or several together.
        region: bool (y, x), the pixels asked for; None for all.

    Yields:
        Rows that follow each other without gap and cover the scene.
    """
    if isinstance(scorer, Ensemble):
        yield from _together(stack, scorer, region)
        return
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


def _together(stack: Sliceable, ensemble: Ensemble, region: Sliceable | None) -> Iterator[Scored]:
    """As :func:`score`: the members go down the scene side by side, since their windows lie alike."""
    for parts in zip(*(score(stack, member, region) for member in ensemble.members.values()), strict=True):
        calibrated = [part.log_odds.astype(np.float64) / part.spec.temperature for part in parts]
        for log_odds, part in zip(calibrated, parts, strict=True):
            log_odds[0] += part.spec.bias  # of mine; the others are between low and high confidence
        yield Scored(rows=parts[0].rows, log_odds=np.mean(calibrated, axis=0), spec=ensemble.spec)


def _mean_threshold(thresholds: Sequence[float]) -> float:
    """The score, in whole steps, at the mean of the log-odds of some.

    Those of 0 and 1 are infinite: they count as a score a quarter of a step from there, which rounds to the same.
    """
    near = [min(max(threshold, 0.25 / STEPS), 1 - 0.25 / STEPS) for threshold in thresholds]
    mean = math.fsum(math.log(threshold / (1 - threshold)) for threshold in near) / len(near)
    return int(to_steps(np.array(mean), 1.0, 0.0)) / STEPS


def _words(value: object) -> str:
    """A value of a spec for people."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


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
