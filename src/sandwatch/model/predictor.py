"""A trained model at work: pixel stacks brought to what its network sees, on the device, and its log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.model.card import Spec
from sandwatch.model.channels import Channel
from sandwatch.model.views import averaged
from sandwatch.reproducible import Precision
from sandwatch.stack import NODATA


class Reader(nn.Module):
    """Brings pixel stacks to what a network sees: each band by name, in its order, in its unit, once."""

    place: Tensor
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    fill: Tensor
    absent: Tensor

    def __init__(self, channels: Sequence[Channel], bands: Sequence[str]) -> None:
        """Takes the channels of a model and the names of the bands of the pixel stacks."""
        super().__init__()
        absent = torch.tensor([one.band is None for one in channels])
        for name, values in {
            "place": torch.tensor([0 if one.band is None else bands.index(one.band) for one in channels]),
            "mean": _column([one.mean for one in channels]),
            "std": _column([one.std for one in channels]),
            "low": _column([-torch.inf if one.low is None else one.low for one in channels]),
            "high": _column([torch.inf if one.high is None else one.high for one in channels]),
            "fill": _column([one.fill for one in channels]),
            "absent": absent[:, None, None],
        }.items():
            self.register_buffer(name, values, persistent=False)
        self._as_they_are = not absent.any() and self.place.tolist() == list(range(len(bands)))
        self._limited = any(one.low is not None or one.high is not None for one in channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """int16 (n, band, y, x), ``stack.NODATA`` without data, to float32 (n, channel, y, x).

        The result is in the memory format that convolutions are fastest in. Where there is no data, or no band, a
        channel has its fill.
        """
        seen = pixels if self._as_they_are else pixels[:, self.place]
        scaled = (seen.float() - self.mean) / self.std
        if self._limited:
            scaled = torch.minimum(torch.maximum(scaled, self.low), self.high)
        return torch.where((seen == NODATA) | self.absent, self.fill, scaled).contiguous(
            memory_format=torch.channels_last
        )


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def mine_logit(logits: Tensor) -> Tensor:
    """Log-odds of mine, (n, y, x), of a network's output: low and high together where it tells them apart."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]


class Predictor:
    """A trained model, ready to score scenes (:mod:`sandwatch.model.scoring`).

    Attributes:
        spec: what the weights carry of themselves.
    """

    def __init__(self, network: nn.Module, spec: Spec, device: torch.device | str, *, precision: Precision) -> None:
        """Takes a network with its weights, moves it to ``device``, and computes there as training did."""
        self.spec = spec
        self._network = network.to(device).eval()
        self._device = torch.device(device)
        self._reader = Reader(spec.channels, spec.bands).to(device)
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
            network = spec.model.build([channel.name for channel in spec.channels], spec.size_px)
            network.load_state_dict(load_file(weights))
        except (InputError, ValidationError, SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                str(weights),
                got=str(error)[:300],
                expected="weights that sandwatch wrote",
                fix="run dvc checkout train, dvc pull train or dvc repro train",
            ) from None
        return cls(network, spec, device, precision=precision)

    @property
    def network(self) -> nn.Module:
        """The network, in evaluation, on its device."""
        return self._network

    def changed(self, **fields: float) -> Self:
        """The same network with some fields of its spec changed."""
        spec = self.spec.model_copy(update=fields)
        return type(self)(self._network, spec, self._device, precision=self._precision)

    @torch.inference_mode()
    def __call__(self, pixels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Log-odds before calibration, the mean of those of the spec's views.

        Args:
            pixels: (n, band, y, x), as in a pixel stack.

        Returns:
            float32 (n, class - 1, y, x): of mine, and with three classes of high against low confidence.
        """
        windows = torch.from_numpy(pixels).to(self._device)
        array: npt.NDArray[np.float32] = averaged(self._log_odds, windows, self.spec.views).cpu().numpy()
        return array

    def _log_odds(self, pixels: Tensor) -> Tensor:
        """Of a single view of windows."""
        windows = self._reader(pixels)
        with mixed(self._precision, self._device):
            output = self._network(windows).float()
        layers = [mine_logit(output), *(output[:, 2:] - output[:, 1:2]).unbind(dim=1)]
        return torch.stack(layers, dim=1)


def mixed(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes with a precision of params.yaml, as Lightning's in training.

    On a CPU 16-mixed is bf16-mixed there too, since half precision has no kernels.
    """
    dtype = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "32-true")
