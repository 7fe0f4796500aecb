import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from sandwatch.model.calibration import COLDEST, HOTTEST, ece, reliability, temperature
from sandwatch.model.metrics import LogitHistogram, ScoreHistogram
from sandwatch.model.scoring import to_steps


def calibrated(seed: int = 0, pixels: int = 200_000):
    """Logits that say the truth: (logits float32, truth bool)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, pixels)
    return logits.astype(np.float32), generator.random(pixels) < sigmoid(logits)


def fit_temperature(logits, truth):
    return temperature(LogitHistogram.of(logits, truth))


def scored(logits, truth, by=1.0):
    return ScoreHistogram.of(to_steps(logits, by), truth)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("true", [0.25, 1.0, 2.5])
def test_temperature_undoes_a_known_miscalibration(true):
    logits, truth = calibrated()
    assert fit_temperature(logits * true, truth) == pytest.approx(true, rel=0.02)


def test_no_other_temperature_has_a_smaller_loss():
    logits, truth = calibrated(1, 5_000)
    fitted = fit_temperature(logits * 1.7, truth)
    loss = [log_loss(truth, sigmoid(logits.astype(float) * 1.7 / (fitted * factor))) for factor in (0.98, 1.0, 1.02)]
    assert loss[1] < loss[0]
    assert loss[1] < loss[2]


def test_temperature_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature(np.array([0.1, 0.2]), np.array([True, True]))


def test_separable_and_inverted_logits_stop_at_the_limits():
    truth = np.array([True, False])
    assert fit_temperature(np.array([2.0, -2.0]), truth) == pytest.approx(COLDEST)
    assert fit_temperature(np.array([-2.0, 2.0]), truth) == pytest.approx(HOTTEST)


def test_ece_of_calibrated_scores_is_small_and_temperature_brings_it_back():
    logits, truth = calibrated()
    assert ece(LogitHistogram.of(logits, truth), 15) < 0.005
    assert ece(LogitHistogram.of(logits * 3, truth), 15) > 0.05
    assert ece(scored(logits * 3, truth, 3.0), 15) < 0.005


def test_log_odds_and_scores_at_temperature_1_have_the_same_error():
    logits, truth = calibrated()
    assert ece(scored(logits * 2, truth), 15) == pytest.approx(ece(LogitHistogram.of(logits * 2, truth), 15), abs=1e-3)


def test_ece_of_a_known_case():
    scores = np.array([0.9] * 10 + [0.3] * 10)
    truth = np.array([True] * 6 + [False] * 4 + [True] * 3 + [False] * 7)
    found = ece(ScoreHistogram.of((scores * 10_000).astype(int), truth), 10)
    assert found == pytest.approx((0.3 * 10 + 0.0 * 10) / 20, abs=1e-9)


def test_ece_without_pixels_is_undefined():
    assert math.isnan(ece(ScoreHistogram.empty(), 15))


def test_reliability_is_that_of_scikit_learn():
    logits, truth = calibrated(2)
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
