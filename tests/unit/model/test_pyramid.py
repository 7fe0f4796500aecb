"""Any decoder over any encoder's feature maps: the right size, the right place, and no part that learns nothing."""

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from sandwatch.model.network import Decoder
from sandwatch.model.pyramid import STRIDES, Segmenter, evenly, padded_px

DECODERS = get_args(Decoder)
KINDS = {"pyramid": STRIDES, "patch 16": (16,) * 4, "patch 14": (14,) * 4, "patch 8": (8,) * 4, "patch 32": (32,) * 4}
CHANNELS = {"pyramid": (8, 12, 16, 24)}
BANDS = 3


class Encoder(nn.Module):
    """Feature maps of some strides, each a convolution of the pixels."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        parts = zip(channels, strides, strict=True)
        self.maps = nn.ModuleList(nn.Conv2d(BANDS, count, stride, stride) for count, stride in parts)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [one(pixels) for one in self.maps]


def segmenter(kind: str, decoder: Decoder, classes: int = 1) -> Segmenter:
    torch.manual_seed(0)
    channels = CHANNELS.get(kind, (24,) * 4)
    return Segmenter(
        Encoder(channels, KINDS[kind]),
        channels=channels,
        strides=KINDS[kind],
        in_channels=BANDS,
        decoder=decoder,
        width=32,
        classes=classes,
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_as_large_as_windows_and_every_part_learns(kind: str, decoder: Decoder) -> None:
    network = segmenter(kind, decoder, classes=3).eval()
    assert {name.split(".")[0] for name in network.state_dict()} <= {"encoder", "neck", "decoder", "head"}
    with torch.no_grad():
        for size_px in (160, 224):
            assert network(torch.randn(1, BANDS, size_px, size_px)).shape == (1, 3, size_px, size_px)
    logits = network(torch.randn(2, BANDS, 96, 96))
    assert logits.shape == (2, 3, 96, 96)
    logits.square().sum().backward()
    # A linear probe reads the last feature map alone; these encoders make each by a convolution of its own.
    used = [(n, p) for n, p in network.named_parameters() if decoder != "linear" or n.startswith("head")]
    assert [name for name, part in used if part.grad is None or not part.grad.any()] == []


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_single_window_can_be_learnt_from(decoder: Decoder) -> None:
    network = segmenter("patch 16", decoder).train()
    network(torch.randn(1, BANDS, 64, 64)).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_at_a_place_is_said_of_that_place(kind: str) -> None:
    """Padding, patches that are no power of two, and cropping move nothing."""
    network = segmenter(kind, "linear").eval()
    last = network.get_submodule("encoder.maps.3")
    with torch.no_grad():
        for part in (last.weight, network.head.weight):
            part.fill_(1.0)
    cell = KINDS[kind][-1]
    row, column = (160 // cell - 2) * cell, cell  # of a cell near one corner, so that a mirrored map shows
    pixels = torch.zeros(1, BANDS, 160, 160)
    pixels[..., row : row + cell, column : column + cell] = 1.0
    said = divmod(int(network(pixels)[0, 0].argmax()), 160)
    assert said == (pytest.approx(row + cell / 2, abs=1), pytest.approx(column + cell / 2, abs=1))


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "linear"])
@pytest.mark.parametrize("kind", ["pyramid", "patch 14"])
@torch.no_grad()
def test_every_level_of_a_pyramid_is_read(kind: str, decoder: Decoder) -> None:
    """Taking any of them away changes what comes out."""
    network = segmenter(kind, decoder).eval()
    pixels = torch.randn(1, BANDS, 64, 64)
    before = network(pixels)
    for level in range(4):
        handle = network.get_submodule(f"encoder.maps.{level}").register_forward_hook(lambda _, __, out: out * 0)
        assert not torch.equal(network(pixels), before)
        handle.remove()


def test_a_u_net_sees_the_pixels_themselves_at_half_the_resolution() -> None:
    network = segmenter("patch 16", "unet").eval()
    assert network.get_parameter("neck.detail.0.weight").shape[1] == BANDS
    assert "neck.detail.0.weight" not in segmenter("patch 16", "fpn").state_dict()


def test_windows_are_padded_to_whole_cells_of_the_coarsest_level() -> None:
    assert [padded_px(size, (14,) * 4) for size in (96, 112, 160, 224)] == [112, 112, 168, 224]
    assert [padded_px(size, (16,) * 4) for size in (96, 100)] == [96, 128]
    assert [padded_px(160, strides) for strides in (STRIDES, (8,) * 4, (32,) * 4)] == [160, 160, 160]


def test_blocks_are_evenly_spaced_and_the_last_is_one() -> None:
    assert evenly(24) == (5, 11, 17, 23)
    assert evenly(12) == (2, 5, 8, 11)
