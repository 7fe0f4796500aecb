"""What of a network learns when, at which share of the rate, and how it becomes a plain network again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.extras import need
from sandwatch.model.tuning import Lora, Tuning

AFTER_FROZEN = 0.1
"""Share of the rate at which all learn once ``gradual`` lets the encoder learn. Source: OlmoEarth's fine-tuning."""
ADAPTER = "default"
"""What peft calls an adapter without a name."""


class Adapted:
    """A network of which, by ``train.tuning``, a part learns."""

    def __init__(self, network: nn.Module, tuning: Tuning, epochs: int) -> None:
        """Says of each parameter whether it learns, and with method lora puts the adapters into the encoder.

        Args:
            network: with a submodule ``encoder``; it is changed. Adapters start from torch's global generator.
            tuning: of params.yaml.
            epochs: how many are planned.

        Raises:
            InputError: the library of the adapters is missing, the encoder has no layers such as they are put into, or
                no blocks whose rates could decay.
        """
        self._network, self._encoder = network, network.get_submodule("encoder")
        self._frozen_epochs = round(tuning.frozen_share * epochs) if tuning.method == "gradual" else 0
        self._method, self._epochs = tuning.method, epochs
        if tuning.method == "probe":
            network.requires_grad_(False)
            head(network).requires_grad_(True)
        elif tuning.method == "frozen":
            self._encoder.requires_grad_(False)
        self._adapters = _put_adapters(self._encoder, tuning.lora) if tuning.method == "lora" else None
        self._shares = _shares(self._encoder, tuning.layer_decay)

    def learning(self) -> Iterator[tuple[str, nn.Parameter, float]]:
        """What learns in some epoch: name, parameter, and at which share of the rate."""
        for name, parameter in self._network.named_parameters():
            if parameter.requires_grad:
                yield name, parameter, self._shares.get(name, 1.0)

    def begin(self, epoch: int) -> None:
        """Puts the network into training; what is frozen works as in use, with the batch statistics that it has."""
        self._network.train()
        if self._method == "probe":
            self._network.eval()
        elif self._method == "frozen" or epoch < self._frozen_epochs:
            self._encoder.eval()
        elif self._method == "lora":
            for module in self._encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def hold(self, epoch: int) -> None:
        """Takes the gradients away from what an epoch leaves as it is.

        They are computed, since training on several GPUs waits for those of all that ever learns.
        """
        if epoch < self._frozen_epochs:
            for parameter in self._encoder.parameters():
                parameter.grad = None

    def slow_from(self, steps: int) -> int:
        """The step from which the rate is ``AFTER_FROZEN`` of itself; ``steps``, of all epochs, where it stays."""
        return steps * self._frozen_epochs // self._epochs if self._frozen_epochs else steps

    def plain(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Takes the adapters out, and gives the network the weights that :func:`plain_state` made."""
        if self._adapters is not None:
            self._adapters.unload()
        self._network.load_state_dict(state)
        return self._network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights by the names that they have without adapters, which are merged into them."""
    state = dict(network.state_dict())
    for name, layer in adapted(network):
        weight = f"{name}.base_layer.weight"
        state[weight] = state[weight] + layer.get_delta_weight(ADAPTER)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def head(network: nn.Module) -> nn.Module:
    """The layer that makes the logits: the last one with weights, outside the encoder."""
    encoder = set(network.get_submodule("encoder").modules())
    layers = [part for part in network.modules() if part not in encoder and list(part.parameters(recurse=False))]
    return layers[-1]


def _put_adapters(encoder: nn.Module, lora: Lora) -> Any:
    """Freezes an encoder and puts adapters into its layers; returns what takes them out again."""
    ensure_torchvision()  # peft's import wants it
    need("lora", "peft", what="params.yaml: train.tuning.method: lora")
    from peft import LoraConfig, LoraModel

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    fit = [name for name, part in encoder.named_modules() if isinstance(part, kinds)]
    refusal = InputError(
        "params.yaml: train.tuning.lora.targets",
        got=lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets),
        expected=f"linear layers or convolutions of the encoder, such as {', '.join(fit[len(fit) // 2 :][:4])}",
        fix="name the last parts of their paths, or give a regular expression of whole paths",
    )
    try:
        adapters = LoraModel(encoder, config, ADAPTER)
    except ValueError:
        raise refusal from None
    if not all(isinstance(layer.get_base_layer(), kinds) for _, layer in adapted(encoder)):
        raise refusal
    return adapters


def adapted(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have adapters, by name."""
    return ((name, part) for name, part in network.named_modules() if hasattr(part, "get_delta_weight"))


def _shares(encoder: nn.Module, decay: float) -> dict[str, float]:
    """The share of the rate that each of an encoder's parameters has, by its name in the network.

    The last block has ``decay``, and each block that of the one after it times ``decay``; what comes before all blocks
    is one more step down, what comes after them goes with the last. Source: Bao et al. 2021, BEiT.
    """
    if decay == 1.0:
        return {}
    parameters = list(encoder.named_parameters())
    blocks: dict[str, dict[int, int]] = {}  # numbers of values, by the series of blocks and the place in it
    for name, parameter in parameters:
        for series, place in _numbers(name):
            places = blocks.setdefault(series, {})
            places[place] = places.get(place, 0) + parameter.numel()
    blocks = {series: places for series, places in blocks.items() if len(places) > 1}
    # Of series within each other the outer one counts, so that a block's own layers are none.
    first = {name: next((one for one in _numbers(name) if one[0] in blocks), None) for name, _ in parameters}
    outer = {one[0] for one in first.values() if one is not None}
    if not outer:
        raise InputError(
            "params.yaml: train.tuning.layer_decay",
            got=f"{decay}, for an encoder without numbered blocks or stages",
            expected="1.0",
            fix="set it to 1.0",
        )
    # The trunk is the series that holds most; stems and the like are numbered too.
    trunk = max(outer, key=lambda series: sum(blocks[series].values()))
    numbers = sorted(blocks[trunk])
    level, shares = 0, {}
    for name, _ in parameters:
        series, number = first[name] or ("", 0)
        # Some encoders keep the embeddings and norms of their stages beside the stages, with the same numbers.
        if series in outer and sorted(blocks[series]) == numbers:
            level = numbers.index(number) + 1
        shares[f"encoder.{name}"] = decay ** (len(numbers) + 1 - level)
    return shares


def _numbers(name: str) -> Sequence[tuple[str, int]]:
    """The numbers at the ends of a path's parts, each with what stands before it: ``layer1.0.x`` has two."""
    return [(name[: found.start(1)], int(found[1])) for found in re.finditer(r"(\d+)(?=\.)", name)]
