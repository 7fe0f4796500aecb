"""The one rule from windows to mines: what is evaluated is what is mapped, pixel for pixel."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from sandwatch.model.network import CLASSES
from sandwatch.model.scoring import NODATA, STEPS, reaches, score, to_scores, to_steps

logits = st.floats(-40, 40)
temperatures = st.floats(0.05, 20)
biases = st.floats(-5, 5)


@given(st.lists(logits, min_size=1, max_size=50), temperatures, biases)
@settings(deadline=None)
def test_a_score_is_the_step_nearest_to_the_probability(values, temperature, bias):
    found = to_steps(np.array(values), temperature, bias)
    exact = expit(np.array(values) / temperature + bias) * STEPS
    assert found.dtype == np.uint16
    assert np.abs(found - exact).max() <= 0.5 + 1e-6


@given(logits, logits, temperatures, biases)
@settings(deadline=None)
def test_a_higher_logit_has_no_lower_score(one, other, temperature, bias):
    low, high = sorted((one, other))
    first, second = to_steps(np.array([low, high]), temperature, bias)
    assert first <= second


@pytest.mark.parametrize(
    ("logit", "step"), [(0.0, 5_000), (-math.inf, 0), (math.inf, STEPS), (math.nan, NODATA), (-9.9, 1), (-9.91, 0)]
)
def test_known_scores(logit, step):
    assert to_steps(np.float32([[logit]]), 1.0, 0.0) == [[step]]


@given(st.integers(0, STEPS))
@settings(deadline=None)
def test_every_step_reads_back_and_reaches_itself_as_a_threshold(step):
    steps = np.array([max(step - 1, 0), step, NODATA], np.uint16)
    np.testing.assert_array_equal(reaches(steps, step / STEPS), [step == 0, True, False])
    logit = math.log(step / (STEPS - step)) if 0 < step < STEPS else math.copysign(99, step - 1)
    assert to_steps(np.array([logit]), 1.0, 0.0) == [step]


def test_no_score_is_no_number():
    np.testing.assert_array_equal(to_scores(np.array([0, 4_567, NODATA], np.uint16)), np.float32([0, 0.4567, np.nan]))


class Windows:
    """A model that says of every pixel of a window what its first pixel tells: so windows that overlap disagree."""

    def __init__(self, method="binary", threshold=0.5, temperature=1.0, bias=0.0):
        self.spec = SimpleNamespace(
            size_px=8,
            overlap_px=2,
            batch_size=2,
            method=method,
            threshold=threshold,
            temperature=temperature,
            bias=bias,
            classes=CLASSES[method],
            standardise="none",
            bands=("B3", "B8"),
            without=(),
        )

    def __call__(self, pixels):
        layers = len(self.spec.classes) - 1
        return np.broadcast_to(pixels[:, :layers, :1, :1], (*pixels.shape[:1], layers, 8, 8)).astype(np.float32)


def scene(*first_and_second):
    """One row of two windows of 8 px that overlap by 2, whose first pixels are given band by band."""
    pixels = np.zeros((len(first_and_second), 8, 14), np.int16)
    for band, (first, second) in enumerate(first_and_second):
        pixels[band, 0, 0], pixels[band, 0, 6] = first, second
    return pixels


def whole(pixels, scorer):
    parts = list(score(pixels, scorer))
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("steps", "mine", "classes")}


@pytest.mark.parametrize(("temperature", "bias"), [(0.5, 0.0), (1.0, -2.0), (3.0, 1.0)])
def test_log_odds_are_blended_and_calibrated_once(temperature, bias):
    """Between windows of 1 and 7 the score is that of a logit in between, not a mean of their two scores."""
    steps = whole(scene((1, 7)), Windows(temperature=temperature, bias=bias))["steps"][5]
    blended = np.array([1] * 6 + [3, 5] + [7] * 6) / temperature + bias
    np.testing.assert_array_equal(steps, np.rint(expit(blended) * STEPS))
    assert steps[6] != round(STEPS * (2 / 3 * expit(1 / temperature + bias) + 1 / 3 * expit(7 / temperature + bias)))


def test_a_mine_is_a_stored_score_at_the_threshold():
    pixels, step = scene((2, 2)), int(np.rint(expit(2.0) * STEPS))
    assert expit(2.0) < step / STEPS  # by rounding
    assert whole(pixels, Windows(threshold=step / STEPS))["mine"].all()
    assert not whole(pixels, Windows(threshold=(step + 1) / STEPS))["mine"].any()


def test_classes_are_the_likelier_confidence_where_there_is_a_mine():
    pixels = scene((3, -3), (-2, 4))  # a mine on the left, rather low; none on the right, though rather high
    found = whole(pixels, Windows("three_class"))["classes"][3]
    np.testing.assert_array_equal(found, [1] * 6 + [2, 0] + [0] * 6)  # in between log-odds 1 and -1, and 0 and 2
    np.testing.assert_array_equal(whole(pixels, Windows())["classes"][3], [1] * 7 + [0] * 7)


def test_pixels_not_asked_for_have_neither_score_nor_mine():
    region = np.ones((8, 14), bool)
    region[:, 3] = False
    (part,) = score(scene((3, 3)), Windows(), region)
    assert (part.steps[:, 3] == NODATA).all()
    assert not part.mine[:, 3].any()
    assert part.mine[:, 4].all()
    assert part.rows == slice(0, 8)
