"""Galileo: a transformer over space and groups of bands, here at one time and of Sentinel-1 and Sentinel-2 alone.

Written from Tseng et al. 2025, arXiv 2502.09356; names of tensors are those of its authors' files. A group of bands
that scenes lack makes no token, as there; the month is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.families.tokens import (
    NDVI,
    Groups,
    OneScale,
    decoder,
    months,
    sincos,
    sincos_plane,
    transformer,
)
from sandwatch.model.network import SENSOR_GROUPS, Galileo
from sandwatch.model.registry import GALILEO_BANDS

ensure_torchvision()
# After the guard, because it imports torchvision.
from timm.layers.patch_embed import resample_patch_embed  # noqa: E402

SIZES = {"nano": (128, 4, 8), "tiny": (192, 12, 3), "base": (768, 12, 12)}
"""Width, blocks and heads of attention. Source: the paper, table of the models; its repository, config/models."""
STORED_PATCH_PX = 8
"""Side of the kernels in the files, from which those for other patches are made."""
GROUPS = (*SENSOR_GROUPS, NDVI)
"""Whose place in ``s_t_channel_embed`` is which."""
TIMES = 24
MONTH = 5
"""June, which its authors take where the month is unknown. Source: its repository, src/data/utils.py, DEFAULT_MONTH."""
BASE = 10.0
"""Of the sines and cosines. The files were trained with exponents a quarter of the usual, and so with 10000 ** 0.25.
Source: its repository, single_file_galileo.py, get_1d_sincos_pos_embed_from_grid_torch."""


def build(model: Galileo, channels: Sequence[str], size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    if size_px % model.patch_px:
        raise InputError(
            "params.yaml: model.patch_px",
            got=model.patch_px,
            expected=f"a divisor of chips.size_px, {size_px}",
            fix="change one of them",
        )
    encoder = Encoder(model.size, channels, model.patch_px, size_px // model.patch_px)
    return OneScale(encoder, decoder(model.decoder, encoder.features, model.logits))


class Encoder(nn.Module):
    """From (n, channel, y, x) to features, the mean over the groups of a patch: (n, feature, y / patch, x / patch).

    Attributes:
        features: how many.
        side: patches along the side of a window.
    """

    place: Tensor
    pos_embed: Tensor
    month_embed: Tensor

    def __init__(self, size: str, channels: Sequence[str], patch_px: int, side: int) -> None:
        """Takes the size, by name, what is seen, the side of a patch and the patches along the side of a window."""
        super().__init__()
        width, depth, heads = SIZES[size]
        self.features, self.side = width, side
        self._groups, self._patch_px = Groups(channels, GALILEO_BANDS), patch_px
        self.space_time_embed = nn.ModuleDict(
            {
                name: nn.ModuleDict({"proj": nn.Conv2d(bands, width, patch_px, patch_px)})
                for name, bands in self._groups.bands.items()
            }
        )
        # A quarter of the width each says which group, which time, which month, and where.
        quarter = width // 4
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(GROUPS), quarter))
        self.register_buffer("pos_embed", sincos(torch.arange(TIMES), quarter, base=BASE))
        self.register_buffer("month_embed", months(quarter))
        where = sincos_plane(side, quarter, base=BASE, step=patch_px)  # in pixels of 10 m
        self.register_buffer("place", where, persistent=False)
        self.blocks, self.norm = transformer(width, depth, heads, epsilon=1e-5)

    def prepared(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors without the groups that are not seen, with kernels of this patch, and with q, k, v in one.

        Source of the kernels: Beyer et al. 2022, arXiv 2212.08013 (FlexiViT), section 3.4.
        """
        ready = dict[str, Tensor]()
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            group = rest.partition(".")[0]
            if part == "space_time_embed" and group in GROUPS and group not in self._groups.bands:
                continue
            if part == "space_time_embed" and tensor.ndim == 4:
                tensor = resample_patch_embed(tensor, [self._patch_px, self._patch_px])
            ready[name] = tensor
        for name in [name for name in ready if ".attn.q." in name]:
            names = [name.replace(".attn.q.", f".attn.{one}.") for one in "qkv"]
            if all(one in ready for one in names):
                ready[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ready.pop(one) for one in names])
        return ready

    def forward(self, seen: Tensor) -> Tensor:
        """As the class says."""
        tokens = []
        for name, bands in self._groups.split(seen).items():
            patches = self.space_time_embed[name].get_submodule("proj")(bands).flatten(2).transpose(1, 2)
            which = torch.cat([self.s_t_channel_embed[GROUPS.index(name)], self.pos_embed[0], self.month_embed[MONTH]])
            tokens.append(patches + torch.cat([which.expand(len(self.place), -1), self.place], dim=1))
        found = self.norm(self.blocks(torch.cat(tokens, dim=1)))
        mean = found.unflatten(1, (len(tokens), -1)).mean(dim=1)  # (n, place, width)
        features: Tensor = mean.transpose(1, 2).unflatten(2, (self.side, self.side))
        return features
