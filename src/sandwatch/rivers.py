"""River geometry from a vector file: only what lies near, checked, repaired or refused by name.

GDAL would take a file for whatever its content says, and among its vector formats are addresses of servers (VRT, WFS)
that it then asks; a GeoJSON may name one as its CRS, or be both GeoJSON and VRT. So formats are told apart here:
GeoJSON is read without GDAL, and GDAL is given nothing but GeoPackage, FlatGeobuf and shapefiles.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, transformer

if TYPE_CHECKING:
    import geopandas as gpd

FORMATS = ((b"SQLite format 3\0", b"GPKG", 68), (b"fgb\x03fgb", b"", 0), (b"\x00\x00\x27\x0a", b"", 0))
"""What GDAL is given: how a file begins, and what stands where in it too. Sources: OGC 12-128r18, requirements 1 and 2;
FlatGeobuf specification, version 3; ESRI Shapefile Technical Description, main file header."""
Bounds = tuple[float, float, float, float]
"""(west, south, east, north), degrees."""


class Rivers:
    """The rivers of a GeoJSON, GeoPackage, FlatGeobuf or shapefile: lines and polygons, in any CRS."""

    def __init__(self, path: Path) -> None:
        """Looks into the file without reading what can be read later.

        Raises:
            InputError: the file can't be read, holds several layers or no feature, or has no CRS.
        """
        self._path = path
        self._all: gpd.GeoSeries | None = None
        try:
            with path.open("rb") as file:
                head = file.read(100)
        except OSError as error:
            raise _unfit(path, error.strerror) from None
        if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            self._all = _read_geojson(path)
            self._crs = self._all.crs.to_string()
            return
        if not any(head.startswith(start) and head[at:].startswith(more) for start, more, at in FORMATS):
            raise _unfit(path, "another format")
        info = _look_into(path)
        self._crs = str(info["crs"])
        # Formats with a spatial index are read a place at a time; others would be parsed whole for each place.
        if not info["capabilities"]["fast_spatial_filter"]:
            self._all = self._read(None)

    def near(self, bounds: Bounds) -> gpd.GeoSeries:
        """Valid lines and polygons, in EPSG:4326, of the features that come into ``bounds``.

        Raises:
            InputError: a feature there is neither line nor polygon, or so broken that nothing is left of it.
        """
        return self.near_each([bounds])[0]

    def near_each(self, places: Sequence[Bounds]) -> tuple[gpd.GeoSeries, npt.NDArray[np.int64]]:
        """What :meth:`near` gives for places that lie near each other, at once.

        Returns:
            the features that come into any of ``places``, and (2, n): the positions of a place, in order, and of a
            feature that comes into it.

        Raises:
            InputError: as :meth:`near`.
        """
        if self._crs != WGS84:
            to_file = transformer(WGS84, self._crs)
            places = [to_file.transform_bounds(*bounds, densify_pts=21) for bounds in places]
        frames = shapely.box(*np.transpose(places))
        found = self._read(tuple(shapely.total_bounds(frames))) if self._all is None else self._all
        place, feature = found.sindex.query(frames, predicate="intersects", sort=True)
        used, position = np.unique(feature, return_inverse=True)
        return _lines_and_polygons(found.iloc[used].to_crs(WGS84), self._path), np.stack([place, position])

    def _read(self, bounds: Bounds | None) -> gpd.GeoSeries:
        """Features that come into ``bounds``, in the file's CRS; None for all."""
        import geopandas as gpd

        series: gpd.GeoSeries = gpd.read_file(self._path, bbox=bounds, columns=[], fid_as_index=True).geometry
        series = series.sort_index()  # whatever was asked for, the same order
        return series[~(series.isna() | series.is_empty)]


def _look_into(path: Path) -> dict[str, Any]:
    """What GDAL says of a file with one layer of features and a CRS."""
    import pyogrio
    from pyogrio.errors import DataSourceError

    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise InputError(
                str(path), got=f"layers {', '.join(layers)}", expected="one", fix="save the rivers in their own file"
            )
        info: dict[str, Any] = pyogrio.read_info(path, force_feature_count=True)
    except DataSourceError as error:
        raise _unfit(path, error) from None
    if not info["features"]:
        raise _no_feature(path)
    if info["crs"] is None:
        raise InputError(
            str(path),
            got="no coordinate reference system",
            expected="one that says what the coordinates mean",
            fix="write it into the file, with ogr2ogr -a_srs for instance",
        )
    return info


def _read_geojson(path: Path) -> gpd.GeoSeries:
    """The geometries of a GeoJSON; what GDAL skips without a word, features that don't say that they are, counts too.

    Without a ``crs``, coordinates are longitude and latitude. Source: RFC 7946; of ``crs``, its 2008 predecessor.
    """
    import geopandas as gpd
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        geometries = [shape(one["geometry"]) if one["geometry"] is not None else None for one in features]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ShapelyError) as error:
        raise _unfit(path, f"{type(error).__name__}: {error}") from None
    if not geometries:
        raise _no_feature(path)
    try:
        named = content.get("crs")
        crs = CRS.from_user_input(named["properties"]["name"]) if named is not None else WGS84
    except (KeyError, TypeError, CRSError):
        raise InputError(
            f"{path}, crs",
            got=repr(named)[:200],
            expected='a name, such as {"type": "name", "properties": {"name": "EPSG:32645"}}',
            fix="name it, or remove it where coordinates are longitude and latitude",
        ) from None
    series = gpd.GeoSeries(geometries, crs=crs)
    return series[~(series.isna() | series.is_empty)]


def _unfit(path: Path, got: object) -> InputError:
    return InputError(
        str(path),
        got=got,
        expected="a GeoJSON, GeoPackage, FlatGeobuf or shapefile (.shp)",
        fix=f"check the path and the file, or convert it: ogr2ogr rivers.gpkg {path.name}",
    )


def _no_feature(path: Path) -> InputError:
    return InputError(str(path), got="no feature", expected="rivers", fix="save the rivers again")


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
    fit = series.is_valid & (series.geom_type != "GeometryCollection") & (shapely.get_dimensions(series) > 0)
    for fid, geometry in series[~fit].items():
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
