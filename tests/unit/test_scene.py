"""Scenes: read as asked for, and only where they are the files that the manifest tells of."""

import os
from pathlib import Path

import numpy as np
import pytest

from sandwatch import raster
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Window
from sandwatch.scene import Raster, SceneReader
from sandwatch.stack import NODATA, encode
from tests.conftest import GRID, reflectance

from .test_infer import BANDS, make_site

OBS_ID = "kanhan_2023-02-01"


@pytest.fixture
def scene(tmp_path: Path) -> SceneReader:
    pixels = reflectance(3)
    raster.write_cog(tmp_path / "s2.tif", pixels, GRID, bands=BANDS[:3], nodata=0)
    return reader(tmp_path / "s2.tif")


def reader(path: Path, bands: tuple[str, ...] = BANDS[:3]) -> SceneReader:
    return SceneReader(OBS_ID, {"s2": Raster(path=path, sha256=sha256(path))}, GRID, bands)


def test_a_scene_is_read_block_row_by_block_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, grid, _ = make_site(tmp_path, height=600)
    folder = tmp_path / OBS_ID
    rasters = {row["product"]: Raster(path=tmp_path / row["path"], sha256=row["sha256"]) for row in rows}
    whole = encode(raster.read(folder / "s2.tif", bands=BANDS[:3]), raster.read(folder / "s1.tif", bands=BANDS[3:]))
    read = raster.read
    windows = []
    monkeypatch.setattr(
        raster, "read", lambda *args, **kwargs: (windows.append(kwargs["window"]), read(*args, **kwargs))[1]
    )
    with SceneReader(OBS_ID, rasters, grid, BANDS) as stack:
        assert stack.shape == whole.shape
        for first, last in ((0, 100), (100, 290), (290, 300), (300, 600)):
            np.testing.assert_array_equal(stack[:, first:last, 0:150], whole[:, first:last])
            np.testing.assert_array_equal(stack[1:3, first:last, 20:33], whole[1:3, first:last, 20:33])
        assert [window.row for window in windows] == [0, 0, 256, 256, 512, 512]
        np.testing.assert_array_equal(stack.read(), whole)
        part = Window(row=7, col=9, height=300, width=21)
        np.testing.assert_array_equal(stack.read(part), whole[(slice(None), *part.slices)])


def test_a_raster_with_other_bytes_is_refused(tmp_path: Path, scene: SceneReader) -> None:
    path = tmp_path / "s2.tif"
    content, before = bytearray(path.read_bytes()), sha256(path)
    content[-1] ^= 1
    path.write_bytes(content)
    message = (
        f"observation {OBS_ID}, {path}: got SHA-256 {sha256(path)}; expected SHA-256 {before}, as the manifest of "
        "scenes says; bring it back with dvc checkout export, or make it again with dvc repro -f export"
    )
    with pytest.raises(InputError) as error, scene:
        pass
    assert str(error.value) == message
    path.unlink()
    with pytest.raises(InputError, match=rf"observation {OBS_ID}, .*s2.tif: got no such file; expected SHA-256"), scene:
        pass


@pytest.mark.parametrize("how", ["replaced", "rewritten", "removed"])
def test_a_raster_that_changes_while_it_is_read_is_refused(tmp_path: Path, scene: SceneReader, how: str) -> None:
    path = tmp_path / "s2.tif"
    other = raster.read(path, bands=BANDS[:3]) + np.uint16(1)

    def change() -> None:
        scene.read(Window(row=0, col=0, height=5, width=5))
        if how == "removed":
            path.unlink()
            return
        raster.write_cog(tmp_path / "other.tif", other, GRID, bands=BANDS[:3], nodata=0)
        if how == "replaced":
            (tmp_path / "other.tif").replace(path)
        else:
            path.write_bytes((tmp_path / "other.tif").read_bytes())
        scene.read(Window(row=5, col=0, height=5, width=5))

    with pytest.raises(InputError, match=rf"observation {OBS_ID}, .*s2.tif: got a file that was changed while"), scene:
        change()


def test_a_raster_that_is_touched_by_links_alone_is_taken(tmp_path: Path, scene: SceneReader) -> None:
    """DVC may link it to other places at any time."""
    with scene:
        os.link(tmp_path / "s2.tif", tmp_path / "link.tif")


def test_a_product_that_was_not_exported_is_named(tmp_path: Path, scene: SceneReader) -> None:
    with pytest.raises(InputError, match=rf"observation {OBS_ID}: got no s1 among what was exported; expected raster"):
        reader(tmp_path / "s2.tif", BANDS)


def test_a_product_that_may_be_lacking_has_no_data(scene: SceneReader, tmp_path: Path) -> None:
    path = tmp_path / "s2.tif"
    rasters = {"s2": Raster(path=path, sha256=sha256(path))}
    with SceneReader(OBS_ID, rasters, GRID, BANDS, may_lack=BANDS[3:]) as without, scene:
        pixels = without.read()
        np.testing.assert_array_equal(pixels[:3], scene.read())
        assert (pixels[3:] == NODATA).all()
        assert pixels.shape == (len(BANDS), *GRID.shape) == without.shape
    with pytest.raises(InputError, match=r"got no s1 among what .* trained with train\.radar_dropout"):
        SceneReader(OBS_ID, rasters, GRID, BANDS)
    with pytest.raises(InputError, match="got no s1"):  # all of a product's bands, or it is needed
        SceneReader(OBS_ID, rasters, GRID, BANDS, may_lack=BANDS[:1])
