"""The one writer of Parquet: the same rows give the same bytes, whichever libraries wrote them.

pandas, geopandas and pyarrow each write their version into a file, pandas the type that it happens to hold strings in,
PROJ the notes of its database beside a CRS. A hash of such a file changes with an upgrade that changed no row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sandwatch.errors import InputError
from sandwatch.files import whole

if TYPE_CHECKING:
    import pandas as pd

WRITER = "sandwatch version 1"
"""Who wrote a file, in the form that readers parse. The version is that of this layout, not of the package."""
BLOCK = 1 << 14
"""Geometries turned into bytes at once: all at once would be in memory twice. Pyarrow's pages end as without blocks,
since this is a multiple of the rows that it takes at a time (1,024)."""
PROJJSON = {
    "type": "GeographicCRS",
    "name": "WGS 84",
    "datum_ensemble": {
        "name": "World Geodetic System 1984 ensemble",
        "members": [
            {"name": f"World Geodetic System 1984 ({realisation})"}
            for realisation in ("Transit", "G730", "G873", "G1150", "G1674", "G1762", "G2139", "G2296")
        ],
        "ellipsoid": {"name": "WGS 84", "semi_major_axis": 6378137, "inverse_flattening": 298.257223563},
        "accuracy": "2.0",
        "id": {"authority": "EPSG", "code": 6326},
    },
    "coordinate_system": {
        "subtype": "ellipsoidal",
        "axis": [
            {"name": "Geodetic latitude", "abbreviation": "Lat", "direction": "north", "unit": "degree"},
            {"name": "Geodetic longitude", "abbreviation": "Lon", "direction": "east", "unit": "degree"},
        ],
    },
    "id": {"authority": "EPSG", "code": 4326},
}
"""EPSG:4326 as PROJJSON, which GeoParquet wants; written out, because PROJ's own says more with each database."""


def write_parquet(table: pd.DataFrame | Mapping[str, Sequence[Any]], path: Path) -> None:
    """Writes a table, GeoParquet where it has a column ``geometry``; whole or not at all.

    Args:
        table: columns by name: strings, integers, floats, booleans, and ``geometry`` in EPSG:4326; no index is written.
        path: a file.

    Raises:
        InputError: the geometry has another CRS, or pyarrow writes in a way that is not known here.
    """
    columns, metadata = {}, {}
    for name in map(str, table):
        if name == "geometry":
            columns[name], metadata["geo"] = _geometry(table[name], path.name)
        else:
            array = pa.array(table[name], from_pandas=True)
            columns[name] = array.cast(pa.string()) if pa.types.is_null(array.type) else array  # no row has a value
    rows = pa.table(columns)
    with whole(path) as partial:
        # Without Arrow's own schema, in which strings are those of pandas.
        with pq.ParquetWriter(
            partial, rows.schema, version="2.6", compression="zstd", compression_level=1, store_schema=False
        ) as writer:
            writer.write_table(rows, row_group_size=1 << 20)
            writer.add_key_value_metadata(metadata)
        _sign(partial)


def _geometry(geometry: Any, name: str) -> tuple[Any, str]:
    """A column of geometries as WKB, and what GeoParquet 1.1 says about it. Source: geoparquet.org."""
    import shapely  # here, because training writes a table too, where there is no shapely

    if geometry.crs != "EPSG:4326":
        raise InputError(
            f"{name}, geometry", got=str(geometry.crs), expected="EPSG:4326", fix="reproject it with to_crs"
        )
    types = geometry.geom_type + np.where(geometry.has_z, " Z", "")
    about = {"encoding": "WKB", "crs": PROJJSON, "geometry_types": sorted(types.unique())}
    if len(geometry):
        about["bbox"] = geometry.total_bounds.tolist()
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}}
    shapes = geometry.to_numpy()
    blocks = [shapes[first : first + BLOCK] for first in range(0, len(shapes), BLOCK)]
    wkb = [pa.array(shapely.to_wkb(block, flavor="iso"), pa.binary()) for block in blocks]
    return pa.chunked_array(wkb, pa.binary()), json.dumps(geo, sort_keys=True)


def _sign(path: Path) -> None:
    """Puts :data:`WRITER` where pyarrow, which offers no choice, named itself.

    The footer is a file's end, and what it points to lies before it: with another length nothing moves.

    Raises:
        InputError: the name isn't found, or the footer says something else than before.
    """
    made = pq.read_metadata(path).to_dict()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        start = file.seek(-8 - size, os.SEEK_END)
        # The last place: behind the name come only the sort orders of the columns; before it, a row may quote it.
        before, found, after = file.read(size).rpartition(_string(made["created_by"]))
        footer = before + _string(WRITER) + after
        if found:
            file.seek(start)
            file.write(footer + len(footer).to_bytes(4, "little") + b"PAR1")
            file.truncate()
    if not found or pq.read_metadata(path).to_dict() != made | {"created_by": WRITER, "serialized_size": len(footer)}:
        raise InputError(
            f"pyarrow {pa.__version__}",
            got="a footer that could not be signed",
            expected=f"its name, {made['created_by']}, after the metadata of the file",
            fix="install the pinned set: make setup",
        )


def _string(text: str) -> bytes:
    """A string of up to 127 bytes in a footer. Source: Thrift's compact protocol."""
    return bytes([len(text)]) + text.encode()
