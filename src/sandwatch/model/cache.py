"""Weights of the registry on this machine: fetched once, a broken download gone on with, verified. Without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import requests

from sandwatch.errors import InputError, unsigned
from sandwatch.files import sha256
from sandwatch.model.entry import Entry
from sandwatch.retries import retrying

PLACE = "SANDWATCH_WEIGHTS"
"""Environment variable: the folder that keeps fetched weights."""
HUB = "https://huggingface.co"
"""Unless the environment variable HF_ENDPOINT names another, as the hub's own client has it."""
PART = ".part"
TIMEOUT_S = 60.0
PIECE = 1 << 20

Report = Callable[[int, int], None]
"""Is told how many bytes there are, and of how many (0 where nobody says)."""


def place(entry: Entry) -> Path:
    """Where weights of the registry are kept, or will be."""
    folder = Path(os.environ.get(PLACE) or Path.home() / ".cache" / "sandwatch" / "weights")
    # By its address, since one file may hold the weights of several entries.
    return folder / f"{hashlib.sha256(entry.address.encode()).hexdigest()[:12]}-{Path(entry.address).name}"


def fetch(entry: Entry, report: Report = lambda done, total: None) -> Path:
    """Brings weights of the registry here, unless they are; what an earlier try left is gone on with.

    Args:
        entry: which.
        report: is told of the progress.

    Returns:
        The file. Its hash begins as the entry says.

    Raises:
        InputError: they can't be fetched, or what was fetched is something else.
    """
    path = place(entry)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    url = address(entry)
    try:
        for attempt in retrying(_transient):
            with attempt:
                _download(url, part, report)
    except (requests.RequestException, OSError) as error:
        kept = f"; {part.stat().st_size} bytes are kept, and gone on with" if part.is_file() else ""
        raise InputError(
            f"weights {entry.name}",
            got=unsigned(error)[:300],
            expected=f"an answer of {unsigned(url)}",
            fix=f"try again, or run it where that can be reached and bring {path} here{kept}",
        ) from None
    found = sha256(part)
    if not found.startswith(entry.sha256):
        part.unlink()
        raise InputError(
            f"weights {entry.name}",
            got=f"a file with the SHA-256 {found}",
            expected=f"{entry.sha256}{'...' if len(entry.sha256) < 64 else ''}, as published",
            fix="don't use them; ask who publishes them, or fetch them from elsewhere and pin the file",
        )
    part.replace(path)
    return path


def address(entry: Entry) -> str:
    """Where an entry's file is asked for."""
    if not entry.address.startswith("hub:"):
        return entry.address
    owner, repository, file = entry.address.removeprefix("hub:").split("/", 2)
    return f"{os.environ.get('HF_ENDPOINT') or HUB}/{owner}/{repository}/resolve/main/{file}"


def _transient(error: Exception) -> bool:
    """Whether another try may help: not where a server says that there is no such thing, or that it is forbidden."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def _download(url: str, part: Path, report: Report) -> None:
    """Appends to a file what it lacks."""
    have = part.stat().st_size if part.is_file() else 0
    token = os.environ.get("HF_TOKEN") if url.startswith(os.environ.get("HF_ENDPOINT") or HUB) else None
    headers = {"Range": f"bytes={have}-"} if have else {}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there
        answer.raise_for_status()
        have = have if answer.status_code == requests.codes.partial_content else 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        with part.open("ab" if have else "wb") as file:
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                have += len(piece)
                report(have, total)
        if total and have != total:
            raise requests.ConnectionError(f"{have} of {total} bytes came")
