"""MD5 as DVC keeps files by: of a file, and of a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from sandwatch.files import files_below

MD5 = re.compile(r"[0-9a-f]{32}")


def md5(path: Path) -> str:
    """The MD5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(files: Mapping[str, str]) -> str:
    """The MD5 of a folder as DVC writes it: of the listing of its files' MD5. Source: dvc_data.hashfile.tree."""
    listing = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def hash_folder(folder: Path) -> dict[str, str]:
    """The MD5 of every file below a folder, by path in it, without what was left behind there by looking at them."""
    return {name: md5(path) for name, path in files_below(folder).items()}
