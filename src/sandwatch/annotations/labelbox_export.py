"""Rows of a Labelbox export: NDJSON, one line a data row, as ``Project.export()`` streams it.

Source: Labelbox documentation, "Export specifications" (data row details, projects, labels, annotations). Only what is
used is declared; whatever else a row holds stays in the raw snapshot. Names of classes, questions and answers are the
ontology's and come from params.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationError

from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Drawn, Label, MalformedError, Row, guarded
from sandwatch.errors import InputError

FILE = "export.ndjson"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def raw_rows(inputs: Path) -> Iterator[bytes]:
    """The lines of ``export.ndjson`` in the folder ``inputs``, byte for byte.

    Raises:
        InputError: there is no such file, or it is in UTF-16.
    """
    path = inputs / FILE
    if not path.is_file():
        raise InputError(
            str(path),
            got="no such file",
            expected="an NDJSON export of Labelbox",
            fix="save the export under this name",
        )
    with path.open("rb") as lines:
        for line in lines:
            if line.startswith(UTF16):
                raise InputError(
                    str(path),
                    got="UTF-16, as PowerShell writes with '>'",
                    expected="UTF-8, as Labelbox writes it",
                    fix="export again without '>', or save it as UTF-8",
                )
            yield line


def parse(line: bytes, params: Annotations) -> Row:
    """Reads one line.

    Raises:
        MalformedError: it isn't JSON, or not the shape of an export row.
    """
    with guarded(lambda: drawn_in(line)):
        return _row(line.removeprefix(codecs.BOM_UTF8), params)


def _row(line: bytes, params: Annotations) -> Row:
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedError(f"{where}: {first['msg']}" if where else first["msg"], drawn_in(line)) from None
    names = (row.data_row.global_key, row.data_row.external_id)
    return Row(
        row_id=row.data_row.id,
        names=tuple(dict.fromkeys(name for name in names if name)),
        labels=tuple(
            _label(label, project.project_details, params)
            for project in row.projects.values()
            for label in project.labels
        ),
    )


def drawn_in(line: bytes) -> int:
    """How many drawn objects a line holds that is JSON but no export row; 0 where it isn't even JSON."""
    try:
        waiting = [json.loads(line, parse_int=float)]  # as an integer, a number of 5,000 digits is refused
    except (ValueError, RecursionError):
        return 0
    count = 0
    while waiting:  # JSON may be deeper than functions may call each other
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name == "objects" and isinstance(inner, list):
                    count += len(inner)
                else:
                    waiting.append(inner)
    return count


def _label(label: _Label, project: _ProjectDetails, params: Annotations) -> Label:
    details = label.label_details
    activity = _answer(label.annotations.classifications, params.activity_question)
    return Label(
        label_id=label.id,
        drawn=tuple(
            Drawn(
                feature_id=drawn.feature_id,
                class_name=drawn.name,
                answer=_answer(drawn.classifications, params.confidence_question),
                geometry=drawn.geojson,
            )
            for drawn in label.annotations.objects
        ),
        mines=params.activity_answers.get(activity) if activity is not None else None,
        done=project.workflow_status in params.done_statuses,
        skipped=label.performance_details.skipped,
        selected=label.id == project.selected_label_id,
        workflow_status=project.workflow_status,
        created_by=details.created_by,
        created_at=_text(details.created_at),
        updated_at=_text(details.content_last_updated_at or details.updated_at),
        reviews=json.dumps(details.reviews, ensure_ascii=False),
    )


def _answer(classifications: list[_Classification], question: str) -> str | None:
    """The one answer to ``question``; None where there is none, or several that differ."""
    given = {
        answer.name
        for classification in classifications
        if classification.name == question
        for answer in (
            [classification.radio_answer] if classification.radio_answer else classification.checklist_answers
        )
    }
    return given.pop() if len(given) == 1 else None


def _text(time: datetime | None) -> str | None:
    """ISO 8601 with milliseconds."""
    return time.isoformat(timespec="milliseconds") if time else None


def _utc(time: datetime) -> datetime:
    """A time without zone is taken as UTC, which is what Labelbox writes."""
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{time.isoformat()} is beyond the calendar in UTC") from None


_Time = Annotated[datetime, AfterValidator(_utc)]


class _DataRow(BaseModel):
    id: str
    global_key: str | None = None
    external_id: str | None = None


class _Answer(BaseModel):
    name: str


class _Classification(BaseModel):
    name: str
    radio_answer: _Answer | None = None
    checklist_answers: list[_Answer] = []


class _Object(BaseModel):
    feature_id: str
    name: str
    classifications: list[_Classification] = []
    geojson: Any = None


class _Objects(BaseModel):
    objects: list[_Object] = []
    classifications: list[_Classification] = []


class _LabelDetails(BaseModel):
    created_by: str | None = None
    created_at: _Time | None = None
    updated_at: _Time | None = None
    content_last_updated_at: _Time | None = None
    reviews: list[Any] = []


class _Performance(BaseModel):
    skipped: bool = False


class _Label(BaseModel):
    id: str
    label_details: _LabelDetails = _LabelDetails()
    performance_details: _Performance = _Performance()
    annotations: _Objects = _Objects()


class _ProjectDetails(BaseModel):
    workflow_status: str | None = None
    selected_label_id: str | None = None


class _Project(BaseModel):
    labels: list[_Label] = []
    project_details: _ProjectDetails = _ProjectDetails()


class _Row(BaseModel):
    data_row: _DataRow
    projects: dict[str, _Project]
