"""Prithvi-EO 1 and 2: a plain transformer for six bands, here for a single date, without place and time.

Source: Jakubik et al., "Foundation Models for Generalist Geospatial Artificial Intelligence", arXiv 2310.18660;
Szwarcman et al., "Prithvi-EO-2.0", arXiv 2412.02732. The layers are terratorch's and timm's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.model.families.library import module_of
from sandwatch.model.network import Prithvi
from sandwatch.model.pyramid import STRIDES, evenly, padded_px, segmenter

ensure_torchvision()

from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402

SIZES = {"tiny": (192, 12, 3, 16), "100m": (768, 12, 12, 16), "300m": (1024, 24, 16, 16), "600m": (1280, 32, 16, 14)}
"""Width, blocks, heads, patch. Source: terratorch, prithvi_vit.py, prithvi_cfgs."""
TRAINED_PX = 224
"""Side of the images that it was trained on. Source: as that of the sizes."""


class Encoder(nn.Module):
    """The transformer, under Prithvi's own names."""

    pos_embed: Tensor

    def __init__(self, size: str, in_channels: int, size_px: int) -> None:
        """Builds it for windows of ``size_px``, a multiple of the patch."""
        super().__init__()
        width, depth, heads, self.patch = SIZES[size]
        whole: Any = module_of("terratorch", "models/backbones", "prithvi_mae", what="model.kind prithvi").PrithviViT(
            img_size=size_px, patch_size=self.patch, in_chans=in_channels, embed_dim=width, depth=depth, num_heads=heads
        )
        self.cls_token, self.blocks, self.norm = whole.cls_token, whole.blocks, whole.norm
        self.register_buffer("pos_embed", whole.pos_embed)
        # Over one date a convolution over space and time is one over space.
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, self.patch, self.patch)})

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float32 (n, channel, y, x) to four maps (n, width, y / patch, x / patch) of blocks that are evenly spaced.

        Each is normalised as the last is.
        """
        patches = self.patch_embed["proj"](pixels)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        found = []
        for block in self.blocks:
            tokens = block(tokens)
            found.append(tokens)
        maps = (self.norm(found[block])[:, 1:].transpose(1, 2) for block in evenly(len(found)))
        return [one.reshape(pixels.shape[0], -1, rows, columns) for one in maps]

    def prepared(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors for one date and our windows: position embeddings of the first date, resampled."""
        changed = {}
        first = state.get("patch_embed.proj.weight")
        if first is not None and first.ndim == 5 and first.shape[2] == 1:
            changed["patch_embed.proj.weight"] = first[:, :, 0]
        places, trained = state.get("pos_embed"), TRAINED_PX // self.patch
        if places is not None and places.ndim == 3 and places.shape[1] > trained * trained:
            side = math.isqrt(self.pos_embed.shape[1] - 1)
            one_date = places[:, : 1 + trained * trained]
            changed["pos_embed"] = resample_abs_pos_embed(one_date, [side, side], num_prefix_tokens=1)
        return state | changed


def build(model: Prithvi, in_channels: int, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    width, _, _, patch = SIZES[model.size]
    strides = (patch,) * len(STRIDES)
    return segmenter(
        model,
        Encoder(model.size, in_channels, padded_px(size_px, strides)),
        channels=(width,) * len(STRIDES),
        strides=strides,
        in_channels=in_channels,
        size_px=size_px,
    )
