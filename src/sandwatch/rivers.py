"""River geometry from any vector file: only what lies near, checked, repaired or refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, transformer

if TYPE_CHECKING:
    import geopandas as gpd

Bounds = tuple[float, float, float, float]
"""(west, south, east, north), degrees."""


class Rivers:
    """The rivers of a vector file: lines and polygons, in any CRS and any format that geopandas reads."""

    def __init__(self, path: Path) -> None:
        """Looks into the file without reading what can be read later.

        Raises:
            InputError: the file can't be read, holds several layers or no feature, or has no CRS.
        """
        import pyogrio
        from pyogrio.errors import DataSourceError

        self._path = path
        try:
            layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
            if len(layers) > 1:
                raise InputError(
                    str(path),
                    got=f"layers {', '.join(layers)}",
                    expected="one",
                    fix="save the rivers in their own file",
                )
            info = pyogrio.read_info(path, force_feature_count=True)
        except DataSourceError as error:
            raise InputError(
                str(path), got=str(error), expected="a vector file that GDAL reads", fix="check the path and the file"
            ) from None
        self._check_features(int(info["features"]), str(info["driver"]))
        if info["crs"] is None:
            raise InputError(
                str(path),
                got="no coordinate reference system",
                expected="one that says what the coordinates mean",
                fix="write it into the file, with ogr2ogr -a_srs for instance",
            )
        self._crs = str(info["crs"])
        # Formats with a spatial index are read a place at a time; others would be parsed whole for each place.
        self._all = None if info["capabilities"]["fast_spatial_filter"] else self._read(None)

    def near(self, bounds: Bounds) -> gpd.GeoSeries:
        """Valid lines and polygons, in EPSG:4326, of the features that come into ``bounds``.

        Raises:
            InputError: a feature there is neither line nor polygon, or so broken that nothing is left of it.
        """
        found = self._read(bounds) if self._all is None else self._all
        frame = box(*transformer(WGS84, self._crs).transform_bounds(*bounds, densify_pts=21))
        return _lines_and_polygons(found[found.intersects(frame)].to_crs(WGS84), self._path)

    def _read(self, bounds: Bounds | None) -> gpd.GeoSeries:
        import geopandas as gpd

        inside = None if bounds is None else transformer(WGS84, self._crs).transform_bounds(*bounds, densify_pts=21)
        series: gpd.GeoSeries = gpd.read_file(self._path, bbox=inside, columns=[], fid_as_index=True).geometry
        return series[~(series.isna() | series.is_empty)]

    def _check_features(self, count: int, driver: str) -> None:
        listed = len(json.loads(self._path.read_text()).get("features", [])) if driver == "GeoJSON" else count
        if not count or count < listed:
            raise InputError(
                str(self._path),
                got=f"{count} features that can be read, {listed} in the file",
                expected="rivers, and every one of them readable",
                fix='give each GeoJSON feature its "type": "Feature"' if listed else "save the rivers again",
            )


def read(path: Path, places: Sequence[Bounds]) -> BaseGeometry:
    """All river geometry that comes into any of ``places`` (west, south, east, north; degrees), as one, EPSG:4326.

    Raises:
        InputError: the file is unfit, as :class:`Rivers` says.
    """
    rivers = Rivers(path)
    geometry: list[BaseGeometry] = [g for bounds in places for g in rivers.near(bounds)]
    union: BaseGeometry = shapely.union_all(np.asarray(geometry, dtype=object))
    return union


def _lines_and_polygons(series: Any, path: Path) -> Any:
    """Repairs what is broken; keeps of each feature the parts of its own dimension."""
    series = series.copy()
    for fid, geometry in series.items():
        dimension = shapely.get_dimensions(geometry)
        if dimension == 0 or geometry.geom_type == "GeometryCollection":
            raise InputError(
                f"{path}, feature {fid}",
                got=geometry.geom_type,
                expected="a line or a polygon",
                fix="remove it, or draw the river as a line",
            )
        if not geometry.is_valid:
            parts = shapely.get_parts(shapely.make_valid(geometry))
            kept = parts[shapely.get_dimensions(parts) == dimension]
            if not len(kept):
                raise InputError(
                    f"{path}, feature {fid}",
                    got=f"a broken {geometry.geom_type}: {shapely.is_valid_reason(geometry)}",
                    expected="a geometry of which something is left when it is repaired",
                    fix="draw it again",
                )
            series.loc[fid] = shapely.union_all(kept)
    return series
