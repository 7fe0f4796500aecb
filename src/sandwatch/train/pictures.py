"""Pictures of validation windows, label and score side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import reaches, to_scores, to_steps
from sandwatch.origin import words
from sandwatch.picture import banded, image
from sandwatch.stack import HIGH, LOW
from sandwatch.train.data import Chips, Indices

SAMPLES = 4
"""Validation windows drawn as pictures."""


def pictures(predictor: Predictor, chips: Chips, windows: Indices) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Draws the windows with the most mine pixels, one an observation: image and score side by side.

    Outlines: label of high confidence red, of low confidence orange, detection cyan. A band says what is invented.

    Args:
        predictor: calibrated.
        chips: the windows.
        windows: to choose from.

    Yields:
        (chip_id, uint8 (y, x, 3)).
    """
    spec = predictor.spec
    said = words(imagery=spec.imagery, labels=spec.labels)
    order = windows[np.argsort(-chips.mine_px(spec.method)[windows], kind="stable")]
    _, firsts = np.unique(chips.obs_id[order], return_index=True)
    for index in order[np.sort(firsts)][:SAMPLES]:
        pixels, masks = chips.gather(np.array([index]))
        steps = to_steps(predictor(pixels)[0, 0], spec.temperature, spec.bias)
        grey = np.rint(to_scores(steps) * 255).astype(np.uint8)
        panels = [image(pixels[0], spec.bands, spec.mean, spec.std), np.stack([grey] * 3)]
        canvas = [np.moveaxis(panel, 0, -1).repeat(2, 0).repeat(2, 1) for panel in panels]
        for area, colour in ((masks[0] == LOW, (255, 165, 0)), (masks[0] == HIGH, (255, 0, 0))):
            for panel in canvas:
                panel[_outline(area.repeat(2, 0).repeat(2, 1))] = colour
        canvas[1][_outline(reaches(steps, spec.threshold).repeat(2, 0).repeat(2, 1))] = (0, 255, 255)
        gap = np.full((len(canvas[0]), 8, 3), 255, np.uint8)
        yield str(chips.chip_id[index]), banded(np.concatenate([canvas[0], gap, canvas[1]], axis=1), said)


def _outline(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of an area that have a neighbour outside it."""
    padded = np.pad(area, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return area & ~inner
