import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, recall_score

from sandwatch.learn.metrics import BINS, LOWER_EDGES, ScoreHistogram, bootstrap


def average_precision(scores, truth):
    return ScoreHistogram.of(scores, truth).average_precision()


def best_f1(scores, truth):
    return ScoreHistogram.of(scores, truth).best_f1()


def world(seed: int, pixels: int = 20_000, prevalence: float = 0.05, skill: float = 1.5):
    """Scores of a model of some skill: (scores float32, truth bool)."""
    generator = np.random.default_rng(seed)
    truth = generator.random(pixels) < prevalence
    logits = generator.normal(-3, 1, pixels) + skill * truth
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


@pytest.mark.parametrize("skill", [0.0, 1.5, 6.0])
def test_average_precision_is_that_of_scikit_learn(skill):
    scores, truth = world(1, skill=skill)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=2e-3)


def test_scores_crowded_near_zero_are_still_told_apart():
    scores, truth = world(2, skill=3.0)
    crowded = scores * np.float32(1e-4)
    assert average_precision(crowded, truth) == pytest.approx(average_precision_score(truth, scores), abs=2e-3)


def test_average_precision_of_tied_scores_is_the_prevalence():
    truth = np.array([True, False, False, False])
    assert average_precision(np.full(4, 0.3, np.float32), truth) == 0.25


def test_average_precision_without_mines_is_undefined():
    assert math.isnan(average_precision(np.array([0.1, 0.9], np.float32), np.array([False, False])))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_threshold_metrics_are_those_of_scikit_learn_at_the_best_threshold(seed, skill):
    scores, truth = world(seed, pixels=300, prevalence=0.2, skill=skill)
    truth[0] = True
    f1, threshold = best_f1(scores, truth)
    detected = scores >= threshold
    got = ScoreHistogram.of(scores, truth).at(threshold)
    assert got.f1 == f1 == pytest.approx(f1_score(truth, detected))
    assert got.precision == pytest.approx(precision_score(truth, detected))
    assert got.recall == pytest.approx(recall_score(truth, detected))
    assert got.iou == pytest.approx(jaccard_score(truth, detected))
    assert got.true_negatives == (~truth & ~detected).sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_threshold_has_a_better_f1(seed):
    scores, truth = world(seed, pixels=40, prevalence=0.3)
    truth[0] = True
    edges = LOWER_EDGES[np.searchsorted(LOWER_EDGES, scores, side="right") - 1]
    assert best_f1(scores, truth)[0] == pytest.approx(max(f1_score(truth, scores >= edge) for edge in edges))


@pytest.mark.parametrize("threshold", [LOWER_EDGES[0], LOWER_EDGES[1], LOWER_EDGES[4096], LOWER_EDGES[-1], 0.3, 1.0])
def test_a_threshold_counts_the_pixels_at_or_above_it(threshold):
    scores = np.concatenate([LOWER_EDGES, np.array([0.0, 1.0], np.float32)])
    truth = np.ones(scores.size, bool)
    counted = ScoreHistogram.of(scores, truth).at(float(threshold)).true_positives
    edges = LOWER_EDGES[np.float32(threshold) <= LOWER_EDGES]
    assert counted == ((scores >= edges[0]).sum() if edges.size else 0)


def test_no_mines_has_no_best_threshold():
    with pytest.raises(ValueError, match="no mine pixels"):
        best_f1(np.array([0.1], np.float32), np.array([False]))


def test_pr_curve_is_that_of_scikit_learn_at_its_own_thresholds():
    scores, truth = world(3, pixels=2_000)
    thresholds, precision, recall = ScoreHistogram.of(scores, truth).pr_curve()
    assert (np.diff(thresholds) < 0).all()
    assert recall[-1] == 1.0
    for index in (0, len(thresholds) // 3, -1):
        detected = scores >= thresholds[index]
        assert precision[index] == pytest.approx(precision_score(truth, detected))
        assert recall[index] == pytest.approx(recall_score(truth, detected))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_histograms_of_parts_add_up_to_that_of_the_whole(seed, cut):
    scores, truth = world(seed, pixels=100)
    parts = ScoreHistogram.of(scores[:cut], truth[:cut]) + ScoreHistogram.of(scores[cut:], truth[cut:])
    whole = ScoreHistogram.of(scores, truth)
    assert (parts.positives == whole.positives).all()
    assert (parts.negatives == whole.negatives).all()
    assert whole.positives.sum() + whole.negatives.sum() == 100


def test_logits_fall_into_the_bins_of_their_scores():
    logits = np.random.default_rng(4).normal(0, 4, 50_000)
    truth = logits > 0
    by_logit = ScoreHistogram.of_logits(logits, truth)
    by_score = ScoreHistogram.of(1 / (1 + np.exp(-logits)), truth)
    moved = np.abs(np.cumsum(by_logit.positives + by_logit.negatives - by_score.positives - by_score.negatives))
    assert moved.max() <= 50  # pixels within float32's rounding of an edge


def test_extreme_logits_and_scores_are_counted_at_the_ends():
    histogram = ScoreHistogram.of_logits(np.array([-1e9, 1e9, np.inf]), np.array([False, True, True]))
    assert histogram.negatives[0] == 1
    assert histogram.positives[-1] == 2
    histogram = ScoreHistogram.of(np.array([0.0, 1.0]), np.array([False, True]))
    assert histogram.negatives[0] == 1
    assert histogram.positives[-1] == 1
    assert histogram.positives.size == BINS


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_a_score_that_is_no_probability_is_refused(score):
    with pytest.raises(ValueError, match="not within 0 and 1"):
        ScoreHistogram.of(np.array([0.5, score]), np.array([True, False]))


def test_a_logit_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="logit is NaN"):
        ScoreHistogram.of_logits(np.array([math.nan]), np.array([True]))


def test_a_truth_of_another_size_or_type_is_refused():
    with pytest.raises(ValueError, match="2 scores, 1 truths"):
        ScoreHistogram.of(np.array([0.5, 0.5]), np.array([True]))
    with pytest.raises(ValueError, match="of type int64"):
        ScoreHistogram.of(np.array([0.5]), np.array([1]))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """Observations of differing skill: the interval of the mean-like AP must hold the long-run AP in most worlds."""
    generator = np.random.default_rng(5)
    kinds = [ScoreHistogram.of(*world(seed, pixels=500, prevalence=0.2, skill=seed % 4)) for seed in range(200)]
    whole = sum(kinds, ScoreHistogram.empty()).average_precision()
    inside = 0
    for trial in range(30):
        drawn = [kinds[index] for index in generator.integers(len(kinds), size=30)]
        low, high = bootstrap(drawn, ScoreHistogram.average_precision, samples=100, seed=trial)
        inside += low <= whole <= high
    assert inside >= 24


def test_bootstrap_of_a_mean_is_as_wide_as_its_standard_error():
    shares = np.random.default_rng(6).random(40)
    kinds = [ScoreHistogram.of(np.zeros(1000), np.arange(1000) < 1000 * share) for share in shares]
    low, high = bootstrap(kinds, lambda histogram: histogram.prevalence, samples=1000, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * shares.std() / math.sqrt(len(shares)), rel=0.1)


def test_bootstrap_is_the_same_for_the_same_seed_and_wider_with_fewer_observations():
    kinds = [ScoreHistogram.of(*world(seed, pixels=500, prevalence=0.2, skill=seed % 4)) for seed in range(40)]
    one = bootstrap(kinds, ScoreHistogram.average_precision, samples=200, seed=0)
    assert one == bootstrap(kinds, ScoreHistogram.average_precision, samples=200, seed=0)
    assert one != bootstrap(kinds, ScoreHistogram.average_precision, samples=200, seed=1)
    few = bootstrap(kinds[:4], ScoreHistogram.average_precision, samples=200, seed=0)
    assert few[1] - few[0] > 2 * (one[1] - one[0])


def test_bootstrap_of_one_observation_says_nothing():
    one = ScoreHistogram.of(*world(0))
    assert all(math.isnan(end) for end in bootstrap([one], ScoreHistogram.average_precision, samples=10, seed=0))


def test_bootstrap_leaves_out_draws_without_mines():
    with_mines = ScoreHistogram.of(*world(0))
    without = ScoreHistogram.of(np.array([0.5]), np.array([False]))
    low, high = bootstrap([with_mines, without], ScoreHistogram.average_precision, samples=50, seed=0)
    assert 0 < low <= high <= 1
