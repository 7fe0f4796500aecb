"""What evaluate judges is what infer maps: the same network, the same scene, the same pixels, no difference at all."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch

from sandwatch import raster
from sandwatch.evaluate import Evaluate, evaluate
from sandwatch.grid import tile
from sandwatch.infer import infer
from sandwatch.model.metrics import ScoreHistogram
from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import NODATA, STEPS
from sandwatch.stack import encode, valid
from tests.models import section, spec

from .test_infer import BANDS, SETTINGS, make_site, tables

OBS_ID, SIZE = "kanhan_2023-02-01", 32
PARAMS = Evaluate(bootstrap_samples=5, calibration_bins=5, min_object_m2=500, match_iou=0.3, worst_misses=6, seed=0)


def predictor(method, threshold=0.5):
    """A network with random weights."""
    model = section(method=method)
    torch.manual_seed(1)
    of = spec(
        model, bands=BANDS, mean=(1000.0, 1000.0, 1200.0, -1200.0), std=(100.0, 100.0, 300.0, 200.0), temperature=20.0,
        threshold=threshold, size_px=SIZE, overlap_px=12, batch_size=3,
    )  # fmt: skip
    return Predictor(model.build(BANDS, SIZE), of, "cpu", precision="32-true")


def mapped(root, method, threshold):
    """The site, and steps and mask of its map."""
    site = make_site(root / "scenes")
    weights = root / "models" / "model.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"weights")
    infer(
        *tables(site), root / "scenes", predictor(method, threshold), SETTINGS,
        weights=weights, predictions=root / "predictions",
    )  # fmt: skip
    folder = root / "predictions" / OBS_ID
    return site, *(rasterio.open(folder / name).read(1) for name in ("score.tif", "mask.tif"))


@pytest.mark.parametrize("method", ["binary", "three_class"])
def test_evaluate_judges_the_very_pixels_that_infer_maps(tmp_path, method):
    _, steps, _ = mapped(tmp_path, method, 0.5)
    threshold = float(np.median(steps[steps != NODATA])) / STEPS  # where rounding decides about hundreds of pixels
    site, steps, mask = mapped(tmp_path, method, threshold)
    assert (steps == threshold * STEPS).sum() > 100

    chips, folder = tmp_path / "chips", tmp_path / "scenes" / OBS_ID
    stack = encode(raster.read(folder / "s2.tif", bands=BANDS[:3]), raster.read(folder / "s1.tif", bands=BANDS[3:]))
    labels = np.random.default_rng(0).choice([0, 0, 1, 2], (-(-stack.shape[1] // 9), -(-stack.shape[2] // 9)))
    labels = labels.repeat(9, 0).repeat(9, 1)[: stack.shape[1], : stack.shape[2]].astype(np.uint8)
    labels[(steps == NODATA) | ~valid(stack)] = 255
    (chips / "masks").mkdir(parents=True)
    np.save(chips / "masks" / f"{OBS_ID}.npy", labels)
    windows = pd.DataFrame(
        [
            {"obs_id": OBS_ID, "site_id": "kanhan", "river": "Kanhan", "fold": "test", "kind": "grid",
             "row": one.row, "col": one.col, "size_px": SIZE}
            for one in tile(*labels.shape, SIZE, SIZE)
        ]
    )  # fmt: skip
    trained = windows[:1].assign(obs_id="far_2023-02-01", site_id="far", river="Far", fold="train")
    aoi, manifest = tables(site, make_site(tmp_path / "scenes", "far", left=700_000.0))
    got = evaluate(
        aoi=gpd.GeoDataFrame(aoi),
        manifest=manifest,
        scenes=tmp_path / "scenes",
        windows=pd.concat([windows, trained]),
        chips=chips,
        scorer=predictor(method, threshold),
        params=PARAMS,
        holdout_rivers=["Kanhan"],
        min_distance_km=50,
    )
    counts, truth = (labels != 255), labels > 0
    if method == "binary":
        counts, truth = counts & (labels != 1), labels == 2
    assert counts.sum() > 5_000
    both = got.confusion.pixels.to_numpy().reshape(2 if method == "binary" else 3, -1)
    assert both[:, 1:].sum() == (mask == 1)[counts].sum()
    assert both[1:, 1:].sum() == ((mask == 1) & truth)[counts].sum()
    of_map = ScoreHistogram.of(steps[counts], truth[counts])
    assert got.metrics["ap"] == round(of_map.average_precision(), 4)
    thresholds, precision, recall = of_map.pr_curve()
    assert set(got.pr_curve.threshold) <= set(thresholds.round(6))
    row = got.pr_curve.iloc[len(got.pr_curve) // 2]
    at = int(np.flatnonzero(thresholds.round(6) == row.threshold)[0])
    assert (row.precision, row.recall) == (round(precision[at], 6), round(recall[at], 6))
    assert got.misses
    for miss in got.misses:
        judged = miss.steps != NODATA
        np.testing.assert_array_equal(judged, labels[miss.window.slices] != 255)
        np.testing.assert_array_equal(miss.steps[judged], steps[miss.window.slices][judged])
