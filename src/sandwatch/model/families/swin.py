"""Swin transformers, second version, of torchvision, with a decoder over the pyramid of their four stages."""

from __future__ import annotations

from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.model.network import Swin
from sandwatch.model.pyramid import STRIDES, segmenter

STAGES = (1, 3, 5, 7)
"""Of torchvision's ``features``: the last layer of each stage; between them lie those that merge patches."""


class Encoder(nn.Module):
    """The stages of a Swin transformer, under torchvision's names, without what classifies whole images."""

    def __init__(self, features: nn.Sequential) -> None:
        """Takes the layers of torchvision's network, first layer and all."""
        super().__init__()
        self.features = features

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float32 (n, channel, y, x) to four feature maps (n, c, y, x), of strides 4 to 32."""
        stages, seen = [], pixels
        for place, layer in enumerate(self.features):
            seen = layer(seen)  # (n, y, x, c)
            if place in STAGES:
                stages.append(seen.permute(0, 3, 1, 2))
        return stages


def build(model: Swin, in_channels: int, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    ensure_torchvision()
    from torchvision import models

    features = models.get_model(model.backbone, weights=None).features
    first = features[0][0]
    features[0][0] = nn.Conv2d(in_channels, first.out_channels, first.kernel_size, first.stride)
    return segmenter(
        model,
        Encoder(features),
        channels=[first.out_channels * 2**stage for stage in range(len(STAGES))],
        strides=STRIDES,
        in_channels=in_channels,
        size_px=size_px,
    )
