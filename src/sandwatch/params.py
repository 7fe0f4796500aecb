"""``params.yaml`` as frozen, checked objects: one model a section, units in the names, unknown keys refused.

``params.yaml`` itself says in its comments what each key means; here is what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from sandwatch.errors import InputError

S2_L2A_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
"""Bands of Sentinel-2 Level-2A, in the product's order (B10 exists in Level-1C only). Source: ESA S2 MSI user guide."""
S2_BANDS = (*S2_L2A_BANDS[:10], "B10", *S2_L2A_BANDS[10:])
S1_BANDS = ("VV", "VH")
RGB_BANDS = ("B4", "B3", "B2")
"""Red, green and blue: the bands of rgb.tif, and of pictures of a scene."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
S2Band = Literal["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
S1Band = Literal["VV", "VH"]


class Section(BaseModel):
    """A section of params.yaml. ``section`` is its key there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    section: ClassVar[str]


class Bands(Section):
    """Which bands a scene holds and the model sees, in this order: Sentinel-2 first, Sentinel-1 after it."""

    section = "bands"
    s2: tuple[S2Band, ...] = Field(min_length=1, strict=False)
    s1: tuple[S1Band, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _unique(self) -> Bands:
        if len(set(self.names)) != len(self.names):
            raise ValueError("a band is listed twice")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All band names in the order of a pixel stack."""
        return (*self.s2, *self.s1)


class Aoi(Section):
    """From sites and rivers to areas of interest."""

    section = "aoi"
    rivers: Annotated[str, Field(min_length=1)]
    extent_m: Positive
    simplify_tolerance_m: NotNegative
    buffer_m: NotNegative


class Split(Section):
    """Which whole spatial groups train, validate and test."""

    section = "split"
    min_distance_km: NotNegative
    holdout_rivers: tuple[str, ...] = Field(min_length=1, strict=False)
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    block_m: Positive
    block_gap_m: Positive
    seed: Seed


class Imagery(Section):
    """Where pixels come from."""

    section = "imagery"
    source: Literal["synthetic", "files", "earthengine"]
    min_coverage: Fraction


class EarthEngine(Section):
    """What Google Earth Engine composites, and how it comes here. Who asks is in the environment: see docs."""

    section = "earthengine"
    s2_level: Literal["L2A", "L1C"]
    cloud_mask: Literal["cloud_score_plus", "scene_filter"]
    clear_threshold: Fraction
    max_cloudy_percent: Annotated[float, Field(ge=0.0, le=100.0)]
    s1_orbit: Literal["ascending", "descending", "both"]
    transfer: Literal["auto", "batch", "compute_pixels"]
    bucket: str | None

    @model_validator(mode="after")
    def _bucket_for_batch(self) -> EarthEngine:
        if self.transfer == "batch" and self.bucket is None:
            raise ValueError("transfer is batch, which needs the name of a bucket in earthengine.bucket")
        return self


class Synthetic(Section):
    """The generator of the sample region: shared by imagery.source and annotations.source ``synthetic``."""

    section = "synthetic"
    seed: Seed
    cloud_fraction: Fraction
    annotator_error_m: NotNegative


class Annotations(Section):
    """Where labels come from and which of them count."""

    section = "annotations"
    source: Literal["synthetic", "labelbox", "labelbox_export", "geojson"]
    labelbox_project: str
    snapshot: Annotated[str, Field(min_length=1)]
    mine_class: Annotated[str, Field(min_length=1)]
    confidence_question: Annotated[str, Field(min_length=1)]
    confidence_answers: dict[str, Literal["low", "high"]] = Field(min_length=2)
    activity_question: Annotated[str, Field(min_length=1)]
    activity_answers: dict[str, bool] = Field(min_length=2)
    done_statuses: tuple[str, ...] = Field(min_length=1, strict=False)
    consensus: Literal["refuse", "selected", "latest"]


class Chips(Section):
    """Windows of pixels with labels."""

    section = "chips"
    size_px: Annotated[int, Field(ge=32, le=1024, multiple_of=32)]
    stride_px: Count
    random_windows_per_chip_area: NotNegative
    min_aoi_fraction: Fraction
    min_valid_fraction: Fraction
    seed: Seed


class Weights(BaseModel):
    """A file of data/weights that an encoder starts from, and the SHA-256 that its bytes must have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*\.safetensors$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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
        """Refuses a bare name: what it stands for may change without a word."""
        if isinstance(value, str):
            raise InputError(
                "params.yaml: model.encoder_weights",
                got=repr(value),
                expected="null, or the file in data/weights and its hash: {file: ..., sha256: ...}",
                fix="write sha256sum's answer for your file there"
                if value.endswith(".safetensors")
                else f"run: sandwatch weights {info.data.get('encoder', '<encoder>')} {value}; it fetches them once "
                "and prints the line to write",
            )
        return value


class Loss(BaseModel):
    """Weights of the terms of the loss; a weight of zero leaves the term out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bce: NotNegative
    dice: NotNegative
    focal: NotNegative
    mine_weight: Positive
    focal_gamma: NotNegative

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.bce + self.dice + self.focal == 0:
            raise ValueError("at least one of bce, dice and focal must be above 0")
        return self


class Train(Section):
    """How the network learns."""

    section = "train"
    epochs: Count
    windows_per_epoch: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NotNegative
    patience: Count
    loss: Loss
    flips: bool
    quarter_turns: bool
    seed: Seed


class Compute(Section):
    """How numbers are computed where that changes them. Device and worker counts are not here: see docs."""

    section = "compute"
    reproducible: bool
    threads: Count
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]


class Evaluate(Section):
    """How the network is judged."""

    section = "evaluate"
    bootstrap_samples: Count
    calibration_bins: Annotated[int, Field(ge=2, le=100)]
    min_object_m2: NotNegative
    match_iou: Fraction
    worst_misses: Count
    seed: Seed


class Infer(Section):
    """How scores become maps and polygons."""

    section = "infer"
    overlap_px: Annotated[int, Field(ge=0)]
    batch_size: Count
    min_object_m2: NotNegative


S = TypeVar("S", bound=Section)


class StageParams:
    """The params that ``dvc.yaml`` declares for one stage, section by section.

    A stage that reads a section which ``dvc.yaml`` does not declare for it fails, so that no run can depend on a value
    that ``dvc.lock`` does not record.
    """

    def __init__(self, stage: str, values: dict[str, Any]) -> None:
        self._stage, self._values = stage, values

    @classmethod
    def load(cls, stage: str) -> StageParams:
        """Reads the params of ``stage`` as DVC sees them (``dvc exp run -S`` included), from the working directory.

        Args:
            stage: a stage's name in dvc.yaml.
        """
        import dvc.api

        return cls(stage, dvc.api.params_show(stages=stage))

    def __getitem__(self, model: type[S]) -> S:
        """Returns the section of ``model``, checked.

        Raises:
            InputError: the section is not declared for the stage, or a key of it is unknown, missing or ill-typed.
        """
        if model.section not in self._values:
            raise InputError(
                f"dvc.yaml, stage {self._stage}, params",
                got=f"no section {model.section}",
                expected=f"{model.section}, which the stage reads",
                fix=f"add '- {model.section}' under the stage's params",
            )
        return check(model, self._values[model.section])


def read_file(path: Path) -> dict[str, Any]:
    """Reads a params file as DVC does: YAML 1.2, where ``Yes`` is a word, as DVC itself writes it, and no truth value.

    Raises:
        InputError: it is no YAML, or holds no sections.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path.read_text())
    except YAMLError as error:
        raise InputError(str(path), got=str(error), expected="YAML", fix="correct that line") from None
    if not isinstance(values, dict):
        raise InputError(str(path), got=type(values).__name__, expected="sections", fix="git checkout params.yaml")
    return values


def read(path: Path, model: type[S]) -> S:
    """Reads one section straight from a params file, for tools that are no stage.

    Raises:
        InputError: the file lacks the section, or a key of it is unknown, missing or ill-typed.
    """
    values = read_file(path)
    if model.section not in values:
        raise InputError(
            str(path),
            got=f"no section {model.section}",
            expected=f"sections {', '.join(sorted(m.section for m in Section.__subclasses__()))}",
            fix=f"add the section {model.section}, or compare with the params.yaml of a fresh clone",
        )
    return check(model, values[model.section])


def check(model: type[S], values: object) -> S:
    """Makes a section from plain values.

    Raises:
        InputError: names the first offending key, what it got and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join((model.section, *(str(part) for part in first["loc"])))
        more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"params.yaml: {key}",
                got="a key that does not exist",
                expected=f"one of {', '.join(sorted(_siblings(model, first['loc'])))}",
                fix=f"correct or remove it{more}",
            ) from None
        got = "nothing" if first["type"] == "missing" else repr(first["input"])
        expected = (
            "a value for this key" if first["type"] == "missing" else first["msg"].removeprefix("Input should be ")
        )
        raise InputError(f"params.yaml: {key}", got=got, expected=expected, fix=f"edit params.yaml{more}") from None


def _siblings(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys allowed beside the last of ``loc``."""
    for part in loc[:-1]:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    return list(model.model_fields)
