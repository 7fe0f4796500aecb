"""Writing files whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sandwatch.errors import InputError

T = TypeVar("T")

LEFT_BEHIND = (
    "*.aux.xml",
    "*.ovr",
    "*.qmd",
    "*.qml",
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
    ".directory",
    ".~lock.*#",
)
"""Names of what programs leave beside files that they show; nothing of ours reads any. ``.dvcignore`` has the same."""


def left_behind(path: str) -> bool:
    """Whether a file, or a folder on the way to it, has a name that only those programs give."""
    return any(fnmatchcase(part, pattern) for part in path.split("/") for pattern in LEFT_BEHIND)


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its path in it, in order, without what was left behind there."""
    found = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")))
    return {name: path for name, path in found if path.is_file() and not left_behind(name)}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to; on success it takes the name ``path``, on any error it is removed.

    The parent folder is made if needed. The temporary name keeps the suffix, because drivers choose by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def below(path: str) -> bool:
    """Whether a path out of a table or a listing leads to something inside the folder that it is relative to.

    It must be written in the one plain way: no ``..``, no ``.``, no empty part, no slash in front, no NUL.
    """
    plain = PurePosixPath(path)
    return path == str(plain) != "." and not plain.is_absolute() and ".." not in plain.parts and "\0" not in path


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, two spaces and a newline at the end: the same value, the same bytes."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, check: Callable[[Any], T], *, expected: str, fix: str) -> T:
    """Reads a JSON file of ours.

    Args:
        path: of the file.
        check: makes of the content what is wanted; may raise ValueError, KeyError or TypeError.
        expected: what the file should be, for the error.
        fix: the way back.

    Raises:
        InputError: there is no such file, or it is not what is expected.
    """
    try:
        return check(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)[:300] or type(error).__name__
        raise InputError(str(path), got=got, expected=expected, fix=fix) from None
