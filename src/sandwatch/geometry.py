"""Geometry between coordinate systems: x or longitude first, always."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

Geometries = npt.NDArray[np.object_]

WGS84 = "EPSG:4326"
DEGREES = 1e-7
"""What stored geometry is snapped to, degrees (1 cm): far above the differences between two machines' arithmetic."""


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """The transformation between two CRS, made once."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@overload
def reproject(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry: ...
@overload
def reproject(geometry: Geometries, source: str, target: str) -> Geometries: ...
def reproject(geometry: Any, source: str, target: str) -> Any:
    """Moves every vertex of a geometry, or of each in an array, from one CRS to another; edges stay straight."""

    def move(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(transformer(source, target).transform(xy[:, 0], xy[:, 1]))

    return shapely.transform(geometry, move)


def snap(geometry: Any) -> Any:
    """Rounds a valid geometry in degrees, or each in an array, to :data:`DEGREES`; the result is valid."""
    return shapely.set_precision(geometry, DEGREES)
