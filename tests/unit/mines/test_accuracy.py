"""Counts and areas with the evaluation's errors: the formulas, and intervals that hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from sandwatch.errors import InputError
from sandwatch.mines.accuracy import Accuracy

# mines, found, false alarms, mine pixels, detected pixels: of three sites
SITES = np.array([[11, 9, 1, 900, 1100], [22, 18, 3, 2100, 2300], [12, 9, 0, 1000, 1000]])


def test_the_formulas():
    accuracy = Accuracy.of(SITES)
    assert accuracy.precision.value == 36 / 40
    assert accuracy.recall.value == 36 / 45
    assert accuracy.mines(30).value == pytest.approx(30 * 0.9 / 0.8)
    area = accuracy.area(550.0)
    assert area.value == pytest.approx(500)
    assert area.low < 500 < area.high
    less = accuracy.area(-550.0)
    assert (less.low, less.high) == (-area.high, -area.low)
    appeared = accuracy.appeared(12, among=32, stayed=20)
    assert appeared.value == pytest.approx((12 - 32 * 0.1 - 20 * 0.2 / 0.8) / 0.8)
    assert accuracy.appeared(0, among=30, stayed=30).value == 0
    assert (accuracy.mines(0).low, accuracy.mines(0).high) == (0, 0)


def test_more_mines_judged_give_narrower_intervals_and_the_same_ones_each_time():
    few, many = Accuracy.of(SITES).mines(30), Accuracy.of(SITES * np.array([50, 50, 50, 1, 1])).mines(30)
    assert few == Accuracy.of(SITES).mines(30)
    assert few.low < many.low <= 30 * 0.9 / 0.8 <= many.high < few.high


def test_a_perfect_evaluation_of_few_mines_is_not_certain():
    one = Accuracy.of(np.array([[4, 4, 0, 100, 100]]))
    assert one.sites == 1
    assert one.mines(10).value == 10
    assert one.mines(10).low < 9
    assert one.mines(10).high > 11
    assert one.area(100.0) is None  # one site says nothing about another


def test_no_mine_found_or_no_evaluation_says_nothing(tmp_path):
    assert Accuracy.of(np.array([[4, 0, 2, 100, 30], [0, 0, 1, 0, 10]])) is None
    assert Accuracy.read(tmp_path / "site_counts.csv") is None
    (tmp_path / "site_counts.csv").write_text("site_id,mines\na,1\n")
    with pytest.raises(InputError, match=r"site_counts\.csv: got .*expected the table that evaluate writes"):
        Accuracy.read(tmp_path / "site_counts.csv")


@pytest.mark.parametrize(("precision", "recall"), [(0.9, 0.8), (0.6, 0.9)])
def test_intervals_hold_the_true_number_as_often_as_they_say(precision, recall):
    """A world of which all is known: mines are found with ``recall``, what is seen is a mine with ``precision``."""
    random = np.random.default_rng(3)
    hit, trials = 0, 120
    for _ in range(trials):
        mines = random.poisson(12, 8)
        found = random.binomial(mines, recall)
        false = random.poisson(found * (1 - precision) / precision)
        accuracy = Accuracy.of(np.stack([mines, found, false, mines * 100, mines * 100], axis=1))
        true = random.poisson(40)
        seen = random.binomial(true, recall)
        seen += random.poisson(true * recall * (1 - precision) / precision)
        estimate = accuracy.mines(int(seen))
        hit += estimate.low <= true <= estimate.high
    assert 0.9 <= hit / trials <= 1.0


def test_what_errors_alone_make_appear_is_told_as_nothing():
    """Nothing changes, each month is seen with its own errors: the interval of what appeared begins at nothing."""
    random = np.random.default_rng(4)
    accuracy = Accuracy.of(np.array([[200, 180, 20, 1, 1], [200, 180, 20, 1, 1]]))
    lows = []
    for _ in range(60):
        first, second = random.random((2, 100)) < 0.9
        false = int(random.binomial(second.sum(), 0.1))
        stayed = int((first & second).sum())
        seen = int((second & ~first).sum()) + false
        lows.append(accuracy.appeared(seen, among=stayed + seen, stayed=stayed).low)
    assert np.mean(np.array(lows) == 0) >= 0.95
    assert accuracy.appeared(40, among=110, stayed=70).low > 10
