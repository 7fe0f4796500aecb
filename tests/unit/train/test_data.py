import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sandwatch.errors import InputError
from sandwatch.schemas import Windows
from sandwatch.stack import NODATA, counted, mines
from sandwatch.train.data import Batches, Chips, TrainingBatches, WindowSampler, in_batches
from tests import tiny_chips
from tests.conftest import descriptors


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    return Chips(tiny_chips.write(tmp_path_factory.mktemp("chips")))


def test_a_batch_holds_the_windows_asked_for(chips: Chips) -> None:
    indices = np.array([3, 40, 3, 70])
    pixels, masks = Batches(chips)[indices]
    assert (pixels.dtype, pixels.shape) == (torch.int16, (4, 3, 32, 32))
    assert (masks.dtype, masks.shape) == (torch.uint8, (4, 32, 32))
    for i, index in enumerate(indices):
        row, col = chips.row[index], chips.col[index]
        np.testing.assert_array_equal(pixels[i], chips.pixels(chips.obs_id[index])[:, row : row + 32, col : col + 32])
        np.testing.assert_array_equal(masks[i], chips.mask(chips.obs_id[index])[row : row + 32, col : col + 32])


def test_what_reaches_beyond_the_scene_is_without_data(tmp_path: Path) -> None:
    folder = tiny_chips.write(tmp_path)
    windows = Windows.read(folder / "windows.parquet")
    small = (windows["obs_id"] == "a_2020-01-01") & (windows["row"] == 16)
    Windows.write(
        windows[(windows["obs_id"] != "a_2020-01-01") | (small & (windows["col"] == 0))].assign(
            row=lambda table: table["row"].where(table["obs_id"] != "a_2020-01-01", 0)
        ),
        folder / "windows.parquet",
    )
    for kind in ("pixels", "masks"):
        path = folder / kind / "a_2020-01-01.npy"
        np.save(path, np.load(path)[..., :24, :14])
    chips = Chips(folder)
    pixels, masks = chips.gather(np.flatnonzero(chips.obs_id == "a_2020-01-01"))
    assert (masks[0, 24:, :] == 255).all()
    assert (masks[0, :, 14:] == 255).all()
    assert (pixels[0, :, 24:, :] == NODATA).all()
    np.testing.assert_array_equal(pixels[0, :, :24, :14], chips.pixels("a_2020-01-01"))


def test_a_cover_is_the_union_of_windows(chips: Chips) -> None:
    ids = ["a_2020-01-01_g0_16", "a_2020-01-01_g16_32", "c_2020-01-01_g32_64"]
    covers = chips.cover(np.flatnonzero(np.isin(chips.chip_id, ids)))
    expected = np.zeros((64, 112), bool)
    expected[0:32, 16:48] = expected[16:48, 32:64] = True
    assert list(covers) == ["a_2020-01-01", "c_2020-01-01"]
    np.testing.assert_array_equal(covers["a_2020-01-01"], expected)
    assert covers["c_2020-01-01"].sum() == 32 * 32


def test_thinned_windows_cover_almost_as_much_with_little_overlap(chips: Chips) -> None:
    every = chips.of("val")
    thin = chips.thin(every)
    assert len(thin) < len(every) / 2
    assert set(thin) <= set(every)
    times = np.zeros((64, 112), int)
    for index in thin:
        times[chips.row[index] : chips.row[index] + 32, chips.col[index] : chips.col[index] + 32] += 1
    assert (times > 0).mean() > 0.7
    assert times.mean() < 1.2


def test_moments_are_those_of_the_pixels_under_the_windows_once_each(chips: Chips) -> None:
    windows = np.flatnonzero(chips.obs_id == "a_2020-01-01")[:4]
    mean, std = chips.moments(windows)
    cover = chips.cover(windows)["a_2020-01-01"]
    assert 0 < cover.sum() < len(windows) * 32 * 32
    for band in range(3):
        values = np.asarray(chips.pixels("a_2020-01-01")[band][cover], np.float64)
        values = values[values != NODATA]
        assert mean[band] == pytest.approx(values.mean(), abs=1e-4)
        assert std[band] == pytest.approx(values.std(), abs=1e-4)


def test_a_band_without_data_is_refused(tmp_path: Path) -> None:
    folder = tiny_chips.write(tmp_path)
    for path in (folder / "pixels").iterdir():
        pixels = np.load(path)
        pixels[2] = NODATA
        np.save(path, pixels)
    chips = Chips(folder)
    with pytest.raises(InputError, match="band 3: got no pixel with data"):
        chips.moments(chips.of("train"))


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "other shape", "other bands", "smaller"])
@pytest.mark.parametrize("kind", ["pixels", "masks"])
def test_arrays_that_are_not_whole_are_found_before_training(tmp_path: Path, kind: str, damage: str) -> None:
    folder = tiny_chips.write(tmp_path)
    path = folder / kind / "c_2020-01-01.npy"
    content, array = path.read_bytes(), np.load(path)
    path.unlink()
    if damage in ("empty", "short"):
        path.write_bytes(content[:-1] if damage == "short" else b"")
    elif damage == "other shape":
        np.save(path, array[..., :-1])
    elif damage == "other bands":
        np.save(path, array[:-1])
    elif damage == "smaller":  # both, so that they fit each other
        for name in ("pixels", "masks"):
            whole = np.load(folder / name / "t_2020-01-01.npy")
            np.save(folder / name / "c_2020-01-01.npy", whole[..., :50, :])
    with pytest.raises(InputError, match=r"c_2020-01-01.*: got .+; expected .+; run dvc checkout chips, or dvc repro"):
        Chips(folder)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_table_of_windows_that_is_not_whole_is_refused(tmp_path: Path, length: int) -> None:
    path = tiny_chips.write(tmp_path) / "windows.parquet"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"windows\.parquet: got .+; expected a table of windows; run dvc"):
        Chips(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "got"),
    [
        ("size_px", ["32"], "size_px of type string, 0 missing"),
        ("row", [0.5], "row of type double, 0 missing"),
        ("group", ["a"], "group of type string, 0 missing"),
        ("chip_id", [7], "chip_id of type int64, 0 missing"),
        ("col", [None], "col of type null, "),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path: Path, name: str, values: list[Any], got: str) -> None:
    path = tiny_chips.write(tmp_path) / "windows.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array(values * table.num_rows)), path)
    with pytest.raises(InputError, match=rf"windows\.parquet: got {got}.*; expected a table of windows; run dvc"):
        Chips(tmp_path)


def test_a_folder_without_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"windows\.parquet: got .*; expected a table of windows; run dvc"):
        Chips(tmp_path)
    table = pq.read_table(tiny_chips.write(tmp_path) / "windows.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "windows.parquet")
    with pytest.raises(InputError, match=r"windows\.parquet: got no rows"):
        Chips(tmp_path)


def test_which_pixels_count() -> None:
    mask = np.array([0, 1, 2, 255], np.uint8)
    assert counted(mask, "binary").tolist() == [True, False, True, False]
    assert mines(mask, "binary").tolist() == [False, False, True, False]
    assert counted(mask, "three_class").tolist() == [True, True, True, False]
    assert mines(torch.from_numpy(mask), "three_class").tolist() == [False, True, True, False]


def sampler(mined: int, empty: int, *, per_epoch: int, seed: int = 0, mine_share: float = 0.5) -> WindowSampler:
    """Of windows with a mine, from 0, and without, from 100."""
    windows = np.concatenate([np.arange(mined), 100 + np.arange(empty)])
    return WindowSampler(windows, windows < 100, per_epoch=per_epoch, mine_share=mine_share, seed=seed)


@given(
    mined=st.integers(0, 12),
    empty=st.integers(0, 12),
    per_epoch=st.integers(1, 30),
    epochs=st.integers(1, 6),
    mine_share=st.floats(0, 1),
)
def test_draws_are_fair_and_counted(mined: int, empty: int, per_epoch: int, epochs: int, mine_share: float) -> None:
    if not mined + empty:
        return
    drawn = sampler(mined, empty, per_epoch=per_epoch, seed=3, mine_share=mine_share)
    exposures = drawn.exposures(epochs)
    seen = np.concatenate([drawn.epoch(number) for number in range(epochs)])
    assert {index: int((seen == index).sum()) for index in set(seen.tolist())} == exposures
    assert sum(exposures.values()) == per_epoch * epochs
    for windows in (range(mined), range(100, 100 + empty)):
        times = [exposures.get(index, 0) for index in windows]
        assert not times or max(times) - min(times) <= 1
    if mined and empty:
        of_mined = sum(exposures.get(index, 0) for index in range(mined))
        assert abs(of_mined - mine_share * per_epoch * epochs) <= 0.5


@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5), data=st.data())
def test_strata_are_drawn_as_often_as_each_other(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    """Whatever they hold; within each, windows with and without a mine by the share."""
    strata = np.array([name for name, counts in zip("cabde", sizes, strict=False) for _ in range(sum(counts))])
    mined = np.array([i < with_mine for with_mine, without in sizes for i in range(with_mine + without)], bool)
    if not len(strata):
        return
    order = np.random.default_rng(0).permutation(len(strata))
    strata, mined = strata[order], mined[order]
    per_epoch, epochs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    share = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
    drawn = WindowSampler(np.arange(len(strata)), mined, strata=strata, per_epoch=per_epoch, mine_share=share, seed=1)
    assert all(len(drawn.epoch(number)) == per_epoch for number in range(epochs))
    exposures = drawn.exposures(epochs)
    times = np.array([exposures.get(index, 0) for index in range(len(strata))])
    totals = {name: times[strata == name].sum() for name in np.unique(strata)}
    assert max(totals.values()) - min(totals.values()) <= 1
    for name, total in totals.items():
        for kind in (mined, ~mined):
            own = times[(strata == name) & kind]
            assert not len(own) or own.max() - own.min() <= 1
        if len(set(mined[strata == name])) == 2:
            assert abs(times[(strata == name) & mined].sum() - share * total) <= 0.5


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return sampler(20, 30, per_epoch=24, seed=seed).epoch(number).tolist()

    assert epoch(0, 2) == epoch(0, 2)
    assert epoch(0, 2) != epoch(0, 3)
    assert epoch(0, 2) != epoch(1, 2)
    assert sorted(epoch(0, 0)) != epoch(0, 0)


def test_processes_share_an_epoch_without_overlap_or_loss() -> None:
    drawn = sampler(20, 30, per_epoch=24)
    parts = []
    for rank in range(3):
        batches = TrainingBatches(drawn, batch_size=4, rank=rank, world=3)
        batches.set_epoch(1)
        assert [len(batch) for batch in batches] == [4] * len(batches) == [4, 4]
        parts += [index for batch in batches for index in batch]
    assert sorted(parts) == sorted(drawn.epoch(1))


@pytest.mark.parametrize("method", ["binary", "three_class"])
def test_a_mines_weight_from_data_makes_both_sides_even(chips: Chips, method: str) -> None:
    windows = chips.of("train")
    _, masks = chips.gather(windows)
    keep = counted(masks, method)
    mine = mines(masks, method)
    weight = chips.mine_weight(windows, method)
    assert weight > 1
    assert weight * (mine & keep).sum() == pytest.approx((~mine & keep).sum(), rel=1e-3)


def test_batches_keep_every_window() -> None:
    assert [batch.tolist() for batch in in_batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_a_process_without_windows_has_one_empty_batch(chips: Chips) -> None:
    (none,) = in_batches(np.arange(0), 2)
    pixels, masks = Batches(chips)[none]
    assert (pixels.dtype, pixels.shape) == (torch.int16, (0, 3, 32, 32))
    assert (masks.dtype, masks.shape) == (torch.uint8, (0, 32, 32))


def test_more_observations_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    windows = Windows.read(tiny_chips.write(tmp_path) / "windows.parquet").query("obs_id == 'a_2020-01-01'").iloc[:1]
    ids = [f"a_{year}-{month:02}-01" for year in range(1900, 2000) for month in range(1, 13)]
    table = pd.concat([windows] * len(ids)).assign(obs_id=ids, chip_id=[f"{obs_id}_g0_0" for obs_id in ids])
    Windows.write(table, tmp_path / "windows.parquet")
    for number, obs_id in enumerate(ids):
        np.save(tmp_path / "pixels" / f"{obs_id}.npy", np.full((3, 32, 32), number, np.int16))
        np.save(tmp_path / "masks" / f"{obs_id}.npy", np.full((32, 32), number % 3, np.uint8))
    chips = Chips(tmp_path)
    with descriptors(100):
        pixels, masks = chips.gather(np.arange(len(ids)))
        chips.moments(np.arange(len(ids)))
    assert (pixels == np.arange(1200)[:, None, None, None]).all()
    assert (masks == (np.arange(1200) % 3)[:, None, None]).all()


def test_maps_hold_no_file_open_and_take_no_writes(tmp_path: Path) -> None:
    folder = tiny_chips.write(tmp_path)
    chips = Chips(folder)
    chips.gather(np.arange(len(chips.obs_id)))
    held = [link for link in Path("/proc/self/fd").iterdir() if folder.as_posix() in os.path.realpath(link)]
    assert held == []
    pixels = chips.pixels("a_2020-01-01")
    np.testing.assert_array_equal(pixels, np.load(folder / "pixels" / "a_2020-01-01.npy"))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_a_share_of_the_observations_trains_with_all_their_windows(chips: Chips) -> None:
    every = chips.of("train")
    np.testing.assert_array_equal(chips.training(share=1.0, seed=0, method="binary"), every)
    for seed in range(8):
        some = chips.training(share=0.4, seed=seed, method="binary")  # of a, b and n, the last of which has no mine
        (obs_id,) = np.unique(chips.obs_id[some])
        assert obs_id[0] in "ab"
        np.testing.assert_array_equal(some, every[chips.obs_id[every] == obs_id])
