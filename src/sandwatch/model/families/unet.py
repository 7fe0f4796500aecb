"""The U-Nets of the predecessor: small, original, and one of residual blocks.

Written from Ronneberger et al. 2015, arXiv 1505.04597, with padding and batch normalisation; widths and blocks are
those of the predecessor's networks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.model.network import Unet


def build(model: Unet, in_channels: int, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    widths, block = DESIGNS[model.design]
    step = 1 << (len(widths) - 1)
    if size_px % step:
        raise InputError(
            "params.yaml: chips.size_px",
            got=size_px,
            expected=f"a multiple of {step}, since this U-Net halves the resolution {len(widths) - 1} times",
            fix="change it, or params.yaml: model.design",
        )
    network = Network(in_channels, widths, block, model.logits)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Plain(nn.Sequential):
    """Two convolutions."""

    def __init__(self, before: int, after: int) -> None:
        """Takes the channels before and after."""
        super().__init__(*_convolution(before, after), *_convolution(after, after))


class Residual(nn.Module):
    """Two convolutions, to which a linear map of what went in is added."""

    def __init__(self, before: int, after: int) -> None:
        """Takes the channels before and after."""
        super().__init__()
        self.skip = nn.Conv2d(before, after, 1, bias=False)
        self.convolutions = Plain(before, after)

    def forward(self, seen: Tensor) -> Tensor:
        """(n, before, y, x) to (n, after, y, x)."""
        return torch.relu(self.convolutions(seen) + self.skip(seen))


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()


DESIGNS: dict[str, tuple[tuple[int, ...], Callable[[int, int], nn.Module]]] = {
    "small": ((64, 128, 256, 512), Plain),
    "original": ((64, 128, 256, 512, 1024), Plain),
    "residual": ((64, 128, 256, 512, 1024), Residual),
}
"""Channels at each resolution, finest first, and what computes them."""


class Encoder(nn.Module):
    """The contracting path."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], block: Callable[[int, int], nn.Module]) -> None:
        """Takes the channels of what is seen and of each resolution, and what computes them."""
        super().__init__()
        self.blocks = nn.ModuleList(block(before, after) for before, after in pairwise((in_channels, *widths)))

    def forward(self, seen: Tensor) -> list[Tensor]:
        """(n, channel, y, x) to the features of each resolution, finest first."""
        found = list[Tensor]()
        for block in self.blocks:
            found.append(block(nn.functional.max_pool2d(found[-1], 2) if found else seen))
        return found


class Network(nn.Module):
    """Contracts, and expands again beside what was seen at each resolution."""

    def __init__(
        self, in_channels: int, widths: tuple[int, ...], block: Callable[[int, int], nn.Module], classes: int
    ) -> None:
        """Takes the channels of what is seen and of each resolution, what computes them, and how many logits."""
        super().__init__()
        self.encoder = Encoder(in_channels, widths, block)
        upwards = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in upwards)
        self.blocks = nn.ModuleList(block(2 * fine, fine) for _, fine in upwards)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """float32 (n, channel, y, x) to logits (n, class, y, x)."""
        *finer, features = self.encoder(seen)
        for beside, up, block in zip(reversed(finer), self.up, self.blocks, strict=True):
            features = block(torch.cat([beside, up(features)], dim=1))
        logits: Tensor = self.head(features)
        return logits
