import json
import shutil
import threading
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.features import rasterize
from shapely.geometry import box, shape

from sandwatch import raster, schemas, stack
from sandwatch.chips import Chips, Cut, choose, cut, rasterise
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Grid, Window
from sandwatch.params import Bands
from sandwatch.split import Split
from sandwatch.stack import IGNORED
from tests.conftest import descriptors

SHARED = Path(__file__).parents[3] / "shared" / "data" / "real_labels"
UTM = "EPSG:32645"
BANDS = Bands(s2=("B2", "B3", "B4"), s1=("VV",))
CHIPS = Chips(
    size_px=32,
    stride_px=16,
    random_windows_per_chip_area=2.0,
    min_aoi_fraction=0.25,
    min_valid_fraction=0.75,
    seed=0,
)
SPLIT = Split(min_distance_km=5, holdout_rivers=("Far",), val_fraction=0.5, block_m=500, block_gap_m=100, seed=0)


@pytest.mark.parametrize("observation", sorted(SHARED.glob("*/")) or [None])
def test_masks_equal_those_of_the_real_labels(observation: Path | None) -> None:
    if observation is None:
        pytest.skip(f"{SHARED} is missing: the real masks are NOT compared")
    features = json.loads((observation / "annotations_original.geojson").read_text())["features"]
    labels = gpd.GeoDataFrame(
        {
            "feature_id": [f"{i:03d}" for i in range(len(features))],
            "confidence": [feature["properties"]["Confidence"].lower() for feature in features],
        },
        geometry=[shape(feature["geometry"]) for feature in features],
        crs="EPSG:4326",
    )
    with rasterio.open(observation / "labels_mask.tif") as file:
        reference, transform, crs = file.read(1) > 0, file.transform, file.crs.to_string()
    height, width = reference.shape
    ordinals = rasterise(
        labels,
        Grid(crs=crs, left=transform.c, top=transform.f, width=width, height=height, resolution=transform.a),
    )
    np.testing.assert_array_equal(ordinals > 0, reference)
    assert reference.any()
    assert set(np.unique(ordinals)) == set(range(len(features) + 1))


def labels_of(rows: list[tuple[str, str, Any]], crs: str = UTM) -> gpd.GeoDataFrame:
    ids, confidences, geometries = zip(*rows, strict=True) if rows else ((), (), ())
    return gpd.GeoDataFrame(
        {"feature_id": list(ids), "confidence": list(confidences)}, geometry=list(geometries), crs=crs
    )


GRID = Grid(crs=UTM, left=500_000.0, top=2_400_000.0, width=80, height=60)


def px(row: int, col: int, height: int, width: int, grid: Grid = GRID) -> Any:
    """A rectangle of whole pixels, a metre inside their edges."""
    left, bottom, right, top = grid.crop(Window(row=row, col=col, height=height, width=width)).bounds
    return box(left + 1, bottom + 1, right - 1, top - 1)


def test_the_higher_class_wins_and_then_the_later_feature() -> None:
    labels = labels_of(
        [
            ("c", "low", px(0, 0, 10, 10)),
            ("b", "high", px(5, 5, 10, 10)),
            ("a", "high", px(10, 10, 10, 12)),
            ("d", "low", px(2, 2, 2, 2)),
        ]
    )
    ordinals = rasterise(labels, GRID)
    assert ordinals.dtype == np.int32
    assert ordinals[0, 0] == 1
    assert ordinals[2, 3] == 4  # both low: d comes after c
    assert ordinals[6, 6] == 2  # high over low
    assert ordinals[12, 12] == 2  # both high: b comes after a
    assert ordinals[19, 21] == 3
    assert ordinals[59, 79] == 0


def test_a_pixel_that_is_touched_is_labelled() -> None:
    x, y = GRID.left + 205.0, GRID.top - 105.0
    assert (rasterise(labels_of([("a", "low", box(x, y, x + 5.1, y + 0.1))]), GRID) > 0).sum() == 2


def test_labels_in_degrees_are_reprojected() -> None:
    labels = labels_of([("a", "high", px(7, 30, 12, 5))])
    np.testing.assert_array_equal(rasterise(labels.to_crs("EPSG:4326"), GRID), rasterise(labels, GRID))


def test_random_windows_train_and_others_come_from_the_grid_alone() -> None:
    aoi, valid = np.ones((100, 140), bool), np.ones((100, 140), bool)
    train = choose("a_2020-01-01", aoi, valid, lambda _: "train", CHIPS)
    val = choose("a_2020-01-01", aoi, valid, lambda _: "val", CHIPS)
    assert [w for w in train if w[1] == "grid"] == [("train", kind, window) for _, kind, window in val]
    random = [window for _, kind, window in train if kind == "random"]
    assert len(random) == len(set(random)) == round(2.0 * 100 * 140 / 32**2)
    assert all(0 <= w.row <= 100 - 32 and 0 <= w.col <= 140 - 32 for w in random)
    assert train == choose("a_2020-01-01", aoi, valid, lambda _: "train", CHIPS)
    assert train != choose("b_2020-01-01", aoi, valid, lambda _: "train", CHIPS)
    assert train != choose("a_2020-01-01", aoi, valid, lambda _: "train", CHIPS.model_copy(update={"seed": 1}))


def test_windows_hold_enough_of_the_aoi_and_of_valid_pixels() -> None:
    generator = np.random.default_rng(0)
    aoi, valid = np.zeros((100, 140), bool), generator.random((100, 140)) > 0.2
    aoi[20:60, 50:] = True
    chosen = choose("a_2020-01-01", aoi, valid, lambda _: "train", CHIPS)
    regular = {window for _, kind, window in chosen if kind == "grid"}
    for row in (*range(0, 68, 16), 68):
        for col in (*range(0, 108, 16), 108):
            window = Window(row=row, col=col, height=32, width=32)
            fit = aoi[window.slices].mean() >= 0.25 and valid[window.slices].mean() >= 0.75
            assert (window in regular) == fit
    assert regular
    for _, _, window in chosen:
        assert aoi[window.slices].mean() >= 0.25
        assert valid[window.slices].mean() >= 0.75


def test_blocks_place_windows_and_drop_those_between() -> None:
    everything = np.ones((64, 300), bool)

    def fold(window: Window) -> str | None:
        return "val" if window.col >= 200 else "train" if window.col + 32 <= 190 else None

    chosen = choose("a_2020-01-01", everything, everything, fold, CHIPS)
    assert {(in_fold, kind) for in_fold, kind, _ in chosen} == {
        ("train", "grid"),
        ("val", "grid"),
        ("train", "random"),
    }
    assert all(in_fold == fold(window) for in_fold, _, window in chosen)
    assert sum(kind == "random" for _, kind, _ in chosen) == round(2.0 * 64 * 300 / 32**2)


Region = dict[str, Any]


@pytest.fixture
def region(tmp_path: Path) -> Region:
    """Three sites of two months: near ones train and validate 22 km apart, one is held out; one has no negatives."""
    sites, scenes, observations, labels = [], [], [], []
    generator = np.random.default_rng(1)
    for i, (site, river, fold) in enumerate([("s1", "Near", "train"), ("s2", "Near", "val"), ("s3", "Far", "test")]):
        grid = Grid(crs=UTM, left=500_000.0 + 22_000.0 * i, top=2_400_000.0, width=80, height=60)
        aoi = gpd.GeoSeries([px(3, 4, 50, 70, grid)], crs=UTM).to_crs("EPSG:4326").iloc[0]
        sites.append(
            {
                "site_id": site,
                "river": river,
                "district": "d",
                "role": "label",
                "longitude": 87.0,
                "latitude": 21.7,
                "months": "2020-01-01",
                "utm_crs": UTM,
                "left_m": grid.left,
                "top_m": grid.top,
                "width_px": grid.width,
                "height_px": grid.height,
                "area_km2": 0.35,
                "group": i,
                "fold": fold,
                "geometry": aoi,
            }
        )
        for month in ("2020-01-01", "2020-02-01"):
            obs_id = f"{site}_{month}"
            s2 = generator.integers(1, 5000, (3, *grid.shape)).astype(np.uint16)
            s2[:, 10:14, 20:40] = 0
            s1 = generator.normal(-12, 3, (1, *grid.shape)).astype(np.float32).round(2)
            s1[0, 50, 60] = np.nan
            raster.write_cog(tmp_path / "scenes" / obs_id / "s2.tif", s2, grid, bands=BANDS.s2, nodata=0)
            raster.write_cog(tmp_path / "scenes" / obs_id / "s1.tif", s1, grid, bands=BANDS.s1, nodata=np.nan)
            scenes += [
                {
                    "obs_id": obs_id,
                    "product": product,
                    "status": "exported",
                    "path": f"{obs_id}/{product}.tif",
                    "source": "files",
                    "sha256": sha256(tmp_path / "scenes" / obs_id / f"{product}.tif"),
                }
                for product in ("s2", "s1")
            ]
            observations.append({"obs_id": obs_id, "site_id": site})
            if month == "2020-01-01":
                drawn = [
                    (f"{site}-a", "high", px(8, 25, 12, 9, grid)),
                    (f"{site}-b", "low", px(12, 30, 14, 9, grid)),
                    (f"{site}-c", "high", px(0, 70, 6, 10, grid)),  # partly outside the AOI
                ]
                labels.append(labels_of(drawn).to_crs("EPSG:4326").assign(obs_id=obs_id))
    return {
        "aoi": gpd.GeoDataFrame(sites, crs="EPSG:4326"),
        "manifest": pd.DataFrame(scenes),
        "scenes": tmp_path / "scenes",
        "observations": pd.DataFrame(observations),
        "labels": gpd.GeoDataFrame(pd.concat(labels, ignore_index=True), crs="EPSG:4326"),
        "ignored": gpd.GeoDataFrame({"obs_id": []}, geometry=[], crs="EPSG:4326"),
        "bands": BANDS,
        "chips": CHIPS,
        "split": SPLIT,
        "workers": 2,
        "out": tmp_path / "chips",
    }


def arrays(region: Region, obs_id: str) -> tuple[Any, Any]:
    return tuple(np.load(region["out"] / kind / f"{obs_id}.npy", mmap_mode="r") for kind in ("pixels", "masks"))  # type: ignore[return-value]


def test_arrays_hold_what_the_scene_and_the_labels_hold(region: Region) -> None:
    cut(**region)
    pixels, mask = arrays(region, "s1_2020-01-01")
    folder = region["scenes"] / "s1_2020-01-01"
    expected = stack.encode(
        raster.read(folder / "s2.tif", bands=BANDS.s2), raster.read(folder / "s1.tif", bands=BANDS.s1)
    )
    np.testing.assert_array_equal(pixels, expected)
    in_utm = region["labels"][region["labels"]["obs_id"] == "s1_2020-01-01"].to_crs(UTM)
    oracle = np.full(GRID.shape, IGNORED, np.uint8)  # class by class, on the full frame
    oracle[raster.inside(region["aoi"]["geometry"].iloc[0], GRID)] = 0
    for value, confidence in ((1, "low"), (2, "high")):
        shapes = in_utm.loc[in_utm["confidence"] == confidence, "geometry"]
        oracle[rasterize(shapes, out_shape=GRID.shape, transform=GRID.transform, all_touched=True) > 0] = value
    oracle[(expected == stack.NODATA).any(axis=0)] = IGNORED
    np.testing.assert_array_equal(mask, oracle)
    assert set(np.unique(mask)) == {0, 1, 2, IGNORED}
    assert mask[0, 75] == 2  # labelled outside the AOI keeps its class
    assert mask[0, 0] == IGNORED
    assert mask[11, 27] == IGNORED  # labelled, but a band lacks data
    assert mask[50, 60] == IGNORED  # radar alone lacks data


def test_a_raster_that_is_not_the_one_that_was_exported_is_refused(region: Region) -> None:
    path = region["scenes"] / "s2_2020-01-01" / "s1.tif"
    shutil.copy(region["scenes"] / "s2_2020-02-01" / "s1.tif", path)
    with pytest.raises(InputError, match=r"observation s2_2020-01-01, .*s1.tif: got SHA-256 .*; expected SHA-256"):
        cut(**region)
    assert not (region["out"] / "pixels" / "s2_2020-01-01.npy").exists()


def test_windows_count_what_lies_in_them(region: Region) -> None:
    made = cut(**region)
    windows = schemas.Windows.checked(made.windows, "windows")
    chip_labels = schemas.ChipLabels.checked(made.chip_labels, "chip_labels")
    assert set(windows["fold"]) == {"train", "val", "test"}
    assert set(windows.loc[windows["kind"] == "random", "fold"]) == {"train"}
    groups = region["aoi"].set_index("site_id")["group"]
    assert windows["group"].tolist() == groups.loc[windows["site_id"]].tolist()
    assert len(set(windows["group"])) > 1
    gained = chip_labels.groupby("chip_id")["pixels"].sum()
    for chip in windows.to_dict("records"):
        pixels, mask = arrays(region, chip["obs_id"])
        rows, cols = Window(row=chip["row"], col=chip["col"], height=32, width=32).slices
        part = mask[rows, cols]
        for name, value in (("px_other", 0), ("px_low", 1), ("px_high", 2), ("px_ignored", IGNORED)):
            assert chip[name] == (part == value).sum()
        assert chip["valid_fraction"] == stack.valid(pixels[:, rows, cols]).mean()
        assert gained.get(chip["chip_id"], 0) == chip["px_low"] + chip["px_high"]
    assert windows["obs_id"].nunique() == 6  # those without labels too


def test_each_polygon_gets_the_pixels_that_it_won(region: Region) -> None:
    made = cut(**region)
    chip = made.windows[(made.windows["obs_id"] == "s1_2020-01-01") & (made.windows["kind"] == "grid")].iloc[1]
    assert (chip["row"], chip["col"]) == (0, 16)
    given = made.chip_labels[made.chip_labels["chip_id"] == chip["chip_id"]].set_index("feature_id")["pixels"].to_dict()
    # a: rows 8-19, columns 25-33, without the gap of rows 10-13; b: rows 14-25, columns 30-38, without a's
    assert given == {"s1-a": 8 * 9, "s1-b": 12 * 9 - 6 * 4}


def test_an_ignored_area_is_ignored_where_no_label_is(region: Region) -> None:
    """Instead of a, as its own outline; beside its neighbour b and a label c that keeps its class."""
    cut(**region)
    _, before = arrays(region, "s1_2020-01-01")
    labels = region["labels"]
    out = labels["feature_id"] == "s1-a"
    region["labels"], region["ignored"] = labels[~out], labels.loc[out, ["obs_id", "geometry"]]
    region["out"] = region["out"].parent / "without"
    made = cut(**region)
    _, mask = arrays(region, "s1_2020-01-01")
    a, b = (
        rasterize([px(*place)], out_shape=GRID.shape, transform=GRID.transform, all_touched=True) > 0
        for place in ((8, 25, 12, 9), (12, 30, 14, 9))
    )
    assert (before[a & ~b] == 2).sum() > 40
    assert (mask[a & ~b] == IGNORED).all()
    both = a & b & (before != IGNORED)
    assert both.sum() > 10
    assert (before[both] == 2).all()
    assert (mask[both] == 1).all()
    np.testing.assert_array_equal(mask[~a], before[~a])
    assert "s1-a" not in set(made.chip_labels["feature_id"])
    windows = made.windows.set_index("chip_id")
    assert (windows[["px_other", "px_low", "px_high", "px_ignored"]].sum(axis=1) == 32 * 32).all()
    given = made.chip_labels.groupby("chip_id")["pixels"].sum().reindex(windows.index, fill_value=0)
    assert (given == windows["px_low"] + windows["px_high"]).all()
    _, other = arrays(region, "s2_2020-01-01")
    assert (other[8:20, 25:34] == 2).sum() > 50, "another observation's labels are none of its business"


def test_a_scene_smaller_than_a_window_is_padded_with_ignored_pixels(region: Region) -> None:
    region["chips"] = CHIPS.model_copy(update={"size_px": 64, "min_valid_fraction": 0.5})
    made = cut(**region)
    windows = made.windows[made.windows["obs_id"] == "s1_2020-01-01"]
    counted = windows[["px_other", "px_low", "px_high", "px_ignored"]]
    assert (counted.sum(axis=1) == 64 * 64).all()
    assert (windows["row"] == 0).all()
    assert (windows["px_ignored"] >= 4 * 64).all()
    assert (windows["valid_fraction"] <= 60 / 64).all()


def test_metrics_and_notes_account_for_every_observation_and_label(region: Region) -> None:
    region["aoi"].loc[region["aoi"]["site_id"] == "s2", "fold"] = "infer"
    region["manifest"].loc[
        (region["manifest"]["obs_id"] == "s3_2020-02-01") & (region["manifest"]["product"] == "s1"), "status"
    ] = "skipped"
    made = cut(**region)
    assert made.metrics["observations"] == 3
    assert made.metrics["observations_without_chip"] == 3
    assert made.metrics["labels_without_chip"] == 3
    assert made.metrics["windows_val"] == 0
    assert made.metrics["windows_train"] == (made.windows["fold"] == "train").sum()
    assert made.metrics["train_test_min_distance_km"] == pytest.approx(43.2 / 0.9996, abs=0.01)
    assert made.notes == (
        "s2_2020-01-01: no chips, because its site is only inferred",
        "s2_2020-02-01: no chips, because its site is only inferred",
        "s3_2020-02-01: no chips, because it has no scene with all of s2, s1",
    )
    assert not (region["out"] / "pixels" / "s2_2020-01-01.npy").exists()


def everything(made: Cut, out: Path) -> tuple[Any, ...]:
    files = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.npy"))}
    return made.windows.to_csv(), made.chip_labels.to_csv(), made.metrics, made.notes, files


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same(region: Region, workers: int, tmp_path: Path) -> None:
    first = everything(cut(**region), region["out"])
    again = tmp_path / "again"
    assert everything(cut(**{**region, "workers": workers, "out": again}), again) == first


def test_a_lone_group_is_cut_into_blocks_that_keep_their_gap(region: Region) -> None:
    region["aoi"]["fold"] = ["blocks", "infer", "test"]
    region["split"] = SPLIT.model_copy(update={"block_m": 340.0, "block_gap_m": 10.0})
    region["chips"] = CHIPS.model_copy(update={"stride_px": 1, "random_windows_per_chip_area": 4.0})
    windows = cut(**region).windows
    mine = windows[windows["site_id"] == "s1"]
    assert set(mine["fold"]) == {"train", "val"}
    train, val = (mine[mine["fold"] == fold] for fold in ("train", "val"))
    assert set(val["kind"]) == {"grid"}
    assert set(train["kind"]) == {"grid", "random"}
    for start in set(val["col"]):
        assert ((train["col"] >= start + 32 + 1) | (train["col"] + 32 + 1 <= start)).all()


def test_folds_too_near_each_other_are_refused_by_name(region: Region) -> None:
    region["split"] = SPLIT.model_copy(update={"min_distance_km": 30.0})
    with pytest.raises(InputError, match=r"observations s1_2020-01-01 \(train\) and s2_2020-01-01 \(val\)"):
        cut(**region)


@pytest.mark.parametrize("promised_km", [0.0, 0.5])
def test_windows_that_share_ground_are_refused_however_far_their_areas_are(region: Region, promised_km: float) -> None:
    """AOIs 800 m apart in scenes that overlap: windows reach out of them, over the same pixels."""
    grid = GRID.crop(Window(row=0, col=40, height=60, width=80))
    for path in region["scenes"].glob("s3_*/*.tif"):
        bands = {"s2": BANDS.s2, "s1": BANDS.s1}[path.stem]
        pixels, nodata = raster.read(path, bands=bands), {"s2": 0, "s1": np.nan}[path.stem]
        raster.write_cog(path, pixels, grid, bands=bands, nodata=nodata)
        written = region["manifest"]["path"] == f"{path.parent.name}/{path.name}"
        region["manifest"].loc[written, "sha256"] = sha256(path)
    places = {"s1": px(0, 0, 60, 20), "s3": px(0, 60, 60, 20, grid)}
    for site, place in places.items():
        row = region["aoi"].index[region["aoi"]["site_id"] == site]
        region["aoi"].loc[row, "geometry"] = gpd.GeoSeries([place], crs=UTM, index=row).to_crs("EPSG:4326")
        region["aoi"].loc[row, "left_m"] = (GRID if site == "s1" else grid).left
    region["chips"] = CHIPS.model_copy(update={"min_aoi_fraction": 0.01})
    region["labels"] = region["labels"].iloc[:0]
    region["split"] = SPLIT.model_copy(update={"min_distance_km": promised_km})
    with pytest.raises(InputError, match=r"s1_2020-01-01 \(train\) and s3_2020-01-01 \(test\): got 0 km between"):
        cut(**region)


def test_an_observation_of_an_unknown_site_is_refused_by_name(region: Region) -> None:
    region["observations"].loc[2, "site_id"] = "elsewhere"
    with pytest.raises(InputError, match="observation s2_2020-01-01: got site elsewhere"):
        cut(**region)


def test_a_scene_on_another_grid_is_refused_by_name(region: Region) -> None:
    region["aoi"].loc[0, "left_m"] += 10.0
    with pytest.raises(InputError, match=r"s1_2020-01-01/s2\.tif: got Grid"):
        cut(**region)


def test_no_window_at_all_is_refused(region: Region) -> None:
    region["chips"] = CHIPS.model_copy(update={"min_valid_fraction": 1.0, "size_px": 64})
    with pytest.raises(InputError, match=r"params\.yaml: chips: got no window in 6 observations"):
        cut(**region)


def test_more_observations_than_a_process_may_have_files_open(region: Region) -> None:
    ids = [f"s1_{year}-{month:02}-01" for year in range(1990, 2015) for month in range(1, 13)]
    region["aoi"] = region["aoi"].iloc[:1]
    region["observations"] = pd.DataFrame({"obs_id": ids, "site_id": "s1"})
    region["manifest"] = pd.DataFrame(
        {
            "obs_id": obs_id,
            "product": product,
            "status": "exported",
            "path": f"s1_2020-01-01/{product}.tif",
            "source": "files",
            "sha256": sha256(region["scenes"] / "s1_2020-01-01" / f"{product}.tif"),
        }
        for obs_id in ids
        for product in ("s2", "s1")
    )
    region["chips"] = CHIPS.model_copy(update={"stride_px": 32, "random_windows_per_chip_area": 0.0})
    with descriptors(100):
        made = cut(**region)
    assert made.metrics["observations"] == len(ids) == 300


def test_no_more_workers_than_asked_for(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    read = raster.read

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.add(threading.get_ident())
        return read(*args, **kwargs)

    monkeypatch.setattr(raster, "read", watched)
    cut(**{**region, "workers": 1})
    assert len(seen) == 1
