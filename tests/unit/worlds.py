"""Four observations of three invented sites, with masks and stacks on disk, and a model that is known."""

from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from sandwatch.evaluate import Evaluate, evaluate
from sandwatch.stack import NODATA

PARAMS = Evaluate(bootstrap_samples=50, calibration_bins=10, min_object_m2=300, match_iou=0.3, worst_misses=4, seed=0)
SITES = {"up": ("Ula", 20.0), "mid": ("Ula", 20.8), "low": ("Bera", 21.9)}
FOLDS = {"up_2024-01-01": "train", "mid_2024-01-01": "val", "low_2024-01-01": "test", "low_2024-05-01": "test"}
SIZE, HEIGHT, WIDTH = 32, 70, 90


class Pointwise:
    """A model whose score is the first band in ten-thousandths: what it says of a pixel is known."""

    def __init__(self, method="binary", threshold=0.5, temperature=1.0):
        self.spec = SimpleNamespace(
            size_px=SIZE, overlap_px=8, batch_size=3, method=method, threshold=threshold, temperature=temperature
        )

    def __call__(self, pixels):
        return (np.maximum(pixels[:, 0], 0) / 10_000).astype(np.float32)

    def classes(self, pixels):
        mine = self(pixels)
        high = mine * (np.maximum(pixels[:, 1], 0) / 10_000).astype(np.float32)
        return np.stack([1 - mine, mine - high, high], axis=1)


class World:
    """Four observations of three sites on two rivers, with masks and stacks on disk."""

    def __init__(self, root: Path):
        self.chips = root
        rows = []
        for site, (river, longitude) in SITES.items():
            rows.append(
                {
                    "site_id": site,
                    "river": river,
                    "fold": next(fold for obs, fold in FOLDS.items() if obs.startswith(site)),
                    "utm_crs": "EPSG:32644",
                    "left_m": 500_000.0 + 109_640.0 * (longitude - 20.0),
                    "top_m": 2_000_000.0,
                    "width_px": WIDTH,
                    "height_px": HEIGHT,
                    "geometry": shapely.box(longitude, 10, longitude + 0.05, 10.03),
                }
            )
        self.aoi = gpd.GeoDataFrame(rows, crs="EPSG:4326")
        self.manifest = pd.DataFrame({"source": ["files", "files"]})
        for name in ("pixels", "masks"):
            (root / name).mkdir()
        generator = np.random.default_rng(0)
        self.masks, self.stacks = {}, {}
        windows = []
        for obs_id, fold in FOLDS.items():
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
                        "river": SITES[obs_id.split("_")[0]][0],
                        "fold": fold,
                        "kind": "grid",
                        "row": row,
                        "col": col,
                        "size_px": SIZE,
                    }
                )
        self.windows = pd.DataFrame(windows)

    def evaluate(self, scorer=None, **changes):
        for obs_id in FOLDS:
            np.save(self.chips / "masks" / f"{obs_id}.npy", self.masks[obs_id])
            np.save(self.chips / "pixels" / f"{obs_id}.npy", self.stacks[obs_id])
        return evaluate(
            aoi=self.aoi,
            manifest=self.manifest,
            windows=self.windows,
            chips=self.chips,
            scorer=scorer or Pointwise(),
            params=PARAMS.model_copy(update=changes),
            min_distance_km=50,
        )

    def truth(self, fold, method="binary"):
        """(scores, truth, second band, classes) of the pixels that a fold owns, straight from the arrays."""
        parts = []
        for obs_id in FOLDS:
            if FOLDS[obs_id] == fold:
                region = np.zeros((HEIGHT, WIDTH), bool)
                for window in self.windows[self.windows.obs_id == obs_id].itertuples():
                    region[window.row : window.row + SIZE, window.col : window.col + SIZE] = True
                mask = self.masks[obs_id]
                kept = region & np.isin(mask, [0, 2] if method == "binary" else [0, 1, 2])
                parts.append((self.stacks[obs_id][:, kept] / 10_000, mask[kept]))
        bands, classes = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return bands[0], classes == 2 if method == "binary" else classes > 0, bands[1], classes
