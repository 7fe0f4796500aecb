"""Failures on demand, and the HTTP handler that the loopback servers share."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["status", "cut", "lost", "truncate", "fail", "hang", "slow"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One failure to come.

    Attributes:
        place: where it strikes, as the server names its places; ``*`` matches anything.
        kind: ``status``: answered with an error, nothing done. ``cut``: the connection ends amid the body of the
            answer. ``lost``: the request is carried out, then the connection ends before any answer. ``truncate``: a
            file comes without its second half, and the answer is whole as far as HTTP can tell. For long-running tasks,
            ``fail``: ends in failure; ``hang``: runs for ever; ``slow``: takes ten times as long.
        status: of a ``status``, the HTTP status.
        message: what the server says about it.
    """

    place: str
    kind: Kind
    status: int = 503
    message: str = "The service is currently unavailable."


@dataclass
class Faults:
    """The failures that a server still has to show, and those that it has shown.

    Attributes:
        pending: strike once each, the first that matches first.
        struck: (place, kind) of those that did, in order.
    """

    pending: list[Fault] = field(default_factory=list)
    struck: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, place: str, kind: Kind, *, times: int = 1, status: int = 503, message: str | None = None) -> None:
        """Orders a failure at ``place`` for the next ``times`` that it is reached."""
        fault = Fault(place=place, kind=kind, status=status, message=message or f"Injected: {kind} {status}.")
        with self._lock:
            self.pending += [fault] * times

    def take(self, place: str) -> Fault | None:
        """The failure to show at ``place`` now, if any; it is used up."""
        with self._lock:
            for index, fault in enumerate(self.pending):
                if fnmatchcase(place, fault.place):
                    self.struck.append((place, fault.kind))
                    return self.pending.pop(index)
        return None


class Handler(BaseHTTPRequestHandler):
    """Answers over HTTP/1.1 without a log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out one after the other: without this, 40 ms a request

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: tests look at what servers recorded."""

    def body(self) -> bytes:
        """The request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(
        self,
        content: bytes | dict[str, Any],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        """Sends an answer: JSON for a dict, else bytes; ``cut`` ends the connection after half of the content."""
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {}), "Content-Length": str(len(sent))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent[: len(sent) // 2] if cut else sent)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        """Ends the connection."""
        self.wfile.flush()
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """An HTTP server on a free port of loopback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serves in a thread of its own until the end of the block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()
