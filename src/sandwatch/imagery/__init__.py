"""One composite of each site and month: the face that every source of imagery shares, and the export that drives it.

A source is a callable ``(site, month) -> Composite`` that can be pickled. Sources are imported where they are chosen,
so that one source's libraries are never needed for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from sandwatch.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Site:
    """A row of aoi.parquet.

    Attributes:
        site_id: as in sites.csv.
        river: name of the river.
        district: name of the district.
        longitude: of the site, degrees.
        latitude: of the site, degrees.
        months: first days of the months to observe, in order.
        grid: the UTM 10 m grid of every raster of the site.
        aoi: the area of interest, polygon or multipolygon, EPSG:4326.
    """

    site_id: str
    river: str
    district: str
    longitude: float
    latitude: float
    months: tuple[date, ...]
    grid: Grid
    aoi: BaseGeometry


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image that went into a composite.

    Attributes:
        id: as its provider names it.
        date: ISO 8601 day of acquisition; None where unknown.
        processing_baseline: of a Sentinel-2 product, such as ``05.09``; None for others, or where unknown.
    """

    id: str
    date: str | None
    processing_baseline: str | None


@dataclass(frozen=True, kw_only=True)
class Raster:
    """One product of a composite, on the site's grid.

    Attributes:
        pixels: array (band, y, x) of the grid's shape, bands as in params.yaml, section bands, in that order.
            Sentinel-2: uint16 reflectance x 10000, nodata 0. Sentinel-1: float32 dB rounded to 0.01, nodata NaN.
        source_images: every image that went into it.
    """

    pixels: npt.NDArray[Any]
    source_images: tuple[SourceImage, ...]


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """One product of a composite that its source did not fetch, because too little of the AOI is in it.

    Attributes:
        valid_fraction: share of the AOI with data, as the source found it; less than ``imagery.min_coverage``.
        source_images: every image that would have gone into it.
    """

    valid_fraction: float
    source_images: tuple[SourceImage, ...]


@dataclass(frozen=True, kw_only=True)
class Composite:
    """What a source has of a site in a month.

    Attributes:
        s2: None where the source has no Sentinel-2 image of the month.
        s1: None where it has no Sentinel-1 image of the month, or ``bands.s1`` is empty.
    """

    s2: Raster | Sparse | None
    s1: Raster | Sparse | None


class Source(Protocol):
    """A source of imagery; an instance is pickled to worker processes."""

    def __call__(self, site: Site, month: date) -> Composite:
        """Returns the composite of ``site`` in the month that begins with ``month``."""
        ...
