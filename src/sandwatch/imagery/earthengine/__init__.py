"""Composites computed by Google Earth Engine: ``imagery.source: earthengine``.

One call a site tells what images there are in its months and how much of the AOI they cover; then only what covers
enough is fetched, all sites at once, into a work area outside the stage's outputs, where each file is named by the
hash of what was asked for. A run that ends early begins again with what is there. Afterwards composites are read from
those files, by any number of processes, without the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.imagery import Composite, Raster, Site, SourceImage, Unfetched
from sandwatch.imagery.earthengine import composites, session, transfer
from sandwatch.imagery.params import EarthEngine
from sandwatch.pools import threads
from sandwatch.stack import load
from sandwatch.stage import progress

if TYPE_CHECKING:
    import numpy.typing as npt

WORK = Path(".cache/sandwatch/earthengine")
"""The work area: git and DVC ignore it, and nothing is lost with it but time."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the survey tells of a product of an observation."""

    images: tuple[SourceImage, ...]
    indices: tuple[str, ...]
    coverage: float


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source of imagery (``sandwatch.imagery.Source``) whose pixels lie in files.

    Attributes:
        products: (site_id, month, product) -> where its pixels are; absent where they weren't worth fetching.
        found: (site_id, month, product) -> what the survey told; absent where it found no image.
    """

    products: dict[tuple[str, date, str], Path]
    found: dict[tuple[str, date, str], _Found]

    def __call__(self, site: Site, month: date) -> Composite:
        """Returns the composite of ``site`` in the month that begins with ``month``."""
        return Composite(s2=self._product(site, month, "s2"), s1=self._product(site, month, "s1"))

    def inputs(self, site: Site, month: date) -> Any:
        """None: what took long was the fetching, and what was fetched is in the work area already."""

    def _product(self, site: Site, month: date, product: str) -> Raster | Unfetched | None:
        found = self.found.get((site.site_id, month, product))
        if found is None:
            return None
        path = self.products.get((site.site_id, month, product))
        if path is None:
            return Unfetched(valid_fraction=found.coverage, source_images=found.images)
        dtype = np.uint16 if product == "s2" else np.float32
        pixels = np.array(load(path, dtype, (None, *site.grid.shape), fix="remove it, and it is fetched again"))
        return Raster(pixels=pixels if product == "s2" else decibel(pixels), source_images=found.images)


def fetch(
    sites: Sequence[Site], bands: params.Bands, settings: EarthEngine, *, min_coverage: float, work: Path = WORK
) -> Fetched:
    """Fetches the composites of ``sites`` that are worth it: of an observation all products, or none.

    Args:
        sites: with the months to observe.
        bands: which a composite holds.
        settings: the section ``earthengine`` of params.yaml.
        min_coverage: share of the AOI that a composite must cover to be fetched.
        work: folder of what is fetched, kept from run to run.

    Raises:
        InputError: bands that the product lacks; Earth Engine or the bucket refuses; not one image anywhere.
    """
    _check_bands(bands, settings)
    session.start()
    progress(f"asking Earth Engine what there is of {len(sites)} sites, one call a site")
    found: dict[tuple[str, date, str], _Found] = {}
    with threads(transfer.PARALLEL_REQUESTS) as pool:
        for site, answer in zip(sites, pool.map(lambda site: _survey(site, bands, settings), sites), strict=True):
            found.update({(site.site_id, month, product): value for (month, product), value in answer.items()})
    _check_found(found, sites)

    products = ("s2", "s1") if bands.s1 else ("s2",)
    orders: dict[tuple[str, date, str], transfer.Order] = {}
    for site, month in [(one, month) for one in sites for month in one.months]:
        parts = {product: found.get((site.site_id, month, product)) for product in products}
        if all(part is not None and part.coverage >= min_coverage for part in parts.values()):
            for product, part in parts.items():
                assert part is not None
                orders[site.site_id, month, product] = _order(site, month, product, part.indices, bands, settings, work)
    observations = sum(len(site.months) for site in sites)
    worthwhile = len(orders) // len(products)
    progress(f"{worthwhile} of {observations} observations cover at least {min_coverage:.0%} of their AOI")
    transfer.fetch(list(orders.values()), settings)
    return Fetched(products={key: order.path for key, order in orders.items()}, found=found)


def decibel(power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Backscatter in dB, float32 rounded to 0.01, of linear power; NaN where power is 0."""
    with np.errstate(divide="ignore"):
        db = np.round(10.0 * np.log10(power.astype(np.float64)), 2)
    return np.where(power > 0, db, np.nan).astype(np.float32)


def _check_bands(bands: params.Bands, settings: EarthEngine) -> None:
    offered = params.S2_L2A_BANDS if settings.s2_level == "L2A" else params.S2_BANDS
    missing = [band for band in bands.s2 if band not in offered]
    if missing:
        raise InputError(
            "params.yaml: bands.s2",
            got=", ".join(missing),
            expected=f"bands of Sentinel-2 {settings.s2_level}: {', '.join(offered)}",
            fix="take them out, or set earthengine.s2_level to L1C",
        )


def _survey(site: Site, bands: params.Bands, settings: EarthEngine) -> dict[tuple[date, str], _Found]:
    answer: Any = session.call(f"survey of {site.site_id}", composites.survey(site, bands, settings).getInfo)
    return {
        (date.fromisoformat(month), product): _found(f"{site.site_id} {month} {product}", product, described, settings)
        for month, products in answer.items()
        for product, described in products.items()
        if described["indices"]
    }


def _found(name: str, product: str, described: dict[str, Any], settings: EarthEngine) -> _Found:
    indices, times, baselines = described["indices"], described["times"], described["baselines"]
    baselines = baselines or [None] * len(indices)
    if not len(indices) == len(times) == len(baselines):
        raise InputError(
            f"Earth Engine, survey of {name}",
            got=f"{len(indices)} images, {len(times)} times, {len(baselines)} processing baselines",
            expected="one of each an image",
            fix="run again; if it stays so, report it",
        )
    collection = composites.collection_of(product, settings)
    images = (
        SourceImage(
            id=f"{collection}/{index}",
            date=datetime.fromtimestamp(time / 1000, UTC).date().isoformat(),
            processing_baseline=baseline,
        )
        for index, time, baseline in zip(indices, times, baselines, strict=True)
    )
    return _Found(
        images=tuple(sorted(images, key=lambda image: image.id)),
        indices=tuple(sorted(indices)),
        coverage=round(described["coverage"], 4),
    )


def _check_found(found: dict[tuple[str, date, str], _Found], sites: Sequence[Site]) -> None:
    if not any(product == "s2" for _, _, product in found):
        months = sorted(month for site in sites for month in site.months)
        raise InputError(
            "Earth Engine",
            got=f"not one Sentinel-2 image of {len(sites)} sites from {months[0]} to {months[-1]}",
            expected="images in some of the months",
            fix="check the coordinates and months in sites.csv, and earthengine.s2_level and cloud_mask in params.yaml",
        )


def _order(
    site: Site,
    month: date,
    product: str,
    indices: Sequence[str],
    bands: params.Bands,
    settings: EarthEngine,
    work: Path,
) -> transfer.Order:
    names = bands.s2 if product == "s2" else bands.s1
    return transfer.Order(
        name=f"{site.site_id}_{month.isoformat()}_{product}",
        image=composites.composite(product, site.grid, month, indices, names, settings),
        grid=site.grid,
        bands=names,
        dtype="uint16" if product == "s2" else "float32",
        folder=work,
    )
