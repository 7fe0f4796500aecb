"""Files that DVC keeps by their MD5: out of its cache, the working tree, or its remote, and never more than asked for.

Every object is hashed when it is first used: a cache that was tampered with is told apart from one that is intact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sandwatch.audit.hashes import MD5, folder_md5, hash_folder, md5
from sandwatch.errors import unsigned
from sandwatch.files import below


class MissingError(Exception):
    """An object is neither in the cache nor in the working tree nor in a remote; ``str()`` says so."""


class CorruptError(Exception):
    """An object does not have the hash that it is kept under; ``str()`` names it."""


class Objects:
    """The objects of a DVC repository."""

    def __init__(self, root: Path, *, remote: str | None = None, offline: bool = False) -> None:
        """Opens nothing yet.

        Args:
            root: of the DVC repository.
            remote: name of the remote to pull from; None for the default one.
            offline: don't ask any remote.
        """
        self._root, self._remote, self._offline = root, remote, offline
        self._verified: dict[str, Path] = {}
        self._absent: set[str] = set()
        self._trees: dict[str, dict[str, str]] = {}
        self.pulled: list[str] = []

    def fetch(self, oids: Iterable[str]) -> None:
        """Pulls those objects that are not in the cache, in one go, as far as the remote has them."""
        wanted = {oid for oid in oids if oid not in self._absent and not self._cached(oid).is_file()}
        if not wanted or self._offline:
            return
        if not (self._remote or self._config["core"].get("remote")):
            self._why = "no remote is set up: sandwatch remote gs://<bucket>/<folder>"
            self._absent |= wanted
            return
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_objects.errors import ObjectDBError

        try:
            remote, cache = self._repo.cloud.get_remote_odb(self._remote), self._repo.cache.local
            self._repo.cloud.transfer(remote, cache, {HashInfo("md5", oid) for oid in wanted}, cache_odb=cache)
        except (DvcException, ObjectDBError, OSError) as error:
            self._why = unsigned(error)
        got = {oid for oid in wanted if self._cached(oid).is_file()}
        self.pulled += sorted(got)
        self._absent |= wanted - got

    def path(self, oid: str, workspace: str | None = None, *, pull: bool = True) -> Path:
        """A file with the content of an object.

        Args:
            oid: its MD5.
            workspace: where a copy may lie, from the DVC root; used where its MD5 agrees.
            pull: ask the remote where it is in neither.

        Raises:
            MissingError: nobody has it.
            CorruptError: what the cache holds under that name is something else.
        """
        if oid in self._verified:
            return self._verified[oid]
        cached = self._cached(oid)
        if not cached.is_file():
            lying = self._root / workspace if workspace is not None else None
            if lying is not None and lying.is_file() and md5(lying) == oid:
                self._verified[oid] = lying
                return lying
            if pull:
                self.fetch([oid])
        if not cached.is_file():
            reason = f" ({self._why})" if self._why else ""
            raise MissingError(f"object {oid} is in neither cache nor remote{reason}")
        found = md5(cached)
        if found != oid.removesuffix(".dir"):
            raise CorruptError(f"the cache holds another file (MD5 {found}) under the name {oid}; delete {cached}")
        self._verified[oid] = cached
        return cached

    def tree(self, oid: str, workspace: str | None = None, *, pull: bool = True) -> Mapping[str, str]:
        """The files of a folder: MD5 by path in it; arguments as of :meth:`path`.

        Raises:
            MissingError: as :meth:`path`.
            CorruptError: likewise, or the listing names something outside the folder, or is none.
        """
        if oid not in self._trees:
            lying = self._root / workspace if workspace is not None else None
            if not self._cached(oid).is_file() and lying is not None and lying.is_dir():
                files = hash_folder(lying)
                if folder_md5(files) == oid:
                    self._trees[oid] = files
                    return files
            self._trees[oid] = _listed(oid, self.path(oid, pull=pull).read_bytes())
        return self._trees[oid]

    def file(self, folder: str, path: str, workspace: str | None = None) -> Path:
        """A file of a folder.

        Args:
            folder: its MD5.
            path: of the file in it.
            workspace: where a copy of the folder may lie, from the DVC root.

        Raises:
            MissingError: as :meth:`path`, or the folder has no such file.
            CorruptError: as :meth:`path`.
        """
        files = self.tree(folder, workspace)
        if path not in files:
            raise MissingError(f"folder {folder} holds no {path}")
        return self.path(files[path], None if workspace is None else f"{workspace}/{path}")

    _why = ""

    def _cached(self, oid: str) -> Path:
        return self._cache_folder / oid[:2] / oid[2:]

    @cached_property
    def _config(self) -> Any:
        """DVC's, without opening its repository, which takes a second."""
        from dvc.config import Config

        return Config(str(self._root / ".dvc"))

    @cached_property
    def _cache_folder(self) -> Path:
        """Where DVC 3 keeps objects. Source: dvc.cachemgr."""
        return Path(self._config["cache"].get("dir") or self._root / ".dvc/cache") / "files" / "md5"

    @cached_property
    def _repo(self) -> Any:
        from dvc.repo import Repo

        # gcsfs would try gRPC first, and wait a minute where it can't connect.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        return Repo(str(self._root))


def read_table(path: Path, types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """A table out of a Parquet file: the columns of ``types``, as those; all as they are without.

    Raises:
        CorruptError: it is no such table.
    """
    try:
        if types is None:
            return pq.read_table(path)
        return pq.read_table(path, columns=list(types)).select(list(types)).cast(pa.schema(types))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        wanted = f"with the columns {', '.join(types)}" if types else "of Parquet"
        raise CorruptError(f"{path} is no table {wanted}: {' '.join(str(error).split())[:200]}") from None


def _listed(oid: str, content: bytes) -> dict[str, str]:
    """MD5 by path of a folder's listing. Whoever could write to the cache or the remote may have written it."""
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"object {oid} is no listing of a folder: {type(error).__name__}: {error}") from None
    for path, found in files.items():
        if not below(path):
            raise CorruptError(f"the listing {oid} names {path!r}, which does not lie in the folder")
        if not MD5.fullmatch(found):
            raise CorruptError(f"the listing {oid} gives {path!r} the MD5 {found!r}, which is none")
    return files
