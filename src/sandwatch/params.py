"""``params.yaml`` as frozen, checked objects: one model a section, units in the names, unknown keys refused.

``params.yaml`` itself says in its comments what each key means. The model of a section says what is allowed, and lies
beside the code that it configures; here is what all share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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

    def __getattr__(self, name: str) -> Any:
        """Only runs for what is not there: a key that :class:`StageParams` took out, because nothing declares it."""
        if name in type(self).model_fields:
            raise _undeclared(f"{self.section}.{name}", f"no {self.section}.{name}")
        return super().__getattr__(name)  # type: ignore[misc]


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


S = TypeVar("S", bound=Section)


class StageParams:
    """The params that ``dvc.yaml`` declares for one stage, key by key.

    A stage that reads a key which ``dvc.yaml`` does not declare for it fails, so that no run can depend on a value that
    ``dvc.lock`` does not record.

    Attributes:
        values: the declared params by section and key, as DVC records them.
    """

    def __init__(self, stage: str, declared: Mapping[str, Any], file: Mapping[str, Any]) -> None:
        """Takes a stage's name, what is declared for it, and all of params.yaml."""
        self._stage, self.values, self._file = stage, declared, file

    @classmethod
    def load(cls, stage: str) -> StageParams:
        """Reads the params of ``stage`` as DVC sees them (``dvc exp run -S`` included), from the working directory.

        Args:
            stage: a stage's name in dvc.yaml.
        """
        import dvc.api

        return cls(stage, dvc.api.params_show(stages=stage), read_file(Path("params.yaml")))

    def __getitem__(self, model: type[S]) -> S:
        """Returns the section of ``model``, checked; a key of it that is not declared for the stage can't be read.

        Raises:
            InputError: nothing of the section is declared for the stage, or a key of it is unknown, missing or
                ill-typed.
        """
        if model.section not in self.values:
            raise _undeclared(model.section, f"no section {model.section}")
        section = check(model, self._file.get(model.section))
        for key in section.__dict__.keys() - self.values[model.section].keys():
            del section.__dict__[key]
        return section


def _undeclared(name: str, got: str) -> InputError:
    return InputError(
        "dvc.yaml, params of the stage that runs",
        got=got,
        expected=f"{name}, which the stage reads",
        fix=f"add '- {name}' under the stage's params",
    )


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
