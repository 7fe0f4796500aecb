"""The only place that opens rasters, GeoTIFF and nothing else: reads, checks and writes them whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from shapely.geometry.base import BaseGeometry

from sandwatch.errors import InputError, unsigned
from sandwatch.files import write_bytes
from sandwatch.geometry import WGS84, reproject, transformer
from sandwatch.grid import Grid, Window
from sandwatch.text import posing_file

if TYPE_CHECKING:
    from shapely import Polygon

BLOCK_PX = 256
"""Side of a COG block. Measured: windows read fastest from 256 px zstd blocks (DESIGN, section 11)."""
STRIP_PX = 64
"""Width of what is warped at a time. GDAL interpolates coordinates along a row, up to an eighth of a pixel off; along
so short a row it is off by less than a thousandth."""
FARTHEST = 1e9
"""Units from a CRS's origin beyond which there is no place: the earth's circumference is 4e7 m, 1.3e8 feet."""
MOST_BYTES = 8 * 2**30
"""Memory that bringing a raster onto a grid may take: twelve bands of 3 m over an area 40 km square take less. A raster
that needs more is far finer than any grid of ours, and is better averaged once than at every export."""
WORTH_TELLING = 0.001
"""Share of a raster's pixels from which on a choice about them is told."""
# Burning shapes, rasterio silences a warning of its own with catch_warnings, which threads may not do side by side.
_BURNING = Lock()


def write_cog(
    path: Path,
    pixels: npt.NDArray[Any],
    grid: Grid,
    *,
    bands: Sequence[str],
    nodata: float | None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes a cloud-optimised GeoTIFF, whole or not at all; the same input gives the same bytes.

    Args:
        path: where to; its folder is made.
        pixels: array (band, y, x) of the grid's shape.
        grid: CRS and transform.
        bands: a name a band, written as band descriptions.
        nodata: the value of pixels without data, or None.
        tags: text to carry in the file's metadata.

    Raises:
        ValueError: ``pixels`` does not fit ``grid`` or ``bands``.
        InputError: there is no room for it.
    """
    import rasterio

    if pixels.shape != (len(bands), *grid.shape):
        raise ValueError(f"{path}: pixels {pixels.shape} on a grid {grid.shape} with bands {list(bands)}")
    with rasterio.MemoryFile() as memory:
        with memory.open(**_profile(grid, pixels.dtype, len(bands), nodata)) as file:
            file.write(pixels)
            file.descriptions = tuple(bands)
            file.update_tags(**(tags or {}))
        with memory.open(driver="GTiff") as file:
            _write_as_cog(file, path)


@contextmanager
def cog_by_rows(
    path: Path,
    grid: Grid,
    *,
    band: str,
    dtype: npt.DTypeLike,
    nodata: float,
    scale: float = 1.0,
    tags: Mapping[str, str],
) -> Iterator[Callable[[int, npt.NDArray[Any]], None]]:
    """Writes a cloud-optimised GeoTIFF of one band, whole or not at all; memory holds it compressed.

    Args:
        path: where to; its folder is made.
        grid: CRS and transform.
        band: the band's name, written as its description.
        dtype: of the pixels.
        nodata: the value of pixels without data.
        scale: what to multiply pixels with to get the quantity; readers that know GDAL's band scale do.
        tags: text to carry in the file's metadata.

    Yields:
        A function ``write(row, pixels)`` that takes rows (y, x) of the grid's width, from ``row`` on.

    Raises:
        InputError: there is no room for it.
    """
    import rasterio
    from rasterio.windows import Window as RasterioWindow

    with rasterio.MemoryFile() as memory:
        profile = _profile(grid, dtype, 1, nodata) | {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX}
        with memory.open(**profile, compress="ZSTD", zstd_level=1, BIGTIFF="IF_SAFER") as file:
            file.descriptions, file.scales = (band,), (scale,)
            file.update_tags(**tags)

            def write(row: int, pixels: npt.NDArray[Any]) -> None:
                file.write(pixels, 1, window=RasterioWindow(0, row, grid.width, len(pixels)))

            yield write
        with memory.open(driver="GTiff") as file:
            _write_as_cog(file, path)


def polygons(path: Path, value: int) -> list[Polygon]:
    """The regions of a raster's first band that hold ``value``, joined over edges, not over corners.

    The raster is read row by row; memory holds the polygons only.

    Returns:
        Polygons along pixel edges in the raster's CRS, from the top down, then from the left.

    Raises:
        InputError: the raster can't be read to its end, or is at no place.
    """
    import rasterio
    from rasterio.features import shapes
    from rasterio.windows import Window as RasterioWindow
    from shapely import Polygon

    with _reading(path) as file:
        _check_place(path, file)
        for row in range(0, file.height, BLOCK_PX):  # shapes() leaves out what it can't read, without a word
            file.read(1, window=RasterioWindow(0, row, file.width, min(BLOCK_PX, file.height - row)))
        band = rasterio.band(file, 1)
        found = [
            Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])
            for geometry, at in shapes(band, band, 4, file.transform)
            if at == value
        ]
    return sorted(found, key=lambda polygon: (-polygon.bounds[3], polygon.bounds[0], polygon.wkb))


def _profile(grid: Grid, dtype: npt.DTypeLike, count: int, nodata: float | None) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "dtype": dtype,
        "count": count,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
    }


def _write_as_cog(file: Any, path: Path) -> None:
    """Writes an open raster as a COG. Made in memory: on a full disk, GDAL prints, and returns as if all were well."""
    import rasterio
    from rasterio.shutil import copy

    with rasterio.MemoryFile(ext=path.suffix) as made:
        copy(
            file,
            made.name,
            driver="COG",
            compress="ZSTD",
            predictor="YES",
            blocksize=BLOCK_PX,
            overview_resampling="nearest" if file.dtypes[0] == "uint8" else "average",
            num_threads="ALL_CPUS",
        )
        write_bytes(path, made.getbuffer())


def read_grid(path: Path) -> Grid:
    """The grid of a raster of ours, without its pixels.

    Raises:
        InputError: the file can't be opened, has no CRS, is rotated or has pixels that are not square.
    """
    with _reading(path) as file:
        return _grid(path, file)


def read(
    path: Path,
    *,
    bands: Sequence[str],
    grid: Grid | None = None,
    window: Window | None = None,
) -> npt.NDArray[Any]:
    """Reads named bands, in the order asked for.

    Args:
        path: a GeoTIFF with band descriptions.
        bands: names to look up among the descriptions.
        grid: the grid that the file must be on; None to accept any.
        window: the part to read; None for all of it.

    Returns:
        Array (band, y, x) of the file's dtype.

    Raises:
        InputError: the file can't be opened, a band is missing, or the grid is another.
    """
    from rasterio.windows import Window as RasterioWindow

    with _reading(path) as file:
        missing = [band for band in bands if band not in file.descriptions]
        if missing:
            raise InputError(
                str(path),
                got=f"bands {list(file.descriptions)}",
                expected=f"{missing} among them",
                fix="export the scene again with these bands, or take them out of params.yaml, section bands",
            )
        if grid is not None and (found := _grid(path, file)) != grid:
            raise InputError(
                str(path), got=f"{found}", expected=f"{grid}", fix="run the export stage again for this scene"
            )
        part = RasterioWindow(window.col, window.row, window.width, window.height) if window else None
        pixels: npt.NDArray[Any] = file.read([file.descriptions.index(band) + 1 for band in bands], window=part)
        return pixels


def read_tags(path: Path) -> dict[str, str]:
    """The text tags of a raster."""
    with _reading(path) as file:
        return dict(file.tags())


def inside(geometry: BaseGeometry, grid: Grid) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies in a geometry.

    Args:
        geometry: polygons in EPSG:4326.
        grid: where.

    Returns:
        bool (y, x).
    """
    from rasterio.features import geometry_mask

    projected = reproject(geometry, WGS84, grid.crs)
    with _BURNING:
        mask: npt.NDArray[np.bool_] = geometry_mask([projected], grid.shape, grid.transform, invert=True)
    return mask


def burn(shapes: Iterable[tuple[BaseGeometry, int]], grid: Grid) -> npt.NDArray[np.int32]:
    """Burns shapes into a grid, each over those before it; a pixel that a shape touches is the shape's.

    Args:
        shapes: polygons in the grid's CRS, each with its value, 1 or more.
        grid: where.

    Returns:
        int32 (y, x), 0 where there is no shape.
    """
    from rasterio.features import rasterize

    with _BURNING:
        burnt: npt.NDArray[np.int32] = rasterize(
            shapes, out_shape=grid.shape, transform=grid.transform, all_touched=True, dtype=np.int32
        )
    return burnt


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a raster says of its bands, an entry a band.

    Attributes:
        names: descriptions, None where there is none.
        dtypes: as numpy names them.
        units: (scale, offset): value * scale + offset is the quantity; (1, 0) where nothing is said.
        alpha: whether it is no quantity but says how much of a pixel is seen.
    """

    names: tuple[str | None, ...]
    dtypes: tuple[str, ...]
    units: tuple[tuple[float, float], ...]
    alpha: tuple[bool, ...]


def layout(path: Path) -> Layout:
    """What a raster says of its bands."""
    from rasterio.enums import ColorInterp

    with _reading(path) as file:
        return Layout(
            names=tuple(file.descriptions),
            dtypes=tuple(file.dtypes),
            units=tuple(zip(map(float, file.scales), map(float, file.offsets), strict=True)),
            alpha=tuple(one == ColorInterp.alpha for one in file.colorinterp),
        )


def footprint(path: Path) -> BaseGeometry:
    """The outline of any raster as a polygon, EPSG:4326.

    Raises:
        InputError: as :func:`read_onto`.
    """
    import shapely
    from shapely.geometry import box

    with _reading(path) as file:
        _check_place(path, file)
        outline = box(*file.bounds)
        if not outline.area > 0:
            raise _nowhere(path, file)
        place = reproject(shapely.segmentize(outline, outline.length / 80.0), file.crs.to_wkt(), WGS84)
        if not np.isfinite(shapely.get_coordinates(place)).all():
            raise _nowhere(path, file)
        return place


def read_onto(
    path: Path,
    grid: Grid,
    *,
    nodata: float | None,
    resampling: str,
    bands: Sequence[int] | None = None,
    possible: Sequence[tuple[float, float]] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[np.dtype[Any], npt.NDArray[np.float64]]]:
    """Brings bands of any raster onto a grid, one after the other.

    Where each pixel of the raster is one pixel of the grid, or a block of whole ones, values are copied. Else they are
    resampled once: averaged where the raster is finer than two thirds of the grid. No value leaves the range of those
    that it is made of, as cubic convolution would let it.

    Pixels without data are those that are masked, by the file's own mask or by an alpha band of 0; that are no finite
    number; and that have the value which means it, in that band. Where nothing says which value that is, those that are
    0 in all of ``bands``, as Sentinel-2's products mean it: 0 in some of them is darkness, as of deep water.

    Args:
        path: of a GeoTIFF; ``/vsigs/bucket/name`` too.
        grid: where to.
        nodata: the value of pixels without data; None for what the file says.
        resampling: ``cubic``, ``bilinear`` or ``nearest``, for rasters that are not finer than the grid.
        bands: which, numbered from 1; None for all.
        possible: of each of them the least and the greatest value that its quantity can have, None for any. One
            negative or extreme value in all bands, beyond all of these, is a fill value that nobody declared.
        tell: told what was chosen where files leave a choice.

    Yields:
        For each band in the order asked for its dtype and a float64 array (y, x), NaN where there is no data.

    Raises:
        InputError: the file can't be opened or read, has no place that PROJ knows, is rotated, is so fine that it would
            take more than :data:`MOST_BYTES` of memory, or has a fill value that isn't declared.
    """
    from rasterio.enums import Resampling
    from rasterio.warp import reproject as warp
    from rasterio.windows import Window as RasterioWindow
    from rasterio.windows import transform as window_transform

    with _reading(path) as file:
        _check_place(path, file)
        numbers = list(file.indexes) if bands is None else list(bands)
        block = _block(file, grid)
        crs = file.crs.to_wkt()
        bounds = grid.bounds if block else transformer(grid.crs, crs).transform_bounds(*grid.bounds, densify_pts=21)
        transform = file.transform
        left, right = ((x - transform.c) / transform.a for x in (bounds[0], bounds[2]))
        top, bottom = ((y - transform.f) / transform.e for y in (bounds[3], bounds[1]))
        finer = max((right - left) / grid.width, (bottom - top) / grid.height)
        # Kernels reach two pixels of the coarser raster beyond a pixel; twice that is on the safe side.
        margin = 0.0 if block else 4.0 * max(finer, 1.0)
        edges = (left - margin, top - margin, right + margin, bottom + margin)
        if not all(map(math.isfinite, edges)):
            raise _nowhere(path, file)
        # A grid's edge lies on one of the block's pixels, whatever arithmetic says.
        left, top, right, bottom = (round(edge * block) / block if block else round(edge, 3) for edge in edges)
        first_col, first_row = max(math.floor(left), 0), max(math.floor(top), 0)
        last_col, last_row = min(math.ceil(right), file.width), min(math.ceil(bottom), file.height)
        if last_col <= first_col or last_row <= first_row:
            for number in numbers:
                yield np.dtype(file.dtypes[number - 1]), np.full(grid.shape, np.nan)
            return
        part = RasterioWindow(first_col, first_row, last_col - first_col, last_row - first_row)
        _check_memory(path, file, part)
        pixels = file.read(numbers, window=part)
        invalid = _lacking(file, numbers, part, pixels, nodata, tell)
        if possible is not None:
            _check_fill(path, pixels, invalid, possible)
        part_transform = window_transform(part, transform)
        for band, hidden in zip(pixels, invalid, strict=True):
            values = np.where(hidden, np.nan, band.real.astype(np.float64))
            values[~np.isfinite(values)] = np.nan
            if block:
                yield band.dtype, _copy(values, part_transform, block, grid)
                continue
            onto = np.full(grid.shape, np.nan)
            for col in range(0, grid.width, STRIP_PX):
                strip = Window(row=0, col=col, height=grid.height, width=min(STRIP_PX, grid.width - col))
                warped = np.full((strip.height, strip.width), np.nan)
                warp(
                    values,
                    warped,
                    src_transform=part_transform,
                    src_crs=file.crs,
                    src_nodata=np.nan,
                    dst_transform=grid.crop(strip).transform,
                    dst_crs=grid.crs,
                    dst_nodata=np.nan,
                    resampling=Resampling.average if finer > 1.5 else Resampling[resampling],
                )
                onto[strip.slices] = warped
            if not np.isnan(values).all():
                np.clip(onto, np.nanmin(values), np.nanmax(values), out=onto)
            yield band.dtype, onto


def _lacking(
    file: Any,
    numbers: Sequence[int],
    part: Any,
    pixels: npt.NDArray[Any],
    nodata: float | None,
    tell: Callable[[str], None],
) -> npt.NDArray[np.bool_]:
    """Which pixels have no data, (band, y, x), as :func:`read_onto` says."""
    from rasterio.enums import ColorInterp

    zero = pixels == 0
    black = zero.all(axis=0)
    invalid: npt.NDArray[np.bool_] = file.read_masks(list(numbers), window=part) == 0
    declared = [file.nodatavals[number - 1] for number in numbers] if nodata is None else [nodata]
    untold = all(value is None for value in declared)
    if untold:
        invalid |= black
    elif nodata is not None:
        invalid |= pixels == nodata
    for number, kind in zip(file.indexes, file.colorinterp, strict=True):
        # GDAL takes it for a mask only where it is the second band, or the fourth.
        if kind == ColorInterp.alpha and number not in numbers:
            invalid |= file.read(number, window=part) == 0
    share = (zero.any(axis=0) & ~black).mean()
    if share >= WORTH_TELLING and (untold or 0 in declared):
        said = "taken for darkness, as of deep water"
        if not untold:
            said = (
                "without data, since 0 is declared to mean that; if it is darkness, as of deep water, take that away "
                "(gdal_edit.py -unsetnodata): 0 in all bands still means it then"
            )
        tell(f"{share:.1%} of its pixels are 0 in some bands and not in all: {said}")
    return invalid


def _check_fill(
    path: Path, pixels: npt.NDArray[Any], invalid: npt.NDArray[np.bool_], possible: Sequence[tuple[float, float]]
) -> None:
    """Refuses a value that stands for missing data, as no measurement is that, and isn't declared."""
    first = pixels[0]
    extreme = (first < 0) | (np.abs(first) >= 1e10)
    if np.issubdtype(first.dtype, np.integer):
        extreme |= first == np.iinfo(first.dtype).max
    fill = extreme & np.isfinite(first) & ~invalid.any(axis=0) & (pixels == first).all(axis=0)
    for band, (least, greatest) in zip(pixels, possible, strict=True):
        fill &= (band < least) | (band > greatest)
    if not fill.any():
        return
    values, counts = np.unique(first[fill], return_counts=True)
    value = values[counts.argmax()]
    raise InputError(
        str(path),
        got=f"{counts.max() / fill.size:.1%} of its pixels are {value:g} in every band, which no measurement is",
        expected="pixels without data marked as such",
        fix=f"set nodata to {value:g} in scenes.csv",
    )


def _check_place(path: Path, file: Any) -> None:
    from pyproj.exceptions import ProjError

    transform = file.transform
    north_up = not transform.b and not transform.d and transform.a > 0 and transform.e < 0
    if file.crs is None or not north_up or not all(map(math.isfinite, transform[:6])):
        raise InputError(
            str(path),
            got=f"CRS {file.crs}, transform {tuple(transform)[:6]}",
            expected="a CRS and a north-up transform of finite numbers",
            fix="write its CRS into the file with gdal_edit.py -a_srs" if north_up else "warp it north up: gdalwarp",
        )
    farthest = max(map(abs, file.bounds))
    if not farthest <= FARTHEST or farthest + min(transform.a, -transform.e) == farthest:
        raise _nowhere(path, file)
    known = file.crs.is_projected or file.crs.is_geographic
    try:
        transformer(file.crs.to_wkt(), WGS84)
    except ProjError:
        known = False
    if not known:
        raise InputError(
            str(path),
            got=f"CRS {file.crs.to_wkt()[:100]}",
            expected="a projected or geographic one that PROJ can bring to EPSG:4326",
            fix="write the right one into the file with gdal_edit.py -a_srs",
        )


def _nowhere(path: Path, file: Any) -> InputError:
    return InputError(
        str(path),
        got=f"bounds {tuple(file.bounds)} in CRS {file.crs}",
        expected="a place on the earth",
        fix="correct the raster's transform or CRS with gdal_edit.py -a_ullr or -a_srs",
    )


def _check_memory(path: Path, file: Any, part: Any) -> None:
    """Refuses to read a part of a raster, all bands, where that takes too much memory."""
    sizes = [np.dtype(dtype).itemsize for dtype in file.dtypes]
    # Of each band its pixels, its mask and a comparison; of one at a time its values as float64, twice.
    values = round(part.width * part.height) * (sum(sizes) + 2 * len(sizes) + 16)
    blocks = max(math.prod(shape) for shape in file.block_shapes) * sum(sizes)  # GDAL unpacks a block as a whole
    needed = max(values, blocks)
    if needed > MOST_BYTES:
        raise InputError(
            str(path),
            got=f"{part.width} x {part.height} pixels of {len(sizes)} bands to read, in blocks of "
            f"{' x '.join(map(str, file.block_shapes[0][::-1]))}, which take {needed / 2**30:,.1f} GiB",
            expected=f"at most {MOST_BYTES / 2**30:.0f} GiB",
            fix="average it to 10 m first: gdalwarp -tr 10 10 -r average -co TILED=YES",
        )


def _block(file: Any, grid: Grid) -> int:
    """How many pixels of ``grid`` along an edge make a pixel of the file, where edges coincide to 1 cm; else 0."""
    from rasterio.crs import CRS

    transform = file.transform
    size = transform.a / grid.resolution
    steps = ((transform.c - grid.left) / grid.resolution, (transform.f - grid.top) / grid.resolution)
    # Far out, every number is whole.
    whole_steps = all(abs(step) < 2**31 and abs(step - round(step)) < 1e-3 for step in (size, *steps))
    square = math.isclose(transform.a, -transform.e, rel_tol=1e-9)
    return round(size) if file.crs == CRS.from_string(grid.crs) and square and whole_steps else 0


def _copy(values: npt.NDArray[np.float64], transform: Affine, block: int, grid: Grid) -> npt.NDArray[np.float64]:
    """Copies an array onto a grid, whose pixels ``block`` along an edge make one of the array's."""
    onto = np.full(grid.shape, np.nan)
    top, left = ((grid.top - transform.f) / grid.resolution, (transform.c - grid.left) / grid.resolution)
    rows = (np.arange(grid.height) - round(top)) // block
    cols = (np.arange(grid.width) - round(left)) // block
    has_row, has_col = (rows >= 0) & (rows < values.shape[0]), (cols >= 0) & (cols < values.shape[1])
    onto[np.ix_(has_row, has_col)] = values[np.ix_(rows[has_row], cols[has_col])]
    return onto


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Opens a raster, and names it in whatever goes wrong while it is read: pixels are only unpacked then."""
    from pyproj.exceptions import ProjError
    from rasterio.errors import CRSError, RasterioError

    with _open(path) as file:
        try:
            yield file
        except (RasterioError, CRSError, ProjError, MemoryError, UnicodeDecodeError) as error:
            raise InputError(
                str(path),
                got=unsigned(error.__cause__ or error),
                expected="a GeoTIFF that can be read to its end",
                fix="bring the file back (fetch it again), or make it anew; gdalinfo -checksum tells what is wrong",
            ) from None


def _open(path: Path) -> Any:
    """Opens a raster to be read; nothing else in the product does.

    GDAL would take a file for whatever its content says, and some formats (VRT, WMS, WCS) are no pixels but the address
    of a server, which it then asks. Files beside the raster (``.msk``, ``.ovr``, ``.aux.xml``) may do the same, and
    change what the pixels mean though the raster's hash stays. So only GeoTIFF is tried, and nothing beside it is read.
    """
    import rasterio
    from rasterio.errors import RasterioIOError

    expected = "a GeoTIFF"
    if str(path).startswith("/vsi") and not str(path).startswith("/vsigs/"):
        raise InputError(
            str(path), got="no path on this machine, nor in a bucket", expected=expected, fix="fetch the file first"
        )
    try:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            return rasterio.open(path, driver="GTiff")
    except RasterioIOError as error:
        got, fix = posing_file(path) or (unsigned(error), "check the path and the file, or convert it")
        raise InputError(str(path), got=got, expected=expected, fix=fix) from None


def _grid(path: Path, file: Any) -> Grid:
    transform = file.transform
    north_up = not transform.b and not transform.d and transform.a > 0 and transform.a == -transform.e
    if not north_up or not all(map(math.isfinite, transform[:6])) or file.crs is None or not file.crs.is_projected:
        raise InputError(
            str(path),
            got=f"CRS {file.crs}, transform {tuple(transform)[:6]}",
            expected="a projected CRS and a north-up transform with square pixels, of finite numbers",
            fix="warp it with gdalwarp -t_srs first",
        )
    return Grid(
        crs=file.crs.to_string(),
        left=transform.c,
        top=transform.f,
        width=file.width,
        height=file.height,
        resolution=transform.a,
    )
