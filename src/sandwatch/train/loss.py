"""The loss: a weighted sum of terms over the pixels that count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sandwatch.model.network import CLASSES
from sandwatch.stack import HIGH, counted
from sandwatch.train.params import Loss

DICE_SMOOTH = 1.0
"""Pixels added to both sides of the Dice ratio, so that it is defined where there is neither mine nor detection."""


def loss(logits: Tensor, mask: Tensor, *, method: str, weights: Loss) -> Tensor:
    """Weighted sum of cross-entropy, Dice and focal loss over the pixels that count.

    Args:
        logits: (n, 1, y, x) with method binary, else (n, 3, y, x).
        mask: uint8 (n, y, x) of mask values.
        method: of params.yaml; binary leaves out low confidence.
        weights: of the terms, and of mine pixels in cross-entropy and focal loss.

    Returns:
        A scalar. Sources: Dice, Milletari et al. 2016, over the whole batch, mean over the classes; focal loss, Lin et
        al. 2017.
    """
    if method == "binary":
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the softmax of (0, z) is the sigmoid of z
        target = (mask == HIGH)[:, None]
        target = torch.cat([~target, target], dim=1)
    else:
        target = torch.stack([mask == value for value in range(len(CLASSES[method]))], dim=1)
    keep = counted(mask, method)[:, None].float()  # (n, 1, y, x)
    one_hot = target.float() * keep  # (n, class, y, x), zero in every class where a pixel does not count
    log_likelihood = functional.log_softmax(logits.float(), dim=1)
    likelihood = log_likelihood.exp()
    class_weights = torch.ones(one_hot.shape[1], device=mask.device)
    class_weights[1:] = weights.mine_weight
    # One-hot sums rather than cross_entropy(): on CUDA that has no deterministic kernel for images.
    entropy = -(one_hot * log_likelihood * class_weights[:, None, None])
    pixels = keep.sum().clamp(min=1.0)
    total = logits.new_zeros((), dtype=torch.float32)
    if weights.bce:
        total = total + weights.bce * entropy.sum() / pixels
    if weights.dice:
        first = 1 if method == "binary" else 0  # with two classes, mine alone
        overlap = (likelihood * one_hot).sum(dim=(0, 2, 3))[first:]
        sizes = ((likelihood * keep).sum(dim=(0, 2, 3)) + one_hot.sum(dim=(0, 2, 3)))[first:]
        total = total + weights.dice * (1 - (2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)).mean()
    if weights.focal:
        # As a tensor: powers of 0.5 and 1.5 given as numbers take MKL's square root, forward or backward.
        gamma = logits.new_tensor(weights.focal_gamma, dtype=torch.float32)
        total = total + weights.focal * (entropy * (1 - likelihood) ** gamma).sum() / pixels
    return total
