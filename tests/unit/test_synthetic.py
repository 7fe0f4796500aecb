"""The painted world: product format, determinism, colours that don't give mines away, seasons, labels that fit."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.features import rasterize
from scipy.ndimage import uniform_filter
from shapely.geometry import LineString, shape
from sklearn.metrics import roc_auc_score

from sandwatch import params, stack
from sandwatch.annotations import labelbox_export
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.synthetic import rows
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, reproject
from sandwatch.grid import Grid
from sandwatch.imagery import Site, synthetic
from sandwatch.imagery.params import Synthetic
from sandwatch.imagery.synthetic import Painter, truth

ROOT = Path(__file__).parents[2]
BANDS = params.Bands(s2=params.S2_L2A_BANDS, s1=params.S1_BANDS)
SYNTHETIC = Synthetic(seed=8, cloud_fraction=0.05, annotator_error_m=8.0)
ANNOTATIONS = params.read(ROOT / "params.yaml", Annotations)
DRY, WET = date(2022, 4, 1), date(2022, 10, 1)
CRS = "EPSG:32728"
# Three kilometres of river from the west to the north-east: no symmetry, so that a flip can't hide.
RIVER = LineString([(600_000, 7_501_000), (601_500, 7_501_300), (602_500, 7_502_400), (604_000, 7_503_100)])
RIVERS = reproject(RIVER, CRS, WGS84)


def make_site(name: str = "Bend", *, width: int = 310, height: int = 260) -> Site:
    grid = Grid(crs=CRS, left=600_300.0, top=7_503_100.0, width=width, height=height)
    return Site(
        site_id=name,
        river="Testwater",
        district="Nowhere",
        longitude=-14.0,
        latitude=-22.5,
        months=(DRY, WET),
        grid=grid,
        aoi=reproject(shapely.box(*grid.bounds), CRS, WGS84),
    )


def paint(site: Site, month: date, section: Synthetic = SYNTHETIC) -> tuple[np.ndarray, np.ndarray]:
    composite = Painter(rivers=RIVERS, bands=BANDS, synthetic=section)(site, month)
    assert composite.s2 is not None
    assert composite.s1 is not None
    return composite.s2.pixels, composite.s1.pixels


def test_pixels_are_in_product_format() -> None:
    site = make_site()
    s2, s1 = paint(site, DRY)
    assert s2.dtype == np.uint16
    assert s2.shape == (12, *site.grid.shape)
    assert s1.dtype == np.float32
    assert s1.shape == (2, *site.grid.shape)
    gaps = s2 == 0
    assert (gaps.any(axis=0) == gaps.all(axis=0)).all(), "a gap is a gap in every band"
    assert s2[~gaps].min() > 0
    assert s2.max() < 12_000
    assert not np.isnan(s1).any()
    assert ((s1 > -40) & (s1 < 5)).all()
    np.testing.assert_array_equal(s1, np.rint(s1.astype(np.float64) * 100).astype(np.float32) / np.float32(100))


def test_bands_come_in_the_order_asked_for() -> None:
    s2, s1 = paint(make_site(), DRY, SYNTHETIC.model_copy(update={"cloud_fraction": 0.0}))
    few = params.Bands(s2=("B8", "B2"), s1=())
    composite = Painter(rivers=RIVERS, bands=few, synthetic=SYNTHETIC.model_copy(update={"cloud_fraction": 0.0}))(
        make_site(), DRY
    )
    assert composite.s1 is None
    assert composite.s2 is not None
    # Sensor noise is drawn anew for another choice of bands; what is seen is the same.
    for found, band in zip(composite.s2.pixels, ("B8", "B2"), strict=True):
        expected = s2[params.S2_L2A_BANDS.index(band)].astype(float)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    assert np.corrcoef(s1[0].ravel(), s1[1].ravel())[0, 1] > 0.5


def test_clouds_take_the_share_asked_for() -> None:
    months = [date(2021 + k // 12, k % 12 + 1, 1) for k in range(24)]
    small = make_site(width=60)
    lost = [float((paint(small, month)[0][0] == 0).mean()) for month in months]
    assert np.mean(lost) == pytest.approx(0.05, abs=0.025)
    assert min(lost) < 0.005 < 0.1 < max(lost)
    clear = SYNTHETIC.model_copy(update={"cloud_fraction": 0.0})
    assert not (paint(small, months[int(np.argmax(lost))], clear)[0] == 0).any()


def test_level_1c_is_refused() -> None:
    bands = params.Bands(s2=("B2", "B10"), s1=())
    with pytest.raises(InputError, match=r"bands\.s2: got B10; expected Level-2A bands; remove B10"):
        Painter(rivers=RIVERS, bands=bands, synthetic=SYNTHETIC)(make_site(), DRY)


def test_a_river_that_is_no_line_is_refused() -> None:
    lake = RIVERS.buffer(0.001)
    with pytest.raises(InputError, match=r"rivers near site Bend: got no line across .* give lines"):
        Painter(rivers=lake, bands=BANDS, synthetic=SYNTHETIC)(make_site(), DRY)


def digest() -> str:
    """Of all that the painter and the annotators make of a site; of its colours before they are rounded, too."""
    site = make_site(width=200)
    hashed = hashlib.sha256()
    for month in (DRY, WET):
        hashed.update(synthetic._paint(synthetic._World(site, RIVERS, SYNTHETIC.seed), month).tobytes())
        for pixels in paint(site, month):
            hashed.update(pixels.tobytes())
        hashed.update(truth(site, month, RIVERS, SYNTHETIC)[0].tobytes())
    with TemporaryDirectory() as folder:
        hashed.update(json.dumps(labelled([site], Path(folder)), sort_keys=True).encode())
    return hashed.hexdigest()


def test_same_bytes_on_a_processor_without_wide_vectors() -> None:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    code = "from tests.unit.test_synthetic import digest, vectors; print(vectors(), digest())"
    narrow = {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name)),
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX2_Usable,-FMA_Usable,-AVX512F_Usable",
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
    }
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=narrow, text=True, capture_output=True, check=True
    ).stdout.split()
    assert printed[0] == "0", "numpy still uses the vectors that were to be off"
    assert printed[1] == digest()


def vectors() -> int:
    """How many of the optional instruction sets numpy uses in this process."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return sum(bool(__cpu_features__.get(name)) for name in __cpu_dispatch__)


def test_another_seed_site_or_month_is_another_picture() -> None:
    first = paint(make_site(), DRY)[0]
    others = [
        paint(make_site(), DRY, SYNTHETIC.model_copy(update={"seed": 7}))[0],
        paint(make_site("Elsewhere"), DRY)[0],
        paint(make_site(), WET)[0],
    ]
    for other in others:
        assert (first != other).mean() > 0.9


def test_neither_other_rivers_nor_the_way_a_line_is_cut_and_turned_matters() -> None:
    expected = truth(make_site(), DRY, RIVERS, SYNTHETIC)[0]
    assert expected.any()
    points = list(RIVERS.coords)
    cut = shapely.MultiLineString([points[:2], points[1:]])
    far = shapely.affinity.translate(RIVERS, 3.0, 0.0)
    for variant in (RIVERS.reverse(), cut, shapely.union_all([far, RIVERS])):
        np.testing.assert_array_equal(truth(make_site(), DRY, variant, SYNTHETIC)[0], expected)


def sand_coloured(s2: np.ndarray) -> np.ndarray:
    """Bare sand, dry to wet: far more short-wave infrared than water has, far less red edge than vegetation."""
    blue, red, nir, swir = (s2[params.S2_L2A_BANDS.index(band)].astype(float) for band in ("B2", "B4", "B8", "B11"))
    return (blue > 880) & (red > 1200) & (nir < 1.6 * red) & (swir > 150)


def test_a_single_pixel_does_not_tell_mined_from_untouched_sand() -> None:
    clear = SYNTHETIC.model_copy(update={"cloud_fraction": 0.0})
    mined, untouched, rough, smooth_ = [], [], [], []
    for name in ("Bend", "Reach", "Ford", "Weir", "Island"):
        site = make_site(name)
        s2, s1 = paint(site, DRY, clear)
        mines = truth(site, DRY, RIVERS, clear)[0] > 0
        sand = sand_coloured(s2)
        pixels = stack.encode(s2, s1)
        mined.append(pixels[:, mines & sand])
        untouched.append(pixels[:, ~mines & sand])
        red = s2[3].astype(float)
        spread = np.sqrt(np.maximum(uniform_filter(red * red, 5) - uniform_filter(red, 5) ** 2, 0))
        inside = uniform_filter(sand.astype(float), 5) > 0.99
        rough.append(spread[mines & inside])
        smooth_.append(spread[~mines & inside])
    one, other = np.concatenate(mined, axis=1), np.concatenate(untouched, axis=1)
    assert one.shape[1] > 2_000
    assert other.shape[1] > 4 * one.shape[1]
    is_mine = np.repeat([1, 0], [one.shape[1], other.shape[1]])
    aucs = [roc_auc_score(is_mine, np.concatenate([a, b])) for a, b in zip(one, other, strict=True)]
    assert np.abs(np.asarray(aucs) - 0.5).max() < 0.07, aucs
    # Not only the middle but the tails agree: equal shares lie beyond the untouched sand's outer fifths.
    for a, b in zip(one, other, strict=True):
        low, high = np.quantile(b, [0.2, 0.8])
        assert (a < low).mean() == pytest.approx(0.2, abs=0.12)
        assert (a > high).mean() == pytest.approx(0.2, abs=0.12)
    # Their neighbourhoods do tell.
    texture = np.concatenate([*rough, *smooth_])
    is_rough = np.repeat([1, 0], [sum(map(len, rough)), sum(map(len, smooth_))])
    assert roc_auc_score(is_rough, texture) > 0.85


def water_px(site: Site, month: date) -> int:
    s2 = paint(site, month, SYNTHETIC.model_copy(update={"cloud_fraction": 0.0}))[0].astype(int)
    return int(((s2[2] > s2[7]) & (s2[10] < 400)).sum())


def test_the_river_rises_with_the_monsoon() -> None:
    april, august = (water_px(make_site(), date(2022, month, 1)) for month in (4, 8))
    assert april > 500
    assert august > 1.5 * april


def test_mines_stay_where_they_are_and_grow() -> None:
    before, _ = truth(make_site(), date(2021, 4, 1), RIVERS, SYNTHETIC)
    after, _ = truth(make_site(), date(2022, 4, 1), RIVERS, SYNTHETIC)
    assert before.any()
    np.testing.assert_array_equal(after[before > 0], before[before > 0])
    assert (after > 0).sum() > (before > 0).sum()
    assert not truth(make_site(), date(2018, 4, 1), RIVERS, SYNTHETIC)[1], "before the first one opened"


def test_a_flooded_mine_is_not_seen() -> None:
    dry, wet = (truth(make_site(), month, RIVERS, SYNTHETIC)[0] for month in (date(2022, 5, 1), date(2022, 8, 1)))
    assert ((dry > 0) & (wet == 0)).any()


# Labels


def labelled(sites: list[Site], folder: Path, *, role: str = "label", status: str = "exported") -> list[dict]:
    """What the annotators left of ``sites``, all of which were exported."""
    aoi = gpd.GeoDataFrame(
        [
            {
                "site_id": site.site_id,
                "river": site.river,
                "district": site.district,
                "role": role,
                "longitude": site.longitude,
                "latitude": site.latitude,
                "months": ";".join(map(str, site.months)),
                "utm_crs": site.grid.crs,
                "left_m": site.grid.left,
                "top_m": site.grid.top,
                "width_px": site.grid.width,
                "height_px": site.grid.height,
                "geometry": site.aoi,
            }
            for site in sites
        ],
        crs=WGS84,
    )
    names = [f"{site.site_id}_{month}" for site in sites for month in site.months]
    manifest = pd.DataFrame({"obs_id": names, "product": "s2", "status": status})
    river = folder / "rivers.geojson"
    gpd.GeoSeries([RIVERS], crs=WGS84).to_file(river)
    return rows(aoi, river, manifest, SYNTHETIC, ANNOTATIONS)


@pytest.fixture(scope="module")
def region() -> list[Site]:
    """Sites enough for every kind of slip, one of them untouched."""
    return [make_site(name) for name in ("Bend", "Reach", "Ford", "Weir", "Pool")]


@pytest.fixture(scope="module")
def export(region: list[Site], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return labelled(region, tmp_path_factory.mktemp("export"))


def label_of(row: dict) -> dict:
    (project,) = row["projects"].values()
    (label,) = project["labels"]
    return label


def polygons_of(row: dict) -> list[shapely.Polygon]:
    return [shape(drawn["geojson"]) for drawn in label_of(row)["annotations"]["objects"]]


def keys(value: object, path: str = "") -> set[str]:
    """All key paths of nested dicts and lists; project ids count as one name."""
    if isinstance(value, list):
        return set().union(*(keys(item, path) for item in value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, item in value.items():
        here = f"{path}.{'*' if path == '.projects' else key}"
        found |= {here} | keys(item, here)
    return found


def test_a_row_has_every_key_of_a_labelbox_export(export: list[dict]) -> None:
    # Source: Labelbox documentation, export specification of a data row with its label and project details.
    details = ["dataset_id", "dataset_name", "created_at", "updated_at", "last_activity_at", "created_by"]
    label = ".projects.*.labels"
    drawn = f"{label}.annotations.objects"
    expected = {
        *(f".data_row.{key}" for key in ("id", "global_key", "external_id", "row_data", "details")),
        *(f".data_row.details.{key}" for key in details),
        *(".media_attributes.asset_type", ".attachments", ".metadata_fields", ".embeddings", ".projects.*.name"),
        *(f"{label}.{key}" for key in ("label_kind", "version", "id", "label_details", "performance_details")),
        *(f"{label}.label_details.{key}" for key in ("created_at", "updated_at", "created_by", "reviews")),
        f"{label}.label_details.content_last_updated_at",
        *(f"{label}.label_details.reviews.{key}" for key in ("reviewed_at", "reviewed_by", "review_score", "score")),
        *(f"{label}.performance_details.{key}" for key in ("seconds_to_create", "seconds_to_review", "skipped")),
        f"{label}.performance_details.benchmark_reference_label",
        *(f"{label}.annotations.{key}" for key in ("objects", "classifications", "relationships")),
        *(f"{drawn}.{key}" for key in ("feature_id", "feature_schema_id", "name", "value", "annotation_kind")),
        *(f"{drawn}.{key}" for key in ("classifications", "geojson", "geojson.type", "geojson.coordinates")),
        *(f"{drawn}.classifications.{key}" for key in ("feature_id", "feature_schema_id", "name", "value")),
        *(f"{drawn}.classifications.radio_answer.{key}" for key in ("feature_id", "name", "value", "classifications")),
        *(f".projects.*.project_details.{key}" for key in ("ontology_id", "task_id", "task_name", "batch_id")),
        *(f".projects.*.project_details.{key}" for key in ("batch_name", "workflow_status", "priority")),
        *(f".projects.*.project_details.{key}" for key in ("selected_label_id", "consensus_expected_label_count")),
        *(f".projects.*.project_details.workflow_history.{key}" for key in ("action", "created_at", "created_by")),
    }
    row = next(row for row in export if label_of(row)["annotations"]["objects"])
    assert expected <= keys(row)
    assert row["media_attributes"] == {"asset_type": "tms_geo"}


def test_rows_are_what_our_parser_of_labelbox_exports_reads(export: list[dict]) -> None:
    for row in export:
        parsed = labelbox_export.parse(json.dumps(row).encode(), ANNOTATIONS)
        assert parsed.names == (row["data_row"]["external_id"],)
        (label,) = parsed.labels
        assert len(label.drawn) == len(label_of(row)["annotations"]["objects"])
        assert label.mines is not None
        assert label.created_by is not None
        assert label.created_by.endswith("@example.org")


def test_identifiers_are_unique_and_shaped_as_labelbox_makes_them(export: list[dict]) -> None:
    features = [drawn["feature_id"] for row in export for drawn in label_of(row)["annotations"]["objects"]]
    ids = [*features, *(row["data_row"]["id"] for row in export), *(label_of(row)["id"] for row in export)]
    assert len(set(ids)) == len(ids)
    assert all(len(name) == 25 and name.startswith("cl") and name.isalnum() and name.islower() for name in ids)


def test_each_observation_that_was_exported_has_one_row(export: list[dict], region: list[Site], tmp_path: Path) -> None:
    names = [row["data_row"]["global_key"] for row in export]
    assert names == sorted(f"{site.site_id}_{month}" for site in region for month in site.months)
    assert labelled(region[:1], tmp_path, role="infer") == []
    assert labelled(region[:1], tmp_path, status="skipped") == []
    assert len(labelled(region[:1], tmp_path, role="both")) == 2


def test_polygons_follow_the_mines(export: list[dict], region: list[Site]) -> None:
    found, there, both = 0, 0, 0
    for row in export:
        name, month = row["data_row"]["global_key"].rsplit("_", 1)
        site = next(site for site in region if site.site_id == name)
        mines = truth(site, date.fromisoformat(month), RIVERS, SYNTHETIC)[0] > 0
        drawn = [reproject(polygon, WGS84, CRS) for polygon in polygons_of(row) if polygon.is_valid]
        frame = shapely.box(*site.grid.bounds)
        assert all(polygon.within(frame) for polygon in drawn)
        burnt = (
            rasterize(drawn, out_shape=site.grid.shape, transform=site.grid.transform, all_touched=True) > 0
            if drawn
            else np.zeros(site.grid.shape, dtype=bool)
        )
        found, there, both = found + burnt.sum(), there + mines.sum(), both + (burnt & mines).sum()
    assert there > 3_000
    assert both / (found + there - both) > 0.8
    assert found / there == pytest.approx(1.0, abs=0.1)


def test_doubt_is_low_confidence(export: list[dict], region: list[Site]) -> None:
    answers = {
        drawn["classifications"][0]["radio_answer"]["name"]
        for row in export
        for drawn in label_of(row)["annotations"]["objects"]
        if drawn["classifications"]
    }
    assert answers == {"Low", "High"}
    for row in export:
        name, month = row["data_row"]["global_key"].rsplit("_", 1)
        site = next(site for site in region if site.site_id == name)
        numbers, mines = truth(site, date.fromisoformat(month), RIVERS, SYNTHETIC)
        faint = np.isin(numbers, [mine.number for mine in mines if mine.faint])
        for drawn in label_of(row)["annotations"]["objects"]:
            polygon = shape(drawn["geojson"])
            if not polygon.is_valid or not drawn["classifications"]:
                continue
            inside = rasterize(
                [reproject(polygon, WGS84, CRS)], out_shape=site.grid.shape, transform=site.grid.transform
            )
            if faint[inside > 0].mean() > 0.5:
                assert drawn["classifications"][0]["radio_answer"]["name"] == "Low"


def test_there_are_negatives_and_every_kind_of_slip(export: list[dict]) -> None:
    def activity(row: dict) -> str:
        (answer,) = label_of(row)["annotations"]["classifications"]
        return answer["radio_answer"]["name"]

    def status(row: dict) -> str:
        (project,) = row["projects"].values()
        return project["project_details"]["workflow_status"]

    quiet = [row for row in export if not polygons_of(row)]
    drawn = [drawn for row in export for drawn in label_of(row)["annotations"]["objects"]]
    assert [status(row) for row in export].count("IN_REVIEW") == 1
    assert sum(not shape(one["geojson"]).is_valid for one in drawn) == 1
    assert sum(not one["classifications"] for one in drawn) == 1
    assert [activity(row) for row in quiet].count("Yes") == 1
    assert [activity(row) for row in quiet].count("No") >= 1
    assert all(activity(row) == "Yes" for row in export if polygons_of(row))


# The region in git


def test_the_sample_region_lies_in_the_open_ocean_in_groups_far_apart() -> None:
    sites = pd.read_csv(ROOT / "data/regions/sample/sites.csv")
    assert sites["site_id"].is_unique
    assert sites["latitude"].between(-28.5, -19.5).all()
    assert sites["longitude"].between(-24.5, -11.5).all()
    assert set(sites["role"]) == {"label", "infer", "both"}
    assert ((sites["river"] == "Ondara") & (sites["role"] == "label")).sum() >= 3
    rivers = gpd.read_file(ROOT / "data/regions/sample/rivers.geojson")
    assert set(rivers["river"]) == set(sites["river"])
    for river, here in sites.groupby("river"):
        line = rivers.loc[rivers["river"] == river, "geometry"].item()
        assert shapely.distance(shapely.points(here["longitude"], here["latitude"]), line).max() < 0.01
        others = rivers.loc[rivers["river"] != river, "geometry"]
        # A degree of longitude is 98 km at 28 S, the shortest degree here.
        assert min(shapely.distance(line, other) for other in others) > 0.6
