"""What networks of tokens share: NDVI of what is seen scaled, positions, and decoders that fill the window."""

import math

import pytest
import torch

from sandwatch.model.entry import Known
from sandwatch.model.families.tokens import Groups, decoder, months, sincos, sincos_plane
from sandwatch.model.registry import GALILEO_BANDS, PRESTO_BANDS


@pytest.mark.parametrize("known", [GALILEO_BANDS, PRESTO_BANDS])
def test_ndvi_is_that_of_reflectances(known: tuple[Known, ...]) -> None:
    names = ("VV", "B4", "VH", "B8")
    scale = {one.name: (one.mean, one.std) for one in known}
    pixels = {
        "VV": [-1000.0] * 4,
        "VH": [-2000.0] * 4,
        "B4": [1000.0, 0.0, 3000.0, 10.0],
        "B8": [3000.0, 0.0, 1000.0, -5.0],
    }
    seen = [(torch.tensor(pixels[name]) - (scale[name][0] or 0)) / (scale[name][1] or 1) for name in names]
    groups = Groups(names, known)
    assert groups.bands == {"S1": 2, "S2_NIR_10m": 1, "NDVI": 1}
    split = groups.split(torch.stack(seen).reshape(1, 4, 2, 2))
    torch.testing.assert_close(split["NDVI"].flatten(), torch.tensor([0.5, 0.0, -0.5, -1.0]), atol=1e-4, rtol=0)
    assert torch.equal(split["S1"], torch.stack([seen[0], seen[2]]).reshape(1, 2, 2, 2))


def test_positions_are_sines_then_cosines_of_column_then_row() -> None:
    plane = sincos_plane(5, 32, base=100.0, step=3.0).reshape(5, 5, 32)
    row, column, rate = 2, 4, 100.0 ** (-3 / 8)
    angles = [3 * column * rate, 3 * row * rate]
    expected = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1])]
    assert plane[row, column, [3, 11, 19, 27]].tolist() == pytest.approx(expected, abs=1e-6)
    assert sincos(torch.tensor([0]), 4, base=10.0).tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_months_go_around_the_year() -> None:
    table = months(4)
    assert table.shape == (12, 4)
    assert table[3].tolist() == pytest.approx([1, 1, 0, 0], abs=1e-6)
    assert table[6].tolist() == pytest.approx([0, 0, -1, -1], abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "upsample", "convolutional"])
@pytest.mark.parametrize("side", [1, 3, 7, 21])
def test_a_decoder_fills_the_window_and_keeps_places(kind: str, side: int) -> None:
    torch.manual_seed(0)
    network = decoder(kind, 5, 3).eval()  # type: ignore[arg-type]
    features = torch.randn(2, 5, side, side)
    with torch.inference_mode():
        logits = network(features, 21)
        turned = network(features.mT, 21)
    assert logits.shape == (2, 3, 21, 21)
    if kind != "convolutional":  # whose kernels have directions
        torch.testing.assert_close(turned.mT, logits, atol=1e-5, rtol=1e-4)
    if side > 1:
        other = features.clone()
        other[:, :, 0, side - 1] += 5.0
        with torch.inference_mode():
            change = (network(other, 21) - logits).abs().sum(dim=(0, 1))
        assert change[:7, -7:].sum() > change[-7:, :7].sum()
