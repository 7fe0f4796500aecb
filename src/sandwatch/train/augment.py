"""Augmentation: what is done to a batch of windows before a network learns from it, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sandwatch.params import S1_BANDS
from sandwatch.stack import NODATA
from sandwatch.train.params import Train

BELT = 2.0
"""Standard deviations around a band's mean between which gamma bends values. Source: SatMAE scales bands so."""


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


class Variation(nn.Module):
    """What differs between scenes of the same ground, drawn anew for each window: radiometry, and radar or none.

    It changes pixel stacks before they are brought to what a network sees, so that it means the same for every network:
    weights have units of their own, in which a band's spread is any number, and some cut values off. Radiometry is in
    standard deviations around the mean of the training windows, which fits reflectance and backscatter alike.
    """

    mean: Tensor
    std: Tensor
    radar: Tensor

    def __init__(self, train: Train, bands: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes how far to go, and the bands of the stacks with their moments over the training windows."""
        super().__init__()
        self._by, self._dropout = train.radiometry, train.radar_dropout
        self._changes = any(self._by.model_dump().values())
        column = torch.tensor([mean, std], dtype=torch.float32)[:, :, None, None]
        self.register_buffer("mean", column[0], persistent=False)
        self.register_buffer("std", column[1], persistent=False)
        radar = torch.tensor([band in S1_BANDS for band in bands])[:, None, None]
        self.register_buffer("radar", radar, persistent=False)

    def forward(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """int16 (n, band, y, x) to the same, or float32 where radiometry changes; ``NODATA`` stays what it is.

        Nothing is drawn for what is off.

        Args:
            pixels: of a stack.
            generator: on the CPU, so that every device draws the same.
        """
        empty = pixels == NODATA
        if self._dropout:
            dropped = torch.rand(len(pixels), generator=generator) < self._dropout
            empty = empty | (dropped.to(pixels.device)[:, None, None, None] & self.radar)
        elif not self._changes:
            return pixels
        values = self._changed(pixels, generator) if self._changes else pixels
        return torch.where(empty, NODATA, values)

    def _changed(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        by, shape = self._by, (*pixels.shape[:2], 1, 1)

        def even() -> Tensor:
            """A number from -1 to 1 for each band of each window."""
            return (torch.rand(shape, generator=generator) * 2 - 1).to(pixels.device)

        values = (pixels.float() - self.mean) / self.std
        if by.gamma:
            within = (values / (2 * BELT) + 0.5).clamp(0, 1)
            bent = within ** ((1 + by.gamma) ** even())
            values = values + (bent - within) * (2 * BELT)
        if by.gain:
            values = values * (1 + by.gain * even())
        if by.offset:
            values = values + by.offset * even()
        if by.noise:
            amount = by.noise * even().abs()
            values = values + amount * torch.randn(pixels.shape, generator=generator).to(pixels.device)
        # A value that would mean that there is none is the one beside it.
        return (values * self.std + self.mean).clamp(min=NODATA + 1)
