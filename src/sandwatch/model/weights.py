"""Weights that a network starts from: verified before they are read, fitted whole or refused.

What lies under an address may change. So params.yaml pins them by their SHA-256, and a file with other bytes is never
read. Nothing in a file is executed: safetensors hold tensors alone, and of pickles only tensors are taken.
"""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.files import sha256, write_bytes
from sandwatch.model.cache import fetch
from sandwatch.model.card import Spec, Start
from sandwatch.model.channels import Match
from sandwatch.model.entry import Entry, Known
from sandwatch.model.network import Model, Pinned
from sandwatch.model.registry import entry as entry_of
from sandwatch.params import RGB_BANDS


@dataclass(frozen=True, kw_only=True)
class Found:
    """Weights, verified, that a network is to start from.

    Attributes:
        path: of the file.
        start: what the card says of them.
        known: the bands that they know, in order; None where the file doesn't say, and has as many as scenes do.
        whole: of which model of ours they are, whose decoder is taken too; None where they are an encoder's.
        entry: of the registry; None for a file of data/weights.
    """

    path: Path
    start: Start
    known: tuple[Known, ...] | None
    whole: Spec | None
    entry: Entry | None


def obtain(weights: Pinned, folder: Path) -> Found:
    """Finds weights of params.yaml, in ``folder`` or in the cache, or fetches them.

    Args:
        weights: which.
        folder: data/weights.

    Raises:
        InputError: there is no such file, or its content is other than pinned.
    """
    what = f"params.yaml: model.weights: {weights.name}"
    entry = None if weights.is_file else entry_of(weights.name)
    path = folder / weights.name if entry is None else fetch(entry)
    if not path.is_file():
        raise InputError(
            what,
            got=f"no file {path}",
            expected=f"weights with the SHA-256 {weights.sha256}",
            fix="run dvc pull or git checkout, or choose others that sandwatch models lists",
        )
    if (found := sha256(path)) != weights.sha256:
        raise InputError(
            what,
            got=f"{path} with the SHA-256 {found}",
            expected=weights.sha256,
            fix=f"bring the file back, or write sha256: {found} there to start from this one",
        )
    if entry is not None:
        start = Start(name=entry.name, sha256=found, licence=entry.licence, forbids=entry.forbids)
        return Found(path=path, start=start, known=entry.bands, whole=None, entry=entry)
    ours = Spec.carried(path)
    if ours is None:
        start = Start(name=weights.name, sha256=found, licence="of your own file", forbids="")
        return Found(path=path, start=start, known=None, whole=None, entry=None)
    before = ours.start
    start = Start(
        name=weights.name,
        sha256=found,
        licence="that of the labels and imagery behind it" + (f"; {before.licence}" if before else ""),
        forbids=before.forbids if before else "",
        model=True,
    )
    known = tuple(Known(name=c.name, mean=c.mean, std=c.std, low=c.low, high=c.high) for c in ours.channels)
    return Found(path=path, start=start, known=known, whole=ours, entry=None)


def state_of(found: Found) -> dict[str, Tensor]:
    """The tensors of a file by the network's own names, but for those that the registry says are of no use here.

    Raises:
        InputError: it is no file of tensors, or nests them otherwise than the registry says.
    """
    what, entry = f"weights {found.start.name}: {found.path}", found.entry
    try:
        tensors: object = load_file(found.path) if found.path.suffix == ".safetensors" else _unpickled(found.path)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            what, got=str(error)[:200], expected="a file of tensors and nothing else", fix="name another file"
        ) from None
    for key in () if entry is None else entry.within:
        tensors = tensors.get(key) if isinstance(tensors, Mapping) else None
    tensors = dict(_flat(tensors)) if isinstance(tensors, Mapping) else tensors
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        within = "" if entry is None else " under " + "/".join(entry.within)
        raise InputError(what, got="something else", expected=f"tensors by name{within}", fix="name another file")
    state = {}
    for name, tensor in tensors.items():
        for pattern, replacement in () if entry is None else entry.keys:
            name = re.sub(pattern, replacement, name)
        if entry is None or not any(re.match(pattern, name) for pattern in entry.left):
            state[name] = tensor
    return state


def _flat(nested: Mapping[str, object], within: str = "") -> Iterator[tuple[str, object]]:
    """What mappings within mappings hold, by the names on the way to it with dots between, as a network names it."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _unpickled(path: Path) -> object:
    """What a pickle of tensors holds; nothing in it is run. Training arguments, which some files add, are only read."""
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def fit(network: nn.Module, found: Found, match: Match, model: Model) -> None:
    """Loads weights into a network, all of them, or refuses.

    A model of ours fills the whole network; any other file its encoder. Where the network sees more bands than the
    weights know, the first layer's weights for those are made by the rule ``model.new_bands``, and all of the first
    layer is scaled by the share of known bands, so that activations keep their size (Source:
    segmentation-models-pytorch, ``patch_first_conv``); with ``zero`` they keep it by themselves.

    Args:
        network: gets them.
        found: which.
        match: how their bands and those of scenes came together.
        model: section of params.yaml.

    Raises:
        InputError: a tensor is missing, of another shape, or there is one that nothing takes; the first is named.
    """
    what = f"weights {found.start.name}: {found.path}"
    stored = state_of(found)
    target: nn.Module = network
    if found.whole is None:
        target = network.get_submodule("encoder")
        if found.entry is None:
            stored = _own(stored)
        prepared = getattr(target, "prepared", None)
        stored = stored if prepared is None else prepared(stored)
    elif found.whole.network != model.network or found.whole.method != model.method:
        raise InputError(
            what,
            got=f"a model {found.whole.title}, method {found.whole.method}",
            expected=f"{model.title}, method {model.method}, as params.yaml says",
            fix="use the section model that it was trained with, but for weights and the rules of bands",
        )
    state = target.state_dict()
    first = next((name for name, tensor in state.items() if tensor.ndim == 4), None)
    if unused := set(stored) - set(state):
        raise InputError(
            what,
            got=f"{len(unused)} tensors that nothing takes: {', '.join(sorted(unused)[:3])}",
            expected=f"those of {model.title} and nothing else",
            fix="name the network that the weights are of; sandwatch models prints it",
        )
    absent = []
    for name, tensor in state.items():
        part = stored.get(name)
        if part is None and name.endswith("num_batches_tracked"):
            continue
        if name == first and part is not None and part.ndim == 4 and part.shape[1] != tensor.shape[1]:
            part = _widened(part, match, model)
        if part is None or part.shape != tensor.shape:
            absent.append((name, part, tensor))
            continue
        state[name] = part
    if absent:
        name, part, tensor = absent[0]
        more = f" (and {len(absent) - 1} more of {len(state)})" if len(absent) > 1 else ""
        raise InputError(
            what,
            got=f"{'no tensor' if part is None else tuple(part.shape)} for {name}{more}",
            expected=f"a tensor {tuple(tensor.shape)}",
            fix="give the weights of this very network; a file that was cut or half converted is of no use",
        )
    target.load_state_dict(state)


def bands_of(found: Found, bands: tuple[str, ...]) -> tuple[Known, ...] | None:
    """The bands that weights know: what the registry or a model of ours says; else what the file's first layer shows.

    Args:
        found: the weights.
        bands: of the scenes.

    Raises:
        InputError: a file of one's own that sees neither as many bands as scenes have nor three.
    """
    if found.known is not None:
        return found.known
    seen = _seen([tensor for tensor in _own(state_of(found)).values() if tensor.ndim == 4], len(bands))
    if seen == len(bands):
        return None
    if seen == len(RGB_BANDS):
        return tuple(Known(name=band) for band in RGB_BANDS)
    raise InputError(
        f"weights {found.start.name}: {found.path}",
        got=f"a first layer that sees {seen} bands, and nothing that says which",
        expected=f"{len(bands)}, as params.yaml, bands, or {len(RGB_BANDS)}: {', '.join(RGB_BANDS)}",
        fix="choose the bands that it was trained with",
    )


def _seen(convolutions: Sequence[Tensor], bands: int) -> int:
    """How many bands the first layer of an encoder sees, by all its convolutions; 0 where there is none.

    Files list tensors by name, so that the first need not be the first layer: then it is the one that sees least, of
    those that are wider than a pixel and don't take each channel by itself.
    """
    first = convolutions[0].shape[1] if convolutions else 0
    if first in (bands, len(RGB_BANDS)):
        return first
    mixing = [one.shape[1] for one in convolutions if one.shape[1] > 1 and one.shape[2] > 1]
    return min(mixing, default=first)


def _own(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of one's own: an encoder's state, or a whole network's, of which it is taken."""
    if any(name.startswith("encoder.") for name in stored):
        return {name.removeprefix("encoder."): t for name, t in stored.items() if name.startswith("encoder.")}
    return stored


def _widened(part: Tensor, match: Match, model: Model) -> Tensor:
    """A first layer for more bands than its weights know."""
    new = len(match.channels) - match.known
    if part.shape[1] != match.known or not new:
        return part
    more = {
        "zero": lambda: torch.zeros_like(part[:, :1]).repeat(1, new, 1, 1),
        "mean": lambda: part.mean(dim=1, keepdim=True).repeat(1, new, 1, 1),
        "nearest": lambda: part[:, list(match.nearest)],
    }[model.new_bands]()
    scale = 1.0 if model.new_bands == "zero" else match.known / len(match.channels)
    return torch.cat([part, more], dim=1) * scale


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes weights as safetensors, whole or not at all.

    Args:
        path: where to; its folder is made.
        tensors: contiguous, on the CPU, by name.
        metadata: for the header.
    """
    write_bytes(path, to_bytes(tensors, metadata))
