"""One composite of each site and month: the face that every source of imagery shares.

A source is a callable ``(site, month) -> Composite`` that can be pickled; ``sandwatch.export`` drives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from sandwatch import rivers
from sandwatch.geometry import WGS84, transformer
from sandwatch.grid import Grid

if TYPE_CHECKING:
    import geopandas as gpd


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
class Unfetched:
    """One product of a composite that its source knows of but left where it is.

    It, or the other product of the observation, covers less of the AOI than ``imagery.min_coverage``.

    Attributes:
        valid_fraction: share of the AOI with data, as the source found it without fetching.
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

    s2: Raster | Unfetched | None
    s1: Raster | Unfetched | None


class Source(Protocol):
    """A source of imagery; an instance is pickled to worker processes.

    Raises ``InputError`` where something that the user gave is unfit; an image that merely doesn't exist is None
    in the composite.
    """

    def __call__(self, site: Site, month: date) -> Composite:
        """Returns the composite of ``site`` in the month that begins with ``month``."""
        ...

    def inputs(self, site: Site, month: date) -> Any:
        """All that this composite depends on beside site, month and bands, as plain JSON; None if that can't be told.

        Files are told by the hash of what they hold.
        """
        ...


def sites(aoi: gpd.GeoDataFrame) -> list[Site]:
    """The rows of aoi.parquet (``schemas.Aoi``), in the table's order."""
    return [
        Site(
            site_id=row.site_id,
            river=row.river,
            district=row.district,
            longitude=row.longitude,
            latitude=row.latitude,
            months=tuple(date.fromisoformat(month) for month in row.months.split(";")),
            grid=Grid.of_site(row),
            aoi=row.geometry,
        )
        for row in aoi.itertuples()
    ]


def river_lines(path: Path, places: Sequence[Site]) -> BaseGeometry:
    """The river geometry of a file that comes onto the grids of ``places``, as one, EPSG:4326.

    Raises:
        InputError: the file is unfit (``sandwatch.rivers``).
    """
    return rivers.read(
        path,
        [transformer(site.grid.crs, WGS84).transform_bounds(*site.grid.bounds, densify_pts=21) for site in places],
    )
