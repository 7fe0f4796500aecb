"""Plain vision transformers of timm, by name, with a decoder over a pyramid of their blocks."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.network import Vit
from sandwatch.model.pyramid import STRIDES, evenly, padded_px, segmenter

ensure_torchvision()

import timm  # noqa: E402
from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402


class Encoder(VisionTransformer):
    """A transformer of timm, under its own names, that gives feature maps of four of its blocks."""

    def forward(self, pixels: Tensor) -> list[Tensor]:  # type: ignore[override]
        """float32 (n, channel, y, x) to four of (n, width, y / patch, x / patch), normalised as the last block is."""
        blocks = list(evenly(len(self.blocks)))
        return cast(
            "list[Tensor]", self.forward_intermediates(pixels, indices=blocks, norm=True, intermediates_only=True)
        )

    def prepared(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors with the position embeddings of our windows: resampled, since those of a square are."""
        stored = state.get("pos_embed")
        if stored is None or stored.ndim != 3:
            return state
        before = 0 if self.no_embed_class else self.num_prefix_tokens
        if math.isqrt(stored.shape[1] - before) ** 2 != stored.shape[1] - before:
            return state  # of no square: they won't fit
        rows, columns = self.patch_embed.grid_size
        return state | {"pos_embed": resample_abs_pos_embed(stored, [rows, columns], num_prefix_tokens=before)}


def build(model: Vit, in_channels: int, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    with torch.device("meta"):  # only to learn the patch: no memory, no random numbers
        patch, _ = _made(model.backbone, in_channels).patch_embed.patch_size
    strides = (patch,) * len(STRIDES)
    encoder = _made(model.backbone, in_channels, img_size=padded_px(size_px, strides))
    return segmenter(
        model,
        encoder,
        channels=(encoder.embed_dim,) * len(STRIDES),
        strides=strides,
        in_channels=in_channels,
        size_px=size_px,
    )


def _made(backbone: str, in_channels: int, **options: Any) -> Encoder:
    """A transformer of timm, without weights and without a head.

    Raises:
        InputError: there is none of that name, or it is no plain one.
    """
    names = timm.list_models(module="vision_transformer")
    if backbone not in names:
        near = ", ".join(get_close_matches(backbone, names, n=4, cutoff=0.0))
        raise InputError(
            "params.yaml: model.backbone",
            got=repr(backbone),
            expected=f"one of timm's {len(names)} plain vision transformers, such as {near}",
            fix="correct the name, or choose kind smp, whose encoders tu-... are timm's that make a pyramid themselves",
        )
    made = timm.create_model(backbone, pretrained=False, in_chans=in_channels, num_classes=0, global_pool="", **options)
    made.__class__ = Encoder  # timm finds class and arguments by the name; this class only adds two methods to it
    return cast("Encoder", made)
