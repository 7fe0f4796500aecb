from typing import Any

import numpy as np
import pytest
import torch

from sandwatch.stack import NODATA
from sandwatch.train.augment import Variation, augment
from tests import training


def orientations(*, flips: bool, quarter_turns: bool, samples: int = 400) -> list[bytes]:
    """What became of one asymmetric image, after checking that mask and every band went the same way."""
    image = torch.arange(16, dtype=torch.int16).view(4, 4)
    pixels = torch.stack([image, image + 100]).expand(samples, 2, 4, 4)
    mask = image.to(torch.uint8).expand(samples, 4, 4)
    turned, turned_mask = augment(
        pixels, mask, torch.Generator().manual_seed(0), flips=flips, quarter_turns=quarter_turns
    )
    assert (turned.dtype, turned_mask.dtype) == (torch.int16, torch.uint8)
    torch.testing.assert_close(turned[:, 0].to(torch.uint8), turned_mask)
    torch.testing.assert_close(turned[:, 1] - 100, turned[:, 0])
    return [sample.numpy().tobytes() for sample in turned_mask]


IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)
TURNS = {np.rot90(IMAGE, k).tobytes() for k in range(4)}
MIRRORS = {image.tobytes() for image in (IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE[::-1, ::-1])}
BOTH = TURNS | {np.rot90(IMAGE[::-1], k).tobytes() for k in range(4)}


@pytest.mark.parametrize(
    ("flips", "quarter_turns", "expected"),
    [(False, False, {IMAGE.tobytes()}), (False, True, TURNS), (True, False, MIRRORS), (True, True, BOTH)],
)
def test_augmentation_gives_each_orientation_as_often(flips: bool, quarter_turns: bool, expected: set[bytes]) -> None:
    found = orientations(flips=flips, quarter_turns=quarter_turns)
    assert set(found) == expected
    times = [found.count(image) for image in expected]
    assert min(times) > 0.6 * len(found) / len(expected)


def test_augmentation_depends_on_the_seed_alone() -> None:
    assert orientations(flips=True, quarter_turns=True) == orientations(flips=True, quarter_turns=True)


BANDS, MEAN, STD = ("B2", "VV", "B4", "VH"), (900.0, -1200.0, 2000.0, -1900.0), (150.0, 300.0, 500.0, 250.0)
WINDOWS, SIZE = 64, 12


def scenes() -> torch.Tensor:
    """int16 (n, band, y, x) within three deviations, with a corner of no data."""
    draw = np.random.default_rng(0)
    values = draw.uniform(-3, 3, (WINDOWS, len(BANDS), SIZE, SIZE)) * np.array(STD)[:, None, None]
    pixels = torch.from_numpy(np.rint(values + np.array(MEAN)[:, None, None]).astype(np.int16))
    pixels[:, :2, :3, :3] = NODATA
    return pixels


def varied(pixels: torch.Tensor, seed: int = 0, **changes: Any) -> torch.Tensor:
    made: torch.Tensor = Variation(training.section(**changes), BANDS, MEAN, STD)(
        pixels, torch.Generator().manual_seed(seed)
    )
    return made


def deviations(pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    """float64 (n, band, value), of all pixels but the corner."""
    scaled = (pixels.double().numpy() - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    scaled[:, :, :3, :3] = np.nan
    return scaled.reshape(*scaled.shape[:2], -1)[:, :, 3 * SIZE :]


def test_nothing_changes_and_nothing_is_drawn_where_all_is_off() -> None:
    pixels, generator = scenes(), torch.Generator().manual_seed(5)
    same = Variation(training.section(), BANDS, MEAN, STD)(pixels, generator)
    assert same is pixels
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


@pytest.mark.parametrize("name", ["gain", "offset", "noise", "gamma"])
def test_radiometry_changes_each_band_of_each_window_by_its_own_draw(name: str) -> None:
    pixels = scenes()
    made = varied(pixels, radiometry={name: 0.4})
    assert made.dtype == torch.float32
    assert torch.equal(made == NODATA, pixels == NODATA)
    before, after = deviations(pixels), deviations(made)
    # The least-squares line through a band of a window: how it was scaled, how it was moved, and what is left.
    centred = before - before.mean(axis=2, keepdims=True)
    slope = (centred * after).sum(axis=2) / (centred**2).sum(axis=2)
    intercept = after.mean(axis=2) - slope * before.mean(axis=2)
    left = (after - slope[:, :, None] * before - intercept[:, :, None]).std(axis=2)
    drawn = {"gain": slope - 1, "offset": intercept, "noise": left, "gamma": left}[name]
    assert len(np.unique(drawn.round(6))) == drawn.size
    if name == "gamma":
        within = np.abs(before) < 2
        np.testing.assert_allclose(after[~within], before[~within], atol=1e-3)
        assert (np.abs(after[within]) <= 2.001).all()
        power = np.log(after[within] / 4 + 0.5) / np.log(before[within] / 4 + 0.5)
        assert 1 / 1.4 - 0.01 < np.percentile(power, 1) < 0.8
        assert 1.3 < np.percentile(power, 99) < 1.41
        return
    low = 0 if name == "noise" else -0.4
    assert low - 0.05 <= drawn.min() < low + 0.1
    assert 0.3 < drawn.max() < 0.46
    if name != "gain":
        assert np.abs(slope - 1).max() < 0.15
    if name != "noise":
        assert left.max() < 1e-3


def test_radar_is_dropped_whole_and_alone() -> None:
    pixels = scenes()
    made = varied(pixels, radar_dropout=0.3)
    assert made.dtype == torch.int16
    radar = torch.tensor([False, True, False, True])
    gone = (made[:, radar] == NODATA).all(dim=3).all(dim=2).all(dim=1)
    assert 0.15 < gone.float().mean() < 0.45
    assert torch.equal(made[~gone], pixels[~gone])
    assert torch.equal(made[:, ~radar], pixels[:, ~radar])


def test_variation_depends_on_the_seed_alone() -> None:
    every: dict[str, Any] = {
        "radiometry": {"gain": 0.1, "offset": 0.1, "noise": 0.1, "gamma": 0.1},
        "radar_dropout": 0.5,
    }
    assert torch.equal(varied(scenes(), 1, **every), varied(scenes(), 1, **every))
    assert not torch.equal(varied(scenes(), 1, **every), varied(scenes(), 2, **every))
