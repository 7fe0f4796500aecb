"""Recipes: changes of params.yaml that belong together, as a YAML file of dotted names and values (docs/recipes)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sandwatch.errors import InputError
from sandwatch.params import read_file


def read(path: Path) -> dict[str, Any]:
    """The changes of a recipe, by name.

    Args:
        path: of a YAML file, ``train.learning_rate: 0.0005`` a line. What a name stands for is replaced as a whole, so
            ``model: {kind: unet, ...}`` leaves no key of another kind.

    Raises:
        InputError: there is no such file, or it is no mapping.
    """
    return read_file(path)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The values of a params file with changes; the values given stay as they are.

    Args:
        values: by section and key.
        changes: by dotted name; each must be there already.
        whose: changes they are, for messages.

    Raises:
        InputError: there is nothing of a name.
    """
    made = copy.deepcopy(dict(values))
    for name, value in changes.items():
        replace(made, name, copy.deepcopy(value), whose)
    return made


def replace(values: Any, name: str, value: Any, whose: str) -> None:
    """Puts a value in the place that a dotted name stands for, which must be there.

    Args:
        values: mappings within mappings; changed in place.
        name: of a section or a key.
        value: its new value.
        whose: change it is, for messages.

    Raises:
        InputError: there is nothing of that name.
    """
    *parents, last = str(name).split(".")
    place = values
    for number, key in enumerate([*parents, last]):
        if not isinstance(place, Mapping) or key not in place:
            within = ".".join(parents[:number])
            known = [str(one) for one in place] if isinstance(place, Mapping) else []
            near = get_close_matches(key, known, n=1)
            raise InputError(
                f"{whose}: {name}",
                got=f"no {key} in {within or 'params.yaml'}",
                expected=f"one of {', '.join(known)}" if known else f"no key below {within}, which is a value",
                fix=f"did you mean {near[0]}?" if near else "correct the name, or replace the section as a whole",
            )
        if number < len(parents):
            place = place[key]
    place[last] = value
