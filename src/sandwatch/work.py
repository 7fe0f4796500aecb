"""Finished work that outlives a killed run: units of a stage's work, kept outside the outputs that DVC removes.

DVC removes a stage's outputs before it runs the stage, so what a killed run had finished is gone. Here each finished
unit (an observation's scene or map, the epochs of a training so far) lies under a key: the hash of all that its result
depends on, which is the code that the stage can run (by what it means), the libraries, what it is computed on, and the
unit's inputs. A unit is done again wherever any of it differs.

What is taken out is compared with its hash on the way; what is damaged is removed, said, and computed again. Files come
whole or not at all, and are found by what they hold, so that any number of runs may share the folder. They are copied
(sharing blocks where the file system can): nothing that writes to an output reaches what is kept. Nothing depends on
it: where it can't be written, work goes on without.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import Any

from sandwatch import code
from sandwatch.errors import InputError
from sandwatch.files import below, files_below, sha256, whole
from sandwatch.stage import progress

FOLDER = Path(".cache/sandwatch/work")
"""In the repository; git and DVC ignore it."""
DEFAULT_GB = 20.0
LARGEST_SHARE = 0.25
"""Of the space that would be free without it: what is kept may never be why a disk is full."""
STEP = 1 / 16
"""Of what it may hold: after so much was added, it is measured anew."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of a stage's work that needs no other.

    Attributes:
        name: for people.
        inputs: tells all that the result depends on beside code and libraries, as plain JSON, files by their hashes;
            None where that can't be told. It is asked before and after the work: what changed meanwhile is seen.
        function: does the work: writes files to the folder that it is given, and returns plain JSON.
    """

    name: str
    inputs: Callable[[], Any]
    function: Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A unit that is done.

    Attributes:
        value: what the function returned.
        sha256: of the files that it wrote, by path in the folder.
        kept: an earlier run had done it.
    """

    value: Any
    sha256: Mapping[str, str]
    kept: bool


class Work:
    """Where the finished units of a stage are kept. It can be pickled.

    ``units/<key>`` holds the value and the names and hashes of the files of a unit, behind a hash of its own;
    ``files/<SHA-256>`` holds what they held.
    """

    def __init__(self, folder: Path, context: str) -> None:
        """Takes the folder, and a text that differs where code, libraries or processor may give something else."""
        self.folder, self._context = folder, context
        self._room = 0

    @classmethod
    def open(cls, script: Path, *, computed_on: str = "") -> Work:
        """The work of a stage.

        Args:
            script: of the stage.
            computed_on: what its results depend on of this machine.

        Raises:
            InputError: ``SANDWATCH_CACHE_GB`` is no number above 0.
        """
        _limit()
        context = {"code": code.running(script), "libraries": _libraries(), "computed_on": computed_on}
        return cls(place(), json.dumps(context, sort_keys=True))

    def key(self, inputs: Any) -> str:
        """Of a unit with these inputs."""
        return hashlib.sha256(json.dumps([self._context, inputs], sort_keys=True).encode()).hexdigest()

    def run(self, unit: Unit, folder: Path) -> Done:
        """Does a unit, or takes what an earlier run made of it.

        Args:
            unit: what to do.
            folder: of its files and of nothing else: what lies there is removed first.
        """
        inputs = unit.inputs()
        shutil.rmtree(folder, ignore_errors=True)
        if inputs is not None and (done := self.take(self.key(inputs), folder, unit.name)):
            return done
        value = unit.function(folder)
        hashes = {name: sha256(path) for name, path in files_below(folder).items()}
        if inputs is not None:
            if unit.inputs() == inputs:
                self.put(self.key(inputs), folder, hashes, value, unit.name)
            else:
                progress(f"{unit.name}: its inputs changed while it was computed, so it isn't kept for a later run")
        return Done(value=value, sha256=hashes, kept=False)

    def take(self, key: str, folder: Path, name: str) -> Done | None:
        """Copies the files of a unit to a folder, if it is kept and whole.

        Args:
            key: of :meth:`key`.
            folder: where to; it is made if there are files.
            name: of the unit, for people.
        """
        with self._unless_damaged(key, name):
            found = self._read(key)
            for path, expected in found["files"].items():
                file = self._file(expected)
                with whole(folder / path) as partial:
                    _copy(file, partial)
                    if sha256(partial) != expected:
                        raise _DamagedError(file)
                _used(file)
            _used(self._unit(key))
            return Done(value=found["value"], sha256=found["files"], kept=True)
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def take_bytes(self, key: str, name: str) -> bytes | None:
        """What :meth:`put_bytes` kept, if it is kept and whole."""
        with self._unless_damaged(key, name):
            file = self._file(self._read(key)["files"][name])
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != file.name:
                raise _DamagedError(file)
            return content
        return None

    def put(self, key: str, folder: Path, hashes: Mapping[str, str], value: Any, name: str) -> None:
        """Keeps a unit, in place of what was kept under its key. Where that can't be, a line says so and no more.

        Args:
            key: of :meth:`key`.
            folder: of its files.
            hashes: of its files by path in the folder.
            value: plain JSON.
            name: of the unit, for people.
        """
        text = json.dumps({"files": dict(hashes), "value": value}, sort_keys=True).encode()
        try:
            before = self._files_of(key)
            self._make_room(sum((folder / path).stat().st_size for path in hashes) + len(text))
            for path, digest in hashes.items():
                if not self._file(digest).exists():
                    with _fresh(self._file(digest)) as partial:
                        _copy(folder / path, partial)
            with _fresh(self._unit(key)) as partial:
                partial.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            for digest in before - set(hashes.values()):
                self._file(digest).unlink(missing_ok=True)
        except OSError as error:
            progress(f"{name}: can't be kept for a later run in {self.folder}: {error.strerror}")

    def put_bytes(self, key: str, content: bytes | memoryview, name: str) -> None:
        """Keeps a unit that is one file, as :meth:`put` does; the file has the unit's name."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder) as folder:
                (Path(folder) / name).write_bytes(content)
                self.put(key, Path(folder), {name: hashlib.sha256(content).hexdigest()}, None, name)
        except OSError as error:
            progress(f"{name}: can't be kept for a later run in {self.folder}: {error.strerror}")

    def drop(self, key: str) -> None:
        """Removes a unit, if it is kept."""
        for digest in self._files_of(key):
            self._file(digest).unlink(missing_ok=True)
        self._unit(key).unlink(missing_ok=True)

    def _unit(self, key: str) -> Path:
        return self.folder / "units" / key

    def _file(self, digest: str) -> Path:
        return self.folder / "files" / digest

    def _read(self, key: str) -> dict[str, Any]:
        """What is kept of a unit.

        Raises:
            OSError: nothing, or nothing that can be read.
            _DamagedError: it isn't what it was.
        """
        told, _, text = self._unit(key).read_bytes().partition(b"\n")
        if told.decode(errors="replace") != hashlib.sha256(text).hexdigest():
            raise _DamagedError(self._unit(key))
        found: dict[str, Any] = json.loads(text)
        if not all(below(path) and re.fullmatch("[0-9a-f]{64}", digest) for path, digest in found["files"].items()):
            raise _DamagedError(self._unit(key))
        return found

    @contextmanager
    def _unless_damaged(self, key: str, name: str) -> Iterator[None]:
        """Ends the block where a unit isn't kept or can't be read, or is damaged: then it is removed and said."""
        try:
            yield
        except OSError:
            pass
        except _DamagedError as error:
            progress(f"{name}: {error} is damaged, so it is computed again")
            for path in (error.path, self._unit(key)):
                with suppress(OSError):
                    path.unlink()

    def _files_of(self, key: str) -> set[str]:
        try:
            return set(self._read(key)["files"].values())
        except (OSError, _DamagedError):
            return set()

    def _make_room(self, size: int) -> None:
        """Sees to it that so many bytes more are not too many.

        Raises:
            OSError: they alone are.
        """
        if size > self._room:
            most = bound(self.folder)
            if size > most:
                raise OSError(errno.ENOSPC, f"{size / 1e9:.1f} GB are more than the {most / 1e9:.1f} GB it may take")
            self._room = max(size, int(most * STEP))
            prune(self.folder, most - self._room)
        self._room -= size


class _DamagedError(Exception):
    """A file that isn't what it was when it was kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def place() -> Path:
    """The folder of finished work: ``SANDWATCH_CACHE``, else one in the repository.

    Where DVC runs a copy of the repository (``dvc exp run --temp`` and ``--queue``), it is that of the repository,
    which DVC names in ``DVC_ROOT``.
    """
    given = os.environ.get("SANDWATCH_CACHE")
    return Path(given) if given else Path(os.environ.get("DVC_ROOT", "")) / FOLDER


def size(folder: Path) -> int:
    """Bytes of all files there."""
    return sum(stat.st_size for _, stat in _kept(folder))


def bound(folder: Path) -> int:
    """The most bytes that may lie there: ``SANDWATCH_CACHE_GB``, or a quarter of what would be free without it.

    Raises:
        InputError: the variable is no number above 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return int(min(_limit() * 1e9, (shutil.disk_usage(folder).free + size(folder)) * LARGEST_SHARE))


def prune(folder: Path, most: int) -> None:
    """Removes what was not used for longest, until no more than ``most`` bytes are left."""
    files = sorted(_kept(folder), key=lambda one: one[1].st_mtime)
    left = sum(stat.st_size for _, stat in files)
    for path, stat in files:
        if left <= most:
            break
        path.unlink(missing_ok=True)
        left -= stat.st_size


def _kept(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files below, those that killed runs left half written too."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another run removed it
            stat = path.stat()
            if S_ISREG(stat.st_mode):
                yield path, stat


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """As :func:`sandwatch.files.whole`, without waiting for the disk: what it loses is noticed by its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _used(path: Path) -> None:
    """Sets its time to now, where that is allowed: what was used last is removed last."""
    with suppress(OSError):
        os.utime(path)


def _limit() -> float:
    given = os.environ.get("SANDWATCH_CACHE_GB")
    try:
        limit = DEFAULT_GB if given is None else float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise InputError(
            "environment variable SANDWATCH_CACHE_GB", got=repr(given), expected="a number above 0", fix="unset it"
        )
    return limit


def _libraries() -> dict[str, str]:
    """Versions of what sandwatch names as its dependencies, as far as it is installed; tools of development aside."""
    versions = {}
    for requirement in metadata.requires("sandwatch") or ():
        if "extra ==" not in requirement:
            name = re.split(r"[^\w.-]", requirement)[0]
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
    return versions


def _copy(source: Path, target: Path) -> None:
    """Copies a file, without its bytes where the file system can share them until one of the two is written to."""
    with source.open("rb") as read, target.open("wb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), 2**30):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            shutil.copyfileobj(read, write)
