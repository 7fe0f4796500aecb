"""Presto: a transformer over groups of bands, pixel by pixel, here at one time and of Sentinel-1 and Sentinel-2 alone.

Written from Tseng et al. 2023, arXiv 2304.14065; names of tensors are those of its authors' files. A group of bands
that scenes lack makes no token, as there; month and place are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sandwatch.model.families.tokens import NDVI, Groups, OneScale, decoder, months, sincos, transformer
from sandwatch.model.network import Presto
from sandwatch.model.registry import PRESTO_BANDS

WIDTH, DEPTH, HEADS = 128, 2, 8
"""Source: the paper, section 4; its repository, config/default.json."""
GROUPS = ("S1", "S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "ERA5", "SRTM", NDVI, "dynamic_world")
"""Whose place in ``channel_embed`` is which."""
TIMES = 24
BASE = 1000.0
"""Of the sines and cosines of time. Source: its repository, single_file_presto.py, get_sinusoid_encoding_table."""
MONTH = 0
"""Where it is unknown, its authors' default."""
ROWS = 16
"""Rows of pixels whose tokens are in memory at once: those of a window of 160 px would be gigabytes."""


def build(model: Presto, channels: Sequence[str]) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    return OneScale(Encoder(channels), decoder(model.decoder, WIDTH, model.logits))


class Encoder(nn.Module):
    """From (n, channel, y, x) to the features of each pixel, (n, 128, y, x): the mean of its tokens.

    Attributes:
        place: unit vector from the Earth's centre to where the scene is, (3,); zero, the mean of all, where unknown.
    """

    place: Tensor
    pos_embed: Tensor
    month_embed: Tensor

    def __init__(self, channels: Sequence[str]) -> None:
        """Takes what is seen."""
        super().__init__()
        self._groups = Groups(channels, PRESTO_BANDS)
        self.eo_patch_embed = nn.ModuleDict(
            {name: nn.Linear(bands, WIDTH) for name, bands in self._groups.bands.items()}
        )
        self.latlon_embed = nn.Linear(3, WIDTH)
        self.register_buffer("place", torch.zeros(3), persistent=False)
        # Of the width a quarter says which month, a quarter which group, and half which time.
        self.channel_embed = nn.Embedding(len(GROUPS), WIDTH // 4)
        self.register_buffer("month_embed", months(WIDTH // 4))
        sines, cosines = sincos(torch.arange(TIMES), WIDTH // 2, base=BASE).chunk(2, dim=1)
        self.register_buffer("pos_embed", torch.stack([sines, cosines], dim=2).flatten(1)[None])
        self.blocks, self.norm = transformer(WIDTH, DEPTH, HEADS, epsilon=1e-5)

    def prepared(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stored tensors without the groups that are not seen."""
        unseen = tuple(f"eo_patch_embed.{group}." for group in GROUPS if group not in self._groups.bands)
        return {name: tensor for name, tensor in state.items() if not name.startswith(unseen)}

    def forward(self, seen: Tensor) -> Tensor:
        """As the class says."""
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        parts = []
        for first in range(0, seen.shape[2], ROWS):
            rows = seen[:, :, first : first + ROWS]
            if learns and not torch.compiler.is_exporting():  # what gradients need is computed again, not kept
                parts.append(checkpoint(self._features, rows, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._features(rows))
        return torch.cat(parts, dim=2)

    def _features(self, seen: Tensor) -> Tensor:
        """As :meth:`forward`, of a few rows."""
        count, _, height, width = seen.shape
        tokens = [self.latlon_embed(self.place).expand(count * height * width, -1)]
        for name, bands in self._groups.split(seen).items():
            pixels = bands.permute(0, 2, 3, 1).flatten(0, 2)  # (n x y x x, band)
            group = self.channel_embed.weight[GROUPS.index(name)]
            which = torch.cat([self.month_embed[MONTH], group, self.pos_embed[0, 0]])
            tokens.append(self.eo_patch_embed[name](pixels) + which)
        found = self.norm(self.blocks(torch.stack(tokens, dim=1)).mean(dim=1))
        features: Tensor = found.unflatten(0, (count, height, width)).permute(0, 3, 1, 2)
        return features
