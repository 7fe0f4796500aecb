"""The UTM 10 m grid that scenes, masks and predictions share: pure arithmetic, no file is opened here.

Sentinel-2 delivers its 10 m bands on UTM grids whose pixel corners are multiples of 10 m (tile corners are multiples
of 20 m in the product's own zone; Source: ESA S2 Products Specification Document, tiling grid). A scene on such a
grid needs no resampling of the 10 m bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from affine import Affine

RESOLUTION_M = 10.0
"""Pixel size of the grid, metres: that of Sentinel-2's bands B2, B3, B4 and B8."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of pixels: rows ``row`` to ``row + height``, columns ``col`` to ``col + width``, ends excluded."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns), to index an array of shape (..., y, x)."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def intersects(self, other: Window, gap: int = 0) -> bool:
        """Whether any pixel of ``other`` lies in this window or within ``gap`` pixels of it, along both axes."""
        return (
            self.row < other.row + other.height + gap
            and other.row < self.row + self.height + gap
            and self.col < other.col + other.width + gap
            and other.col < self.col + self.width + gap
        )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A north-up grid of square pixels.

    Attributes:
        crs: a UTM zone as ``EPSG:326xx`` or ``EPSG:327xx`` (tests of rasterising use other CRS too).
        left: x of the outer edge of the first column, in units of the CRS.
        top: y of the outer edge of the first row.
        width, height: pixels.
        resolution: side of a pixel, in units of the CRS.
    """

    crs: str
    left: float
    top: float
    width: int
    height: int
    resolution: float = RESOLUTION_M

    @classmethod
    def of_site(cls, site: Any) -> Grid:
        """The grid of a site's scenes, from its row of ``schemas.Aoi`` (its columns as attributes)."""
        return cls(
            crs=site.utm_crs,
            left=float(site.left_m),
            top=float(site.top_m),
            width=int(site.width_px),
            height=int(site.height_px),
        )

    @classmethod
    def covering(cls, bounds: tuple[float, float, float, float], crs: str) -> Grid:
        """The smallest grid snapped to multiples of 10 m that covers ``bounds`` (left, bottom, right, top; metres)."""
        left = math.floor(bounds[0] / RESOLUTION_M)
        bottom = math.floor(bounds[1] / RESOLUTION_M)
        right = math.ceil(bounds[2] / RESOLUTION_M)
        top = math.ceil(bounds[3] / RESOLUTION_M)
        return cls(
            crs=crs,
            left=left * RESOLUTION_M,
            top=top * RESOLUTION_M,
            width=max(right - left, 1),
            height=max(top - bottom, 1),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def transform(self) -> Affine:
        """Pixel (column, row) to CRS (x, y), corner of pixel."""
        return Affine(self.resolution, 0.0, self.left, 0.0, -self.resolution, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of the CRS."""
        return (
            self.left,
            self.top - self.height * self.resolution,
            self.left + self.width * self.resolution,
            self.top,
        )

    def crop(self, window: Window) -> Grid:
        """The part of this grid under ``window``, which may reach beyond it."""
        return Grid(
            crs=self.crs,
            left=self.left + window.col * self.resolution,
            top=self.top - window.row * self.resolution,
            width=window.width,
            height=window.height,
            resolution=self.resolution,
        )


def tile(height: int, width: int, size: int, stride: int) -> Iterator[Window]:
    """Square windows of ``size`` at every ``stride`` that cover ``height`` x ``width`` pixels, row by row.

    The last row and column of windows are moved inward so that no window leaves the array; where the array is smaller
    than a window along an axis, one window starts at 0 and reaches beyond it (readers pad).
    """
    for row in _starts(height, size, stride):
        for col in _starts(width, size, stride):
            yield Window(row=row, col=col, height=size, width=size)


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return sorted({*range(0, last, stride), last})


def utm_crs(longitude: float, latitude: float) -> str:
    """The UTM zone of a point as ``EPSG:32601`` to ``EPSG:32760``, without Norway's and Svalbard's exceptions.

    Sentinel-2's tiles follow the exceptions, so there a site's grid differs from the product's zone and its pixels are
    resampled once. Source: zone = floor((lon + 180) / 6) + 1.
    """
    zone = min(int((longitude + 180.0) // 6.0) + 1, 60)
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"
