import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, recall_score

from sandwatch.model.metrics import LOGITS, SCORES, LogitHistogram, ScoreHistogram, bootstrap
from sandwatch.model.scoring import NODATA, STEPS


def histogram(steps, truth):
    return ScoreHistogram.of(np.asarray(steps), np.asarray(truth))


def world(seed: int, pixels: int = 20_000, prevalence: float = 0.05, skill: float = 1.5):
    """Scores of a model of some skill: (steps int64, truth bool)."""
    generator = np.random.default_rng(seed)
    truth = generator.random(pixels) < prevalence
    logits = generator.normal(-3, 1, pixels) + skill * truth
    return np.rint(STEPS / (1 + np.exp(-logits))).astype(np.int64), truth


@pytest.mark.parametrize("skill", [0.0, 1.5, 6.0])
def test_average_precision_is_that_of_scikit_learn(skill):
    steps, truth = world(1, skill=skill)
    assert histogram(steps, truth).average_precision() == pytest.approx(average_precision_score(truth, steps))


def test_log_odds_crowded_near_the_ends_are_still_told_apart():
    steps, truth = world(2, skill=3.0)
    logits = np.log((steps + 0.5) / (STEPS + 0.5 - steps))
    for crowded in (logits + 15, logits - 15):
        found = LogitHistogram.of(crowded, truth).average_precision()
        assert found == pytest.approx(average_precision_score(truth, steps), abs=2e-3)


def test_average_precision_of_tied_scores_is_the_prevalence():
    assert histogram([3_000] * 4, [True, False, False, False]).average_precision() == 0.25


def test_average_precision_without_mines_is_undefined():
    assert math.isnan(histogram([1_000, 9_000], [False, False]).average_precision())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_threshold_metrics_are_those_of_scikit_learn_at_the_best_threshold(seed, skill):
    steps, truth = world(seed, pixels=300, prevalence=0.2, skill=skill)
    truth[0] = True
    f1, threshold = histogram(steps, truth).best_f1()
    detected = steps / STEPS >= threshold
    got = histogram(steps, truth).at(threshold)
    assert got.f1 == f1 == pytest.approx(f1_score(truth, detected))
    assert got.precision == pytest.approx(precision_score(truth, detected))
    assert got.recall == pytest.approx(recall_score(truth, detected))
    assert got.iou == pytest.approx(jaccard_score(truth, detected))
    assert got.true_negatives == (~truth & ~detected).sum()
    assert threshold == round(threshold, 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_threshold_has_a_better_f1(seed):
    steps, truth = world(seed, pixels=40, prevalence=0.3)
    truth[0] = True
    best = max(f1_score(truth, steps >= step) for step in np.unique(steps))
    assert histogram(steps, truth).best_f1()[0] == pytest.approx(best)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(0, STEPS).map(lambda step: step / STEPS), st.floats(0, 1)))
def test_a_threshold_counts_the_scores_at_or_above_it(threshold):
    steps = np.arange(STEPS + 1)
    counted = histogram(steps, np.ones(steps.size, bool)).at(threshold).true_positives
    assert counted == (steps / STEPS >= threshold).sum()


def test_no_mines_has_no_best_threshold():
    with pytest.raises(ValueError, match="no mine pixels"):
        histogram([1_000], [False]).best_f1()


def test_pr_curve_is_that_of_scikit_learn_at_its_own_thresholds():
    steps, truth = world(3, pixels=2_000)
    thresholds, precision, recall = histogram(steps, truth).pr_curve()
    assert (np.diff(thresholds) < 0).all()
    assert recall[-1] == 1.0
    for index in (0, len(thresholds) // 3, -1):
        detected = steps / STEPS >= thresholds[index]
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


def test_logits_fall_into_the_bins_nearest_to_them():
    logits = np.random.default_rng(4).normal(0, 4, 1_000)
    found = LogitHistogram.of(logits, logits > 0)
    nearest = np.abs(logits[:, None] - LOGITS).argmin(axis=1)
    np.testing.assert_array_equal(found.positives + found.negatives, np.bincount(nearest, minlength=LOGITS.size))
    assert found.negatives[LOGITS > 0].sum() == found.positives[LOGITS < 0].sum() == 0
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-LOGITS)), rtol=1e-12)


def test_extreme_logits_and_scores_are_counted_at_the_ends():
    logits = LogitHistogram.of(np.array([-1e9, 1e9, np.inf]), np.array([False, True, True]))
    assert logits.negatives[0] == 1
    assert logits.positives[-1] == 2
    scores = histogram([0, STEPS], [False, True])
    assert scores.negatives[0] == 1
    assert scores.positives[-1] == 1
    assert scores.positives.size == SCORES.size == STEPS + 1


@pytest.mark.parametrize("step", [-1, STEPS + 1, NODATA])
def test_a_step_that_is_no_score_is_refused(step):
    with pytest.raises(ValueError, match="not within 0 and 10000"):
        histogram([5_000, step], [True, False])


def test_a_logit_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="logit is NaN"):
        LogitHistogram.of(np.array([math.nan]), np.array([True]))


def test_a_truth_of_another_size_or_type_is_refused():
    with pytest.raises(ValueError, match="2 scores, 1 truths"):
        histogram([5_000, 5_000], [True])
    with pytest.raises(ValueError, match="of type int64"):
        histogram([5_000], [1])


AP = {"ap": ScoreHistogram.average_precision}


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """Sites of differing skill: the interval of the mean-like AP must hold the long-run AP in most worlds."""
    generator = np.random.default_rng(5)
    kinds = [ScoreHistogram.of(*world(seed, pixels=500, prevalence=0.2, skill=seed % 4)) for seed in range(200)]
    whole = sum(kinds, ScoreHistogram.empty()).average_precision()
    inside = 0
    for trial in range(30):
        drawn = [kinds[index] for index in generator.integers(len(kinds), size=30)]
        low, high = bootstrap(drawn, AP, samples=100, seed=trial)["ap"]
        inside += low <= whole <= high
    assert inside >= 24


def shares(number):
    """Sites of 1,000 pixels of which differing shares are mines: (histograms, shares)."""
    found = np.random.default_rng(6).random(number)
    return [histogram(np.zeros(1000, int), np.arange(1000) < 1000 * share) for share in found], found


def prevalence(of: ScoreHistogram) -> float:
    return of.prevalence


def test_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_and_as_scipy_finds_it():
    sites, found = shares(40)
    low, high = bootstrap(sites, {"mean": prevalence}, samples=2000, seed=0)["mean"]
    assert high - low == pytest.approx(2 * 1.96 * found.std() / math.sqrt(len(found)), rel=0.1)
    oracle = stats.bootstrap((found,), np.mean, n_resamples=2000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx(tuple(oracle), abs=0.01)


def test_bootstrap_is_the_same_for_the_same_seed_and_wider_with_fewer_sites():
    sites = [ScoreHistogram.of(*world(seed, pixels=500, prevalence=0.2, skill=seed % 4)) for seed in range(40)]
    one = bootstrap(sites, AP, samples=200, seed=0)
    assert one == bootstrap(sites, AP, samples=200, seed=0)
    assert one != bootstrap(sites, AP, samples=200, seed=1)
    few = bootstrap(sites[:4], AP, samples=200, seed=0)
    assert few["ap"][1] - few["ap"][0] > 2 * (one["ap"][1] - one["ap"][0])


def test_months_of_a_site_that_agree_are_one_draw():
    """The interval over sites is that of the sites alone; over observations it would look four months better."""
    sites, _ = shares(12)
    over_sites = bootstrap([site + site + site + site for site in sites], {"mean": prevalence}, samples=300, seed=0)
    over_observations = bootstrap([site for site in sites for _ in range(4)], {"mean": prevalence}, samples=300, seed=0)
    assert over_sites == bootstrap(sites, {"mean": prevalence}, samples=300, seed=0)
    wide, narrow = (one["mean"][1] - one["mean"][0] for one in (over_sites, over_observations))
    assert wide == pytest.approx(2 * narrow, rel=0.15)


def test_bootstrap_of_one_site_says_nothing():
    assert all(math.isnan(end) for end in bootstrap([ScoreHistogram.of(*world(0))], AP, samples=10, seed=0)["ap"])


def test_bootstrap_leaves_out_draws_without_mines():
    with_mines = ScoreHistogram.of(*world(0))
    without = histogram([5_000], [False])
    low, high = bootstrap([with_mines, without], AP, samples=50, seed=0)["ap"]
    assert 0 < low <= high <= 1
