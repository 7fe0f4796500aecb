"""CROMA: one transformer for Sentinel-2, one for Sentinel-1, and one that looks at both.

Source: Fuller, Millard and Green, "CROMA: Remote Sensing Representations with Contrastive Radar-Optical Masked
Autoencoders", NeurIPS 2023, arXiv 2311.00566. The layers are torchgeo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sandwatch.errors import InputError
from sandwatch.model.families.library import module_of
from sandwatch.model.network import Croma
from sandwatch.model.pyramid import STRIDES, evenly, padded_px, segmenter

OPTICAL = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
RADAR = ("VV", "VH")
"""What it sees, in its order. Source: antofuller/CROMA, README: 12 bands, "remove the cirrus band", and 2; the order is
that of SSL4EO-S12, which it was trained on: zhu-xlab/SSL4EO-S12, ssl4eo_dataset.py."""
PATCH = 8
HEADS = 16
SIZES = {"base": (768, 12), "large": (1024, 24)}
"""Width, and blocks of the transformer for Sentinel-2; the two others have half as many. Source: the paper, section 3,
and torchgeo, croma_base() and croma_large()."""


class Encoder(nn.Module):
    """The transformers that the bands at hand have use for, under CROMA's own names.

    Attributes:
        s2_encoder, s1_encoder: of Sentinel-2, of Sentinel-1.
        joint_encoder: takes what the latter found as its tokens, and looks at what the former found.
    """

    bias: Tensor

    def __init__(self, size: str, channels: Sequence[str], size_px: int) -> None:
        """Builds the transformers for windows of ``size_px``, a multiple of the patch."""
        super().__init__()
        self.optical = [channels.index(band) for band in OPTICAL if band in channels]
        self.radar = [channels.index(band) for band in RADAR if band in channels]
        modalities = [name for name, places in (("sar", self.radar), ("optical", self.optical)) if places]
        width, depth = SIZES[size]
        whole: Any = module_of("torchgeo", "models", "croma", what="model.kind croma").CROMA(
            modalities=modalities, encoder_dim=width, encoder_depth=depth, num_heads=HEADS, image_size=size_px
        )
        self.width = width
        for name in ("s1_encoder", "s2_encoder", "joint_encoder"):
            if hasattr(whole, name):
                setattr(self, name, getattr(whole, name))
        self.register_buffer("bias", whole.attn_bias, persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float32 (n, channel, y, x) to four maps (n, width, y / 8, x / 8), each normalised as the last block is.

        Of one sensor they are four blocks of its transformer, evenly spaced; of both, four of the way through the
        optical and then the joint transformer.
        """
        seen = stretched(pixels)
        found: list[Tensor] = []
        if self.optical:
            found += self._through(self.s2_encoder, seen[:, self.optical])
        if self.radar:
            radar = self._through(self.s1_encoder, seen[:, self.radar])
            if self.optical:
                tokens, context = radar[-1], found[-1]
                found += self._joint(tokens, context)
            else:
                found = radar
        rows, columns = (side // PATCH for side in pixels.shape[-2:])
        maps = (found[block].transpose(1, 2) for block in evenly(len(found)))
        return [tokens.reshape(pixels.shape[0], self.width, rows, columns) for tokens in maps]

    def _through(self, encoder: Any, pixels: Tensor) -> list[Tensor]:
        """What each block of one sensor's transformer makes of it (n, token, width), normalised."""
        tokens = encoder.linear_input(functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2))
        found = []
        for attention, forward in encoder.transformer.layers:
            tokens = attention(tokens, self.bias) + tokens
            tokens = forward(tokens) + tokens
            found.append(encoder.transformer.norm_out(tokens))
        return found

    def _joint(self, tokens: Tensor, context: Tensor) -> list[Tensor]:
        """As :meth:`_through`, of the joint transformer."""
        joint: Any = self.joint_encoder
        found = []
        for attention, across, forward in joint.layers:
            tokens = attention(tokens, self.bias) + tokens
            tokens = across(tokens, context, self.bias) + tokens
            tokens = forward(tokens) + tokens
            found.append(joint.norm_out(tokens))
        return found


def stretched(pixels: Tensor) -> Tensor:
    """Each band of each image from its own mean less two deviations to its mean and two, as 0 to 1, and no further.

    So a band's unit makes no difference, and one that is the same everywhere is a half. Not bitwise the same on every
    processor: it takes a square root. Source: antofuller/CROMA, README, normalize(), "taken from SatMAE and SeCo"; that
    takes mean and deviation over all images at hand, which would let a score depend on what else is scored.
    """
    mean, deviation = pixels.mean((2, 3), keepdim=True), pixels.std((2, 3), keepdim=True)
    return ((pixels - mean) / (4 * deviation + 1e-6) + 0.5).clamp(0, 1)


def build(model: Croma, channels: Sequence[str], size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    if set(channels) not in ({*OPTICAL}, {*RADAR}, {*OPTICAL, *RADAR}):
        raise InputError(
            "params.yaml: model.kind croma",
            got=f"channels {', '.join(channels)}",
            expected=f"{', '.join(OPTICAL)}, or {' and '.join(RADAR)}, or all of them",
            fix="name weights of croma, set new_bands: leave_out, and say what stands for a band that scenes lack",
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
