"""Writing files whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from sandwatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system answers that has no room for more: its disk, the user's share of it, or a file's limit is reached."""
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
def whole(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to; on success it takes the name ``path``, on any error it is removed.

    The parent folder is made if needed. The temporary name keeps the suffix, because drivers choose by it.

    What writes there must raise the system's OSError where a byte doesn't get through. GDAL raises none, numpy's
    ``save`` and safetensors another error: where these make a file, take its bytes in memory, and :func:`write_bytes`.

    Args:
        path: of the file.
        needed: its size in bytes, if that is known beforehand, to be told where there is no room.

    Raises:
        InputError: there is no room for it, or the system lets nobody write there.
    """
    partial = path.with_name(f".{path.stem}.partial{os.getpid()}{path.suffix}")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        written = partial.stat().st_size
        _store(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno in FULL:
            with suppress(OSError):
                written = partial.stat().st_size
            partial.unlink(missing_ok=True)
            raise no_room(error, path, max(needed, written)) from None
        if error.filename in {str(partial), *map(str, path.parents)}:
            raise InputError(
                str(path), got=error.strerror, expected="a file that can be written", fix="change who may write there"
            ) from None
        raise
    finally:
        with suppress(NotADirectoryError):
            partial.unlink(missing_ok=True)


def _store(path: Path) -> None:
    """Waits until the system has stored a file: some file systems have room, or none, only then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Tells in one line of a disk that is full.

    Args:
        path: what the block writes, to be named where the system names no file.

    Raises:
        InputError: the block raised an OSError of :data:`FULL`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_room(error, Path(error.filename or path)) from None


def no_room(error: OSError, path: Path, needed: int = 0) -> InputError:
    """What to tell where ``path`` could not be written, which takes at least ``needed`` bytes."""
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    return InputError(
        str(path),
        got=f"{error.strerror}, with {shutil.disk_usage(there).free / 1e6:,.1f} MB free there",
        expected=f"room for {needed / 1e6:,.1f} MB or more" if needed else "more",
        fix="free some and run the same command again",
    )


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file whole or not at all.

    Raises:
        InputError: as :func:`whole`.
    """
    with whole(path, len(content)) as partial:
        partial.write_bytes(content)


def write_npy(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Writes an array as numpy's ``save`` does, in C order, whole or not at all.

    Raises:
        InputError: as :func:`whole`.
    """
    from numpy import lib, require

    array = require(array, requirements="C")
    with whole(path, array.nbytes) as partial, partial.open("wb") as file:
        lib.format.write_array_header_1_0(file, lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


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


def exactly(folder: Path, written: Mapping[str, str | None]) -> None:
    """Checks that a folder holds what was written to it and nothing else.

    Args:
        folder: of an output.
        written: hex SHA-256 of every file by its path in the folder; None where it isn't known.

    Raises:
        InputError: a file is missing, was changed since, or was written by somebody else.
    """
    found = files_below(folder)
    for name in sorted(found.keys() | written.keys()):
        if name not in written:
            got = "a file that this run did not write"
        elif name not in found:
            got = "no file, though this run wrote it"
        elif written[name] not in (None, sha256(found[name])):
            got = "other bytes than this run wrote"
        else:
            continue
        raise InputError(
            str(folder / name),
            got=got,
            expected="what this run wrote and nothing else",
            fix="look which program writes there, remove the folder, and run the same command again",
        )


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
