"""Tables are contracts: what breaks one is named, and the same rows are the same bytes."""

from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box

from sandwatch import ids
from sandwatch.audit import record  # noqa: F401 - has tables too
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.schemas import Aoi, Observations, Quarantine, Scenes, Table

from .annotation_rows import manifest


def aois() -> gpd.GeoDataFrame:
    """Three sites, not in order."""
    count = 3
    return gpd.GeoDataFrame(
        {
            "site_id": ["c", "a", "b"],
            "river": ["Ka", "Ka", "Lo"],
            "district": ["x"] * count,
            "role": ["label", "both", "infer"],
            "longitude": [85.0, 85.1, 88.0],
            "latitude": [20.0, 20.1, 21.0],
            "months": ["2023-01-01;2023-05-01", "2023-01-01", "2024-12-01"],
            "utm_crs": ["EPSG:32645"] * count,
            "left_m": [380_000.0] * count,
            "top_m": [2_246_000.0] * count,
            "width_px": [40] * count,
            "height_px": [30] * count,
            "area_km2": [1.5] * count,
            "group": [0, 0, 1],
            "fold": ["train", "train", "infer"],
        },
        geometry=[box(85, 20, 85.1, 20.1)] * count,
        crs="EPSG:4326",
    )


def observations(obs_id: str, site_id: str) -> pd.DataFrame:
    """One row."""
    return pd.DataFrame(
        {
            "obs_id": [obs_id], "site_id": [site_id], "date": ["2023-01-01"], "label_id": ["l"], "has_mines": [False],
            "origin": ["real"], "polygons": [0], "created_by": [None], "workflow_status": [None], "snapshot": ["s"],
        }
    )  # fmt: skip


def tables(of: type[Table]) -> Iterator[type[Table]]:
    """All tables there are."""
    for table in of.__subclasses__():
        yield table
        yield from tables(table)


def test_rows_in_any_order_are_the_same_bytes(tmp_path: Path) -> None:
    Aoi.write(aois(), tmp_path / "one.parquet")
    Aoi.write(aois().iloc[::-1][["geometry", *aois().columns[:-1]]], tmp_path / "two.parquet")
    assert sha256(tmp_path / "one.parquet") == sha256(tmp_path / "two.parquet")
    back = Aoi.read(tmp_path / "one.parquet")
    assert list(back["site_id"]) == ["a", "b", "c"]
    assert back.crs == "EPSG:4326"
    assert back["group"].dtype == "int64"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("role", "watch", "aoi.parquet, column role: got 'watch'; expected isin"),
        ("months", "2023-01", "column months: got '2023-01'; expected str_matches"),
        ("utm_crs", "EPSG:4326", "column utm_crs: got 'EPSG:4326'"),
        ("latitude", 91.0, "column latitude: got 91.0; expected in_range"),
        ("fold", "holdout", "column fold: got 'holdout'"),
        ("width_px", 0, "column width_px: got 0"),
    ],
)
def test_a_cell_at_fault_is_named(tmp_path: Path, column: str, value: object, message: str) -> None:
    table = aois()
    table.loc[1, column] = value
    with pytest.raises(InputError, match=message):
        Aoi.write(table, tmp_path / "aoi.parquet")
    assert not list(tmp_path.iterdir())


UNFIT = (
    "../x", "a/b", "a\\b", ".x", "..", "-x", "a b", "a\nb", "a\0b", "a\u202eb", "a\u00a0b", "a:b", "a*",
    "\u093f",
)  # fmt: skip
FIT = ("a", "_a", "7", "Balason_Darjeeling_88-32_26-75", "a..b", "Überlingen", "नदी_1", "長江", "x" * 169)


@pytest.mark.parametrize("site_id", FIT)
def test_ids_of_any_script_name_sites(site_id: str) -> None:
    table = aois()
    table.loc[1, "site_id"] = site_id
    assert site_id in set(Aoi.checked(table, "aoi")["site_id"])
    seen = observations(f"{site_id}_2023-01-01", site_id)
    assert list(Observations.checked(seen, "observations")["site_id"]) == [site_id]
    assert ids.names_site(site_id)


def test_ids_of_ascii_follow_the_rule_of_all_scripts() -> None:
    """Ids of ASCII are judged by a pattern; with a letter of another script behind them, by the rule itself."""
    letters = [chr(code) for code in range(128)]
    for name in (*letters, *(first + second for first in letters for second in letters)):
        assert ids.names_files(name) == ids.names_files(f"{name}\u00fc"), repr(name)
    assert not ids.names_files("")


@pytest.mark.parametrize("site_id", UNFIT)
def test_ids_that_cant_name_files_are_refused_in_every_table(tmp_path: Path, site_id: str) -> None:
    assert not ids.names_site(site_id)
    table = aois()
    table.loc[1, "site_id"] = site_id
    with pytest.raises(InputError, match=r"aoi, column site_id: got .*; expected an id of letters of any script"):
        Aoi.checked(table, "aoi")
    with pytest.raises(InputError, match=r"observations, column obs_id: got "):
        Observations.checked(observations(f"{site_id}_2023-01-01", "a"), "observations")


@pytest.mark.parametrize("site_id", ["x" * 170, "ü" * 85])
def test_ids_too_long_to_name_files_are_refused(site_id: str) -> None:
    assert not ids.names_site(site_id)
    assert not ids.names_site("a\ud800b")  # what a file's name that isn't UTF-8 reads as
    with pytest.raises(InputError, match=r"observations, column obs_id: got .*; expected an id of letters of any"):
        Observations.checked(observations(f"{site_id}_2023-01-01", "a"), "observations")


def test_every_table_with_ids_checks_them() -> None:
    """But the quarantine, whose rows are named by whatever was received."""
    for table in (*tables(Table),):
        columns = table.to_schema().columns
        for name in {"site_id", "obs_id"} & set(columns):
            assert any("letters of any script" in str(check.error) for check in columns[name].checks), (table, name)
        if "path" in columns:
            assert any("in its folder" in str(check.error) for check in columns["path"].checks), table
        assert table._as_received == (table is Quarantine)


@pytest.mark.parametrize("path", ["../s2.tif", "/etc/s2.tif", "a/../../s2.tif", "", "a//s2.tif", "./s2.tif"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"scenes, column path: got .*; expected a path that leads to a file in its"):
        Scenes.checked(manifest().assign(path=path), "scenes")
    Scenes.checked(manifest().assign(path=None), "scenes")


def test_a_site_twice_is_refused(tmp_path: Path) -> None:
    table = aois()
    table["site_id"] = ["a", "a", "b"]
    with pytest.raises(InputError, match=r"column site_id: got 'a'; expected .*uniqu"):
        Aoi.write(table, tmp_path / "aoi.parquet")


@pytest.mark.parametrize("change", [{"drop": "fold"}, {"add": "colour"}])
def test_other_columns_are_refused(change: dict[str, str]) -> None:
    table = aois().drop(columns=change.get("drop", []))
    if "add" in change:
        table[change["add"]] = 1
    with pytest.raises(InputError, match=r"aoi: got columns .*; expected columns .*site_id"):
        Aoi.checked(table, "aoi")


def test_another_crs_is_refused_and_not_reprojected() -> None:
    with pytest.raises(InputError, match=r"aoi, .*32645"):
        Aoi.checked(aois().to_crs("EPSG:32645"), "aoi")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really PAR1", None])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "aoi.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"aoi.parquet: got .*; expected a table that its stage wrote; run dvc check"):
        Aoi.read(path)


def test_a_table_that_was_damaged_is_one_line_or_as_good_as_new(tmp_path: Path) -> None:
    """Cut short anywhere, or with other bytes anywhere: what is not noticed changes values within the contract."""
    path = tmp_path / "aoi.parquet"
    Aoi.write(aois(), path)
    content, draws = path.read_bytes(), np.random.default_rng(0)
    cut = [content[: int(end)] for end in draws.integers(0, len(content), 40)]
    changed = []
    for start in draws.integers(0, len(content), 100):
        damaged = bytearray(content)
        damaged[start : start + 4] = draws.bytes(4)
        changed.append(bytes(damaged[: len(content)]))
    crs = content.replace(b"EPSG", b"EPSX").replace(b'"name":"WGS 84"', b'"name":"WGS ??"')
    refused: list[str] = []
    for damaged in [*cut, *changed, crs]:
        path.unlink()
        path.write_bytes(damaged)
        try:
            Aoi.read(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(said.startswith(str(path)) and "\n" not in said for said in refused)


def test_a_table_without_geometry_is_not_read_as_one_with(tmp_path: Path) -> None:
    pd.DataFrame({"site_id": ["a"]}).to_parquet(tmp_path / "aoi.parquet")
    with pytest.raises(InputError, match=r"aoi.parquet: got .*; expected a table that its stage wrote"):
        Aoi.read(tmp_path / "aoi.parquet")


def test_empty_tables_round_trip_where_they_may_be_empty(tmp_path: Path) -> None:
    columns = list(Quarantine.to_schema().columns)
    empty = pd.DataFrame({name: pd.Series(dtype="int64" if name == "polygons" else "object") for name in columns})
    Quarantine.write(empty, tmp_path / "quarantine.parquet")
    assert Quarantine.read(tmp_path / "quarantine.parquet").empty


def test_nullable_text_survives_when_all_of_it_is_null(tmp_path: Path) -> None:
    Observations.write(observations("a_2023-01-01", "a"), tmp_path / "observations.parquet")
    back = Observations.read(tmp_path / "observations.parquet")
    assert back["created_by"].isna().all()
    assert back["has_mines"].dtype == bool
