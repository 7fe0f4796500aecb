"""The average of a network's weights over its last steps, which is often better than any of them.

Source: Polyak and Juditsky 1992; exponential, and shorter at the beginning, as TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


def averaged(network: nn.Module) -> nn.Module:
    """A network of the same weights, to hold their average; it learns nothing itself."""
    return deepcopy(network).requires_grad_(False)


@torch.no_grad()
def average(into: nn.Module, network: nn.Module, *, decay: float, step: int) -> None:
    """Moves an average towards a network, after a step.

    Args:
        into: gets it; batch statistics are averaged like weights, and what is counted is copied.
        network: that learns.
        decay: share of the average that a step keeps.
        step: how many are done. Of the first ones the average keeps less, or it would be of weights that knew nothing.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for mean, now in zip(into.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, share)
        else:
            mean.copy_(now)
