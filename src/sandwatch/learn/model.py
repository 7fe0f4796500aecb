"""The network: built by name, its input normalised on the device, and its calibrated scores."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.learn.card import CLASSES, Model, Spec
from sandwatch.stack import NODATA

WITH_DECODER_CHANNELS = ("Unet", "UnetPlusPlus", "MAnet")
"""Architectures whose decoder has one width a stage of the encoder."""
DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""The library's default for them, deepest first; a shallower encoder uses the first of them."""


def build(model: Model, *, in_channels: int, size_px: int) -> nn.Module:
    """Builds a network; random weights come from torch's global generator.

    Args:
        model: section of params.yaml.
        in_channels: number of bands.
        size_px: side of the windows that it will see; it is tried on one.

    Returns:
        A module from float32 (n, in_channels, y, x) to logits (n, 1, y, x), or (n, 3, y, x) with method three_class.

    Raises:
        InputError: a name is unknown, the parts don't fit each other or the windows, or the weights to start from
            don't fit the encoder.
    """
    ensure_torchvision()
    import segmentation_models_pytorch as smp

    architectures = [known.__name__ for known in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    _known("architecture", model.architecture, architectures)
    _known("encoder", model.encoder, _encoders(model.encoder))
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
    from_file = model.encoder_weights is not None and model.encoder_weights.endswith(".safetensors")
    try:
        network: nn.Module = smp.create_model(
            model.architecture,
            encoder_name=model.encoder,
            encoder_depth=model.encoder_depth,
            encoder_weights=None if from_file else model.encoder_weights,
            in_channels=in_channels,
            classes=1 if model.method == "binary" else len(CLASSES[model.method]),
            **options,
        )
        _drop_unused(network, in_channels, size_px)
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            "params.yaml: model",
            got=f"{model.architecture}, {model.encoder}, depth {model.encoder_depth}, weights {model.encoder_weights}: "
            f"{str(error)[:300]}",
            expected=f"a combination that segmentation-models-pytorch builds for windows of {size_px} px",
            fix="choose another encoder_depth, encoder, architecture or encoder_weights",
        ) from error
    if from_file:
        _load_encoder(network.get_submodule("encoder"), Path(str(model.encoder_weights)), in_channels)
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
    """A trained model, ready to score windows.

    Attributes:
        spec: what the weights carry of themselves.
    """

    def __init__(self, network: nn.Module, spec: Spec, device: torch.device | str) -> None:
        """Takes a network with its weights, and moves it to ``device``."""
        self.spec = spec
        self._network = network.to(device).eval()
        self._device = device
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device) for values in (spec.mean, spec.std)
        )

    @classmethod
    def load(cls, weights: Path, device: torch.device | str) -> Self:
        """Loads ``model.safetensors``, which carries all that is needed to use it.

        Raises:
            InputError: there is no such file, or it is none that sandwatch wrote.
        """
        spec = Spec.carried(weights)
        if spec is None:
            raise InputError(
                str(weights),
                got="weights without a spec in their header",
                expected="weights that sandwatch wrote",
                fix="run dvc repro train, or dvc pull train",
            )
        network = build(spec.model, in_channels=len(spec.bands), size_px=spec.size_px)
        network.load_state_dict(load_file(weights))
        return cls(network, spec, device)

    def __call__(self, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Calibrated probability of mine.

        Args:
            pixels: (n, band, y, x), as in a pixel stack.

        Returns:
            float32 (n, y, x) in [0, 1].
        """
        return _numpy(torch.sigmoid(mine_logit(self._output(pixels)) / self.spec.temperature))

    def logits(self, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Log-odds of mine before calibration, (n, y, x); argument as in :meth:`__call__`."""
        return _numpy(mine_logit(self._output(pixels)))

    def classes(self, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Calibrated probability of each class of the spec, (n, class, y, x), summing to 1; argument as above."""
        output = self._output(pixels)
        mine = torch.sigmoid(mine_logit(output) / self.spec.temperature)[:, None]
        shares = torch.softmax(output[:, 1:], dim=1) if output.shape[1] > 1 else torch.ones_like(mine)
        return _numpy(torch.cat([1 - mine, mine * shares], dim=1))

    @torch.inference_mode()
    def _output(self, pixels: npt.NDArray[np.int16]) -> Tensor:
        output: Tensor = self._network(normalise(torch.from_numpy(pixels).to(self._device), self._mean, self._std))
        return output


def _numpy(values: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.float().cpu().numpy()
    return array


def _encoders(name: str) -> list[str]:
    """The encoders among which ``name`` is looked up: timm's where it begins with ``tu-``."""
    if name.startswith("tu-"):
        import timm

        return [f"tu-{known}" for known in timm.list_models()]
    import segmentation_models_pytorch as smp

    return list(smp.encoders.get_encoder_names())


def _known(key: str, name: str, names: list[str]) -> None:
    """Raises InputError, with the nearest names, where ``name`` is not among ``names``."""
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


def _load_encoder(encoder: nn.Module, path: Path, in_channels: int) -> None:
    """Loads weights into an encoder; those of the first convolution are adapted to the number of bands.

    The file holds an encoder's state, or a whole network's of which the encoder is taken. What it holds beyond the
    encoder is left aside. Where its first convolution sees ``k`` bands and ours ``n``, its weights are repeated band
    by band and scaled by ``k / n``, so that activations keep their size. Source: segmentation-models-pytorch,
    ``patch_first_conv``.

    Raises:
        InputError: the file can't be read, lacks a tensor, or has one of another shape.
    """
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(
            f"params.yaml: model.encoder_weights: {path}",
            got=str(error),
            expected="a .safetensors file",
            fix="correct the path",
        ) from None
    whole = any(name.startswith("encoder.") for name in stored)
    state = encoder.state_dict()
    first = next(name for name, tensor in state.items() if tensor.ndim == 4)
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        found = stored.get(f"encoder.{name}" if whole else name)
        if found is None and not whole:
            found = stored.get(name.removeprefix("model."))  # timm's own names
        if name == first and found is not None and found.shape[1] != in_channels:
            bands = found.shape[1]
            found = found[:, [band % bands for band in range(in_channels)]] * (bands / in_channels)
        if found is None or found.shape != tensor.shape:
            raise InputError(
                f"params.yaml: model.encoder_weights: {path}",
                got=f"{'no tensor' if found is None else tuple(found.shape)} for {name}",
                expected=f"a tensor {tuple(tensor.shape)}",
                fix="give the weights of this very encoder",
            )
        state[name] = found
    encoder.load_state_dict(state)
