"""Test-time augmentation: a window is scored as it is, as mirror images of itself and turned, and the answers averaged.

A river has no up and no left, so whatever differs between these answers is the network's own error, and a mean has less
of it. It costs what it says: eight views, eight times the computing.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sandwatch.model.network import Views

LEFT_RIGHT, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4
"""Bits of a view's number. Those below 2, 4 and 8 are each closed under composition, so that a scene which is turned or
mirrored as one of them gets its scores turned or mirrored likewise."""


def averaged(log_odds: Callable[[Tensor], Tensor], pixels: Tensor, views: Views) -> Tensor:
    """The mean of what a model says of some views of windows, each answer brought back to the window as it was.

    Args:
        log_odds: of windows (n, band, y, x), float32 (n, layer, y, x). Means of log-odds are taken, as where windows
            overlap, not of scores.
        pixels: the windows, square.
        views: 1, the windows as they are; 2, and mirrored left to right; 4, and both upside down, one of which is a
            half turn; 8, and all of these transposed, two of which are quarter turns.
    """
    total = log_odds(pixels)
    for view in range(1, views):
        axes = [axis for bit, axis in ((LEFT_RIGHT, -1), (UPSIDE_DOWN, -2)) if view & bit]
        if view & TRANSPOSED:
            total = total + log_odds(pixels.transpose(-1, -2).flip(axes)).flip(axes).transpose(-1, -2)
        else:
            total = total + log_odds(pixels.flip(axes)).flip(axes)
    return total / views
