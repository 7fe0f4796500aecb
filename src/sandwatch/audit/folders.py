"""Folders that are written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sandwatch.errors import InputError
from sandwatch.files import left_behind, room


@contextmanager
def whole_folder(folder: Path, *, replaces: Callable[[Path], bool], of: str) -> Iterator[Path]:
    """Yields an empty folder of the same name; on success it takes the place of ``folder``, else nothing is left.

    Args:
        folder: to be written; may be there and empty.
        replaces: whether what lies in it may be replaced.
        of: what may be, for the error.

    Raises:
        InputError: something else lies there, or there is no room.
    """
    folder = folder.absolute()
    lying = [path.name for path in folder.iterdir() if not left_behind(path.name)] if folder.is_dir() else ["a file"]
    if folder.exists() and lying and not (folder.is_dir() and replaces(folder)):
        raise InputError(
            str(folder),
            got=f"something else there: {', '.join(sorted(lying)[:4])}",
            expected=f"a new or empty folder, or {of}",
            fix="name another folder with --out",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with room(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(Path(scratch) / "before")
        made.rename(folder)
