"""GeoTIFFs with flipped bytes, cut off, or with a header that nobody means: as scenes of a user, and as our own."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from sandwatch import params, raster
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.imagery.files import Files
from tests.conftest import GRID, a_site, reflectance
from tests.torture import fuzz
from tests.torture.attack import expect, refused

BANDS = params.Bands(s2=("B4", "B3", "B2"), s1=())
NAMES = BANDS.s2
SITE, MONTH = a_site(), date(2023, 1, 1)
OBS = f"{SITE.site_id}_{MONTH.isoformat()}"
CRS = (
    None, "EPSG:4326", "EPSG:3857", "EPSG:32645", "EPSG:32633", "EPSG:5703", "EPSG:4978", "EPSG:3413", "EPSG:2193",
    'LOCAL_CS["arbitrary",UNIT["metre",1]]', "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=0 +lon_0=180",
    "OGC:CRS84",
)  # fmt: skip
SIZES = (0.0, 1e-300, 0.01, 9.99, 10.0, 20.0, 1e5, 1e300, float("inf"), float("-inf"), float("nan"), -10.0)
PLACES = (GRID.left, 0.0, -1e9, 1e308, float("inf"), float("nan"), 85.0)
PROFILES: tuple[dict[str, Any], ...] = (
    {}, {"compress": "zstd"}, {"compress": "deflate", "predictor": 2}, {"compress": "lzw"}, {"interleave": "band"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "zstd"}, {"BIGTIFF": "YES"},
)  # fmt: skip


class Attack:
    """Reads each as the source ``files`` does, and one of ours as chips and infer do."""

    share = 2.0
    deadline_s = 120.0

    def __init__(self, scratch: Path) -> None:
        """Writes good ones of several sorts."""
        self._pixels = reflectance(3)
        self._good = []
        for number, profile in enumerate(PROFILES):
            path = scratch / f"good{number}.tif"
            _write(path, self._pixels, "EPSG:32645", GRID.transform, profile)
            self._good.append(path.read_bytes())
        ours = scratch / "ours.tif"
        raster.write_cog(ours, self._pixels, GRID, bands=NAMES, nodata=0.0, tags={"IMAGERY": "real"})
        mask = scratch / "mask.tif"
        raster.write_cog(mask, (self._pixels[:1] > 1_000).astype(np.uint8), GRID, bands=["mine"], nodata=255)
        self._ours, self._mask = ours.read_bytes(), mask.read_bytes()

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        path, pinned = folder / "a.tif", None
        if draw.random() < 0.4:
            self._absurd(draw, path)
        else:
            good = draw.choice(self._good)
            path.write_bytes(good)
            pinned = sha256(path)
            path.write_bytes(_spoilt(draw, good))
        counts = self._as_scene(path, pinned if draw.random() < 0.3 else None)
        for name, good, judge in (("ours.tif", self._ours, _as_ours), ("mask.tif", self._mask, _as_mask)):
            (folder / name).write_bytes(_spoilt(draw, good))
            try:
                judge(folder / name)
                counts["right"] += 1
            except InputError as error:
                counts += refused(error)
        return counts

    def _as_scene(self, path: Path, pinned: str | None) -> Counter[str]:
        row = {"obs_id": OBS, "product": "s2", "path": path.name, "bands": " ".join(NAMES), "scale": "1", "offset": "0"}
        row |= {"sha256": pinned} if pinned else {}
        with (path.parent / "scenes.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)
        try:
            found = Files.open(path.parent, bands=BANDS, places=[SITE])(SITE, MONTH).s2
        except InputError as error:
            return refused(error)
        pixels = getattr(found, "pixels", None)
        expect(pixels is not None and pixels.shape == (3, *GRID.shape) and pixels.dtype == np.uint16, "wrong", found)
        if pinned and sha256(path) != pinned:
            expect(False, "false", f"a file of another SHA-256 than {pinned} was read")
        return Counter(right=1)

    def _absurd(self, draw: Random, path: Path) -> None:
        """A header that a program may write: any CRS, transform, size, type and nodata."""
        size = draw.choice(SIZES), draw.choice(SIZES)
        transform = draw.choice((
            GRID.transform,
            Affine(size[0], draw.choice((0.0, 0.0, 1.0)), draw.choice(PLACES), draw.choice((0.0, 0.0, 1.0)), -size[1],
                   draw.choice((GRID.top, *PLACES))),
        ))  # fmt: skip
        dtype = draw.choice(
            ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64", "int64")
        )
        profile: dict[str, Any] = dict(draw.choice(PROFILES))
        shape = draw.choice((self._pixels.shape, (1, 1, 1), (3, 1, 5), (4, 7, 3)))
        if draw.random() < 0.2:  # almost nothing on the disk, and more than anybody's memory when read
            shape = (3, *draw.choice(((20_000, 20_000), (1, 400_000), (100_000, 100_000))))
            profile = {"sparse_ok": True, "tiled": True, "compress": "zstd", "BIGTIFF": "YES"}
            if draw.random() < 0.7:  # it covers the site, in pixels of centimetres
                fine = draw.choice((0.01, 0.05, 1e-4))
                transform = Affine(fine, 0, GRID.left, 0, -fine, GRID.top)
        _write(path, (shape, dtype, self._pixels), draw.choice((*CRS, "EPSG:32645", "EPSG:32645")), transform, profile,
               nodata=draw.choice((None, 0, float("nan"), -9999, 1e300)))  # fmt: skip


def _as_ours(path: Path) -> None:
    raster.read_tags(path)
    raster.layout(path)
    raster.read_grid(path)
    pixels = raster.read(path, bands=NAMES, grid=GRID)
    expect(pixels.shape == (3, *GRID.shape), "wrong", pixels.shape)


def _as_mask(path: Path) -> None:
    for polygon in raster.polygons(path, 1):
        expect(polygon.is_valid and polygon.area > 0, "wrong", polygon.wkt[:200])


def _spoilt(draw: Random, good: bytes) -> bytes:
    return good[: draw.randrange(len(good))] if draw.random() < 0.25 else fuzz.spoilt_bytes(draw, good)


def _write(
    path: Path, pixels: Any, crs: str | None, transform: Affine, profile: dict[str, Any], nodata: Any = None
) -> None:
    shape, dtype, values = pixels if isinstance(pixels, tuple) else (pixels.shape, pixels.dtype, pixels)
    count, height, width = shape
    about = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": dtype,
        "transform": transform,
    }
    try:
        with rasterio.open(path, "w", **about, **profile, crs=crs, nodata=nodata) as file:
            if shape == values.shape:
                file.write(np.nan_to_num(values).astype(dtype))
    except (rasterio.errors.RasterioError, ValueError, TypeError, OverflowError):  # GDAL itself writes no such thing
        path.unlink(missing_ok=True)
        with rasterio.open(path, "w", driver="GTiff", count=1, height=2, width=2, dtype="uint8") as file:
            file.write(np.ones((1, 2, 2), np.uint8))
