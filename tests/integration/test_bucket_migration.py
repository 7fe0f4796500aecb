"""The predecessor's bucket becomes a region, read in place: the same manifests and pixels as from a folder."""

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from benchmarks import real

from sandwatch import gcs, params, predecessor, raster, schemas
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, reproject
from sandwatch.grid import Grid, utm_crs
from sandwatch.imagery import Composite, Site
from sandwatch.imagery.files import Files

from ..servers.gcs import Gcs, serve_gcs
from .conftest import ROOT, Workspace, matrix

REAL = ROOT.parent / "shared" / "data" / "real_labels"
SITES = ("Bhargavi_Khordha_85-88_20-26", "Waiganga_Gondiya_80-03_21-55")
DAYS = ("2018-12-01", "2023-01-01")
KINDS = {"rgb": "rgb.tif", "annotations": "annotations_original.geojson", "rivers": "rivers.geojson"}
PLACES = ("GET /storage/v1/b/sand/o", "GET /storage/v1/b/sand/o/*", "GET /download/*")
RGB = params.Bands(s2=("B4", "B3", "B2"), s1=())

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is missing: the real observations were not compared")


@pytest.fixture(scope="module")
def storage() -> Iterator[Gcs]:
    with serve_gcs("sand") as running:
        yield running


@pytest.fixture
def bucket(storage: Gcs, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Gcs:
    """Holds both real observations in the predecessor's layout, under labels/, and a file that is none of theirs."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0")
    gcs._client.cache_clear()
    for blob in storage.client().list_blobs("sand"):
        blob.delete()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            gcs.upload(path, f"gs://sand/labels/{path.relative_to(folder).as_posix()}")
    storage.faults.pending.clear()
    storage.faults.struck.clear()
    return storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same files in the same layout on this machine."""
    top = tmp_path / "labels"
    for site, day in zip(SITES, DAYS, strict=True):
        for kind, name in KINDS.items():
            path = top / f"{site}_median" / kind / f"{site}_median_{day}_{kind}{Path(name).suffix}"
            path.parent.mkdir(parents=True)
            shutil.copyfile(REAL / f"{site}_{day}" / name, path)
    (top / "notes.txt").write_text("none of theirs")
    return top


def manifests(region: Path) -> dict[str, object]:
    """Everything in a region, scenes.csv without its paths."""
    with (region / "imagery" / "scenes.csv").open() as file:
        scenes = [{key: value for key, value in row.items() if key != "path"} for row in csv.DictReader(file)]
    others = {
        path.relative_to(region).as_posix(): path.read_bytes()
        for path in region.rglob("*")
        if path.is_file() and path.name != "scenes.csv"
    }
    return {"scenes": scenes, **others}


def paths(region: Path) -> list[str]:
    with (region / "imagery" / "scenes.csv").open() as file:
        return [row["path"] for row in csv.DictReader(file)]


def places(folder: Path) -> list[Site]:
    sites = []
    for name, day in zip(SITES, DAYS, strict=True):
        outline = raster.footprint(next(folder.glob(f"{name}_median/rgb/*.tif")))
        crs = utm_crs(outline.centroid.x, outline.centroid.y)
        grid = Grid.covering(reproject(outline, WGS84, crs).bounds, crs)
        site = Site(
            site_id=name,
            river="",
            district="",
            longitude=outline.centroid.x,
            latitude=outline.centroid.y,
            months=(date.fromisoformat(day),),
            grid=replace(grid, width=min(grid.width, 300), height=min(grid.height, 200)),
            aoi=outline,
        )
        sites.append(site)
    return sites


def composites(region: Path, sites: list[Site]) -> list[Composite]:
    source = Files.open(region / "imagery", bands=RGB, places=sites)
    return [source(site, site.months[0]) for site in sites]


def test_manifests_are_those_of_a_folder_and_pixels_are_the_same(bucket: Gcs, folder: Path, tmp_path: Path) -> None:
    ours = predecessor.write_region("gs://sand/labels", tmp_path / "cloud")
    theirs = predecessor.write_region(folder, tmp_path / "local")
    assert ours == theirs
    assert ours.left == ("notes.txt",)
    assert (ours.sites, ours.scenes, ours.annotations) == (2, 2, 2)
    assert manifests(tmp_path / "cloud") == manifests(tmp_path / "local")
    things = {thing.pinned for thing in gcs.list_objects("gs://sand/labels/")}
    assert set(paths(tmp_path / "cloud")) <= things
    sites = places(folder)
    for cloud, local in zip(composites(tmp_path / "cloud", sites), composites(tmp_path / "local", sites), strict=True):
        assert cloud.s2 is not None
        assert local.s2 is not None
        assert (cloud.s2.pixels > 0).any()
        assert np.array_equal(cloud.s2.pixels, local.s2.pixels)
        assert cloud.s2.source_images == local.s2.source_images


@pytest.mark.slow
def test_the_real_run_gives_the_same_hashes_from_the_bucket(bucket: Gcs, tmp_path: Path) -> None:
    """Of everything that `make real` trains on: chips and labels; and of the rest but for the names of the sources."""
    local, cloud = Workspace(root=tmp_path / "local"), Workspace(root=tmp_path / "cloud")
    real.prepare(REAL, None, local.root)
    real.settle(local.root, {}, "Real observations")
    shutil.copytree(local.root, cloud.root)
    shutil.rmtree(cloud.root / "data" / "regions" / "real")
    said = cloud.run("sandwatch", "migrate", "gs://sand/labels", "data/regions/real")
    assert "2 sites, 2 rasters, 2 annotation files" in said
    scenes = []
    for workspace in (local, cloud):
        workspace.run("dvc", "repro", "chips")
        scenes.append(schemas.Scenes.read(workspace.root / "data" / "scenes.parquet"))
        assert "36 drawn" in real.polygons(workspace.root)
    ours, theirs = cloud.lock(), local.lock()
    assert list(ours) == ["aoi", "export", "annotations", "chips"]
    assert ours["export"].pop("data/scenes.parquet") != theirs["export"].pop("data/scenes.parquet")
    assert ours == theirs
    assert scenes[1].drop(columns="source_images").equals(scenes[0].drop(columns="source_images"))
    assert all("_rgb.tif" in images for images in scenes[1]["source_images"])
    assert real.masks(REAL, cloud.root) == real.masks(REAL, local.root)
    assert sum(place.startswith("GET /download/") for place in bucket.requests) >= 2 * len(KINDS)


def test_a_replaced_object_is_refused_by_name(bucket: Gcs, folder: Path, tmp_path: Path) -> None:
    predecessor.write_region("gs://sand/labels/", tmp_path / "cloud")
    first, second = paths(tmp_path / "cloud")
    gcs.upload(next(folder.glob(f"{SITES[1]}_median/rgb/*.tif")), first.rpartition("#")[0])
    sites = places(folder)
    with pytest.raises(
        InputError, match=rf"{SITES[0]}.*: got generation \d+; expected generation \d+, which was pinned"
    ):
        composites(tmp_path / "cloud", sites)
    bucket.client().bucket("sand").blob(second.rpartition("#")[0].removeprefix("gs://sand/")).delete()
    with pytest.raises(InputError, match=rf"{SITES[1]}.*: got nothing there; expected generation"):
        composites(tmp_path / "cloud", sites[1:] + sites[:1])


@pytest.mark.parametrize(("place", "kind"), matrix(PLACES, "status", "cut", "lost"))
def test_a_fault_in_passing_changes_nothing(bucket: Gcs, folder: Path, tmp_path: Path, place: str, kind: str) -> None:
    bucket.faults.add(place, kind)  # type: ignore[arg-type]
    predecessor.write_region("gs://sand/labels", tmp_path / "cloud")
    assert len(bucket.faults.struck) == 1
    predecessor.write_region(folder, tmp_path / "local")
    assert manifests(tmp_path / "cloud") == manifests(tmp_path / "local")


def test_a_bucket_that_stays_away_leaves_no_region(bucket: Gcs, tmp_path: Path) -> None:
    bucket.faults.add("GET /download/*Waiganga*", "status", times=100)
    with pytest.raises(InputError, match="8 times over; expected an answer of Google Cloud Storage"):
        predecessor.write_region("gs://sand/labels", tmp_path / "cloud")
    assert not (tmp_path / "cloud").exists()
    bucket.faults.pending.clear()
    assert predecessor.write_region("gs://sand/labels", tmp_path / "cloud").scenes == 2


def test_an_empty_prefix_is_one_line(bucket: Gcs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gs://sand/lables: got no raster of an observation"):
        predecessor.write_region("gs://sand/lables", tmp_path / "cloud")
