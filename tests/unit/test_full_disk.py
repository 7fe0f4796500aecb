"""On a disk that fills up, every writer either writes what it would have, or says so in one line and leaves nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from sandwatch import raster, report
from sandwatch.audit.folders import whole_folder
from sandwatch.errors import InputError
from sandwatch.files import exactly, sha256, whole, write_bytes, write_json, write_npy
from sandwatch.grid import Grid
from sandwatch.parquet import write_parquet
from tests.disks import SmallDisk, small_disk, small_files

SHARES = np.linspace(0, 1.3, 15)
"""Of the room that a file takes, how much there is."""
GRID = Grid(crs="EPSG:32645", left=380_000.0, top=2_246_000.0, width=280, height=260)
NOISE = np.random.default_rng(0).integers(1, 3000, (2, *GRID.shape), dtype=np.uint16)


def cog(path: Path) -> None:
    raster.write_cog(path.with_suffix(".tif"), NOISE, GRID, bands=("B2", "B3"), nodata=0)


def cog_by_rows(path: Path) -> None:
    with raster.cog_by_rows(path.with_suffix(".tif"), GRID, band="score", dtype="uint16", nodata=0, tags={}) as write:
        for row in range(0, GRID.height, 70):
            write(row, NOISE[0, row : row + 70])


def npy(path: Path) -> None:
    write_npy(path.with_suffix(".npy"), NOISE)


def parquet(path: Path) -> None:
    write_parquet(
        {"chip_id": [str(value) for value in NOISE[0].ravel()[:15_000]], "n": NOISE[0].ravel()[:15_000]}, path
    )


def geoparquet(path: Path) -> None:
    points = gpd.GeoSeries(shapely.points(NOISE.reshape(-1, 2)[:4_000] / 100), crs="EPSG:4326")
    write_parquet(gpd.GeoDataFrame({"n": range(4_000)}, geometry=points), path)


def json(path: Path) -> None:
    write_json(path, NOISE[0, :100].tolist())


def text(path: Path) -> None:
    with whole(path) as partial:
        partial.write_text("sand" * 20_000, encoding="utf-8")


def csv(path: Path) -> None:
    with whole(path) as partial:
        pd.DataFrame(NOISE[0, :100]).to_csv(partial, index=False)


def png(path: Path) -> None:
    with report._figure(path.with_suffix(".png"), 2, 2) as figure:
        figure.figimage(NOISE[0])


def safetensors(path: Path) -> None:
    import torch

    from sandwatch.model.weights import save

    save(path.with_suffix(".safetensors"), {"a": torch.from_numpy(NOISE.astype(np.int32))}, {"spec": "{}"})


WRITERS = (cog, cog_by_rows, npy, parquet, geoparquet, json, text, csv, png, safetensors)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("disks") / "small", 8 << 20) as mounted:
        yield mounted


def sweep(
    write: Callable[[Path], None], folder: Path, reference: Path, leaving: Callable[[int], Any], *, step: int = 1
) -> list[str]:
    """Writes with more and more room; which sizes failed, after a look at what lies there."""
    write(reference / "thing")
    (right,) = reference.iterdir()
    told, out = [], folder / write.__name__
    for share in SHARES[::step]:
        out.mkdir(parents=True, exist_ok=True)
        with leaving(int(share * right.stat().st_size)):
            try:
                write(out / "thing")
            except InputError as error:
                told.append(str(error))
        found = list(out.iterdir())
        assert [path.name for path in found] == ([] if len(told) and not found else [right.name])
        assert all(path.read_bytes() == right.read_bytes() for path in found)
        for path in found:
            path.unlink()
    return told


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk(write: Callable[[Path], None], disk: SmallDisk, tmp_path: Path) -> None:
    @contextmanager
    def leaving(size: int) -> Iterator[None]:
        disk.leave(size)
        yield

    told = sweep(write, disk.root, tmp_path, leaving)
    assert 5 < len(told) < len(SHARES)
    assert all("No space left on device, with" in line for line in told)
    assert "expected room for 0." in told[-1]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_may_not_grow(write: Callable[[Path], None], tmp_path: Path) -> None:
    told = sweep(write, tmp_path / "there", tmp_path / "reference", small_files, step=4)
    assert len(told) == 3
    assert all("File too large" in line for line in told)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/a\.json: got File exists; expected a file that can be written"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(InputError, match=r"/proc/none/a\.json: got No such file"):
        write_bytes(Path("/proc/none/a.json"), b"")


def test_errors_of_others_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), whole(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()


def test_a_folder_is_whole_or_nothing(disk: SmallDisk) -> None:
    disk.leave(100_000)
    with (
        pytest.raises(InputError, match=r"No space left on device, with .* expected more; free some"),
        whole_folder(disk.root / "release", replaces=lambda _: True, of="another") as made,
    ):
        (made / "model").write_bytes(bytes(200_000))
    assert not list(disk.root.glob("*release*"))


def test_a_folder_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a/s2.tif", "a/.DS_Store", "a/s2.tif.aux.xml", "item.json"):
        write_bytes(tmp_path / name, b"sand")
    written = {"a/s2.tif": sha256(tmp_path / "a/s2.tif"), "item.json": None}
    exactly(tmp_path, written)
    for changed, got in (
        ({**written, "b.tif": None}, r"b\.tif: got no file"),
        ({"item.json": None}, r"a/s2\.tif: got a file that this run did not write"),
        ({**written, "a/s2.tif": "0" * 64}, r"a/s2\.tif: got other bytes"),
    ):
        with pytest.raises(InputError, match=got):
            exactly(tmp_path, changed)
