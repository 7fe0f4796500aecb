"""The user's own rasters as a source of imagery, listed in ``scenes.csv``.

A line a file; its columns:

- ``obs_id``: the observation, ``<site_id>_<YYYY-MM-01>``.
- ``product``: ``s2`` or ``s1``.
- ``path``: of the file; absolute, relative to scenes.csv, or ``gs://bucket/key``, read in place as it then is.
  ``gs://bucket/key#generation`` pins a version: it is fetched, checked, and refused where the object has changed.
- ``bands``: the names of the file's bands, in its order, with commas or spaces between; ``-`` for one to leave out.
- ``scale``, ``offset``: value * scale + offset is reflectance x 10000 (``s2``) or dB (``s1``). Both empty for what the
  file's own tags say, band by band; numbers that contradict these are refused.
- ``nodata``, if wanted: the value of pixels without data; empty for what the file says.
- ``source_ids``, if wanted: the images that the file was made of, with spaces, ``;`` or ``|`` between; empty for its
  name. Sentinel-2 products before and after baseline 04.00 can't be in one file: one of them carries +1000.
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

from sandwatch import gcs, listing, raster, text
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.imagery import Composite, Raster, Site, SourceImage
from sandwatch.params import S1_BANDS, S2_BANDS, Bands
from sandwatch.stage import progress

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
DARKEST_SCENE = 255
"""A scene in which no value of any band is greater isn't one of land and water: that is what a picture of 8 bits has
where it is taken for reflectance. Measured on the real chips: the greatest is 6,431 and more."""
FEWEST = 500
"""Pixels of a mosaic's piece from which on its values are judged by themselves."""
SEAM_PX, SEAM_LENGTH, SEAM_BANDS = 4, 50, 3
"""Pixels across the edge of a part of a mosaic, as wide as resampling blurs it; along it; and bands, at least."""
SEAM_TOLERANCE = 150
"""How far the median step may be off, reflectance x 10000. Measured on the real chips: medians over a whole row or
column are within 140 of 0 in the band where they are nearest to it."""
REFLECTANCE = 10_000.0
"""What a reflectance of 1 is in a scene."""
POSSIBLE = {"s2": (-2000.0, 50_000.0), "s1": (-100.0, 100.0)}
"""Reflectance x 10000 and dB beyond which there is no measurement, but a value that stands for none: noise is within
-0.1, glint and clouds within 2; the noise of Sentinel-1 is at -22 dB and lower, corner reflectors at 40."""
BAND = re.compile(r"(?i)B0?(\d{1,2}A?)(?![0-9A-Za-z])|(VV|VH)(?![0-9A-Za-z])")
"""A band as ESA (B04), Earth Engine (B4) and others (B4_median) write it."""
BASELINE = re.compile(r"_N(\d\d)(\d\d)_")
"""In a product's name. Source: ESA, Sentinel-2 naming convention."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A line of scenes.csv. ``where`` names it in errors; ``path`` is GDAL's; ``pinned`` is a version of an object.

    ``unit`` is (scale, offset), None for what the file says.
    """

    where: str
    product: str
    path: Path
    pinned: str | None
    bands: tuple[str, ...]
    unit: tuple[float, float] | None
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


class _Piece:
    """What one layer of a mosaic holds, over its own bands: (y, x), where it has all of them.

    Bands may come in files of their own; the first files that have each band are the first layer, and so on.
    """

    def __init__(self, entry: _Entry, shape: tuple[int, int]) -> None:
        self.entries = [entry]
        self._darkest = np.full(shape, np.inf)
        self._brightest = np.full(shape, -np.inf)
        self._valid = np.ones(shape, dtype=np.bool_)

    def add(self, entry: _Entry, rounded: npt.NDArray[np.float64]) -> None:
        """Takes one band, NaN where it has no data."""
        self.entries.append(entry)
        self._valid &= ~np.isnan(rounded)
        np.fmin(self._darkest, rounded, out=self._darkest)
        np.fmax(self._brightest, rounded, out=self._brightest)

    def check(self, fewest: int) -> None:
        """Refuses values that can't be harmonised reflectance x 10000, where there are ``fewest`` pixels or more."""
        if self._valid.sum() >= fewest:
            _check_reflectance(self.entries, self._darkest[self._valid], self._brightest[self._valid])


def _s2(entries: Sequence[_Entry], bands: Sequence[str], site: Site) -> Raster:
    """Reflectance x 10000, uint16, 0 where there is no data, so that the darkest valid value is 1."""
    pixels = np.zeros((len(bands), *site.grid.shape), dtype=np.uint16)
    pieces: list[_Piece] = []
    times = [0] * len(bands)
    for entry, index, values in _read(entries, bands, site):
        # To 1e-4 first, so that a tie is one tie on every machine.
        rounded = np.rint(np.round(values, 4))
        if times[index] == len(pieces):
            pieces.append(_Piece(entry, site.grid.shape))
        pieces[times[index]].add(entry, rounded)
        times[index] += 1
        fill = (pixels[index] == 0) & ~np.isnan(values)
        pixels[index][fill] = rounded[fill].clip(1, np.iinfo(np.uint16).max)
    for piece in pieces:
        piece.check(FEWEST if len(pieces) > 1 else 1)
    if not all(entry.carries_no_offset for entry in entries):
        _refuse_seam(entries, pixels)
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
        with _on_disk(entry) as path, _named(entry):
            if entry.sha256 is not None and (found := sha256(path)) != entry.sha256:
                raise InputError(
                    f"sha256 of {entry.path}",
                    got=found,
                    expected=entry.sha256,
                    fix="fetch the file again, or correct it",
                )
            outline = raster.footprint(path)
            if not outline.intersects(site.aoi):
                there = outline.centroid
                raise InputError(
                    str(entry.path),
                    got=f"a raster that lies elsewhere, around longitude {there.x:.3f}, latitude {there.y:.3f}",
                    expected=f"one that covers the area of interest of site {site.site_id}, around longitude "
                    f"{site.longitude:.3f}, latitude {site.latitude:.3f}",
                    fix="correct obs_id or path, or the raster's CRS and transform",
                )
            units = _units(entry, raster.layout(path))
            wanted = [(number, name) for number, name in enumerate(entry.bands, start=1) if name in bands]
            layers = raster.read_onto(
                path,
                site.grid,
                nodata=entry.nodata,
                resampling=RESAMPLING[entry.product],
                bands=[number for number, _ in wanted],
                possible=[_before(POSSIBLE[entry.product], units[number - 1]) for number, _ in wanted],
                tell=lambda said, at=entry: progress(f"note: {at.where}, {at.path.name}: {said}"),  # type: ignore[misc]
            )
            if wanted:
                for (number, name), (_, values) in zip(wanted, layers, strict=True):
                    scale, offset = units[number - 1]
                    yield entry, bands.index(name), values * scale + offset


@contextmanager
def _named(entry: _Entry) -> Iterator[None]:
    """Names the line of scenes.csv in what is wrong with its file."""
    try:
        yield
    except InputError as error:
        if error.what.startswith(entry.where):
            raise
        raise InputError(
            f"{entry.where}, {error.what}", got=error.got, expected=error.expected, fix=error.fix
        ) from None


def _refuse_seam(entries: Sequence[_Entry], pixels: npt.NDArray[np.uint16]) -> None:
    """Refuses a scene of which a part alone carries +1000, where that part begins at a row or a column.

    Along such an edge every band's median steps by 1000 at once; that of a river bank or a field differs by band.
    """
    if len(pixels) < SEAM_BANDS:
        return
    for axis, name in ((2, "column"), (1, "row")):
        lines = np.moveaxis(pixels, axis, 1).astype(np.int32)
        here, there = lines[:, :-SEAM_PX], lines[:, SEAM_PX:]
        valid = np.asarray((here > 0).all(axis=0) & (there > 0).all(axis=0))
        steps = np.where(valid, there[0] - here[0], 0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
        likely = (valid.sum(axis=1) >= SEAM_LENGTH) & (np.abs(np.abs(steps) - OFFSET) < OFFSET / 2)
        for line in np.flatnonzero(likely):
            along = valid[line]
            medians = np.median(there[:, line, along] - here[:, line, along], axis=1)
            if (np.abs(np.abs(medians) - OFFSET) <= SEAM_TOLERANCE).all() and abs(np.sign(medians).sum()) == len(
                medians
            ):
                raise InputError(
                    f"{entries[0].where}, {entries[0].path.name}, offset",
                    got=f"an edge at {name} {line + SEAM_PX // 2} of the scene, across which every band steps by 1000",
                    expected="one offset: a part of this mosaic seems to carry the +1000 of baseline 04.00 and later",
                    fix="list its parts as files of their own, each with its offset, or set harmonised to yes",
                )


def _before(limits: tuple[float, float], unit: tuple[float, float]) -> tuple[float, float]:
    """The values of a file that become ``limits``."""
    scale, offset = unit
    one, other = sorted((limit - offset) / scale for limit in limits)
    return one, other


def _units(entry: _Entry, layout: raster.Layout) -> list[tuple[float, float]]:
    """(scale, offset) of each band of a file; refuses what the file itself contradicts."""
    if strange := [dtype for dtype in layout.dtypes if dtype not in DTYPES]:
        raise InputError(
            str(entry.path),
            got=f"pixels of {strange[0]}",
            expected=f"one of {', '.join(DTYPES)}",
            fix="export reflectance or backscatter, not complex samples",
        )
    if len(entry.bands) != len(layout.names):
        raise InputError(
            f"{entry.where}, bands",
            got=f"{len(entry.bands)} names for another number of bands in {entry.path}: {len(layout.names)}",
            expected="a name for each band of the file",
            fix="name them all, '-' for a band to leave out",
        )
    for number, (name, description, alpha) in enumerate(
        zip(entry.bands, layout.names, layout.alpha, strict=True), start=1
    ):
        described = _band(description or "")
        if name != LEFT_OUT and alpha:
            raise InputError(
                f"{entry.where}, bands",
                got=f"{name} for band {number} of {entry.path.name}, which is an alpha band",
                expected="'-' for a band that says how much of a pixel is seen",
                fix=f"name it '-', or, if it is {name}, say so: gdal_edit.py -colorinterp_{number} undefined",
            )
        if name != LEFT_OUT and described in PRODUCTS[entry.product] and described != name:
            raise InputError(
                f"{entry.where}, bands",
                got=f"{name} for band {number} of {entry.path.name}, which the file describes as {description!r}",
                expected="the file's bands in its order",
                fix=f"name it {described}, or correct the description in the file",
            )
    factor = REFLECTANCE if entry.product == "s2" else 1.0
    tagged = [(scale * factor, offset * factor) for scale, offset in layout.units]
    says_nothing = [unit == (1.0, 0.0) for unit in layout.units]
    if entry.unit is None:
        if all(says_nothing):
            raise InputError(
                f"{entry.where}, scale",
                got=f"nothing, and no scale in the tags of {entry.path.name} either",
                expected="numbers: value * scale + offset is reflectance x 10000 (s2) or dB (s1)",
                fix="add scale and offset; for reflectance x 10000 or dB as it is they are 1 and 0",
            )
        return tagged
    for name, (scale, offset), untold in zip(entry.bands, tagged, says_nothing, strict=True):
        if name == LEFT_OUT or untold or all(map(math.isclose, entry.unit, (scale, offset))):
            continue
        raise InputError(
            f"{entry.where}, scale and offset",
            got=f"{entry.unit[0]:g} and {entry.unit[1]:g}, where the tags of {entry.path.name} mean {scale:g} and "
            f"{offset:g} for {name}",
            expected="what the file says",
            fix=f"set offset to {offset:g} and scale to {scale:g}, or leave both empty, which takes the file's; "
            "or correct the file: gdal_edit.py -scale 1 -offset 0",
        )
    return [entry.unit] * len(entry.bands)


def _band(written: str) -> str | None:
    """The band that a text names, None where it names none."""
    found = BAND.match(written.strip())
    return None if found is None else (f"B{found[1]}" if found[1] else found[2]).upper()


@contextmanager
def _on_disk(entry: _Entry) -> Iterator[Path]:
    """Where GDAL finds the file, for as long as the block lasts."""
    if entry.pinned is None:
        yield entry.path
    else:
        with gcs.local_copy(entry.pinned) as path:
            yield path


def _check_reflectance(
    entries: Sequence[_Entry], darkest: npt.NDArray[np.float64], brightest: npt.NDArray[np.float64]
) -> None:
    """Refuses values that can't be harmonised reflectance x 10000. Arrays: over a valid pixel's bands, (pixel,)."""
    where = f"{entries[0].where}, {entries[0].path.name}"
    black = (darkest < 0).mean()
    # As they are stored.
    darkest, brightest = (np.clip(values, 1, np.iinfo(np.uint16).max) for values in (darkest, brightest))
    if brightest.max() <= DARKEST_SCENE or np.median(darkest) > 20000:
        raise InputError(
            f"{where}, scale",
            got=f"reflectance x 10000 from {darkest.min():g} to {brightest.max():g}",
            expected="values of land and water, from some tens to some thousands",
            fix="correct scale and offset: reflectance as a fraction needs scale 10000, and a picture of 8 bits the "
            "scale of its stretch; better export reflectance",
        )
    if black > BLACK_SHARE:
        raise InputError(
            f"{where}, offset",
            got=f"{black:.0%} of the valid pixels below zero in some band",
            expected="the offset of -1000 once: these values seem to be harmonised already",
            fix="set offset to 0",
        )
    if not all(entry.carries_no_offset for entry in entries) and (darkest < OFFSET).mean() < DARK_SHARE:
        raise InputError(
            f"{where}, offset",
            got=f"no value below {darkest.min():g}, which looks like the +1000 of baseline 04.00 and later",
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
    if missing or unknown:
        raise InputError(
            f"{manifest}, columns",
            got=", ".join(header) or "none",
            expected=f"{', '.join(REQUIRED)} and, if wanted, {', '.join(OPTIONAL)}",
            fix=f"add {', '.join(sorted(missing)) or 'nothing'}, remove {', '.join(sorted(unknown)) or 'nothing'}",
        )
    empty = dict.fromkeys(OPTIONAL, "")
    return [(where, empty | row) for where, row in rows]


def _entry(row: dict[str, str], where: str, folder: Path) -> _Entry:
    product = text.alike(row["product"])
    if product not in PRODUCTS:
        raise InputError(f"{where}, product", got=repr(row["product"]), expected="s2 or s1", fix="correct it")
    bands = tuple(_band(name) or name for name in re.split(r"[\s,;|]+", row["bands"]))
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
    harmonised = text.alike(row["harmonised"])
    if harmonised not in ("", "yes"):
        raise InputError(
            f"{where}, harmonised", got=repr(row["harmonised"]), expected="yes or nothing", fix="correct it"
        )
    unit = None
    if row["scale"] or row["offset"]:
        unit = _number(row["scale"], f"{where}, scale"), _number(row["offset"], f"{where}, offset")
        if not unit[0]:
            raise InputError(f"{where}, scale", got="0", expected="another number", fix="correct it")
    before_offset = baseline is not None and tuple(map(int, baseline.split("."))) < OFFSET_BASELINE
    if product == "s2" and before_offset and unit is not None and unit[1] < 0:
        raise InputError(
            f"{where}, offset",
            got=f"{unit[1]:g} with processing_baseline {baseline}",
            expected="0: products before baseline 04.00 carry no offset",
            fix="set offset to 0, or correct processing_baseline",
        )
    path, name, pinned = _path(row, where, folder)
    ids = [part for part in re.split(r"[\s;|]+", row["source_ids"]) if part] or [name]
    baselines = {(int(found[1]), int(found[2])) for one in ids if (found := BASELINE.search(one))}
    if product == "s2" and harmonised != "yes" and len({one < OFFSET_BASELINE for one in baselines}) > 1:
        raise InputError(
            f"{where}, source_ids",
            got=f"products of baselines {', '.join(f'{one:02}.{two:02}' for one, two in sorted(baselines))} in a file",
            expected="those before baseline 04.00 apart from the later ones, which carry +1000",
            fix="list them as two files, each with its own offset, or set harmonised to yes if none has it any more",
        )
    return _Entry(
        where=where,
        product=product,
        path=path,
        pinned=pinned,
        bands=bands,
        unit=unit,
        nodata=_number(row["nodata"], f"{where}, nodata", finite=False) if row["nodata"] else None,
        source_images=tuple(SourceImage(id=i, date=None, processing_baseline=baseline) for i in ids),
        carries_no_offset=before_offset or harmonised == "yes",
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
    path = text.found(folder, given)
    if not given or not path.is_file():
        raise InputError(
            f"{where}, path",
            got=repr(given),
            expected="an existing file, or gs://bucket/key",
            fix="correct it, or fetch the file",
        )
    outside = Path(given).is_absolute() or ".." in Path(given).parts
    return path, path.name if outside else Path(given).as_posix(), None


def _number(written: str, where: str, *, finite: bool = True) -> float:
    value = text.number(written)
    if value is None:
        raise InputError(where, got=repr(written), expected="a number, such as 0.0001", fix="correct it")
    if finite and not math.isfinite(value):
        raise InputError(where, got=repr(written), expected="a finite number", fix="correct it")
    return value


def _sources(entries: Sequence[_Entry]) -> tuple[SourceImage, ...]:
    return tuple(dict.fromkeys(image for entry in entries for image in entry.source_images))
