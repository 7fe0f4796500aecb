"""Rasters: what is written is what is read, the same bytes twice, and bringing any raster onto a grid."""

import contextlib
import io
import math
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.windows import Window as RasterioWindow
from rio_cogeo import cog_validate
from scipy.ndimage import map_coordinates

from sandwatch import raster
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Grid, Window
from tests.conftest import CRS, GRID, a_site, reflectance, write_raster
from tests.servers.listener import Listener

S2_NAMES = ("B2", "B3", "B4")
ROOT = Path(__file__).parents[2]
VRT = """<VRTDataset rasterXSize="40" rasterYSize="30"><Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>/vsicurl/{url}/a.tif</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>
<UpperLeftX>-20037508</UpperLeftX><UpperLeftY>20037508</UpperLeftY><LowerRightX>20037508</LowerRightX>
<LowerRightY>-20037508</LowerRightY><TileLevel>1</TileLevel></DataWindow><Projection>EPSG:3857</Projection>
<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"""
WCS = "<WCS_GDAL><ServiceURL>{url}/wcs?</ServiceURL><CoverageName>a</CoverageName></WCS_GDAL>"
OVERVIEW = """<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/{url}/a.tif</MDI></Metadata>
<PAMRasterBand band="1"><NoDataValue>1</NoDataValue></PAMRasterBand></PAMDataset>"""


def on_grid(path: Path, grid: Grid = GRID, *, nodata: float | None = None, resampling: str = "cubic") -> np.ndarray:
    return np.array([v for _, v in raster.read_onto(path, grid, nodata=nodata, resampling=resampling)])


@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_written_is_read_again_and_the_same_bytes_twice(tmp_path: Path, dtype: str) -> None:
    grid = Grid(crs=CRS, left=380_000.0, top=2_246_000.0, width=700, height=300)
    pixels = reflectance(3, grid).astype(dtype)
    nodata = np.nan if dtype == "float32" else 0
    pixels[:, 5, 7] = nodata
    paths = [tmp_path / name / "a.tif" for name in ("one", "two")]
    for path in paths:
        raster.write_cog(path, pixels, grid, bands=S2_NAMES, nodata=nodata, tags={"made_by": "test"})
    assert sha256(paths[0]) == sha256(paths[1])
    assert [path.name for path in paths[0].parent.iterdir()] == ["a.tif"]
    assert np.array_equal(raster.read(paths[0], bands=S2_NAMES, grid=grid), pixels, equal_nan=dtype == "float32")
    assert raster.read_grid(paths[0]) == grid
    assert raster.read_tags(paths[0])["made_by"] == "test"
    with redirect_stdout(io.StringIO()), rasterio.open(paths[0]) as file:
        assert cog_validate(paths[0], strict=True)[0]
        assert file.block_shapes == [(256, 256)] * 3
        assert file.overviews(1)
        assert file.compression.value == "ZSTD"


def test_bands_come_in_the_order_asked_for_and_windows_are_cut(tmp_path: Path) -> None:
    pixels = reflectance(3)
    raster.write_cog(tmp_path / "a.tif", pixels, GRID, bands=S2_NAMES, nodata=0)
    window = Window(row=3, col=10, height=7, width=5)
    part = raster.read(tmp_path / "a.tif", bands=("B4", "B2"), window=window)
    assert np.array_equal(part, pixels[[2, 0]][(slice(None), *window.slices)])


def test_unfit_rasters_are_refused(tmp_path: Path) -> None:
    raster.write_cog(tmp_path / "a.tif", reflectance(3), GRID, bands=S2_NAMES, nodata=0)
    with pytest.raises(InputError, match=r"a.tif: got bands \['B2', 'B3', 'B4'\]; expected \['B8'\] among them"):
        raster.read(tmp_path / "a.tif", bands=("B2", "B8"))
    other = GRID.crop(Window(row=1, col=0, height=30, width=40))
    with pytest.raises(InputError, match=r"a.tif: got Grid\(.*top=2246000.0.*; expected Grid\(.*top=2245990.0"):
        raster.read(tmp_path / "a.tif", bands=("B2",), grid=other)
    (tmp_path / "b.tif").write_text("no raster")
    with pytest.raises(InputError, match=r"b.tif: got .*not recognized.*; expected a GeoTIFF"):
        raster.read(tmp_path / "b.tif", bands=("B2",))
    write_raster(tmp_path / "c.tif", reflectance(1), crs=None)
    with pytest.raises(InputError, match=r"c.tif: got CRS None.*; expected a projected CRS"):
        raster.read_grid(tmp_path / "c.tif")
    with pytest.raises(ValueError, match=r"pixels \(2, 30, 40\) on a grid \(30, 40\) with bands"):
        raster.write_cog(tmp_path / "d.tif", reflectance(2), GRID, bands=S2_NAMES, nodata=0)
    assert not (tmp_path / "d.tif").exists()


def test_inside_is_the_centre_rule() -> None:
    site = a_site()
    y, x = np.mgrid[0 : GRID.height, 0 : GRID.width]
    triangle = (x + 0.5) / GRID.width + (GRID.height - y - 0.5) / GRID.height
    safe = np.abs(triangle - 1) > 1e-3
    assert np.array_equal(raster.inside(site.aoi, GRID)[safe], (triangle < 1)[safe])
    assert 0.45 < raster.inside(site.aoi, GRID).mean() < 0.55


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 2, 6]))
def test_rasters_on_the_lattice_are_copied(
    tmp_path: Path, col: int, row: int, width: int, height: int, block: int
) -> None:
    pixels = np.arange(1, 2 * width * height + 1, dtype=np.uint16).reshape(2, height, width)
    transform = Affine(10.0 * block, 0, GRID.left + 10 * col, 0, -10.0 * block, GRID.top - 10 * row)
    found = on_grid(write_raster(tmp_path / "a.tif", pixels, transform=transform))
    large = np.full((2, 600, 600), np.nan)
    target = large[:, 100 + row : 100 + row + height * block, 100 + col : 100 + col + width * block]
    target[:] = pixels.repeat(block, axis=1).repeat(block, axis=2)
    assert np.array_equal(found, large[:, 100 : 100 + GRID.height, 100 : 100 + GRID.width], equal_nan=True)


@pytest.mark.parametrize(
    ("resampling", "order", "off"), [("nearest", 0, 0.0), ("bilinear", 1, 0.02), ("cubic", 3, 3.0)]
)
def test_resampled_at_exact_coordinates(tmp_path: Path, resampling: str, order: int, off: float) -> None:
    west, north, step = 85.84, 20.32, 1e-4  # a little more than 10 m: kernels are not widened
    wide = Grid(crs=CRS, left=380_000.0, top=2_246_000.0, width=1200, height=30)  # so wide that parallels bend in it
    y, x = np.mgrid[0:340, 0:1350]
    pixels = (1000 + 300 * np.sin(x / 9) + 200 * np.cos(y / 7) + x).astype(np.float32)
    path = write_raster(
        tmp_path / "a.tif", pixels[None], crs="EPSG:4326", transform=Affine(step, 0, west, 0, -step, north)
    )
    rows, cols = np.mgrid[0 : wide.height, 0 : wide.width] + 0.5
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(wide.left + 10 * cols, wide.top - 10 * rows)
    at = [(north - latitude) / step - 0.5, (longitude - west) / step - 0.5]
    expected = map_coordinates(pixels.astype(np.float64), at, order=order)
    found = on_grid(path, wide, resampling=resampling)[0]
    assert (np.abs(found - expected) > off).mean() < 0.001  # nearest has ties
    assert np.abs(found - np.roll(expected, 1, axis=1))[:, 1:].max() > 20


def test_finer_rasters_are_averaged(tmp_path: Path) -> None:
    fine = Grid(crs=CRS, left=GRID.left, top=GRID.top, width=200, height=150, resolution=2.0)
    pixels = reflectance(1, fine).astype(np.float32)
    found = on_grid(write_raster(tmp_path / "a.tif", pixels, grid=fine))
    expected = pixels.reshape(1, 30, 5, 40, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_shifted_raster_is_not_taken_for_one_on_the_lattice(tmp_path: Path) -> None:
    pixels = reflectance(1)
    transform = Affine(10, 0, GRID.left + 5, 0, -10, GRID.top)
    found = on_grid(write_raster(tmp_path / "a.tif", pixels, transform=transform), resampling="bilinear")
    expected = (pixels[0, :, :-1].astype(float) + pixels[0, :, 1:]) / 2
    np.testing.assert_allclose(found[0, 1:-1, 1:-1], expected[1:-1, :-1], atol=1e-6)


def no_data_cases() -> list[Any]:
    return [
        pytest.param({}, 0, [(0, 2, 3)], None, id="in all bands 0 without nodata"),
        pytest.param({"nodata": 7}, 7, [(0, 2, 3)], None, id="as the file says"),
        pytest.param({"nodata": 7}, 9, [(0, 2, 3)], 9, id="as scenes.csv says"),
    ]


@pytest.mark.parametrize(("options", "value", "where", "nodata"), no_data_cases())
def test_no_data(tmp_path: Path, options: dict[str, Any], value: int, where: Any, nodata: float | None) -> None:
    pixels = reflectance(2)
    pixels[:, 2, 3] = value
    pixels[0, 10, 20] = 0
    found = on_grid(write_raster(tmp_path / "a.tif", pixels, **options), nodata=nodata)
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 2, 3], [1, 2, 3]]


def test_each_band_has_its_own_no_data_when_resampled(tmp_path: Path) -> None:
    pixels = np.full((2, *GRID.shape), 500, dtype=np.float32)
    pixels[0, :, :20] = np.nan
    transform = Affine(10, 0, GRID.left + 5, 0, -10, GRID.top)
    found = on_grid(write_raster(tmp_path / "a.tif", pixels, transform=transform))
    assert np.isnan(found[0, :, 2:18]).all()
    assert (found[0, 1:-1, 22:] == 500).all()
    assert (found[1, 1:-1, 2:] == 500).all()


def test_a_raster_elsewhere_has_no_data(tmp_path: Path) -> None:
    far = Grid(crs=CRS, left=500_000.0, top=2_246_000.0, width=40, height=30)
    assert np.isnan(on_grid(write_raster(tmp_path / "a.tif", reflectance(1, far), grid=far))).all()


def test_footprint_is_where_the_raster_lies(tmp_path: Path) -> None:
    outline = raster.footprint(write_raster(tmp_path / "a.tif", reflectance(1)))
    assert isinstance(outline, shapely.Polygon)
    assert outline.buffer(1e-6).contains(a_site().aoi)
    assert outline.area / a_site().aoi.area == pytest.approx(2.0, rel=1e-3)


def test_rotated_rasters_are_refused(tmp_path: Path) -> None:
    turned = GRID.transform * Affine.rotation(10)
    path = write_raster(tmp_path / "a.tif", reflectance(1), transform=turned)
    with pytest.raises(InputError, match=r"a.tif: got CRS EPSG:32645, transform .*; expected a CRS and a north-up"):
        on_grid(path)


def test_real_pixels_on_their_own_lattice_are_copied(shared: Any) -> None:
    path = shared("data/s2_chips/S2L2A/282D_485L_3_3.tif")
    with rasterio.open(path) as file:
        grid = Grid(crs="EPSG:32722", left=file.transform.c, top=file.transform.f, width=224, height=224)
        pixels = file.read()
    part = Window(row=20, col=50, height=60, width=70)
    found = on_grid(path, grid.crop(part))
    assert np.array_equal(found, pixels[(slice(None), *part.slices)])


def test_no_data_that_no_pixel_can_be_says_nothing(tmp_path: Path) -> None:
    pixels = reflectance(2)
    pixels[:, 2, 3], pixels[0, 10, 20] = 0, 0
    path = write_raster(tmp_path / "a.tif", pixels, nodata=100)
    content = path.read_bytes()
    assert content.count(b"100\0") == 1
    path.write_bytes(content.replace(b"100\0", b"nan\0"))
    assert np.argwhere(np.isnan(on_grid(path))).tolist() == [[0, 2, 3], [1, 2, 3]]


READERS: dict[str, Callable[[Path], Any]] = {
    "read": lambda path: raster.read(path, bands=["B2"]),
    "read_grid": raster.read_grid,
    "read_tags": raster.read_tags,
    "layout": raster.layout,
    "footprint": raster.footprint,
    "read_onto": on_grid,
    "polygons": lambda path: raster.polygons(path, 1),
}


@pytest.mark.parametrize("reader", ["read", "read_onto", "polygons"])
@pytest.mark.parametrize("options", [{}, {"compress": "zstd"}, {"compress": "deflate", "tiled": True}], ids=str)
def test_a_raster_that_breaks_off_is_named(tmp_path: Path, options: dict[str, Any], reader: str) -> None:
    """It opens: only its pixels are missing."""
    path = tmp_path / "x.tif"
    pixels = np.random.default_rng(0).integers(1, 250, (1, *GRID.shape)).astype(np.uint8)
    with rasterio.open(path, "w", **raster._profile(GRID, np.uint8, 1, None), **options) as file:
        file.descriptions = ("B2",)  # before the pixels, so that the directory is
        file.write(pixels)
    READERS[reader](path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        InputError, match=r"x.tif: got .*; expected a GeoTIFF that can be read to its end; bring"
    ) as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "no number": ({"transform": Affine(10, 0, math.nan, 0, -10, GRID.top)}, "a CRS and a north-up transform of finite"),
    "endless": (
        {"transform": Affine(math.inf, 0, GRID.left, 0, -10, GRID.top)},
        "a CRS and a north-up transform of fin",
    ),
    "beyond": ({"transform": Affine(10, 0, 1e30, 0, -10, GRID.top)}, "a place on the earth"),
    "too far for its pixels": ({"transform": Affine(1e-8, 0, 9e8, 0, -1e-8, GRID.top)}, "a place on the earth"),
    "vanishing": ({"transform": Affine(1e-300, 0, GRID.left, 0, -1e-300, GRID.top)}, "a place on the earth"),
    "of a building": ({"crs": 'LOCAL_CS["x",UNIT["metre",1]]'}, "a projected or geographic one that PROJ can bring to"),
    "geocentric": ({"crs": "EPSG:4978"}, "a projected or geographic one that PROJ can bring to EPSG:4326"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_raster_that_is_nowhere_is_refused(tmp_path: Path, place: str) -> None:
    options, expected = PLACES[place]
    path = write_raster(tmp_path / "x.tif", reflectance(1), **options)
    for read in (raster.footprint, on_grid, READERS["polygons"], raster.read_grid):
        if expected == "a place on the earth" and read is raster.read_grid:
            continue  # its numbers are those of a grid
        said = "a projected CRS and a north-up transform with square" if read is raster.read_grid else expected
        with pytest.raises(InputError, match=f"x.tif: got .*; expected {said}") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_grid_of_ours_is_projected(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "x.tif", reflectance(1), crs="EPSG:4326", transform=Affine(1, 0, 80, 0, -1, 20))
    with pytest.raises(InputError, match=r"x.tif: got CRS EPSG:4326, .*; expected a projected CRS"):
        raster.read_grid(path)


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from sandwatch import raster
from sandwatch.errors import InputError
from sandwatch.grid import Grid
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
grid = Grid(crs="EPSG:32645", left=380_000.0, top=2_246_000.0, width=40, height=30)
try:
    found = raster.read_onto(Path(sys.argv[1]), grid, nodata=None, resampling="cubic")
    print(*[np.unique(values) for _, values in found])
except InputError as error:
    print(error)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize(
    ("size_m", "pixels", "said"),
    [
        (
            0.01,
            100_000,
            r"x.tif: got 44001 x 34001 pixels of 1 bands to read, in blocks of 512 x 512, which take 27.9 GiB; "
            r"expected at most 8 GiB; average it to 10 m first: gdalwarp -tr 10 10 -r average",
        ),
        (1_000_000.0, 3, r"^\[7\.\]$"),
        (10.0, 100_000, r"^\[7\.\]$"),
    ],
)
def test_memory_is_bounded_however_fine_or_coarse_pixels_are(
    tmp_path: Path, size_m: float, pixels: int, said: str
) -> None:
    path = tmp_path / "x.tif"
    left, top = 380_000.0 - size_m, 2_246_000.0 + size_m
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=pixels, width=pixels, dtype="uint16", crs=CRS, SPARSE_OK=True,
        tiled=True, blockxsize=512, blockysize=512, compress="zstd", transform=Affine(size_m, 0, left, 0, -size_m, top),
    ) as file:  # fmt: skip
        tile = np.full((min(pixels, 512), min(pixels, 512)), 7, np.uint16)
        file.write(tile, 1, window=RasterioWindow(0, 0, *tile.shape))
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, path], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer, peak_kib = done.stdout.splitlines()
    assert re.search(said, answer), answer
    assert int(peak_kib) < 500 * 1024


ATTACKS = {
    "ras_inf_transform": r"got CRS EPSG:32728, transform \(inf, 0.0, nan, .*; expected a CRS and a north-up tran",
    "ras_local_cs": r"got CRS LOCAL_CS.*; expected a projected or geographic one that PROJ can bring to EPSG:4326",
    "ras_sparse_fine_100000": r"got 100000 x 100000 pixels of 3 bands to read, .* GiB; expected at most 8 GiB; average",
    "ras_trunc_zstd": r"expected a GeoTIFF that can be read to its end; bring the file back",
    "ras_vrt_missing": r"got .*not recognized as being in a supported file format.*; expected a GeoTIFF; check ",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_raster_that_broke_the_product_is_one_line(shared: Any, name: str) -> None:
    path = shared(f"cases-attacks/{name}.tif")
    around = Grid(crs="EPSG:32728", left=633_370.0, top=7_289_840.0, width=701, height=205)
    with pytest.raises(InputError, match=rf"{name}.tif: .*{ATTACKS[name]}") as error:
        on_grid(path, around)
    assert "\n" not in str(error.value)
    for reader in ("read", "read_grid", "read_tags", "layout", "footprint"):
        with contextlib.suppress(InputError):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", ["nothing", "folder", "zip", "pointer", "png"])
def test_what_is_no_geotiff_is_refused(tmp_path: Path, content: str, reader: str) -> None:
    path = tmp_path / "x.tif"
    if content == "folder":
        path.mkdir()
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.tif", b"II*\0")
    elif content == "png":
        Image.new("RGB", GRID.shape).save(path, "PNG")
    else:
        path.write_bytes(b"" if content == "nothing" else b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match=r"x.tif: got .*; expected a GeoTIFF; (check|fetch|unpack|export)"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [VRT, WMS, WCS], ids=["vrt", "wms", "wcs"])
def test_a_file_that_names_a_server_is_refused_unasked(
    tmp_path: Path, listener: Listener, content: str, reader: str
) -> None:
    path = tmp_path / "x.tif"
    path.write_text(content.format(url=listener.url))
    with pytest.raises(InputError, match=r"x.tif: got .*not recognized.*; expected a GeoTIFF; "):
        READERS[reader](path)
    assert listener.heard() == []


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("beside", "content"), [("msk", VRT), ("ovr", VRT), ("aux.xml", OVERVIEW)])
def test_what_lies_beside_a_raster_is_not_read(
    tmp_path: Path, listener: Listener, beside: str, content: str, reader: str
) -> None:
    """It may name a server, and it may mask pixels of a file whose hash is the same."""
    path = write_raster(tmp_path / "x.tif", np.ones((1, *GRID.shape), np.uint8), names=["B2"])
    before = READERS[reader](path)
    path.with_name(f"x.tif.{beside}").write_text(content.format(url=listener.url))
    after = READERS[reader](path)
    np.testing.assert_equal(after, before)
    assert listener.heard() == []


@pytest.mark.parametrize("path", ["/vsicurl/{url}/x.tif", "/vsicurl_streaming/{url}/x.tif", "/vsizip//vsicurl/{url}/x"])
def test_a_path_that_is_an_address_is_refused_unasked(listener: Listener, path: str) -> None:
    with pytest.raises(InputError, match=r"got no path on this machine.*; expected a GeoTIFF"):
        raster.read_tags(Path(path.format(url=listener.url)))
    assert listener.heard() == []


def test_rasters_are_opened_in_one_place() -> None:
    """Whoever opens one elsewhere opens whatever GDAL takes it for."""
    opens = re.compile(
        r"rasterio\.open|MemoryFile|WarpedVRT|rasterio\.io|osgeo|from rasterio import|import rasterio as"
    )
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("stages/*.py")]
    found = {path.name: opens.findall(path.read_text()) for path in files if opens.search(path.read_text())}
    assert found == {"raster.py": ["MemoryFile", "MemoryFile", "MemoryFile", "rasterio.open"]}  # the last one reads
