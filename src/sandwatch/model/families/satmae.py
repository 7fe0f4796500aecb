"""SatMAE: a vision transformer in which bands make tokens by groups.

Written from Cong et al. 2022, arXiv 2207.08051, section 3.2 and appendix; names of tensors are those of its authors'
files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.families.tokens import OneScale, decoder, sincos, sincos_plane, transformer
from sandwatch.model.network import Satmae

ensure_torchvision()
# After the guard, because it imports torchvision.
from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402

GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
"""Places of the bands of a token, among the ten that are seen: B2 B3 B4 B8, B5 B6 B7 B8A, B11 B12."""
PATCH_PX = 8
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks and heads of attention."""
CHANNEL_WIDTH = 256
"""Of the width, how much says which group it is; the rest says where."""
BASE = 10_000.0
"""Of the sines and cosines."""


def build(model: Satmae, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    if size_px % PATCH_PX:
        raise InputError(
            "params.yaml: chips.size_px",
            got=size_px,
            expected=f"a multiple of {PATCH_PX}, the side of SatMAE's patches",
            fix="change it",
        )
    encoder = Encoder(model.size, size_px // PATCH_PX)
    return OneScale(encoder, decoder(model.decoder, encoder.features, model.logits))


class Encoder(nn.Module):
    """From (n, 10, y, x) to the features of each patch, group after group: (n, feature, y / 8, x / 8).

    Attributes:
        features: how many.
        side: patches along the side of a window.
    """

    def __init__(self, size: str, side: int) -> None:
        """Takes the size, by name, and the patches along the side of a window."""
        super().__init__()
        width, depth, heads = SIZES[size]
        self.features, self.side = len(GROUPS) * width, side
        self.patch_embed = nn.ModuleList(
            nn.ModuleDict({"proj": nn.Conv2d(len(group), width, PATCH_PX, PATCH_PX)}) for group in GROUPS
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        places = sincos_plane(side, width - CHANNEL_WIDTH, base=BASE)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, places.shape[1]), places])[None])
        self.channel_embed = nn.Parameter(sincos(torch.arange(len(GROUPS)), CHANNEL_WIDTH, base=BASE)[None])
        self.channel_cls_embed = nn.Parameter(torch.zeros(1, 1, CHANNEL_WIDTH))
        self.blocks, self.norm = transformer(width, depth, heads, epsilon=1e-6)

    def prepared(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors with positions for windows of this side.

        The files of pretraining have no ``channel_cls_embed``: what the first token gets of it is nothing.
        """
        state = {"channel_cls_embed": torch.zeros(1, 1, CHANNEL_WIDTH), **state}
        places = state.get("pos_embed")
        if places is not None and math.isqrt(places.shape[1] - 1) ** 2 == places.shape[1] - 1:
            state["pos_embed"] = resample_abs_pos_embed(places, [self.side, self.side])
        return state

    def forward(self, seen: Tensor) -> Tensor:
        """As the class says."""
        count, *_ = seen.shape
        where, tokens = self.pos_embed, []
        for number, group in enumerate(GROUPS):
            patches = self.patch_embed[number].get_submodule("proj")(seen[:, group]).flatten(2).transpose(1, 2)
            which = self.channel_embed[:, number : number + 1].expand(-1, patches.shape[1], -1)
            tokens.append(patches + torch.cat([where[:, 1:], which], dim=2))
        first = self.cls_token + torch.cat([where[:, :1], self.channel_cls_embed], dim=2)
        found = self.norm(self.blocks(torch.cat([first.expand(count, -1, -1), *tokens], dim=1)))[:, 1:]
        # (n, group x place, width) to (n, group x width, place)
        grouped = found.unflatten(1, (len(GROUPS), -1)).transpose(2, 3).flatten(1, 2)
        features: Tensor = grouped.unflatten(2, (self.side, self.side))
        return features
