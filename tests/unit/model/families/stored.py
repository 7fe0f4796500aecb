"""Published weights made up for a test, real ones where they are, and what every family must do with a scene."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sandwatch.files import sha256
from sandwatch.model.cache import PLACE, place
from sandwatch.model.network import Model
from sandwatch.model.predictor import Reader
from sandwatch.model.registry import entry
from sandwatch.train.initial import Initial, initial

REAL = "SANDWATCH_REAL_WEIGHTS"
"""Environment variable: a folder with the files that publishers have."""
RULES = {"missing_bands": "refuse", "new_bands": "leave_out", "standardise": "none", "method": "binary"}
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12", "VV", "VH")
MOMENTS = {band: (1000.0 + 10 * number, 300.0) for number, band in enumerate(BANDS)}
OPTICAL = tuple(band for band in BANDS if band.startswith("B"))


def section(**keys: Any) -> Model:
    """The section ``model`` of a kind."""
    values = {"weights": None} | RULES | keys
    return Model.variant(values).model_validate(values)


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes, each of other numbers, small enough for a network to stay finite."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.empty(shape).normal_(std=0.05, generator=generator) for name, shape in shapes.items()}


def blocks(prefix: str, width: int, depth: int, attention: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of a transformer's blocks; ``attention`` has the rows of each of its layers, in widths."""
    shapes = dict[str, tuple[int, ...]]()
    for number in range(depth):
        at = f"{prefix}{number}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        for layer, rows in attention.items():
            shapes |= {f"{at}attn.{layer}.weight": (rows * width, width), f"{at}attn.{layer}.bias": (rows * width,)}
        shapes |= {f"{at}mlp.fc1.weight": (4 * width, width), f"{at}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{at}mlp.fc2.weight": (width, 4 * width), f"{at}mlp.fc2.bias": (width,)}
    return shapes


def published(name: str, content: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Puts a file where weights of the registry are kept, and returns what pins it."""
    monkeypatch.setenv(PLACE, str(folder))
    path = place(entry(name))
    torch.save(content, path)
    return {"name": name, "sha256": sha256(path)}


def real(name: str, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Puts a real file there, and returns the name of the weights; skips where it isn't at hand."""
    if not os.environ.get(REAL):
        pytest.skip(f"{REAL} names no folder with {file}: the real weights of {name} are NOT checked")
    monkeypatch.setenv(PLACE, str(folder))
    place(entry(name)).symlink_to(Path(os.environ[REAL]) / file)
    return name


def begun(model: Model, bands: tuple[str, ...], size_px: int, folder: Path) -> Initial:
    """A network before it learns, with the same random numbers each time."""
    torch.manual_seed(0)
    return initial(model, bands, MOMENTS, size_px, folder)


def scene(bands: tuple[str, ...], size_px: int) -> npt.NDArray[np.int16]:
    """A window of invented pixels."""
    rng = np.random.default_rng(2)
    optical = [rng.integers(100, 5000, (size_px, size_px)) for _ in bands]
    return np.stack([p - 6000 if b.startswith("V") else p for b, p in zip(bands, optical, strict=True)])[None].astype(
        np.int16
    )


def scores(initial: Initial, bands: tuple[str, ...], pixels: npt.NDArray[np.int16]) -> torch.Tensor:
    """Logits of a window."""
    reader = Reader(initial.match.channels, bands)
    with torch.inference_mode():
        logits: torch.Tensor = initial.network.eval()(reader(torch.from_numpy(pixels.copy())))
    return logits


def same_whatever_the_order_and_unit(begin: Callable[[tuple[str, ...]], Initial], size_px: int) -> None:
    """One scene in two orders of bands, and in two units, gets the same scores; another scene others."""
    pixels = scene(BANDS, size_px)
    before = begin(BANDS)
    expected = scores(before, BANDS, pixels)
    assert expected.shape == (1, 1, size_px, size_px)

    def apart(found: torch.Tensor) -> float:
        return float((found - expected).abs().max() / expected.std())

    assert apart(scores(before, BANDS, np.roll(pixels, 3, axis=3))) > 0.1
    turned = BANDS[::-1]
    assert apart(scores(begin(turned), turned, pixels[:, ::-1])) < 1e-4
    doubled = [c.model_copy(update={"mean": 2 * c.mean, "std": 2 * c.std}) for c in before.match.channels]
    twice = replace(before, match=replace(before.match, channels=tuple(doubled)))
    assert apart(scores(twice, BANDS, 2 * pixels)) < 1e-4
