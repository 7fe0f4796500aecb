import dataclasses
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, jaccard_score

from sandwatch.errors import InputError
from sandwatch.evaluate import match_objects, region_of
from sandwatch.model.calibration import ece
from sandwatch.model.metrics import LogitHistogram
from sandwatch.stack import NODATA

from .worlds import FOLDS, HEIGHT, TWO_MORE, WIDTH, Pointwise, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def larger(tmp_path):
    """A world with a second site of the holdout river, and a test site of a river that is trained on elsewhere."""
    return World(tmp_path, TWO_MORE)


def test_pixel_metrics_are_those_of_scikit_learn_on_the_pixels_that_the_fold_owns(larger):
    got = larger.evaluate(Pointwise(threshold=0.45)).metrics
    scores, truth, _, _ = larger.truth("test")
    assert got["ap"] == round(average_precision_score(truth, scores), 4)
    assert got["f1"] == round(f1_score(truth, scores >= 0.45), 4)
    assert got["iou"] == round(jaccard_score(truth, scores >= 0.45), 4)
    assert got["prevalence"] == round(truth.mean(), 4)
    assert got["ap_low95"] <= got["ap"] <= got["ap_high95"]
    scores, truth, _, _ = larger.truth("val")
    assert got["ap_val"] == round(average_precision_score(truth, scores), 4)
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


def test_a_raster_that_is_not_the_one_that_was_exported_is_refused(world):
    world.write()
    path = world.scenes / "low_2024-05-01" / "s2.tif"
    shutil.copy(world.scenes / "low_2024-01-01" / "s2.tif", path)
    with pytest.raises(InputError, match=r"observation low_2024-05-01, .*s2.tif: got SHA-256 .*; expected SHA-256 "):
        world.judge(Pointwise())


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "long", "other"])
def test_a_mask_that_is_not_whole_is_refused(world, damage):
    world.write()
    path = world.chips / "masks" / "low_2024-05-01.npy"
    content = path.read_bytes()
    path.unlink()
    if damage == "other":
        np.save(path, world.masks["low_2024-05-01"][:, :-1])
    elif damage != "gone":
        path.write_bytes({"empty": b"", "short": content[:-1], "long": content + b"0"}[damage])
    with pytest.raises(InputError, match=r"masks/low_2024-05-01.npy: got .*; expected .*; run dvc checkout chips, or"):
        world.judge(Pointwise())


def test_an_observation_that_was_not_exported_is_named(world):
    world.write()
    world.manifest = world.manifest[world.manifest.obs_id != "low_2024-05-01"]
    with pytest.raises(InputError, match=r"observation low_2024-05-01: got no s2 among what was exported; "):
        world.judge(Pointwise())


def test_random_windows_do_not_widen_what_a_fold_owns(world):
    before = world.evaluate().metrics
    extra = world.windows.iloc[-1:].assign(kind="random", row=10, col=50)
    world.windows = pd.concat([world.windows, extra], ignore_index=True)
    assert world.evaluate().metrics == before


def test_three_classes_have_their_confusion_and_ious(world):
    evaluation = world.evaluate(Pointwise(method="three_class"))
    mine, truth, share, classes = world.truth("test", "three_class")
    predicted = np.where(mine >= 0.5, np.where(share >= 0.5, 2, 1), 0)
    wanted = confusion_matrix(classes, predicted)
    np.testing.assert_array_equal(evaluation.confusion.pixels.to_numpy().reshape(3, 3), wanted)
    assert evaluation.metrics["iou_low"] == round(jaccard_score(classes == 1, predicted == 1), 4)
    assert evaluation.metrics["ap"] == round(average_precision_score(truth, mine), 4)


def test_binary_confusion_counts_pixels_and_shares(world):
    evaluation = world.evaluate()
    scores, truth, _, _ = world.truth("test")
    np.testing.assert_array_equal(
        evaluation.confusion.pixels.to_numpy().reshape(2, 2), confusion_matrix(truth, scores >= 0.5)
    )
    assert evaluation.confusion.groupby("actual").share.sum().to_numpy() == pytest.approx([1, 1], abs=1e-4)


def test_calibration_is_undone_for_the_uncalibrated_error(world):
    one = world.evaluate(Pointwise(temperature=1.0)).metrics
    two = world.evaluate(Pointwise(temperature=3.0, bias=-1.0)).metrics
    assert one["ece_uncalibrated"] == pytest.approx(one["ece"], abs=1e-3)
    assert one["ece"] == two["ece"]
    scores, truth, _, _ = world.truth("test")
    raw = LogitHistogram.of(3 * (np.log(scores / (1 - scores)) + 1), truth)
    assert two["ece_uncalibrated"] == pytest.approx(ece(raw, 10), abs=1e-4)
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


def test_counts_of_each_holdout_site(larger):
    evaluation = larger.evaluate()
    counts = evaluation.site_counts.set_index("site_id")
    assert len(counts) == evaluation.test_sites
    for site_id, row in counts.iterrows():
        scores, truth, _, _ = larger.truth("test", sites=(site_id,))
        detected = scores >= 0.5
        expected = (truth.sum(), detected.sum(), (truth & detected).sum())
        assert (row.mine_px, row.detected_px, row.found_px) == expected
    totals = counts[["mines", "mines_found", "observations"]].sum().to_list()
    assert totals == [evaluation.metrics["mines"], evaluation.metrics["mines_found"], evaluation.test_observations]


def test_no_mine_in_the_test_fold_leaves_metrics_undefined(world):
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.masks[obs_id][world.masks[obs_id] != 255] = 0
    evaluation = world.evaluate()
    assert evaluation.metrics["ap"] is None
    assert evaluation.metrics["ap_low95"] is None
    assert evaluation.metrics["recall"] is None
    assert evaluation.metrics["mines"] == 0
    assert evaluation.pr_curve.empty


def test_one_site_has_no_interval_however_many_months(world):
    evaluation = world.evaluate()
    assert (evaluation.test_sites, evaluation.test_observations) == (1, 2)
    assert evaluation.metrics["ap"] is not None
    assert evaluation.metrics["ap_low95"] is None


def test_months_of_a_site_that_agree_make_no_interval_narrower(larger):
    """With every month of a site twice, an interval over observations shrinks; one over sites stays."""
    for obs_id, quality in (("low_2024-01-01", 400), ("low_2024-05-01", 400), ("delta_2024-03-01", 4_000)):
        noise = np.random.default_rng(1).integers(0, quality, (HEIGHT, WIDTH))
        larger.stacks[obs_id][0] = 500 + noise + 300 * (larger.masks[obs_id] == 2)
    few = larger.evaluate(bootstrap_samples=400)
    again = larger.windows[larger.windows.site_id.isin(["low", "delta"])]
    for obs_id in again.obs_id.unique():
        twin = obs_id[:-2] + "28"
        larger.folds, larger.masks[twin] = larger.folds | {twin: "test"}, larger.masks[obs_id]
        larger.stacks[twin] = larger.stacks[obs_id]
    larger.windows = pd.concat([larger.windows, again.assign(obs_id=again.obs_id.str[:-2] + "28")], ignore_index=True)
    many = larger.evaluate(bootstrap_samples=400)
    assert many.test_observations == 2 * few.test_observations
    assert many.intervals["ap"] == few.intervals["ap"]
    assert few.intervals["ap"][1] - few.intervals["ap"][0] > 0.3


def test_other_test_sites_are_judged_apart(larger):
    """A group may hold a site of a river that is trained on elsewhere: it is in no figure of the holdout river."""
    larger.stacks["side_2024-01-01"][0] = 9_910 - larger.stacks["side_2024-01-01"][0].clip(1)  # as bad as can be
    evaluation = larger.evaluate()
    scores, truth, _, _ = larger.truth("test", sites=("low", "delta"))
    assert evaluation.holdout_rivers == ("Bera",)
    assert (evaluation.test_sites, evaluation.test_observations) == (2, 3)
    assert evaluation.metrics["ap"] == round(average_precision_score(truth, scores), 4)
    assert evaluation.metrics["prevalence"] == round(truth.mean(), 4)
    assert evaluation.confusion.pixels.sum() == evaluation.reliability.pixels.sum() == len(truth)
    assert {miss.obs_id.split("_")[0] for miss in evaluation.misses} <= {"low", "delta"}
    rivers = evaluation.rivers.set_index(["part", "river"])
    assert rivers.index.to_list() == [("holdout river", "Bera"), ("other test site", "Ula"), ("validation", "Ula")]
    assert rivers.trained_on.to_list() == ["no", "yes", "yes"]
    assert rivers.sites.to_list() == [2, 1, 1]
    assert rivers.fold.to_list() == ["test", "test", "val"]
    scores, truth, _, _ = larger.truth("test", sites=("side",))
    assert rivers.ap["other test site", "Ula"] == round(average_precision_score(truth, scores), 4)
    parts = evaluation.observations.set_index("obs_id").part
    assert parts["side_2024-01-01"] == "other test site"
    assert parts["delta_2024-03-01"] == "holdout river"


def test_an_empty_test_fold_is_refused(world):
    world.windows = world.windows[world.windows.fold != "test"]
    with pytest.raises(InputError, match=r"got folds train, val; expected windows of the fold test on Bera"):
        world.evaluate()


def test_test_sites_that_are_all_of_other_rivers_are_refused(larger):
    larger.windows = larger.windows[~larger.windows.site_id.isin(["low", "delta"])]
    with pytest.raises(InputError, match=r"got folds test, train, val; expected windows of the fold test on Bera"):
        larger.evaluate()


@pytest.mark.parametrize("fold", ["train", "val"])
def test_a_holdout_river_that_is_not_held_out_is_refused(larger, fold):
    larger.windows.loc[larger.windows.site_id == "delta", "fold"] = fold
    with pytest.raises(InputError, match=rf"got windows of Bera in the fold {fold}; expected .* fold test alone"):
        larger.evaluate()


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
    world.aoi[["height_px", "width_px"]] = HEIGHT + 130, WIDTH + 140
    evaluation = world.evaluate()
    assert [(miss.kind, miss.obs_id, miss.area_px) for miss in evaluation.misses] == [
        ("missed mine", "low_2024-01-01", 100),
        ("false alarm", "low_2024-05-01", 72),
    ]
    miss, alarm = evaluation.misses
    assert miss.steps.shape == (miss.window.height, miss.window.width)
    assert miss.image.shape == (3, miss.window.height, miss.window.width)
    assert (miss.window.row, miss.window.col) == (0, 55 - 48)
    row, col = 44 - alarm.window.row, 12 - alarm.window.col
    assert alarm.steps[row, col] == 9_000
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
