"""Networks of segmentation-models-pytorch: any of its architectures and encoders, timm's among them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.model.network import Smp

WITH_DECODER_CHANNELS = ("Unet", "UnetPlusPlus", "MAnet")
"""Architectures whose decoder has one width a stage of the encoder."""
DEEPEST = 5
"""Stages of an encoder that is used whole."""
DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""The library's default for them, deepest first; a shallower encoder uses the first of them."""


def build(model: Smp, in_channels: int, size_px: int) -> nn.Module:
    """As :meth:`sandwatch.model.network.Model.build`."""
    ensure_torchvision()
    import segmentation_models_pytorch as smp

    known("architecture", model.architecture)
    known("encoder", model.encoder)
    options: dict[str, Any] = {}
    if model.architecture in WITH_DECODER_CHANNELS:
        options["decoder_channels"] = model.decoder_channels or DECODER_CHANNELS[: model.depth]
        if len(options["decoder_channels"]) != model.depth:
            raise InputError(
                "params.yaml: model.decoder_channels",
                got=list(model.decoder_channels),
                expected=f"as many as model.depth, {model.depth}",
                fix="add or remove channels, or set it to [] for the library's default",
            )
    elif model.decoder_channels:
        raise InputError(
            "params.yaml: model.decoder_channels",
            got=f"{list(model.decoder_channels)} for {model.architecture}",
            expected=f"[], since only {', '.join(WITH_DECODER_CHANNELS)} have them",
            fix="set it to []",
        )
    try:
        network: nn.Module = smp.create_model(
            model.architecture,
            encoder_name=model.encoder,
            encoder_depth=model.depth,
            encoder_weights=None,
            in_channels=in_channels,
            classes=model.logits,
            **options,
        )
        _drop_unused(network, in_channels, size_px)
        encoder = network.get_submodule("encoder")
        own = frozenset(encoder.state_dict())
        encoder.prepared = partial(_named, own=own, whole=model.depth == DEEPEST)  # type: ignore[assignment]
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            "params.yaml: model",
            got=f"{model.architecture}, {model.encoder}, depth {model.depth}: {str(error)[:300]}",
            expected=f"a combination that segmentation-models-pytorch builds for windows of {size_px} px",
            fix="choose another depth, encoder or architecture",
        ) from error
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _named(state: Mapping[str, Tensor], *, own: frozenset[str], whole: bool) -> dict[str, Tensor]:
    """Stored tensors by the names that they have in an encoder of the library.

    timm's own names get the prefix of the library's wrapper, and where timm's feature extractor joins the first two
    parts of a name (``blocks.0`` becomes ``blocks_0``), so do they. An encoder that is not used whole has no place for
    the deeper stages: those are left aside.
    """
    named = {}
    for name, tensor in state.items():
        ways = (name, f"model.{name}", f"model.{name.replace('.', '_', 1)}")
        found = next((way for way in ways if way in own), None)
        if found is not None or whole:
            named[found or name] = tensor
    return named


def _architectures() -> list[str]:
    import segmentation_models_pytorch as smp

    return [architecture.__name__ for architecture in smp.MODEL_ARCHITECTURES_MAPPING.values()]


def _encoders(name: str) -> list[str]:
    """The encoders among which ``name`` is looked up: timm's where it begins with ``tu-``."""
    if name.startswith("tu-"):
        import timm

        return [f"tu-{model}" for model in timm.list_models()]
    import segmentation_models_pytorch as smp

    return list(smp.encoders.get_encoder_names())


def known(key: Literal["architecture", "encoder"], name: str) -> None:
    """Makes sure that there is an architecture or encoder of that name.

    Raises:
        InputError: there is none; it tells the nearest names.
    """
    names = _encoders(name) if key == "encoder" else _architectures()
    if name.split(".")[0] not in names:  # a tag after the dot chooses among timm's weights
        near = get_close_matches(name, names, n=4, cutoff=0.0)
        raise InputError(
            f"params.yaml: model.{key}",
            got=repr(name),
            expected=f"one of {len(names)} names, such as {', '.join(near)}",
            fix="correct the name (segmentation-models-pytorch lists them; timm's have the prefix tu-)",
        )


def _drop_unused(network: nn.Module, in_channels: int, size_px: int) -> None:
    """Removes the parts of the encoder that its depth leaves unused, which some encoders of the library keep.

    They would swell the weights (three quarters of a ResNet-18 of depth 4), and training on several GPUs refuses them.
    Found by trying: what gets no gradient is not used.
    """
    network.eval()  # so that statistics of batches stay as they are
    with torch.enable_grad():
        network(torch.zeros(1, in_channels, size_px, size_px)).sum().backward()
    parents = [network.get_submodule("encoder")]
    for parent in parents:
        for name, part in parent.named_children():
            parameters = list(part.parameters())
            if parameters and all(parameter.grad is None for parameter in parameters):
                setattr(parent, name, nn.Identity())
            else:
                parents.append(part)
    network.zero_grad(set_to_none=True)
    network.train()
