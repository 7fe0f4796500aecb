"""Whether DVC has room to keep what a stage has made, asked while it can still be kept.

Where its cache is full, DVC copies what fits, writes the whole to dvc.lock, and may end with status 0; it then makes
again what the cache lacks, and removes it before. Where dvc.lock doesn't fit, it leaves an empty one.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from sandwatch.errors import InputError
from sandwatch.files import files_below

SPARE = 4_000_000
"""Bytes for DVC's own files: dvc.lock, listings of folders, its database."""


def shortage(stage: str) -> InputError | None:
    """What to tell where there is no room to keep the outputs of a stage that lie in this DVC repository."""
    from dvc.repo import Repo

    with Repo() as repo:
        cache = repo.cache.local
        made = [path for found in repo.stage.collect(stage) for out in found.outs for path in _files(Path(out.fs_path))]
        size = sum(path.stat().st_size for path in made)
        for name, place in (("this folder", Path()), (f"DVC's cache, {cache.path}", _there(Path(cache.path)))):
            free, needed = shutil.disk_usage(place).free, SPARE
            if place != Path() and free < SPARE + size and not _links(cache):
                needed += sum(path.stat().st_size for path in made if not cache.exists(_md5(path)))
            if free < needed:
                return InputError(
                    name,
                    got=f"{free / 1e6:,.1f} MB free",
                    expected=f"{needed / 1e6:,.1f} MB, to keep what {stage} has made, which is whole",
                    fix=f"free some, and before you change anything run: dvc commit -f {stage}",
                )
    return None


def _files(output: Path) -> list[Path]:
    return list(files_below(output).values()) if output.is_dir() else [output] * output.is_file()


def _there(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.is_dir())


def _links(cache: Any) -> bool:
    """Whether DVC keeps files of this folder without a copy. Source: ``dvc.output.Output.commit``."""
    from dvc.fs import LocalFileSystem
    from dvc_objects.fs.generic import test_links

    kinds = ["reflink", *(kind for kind in cache.cache_types[:1] if kind == "hardlink")]
    return bool(test_links(kinds, cache.fs, cache.path, LocalFileSystem(), str(Path("link").absolute())))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
