"""The Hugging Face Hub on loopback, as far as its client downloads a file of a repository at a revision."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from .faults import Handler, Server


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A running server.

    Attributes:
        url: where clients find it.
        requests: ``<METHOD> <path>`` of everything that came in, in order.
    """

    url: str
    requests: list[str]


@contextmanager
def serve_hub(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serves ``<owner>/<repository>/<file>``, the same at every revision; any other is answered with 404."""
    requests = list[str]()

    class Files(Handler):
        def do_HEAD(self) -> None:
            requests.append(f"{self.command} {self.path}")
            place = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", self.path)
            content = files.get(f"{place[1]}/{place[3]}") if place else None
            if place is None or content is None:
                self.answer({"error": "Not found"}, status=404, headers={"X-Error-Code": "EntryNotFound"})
                return
            revision = place[2] if re.fullmatch("[0-9a-f]{40}", place[2]) else "0" * 40
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": revision}
            self.answer(content, headers=headers)

        do_GET = do_HEAD

    server = Server(Files)
    with server.running():
        yield Hub(url=server.url, requests=requests)
