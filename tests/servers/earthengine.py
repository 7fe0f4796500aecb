"""An Earth Engine on loopback, for the real ``earthengine-api`` client.

It serves discovery and algorithms from the payloads in the client's own wheel, evaluates expressions over a catalogue
of images (``ee_graph``), answers requests for pixels, and runs export tasks that write GeoTIFFs into a bucket. It
checks what it is sent, limits included, and can be told to fail.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
from affine import Affine
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import storage
from rasterio import MemoryFile

from .ee_graph import PAYLOADS, Evaluator, GraphError, Image, compute
from .ee_scenes import Catalogue, PixelGrid
from .faults import Fault, Faults, Handler, Server

MAX_REQUEST_BYTES = 50_331_648
MAX_SIDE_PX = 32_768
REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,60}")
DESCRIPTION = re.compile(r"[A-Za-z0-9.,:;_-]{1,100}")
"""Both as the service documents them."""


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, name: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.status, self.name = status, name


@dataclass
class EarthEngine:
    """A running server.

    Attributes:
        url: where clients find it.
        project: the only project that it knows.
        catalogue: what it holds.
        faults: places are ``discovery``, ``algorithms``, ``value:compute``, ``image:computePixels``, ``image:export``,
            ``operations.list``, ``operations.get``, ``token``, and ``task`` for an export while it runs (kinds
            ``fail``, ``hang``, ``slow``, and ``cut``: half of the file is written).
        requests: the places that were reached, in order.
        operations: tasks by name, as the service shows them.
        token: what a request must bear, or None to admit anyone.
        task_s: how long a task is pending, and how long it runs.
        page_size: tasks a page of the list of tasks.
        shard_px: exports larger than this are written as several files.
    """

    url: str
    project: str
    catalogue: Catalogue
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    token: str | None = None
    task_s: float = 0.02
    page_size: int = 500
    shard_px: int = MAX_SIDE_PX
    storage: storage.Client | None = None
    _by_request_id: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write_key(self, path: Path, *, key_id: str = "recognisable-key-id") -> Path:
        """Writes a service account's key, made up here, for which the server gives out its ``token``."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": key_id,
            "private_key": private.decode(),
            "client_email": "miner@loopback.example",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(key))
        return path

    def started(self) -> list[str]:
        """Descriptions of all tasks ever started."""
        return [operation["metadata"]["description"] for operation in self.operations.values()]

    def compute_value(self, body: dict[str, Any]) -> dict[str, Any]:
        """value:compute."""
        return {"result": _plain(self._evaluated(body))}

    def compute_pixels(self, body: dict[str, Any]) -> bytes:
        """image:computePixels, as NPY."""
        if body.get("fileFormat") != "NPY":
            raise Refusal(400, f"This server writes NPY, not {body.get('fileFormat')}.")
        grid = _grid(body.get("grid"))
        pixels = compute(self._image(body), grid, body.get("bandIds"))
        size = sum(band.nbytes for band in pixels.values())
        if size > MAX_REQUEST_BYTES:
            raise Refusal(
                400, f"Total request size ({size} bytes) must be less than or equal to {MAX_REQUEST_BYTES} bytes."
            )
        block = np.zeros((grid.height, grid.width), dtype=[(name, band.dtype) for name, band in pixels.items()])
        for name, band in pixels.items():
            block[name] = band
        file = io.BytesIO()
        np.save(file, block)
        return file.getvalue()

    def export(self, body: dict[str, Any]) -> dict[str, Any]:
        """image:export to a bucket; the same request id never starts a second task."""
        request_id, description = body.get("requestId", ""), body.get("description", "")
        if request_id and not REQUEST_ID.fullmatch(request_id):
            raise Refusal(400, f"Invalid requestId '{request_id}'.")
        if not DESCRIPTION.fullmatch(description):
            raise Refusal(400, f"Invalid description '{description}'.")
        try:
            options = body["fileExportOptions"]
            destination = options["cloudStorageDestination"]
            bucket, prefix = destination["bucket"], destination["filenamePrefix"]
            file_format = options["fileFormat"]
        except (KeyError, TypeError) as error:
            raise Refusal(400, f"Missing field {error} in fileExportOptions.") from None
        if file_format != "GEO_TIFF":
            raise Refusal(400, f"This server exports GEO_TIFF, not {file_format}.")
        image = self._image(body)
        grid = image.output_grid()
        allowed = int(body.get("maxPixels", {}).get("value", 1e8))
        if grid.width * grid.height > allowed:
            raise Refusal(400, f"Export too large: specified {grid.width * grid.height} pixels (max: {allowed}).")
        with self._lock:
            if request_id in self._by_request_id:
                return self.operations[self._by_request_id[request_id]]
            name = f"projects/{self.project}/operations/{secrets.token_hex(12).upper()}"
            self.operations[name] = {"name": name, "metadata": _metadata(description)}
            if request_id:
                self._by_request_id[request_id] = name
        task = threading.Thread(target=self._run, args=(name, image, grid, bucket, prefix), daemon=True)
        task.start()
        return self.operations[name]

    def list_operations(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """One page of all tasks."""
        start = int(query.get("pageToken", ["0"])[0])
        size = min(int(query.get("pageSize", ["500"])[0]), self.page_size)
        page = list(self.operations.values())[start : start + size]
        more = {"nextPageToken": str(start + size)} if start + size < len(self.operations) else {}
        return {"operations": page, **more}

    def operation(self, name: str) -> dict[str, Any]:
        """One task."""
        if name not in self.operations:
            raise Refusal(404, f"Operation {name} not found.", "NOT_FOUND")
        return self.operations[name]

    def cancel(self, name: str) -> dict[str, Any]:
        """Asks a task to end."""
        self.operation(name)["metadata"]["state"] = "CANCELLING"
        return {}

    def _evaluated(self, body: dict[str, Any]) -> Any:
        if "expression" not in body:
            raise Refusal(400, "Missing field 'expression'.")
        return Evaluator(body["expression"], self.catalogue).value()

    def _image(self, body: dict[str, Any]) -> Image:
        image = self._evaluated(body)
        if not isinstance(image, Image):
            raise Refusal(400, f"Expression does not evaluate to an Image but to {type(image).__name__}.")
        return image

    def _run(self, name: str, image: Image, grid: PixelGrid, bucket: str, prefix: str) -> None:
        operation = self.operations[name]
        fault = self.faults.take("task")
        kind = fault.kind if fault else None
        try:
            for state in ("PENDING", "RUNNING"):
                operation["metadata"]["state"] = state
                time.sleep(self.task_s * (10 if kind == "slow" else 1))
                while kind == "hang" and operation["metadata"]["state"] != "CANCELLING":
                    time.sleep(0.01)
                if operation["metadata"]["state"] == "CANCELLING":
                    return _end(operation, "CANCELLED", "Cancelled.")
            if fault and kind == "fail":
                return _end(operation, "FAILED", fault.message)
            self._write(compute(image, grid, None), grid, bucket, prefix, cut=kind == "cut")
        except Exception as error:  # noqa: BLE001 - a task tells its error to whoever asks
            return _end(operation, "FAILED", str(error))
        uri = f"https://console.developers.google.com/storage/browser/{bucket}/"
        operation["metadata"]["destinationUris"] = [uri]
        return _end(operation, "SUCCEEDED", None)

    def _write(
        self, pixels: dict[str, npt.NDArray[Any]], grid: PixelGrid, bucket: str, prefix: str, *, cut: bool
    ) -> None:
        if self.storage is None:
            raise GraphError("This server has no bucket to write to.")
        stack = np.stack(list(pixels.values()))
        many = max(grid.width, grid.height) > self.shard_px
        for row in range(0, grid.height, self.shard_px):
            for col in range(0, grid.width, self.shard_px):
                part = stack[:, row : row + self.shard_px, col : col + self.shard_px]
                content = _geotiff(part, list(pixels), grid, row, col)
                name = f"{prefix}-{row:010d}-{col:010d}.tif" if many else f"{prefix}.tif"
                self.storage.bucket(bucket).blob(name).upload_from_string(
                    content[: len(content) // 2] if cut else content, "image/tiff"
                )


@contextmanager
def serve_earthengine(
    catalogue: Catalogue, *, project: str = "loopback-project", storage_client: storage.Client | None = None
) -> Iterator[EarthEngine]:
    """Runs a server over ``catalogue`` until the end of the block."""

    class Routes(Handler):
        def do_GET(self) -> None:
            self.route(b"")

        def do_POST(self) -> None:
            self.route(self.body())

        def route(self, body: bytes) -> None:
            url = urlsplit(self.path)
            place = _place(self.command, url.path)
            engine.requests.append(place)
            fault = engine.faults.take(place)
            try:
                if fault and fault.kind == "status":
                    raise Refusal(fault.status, fault.message, "INJECTED")
                answer = self.carried_out(place, url.path, parse_qs(url.query), body)
            except Refusal as refusal:
                self.refuse(refusal.status, str(refusal), refusal.name)
            except GraphError as error:
                self.refuse(400, str(error), "INVALID_ARGUMENT")
            else:
                self.send(answer, fault)

        def send(self, answer: bytes | dict[str, Any], fault: Fault | None) -> None:
            if fault and fault.kind == "lost":
                self.hang_up()
            else:
                self.answer(answer, cut=fault is not None)

        def refuse(self, status: int, message: str, name: str) -> None:
            self.answer({"error": {"code": status, "message": message, "status": name}}, status=status)

        def carried_out(
            self, place: str, path: str, query: dict[str, list[str]], body: bytes
        ) -> bytes | dict[str, Any]:
            if place == "discovery":
                document = (PAYLOADS / "cloud_api_discovery_document.json").read_text()
                return document.replace("v1alpha", "v1").encode()
            if place == "token":
                return {"access_token": engine.token, "expires_in": 3600, "token_type": "Bearer"}
            if engine.token and self.headers.get("Authorization") != f"Bearer {engine.token}":
                raise Refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")
            if not path.startswith(f"/v1/projects/{engine.project}/"):
                asked = path.removeprefix("/v1/projects/").partition("/")[0]
                raise Refusal(403, f"Project '{asked}' not found or deleted.", "PERMISSION_DENIED")
            if place == "algorithms":
                return (PAYLOADS / "algorithms.json").read_bytes()
            if place == "operations.list":
                return engine.list_operations(query)
            if place == "operations.get":
                return engine.operation(path.removeprefix("/v1/"))
            if place == "operations.cancel":
                return engine.cancel(path.removeprefix("/v1/").removesuffix(":cancel"))
            try:
                content = json.loads(body)
            except ValueError:
                raise Refusal(400, "Invalid JSON payload received.") from None
            if place == "value:compute":
                return engine.compute_value(content)
            if place == "image:computePixels":
                return engine.compute_pixels(content)
            if place == "image:export":
                return engine.export(content)
            raise Refusal(404, f"The requested URL {path} was not found on this server.", "NOT_FOUND")

    server = Server(Routes)
    engine = EarthEngine(url=server.url, project=project, catalogue=catalogue, storage=storage_client)
    with server.running():
        yield engine


def _place(method: str, path: str) -> str:
    if path == "/$discovery/rest":
        return "discovery"
    if path == "/token":
        return "token"
    last = path.rpartition("/")[2]
    if path.endswith(":cancel"):
        return "operations.cancel"
    if method == "GET" and last == "operations":
        return "operations.list"
    if method == "GET" and "/operations/" in path:
        return "operations.get"
    return last


def _grid(grid: Any) -> PixelGrid:
    try:
        affine, size = grid["affineTransform"], grid["dimensions"]
        order = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
        a, b, c, d, e, f = (float(affine[name]) for name in order)
        made = PixelGrid(str(grid["crsCode"]), (a, b, c, d, e, f), int(size["width"]), int(size["height"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(400, f"Invalid grid: {error}.") from None
    if max(made.width, made.height) > MAX_SIDE_PX:
        raise Refusal(
            400, f"Pixel grid dimensions ({made.width}x{made.height}) must be less than or equal to {MAX_SIDE_PX}."
        )
    return made


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    raise Refusal(400, f"This server can't answer with a {type(value).__name__}.")


def _metadata(description: str) -> dict[str, Any]:
    moment = "2026-01-01T00:00:00Z"
    return {
        "@type": "type.googleapis.com/google.earthengine.v1.OperationMetadata",
        "type": "EXPORT_IMAGE",
        "state": "PENDING",
        "description": description,
        "priority": 100,
        "createTime": moment,
        "updateTime": moment,
        "startTime": moment,
        "attempt": 1,
    }


def _end(operation: dict[str, Any], state: str, message: str | None) -> None:
    if message is None:
        operation["response"] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
    else:
        operation["error"] = {"code": 3, "message": message}
    operation["done"] = True
    operation["metadata"]["state"] = state


def _geotiff(pixels: npt.NDArray[Any], bands: list[str], grid: PixelGrid, row: int, col: int) -> bytes:
    a, b, c, d, e, f = grid.transform
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            dtype=pixels.dtype,
            count=len(pixels),
            height=pixels.shape[1],
            width=pixels.shape[2],
            crs=grid.crs,
            transform=Affine(a, b, c + a * col, d, e, f + e * row),
            compress="lzw",
        ) as file:
            file.write(pixels)
            file.descriptions = tuple(bands)
        content: bytes = memory.read()
        return content
