"""Every writer on a disk with little room: the whole file, the one that was there before, or an error; nothing between.

The disks are a tmpfs and, where loop devices may be used, an ext4 image; both are seen by this process alone and vanish
with it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
import torch

from sandwatch import raster, report, schemas
from sandwatch.audit.attest import attest
from sandwatch.audit.forward import audit
from sandwatch.audit.page import write_page
from sandwatch.audit.render import write_csv
from sandwatch.errors import InputError
from sandwatch.files import files_below, write_json, write_npy
from sandwatch.model import weights
from tests.audit_history import write_history
from tests.conftest import reflectance
from tests.torture.attack import expect, refused

CLONE_NEWNS = 0x00020000
SIZE = 24 << 20
"""Bytes of a disk."""
PAGE = 4096
GRID = raster.Grid(crs="EPSG:32645", left=380_000.0, top=2_246_000.0, width=300, height=280)


class Attack:
    """Writes one file, or one folder, with a random room left: from none to somewhat more than it needs."""

    share = 2.0
    deadline_s = 120.0

    def __init__(self, scratch: Path) -> None:
        """Mounts the disks, and learns what each writer writes where there is room."""
        self._disks = _disks(scratch)
        made = write_history(scratch / "clone", labels=60, revisions=2, experiments=0, snapshots=1, models=1)
        answer = audit("main", where=made.root, offline=True)
        pixels, rows = reflectance(3, GRID), reflectance(1, GRID)[0]
        json, tensors = {"a": list(range(20_000))}, {"w": torch.arange(100_000)}

        def by_rows(path: Path) -> None:
            with raster.cog_by_rows(path, GRID, band="b", dtype=np.uint16, nodata=0, tags={}) as write:
                for row in range(0, GRID.height, 64):
                    write(row, rows[row : row + 64])

        now = datetime(2026, 1, 1, tzinfo=UTC)
        self._writers: dict[str, Callable[[Path], object]] = {
            "cog.tif": lambda path: raster.write_cog(path, pixels, GRID, bands=("a", "b", "c"), nodata=0),
            "rows.tif": by_rows,
            "array.npy": lambda path: write_npy(path, pixels),
            "table.parquet": lambda path: schemas.Labels.write(made.labels, path),
            "value.json": lambda path: write_json(path, json),
            "weights.safetensors": lambda path: weights.save(path, tensors),
            "picture.png": lambda path: report.scene_picture(path, (pixels >> 4).astype(np.uint8), GRID, title="a"),
            "labels.csv": lambda path: write_csv(answer.labels, path),
            "page.html": lambda path: write_page(answer, path),
            "release": lambda path: attest("main", path, where=made.root, offline=True, now=now),
        }
        self._expected, self._needed = {}, {}
        for name, write in self._writers.items():
            write(scratch / name)
            self._expected[name] = _content(scratch / name)
            self._needed[name] = sum(path.stat().st_size for path in [*(scratch / name).rglob("*"), scratch / name])

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        if not self._disks:
            return Counter(skipped=1)
        disk, name = draw.choice(self._disks), draw.choice(list(self._writers))
        room = int(self._needed[name] * draw.choice((draw.uniform(0, 1.2), draw.uniform(0.9, 1.1), draw.uniform(1, 4))))
        path, filler = disk / "made" / name, disk / "filler"
        shutil.rmtree(disk / "made", ignore_errors=True)
        filler.unlink(missing_ok=True)
        before = draw.random() < 0.3
        path.parent.mkdir()
        if before:
            self._writers[name](path)
        _fill(filler, disk, room)
        what = f"{name} with {room} bytes left on {disk.name}"
        try:
            self._writers[name](path)
        except InputError as error:
            after = _content(path)
            expect(
                after == (self._expected[name] if before else {}),
                "lost",
                f"{what}: {sorted(after)} lies there: {error}",
            )
            left = [one.name for one in path.parent.rglob("*") if one.name != name and path not in one.parents]
            expect(not left, "stranger", f"{what}: {left} lies beside it")
            return refused(error)
        expect(_content(path) == self._expected[name], "false", f"{what}: success, and another file than written")
        return Counter(right=1)


def _content(path: Path) -> dict[str, str]:
    """SHA-256 by path of a file or of all below a folder; of a page without the numbers that Bokeh counts up."""
    files = files_below(path) if path.is_dir() else {"": path} if path.is_file() else {}
    counted = rb"p\d+" if path.suffix == ".html" else rb"(?!)"
    return {name: hashlib.sha256(re.sub(counted, b"", file.read_bytes())).hexdigest() for name, file in files.items()}


def _fill(filler: Path, disk: Path, room: int) -> None:
    """Leaves that much room on a disk, to the page."""
    about = os.statvfs(disk)
    with filler.open("wb") as file:
        if (taken := (about.f_bavail * about.f_frsize - room) // PAGE * PAGE) > 0:
            os.posix_fallocate(file.fileno(), 0, taken)


def _disks(scratch: Path) -> list[Path]:
    """The disks that may be mounted here; none, and why, where none may."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        print(f"no disk may be mounted here: {os.strerror(ctypes.get_errno())}")
        return []
    image = scratch / "image"
    image.write_bytes(b"")
    os.truncate(image, SIZE)
    found = []
    _ran("mount", "--make-rprivate", "/")
    for name, mount in (
        ("tmpfs", ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs"]),
        ("ext4", ["mount", "-o", "loop", str(image)]),
    ):
        disk = scratch / name
        disk.mkdir()
        if (name == "tmpfs" or _ran("mkfs.ext4", "-q", "-m", "0", str(image))) and _ran(*mount, str(disk)):
            found.append(disk)
    return found


def _ran(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{command[0]}: {done.stderr.strip()}")
    return not done.returncode
