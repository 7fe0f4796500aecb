"""Files of weights as they are published: names and shapes of their libraries, and next to no bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sandwatch._torchvision import ensure_torchvision
from sandwatch.files import sha256
from sandwatch.model import registry
from sandwatch.model.cache import PLACE, place
from sandwatch.model.entry import Entry
from sandwatch.model.network import Model, Pinned

ensure_torchvision()

import timm  # noqa: E402
import torchvision  # noqa: E402


def resnet(encoder: str, bands: int) -> dict[str, Tensor]:
    """torchvision's, which timm's has the names and shapes of."""
    with torch.device("meta"):
        network = torchvision.models.get_model(encoder)
        network.conv1 = torch.nn.Conv2d(bands, 64, kernel_size=7, bias=False)
    return dict(network.state_dict())


def vit(backbone: str, bands: int) -> dict[str, Tensor]:
    """timm's for windows of 224 px, with a head that some files have."""
    with torch.device("meta"):
        network = timm.create_model(backbone, in_chans=bands, img_size=224, num_classes=10)
    return dict(network.state_dict())


def swin(backbone: str, bands: int) -> dict[str, Tensor]:
    """torchvision's, with the first layer that sees more bands."""
    with torch.device("meta"):
        network = torchvision.models.get_model(backbone)
        network.features[0][0] = torch.nn.Conv2d(bands, network.features[0][0].out_channels, 4, 4)
    return dict(network.state_dict())


def cheap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of these shapes that are stored as one number each."""
    return {name: torch.zeros((), dtype=one.dtype).expand(one.shape) for name, one in tensors.items()}


def store(tensors: object, entry: Entry, folder: Path, patch: pytest.MonkeyPatch) -> Pinned:
    """Writes a file to where fetched weights of an entry lie, and pins it."""
    patch.setenv(PLACE, str(folder))
    for key in reversed(entry.within):
        tensors = {key: tensors}
    torch.save(tensors, place(entry))
    return Pinned(name=entry.name, sha256=sha256(place(entry)))


def listed(entry: Entry, patch: pytest.MonkeyPatch, **changes: Any) -> Entry:
    """An entry with changes, as the only one of the registry."""
    changed = replace(entry, **changes)
    patch.setattr(registry, "ENTRIES", (changed,))
    return changed


def begins(network: Mapping[str, object], weights: Pinned | None, **changes: Any) -> Model:
    """The section of params.yaml of a network that begins with weights."""
    return Model.of(dict(network), "binary").model_copy(update={"weights": weights} | changes)
