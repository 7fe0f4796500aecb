"""The user's own rasters as a source of imagery, listed in ``scenes.csv``.

A line a file; its columns:

- ``obs_id``: the observation, ``<site_id>_<YYYY-MM-01>``.
- ``product``: ``s2`` or ``s1``.
- ``path``: of the file; absolute, relative to scenes.csv, or ``gs://bucket/key``, read in place as it then is.
  ``gs://bucket/key#generation`` pins a version: it is fetched, checked, and refused where the object has changed.
- ``bands``: the names of the file's bands, in its order, with commas or spaces between; ``-`` for one to leave out.
- ``scale``, ``offset``: value * scale + offset is reflectance x 10000 (``s2``) or dB (``s1``).
- ``nodata``, if wanted: the value of pixels without data; empty for what the file says.
- ``source_ids``, if wanted: the images that the file was made of, with spaces or ``;`` between; empty for its name.
- ``processing_baseline``, if wanted: of these images, such as 05.09.
- ``harmonised``, if wanted: ``yes`` says that the +1000 of baseline 04.00 and later is not in the file for certain.
- ``sha256``, if wanted: of the file, which is checked. Not with a file that is read in place.

Where lines share observation and product, their bands are put together; where they share a band as well, the earlier
line wins wherever it has data, as in a mosaic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sandwatch import gcs, listing, raster
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.imagery import Composite, Raster, Site, SourceImage
from sandwatch.params import S1_BANDS, S2_BANDS, Bands

MANIFEST = "scenes.csv"
REQUIRED = ("obs_id", "product", "path", "bands", "scale", "offset")
OPTIONAL = ("nodata", "source_ids", "processing_baseline", "harmonised", "sha256")
PRODUCTS = {"s2": S2_BANDS, "s1": S1_BANDS}
LEFT_OUT = "-"
RESAMPLING = {"s2": "cubic", "s1": "bilinear"}
"""Cubic convolution keeps the fine texture that tells mines from sandbars. Speckle is so rough that cubic overshoots on
it, so radar is interpolated linearly."""
OFFSET = 1000
OFFSET_BASELINE = (4, 0)
"""From this processing baseline on, Sentinel-2 products carry +1000. Source: ESA, S2 Products Specification Document,
BOA_ADD_OFFSET."""
DARK_SHARE = 0.001
"""Share of pixels whose darkest band is below :data:`OFFSET` in any harmonised scene with water, shade or vegetation.
Measured on the real chips: 0.41 to 0.82 in Level-2A, none in Level-1C with the offset."""
BLACK_SHARE = 0.5
"""More pixels than this darker than black: the offset was taken off twice."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A line of scenes.csv. ``where`` names it in errors; ``path`` is GDAL's; ``pinned`` is a version of an object."""

    where: str
    product: str
    path: Path
    pinned: str | None
    bands: tuple[str, ...]
    scale: float
    offset: float
    nodata: float | None
    source_images: tuple[SourceImage, ...]
    carries_no_offset: bool
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Files:
    """A source of imagery (``sandwatch.imagery.Source``)."""

    entries: dict[tuple[str, str], tuple[_Entry, ...]]
    bands: Bands

    @classmethod
    def open(cls, inputs: Path, *, bands: Bands, places: Sequence[Site]) -> Files:
        """Reads and checks ``scenes.csv`` in the folder ``inputs``; the rasters are opened later.

        Raises:
            InputError: names the line at fault.
        """
        manifest = inputs / MANIFEST
        obs_ids = {f"{site.site_id}_{month.isoformat()}" for site in places for month in site.months}
        entries: dict[tuple[str, str], list[_Entry]] = {}
        for where, row in _rows(manifest):
            if row["obs_id"] not in obs_ids:
                raise InputError(
                    f"{where}, obs_id",
                    got=repr(row["obs_id"]),
                    expected=f"a site and month of sites.csv, such as {min(obs_ids)}",
                    fix="correct it, or add the month to the site",
                )
            entry = _entry(row, where, manifest.parent)
            entries.setdefault((row["obs_id"], entry.product), []).append(entry)
        for (obs_id, product), parts in entries.items():
            wanted = bands.s2 if product == "s2" else bands.s1
            missing = [band for band in wanted if not any(band in part.bands for part in parts)]
            if missing:
                raise InputError(
                    f"{parts[-1].where}, bands",
                    got=f"no {', '.join(missing)} for {obs_id}, product {product}",
                    expected=f"all of {', '.join(wanted)}",
                    fix="list a file with them, or take them out of params.yaml, section bands",
                )
        return cls(entries={key: tuple(parts) for key, parts in entries.items()}, bands=bands)

    def __call__(self, site: Site, month: date) -> Composite:
        """Reads an observation's files onto the site's grid.

        Raises:
            InputError: a file is unfit, by name.
        """
        obs_id = f"{site.site_id}_{month.isoformat()}"
        s2 = self.entries.get((obs_id, "s2"))
        s1 = self.entries.get((obs_id, "s1")) if self.bands.s1 else None
        return Composite(
            s2=_s2(s2, self.bands.s2, site) if s2 else None, s1=_s1(s1, self.bands.s1, site) if s1 else None
        )

    def inputs(self, site: Site, month: date) -> Any:
        """The observation's lines, files by what they hold; None where one is read in place from a bucket."""
        told = []
        for product in PRODUCTS:
            for entry in self.entries.get((f"{site.site_id}_{month.isoformat()}", product), ()):
                content = entry.pinned or _content(entry.path)
                if content is None:
                    return None
                told.append({**asdict(entry), "where": None, "path": content})
        return told


def _content(path: Path) -> str | None:
    """The hash of a file; None where it isn't on this machine, which reading it will say."""
    try:
        return sha256(path)
    except OSError:
        return None


def _s2(entries: Sequence[_Entry], bands: Sequence[str], site: Site) -> Raster:
    """Reflectance x 10000, uint16, 0 where there is no data, so that the darkest valid value is 1."""
    pixels = np.zeros((len(bands), *site.grid.shape), dtype=np.uint16)
    black = np.zeros(site.grid.shape, dtype=np.bool_)
    for _, index, values in _read(entries, bands, site):
        # To 1e-4 first, so that a tie is one tie on every machine.
        rounded = np.rint(np.round(values, 4))
        black |= rounded < 0
        fill = (pixels[index] == 0) & ~np.isnan(values)
        pixels[index][fill] = rounded[fill].clip(1, np.iinfo(np.uint16).max)
    valid = (pixels > 0).all(axis=0)
    if valid.any():
        _check_reflectance(entries, pixels.min(axis=0)[valid], pixels.max(axis=0)[valid], black[valid])
    return Raster(pixels=pixels, source_images=_sources(entries))


def _s1(entries: Sequence[_Entry], bands: Sequence[str], site: Site) -> Raster:
    """Backscatter in dB, float32 rounded to 0.01, NaN where there is no data."""
    pixels = np.full((len(bands), *site.grid.shape), np.nan, dtype=np.float32)
    for entry, index, values in _read(entries, bands, site):
        fill = np.isnan(pixels[index])
        pixels[index][fill] = (np.rint(np.round(values * 100.0, 4)) / 100.0)[fill]
        valid = values[~np.isnan(values)]
        if valid.size and valid.min() >= 0.0:
            raise InputError(
                f"{entry.where}, {entry.path.name}, band {bands[index]}",
                got=f"values from {valid.min():.3g} to {valid.max():.3g}, none below 0",
                expected="backscatter in dB",
                fix="convert linear power with 10 * log10, or correct scale and offset",
            )
    return Raster(pixels=pixels, source_images=_sources(entries))


def _read(
    entries: Sequence[_Entry], bands: Sequence[str], site: Site
) -> Iterator[tuple[_Entry, int, npt.NDArray[np.float64]]]:
    """Yields (entry, index among ``bands``, float64 (y, x) in the product's unit, NaN for no data), file by file."""
    for entry in entries:
        with _on_disk(entry) as path:
            if entry.sha256 is not None and (found := sha256(path)) != entry.sha256:
                raise InputError(
                    f"{entry.where}, sha256 of {entry.path}",
                    got=found,
                    expected=entry.sha256,
                    fix="fetch the file again, or correct it",
                )
            if not raster.footprint(path).intersects(site.aoi):
                raise InputError(
                    f"{entry.where}, {entry.path}",
                    got="a raster that lies elsewhere",
                    expected=f"one that covers the area of interest of site {site.site_id}",
                    fix="correct obs_id or path, or the raster's CRS and transform",
                )
            layers = raster.read_onto(path, site.grid, nodata=entry.nodata, resampling=RESAMPLING[entry.product])
            names = iter(entry.bands)
            for dtype, values in layers:
                if dtype not in DTYPES:
                    raise InputError(
                        f"{entry.where}, {entry.path}",
                        got=f"pixels of {dtype}",
                        expected=f"one of {', '.join(DTYPES)}",
                        fix="export reflectance or backscatter, not complex samples",
                    )
                name = next(names, None)
                if name is None:
                    _refuse_count(entry)
                if name in bands:
                    yield entry, bands.index(name), values * entry.scale + entry.offset
            if next(names, None) is not None:
                _refuse_count(entry)


@contextmanager
def _on_disk(entry: _Entry) -> Iterator[Path]:
    """Where GDAL finds the file, for as long as the block lasts."""
    if entry.pinned is None:
        yield entry.path
    else:
        with gcs.local_copy(entry.pinned) as path:
            yield path


def _check_reflectance(
    entries: Sequence[_Entry],
    darkest: npt.NDArray[np.uint16],
    brightest: npt.NDArray[np.uint16],
    black: npt.NDArray[np.bool_],
) -> None:
    """Refuses values that can't be harmonised reflectance x 10000. Arrays: over a valid pixel's bands, (pixel,)."""
    where = f"{entries[0].where}, {entries[0].path.name}"
    if brightest.max() <= 20 or np.median(darkest) > 20000:
        raise InputError(
            f"{where}, scale",
            got=f"reflectance x 10000 from {darkest.min()} to {brightest.max()}",
            expected="values of land and water, from some tens to some thousands",
            fix="correct scale and offset: reflectance as a fraction needs scale 10000",
        )
    if black.mean() > BLACK_SHARE:
        raise InputError(
            f"{where}, offset",
            got=f"{black.mean():.0%} of the valid pixels below zero in some band",
            expected="the offset of -1000 once: these values seem to be harmonised already",
            fix="set offset to 0",
        )
    if not all(entry.carries_no_offset for entry in entries) and (darkest < OFFSET).mean() < DARK_SHARE:
        raise InputError(
            f"{where}, offset",
            got=f"no value below {darkest.min()}, which looks like the +1000 of baseline 04.00 and later",
            expected="harmonised reflectance x 10000",
            fix="set offset to -1000, or harmonised to yes if the scene is that bright",
        )


def _rows(manifest: Path) -> list[tuple[str, dict[str, str]]]:
    """(where, values) of the lines of scenes.csv, with an empty text where an optional column is missing."""
    if not manifest.is_file():
        raise InputError(
            str(manifest),
            got="no such file",
            expected="the list of your scenes",
            fix="write it, see docs, or use another imagery.source",
        )
    header, rows = listing.read(manifest)
    missing, unknown = set(REQUIRED) - set(header), set(header) - {*REQUIRED, *OPTIONAL}
    if missing or unknown or len(set(header)) < len(header):
        raise InputError(
            f"{manifest}, columns",
            got=", ".join(header) or "none",
            expected=f"{', '.join(REQUIRED)} and, if wanted, {', '.join(OPTIONAL)}",
            fix=f"add {', '.join(sorted(missing)) or 'nothing'}, remove {', '.join(sorted(unknown)) or 'nothing'}",
        )
    empty = dict.fromkeys(OPTIONAL, "")
    return [(where, empty | {key: value.strip() for key, value in row.items()}) for where, row in rows]


def _entry(row: dict[str, str], where: str, folder: Path) -> _Entry:
    product = row["product"]
    if product not in PRODUCTS:
        raise InputError(f"{where}, product", got=repr(product), expected="s2 or s1", fix="correct it")
    bands = tuple(re.split(r"[\s,]+", row["bands"]))
    named = [band for band in bands if band != LEFT_OUT]
    if not named or set(named) - set(PRODUCTS[product]) or len(set(named)) < len(named):
        raise InputError(
            f"{where}, bands",
            got=repr(row["bands"]),
            expected=f"each once, among {', '.join(PRODUCTS[product])}; '-' for a band to leave out",
            fix="name the file's bands in its order",
        )
    baseline = row["processing_baseline"] or None
    if baseline and not re.fullmatch(r"\d\d\.\d\d", baseline):
        raise InputError(
            f"{where}, processing_baseline", got=repr(baseline), expected="such as 05.09", fix="correct it"
        )
    if row["harmonised"] not in ("", "yes"):
        raise InputError(
            f"{where}, harmonised", got=repr(row["harmonised"]), expected="yes or nothing", fix="correct it"
        )
    scale, offset = _number(row["scale"], f"{where}, scale"), _number(row["offset"], f"{where}, offset")
    before_offset = baseline is not None and tuple(map(int, baseline.split("."))) < OFFSET_BASELINE
    if product == "s2" and before_offset and offset < 0:
        raise InputError(
            f"{where}, offset",
            got=f"{offset:g} with processing_baseline {baseline}",
            expected="0: products before baseline 04.00 carry no offset",
            fix="set offset to 0, or correct processing_baseline",
        )
    path, name, pinned = _path(row, where, folder)
    ids = [part for part in re.split(r"[\s;]+", row["source_ids"]) if part] or [name]
    return _Entry(
        where=where,
        product=product,
        path=path,
        pinned=pinned,
        bands=bands,
        scale=scale,
        offset=offset,
        nodata=_number(row["nodata"], f"{where}, nodata", finite=False) if row["nodata"] else None,
        source_images=tuple(SourceImage(id=i, date=None, processing_baseline=baseline) for i in ids),
        carries_no_offset=before_offset or row["harmonised"] == "yes",
        sha256=row["sha256"].lower() or None,
    )


def _path(row: dict[str, str], where: str, folder: Path) -> tuple[Path, str, str | None]:
    """GDAL's path of a file, the name that outputs give it (never an absolute path of this machine), and its pin."""
    given = row["path"]
    if given.startswith("gs://"):
        if not re.fullmatch(r"gs://[^/]+/.+", given):
            raise InputError(f"{where}, path", got=repr(given), expected="gs://bucket/key", fix="correct it")
        pinned = re.fullmatch(r"gs://(.+)#\d+", given)
        if pinned:
            return Path("/vsigs") / pinned[1], given, given
        if row["sha256"]:
            raise InputError(
                f"{where}, sha256",
                got=f"a hash of {given}, which is read in place",
                expected="hashes of files on this machine, or of pinned ones",
                fix="remove it, or pin the object: gs://bucket/key#generation",
            )
        return Path("/vsigs") / given.removeprefix("gs://"), given, None
    path = folder / given
    if not given or not path.is_file():
        raise InputError(
            f"{where}, path",
            got=repr(given),
            expected="an existing file, or gs://bucket/key",
            fix="correct it, or fetch the file",
        )
    outside = Path(given).is_absolute() or ".." in Path(given).parts
    return path, path.name if outside else Path(given).as_posix(), None


def _number(text: str, where: str, *, finite: bool = True) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(where, got=repr(text), expected="a number", fix="correct it") from None
    if finite and not math.isfinite(value):
        raise InputError(where, got=repr(text), expected="a finite number", fix="correct it")
    return value


def _sources(entries: Sequence[_Entry]) -> tuple[SourceImage, ...]:
    return tuple(dict.fromkeys(image for entry in entries for image in entry.source_images))


def _refuse_count(entry: _Entry) -> None:
    raise InputError(
        f"{entry.where}, bands",
        got=f"{len(entry.bands)} names for another number of bands in {entry.path}",
        expected="a name for each band of the file",
        fix="name them all, '-' for a band to leave out",
    )
