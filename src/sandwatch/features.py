"""GeoJSON as programs really write it: which features a text holds, and in which CRS, without GDAL.

A FeatureCollection, a feature, a geometry alone, a list of features, and features one after the other (RFC 8142), with
or without ``"type": "Feature"``, which GDAL reads as nothing at all, without a word.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

LONGITUDE_LATITUDE = ("CRS84", "EPSG::4326", "EPSG:4326")
"""How a ``crs`` member ends that means what GeoJSON means without one. Source: GeoJSON 2008, 3; RFC 7946, 4."""
GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
"""Source: RFC 7946, 1.4."""


class NoFeaturesError(ValueError):
    """A text is no GeoJSON; ``str()`` of it says why. ``drawn``: how many things it may hold all the same."""

    def __init__(self, detail: str, drawn: int = 0) -> None:
        self.drawn = drawn
        super().__init__(detail)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of a text.

    Attributes:
        features: JSON objects; nothing is assumed of what they hold.
        crs: the text's member ``crs``, None where there is none.
    """

    features: list[dict[str, Any]]
    crs: Any = None

    @property
    def crs_name(self) -> str | None:
        """The name of the CRS, None where none is named."""
        properties = self.crs.get("properties") if isinstance(self.crs, dict) else None
        name = properties.get("name") if isinstance(properties, dict) else None
        return name if isinstance(name, str) else None

    @property
    def in_degrees(self) -> bool:
        """Whether coordinates are longitude and latitude, WGS 84."""
        return self.crs is None or (self.crs_name or "").endswith(LONGITUDE_LATITUDE)


def read(text: str) -> Features:
    """The features of a GeoJSON text.

    Raises:
        NoFeaturesError: it is none.
    """
    if not text.strip():
        raise NoFeaturesError("the file is empty; no mines are a FeatureCollection without features")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        content = _sequence(text)
        if content is None:
            raise NoFeaturesError(f"not JSON: {error}") from None
    if isinstance(content, list):
        if not content:
            raise NoFeaturesError("an empty list; no mines are a FeatureCollection without features")
        features, crs = content, None
    elif isinstance(content, dict):
        features, crs = _of_object(content), content.get("crs")
    else:
        raise NoFeaturesError(f"a JSON {type(content).__name__}, not a FeatureCollection")
    if not all(isinstance(feature, dict) for feature in features):
        raise NoFeaturesError("a feature that is no JSON object", len(features))
    return Features(features=[_feature(feature) for feature in features], crs=crs)


def _of_object(content: dict[str, Any]) -> list[Any]:
    features = content.get("features", [content] if "geometry" in content else None)
    if features is None and content.get("type") in GEOMETRIES:
        return [content]
    if not isinstance(features, list):
        raise NoFeaturesError("neither a list of features nor a feature")
    return features


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    bare = "geometry" not in feature and feature.get("type") in GEOMETRIES
    return {"geometry": feature, "properties": None} if bare else feature


def _sequence(text: str) -> list[Any] | None:
    """The values of a text that has one a line; None where a line isn't JSON."""
    lines = [line for line in re.split("[\n\x1e]", text) if line.strip()]
    try:
        return [json.loads(line) for line in lines] if len(lines) > 1 else None
    except (ValueError, RecursionError):
        return None
