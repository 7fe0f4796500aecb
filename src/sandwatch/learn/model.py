"""The network: built by name, its input normalised on the device, and its calibrated scores."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.learn.card import CLASSES, Model, Spec
from sandwatch.reproducible import Precision
from sandwatch.stack import NODATA

WITH_DECODER_CHANNELS = ("Unet", "UnetPlusPlus", "MAnet")
"""Architectures whose decoder has one width a stage of the encoder."""
DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""The library's default for them, deepest first; a shallower encoder uses the first of them."""


def build(model: Model, *, in_channels: int, size_px: int) -> nn.Module:
    """Builds a network with random weights, which come from torch's global generator.

    Args:
        model: section of params.yaml; its ``encoder_weights`` are for :func:`sandwatch.learn.weights.load`.
        in_channels: number of bands.
        size_px: side of the windows that it will see; it is tried on one.

    Returns:
        A module from float32 (n, in_channels, y, x) to logits (n, 1, y, x), or (n, 3, y, x) with method three_class.

    Raises:
        InputError: a name is unknown, or the parts don't fit each other or the windows.
    """
    ensure_torchvision()
    import segmentation_models_pytorch as smp

    known("architecture", model.architecture)
    known("encoder", model.encoder)
    options: dict[str, Any] = {}
    if model.architecture in WITH_DECODER_CHANNELS:
        options["decoder_channels"] = model.decoder_channels or DECODER_CHANNELS[: model.encoder_depth]
        if len(options["decoder_channels"]) != model.encoder_depth:
            raise InputError(
                "params.yaml: model.decoder_channels",
                got=list(model.decoder_channels),
                expected=f"as many as model.encoder_depth, {model.encoder_depth}",
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
            encoder_depth=model.encoder_depth,
            encoder_weights=None,
            in_channels=in_channels,
            classes=1 if model.method == "binary" else len(CLASSES[model.method]),
            **options,
        )
        _drop_unused(network, in_channels, size_px)
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            "params.yaml: model",
            got=f"{model.architecture}, {model.encoder}, depth {model.encoder_depth}: {str(error)[:300]}",
            expected=f"a combination that segmentation-models-pytorch builds for windows of {size_px} px",
            fix="choose another encoder_depth, encoder or architecture",
        ) from error
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Brings each band to mean 0 and standard deviation 1; pixels without data become 0, the mean.

    Args:
        pixels: int16 (n, band, y, x), ``stack.NODATA`` without data.
        mean: of each band, float32 (band,), on the same device.
        std: of each band, likewise.

    Returns:
        float32 (n, band, y, x), in the memory format that convolutions are fastest in.
    """
    scaled = (pixels.float() - mean[:, None, None]) / std[:, None, None]
    return scaled.masked_fill_(pixels == NODATA, 0.0).contiguous(memory_format=torch.channels_last)


def mine_logit(logits: Tensor) -> Tensor:
    """Log-odds of mine, (n, y, x), of a network's output: low and high together where it tells them apart."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]


class Predictor:
    """A trained model, ready to score scenes (:mod:`sandwatch.scoring`).

    Attributes:
        spec: what the weights carry of themselves.
    """

    def __init__(self, network: nn.Module, spec: Spec, device: torch.device | str, *, precision: Precision) -> None:
        """Takes a network with its weights, moves it to ``device``, and computes there as training did."""
        self.spec = spec
        self._network = network.to(device).eval()
        self._device = torch.device(device)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device) for values in (spec.mean, spec.std)
        )
        self._precision = precision

    @classmethod
    def load(cls, weights: Path, device: torch.device | str, *, precision: Precision) -> Self:
        """Loads ``model.safetensors``, which carries all that is needed to use it.

        Args:
            weights: the file.
            device: to compute on.
            precision: of params.yaml, section compute.

        Raises:
            InputError: there is no such file, or it is none that sandwatch wrote.
        """
        spec = Spec.carried(weights)
        try:
            if spec is None:
                raise ValueError("weights without a spec in their header")
            network = build(spec.model, in_channels=len(spec.bands), size_px=spec.size_px)
            network.load_state_dict(load_file(weights))
        except (InputError, ValidationError, SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                str(weights),
                got=str(error)[:300],
                expected="weights that sandwatch wrote",
                fix="run dvc checkout train, dvc pull train or dvc repro train",
            ) from None
        return cls(network, spec, device, precision=precision)

    def changed(self, **fields: float) -> Self:
        """The same network with some fields of its spec changed."""
        spec = self.spec.model_copy(update=fields)
        return type(self)(self._network, spec, self._device, precision=self._precision)

    @torch.inference_mode()
    def __call__(self, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Log-odds before calibration.

        Args:
            pixels: (n, band, y, x), as in a pixel stack.

        Returns:
            float32 (n, class - 1, y, x): of mine, and with three classes of high against low confidence.
        """
        windows = normalise(torch.from_numpy(pixels).to(self._device), self._mean, self._std)
        with mixed(self._precision, self._device):
            output = self._network(windows).float()
        layers = [mine_logit(output), *(output[:, 2:] - output[:, 1:2]).unbind(dim=1)]
        array: npt.NDArray[np.float32] = torch.stack(layers, dim=1).cpu().numpy()
        return array


def mixed(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes with a precision of params.yaml, as Lightning's in training.

    On a CPU 16-mixed is bf16-mixed there too, since half precision has no kernels.
    """
    dtype = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "32-true")


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
