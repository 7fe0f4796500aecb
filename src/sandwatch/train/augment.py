"""Augmentation: what is done to a batch of windows before a network learns from it, on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(
    pixels: Tensor, mask: Tensor, generator: torch.Generator, *, flips: bool, quarter_turns: bool
) -> tuple[Tensor, Tensor]:
    """Mirrors and turns each sample by its own draw, pixels and mask alike.

    Args:
        pixels: (n, band, y, x), square.
        mask: (n, y, x).
        generator: on the CPU, so that every device draws the same.
        flips: both axes, each with an even chance.
        quarter_turns: none to three, with even chances.
    """
    n = len(pixels)
    turns = torch.randint(4, (n,), generator=generator) * quarter_turns
    mirror = torch.randint(2, (2, n), generator=generator, dtype=torch.bool) & flips
    # A turn by a quarter is a transposition and a mirror image; so three conditions give all eight.
    transposed = turns % 2 == 1
    upside_down = mirror[0] ^ ((turns == 1) | (turns == 2))
    left_right = mirror[1] ^ ((turns == 2) | (turns == 3))

    def apply(values: Tensor) -> Tensor:
        def where(condition: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
            return torch.where(condition.to(values.device).view(-1, *[1] * (values.ndim - 1)), changed, kept)

        values = where(transposed, values.transpose(-1, -2), values)
        values = where(upside_down, values.flip(-2), values)
        return where(left_right, values.flip(-1), values)

    return apply(pixels), apply(mask)
