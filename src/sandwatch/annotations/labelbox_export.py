"""Rows of a Labelbox export: NDJSON, one line a data row, as ``Project.export()`` streams it.

Source: Labelbox documentation, "Export specifications" (data row details, projects, labels, annotations). Only what is
used is declared; whatever else a row holds stays in the raw snapshot. Names of classes, questions and answers are the
ontology's and come from params.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError

from sandwatch import text
from sandwatch.annotations.answers import YES_NO, meaning
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Drawn, Label, MalformedError, Row, guarded
from sandwatch.errors import InputError

FILE = "export.ndjson"
HEAD = 4096
"""Bytes by which it is told whether a file has one row a line."""
IN_PLACE_OF_GEOJSON = {
    "mask": "a raster mask: draw polygons, or export the mask as polygons",
    "composite_mask": "a raster mask: draw polygons, or export the mask as polygons",
    "polygon": "a polygon in pixels of an image without a place: upload tiled imagery, and draw it there",
    "bounding_box": "a box in pixels of an image without a place: upload tiled imagery, and draw a polygon there",
    "line": "a line in pixels of an image without a place: upload tiled imagery, and draw a polygon there",
    "point": "a point in pixels of an image without a place: upload tiled imagery, and draw a polygon there",
}
"""What an object without a place has instead. Source: Labelbox documentation, "Export specifications", image."""


def raw_rows(inputs: Path) -> Iterator[bytes]:
    """The rows of ``export.ndjson`` in the folder ``inputs``, a line each.

    Lines in UTF-8 come byte for byte. A file in another code is read as :mod:`sandwatch.text` does, and one that is a
    JSON list, or values over several lines, is taken apart.

    Raises:
        InputError: there is no such file, it can't be read as text, or it is such a list and breaks off.
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
        head = lines.read(HEAD)
        if head and (known := text.posing(head)):
            raise InputError(str(path), got=known[0], expected="an NDJSON export of Labelbox", fix=known[1])
        codec = text.encoding(head)
        start = head.decode(codec or "utf-8", errors="ignore").lstrip()
        if re.match(r"\[|\{\s*[\r\n]", start):
            yield from _values(text.read(path), path)
        elif codec not in (None, "utf-8-sig"):
            yield from (f"{line}\n".encode() for line in text.read(path).split("\n"))
        else:
            lines.seek(len(codecs.BOM_UTF8) if codec else 0)
            yield from _as_utf8(lines, path)


def _as_utf8(lines: BinaryIO, path: Path) -> Iterator[bytes]:
    """Lines byte for byte; where one isn't in UTF-8, this and the others as the whole file is read."""
    for number, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError:
            try:
                rest = text.read(path).split("\n")[number:]
            except InputError:  # one damaged line, which is told as such
                yield line
                continue
            yield from (f"{one}\n".encode() for one in rest)
            return
        yield line


def _values(content: str, path: Path) -> Iterator[bytes]:
    """The values of JSON, one after the other, of lists their members, a line each."""
    decoder, at = json.JSONDecoder(parse_int=float), 0
    blank = re.compile(r"[\s,]*")
    while (match := blank.match(content, at)) and match.end() < len(content):
        at = match.end()
        try:
            value, at = decoder.raw_decode(content, at)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else content.count("\n", 0, at) + 1
            raise InputError(
                f"{path}, line {line}",
                got=f"no JSON, or only the beginning of it: {error}",
                expected="a row of the export on each line, or a list of them",
                fix="export it again, or fetch it again",
            ) from None
        yield from (json.dumps(one).encode() + b"\n" for one in (value if isinstance(value, list) else [value]))


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
    if not row.projects and (drawn := drawn_in(line)):
        raise MalformedError("objects are drawn, outside of any project: export the project", drawn)
    names = (row.data_row.global_key, row.data_row.external_id)
    return Row(
        row_id=row.data_row.id,
        names=tuple(dict.fromkeys(text.composed(name) for name in names if name)),
        labels=tuple(
            _label(label, project_id, project.project_details, params)
            for project_id, project in row.projects.items()
            for label in project.labels
        ),
        empty=Row.empty
        if row.projects
        else "the row holds no label, nor a project, as of an export of the catalog: export the project",
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


def _label(label: _Label, project_id: str, project: _ProjectDetails, params: Annotations) -> Label:
    details = label.label_details
    activity = _answer(label.annotations.classifications, params.activity_question)
    return Label(
        label_id=label.id,
        drawn=tuple(
            Drawn(
                feature_id=text.composed(drawn.feature_id),
                class_name=drawn.name,
                answer=_answer(drawn.classifications, params.confidence_question),
                geometry=drawn.geojson,
                no_geometry=next((said for key, said in IN_PLACE_OF_GEOJSON.items() if getattr(drawn, key)), ""),
                no_answer=f"what was asked is {', '.join(one.name for one in drawn.classifications[:10]) or 'nothing'}",
            )
            for drawn in label.annotations.objects
        ),
        mines=meaning(params.activity_answers, activity, YES_NO),
        done=project.workflow_status in params.done_statuses
        or text.alike(project.workflow_status) in map(text.alike, params.done_statuses),
        skipped=label.performance_details.skipped,
        selected=label.id == project.selected_label_id,
        workflow_status=project.workflow_status,
        created_by=details.created_by,
        created_at=_text(details.created_at),
        updated_at=_text(details.content_last_updated_at or details.updated_at),
        reviews=json.dumps(details.reviews, ensure_ascii=False),
        project=project_id,
    )


def _answer(classifications: list[_Classification], question: str) -> str | None:
    """The one answer to ``question``; None where there is none, or several that differ.

    A question may be asked only after another's answer: that is one level deeper. The outermost level counts.
    """
    level = classifications
    while level:
        asked = [one for one in level if one.name == question]
        asked = asked or [one for one in level if text.alike(one.name) == text.alike(question)]
        if asked:
            given = {answer for one in asked for answer in one.given()}
            return given.pop() if len(given) == 1 else None
        level = [inner for one in level for answer in one.answers() for inner in answer.classifications]
    return None


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
    classifications: Annotated[list[_Classification], BeforeValidator(lambda value: value or [])] = []


class _TextAnswer(BaseModel):
    content: str | None = None


class _Classification(BaseModel):
    name: str
    radio_answer: _Answer | None = None
    checklist_answers: list[_Answer] = []
    text_answer: _TextAnswer | None = None

    def answers(self) -> list[_Answer]:
        return [self.radio_answer] if self.radio_answer else self.checklist_answers

    def given(self) -> list[str]:
        """The words that were chosen, or typed."""
        typed = self.text_answer.content if self.text_answer else None
        return [typed] if typed else [answer.name for answer in self.answers()]


class _Object(BaseModel):
    feature_id: str
    name: str
    classifications: list[_Classification] = []
    geojson: Any = None
    mask: Any = None
    composite_mask: Any = None
    polygon: Any = None
    bounding_box: Any = None
    line: Any = None
    point: Any = None


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
    projects: dict[str, _Project] = {}
