import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from sandwatch.model.calibration import COLDEST, HOTTEST, calibration, ece, reliability
from sandwatch.model.metrics import LogitHistogram, ScoreHistogram
from sandwatch.model.scoring import to_steps


def calibrated_logits(seed: int = 0, pixels: int = 200_000):
    """Logits that say the truth: (logits float32, truth bool)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, pixels)
    return logits.astype(np.float32), generator.random(pixels) < sigmoid(logits)


def fit(logits, truth):
    return calibration(LogitHistogram.of(logits, truth))


def scored(logits, truth, temperature=1.0, bias=0.0):
    return ScoreHistogram.of(to_steps(logits, temperature, bias), truth)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("temperature", "bias"), [(0.25, 0.0), (1.0, -2.0), (2.5, 1.0)])
def test_a_known_miscalibration_is_undone(temperature, bias):
    logits, truth = calibrated_logits()
    found = fit((logits - bias) * temperature, truth)
    assert found == (pytest.approx(temperature, rel=0.02), pytest.approx(bias, abs=0.03))


def test_it_is_that_of_a_logistic_regression():
    logits, truth = calibrated_logits(1, 5_000)
    moved = logits * 1.7 + 1.2
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(moved[:, None], truth)
    temperature, bias = fit(moved, truth)
    assert 1 / temperature == pytest.approx(reference.coef_[0, 0], rel=5e-3)
    assert bias == pytest.approx(reference.intercept_[0], rel=5e-3)


def test_no_other_calibration_has_a_smaller_loss():
    logits, truth = calibrated_logits(1, 5_000)
    moved = logits.astype(float) * 1.7 + 1.2
    temperature, bias = fit(moved, truth)

    def loss(temperature, bias):
        return log_loss(truth, sigmoid(moved / temperature + bias))

    least = loss(temperature, bias)
    assert least < min(loss(temperature * 0.98, bias), loss(temperature * 1.02, bias))
    assert least < min(loss(temperature, bias - 0.05), loss(temperature, bias + 0.05))


def test_it_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        fit(np.array([0.1, 0.2]), np.array([True, True]))


def test_logits_far_from_zero_on_one_side_are_brought_back():
    """Where Newton's first step alone would overshoot."""
    logits, truth = calibrated_logits(3)
    temperature, bias = fit(logits / 2 + 20, truth)
    assert temperature == pytest.approx(0.5, rel=0.03)
    assert bias == pytest.approx(-40, rel=0.03)


def test_separable_and_inverted_logits_stay_within_the_limits():
    truth = np.array([True, False] * 500)
    temperature, bias = fit(np.where(truth, 0.1, -0.1), truth)
    assert temperature == COLDEST
    assert bias == pytest.approx(0, abs=0.1)
    temperature, bias = fit(np.where(truth, -2.0, 2.0), truth)
    assert temperature == HOTTEST
    assert bias == pytest.approx(0, abs=1e-3)


def test_ece_of_calibrated_scores_is_small_and_calibration_brings_it_back():
    logits, truth = calibrated_logits()
    assert ece(LogitHistogram.of(logits, truth), 15) < 0.005
    assert ece(LogitHistogram.of(logits * 3 + 2, truth), 15) > 0.05
    assert ece(scored(logits * 3 + 2, truth, 3.0, -2 / 3), 15) < 0.005


def test_log_odds_and_scores_without_calibration_have_the_same_error():
    logits, truth = calibrated_logits()
    assert ece(scored(logits * 2, truth), 15) == pytest.approx(ece(LogitHistogram.of(logits * 2, truth), 15), abs=1e-3)


def test_ece_of_a_known_case():
    scores = np.array([0.9] * 10 + [0.3] * 10)
    truth = np.array([True] * 6 + [False] * 4 + [True] * 3 + [False] * 7)
    found = ece(ScoreHistogram.of((scores * 10_000).astype(int), truth), 10)
    assert found == pytest.approx((0.3 * 10 + 0.0 * 10) / 20, abs=1e-9)


def test_ece_without_pixels_is_undefined():
    assert math.isnan(ece(ScoreHistogram.empty(), 15))


def test_reliability_is_that_of_scikit_learn():
    logits, truth = calibrated_logits(2)
    got = reliability(scored(logits * 2, truth), 10)
    observed, mean = calibration_curve(truth, sigmoid(logits * 2), n_bins=10)
    assert got.observed == pytest.approx(observed, abs=2e-3)
    assert got.score == pytest.approx(mean, abs=2e-4)
    assert got.pixels.sum() == truth.size
    assert got.lower == pytest.approx(np.arange(10) / 10)


def test_an_empty_bin_is_undefined_not_zero():
    got = reliability(ScoreHistogram.of(np.array([9_500]), np.array([True])), 10)
    assert np.isnan(got.score[:9]).all()
    assert np.isnan(got.observed[:9]).all()
    assert got.observed[9] == 1.0
