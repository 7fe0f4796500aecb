"""Looks for secrets in whatever a run left behind, also where compression or encoding hides them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq


def leaks(
    secrets: Mapping[str, str], folders: Iterable[Path], contents: Mapping[str, bytes] | None = None
) -> list[str]:
    """Every place where a secret is found.

    Args:
        secrets: what each is called -> its value, as long and odd as secrets are.
        folders: all files in them are read, whatever their names; of git repositories, every object ever committed.
        contents: more to read, by name, such as the objects of a bucket.

    Returns:
        ``<secret> in <place>`` lines, sorted; no value of a secret is in them.
    """
    wanted = {name: _forms(value) for name, value in secrets.items()}
    found = set()
    for place, content in _everything(folders, contents or {}):
        for reading in _readings(content):
            found |= {f"{name} in {place}" for name, forms in wanted.items() if any(form in reading for form in forms)}
    return sorted(found)


def _forms(secret: str) -> set[bytes]:
    """A secret as itself, in a URL, in JSON with escaped slashes, and in base64 at any offset."""
    raw = secret.encode()
    forms = {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].replace("/", r"\/").encode()}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + raw)
        # The first and last characters depend on the neighbours.
        forms.add(encoded[4 if offset else 0 : len(encoded) - 4])
    return forms


def _everything(folders: Iterable[Path], contents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield from contents.items()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()
                yield str(path), path.name.encode()
            if path.name == ".git" and path.is_dir():
                command = ("git", "-C", str(path.parent), "cat-file", "--batch-all-objects", "--batch")
                yield f"the history of {path.parent}", subprocess.run(command, capture_output=True, check=True).stdout


def _readings(content: bytes) -> Iterator[bytes]:
    """The bytes, and what they hold once unpacked."""
    yield content
    if content.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(content))
        for column in table.columns:
            if not pa.types.is_primitive(column.type):  # texts, bytes, and whatever is made of them
                yield str(column.to_pylist()).encode()
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _readings(archive.read(name))
