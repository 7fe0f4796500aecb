"""Weights that an encoder starts from: fetched once into a file that stays, pinned by its SHA-256 in params.yaml.

What a hub has under a name may change. So a name is only for :func:`fetch`; training reads a file, and refuses one with
other content than params.yaml says.
"""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError, unsigned
from sandwatch.files import sha256, write_bytes
from sandwatch.learn.card import Weights
from sandwatch.learn.model import known


def fetch(encoder: str, name: str, folder: Path) -> Path:
    """Makes ``<encoder>_<name>.safetensors``, the state of an encoder that sees three bands, unless it is there.

    Args:
        encoder: as in params.yaml, model.encoder.
        name: of the weights, as segmentation-models-pytorch has it (``imagenet``); for its ``tu-`` encoders, timm's tag
            (``a1_in1k``).
        folder: gets the file.

    Returns:
        The file.

    Raises:
        InputError: there is no such encoder, it has no such weights, or they can't be fetched.
    """
    ensure_torchvision()
    import segmentation_models_pytorch as smp

    known("encoder", encoder)
    names = _names(encoder)
    if name not in names:
        raise InputError(
            f"weights {name} of the encoder {encoder}",
            got="no such name",
            expected=f"one of {', '.join(names)}" if names else "weights, of which this encoder has none",
            fix="correct the name, or choose another encoder",
        )
    path = folder / f"{encoder}_{name}.safetensors"
    if path.exists():
        return path
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would warn at each of its attempts
    try:
        if encoder.startswith("tu-"):
            network: nn.Module = smp.encoders.get_encoder(f"{encoder}.{name}", weights=True)
        else:
            network = smp.encoders.get_encoder(encoder, weights=name)
    except OSError as error:
        raise InputError(
            f"weights {name} of the encoder {encoder}",
            got=unsigned(error)[:300],
            expected="an answer of the Hugging Face Hub, or of the address in the environment variable HF_ENDPOINT",
            fix="run it where the Hub can be reached, then bring the file here",
        ) from None
    save(path, {part: tensor.contiguous() for part, tensor in network.state_dict().items()})
    return path


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes weights as safetensors, whole or not at all.

    Args:
        path: where to; its folder is made.
        tensors: contiguous, on the CPU, by name.
        metadata: for the header.
    """
    write_bytes(path, to_bytes(tensors, metadata))


def _names(encoder: str) -> list[str]:
    """The names of the weights that there are for an encoder."""
    if encoder.startswith("tu-"):
        import timm

        return [model.partition(".")[2] for model in timm.list_pretrained(f"{encoder.removeprefix('tu-')}.*")]
    import segmentation_models_pytorch as smp

    return sorted(smp.encoders.encoders[encoder]["pretrained_settings"])


def load(encoder: nn.Module, weights: Weights, folder: Path, *, in_channels: int) -> None:
    """Loads weights into an encoder; those of the first convolution are adapted to the number of bands.

    The file holds an encoder's state, or a whole network's of which the encoder is taken. What it holds beyond the
    encoder is left aside. Where its first convolution sees ``k`` bands and ours ``n``, its weights are repeated band
    by band and scaled by ``k / n``, so that activations keep their size. Source: segmentation-models-pytorch,
    ``patch_first_conv``.

    Args:
        encoder: gets them.
        weights: which, of params.yaml.
        folder: that the file is in.
        in_channels: number of bands.

    Raises:
        InputError: there is no such file, its content is other than pinned, or no weights of this encoder.
    """
    path = folder / weights.file
    what = f"params.yaml: model.encoder_weights: {path}"
    if not path.is_file():
        raise InputError(
            what,
            got="no such file",
            expected=f"weights with the SHA-256 {weights.sha256}",
            fix="run dvc pull or git checkout, or fetch them with sandwatch weights",
        )
    found = sha256(path)
    if found != weights.sha256:
        raise InputError(
            what,
            got=f"SHA-256 {found}",
            expected=weights.sha256,
            fix=f"bring the file back, or write sha256: {found} there to start from this one",
        )
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise InputError(what, got=str(error), expected="a .safetensors file", fix="name another file") from None
    full = any(name.startswith("encoder.") for name in stored)
    state = encoder.state_dict()
    first = next(name for name, tensor in state.items() if tensor.ndim == 4)
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        part = stored.get(f"encoder.{name}" if full else name)
        if part is None and not full:
            part = stored.get(name.removeprefix("model."))  # timm's own names
        if name == first and part is not None and part.shape[1] != in_channels:
            bands = part.shape[1]
            part = part[:, [band % bands for band in range(in_channels)]] * (bands / in_channels)
        if part is None or part.shape != tensor.shape:
            raise InputError(
                what,
                got=f"{'no tensor' if part is None else tuple(part.shape)} for {name}",
                expected=f"a tensor {tuple(tensor.shape)}",
                fix="give the weights of this very encoder",
            )
        state[name] = part
    encoder.load_state_dict(state)
