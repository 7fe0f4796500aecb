"""Tables, arrays, weights and lists with flipped bytes, cut off, of other types, or of nothing at all."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from sandwatch import params, schemas
from sandwatch.annotations import exclusions, geojson
from sandwatch.aoi import read_sites
from sandwatch.imagery.files import Files
from sandwatch.model.card import Spec
from sandwatch.origin import About
from sandwatch.train.data import Chips
from tests import tiny_chips
from tests.conftest import a_site
from tests.models import spec
from tests.torture import fuzz
from tests.torture.attack import ROOT, expect
from tests.unit.annotation_rows import manifest
from tests.unit.annotation_rows import params as annotation_params

MOST_TEXT = 6
SITES = (ROOT / "data/regions/sample/sites.csv").read_bytes()
EXCLUSIONS = b'id,pixels,reason\nf1,ignore,a reason\nf2,other,"another, with a comma"\n'
SCENES = (
    b"obs_id,product,path,bands,scale,offset\n"
    b'Bhargavi_1_2023-01-01,s2,a.tif,B4 B3 B2,1,0\nBhargavi_1_2023-01-01,s2,b.tif,"B4,B3,B2",10000,-1000\n'
)
ANNOTATIONS = b"obs_id,path\nnorth_2023-01-01,a.geojson\n"
ABOUT = b'{"label_fingerprint": "%s", "imagery": "real", "labels": "real"}' % (b"3" * 64)


class Attack:
    """Reads one of each."""

    share = 2.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Writes good ones."""
        chips = tiny_chips.write(scratch / "chips", {"a_2020-01-01": "train", "b_2020-01-01": "val"})
        schemas.Scenes.write(manifest(), scratch / "scenes.parquet")
        sites = pd.DataFrame({"site_id": ["a"], "obs_id": ["a_2020-01-01"]})
        schemas.CanonicalObservations.write(sites, scratch / "observations.parquet")
        self._scenes = (scratch / "scenes.parquet").read_bytes()
        self._observations = (scratch / "observations.parquet").read_bytes()
        self._windows = (chips / "windows.parquet").read_bytes()
        self._array = (chips / "pixels/a_2020-01-01.npy").read_bytes()
        self._mask = (chips / "masks/a_2020-01-01.npy").read_bytes()
        of = spec(bands=("B4",), batch_size=2, temperature=1.0, bias=0.0, threshold=0.5, label_fingerprint="1" * 64)
        save_file({"w": torch.arange(60.0)}, scratch / "weights.safetensors", metadata=of.header())
        self._weights = (scratch / "weights.safetensors").read_bytes()

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        readers: tuple[tuple[bytes, Callable[[bytes, Path], Any]], ...] = (
            (self._scenes, lambda data, at: schemas.Scenes.read(_put(at / "scenes.parquet", data))),
            (self._observations, lambda data, at: schemas.CanonicalObservations.read(_put(at / "o.parquet", data))),
            (self._windows, lambda data, at: schemas.Windows.read(_put(at / "windows.parquet", data))),
            (self._windows, lambda data, at: self._chips(at, windows=data)),
            (self._array, lambda data, at: self._chips(at, array=data)),
            (self._weights, lambda data, at: Spec.carried(_put(at / "w.safetensors", data))),
            (ABOUT, lambda data, at: About.read(_put(at / "about.json", data))),
            (SITES, lambda data, at: read_sites(_put(at / "sites.csv", data))),
            (EXCLUSIONS, lambda data, at: exclusions.read(_put(at / exclusions.FILE, data).parent)),
            (SCENES, _open_scenes),
            (ANNOTATIONS, _open_annotations),
        )
        good, read = draw.choice(readers)
        read(self._spoilt(draw, good), folder)
        return Counter(right=1)

    def _chips(self, folder: Path, *, windows: bytes | None = None, array: bytes | None = None) -> None:
        """Reads windows as training does: nothing but pixels of the arrays comes out."""
        _put(folder / "windows.parquet", windows or self._windows)
        for obs_id in ("a_2020-01-01", "b_2020-01-01"):
            _put(folder / f"pixels/{obs_id}.npy", self._array if array is None else array)
            _put(folder / f"masks/{obs_id}.npy", self._mask)
        chips = Chips(folder)
        pixels, masks = chips.gather(chips.of("train")[:4])
        size = tiny_chips.SIZE
        expect(pixels.dtype == np.int16 and pixels.shape[2:] == (size, size), "wrong", (pixels.dtype, pixels.shape))
        expect(masks.dtype == np.uint8 and masks.shape[1:] == (size, size), "wrong", (masks.dtype, masks.shape))

    def _spoilt(self, draw: Random, good: bytes) -> bytes:
        choice = draw.random()
        if choice < 0.05:
            return b""
        if choice < 0.2:
            return good[: draw.randrange(len(good))]
        if choice < 0.3 and good[:4] == b"PAR1":
            return _another_table(draw, good)
        if choice < 0.35 and good[:1] == b"\x93":
            return _another_array(draw)
        if choice < 0.6 and good[:1].isalpha() and good[:4] != b"PAR1":
            return _another_text(draw, good)
        return fuzz.spoilt_bytes(draw, good)


def _put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _open_scenes(data: bytes, folder: Path) -> None:
    _put(folder / "scenes.csv", data)
    Files.open(folder, bands=params.Bands(s2=("B4", "B3", "B2"), s1=()), places=[a_site()])


def _open_annotations(data: bytes, folder: Path) -> None:
    _put(folder / "a.geojson", b'{"type": "FeatureCollection", "features": []}')
    _put(folder / "annotations.csv", data)
    list(geojson.raw_rows(folder, annotation_params(source="geojson")))


def _another_text(draw: Random, good: bytes) -> bytes:
    """A CSV as programs and people break it."""
    lines = good.decode().splitlines(keepends=True)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        cells = lines[at].split(",")
        odd = draw.choice(
            ("", '"', '"a\n', "é" * 130, "a" * 250, "../../x", "\0", "=1", fuzz.text(draw, MOST_TEXT), "1e999", "nan")
        )
        cells[draw.randrange(len(cells))] = odd
        lines[at] = draw.choice(
            (",".join(cells), ",".join(cells) + "\n", lines[at] * 2, lines[at].replace(",", ";"), "")
        )
    text = "".join(lines)
    encoding = draw.choice(("utf-8", "utf-8-sig", "cp1252", "utf-16", "latin-1"))
    return text.encode("utf-8", "surrogatepass") if encoding == "utf-8" else text.encode(encoding, "replace")


def _another_table(draw: Random, good: bytes) -> bytes:
    """Parquet in order, with a column of another type, other values, or one more or less."""
    table = pq.read_table(io.BytesIO(good))
    name = draw.choice(table.column_names)
    count = draw.choice((0, 1, table.num_rows))
    table = table.slice(0, count)
    cells: Any = draw.choice(
        (None, fuzz.text(draw).encode("utf-8", "replace").decode(), float("nan"), float("inf"), -1.5, 2**62, True, -1,
         [1, 2], b"\xff", {"a": 1})
    )  # fmt: skip
    column = pa.array([cells] * count)
    index = table.column_names.index(name)
    change = draw.randrange(4)
    if change == 0:
        table = table.remove_column(index)
    elif change == 1:
        table = table.append_column(draw.choice((name, "more")), column)
    else:
        table = table.set_column(index, name, column)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _another_array(draw: Random) -> bytes:
    """An array in order, but another one; a pickle too, which nobody may load."""
    dtype = draw.choice(("int16", "uint8", "float64", "complex128", "U3", "O", "int16"))
    array = np.zeros(draw.choice(((0,), (3, 64, 112), (3, 0, 112), (3, 5, 5), (1, 1), (2, 3, 64, 112))), dtype)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()
