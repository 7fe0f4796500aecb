"""Labels of a Labelbox project: its whole export, or its label versions as they were at one moment.

``annotations.snapshot`` is the pin. Where it is a moment (ISO 8601, such as ``2026-10-01T00:00:00Z``), every label is
taken as its last version recorded before that moment: versions are never changed, so the same snapshot is the same
labels for ever. Any other name stands for one export, started once and named after the project and the snapshot; run
again while Labelbox keeps its results, the same export is fetched, not a newer one. Exports are found among those that
the key's user started in any project, so each row is asked which project it is of.

The key comes from ``LABELBOX_API_KEY``; ``SANDWATCH_LABELBOX_URL`` replaces the address of the service. Calls that fail
in passing are repeated (:mod:`sandwatch.retries`); the SDK repeats answers of status 5xx by itself, for two minutes.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sandwatch.annotations.params import Annotations
from sandwatch.errors import InputError, unsigned
from sandwatch.retries import ATTEMPTS, pause, retrying

URL = "SANDWATCH_LABELBOX_URL"
KEY = "LABELBOX_API_KEY"
TIMEOUT_S = 7200.0
"""Longest wait for a task of Labelbox, seconds; the SDK's own limit for exports."""
LONGEST_POLL_S = 60.0
EXPORT = {
    "attachments": False,
    "data_row_details": True,
    "label_details": True,
    "metadata_fields": True,
    "performance_details": True,
    "project_details": True,
}
"""What an export holds beside the annotations: all that the rules ask for, and who did what when."""
DONE, IN_REVIEW, IN_REWORK = "DONE", "IN_REVIEW", "IN_REWORK"
AFTER = {
    "APPROVED": DONE,
    "REJECTED": IN_REWORK,
    "SENT_TO_REWORK": IN_REWORK,
    "SUBMITTED": IN_REVIEW,
    "REWORK_SUBMITTED": IN_REVIEW,
    "SAVED": IN_REVIEW,
}
"""Where a data row stands after the hand-off that a label version records. A version recorded in no workflow step is
done. Source: the SDK's documentation of ``LabelVersionAction`` and ``LabelVersion.stage``."""
T = TypeVar("T")


def raw_rows(params: Annotations) -> Iterator[bytes]:
    """The project's rows in the form of an export, one JSON line each, complete or not at all.

    Memory holds one part of the download at a time (for versions: also a few short strings a label); the rest waits in
    a temporary folder.

    Raises:
        InputError: no key, a key that is refused, no such project, a name that its ontology lacks, an export that
            fails, never ends or comes incomplete, or no versions at that moment.
    """
    client = connect()
    project = project_of(client, params)
    mine_class(project, params)
    with tempfile.TemporaryDirectory() as folder:
        moment = _moment(params.snapshot)
        export = Path(folder) / "export.ndjson"
        if moment is None:
            _fetch(client, project, params.snapshot, export)
            with export.open("rb") as lines:
                yield from lines
        else:
            yield from _at(client, project, moment, params, export)


def connect() -> Any:
    """The SDK's client.

    Raises:
        InputError: there is no key in the environment.
    """
    from labelbox import Client

    key, url = os.environ.get(KEY), os.environ.get(URL)
    if not key:
        raise InputError(
            "Labelbox",
            got=f"no {KEY} in the environment",
            expected="an API key",
            fix=f"make one under Workspace settings, API keys, and run: export {KEY}=...",
        )
    # What the SDK would log is said in the errors here, without the signed links that it logs along.
    for name in ("labelbox", "lbox"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if url is None:
        return Client(api_key=key)
    url = url.rstrip("/")
    return Client(api_key=key, endpoint=f"{url}/graphql", rest_endpoint=f"{url}/api/v1", app_url=url)


def project_of(client: Any, params: Annotations) -> Any:
    """The project that params name.

    Raises:
        InputError: none is named, or there is none of that id.
    """
    from lbox.exceptions import ResourceNotFoundError

    if not params.labelbox_project:
        raise InputError(
            "params.yaml: annotations.labelbox_project",
            got="nothing",
            expected="the id of a project of Labelbox",
            fix="copy it from the project's address, between projects/ and /overview",
        )
    try:
        return carefully("project", lambda: client.get_project(params.labelbox_project))
    except ResourceNotFoundError:
        raise InputError(
            "params.yaml: annotations.labelbox_project",
            got=repr(params.labelbox_project),
            expected="the id of a project that the key may read",
            fix="copy it from the project's address, between projects/ and /overview",
        ) from None


def mine_class(project: Any, params: Annotations) -> str:
    """Looks up every name of params in the project's ontology.

    Returns:
        The feature schema id of the polygon class ``annotations.mine_class``.

    Raises:
        InputError: one is missing; the line lists those that exist.
    """
    ontology = carefully("ontology", project.ontology)
    normalized = ontology.normalized if ontology else {"tools": [], "classifications": []}
    polygons = {tool["name"]: tool for tool in normalized["tools"] if tool["tool"] == "polygon"}
    mine = _named("mine_class", params.mine_class, polygons, "polygon classes")
    _check_question("confidence", params.confidence_question, params.confidence_answers, mine["classifications"])
    _check_question("activity", params.activity_question, params.activity_answers, normalized["classifications"])
    schema_id: str = mine["featureSchemaId"]
    return schema_id


def _check_question(key: str, name: str, answers: Iterable[str], questions: list[dict[str, Any]]) -> None:
    radios = {question["instructions"]: question for question in questions if question["type"] == "radio"}
    question = _named(f"{key}_question", name, radios, "radio questions there")
    options = {option["label"]: option for option in question["options"]}
    for answer in answers:
        _named(f"{key}_answers", answer, options, f"answers to {name}")


def _named(key: str, name: str, known: dict[str, dict[str, Any]], what: str) -> dict[str, Any]:
    if name not in known:
        raise InputError(
            f"params.yaml: annotations.{key}",
            got=f"{name!r}, which the project's ontology lacks",
            expected=f"one of the {what}: {', '.join(map(repr, known)) or 'there are none'}",
            fix="correct the name, or add it to the ontology in Labelbox",
        )
    return known[name]


def carefully(what: str, call: Callable[[], T]) -> T:
    """Makes ``call``, again where that may help, and turns what Labelbox refuses into one line.

    ``call`` must bear being made twice: where an answer is lost, it was already carried out.

    Raises:
        InputError: Labelbox refuses, or stays away.
        lbox.exceptions.ResourceNotFoundError, IncompleteError: the caller knows what to say.
    """
    from google.api_core.exceptions import RetryError
    from lbox import exceptions

    try:
        for attempt in retrying(_transient):
            with attempt:
                return call()
    except (exceptions.ResourceNotFoundError, IncompleteError):
        raise
    except exceptions.AuthenticationError:
        raise InputError(
            "Labelbox",
            got=f"the key in {KEY} is refused",
            expected="a valid API key",
            fix=f"make one under Workspace settings, API keys, and run: export {KEY}=...",
        ) from None
    except exceptions.AuthorizationError as error:
        raise InputError(
            f"Labelbox, {what}", got=unsigned(error), expected="permission", fix="ask the workspace's admin for it"
        ) from None
    except RetryError as error:
        raise _away(what, error, "for two minutes") from None
    except Exception as error:
        if _transient(error):
            raise _away(what, error, f"{ATTEMPTS} times over") from None
        if isinstance(error, exceptions.LabelboxError):
            raise InputError(
                f"Labelbox, {what}", got=unsigned(error), expected="a request that it accepts", fix="see its message"
            ) from None
        raise
    raise AssertionError("retrying ends with a result or an error")


def _away(what: str, error: Exception, how_long: str) -> InputError:
    return InputError(
        f"Labelbox, {what}",
        got=f"{type(error).__name__}: {unsigned(error)}, {how_long}",
        expected="an answer of the service",
        fix="run again later; what is done stays done",
    )


class IncompleteError(Exception):
    """A download doesn't hold what was announced."""


def _transient(error: Exception) -> bool:
    import requests
    from lbox import exceptions

    if isinstance(error, requests.HTTPError):
        return error.response is not None and (error.response.status_code == 429 or error.response.status_code >= 500)
    if type(error) is exceptions.LabelboxError:  # an answer of status 429 in other words than the SDK looks for
        return str(error).startswith("429 ")
    return isinstance(
        error,
        IncompleteError
        | exceptions.ApiLimitError
        | exceptions.NetworkError
        | exceptions.TimeoutError
        | requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError,
    )


def finished(what: str, poll: Callable[[], T], running: Callable[[T], bool]) -> T:
    """Polls until a task of Labelbox has ended, ever less often.

    Raises:
        InputError: it goes on for longer than ``TIMEOUT_S``, or as :func:`carefully`.
    """
    waited, wait = 0.0, 2.0
    while running(state := carefully(what, poll)):
        if waited >= TIMEOUT_S:
            raise InputError(
                f"Labelbox, {what}",
                got=f"still running after {waited / 60:.0f} minutes",
                expected="an end",
                fix="look under Notifications in Labelbox, and run again: it is found, not started anew",
            )
        pause(wait)
        waited, wait = waited + wait, min(wait * 1.5, LONGEST_POLL_S)
    return state


def _fetch(client: Any, project: Any, snapshot: str, path: Path) -> None:
    """Writes the project's export for ``snapshot`` to ``path``; it is started only where it isn't there."""
    import requests
    from labelbox import ExportTask

    # Ids hold no space, so no two pairs of project and snapshot make the same name.
    name = f"sandwatch {project.uid} {snapshot}"
    what = f"export {name!r}"

    def start() -> Any:
        # Looked for at each attempt: where the answer to the start was lost, the export was started all the same.
        ours = [
            task
            for task in client.get_user().created_tasks()
            if task.name == name and task.type == "export-data-rows" and task.status != "FAILED"
        ]
        latest = max(ours, key=lambda task: (task.created_at, task.uid), default=None)
        return ExportTask.get_task(client, latest.uid) if latest else project.export(task_name=name, params=EXPORT)

    uid = carefully(what, start).uid
    task = finished(what, lambda: ExportTask.get_task(client, uid), running=lambda task: task.status == "IN_PROGRESS")
    if task.status != "COMPLETE":
        raise InputError(
            f"Labelbox, {what}", got=f"status {task.status}", expected="COMPLETE", fix="run again: it is started anew"
        )
    if carefully(what, task.has_errors):
        raise InputError(
            f"Labelbox, {what}",
            got="rows that Labelbox could not export",
            expected="all rows",
            fix="give annotations.snapshot a new name, for a new export; ask Labelbox's support if it stays so",
        )
    try:
        carefully(what, lambda: _download(task, path, project.uid))
    except IncompleteError as error:
        raise InputError(
            f"Labelbox, {what}",
            got=f"{unsigned(error)}, {ATTEMPTS} times over",
            expected="all that Labelbox announces",
            fix="run again; if it stays so, give annotations.snapshot a new name, for a new export",
        ) from None
    except _OtherProjectError as error:
        raise InputError(
            f"Labelbox, {what}",
            got=f"a row of project {error}",
            expected=f"rows of {project.uid} alone",
            fix="give annotations.snapshot a new name, for a new export",
        ) from None
    except requests.HTTPError as error:
        raise InputError(
            f"Labelbox, {what}",
            got=unsigned(error),
            expected="the files of the export",
            fix="Labelbox keeps them for a while only: give annotations.snapshot a new name, for a new export",
        ) from None


def _download(task: Any, path: Path, project_id: str) -> None:
    """Writes the result of ``task``, as received, to ``path``.

    Raises:
        IncompleteError: bytes or rows are not as many as the task says, or a row isn't JSON.
        _OtherProjectError: a row is of another project, or of another one too.
    """
    from labelbox import StreamType

    size, lines = task.get_total_file_size(StreamType.RESULT), task.get_total_lines(StreamType.RESULT)
    path.write_bytes(b"")
    if not size:
        return
    rows = 0
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _sdk_buffers_in(folder):
        try:
            for rows, row in enumerate(task.get_buffered_stream(StreamType.RESULT), start=1):
                if others := sorted(_projects(row.json) - {project_id}):
                    raise _OtherProjectError(", ".join(others))
                if rows == 1:
                    # By the first row, the SDK has written every part to one file of its own, which it removes after
                    # the last. The rows that it yields are parsed; the file is what was received.
                    (buffer,) = Path(folder).iterdir()
                    path.unlink()
                    path.hardlink_to(buffer)
        except (AssertionError, json.JSONDecodeError) as error:  # the SDK asserts that a part is as long as announced
            raise IncompleteError(str(error)) from None
    found = path.stat().st_size
    if (found, rows) != (size, lines):
        raise IncompleteError(f"{found} bytes, {rows} rows, where Labelbox announces {size} bytes, {lines} rows")


def _projects(row: Any) -> set[str]:
    """The ids of the projects whose labels a row holds; a row that is none of an export is for the rules to reject."""
    projects = row.get("projects") if isinstance(row, dict) else None
    return set(projects) if isinstance(projects, dict) else set()


class _OtherProjectError(Exception):
    """An export holds rows of this project, which nobody asked for."""


@contextmanager
def _sdk_buffers_in(folder: str) -> Iterator[None]:
    """The SDK makes its buffers in Python's folder for temporary files, and leaves them there when it fails."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def _moment(snapshot: str) -> datetime | None:
    """The moment that a snapshot names, if it names one."""
    try:
        moment = datetime.fromisoformat(snapshot)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass
class _Last:
    """The last version of a label, and what only its first one tells."""

    version_id: str
    status: str
    created_by: str
    created_at: str


def _at(client: Any, project: Any, moment: datetime, params: Annotations, export: Path) -> Iterator[bytes]:
    """Data rows labelled before ``moment``, sorted by id, with the last version of each label before it."""
    last: dict[str, _Last] = {}
    for version in _versions(project, moment, include_annotations=False):
        first = last.get(version.label_id)
        last[version.label_id] = _Last(
            version_id=version.id,
            status=DONE if version.stage is None else AFTER.get(version.action, IN_REVIEW),
            created_by=first.created_by if first else version.created_by_id,
            created_at=first.created_at if first else version.created_at.isoformat(),
        )
    if not last:
        raise InputError(
            f"params.yaml: annotations.snapshot: {params.snapshot}",
            got="no version of any label recorded before that moment",
            expected="a moment since which the project records label versions",
            fix="choose a later one, or a name that is no date, for an export of the labels as they are now",
        )
    wanted = {label.version_id for label in last.values()}
    spilled: dict[str, list[tuple[int, int]]] = {}
    versions = export.with_name("versions.ndjson")
    with versions.open("wb") as file:
        for version in _versions(project, moment, include_annotations=True):
            if version.id in wanted:
                line = json.dumps(_label(version, last[version.label_id]), ensure_ascii=False).encode()
                spilled.setdefault(version.data_row_id, []).append((file.tell(), len(line)))
                file.write(line)
    # An export tells the names of the data rows, and nothing else of it goes in: it changes from day to day.
    _fetch(client, project, params.snapshot, export)
    with export.open("rb") as lines:
        data_rows = {row["id"]: row for line in lines for row in [json.loads(line)["data_row"]] if row["id"] in spilled}
    with versions.open("rb") as file:
        for uid in sorted(spilled):
            labels = []
            for offset, length in spilled[uid]:
                file.seek(offset)
                labels.append(json.loads(file.read(length)))
            yield _row(data_rows.get(uid, {"id": uid}), project, labels)


def _versions(project: Any, moment: datetime, *, include_annotations: bool) -> Iterator[Any]:
    pages = project.label_versions(created_before=moment, include_annotations=include_annotations).paginator
    last = False
    while not last:
        page, last = carefully("label versions", pages.get_next_page)
        yield from page


def _row(data_row: dict[str, Any], project: Any, labels: list[dict[str, Any]]) -> bytes:
    """A row of an export; a data row that was removed from the project since has no name, so the rules reject it."""
    status = [label.pop("workflow_status") for label in labels][-1]
    row = {
        "data_row": {key: data_row[key] for key in ("id", "global_key", "external_id") if key in data_row},
        "projects": {project.uid: {"labels": labels, "project_details": {"workflow_status": status}}},
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _label(version: Any, last: _Last) -> dict[str, Any]:
    """A label version in the form of an export's label."""
    content = json.loads(version.label) if version.label else {}
    return {
        "id": version.label_id,
        "version_id": version.id,
        "workflow_status": last.status,
        "label_details": {
            "created_by": last.created_by,
            "created_at": last.created_at,
            "content_last_updated_at": version.created_at.isoformat(),
            "reviews": [],
        },
        "annotations": {
            "objects": [
                {
                    "feature_id": thing["featureId"],
                    "feature_schema_id": thing.get("schemaId"),
                    "name": thing["title"],
                    "value": thing.get("value"),
                    "annotation_kind": "GeoPolygon",
                    "classifications": [_answered(answer) for answer in thing.get("classifications", [])],
                    "geojson": thing.get("geojson") or thing.get("geometry"),
                }
                for thing in content.get("objects", [])
            ],
            "classifications": [_answered(answer) for answer in content.get("classifications", [])],
            "relationships": [],
        },
    }


def _answered(given: dict[str, Any]) -> dict[str, Any]:
    """An answer to a question, in the form of an export's."""
    answer = given.get("answer")
    radio = {"name": answer["title"], "value": answer.get("value")} if isinstance(answer, dict) else None
    return {
        "feature_id": given["featureId"],
        "feature_schema_id": given.get("schemaId"),
        "name": given["title"],
        "value": given.get("value"),
        **({"radio_answer": radio} if radio else {}),
    }
