"""The user's own rasters: copied where they fit the grid, resampled where not, refused by name where unfit."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from google.cloud import storage

from sandwatch import params, raster
from sandwatch.errors import InputError
from sandwatch.export import export
from sandwatch.files import sha256
from sandwatch.grid import Grid, Window
from sandwatch.imagery import Composite, Site
from sandwatch.imagery.files import Files
from sandwatch.imagery.params import Imagery
from sandwatch.schemas import Scenes
from sandwatch.work import Work
from tests.conftest import CRS, GRID, a_site, reflectance, write_raster
from tests.servers.gcs import serve_gcs

BANDS = params.Bands(s2=("B4", "B3", "B2"), s1=())
RADAR = params.Bands(s2=("B4",), s1=("VV", "VH"))
IMAGERY = Imagery(source="files", min_coverage=0.6)
OBS = "Bhargavi_1_2023-01-01"
ROW = {"obs_id": OBS, "product": "s2", "path": "a.tif", "bands": "B4 B3 B2", "scale": "1", "offset": "0"}


def write_manifest(folder: Path, *rows: dict[str, str]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "scenes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def ask(folder: Path, *rows: dict[str, str], bands: params.Bands = BANDS, grid: Grid = GRID) -> Composite:
    site = a_site(grid)
    return Files.open(write_manifest(folder, *rows), bands=bands, places=[site])(site, date(2023, 1, 1))


def s2_of(composite: Composite) -> np.ndarray:
    assert composite.s2 is not None
    return composite.s2.pixels


def backscatter() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(-14, 3, (2, *GRID.shape)).astype(np.float32)


def test_a_file_on_the_grid_is_copied_value_by_value(tmp_path: Path) -> None:
    larger = Grid(crs=CRS, left=GRID.left - 70, top=GRID.top + 130, width=90, height=80)
    pixels = reflectance(3, larger)
    write_raster(tmp_path / "a.tif", pixels, grid=larger)
    found = s2_of(ask(tmp_path, ROW))
    assert found.dtype == np.uint16
    assert found.tobytes() == pixels[:, 13:43, 7:47].tobytes()


def test_bands_are_mapped_by_name_and_strangers_left_out(tmp_path: Path) -> None:
    pixels = reflectance(5)
    write_raster(tmp_path / "a.tif", pixels)
    found = s2_of(ask(tmp_path, ROW | {"bands": "B2,B8, - B4,B3"}))
    assert np.array_equal(found, pixels[[3, 4, 0]])


def test_scale_offset_and_nodata(tmp_path: Path) -> None:
    share = reflectance(3).astype(np.float32) / 10_000
    share[:, 4, 5] = -1.0
    write_raster(tmp_path / "a.tif", share)
    found = s2_of(ask(tmp_path, ROW | {"scale": "10000", "nodata": "-1"}))
    assert found[:, 4, 5].tolist() == [0, 0, 0]
    found[:, 4, 5] = reflectance(3)[:, 4, 5]
    assert np.array_equal(found, reflectance(3))


def test_valid_pixels_stay_valid_however_dark(tmp_path: Path) -> None:
    pixels = reflectance(3).astype(np.int16)
    pixels[0, 3, 3], pixels[1, 3, 3] = -40, 0
    write_raster(tmp_path / "a.tif", pixels, nodata=-9999)
    assert s2_of(ask(tmp_path, ROW))[:, 3, 3].tolist() == [1, 1, pixels[2, 3, 3]]


def test_a_file_a_band_and_a_mosaic(tmp_path: Path) -> None:
    pixels = reflectance(3)
    left, right = pixels.copy(), pixels + 7
    left[:, :, 25:] = 0
    right[:, :, :10] = 0
    write_raster(tmp_path / "left.tif", left)
    write_raster(tmp_path / "right.tif", right[:2])
    write_raster(tmp_path / "blue.tif", right[2:])
    rows = [{"path": "left.tif"}, {"path": "right.tif", "bands": "B4 B3"}, {"path": "blue.tif", "bands": "B2"}]
    found = s2_of(ask(tmp_path, *[ROW | row for row in rows]))
    assert np.array_equal(found, np.where(left > 0, left, right))


def test_twenty_metre_bands_are_repeated_not_blurred(tmp_path: Path) -> None:
    coarse = Grid(crs=CRS, left=GRID.left, top=GRID.top, width=20, height=15, resolution=20.0)
    pixels = reflectance(3, coarse)
    write_raster(tmp_path / "a.tif", pixels, grid=coarse)
    assert np.array_equal(s2_of(ask(tmp_path, ROW)), pixels.repeat(2, axis=1).repeat(2, axis=2))


def test_radar_is_rounded_to_centi_db(tmp_path: Path) -> None:
    values = backscatter()
    values[1, 6, 7] = np.nan
    write_raster(tmp_path / "a.tif", reflectance(1))
    write_raster(tmp_path / "r.tif", values)
    rows = [ROW | {"bands": "B4"}, ROW | {"product": "s1", "path": "r.tif", "bands": "VV VH"}]
    composite = ask(tmp_path, *rows, bands=RADAR)
    assert composite.s1 is not None
    found = composite.s1.pixels
    assert found.dtype == np.float32
    assert np.isnan(found[1, 6, 7])
    np.testing.assert_allclose(np.nan_to_num(found), np.nan_to_num(values), atol=0.00501)
    assert np.array_equal(found, np.float32(np.rint(found.astype(float) * 100) / 100), equal_nan=True)


def test_the_earlier_of_two_radar_files_wins_where_it_has_data(tmp_path: Path) -> None:
    first, second = backscatter(), backscatter() - 5
    first[:, :, 25:] = np.nan
    write_raster(tmp_path / "a.tif", reflectance(1))
    write_raster(tmp_path / "r.tif", first)
    write_raster(tmp_path / "q.tif", second)
    radar = [ROW | {"product": "s1", "path": name, "bands": "VV VH"} for name in ("r.tif", "q.tif")]
    composite = ask(tmp_path, ROW | {"bands": "B4"}, *radar, bands=RADAR)
    assert composite.s1 is not None
    np.testing.assert_allclose(composite.s1.pixels, np.where(np.isnan(first), second, first), atol=0.00501)


def test_no_row_of_a_product_is_no_image(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(1))
    assert ask(tmp_path, ROW | {"bands": "B4"}, bands=RADAR).s1 is None


def test_sources_are_named_without_paths_of_this_machine(tmp_path: Path) -> None:
    write_raster(tmp_path / "inputs" / "a.tif", reflectance(3))
    write_manifest(tmp_path / "inputs", ROW)
    cases = {
        "a.tif": {},
        "in/a.tif": {"path": "in/a.tif"},
        "b.tif": {"path": str(tmp_path / "b.tif")},
        "c.tif": {"path": "../c.tif"},
    }
    for name in ("in/a.tif", "../b.tif", "../c.tif"):
        write_raster(tmp_path / "inputs" / name, reflectance(3))
    for expected, change in cases.items():
        s2 = ask(tmp_path / "inputs", ROW | change).s2
        assert s2 is not None
        assert [image.id for image in s2.source_images] == [expected]
    given = ask(tmp_path / "inputs", ROW | {"source_ids": "S2A_x; S2B_y", "processing_baseline": "05.09"}).s2
    assert given is not None
    assert [(i.id, i.processing_baseline) for i in given.source_images] == [("S2A_x", "05.09"), ("S2B_y", "05.09")]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Bucket]:
    """An empty bucket named sand, and GDAL told where it is."""
    with serve_gcs("sand") as server:
        monkeypatch.setenv("CPL_GS_ENDPOINT", f"{server.url}/")
        monkeypatch.setenv("GS_NO_SIGN_REQUEST", "YES")
        yield server.client().bucket("sand")


def test_a_file_in_a_bucket_is_read_and_a_missing_one_named(tmp_path: Path, bucket: storage.Bucket) -> None:
    bucket.blob("scenes/a.tif").upload_from_filename(write_raster(tmp_path / "a.tif", reflectance(3)))
    s2 = ask(tmp_path, ROW | {"path": "gs://sand/scenes/a.tif"}).s2
    assert s2 is not None
    assert np.array_equal(s2.pixels, reflectance(3))
    assert [image.id for image in s2.source_images] == ["gs://sand/scenes/a.tif"]
    with pytest.raises(InputError, match=r"/vsigs/sand/scenes/none.tif: got .*; expected a GeoTIFF"):
        ask(tmp_path, ROW | {"path": "gs://sand/scenes/none.tif"})


def bad_rows() -> list[Any]:
    return [
        (
            {"obs_id": "Bhargavi_1_2023-02-01"},
            r"line 2, obs_id: got 'Bhargavi_1_2023-02-01'; .* such as Bhargavi_1_2023-01",
        ),
        ({"product": "s3"}, "line 2, product: got 's3'; expected s2 or s1"),
        ({"path": "none.tif"}, "line 2, path: got 'none.tif'; expected an existing file, or gs"),
        ({"path": ""}, "line 2, path: got ''; expected an existing file"),
        (
            {"path": "gs:///vsicurl/http://x/a"},
            "line 2, path: got 'gs:///vsicurl/http://x/a'; expected gs://bucket/key",
        ),
        (
            {"bands": "B4 B3"},
            "line 2, bands: got no B2 for Bhargavi_1_2023-01-01, product s2; expected all of B4, B3, B2",
        ),
        ({"bands": "R G B"}, "line 2, bands: got 'R G B'; expected each once, among B1, B2"),
        ({"bands": "B4 B3 B3 B2"}, "line 2, bands: got 'B4 B3 B3 B2'; expected each once"),
        ({"bands": "B4 B3 B2 B8"}, "line 2, bands: got 4 names for another number of bands in"),
        ({"bands": "B8 B4 B3 B2 -"}, "line 2, bands: got 5 names for another number of bands in"),
        ({"scale": "ten"}, "line 2, scale: got 'ten'; expected a number"),
        ({"offset": "inf"}, "line 2, offset: got 'inf'; expected a finite number"),
        ({"processing_baseline": "5.9"}, "line 2, processing_baseline: got '5.9'; expected such as 05.09"),
        ({"harmonised": "maybe"}, "line 2, harmonised: got 'maybe'; expected yes or nothing"),
        ({"sha256": "0" * 64}, "line 2, sha256 of .*a.tif: got [0-9a-f]{64}; expected 0000"),
        ({"path": "gs://b/a.tif", "sha256": "0" * 64}, "line 2, sha256: got a hash of gs://b/a.tif"),
        (
            {"offset": "-1000", "processing_baseline": "02.14"},
            "line 2, offset: got -1000 with processing_baseline 02.14; exp",
        ),
        ({"scale": "0.0001"}, "line 2, a.tif, scale: got reflectance x 10000 from 1 to 1; expected values of land"),
        ({"scale": "100"}, "line 2, a.tif, scale: got reflectance x 10000 from .* to 65535; expected values of land"),
        ({"offset": "-1500"}, "line 2, a.tif, offset: got .*% of the valid pixels below zero in some band"),
        ({"note": "x"}, "scenes.csv, columns: got .*note; .*; add nothing, remove note"),
    ]


@pytest.mark.parametrize(("change", "message"), bad_rows())
def test_a_line_at_fault_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3))
    with pytest.raises(InputError, match=message) as error:
        ask(tmp_path, ROW | change)
    assert "\n" not in str(error.value)
    ask(tmp_path, ROW)


def test_a_manifest_that_is_missing_or_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scenes.csv: got no such file; expected the list of your scenes"):
        Files.open(tmp_path, bands=BANDS, places=[a_site()])
    (tmp_path / "scenes.csv").write_text("obs_id,product\n")
    with pytest.raises(
        InputError, match=r"columns: got obs_id, product; .*; add bands, offset, path, scale, remove nothing"
    ):
        Files.open(tmp_path, bands=BANDS, places=[a_site()])
    (tmp_path / "scenes.csv").write_text(",".join(ROW) + f"\n{OBS},s2,a.tif,B4,B3,B2,1,0\n")
    with pytest.raises(
        InputError, match=r"scenes.csv, line 2: got 8 values; expected 6, as in the header; .* quote values"
    ):
        Files.open(tmp_path, bands=BANDS, places=[a_site()])


def test_a_raster_without_crs_is_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3), crs=None)
    with pytest.raises(InputError, match=r"a.tif: got CRS None, .*; expected a CRS and a north-up transform"):
        ask(tmp_path, ROW)


def test_a_raster_that_misses_its_area_is_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3), transform=Affine.translation(50_000, 0) @ GRID.transform)
    with pytest.raises(
        InputError, match=r"line 2, .*a.tif: got a raster that lies elsewhere, around longitude .* of site Bhargavi_1"
    ):
        ask(tmp_path, ROW)
    corner = GRID.crop(Window(row=0, col=30, height=10, width=10))  # on the grid, beside the triangle of the AOI
    write_raster(tmp_path / "a.tif", reflectance(3, corner), grid=corner)
    with pytest.raises(InputError, match=r"a.tif: got a raster that lies elsewhere"):
        ask(tmp_path, ROW)


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3).astype(np.complex64))
    with pytest.raises(InputError, match=r"a.tif: got pixels of complex64; expected one of uint8"):
        ask(tmp_path, ROW)


def test_what_is_no_raster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("text")
    with pytest.raises(InputError, match=r"a.tif: got .*not recognized.*; expected a GeoTIFF"):
        ask(tmp_path, ROW)


def test_linear_power_is_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(1))
    write_raster(tmp_path / "r.tif", 10 ** (backscatter() / 10))
    rows = [ROW | {"bands": "B4"}, ROW | {"product": "s1", "path": "r.tif", "bands": "VV VH"}]
    with pytest.raises(
        InputError, match=r"line 3, r.tif, band VV: got values from .*, none below 0; expected backscatter in"
    ):
        ask(tmp_path, *rows, bands=RADAR)


@pytest.mark.parametrize("baseline", ["", "04.00", "05.09"])
def test_the_offset_of_baseline_4_is_found_in_the_pixels(tmp_path: Path, baseline: str) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3) + 1000)
    row = ROW | {"processing_baseline": baseline}
    with pytest.raises(
        InputError, match=r"line 2, a.tif, offset: got no value below 1\d{3}, which looks like the \+1000"
    ):
        ask(tmp_path, row)
    assert np.array_equal(s2_of(ask(tmp_path, row | {"offset": "-1000"})), reflectance(3))
    assert s2_of(ask(tmp_path, row | {"harmonised": "yes"})).min() > 1000
    assert s2_of(ask(tmp_path, ROW | {"processing_baseline": "03.01"})).min() > 1000


@pytest.mark.parametrize("chip", ["282D_485L_3_3", "609U_541L_3_0"])
def test_the_offset_is_found_in_real_pixels_that_carry_it(tmp_path: Path, shared: Any, chip: str) -> None:
    """Level-1C of the chips carries +1000, Level-2A is harmonised: snow as well as an estuary is told right."""
    found = {}
    for level, bands in (("S2L2A", params.S2_L2A_BANDS), ("S2L1C", params.S2_BANDS)):
        path = shared(f"data/s2_chips/{level}/{chip}.tif")
        with rasterio.open(path) as file:
            grid = Grid(crs=file.crs.to_string(), left=file.transform.c, top=file.transform.f, width=224, height=224)
            found[level] = (ROW | {"path": str(path), "bands": " ".join(bands)}, file.read(), grid)
    row, pixels, grid = found["S2L2A"]
    wanted = params.Bands(s2=params.S2_L2A_BANDS, s1=())
    assert np.array_equal(s2_of(ask(tmp_path, row, bands=wanted, grid=grid)), pixels.clip(1))
    row, pixels, grid = found["S2L1C"]
    with pytest.raises(InputError, match=r"which looks like the \+1000 of baseline 04.00"):
        ask(tmp_path, row, bands=wanted, grid=grid)


def test_real_radar_is_taken(tmp_path: Path, shared: Any) -> None:
    s2, s1 = (shared(f"data/s2_chips/{level}/282D_485L_3_3.tif") for level in ("S2L2A", "S1RTC"))
    with rasterio.open(s1) as file:
        grid = Grid(crs=file.crs.to_string(), left=file.transform.c, top=file.transform.f, width=224, height=224)
        values = file.read()
    rows = [
        ROW | {"path": str(s2), "bands": " ".join(params.S2_L2A_BANDS)},
        ROW | {"product": "s1", "path": str(s1), "bands": "VV VH"},
    ]
    composite = ask(tmp_path, *rows, bands=RADAR, grid=grid)
    assert composite.s1 is not None
    np.testing.assert_allclose(composite.s1.pixels, values, atol=0.0051)


def test_real_stretched_pictures_become_reflectance(tmp_path: Path, shared: Any) -> None:
    path = shared("data/real_labels/Bhargavi_Khordha_85-88_20-26_2018-12-01/rgb.tif")
    grid = Grid(crs=CRS, left=382_000.0, top=2_240_000.0, width=200, height=150)
    found = s2_of(ask(tmp_path, ROW | {"path": str(path), "scale": repr(3500 / 255)}, grid=grid))
    with rasterio.open(path) as file:
        original = file.read() * (3500 / 255)
    assert (found > 0).all()
    assert original.min() * 0.8 < found.min()
    assert found.max() < original.max() * 1.1
    assert abs(float(np.median(found)) - float(np.median(original))) < 200


def run_export(
    folder: Path,
    *rows: dict[str, str],
    out: str = "scenes",
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    imagery: Imagery = IMAGERY,
    **site: Any,
) -> pd.DataFrame:
    places = [a_site(**site)]
    source = Files.open(write_manifest(folder, *rows), bands=BANDS, places=places)
    table = export(
        places, source, folder=folder / out, bands=BANDS, imagery=imagery, work=Work(folder / "work", ""),
        workers=workers, progress=progress,
    )  # fmt: skip
    return Scenes.checked(table, out)


def test_export_writes_scenes_the_picture_and_the_manifest(tmp_path: Path) -> None:
    pixels = reflectance(3)
    write_raster(tmp_path / "a.tif", pixels)
    table = run_export(tmp_path, ROW | {"source_ids": "z a", "processing_baseline": "05.09"}).set_index("product")
    assert list(table.index) == ["rgb", "s2"]
    for product, row in table.iterrows():
        path = tmp_path / "scenes" / OBS / f"{product}.tif"
        assert row["path"] == f"{OBS}/{product}.tif"
        assert row["sha256"] == sha256(path)
        assert row["transform"] == "10.0,0.0,380000.0,0.0,-10.0,2246000.0"
        assert [image["id"] for image in json.loads(row["source_images"])] == ["a", "z"]
        with rasterio.open(path) as file:
            assert file.dtypes == (row["dtype"],) * 3
            assert file.nodata == 0
    assert np.array_equal(raster.read(tmp_path / "scenes" / OBS / "s2.tif", bands=BANDS.s2, grid=GRID), pixels)
    picture = raster.read(tmp_path / "scenes" / OBS / "rgb.tif", bands=("B4", "B3", "B2"), grid=GRID)
    assert np.abs(picture - (1 + pixels.astype(float).clip(max=3500) / 3500 * 254)).max() <= 0.5 + 1e-9


def test_an_observation_is_exported_once_until_something_of_it_changes(tmp_path: Path) -> None:
    months = (date(2023, 1, 1), date(2023, 2, 1))
    rows = [ROW, ROW | {"obs_id": "Bhargavi_1_2023-02-01", "path": "b.tif"}]
    for number, name in enumerate(("a.tif", "b.tif")):
        write_raster(tmp_path / name, reflectance(3, seed=number))

    def taken(*rows: dict[str, str], months: tuple[date, ...] = months, **changes: Any) -> list[str]:
        lines: list[str] = []
        shutil.rmtree(tmp_path / "scenes", ignore_errors=True)
        table = run_export(tmp_path, *rows, months=months, progress=lines.append, **changes)
        for path, expected in table[["path", "sha256"]].dropna().itertuples(index=False):
            assert sha256(tmp_path / "scenes" / path) == expected
        return sorted(line.split()[4][-10:] for line in lines if line.endswith(" (by an earlier run)"))

    both = ["2023-01-01", "2023-02-01"]
    assert taken(*rows) == []
    assert taken(*rows) == taken(*reversed(rows), workers=2) == both
    assert taken(*rows, months=(*months, date(2023, 3, 1))) == both  # another month changes nothing of these
    write_raster(tmp_path / "b.tif", reflectance(3, seed=9))
    assert taken(*rows) == ["2023-01-01"]
    assert taken(rows[0] | {"scale": "2"}, rows[1]) == ["2023-02-01"]
    assert taken(*rows, imagery=IMAGERY.model_copy(update={"min_coverage": 0.01})) == []
    assert taken(*rows, grid=GRID.crop(Window(row=0, col=0, height=29, width=40))) == []
    assert taken(*rows) == both


def test_the_picture_is_0_only_without_data_and_255_from_white_on(tmp_path: Path) -> None:
    pixels = reflectance(3)
    pixels[:, 0, 0] = [0, 0, 0]
    pixels[:, 0, 1] = [1, 3500, 9000]
    pixels[:, 0, 2] = [500, 0, 500]
    write_raster(tmp_path / "a.tif", pixels, nodata=0)
    run_export(tmp_path, ROW)
    picture = raster.read(tmp_path / "scenes" / OBS / "rgb.tif", bands=("B4", "B3", "B2"))
    assert picture[:, 0, 0].tolist() == [0, 0, 0]
    assert picture[:, 0, 1].tolist() == [1, 255, 255]
    assert picture[:, 0, 2].tolist() == [0, 0, 0]


def test_a_scene_that_covers_too_little_is_skipped_with_its_figure(tmp_path: Path) -> None:
    months = (date(2023, 1, 1), date(2023, 2, 1), date(2023, 3, 1))
    pixels = reflectance(3)
    write_raster(tmp_path / "a.tif", pixels)
    pixels[1, :, :20] = 0
    write_raster(tmp_path / "b.tif", pixels, nodata=0)
    other = ROW | {"obs_id": "Bhargavi_1_2023-02-01", "path": "b.tif"}
    table = run_export(tmp_path, ROW, other, months=months).set_index(["date", "product"])
    skipped = table.loc[("2023-02-01", "s2")]
    aoi = raster.inside(a_site().aoi, GRID)
    assert skipped["status"] == "skipped"
    assert skipped["valid_fraction"] == pytest.approx(aoi[:, 20:].sum() / aoi.sum(), abs=1e-6)
    assert skipped["detail"].startswith(f"s2 covers {skipped['valid_fraction']:.3f} of the AOI, less than 0.6")
    assert table.loc[("2023-03-01", "s2"), "detail"] == "no s2 image of the month; no rgb image of the month"
    assert table.loc["2023-01-01", "status"].tolist() == ["exported"] * 2
    assert [path.name for path in (tmp_path / "scenes").iterdir()] == [OBS]


def test_nothing_exported_is_an_error(tmp_path: Path) -> None:
    pixels = reflectance(3)
    pixels[:, :, 3:] = 0
    write_raster(tmp_path / "a.tif", pixels)
    with pytest.raises(
        InputError, match=r"imagery.source: files: got none of 1 observations exported; the first: s2 covers"
    ):
        run_export(tmp_path, ROW)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    months = tuple(date(2023, month, 1) for month in range(1, 5))
    rows = []
    for month in months:
        write_raster(tmp_path / f"{month}.tif", reflectance(3, seed=month.month))
        rows.append(ROW | {"obs_id": f"Bhargavi_1_{month}", "path": f"{month}.tif"})
    for workers in (1, 2):
        table = run_export(tmp_path, *rows, out=f"by{workers}", workers=workers, months=months)
        Scenes.write(table, tmp_path / f"{workers}.parquet")
    assert sha256(tmp_path / "1.parquet") == sha256(tmp_path / "2.parquet")
    found = [{p.relative_to(tmp_path / by): sha256(p) for p in (tmp_path / by).rglob("*.tif")} for by in ("by1", "by2")]
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 8


def test_an_error_in_a_worker_reaches_the_user(tmp_path: Path) -> None:
    months = (date(2023, 1, 1), date(2023, 2, 1))
    write_raster(tmp_path / "a.tif", reflectance(3))
    write_raster(tmp_path / "b.tif", reflectance(3), crs=None)
    with pytest.raises(InputError, match=r"b.tif: got CRS None"):
        run_export(tmp_path, ROW, ROW | {"obs_id": "Bhargavi_1_2023-02-01", "path": "b.tif"}, workers=2, months=months)


class Weighed:
    """A source that counts in its own process how often it is sent to others."""

    def __init__(self, source: Files) -> None:
        self.source, self.sent = source, 0

    def __call__(self, site: Site, month: date) -> Composite:
        return self.source(site, month)

    def inputs(self, site: Site, month: date) -> Any:
        return self.source.inputs(site, month)

    def __reduce__(self) -> tuple[type["Weighed"], tuple[Files]]:
        self.sent += 1
        return Weighed, (self.source,)


def test_the_source_goes_to_each_worker_once(tmp_path: Path) -> None:
    months = tuple(date(2023, month, 1) for month in range(1, 10))
    write_raster(tmp_path / "a.tif", reflectance(3))
    places = [a_site(months=months)]
    rows = [ROW | {"obs_id": f"Bhargavi_1_{month}"} for month in months]
    source = Weighed(Files.open(write_manifest(tmp_path, *rows), bands=BANDS, places=places))
    table = export(
        places, source, folder=tmp_path / "s", bands=BANDS, imagery=IMAGERY, work=Work(tmp_path / "work", ""),
        workers=2, progress=lambda _: None,
    )  # fmt: skip
    assert (table["status"] == "exported").all()
    assert source.sent == 2
