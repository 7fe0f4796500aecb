"""TerraMind 1.0: one transformer for the patches of Sentinel-2 and Sentinel-1 together.

Source: Jakubik et al., "TerraMind: Large-Scale Generative Multimodality for Earth Observation", arXiv 2504.11171. The
layers are terratorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.families.library import module_of
from sandwatch.model.network import TerraMind
from sandwatch.model.pyramid import STRIDES, evenly, padded_px, segmenter

ensure_torchvision()

from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402

L1C = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
L2A = tuple(band for band in L1C if band != "B10")
RADAR = ("VV", "VH")
MODALITIES = {L2A: "untok_sen2l2a@224", L1C: "untok_sen2l1c@224", RADAR: "untok_sen1grd@224"}
"""What sees which bands, by TerraMind's own names. Source: terratorch, terramind_register.py, PRETRAINED_BANDS."""
PATCH = 16
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks, heads. Source: terratorch, terramind_register.py."""
GATED = ("base", "large")
"""Sizes whose blocks have gated layers with SiLU, and no biases. Source: as that of the sizes."""


class Encoder(nn.Module):
    """The transformer, and the embeddings of the bands at hand, under TerraMind's own names."""

    def __init__(self, size: str, channels: Sequence[str], size_px: int) -> None:
        """Builds it for windows of ``size_px``, a multiple of the patch."""
        super().__init__()
        width, depth, heads = SIZES[size]
        self.places = {MODALITIES[bands]: [channels.index(band) for band in bands] for bands in seen_by(channels)}
        folder = "models/backbones/terramind/model"
        embeddings: Any = module_of("terratorch", folder, "encoder_embeddings", what="model.kind terramind")
        layers: Any = module_of("terratorch", folder, "tm_utils", what="model.kind terramind")
        self.encoder_embeddings = nn.ModuleDict(
            {
                name: embeddings.ImageEncoderEmbedding(
                    num_channels=len(places), patch_size=PATCH, dim_tokens=width, image_size=size_px
                )
                for name, places in self.places.items()
            }
        )
        norm, gated = partial(layers.LayerNorm, eps=1e-6, bias=False), size in GATED
        biases = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias"), not gated)
        act = nn.SiLU if gated else nn.GELU
        self.encoder = nn.ModuleList(
            layers.Block(width, heads, norm_layer=norm, gated_mlp=gated, act_layer=act, **biases) for _ in range(depth)
        )
        self.encoder_norm = norm(width)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float32 (n, channel, y, x) to four maps (n, width, y / 16, x / 16) of blocks that are evenly spaced.

        Each is normalised as the last is, and the mean of what both sensors have there (Source: terratorch,
        ``merge_method``, whose default it is).
        """
        parts = []
        for name, places in self.places.items():
            embedded = self.encoder_embeddings[name](pixels[:, places])
            parts.append(embedded["x"] + embedded["emb"])
        tokens = torch.cat(parts, dim=1)
        found = []
        for block in self.encoder:
            tokens = block(tokens)
            found.append(tokens)
        rows, columns = (side // PATCH for side in pixels.shape[-2:])
        maps = []
        for number in evenly(len(found)):
            merged = self.encoder_norm(found[number]).unflatten(1, (len(parts), -1)).mean(dim=1)
            maps.append(merged.transpose(1, 2).reshape(pixels.shape[0], -1, rows, columns))
        return maps

    def prepared(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors with the position embeddings of our windows, resampled from those of 224 px."""
        resampled = {}
        for name, ours in self.state_dict().items():
            stored = state.get(name)
            if name.endswith(".pos_emb") and stored is not None and stored.ndim == 3:
                side = math.isqrt(ours.shape[1])
                resampled[name] = resample_abs_pos_embed(stored, [side, side], num_prefix_tokens=0)
        return state | resampled


def seen_by(channels: Sequence[str]) -> list[tuple[str, ...]]:
    """Which of :data:`MODALITIES` see these channels, optical bands first; none where some channel is left over."""
    optical = next((bands for bands in (L1C, L2A) if {*bands} <= {*channels}), ())
    found = [bands for bands in (optical, RADAR) if bands and {*bands} <= {*channels}]
    return found if {*channels} == {band for bands in found for band in bands} else []


def build(model: TerraMind, channels: Sequence[str], size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    if not seen_by(channels):
        raise InputError(
            "params.yaml: model.kind terramind",
            got=f"channels {', '.join(channels)}",
            expected="the 12 bands of L2A or the 13 of L1C, or VV and VH, or radar beside one of the others",
            fix="name weights of terramind, set new_bands: leave_out, and say what stands for a band that scenes lack",
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
