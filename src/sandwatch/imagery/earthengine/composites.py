"""What Earth Engine is asked to compute, as expressions: the survey of a site's months, and the composites.

Nothing here talks to the service. Composites are computed from images that are pinned by their index, so that what the
survey told is what the composite holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from sandwatch import params
from sandwatch.grid import Grid
from sandwatch.imagery import Site
from sandwatch.imagery.params import EarthEngine

if TYPE_CHECKING:
    import ee

S2_COLLECTIONS = {"L2A": "COPERNICUS/S2_SR_HARMONIZED", "L1C": "COPERNICUS/S2_HARMONIZED"}
"""Harmonised: without the +1000 offset of processing baseline 04.00 and later. Source: Earth Engine catalogue."""
S1_COLLECTION = "COPERNICUS/S1_GRD_FLOAT"
"""Linear power, terrain-corrected; COPERNICUS/S1_GRD is the same in dB. Source: Earth Engine catalogue."""
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
CLOUD_SCORE_BAND = "cs"
"""Cloud Score+ without the ranking over time, the more cautious near clouds' edges. Source: Earth Engine catalogue."""
MAX_PIXELS = 10**10
WATER = "JRC/GSW1_4/GlobalSurfaceWater"
WATER_BAND = "max_extent"


def crs_transform(grid: Grid) -> list[float]:
    """A grid's transform in Earth Engine's order: xScale, xShearing, xTranslation, yShearing, yScale, yTranslation."""
    return [grid.resolution, 0.0, grid.left, 0.0, -grid.resolution, grid.top]


def collection_of(product: str, settings: EarthEngine) -> str:
    """The catalogue's name of the collection that ``product`` (s2, s1) is made of."""
    return S2_COLLECTIONS[settings.s2_level] if product == "s2" else S1_COLLECTION


def images(product: str, grid: Grid, month: date, settings: EarthEngine) -> ee.ImageCollection:
    """Images of a month that touch ``grid``.

    Sentinel-2: with clouds masked, or without the cloudy scenes. Sentinel-1: of interferometric wide swath with both
    polarisations, from one orbit direction or both.
    """
    import ee

    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    frame = ee.Geometry.Rectangle(list(grid.bounds), proj=grid.crs, geodesic=False)
    found = (
        ee.ImageCollection(collection_of(product, settings))
        .filterBounds(frame)
        .filterDate(month.isoformat(), following.isoformat())
    )
    return _clear(found, settings) if product == "s2" else _of_one_kind(found, settings)


def survey(site: Site, bands: params.Bands, settings: EarthEngine) -> ee.Dictionary:
    """What there is of a site, in one value: for each month and product, its images and how much of the AOI they cover.

    Returns:
        ``{"2022-05-01": {"s2": {"indices", "times", "baselines", "coverage"}, "s1": ...}, ...}``: the images' indices
        in their collection, milliseconds since 1970 and processing baselines, and the share of the AOI's pixels with
        at least one valid value.
    """
    import ee

    wanted = [("s2", bands.s2[0]), *([("s1", bands.s1[0])] if bands.s1 else [])]
    return ee.Dictionary(
        {
            month.isoformat(): {
                product: _described(images(product, site.grid, month, settings), band, site) for product, band in wanted
            }
            for month in site.months
        }
    )


def composite(
    product: str, grid: Grid, month: date, indices: Sequence[str], bands: Sequence[str], settings: EarthEngine
) -> ee.Image:
    """The composite of the images with these indices, 0 where there is no data.

    Sentinel-2: the median, uint16 reflectance x 10000, halves rounded up. A valid value of 0, which the harmonised
    collections hold in deep shadow, becomes 1. Sentinel-1: the mean of linear power, float32. It is the estimate of
    backscatter under speckle; means belong into linear power, not into dB.
    """
    import ee

    pinned = ee.Filter.inList("system:index", list(indices))
    chosen = images(product, grid, month, settings).filter(pinned).select(list(bands))
    made: ee.Image
    if product == "s2":
        made = chosen.median().add(0.5).floor().max(1).unmask(0, False).toUint16()
    else:
        made = chosen.map(_positive).mean().toFloat().unmask(0, False)
    return made


def water() -> ee.Image:
    """1 where water was ever seen by Landsat from 1984 to 2021, else 0. Source: JRC Global Surface Water 1.4."""
    import ee

    made: ee.Image = ee.Image(WATER).select([WATER_BAND]).unmask(0, False).toByte()
    return made


def _clear(found: ee.ImageCollection, settings: EarthEngine) -> ee.ImageCollection:
    import ee

    if settings.cloud_mask == "scene_filter":
        return found.filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", settings.max_cloudy_percent))

    def masked(image: ee.Image) -> ee.Image:
        return image.updateMask(image.select([CLOUD_SCORE_BAND]).gte(settings.clear_threshold))

    linked: ee.ImageCollection = found.linkCollection(ee.ImageCollection(CLOUD_SCORE), [CLOUD_SCORE_BAND]).map(masked)
    return linked


def _of_one_kind(found: ee.ImageCollection, settings: EarthEngine) -> ee.ImageCollection:
    import ee

    found = found.filter(ee.Filter.eq("instrumentMode", "IW"))
    for polarisation in params.S1_BANDS:
        found = found.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
    if settings.s1_orbit == "both":
        return found
    return found.filter(ee.Filter.eq("orbitProperties_pass", settings.s1_orbit.upper()))


def _positive(image: ee.Image) -> ee.Image:
    return image.updateMask(image.gt(0))


def _described(found: ee.ImageCollection, band: str, site: Site) -> dict[str, Any]:
    import ee
    from shapely.geometry import mapping

    covered = found.select([band]).count().unmask(0, False).gt(0).rename("covered")
    coverage = covered.reduceRegion(
        reducer=ee.Reducer.mean(),
        geometry=ee.Geometry(mapping(site.aoi), None, False),
        crs=site.grid.crs,
        crsTransform=crs_transform(site.grid),
        maxPixels=MAX_PIXELS,
    ).get("covered")
    return {
        "indices": found.aggregate_array("system:index"),
        "times": found.aggregate_array("system:time_start"),
        "baselines": found.aggregate_array("PROCESSING_BASELINE"),
        "coverage": ee.Algorithms.If(found.size(), coverage, 0),
    }
