"""What tests of several modules share: the real data beside the repository, DVC workspaces, small scenes and sites."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import yaml
from affine import Affine

from sandwatch.grid import Grid
from sandwatch.imagery import Site

from .servers.listener import Listener, listen

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CRS = "EPSG:32645"
GRID = Grid(crs=CRS, left=380_000.0, top=2_246_000.0, width=40, height=30)
"""A grid in Odisha, wider than high."""


def pytest_configure() -> None:
    """Gives the frames of pytest-xdist a module.

    Labelbox's client looks at the whole stack at each request (``lbox.call_info``). For each frame whose code no module
    has, as that which xdist sends to its workers, Python goes through all modules: seconds a test.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        import xdist.remote  # noqa: F401

        sent = ModuleType("sent_to_the_worker")
        sent.__file__ = "<string>"
        sys.modules[sent.__name__] = sent


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Gives the path of real data beside the repository; skips the test, saying so, where it is missing."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"NOT TESTED: the real data ../shared/{name} is missing")
        return path

    return find


def write_raster(
    path: Path,
    pixels: npt.NDArray[Any],
    *,
    grid: Grid = GRID,
    crs: str | None = CRS,
    transform: Affine | None = None,
    nodata: float | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Writes a plain GeoTIFF of (band, y, x), without any help of the code under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, crs=crs,
        transform=transform or grid.transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(pixels)
        if names:
            file.descriptions = tuple(names)
    return path


def reflectance(bands: int, grid: Grid = GRID, *, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Asymmetric values between 200 and 3000, so that a flip or a shift can't hide."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : grid.height, 0 : grid.width]
    ramp = 300 + 20 * x + 40 * y
    return (ramp + rng.integers(-100, 100, (bands, *grid.shape)) + 10 * np.arange(bands)[:, None, None]).astype(
        np.uint16
    )


def a_site(grid: Grid = GRID, *, site_id: str = "Bhargavi_1", months: Sequence[date] = (date(2023, 1, 1),)) -> Site:
    """A site whose AOI is a triangle that touches its grid's left, bottom and right edges."""
    left, bottom, right, top = grid.bounds
    triangle = gpd.GeoSeries([shapely.Polygon([(left, bottom), (right, bottom), (left, top)])], crs=grid.crs)
    return Site(
        site_id=site_id, river="Bhargavi", district="Khordha", longitude=85.85, latitude=20.3, months=tuple(months),
        grid=grid, aoi=triangle.to_crs("EPSG:4326").iloc[0],
    )  # fmt: skip


def write_geojson(path: Path, geometries: dict[str, shapely.Geometry], *, features: bool = True) -> Path:
    """Writes geometries by name, with or without ``"type": "Feature"``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"type": "Feature"} if features else {}
    rows = [kind | {"properties": {"name": n}, "geometry": shapely.geometry.mapping(g)} for n, g in geometries.items()]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    return path


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A port that notes who knocks; GDAL doesn't wait long for its answer."""
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "1")
    with listen() as heard:
        yield heard


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Lets this process open no more files than that, beside those that are open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Workspace:
    """A DVC repository in a folder of its own, in which one stage's script is run as DVC runs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copyfile(ROOT / name, root / name)
        (root / ".dvc").mkdir()
        (root / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")

    def set_params(self, **changes: dict[str, Any]) -> None:
        path = self.root / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for section, keys in changes.items():
            values[section].update(keys)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def run(self, stage: str, **paths: str) -> "subprocess.CompletedProcess[str]":
        options = [part for name, path in paths.items() for part in (f"--{name}", path)]
        return subprocess.run(
            [sys.executable, str(ROOT / "stages" / f"{stage}.py"), *options],
            cwd=self.root, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)
