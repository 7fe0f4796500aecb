"""Calibration and threshold of a trained network, from validation observations alone, scored as maps are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sandwatch.model.calibration import calibration
from sandwatch.model.metrics import LogitHistogram, ScoreHistogram
from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import Scored, score
from sandwatch.stack import counted, mines
from sandwatch.train.data import Chips


def calibrated(predictor: Predictor, chips: Chips) -> Predictor:
    """Fits temperature and bias, then the threshold, on whole validation scenes, scored as maps are.

    The scenes are scored twice, so that no more than some rows of one are in memory.

    Args:
        predictor: with its final weights; what its spec says of these doesn't matter.
        chips: the windows; pixels under those of fold ``val`` count.

    Returns:
        The same with a spec that holds them.
    """
    covers, method = chips.cover(chips.of("val")), predictor.spec.method

    def validated(predictor: Predictor) -> Iterator[tuple[Scored, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """(rows, which of their pixels count, whether those are mines)."""
        for obs_id, cover in covers.items():
            mask = chips.mask(obs_id)
            keep, truth = cover & counted(mask, method), mines(mask, method)
            for part in score(chips.pixels(obs_id), predictor, cover):
                yield part, keep[part.rows], truth[part.rows][keep[part.rows]]

    log_odds, scores = LogitHistogram.empty(), ScoreHistogram.empty()
    for part, keep, truth in validated(predictor):
        log_odds += LogitHistogram.of(part.log_odds[0][keep], truth)
    temperature, bias = calibration(log_odds)
    predictor = predictor.changed(temperature=temperature, bias=bias)
    for part, keep, truth in validated(predictor):
        scores += ScoreHistogram.of(part.steps[keep], truth)
    return predictor.changed(threshold=scores.best_f1()[1])
