"""A port of loopback that takes note of who knocks, and answers nobody.

It needs no thread, so it hears a library too that keeps Python from running while it waits; such a library must be told
not to wait long.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Listener:
    """An open port.

    Attributes:
        url: of it, without a slash at the end.
    """

    url: str
    _socket: socket.socket

    def heard(self) -> list[str]:
        """The first lines of the requests that came in since the last call."""
        lines = []
        while select.select([self._socket], [], [], 0)[0]:
            connection, _ = self._socket.accept()
            with connection:
                lines.append(connection.recv(4096).decode(errors="replace").partition("\r\n")[0])
        return lines


@contextmanager
def listen() -> Iterator[Listener]:
    """Opens a port until the end of the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield Listener(url=f"http://127.0.0.1:{listening.getsockname()[1]}", _socket=listening)
