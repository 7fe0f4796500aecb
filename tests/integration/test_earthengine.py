"""Earth Engine end to end: the real client and a server that computes, over loopback, with every fault once."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import ee
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import shapely
import yaml
from affine import Affine
from rasterio.features import geometry_mask
from shapely.geometry import LineString, box, mapping

from sandwatch import export, gcs, params, raster, schemas
from sandwatch.aoi import Site as RiverSite
from sandwatch.errors import InputError
from sandwatch.grid import Grid
from sandwatch.imagery import Composite, Raster, Site, Unfetched, earthengine
from sandwatch.imagery import params as sections
from sandwatch.imagery.earthengine.water import write_rivers
from sandwatch.imagery.params import Imagery, Synthetic
from sandwatch.work import Work

from ..servers.earthengine import EarthEngine, serve_earthengine
from ..servers.ee_scenes import BANDS, Catalogue, Layer, StoredImage, add_month
from ..servers.gcs import Gcs, serve_gcs
from .conftest import Workspace, matrix

CRS = "EPSG:32644"
LEFT, TOP, SIDE_M = 499_980, 2_300_040, 6_000
MAY, JUNE, JULY = date(2022, 5, 1), date(2022, 6, 1), date(2022, 7, 1)
BUCKET = "sandbar"
SETTINGS: dict[str, Any] = {
    "s2_level": "L2A",
    "cloud_mask": "cloud_score_plus",
    "clear_threshold": 0.6,
    "max_cloudy_percent": 20.0,
    "s1_orbit": "both",
    "transfer": "compute_pixels",
    "bucket": BUCKET,
}
FEW = params.Bands(s2=("B2", "B5"), s1=("VH",))


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """May: three Sentinel-2 images, two of Sentinel-1. June: one, two. July: three that reach half as far."""
    made = Catalogue()
    tile = {"crs": CRS, "left": LEFT, "top": TOP, "side_m": SIDE_M, "year": 2022}
    add_month(made, **tile, month=5)  # type: ignore[arg-type]
    add_month(made, **tile, month=6, s2_days=(9,), s1_days=(2, 26))  # type: ignore[arg-type]
    add_month(made, **{**tile, "side_m": 1_500}, month=7)  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="session")
def bucket() -> Iterator[Gcs]:
    with serve_gcs(BUCKET) as server:
        yield server


@pytest.fixture
def server(catalogue: Catalogue, bucket: Gcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[EarthEngine]:
    for blob in bucket.client().list_blobs(BUCKET):
        blob.delete()
    bucket.faults.pending.clear()
    gcs._client.cache_clear()
    ee.Reset()
    with serve_earthengine(catalogue, storage_client=bucket.client()) as running:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SANDWATCH_EARTHENGINE_URL", running.url)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", running.project)
        monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0.0005")
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        yield running


def site(name: str = "Sone_Rewa", months: tuple[date, ...] = (MAY,), *, width: int = 90, height: int = 50) -> Site:
    """A site whose AOI is the middle of its grid."""
    grid = Grid(crs=CRS, left=LEFT + 910.0, top=TOP - 730.0, width=width, height=height)
    left, bottom, right, top = grid.bounds
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform
    aoi = shapely.transform(box(left + 200, bottom + 100, right - 100, top - 100), to_degrees, interleaved=False)
    return Site(
        site_id=name,
        river="Sone",
        district="Rewa",
        longitude=81.0,
        latitude=20.8,
        months=months,
        grid=grid,
        aoi=aoi,
    )


def fetch(
    work: Path, *sites: Site, bands: params.Bands = FEW, min_coverage: float = 0.3, **settings: Any
) -> earthengine.Fetched:
    made = params.check(sections.EarthEngine, {**SETTINGS, **settings})
    return earthengine.fetch(sites or (site(),), bands, made, min_coverage=min_coverage, work=work)


def pixels(raster: Raster | Unfetched | None) -> npt.NDArray[Any]:
    assert isinstance(raster, Raster)
    return raster.pixels


def same(one: Composite, other: Composite) -> bool:
    return all(
        np.array_equal(pixels(a), pixels(b), equal_nan=True) for a, b in ((one.s2, other.s2), (one.s1, other.s1))
    )


def cut_out(layer: Layer, grid: Grid) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The stored pixels under a grid, each repeated over the 10 m pixels that it covers, without the server's help."""
    times = int(layer.resolution // 10)
    row, col = int((layer.top - grid.top) // 10), int((grid.left - layer.left) // 10)
    big = np.ones((times, times), int)
    rows, cols = slice(row, row + grid.height), slice(col, col + grid.width)
    return np.kron(layer.values, big)[rows, cols], np.kron(layer.valid, big)[rows, cols].astype(bool)


# What comes out is what the server holds


@pytest.mark.parametrize("transfer", ["compute_pixels", "batch"])
def test_a_single_scene_comes_out_pixel_for_pixel(
    server: EarthEngine, catalogue: Catalogue, tmp_path: Path, transfer: str
) -> None:
    bands = params.Bands(s2=params.S2_L2A_BANDS, s1=())
    place = site(months=(JUNE,))
    composite = fetch(
        tmp_path, place, bands=bands, transfer=transfer, cloud_mask="scene_filter", max_cloudy_percent=90.0
    )(place, JUNE)
    (image,) = [one for one in catalogue.collections["COPERNICUS/S2_SR_HARMONIZED"] if one.time.month == 6]
    for number, band in enumerate(bands.s2):
        held, valid = cut_out(image.layers[band], place.grid)
        assert valid.all()
        assert np.array_equal(pixels(composite.s2)[number], np.maximum(held, 1)), band
    assert pixels(composite.s2).dtype == np.uint16
    assert composite.s1 is None
    assert isinstance(composite.s2, Raster)
    assert [one.id for one in composite.s2.source_images] == [f"COPERNICUS/S2_SR_HARMONIZED/{image.index}"]
    assert [(one.date, one.processing_baseline) for one in composite.s2.source_images] == [("2022-06-09", "03.00")]


@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_medians_of_clear_pixels_equal_numpys(
    server: EarthEngine, catalogue: Catalogue, tmp_path: Path, level: str
) -> None:
    names = BANDS if level == "L1C" else params.S2_L2A_BANDS
    bands, place = params.Bands(s2=names, s1=()), site()  # type: ignore[arg-type]
    got = pixels(fetch(tmp_path, place, bands=bands, s2_level=level)(place, MAY).s2)
    collection = {"L2A": "COPERNICUS/S2_SR_HARMONIZED", "L1C": "COPERNICUS/S2_HARMONIZED"}[level]
    images = [one for one in catalogue.collections[collection] if one.time.month == 5]
    scores = {one.index: one for one in catalogue.collections["GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"]}
    gaps = 0
    for number, band in enumerate(names):
        stack = []
        for image in images:
            held, valid = cut_out(image.layers[band], place.grid)
            score, _ = cut_out(scores[image.index].layers["cs"], place.grid)
            stack.append(np.where(valid & (score >= 0.6), held, np.nan))
        seen = ~np.isnan(stack).all(axis=0)
        median = np.nanmedian(np.where(seen, stack, 0), axis=0)
        expected = np.where(seen, np.maximum(np.floor(median + 0.5), 1), 0)
        assert np.array_equal(got[number], expected), band
        gaps += (~seen).sum()
    assert gaps > 0


@pytest.mark.parametrize(("orbit", "passes"), [("both", 2), ("ascending", 1), ("descending", 1)])
def test_backscatter_is_averaged_in_linear_power(
    server: EarthEngine, catalogue: Catalogue, tmp_path: Path, orbit: str, passes: int
) -> None:
    bands, place = params.Bands(s2=("B2",), s1=("VV", "VH")), site()
    raster = fetch(tmp_path, place, bands=bands, s1_orbit=orbit)(place, MAY).s1
    images = [
        one
        for one in catalogue.collections["COPERNICUS/S1_GRD_FLOAT"]
        if one.time.month == 5 and orbit in ("both", one.properties["orbitProperties_pass"].lower())
    ]
    assert isinstance(raster, Raster)
    assert len(raster.source_images) == len(images) == passes
    for number, band in enumerate(bands.s1):
        power = np.mean([cut_out(one.layers[band], place.grid)[0].astype(float) for one in images], axis=0)
        expected = np.round(10 * np.log10(power.astype(np.float32).astype(float)), 2).astype(np.float32)
        assert np.array_equal(raster.pixels[number], expected)
    assert raster.pixels.dtype == np.float32


def test_pixels_without_power_are_nan(server: EarthEngine, tmp_path: Path) -> None:
    place = site()
    north = Site(**{**vars(place), "grid": Grid(crs=CRS, left=LEFT + 910.0, top=float(TOP), width=30, height=130)})
    vh = pixels(fetch(tmp_path, north, min_coverage=0.0)(north, MAY).s1)
    assert np.isnan(vh[:, :2]).all()
    assert np.isfinite(vh[:, 2:]).all()


def test_tiles_and_shards_are_put_together(server: EarthEngine, tmp_path: Path) -> None:
    place = site(width=500, height=520)
    tiled = fetch(tmp_path / "tiles", place)(place, MAY)
    assert server.requests.count("image:computePixels") == 2 * 2
    server.shard_px = 256
    sharded = fetch(tmp_path / "shards", place, transfer="batch")(place, MAY)
    assert same(tiled, sharded)


def test_auto_takes_the_bucket_for_what_is_large(server: EarthEngine, tmp_path: Path) -> None:
    fetch(tmp_path, transfer="auto")
    assert "image:export" not in server.requests
    fetch(tmp_path, site("Large", width=10, height=8300), transfer="auto", min_coverage=0.0)
    assert len(server.started()) == 2
    fetch(tmp_path / "other", site("Large", width=10, height=8300), transfer="auto", bucket=None, min_coverage=0.0)
    assert len(server.started()) == 2


def test_a_source_goes_to_worker_processes(server: EarthEngine, tmp_path: Path) -> None:
    source = fetch(tmp_path)
    server.requests.clear()
    assert same(pickle.loads(pickle.dumps(source))(site(), MAY), source(site(), MAY))
    assert server.requests == []


# What is asked, and what is left out


def test_one_call_a_site_tells_what_there_is(server: EarthEngine, tmp_path: Path) -> None:
    months = (MAY, JUNE, JULY, date(2023, 1, 1))
    places = [site("Sone_Rewa", months), site("Ken_Banda", months)]
    fetch(tmp_path, *places)
    assert server.requests.count("value:compute") == len(places)


def test_what_covers_too_little_is_not_fetched_and_the_figure_is_told(server: EarthEngine, tmp_path: Path) -> None:
    place = site(months=(MAY, JULY), width=200, height=50)
    source = fetch(tmp_path, place, min_coverage=0.55)
    sparse = source(place, JULY)
    assert isinstance(sparse.s2, Unfetched)
    assert 0.1 < sparse.s2.valid_fraction < 0.55
    assert len(sparse.s2.source_images) == 3
    assert isinstance(sparse.s1, Unfetched)
    left, _, right, _ = place.grid.bounds
    held = (LEFT + 1_500 - (left + 200)) / (right - 100 - (left + 200))
    assert sparse.s1.valid_fraction == pytest.approx(held, abs=0.02)
    assert isinstance(source(place, MAY).s2, Raster)
    assert server.requests.count("image:computePixels") == 2


def test_a_month_without_images_is_empty(server: EarthEngine, tmp_path: Path) -> None:
    place = site(months=(MAY, date(2023, 1, 1)))
    assert fetch(tmp_path, place)(place, date(2023, 1, 1)) == Composite(s2=None, s1=None)


def test_the_manifest_tells_of_both(server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = site(months=(MAY, JULY), width=200, height=50)
    imagery = Imagery(source="earthengine", min_coverage=0.55)
    bands = params.Bands(s2=("B2", "B3", "B4"), s1=("VV", "VH"))
    ask = export.source(
        imagery,
        bands=bands,
        synthetic=Synthetic(seed=0, cloud_fraction=0.0, annotator_error_m=0.0),
        earthengine=params.check(sections.EarthEngine, SETTINGS),
        places=[place],
        river_file=tmp_path,
        inputs=tmp_path,
    )
    table = export.export(
        [place], ask, folder=tmp_path / "scenes", bands=bands, imagery=imagery, work=Work(tmp_path / "work", ""),
        workers=1, progress=lambda _: None,
    )  # fmt: skip
    schemas.Scenes.write(table, tmp_path / "scenes.parquet")
    rows = schemas.Scenes.read(tmp_path / "scenes.parquet").set_index(["date", "product"])
    assert set(rows.loc["2022-05-01", "status"]) == {"exported"}
    assert set(rows.loc["2022-07-01", "status"]) == {"skipped"}
    assert "s2 covers 0." in rows.loc[("2022-07-01", "s2"), "detail"]
    assert 0.1 < rows.loc[("2022-07-01", "s2"), "valid_fraction"] < 0.55
    assert len(json.loads(rows.loc[("2022-07-01", "s2"), "source_images"])) == 3
    assert sorted(path.name for path in (tmp_path / "scenes").rglob("*.tif")) == ["rgb.tif", "s1.tif", "s2.tif"]
    held = raster.read(tmp_path / "scenes" / "Sone_Rewa_2022-05-01" / "s2.tif", bands=bands.s2, grid=place.grid)
    assert np.array_equal(held, pixels(ask(place, MAY).s2))


# Faults


@pytest.fixture(scope="session")
def reference(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Composite:
    with pytest.MonkeyPatch.context() as patch, serve_earthengine(catalogue) as running:
        patch.setenv("SANDWATCH_EARTHENGINE_URL", running.url)
        patch.setenv("GOOGLE_CLOUD_PROJECT", running.project)
        patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        return fetch(tmp_path_factory.mktemp("reference"))(site(), MAY)


def left_over(folder: Path) -> list[str]:
    """Whatever lies in a work area besides finished files."""
    return [path.name for path in folder.rglob("*") if path.suffix != ".npy" or path.name.startswith(".")]


PLACES = ["discovery", "algorithms", "value:compute", "image:computePixels"]
BATCH_PLACES = ["operations.list", "image:export", "operations.get"]
GCS_PLACES = ["GET /storage/v1/b/sandbar/o", "GET /download/*"]
FAULTS = [("status", 429), ("status", 500), ("status", 503), ("cut", 0), ("lost", 0)]


@pytest.mark.parametrize(("place", "kind", "status"), matrix([*PLACES, *BATCH_PLACES], *FAULTS))
def test_a_passing_fault_of_earth_engine_changes_nothing(
    server: EarthEngine, tmp_path: Path, reference: Composite, place: str, kind: Any, status: int
) -> None:
    server.faults.add(place, kind, status=status)
    transfer = "batch" if place in BATCH_PLACES else "compute_pixels"
    composite = fetch(tmp_path, transfer=transfer)(site(), MAY)
    assert server.faults.struck == [(place, kind)]
    assert same(composite, reference)
    assert len(set(server.started())) == len(server.started()) == (2 if transfer == "batch" else 0)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("place", "kind", "status"), matrix(GCS_PLACES, *FAULTS))
def test_a_passing_fault_of_the_bucket_changes_nothing(
    server: EarthEngine, bucket: Gcs, tmp_path: Path, reference: Composite, place: str, kind: Any, status: int
) -> None:
    bucket.faults.add(place, kind, status=status)
    assert same(fetch(tmp_path, transfer="batch")(site(), MAY), reference)
    assert bucket.faults.pending == []
    assert len(server.started()) == 2
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("kind", "started"), [("fail", 3), ("cut", 3), ("slow", 2)])
def test_a_task_that_fails_or_writes_half_a_file_is_started_again(
    server: EarthEngine, tmp_path: Path, reference: Composite, kind: Any, started: int
) -> None:
    server.faults.add("task", kind, message="Internal error.")
    assert same(fetch(tmp_path, transfer="batch")(site(), MAY), reference)
    assert len(server.started()) == started
    assert left_over(tmp_path) == []


def test_a_task_that_fails_for_good_is_one_line_with_what_earth_engine_says(
    server: EarthEngine, tmp_path: Path, reference: Composite
) -> None:
    server.faults.add("task", "fail", times=2, message="Export failed: User memory limit exceeded.")
    with pytest.raises(
        InputError,
        match=r"export of Sone_Rewa_2022-05-01_s2: got Export failed: User memory .*\(2 of 2 exports failed\)",
    ):
        fetch(tmp_path, transfer="batch")
    assert len(server.started()) == 2
    assert left_over(tmp_path) == []
    assert same(fetch(tmp_path, transfer="batch")(site(), MAY), reference)


def test_one_failed_task_does_not_lose_the_others(server: EarthEngine, tmp_path: Path) -> None:
    server.faults.add("task", "fail", message="You have exceeded your quota.")
    with pytest.raises(InputError, match=r"got You have exceeded your quota. \(1 of 2 exports failed\)"):
        fetch(tmp_path, transfer="batch")
    assert len(list(tmp_path.glob("*.npy"))) == 1
    fetch(tmp_path, transfer="batch")
    assert len(server.started()) == 3


def test_a_task_that_hangs_is_one_line_and_found_again(
    server: EarthEngine, tmp_path: Path, reference: Composite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0.0001")
    server.faults.add("task", "hang")
    with pytest.raises(InputError, match=r"got no task that ended for 12 hours, 1 still to come"):
        fetch(tmp_path, transfer="batch")
    assert len(list(tmp_path.glob("*.npy"))) == 1
    (hanging,) = [name for name, one in server.operations.items() if not one.get("done")]
    ee.data.cancelOperation(hanging)
    assert same(fetch(tmp_path, transfer="batch")(site(), MAY), reference)
    assert len(server.started()) == 3


def test_tasks_of_a_run_that_was_cut_short_are_found_again(
    server: EarthEngine, tmp_path: Path, reference: Composite
) -> None:
    server.task_s, server.page_size = 0.3, 1
    server.faults.add("operations.get", "status", status=403, message="stop here")
    with pytest.raises(InputError, match="stop here"):
        fetch(tmp_path, transfer="batch")
    assert len(server.started()) == 2
    assert same(fetch(tmp_path, transfer="batch")(site(), MAY), reference)
    assert len(server.started()) == 2


def test_what_lies_in_the_bucket_is_not_computed_again(
    server: EarthEngine, tmp_path: Path, reference: Composite
) -> None:
    fetch(tmp_path / "here", transfer="batch")
    server.operations.clear()  # the service forgets tasks after some days
    assert same(fetch(tmp_path / "elsewhere", transfer="batch")(site(), MAY), reference)
    assert server.started() == []


def test_what_is_here_is_not_fetched_again(server: EarthEngine, tmp_path: Path) -> None:
    fetch(tmp_path)
    server.requests.clear()
    fetch(tmp_path)
    assert "image:computePixels" not in server.requests
    fetch(tmp_path, clear_threshold=0.7)
    assert server.requests.count("image:computePixels") == 1


# Refusals, a line each


@pytest.mark.parametrize(
    ("place", "status", "message", "line"),
    [
        (
            "value:compute",
            429,
            "Quota exceeded for quota metric 'EECU'.",
            r"survey of Sone_Rewa: got .Quota exceeded.*, 8 times",
        ),
        (
            "image:computePixels",
            429,
            "Too Many Requests",
            r"pixels of Sone_Rewa_2022-05-01_s\d: .*expected room in the project",
        ),
        ("algorithms", 403, "Caller does not have required permission to use project.", "start: got no permission"),
        ("algorithms", 403, "Earth Engine API has not been used in project 12 before.", "not set up for Earth Engine"),
        (
            "algorithms",
            403,
            "Project 'x' is not registered to use Earth Engine.",
            "code.earthengine.google.com/register",
        ),
        ("image:computePixels", 400, "User memory limit exceeded.", "set earthengine.transfer to batch"),
        ("value:compute", 503, "Unavailable.", "got 'Unavailable.', 8 times over; expected a result; run again later"),
        ("value:compute", 400, "Collection.filter: odd.", "got 'Collection.filter: odd.'; expected a result"),
    ],
)
def test_a_refusal_is_one_line_and_the_next_run_completes(
    server: EarthEngine, tmp_path: Path, reference: Composite, place: str, status: int, message: str, line: str
) -> None:
    server.faults.add(place, "status", times=16, status=status, message=message)
    with pytest.raises(InputError, match=line):
        fetch(tmp_path)
    assert left_over(tmp_path) == []
    server.faults.pending.clear()
    assert same(fetch(tmp_path)(site(), MAY), reference)


def test_an_unknown_project_is_one_line(server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "sand-of-nowhere")
    with pytest.raises(InputError, match="got unknown project sand-of-nowhere"):
        fetch(tmp_path)


def test_no_project_is_one_line(server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    with pytest.raises(InputError, match="GOOGLE_CLOUD_PROJECT: got nothing"):
        fetch(tmp_path)


def test_no_answer_is_one_line(server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDWATCH_EARTHENGINE_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"start: got no answer \(ConnectionError\), 8 times over"):
        fetch(tmp_path)


def test_no_image_anywhere_is_one_line(server: EarthEngine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not one Sentinel-2 image of 1 sites from 2031-05-01 to 2031-05-01"):
        fetch(tmp_path, site(months=(date(2031, 5, 1),)))


def test_an_unknown_bucket_is_one_line(server: EarthEngine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gs://nowhere/sandwatch/.*: got nothing there"):
        fetch(tmp_path, transfer="batch", bucket="nowhere")
    assert server.started() == []


def test_bands_of_the_other_level_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bands\.s2: got B10; expected bands of Sentinel-2 L2A"):
        fetch(tmp_path, bands=params.Bands(s2=("B2", "B10"), s1=()))


def test_batch_without_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transfer is batch, which needs the name of a bucket"):
        fetch(tmp_path, transfer="batch", bucket=None)


# Rivers


@pytest.fixture
def water(catalogue: Catalogue) -> Iterator[npt.NDArray[np.bool_]]:
    """A bent river, asymmetric, and a pond, as JRC holds them: bool (y, x), a pixel 30 m, from LEFT and TOP."""
    wet = np.zeros((200, 200), bool)
    for row in range(200):
        wet[row, 60 + row // 5 : 66 + row // 5] = True
    wet[20:24, 120:124] = True
    layer = Layer(wet.astype(np.uint8), wet, CRS, LEFT, TOP, 30)
    stored = StoredImage("", {"max_extent": layer}, {}, datetime(2021, 12, 31, tzinfo=UTC), box(80, 20, 82, 22))
    catalogue.collections["JRC/GSW1_4/GlobalSurfaceWater"] = [stored]
    yield wet
    del catalogue.collections["JRC/GSW1_4/GlobalSurfaceWater"]


def on_the_river(x: float, y: float, name: str = "Sone_Rewa") -> RiverSite:
    longitude, latitude = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    return RiverSite(
        site_id=name, river="Sone", district="", longitude=longitude, latitude=latitude, months=(MAY,), role="label"
    )


def test_water_becomes_a_river_file(server: EarthEngine, water: npt.NDArray[np.bool_], tmp_path: Path) -> None:
    path = tmp_path / "jrc_gsw.geojson"
    place = on_the_river(LEFT + 2_700, TOP - 1_500)
    assert write_rivers(path, [place], extent_m=1_800.0, min_area_m2=50_000.0) == 1
    table = gpd.read_file(path)
    assert table.crs == "EPSG:4326"
    assert table.is_valid.all()
    assert list(table["site_id"]) == ["Sone_Rewa"]
    (river,) = table.to_crs(CRS).geometry
    left, bottom, right, top = (round(bound) for bound in river.bounds)
    first, last = (TOP - top) // 30, (TOP - bottom) // 30
    assert (right - left, top - bottom) != (0, 0)
    assert (last - first) * 30 >= 1_800
    drawn = geometry_mask([river], wet_shape := water.shape, Affine(30, 0, LEFT, 0, -30, TOP), invert=True)
    held = water.copy()
    held[:first], held[last:], held[:, :50] = False, False, False
    held[20:24, 120:124] = False
    assert drawn.shape == wet_shape
    assert np.array_equal(drawn, held)
    before = path.read_bytes()
    path.unlink()
    write_rivers(path, [place], extent_m=1_800.0, min_area_m2=50_000.0)
    assert path.read_bytes() == before


def test_a_site_without_water_is_named(server: EarthEngine, water: npt.NDArray[np.bool_], tmp_path: Path) -> None:
    wet, dry = on_the_river(LEFT + 2_700, TOP - 1_500), on_the_river(LEFT + 5_000, TOP - 5_000, "Dry_Place")
    with pytest.raises(InputError, match="sites Dry_Place: got no water of 50000 m2 within their extent of 1800 m"):
        write_rivers(tmp_path / "rivers.geojson", [wet, dry], extent_m=1_800.0, min_area_m2=50_000.0)
    assert list(tmp_path.iterdir()) == []


def test_a_river_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "rivers.geojson").write_text("mine")
    with pytest.raises(InputError, match=r"rivers.geojson: got a file; expected none yet"):
        write_rivers(tmp_path / "rivers.geojson", [], extent_m=1.0, min_area_m2=1.0)


# Who asks


def test_a_service_account_is_let_in(
    server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Composite
) -> None:
    server.token = "recognisable-secret-token"
    with pytest.raises(InputError, match=r"start: got no permission \(Anonymous credentials cannot be refreshed"):
        fetch(tmp_path / "work")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.write_key(tmp_path / "key.json")))
    server.faults.add("token", "status", status=503)
    source = fetch(tmp_path / "work")
    assert "token" in server.requests
    assert same(source(site(), MAY), reference)
    assert b"recognisable" not in pickle.dumps(source)
    for path in (tmp_path / "work").rglob("*"):
        assert "recognisable" not in path.name
        assert b"recognisable" not in path.read_bytes()


def test_a_missing_key_is_one_line(server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"Earth Engine: got no credentials in .*none.json"):
        fetch(tmp_path)


# The stage under the real dvc: stopped, resumed, by either way the same


@pytest.fixture
def real(fresh: Workspace, tmp_path: Path) -> Workspace:
    """A clone whose region has two sites on one river, and a month that no image covers well."""
    root = tmp_path / "clone"
    shutil.copytree(fresh.root, root)
    region = root / "data" / "regions" / "loopback"
    for folder in ("imagery", "annotations"):
        (region / folder).mkdir(parents=True)
        (region / folder / "README.md").write_text("nothing\n")
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform
    lines = ["site_id,river,district,longitude,latitude,months,role"]
    for name, river, down, months in (("A", "Sone", 900, "2022-05;2022-07"), ("B", "Ken", 4_600, "2022-05")):
        longitude, latitude = to_degrees(LEFT + 1_650, TOP - down)
        lines.append(f"{name},{river},Rewa,{longitude:.5f},{latitude:.5f},{months},label")
    (region / "sites.csv").write_text("\n".join(lines) + "\n")
    river_line = LineString([to_degrees(LEFT + 1_600 + down / 20, TOP - down) for down in (0, 3_000, 6_000)])
    feature = {"type": "Feature", "properties": {}, "geometry": mapping(river_line)}
    (region / "rivers.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    workspace = Workspace(root=root)
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["region"] = "loopback"
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    changes: dict[str, dict[str, Any]] = {
        "aoi": {"extent_m": 800, "buffer_m": 200, "simplify_tolerance_m": 0},
        "split": {"min_distance_km": 0.5, "holdout_rivers": ["Ken"]},
        "imagery": {"source": "earthengine", "min_coverage": 0.5},
        "earthengine": {"cloud_mask": "scene_filter"},
    }
    workspace.set_params(changes)
    return workspace


@pytest.mark.slow
def test_a_stopped_export_goes_on_and_either_way_gives_the_same_hashes(real: Workspace, server: EarthEngine) -> None:
    server.faults.add("image:computePixels", "status", status=403, message="Caller does not have permission.")
    printed = real.run("dvc", "repro", "export", fails=True)
    assert "error: Earth Engine, pixels of" in printed
    assert "got no permission (Caller does not have permission.)" in printed
    assert "Traceback" not in printed
    assert not (real.root / "data" / "scenes.parquet").exists()
    kept = set((real.root / ".cache" / "sandwatch" / "earthengine").iterdir())

    printed = real.run("dvc", "repro", "export")
    assert "A_2022-07-01 skipped: s2 covers" in printed
    scenes = real.lock()["export"]
    assert kept <= set((real.root / ".cache" / "sandwatch" / "earthengine").iterdir())
    assert real.run("git", "status", "--porcelain", ".cache") == ""
    server.requests.clear()
    assert "didn't change" in real.run("dvc", "repro", "export")
    assert server.requests == []

    shutil.rmtree(real.root / ".cache")
    real.set_params({"earthengine": {"transfer": "batch", "bucket": BUCKET}})
    real.run("dvc", "repro", "export")
    assert len(server.started()) == 4
    assert real.lock()["export"] == scenes


@pytest.mark.slow
def test_no_secret_of_the_run_is_left_anywhere(
    real: Workspace, server: EarthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "recognisable-secret-token"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.write_key(tmp_path / "key.json")))
    secret = json.loads(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())["private_key"].splitlines()[3]
    printed = real.run("dvc", "repro", "export")
    assert "recognisable" not in printed
    assert secret not in printed
    for path in real.root.rglob("*"):
        if path.is_file() and real.root / "tests" not in path.parents:
            content = path.read_bytes()
            assert b"recognisable-secret" not in content, path
            assert secret.encode() not in content, path


# The server checks what it is sent


@pytest.fixture
def connected(server: EarthEngine) -> EarthEngine:
    earthengine.session.start()
    return server


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (lambda: ee.Image(1).sqrt().getInfo(), "Algorithm 'Image.sqrt' is not offered"),
        (lambda: ee.ImageCollection("NONE/SUCH").size().getInfo(), "ImageCollection asset 'NONE/SUCH' not found"),
        (lambda: ee.Number(1).getInfo() and ee.Image(1).getInfo(), "can't answer with a Image"),
    ],
)
def test_the_server_refuses_what_it_does_not_offer(connected: EarthEngine, expression: Any, message: str) -> None:
    with pytest.raises(ee.EEException, match=message):
        expression()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"functionName": "Image.nonsense", "arguments": {}}, "Unknown algorithm"),
        ({"functionName": "Collection.size", "arguments": {}}, "Parameter 'collection' is required"),
        (
            {"functionName": "Collection.size", "arguments": {"collection": {"constantValue": 3}}},
            "Invalid type. Expected FeatureCollection, got int",
        ),
        (
            {"functionName": "Collection.size", "arguments": {"odd": {"constantValue": 3}}},
            "Unrecognized argument 'odd'",
        ),
    ],
)
def test_the_server_checks_signatures(connected: EarthEngine, node: dict[str, Any], message: str) -> None:
    body = {"expression": {"result": "0", "values": {"0": {"functionInvocationValue": node}}}}
    with pytest.raises(ee.EEException, match=message):
        ee.data._execute_cloud_call(
            ee.data._get_cloud_projects().value().compute(project=f"projects/{connected.project}", body=body)
        )


def test_the_server_keeps_the_limits_of_a_request(connected: EarthEngine) -> None:
    grid = {
        "dimensions": {"width": 4000, "height": 4000},
        "affineTransform": dict(
            zip(
                ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY"), (10, 0, 0, 0, -10, 0), strict=True
            )
        ),
        "crsCode": CRS,
    }
    request = {"expression": ee.Image(1).toFloat(), "fileFormat": "NUMPY_NDARRAY", "grid": grid}
    with pytest.raises(ee.EEException, match=r"Total request size \(64000000 bytes\) must be less than or equal"):
        ee.data.computePixels(request)
    grid["dimensions"] = {"width": 40_000, "height": 1}
    with pytest.raises(ee.EEException, match=r"Pixel grid dimensions \(40000x1\) must be less than"):
        ee.data.computePixels(request)


def test_the_server_starts_a_request_id_once(connected: EarthEngine) -> None:
    export = ee.batch.Export.image.toCloudStorage(
        ee.Image(1).toByte(), "once", BUCKET, "once", crs=CRS, crsTransform=[10, 0, 0, 0, -10, 0], dimensions="4x4"
    )
    names = {ee.data.exportImage("the-id", export.config)["name"] for _ in range(2)}
    assert len(names) == len(connected.started()) == 1
