"""The model card: all that is needed to use a model's weights (the spec), and the hashes of all that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sandwatch.errors import InputError
from sandwatch.files import files_below, read_json, sha256, write_json
from sandwatch.origin import Kind
from sandwatch.params import Count, Section

CLASSES = {"binary": ("other", "mine"), "three_class": ("other", "low", "high")}
"""What the classes of each method are called."""
HEADER = "sandwatch"
"""Key of the spec in the header of the weights."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Weights(BaseModel):
    """A file of data/weights that an encoder starts from, and the SHA-256 that its bytes must have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*\.safetensors$")]
    sha256: Sha256


class Model(Section):
    """The network."""

    section = "model"
    architecture: Annotated[str, Field(min_length=1)]
    encoder: Annotated[str, Field(min_length=1)]
    encoder_depth: Annotated[int, Field(ge=3, le=5)]
    decoder_channels: tuple[Count, ...] = Field(strict=False)
    encoder_weights: Weights | None
    method: Literal["binary", "three_class"]

    @field_validator("encoder_weights", mode="before")
    @classmethod
    def _pinned(cls, value: object, info: ValidationInfo) -> object:
        """Refuses a bare name, as there used to be: what it stands for may change without a word."""
        if not isinstance(value, str):
            return value
        hint = (
            "with what sha256sum says of it"
            if value.endswith(".safetensors")
            else f"as sandwatch weights {info.data.get('encoder', '<encoder>')} {value} fetches it and prints the line"
        )
        raise PydanticCustomError("unpinned", f"null, or a file of data/weights, {{file: ..., sha256: ...}}, {hint}")


class Spec(BaseModel):
    """All that is needed to use a model's weights; they carry it in the header of their own file.

    What made the model (code, params, inputs) is in the card beside them: the file, and so its hash, changes with what
    the model says, or with the labels that it learnt from, and with nothing else.

    Attributes:
        architecture, encoder, encoder_depth, decoder_channels, method: as in params.yaml, section model.
        bands: names, in the order of a pixel stack.
        classes: names.
        size_px: side of the windows that it was trained on.
        overlap_px, batch_size: how a scene is scored, as in params.yaml, section scoring.
        mean, std: of each band in the unit of a pixel stack, over the training windows alone.
        temperature: divides the logit of mine, fitted on validation.
        threshold: a score at or above it is a mine: best F1 on validation.
        label_fingerprint: of the labels.
        imagery, labels: what the model learnt from is.
        weights_sha256: of model.safetensors; not in its header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    architecture: str
    encoder: str
    encoder_depth: int
    decoder_channels: tuple[int, ...]
    method: str = Field(pattern="^(binary|three_class)$")
    bands: tuple[str, ...] = Field(min_length=1)
    classes: tuple[str, ...]
    size_px: int = Field(ge=1)
    overlap_px: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    temperature: float = Field(gt=0)
    threshold: float = Field(ge=0, le=1)
    label_fingerprint: Sha256
    imagery: Kind
    labels: Kind
    weights_sha256: Sha256

    @property
    def model(self) -> Model:
        """The section of params.yaml that builds this network, without weights to start from."""
        return Model.model_validate(
            {name: getattr(self, name) for name in Model.model_fields if name != "encoder_weights"}
            | {"encoder_weights": None}
        )

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
    """

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
