"""Drives a source of imagery over all sites and months: scenes as files, and the manifest that lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sandwatch import params, pools, raster
from sandwatch.errors import InputError
from sandwatch.files import exactly
from sandwatch.imagery import Raster, Site, Source, Unfetched, river_lines
from sandwatch.imagery.params import EarthEngine, Imagery, Synthetic
from sandwatch.origin import kind_of
from sandwatch.params import RGB_BANDS
from sandwatch.work import Done, Unit, Work

if TYPE_CHECKING:
    import pandas as pd

RGB_WHITE = 3500
"""Reflectance x 10000 that annotators see as white. Source: the predecessor's exports, stretched 0..3500."""


def source(
    imagery: Imagery,
    *,
    bands: params.Bands,
    synthetic: Synthetic,
    earthengine: EarthEngine,
    places: Sequence[Site],
    river_file: Path,
    inputs: Path,
) -> Source:
    """The source that params.yaml names; it alone is imported.

    Args:
        imagery: section of params.yaml.
        bands: what to deliver.
        synthetic: section of params.yaml, for the source ``synthetic``.
        earthengine: section of params.yaml, for the source ``earthengine``.
        places: the sites to be asked for.
        river_file: the region's river geometry, for the source ``synthetic``.
        inputs: the region's folder ``imagery``, for the source ``files``.

    Raises:
        InputError: what the source reads at its start is unfit, or the service behind it refuses.
    """
    if imagery.source == "earthengine":
        from sandwatch.imagery.earthengine import fetch

        return fetch(places, bands, earthengine, min_coverage=imagery.min_coverage)
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
    imagery: Imagery,
    work: Work,
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
        work: keeps each observation, so that it is exported once, whatever becomes of the run.
        workers: processes; 1 for this one alone.
        progress: told one line about each observation.

    Returns:
        Rows of ``schemas.Scenes``: one for each observation and product asked for.

    Raises:
        InputError: the source refuses something, no observation is covered well enough, or ``folder`` holds in the end
            what this run did not write.
    """
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(site, month) for site in places for month in site.months]
    do = partial(_export, ask=ask, folder=folder, bands=bands, imagery=imagery, work=work)
    rows: list[dict[str, Any]] = []
    for number, done in enumerate(pools.each(do, tasks, min(workers, len(tasks)), named=_obs_id), start=1):
        part = done.value
        rows += part
        said = part[0]["detail"] or f"{part[0]['valid_fraction']:.0%} of the AOI valid"
        said += " (by an earlier run)" if done.kept else ""
        progress(f"export: {number} of {len(tasks)}, {part[0]['obs_id']} {part[0]['status']}: {said}")
    if not any(row["status"] == "exported" for row in rows):
        raise InputError(
            f"imagery.source: {imagery.source}",
            got=f"none of {len(tasks)} observations exported; the first: {rows[0]['detail']}",
            expected=f"some that cover {imagery.min_coverage:g} of their AOI",
            fix="add imagery or months, or lower imagery.min_coverage",
        )
    exactly(folder, {row["path"]: row["sha256"] for row in rows if row["path"]})
    return pd.DataFrame(rows)


def _obs_id(task: tuple[Site, date]) -> str:
    site, month = task
    return f"{site.site_id}_{month.isoformat()}"


def _export(
    task: tuple[Site, date], *, ask: Source, folder: Path, bands: params.Bands, imagery: Imagery, work: Work
) -> Done:
    """One observation: its files, and as the value its rows of the manifest."""
    site, month = task
    obs_id = _obs_id(task)

    def inputs() -> Any:
        source = ask.inputs(site, month)
        if source is None:
            return None
        return {
            "site": [site.site_id, site.river, site.district, site.longitude, site.latitude, site.aoi.wkb_hex],
            "grid": asdict(site.grid),
            "month": month.isoformat(),
            "bands": [bands.s2, bands.s1],
            "imagery": [imagery.source, imagery.min_coverage],
            "source": source,
        }

    def function(folder: Path) -> list[dict[str, Any]]:
        return _observe(task, ask=ask, folder=folder, bands=bands, imagery=imagery)

    done = work.run(Unit(name=obs_id, inputs=inputs, function=function), folder / obs_id)
    for row in done.value:
        row["sha256"] = done.sha256.get(f"{row['product']}.tif")
    return done


def _observe(
    task: tuple[Site, date], *, ask: Source, folder: Path, bands: params.Bands, imagery: Imagery
) -> list[dict[str, Any]]:
    """Asks for one observation, writes its files, returns its rows of the manifest, all but their hashes."""
    site, month = task
    obs_id = _obs_id(task)
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
        file = f"{product.name}.tif"
        if not lacking and isinstance(product.raster, Raster):
            raster.write_cog(
                folder / file,
                product.raster.pixels,
                site.grid,
                bands=product.bands,
                nodata=product.nodata,
                tags={"IMAGERY": kind_of([imagery.source])},
            )
        rows.append(
            {
                "obs_id": obs_id,
                "site_id": site.site_id,
                "date": month.isoformat(),
                "product": product.name,
                "status": "skipped" if lacking else "exported",
                "detail": "; ".join(lacking) or None,
                "path": None if lacking else f"{obs_id}/{file}",
                "bands": ",".join(product.bands),
                "crs": site.grid.crs,
                "transform": ",".join(str(float(value)) for value in tuple(site.grid.transform)[:6]),
                "width_px": site.grid.width,
                "height_px": site.grid.height,
                "dtype": product.dtype,
                "nodata": product.nodata,
                "valid_fraction": product.valid_fraction(aoi),
                "source": imagery.source,
                "source_images": product.source_images,
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class _Product:
    """One file of an observation."""

    name: str
    bands: tuple[str, ...]
    raster: Raster | Unfetched | None
    dtype: str
    nodata: float

    def valid_fraction(self, aoi: npt.NDArray[np.bool_]) -> float:
        """Share of the AOI's pixels that have data in every band, rounded to 6 digits."""
        if self.raster is None:
            return 0.0
        if isinstance(self.raster, Unfetched):
            return round(self.raster.valid_fraction, 6)
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


def _rgb(s2: Raster | Unfetched | None, bands: Sequence[str]) -> Raster | Unfetched | None:
    """The picture that annotators see: reflectance 0..0.35 to 1..255, 0 where a band has no data."""
    if not isinstance(s2, Raster):
        return s2
    pixels = s2.pixels[[bands.index(band) for band in RGB_BANDS]].astype(np.int64)
    stretched = 1 + (np.minimum(pixels, RGB_WHITE) * 254 + RGB_WHITE // 2) // RGB_WHITE
    stretched[:, (pixels == 0).any(axis=0)] = 0
    return Raster(pixels=stretched.astype(np.uint8), source_images=s2.source_images)
