"""Stitched inference: equal to whole-scene inference where it must be, and bounded in memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch.errors import InputError
from sandwatch.grid import tile
from sandwatch.model.stitch import _starts, _weights, stitch, stitch_whole
from sandwatch.stack import NODATA


def scene(height, width, bands=3, seed=0, nodata=0.0):
    """An asymmetric scene: a gradient along each axis, noise, and some pixels without data in one band."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    stack = np.stack([100 * band + 7 * y + 3 * x + rng.integers(0, 50, (height, width)) for band in range(bands)])
    stack = stack.astype(np.int16)
    stack[rng.integers(0, bands), rng.random((height, width)) < nodata] = NODATA
    return stack


def pointwise(pixels):
    """A model that looks at one pixel at a time; (n, band, y, x) to (n, y, x) in [0, 1]."""
    values = np.asarray(pixels, np.float64)
    return (0.5 + 0.5 * np.sin(values[:, 0] / 90 + values[:, -1] / 31)).astype(np.float32)


def whole(stack):
    return np.where((stack != NODATA).all(axis=0), pointwise(stack[None])[0], np.nan)


sizes = st.tuples(st.integers(1, 40), st.integers(0, 39)).filter(lambda pair: pair[1] < pair[0])


@given(st.integers(1, 90), st.integers(1, 90), sizes, st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
@settings(deadline=None, max_examples=80)
def test_stitched_equals_whole_for_a_pointwise_model(height, width, size_overlap, batch_size, nodata):
    size, overlap = size_overlap
    if (height // (size - overlap) + 1) * (width // (size - overlap) + 1) > 900:
        overlap = 0
    stack = scene(height, width, nodata=nodata)
    stitched = stitch_whole(stack, pointwise, size_px=size, overlap_px=overlap, batch_size=batch_size)
    np.testing.assert_allclose(stitched, whole(stack), rtol=0, atol=1e-6)
    assert stitched.dtype == np.float32


@given(st.integers(1, 300), sizes)
@settings(deadline=None)
def test_every_pixel_has_weight_and_weights_sum_to_one(length, size_overlap):
    size, overlap = size_overlap
    starts = _starts(length, size, overlap)
    weights = _weights(starts, size, overlap)
    assert (weights > 0).all()
    total = np.zeros(starts[-1] + size)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    assert len(total) >= length
    assert all(after - before <= size - overlap for before, after in pairwise(starts))


@given(st.integers(1, 300), st.integers(1, 300), sizes)
@settings(deadline=None)
def test_windows_stand_where_the_grid_puts_them(height, width, size_overlap):
    size, overlap = size_overlap
    expected = [(window.row, window.col) for window in tile(height, width, size, size - overlap)]
    assert expected == [(row, col) for row in _starts(height, size, overlap) for col in _starts(width, size, overlap)]


def test_weights_rise_linearly_from_the_edge():
    np.testing.assert_allclose(_weights([0, 6], 8, 2)[0], [1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(_weights([0, 6], 8, 2)[1], [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])


def test_blends_windows_that_disagree():
    calls = iter(range(10))
    stack = np.ones((1, 8, 14), np.int16)

    def constant(pixels):
        return np.stack([np.full((8, 8), float(next(calls)), np.float32) for _ in pixels])

    row = stitch_whole(stack, constant, size_px=8, overlap_px=2, batch_size=1)[5]
    np.testing.assert_allclose(row, [0] * 6 + [1 / 3, 2 / 3] + [1] * 6, rtol=1e-6)


def neighbours(pixels):
    """A model that looks around: what it says of a pixel depends on the window's edge, so on the window."""
    values = np.pad(np.asarray(pixels[:, 0], np.float64), ((0, 0), (1, 1), (2, 0)))
    return (values[:, 2:, 2:] + 2 * values[:, :-2, :-2]).astype(np.float32)


@given(st.integers(1, 7), st.integers(8, 50))
@settings(deadline=None, max_examples=30)
def test_batch_size_does_not_change_a_bit(batch_size, width):
    stack = scene(41, width, nodata=0.1)
    one = stitch_whole(stack, neighbours, size_px=16, overlap_px=5, batch_size=1)
    many = stitch_whole(stack, neighbours, size_px=16, overlap_px=5, batch_size=batch_size)
    assert one.tobytes() == many.tobytes()


def test_orientation_is_kept():
    stack = scene(50, 33)
    whole_scene = neighbours(stack[None])[0]
    stitched = stitch_whole(stack, neighbours, size_px=16, overlap_px=8, batch_size=4)
    inner = (stitched[8:-8, 8:-8] == whole_scene[8:-8, 8:-8]).mean()
    assert inner > 0.5
    assert (stitched[::-1] == whole_scene).mean() < 0.1


class Reader:
    """A stack that notes which rows were read."""

    def __init__(self, stack):
        self.stack, self.shape, self.rows = stack, stack.shape, []

    def __getitem__(self, key):
        self.rows.extend(range(*key[1].indices(self.shape[1])))
        return self.stack[key]


def test_reads_every_row_once_and_yields_bands_without_gap():
    reader = Reader(scene(61, 30))
    parts = list(stitch(reader, pointwise, size_px=16, overlap_px=6, batch_size=4))
    assert reader.rows == list(range(61))
    assert [row for row, _ in parts] == [0, *np.cumsum([len(rows) for _, rows in parts])[:-1]]
    assert sum(len(rows) for _, rows in parts) == 61


def test_bands_stay_as_they_were_yielded():
    parts = list(stitch(scene(61, 30), pointwise, size_px=16, overlap_px=6, batch_size=4))
    np.testing.assert_allclose(np.concatenate([rows for _, rows in parts]), whole(scene(61, 30)), atol=1e-6)


def test_windows_without_a_pixel_asked_for_are_skipped():
    stack = scene(64, 64)
    region = np.zeros((64, 64), bool)
    region[3:9, 50:60] = True
    stack[:, 3:5] = NODATA
    seen = []

    def predict(pixels):
        seen.extend(pixels)
        return pointwise(pixels)

    scores = stitch_whole(stack, predict, size_px=16, overlap_px=0, batch_size=8, region=region)
    assert len(seen) == 1
    region[3:5] = False
    np.testing.assert_array_equal(np.isnan(scores), ~region)
    np.testing.assert_allclose(scores[region], whole(stack)[region], atol=1e-6)


def test_a_scene_without_data_needs_no_model():
    def predict(pixels):
        raise AssertionError("called")

    stack = np.full((2, 30, 20), NODATA, np.int16)
    assert np.isnan(stitch_whole(stack, predict, size_px=16, overlap_px=4, batch_size=8)).all()


class Endless:
    """A tall scene that exists a few rows at a time."""

    shape = (2, 20_000, 256)

    def __getitem__(self, key):
        rows = range(*key[1].indices(self.shape[1]))
        return np.full((2, len(rows), 256), 500, np.int16)


def test_memory_is_bounded_by_a_row_of_windows():
    tracemalloc.start()
    try:
        height = sum(len(rows) for _, rows in stitch(Endless(), pointwise, size_px=32, overlap_px=8, batch_size=2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert height == 20_000
    assert peak < 0.1 * np.prod(Endless.shape) * np.dtype(np.int16).itemsize


def test_scores_stay_in_the_range_of_the_predictions():
    def ones(pixels):
        return np.ones((len(pixels), 16, 16), np.float32)

    scores = stitch_whole(scene(77, 53), ones, size_px=16, overlap_px=11, batch_size=5)
    assert scores.max() == scores.min() == 1.0


def test_answers_of_several_layers_are_blended_each():
    stack = scene(41, 50, nodata=0.1)
    options = {"size_px": 16, "overlap_px": 5, "batch_size": 3}
    both = stitch_whole(stack, lambda pixels: np.stack([neighbours(pixels), -pixels[:, 1]], 1), **options, layers=(2,))
    assert both.shape == (2, 41, 50)
    np.testing.assert_array_equal(both[0], stitch_whole(stack, neighbours, **options))
    np.testing.assert_array_equal(both[1], stitch_whole(stack, lambda pixels: -pixels[:, 1], **options))


def test_refuses_an_overlap_that_leaves_no_step():
    with pytest.raises(InputError, match=r"scoring.overlap_px: got 16; expected 0 to 15"):
        stitch_whole(scene(20, 20), pointwise, size_px=16, overlap_px=16, batch_size=1)


def test_refuses_an_answer_of_another_shape():
    with pytest.raises(ValueError, match=r"predict returned \(1, 2, 16, 16\) for 1 windows of 16 px"):
        stitch_whole(scene(16, 16), lambda pixels: pixels[:, :2], size_px=16, overlap_px=0, batch_size=1)
