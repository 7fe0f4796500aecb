"""Parquet's bytes tell of the rows and of nothing else; every reader finds the same in them."""

import json
import re
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from shapely.geometry import MultiPolygon, box

from sandwatch import schemas
from sandwatch.errors import InputError
from sandwatch.parquet import WRITER, write_parquet

SOURCES = Path(__file__).parents[2]
LIBRARIES = (pd, pa, gpd, np, shapely, pyogrio)


def table() -> gpd.GeoDataFrame:
    """Every type that a table of ours has, with and without gaps."""
    return gpd.GeoDataFrame(
        {
            "name": ["a", "b", "ä"],
            "detail": pd.Series([None, "x", None], dtype=object),
            "nothing": pd.Series([None, None, None], dtype=object),
            "count": [1, 2**53 + 1, -3],
            "share": [0.1, float("nan"), 1e-300],
            "seen": [True, False, True],
        },
        geometry=[box(85, 20, 85.1, 20.1), MultiPolygon([box(0, 0, 1, 1)]), box(-1, -1, 0, 0)],
        crs="EPSG:4326",
    )


def test_bytes_name_no_library_and_no_version(tmp_path: Path) -> None:
    write_parquet(table(), tmp_path / "a.parquet")
    written = (tmp_path / "a.parquet").read_bytes()
    for library in LIBRARIES:
        assert library.__version__.encode() not in written, library.__name__
        assert library.__name__.encode() not in written, library.__name__
    assert b"arrow" not in written.lower()
    assert pq.read_metadata(tmp_path / "a.parquet").created_by == WRITER


def test_another_version_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(table(), tmp_path / "a.parquet")
    for library in LIBRARIES:
        monkeypatch.setattr(library, "__version__", "0.0.1")
    write_parquet(table(), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("dtype", ["str", "string", object])
def test_how_pandas_holds_strings_is_not_in_the_bytes(tmp_path: Path, dtype: Any) -> None:
    write_parquet(table(), tmp_path / "a.parquet")
    write_parquet(table().astype({"name": dtype, "detail": dtype, "nothing": dtype}), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_types_and_values_come_back(tmp_path: Path) -> None:
    write_parquet(table(), tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    types = {field.name: str(field.type) for field in schema}
    strings = dict.fromkeys(["name", "detail", "nothing"], "string")
    assert types == {**strings, "count": "int64", "share": "double", "seen": "bool", "geometry": "binary"}
    back = gpd.read_parquet(tmp_path / "a.parquet")
    dtypes = {"name": "str", "detail": "str", "nothing": "str"}
    pd.testing.assert_frame_equal(pd.DataFrame(back), pd.DataFrame(table().astype(dtypes)), check_exact=True)
    assert back.crs == table().crs
    assert back.crs.to_epsg() == 4326
    assert back.geometry.geom_equals_exact(table().geometry, 0).all()


def test_a_mapping_is_a_table(tmp_path: Path) -> None:
    rows = {"chip_id": ("a", "b"), "draws": (3, 0)}
    write_parquet(rows, tmp_path / "a.parquet")
    write_parquet(pd.DataFrame(rows), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_all_tables_without_rows_keep_their_types(tmp_path: Path) -> None:
    for model in schemas.Table.__subclasses__():
        geometric = "geometry" in model.to_schema().columns
        rows = gpd.GeoDataFrame(model.empty(), crs="EPSG:4326") if geometric else model.empty()
        empty = model.checked(rows, model.__name__)
        model.write(empty, tmp_path / "a.parquet")
        back = model.read(tmp_path / "a.parquet")
        assert dict(back.dtypes.astype(str)) == dict(empty.dtypes.astype(str)), model.__name__


def test_geo_metadata_are_geoparquet(tmp_path: Path) -> None:
    write_parquet(table(), tmp_path / "a.parquet")
    (key,) = pq.read_schema(tmp_path / "a.parquet").metadata
    geo = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[key])
    assert key == b"geo"
    about = geo["columns"][geo["primary_column"]]
    assert about["encoding"] == "WKB"
    assert about["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert about["bbox"] == [-1.0, -1.0, 85.1, 20.1]
    # What geopandas itself says of these rows, but for its own name and the notes of PROJ's database.
    table().to_parquet(tmp_path / "theirs.parquet")
    theirs = json.loads(pq.read_schema(tmp_path / "theirs.parquet").metadata[b"geo"])
    del theirs["creator"]
    for note in ("$schema", "scope", "area", "bbox"):
        theirs["columns"]["geometry"]["crs"].pop(note, None)
    assert geo == theirs


def test_statistics_and_rows_are_where_the_footer_says(tmp_path: Path) -> None:
    """The footer is rewritten with another length: what it points to has not moved."""
    count = 3000
    rows = pd.DataFrame({"name": [f"{WRITER} {index}" for index in range(count)], "count": range(count)})
    write_parquet(rows, tmp_path / "a.parquet")
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (count, 1)
    assert metadata.row_group(0).column(1).statistics.max == count - 1
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), rows)
    taken = pq.read_table(tmp_path / "a.parquet", filters=[("count", "==", 7)])
    assert taken["name"].to_pylist() == [f"{WRITER} 7"]


def test_a_row_that_quotes_the_library_stays_as_it_is(tmp_path: Path) -> None:
    """The name is looked for in the footer, where the least and the greatest value of each column lie too."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plain.parquet")
    quoted = pq.read_metadata(tmp_path / "plain.parquet").created_by
    framed = f"{chr(len(quoted))}{quoted}"
    write_parquet(pd.DataFrame({"name": [quoted, framed]}), tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet")["name"].tolist() == [quoted, framed]
    assert pq.read_metadata(tmp_path / "a.parquet").created_by == WRITER
    statistics = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).statistics
    assert {statistics.min, statistics.max} == {quoted, framed}


def test_another_crs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet, geometry: got EPSG:32645; expected EPSG:4326"):
        write_parquet(table().to_crs("EPSG:32645"), tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


def test_no_other_writer_of_parquet_in_the_product() -> None:
    writers = re.compile(r"\.to_parquet\(|\bwrite_table\(|\bParquetWriter\(")
    found = {
        path.relative_to(SOURCES).as_posix()
        for folder in ("src", "stages", "benchmarks")
        for path in (SOURCES / folder).rglob("*.py")
        if writers.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"src/sandwatch/parquet.py"}
