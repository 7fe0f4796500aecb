"""The images that the loopback Earth Engine holds, and a seeded month of them to test with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelGrid:
    """Pixels to compute: a transform in Earth Engine's order (xScale, xShear, xMove, yShear, yScale, yMove)."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    width: int
    height: int

    def centres(self) -> tuple[Floats, Floats]:
        """x and y of the pixels' centres, arrays (y, x)."""
        a, b, c, d, e, f = self.transform
        cols, rows = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return a * cols + b * rows + c, d * cols + e * rows + f


@dataclass(frozen=True)
class Layer:
    """One band of a stored image.

    Attributes:
        values: array (y, x).
        valid: where it has data, bool (y, x).
        crs: of its grid.
        left, top: its upper left corner.
        resolution: side of a pixel.
    """

    values: npt.NDArray[Any]
    valid: Bools
    crs: str
    left: float
    top: float
    resolution: float

    def sample(self, grid: PixelGrid) -> tuple[Floats, Bools]:
        """Nearest values at the centres of ``grid``, and where there is data: Earth Engine's default resampling."""
        rows, cols, inside = _places(self.crs, self.left, self.top, self.resolution, self.values.shape, grid)
        return self.values[rows, cols].astype(np.float64), inside & self.valid[rows, cols]


@lru_cache(maxsize=64)
def _places(
    crs: str, left: float, top: float, resolution: float, shape: tuple[int, int], grid: PixelGrid
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Bools]:
    x, y = grid.centres()
    if grid.crs != crs:
        x, y = pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
    rows, cols = np.floor((top - y) / resolution), np.floor((x - left) / resolution)
    inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    return np.where(inside, rows, 0).astype(np.intp), np.where(inside, cols, 0).astype(np.intp), inside


@dataclass(frozen=True)
class StoredImage:
    """An image of a collection.

    Attributes:
        index: its ``system:index``.
        layers: bands in order.
        properties: its metadata, ``system:index`` and ``system:time_start`` aside.
        time: when it was taken.
        footprint: EPSG:4326.
    """

    index: str
    layers: dict[str, Layer]
    properties: dict[str, Any]
    time: datetime
    footprint: BaseGeometry

    @property
    def metadata(self) -> dict[str, Any]:
        """All properties, as expressions see them."""
        start = int(self.time.timestamp() * 1000)
        return {**self.properties, "system:index": self.index, "system:time_start": start}


@dataclass
class Catalogue:
    """Collections by id."""

    collections: dict[str, list[StoredImage]] = field(default_factory=dict)

    def add(self, collection: str, image: StoredImage) -> StoredImage:
        """Puts an image into a collection."""
        self.collections.setdefault(collection, []).append(image)
        return image


S2_RESOLUTIONS = {
    **dict.fromkeys(("B2", "B3", "B4", "B8"), 10),
    **dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B1", "B9", "B10"), 60),
}
"""Metres. Source: Sentinel-2 user handbook."""
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def add_month(
    catalogue: Catalogue,
    *,
    crs: str,
    left: float,
    top: float,
    side_m: int,
    year: int,
    month: int,
    s2_days: tuple[int, ...] = (3, 13, 23),
    s1_days: tuple[int, ...] = (5, 17),
    seed: int = 0,
) -> None:
    """Adds a month of Sentinel-2 images at both levels, their Cloud Score+, and Sentinel-1 images of one place.

    Pixels are noise, so that no shift, flip or mix-up of bands can hide. Clouds cover another half of each image. The
    last Sentinel-2 image of a month is so cloudy that a scene filter leaves it out.

    Args:
        catalogue: where to.
        crs: UTM zone of the tile.
        left, top: its upper left corner, multiples of 60 m.
        side_m: its extent, a multiple of 60 m.
        year, month: when.
        s2_days: of the Sentinel-2 images.
        s1_days: of the Sentinel-1 images, ascending and descending in turn.
        seed: of the noise.
    """
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    footprint = shapely.transform(box(left, top - side_m, left + side_m, top), to_degrees, interleaved=False)
    for number, day in enumerate(s2_days):
        rng = np.random.default_rng([seed, year, month, day, 2])
        time = datetime(year, month, day, 5, 30, tzinfo=UTC)
        index = f"{time:%Y%m%dT%H%M%S}_{time:%Y%m%dT%H%M%S}_T{crs[-2:]}X{int(left) % 97:02d}"
        properties = {
            "CLOUDY_PIXEL_PERCENTAGE": 80.0 if number == len(s2_days) - 1 else 5.0 + number,
            "PROCESSING_BASELINE": f"0{3 + number % 3}.00",
            "MGRS_TILE": f"{crs[-2:]}X",
        }
        for collection, names in (
            ("COPERNICUS/S2_SR_HARMONIZED", tuple(band for band in BANDS if band != "B10")),
            ("COPERNICUS/S2_HARMONIZED", BANDS),
        ):
            layers: dict[str, Layer] = {}
            for band in names:
                size = side_m // S2_RESOLUTIONS[band]
                reflectance = rng.integers(0, 12_000, (size, size), dtype=np.uint16)
                valid = np.ones(reflectance.shape, bool)
                valid[:, : size // 40 * number] = False  # the edge of a swath
                layers[band] = Layer(reflectance, valid, crs, left, top, S2_RESOLUTIONS[band])
            catalogue.add(collection, StoredImage(index, layers, properties, time, footprint))
        size = side_m // 10
        score = np.clip(rng.normal(0.85, 0.1, (size, size)), 0, 1)
        cloudy = slice(0, size // 3) if number % 2 else slice(size // 4, size // 2)
        score[:, cloudy] = rng.uniform(0, 0.5, score[:, cloudy].shape)
        layers = {"cs": Layer(score, np.ones(score.shape, bool), crs, left, top, 10)}
        catalogue.add("GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", StoredImage(index, layers, {}, time, footprint))
    for number, day in enumerate(s1_days):
        rng = np.random.default_rng([seed, year, month, day, 1])
        time = datetime(year, month, day, 12, 30, tzinfo=UTC)
        size = side_m // 10
        power = {band: rng.gamma(4.0, mean / 4.0, (size, size)) for band, mean in (("VV", 0.08), ("VH", 0.015))}
        for values in power.values():
            values[:2] = 0.0  # border noise that was blanked
        layers = {
            band: Layer(values.astype(np.float32), np.ones(values.shape, bool), crs, left, top, 10)
            for band, values in power.items()
        }
        properties = {
            "instrumentMode": "IW",
            "transmitterReceiverPolarisation": ["VV", "VH"],
            "orbitProperties_pass": ("ASCENDING", "DESCENDING")[number % 2],
        }
        catalogue.add(
            "COPERNICUS/S1_GRD_FLOAT",
            StoredImage(f"S1A_IW_GRDH_{time:%Y%m%dT%H%M%S}_{seed}", layers, properties, time, footprint),
        )
