"""One composite of each site and month: the face that every source of imagery shares, and the export that drives it.

A source is a callable ``(site, month) -> Composite`` that can be pickled. Sources are imported where they are chosen,
so that one source's libraries are never needed for another.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from sandwatch import params, raster, rivers
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.geometry import WGS84, transformer
from sandwatch.grid import Grid

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

RGB_BANDS = ("B4", "B3", "B2")
RGB_WHITE = 3500
"""Reflectance x 10000 that annotators see as white. Source: the predecessor's exports, stretched 0..3500."""


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
class Composite:
    """What a source has of a site in a month.

    Attributes:
        s2: None where the source has no Sentinel-2 image of the month.
        s1: None where it has no Sentinel-1 image of the month, or ``bands.s1`` is empty.
    """

    s2: Raster | None
    s1: Raster | None


class Source(Protocol):
    """A source of imagery; an instance is pickled to worker processes.

    Raises :class:`InputError` where something that the user gave is unfit; an image that merely doesn't exist is None
    in the composite.
    """

    def __call__(self, site: Site, month: date) -> Composite:
        """Returns the composite of ``site`` in the month that begins with ``month``."""
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
            grid=Grid(crs=row.utm_crs, left=row.left_m, top=row.top_m, width=row.width_px, height=row.height_px),
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


def source(
    imagery: params.Imagery,
    *,
    bands: params.Bands,
    synthetic: params.Synthetic,
    places: Sequence[Site],
    river_file: Path,
    inputs: Path,
) -> Source:
    """The source that params.yaml names.

    Args:
        imagery: section of params.yaml.
        bands: what to deliver.
        synthetic: section of params.yaml, for the source ``synthetic``.
        places: the sites to be asked for.
        river_file: the region's river geometry, for the source ``synthetic``.
        inputs: the region's folder ``imagery``, for the source ``files``.

    Raises:
        InputError: what the source reads at its start is unfit.
    """
    if imagery.source == "files":
        from sandwatch.imagery.files import Files

        return Files.open(inputs, bands=bands, places=places)
    from sandwatch.imagery.synthetic import Painter

    return Painter(rivers=river_lines(river_file, places), bands=bands, synthetic=synthetic)


def export(
    places: Sequence[Site],
    ask: Source,
    *,
    folder: Path,
    bands: params.Bands,
    imagery: params.Imagery,
    workers: int,
    progress: Callable[[str], None],
) -> pd.DataFrame:
    """Writes the scenes of all sites and months, in parallel; the number of workers changes nothing in the outcome.

    An observation is exported whole or not at all: where a product covers less than ``imagery.min_coverage`` of the
    AOI with pixels that are valid in all its bands, no file is written and its rows of the manifest say why.

    Args:
        places: sites with months.
        ask: the source.
        folder: gets ``<obs_id>/{s2,s1,rgb}.tif``.
        bands: what the source delivers.
        imagery: names the source, and the least coverage.
        workers: processes; 1 for this one alone.
        progress: told one line about each observation.

    Returns:
        Rows of ``schemas.Scenes``: one for each observation and product asked for.

    Raises:
        InputError: the source refuses something, or no observation is covered well enough.
    """
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(site, month) for site in places for month in site.months]
    work = partial(_export, ask=ask, folder=folder, bands=bands, imagery=imagery)
    rows: list[dict[str, Any]] = []
    for done, part in enumerate(_each(work, tasks, min(workers, len(tasks))), start=1):
        rows += part
        said = part[0]["detail"] or f"{part[0]['valid_fraction']:.0%} of the AOI valid"
        progress(f"export: {done} of {len(tasks)}, {part[0]['obs_id']} {part[0]['status']}: {said}")
    if not any(row["status"] == "exported" for row in rows):
        raise InputError(
            f"imagery.source: {imagery.source}",
            got=f"none of {len(tasks)} observations exported; the first: {rows[0]['detail']}",
            expected=f"some that cover {imagery.min_coverage:g} of their AOI",
            fix="add imagery or months, or lower imagery.min_coverage",
        )
    return pd.DataFrame(rows)


def _each(
    work: Callable[[tuple[Site, date]], list[dict[str, Any]]], tasks: Sequence[tuple[Site, date]], workers: int
) -> Iterator[list[dict[str, Any]]]:
    """Yields the result of each task as it is done."""
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Spawned, not forked: the readers' libraries have threads, which a fork would leave behind with their locks held.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _export(
    task: tuple[Site, date], *, ask: Source, folder: Path, bands: params.Bands, imagery: params.Imagery
) -> list[dict[str, Any]]:
    """Asks for one observation, writes its files, returns its rows of the manifest."""
    site, month = task
    obs_id = f"{site.site_id}_{month.isoformat()}"
    composite = ask(site, month)
    aoi = raster.inside(site.aoi, site.grid)
    products = [_Product(name="s2", bands=bands.s2, raster=composite.s2, dtype="uint16", nodata=0.0)]
    if bands.s1:
        products.append(_Product(name="s1", bands=bands.s1, raster=composite.s1, dtype="float32", nodata=np.nan))
    if set(RGB_BANDS) <= set(bands.s2):
        products.append(
            _Product(name="rgb", bands=RGB_BANDS, raster=_rgb(composite.s2, bands.s2), dtype="uint8", nodata=0.0)
        )
    lacking = [detail for product in products if (detail := product.lacks(aoi, imagery.min_coverage))]
    rows = []
    for product in products:
        path = Path(obs_id) / f"{product.name}.tif"
        if not lacking and product.raster is not None:
            raster.write_cog(
                folder / path, product.raster.pixels, site.grid, bands=product.bands, nodata=product.nodata
            )
        rows.append(
            {
                "obs_id": obs_id,
                "site_id": site.site_id,
                "date": month.isoformat(),
                "product": product.name,
                "status": "skipped" if lacking else "exported",
                "detail": "; ".join(lacking) or None,
                "path": None if lacking else path.as_posix(),
                "bands": ",".join(product.bands),
                "crs": site.grid.crs,
                "transform": ",".join(f"{value:g}" for value in tuple(site.grid.transform)[:6]),
                "width_px": site.grid.width,
                "height_px": site.grid.height,
                "dtype": product.dtype,
                "nodata": product.nodata,
                "valid_fraction": product.valid_fraction(aoi),
                "source": imagery.source,
                "source_images": product.source_images,
                "sha256": None if lacking else sha256(folder / path),
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class _Product:
    """One file of an observation."""

    name: str
    bands: tuple[str, ...]
    raster: Raster | None
    dtype: str
    nodata: float

    def valid_fraction(self, aoi: npt.NDArray[np.bool_]) -> float:
        """Share of the AOI's pixels that have data in every band, rounded to 6 digits."""
        if self.raster is None:
            return 0.0
        pixels = self.raster.pixels
        invalid = np.isnan(pixels) if np.isnan(self.nodata) else pixels == self.nodata
        return round(float((aoi & ~invalid.any(axis=0)).sum() / aoi.sum()), 6)

    def lacks(self, aoi: npt.NDArray[np.bool_], least: float) -> str | None:
        """Why this product is not fit to be exported."""
        if self.raster is None:
            return f"no {self.name} image of the month"
        covered = self.valid_fraction(aoi)
        return None if covered >= least else f"{self.name} covers {covered:.3f} of the AOI, less than {least:g}"

    @property
    def source_images(self) -> str:
        """JSON list, sorted by id."""
        images = sorted(self.raster.source_images if self.raster else (), key=lambda image: image.id)
        return json.dumps([{"id": i.id, "date": i.date, "processing_baseline": i.processing_baseline} for i in images])


def _rgb(s2: Raster | None, bands: Sequence[str]) -> Raster | None:
    """The picture that annotators see: reflectance 0..0.35 to 1..255, 0 where a band has no data."""
    if s2 is None:
        return None
    pixels = s2.pixels[[bands.index(band) for band in RGB_BANDS]].astype(np.int64)
    stretched = 1 + (np.minimum(pixels, RGB_WHITE) * 254 + RGB_WHITE // 2) // RGB_WHITE
    stretched[:, (pixels == 0).any(axis=0)] = 0
    return Raster(pixels=stretched.astype(np.uint8), source_images=s2.source_images)
