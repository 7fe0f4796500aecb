import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, jaccard_score

from sandwatch.errors import InputError
from sandwatch.evaluate import match_objects, region_of
from sandwatch.learn.calibrate import ece
from sandwatch.learn.metrics import ScoreHistogram
from sandwatch.stack import NODATA

from .worlds import FOLDS, HEIGHT, WIDTH, Pointwise, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_pixel_metrics_are_those_of_scikit_learn_on_the_pixels_that_the_fold_owns(world):
    got = world.evaluate(Pointwise(threshold=0.45)).metrics
    scores, truth, _, _ = world.truth("test")
    assert got["ap"] == pytest.approx(average_precision_score(truth, scores), abs=2e-3)
    assert got["f1"] == pytest.approx(f1_score(truth, scores >= 0.45), abs=5e-3)
    assert got["iou"] == pytest.approx(jaccard_score(truth, scores >= 0.45), abs=5e-3)
    assert got["prevalence"] == pytest.approx(truth.mean(), abs=1e-4)
    assert got["ap_low95"] <= got["ap"] <= got["ap_high95"]
    scores, truth, _, _ = world.truth("val")
    assert got["ap_val"] == pytest.approx(average_precision_score(truth, scores), abs=2e-3)
    assert got["threshold"] == 0.45


def test_pixels_outside_the_fold_or_ignored_do_not_count(world):
    before = world.evaluate()
    for obs_id in FOLDS:
        owned = region_of(world.windows[world.windows.obs_id == obs_id], (HEIGHT, WIDTH))
        world.stacks[obs_id][0, ~owned] = 9_900
        world.stacks[obs_id][0, world.masks[obs_id] == 255] = 9_900
    after = world.evaluate()
    assert after.metrics == before.metrics
    pd.testing.assert_frame_equal(after.observations, before.observations)


def test_random_windows_do_not_widen_what_a_fold_owns(world):
    before = world.evaluate().metrics
    extra = world.windows.iloc[-1:].assign(kind="random", row=10, col=50)
    world.windows = pd.concat([world.windows, extra], ignore_index=True)
    assert world.evaluate().metrics == before


def test_three_classes_have_their_confusion_and_ious(world):
    evaluation = world.evaluate(Pointwise(method="three_class"))
    mine, truth, share, classes = world.truth("test", "three_class")
    predicted = np.argmax([1 - mine, mine * (1 - share), mine * share], axis=0)
    wanted = confusion_matrix(classes, predicted)
    assert evaluation.confusion.pixels.to_numpy().reshape(3, 3) == pytest.approx(wanted, abs=3)
    assert evaluation.metrics["iou_low"] == pytest.approx(jaccard_score(classes == 1, predicted == 1), abs=5e-3)
    assert evaluation.metrics["ap"] == pytest.approx(average_precision_score(truth, mine), abs=2e-3)


def test_binary_confusion_counts_pixels_and_shares(world):
    evaluation = world.evaluate()
    scores, truth, _, _ = world.truth("test")
    assert evaluation.confusion.pixels.to_numpy().reshape(2, 2) == pytest.approx(
        confusion_matrix(truth, scores >= 0.5), abs=3
    )
    assert evaluation.confusion.groupby("actual").share.sum().to_numpy() == pytest.approx([1, 1], abs=1e-4)


def test_temperature_is_undone_for_the_uncalibrated_error(world):
    one = world.evaluate(Pointwise(temperature=1.0)).metrics
    two = world.evaluate(Pointwise(temperature=3.0)).metrics
    assert one["ece"] == one["ece_uncalibrated"] == two["ece"]
    scores, truth, _, _ = world.truth("test")
    raw = 1 / (1 + (1 / scores - 1) ** 3)
    assert two["ece_uncalibrated"] == pytest.approx(ece(ScoreHistogram.of(raw, truth), 10), abs=1e-3)
    assert two["ece_uncalibrated"] != pytest.approx(two["ece"], abs=1e-2)


def test_rows_of_observations_and_rivers(world):
    world.masks["low_2024-05-01"][:] = np.where(world.masks["low_2024-05-01"] == 255, 255, 0)
    evaluation = world.evaluate()
    rows = evaluation.observations.set_index("obs_id")
    assert list(rows.index) == ["low_2024-01-01", "low_2024-05-01", "mid_2024-01-01"]
    assert math.isnan(rows.ap["low_2024-05-01"])
    assert rows.ap["low_2024-01-01"] > 0.5
    rivers = evaluation.rivers.set_index(["fold", "river"])
    assert rivers.observations.to_dict() == {("test", "Bera"): 2, ("val", "Ula"): 1}
    assert rivers.mines.to_dict() == {("test", "Bera"): 2, ("val", "Ula"): 2}


def test_no_mine_in_the_test_fold_leaves_metrics_undefined(world):
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.masks[obs_id][world.masks[obs_id] != 255] = 0
    evaluation = world.evaluate()
    assert evaluation.metrics["ap"] is None
    assert evaluation.metrics["ap_low95"] is None
    assert evaluation.metrics["recall"] is None
    assert evaluation.metrics["mines"] == 0
    assert evaluation.pr_curve.empty


def test_one_test_observation_has_no_interval(world):
    world.windows = world.windows[world.windows.obs_id != "low_2024-05-01"]
    evaluation = world.evaluate()
    assert evaluation.metrics["ap"] is not None
    assert evaluation.metrics["ap_low95"] is None


def test_an_empty_test_fold_is_refused(world):
    world.windows = world.windows[world.windows.fold != "test"]
    with pytest.raises(InputError, match=r"windows.parquet: got folds train, val; expected windows of the fold test"):
        world.evaluate()


def test_the_distance_between_train_and_test_is_reported(world):
    # Of what is read, not of AOIs: from column 72 of the training scene to column 0 of the test scene.
    assert world.evaluate().metrics["train_test_km"] == pytest.approx(1.9 * 109.64 - 0.72, rel=3e-4)


def test_blocks_tell_their_gap(world):
    assert world.evaluate().blocks_gap_m is None
    world.aoi.loc[world.aoi.site_id == "up", "fold"] = "blocks"
    cut = world.windows.obs_id == "up_2024-01-01"
    world.windows = world.windows[~cut | (world.windows.row == 0)]
    val = world.windows[world.windows.obs_id == "up_2024-01-01"].assign(row=38, fold="val")
    world.windows = pd.concat([world.windows, val], ignore_index=True)
    evaluation = world.evaluate()
    assert evaluation.blocks_gap_m == pytest.approx(60, rel=0.01)  # rows 32 to 38 of 10 m
    assert evaluation.blocks_rivers == ("Ula",)


def test_the_pr_curve_is_short_and_runs_through_the_threshold_metrics(world):
    curve = world.evaluate().pr_curve
    assert len(curve) <= 201
    assert curve.recall.is_monotonic_increasing
    assert curve.recall.iloc[-1] == 1.0
    scores, truth, _, _ = world.truth("test")
    middle = curve.iloc[len(curve) // 2]
    detected = scores >= middle.threshold
    assert middle.recall == pytest.approx((detected & truth).sum() / truth.sum(), abs=0.02)
    assert middle.precision == pytest.approx((detected & truth).sum() / detected.sum(), abs=0.02)


def test_the_worst_misses_are_found_where_they_are(world):
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.stacks[obs_id][0] = np.where(world.masks[obs_id] == 2, 9_000, 500)
    world.stacks["low_2024-01-01"][0, 40:50, 50:60] = 500  # a mine of 100 px that is missed
    world.stacks["low_2024-05-01"][0, 42:50, 10:19] = 9_000  # 72 px where nothing is
    for obs_id in FOLDS:  # a scene larger than a picture
        world.masks[obs_id] = np.pad(world.masks[obs_id], ((0, 130), (0, 140)), constant_values=255)
        world.stacks[obs_id] = np.pad(world.stacks[obs_id], ((0, 0), (0, 130), (0, 140)), constant_values=NODATA)
    evaluation = world.evaluate()
    assert [(miss.kind, miss.obs_id, miss.area_px) for miss in evaluation.misses] == [
        ("missed mine", "low_2024-01-01", 100),
        ("false alarm", "low_2024-05-01", 72),
    ]
    miss, alarm = evaluation.misses
    assert miss.score.shape == (miss.window.height, miss.window.width)
    assert (miss.window.row, miss.window.col) == (0, 55 - 48)
    row, col = 44 - alarm.window.row, 12 - alarm.window.col
    assert alarm.score[row, col] == pytest.approx(0.9, abs=1e-3)
    assert evaluation.metrics["mines"] == 4
    assert evaluation.metrics["mines_found"] == 3
    area_km2 = evaluation.observations[evaluation.observations.fold == "test"].area_km2.sum()
    assert evaluation.metrics["false_alarms_per_100km2"] == pytest.approx(100 / area_km2, rel=1e-3)


def test_the_number_of_misses_is_shared_between_the_kinds(world):
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.stacks[obs_id][0] = 500
        for row in range(6, 60, 9):
            world.stacks[obs_id][0, row : row + 7, 33:50] = 9_000
    assert [miss.kind for miss in world.evaluate().misses] == ["missed mine"] * 2 + ["false alarm"] * 2
    assert [miss.kind for miss in world.evaluate(worst_misses=1).misses] == ["missed mine"]
    assert len(world.evaluate(worst_misses=99).misses) > 8


class TestObjects:
    @pytest.fixture
    def mask(self):
        mask = np.zeros((30, 40), np.uint8)
        mask[2:12, 3:13], mask[20:26, 25:35], mask[16:20, 2:8] = 2, 2, 1
        return mask

    def match(self, detected, mask, **changes):
        return match_objects(detected, mask, **{"method": "binary", "match_iou": 0.3, "min_px": 4, **changes})

    def test_what_is_detected_exactly_is_found(self, mask):
        assert dataclasses.astuple(self.match(mask == 2, mask))[:3] == (2, 2, 0)

    def test_overlap_below_the_iou_finds_nothing(self, mask):
        detected = np.zeros_like(mask, bool)
        detected[2:12, 3:6] = True  # 30 of 100 pixels
        assert self.match(detected, mask).found == 1
        assert self.match(detected, mask, match_iou=0.31).found == 0

    def test_a_fragment_of_a_mine_is_no_false_alarm(self, mask):
        detected = np.zeros_like(mask, bool)
        detected[4:8, 5:8] = True
        got = self.match(detected, mask)
        assert (got.found, got.false_alarms) == (0, 0)

    def test_a_hit_on_a_low_confidence_mine_is_neither_found_nor_false(self, mask):
        got = self.match(mask == 1, mask)
        assert (got.mines, got.found, got.false_alarms) == (2, 0, 0)

    def test_three_classes_count_low_confidence_as_mines(self, mask):
        got = self.match(mask == 1, mask, method="three_class")
        assert (got.mines, got.found, got.false_alarms) == (3, 1, 0)

    def test_a_blob_over_everything_is_a_false_alarm(self, mask):
        got = self.match(np.ones_like(mask, bool), mask)
        assert (got.found, got.false_alarms) == (0, 1)

    def test_small_objects_do_not_count(self, mask):
        mask[28, 38] = 2
        detected = np.zeros_like(mask, bool)
        detected[0, 39] = True
        got = self.match(detected, mask)
        assert (got.mines, got.false_alarms) == (2, 0)
        assert (self.match(detected, mask, min_px=1).mines, self.match(detected, mask, min_px=1).false_alarms) == (3, 1)

    def test_pixels_that_touch_at_a_corner_only_are_two_objects(self):
        mask = np.zeros((6, 6), np.uint8)
        mask[:2, :2] = mask[2:4, 2:4] = 2
        assert self.match(mask == 2, mask).mines == 2
        mask[1, 2] = 2
        assert self.match(mask == 2, mask).mines == 1

    def test_detections_on_ignored_pixels_do_not_exist(self, mask):
        mask[14:, :] = 255
        detected = np.zeros_like(mask, bool)
        detected[15:20, 20:30] = True
        assert self.match(detected, mask).false_alarms == 0

    def test_nothing_at_all(self):
        empty = np.zeros((5, 5), np.uint8)
        assert dataclasses.astuple(self.match(empty > 0, empty)) == (0, 0, 0, ())
