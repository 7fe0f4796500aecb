"""Every table that crosses a border between stages, as a pandera model; reading and writing both validate.

Tables are Parquet, GeoParquet where there is a geometry (EPSG:4326, longitude before latitude), written so that the
same rows give the same bytes: columns in the model's order, rows sorted by the model's ``_sort_by``, fixed compression,
nothing about the run or the libraries (:mod:`sandwatch.parquet`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import geopandas as gpd
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet as pq
from pandera.engines.geopandas_engine import Geometry
from pandera.errors import SchemaErrors
from pandera.typing import Series
from pandera.typing.geopandas import GeoSeries
from pyarrow.lib import ArrowException
from pyproj.exceptions import ProjError
from shapely.errors import ShapelyError

from sandwatch import ids
from sandwatch.errors import InputError
from sandwatch.files import below
from sandwatch.origin import KINDS
from sandwatch.parquet import write_parquet

WGS84 = "EPSG:4326"
Geometries = GeoSeries[Annotated[Geometry, WGS84]]
OBS_ID = r"^.+_[0-9]{4}-[0-9]{2}-[0-9]{2}$"
"""How an obs_id ends; what may stand in it is said in ids.py, and checked in every table."""
MONTH = r"^\d{4}-\d{2}-01$"
SHA256 = r"^[0-9a-f]{64}$"
FOLDS = ("train", "val", "test", "blocks", "infer")
"""``blocks``: cut into blocks that train and blocks that validate (split.py). ``infer``: not learnt from."""
PRODUCTS = ("s2", "s1", "rgb")
LABEL_ORIGINS = ("synthetic", "real")
"""What drew a label: the painter of the sample region, or people."""
SEEN, NOT_SEEN, NOT_OBSERVABLE = STATES = ("seen", "not seen", "not observable")
"""Of a mine in a month: a cloud over it, or no scene, is not its absence."""
POSSIBLE, CONFIRMED = STATUSES = ("possible", "confirmed")
"""Of a mine: seen in one month only, or in a later month that was clear there, too. As alerts of forest loss have it:
GLAD confirms by a second clear observation (Hansen et al. 2016, doi:10.1088/1748-9326/11/3/034008), RADD by later ones
(Reiche et al. 2021, doi:10.1088/1748-9326/abd0a8). Both drop what isn't confirmed in time; here it stays possible."""
REASONS = (
    "malformed_row",
    "no_label",
    "unknown_observation",
    "scene_missing",
    "label_skipped",
    "not_done",
    "excluded",
    "several_labels",
    "duplicate_observation",
    "activity_missing",
    "activity_contradicts_polygons",
    "unknown_class",
    "geometry_missing",
    "geometry_not_polygon",
    "geometry_invalid",
    "outside_scene",
    "confidence_missing",
    "duplicate_feature_id",
    "observation_incomplete",
)
"""Why a label or a row of an export is in quarantine; GLOSSARY.md explains each."""


def _all_but(column: pd.Series, wrong: list[Any]) -> pd.Series:
    """Which cells hold none of what is wrong; where nothing is, no cell is looked at."""
    return ~column.isin(wrong) if wrong else pd.Series(True, column.index)


class Table(pa.DataFrameModel):
    """A table with a contract. Subclasses set ``_sort_by``, the columns that order its rows."""

    _sort_by: ClassVar[list[str]]
    _as_received: ClassVar[bool] = False
    """Whether ids are whatever somebody sent, and name nothing."""

    class Config:  # noqa: D106
        strict = True
        ordered = True

    @pa.check("^(site_id|obs_id)$", regex=True, error=f"an id of {ids.RULE}")
    @classmethod
    def _ids(cls, column: pd.Series) -> pd.Series:
        return _all_but(column, [] if cls._as_received else [n for n in column.unique() if not ids.names_files(n)])

    @pa.check("^path$", regex=True, error="a path that leads to a file in its folder")
    @classmethod
    def _paths(cls, column: pd.Series) -> pd.Series:
        return _all_but(column, [path for path in column.unique() if not below(path)])

    @classmethod
    def checked(cls, table: pd.DataFrame, name: str) -> Any:
        """Returns ``table`` with columns in order and rows sorted, if it fulfils the contract.

        Args:
            table: rows in any order, columns in any order.
            name: what to call the table in an error.

        Raises:
            InputError: the first column at fault, what it holds, what the contract says.
        """
        columns = list(cls.to_schema().columns)
        if set(table.columns) != set(columns):
            raise InputError(
                name, got=f"columns {sorted(table.columns)}", expected=f"columns {columns}", fix="re-run its stage"
            )
        if table.empty:  # a column without values has no type of its own
            dtypes = cls.to_schema().dtypes
            table = table.astype({column: dtypes[column].type for column in columns if column != "geometry"})
        table = table[columns].sort_values(cls._sort_by, kind="stable", ignore_index=True)
        try:
            return cls.validate(table, lazy=True)
        except SchemaErrors as errors:
            case = errors.failure_cases.iloc[0]
            value = case["failure_case"]
            raise InputError(
                f"{name}, column {case['column']}",
                got=repr(value.item() if isinstance(value, np.generic) else value),
                expected=f"{case['check']}",
                fix=f"correct the input that made it ({len(errors.failure_cases)} such cells)",
            ) from None
        except TypeError as error:  # pandera reports another CRS this way
            raise InputError(
                f"{name}, geometry", got=str(error), expected=WGS84, fix="reproject it with to_crs"
            ) from None

    @classmethod
    def write(cls, table: pd.DataFrame, path: Path) -> None:
        """Writes ``table``, checked, whole or not at all.

        Raises:
            InputError: as :meth:`checked`.
        """
        write_parquet(cls.checked(table, path.name), path)

    @classmethod
    def read(cls, path: Path) -> Any:
        """Reads a table and checks it: a GeoDataFrame where the model has a geometry, else a DataFrame.

        Raises:
            InputError: there is no such file, it is no whole Parquet, or as :meth:`checked`.
        """
        geometric = "geometry" in cls.to_schema().columns
        try:
            return cls.checked(gpd.read_parquet(path) if geometric else pq.read_table(path).to_pandas(), str(path))
        except (ArrowException, ProjError, ShapelyError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                str(path),
                got=str(error)[:300],
                expected="a table that its stage wrote",
                fix="run dvc checkout, dvc pull or dvc repro",
            ) from None


class Aoi(Table):
    """data/aoi/aoi.parquet: one row a site."""

    _sort_by: ClassVar[list[str]] = ["site_id"]
    site_id: Series[str] = pa.Field(unique=True, str_length={"min_value": 1})
    river: Series[str]
    district: Series[str]
    role: Series[str] = pa.Field(isin=["label", "train", "infer", "both"])
    longitude: Series[float] = pa.Field(in_range={"min_value": -180, "max_value": 180})
    latitude: Series[float] = pa.Field(in_range={"min_value": -80, "max_value": 84})
    months: Series[str] = pa.Field(
        str_matches=r"^\d{4}-\d{2}-01(;\d{4}-\d{2}-01)*$", description="first days of months, ';' between"
    )
    utm_crs: Series[str] = pa.Field(str_matches=r"^EPSG:32[67]\d{2}$")
    left_m: Series[float] = pa.Field(description="left edge of the scene grid, multiple of 10 m")
    top_m: Series[float] = pa.Field(description="top edge of the scene grid, multiple of 10 m")
    width_px: Series[int] = pa.Field(ge=1)
    height_px: Series[int] = pa.Field(ge=1)
    area_km2: Series[float] = pa.Field(gt=0)
    group: Series[int] = pa.Field(ge=0, description="sites nearer than split.min_distance_km share it")
    fold: Series[str] = pa.Field(isin=FOLDS)
    geometry: Geometries


class Scenes(Table):
    """data/scenes.parquet: one row a raster that was asked for, skipped ones too."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "product"]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    site_id: Series[str]
    date: Series[str] = pa.Field(str_matches=r"^\d{4}-\d{2}-01$", description="first day of the month composited")
    product: Series[str] = pa.Field(isin=PRODUCTS)
    status: Series[str] = pa.Field(isin=["exported", "skipped"])
    detail: Series[str] = pa.Field(nullable=True, description="why it was skipped, with the figure")
    path: Series[str] = pa.Field(nullable=True, description="relative to the folder of scenes")
    bands: Series[str] = pa.Field(description="names with ',' between, in the file's order")
    crs: Series[str]
    transform: Series[str] = pa.Field(description="the six affine coefficients a..f, ',' between")
    width_px: Series[int] = pa.Field(ge=1)
    height_px: Series[int] = pa.Field(ge=1)
    dtype: Series[str] = pa.Field(isin=["uint16", "float32", "uint8"])
    nodata: Series[float] = pa.Field(nullable=True, description="NaN for S1, 0 for the others")
    valid_fraction: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1}, description="of the AOI")
    source: Series[str] = pa.Field(isin=["synthetic", "files", "earthengine"])
    source_images: Series[str] = pa.Field(
        description="JSON list of {id, date, processing_baseline} of every image in the composite, sorted by id"
    )
    sha256: Series[str] = pa.Field(nullable=True, str_matches=SHA256)


class Labels(Table):
    """data/annotations/labels.parquet: one row a polygon that a person drew, or a generator (``source``)."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "feature_id"]
    feature_id: Series[str] = pa.Field(unique=True)
    label_id: Series[str]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    origin: Series[str] = pa.Field(isin=LABEL_ORIGINS, description="synthetic: generated, drawn by nobody")
    class_name: Series[str] = pa.Field(description="the class in the ontology")
    confidence: Series[str] = pa.Field(isin=["low", "high"])
    area_m2: Series[float] = pa.Field(gt=0, description="in the site's UTM zone, rounded to 0.1")
    created_by: Series[str] = pa.Field(nullable=True)
    created_at: Series[str] = pa.Field(nullable=True, description="ISO 8601, UTC")
    updated_at: Series[str] = pa.Field(nullable=True)
    reviews: Series[str] = pa.Field(description="JSON list as exported")
    workflow_status: Series[str] = pa.Field(nullable=True)
    row_sha256: Series[str] = pa.Field(str_matches=SHA256, description="of the raw row in export.ndjson")
    label_sha256: Series[str] = pa.Field(str_matches=SHA256, description="of the canonical row in the fingerprint")
    geometry: Geometries


class Observations(Table):
    """data/annotations/observations.parquet: one row an observation that was looked at, negatives too."""

    _sort_by: ClassVar[list[str]] = ["obs_id"]
    obs_id: Series[str] = pa.Field(unique=True, str_matches=OBS_ID)
    site_id: Series[str]
    date: Series[str] = pa.Field(str_matches=r"^\d{4}-\d{2}-01$")
    label_id: Series[str]
    origin: Series[str] = pa.Field(isin=LABEL_ORIGINS, description="synthetic: generated, looked at by nobody")
    has_mines: Series[bool] = pa.Field(description="some label is left; else it is a negative, but for ignored areas")
    polygons: Series[int] = pa.Field(ge=0, description="usable ones")
    created_by: Series[str] = pa.Field(nullable=True)
    workflow_status: Series[str] = pa.Field(nullable=True)
    snapshot: Series[str]


class Quarantine(Table):
    """data/annotations/quarantine.parquet: one row a label, or a whole row of the export, that is unfit."""

    _sort_by: ClassVar[list[str]] = ["row_id", "feature_id", "reason"]
    _as_received: ClassVar[bool] = True
    row_id: Series[str] = pa.Field(description="id of the raw row: its data row, or file and line")
    obs_id: Series[str] = pa.Field(nullable=True)
    label_id: Series[str] = pa.Field(nullable=True)
    feature_id: Series[str] = pa.Field(nullable=True, description="null: the whole row was rejected")
    polygons: Series[int] = pa.Field(ge=0, description="polygons rejected by this row")
    reason: Series[str] = pa.Field(isin=REASONS)
    detail: Series[str]
    row_sha256: Series[str] = pa.Field(str_matches=SHA256)


class Ignored(Table):
    """data/annotations/ignored.parquet: one row an area of a kept observation that is not learnt from."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "feature_id"]
    feature_id: Series[str] = pa.Field(description="of the label that was excluded there")
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    geometry: Geometries


class CanonicalLabels(Table):
    """data/canonical/labels.parquet: one row a label, with all that its canonical row holds and nothing else."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "feature_id"]
    feature_id: Series[str] = pa.Field(unique=True)
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    class_name: Series[str]
    confidence: Series[str] = pa.Field(isin=["low", "high"])
    geometry: Geometries


class CanonicalObservations(Table):
    """data/canonical/observations.parquet: one row an observation that was looked at."""

    _sort_by: ClassVar[list[str]] = ["obs_id"]
    obs_id: Series[str] = pa.Field(unique=True, str_matches=OBS_ID)
    site_id: Series[str]


class CanonicalIgnored(Table):
    """data/canonical/ignored.parquet: one row an area that is not learnt from, in the order of canonical rows."""

    _sort_by: ClassVar[list[str]] = ["obs_id"]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    geometry: Geometries


class UngroupedWindows(Table):
    """data/chips/windows.parquet of revisions from before windows had a group, which the audit still follows."""

    _sort_by: ClassVar[list[str]] = ["chip_id"]
    chip_id: Series[str] = pa.Field(unique=True, description="<obs_id>_<g|r><row>_<col>")
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    site_id: Series[str]
    river: Series[str]
    fold: Series[str] = pa.Field(isin=["train", "val", "test"])
    kind: Series[str] = pa.Field(isin=["grid", "random"])
    row: Series[int] = pa.Field(ge=0, description="of the window's first pixel in the scene")
    col: Series[int] = pa.Field(ge=0)
    size_px: Series[int] = pa.Field(ge=32)
    px_other: Series[int] = pa.Field(ge=0)
    px_low: Series[int] = pa.Field(ge=0)
    px_high: Series[int] = pa.Field(ge=0)
    px_ignored: Series[int] = pa.Field(ge=0, description="nodata; unlabelled and outside the AOI or excluded")
    aoi_fraction: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1})
    valid_fraction: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1})


class Windows(UngroupedWindows):
    """data/chips/windows.parquet: one row a chip."""

    group: Series[int] = pa.Field(ge=0, description="of its site, as in aoi.parquet")


class Folds(Table):
    """data/folds.parquet: one row a site and replicate of a cross-validation."""

    _sort_by: ClassVar[list[str]] = ["replicate", "site_id"]
    replicate: Series[int] = pa.Field(ge=1)
    site_id: Series[str]
    group: Series[int] = pa.Field(ge=0, description="as in aoi.parquet; the sites of one are in one fold")
    fold: Series[str] = pa.Field(isin=["train", "val", "test"])


class ChipLabels(Table):
    """data/chips/chip_labels.parquet: how many pixels each polygon put into each chip (the polygon that won)."""

    _sort_by: ClassVar[list[str]] = ["chip_id", "feature_id"]
    chip_id: Series[str]
    feature_id: Series[str]
    pixels: Series[int] = pa.Field(ge=1)


class Detections(Table):
    """data/predictions/<obs_id>/detections.parquet: one row a polygon out of ``infer``."""

    _sort_by: ClassVar[list[str]] = ["detection_id"]
    detection_id: Series[str] = pa.Field(unique=True)
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    site_id: Series[str]
    river: Series[str]
    date: Series[str] = pa.Field(str_matches=r"^\d{4}-\d{2}-01$")
    score_mean: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1})
    score_max: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1})
    area_m2: Series[float] = pa.Field(gt=0)
    model_sha256: Series[str] = pa.Field(str_matches=SHA256)
    label_fingerprint: Series[str] = pa.Field(str_matches=SHA256)
    model_imagery: Series[str] = pa.Field(isin=KINDS, description="what the model learnt from")
    model_labels: Series[str] = pa.Field(isin=KINDS, description="what the model learnt from")
    imagery: Series[str] = pa.Field(isin=KINDS, description="what the scene is")
    scene_sha256: Series[str] = pa.Field(description="JSON object: SHA-256 of the scene's raster by product")
    geometry: Geometries


class Mines(Table):
    """data/predictions/mines.parquet: one row a mine of a site, as all months together tell it."""

    _sort_by: ClassVar[list[str]] = ["mine_id"]
    mine_id: Series[str] = pa.Field(unique=True, description="of the site, the first month and the shape then")
    site_id: Series[str]
    river: Series[str]
    district: Series[str]
    status: Series[str] = pa.Field(isin=STATUSES)
    state: Series[str] = pa.Field(isin=STATES, description="in its last month")
    first_seen: Series[str] = pa.Field(str_matches=MONTH)
    last_seen: Series[str] = pa.Field(str_matches=MONTH)
    confirmed_in: Series[str] = pa.Field(nullable=True, str_matches=MONTH)
    split_from: Series[str] = pa.Field(nullable=True, description="the mine that it was a part of before")
    merged_into: Series[str] = pa.Field(
        nullable=True, description="the mine that it is a part of since it was last seen"
    )
    months: Series[int] = pa.Field(ge=1, description="that were looked for, from the first in which it was seen")
    months_clear: Series[int] = pa.Field(ge=1, description="of those, in which it was seen or could have been")
    months_seen: Series[int] = pa.Field(ge=1)
    clear_share: Series[float] = pa.Field(
        in_range={"min_value": 0, "max_value": 1}, description="months_clear / months"
    )
    area_m2: Series[float] = pa.Field(gt=0, description="when it was last seen as itself, with those in it")
    growth_m2_per_year: Series[float] = pa.Field(
        nullable=True, description="Theil-Sen slope of the area over clear months"
    )
    score_mean: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1}, description="weighted by area")
    score_max: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1})
    river_m: Series[float] = pa.Field(ge=0, description="from the outline to the river as the region's file draws it")
    river_drawn_as: Series[str] = pa.Field(isin=["line", "area"], description="line: the river's centre line")
    model_sha256: Series[str] = pa.Field(str_matches=SHA256)
    label_fingerprint: Series[str] = pa.Field(str_matches=SHA256)
    model_imagery: Series[str] = pa.Field(isin=KINDS, description="what the model learnt from")
    model_labels: Series[str] = pa.Field(isin=KINDS, description="what the model learnt from")
    imagery: Series[str] = pa.Field(isin=KINDS, description="what the scenes are in which it was seen")
    geometry: Geometries


class MineMonths(Table):
    """data/predictions/mine_months.parquet: one row a mine and month of its site, those before it was seen too.

    None of those in which it was a part of another: before it split off, and after it merged.
    """

    _sort_by: ClassVar[list[str]] = ["mine_id", "date"]
    mine_id: Series[str]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    site_id: Series[str]
    river: Series[str]
    date: Series[str] = pa.Field(str_matches=MONTH, description="first day of the month")
    state: Series[str] = pa.Field(isin=STATES)
    status: Series[str] = pa.Field(nullable=True, isin=STATUSES, description="as it was known in that month")
    within: Series[str] = pa.Field(nullable=True, description="the mine whose polygon covers it; its area counts there")
    area_m2: Series[float] = pa.Field(
        ge=0, nullable=True, description="0 not seen; null within another, or not observable"
    )
    clear_share: Series[float] = pa.Field(
        in_range={"min_value": 0, "max_value": 1},
        description="of the pixels where it was seen before, or first, scored",
    )
    score_mean: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1}, nullable=True)
    score_max: Series[float] = pa.Field(in_range={"min_value": 0, "max_value": 1}, nullable=True)
    detection_ids: Series[str] = pa.Field(description="JSON list, as in detections.parquet")
