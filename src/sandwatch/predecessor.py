"""From the predecessor's files to a region's folder: sites, rivers, and lists of its scenes and annotations.

Two layouts are read, mixed if need be, anywhere under the source folder:

- a folder an observation, ``<site>_<YYYY-MM-DD>/``, with ``s2.tif``, ``s1.tif``, ``rgb.tif``, ``rivers.geojson``, and
  ``annotations_original.geojson`` or ``annotations.geojson``;
- the bucket's, ``<site>_median/<kind>/<site>[_median]_<YYYY-MM-DD>_<kind>.tif`` or ``.geojson``.

``<site>`` is ``<River>_<District>_<longitude>_<latitude>`` with ``-`` for the decimal point: ``85-1`` is 85.1, and a
``-`` in front is the sign, so ``-63-5`` is -63.5.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape

from sandwatch import features, gcs, ids, raster, text
from sandwatch.errors import InputError
from sandwatch.files import sha256, whole, write_json
from sandwatch.params import RGB_BANDS, S1_BANDS, S2_BANDS, S2_L2A_BANDS

_NUMBER = r"-?\d+(?:-\d+)?"
_SITE = rf"(?P<site>(?P<river>[^_/]+)_(?P<district>[^_/]+)_(?P<longitude>{_NUMBER})_(?P<latitude>{_NUMBER}))"
_DAY = r"(?P<year>\d{4})-(?P<month>\d{2})-\d{2}"
_KIND = r"(?P<kind>s2|s1|rgb|annotations|annotations_original|rivers)\.(?:tif|geojson)"
LAYOUTS = (
    re.compile(rf"(?:.*/)?{_SITE}_{_DAY}/{_KIND}"),
    re.compile(rf"(?:.*/)?{_SITE}_median/[^/]+/(?P=site)(?:_median)?_{_DAY}_{_KIND}"),
)
STRETCH = 3500.0 / 255.0
"""The predecessor's rgb.tif holds B4, B3, B2: reflectance x 10000, stretched from 0..3500 to 0..255."""
CONFIDENCE = "Confidence"
"""The property of an annotation that says High or Low."""


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """What was found and written.

    Attributes:
        sites: lines of sites.csv.
        scenes: lines of scenes.csv.
        annotations: lines of annotations.csv.
        left: files under the source folder that nothing was made of, relative to it, sorted.
    """

    sites: int
    scenes: int
    annotations: int
    left: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file of the predecessor's, and what its path says.

    Attributes:
        name: path under the source.
        place: where it is: a path on this machine, or ``gs://bucket/name#generation``.
    """

    name: str
    place: Path | str
    site: str
    river: str
    district: str
    longitude: float
    latitude: float
    month: date
    kind: str

    @property
    def obs_id(self) -> str:
        return f"{self.site}_{self.month.isoformat()}"

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """Its path on this machine, for as long as the block lasts."""
        if isinstance(self.place, Path):
            yield self.place
        else:
            with gcs.local_copy(self.place) as path:
                yield path


def write_region(source: Path | str, region: Path) -> Migrated:
    """Writes a region's folder from the predecessor's files.

    - ``sites.csv``, every site with role ``both``.
    - ``rivers.geojson``: the predecessor's river polygons are buffered already, so set aoi.buffer_m to 0.
    - ``imagery/scenes.csv``: the rasters stay where they are, named by relative path, or by URI and generation, and by
      hash. Where an observation has no ``s2``, its ``rgb`` stands in for bands B4, B3 and B2.
    - ``annotations/annotations.csv`` and copies of the annotation files; of two, the ``_original`` one.

    Args:
        source: folder with the predecessor's files: a path on this machine, or ``gs://bucket/prefix``.
        region: folder to make, such as data/regions/mine.

    Raises:
        InputError: ``region`` holds files already, ``source`` has no scene, two files claim the same place, or a file
            can't be read.
    """
    if region.exists() and any(region.iterdir()):
        raise InputError(str(region), got="a folder with files in it", expected="a new folder", fix="name another")
    listed = _listed(source)
    found = _find(listed)
    scenes = _chosen(found, ("s2", "rgb")) + _chosen(found, ("s1",))
    annotations = _chosen(found, ("annotations_original", "annotations"))
    rivers = [file for file in found if file.kind == "rivers"]
    if not scenes:
        raise InputError(
            str(source),
            got="no raster of an observation",
            expected="<River>_<District>_<lon>_<lat>_<YYYY-MM-DD>/rgb.tif, or the layout of the predecessor's bucket",
            fix="name the folder that holds the predecessor's files",
        )
    river_features = _river_features(rivers)
    lines = sorted(_scene(file, region / "imagery") for file in scenes)
    sites = {file.site: file for file in found}
    months = {site: sorted({file.month for file in found if file.site == site}) for site in sites}

    partial = region.with_name(f".{region.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_csv(
        partial / "sites.csv",
        ("site_id", "river", "district", "longitude", "latitude", "months", "role"),
        (
            (name, s.river, s.district, s.longitude, s.latitude, ";".join(f"{m:%Y-%m}" for m in months[name]), "both")
            for name, s in sorted(sites.items())
        ),
    )
    write_json(partial / "rivers.geojson", {"type": "FeatureCollection", "features": river_features})
    _write_csv(
        partial / "imagery" / "scenes.csv",
        ("obs_id", "product", "path", "bands", "scale", "offset", "source_ids", "sha256"),
        lines,
    )
    _write_csv(
        partial / "annotations" / "annotations.csv",
        ("obs_id", "path", "confidence_property"),
        ((file.obs_id, f"{file.obs_id}.geojson", CONFIDENCE) for file in annotations),
    )
    for file in annotations:
        with file.opened() as path:
            shutil.copyfile(path, partial / "annotations" / f"{file.obs_id}.geojson")
    partial.rename(region)
    left = set(listed) - {file.name for file in (*scenes, *annotations, *rivers)}
    return Migrated(sites=len(sites), scenes=len(lines), annotations=len(annotations), left=tuple(sorted(left)))


def _listed(source: Path | str) -> dict[str, Path | str]:
    """Every file under the source: its name there -> its place, sorted by name."""
    if isinstance(source, Path):
        files: dict[str, Path | str] = {
            path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()
        }
    else:
        prefix = source.rstrip("/") + "/"
        files = {thing.uri.removeprefix(prefix): thing.pinned for thing in gcs.list_objects(prefix)}
    return dict(sorted(files.items()))


def _find(listed: Mapping[str, Path | str]) -> list[_Found]:
    found: dict[tuple[str, date, str], _Found] = {}
    for name, place in listed.items():
        match = next((m for layout in LAYOUTS if (m := layout.fullmatch(name))), None)
        if match is None:
            continue
        if not ids.names_site(match["site"]):
            raise InputError(
                str(place),
                got=f"a site {match['site']!r}",
                expected=f"{ids.RULE}: it names files",
                fix="rename the folder, or move it away",
            )
        file = _Found(
            name=name,
            place=place,
            site=match["site"],
            river=match["river"],
            district=match["district"],
            longitude=_degrees(match["longitude"]),
            latitude=_degrees(match["latitude"]),
            month=_month(match, place),
            kind=match["kind"],
        )
        key = file.site, file.month, file.kind
        if key in found:
            raise InputError(
                str(place),
                got=f"another file {file.kind} of {file.obs_id}, beside {found[key].place}",
                expected="one of each observation, which is a site and a month",
                fix="move one of them away",
            )
        found[key] = file
    return list(found.values())


def _month(match: re.Match[str], place: Path | str) -> date:
    try:
        return date(int(match["year"]), int(match["month"]), 1)
    except ValueError as error:
        raise InputError(
            str(place),
            got=f"month {match['year']}-{match['month']} ({error})",
            expected="a month of the calendar, 01 to 12",
            fix="rename the file or its folder, or move it away",
        ) from None


def _degrees(text: str) -> float:
    """``85-1`` is 85.1: the first ``-`` that is not in front is the decimal point."""
    return float(text[:1] + text[1:].replace("-", "."))


def _chosen(found: Sequence[_Found], kinds: Sequence[str]) -> list[_Found]:
    """Of each observation the file of the first of ``kinds`` that it has."""
    best: dict[str, _Found] = {}
    for kind in kinds:
        for file in found:
            if file.kind == kind:
                best.setdefault(file.obs_id, file)
    return [best[obs_id] for obs_id in sorted(best)]


def _scene(file: _Found, folder: Path) -> tuple[str, ...]:
    """A line of scenes.csv; the source's id is the file's name with its folder's, wherever that lies."""
    product = "s1" if file.kind == "s1" else "s2"
    scale = repr(STRETCH) if file.kind == "rgb" else "1"
    source_id = quote("/".join(file.name.split("/")[-2:]))
    place = file.place
    if isinstance(place, Path):
        place = Path(os.path.relpath(place.resolve(), folder.resolve())).as_posix()
    with file.opened() as path:
        known = S1_BANDS if product == "s1" else S2_BANDS
        bands = RGB_BANDS if file.kind == "rgb" else _bands(file, raster.layout(path).names, known)
        return file.obs_id, product, place, " ".join(bands), scale, "0", source_id, sha256(path)


def _bands(file: _Found, names: Sequence[str | None], known: Sequence[str]) -> tuple[str, ...]:
    """Names of a raster's bands by its descriptions, ``-`` for strangers; without them by their number."""
    if set(names) & set(known):
        return tuple(name if name is not None and name in known else "-" for name in names)
    for bands in (S1_BANDS,) if known == S1_BANDS else (S2_L2A_BANDS, S2_BANDS):
        if len(names) == len(bands):
            return tuple(bands)
    raise InputError(
        str(file.place),
        got=f"{len(names)} bands without names",
        expected=f"band descriptions among {', '.join(known)}, or all bands of the product",
        fix="describe them with gdal_edit.py -d, or move the file away",
    )


def _river_features(files: Iterable[_Found]) -> list[dict[str, Any]]:
    """GeoJSON features of all rivers, each geometry once a site; the files need not say that they are features."""
    once: dict[tuple[str, bytes], dict[str, Any]] = {}
    for file in files:
        try:
            with file.opened() as path:
                found = features.read(text.read(path))
            geometries = [shape(feature["geometry"]) for feature in found.features]
        except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
            raise InputError(
                str(file.place),
                got=error if isinstance(error, features.NoFeaturesError) else f"{type(error).__name__}: {error}",
                expected="a GeoJSON FeatureCollection",
                fix="correct the file, or move it away",
            ) from None
        if not found.in_degrees:
            raise InputError(
                str(file.place),
                got=f"CRS {found.crs_name or found.crs}",
                expected="longitude and latitude (EPSG:4326)",
                fix="reproject it",
            )
        for geometry in geometries:
            properties = {"site_id": file.site, "river": file.river}
            once.setdefault(
                (file.site, geometry.normalize().wkb),
                {"type": "Feature", "properties": properties, "geometry": mapping(geometry)},
            )
    return list(once.values())


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
