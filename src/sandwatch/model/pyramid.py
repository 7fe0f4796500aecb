"""From an encoder's feature maps to logits: a neck that makes a pyramid of them, and decoders by name over any pyramid.

All families share this but segmentation-models-pytorch's own, whose decoder classes are used here wherever they take
feature maps. What they take is a list: the resolution of the pixels (only its shape is looked at), half of it, and from
there strides 4, 8, 16 and 32, finest first. A level that nothing is made for has no channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError

if TYPE_CHECKING:
    from sandwatch.model.network import Decoder, OnPyramid

STRIDES = (4, 8, 16, 32)
"""Pixels a cell, of the levels of a pyramid that an encoder fills."""
NARROWEST = 16
"""Channels that no block of a U-Net goes below. Source: the default of segmentation-models-pytorch, 256 to 16."""


def padded_px(size_px: int, strides: Sequence[int]) -> int:
    """The side that windows are padded to: the next at which every level of the pyramid has whole cells.

    Args:
        size_px: side of the windows.
        strides: of the encoder's feature maps.
    """
    cell = max(round(stride / factor) for stride, factor in zip(strides, _factors(strides), strict=True))
    return math.ceil(size_px / cell) * cell


def evenly(blocks: int) -> tuple[int, ...]:
    """Which blocks of a plain transformer a pyramid is made of: four, evenly spaced, the last among them.

    Source: Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction", ICCV 2021: 5, 11, 17 and 23 of
    24.
    """
    return tuple(blocks * (level + 1) // len(STRIDES) - 1 for level in range(len(STRIDES)))


class Segmenter(nn.Module):
    """Encoder, neck, decoder, head: float32 (n, channel, y, x) to logits (n, class, y, x).

    Windows are padded by their mirror image, at the right and below, to whole cells (a patch of 14 px needs it), and
    the logits are cropped.

    Attributes:
        encoder: what published weights fill; gives four feature maps (n, c, y, x), finest or first first.
        neck, decoder, head: what learns from nothing.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        in_channels: int,
        decoder: Decoder,
        width: int,
        classes: int,
    ) -> None:
        """Puts neck, decoder and head behind an encoder.

        Args:
            encoder: from float32 (n, in_channels, y, x) to four feature maps.
            channels: of each of the feature maps.
            strides: pixels a cell, of each; all the same for a plain transformer.
            in_channels: of the pixels.
            decoder: one of :data:`sandwatch.model.network.Decoder`.
            width: of the decoder, a multiple of 32; of a U-Net, that of its coarsest block.
            classes: of the logits.
        """
        super().__init__()
        ensure_torchvision()
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head

        self._strides = tuple(strides)
        self.encoder = encoder
        if decoder == "linear":
            self.neck: nn.Module = _Through()
            self.decoder: nn.Module = _Last()
            decoded = channels[-1]
        else:
            neck = Neck(channels, strides, in_channels=in_channels, width=width, detail=decoder == "unet")
            self.neck = neck
            self.decoder, decoded = _DECODERS[decoder](neck.channels, width)
        self.head = nn.Conv2d(decoded, classes, kernel_size=1)
        initialize_decoder(self.neck)
        initialize_decoder(self.decoder)
        initialize_head(self.head)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 (n, channel, y, x) to logits (n, class, y, x)."""
        height, width = pixels.shape[-2:]
        below = padded_px(height, self._strides) - height
        right = padded_px(width, self._strides) - width
        if below or right:
            pixels = functional.pad(pixels, (0, right, 0, below), mode="reflect")
        logits: Tensor = self.head(self.decoder(self.neck(pixels, self.encoder(pixels))))
        logits = functional.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def segmenter(
    model: OnPyramid,
    encoder: nn.Module,
    *,
    channels: Sequence[int],
    strides: Sequence[int],
    in_channels: int,
    size_px: int,
) -> Segmenter:
    """The network of a kind whose decoder stands on a pyramid, if it learns from a single window of that size.

    It is tried on shapes alone, which costs next to nothing.

    Args:
        model: section of params.yaml: decoder, its width, and how many logits.
        encoder: as of :class:`Segmenter`.
        channels: likewise.
        strides: likewise.
        in_channels: likewise.
        size_px: side of the windows.

    Raises:
        InputError: it doesn't.
    """
    network = Segmenter(
        encoder,
        channels=channels,
        strides=strides,
        in_channels=in_channels,
        decoder=model.decoder,
        width=model.decoder_channels,
        classes=model.logits,
    )
    tensors = {**network.state_dict(), **dict(network.named_buffers())}  # those that are in no file, too
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            functional_call(network, shapes, torch.empty(1, in_channels, size_px, size_px, device="meta"))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "params.yaml: model",
            got=f"for windows of {size_px} px: {str(error)[:300]}",
            expected="a decoder that they are large enough for",
            fix="choose another decoder or more decoder_channels, or larger windows (chips.size_px)",
        ) from error
    return network


class Neck(nn.Module):
    """Makes a pyramid of an encoder's feature maps, in the form that segmentation-models-pytorch's decoders take.

    Feature maps that lie on the pyramid's strides stay as they are. Those of a plain transformer, all of one stride,
    are brought to one width, normalised, and each enlarged by transposed convolutions or reduced by maxima to its level
    (Source of the idea: Li, Mao, Girshick and He, "Exploring Plain Vision Transformer Backbones for Object Detection",
    ECCV 2022, and MMSegmentation's Feature2Pyramid, which takes four blocks instead of the last). A U-Net gets one
    level more, at half the resolution, that an encoder of patches has nothing for: convolved from the pixels themselves
    (Source of the idea: Hatamizadeh et al., "UNETR", WACV 2022).

    Attributes:
        channels: of the six levels.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, in_channels: int, width: int, detail: bool
    ) -> None:
        """Takes what :class:`Segmenter` takes, and whether there shall be a level at half the resolution."""
        super().__init__()
        from segmentation_models_pytorch.base.modules import Conv2dReLU

        fine = max(width // 8, NARROWEST) if detail else 0
        self.detail = Conv2dReLU(in_channels, fine, kernel_size=3, stride=2, padding=1) if detail else None
        if tuple(strides) == STRIDES:
            self.levels = nn.ModuleList(nn.Identity() for _ in STRIDES)
            self.channels = (0, fine, *channels)
        else:
            parts = zip(channels, _factors(strides), strict=True)
            self.levels = nn.ModuleList(_rescaled(before, width, factor) for before, factor in parts)
            self.channels = (0, fine, *(width for _ in STRIDES))

    def forward(self, pixels: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Pixels and four feature maps to the six levels of a pyramid."""
        count, _, height, width = pixels.shape
        half = pixels.new_empty(count, 0, height // 2, width // 2) if self.detail is None else self.detail(pixels)
        levels = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        return [pixels.new_empty(count, 0, height, width), half, *levels]


class _Through(nn.Module):
    """No neck."""

    def forward(self, pixels: Tensor, features: Sequence[Tensor]) -> Sequence[Tensor]:
        return features


class _Last(nn.Module):
    """No decoder: the last feature map, which the head alone learns to read."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[-1]


def _factors(strides: Sequence[int]) -> tuple[float, ...]:
    """By how much each feature map grows to its level: the nearest power of two, since a stride may be 14."""
    return tuple(2.0 ** round(math.log2(stride / to)) for stride, to in zip(strides, STRIDES, strict=True))


def _rescaled(channels: int, width: int, factor: float) -> nn.Module:
    """Brings a feature map to a width, and makes it ``factor`` times as large."""
    from timm.layers.norm import LayerNorm2d

    parts: list[nn.Module] = [nn.Conv2d(channels, width, kernel_size=1), LayerNorm2d(width)]
    while factor > 1:
        parts += [nn.GELU(), nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)]
        factor /= 2
    while factor < 1:
        parts.append(nn.MaxPool2d(2))
        factor *= 2
    return nn.Sequential(*parts)


def _unet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    """Blocks each of half the width of the one before, down to the resolution of the pixels."""
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    widths = tuple(max(width >> block, NARROWEST) for block in range(len(channels) - 1))
    return UnetDecoder(channels, widths, n_blocks=len(widths)), widths[-1]


def _fpn(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

    return FPNDecoder(list(channels), pyramid_channels=width, segmentation_channels=width), width


def _upernet(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    """The one cell that a window is averaged to is not normalised over the batch, which may be a single window.

    Source: segmentation-models-pytorch does so in its PSPNet.
    """
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

    decoder: Any = UPerNetDecoder(channels, decoder_channels=width)
    convolution, *_ = decoder.psp.blocks[0][1]
    decoder.psp.blocks[0][1] = nn.Sequential(convolution, nn.ReLU(inplace=True))
    return decoder, width


def _segformer(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

    return SegformerDecoder(list(channels), segmentation_channels=width), width


def _dpt(channels: Sequence[int], width: int) -> tuple[nn.Module, int]:
    """Without the class token, which not every encoder has."""
    from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

    class Dpt(DPTDecoder):  # type: ignore[misc]
        """Takes a pyramid's four levels."""

        def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
            decoded: Tensor = super().forward(pyramid[-len(STRIDES) :], [None] * len(STRIDES))
            return decoded

    levels = tuple(channels[-len(STRIDES) :])
    decoder = Dpt(
        encoder_out_channels=levels,
        encoder_output_strides=STRIDES,
        encoder_has_prefix_tokens=False,
        readout="ignore",
        intermediate_channels=(width,) * len(levels),
        fusion_channels=width,
    )
    return decoder, width


_DECODERS: dict[str, Callable[[Sequence[int], int], tuple[nn.Module, int]]] = {
    "unet": _unet,
    "fpn": _fpn,
    "upernet": _upernet,
    "segformer": _segformer,
    "dpt": _dpt,
}
"""From the channels of a pyramid and a width to a decoder, and the channels that it gives."""
