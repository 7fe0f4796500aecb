"""Pixels out of Earth Engine by one of two ways, into one file a composite, whole or not at all.

``compute_pixels`` asks for tiles and waits for each answer. It is Xee's way of reading too; Xee puts a lazy xarray
around it, cut into chunks along time as well, which has no use here: a composite has one moment, and its tiles go
straight to their place in an array.

``batch`` starts export tasks, waits for them, and takes their files from a bucket. A task is known by its description,
which ends in the hash of what is asked for. So a run that ended before its tasks did finds them again, and what lies in
the bucket already is not computed anew. A start is marked with a request id, by which Earth Engine refuses to start
the same thing twice even where its first answer was lost.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sandwatch import gcs, raster
from sandwatch.errors import InputError
from sandwatch.files import write_npy
from sandwatch.grid import Grid, Window
from sandwatch.imagery.earthengine import session
from sandwatch.imagery.earthengine.composites import MAX_PIXELS, crs_transform
from sandwatch.imagery.params import EarthEngine
from sandwatch.pools import threads
from sandwatch.retries import pause
from sandwatch.stage import progress

if TYPE_CHECKING:
    import ee

REQUEST_BYTES = 48 * 2**20
"""Largest answer of one request for pixels. Source: Earth Engine reference, projects.image.computePixels."""
TILE_PX = 512
"""Side of a tile: well under the 32768 px allowed, so that a composite of many images stays within the memory and time
of an interactive request."""
PARALLEL_REQUESTS = 8
"""Of the 40 at a time that a project may have. Source: Earth Engine quotas."""
AUTO_TILES = 16
"""``auto`` takes the batch way, if there is a bucket, for composites of more tiles than this."""
TASKS_IN_FLIGHT = 32
"""Tasks started and not collected. Earth Engine runs 2 at a time by default. Source: Earth Engine quotas."""
TASK_ATTEMPTS = 3
LASTING = ("cancel", "permission", "quota", "memory limit")
"""Words in a failed task's message that tell that another attempt would fail too."""
POLL_FIRST_S, POLL_GROWTH, POLL_LONGEST_S = 5.0, 1.5, 300.0
PATIENCE_S = 12 * 3600.0
"""When no task has ended for so long, something hangs."""
FOLDER = "sandwatch/earthengine"
"""Where in the bucket tasks write."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A composite to fetch.

    Attributes:
        name: ``<obs_id>_<product>``.
        image: the expression.
        grid: what to compute it on.
        bands: of the image, in order.
        dtype: of every band.
        folder: the file will lie here.
    """

    name: str
    image: ee.Image
    grid: Grid
    bands: tuple[str, ...]
    dtype: str
    folder: Path

    @cached_property
    def key(self) -> str:
        """Hex hash of everything that is asked for."""
        from ee import serializer

        asked = {"expression": serializer.encode(self.image, for_cloud_api=True), "grid": asdict(self.grid)}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def path(self) -> Path:
        """The file that will hold the pixels, an array (band, y, x)."""
        return self.folder / f"{self.name}_{self.key}.npy"

    @property
    def tiles(self) -> list[Window]:
        """Windows that cover the grid, none too large for one request."""
        side = TILE_PX
        while side * side * len(self.bands) * np.dtype(self.dtype).itemsize > REQUEST_BYTES:
            side //= 2
        return [
            Window(row=row, col=col, height=min(side, self.grid.height - row), width=min(side, self.grid.width - col))
            for row in range(0, self.grid.height, side)
            for col in range(0, self.grid.width, side)
        ]


def fetch(orders: Sequence[Order], settings: EarthEngine) -> None:
    """Makes the file of every order that has none yet.

    Raises:
        InputError: Earth Engine or the bucket refuses; files that were made by then stay.
    """
    todo = [order for order in orders if not order.path.exists()]
    if len(todo) < len(orders):
        progress(f"{len(orders) - len(todo)} of {len(orders)} composites are here already")
    batch = [order for order in todo if _goes_by_batch(order, settings)]
    if batch:
        assert settings.bucket is not None
        Batch(settings.bucket).run(batch)
    _compute_pixels([order for order in todo if not _goes_by_batch(order, settings)])


def _goes_by_batch(order: Order, settings: EarthEngine) -> bool:
    if settings.transfer == "auto":
        return settings.bucket is not None and len(order.tiles) > AUTO_TILES
    return settings.transfer == "batch"


def compute_pixels(order: Order, window: Window) -> npt.NDArray[Any]:
    """One tile of an order.

    Returns:
        Array (band, y, x) of the order's dtype and the window's size.
    """
    import ee

    grid = order.grid.crop(window)
    x_scale, x_shear, x_move, y_shear, y_scale, y_move = crs_transform(grid)
    request = {
        "expression": order.image,
        "fileFormat": "NUMPY_NDARRAY",
        "bandIds": list(order.bands),
        "grid": {
            "dimensions": {"width": grid.width, "height": grid.height},
            "affineTransform": {
                "scaleX": x_scale,
                "shearX": x_shear,
                "translateX": x_move,
                "shearY": y_shear,
                "scaleY": y_scale,
                "translateY": y_move,
            },
            "crsCode": grid.crs,
        },
    }
    block = session.call(f"pixels of {order.name}", lambda: ee.data.computePixels(request))
    return np.stack([block[band] for band in order.bands]).astype(order.dtype)


def _compute_pixels(orders: Sequence[Order]) -> None:
    """Fetches orders tile by tile; after a refusal no more is asked for, but what has come by then is kept."""
    refusal: InputError | None = None
    done = 0
    with threads(PARALLEL_REQUESTS) as pool:
        waiting = deque(
            (order, [(window, pool.submit(compute_pixels, order, window)) for window in order.tiles])
            for order in orders
        )
        while waiting:
            order, tiles = waiting.popleft()
            pixels = np.empty((len(order.bands), *order.grid.shape), order.dtype)
            try:
                for window, tile in tiles:
                    pixels[:, *window.slices] = tile.result()
            except CancelledError:
                continue
            except InputError as error:
                refusal = refusal or error
                pool.shutdown(wait=False, cancel_futures=True)
                continue
            write_npy(order.path, pixels)
            done = _tell(done, len(orders), "composites fetched")
    if refusal:
        raise refusal


def _tell(done: int, total: int, what: str) -> int:
    """Counts one more, and says so at every tenth of ``total``."""
    if (done + 1) * 10 // total > done * 10 // total:
        progress(f"{done + 1} of {total} {what}")
    return done + 1


class Batch:
    """Export tasks into a bucket, from start to file."""

    def __init__(self, bucket: str) -> None:
        """Finds the tasks that earlier runs started."""
        import ee

        self._bucket = bucket
        self._known: dict[str, list[dict[str, Any]]] = {}
        for operation in session.call("list of tasks", ee.data.listOperations):
            self._known.setdefault(operation["metadata"].get("description", ""), []).append(operation)
        self._failures: Counter[str] = Counter()

    def run(self, orders: Sequence[Order]) -> None:
        """Makes the files of all orders.

        Raises:
            InputError: tasks failed for good, after all others were collected; or nothing ends any more.
        """
        waiting, flying = deque(orders), dict[str, Order]()
        refused: list[str] = []
        wait, since, done = POLL_FIRST_S, 0.0, 0
        while waiting or flying:
            while waiting and len(flying) < TASKS_IN_FLIGHT:
                order = waiting.popleft()
                task = self._task_of(order)
                if task is None:
                    done = _tell(done, len(orders), "composites exported and downloaded")
                else:
                    flying[task] = order
            ended = list(self._ended(flying))
            for task, message in ended:
                order = flying.pop(task)
                if message is None:
                    done = _tell(done, len(orders), "composites exported and downloaded")
                elif self._may_retry(order, message):
                    progress(f"{order.name}: task failed, starting it again: {message}")
                    waiting.append(order)
                else:
                    refused.append(f"{order.name}: {message}")
            if flying and not ended:
                if since > PATIENCE_S:
                    raise self._hangs(flying)
                pause(wait)
                since, wait = since + wait, min(wait * POLL_GROWTH, POLL_LONGEST_S)
            elif ended:
                wait, since = POLL_FIRST_S, 0.0
        if refused:
            raise InputError(
                f"Earth Engine, export of {refused[0].partition(':')[0]}",
                got=f"{refused[0].partition(': ')[2]} ({len(refused)} of {len(orders)} exports failed)",
                expected="a task that succeeds",
                fix="correct what it says and run again; the others are here, and are not exported again",
            )

    def _task_of(self, order: Order) -> str | None:
        """The name of the running task of an order, started if need be; None if its file could be made at once."""
        import ee

        operations = self._known.setdefault(self._description(order), [])
        for operation in operations:
            if operation["metadata"]["state"] in ("PENDING", "RUNNING"):
                return str(operation["name"])
        if not self._failures[order.name] and self._collect(order):
            return None
        export = ee.batch.Export.image.toCloudStorage(
            image=order.image,
            description=self._description(order),
            bucket=self._bucket,
            fileNamePrefix=self._prefix(order),
            crs=order.grid.crs,
            crsTransform=crs_transform(order.grid),
            dimensions=f"{order.grid.width}x{order.grid.height}",
            maxPixels=MAX_PIXELS,
            fileFormat="GeoTIFF",
        )
        # Task.start would draw a random request id; with ours, one that is repeated starts nothing.
        request_id, config = f"{order.key}-{len(operations)}", dict(export.config or {})
        operation = session.call(f"export of {order.name}", lambda: ee.data.exportImage(request_id, config))
        operations.append(operation)
        return str(operation["name"])

    def _ended(self, flying: dict[str, Order]) -> Iterator[tuple[str, str | None]]:
        """Tasks that are over, with what went wrong; None where the order's file is made."""
        import ee

        for task, order in flying.items():
            operation = session.call(f"task of {order.name}", partial(ee.data.getOperation, task))
            known = self._known[self._description(order)]
            known[:] = [operation if other["name"] == task else other for other in known]
            state = operation["metadata"]["state"]
            if state == "SUCCEEDED":
                yield task, None if self._collect(order) else "what it wrote into the bucket is not whole"
            elif state in ("FAILED", "CANCELLED"):
                yield task, operation.get("error", {}).get("message", state)

    def _may_retry(self, order: Order, message: str) -> bool:
        self._failures[order.name] += 1
        return self._failures[order.name] < TASK_ATTEMPTS and not any(word in message.lower() for word in LASTING)

    def _collect(self, order: Order) -> bool:
        """Makes the file of an order from what lies in the bucket; whether it could."""
        import rasterio.errors

        prefix = self._prefix(order)
        shard = re.compile(re.escape(f"gs://{self._bucket}/{prefix}") + r"(-\d{10}-\d{10})?\.tif")
        shards = [thing for thing in gcs.list_objects(f"gs://{self._bucket}/{prefix}") if shard.fullmatch(thing.uri)]
        pixels = np.empty((len(order.bands), *order.grid.shape), order.dtype)
        times_filled = np.zeros(order.grid.shape, np.uint8)
        folder = order.folder / f"{order.name}_{order.key}.partial"
        try:
            for number, thing in enumerate(shards):
                path = folder / f"{number}.tif"
                gcs.download(thing, path)
                try:
                    window = _place(raster.read_grid(path), order.grid)
                    pixels[:, *window.slices] = raster.read(path, bands=order.bands)
                except (InputError, ValueError, rasterio.errors.RasterioIOError):
                    return False
                times_filled[window.slices] += 1
                path.unlink()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not (times_filled == 1).all():
            return False
        write_npy(order.path, pixels)
        return True

    def _description(self, order: Order) -> str:
        """A task's description: letters, digits and -._ only, at most 100 of them. Source: Earth Engine reference."""
        return f"sandwatch-{re.sub(r'[^A-Za-z0-9._-]', '_', order.name)[:56]}-{order.key}"

    def _prefix(self, order: Order) -> str:
        return f"{FOLDER}/{order.name}_{order.key}"

    def _hangs(self, flying: dict[str, Order]) -> InputError:
        task, order = next(iter(flying.items()))
        return InputError(
            f"Earth Engine, task {task} ({order.name})",
            got=f"no task that ended for {PATIENCE_S / 3600:.0f} hours, {len(flying)} still to come",
            expected="exports to end some time",
            fix="see https://code.earthengine.google.com/tasks; cancel there what hangs, then run again: the others "
            "are found by name",
        )


def _place(part: Grid, grid: Grid) -> Window:
    """Where ``part`` lies in ``grid``.

    Raises:
        ValueError: it isn't a part of it.
    """
    col, row = (part.left - grid.left) / grid.resolution, (grid.top - part.top) / grid.resolution
    window = Window(row=round(row), col=round(col), height=part.height, width=part.width)
    if grid.crop(window) != part or window.row < 0 or window.col < 0:
        raise ValueError(f"{part} is no part of {grid}")
    if window.row + window.height > grid.height or window.col + window.width > grid.width:
        raise ValueError(f"{part} reaches out of {grid}")
    return window
