"""Rules, accounting and tables, over rows of a Labelbox export."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch.annotations import build, freeze, labelbox_export, summary
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.annotations.params import Annotations
from sandwatch.errors import InputError
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import REASONS, Ignored, Labels, Observations, Quarantine
from tests.unit.annotation_rows import (
    GOOD,
    KNOWN,
    NEVER_ASKED_FOR,
    PARAMS,
    SKIPPED,
    bow_tie,
    drawn,
    label,
    lines,
    manifest,
    params,
    polygon,
    project,
    ring,
    row,
    simple,
)

ROOT = Path(__file__).parents[2]
MANIFEST = manifest()
HARMLESS = {"unknown_class", "outside_scene", "duplicate_feature_id", "excluded"}


class Frozen:
    """What ``freeze`` made of some lines."""

    def __init__(self, folder: Path, *rows: Any, using: Annotations = PARAMS, excluded: Any = None) -> None:
        self.metrics = freeze(
            lines(*rows), labelbox_export.parse, using, MANIFEST, folder, folder / "canonical", excluded or {}
        )
        self.labels = Labels.read(folder / "labels.parquet")
        self.observations = Observations.read(folder / "observations.parquet").set_index("obs_id")
        self.quarantine = Quarantine.read(folder / "quarantine.parquet")

    @property
    def reasons(self) -> list[str]:
        return list(self.quarantine["reason"])


def test_a_good_row_becomes_one_label_and_one_observation(tmp_path: Path) -> None:
    frozen = Frozen(tmp_path, simple(KNOWN[0], drawn("f1", polygon(50, 40, 20, 12, hole=True), confidence="Low")))
    one = frozen.labels.iloc[0]
    assert (one.feature_id, one.obs_id, one.confidence, one.class_name) == ("f1", KNOWN[0], "low", "Sand mine")
    assert (one.created_by, one.workflow_status) == ("annotator@example.com", "DONE")
    assert one.updated_at == "2024-04-08T16:21:26.000+00:00"
    assert json.loads(one.reviews) == [{"reviewed_by": "reviewer@example.com", "score": 1}]
    assert (one.origin, frozen.observations.loc[KNOWN[0]].origin) == ("real", "real")
    # 20 x 12 pixels of 100 m2 and a triangle on top (1 x 0.2 / 2), less the hole: 6 x 3 with its triangle
    assert one.area_m2 == pytest.approx(1.1 * 24_000 - 1.1 * 1_800, rel=1e-4)
    assert len(one.geometry.interiors) == 1
    observation = frozen.observations.loc[KNOWN[0]]
    assert (observation.site_id, observation.date, observation.snapshot) == ("north", "2023-01-01", "test-1")
    assert (bool(observation.has_mines), observation.polygons) == (True, 1)
    assert frozen.reasons == []
    assert frozen.metrics["mine_area_km2"] == pytest.approx(one.area_m2 / 1e6, abs=5e-5)


def test_an_observation_without_mines_is_kept_as_a_negative(tmp_path: Path) -> None:
    frozen = Frozen(tmp_path, GOOD, simple(KNOWN[1]))
    assert not frozen.observations.loc[KNOWN[1]].has_mines
    assert (frozen.metrics["observations"], frozen.metrics["negatives"]) == (2, 1)


def test_the_snapshot_is_what_was_received_and_rows_are_found_in_it(tmp_path: Path) -> None:
    raw = [*lines(GOOD), b"\r\n", b'{"broken": \n', json.dumps(simple(KNOWN[1])).encode()]
    frozen = Frozen(tmp_path, *raw)
    assert (tmp_path / "export.ndjson").read_bytes() == b"".join(raw)
    assert frozen.metrics["rows"] == 3
    assert list(frozen.quarantine["row_id"]) == ["export.ndjson:3"]
    frozen_lines = (tmp_path / "export.ndjson").read_bytes().splitlines()
    of_lines = [hashlib.sha256(line).hexdigest() for line in frozen_lines]
    assert [frozen.labels["row_sha256"][0], frozen.quarantine["row_sha256"][0]] == [of_lines[0], of_lines[2]]


def deep(levels: int) -> dict[str, Any]:
    """An object that Python's reader of JSON takes and pydantic's doesn't; nor could functions that call themselves."""
    return drawn("deep", json.loads("[" * levels + "]" * levels))


@pytest.mark.parametrize(
    ("bad", "reason", "polygons", "detail"),
    [
        (b"{not json\n", "malformed_row", 0, "Invalid JSON"),
        (b"\xff\xfe\n", "malformed_row", 0, "Invalid JSON"),
        (b"[1, 2]\n", "malformed_row", 0, "object"),
        (json.dumps(simple(KNOWN[1], drawn("x"))).encode()[:-30], "malformed_row", 0, "Invalid JSON"),
        (simple(KNOWN[1], drawn("x"), updated="9999-12-31T23:59:59-12:00"), "malformed_row", 1, "beyond the calendar"),
        (simple(KNOWN[1], drawn("x"), updated="0001-01-01T00:00:00+00:01"), "malformed_row", 1, "beyond the calendar"),
        (simple(KNOWN[1], drawn("\ud800")), "malformed_row", 1, "hex escape"),
        (simple(KNOWN[1], drawn("x"), deep(600)), "malformed_row", 2, "recursion limit"),
        (
            json.dumps(simple(KNOWN[1], drawn("x", {"type": "Polygon", "coordinates": [[99999]]})))
            .encode()
            .replace(b"99999", b"9" * 5000),
            "malformed_row",
            1,
            "Invalid JSON",
        ),
        (
            row(KNOWN[1], {"labels": [label("l", [{"name": "Sand mine"}, drawn("x")])]}),
            "malformed_row",
            2,
            "feature_id",
        ),
        (row(KNOWN[1], project([], status="TO_LABEL")), "no_label", 0, "no label"),
        (row(KNOWN[1]), "no_label", 0, "no label, nor a project"),
        (simple(NEVER_ASKED_FOR, drawn("x"), drawn("y")), "unknown_observation", 2, NEVER_ASKED_FOR),
        (row(None, project([label("l", [])])), "unknown_observation", 0, "None"),
        (simple(SKIPPED, drawn("x")), "scene_missing", 1, "s1: valid fraction 0.31 below 0.6"),
        (row(KNOWN[1], project([label("l", [], skipped=True)])), "label_skipped", 0, "skipped"),
        (row(KNOWN[1], project([label("l", [drawn("x")])], status="IN_REVIEW")), "not_done", 1, "IN_REVIEW"),
        (row(KNOWN[1], {"labels": [label("l", [drawn("x")])]}), "not_done", 1, "None"),
        (simple(KNOWN[0], drawn("x")), "duplicate_observation", 1, "earlier row"),
        (simple(KNOWN[1], drawn("x"), activity=None), "activity_missing", 1, "Mine activity"),
        (simple(KNOWN[1], activity="Perhaps"), "activity_missing", 0, "Mine activity"),
        (simple(KNOWN[1], drawn("x"), drawn("y"), activity="No"), "activity_contradicts_polygons", 2, "2 drawn"),
        (simple(KNOWN[1], activity="Yes"), "activity_contradicts_polygons", 0, "0 drawn"),
        (simple(KNOWN[1], drawn("x", name="Sandmine"), activity="Yes"), "activity_contradicts_polygons", 1, "0 drawn"),
    ],
)
def test_an_unfit_row_is_quarantined_whole(tmp_path: Path, bad: Any, reason: str, polygons: int, detail: str) -> None:
    frozen = Frozen(tmp_path, GOOD, bad)
    assert list(frozen.observations.index) == [KNOWN[0]]
    assert (frozen.reasons, list(frozen.quarantine["polygons"])) == ([reason], [polygons])
    assert detail in frozen.quarantine["detail"][0]
    assert frozen.quarantine["feature_id"].isna().all()
    assert (frozen.metrics[f"quarantine_{reason}"], frozen.metrics["quarantined_rows"]) == (1, 1)
    assert frozen.metrics["quarantined_labels"] == polygons


FAR = {"type": "Polygon", "coordinates": [[[x + 3, y + 1] for x, y in ring()]]}


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (drawn("x", name="Cloud"), "unknown_class", "'Cloud'"),
        (drawn("x", FAR), "outside_scene", "longitude 90"),
        (drawn("x", polygon(201, 40, 20, 12)), "outside_scene", "longitude 87"),
        (drawn("x", polygon(-22, 40, 20, 12)), "outside_scene", "longitude 86"),
        (drawn("x", polygon(50, 121, 20, 12)), "outside_scene", "latitude 19.97"),
        (drawn("x", polygon(50, -16, 20, 12)), "outside_scene", "latitude 19.98"),
        (drawn("good"), "duplicate_feature_id", "the same content"),
    ],
)
def test_a_harmless_rejection_leaves_the_rest_kept(
    tmp_path: Path, bad: dict[str, Any], reason: str, detail: str
) -> None:
    frozen = Frozen(tmp_path, simple(KNOWN[0], drawn("good"), bad, drawn("last", polygon(90, 20, 9, 30))))
    assert list(frozen.labels["feature_id"]) == ["good", "last"]
    assert (frozen.reasons, list(frozen.quarantine["feature_id"])) == ([reason], [bad["feature_id"]])
    assert detail in frozen.quarantine["detail"][0]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (drawn("x", confidence=None), "confidence_missing", "None"),
        (drawn("x", confidence="Medium"), "confidence_missing", "'Medium'"),
        (drawn("x") | {"geojson": None}, "geometry_missing", "no geometry"),
        (drawn("x", {"type": "Point", "coordinates": ring()[0]}), "geometry_not_polygon", "a Point"),
        (drawn("x", bow_tie()), "geometry_invalid", "Self-intersection"),
        (drawn("x", {"type": "Polygon", "coordinates": []}), "geometry_invalid", "a list must be"),
        (drawn("x", {"type": "Polygon", "coordinates": [ring()[:2]]}), "geometry_invalid", "2 distinct vertices"),
        (drawn("x", {"type": "Polygon", "coordinates": [[[87.0, "19.9"]]]}), "geometry_invalid", "no longitude"),
        (drawn("x", {"type": "Polygon", "coordinates": [[[1e400, 19.9]]]}), "geometry_invalid", "no longitude"),
        (drawn("x", {"type": "Polygon", "coordinates": [[[True, 19.9]]]}), "geometry_invalid", "no longitude"),
        (drawn("x", {"type": "Polygon", "coordinates": [[[0, 0]] * 50_001]}), "geometry_invalid", "50001 vertices"),
        (drawn("x", polygon(50, 40, 1e-3, 1e-3)), "geometry_invalid", ""),
        (drawn("good", polygon(90, 20, 9, 30)), "duplicate_feature_id", "another content"),
    ],
)
def test_a_mine_that_cannot_be_used_withholds_its_observation(
    tmp_path: Path, bad: dict[str, Any], reason: str, detail: str
) -> None:
    """Its pixels would otherwise teach that there is no mine."""
    frozen = Frozen(tmp_path, simple(KNOWN[1], drawn("other")), simple(KNOWN[0], drawn("good"), bad))
    assert list(frozen.observations.index) == [KNOWN[1]]
    of_bad, of_rest = frozen.quarantine.set_index("reason").loc[[reason, "observation_incomplete"]].itertuples()
    assert (of_bad.feature_id, of_bad.polygons) == (bad["feature_id"], 1)
    assert detail in of_bad.detail
    assert of_rest.polygons == 1
    assert of_rest.detail == f"{bad['feature_id']} {reason}"


def test_a_polygon_that_reaches_into_its_scene_is_kept(tmp_path: Path) -> None:
    edges = [polygon(-19, 40, 20, 12), polygon(199, 40, 20, 12), polygon(50, -11, 20, 12), polygon(50, 119, 20, 12)]
    frozen = Frozen(tmp_path, simple(KNOWN[0], *(drawn(str(number), edge) for number, edge in enumerate(edges))))
    assert frozen.metrics["labels"] == 4


def test_mines_that_were_said_but_lie_outside_do_not_make_a_negative(tmp_path: Path) -> None:
    frozen = Frozen(tmp_path, GOOD, simple(KNOWN[1], drawn("x", FAR)))
    assert list(frozen.observations.index) == [KNOWN[0]]
    assert sorted(frozen.reasons) == ["observation_incomplete", "outside_scene"]


def test_the_same_feature_in_another_observation_is_a_lost_mine(tmp_path: Path) -> None:
    frozen = Frozen(tmp_path, GOOD, simple(KNOWN[1], drawn("good")))
    assert list(frozen.observations.index) == [KNOWN[0]]
    assert sorted(frozen.reasons) == ["duplicate_feature_id", "observation_incomplete"]


def test_a_row_that_was_rejected_does_not_block_a_later_one(tmp_path: Path) -> None:
    unfinished = row(KNOWN[0], project([label("l", [drawn("good")])], status="IN_REVIEW"))
    frozen = Frozen(tmp_path, unfinished, GOOD)
    assert list(frozen.labels["label_id"]) == [f"label-{KNOWN[0]}"]
    assert frozen.reasons == ["not_done"]


def test_a_skipped_picture_for_annotators_is_no_loss(tmp_path: Path) -> None:
    assert list(Frozen(tmp_path, simple(KNOWN[2], drawn("x"))).observations.index) == [KNOWN[2]]


def test_the_external_id_names_the_observation_where_the_global_key_does_not(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("x"))
    one["data_row"]["global_key"] = "tile-0001"
    assert list(Frozen(tmp_path, one).observations.index) == [KNOWN[0]]


def test_other_done_statuses_and_names_come_from_params(tmp_path: Path) -> None:
    using = params(done_statuses=("Approved",), mine_class="Mine", confidence_answers={"High": "low", "B": "high"})
    one = row(KNOWN[0], project([label("l", [drawn("x", name="Mine")])], status="Approved"))
    assert list(Frozen(tmp_path, one, using=using).labels["confidence"]) == ["low"]


@pytest.mark.parametrize(
    ("consensus", "selected", "kept"),
    [
        ("refuse", "b", None),
        ("selected", "b", "b"),
        ("selected", "a", "a"),
        ("selected", None, None),
        ("latest", "b", "a"),
    ],
)
def test_consensus_chooses_one_of_several_labels(
    tmp_path: Path, consensus: str, selected: str | None, kept: str | None
) -> None:
    # `a` is the later one in time, though not as text: its clock is two hours ahead.
    a = label("a", [drawn("f1"), drawn("f2", polygon(90, 20, 9, 30))], updated="2024-01-02T01:00:00.000+00:00")
    b = label("b", [drawn("f3")], updated="2024-01-02T02:00:00.000+02:00")
    skipped = label("c", [], skipped=True, updated="2025-01-01T00:00:00Z")
    several = row(KNOWN[0], project([a, b, skipped], selected=selected))
    frozen = Frozen(tmp_path, several, simple(KNOWN[1], drawn("good")), using=params(consensus=consensus))
    features = {"a": ["f1", "f2"], "b": ["f3"], None: []}
    assert list(frozen.labels["feature_id"]) == sorted([*features[kept], "good"])
    rejected = frozen.quarantine.set_index("label_id")
    assert rejected.loc["c", "reason"] == "label_skipped"
    assert {name: rejected.loc[name, "polygons"] for name in {"a", "b"} - {kept}} == {
        name: len(features[name]) for name in {"a", "b"} - {kept}
    }


def test_the_same_image_in_two_projects(tmp_path: Path) -> None:
    done, unfinished = project([label("a", [drawn("f1")])]), project([label("b", [drawn("f2")])], status="IN_REVIEW")
    frozen = Frozen(tmp_path / "one", row(KNOWN[0], unfinished, done))
    assert (list(frozen.labels["label_id"]), frozen.reasons) == (["a"], ["not_done"])
    both = row(KNOWN[0], done, project([label("b", [drawn("f2")])]))
    frozen = Frozen(tmp_path / "two", both, simple(KNOWN[1], drawn("good")))
    assert (list(frozen.observations.index), frozen.reasons) == ([KNOWN[1]], ["several_labels"] * 2)


def test_an_answer_given_twice_and_differently_is_no_answer(tmp_path: Path) -> None:
    one = simple(KNOWN[1], drawn("x"))
    answers = one["projects"]["project0"]["labels"][0]["annotations"]["classifications"]
    answers.append({"name": "Mine activity", "checklist_answers": [{"name": "No"}]})
    assert Frozen(tmp_path, GOOD, one).reasons == ["activity_missing"]


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    raw = [b"\xef\xbb\xbf" + json.dumps(simple(obs_id, drawn(obs_id))).encode() + b"\r\n" for obs_id in KNOWN[:2]]
    frozen = Frozen(tmp_path, *raw)
    assert list(frozen.observations.index) == [*KNOWN[:2]]
    assert (tmp_path / "export.ndjson").read_bytes() == b"".join(raw)


@pytest.mark.parametrize("rows", [[], [simple(KNOWN[0])], [simple(KNOWN[0], drawn("x", confidence=None))] * 2])
def test_no_usable_polygon_is_an_error_that_names_the_reasons(tmp_path: Path, rows: list[Any]) -> None:
    expected = "confidence_missing 2, observation_incomplete 2" if len(rows) == 2 else "nothing in quarantine"
    with pytest.raises(
        InputError, match=rf"no usable polygon in {len(rows)} rows \({expected}\); expected at least one"
    ):
        Frozen(tmp_path, *rows)
    assert len(Quarantine.read(tmp_path / "quarantine.parquet")) == 2 * (len(rows) == 2) * 2
    assert not (tmp_path / "labels.parquet").exists()


def test_a_missing_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"export\.ndjson: got no such file; expected an NDJSON export"):
        build(
            PARAMS,
            Synthetic(seed=0, cloud_fraction=0, annotator_error_m=0),
            aoi=None,
            manifest=MANIFEST,
            rivers=tmp_path,
            inputs=tmp_path,
            folder=tmp_path / "out",
            canonical_folder=tmp_path / "canonical",
        )
    assert not (tmp_path / "out" / "export.ndjson").exists()


def test_the_same_rows_in_another_order_give_the_same_tables(tmp_path: Path) -> None:
    rows = [GOOD, simple(KNOWN[1]), simple(KNOWN[2], drawn("z"), drawn("a", name="Cloud")), b"nonsense\n"]
    for name, some in (("one", rows), ("two", rows[:3][::-1] + rows[3:])):
        Frozen(tmp_path / name, *some)
    for table in ("labels", "observations", "quarantine"):
        one, two = ((tmp_path / name / f"{table}.parquet").read_bytes() for name in ("one", "two"))
        assert one == two


def test_every_metric_is_a_number_but_the_fingerprint_and_the_summary_shows_all(tmp_path: Path) -> None:
    metrics = Frozen(tmp_path, GOOD).metrics
    assert all(isinstance(value, int | float) for name, value in metrics.items() if name != "label_fingerprint")
    shown = "\n".join(summary(metrics))
    assert all(name in shown for name in metrics)


def test_every_reason_is_in_the_glossary() -> None:
    glossary = (ROOT / "GLOSSARY.md").read_text()
    assert [reason for reason in REASONS if f"`{reason}`" not in glossary] == []


def many(names: list[str]) -> tuple[pd.DataFrame, Iterator[dict[str, Any]]]:
    """A manifest and a row for each of ``names``, two polygons a row."""
    one = MANIFEST[MANIFEST["obs_id"] == KNOWN[0]]
    scenes = pd.concat([one] * len(names), ignore_index=True)
    scenes["obs_id"] = [name for name in names for _ in range(len(one))]
    return scenes, (simple(n, drawn(f"{n}/0"), drawn(f"{n}/1", polygon(90, 20, 9, 30))) for n in names)


def test_thousands_of_rows_are_cheap(tmp_path: Path) -> None:
    scenes, rows = many([f"site{number}_2023-01-01" for number in range(2000)])
    raw = lines(*rows)
    start = time.process_time()
    assert freeze(raw, labelbox_export.parse, PARAMS, scenes, tmp_path, tmp_path / "canonical", {})["labels"] == 4000
    assert time.process_time() - start < 10


def test_memory_holds_one_raw_row_at_a_time(tmp_path: Path) -> None:
    scenes, rows = many([f"site{number}_2023-01-01" for number in range(40)])
    raw = (lines(row | {"attachments": "x" * 1_000_000})[0] for row in rows)
    tracemalloc.start()
    freeze(raw, labelbox_export.parse, PARAMS, scenes, tmp_path, tmp_path / "canonical", {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "export.ndjson").stat().st_size > 40e6
    assert peak < 15e6


GEOMETRIES = st.sampled_from(
    [
        polygon(),
        polygon(90, 20, 9, 30),
        polygon(120, 50, 30, 30, hole=True),
        {"type": "MultiPolygon", "coordinates": [[ring()], [ring(90, 20, 9, 30)]]},
        bow_tie(),
        FAR,
        {"type": "LineString", "coordinates": ring()},
        {"type": "Polygon", "coordinates": [[[None, 1]]]},
        {"type": "Polygon", "coordinates": [[[float("nan"), float("inf")]] * 4]},
        "somewhere",
        {},
    ]
)
OBJECTS = st.builds(
    drawn,
    st.sampled_from([f"f{n}" for n in range(9)]),
    GEOMETRIES,
    name=st.sampled_from(["Sand mine"] * 5 + ["Cloud"]),
    confidence=st.sampled_from(["Low", "High", "High", "Low", "Medium", None]),
)
LABELS = st.builds(
    label,
    st.sampled_from(["l1", "l2", "l3"]),
    st.lists(OBJECTS, max_size=3),
    activity=st.sampled_from(["from objects"] * 5 + ["Yes", "No", None]),
    skipped=st.sampled_from([False] * 6 + [True]),
    updated=st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-02T00:00:00.5+05:30"]),
)
PROJECTS = st.builds(
    project,
    st.lists(LABELS, min_size=1, max_size=2) | st.lists(LABELS, max_size=1),
    status=st.sampled_from(["DONE"] * 5 + ["IN_REVIEW"]),
    selected=st.sampled_from(["l1", "l2", None]),
)
ROWS = st.builds(
    row,
    st.sampled_from([*KNOWN, *KNOWN, SKIPPED, NEVER_ASKED_FOR, None]),
    PROJECTS,
    data_row=st.sampled_from(["dr1", "dr2", "dr3"]),
) | st.builds(row, st.sampled_from(KNOWN), PROJECTS, PROJECTS)
TEXTS = st.text(st.characters() | st.sampled_from("\ud800\udfff\x00\u202e\ufeff"), max_size=6)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", 10**19, -1e30, 10**4000, KNOWN[0]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value, with each of its keys or indices."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> Any:
    """Something sound, with any JSON value where another one was."""
    value = copy.deepcopy(draw(sound))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value))))
        container[key] = draw(ANY_JSON)
    return value


BROKEN = st.builds(lambda one, key: {k: v for k, v in one.items() if k != key} | {"projects": [one]}, ROWS, st.text())


EXCLUDED = st.lists(
    st.builds(
        Exclusion,
        id=st.sampled_from(["f0", "f1", "f2", "f3", "l1", "l2"]),
        pixels=st.sampled_from(["ignore", "other"]),
        reason=st.just("because"),
    ),
    max_size=3,
    unique_by=lambda one: one.id,
)


def drawn_in(value: Any) -> int:
    """Counts drawn objects without the product's code."""
    if isinstance(value, list):
        return sum(map(drawn_in, value))
    if isinstance(value, dict):
        return sum(len(v) if k == "objects" and isinstance(v, list) else drawn_in(v) for k, v in value.items())
    return 0


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(ROWS | BROKEN | mutated(ROWS), max_size=8),
    consensus=st.sampled_from(["refuse", "selected", "latest"]),
    excluded=EXCLUDED,
)
def test_nothing_is_lost_and_no_kept_observation_lacks_a_mine(
    rows: list[dict[str, Any]], consensus: str, excluded: list[Exclusion]
) -> None:
    out = {one.id: one for one in excluded}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            frozen = Frozen(folder, *rows, using=params(consensus=consensus), excluded=out)
            areas = Ignored.read(folder / "ignored.parquet")
            labels, observations, metrics = frozen.labels, frozen.observations, frozen.metrics
        except InputError:
            labels, observations, metrics = pd.DataFrame(), None, None
        quarantine = Quarantine.read(folder / "quarantine.parquet")
        raw = [json.loads(line) for line in (folder / "export.ndjson").read_bytes().splitlines()]
    assert sum(map(drawn_in, raw)) == len(labels) + quarantine["polygons"].sum()
    if observations is None:
        return
    assert len(rows) == metrics["observations"] + metrics["quarantined_rows"]
    assert set(labels["obs_id"]) == set(observations.index[observations["has_mines"]])
    assert labels["feature_id"].is_unique
    assert shapely.is_valid(labels.geometry).all()
    assert not {*labels["feature_id"], *labels["label_id"]} & out.keys()
    assert set(areas["obs_id"]) <= set(observations.index)
    assert {out[name].pixels for name in areas["feature_id"]} <= {"ignore"}
    row_of = dict(zip(labels["obs_id"], labels["row_sha256"], strict=True))
    label_of = observations["label_id"]
    for obs_id, row_sha256 in row_of.items():
        same = quarantine[(quarantine["row_sha256"] == row_sha256) & (quarantine["label_id"] == label_of[obs_id])]
        in_this_one = same[(same["obs_id"] == obs_id) & same["feature_id"].notna()]
        assert set(in_this_one["reason"]) <= HARMLESS


def test_tables_say_that_labels_are_synthetic_and_what_is_learnt_does_not_change(tmp_path: Path) -> None:
    one, other = (
        Frozen(tmp_path / source, GOOD, simple(KNOWN[1]), using=params(source=source))
        for source in ("synthetic", "labelbox_export")
    )
    assert set(one.labels["origin"]) == set(one.observations["origin"]) == {"synthetic"}
    assert set(other.labels["origin"]) == set(other.observations["origin"]) == {"real"}
    assert one.metrics == other.metrics
    for path in (tmp_path / "synthetic/canonical").iterdir():
        assert path.read_bytes() == (tmp_path / "labelbox_export/canonical" / path.name).read_bytes(), path.name
