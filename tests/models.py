"""A small model: its section of params.yaml, and what its weights say of themselves."""

from __future__ import annotations

from typing import Any

from sandwatch.model.card import Spec
from sandwatch.model.channels import Channel
from sandwatch.model.network import CLASSES, Model

SECTION: dict[str, Any] = {
    "kind": "smp",
    "architecture": "Unet",
    "encoder": "resnet18",
    "depth": 3,
    "decoder_channels": [16, 8, 8],
    "weights": None,
    "missing_bands": "refuse",
    "new_bands": "mean",
    "standardise": "none",
    "method": "binary",
}


def section(**changes: Any) -> Model:
    """The section ``model``, with changes; a key of None is left out."""
    values = SECTION | changes
    return Model.variant(values).model_validate(values)


def fields(model: Model | None = None, **changes: Any) -> dict[str, Any]:
    """The fields of a :class:`Spec`, whose network sees every band by its mean and deviation."""
    model = model or section()
    values: dict[str, Any] = {
        "network": model.network,
        "method": model.method,
        "standardise": "none",
        "start": None,
        "bands": ("B2", "B3", "B4"),
        "without": (),
        "classes": CLASSES[model.method],
        "size_px": 32,
        "overlap_px": 8,
        "batch_size": 4,
        "views": 1,
        "temperature": 1.5,
        "bias": -0.25,
        "threshold": 0.25,
        "label_fingerprint": "0" * 64,
        "imagery": "real",
        "labels": "real",
        "weights_sha256": "0" * 64,
    } | changes
    bands = values["bands"]
    values = {"mean": (1000.0,) * len(bands), "std": (200.0,) * len(bands)} | values
    channels = [
        Channel(name=band, band=band, mean=mean, std=std)
        for band, mean, std in zip(bands, values["mean"], values["std"], strict=False)
    ]
    return {"channels": channels} | values


def spec(model: Model | None = None, **changes: Any) -> Spec:
    """A spec with :func:`fields`."""
    return Spec(**fields(model, **changes))
