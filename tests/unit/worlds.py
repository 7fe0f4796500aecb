"""Observations of invented sites, with masks and rasters on disk, and a model that is known."""

from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from sandwatch import raster
from sandwatch.evaluate import Evaluate, evaluate, grid_of
from sandwatch.files import sha256
from sandwatch.model.network import CLASSES
from sandwatch.params import S1_BANDS
from sandwatch.stack import NODATA

PARAMS = Evaluate(bootstrap_samples=50, calibration_bins=10, min_object_m2=300, match_iou=0.3, worst_misses=4, seed=0)
SITES = {"up": ("Ula", 20.0), "mid": ("Ula", 20.8), "low": ("Bera", 21.9)}
FOLDS = {"up_2024-01-01": "train", "mid_2024-01-01": "val", "low_2024-01-01": "test", "low_2024-05-01": "test"}
TWO_MORE = {"side_2024-01-01": ("Ula", 21.95), "delta_2024-03-01": ("Bera", 22.05)}
"""Test observations: of a river that is trained on elsewhere, and of a second site of the holdout river."""
SIZE, HEIGHT, WIDTH = 32, 70, 90
BANDS = ("B3", "B8")


class Pointwise:
    """A model whose score is the first band in ten-thousandths: what it says of a pixel is known.

    The second band, likewise, is the share of high confidence in it.
    """

    def __init__(self, method="binary", threshold=0.5, temperature=1.0, bias=0.0, bands=BANDS):
        self.spec = SimpleNamespace(
            size_px=SIZE, overlap_px=8, batch_size=3, method=method, classes=CLASSES[method], threshold=threshold,
            temperature=temperature, bias=bias, bands=bands, mean=(3_000.0,) * len(bands), std=(1_000.0,) * len(bands),
            imagery="real", labels="real", standardise="none", without=(),
        )  # fmt: skip

    def __call__(self, pixels):
        shares = pixels[:, : len(self.spec.classes) - 1].clip(1, 9_999) / 10_000
        log_odds = np.log(shares / (1 - shares)).astype(np.float32)
        log_odds[:, 0] = (log_odds[:, 0] - self.spec.bias) * self.spec.temperature
        return log_odds


class World:
    """Observations of three sites on two rivers, one of them held out, with masks and rasters on disk.

    Observations in ``painted`` are synthetic. ``more`` are further test observations, (river, longitude) by obs_id,
    each of a site of its own.
    """

    def __init__(self, root: Path, more=(), source="files"):
        self.chips, self.scenes, self.holdout_rivers = root / "chips", root / "scenes", ("Bera",)
        self.source, self.painted = source, set[str]()
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
        generator = np.random.default_rng(0)
        self.masks, self.stacks = {}, {}
        windows = []
        for obs_id, fold in self.folds.items():
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[5:20, 8:30], mask[40:50, 50:60], mask[24:30, 3:12], mask[:4] = 2, 2, 1, 255
            score = np.clip(generator.normal(0.3, 0.12, mask.shape) + 0.35 * (mask == 2), 0.01, 0.99)
            stack = np.stack([score * 10_000, generator.random(mask.shape) * 10_000]).astype(np.int16).clip(1)
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

    def write(self, bands=BANDS):
        """Writes masks and rasters as they are now, and makes the manifest of them."""
        (self.chips / "masks").mkdir(parents=True, exist_ok=True)
        rows = []
        for obs_id in self.folds:
            np.save(self.chips / "masks" / f"{obs_id}.npy", self.masks[obs_id])
            site_id, date = obs_id.split("_")
            grid, values = grid_of(self.aoi, site_id), dict(zip(bands, self.stacks[obs_id], strict=True))
            for product in ("s2", "s1"):
                own = [band for band in bands if (band in S1_BANDS) == (product == "s1")]
                if not own:
                    continue
                pixels = np.stack([values[band] for band in own])
                pixels = (
                    np.where(pixels == NODATA, 0, pixels).astype(np.uint16)
                    if product == "s2"
                    else np.where(pixels == NODATA, np.nan, pixels / 100).astype(np.float32)
                )
                nodata, path = 0.0 if product == "s2" else np.nan, self.scenes / obs_id / f"{product}.tif"
                raster.write_cog(path, pixels, grid, bands=own, nodata=nodata)
                rows.append(
                    {
                        "obs_id": obs_id, "site_id": site_id, "date": date, "product": product, "status": "exported",
                        "detail": None, "path": f"{obs_id}/{product}.tif", "bands": ",".join(own), "crs": grid.crs,
                        "transform": ",".join(str(value) for value in grid.transform[:6]), "width_px": grid.width,
                        "height_px": grid.height, "dtype": str(pixels.dtype), "nodata": nodata, "valid_fraction": 1.0,
                        "source": "synthetic" if obs_id in self.painted else self.source, "source_images": "[]",
                        "sha256": sha256(path),
                    }
                )  # fmt: skip
        self.manifest = pd.DataFrame(rows)

    def evaluate(self, scorer=None, **changes):
        scorer = scorer or Pointwise()
        self.write(scorer.spec.bands)
        return self.judge(scorer, **changes)

    def judge(self, scorer, **changes):
        """Judges what was written before."""
        return evaluate(
            aoi=self.aoi,
            manifest=self.manifest,
            scenes=self.scenes,
            windows=self.windows,
            chips=self.chips,
            scorer=scorer,
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
