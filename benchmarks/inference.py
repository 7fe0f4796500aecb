"""Three ways to score a scene, in one run: ring of rows (what ``infer`` does), window by window, whole-scene arrays.

Each reads the same COGs, scores the same windows and must give the same scores. With the model replaced by a function
that costs next to nothing the table shows what the way itself costs; with the trained network, what is left of that.
Compare ratios: wall figures depend on the machine and on what else it does.

Usage: python benchmarks/inference.py [--side 3000] [--weights models/model.safetensors]
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import shapely
import typer

from sandwatch import raster
from sandwatch.files import sha256
from sandwatch.geometry import WGS84, reproject
from sandwatch.grid import Grid, tile
from sandwatch.infer import Region
from sandwatch.model.stitch import Predict, stitch, stitch_whole
from sandwatch.params import S1_BANDS, S2_L2A_BANDS
from sandwatch.scene import Raster, SceneReader
from sandwatch.stack import encode

SIZE_PX, OVERLAP_PX, BATCH = 160, 64, 8
BANDS = (*S2_L2A_BANDS, *S1_BANDS)
Scores = npt.NDArray[np.float32]


class Scene:
    """A scene of noise with a river's AOI across it, a fifth of its area, as COGs."""

    def __init__(self, folder: Path, side: int) -> None:
        """Writes the COGs: ``side`` pixels square, 12 + 2 bands."""
        self.grid = Grid(crs="EPSG:32644", left=500_000.0, top=2_500_000.0, width=side, height=side)
        self.paths = {name: folder / f"{name}.tif" for name in ("s2", "s1")}
        rng = np.random.default_rng(0)
        s2 = rng.integers(300, 4000, (len(S2_L2A_BANDS), side, side), np.uint16)
        raster.write_cog(self.paths["s2"], s2, self.grid, bands=S2_L2A_BANDS, nodata=0)
        s1 = np.round(rng.normal(-12, 3, (len(S1_BANDS), side, side)), 2).astype(np.float32)
        raster.write_cog(self.paths["s1"], s1, self.grid, bands=S1_BANDS, nodata=float("nan"))
        self.rasters = {name: Raster(path=path, sha256=sha256(path)) for name, path in self.paths.items()}
        west, south, east, north = self.grid.bounds
        river = shapely.LineString([(west, south), (east, north)]).buffer(0.075 * (east - west))
        self.aoi = reproject(river.intersection(shapely.box(*self.grid.bounds)), self.grid.crs, WGS84)

    def ring(self, predict: Predict) -> Scores:
        """Rows of blocks in, finished rows out. They are kept here for the comparison; ``infer`` writes them."""
        region = Region(self.aoi, self.grid)
        with SceneReader("noise", self.rasters, self.grid, BANDS) as stack:
            parts = stitch(stack, predict, size_px=SIZE_PX, overlap_px=OVERLAP_PX, batch_size=BATCH, region=region)
            return np.concatenate([rows for _, rows in parts])

    def windows(self, predict: Predict) -> Scores:
        """Each window is read from the files; sums of scores and of weights are kept for the whole scene."""
        inside = raster.inside(self.aoi, self.grid)
        ramp = np.minimum(np.minimum(np.arange(SIZE_PX) + 1, SIZE_PX - np.arange(SIZE_PX)), OVERLAP_PX + 1)
        weight = (ramp[:, None] * ramp).astype(np.float64)
        total, weights = np.zeros(self.grid.shape), np.zeros(self.grid.shape)
        asked = [
            window for window in tile(*self.grid.shape, SIZE_PX, SIZE_PX - OVERLAP_PX) if inside[window.slices].any()
        ]
        for first in range(0, len(asked), BATCH):
            batch = asked[first : first + BATCH]
            pixels = [
                encode(
                    raster.read(self.paths["s2"], bands=S2_L2A_BANDS, window=window),
                    raster.read(self.paths["s1"], bands=S1_BANDS, window=window),
                )
                for window in batch
            ]
            for window, score in zip(batch, predict(np.stack(pixels)), strict=True):
                total[window.slices] += score * weight
                weights[window.slices] += weight
        with np.errstate(invalid="ignore"):
            return np.where(inside, total / weights, np.nan).astype(np.float32)

    def whole(self, predict: Predict) -> Scores:
        """All pixels and the whole region in memory first."""
        stack = encode(raster.read(self.paths["s2"], bands=S2_L2A_BANDS), raster.read(self.paths["s1"], bands=S1_BANDS))
        region = raster.inside(self.aoi, self.grid)
        return stitch_whole(stack, predict, size_px=SIZE_PX, overlap_px=OVERLAP_PX, batch_size=BATCH, region=region)


def nothing(pixels: npt.NDArray[np.int16]) -> Scores:
    """A model that costs next to nothing: a threshold on one band."""
    return (pixels[:, 7] > 2000).astype(np.float32)


class Timed:
    """A model that adds up the seconds spent in it, so that what is left is the way's own cost under any load."""

    def __init__(self, predict: Predict) -> None:
        """Wraps ``predict``."""
        self.seconds = 0.0
        self._predict = predict

    def __call__(self, pixels: npt.NDArray[np.int16]) -> Scores:
        """Calls it."""
        start = time.perf_counter()
        scores = self._predict(pixels)
        self.seconds += time.perf_counter() - start
        return scores


def main(
    side: Annotated[int, typer.Option(help="side of the scene, pixels")] = 3000,
    weights: Annotated[Path, typer.Option(help="of a model of ours")] = Path("models/model.safetensors"),
) -> None:
    """Prints a table: milliseconds a window, those of them in the model, ratio to the ring, peak of numpy's memory."""
    counted = 0

    def counting(pixels: npt.NDArray[np.int16]) -> Scores:
        nonlocal counted
        counted += len(pixels)
        return nothing(pixels)

    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), side)
        expected = scene.ring(counting)
        print(
            f"scene {side} x {side} px, {len(BANDS)} bands, {counted} windows of {SIZE_PX} px, overlap {OVERLAP_PX} px"
        )
        ways: dict[str, Callable[[Predict], Scores]] = {
            "ring of rows": scene.ring,
            "window by window": scene.windows,
            "whole-scene arrays": scene.whole,
        }
        networks: dict[str, Predict] = {"nothing": nothing}
        if weights.is_file():
            from sandwatch.model.predictor import Predictor

            predictor = Predictor.load(weights, "cpu", precision="32-true")
            if predictor.spec.bands != BANDS:
                raise SystemExit(f"{weights}: this benchmark feeds the bands {BANDS}")
            networks["network"] = lambda pixels: predictor(pixels)[:, 0]
        else:
            print(f"{weights}: no model here, so only the model that costs nothing (dvc repro train makes one)")
        print(f"{'model':<9}{'way':<20}{'ms a window':>12}{'in the model':>13}{'to the ring':>12}{'peak MB':>9}")
        for name, predict in networks.items():
            timed = Timed(predict)
            reference = 0.0
            for way, score in ways.items():
                timed.seconds, start = 0.0, time.perf_counter()
                scores = score(timed)
                taken, inside = ((seconds * 1000 / counted) for seconds in (time.perf_counter() - start, timed.seconds))
                reference = reference or taken
                if predict is nothing:
                    np.testing.assert_allclose(scores, expected, atol=1e-5)
                print(
                    f"{name:<9}{way:<20}{taken:>12.1f}{inside:>13.1f}{taken / reference:>12.2f}{_peak_mb(score):>9.0f}"
                )


def _peak_mb(way: Callable[[Predict], Scores]) -> float:
    """Peak of what numpy and Python allocate, with the model that costs nothing, in a run of its own."""
    tracemalloc.start()
    way(nothing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


if __name__ == "__main__":
    typer.run(main)
