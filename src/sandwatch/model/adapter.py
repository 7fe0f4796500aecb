"""A low-rank adapter as a file of its own: what a training with LoRA learnt, apart from the encoder it started with.

The written model is whole: adapters are merged into it. Beside it this file says the same in a few megabytes, for those
who have the start: the two matrices of each adapted layer, and all outside the encoder, by their names in the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.model.adapt import ADAPTER, adapted
from sandwatch.model.weights import save

HEADER = "sandwatch_adapter"
"""Key of what an adapter says of itself in the header of its file."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How the names of an adapted layer's two matrices end: (rank, in, ...) and (out, rank, ...). Source: peft."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What a network learnt on top of what it started with.

    Attributes:
        tensors: on the CPU, by name: the matrices of each adapted layer, and whatever else learnt, as it is.
        scale: of the product of the matrices: alpha / rank.
        start: SHA-256 of the file of weights that the training started from; None where those were random numbers.
    """

    tensors: Mapping[str, Tensor]
    scale: float
    start: str | None

    @classmethod
    def of(cls, network: nn.Module, start: str | None) -> Self | None:
        """What a network with adapters holds of its own; None for one without any.

        Args:
            network: with a submodule ``encoder``, of which nothing but adapters learns.
            start: SHA-256 of the file that it started from.
        """
        layers = dict(adapted(network))
        if not layers:
            return None
        tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("encoder.")}
        for name, layer in layers.items():
            tensors[name + DOWN] = layer.lora_A[ADAPTER].weight
            tensors[name + UP] = layer.lora_B[ADAPTER].weight
        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        return cls(tensors=kept, scale=float(next(iter(layers.values())).scaling[ADAPTER]), start=start)

    def onto(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The merged network.

        Args:
            state: of the network as it started: :func:`sandwatch.train.initial.initial` builds it.

        Returns:
            All of its tensors, by the names of ``state``, in its order.

        Raises:
            InputError: it is the state of another network.
        """
        layers = {name.removesuffix(DOWN) for name in self.tensors if name.endswith(DOWN)}
        wanted = {f"{layer}.weight" for layer in layers} | {n for n in self.tensors if not n.endswith((DOWN, UP))}
        if strange := sorted(wanted - state.keys()):
            raise _another(f"no {strange[0]}")
        merged = dict(state)
        for name, tensor in self.tensors.items():
            if name in state:
                if tensor.shape != state[name].shape:
                    raise _another(f"{name} of shape {tuple(state[name].shape)}")
                merged[name] = tensor
        for layer in layers:
            before, down, up = state[f"{layer}.weight"], self.tensors[layer + DOWN], self.tensors[layer + UP]
            # Of a convolution too: the inner one has the kernel, the outer one is of a pixel.
            product = up.flatten(1) @ down.flatten(1) * self.scale
            if product.numel() != before.numel():
                raise _another(f"{layer}.weight of shape {tuple(before.shape)}")
            merged[f"{layer}.weight"] = before + product.reshape(before.shape)
        return merged

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        said = json.dumps({"scale": self.scale, "start": self.start}, sort_keys=True)
        save(path, dict(self.tensors), {HEADER: said})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what :meth:`write` wrote.

        Raises:
            InputError: it is no such file.
        """
        try:
            with safe_open(path, "pt") as file:
                said = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            start = said["start"]
            return cls(tensors=tensors, scale=float(said["scale"]), start=None if start is None else str(start))
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                str(path),
                got=str(error)[:300],
                expected="an adapter that a training with LoRA wrote",
                fix="name results/train/adapter.safetensors of such a training",
            ) from None


def _another(got: str) -> InputError:
    return InputError(
        "adapter",
        got=f"a network with {got}",
        expected="the network of its training, as it started",
        fix="build it of that training's params",
    )
