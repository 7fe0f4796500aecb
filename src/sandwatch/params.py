"""``params.yaml`` as frozen, checked objects: one model a section, units in the names, unknown keys refused.

``params.yaml`` itself says in its comments what each key means. The model of a section says what is allowed, and lies
beside the code that it configures; here is what all share.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sandwatch import ids, running
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


def _plain(path: str) -> str:
    if not all(ids.names_files(part) for part in path.split("/")):
        raise PydanticCustomError("path", f"a path of plain names: {ids.RULE}")
    return path


PlainPath = Annotated[str, AfterValidator(_plain)]
"""A path below a folder that ``dvc.yaml`` writes into commands, where a shell takes blanks and signs for its own."""
S2Band = Literal["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
S1Band = Literal["VV", "VH"]


LONGEST_YAML = 1_000_000
"""Characters, with aliases filled in: a few lines of them can stand for more than a memory holds. The sample's dvc.lock
has 12,000."""
MOST_MERGED = 20
"""Aliases of a text that merges mappings: what is merged is copied, so that it grows with every step."""


class Section(BaseModel):
    """A section of params.yaml. ``section`` is its key there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    section: ClassVar[str]

    @classmethod
    def variant(cls, values: object) -> type[Self]:
        """The model of the keys that go with these values; a section whose keys depend on one of them overrides it."""
        return cls

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

    def __init__(self, declared: Mapping[str, Any], file: Mapping[str, Any]) -> None:
        """Takes what is declared for a stage, and all of params.yaml."""
        self.values, self._file = declared, file

    @classmethod
    def load(cls, stage: str) -> StageParams:
        """Reads the params of ``stage`` as DVC sees them (``dvc exp run -S`` included), from the working directory.

        Args:
            stage: a stage's name in dvc.yaml. Where DVC runs another, that one's are read: a script may serve several.
        """
        import dvc.api

        stage = os.environ.get(running.STAGE) or stage
        return cls(dvc.api.params_show(stages=stage), read_file(Path("params.yaml")))

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
        InputError: there is none, it is no YAML, or holds no sections.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            str(path), got=error.strerror, expected="the params of a clone", fix="change into the clone's root"
        ) from None
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    """The sections in the content of a params file."""
    try:
        values = load_yaml(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            str(path), got=f"bytes that are no UTF-8 in line {line}", expected="YAML", fix="save it as UTF-8"
        ) from None
    except ValueError as error:
        raise InputError(str(path), got=error, expected="YAML", fix="correct that line") from None
    if not isinstance(values, dict):
        raise InputError(str(path), got=type(values).__name__, expected="sections", fix="git restore params.yaml")
    return values


def load_yaml(text: str) -> Any:
    """The value of a YAML file, YAML 1.2 as DVC reads it, in a time and a space that grow no faster than the text.

    Raises:
        ValueError: it is no YAML, or its aliases stand for too much; says what, and where.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > LONGEST_YAML:
        raise ValueError(f"{len(text)} characters; up to {LONGEST_YAML} are read")
    if "<<" in text and len(re.findall(r"\*\w", text)) > MOST_MERGED:
        raise ValueError(f"more than {MOST_MERGED} aliases, and merges")
    try:
        value = YAML(typ="safe").load(text)
        if "&" in text and _size(value, {}) > LONGEST_YAML:
            raise ValueError("aliases that stand for too much")
    except YAMLError as error:
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            raise ValueError(f"{error.problem} in line {error.problem_mark.line + 1}") from None
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("values nested too deeply") from None
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # tags on what they don't fit
        raise ValueError(f"a value that can't be read: {error}") from None
    return value


def _size(value: Any, known: dict[int, float]) -> float:
    """About how long values are with every alias filled in; infinite for what holds itself."""
    if not isinstance(value, dict | list):
        return len(str(value))
    if id(value) not in known:
        known[id(value)] = math.inf
        children = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(child, known) for child in children)
    return known[id(value)]


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
    model = model.variant(values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        (_, first), *others = sorted(_explained(model, error), key=lambda one: one[0])
        more = f" ({len(others)} more after this one)" if others else ""
        raise InputError(first.what, got=first.got, expected=first.expected, fix=f"{first.fix}{more}") from None


def faults(root: Path, models: Iterable[type[Section]], content: bytes | None = None) -> list[InputError]:
    """Everything that is wrong with a clone's params.yaml, for stages too that don't run now; empty where nothing is.

    Unknown keys come first, since a misspelt one is also why another is missing; then what is missing; then the rest.

    Args:
        root: of the clone, with params.yaml and the folders of the regions.
        models: of all sections.
        content: of the file; None to read it.
    """
    path, known = root / "params.yaml", {model.section: model for model in models}
    try:
        values = read_file(path) if content is None else _parse(path, content)
    except InputError as error:
        return [error]
    found = [_stranger("", key, ["region", *known]) for key in values if key != "region" and key not in known]
    for name, model in known.items():
        if name not in values:
            found.append((_MISSING, _nothing(name, "a section")))
            continue
        variant = model.variant(values[name])
        try:
            variant.model_validate(values[name])
        except ValidationError as error:
            found += _explained(variant, error, known.values())
    found += _region(values, root / "data" / "regions")
    return [error for _, error in sorted(found, key=lambda one: one[0])]


_UNKNOWN, _MISSING, _OTHER = range(3)
"""Ranks of faults: which are told first."""


def _explained(
    model: type[Section], error: ValidationError, models: Iterable[type[Section]] = ()
) -> list[tuple[int, InputError]]:
    """The faults of a section with their ranks, in its order; ``models`` are those of all sections."""
    found = []
    for fault in error.errors(include_url=False):
        *inside, last = (model.section, *(str(part) for part in fault["loc"]))
        key = ".".join((*inside, last))
        if fault["type"] == "extra_forbidden":
            found.append(_stranger(f"{'.'.join(inside)}.", last, _siblings(model, fault["loc"]), models))
        elif fault["type"] == "missing":
            found.append((_MISSING, _nothing(key, "a value for this key")))
        else:
            expected = (
                "keys with values" if fault["type"] == "model_type" else fault["msg"].removeprefix("Input should be ")
            )
            wrong = InputError(
                f"params.yaml: {key}", got=repr(fault["input"]), expected=expected, fix="edit params.yaml"
            )
            found.append((_OTHER, wrong))
    return found


def _stranger(
    prefix: str, key: object, allowed: list[str], models: Iterable[type[Section]] = ()
) -> tuple[int, InputError]:
    """An unknown key, with the known one that it most likely stands for: beside it, else of that name in ``models``."""
    near = get_close_matches(str(key), allowed, n=1)
    near = near or [f"{model.section}.{key}" for model in models if key in model.model_fields]
    fix = f"did you mean {' or '.join(near)}? correct or remove it" if near else "correct or remove it"
    what, expected = f"params.yaml: {prefix}{key}", f"one of {', '.join(sorted(allowed))}"
    return _UNKNOWN, InputError(what, got="a key that does not exist", expected=expected, fix=fix)


def _nothing(key: str, expected: str) -> InputError:
    return InputError(f"params.yaml: {key}", got="nothing", expected=expected, fix="edit params.yaml")


def _region(values: dict[str, Any], regions: Path) -> list[tuple[int, InputError]]:
    """What is wrong with the key ``region``, which names a folder."""
    folders = sorted(path.name for path in regions.iterdir() if path.is_dir()) if regions.is_dir() else []
    if "region" not in values:
        return [(_MISSING, _nothing("region", f"a folder under data/regions: {', '.join(folders)}"))]
    region = values["region"]
    if region in folders and ids.names_files(region):
        return []
    if region in folders:
        # dvc.yaml writes it into commands, where a shell takes blanks and signs for its own.
        fix = "rename that folder, and set region"
        return [(_OTHER, InputError("params.yaml: region", got=repr(region), expected=ids.RULE, fix=fix))]
    near = get_close_matches(str(region), folders, n=1)
    fix = f"did you mean {near[0]}? correct it" if near else f"correct it, or make data/regions/{region}"
    expected = f"a folder under data/regions: {', '.join(folders)}"
    return [(_OTHER, InputError("params.yaml: region", got=repr(region), expected=expected, fix=fix))]


def _siblings(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys allowed beside the last of ``loc``."""
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        (model,) = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type(BaseModel)))
    return list(model.model_fields)
