"""Rasters as programs leave them: fill values, masks, tags, mosaics and what is no raster at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from sandwatch.errors import InputError
from sandwatch.grid import Grid
from sandwatch.imagery.files import Files
from tests.conftest import CRS, GRID, a_site, reflectance, write_raster
from tests.unit.test_imagery_files import BANDS, RADAR, ROW, ask, backscatter, s2_of

LEFT = np.s_[:, :, :12]
LARGE = Grid(crs=CRS, left=GRID.left, top=GRID.top, width=80, height=70)


def with_fill(value: float, dtype: Any) -> np.ndarray:
    pixels = reflectance(3).astype(dtype)
    pixels[LEFT] = value
    return pixels


def edit(path: Path, change: Callable[[Any], None]) -> None:
    with rasterio.open(path, "r+") as file:
        change(file)


def is_left_out(pixels: np.ndarray) -> bool:
    return bool((pixels[LEFT] == 0).all() and (pixels[:, :, 12:] > 0).all())


@pytest.mark.parametrize(
    ("value", "dtype", "named"),
    [
        (-9999, np.int16, "-9999"),
        (-32768, np.int16, "-32768"),
        (-9999, np.float32, "-9999"),
        (65535, np.uint16, "65535"),
        (3.4028235e38, np.float32, r"3.40282e\+38"),
    ],
)
def test_a_fill_value_that_nobody_declared_is_refused_and_works_once_told(
    tmp_path: Path, value: float, dtype: Any, named: str
) -> None:
    write_raster(tmp_path / "a.tif", with_fill(value, dtype))
    with pytest.raises(
        InputError,
        match=rf"line 2, .*a.tif: got 30.0% of its pixels are {named} in every band.*; set nodata to {named}",
    ):
        ask(tmp_path, ROW)
    assert is_left_out(s2_of(ask(tmp_path, ROW | {"nodata": repr(float(np.array(value, dtype)))})))
    write_raster(tmp_path / "a.tif", with_fill(value, dtype), nodata=float(np.array(value, dtype)))
    assert is_left_out(s2_of(ask(tmp_path, ROW)))


def test_a_fill_value_is_found_before_pixels_are_blurred_and_beside_a_declared_one(tmp_path: Path) -> None:
    shifted = Affine.translation(3.0, 4.0) @ GRID.transform
    write_raster(tmp_path / "a.tif", with_fill(-9999, np.int16), transform=shifted)
    with pytest.raises(InputError, match=r"pixels are -9999 in every band"):
        ask(tmp_path, ROW)
    write_raster(tmp_path / "a.tif", with_fill(-9999, np.int16), nodata=0)
    with pytest.raises(InputError, match=r"pixels are -9999 in every band"):
        ask(tmp_path, ROW)


@pytest.mark.parametrize(("value", "refused"), [(-9999.0, True), (-np.inf, False), (np.nan, False)])
def test_radar_without_power(tmp_path: Path, value: float, refused: bool) -> None:
    """A linear power of 0 is minus infinity in dB: there is none."""
    write_raster(tmp_path / "a.tif", reflectance(1))
    values = backscatter()
    values[LEFT] = value
    write_raster(tmp_path / "r.tif", values)
    rows = [ROW | {"bands": "B4"}, ROW | {"product": "s1", "path": "r.tif", "bands": "VV VH"}]
    if refused:
        with pytest.raises(InputError, match=r"line 3, .*r.tif: got 30.0% of its pixels are -9999 in every band"):
            ask(tmp_path, *rows, bands=RADAR)
        return
    composite = ask(tmp_path, *rows, bands=RADAR)
    assert composite.s1 is not None
    assert np.isnan(composite.s1.pixels[LEFT]).all()
    assert np.isfinite(composite.s1.pixels[:, :, 12:]).all()


@pytest.mark.parametrize("declared", ["by nobody", "by the file", "by the table"])
def test_0_in_some_bands_is_darkness_unless_declared_and_told_either_way(
    tmp_path: Path, declared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = reflectance(3)
    pixels[:, :, :5] = 0
    pixels[1, :, 20:30] = 0
    write_raster(tmp_path / "a.tif", pixels, nodata=0 if declared == "by the file" else None)
    found = s2_of(ask(tmp_path, ROW | {"nodata": "0"} if declared == "by the table" else ROW))
    assert (found[:, :, :5] == 0).all()
    assert (found[1, :, 20:30] == (1 if declared == "by nobody" else 0)).all()
    assert np.array_equal(found[[0, 2]], pixels[[0, 2]])
    said = "taken for darkness" if declared == "by nobody" else "without data, since 0 is declared to mean that"
    assert f"line 2, a.tif: 25.0% of its pixels are 0 in some bands and not in all: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("colour", [4, 5])
def test_alpha_bands_are_masks_wherever_they_stand(tmp_path: Path, colour: int) -> None:
    bands = colour - 1
    pixels = np.concatenate([reflectance(bands), np.full((1, *GRID.shape), 65535, np.uint16)])
    pixels[-1, :, :12] = 0
    path = write_raster(tmp_path / "a.tif", pixels)
    names = " ".join(("B4", "B3", "B2", "B8")[:bands])
    edit(path, lambda file: setattr(file, "colorinterp", (*file.colorinterp[:-1], ColorInterp.alpha)))
    assert is_left_out(s2_of(ask(tmp_path, ROW | {"bands": f"{names} -"})))
    if bands == 3:
        with pytest.raises(
            InputError, match=r"line 2, bands: got B8 for band 4 of a.tif, which is an alpha band; .*'-'"
        ):
            ask(tmp_path, ROW | {"bands": f"{names} B8"})


def test_an_internal_mask_hides_pixels(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", with_fill(1500, np.uint16))
    mask = np.full(GRID.shape, 255, np.uint8)
    mask[:, :12] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        edit(path, lambda file: file.write_mask(mask))
    assert is_left_out(s2_of(ask(tmp_path, ROW)))


def test_scale_and_offset_of_the_file_are_taken_or_must_agree(tmp_path: Path) -> None:
    pixels = reflectance(3)
    path = write_raster(tmp_path / "a.tif", pixels + 1000)
    edit(path, lambda file: (setattr(file, "scales", [1e-4] * 3), setattr(file, "offsets", [-0.1] * 3)))
    for given in ({"scale": "", "offset": ""}, {"scale": "1", "offset": "-1000"}):
        assert np.array_equal(s2_of(ask(tmp_path, ROW | given)), pixels)
    for given in ({}, {"scale": "10000"}, {"offset": "-900"}):
        with pytest.raises(
            InputError,
            match=r"line 2, scale and offset: got .*, where the tags of a.tif mean 1 and -1000 for B4; .*-1000",
        ):
            ask(tmp_path, ROW | given)


def test_scale_and_offset_may_differ_by_band(tmp_path: Path) -> None:
    pixels = reflectance(3)
    stored = np.stack([pixels[0], pixels[1] + 1000, pixels[2] * 2])
    path = write_raster(tmp_path / "a.tif", stored)
    edit(path, lambda file: (setattr(file, "scales", (1e-4, 1e-4, 5e-5)), setattr(file, "offsets", (0, -0.1, 0))))
    assert np.array_equal(s2_of(ask(tmp_path, ROW | {"scale": "", "offset": ""})), pixels)
    with pytest.raises(InputError, match="mean 1 and -1000 for B3"):
        ask(tmp_path, ROW)
    red = RADAR.model_copy(update={"s1": ()})
    assert np.array_equal(s2_of(ask(tmp_path, ROW | {"bands": "B4 - -"}, bands=red)), pixels[:1])


def test_a_file_that_says_nothing_needs_numbers(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3))
    with pytest.raises(InputError, match=r"line 2, scale: got nothing, and no scale in the tags of a.tif either"):
        ask(tmp_path, ROW | {"scale": "", "offset": ""})
    with pytest.raises(InputError, match="line 2, scale: got 0"):
        ask(tmp_path, ROW | {"scale": "0"})
    with pytest.raises(InputError, match="line 2, offset: got '-1,000'; expected a number"):
        ask(tmp_path, ROW | {"offset": "-1,000"})


@pytest.mark.parametrize(
    ("descriptions", "bands", "fault"),
    [
        (("B04", "B03", "B02"), "B4 B3 B2", None),
        (("Band 1", "Band 2", "Band 3"), "B4 B3 B2", None),
        (("B4_median", "b03", None), "b04, B3|B02", None),
        (("B02", "B03", "B04"), "B4 B3 B2", "B4 for band 1 of a.tif, which the file describes as 'B02'; .*name it B2"),
        (("B4", "B8A", "B2"), "B4 B8 B3", "no B2 for"),
        (("B4", "B3", "B8A (narrow)"), "B4 B3 B2", "B2 for band 3 of a.tif, which the file describes as 'B8A"),
    ],
)
def test_band_descriptions(tmp_path: Path, descriptions: tuple[str, ...], bands: str, fault: str | None) -> None:
    path = write_raster(tmp_path / "a.tif", reflectance(3))
    edit(path, lambda file: setattr(file, "descriptions", descriptions))
    if fault is None:
        assert np.array_equal(s2_of(ask(tmp_path, ROW | {"bands": bands})), reflectance(3))
    else:
        with pytest.raises(InputError, match=rf"line 2, bands: got {fault}"):
            ask(tmp_path, ROW | {"bands": bands})


@pytest.mark.parametrize("harmonised_first", [True, False])
def test_a_mosaic_of_which_one_file_carries_the_offset(tmp_path: Path, harmonised_first: bool) -> None:
    left, right = reflectance(3), reflectance(3, seed=1)
    left[:, :, 20:], right[:, :, :20] = 0, 0
    right[right > 0] += 1000
    write_raster(tmp_path / "left.tif", left)
    write_raster(tmp_path / "right.tif", right)
    names = ("left.tif", "right.tif") if harmonised_first else ("right.tif", "left.tif")
    rows = [ROW | {"path": name} for name in names]
    with pytest.raises(
        InputError, match=rf"line {3 if harmonised_first else 2}, right.tif, offset: got no value below"
    ):
        ask(tmp_path, *rows)
    rows = [one | ({"offset": "-1000"} if one["path"] == "right.tif" else {}) for one in rows]
    found = s2_of(ask(tmp_path, *rows))
    assert np.array_equal(found, np.where(left > 0, left, reflectance(3, seed=1)))


@pytest.mark.parametrize("axis", ["column", "row"])
def test_a_mosaic_in_one_file_of_which_a_part_carries_the_offset(tmp_path: Path, axis: str) -> None:
    pixels = reflectance(3, LARGE) // 4
    part = np.s_[:, :, 30:] if axis == "column" else np.s_[:, 30:]
    pixels[part] += 1000
    write_raster(tmp_path / "a.tif", pixels, grid=LARGE)
    with pytest.raises(InputError, match=rf"line 2, a.tif, offset: got an edge at {axis} (28|29|30|31) of the scene"):
        ask(tmp_path, ROW, grid=LARGE)
    ask(tmp_path, ROW | {"harmonised": "yes"}, grid=LARGE)
    pixels[2][part[1:]] -= 600  # a bank steps by less in one band
    write_raster(tmp_path / "a.tif", pixels, grid=LARGE)
    ask(tmp_path, ROW, grid=LARGE)


def test_products_before_and_after_the_offset_are_not_one_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", reflectance(3))
    old, new = (f"S2A_MSIL2A_20230101T050211_{n}_R119_T45QTE_20230101T083000" for n in ("N0301", "N0509"))
    with pytest.raises(InputError, match=r"line 2, source_ids: got products of baselines 03.01, 05.09 in a file"):
        ask(tmp_path, ROW | {"source_ids": f"{old} {new}"})
    for change in ({"source_ids": new}, {"source_ids": f"{old};{new}", "harmonised": "Yes"}):
        ask(tmp_path, ROW | change)


def test_a_picture_of_8_bits_is_no_reflectance(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", (reflectance(3) // 14).astype(np.uint8))
    with pytest.raises(InputError, match=r"line 2, a.tif, scale: got reflectance x 10000 from \d+ to \d+; .*of 8 bits"):
        ask(tmp_path, ROW)
    assert s2_of(ask(tmp_path, ROW | {"scale": "14"})).max() > 1000


def test_cubic_convolution_leaves_the_range_of_the_file_nowhere(tmp_path: Path) -> None:
    pixels = np.full((3, *GRID.shape), 40, np.uint16)
    pixels[:, ::7, ::5] = 3000
    write_raster(tmp_path / "a.tif", pixels, transform=Affine.translation(3.0, 4.0) @ GRID.transform)
    found = s2_of(ask(tmp_path, ROW))
    valid = found[:, 2:-2, 2:-2]
    assert (valid.min(), valid.max() <= 3000) == (40, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "a pointer of Git LFS.*git lfs pull"),
        (b"outs:\n- md5: 1\n  path: a.tif\n", "a pointer of DVC.*dvc pull"),
        (b"\n<html><head><title>Sign in", "a web page.*sign in and fetch it again"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code>", "the refusal of a storage service"),
        (b"", "an empty file.*fetch it again"),
        (b"\0" * 4096, "nothing but zeros"),
        (b"\x1f\x8b\x08", "a gzip archive.*gunzip"),
        (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000.*gdal_translate"),
        (b"\x89PNG\r\n", "a picture without a place"),
    ],
)
def test_what_was_saved_as_a_tif_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=rf"scenes.csv, line 2, .*a.tif: got {message}") as error:
        ask(tmp_path, ROW)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_one_line(tmp_path: Path, share: float) -> None:
    path = write_raster(tmp_path / "a.tif", reflectance(3))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"scenes.csv, line 2, .*a.tif: got .*; expected a GeoTIFF") as error:
        ask(tmp_path, ROW)
    assert "\n" not in str(error.value)


def test_a_table_from_a_spreadsheet(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Süd.tif")
    write_raster(tmp_path / name, reflectance(3))
    header = ";".join(key.upper().replace("_", " ") for key in ROW)
    ask(tmp_path, ROW | {"path": name})
    values = ";".join((ROW | {"path": "Süd.tif", "scale": "1,0", "product": "S2"}).values())
    (tmp_path / "scenes.csv").write_bytes(f"{header};;\r\n{values}\r\n;;;;\r\n".encode("utf-16"))
    found = Files.open(tmp_path, bands=BANDS, places=[a_site()])(a_site(), date(2023, 1, 1))
    assert np.array_equal(s2_of(found), reflectance(3))
