"""Google Cloud Storage: objects listed, downloaded and uploaded so that what arrives is what was meant.

An object is pinned by its generation, which changes whenever its content does, and checked by its CRC32C. Files come
whole or not at all. Credentials are application-default ones; with ``STORAGE_EMULATOR_HOST`` in the environment, an
emulator is used without any. Interrupted and refused calls are repeated as :mod:`sandwatch.retries` says.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import quote

from sandwatch.errors import InputError, unsigned
from sandwatch.files import whole
from sandwatch.retries import ATTEMPTS, retrying

PUBLIC = "https://storage.googleapis.com"
TIMEOUT_S = 60
"""Longest silence of the service, seconds; also the client library's default."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Object:
    """An object as it is at one moment.

    Attributes:
        uri: ``gs://bucket/name``.
        generation: changes whenever the content is replaced.
        crc32c: of its bytes, base64 of the big-endian checksum, as the service writes it.
        size: bytes.
    """

    uri: str
    generation: int
    crc32c: str
    size: int

    @property
    def pinned(self) -> str:
        """Name and version in one, as Google's tools write it: ``gs://bucket/name#generation``."""
        return f"{self.uri}#{self.generation}"


def list_objects(prefix: str) -> list[Object]:
    """All objects whose URI begins with ``prefix`` (``gs://bucket/start of a name``), sorted by URI.

    Raises:
        InputError: not a URI of this kind; the bucket is unknown or closed to us; the service stays away.
    """
    bucket, name = split(prefix, name_needed=False)

    def call() -> list[Object]:
        found = _client().list_blobs(bucket, prefix=name, timeout=TIMEOUT_S, retry=None)
        return sorted((_object(blob) for blob in found), key=lambda thing: thing.uri)

    return _carefully(prefix, call)


def stat(uri: str) -> Object | None:
    """The object at ``uri`` as it is now; None where there is none.

    Raises:
        InputError: as :func:`list_objects`.
    """
    bucket, name = split(uri)

    def call() -> Object | None:
        blob = _client().bucket(bucket).get_blob(name, timeout=TIMEOUT_S, retry=None)
        return _object(blob) if blob else None

    return _carefully(uri, call)


def download(thing: Object, path: Path) -> None:
    """Writes ``thing`` to ``path``, whole or not at all, and only if it is still of that generation and checksum.

    Raises:
        InputError: it was replaced or removed since; its bytes don't have its checksum; as :func:`list_objects`.
    """
    bucket, name = split(thing.uri)

    def call() -> None:
        with whole(path) as partial:
            blob = _client().bucket(bucket).blob(name, generation=thing.generation)
            blob.download_to_filename(partial, checksum=None, raw_download=True, timeout=TIMEOUT_S, retry=None)
            if (found := crc32c(partial)) != thing.crc32c:
                raise _OtherBytesError(found)

    try:
        _carefully(thing.uri, call)
    except _OtherBytesError as error:
        raise InputError(
            thing.uri,
            got=f"bytes with CRC32C {error}, {ATTEMPTS} times over",
            expected=f"CRC32C {thing.crc32c}",
            fix="run again; if it stays so, write the object anew",
        ) from None


@contextmanager
def local_copy(pinned: str) -> Iterator[Path]:
    """A copy of ``gs://bucket/name#generation`` on this machine for as long as the block lasts, of the same name.

    Raises:
        InputError: it was replaced or removed since it was pinned, or as :func:`download`.
    """
    uri, _, generation = pinned.rpartition("#")
    thing = stat(uri) if uri else None
    if thing is None or thing.pinned != pinned:
        raise InputError(
            pinned,
            got=f"generation {thing.generation}" if thing else "nothing there",
            expected=f"generation {generation}, which was pinned",
            fix="restore that version of the object, or list the files anew",
        )
    with TemporaryDirectory() as folder:
        path = Path(folder) / uri.rpartition("/")[2]
        download(thing, path)
        yield path


def upload(path: Path, uri: str) -> Object:
    """Makes ``uri`` hold the bytes of ``path``; does nothing where it already does.

    The service compares the checksum on arrival and refuses other bytes.

    Raises:
        InputError: as :func:`list_objects`.
    """
    bucket, name = split(uri)
    checksum, size = crc32c(path), path.stat().st_size
    there = stat(uri)
    if there and (there.crc32c, there.size) == (checksum, size):
        return there
    generation = there.generation if there else 0

    def call() -> Object:
        blob = _client().bucket(bucket).blob(name)
        blob.crc32c = checksum
        blob.upload_from_filename(
            str(path), checksum="crc32c", if_generation_match=generation, timeout=TIMEOUT_S, retry=None
        )
        return _object(blob)

    try:
        return _carefully(uri, call)
    except _ChangedError:
        # An upload whose answer was lost shows up as a change that we didn't make.
        now = stat(uri)
        if now and (now.crc32c, now.size) == (checksum, size):
            return now
        raise InputError(
            uri,
            got="another writer's content while we wrote ours",
            expected="one writer at a time",
            fix="run again, and see who else writes there",
        ) from None


def split(uri: str, *, name_needed: bool = True) -> tuple[str, str]:
    """Bucket and name of ``gs://bucket/name``.

    Raises:
        InputError: not a URI of this kind.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, name = rest.partition("/")
    if scheme != "gs" or not bucket or (name_needed and not name):
        raise InputError(uri, got="no object of Google Cloud Storage", expected="gs://bucket/name", fix="correct it")
    return bucket, name


def crc32c(path: Path) -> str:
    """CRC32C of a file's bytes, written as the service writes it."""
    import google_crc32c

    checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def signed_url(uri: str, lifetime: timedelta) -> str:
    """An address that anyone may read ``uri`` at for ``lifetime``, at most seven days. It holds no key and no token.

    Raises:
        InputError: the credentials can't sign.
    """
    import google.auth
    import google.auth.credentials
    import google.auth.exceptions

    bucket, name = split(uri)
    try:
        credentials, _ = google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        credentials = None
    if not isinstance(credentials, google.auth.credentials.Signing):
        raise InputError(
            "Google Cloud Storage",
            got="no credentials that can sign addresses",
            expected="a service account's key",
            fix="set GOOGLE_APPLICATION_CREDENTIALS to its file",
        )
    url: str = (
        _client()
        .bucket(bucket)
        .blob(name)
        .generate_signed_url(version="v4", expiration=lifetime, credentials=credentials, api_access_endpoint=PUBLIC)
    )
    return url


def public_url(uri: str) -> str:
    """The address of ``uri`` for everyone who may read it without asking.

    Raises:
        InputError: not a URI of this kind.
    """
    bucket, name = split(uri)
    return f"{PUBLIC}/{bucket}/{quote(name)}"


class _OtherBytesError(Exception):
    """What arrived has this checksum and not the one that was announced."""


class _ChangedError(Exception):
    """The object is no longer of the generation that was asked for."""


@cache
def _client() -> Any:
    import google.auth.exceptions
    from google.cloud import storage

    try:
        return storage.Client()
    except google.auth.exceptions.DefaultCredentialsError:
        raise InputError(
            "Google Cloud Storage",
            got="no credentials",
            expected="application-default credentials, or a service account's key in GOOGLE_APPLICATION_CREDENTIALS",
            fix="run: gcloud auth application-default login",
        ) from None
    except OSError as error:  # the library says so where it can't tell the project
        raise InputError(
            "Google Cloud Storage",
            got=unsigned(error),
            expected="the id of a project in GOOGLE_CLOUD_PROJECT",
            fix="run: export GOOGLE_CLOUD_PROJECT=<id>",
        ) from None


def _object(blob: Any) -> Object:
    return Object(
        uri=f"gs://{blob.bucket.name}/{blob.name}", generation=int(blob.generation), crc32c=blob.crc32c, size=blob.size
    )


def _transient(error: Exception) -> bool:
    import google.auth.exceptions
    import requests
    import urllib3.exceptions
    from google.api_core import exceptions

    return isinstance(
        error,
        exceptions.TooManyRequests
        | exceptions.InternalServerError
        | exceptions.BadGateway
        | exceptions.ServiceUnavailable
        | exceptions.GatewayTimeout
        | requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError
        | urllib3.exceptions.ProtocolError
        | google.auth.exceptions.TransportError
        | _OtherBytesError,
    )


def _carefully(uri: str, call: Callable[[], T]) -> T:
    """Makes ``call``, again where that may help, and turns what the service refuses into one line."""
    import google.auth.exceptions
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    try:
        for attempt in retrying(_transient):
            with attempt:
                return call()
    except exceptions.NotFound:
        raise InputError(
            uri, got="nothing there", expected="a bucket and an object that exist", fix="check the name in params.yaml"
        ) from None
    except exceptions.PreconditionFailed:
        raise _ChangedError from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise InputError(
            uri,
            got=f"no permission ({unsigned(error.message)})",
            expected="the roles Storage Object Viewer and Storage Object Creator on the bucket",
            fix="ask its owner for them, or check with: gcloud auth list",
        ) from None
    except google.auth.exceptions.RefreshError as error:
        raise InputError(
            "Google Cloud Storage",
            got=f"credentials that are refused ({unsigned(error)})",
            expected="valid credentials",
            fix="run: gcloud auth application-default login",
        ) from None
    except Exception as error:
        if isinstance(error, _OtherBytesError):
            raise
        if not _transient(error):
            if not isinstance(error, exceptions.GoogleAPICallError | requests.RequestException | GoogleAuthError):
                raise
            raise InputError(
                uri,
                got=f"{type(error).__name__}: {unsigned(error)}",
                expected="a request that it accepts",
                fix="see its message",
            ) from None
        raise InputError(
            uri,
            got=f"{type(error).__name__}: {unsigned(error)}, {ATTEMPTS} times over",
            expected="an answer of Google Cloud Storage",
            fix="run again later; what is done stays done",
        ) from None
    raise AssertionError("retrying ends with a result or an error")
