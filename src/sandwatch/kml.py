"""Lines and polygons of a KML, without GDAL, which would read other XML too, and ask the servers that it names."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as Xml

import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

KINDS = ("Point", "LineString", "LinearRing", "Polygon", "MultiGeometry")
"""Source: OGC 07-147r2, 10.1; a MultiGeometry may hold any of them."""


def is_kml(head: str) -> bool:
    """Whether a text begins as a KML does."""
    return head.lstrip("\ufeff \t\r\n").startswith(("<?xml", "<kml", "<!--")) and "<kml" in head


def read(text: str) -> list[BaseGeometry | None]:
    """The geometry of each placemark, longitude and latitude, WGS 84 (OGC 07-147r2, 6.3); None where it has none.

    Altitudes are left out. What is behind links to other files isn't looked at.

    Raises:
        ValueError: it is no KML that can be read.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # a few lines of these can stand for more than a memory holds
        raise ValueError("a document type, which no KML needs")
    try:
        root = Xml.fromstring(text.lstrip("\ufeff"))
    except Xml.ParseError as error:
        raise ValueError(f"no XML: {error}") from None
    found = []
    for number, placemark in enumerate(one for one in root.iter() if _name(one) == "Placemark"):
        try:
            parts = list(_geometries(placemark))
        except (ValueError, ShapelyError) as error:
            raise ValueError(f"placemark {number}: {error}") from None
        found.append(parts[0] if len(parts) == 1 else shapely.GeometryCollection(parts) if parts else None)
    return found


def _geometries(element: Xml.Element) -> Iterator[BaseGeometry]:
    """The simple geometries right below an element or its MultiGeometries."""
    waiting = list(element)[::-1]
    while waiting:
        one = waiting.pop()
        kind = _name(one)
        if kind == "MultiGeometry":
            waiting += list(one)[::-1]
        elif kind == "Polygon":
            shells = [ring for part in one if _name(part) == "outerBoundaryIs" for ring in _rings(part)]
            holes = [ring for part in one if _name(part) == "innerBoundaryIs" for ring in _rings(part)]
            if len(shells) != 1:
                raise ValueError(f"a polygon with {len(shells)} outer rings")
            yield shapely.Polygon(shells[0], holes)
        elif kind in KINDS:
            points = _coordinates(one)
            yield shapely.Point(points[0]) if kind == "Point" else shapely.LineString(points)


def _rings(boundary: Xml.Element) -> list[list[tuple[float, float]]]:
    return [_coordinates(ring) for ring in boundary if _name(ring) == "LinearRing"]


def _coordinates(element: Xml.Element) -> list[tuple[float, float]]:
    text = next((part.text for part in element if _name(part) == "coordinates"), None) or ""
    points = []
    for position in text.split():
        longitude, latitude, *_ = (float(value) for value in position.split(","))
        points.append((longitude, latitude))
    if not points:
        raise ValueError("no coordinates")
    return points


def _name(element: Xml.Element) -> str:
    """A tag without its namespace, of which there are several versions."""
    return str(element.tag).rpartition("}")[2]
