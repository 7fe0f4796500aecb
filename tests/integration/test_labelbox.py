"""The real Labelbox SDK against the loopback server: exports, label versions, uploads, pre-labels, every fault once."""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest

from sandwatch import annotations, params
from sandwatch.annotations import labelbox, labelbox_export
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.redact import redact
from sandwatch.errors import InputError
from sandwatch.imagery.params import Synthetic

from ..servers.labelbox import NOW, SECRET_IN_LINKS, Labelbox, Project, ontology, serve_labelbox
from ..unit import annotation_rows as rows
from .conftest import ROOT, matrix

PROJECT = "clproject0000000000000001"
OTHER_PROJECT = "clproject0000000000000002"
KEY = "FAKE-LABELBOX-API-KEY-7d21"
IMAGERY_TOKEN = "FAKE-IMAGERY-TOKEN-55aa"
SECRETS = (KEY, SECRET_IN_LINKS, IMAGERY_TOKEN)
EXPORT_PLACES = (
    "GetProjectPyApi",
    "GetProjectOntologyPyApi",
    "GetUserPyApi",
    "GetUserCreatedTasksPyApi",
    "exportDataRowsInProjectPyApi",
    "GetExportMetadataHeaderPyApi",
    "GetExportFileFromOffsetPyApi",
    "export-file",
)


def section(**changes: Any) -> Annotations:
    values = {
        "source": "labelbox",
        "labelbox_project": PROJECT,
        "snapshot": "autumn-1",
        "mine_class": "Sand mine",
        "confidence_question": "Confidence",
        "confidence_answers": {"Low": "low", "High": "high"},
        "activity_question": "Mine activity",
        "activity_answers": {"Yes": True, "No": False},
        "done_statuses": ["DONE"],
        "consensus": "refuse",
    }
    return params.check(Annotations, values | changes)


def export_row(number: int, project: str = PROJECT) -> dict[str, Any]:
    """A row of an export: a mine north of the last, drawn on a scene with a token in its address."""
    left, bottom = 80.0, 20.0 + number * 0.01
    ring = [[left, bottom], [left + 0.003, bottom], [left + 0.003, bottom + 0.001], [left, bottom]]
    url = f"https://storage.example/o/{number}.tif?access_token={IMAGERY_TOKEN}"
    return {
        "data_row": {"id": f"row{number}", "global_key": f"site{number}_2023-01-01", "row_data": url},
        "projects": {
            project: {
                "labels": [
                    {
                        "id": f"label{number}",
                        "label_details": {"created_by": "annotatør@example.org", "created_at": NOW, "reviews": []},
                        "annotations": {
                            "objects": [
                                {
                                    "feature_id": f"feature{number}",
                                    "name": "Sand mine",
                                    "annotation_kind": "GeoPolygon",
                                    "classifications": [{"name": "Confidence", "radio_answer": {"name": "High"}}],
                                    "geojson": {"type": "Polygon", "coordinates": [ring]},
                                }
                            ],
                            "classifications": [{"name": "Mine activity", "radio_answer": {"name": "Yes"}}],
                        },
                    }
                ],
                "project_details": {"workflow_status": "DONE"},
            }
        },
    }


def ndjson(content: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Labelbox]:
    """A project with 30 rows in five parts; no secret is left in any log or temporary file."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0")
    monkeypatch.setattr(labelbox, "TIMEOUT_S", 120.0)  # of waits that take no time here; hundreds of polls would
    project = Project(id=PROJECT, export=ndjson([export_row(number) for number in range(30)]))
    with serve_labelbox(project, api_key=KEY) as running:
        running.part_bytes = len(project.export) // 5
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
    assert list(scratch.iterdir()) == []
    shown = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [line for line in shown if any(secret in line for secret in SECRETS)]


def fetched(**changes: Any) -> bytes:
    return b"".join(labelbox.raw_rows(section(**changes)))


def test_an_export_is_what_the_server_holds_byte_for_byte(server: Labelbox) -> None:
    assert fetched() == server.projects[PROJECT].export
    assert server.calls["GetExportFileFromOffsetPyApi"] == 5
    parsed = [labelbox_export.parse(line, section()) for line in labelbox.raw_rows(section())]
    assert [row.names for row in parsed] == [(f"site{number}_2023-01-01",) for number in range(30)]
    assert all(row.labels[0].mines and row.labels[0].drawn[0].answer == "High" for row in parsed)


def test_the_same_snapshot_is_the_same_export(server: Labelbox) -> None:
    fetched()
    fetched()
    assert len(server.started("export-data-rows")) == 1
    fetched(snapshot="autumn-2")
    names = [f"sandwatch {PROJECT} autumn-1", f"sandwatch {PROJECT} autumn-2"]
    assert [task["name"] for task in server.started("export-data-rows")] == names


def test_another_project_s_snapshot_of_the_same_name_is_another_export(server: Labelbox) -> None:
    other = Project(id=OTHER_PROJECT, export=ndjson([export_row(number, OTHER_PROJECT) for number in (40, 41)]))
    server.projects[OTHER_PROJECT] = other
    assert fetched() == server.projects[PROJECT].export
    assert fetched(labelbox_project=OTHER_PROJECT) == other.export
    assert fetched() == server.projects[PROJECT].export
    assert [task["project"] for task in server.started("export-data-rows")] == [PROJECT, OTHER_PROJECT]


@pytest.mark.parametrize("snapshot", ["autumn-1", "2026-10-01"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_row_of_another_project_refuses_the_export(versioned: Labelbox, snapshot: str, beside: bool) -> None:
    """Wherever it stands, and where the row is of the project that was asked for too."""
    rows_of_both = [export_row(number) for number in range(30)]
    foreign = export_row(29, OTHER_PROJECT)
    if beside:
        foreign["projects"] |= export_row(29)["projects"]
    versioned.projects[PROJECT].export = ndjson([*rows_of_both[:-1], foreign])
    lines = labelbox.raw_rows(section(snapshot=snapshot))
    with pytest.raises(InputError, match=rf"got a row of project {OTHER_PROJECT}; expected rows of {PROJECT} alone"):
        next(lines)


def test_links_are_frozen_without_their_credentials(server: Labelbox) -> None:
    frozen = b"".join(redact(line)[0] for line in labelbox.raw_rows(section()))
    assert IMAGERY_TOKEN.encode() in fetched()
    assert not [secret for secret in SECRETS if secret.encode() in frozen]


@pytest.mark.parametrize(("place", "kind"), matrix(EXPORT_PLACES, "cut", "lost"))
def test_a_connection_that_ends_early_changes_nothing(server: Labelbox, place: str, kind: Any) -> None:
    server.faults.add(place, kind)
    assert fetched() == server.projects[PROJECT].export
    assert server.faults.struck == [(place, kind)]
    assert len(server.started("export-data-rows")) == 1


@pytest.mark.parametrize(("place", "status"), matrix(EXPORT_PLACES, 429, 500, 503))
def test_a_refusal_in_passing_changes_nothing(server: Labelbox, place: str, status: int) -> None:
    server.faults.add(place, "status", status=status)
    assert fetched() == server.projects[PROJECT].export
    assert server.faults.struck == [(place, "status")]
    assert len(server.started("export-data-rows")) == 1


@pytest.mark.parametrize("place", [place for place in EXPORT_PLACES if place != "export-file"])
def test_a_refused_key_is_one_line_and_the_next_run_completes(server: Labelbox, place: str) -> None:
    server.faults.add(place, "status", status=401)
    with pytest.raises(InputError, match=r"^Labelbox: got the key in LABELBOX_API_KEY is refused; expected a valid"):
        fetched()
    assert fetched() == server.projects[PROJECT].export
    assert len(server.started("export-data-rows")) == 1


def test_a_truncated_part_is_fetched_again(server: Labelbox) -> None:
    server.faults.add("export-file", "truncate")
    assert fetched() == server.projects[PROJECT].export


def test_an_export_that_stays_truncated_is_one_line_without_a_row(server: Labelbox) -> None:
    server.faults.add("export-file", "truncate", times=100)
    lines = labelbox.raw_rows(section())
    with pytest.raises(
        InputError, match=r"Labelbox, export 'sandwatch \w+ autumn-1': got expected \d+ bytes, got \d+ bytes"
    ):
        next(lines)
    server.faults.pending.clear()
    assert fetched() == server.projects[PROJECT].export
    assert len(server.started("export-data-rows")) == 1


def test_a_row_torn_on_the_server_is_one_line(server: Labelbox) -> None:
    server.projects[PROJECT].export = server.projects[PROJECT].export[:-40]
    with pytest.raises(InputError, match="expected all that Labelbox announces"):
        fetched()


def test_parts_that_split_a_letter_are_noticed(server: Labelbox) -> None:
    """The SDK decodes each part by itself, and puts replacement characters where one splits a letter."""
    project = server.projects[PROJECT]
    project.part_ends = (project.export.index("ø".encode()),)
    with pytest.raises(InputError, match=r"got \d+ bytes, 30 rows, where Labelbox announces \d+ bytes, 30 rows"):
        fetched()


def test_rows_that_could_not_be_exported_are_one_line(server: Labelbox) -> None:
    server.projects[PROJECT].export_errors = b'{"data_row": "row3"}\n'
    with pytest.raises(InputError, match="got rows that Labelbox could not export; expected all rows"):
        fetched()


def test_a_failed_export_is_one_line_and_is_started_anew_by_the_next_run(server: Labelbox) -> None:
    server.faults.add("exportDataRowsInProjectPyApi", "fail")
    with pytest.raises(InputError, match=r"export 'sandwatch \w+ autumn-1': got status FAILED; expected COMPLETE"):
        fetched()
    assert fetched() == server.projects[PROJECT].export
    assert len(server.started("export-data-rows")) == 2


def test_an_export_that_hangs_is_one_line_and_is_found_again(server: Labelbox) -> None:
    server.faults.add("exportDataRowsInProjectPyApi", "hang")
    with pytest.raises(InputError, match=r"got still running after 2 minutes; expected an end"):
        fetched()
    server.started("export-data-rows")[0]["status"] = "COMPLETE"
    assert fetched() == server.projects[PROJECT].export
    assert len(server.started("export-data-rows")) == 1


def test_a_slow_export_is_waited_for(server: Labelbox) -> None:
    server.faults.add("exportDataRowsInProjectPyApi", "slow")
    assert fetched() == server.projects[PROJECT].export
    assert server.started("export-data-rows")[0]["polls"] > 2


def test_an_expired_link_is_one_line_without_its_signature(server: Labelbox) -> None:
    server.faults.add("export-file", "status", status=403)
    with pytest.raises(InputError) as caught:
        fetched()
    assert "403" in str(caught.value)
    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mine_class": "Mine"}, r"mine_class: got 'Mine', .*; expected one of the polygon classes: 'Sand mine'"),
        ({"confidence_question": "Sure"}, "confidence_question: got 'Sure', .*: 'Confidence'"),
        ({"confidence_answers": {"Low": "low", "Sure": "high"}}, r"confidence_answers: got 'Sure', .*'Low', 'High'"),
        ({"activity_question": "Mines"}, "activity_question: got 'Mines', .*: 'Mine activity'"),
        ({"activity_answers": {"Yes": True, "Nope": False}}, r"activity_answers: got 'Nope', .*'Yes', 'No'"),
    ],
)
def test_a_name_that_the_ontology_lacks_is_one_line(server: Labelbox, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetched(**changes)
    assert server.started("export-data-rows") == []


def test_names_are_the_ontology_s_not_ours(server: Labelbox) -> None:
    server.projects[PROJECT].ontology = ontology("Grube", ("Sicher", ("Nein", "Ja")), ("Gruben", ("Ja", "Nein")))
    changes = {
        "mine_class": "Grube",
        "confidence_question": "Sicher",
        "confidence_answers": {"Nein": "low", "Ja": "high"},
        "activity_question": "Gruben",
        "activity_answers": {"Ja": True, "Nein": False},
    }
    assert fetched(**changes) == server.projects[PROJECT].export


def test_an_unknown_project_no_project_and_no_key_are_one_line_each(
    server: Labelbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="labelbox_project: got 'clother'; expected the id of a project that the key"):
        fetched(labelbox_project="clother")
    with pytest.raises(InputError, match="labelbox_project: got nothing; expected the id"):
        fetched(labelbox_project="")
    monkeypatch.delenv("LABELBOX_API_KEY")
    with pytest.raises(InputError, match="Labelbox: got no LABELBOX_API_KEY in the environment"):
        fetched()


def realistic() -> bytes:
    """A negative, two mines in one scene, a row in review, an unknown image: links with tokens in all of them."""
    two = [rows.drawn("f1"), rows.drawn("f2", rows.polygon(120, 60))]
    in_review = rows.project([rows.label("l2", [rows.drawn("f3")])], status="IN_REVIEW")
    made = [
        rows.simple(rows.KNOWN[0]),
        rows.simple(rows.KNOWN[1], *two),
        rows.row(rows.KNOWN[2], in_review),
        rows.simple(rows.NEVER_ASKED_FOR, rows.drawn("f4")),
    ]
    for row in made:
        row["projects"] = {PROJECT: next(iter(row["projects"].values()))}
        row["data_row"]["row_data"] = f"https://tiles.example/{{z}}/{{x}}/{{y}}.png?access_token={IMAGERY_TOKEN}"
    return ndjson(made)


def built(folder: Path, source: str = "labelbox") -> dict[str, Any]:
    return annotations.build(
        section(source=source),
        params.read(ROOT / "params.yaml", Synthetic),
        aoi=gpd.GeoDataFrame(),
        manifest=rows.manifest(),
        rivers=folder / "none",
        inputs=folder.parent / "inputs",
        folder=folder,
        canonical_folder=folder.with_name(f"{folder.name}-canonical"),
    )


def test_tables_are_those_of_the_same_export_as_a_file(server: Labelbox, tmp_path: Path) -> None:
    server.projects[PROJECT].export = realistic()
    metrics = built(tmp_path / "fetched")
    assert (metrics["labels"], metrics["negatives"], metrics["quarantined_rows"]) == (2, 1, 2)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "export.ndjson").write_bytes(realistic())
    assert built(tmp_path / "from_file", "labelbox_export") == metrics
    names = {"export.ndjson", "ignored.parquet", "labels.parquet", "observations.parquet", "quarantine.parquet"}
    assert {path.name for path in (tmp_path / "fetched").iterdir()} == names
    for name in names:
        assert (tmp_path / "fetched" / name).read_bytes() == (tmp_path / "from_file" / name).read_bytes()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "fetched").iterdir())
    assert not [secret for secret in SECRETS if secret.encode() in everything]


@pytest.mark.parametrize("place", ["GetUserPyApi", "GetExportFileFromOffsetPyApi", "export-file"])
def test_an_interrupted_stage_leaves_nothing_and_completes_when_run_again(
    server: Labelbox, tmp_path: Path, place: str
) -> None:
    server.projects[PROJECT].export = realistic()
    before = built(tmp_path / "undisturbed")
    server.tasks.clear()
    server.faults.add(place, "cut", times=100)
    with pytest.raises(InputError, match=r"Labelbox, export 'sandwatch \w+ autumn-1': got .*, 8 times over; expected"):
        built(tmp_path / "disturbed")
    assert list((tmp_path / "disturbed").iterdir()) == []
    server.faults.pending.clear()
    assert built(tmp_path / "disturbed") == before
    assert len(server.started("export-data-rows")) == 1


def test_the_sdk_s_own_log_stays_quiet(server: Labelbox, caplog: pytest.LogCaptureFixture) -> None:
    """Its warnings hold links, and errors say all that they say."""
    server.faults.add("GetProjectPyApi", "cut")
    server.faults.add("export-file", "status", status=503)
    fetched()
    assert [record for record in caplog.records if record.name.partition(".")[0] in ("labelbox", "lbox")] == []


def version(
    number: int, label: int, action: str, day: str, *, shift: float = 0.0, stage: str | None = "q"
) -> dict[str, Any]:
    left, bottom = 80.0 + shift, 20.0
    ring = [[left, bottom], [left + 0.003, bottom], [left + 0.003, bottom + 0.001], [left, bottom]]
    content = {
        "objects": [
            {
                "featureId": f"feature{label}",
                "schemaId": "s",
                "title": "Sand mine",
                "value": "sand_mine",
                "geojson": {"type": "Polygon", "coordinates": [ring]},
                "classifications": [
                    {"featureId": "c", "title": "Confidence", "answer": {"title": "Low", "value": "low"}}
                ],
            }
        ],
        "classifications": [{"featureId": "a", "title": "Mine activity", "answer": {"title": "Yes", "value": "yes"}}],
    }
    return {
        "id": f"version{number}",
        "labelId": f"label{label}",
        "dataRowId": f"row{label}",
        "projectId": PROJECT,
        "action": action,
        "createdAt": f"{day}T12:00:00.000Z",
        "createdById": "clperson",
        "stage": {"taskQueueId": stage, "name": "Review", "type": "MANUAL_REVIEW_QUEUE"} if stage else None,
        "annotationCount": 2,
        "label": json.dumps(content),
    }


@pytest.fixture
def versioned(server: Labelbox) -> Labelbox:
    """Label 1: approved in September, moved in October. Label 2: submitted in September. 250 of others in November."""
    server.projects[PROJECT].versions = [
        version(1, 1, "SUBMITTED", "2026-09-01"),
        version(2, 2, "SUBMITTED", "2026-09-02"),
        version(3, 1, "APPROVED", "2026-09-03"),
        version(4, 1, "SAVED", "2026-10-05", shift=0.01, stage=None),
        *[version(10 + number, 3 + number % 20, "SUBMITTED", "2026-11-01") for number in range(250)],
    ]
    return server


def test_a_moment_takes_the_versions_before_it(versioned: Labelbox) -> None:
    lines = list(labelbox.raw_rows(section(snapshot="2026-10-01T00:00:00Z")))
    first, second = (labelbox_export.parse(line, section()) for line in lines)
    assert [first.names, second.names] == [("site1_2023-01-01",), ("site2_2023-01-01",)]
    assert (first.labels[0].workflow_status, second.labels[0].workflow_status) == ("DONE", "IN_REVIEW")
    (drawn,) = first.labels[0].drawn
    assert (drawn.feature_id, drawn.class_name, drawn.answer) == ("feature1", "Sand mine", "Low")
    assert drawn.geometry["coordinates"][0][0] == [80.0, 20.0]
    assert first.labels[0].mines
    assert first.labels[0].created_at == "2026-09-01T12:00:00.000+00:00"
    assert first.labels[0].updated_at == "2026-09-03T12:00:00.000+00:00"


def test_a_moment_is_the_same_labels_for_ever(versioned: Labelbox) -> None:
    before = fetched(snapshot="2026-10-01")
    versioned.tasks.clear()
    project = versioned.projects[PROJECT]
    project.versions.append(version(900, 2, "APPROVED", "2026-10-02", shift=0.5))
    changed = [export_row(number) for number in range(30)]
    changed[1]["data_row"]["details"] = {"last_activity_at": "2026-12-01"}
    project.export = ndjson([*changed[::-1], export_row(31)])
    assert fetched(snapshot="2026-10-01") == before
    later = fetched(snapshot="2026-11-02")
    assert later != before
    assert later.count(b"\n") == 22
    assert b"80.51" not in later
    assert b"80.5," in later


def test_a_label_whose_data_row_is_gone_is_not_lost(versioned: Labelbox) -> None:
    versioned.projects[PROJECT].export = ndjson([export_row(1)])
    parsed = [labelbox_export.parse(line, section()) for line in labelbox.raw_rows(section(snapshot="2026-10-01"))]
    assert [(row.row_id, row.names) for row in parsed] == [("row1", ("site1_2023-01-01",)), ("row2", ())]


@pytest.mark.parametrize("fault", ["cut", "lost", 429, 503])
def test_versions_survive_a_fault(versioned: Labelbox, fault: Any) -> None:
    before = fetched(snapshot="2026-11-02")
    if isinstance(fault, str):
        versioned.faults.add("GetLabelVersionsPyApi", fault)  # type: ignore[arg-type]
    else:
        versioned.faults.add("GetLabelVersionsPyApi", "status", status=fault)
    assert fetched(snapshot="2026-11-02") == before
    assert len(versioned.faults.struck) == 1


def test_a_moment_without_versions_is_one_line(versioned: Labelbox) -> None:
    with pytest.raises(InputError, match="snapshot: 2026-08-01: got no version of any label recorded before"):
        fetched(snapshot="2026-08-01")


def test_the_server_refuses_what_labelbox_would(server: Labelbox) -> None:
    from lbox.exceptions import AuthenticationError, InvalidQueryError

    client = labelbox.connect()
    with pytest.raises(InvalidQueryError, match="Cannot query field 'nmae' on type 'Project'"):
        client.execute('query GetProjectPyApi{project(where: {id: "x"}){nmae}}')
    with pytest.raises(InvalidQueryError, match=r"Field 'WhereUniqueIdInput.id' of required type 'ID!'"):
        client.execute("query GetProjectPyApi{project(where: {}){id}}")
    with pytest.raises(InvalidQueryError, match="Int cannot represent non-integer value"):
        client.execute("query Q($n: Int!){datasets(skip: $n first: 1){id}}", {"n": "one"})
    with pytest.raises(InvalidQueryError, match="Cannot query field 'labels'"):
        client.execute("query GetLabels{labels{id}}")
    server.api_key = "another"
    with pytest.raises(AuthenticationError, match="Invalid API key"):
        client.get_organization()
