"""River geometry from a vector file: only what lies near, checked, repaired or refused by name.

GDAL would take a file for whatever its content says, and among its vector formats are addresses of servers (VRT, WFS)
that it then asks; a GeoJSON may name one as its CRS, or be both GeoJSON and VRT. So formats are told apart here:
GeoJSON and KML are read without GDAL, and GDAL is given nothing but GeoPackage, FlatGeobuf and shapefiles.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from sandwatch import features, kml, text
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, transformer
from sandwatch.stage import progress

if TYPE_CHECKING:
    import geopandas as gpd

FORMATS = ((b"SQLite format 3\0", b"GPKG", 68), (b"fgb\x03fgb", b"", 0), (b"\x00\x00\x27\x0a", b"", 0))
"""What GDAL is given: how a file begins, and what stands where in it too. Sources: OGC 12-128r18, requirements 1 and 2;
FlatGeobuf specification, version 3; ESRI Shapefile Technical Description, main file header."""
EXPECTED = "a GeoJSON, GeoPackage, FlatGeobuf, KML or shapefile (.shp, or zipped)"
ZIP = b"PK\x03\x04"
"""Source: APPNOTE.TXT of the ZIP format, 4.3.7."""
IN_ZIP = (".shp", ".gpkg", ".fgb", ".geojson", ".json", ".kml")
BESIDE_SHP = (".shp", ".shx", ".dbf", ".prj", ".cpg")
MOST_UNPACKED = 4 * 2**30
"""Bytes that are unpacked of a ZIP archive; the rivers of all of Asia in HydroRIVERS take 0.6 GiB."""
MOST_DEGREES = (360.0, 90.001)
"""Longitude and latitude beyond which coordinates aren't degrees; some files count longitudes from 0 to 360."""
Bounds = tuple[float, float, float, float]
"""(west, south, east, north), degrees."""


class Rivers:
    """The rivers of a GeoJSON, KML, GeoPackage, FlatGeobuf or (zipped) shapefile: lines and polygons, in any CRS."""

    def __init__(self, path: Path) -> None:
        """Looks into the file without reading what can be read later.

        What a river can't be is left out, and told: points, and features without a geometry.

        Raises:
            InputError: the file can't be read, holds several layers or no feature, or has no CRS that PROJ knows, or
                coordinates that can't be in it.
        """
        self._path = path
        self._all: gpd.GeoSeries | None = None
        self._crs: str
        self._told: set[Any] = set()
        try:
            with path.open("rb") as file:
                head = file.read(2000)
        except OSError as error:
            raise _unfit(path, error.strerror) from None
        if head.startswith(ZIP):
            with TemporaryDirectory() as folder:
                unpacked = _unpacked(path, Path(folder))
                try:
                    inner = Rivers(unpacked)
                    self._crs, self._all = inner._crs, inner._all if inner._all is not None else inner._read(None)
                except InputError as error:
                    what = error.what.replace(str(unpacked), f"{path}, its {unpacked.suffix}")
                    raise InputError(what, got=error.got, expected=error.expected, fix=error.fix) from None
            return
        if not any(head.startswith(start) and head[at:].startswith(more) for start, more, at in FORMATS):
            series = _read_text(path)
            self._crs = series.crs.to_string()
            _check_crs(path, self._crs, series.total_bounds)
            self._all = self._usable(series)
            return
        info = _look_into(path)
        self._crs = str(info["crs"])
        _check_crs(path, self._crs, info["total_bounds"])
        # Formats with a spatial index are read a place at a time; others would be parsed whole for each place.
        if not info["capabilities"]["fast_spatial_filter"]:
            self._all = self._read(None)

    def near(self, bounds: Bounds) -> gpd.GeoSeries:
        """Valid lines and polygons, in EPSG:4326, of the features that come into ``bounds``.

        Raises:
            InputError: a feature there is so broken that nothing is left of it.
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
        return self._usable(series.sort_index())  # whatever was asked for, the same order

    def _usable(self, series: gpd.GeoSeries) -> gpd.GeoSeries:
        """The lines and polygons of features, of collections of them too; tells once of each feature that is left out.

        Raises:
            InputError: none is left of the whole file.
        """
        while (series.geom_type == "GeometryCollection").any():
            series = series.explode(index_parts=False)
        usable = ~(series.isna() | series.is_empty) & (shapely.get_dimensions(series) > 0)
        left_out = {fid: geometry for fid, geometry in series[~usable].items() if fid not in self._told}
        self._told |= left_out.keys()
        if left_out:
            some = ", ".join(
                f"feature {fid} ({'no geometry' if geometry is None or geometry.is_empty else geometry.geom_type})"
                for fid, geometry in list(left_out.items())[:3]
            )
            more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            progress(f"note: {self._path.name}: left out, since neither lines nor polygons: {some}{more}")
        return series[usable]


def _unpacked(path: Path, folder: Path) -> Path:
    """The one vector file in a ZIP archive, unpacked into ``folder`` with what belongs to it."""
    try:
        with zipfile.ZipFile(path) as archive:
            # macOS puts its own files beside each one.
            members = [one for one in archive.infolist() if not one.is_dir() and "__MACOSX" not in one.filename]
            names = [PurePosixPath(one.filename) for one in members]
            vectors = [name for name in names if name.suffix.lower() in IN_ZIP]
            if len(vectors) != 1:
                raise InputError(
                    str(path),
                    got=f"{', '.join(map(str, vectors)) or 'no vector file'} in the ZIP archive",
                    expected=f"one file that ends in {', '.join(IN_ZIP)}",
                    fix="unpack it, and name the file in params.yaml, aoi.rivers",
                )
            (vector,) = vectors
            suffixes = BESIDE_SHP if vector.suffix.lower() == ".shp" else (vector.suffix.lower(),)
            wanted = [
                one
                for one, name in zip(members, names, strict=True)
                if (name.parent, name.stem) == (vector.parent, vector.stem) and name.suffix.lower() in suffixes
            ]
            if sum(one.file_size for one in wanted) > MOST_UNPACKED:
                raise InputError(
                    str(path),
                    got=f"{sum(one.file_size for one in wanted) / 2**30:.1f} GiB in the ZIP archive",
                    expected=f"at most {MOST_UNPACKED / 2**30:.0f} GiB",
                    fix="unpack it, and save the rivers near your sites as a GeoPackage",
                )
            for one in wanted:  # under names of ours, whatever paths the archive holds
                (folder / f"{path.stem}{PurePosixPath(one.filename).suffix.lower()}").write_bytes(archive.read(one))
            return folder / f"{path.stem}{vector.suffix.lower()}"
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise _unfit(path, f"a ZIP archive that can't be unpacked: {error}") from None


def _look_into(path: Path) -> dict[str, Any]:
    """What GDAL says of a file with one layer of features and a CRS."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise InputError(
                str(path), got=f"layers {', '.join(layers)}", expected="one", fix="save the rivers in their own file"
            )
        info: dict[str, Any] = pyogrio.read_info(path, force_feature_count=True, force_total_bounds=True)
    except (DataSourceError, DataLayerError) as error:
        raise _unfit(path, error) from None
    if not info["features"]:
        raise _no_feature(path)
    if info["crs"] is None:
        west, south, east, north = info["total_bounds"]
        degrees = max(abs(west), abs(east)) <= MOST_DEGREES[0] and max(abs(south), abs(north)) <= MOST_DEGREES[1]
        code = WGS84 if degrees else "EPSG:<the code of its CRS>"
        beside = ", as a shapefile without its .prj," if path.suffix.lower() == ".shp" else ""
        raise InputError(
            str(path),
            got=f"no coordinate reference system{beside} and coordinates such as {west:.10g}, {south:.10g}",
            expected="one that says what the coordinates mean",
            fix=f"fetch the whole of it, or write the CRS into it: ogr2ogr -a_srs {code} rivers.gpkg {path.name}",
        )
    return info


def _check_crs(path: Path, crs: str, bounds: Sequence[float]) -> None:
    """Refuses a CRS that PROJ can't bring to EPSG:4326, and coordinates that aren't degrees where these are meant."""
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    try:
        transformer(WGS84, crs)
    except ProjError as error:
        raise InputError(
            str(path),
            got=f"CRS {crs[:100]}: {error}",
            expected="a projected or geographic one that PROJ can bring to EPSG:4326",
            fix=f"write the right one into it: ogr2ogr -a_srs EPSG:<its code> rivers.gpkg {path.name}",
        ) from None
    west, south, east, north = bounds
    beyond = max(abs(west), abs(east)) > MOST_DEGREES[0] or max(abs(south), abs(north)) > MOST_DEGREES[1]
    if beyond and CRS(crs).is_geographic:
        raise InputError(
            str(path),
            got=f"coordinates from {west:.10g}, {south:.10g} to {east:.10g}, {north:.10g} in {CRS(crs).name}",
            expected="longitude and latitude in degrees",
            fix=f"these look like metres; say of which CRS: ogr2ogr -a_srs EPSG:<its code> rivers.gpkg {path.name}",
        )


def _read_text(path: Path) -> gpd.GeoSeries:
    """The geometries of a GeoJSON or a KML, None for features without one.

    A GeoJSON without a ``crs`` is in longitude and latitude. Source: RFC 7946; of ``crs``, its 2008 predecessor.
    """
    import geopandas as gpd
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    content = path.read_bytes()
    if (known := text.posing(content)) is not None:
        raise InputError(str(path), got=known[0], expected=EXPECTED, fix=known[1])
    read = text.decode(content, path)
    if kml.is_kml(read[:2000]):
        try:
            placemarks = kml.read(read)
        except ValueError as error:
            raise _unfit(path, error) from None
        if not placemarks:
            raise _no_feature(path)
        return gpd.GeoSeries(placemarks, crs=WGS84)
    if not read.lstrip("\ufeff\x1e \t\r\n").startswith(("{", "[")):
        raise _unfit(path, "another format")
    try:
        found = features.read(read)
    except features.NoFeaturesError as error:
        raise _unfit(path, error) from None
    if not found.features:
        raise _no_feature(path)
    try:
        crs = CRS.from_user_input(found.crs_name) if found.crs is not None else WGS84
    except CRSError:
        raise InputError(
            f"{path}, crs",
            got=repr(found.crs)[:200],
            expected='a name, such as {"type": "name", "properties": {"name": "EPSG:32645"}}',
            fix="name it, or remove it where coordinates are longitude and latitude",
        ) from None
    return gpd.GeoSeries([_shape(path, number, one) for number, one in enumerate(found.features)], crs=crs)


def _shape(path: Path, number: int, feature: dict[str, Any]) -> BaseGeometry | None:
    """The geometry of a feature, rings closed where they aren't; None where it has none."""
    try:
        geometry = feature["geometry"]
        drawn = None if geometry is None else shape(geometry)
        if drawn is not None and not np.isfinite(shapely.get_coordinates(drawn)).all():
            raise ValueError("a coordinate that is no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ShapelyError) as error:
        raise InputError(
            f"{path}, feature {number}",
            got=f"a geometry that can't be read: {type(error).__name__}: {error}",
            expected="a line or a polygon",
            fix="remove it, or draw it again",
        ) from None
    return drawn


def _unfit(path: Path, got: object) -> InputError:
    return InputError(
        str(path),
        got=got,
        expected=EXPECTED,
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
    repaired = series.to_numpy().copy()
    for place in np.flatnonzero(~series.is_valid):
        geometry = repaired[place]
        parts = shapely.get_parts(shapely.make_valid(geometry))
        kept = parts[shapely.get_dimensions(parts) == shapely.get_dimensions(geometry)]
        if not len(kept):
            raise InputError(
                f"{path}, feature {series.index[place]}",
                got=f"a broken {geometry.geom_type}: {shapely.is_valid_reason(geometry)}",
                expected="a geometry of which something is left when it is repaired",
                fix="draw it again",
            )
        repaired[place] = shapely.union_all(kept)
    return type(series)(repaired, index=series.index, crs=series.crs)
