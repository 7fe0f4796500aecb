"""Recipes: changes of params.yaml that belong together, as a YAML file of dotted names and values (docs/recipes)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sandwatch.errors import InputError
from sandwatch.params import load_yaml, read_file

LONGEST_LINE = 1 << 20
"""Characters: values are written without breaks."""


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
    made = _copied(values)
    for name, value in changes.items():
        *parents, last = _parts(made, name, whose)
        place = made
        for key in parents:
            place = place[key]
        place[last] = _copied(value)
    return made  # type: ignore[no-any-return]


def rewritten(path: Path, recipes: Mapping[Path, Mapping[str, Any]]) -> bytes:
    """The content of a params file with the changes of recipes, one after the other.

    Whatever is not replaced stays to the byte, comments too; those within what is replaced go with it.

    Args:
        path: of the file.
        recipes: the changes of each, by its path.

    Raises:
        InputError: the file is no params file, or too odd to be changed so, or there is nothing of a name.
    """
    values = read_file(path)
    text = path.read_bytes().decode()
    for recipe, changes in recipes.items():
        for name, value in changes.items():
            text = _replaced(text, _parts(values, name, str(recipe)), value)
            values = changed(values, {name: value}, str(recipe))
    if load_yaml(text) != values:
        raise InputError(
            str(path),
            got="YAML with aliases or tags among what is to change",
            expected="plain values there",
            fix="make the changes by hand",
        )
    return text.encode()


def _replaced(text: str, parts: Sequence[str], value: Any) -> str:
    """A text of YAML with another value in the place that is named."""
    from ruamel.yaml import YAML

    node = YAML().compose(text)
    for key in parts:
        node = next(child for name, child in node.value if name.value == key)
    if isinstance(value, Mapping) and _is_block(node):
        margin = "\n" + " " * node.start_mark.column
        new = margin.join(f"{_plain(key)}: {_plain(part)}" for key, part in value.items())
    else:
        new = _plain(value)
    return f"{text[: node.start_mark.index]}{new}{text[_end(node) :]}"


def _copied(value: Any) -> Any:
    """A copy in which nothing is shared, as it may be where a file has aliases."""
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _parts(values: Any, name: str, whose: str) -> list[str]:
    """The keys on the way to what a dotted name stands for, which must be there."""
    parts = str(name).split(".")
    for number, key in enumerate(parts):
        if not isinstance(values, Mapping) or key not in values:
            within = ".".join(parts[:number]) or "params.yaml"
            known = [str(one) for one in values] if isinstance(values, Mapping) else []
            near = get_close_matches(key, known, n=1)
            raise InputError(
                f"{whose}: {name}",
                got=f"no {key} in {within}",
                expected=f"one of {', '.join(known)}" if known else f"no key below {within}, which is a value",
                fix=f"did you mean {near[0]}?" if near else "correct the name, or replace the section as a whole",
            )
        values = values[key]
    return parts


def _is_block(node: Any) -> bool:
    """Whether a ruamel.yaml.nodes.Node is a mapping or a list over several lines, without brackets."""
    return node.id in ("mapping", "sequence") and not node.flow_style


def _end(node: Any) -> int:
    """Where a value's text ends: that of a block ends with its last value, before the comments of what follows."""
    while _is_block(node):
        last = node.value[-1]
        node = last[1] if node.id == "mapping" else last
    return int(node.end_mark.index)


def _plain(value: Any) -> str:
    """A value on one line of YAML."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    stream = io.StringIO()
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = True, LONGEST_LINE, False
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("\n").removesuffix("\n...")
