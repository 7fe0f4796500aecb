"""Observations of invented sites, with masks and stacks on disk, and a model that is known."""

from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from sandwatch.evaluate import Evaluate, evaluate
from sandwatch.learn.card import CLASSES
from sandwatch.stack import NODATA

PARAMS = Evaluate(bootstrap_samples=50, calibration_bins=10, min_object_m2=300, match_iou=0.3, worst_misses=4, seed=0)
SITES = {"up": ("Ula", 20.0), "mid": ("Ula", 20.8), "low": ("Bera", 21.9)}
FOLDS = {"up_2024-01-01": "train", "mid_2024-01-01": "val", "low_2024-01-01": "test", "low_2024-05-01": "test"}
TWO_MORE = {"side_2024-01-01": ("Ula", 21.95), "delta_2024-03-01": ("Bera", 22.05)}
"""Test observations: of a river that is trained on elsewhere, and of a second site of the holdout river."""
SIZE, HEIGHT, WIDTH = 32, 70, 90


class Pointwise:
    """A model whose score is the first band in ten-thousandths: what it says of a pixel is known.

    The second band, likewise, is the share of high confidence in it.
    """

    def __init__(self, method="binary", threshold=0.5, temperature=1.0, bands=("B3", "B8")):
        self.spec = SimpleNamespace(
            size_px=SIZE, overlap_px=8, batch_size=3, method=method, classes=CLASSES[method], threshold=threshold,
            temperature=temperature, bands=bands, mean=(3_000.0,) * len(bands), std=(1_000.0,) * len(bands),
            imagery="real", labels="real",
        )  # fmt: skip

    def __call__(self, pixels):
        shares = pixels[:, : len(self.spec.classes) - 1].clip(1, 9_999) / 10_000
        log_odds = np.log(shares / (1 - shares)).astype(np.float32)
        log_odds[:, 0] *= self.spec.temperature
        return log_odds


class World:
    """Observations of three sites on two rivers, one of them held out, with masks and stacks on disk.

    ``more`` are further test observations, (river, longitude) by obs_id, each of a site of its own.
    """

    def __init__(self, root: Path, more=()):
        self.chips, self.holdout_rivers = root, ("Bera",)
        more = dict(more)
        self.folds = FOLDS | dict.fromkeys(more, "test")
        sites = SITES | {obs_id.split("_")[0]: place for obs_id, place in more.items()}
        rows = []
        for site, (river, longitude) in sites.items():
            rows.append(
                {
                    "site_id": site,
                    "river": river,
                    "fold": next(fold for obs, fold in self.folds.items() if obs.startswith(site)),
                    "utm_crs": "EPSG:32644",
                    "left_m": 500_000.0 + 109_640.0 * (longitude - 20.0),
                    "top_m": 2_000_000.0,
                    "width_px": WIDTH,
                    "height_px": HEIGHT,
                    "geometry": shapely.box(longitude, 10, longitude + 0.05, 10.03),
                }
            )
        self.aoi = gpd.GeoDataFrame(rows, crs="EPSG:4326")
        self.manifest = pd.DataFrame({"obs_id": list(self.folds), "source": "files"})
        for name in ("pixels", "masks"):
            (root / name).mkdir()
        generator = np.random.default_rng(0)
        self.masks, self.stacks = {}, {}
        windows = []
        for obs_id, fold in self.folds.items():
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[5:20, 8:30], mask[40:50, 50:60], mask[24:30, 3:12], mask[:4] = 2, 2, 1, 255
            score = np.clip(generator.normal(0.3, 0.12, mask.shape) + 0.35 * (mask == 2), 0.01, 0.99)
            stack = np.stack([score * 10_000, generator.random(mask.shape) * 10_000]).astype(np.int16)
            stack[:, mask == 255] = NODATA
            self.masks[obs_id], self.stacks[obs_id] = mask, stack
            for row, col in ((0, 0), (0, 20), (38, 0), (38, 40)):
                windows.append(
                    {
                        "obs_id": obs_id,
                        "site_id": obs_id.split("_")[0],
                        "river": sites[obs_id.split("_")[0]][0],
                        "fold": fold,
                        "kind": "grid",
                        "row": row,
                        "col": col,
                        "size_px": SIZE,
                    }
                )
        self.windows = pd.DataFrame(windows)

    def evaluate(self, scorer=None, **changes):
        for obs_id in self.folds:
            np.save(self.chips / "masks" / f"{obs_id}.npy", self.masks[obs_id])
            np.save(self.chips / "pixels" / f"{obs_id}.npy", self.stacks[obs_id])
        return evaluate(
            aoi=self.aoi,
            manifest=self.manifest,
            windows=self.windows,
            chips=self.chips,
            scorer=scorer or Pointwise(),
            params=PARAMS.model_copy(update=changes),
            holdout_rivers=self.holdout_rivers,
            min_distance_km=50,
        )

    def truth(self, fold, method="binary", sites=("mid", "low", "delta")):
        """(scores, truth, second band, classes) of the pixels that a fold owns in sites, straight from the arrays."""
        parts = []
        for obs_id in self.folds:
            if self.folds[obs_id] == fold and obs_id.split("_")[0] in sites:
                region = np.zeros((HEIGHT, WIDTH), bool)
                for window in self.windows[self.windows.obs_id == obs_id].itertuples():
                    region[window.row : window.row + SIZE, window.col : window.col + SIZE] = True
                mask = self.masks[obs_id]
                kept = region & np.isin(mask, [0, 2] if method == "binary" else [0, 1, 2])
                parts.append((self.stacks[obs_id][:, kept] / 10_000, mask[kept]))
        bands, classes = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return bands[0], classes == 2 if method == "binary" else classes > 0, bands[1], classes
