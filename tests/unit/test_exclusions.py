"""The record of excluded labels: reading, writing, and what the rules make of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sandwatch.annotations import build, exclusions, label_fingerprint
from sandwatch.annotations.canonical import canonical_rows
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.errors import InputError
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import Ignored, Labels
from tests.unit.annotation_rows import (
    GOOD,
    KNOWN,
    bow_tie,
    drawn,
    label,
    lines,
    manifest,
    params,
    polygon,
    project,
    row,
    simple,
)
from tests.unit.test_annotations import FAR, Frozen

OTHER = polygon(90, 20, 9, 30)
SYNTHETIC = Synthetic(seed=0, cloud_fraction=0, annotator_error_m=0)
ASIDE = simple(KNOWN[2], drawn("aside"))
"""Something to learn from, whatever becomes of the observation under test."""


def excluded(*ids: str, pixels: Any = "ignore") -> dict[str, Exclusion]:
    return {name: Exclusion(id=name, pixels=pixels, reason="because") for name in ids}


# --- the file ------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    some = [
        Exclusion(id="b", reason='said "no", twice'),
        Exclusion(id="a/1", pixels="other", reason="ein Teich, größer"),
    ]
    path = exclusions.write(tmp_path, some)
    content = path.read_bytes()
    assert content.decode() == 'id,pixels,reason\na/1,other,"ein Teich, größer"\nb,ignore,"said ""no"", twice"\n'
    assert list(exclusions.read(tmp_path).values()) == some[::-1]
    exclusions.write(tmp_path, exclusions.read(tmp_path).values())
    exclusions.write(tmp_path, some[::-1])
    assert path.read_bytes() == content


def test_blanks_around_a_value_and_another_encoding_are_read(tmp_path: Path) -> None:
    """As people's programs write tables (:mod:`sandwatch.text`)."""
    (tmp_path / exclusions.FILE).write_bytes("id,pixels,reason\n x ,ignore,à côté\n".encode("cp1252"))
    assert exclusions.read(tmp_path) == {"x": Exclusion(id="x", pixels="ignore", reason="à côté")}


def test_no_file_excludes_nothing_and_columns_have_no_order(tmp_path: Path) -> None:
    assert exclusions.read(tmp_path) == {}
    (tmp_path / exclusions.FILE).write_text("reason,id,pixels\r\nwrong,x,other\r\n")
    assert exclusions.read(tmp_path) == {"x": Exclusion(id="x", pixels="other", reason="wrong")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"exclusions\.csv: got columns none; expected id, pixels, reason"),
        ("id,pixels\nx,ignore\n", "got columns id, pixels;"),
        ("id,pixels,reason,who\nx,ignore,r,me\n", "got columns id, pixels, reason, who;"),
        ("id,pixels,reason\nx,maybe,r\n", r"line 2: exclusion of x, pixels: got 'maybe'; expected ignore"),
        ("id,pixels,reason\nx,,r\n", "line 2: exclusion of x, pixels: got ''"),
        ("id,pixels,reason\nx,ignore,  \n", "line 2: exclusion of x, reason: got ''; expected one line"),
        ('id,pixels,reason\nx,ignore,"a\nb"\n', "line 3: exclusion of x, reason: got 'a.nb'"),
        ("id,pixels,reason\n,ignore,r\n", "line 2: exclusion: got id ''"),
        ("id,pixels,reason\nx,ignore\n", "line 2: got 2 values; expected 3"),
        ("id,pixels,reason\nx,ignore,no,why\n", "line 2: got 4 values; expected 3"),
        ("id,pixels,reason\nx,ignore,r\ny,other,r\nx,other,s\n", "line 4: got id x again"),
        ('id,pixels,reason\nx,ignore,"r\n', "line 2: got no CSV: unexpected end of data; .* close the quote"),
        (b"id,pixels,reason\nx,ignore,\x81\n", r"exclusions\.csv, line 2: got bytes that are no UTF-8; .*; save it"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / exclusions.FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        exclusions.read(tmp_path)
    assert "\n" not in str(caught.value)


# --- the rules -----------------------------------------------------------------------------------------------------


def ignored_in(folder: Path) -> list[tuple[str, str]]:
    areas = Ignored.read(folder / "ignored.parquet")
    return list(zip(areas["feature_id"], areas["obs_id"], strict=True))


def test_a_feature_that_may_be_a_mine_leaves_its_area_and_the_rest(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("good"), drawn("x", OTHER, confidence=None))
    frozen = Frozen(tmp_path, one, excluded=excluded("x"))
    assert list(frozen.labels["feature_id"]) == ["good"]
    assert (frozen.reasons, list(frozen.quarantine["feature_id"])) == (["excluded"], ["x"])
    assert list(frozen.quarantine["detail"]) == ["pixels ignore: because"]
    assert ignored_in(tmp_path) == [("x", KNOWN[0])]
    assert Ignored.read(tmp_path / "ignored.parquet").geometry[0].area == pytest.approx(
        Labels.read(tmp_path / "labels.parquet").geometry[0].area * 9 * 30 / (20 * 12), rel=1e-3
    )
    assert (frozen.metrics["ignored_areas"], frozen.metrics["quarantine_excluded"]) == (1, 1)


def test_a_feature_proven_wrong_is_gone_whatever_its_geometry(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("good"), drawn("x", bow_tie()))
    frozen = Frozen(tmp_path, one, excluded=excluded("x", pixels="other"))
    assert list(frozen.labels["feature_id"]) == ["good"]
    assert frozen.reasons == ["excluded"]
    assert ignored_in(tmp_path) == []


def test_an_area_that_nobody_can_draw_withholds_its_observation(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("good"), drawn("x", bow_tie()), drawn("y", OTHER))
    frozen = Frozen(tmp_path, ASIDE, one, excluded=excluded("x", "y"))
    assert list(frozen.observations.index) == [KNOWN[2]]
    assert sorted(frozen.reasons) == ["excluded", "geometry_invalid", "observation_incomplete"]
    assert ignored_in(tmp_path) == []


@pytest.mark.parametrize(("pixels", "areas"), [("other", []), ("ignore", [("x", KNOWN[0]), ("y", KNOWN[0])])])
def test_an_observation_whose_every_mine_is_excluded_is_a_negative(
    tmp_path: Path, pixels: str, areas: list[Any]
) -> None:
    one = simple(KNOWN[0], drawn("x"), drawn("y", OTHER))
    frozen = Frozen(tmp_path, ASIDE, one, excluded=excluded("x", "y", pixels=pixels))
    observation = frozen.observations.loc[KNOWN[0]]
    assert (bool(observation.has_mines), observation.polygons) == (False, 0)
    assert frozen.reasons == ["excluded"] * 2
    assert ignored_in(tmp_path) == areas


@pytest.mark.parametrize("gone", [drawn("far", FAR), drawn("far", FAR, confidence="Low")])
def test_a_mine_that_lies_outside_is_not_proven_wrong_with_the_others(tmp_path: Path, gone: dict[str, Any]) -> None:
    frozen = Frozen(tmp_path, ASIDE, simple(KNOWN[0], drawn("x"), gone), excluded=excluded("x", pixels="other"))
    assert list(frozen.observations.index) == [KNOWN[2]]
    assert sorted(frozen.reasons) == ["excluded", "observation_incomplete", "outside_scene"]


def test_a_label_id_takes_out_all_that_it_holds(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("x"), drawn("y", OTHER))
    frozen = Frozen(tmp_path, ASIDE, one, excluded=excluded(f"label-{KNOWN[0]}"))
    assert list(frozen.observations.index) == [KNOWN[2]]
    assert (frozen.reasons, list(frozen.quarantine["polygons"])) == (["excluded"], [2])
    assert frozen.quarantine["feature_id"].isna().all()
    assert ignored_in(tmp_path) == []


def test_a_label_proven_wrong_is_a_negative_but_for_what_is_said_of_its_features(tmp_path: Path) -> None:
    one = simple(KNOWN[0], drawn("x"), drawn("cloud", FAR, name="Cloud"))
    wrong = excluded(f"label-{KNOWN[0]}", pixels="other")
    frozen = Frozen(tmp_path / "whole", ASIDE, one, excluded=wrong)
    assert not frozen.observations.loc[KNOWN[0]].has_mines
    assert sorted(frozen.reasons) == ["excluded", "unknown_class"]
    assert ignored_in(tmp_path / "whole") == []
    Frozen(tmp_path / "one", ASIDE, one, excluded=wrong | excluded("x"))
    assert ignored_in(tmp_path / "one") == [("x", KNOWN[0])]


@pytest.mark.parametrize("pixels", ["ignore", "other"])
def test_a_negative_that_is_excluded_is_withheld(tmp_path: Path, pixels: str) -> None:
    frozen = Frozen(tmp_path, GOOD, simple(KNOWN[1]), excluded=excluded(f"label-{KNOWN[1]}", pixels=pixels))
    assert list(frozen.observations.index) == [KNOWN[0]]
    assert (frozen.reasons, frozen.metrics["negatives"], frozen.metrics["quarantined_rows"]) == (["excluded"], 0, 1)


@pytest.mark.parametrize("pixels", ["ignore", "other"])
@pytest.mark.parametrize("consensus", ["refuse", "selected", "latest"])
def test_where_another_label_is_left_it_counts_alone(tmp_path: Path, pixels: str, consensus: str) -> None:
    two = row(
        KNOWN[0],
        project([label("mine", [drawn("x")]), label("theirs", [drawn("y", OTHER)])], selected="mine"),
    )
    frozen = Frozen(tmp_path, two, using=params(consensus=consensus), excluded=excluded("mine", pixels=pixels))
    assert list(frozen.labels["feature_id"]) == ["y"]
    assert (frozen.reasons, list(frozen.quarantine["label_id"])) == (["excluded"], ["mine"])
    assert ignored_in(tmp_path) == []


def test_ids_that_match_nothing_are_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_quarantine = row(KNOWN[1], project([label("l", [drawn("q")])], status="IN_REVIEW"))
    frozen = Frozen(tmp_path, GOOD, in_quarantine, excluded=excluded("gone", "q", "l", "b"))
    assert (frozen.metrics["exclusions"], frozen.metrics["exclusions_unmatched"]) == (4, 2)
    assert frozen.reasons == ["not_done"]
    assert "exclusions.csv: 2 of 4 ids match nothing in this snapshot: b, gone\n" in capsys.readouterr().out
    Frozen(tmp_path, GOOD)
    assert capsys.readouterr().out == ""


# --- the fingerprint -----------------------------------------------------------------------------------------------


def test_the_fingerprint_covers_ignored_areas_and_is_what_it_was_without_them(tmp_path: Path) -> None:
    objects = (drawn("good"), drawn("x", OTHER), drawn("y", polygon(120, 50, 30, 30)))
    cases = {
        "all": {},
        "ignored": excluded("x"),
        "other": excluded("x", pixels="other"),
        "both ignored": excluded("x", "y"),
    }
    found = {
        name: Frozen(tmp_path / name, simple(KNOWN[0], *objects), excluded=out).metrics["label_fingerprint"]
        for name, out in cases.items()
    }
    assert len(set(found.values())) == len(cases)
    without = Frozen(tmp_path / "without", simple(KNOWN[0], objects[0], objects[2]))
    assert without.metrics["label_fingerprint"] == found["other"]
    observations = without.observations.reset_index()
    assert label_fingerprint(without.labels, observations) == found["other"]
    ignored = Ignored.read(tmp_path / "ignored" / "ignored.parquet")
    assert label_fingerprint(without.labels, observations, ignored) == found["ignored"]
    assert label_fingerprint(without.labels, observations, ignored.assign(feature_id="z")) == found["ignored"]
    elsewhere = ignored.assign(obs_id=KNOWN[1])
    assert label_fingerprint(without.labels, observations, elsewhere) != found["ignored"]


def test_the_canonical_row_of_an_ignored_area_is_what_the_docs_say(tmp_path: Path) -> None:
    frozen = Frozen(tmp_path, simple(KNOWN[0], drawn("x"), drawn("good", OTHER)), excluded=excluded("x"))
    area = Ignored.read(tmp_path / "ignored.parquet").geometry[0]
    ring = [[round(x * 10**7), round(y * 10**7)] for x, y in area.exterior.coords[:-1]]
    start = ring.index(min(ring))  # drawn counterclockwise as it is
    by_hand = json.dumps(["", KNOWN[0], "", "ignored", [[ring[start:] + ring[:start]]]], separators=(",", ":"))
    rows = sorted([*canonical_rows(frozen.labels), by_hand.encode()])
    assert frozen.metrics["label_fingerprint"] == hashlib.sha256(b"".join(r + b"\n" for r in rows)).hexdigest()


# --- every source --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["labelbox_export", "geojson"])
def test_sources_that_read_the_same_folder_honour_the_record(tmp_path: Path, source: str) -> None:
    inputs, using = tmp_path / "inputs", params(source=source)
    inputs.mkdir()
    (inputs / "export.ndjson").write_bytes(b"".join(lines(simple(KNOWN[0], drawn("x"), drawn("good", OTHER)))))
    features = [
        {"id": n, "properties": {"Confidence": "High"}, "geometry": g} for n, g in (("x", polygon()), ("y", OTHER))
    ]
    (inputs / "a.geojson").write_text(json.dumps({"features": features}))
    (inputs / "annotations.csv").write_text(f"obs_id,path\n{KNOWN[0]},a.geojson\n")
    name = "x" if source == "labelbox_export" else f"{KNOWN[0]}/x"
    exclusions.write(inputs, excluded(name).values())
    aoi: Any = None
    metrics = build(
        using,
        SYNTHETIC,
        aoi=aoi,
        manifest=manifest(),
        rivers=inputs,
        inputs=inputs,
        folder=tmp_path / "out",
        canonical_folder=tmp_path / "canonical",
    )
    assert ignored_in(tmp_path / "out") == [(name, KNOWN[0])]
    assert (metrics["labels"], metrics["exclusions_unmatched"]) == (1, 0)
