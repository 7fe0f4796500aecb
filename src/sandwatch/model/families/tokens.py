"""What networks of tokens share: bands in groups, positions as sines and cosines, and decoders over one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sandwatch._torchvision import ensure_torchvision
from sandwatch.model.entry import Known
from sandwatch.model.network import SENSOR_GROUPS, TokenDecoder

ensure_torchvision()
# After the guard, because it imports torchvision.
from timm.models.vision_transformer import Block  # noqa: E402

NDVI = "NDVI"
NARROW = 256
"""Width between the layers of a decoder. Source: Zheng et al. 2021, arXiv 2012.15840; the predecessor's."""


def transformer(width: int, depth: int, heads: int, *, epsilon: float) -> tuple[nn.Sequential, nn.LayerNorm]:
    """The blocks of a vision transformer (Dosovitskiy et al. 2021), and the norm that comes after them."""
    norm = partial(nn.LayerNorm, eps=epsilon)
    block = partial(Block, width, heads, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
    return nn.Sequential(*(block() for _ in range(depth))), norm(width)


def sincos(positions: Tensor, width: int, *, base: float) -> Tensor:
    """Sines, then cosines, of positions (n,) at wavelengths that grow to 2 pi ``base``: float32 (n, ``width``).

    Source: Vaswani et al. 2017, section 3.5, in the order of He et al. 2021 (MAE).
    """
    half = width // 2
    rates = base ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_plane(side: int, width: int, *, base: float, step: float = 1.0) -> Tensor:
    """:func:`sincos` of column, then of row, of each cell of a square: (``side`` x ``side``, ``width``), row by row."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = [sincos(place.flatten() * step, width // 2, base=base) for place in (column, row)]
    return torch.cat(parts, dim=1)


def months(width: int) -> Tensor:
    """Sine of each month's place in the year, then its cosine, each repeated: (12, ``width``).

    Source: Tseng et al. 2023, arXiv 2304.14065, section 3.2.
    """
    angles = torch.arange(12, dtype=torch.float64)[:, None] * (2 * math.pi / 12)
    return torch.cat([angles.sin().repeat(1, width // 2), angles.cos().repeat(1, width // 2)], dim=1).float()


class Groups:
    """Splits what a network sees into groups of bands of which each makes a token; NDVI is made on the way.

    Attributes:
        bands: how many bands each group has, by name, in order: those of ``SENSOR_GROUPS`` that are seen whole, and
            last NDVI where red and near infrared are seen.
    """

    def __init__(self, channels: Sequence[str], known: Sequence[Known]) -> None:
        """Takes the names of what the network sees, and the unit in which it sees them."""
        self._places = {
            name: [channels.index(band) for band in group]
            for name, group in SENSOR_GROUPS.items()
            if set(group) <= set(channels)
        }
        self.bands = {name: len(places) for name, places in self._places.items()}
        if {"B4", "B8"} <= set(channels):
            self.bands[NDVI] = 1
            self._ndvi = [
                (channels.index(one.name), one.mean or 0.0, one.std or 1.0)
                for band in ("B8", "B4")
                for one in known
                if one.name == band
            ]

    def split(self, seen: Tensor) -> dict[str, Tensor]:
        """(n, channel, y, x) to (n, band, y, x) of each group."""
        groups = {name: seen[:, places] for name, places in self._places.items()}
        if NDVI in self.bands:
            infrared, red = (seen[:, place] * std + mean for place, mean, std in self._ndvi)
            total = infrared + red
            index = torch.where(total > 0, (infrared - red) / total, 0.0)
            groups[NDVI] = index.clamp(-1.0, 1.0)[:, None]  # beyond only where a reflectance is negative
        return groups


class OneScale(nn.Module):
    """An encoder whose features all have one scale, and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Takes both."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, seen: Tensor) -> Tensor:
        """float32 (n, channel, y, x) to logits (n, class, y, x)."""
        logits: Tensor = self.decoder(self.encoder(seen), seen.shape[-1])
        return logits


def decoder(kind: TokenDecoder, features: int, classes: int) -> nn.Module:
    """A decoder.

    Args:
        kind: of params.yaml.
        features: how many there are a place.
        classes: logits a pixel.

    Returns:
        A module, from (n, feature, place, place) and the side of the window in pixels to (n, class, y, x).
    """
    kinds = {"linear": Linear, "upsample": Upsample, "convolutional": Convolutional}
    return kinds[kind](features, classes)


class Linear(nn.Module):
    """A linear layer over the features of each place, and bilinear interpolation."""

    def __init__(self, features: int, classes: int) -> None:
        """Takes how many there are."""
        super().__init__()
        self.head = nn.Conv2d(features, classes, 1)

    def forward(self, features: Tensor, side: int) -> Tensor:
        """As :func:`decoder` says."""
        return _resized(self.head(features), side)


class Upsample(nn.Module):
    """Two linear layers over each place, after each of which the map is interpolated: to half the window, to all of it.

    Source: Zheng et al. 2021, arXiv 2012.15840, "naive upsampling"; the norm over a whole map is the predecessor's, but
    for its scale, here one a channel and there one a place.
    """

    def __init__(self, features: int, classes: int) -> None:
        """Takes how many there are."""
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(features, NARROW, 1), nn.GroupNorm(1, NARROW), nn.ReLU())
        self.head = nn.Conv2d(NARROW, classes, 1)

    def forward(self, features: Tensor, side: int) -> Tensor:
        """As :func:`decoder` says."""
        half = max(features.shape[-1], side // 2)
        return _resized(self.head(_resized(self.narrow(features), half)), side)


class Convolutional(nn.Module):
    """Two 3x3 convolutions, which see what lies around a place; after each the map is doubled, if it isn't whole yet.

    Source: Zheng et al. 2021, "progressive upsampling", as short as the predecessor made it.
    """

    def __init__(self, features: int, classes: int) -> None:
        """Takes how many there are."""
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, NARROW, 3, padding=1), nn.BatchNorm2d(NARROW), nn.ReLU())
            for before in (features, NARROW)
        )
        self.head = nn.Conv2d(NARROW, classes, 1)

    def forward(self, features: Tensor, side: int) -> Tensor:
        """As :func:`decoder` says."""
        for step in self.steps:
            features = step(features)
            features = _resized(features, min(2 * features.shape[-1], side))
        return _resized(self.head(features), side)


def _resized(features: Tensor, side: int) -> Tensor:
    """Bilinear interpolation to a square."""
    if features.shape[-1] == side:
        return features
    return functional.interpolate(features, size=(side, side), mode="bilinear", align_corners=False)
