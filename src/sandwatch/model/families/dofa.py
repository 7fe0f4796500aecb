"""DOFA: a plain transformer whose first layer is made, band by band, of their wavelengths.

Source: Xiong et al., "Neural Plasticity-Inspired Multimodal Foundation Model for Earth Observation", arXiv 2403.15356.
The layers are torchgeo's and timm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.channels import WAVELENGTH_NM
from sandwatch.model.families.library import module_of
from sandwatch.model.network import Dofa
from sandwatch.model.pyramid import STRIDES, evenly, padded_px, segmenter

ensure_torchvision()

from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402

PATCH = 16
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks, heads. Source: torchgeo, dofa_base_patch16_224() and dofa_large_patch16_224()."""
WAVELENGTH_UM = {band: nm / 1000 for band, nm in WAVELENGTH_NM.items()} | {
    "B2": 0.49, "B3": 0.56, "B4": 0.665, "B5": 0.705, "B6": 0.74, "B7": 0.783, "B8": 0.842, "B11": 1.61, "B12": 2.19,
}  # fmt: skip
"""Of the bands that it was trained with as it was told them, of others as they are. Source: zhu-xlab/DOFA, README."""


class Encoder(nn.Module):
    """The transformer, under DOFA's own names, for bands of given wavelengths."""

    wavelengths: Tensor

    def __init__(self, size: str, channels: Sequence[str], size_px: int) -> None:
        """Builds it for windows of ``size_px``, a multiple of the patch."""
        super().__init__()
        width, depth, heads = SIZES[size]
        whole: Any = module_of("torchgeo", "models", "dofa", what="model.kind dofa").DOFA(
            img_size=size_px, patch_size=PATCH, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
        )
        self.cls_token, self.pos_embed = whole.cls_token, whole.pos_embed
        self.patch_embed, self.blocks = whole.patch_embed, whole.blocks
        wavelengths = torch.tensor([WAVELENGTH_UM[channel] for channel in channels])
        self.register_buffer("wavelengths", wavelengths, persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float32 (n, channel, y, x) to four maps (n, width, y / 16, x / 16) of blocks that are evenly spaced.

        They are normalised without a scale of their own: the published files hold none.
        """
        tokens, _ = self.patch_embed(pixels, self.wavelengths)
        tokens = tokens + self.pos_embed[:, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        found = []
        for block in self.blocks:
            tokens = block(tokens)
            found.append(tokens)
        rows, columns = (side // PATCH for side in pixels.shape[-2:])
        maps = (functional.layer_norm(found[block], found[block].shape[-1:])[:, 1:] for block in evenly(len(found)))
        return [one.transpose(1, 2).reshape(pixels.shape[0], -1, rows, columns) for one in maps]

    def prepared(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors with the position embeddings of our windows, resampled from those of 224 px."""
        stored = state.get("pos_embed")
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if stored is None or stored.ndim != 3:
            return state
        return state | {"pos_embed": resample_abs_pos_embed(stored, [side, side], num_prefix_tokens=1)}


def build(model: Dofa, channels: Sequence[str], size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    if unknown := [channel for channel in channels if channel not in WAVELENGTH_UM]:
        raise InputError(
            "params.yaml: model.kind dofa",
            got=f"channels {', '.join(unknown)}",
            expected="bands of Sentinel-2: what scale of radar it was trained on is not published",
            fix="set bands.s1: [], or new_bands: leave_out beside weights",
        )
    strides = (PATCH,) * len(STRIDES)
    return segmenter(
        model,
        Encoder(model.size, channels, padded_px(size_px, strides)),
        channels=(SIZES[model.size][0],) * len(STRIDES),
        strides=strides,
        in_channels=len(channels),
        size_px=size_px,
    )
