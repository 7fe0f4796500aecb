"""The connection to Earth Engine: who we are there, calls repeated where that helps, refusals as one line.

The environment says who and where, never params.yaml: ``GOOGLE_APPLICATION_CREDENTIALS`` (a service account's key;
else what ``earthengine authenticate`` or ``gcloud auth application-default login`` left), ``GOOGLE_CLOUD_PROJECT``, and
``SANDWATCH_EARTHENGINE_URL`` for another endpoint (Google's high-volume one, or a server on loopback in tests).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from sandwatch.errors import InputError, unsigned
from sandwatch.retries import ATTEMPTS, retrying

URL = "SANDWATCH_EARTHENGINE_URL"
PROJECT = "GOOGLE_CLOUD_PROJECT"
DEADLINE_MS = 330_000
"""Earth Engine itself gives an interactive request up to 5 minutes. Source: Earth Engine guide, debugging."""
PAGE = "https://developers.google.com/earth-engine/guides"
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
T = TypeVar("T")


def start() -> None:
    """Connects the Earth Engine client of this process.

    Raises:
        InputError: no credentials, no project, a project that is unknown or closed to us, or no answer.
    """
    import ee

    url, project = os.environ.get(URL), os.environ.get(PROJECT)
    credentials = _credentials(url)

    def connect() -> None:
        ee.data.setMaxRetries(0)  # ours count
        ee.Initialize(credentials=credentials, url=url, project=project)
        ee.data.setDeadline(DEADLINE_MS)

    try:
        call("start", connect)
    except ee.EEException as error:  # of the client itself: it was given no project
        raise InputError(
            f"environment variable {PROJECT}",
            got=repr(project) if project else f"nothing ({unsigned(error)})",
            expected="the id of a Google Cloud project that is registered for Earth Engine",
            fix=f"run: export {PROJECT}=<id>",
        ) from None


def call(what: str, function: Callable[[], T]) -> T:
    """Calls Earth Engine, again where that may help.

    Args:
        what: what is asked for, for the error.
        function: one call of the client.

    Raises:
        InputError: Earth Engine refuses, with its own message and what to do.
    """
    import google.auth.exceptions
    from ee import EEException
    from googleapiclient.errors import HttpError

    try:
        for attempt in retrying(_transient):
            with attempt:
                return function()
    except (EEException, HttpError) as error:
        status = _status(error)
        if status is None:
            raise  # the client itself complains
        raise _refusal(what, status, error.reason if isinstance(error, HttpError) else str(error)) from None
    except (ConnectionError, TimeoutError, google.auth.exceptions.TransportError) as error:
        raise InputError(
            f"Earth Engine, {what}",
            got=f"no answer ({type(error).__name__}), {ATTEMPTS} times over",
            expected=f"an answer from {os.environ.get(URL, 'earthengine.googleapis.com')}",
            fix="check the network and run again; what is done stays done",
        ) from None
    except google.auth.exceptions.GoogleAuthError as error:
        raise _refusal(what, 401, str(error)) from None
    raise AssertionError("retrying ends with a result or an error")


def _credentials(url: str | None) -> Any:
    import ee
    import google.auth
    import google.auth.credentials
    import google.auth.exceptions

    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    try:
        if key:
            return google.auth.default(scopes=ee.oauth.SCOPES)[0]
        if url and url.startswith("http://"):
            # Nothing secret goes over plain HTTP.
            return google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        return ee.data.get_persistent_credentials()
    except (google.auth.exceptions.DefaultCredentialsError, ee.EEException):
        raise InputError(
            "Earth Engine",
            got=f"no credentials in {key}" if key else "no credentials",
            expected="what `earthengine authenticate` leaves, or the path of a service account's key in "
            "GOOGLE_APPLICATION_CREDENTIALS",
            fix="run: earthengine authenticate",
        ) from None


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client, which keeps it only in the context of an EEException."""
    from googleapiclient.errors import HttpError

    cause = error if isinstance(error, HttpError) else error.__context__
    return int(cause.resp.status) if isinstance(cause, HttpError) else None


def _transient(error: Exception) -> bool:
    import google.auth.exceptions

    return _status(error) in _TRANSIENT_STATUSES or isinstance(
        error, ConnectionError | TimeoutError | google.auth.exceptions.TransportError
    )


def _refusal(what: str, status: int, message: str) -> InputError:
    """One line for what Earth Engine refuses."""
    project = os.environ.get(PROJECT, "of the credentials")
    place, message = f"Earth Engine, {what}", unsigned(message)
    lower = message.lower()
    if status == 429 or "quota" in lower:
        return InputError(
            place,
            got=f"{message!r}, {ATTEMPTS} times over",
            expected="room in the project's quota",
            fix=f"run again later (what is done stays done), or see {PAGE}/usage",
        )
    if "not found or deleted" in lower or (status == 404 and "project" in lower):
        return InputError(
            place,
            got=f"unknown project {project} ({message})",
            expected="the id of a Google Cloud project",
            fix=f"correct {PROJECT}",
        )
    if "has not been used in project" in lower or "not registered" in lower:
        return InputError(
            place,
            got=f"project {project}, which is not set up for Earth Engine ({message})",
            expected="a project with the Earth Engine API, registered",
            fix=f"open https://code.earthengine.google.com/register?project={project}",
        )
    if status in (401, 403):
        return InputError(
            place,
            got=f"no permission ({message})",
            expected=f"the roles Earth Engine Resource Writer and Service Usage Consumer on project {project}",
            fix="ask its owner for them, or run: earthengine authenticate --force",
        )
    if "memory limit" in lower or "timed out" in lower or "too many concurrent aggregations" in lower:
        return InputError(
            place,
            got=f"{message!r}",
            expected="a computation that fits an interactive request",
            fix="set earthengine.transfer to batch and earthengine.bucket to a bucket of yours in params.yaml",
        )
    return InputError(
        place,
        got=f"{message!r}" + (f", {ATTEMPTS} times over" if status in _TRANSIENT_STATUSES else ""),
        expected="a result",
        fix="run again later; what is done stays done",
    )
