"""The loss: a weighted sum of terms over the pixels that count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sandwatch.model.network import CLASSES
from sandwatch.stack import HIGH, counted
from sandwatch.train.params import Loss

SMOOTH = 1.0
"""Pixels added to both sides of a ratio of areas, so that it is defined where there is neither mine nor detection."""


def loss(logits: Tensor, mask: Tensor, *, method: str, weights: Loss) -> Tensor:
    """Weighted sum of cross-entropy, Dice, focal, Lovasz and Tversky loss over the pixels that count.

    Args:
        logits: (n, 1, y, x) with method binary, else (n, 3, y, x).
        mask: uint8 (n, y, x) of mask values.
        method: of params.yaml; binary leaves out low confidence.
        weights: of the terms, and of mine pixels in cross-entropy and focal loss, a number by now.

    Returns:
        A scalar. Sources: Dice, Milletari et al. 2016, and Tversky, Salehi et al. 2017, both over the whole batch, mean
        over the classes; focal loss, Lin et al. 2017; Lovasz hinge and softmax, Berman et al. 2018, over the batch.
    """
    binary = method == "binary"
    if binary:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the softmax of (0, z) is the sigmoid of z
        target = (mask == HIGH)[:, None]
        target = torch.cat([~target, target], dim=1)
    else:
        target = torch.stack([mask == value for value in range(len(CLASSES[method]))], dim=1)
    counts = counted(mask, method)[:, None]  # (n, 1, y, x)
    keep = counts.float()
    one_hot = target.float() * keep  # (n, class, y, x), zero in every class where a pixel does not count
    if weights.edge_smoothing_px:
        one_hot = _softened(one_hot, keep, weights.edge_smoothing_px)
    log_likelihood = functional.log_softmax(logits.float(), dim=1)
    likelihood = log_likelihood.exp()
    class_weights = torch.ones(one_hot.shape[1], device=mask.device)
    class_weights[1:] = float(weights.mine_weight)
    # One-hot sums rather than cross_entropy(): on CUDA that has no deterministic kernel for images.
    entropy = -(one_hot * log_likelihood * class_weights[:, None, None])
    pixels = keep.sum().clamp(min=1.0)
    first = 1 if binary else 0  # of classes whose areas are compared: with two, mine alone
    total = logits.new_zeros((), dtype=torch.float32)
    if weights.bce:
        total = total + weights.bce * entropy.sum() / pixels
    if weights.dice or weights.tversky:
        overlap = (likelihood * one_hot).sum(dim=(0, 2, 3))[first:]
        found, truth = (likelihood * keep).sum(dim=(0, 2, 3)), one_hot.sum(dim=(0, 2, 3))
    if weights.dice:
        sizes = (found + truth)[first:]
        total = total + weights.dice * (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()
    if weights.focal:
        # As a tensor: powers of 0.5 and 1.5 given as numbers take MKL's square root, forward or backward.
        gamma = logits.new_tensor(weights.focal_gamma, dtype=torch.float32)
        total = total + weights.focal * (entropy * (1 - likelihood) ** gamma).sum() / pixels
    if weights.tversky:
        wrong = weights.tversky_alpha * (found[first:] - overlap) + weights.tversky_beta * (truth[first:] - overlap)
        total = total + weights.tversky * (1 - (overlap + SMOOTH) / (overlap + wrong + SMOOTH)).mean()
    if weights.lovasz:
        # A set has no soft edges, so that the masks themselves are compared.
        if binary:
            sign = target[:, 1][counts[:, 0]].float() * 2 - 1
            margin = logits[:, 1].float()[counts[:, 0]] * sign
            each = [_lovasz((1 - margin).relu(), sign > 0)]
        else:
            chosen = [(likelihood[:, c][counts[:, 0]], target[:, c][counts[:, 0]]) for c in range(target.shape[1])]
            each = [_lovasz((true.float() - score).abs(), true) for score, true in chosen if bool(true.any())]
        total = total + weights.lovasz * torch.stack(each).mean() if each else total
    return total


def _softened(one_hot: Tensor, keep: Tensor, reach_px: int) -> Tensor:
    """Near a label's edge, targets that are the share of each class among the pixels that count around them.

    Args:
        one_hot: (n, class, y, x), zero where a pixel does not count.
        keep: (n, 1, y, x), 1 where it does.
        reach_px: how far around, along rows and columns. Farther than this from an edge nothing changes.
    """
    size = 2 * reach_px + 1

    def around(values: Tensor) -> Tensor:
        # In both, a sum over the same pixels; where all that count are of one class, the ratio is exactly 1.
        return functional.avg_pool2d(values, size, stride=1, padding=reach_px)

    return around(one_hot) / around(keep).clamp(min=torch.finfo(keep.dtype).tiny) * keep


def _lovasz(errors: Tensor, true: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss of one class.

    Args:
        errors: (pixel,), how wrong each is.
        true: bool (pixel,), whether it is of the class.
    """
    order = errors.detach().argsort(descending=True, stable=True)
    # Counted in integers, so that sums of any length are exact, on any device.
    true = true[order].long()
    right = true.sum() - true.cumsum(0)
    union = true.sum() + (1 - true).cumsum(0)
    jaccard = 1 - right.float() / union.float()
    step = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (errors[order] * step).sum()
