"""The model card: all that is needed to use a model's weights (the spec), and the hashes of all that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from sandwatch.errors import InputError
from sandwatch.files import files_below, read_json, sha256, write_json
from sandwatch.model.channels import Channel
from sandwatch.model.network import Method, Model, Sha256, Standardise, Views
from sandwatch.origin import Kind

HEADER = "sandwatch"
"""Key of the spec in the header of the weights."""


class Start(BaseModel):
    """The weights that a network started from.

    Attributes:
        name: in the registry, or of a file of data/weights.
        sha256: of the file.
        licence: what the registry says of it, or of the model that it is.
        forbids: what it forbids that users of this product may want to do; '' where nothing is known to.
        model: whether it is a model of ours, which has a chain to labels of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    sha256: Sha256
    licence: str
    forbids: str
    model: bool = False

    @property
    def words(self) -> str:
        """All of it, for people."""
        said = f"{self.name}, SHA-256 {self.sha256}; licence: {self.licence}"
        return f"{said}; that forbids {self.forbids}" if self.forbids else said


class Terms(BaseModel):
    """What scenes are read, scored and judged by, of a model or of several together.

    Attributes:
        method: as in params.yaml, section model.
        bands: names, in the order of a pixel stack.
        without: bands that scenes may lack, since the network has learnt to do without them, all at once.
        classes: names.
        size_px: side of the windows that it was trained on.
        overlap_px: of neighbouring windows, as in params.yaml, section scoring.
        mean, std: of each band in the unit of a pixel stack, over the training windows alone.
        temperature, bias: the log-odds of mine, divided by the one and moved by the other, are the logit of its score;
            fitted on validation.
        threshold: a score at or above it is a mine: best F1 on validation.
        imagery, labels: what the model learnt from is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    method: Method
    bands: tuple[str, ...] = Field(min_length=1)
    without: tuple[str, ...]
    classes: tuple[str, ...]
    size_px: int = Field(ge=1)
    overlap_px: int = Field(ge=0)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    temperature: float = Field(gt=0)
    bias: float
    threshold: float = Field(ge=0, le=1)
    imagery: Kind
    labels: Kind


class Spec(Terms):
    """All that is needed to use a model's weights; they carry it in the header of their own file.

    What made the model (code, params, inputs) is in the card beside them: the file, and so its hash, changes with what
    the model says, or with the labels that it learnt from, and with nothing else.

    Attributes:
        network: what builds the network: kind, and the keys of the kind, as in params.yaml, section model.
        standardise: as there: whether each scene is brought to ``mean`` and ``std`` before the network sees it.
        start: the weights that it started from; None where those were random.
        channels: what the network sees of a pixel stack.
        batch_size, views: how a scene is scored, as in params.yaml, section scoring.
        label_fingerprint: of the labels.
        weights_sha256: of model.safetensors; not in its header.
    """

    network: dict[str, JsonValue]
    standardise: Standardise
    start: Start | None
    channels: tuple[Channel, ...] = Field(min_length=1)
    batch_size: int = Field(ge=1)
    views: Views
    label_fingerprint: Sha256
    weights_sha256: Sha256

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """The network is one that there is, and sees bands of the stack."""
        Model.of(self.network, self.method)
        if strange := {one.band for one in self.channels} - {None, *self.bands}:
            raise ValueError(f"channels of bands that the stack lacks: {strange}")
        if needless := [band for band in self.without if band not in {one.band for one in self.channels}]:
            raise ValueError(f"bands to do without that no channel is made of: {needless}")
        if not len(self.mean) == len(self.std) == len(self.bands):
            raise ValueError("not one mean and std a band")
        return self

    @property
    def model(self) -> Model:
        """The section of params.yaml that builds this network, without weights to start from."""
        return Model.of(self.network, self.method)

    @property
    def title(self) -> str:
        """What people call the network."""
        return self.model.title

    @property
    def said(self) -> dict[str, str]:
        """What everything that the model makes says of it, by name."""
        return {
            "model_sha256": self.weights_sha256,
            "label_fingerprint": self.label_fingerprint,
            "model_imagery": self.imagery,
            "model_labels": self.labels,
        }

    def header(self) -> dict[str, str]:
        """The spec, all but the hash of the weights, as metadata that the weights carry in their own file.

        One key, because the format does not keep the order of several, and the same model must give the same bytes.
        """
        fields = set(Spec.model_fields) - {"weights_sha256"}
        return {HEADER: json.dumps(self.model_dump(mode="json", include=fields), sort_keys=True)}

    @classmethod
    def carried(cls, weights: Path) -> Spec | None:
        """The spec that weights carry in their header, with their hash; None where they carry none.

        Raises:
            InputError: the file is no .safetensors file, or what it carries is no spec.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(weights, "numpy") as file:
                text = (file.metadata() or {}).get(HEADER)
            return None if text is None else Spec.model_validate(json.loads(text) | {"weights_sha256": sha256(weights)})
        except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(
                str(weights), got=str(error)[:300], expected="weights that sandwatch wrote", fix="name another file"
            ) from None


class Card(Spec):
    """models/model.json: the spec, and the hashes of all that made the model.

    Attributes:
        inputs: path to SHA-256 of every file that was read.
        code: path to digest (:mod:`sandwatch.code`) of every source file that could run.
        params_sha256: of the params of the train stage, as :func:`hash_params` hashes them.
        replicate: of the cross-validation that it was trained in; 0 for a model of the split.
        observations: how many trained; None in the card of a version that told nothing of it.
        matched: (band of the network, band of the scenes, what was done) of each, as training printed it.
    """

    replicate: int = Field(ge=0)
    observations: int | None = Field(default=None, ge=1)
    matched: tuple[tuple[str, str, str], ...]
    inputs: dict[str, Sha256]
    code: dict[str, Sha256]
    params_sha256: Sha256

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a card.

        Raises:
            InputError: there is no such file, or it is no card.
        """
        return read_json(
            path,
            cls.model_validate,
            expected="a model card",
            fix="run dvc checkout train, dvc pull train or dvc repro train",
        )

    def write(self, path: Path) -> None:
        """Writes the card, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def hash_params(values: Mapping[str, Any]) -> str:
    """SHA-256 of params, by section and key as DVC records them, as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_inputs(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, and of all files below folders, by path as given."""
    files = [file for path in paths for file in (files_below(path).values() if path.is_dir() else [path])]
    return {file.as_posix(): sha256(file) for file in files if file.is_file()}
