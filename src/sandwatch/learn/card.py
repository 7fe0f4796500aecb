"""The model card: all that is needed to use a model's weights, and the hashes of all that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import sandwatch
from sandwatch.errors import InputError
from sandwatch.files import sha256, write_json
from sandwatch.params import Model, Section

CLASSES = {"binary": ("other", "mine"), "three_class": ("other", "low", "high")}
"""What the classes of each method are called."""
CODE = (
    "_torchvision.py",
    "errors.py",
    "files.py",
    "learn/*.py",
    "params.py",
    "reproducible.py",
    "stack.py",
    "stage.py",
    "stitch.py",
)
"""Files of the package that make a model; dvc.yaml declares the same."""
HEADER = "sandwatch"
"""Key of the card in the header of the weights."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Card(BaseModel):
    """models/model.json.

    Attributes:
        architecture, encoder, encoder_depth, decoder_channels, method: as in params.yaml, section model.
        bands: names, in the order of a pixel stack.
        classes: names.
        size_px: side of the windows that it was trained on.
        mean, std: of each band in the unit of a pixel stack, over the training windows alone.
        temperature: divides the logit of mine, fitted on validation.
        threshold: a score at or above it is a mine: best F1 on validation.
        label_fingerprint: of the labels.
        inputs: path to SHA-256 of every file that was read.
        code: path to SHA-256 of every source file that made it.
        params_sha256: of the params of the train stage as JSON with sorted keys.
        weights_sha256: of model.safetensors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: str
    encoder: str
    encoder_depth: int
    decoder_channels: tuple[int, ...]
    method: str = Field(pattern="^(binary|three_class)$")
    bands: tuple[str, ...] = Field(min_length=1)
    classes: tuple[str, ...]
    size_px: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    temperature: float = Field(gt=0)
    threshold: float = Field(ge=0, le=1)
    label_fingerprint: Sha256
    inputs: dict[str, Sha256]
    code: dict[str, Sha256]
    params_sha256: Sha256
    weights_sha256: Sha256

    @property
    def model(self) -> Model:
        """The section of params.yaml that builds this network, without weights to start from."""
        return Model.model_validate(
            {name: getattr(self, name) for name in Model.model_fields if name != "encoder_weights"}
            | {"encoder_weights": None}
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a card.

        Raises:
            InputError: there is no such file, or it is no card.
        """
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except FileNotFoundError:
            raise InputError(
                str(path), got="no such file", expected="a model card", fix="run dvc repro train or dvc pull models"
            ) from None
        except (json.JSONDecodeError, ValidationError) as error:
            raise InputError(
                str(path), got=str(error)[:300], expected="a model card", fix="run dvc repro train or dvc pull models"
            ) from None

    def write(self, path: Path) -> None:
        """Writes the card, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    def header(self) -> dict[str, str]:
        """The card, all but the hash of the weights, as metadata that the weights carry in their own file.

        One key, because the format does not keep the order of several, and the same model must give the same bytes.
        """
        return {HEADER: json.dumps(self.model_dump(mode="json", exclude={"weights_sha256"}), sort_keys=True)}

    @classmethod
    def carried(cls, weights: Path) -> Self | None:
        """The card that weights carry in their header, with their hash; None where they carry none.

        Raises:
            InputError: the file is no .safetensors file, or what it carries is no card.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(weights, "numpy") as file:
                text = (file.metadata() or {}).get(HEADER)
            return None if text is None else cls.model_validate(json.loads(text) | {"weights_sha256": sha256(weights)})
        except (SafetensorError, OSError, json.JSONDecodeError, ValidationError) as error:
            raise InputError(
                str(weights), got=str(error)[:300], expected="weights that sandwatch wrote", fix="name another file"
            ) from None


def hash_params(sections: Iterable[Section]) -> str:
    """SHA-256 of params as JSON with sorted keys and no spaces, by section."""
    values: dict[str, Any] = {section.section: section.model_dump(mode="json") for section in sections}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_inputs(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, and of all files below folders, by path as given."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {file.as_posix(): sha256(file) for file in files if file.is_file()}


def hash_code(stage: Path) -> dict[str, str]:
    """SHA-256 of the source files that make a model, by path in the repository.

    Args:
        stage: the script of the stage.
    """
    package = Path(sandwatch.__file__).parent
    files = sorted(file for pattern in CODE for file in package.glob(pattern))
    return {f"src/sandwatch/{file.relative_to(package).as_posix()}": sha256(file) for file in files} | {
        f"stages/{stage.name}": sha256(stage)
    }
