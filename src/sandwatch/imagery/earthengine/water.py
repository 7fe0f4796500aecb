"""River polygons where no river file is at hand: the water that Landsat ever saw, from Earth Engine, vectorised here.

The polygons are written into the region's folder once and belong into git, like any river file. So the stages read a
file that DVC knows, and no stage asks the outside world where the rivers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sandwatch.errors import InputError
from sandwatch.files import write_json
from sandwatch.geometry import WGS84, reproject, snap, transformer
from sandwatch.grid import Grid, utm_crs
from sandwatch.imagery.earthengine import composites, session, transfer
from sandwatch.pools import threads

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from sandwatch.aoi import Site

RESOLUTION_M = 30.0
"""Of Landsat, and so of the water."""
MARGIN_M = 300.0
"""Water is looked at so far beyond a site's extent, so that its edges there are those of the extent and not ours."""


def write_rivers(path: Path, sites: Sequence[Site], *, extent_m: float, min_area_m2: float) -> int:
    """Writes the water around ``sites`` as GeoJSON polygons, EPSG:4326, whole or not at all.

    Args:
        path: of the file, which must not exist yet: it may hold someone's work.
        sites: rows of sites.csv.
        extent_m: side of the square around a site, ``aoi.extent_m``.
        min_area_m2: ponds, tanks and flooded fields smaller than this are left out.

    Returns:
        The number of polygons.

    Raises:
        InputError: the file exists; a site has no water; Earth Engine refuses.
    """
    if path.exists():
        raise InputError(
            str(path), got="a file", expected="none yet", fix="remove it, or name another file in aoi.rivers"
        )
    session.start()
    with threads(transfer.PARALLEL_REQUESTS) as pool:
        found = list(pool.map(lambda site: _water(site, extent_m=extent_m, min_area_m2=min_area_m2), sites))
    dry = [site.site_id for site, polygons in zip(sites, found, strict=True) if not polygons]
    if dry:
        raise InputError(
            f"sites {', '.join(dry)}",
            got=f"no water of {min_area_m2:g} m2 within their extent of {extent_m:g} m",
            expected="a river near every site",
            fix="correct their coordinates, raise aoi.extent_m, or lower --min-area-m2",
        )
    features = [_feature(site, polygon) for site, polygons in zip(sites, found, strict=True) for polygon in polygons]
    write_json(path, {"type": "FeatureCollection", "features": features})
    return len(features)


def _water(site: Site, *, extent_m: float, min_area_m2: float) -> list[BaseGeometry]:
    """Polygons in degrees of the connected water around a site, from the top down."""
    from affine import Affine
    from rasterio.features import shapes
    from shapely.geometry import shape

    grid = _grid(site, extent_m / 2 + MARGIN_M)
    order = transfer.Order(
        name=f"{site.site_id}_water",
        image=composites.water(),
        grid=grid,
        bands=(composites.WATER_BAND,),
        dtype="uint8",
        folder=Path(),
    )
    water = np.zeros(grid.shape, np.uint8)
    for window in order.tiles:
        water[window.slices] = transfer.compute_pixels(order, window)[0]
    at = Affine(RESOLUTION_M, 0.0, grid.left, 0.0, -RESOLUTION_M, grid.top)
    polygons = [shape(geometry) for geometry, _ in shapes(water, water > 0, 8, at)]
    large = sorted(
        (polygon for polygon in polygons if polygon.area >= min_area_m2), key=lambda one: (-one.bounds[3], one.wkb)
    )
    # Polygons joined at corners touch themselves: buffer(0) makes them valid.
    return [snap(reproject(polygon.buffer(0), grid.crs, WGS84)) for polygon in large]


def _grid(site: Site, reach_m: float) -> Grid:
    crs = utm_crs(site.longitude, site.latitude)
    x, y = transformer(WGS84, crs).transform(site.longitude, site.latitude)
    side = 2 * int(np.ceil(reach_m / RESOLUTION_M))
    left, top = (np.floor(value / RESOLUTION_M) * RESOLUTION_M for value in (x, y))
    return Grid(
        crs=crs,
        left=float(left - side / 2 * RESOLUTION_M),
        top=float(top + side / 2 * RESOLUTION_M),
        width=side,
        height=side,
        resolution=RESOLUTION_M,
    )


def _feature(site: Site, polygon: BaseGeometry) -> dict[str, Any]:
    from shapely.geometry import mapping

    return {
        "type": "Feature",
        "properties": {"site_id": site.site_id, "source": f"{composites.WATER} {composites.WATER_BAND}"},
        "geometry": mapping(polygon),
    }
