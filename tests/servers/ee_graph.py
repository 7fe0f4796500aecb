"""Earth Engine's expression graphs, evaluated for real over a catalogue of images.

What sandwatch asks for is here, with Earth Engine's semantics; any other algorithm is refused, and so is a call whose
arguments don't fit the signature that Earth Engine publishes.

Images are computed when and where pixels are wanted: a band is a function from a pixel grid to values and a mask.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import ee
import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from affine import Affine
from rasterio.features import geometry_mask
from shapely.affinity import affine_transform
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from .ee_scenes import Bools, Catalogue, Floats, PixelGrid, StoredImage

PAYLOADS = Path(ee.__file__).parent / "tests"
"""The client's wheel carries what the service answers to discovery and algorithms."""
WGS84 = "EPSG:4326"


class GraphError(Exception):
    """What is asked for can't be computed; the message is for the client."""


@dataclass(frozen=True)
class Projection:
    """A CRS and a transform from its pixels, in Earth Engine's order."""

    crs: str
    transform: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Shape:
    """A geometry in a projection."""

    geometry: BaseGeometry
    projection: Projection = Projection(WGS84)

    def in_crs(self, crs: str) -> BaseGeometry:
        """The geometry in the units of ``crs``."""
        a, b, c, d, e, f = self.projection.transform
        flat = affine_transform(self.geometry, (a, b, d, e, c, f))
        if self.projection.crs == crs:
            return flat
        move = pyproj.Transformer.from_crs(self.projection.crs, crs, always_xy=True).transform
        return shapely.transform(flat, move, interleaved=False)


@dataclass(frozen=True)
class Band:
    """A band: its name, its type, and how to compute it on a grid as (values, mask)."""

    name: str
    dtype: str
    pixels: Callable[[PixelGrid], tuple[Floats, Bools]]


@dataclass(frozen=True)
class Image:
    """An image: bands, metadata, the projection it was forced into, and the shape it was cut to."""

    bands: tuple[Band, ...]
    properties: Mapping[str, Any] = field(default_factory=dict)
    footprint: BaseGeometry | None = None
    projection: Projection | None = None
    bounds: Shape | None = None

    def band(self, name: str) -> Band:
        """The band of that name."""
        for band in self.bands:
            if band.name == name:
                return band
        raise GraphError(
            f"Image.select: Band pattern '{name}' did not match any bands. Available bands: "
            f"{[band.name for band in self.bands]}"
        )

    def output_grid(self) -> PixelGrid:
        """The pixels of an export."""
        if self.projection is None or self.bounds is None:
            raise GraphError("Export needs a projection (crs, crsTransform) and dimensions.")
        a, _, c, _, e, f = self.projection.transform
        left, bottom, right, top = self.bounds.in_crs(self.projection.crs).bounds
        first_col, first_row = round((left - c) / a), round((top - f) / e)
        width, height = round((right - c) / a) - first_col, round((bottom - f) / e) - first_row
        return PixelGrid(self.projection.crs, (a, 0.0, c + a * first_col, 0.0, e, f + e * first_row), width, height)


@dataclass(frozen=True)
class Collection:
    """An image collection."""

    images: tuple[Image, ...]


@dataclass(frozen=True)
class Filter:
    """Whether an image passes."""

    passes: Callable[[Image], bool]


@dataclass(frozen=True)
class Reducer:
    """How many values become one."""

    name: str


@dataclass(frozen=True)
class DateRange:
    """Milliseconds since 1970, the end excluded."""

    start: float
    end: float


@dataclass(frozen=True)
class Feature:
    """A geometry with properties."""

    geometry: Shape


Function = Callable[..., Any]
ALGORITHMS: dict[str, Function] = {}


def algorithm(name: str) -> Callable[[Function], Function]:
    """Registers a function under Earth Engine's name; its keywords are Earth Engine's argument names."""

    def register(function: Function) -> Function:
        ALGORITHMS[name] = function
        return function

    return register


@cache
def signatures() -> dict[str, dict[str, Any]]:
    """What Earth Engine publishes about its algorithms, by name."""
    listed = json.loads((PAYLOADS / "algorithms.json").read_text())["algorithms"]
    return {entry["name"].removeprefix("algorithms/"): entry for entry in listed}


TYPES: dict[str, tuple[type, ...]] = {
    "Image": (Image,),
    "ImageCollection": (Collection,),
    "FeatureCollection": (Collection,),
    "Collection": (Collection,),
    "String": (str,),
    "Float": (int, float),
    "Number": (int, float),
    "Integer": (int,),
    "Long": (int,),
    "Boolean": (bool, int),
    "List": (list,),
    "Dictionary": (dict,),
    "Geometry": (Shape,),
    "Filter": (Filter,),
    "Projection": (Projection, str),
    "Reducer": (Reducer,),
    "Algorithm": (Callable,),  # type: ignore[dict-item]
}


def check_call(name: str, arguments: Mapping[str, Any]) -> None:
    """Compares a call with the published signature.

    Raises:
        GraphError: the algorithm is unknown or not offered here, or an argument is missing, unknown or ill-typed.
    """
    if name not in signatures():
        raise GraphError(f"Unknown algorithm '{name}'.")
    if name not in ALGORITHMS and name != "If":
        raise GraphError(f"Algorithm '{name}' is not offered by this server.")
    expected = {entry["argumentName"]: entry for entry in signatures()[name].get("arguments", [])}
    for argument in arguments.keys() - expected.keys():
        raise GraphError(f"{name}: Unrecognized argument '{argument}'.")
    offered = expected.keys() if name == "If" else inspect.signature(ALGORITHMS[name]).parameters.keys()
    for argument in arguments.keys() - offered:
        raise GraphError(f"{name}: argument '{argument}' is not offered by this server.")
    for argument, entry in expected.items():
        value = arguments.get(argument)
        if value is None:
            if not entry.get("optional"):
                raise GraphError(f"{name}: Parameter '{argument}' is required.")
            continue
        kinds = TYPES.get(entry["type"].partition("<")[0])
        if kinds and not isinstance(value, kinds):
            raise GraphError(
                f"{name}, argument '{argument}': Invalid type. Expected {entry['type']}, got {type(value).__name__}."
            )


class Evaluator:
    """Evaluates one expression: ``{"result": id, "values": {id: node}}``."""

    def __init__(self, expression: Mapping[str, Any], catalogue: Catalogue) -> None:
        try:
            self._result, self._values = str(expression["result"]), dict(expression["values"])
        except (KeyError, TypeError, ValueError):
            raise GraphError("Invalid JSON payload: an expression has 'result' and 'values'.") from None
        self._catalogue = catalogue

    def value(self) -> Any:
        """The result: a number, text, list or dict; or an Image, whose pixels are still to be computed."""
        return self._reference(self._result, Scope({}))

    def _reference(self, key: str, scope: Scope) -> Any:
        if key not in scope.cache:
            if key not in self._values:
                raise GraphError(f"Reference to an unknown value '{key}'.")
            scope.cache[key] = self._node(self._values[key], scope)
        return scope.cache[key]

    def _node(self, node: Mapping[str, Any], scope: Scope) -> Any:
        if len(node) != 1:
            raise GraphError(f"A value node holds one of its kinds, not {sorted(node)}.")
        kind, content = next(iter(node.items()))
        match kind:
            case "constantValue":
                return content
            case "integerValue":
                return int(content)
            case "valueReference":
                return self._reference(content, scope)
            case "argumentReference":
                return scope.argument(content)
            case "arrayValue":
                return [self._node(item, scope) for item in content["values"]]
            case "dictionaryValue":
                return {key: self._node(item, scope) for key, item in content["values"].items()}
            case "functionDefinitionValue":
                return self._function(content, scope)
            case "functionInvocationValue":
                return self._invocation(content, scope)
        raise GraphError(f"Unknown kind of value node '{kind}'.")

    def _function(self, content: Mapping[str, Any], scope: Scope) -> Function:
        def function(*values: Any) -> Any:
            inner = Scope(dict(zip(content["argumentNames"], values, strict=True)), scope)
            return self._reference(content["body"], inner)

        return function

    def _invocation(self, content: Mapping[str, Any], scope: Scope) -> Any:
        name, nodes = content.get("functionName"), content.get("arguments", {})
        if not isinstance(name, str):
            raise GraphError("A function is invoked by its functionName.")
        if name == "If":  # evaluates one branch only
            condition = self._node(nodes["condition"], scope)
            branch = "trueCase" if condition else "falseCase"
            return self._node(nodes[branch], scope)
        arguments = {key: self._node(node, scope) for key, node in nodes.items()}
        check_call(name, arguments)
        if name in ("ImageCollection.load", "Image.load"):
            arguments["catalogue"] = self._catalogue
        return ALGORITHMS[name](**arguments)


@dataclass
class Scope:
    """The arguments that a function was called with, and what was evaluated with them."""

    arguments: dict[str, Any]
    outer: Scope | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    def argument(self, name: str) -> Any:
        """The value of an argument, of this call or of one around it."""
        if name in self.arguments:
            return self.arguments[name]
        if self.outer is None:
            raise GraphError(f"Reference to an unknown argument '{name}'.")
        return self.outer.argument(name)


# Assets


def _loaded(stored: StoredImage) -> Image:
    bands = tuple(Band(name, layer.values.dtype.name, layer.sample) for name, layer in stored.layers.items())
    return Image(bands, stored.metadata, stored.footprint)


@algorithm("ImageCollection.load")
def _load_collection(*, id: str, catalogue: Catalogue, version: int = -1) -> Collection:
    if id not in catalogue.collections:
        raise GraphError(
            f"ImageCollection.load: ImageCollection asset '{id}' not found (does not exist or caller does not have "
            "access)."
        )
    return Collection(tuple(_loaded(stored) for stored in catalogue.collections[id]))


@algorithm("Image.load")
def _load_image(*, id: str, catalogue: Catalogue, version: int = -1) -> Image:
    collection, _, index = id.rpartition("/")
    for name, wanted in ((collection, index), (id, "")):
        for stored in catalogue.collections.get(name, []):
            if wanted in ("", stored.index):
                return _loaded(stored)
    raise GraphError(f"Image.load: Image asset '{id}' not found (does not exist or caller does not have access).")


# Geometry and dates


def _projection(crs: Any) -> Projection:
    return crs if isinstance(crs, Projection) else Projection(crs or WGS84)


@algorithm("Projection")
def _make_projection(*, crs: str, transform: list[float] | None = None) -> Projection:
    return Projection(crs, tuple(transform)) if transform else Projection(crs)  # type: ignore[arg-type]


@algorithm("GeometryConstructors.Rectangle")
def _rectangle(*, coordinates: list[Any], crs: Any = None, geodesic: bool = False, evenOdd: bool = True) -> Shape:
    flat = [number for item in coordinates for number in (item if isinstance(item, list) else [item])]
    return Shape(box(*flat), _projection(crs))


@algorithm("GeometryConstructors.Polygon")
def _polygon(*, coordinates: list[Any], crs: Any = None, geodesic: bool = False, evenOdd: bool = True) -> Shape:
    return Shape(shape({"type": "Polygon", "coordinates": coordinates}), _projection(crs))


@algorithm("GeometryConstructors.MultiPolygon")
def _multi_polygon(*, coordinates: list[Any], crs: Any = None, geodesic: bool = False, evenOdd: bool = True) -> Shape:
    return Shape(shape({"type": "MultiPolygon", "coordinates": coordinates}), _projection(crs))


@algorithm("Feature")
def _feature(*, geometry: Shape | None = None, metadata: dict[str, Any] | None = None) -> Feature:
    if geometry is None:
        raise GraphError("Feature: this server needs its geometry.")
    return Feature(geometry)


@algorithm("DateRange")
def _date_range(*, start: Any, end: Any = None) -> DateRange:
    return DateRange(_milliseconds(start), _milliseconds(end) if end is not None else _milliseconds(start) + 1)


def _milliseconds(moment: Any) -> float:
    if isinstance(moment, int | float):
        return moment
    try:
        return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000
    except ValueError:
        raise GraphError(f"Date: Bad date/time '{moment}'.") from None


# Filters


@algorithm("Filter.intersects")
def _intersects(*, leftField: str, rightValue: Feature) -> Filter:
    if leftField not in (".all", ".geo"):
        raise GraphError(f"Filter.intersects: No geometry in field '{leftField}'.")
    region = rightValue.geometry.in_crs(WGS84)
    return Filter(lambda image: image.footprint is not None and image.footprint.intersects(region))


@algorithm("Filter.dateRangeContains")
def _in_range(*, leftValue: DateRange, rightField: str) -> Filter:
    return Filter(lambda image: leftValue.start <= image.properties.get(rightField, -1) < leftValue.end)


def _comparison(name: str, compare: Callable[[Any, Any], bool]) -> None:
    @algorithm(name)
    def _compare(*, leftField: str, rightValue: Any) -> Filter:
        return Filter(lambda image: leftField in image.properties and compare(image.properties[leftField], rightValue))


_comparison("Filter.equals", lambda left, right: left == right)
_comparison("Filter.lessThan", lambda left, right: left < right)


@algorithm("Filter.listContains")
def _list_contains(
    *, leftField: str | None = None, rightValue: Any = None, leftValue: list[Any] | None = None, rightField: str = ""
) -> Filter:
    """A property that is a list and holds a value, or a list that holds a property's value."""
    if leftField is not None:
        return Filter(lambda image: rightValue in image.properties.get(leftField, []))
    if leftValue is None or not rightField:
        raise GraphError("Filter.listContains: needs leftField and rightValue, or leftValue and rightField.")
    return Filter(lambda image: image.properties.get(rightField) in leftValue)


# Collections


@algorithm("Collection.filter")
def _filter(*, collection: Collection, filter: Filter) -> Collection:
    return Collection(tuple(image for image in collection.images if filter.passes(image)))


@algorithm("Collection.map")
def _map(*, collection: Collection, baseAlgorithm: Function, dropNulls: bool = False) -> Collection:
    mapped = tuple(baseAlgorithm(image) for image in collection.images)
    if not all(isinstance(image, Image) for image in mapped):
        raise GraphError("Collection.map: A mapped algorithm must return a Feature or Image.")
    return Collection(mapped)


@algorithm("Collection.size")
def _size(*, collection: Collection) -> int:
    return len(collection.images)


@algorithm("AggregateFeatureCollection.array")
def _aggregate(*, collection: Collection, property: str) -> list[Any]:
    return [image.properties[property] for image in collection.images if image.properties.get(property) is not None]


def _over_images(name: str, dtype: str | None, compute: Callable[[Floats, Bools], Floats], *, masks: bool) -> None:
    @algorithm(f"reduce.{name}")
    def _reduce(*, collection: Collection) -> Image:
        names = dict.fromkeys(band.name for image in collection.images for band in image.bands)

        def reduced(band_name: str) -> Band:
            bands = [band for image in collection.images for band in image.bands if band.name == band_name]

            def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
                read = [band.pixels(grid) for band in bands]
                values, valid = np.stack([one for one, _ in read]), np.stack([one for _, one in read])
                result = compute(values, valid)
                return result, valid.any(axis=0) if masks else np.ones(result.shape, bool)

            return Band(band_name, dtype or bands[0].dtype, pixels)

        return Image(tuple(reduced(name) for name in names))


def _nan_reduced(function: Callable[..., Floats]) -> Callable[[Floats, Bools], Floats]:
    def compute(values: Floats, valid: Bools) -> Floats:
        some = valid.any(axis=0)
        filled = np.where(valid, values, np.nan)
        filled[:, ~some] = 0.0
        return function(filled, axis=0)

    return compute


_over_images("median", "float64", _nan_reduced(np.nanmedian), masks=True)
_over_images("mean", "float64", _nan_reduced(np.nanmean), masks=True)
_over_images("count", "int32", lambda values, valid: valid.sum(axis=0).astype(np.float64), masks=False)


# Images


@algorithm("Image.constant")
def _constant(*, value: float) -> Image:
    def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
        return np.full((grid.height, grid.width), float(value)), np.ones((grid.height, grid.width), bool)

    return Image((Band("constant", "int32" if isinstance(value, int) else "float64", pixels),))


@algorithm("Image.select")
def _select(*, input: Image, bandSelectors: list[str], newNames: list[str] | None = None) -> Image:
    names = newNames or bandSelectors
    return replace(
        input, bands=tuple(replace(input.band(old), name=new) for old, new in zip(bandSelectors, names, strict=True))
    )


@algorithm("Image.rename")
def _rename(*, input: Image, names: list[str]) -> Image:
    if len(names) != len(input.bands):
        raise GraphError(f"Image.rename: {len(names)} names for {len(input.bands)} bands.")
    return replace(input, bands=tuple(replace(band, name=name) for band, name in zip(input.bands, names, strict=True)))


@algorithm("Image.addBands")
def _add_bands(*, dstImg: Image, srcImg: Image, names: list[str] | None = None, overwrite: bool = False) -> Image:
    return replace(dstImg, bands=(*dstImg.bands, *(band for band in srcImg.bands if not names or band.name in names)))


@algorithm("Image.linkCollection")
def _link(
    *, input: Image, imageCollection: Collection, linkedBands: list[str], matchPropertyName: str = "system:index"
) -> Image:
    key = input.properties.get(matchPropertyName)
    matches = [image for image in imageCollection.images if image.properties.get(matchPropertyName) == key]

    def masked(grid: PixelGrid) -> tuple[Floats, Bools]:
        return np.zeros((grid.height, grid.width)), np.zeros((grid.height, grid.width), bool)

    linked = tuple(matches[0].band(name) if matches else Band(name, "float64", masked) for name in linkedBands)
    return replace(input, bands=(*(band for band in input.bands if band.name not in linkedBands), *linked))


@algorithm("Image.updateMask")
def _update_mask(*, image: Image, mask: Image) -> Image:
    masks = mask.bands * len(image.bands) if len(mask.bands) == 1 else mask.bands
    if len(masks) != len(image.bands):
        raise GraphError(f"Image.updateMask: a mask of {len(masks)} bands for an image of {len(image.bands)}.")

    def masked(band: Band, by: Band) -> Band:
        def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
            (values, valid), (wanted, known) = band.pixels(grid), by.pixels(grid)
            return values, valid & known & (wanted != 0)

        return replace(band, pixels=pixels)

    return replace(image, bands=tuple(masked(band, by) for band, by in zip(image.bands, masks, strict=True)))


@algorithm("Image.unmask")
def _unmask(*, input: Image, value: Image, sameFootprint: bool = True) -> Image:
    if sameFootprint:
        raise GraphError("Image.unmask: this server keeps no footprints; set sameFootprint to false.")
    if len(value.bands) != 1:
        raise GraphError("Image.unmask: this server needs a value of one band.")

    def filled(band: Band) -> Band:
        def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
            (values, valid), (other, known) = band.pixels(grid), value.bands[0].pixels(grid)
            return np.where(valid, values, other), valid | known

        return replace(band, pixels=pixels)

    return replace(input, bands=tuple(filled(band) for band in input.bands))


def _each_pixel(name: str, dtype: str | None, compute: Callable[[Floats], Floats]) -> None:
    @algorithm(f"Image.{name}")
    def _unary(*, value: Image) -> Image:
        def computed(band: Band) -> Band:
            def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
                values, valid = band.pixels(grid)
                return compute(values), valid

            return Band(band.name, dtype or band.dtype, pixels)

        return replace(value, bands=tuple(computed(band) for band in value.bands))


_each_pixel("floor", None, np.floor)
_each_pixel("toByte", "uint8", lambda values: np.clip(values, 0, 255))
_each_pixel("toUint16", "uint16", lambda values: np.clip(np.trunc(values), 0, 65535))
_each_pixel("toFloat", "float32", lambda values: values.astype(np.float32).astype(np.float64))


def _two_images(name: str, dtype: str | None, compute: Callable[[Floats, Floats], npt.NDArray[Any]]) -> None:
    @algorithm(f"Image.{name}")
    def _binary(*, image1: Image, image2: Image) -> Image:
        if len(image2.bands) != 1 and len(image2.bands) != len(image1.bands):
            raise GraphError(f"Image.{name}: {len(image1.bands)} bands against {len(image2.bands)}.")
        others = image2.bands * len(image1.bands) if len(image2.bands) == 1 else image2.bands

        def computed(left: Band, right: Band) -> Band:
            def pixels(grid: PixelGrid) -> tuple[Floats, Bools]:
                (a, a_valid), (b, b_valid) = left.pixels(grid), right.pixels(grid)
                return compute(a, b).astype(np.float64), a_valid & b_valid

            return Band(left.name, dtype or "float64", pixels)

        return replace(image1, bands=tuple(computed(a, b) for a, b in zip(image1.bands, others, strict=True)))


_two_images("add", None, np.add)
_two_images("max", None, np.maximum)
_two_images("gt", "uint8", np.greater)
_two_images("gte", "uint8", np.greater_equal)


@algorithm("Image.reproject")
def _reproject(*, image: Image, crs: Any, crsTransform: list[float] | None = None) -> Image:
    if crsTransform is None:
        raise GraphError("Image.reproject: this server needs crsTransform.")
    return replace(image, projection=Projection(_projection(crs).crs, tuple(crsTransform)))  # type: ignore[arg-type]


@algorithm("Image.projection")
def _projection_of(*, image: Image) -> Projection:
    if image.projection is None:
        raise GraphError("Image.projection: this server knows it only after Image.reproject.")
    return image.projection


@algorithm("Image.clipToBoundsAndScale")
def _clip(*, input: Image, geometry: Shape) -> Image:
    return replace(input, bounds=geometry)


# Regions


@algorithm("Reducer.mean")
def _mean() -> Reducer:
    return Reducer("mean")


@algorithm("Image.reduceRegion")
def _reduce_region(
    *, image: Image, reducer: Reducer, geometry: Shape, crs: Any, crsTransform: list[float], maxPixels: float = 1e7
) -> dict[str, float | None]:
    """The mean over pixels whose centre lies in the region (the service weighs the pixels on its edge)."""
    x_scale, _, x_move, _, y_scale, y_move = crsTransform
    region = geometry.in_crs(_projection(crs).crs)
    left, bottom, right, top = region.bounds
    first_col, first_row = int((left - x_move) // x_scale), int((top - y_move) // y_scale)
    last_col, last_row = int((right - x_move) // x_scale) + 1, int((bottom - y_move) // y_scale) + 1
    width, height = last_col - first_col, last_row - first_row
    if width * height > maxPixels:
        raise GraphError(
            f"Image.reduceRegion: Too many pixels in the region. Found {width * height}, but maxPixels allows only "
            f"{maxPixels:g}."
        )
    moved = (x_scale, 0.0, x_move + x_scale * first_col, 0.0, y_scale, y_move + y_scale * first_row)
    grid = PixelGrid(_projection(crs).crs, moved, width, height)
    a, b, c, d, e, f = moved
    inside = geometry_mask([region], (height, width), Affine(a, b, c, d, e, f), invert=True)
    result: dict[str, float | None] = {}
    for band in image.bands:
        values, valid = band.pixels(grid)
        chosen = values[inside & valid]
        result[band.name] = float(chosen.mean()) if len(chosen) else None
    return result


@algorithm("Dictionary.get")
def _get(*, dictionary: dict[str, Any], key: str, defaultValue: Any = None) -> Any:
    if key not in dictionary and defaultValue is None:
        raise GraphError(f"Dictionary.get: Dictionary does not contain key: '{key}'.")
    return dictionary.get(key, defaultValue)


def compute(image: Image, grid: PixelGrid, bands: list[str] | None) -> dict[str, npt.NDArray[Any]]:
    """The pixels of an image on a grid by band, of the bands' types; masked ones are 0."""
    if not image.bands:
        raise GraphError("Image has no bands.")
    chosen = [image.band(name) for name in bands] if bands else list(image.bands)
    return {band.name: np.where(valid, values, 0).astype(band.dtype) for band, (values, valid) in _read(chosen, grid)}


def _read(bands: list[Band], grid: PixelGrid) -> Iterator[tuple[Band, tuple[Floats, Bools]]]:
    for band in bands:
        yield band, band.pixels(grid)
