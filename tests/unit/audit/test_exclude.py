"""Recording exclusions: which ids are meant, what is written, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from sandwatch import annotations
from sandwatch.annotations import exclusions
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.audit.cli import app
from sandwatch.audit.diff import changed_exclusions
from sandwatch.audit.exclude import exclude
from sandwatch.errors import InputError
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import Quarantine
from tests.unit.annotation_rows import KNOWN, drawn, label, lines, manifest, params, polygon, project, row

ROOT = Path(__file__).parents[3]
INPUTS = "data/regions/sample/annotations"
ANN, BEN = "ann@example.org", "ben@example.org"


def by(who: str, day: str, one: dict[str, Any]) -> dict[str, Any]:
    one["label_details"] |= {"created_by": who, "created_at": f"{day}T23:30:00.000+00:00"}
    return one


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a snapshot: Ann drew two mines in the north, none in the south; Ben is in review in the west."""
    inputs = tmp_path / INPUTS
    inputs.mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text()
    head, tail = text.split("\nannotations:\n")
    (tmp_path / "params.yaml").write_text(
        f"{head}\nannotations:\n{tail.replace('source: synthetic', 'source: labelbox_export', 1)}"
    )
    two = [drawn("f1"), drawn("f2", polygon(90, 20, 9, 30), confidence="Low"), drawn("c", name="Cloud")]
    rows = [
        row(KNOWN[0], project([by(ANN, "2024-03-01", label("north", two))])),
        row(KNOWN[1], project([by(ANN, "2024-03-09", label("south", []))])),
        row(KNOWN[2], project([by(BEN, "2024-03-05", label("west", [drawn("f3")]))], status="IN_REVIEW")),
        b"{nonsense\n",
    ]
    (inputs / "export.ndjson").write_bytes(b"".join(lines(*rows)))
    nothing: Any = None
    annotations.build(
        params(),
        Synthetic(seed=0, cloud_fraction=0, annotator_error_m=0),
        aoi=nothing,
        manifest=manifest(),
        rivers=inputs,
        inputs=inputs,
        folder=tmp_path / "data/annotations",
        canonical_folder=tmp_path / "data/canonical",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(clone: Path) -> dict[str, tuple[str, str]]:
    return {name: (one.pixels, one.reason) for name, one in exclusions.read(clone / INPUTS).items()}


def test_a_feature_is_recorded_and_recorded_again(clone: Path) -> None:
    outcome = exclude(clone, labels=["f2", "f1"], reason="  withdrawn,\n sadly ")
    assert recorded(clone) == {"f1": ("ignore", "withdrawn, sadly"), "f2": ("ignore", "withdrawn, sadly")}
    assert [(one.exclusion.id, one.obs_id, one.whole, one.polygons, one.learnt) for one in outcome.excluded] == [
        ("f1", KNOWN[0], False, 1, {"f1"}),
        ("f2", KNOWN[0], False, 1, {"f2"}),
    ]
    assert outcome.notes == ("1 raw rows can't be read: what they hold was not looked at",)
    again = exclude(clone, labels=["f1"], reason="a pond", pixels="other")
    assert again.recorded == 2
    assert again.excluded[0].before == Exclusion(id="f1", pixels="ignore", reason="withdrawn, sadly")
    assert recorded(clone)["f1"] == ("other", "a pond")


@pytest.mark.parametrize(
    ("days", "ids"),
    [
        ({}, {"north", "south"}),
        ({"since": "2024-03-02"}, {"south"}),
        ({"until": "2024-03-01"}, {"north"}),
        ({"since": "2024-03-01", "until": "2024-03-09"}, {"north", "south"}),
    ],
)
def test_an_annotators_labels_are_recorded_by_id_not_by_name(clone: Path, days: Any, ids: set[str]) -> None:
    outcome = exclude(clone, annotator=ANN, reason="withdrawn", **days)
    assert set(recorded(clone)) == ids
    assert ANN not in outcome.file.read_text()
    learnt = {one.exclusion.id: (one.polygons, set(one.learnt), one.negative) for one in outcome.excluded}
    known = {"north": (2, {"f1", "f2"}, False), "south": (0, set(), True)}
    assert learnt == {name: known[name] for name in ids}


def test_what_is_in_quarantine_today_is_recorded_too(clone: Path) -> None:
    outcome = exclude(clone, annotator=BEN, reason="withdrawn")
    assert [(one.exclusion.id, one.polygons, one.learnt) for one in outcome.excluded] == [("west", 1, frozenset())]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "got 0 --label; expected --label, once or more, or --annotator"),
        ({"labels": ["f1"], "annotator": ANN}, "got 1 --label and --annotator; expected"),
        ({"labels": ["f1"], "since": "2024-01-01"}, "got 1 --label and --from; expected"),
        ({"labels": ["f1"], "reason": " "}, "reason: got ''; expected one line of text"),
        ({"labels": ["f1"], "pixels": "high"}, "pixels: got 'high'; expected ignore"),
        ({"labels": ["f1", "f9", "l9"]}, "snapshot sample-1: got no feature and no label f9, l9"),
        ({"annotator": "eve@example.org"}, "got no label created by eve@example.org"),
        ({"annotator": ANN, "until": "2024-02-29"}, f"got no label created by {ANN}"),
        ({"annotator": ANN, "since": "March"}, "--from, --to: got 'March'"),
        ({"annotator": ANN, "reason": "Ann@example.org withdrew"}, "--reason: got the annotator's name"),
        ({"labels": ["south"], "pixels": "other"}, "--pixels other: got label south, which has no polygon"),
        ({"annotator": ANN, "pixels": "other"}, "--pixels other: got label south, which has no polygon"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_nothing_written(clone: Path, asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        exclude(clone, **({"reason": "because"} | asked))
    assert "\n" not in str(caught.value)
    assert not (clone / INPUTS / exclusions.FILE).exists()


def test_elsewhere_and_without_a_snapshot_it_says_what_to_do(clone: Path) -> None:
    with pytest.raises(InputError, match=r"got no params\.yaml; expected the root of a clone"):
        exclude(clone / "data", labels=["f1"], reason="because")
    shutil.rmtree(clone / "data/annotations")
    with pytest.raises(InputError, match=r"got no snapshot; .*dvc pull data/annotations"):
        exclude(clone, labels=["f1"], reason="because")


def test_a_broken_record_is_not_written_over(clone: Path) -> None:
    (clone / INPUTS / exclusions.FILE).write_text("id,why\nf2,because\n")
    with pytest.raises(InputError, match="got columns id, why"):
        exclude(clone, labels=["f1"], reason="because")
    assert (clone / INPUTS / exclusions.FILE).read_text() == "id,why\nf2,because\n"


def test_the_command_says_what_it_did_and_what_is_next(clone: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["exclude", "--label", "north", "--label", "f1", "--label", "south", "--reason", "[no]"])
    assert done.exit_code == 0, done.output
    file = f"{INPUTS}/exclusions.csv"
    assert done.output.splitlines() == [
        f"  f1  {KNOWN[0]}  polygon",
        f"  north  {KNOWN[0]}  label with 2 polygons, 2 learnt from",
        f"  south  {KNOWN[1]}  label with 0 polygons, 0 learnt from; its observation is a negative",
        "3 ids in 2 observations: 2 labels and 1 negatives are taken out, pixels ignore: [no]",
        f"{file}: 3 ids",
        "note: 1 raw rows can't be read: what they hold was not looked at",
        f"next: git add {file} && dvc repro",
    ]
    done = runner.invoke(app, ["exclude", "--label", "f1", "--reason", "a pond", "--pixels", "other"])
    assert f"  f1  {KNOWN[0]}  polygon; updated, was pixels ignore: [no]\n" in done.output
    assert runner.invoke(app, ["exclude", "--label", "f1"]).exit_code == 2, "a reason is required"


def test_a_difference_says_what_was_excluded_otherwise() -> None:
    def table(*entries: tuple[str | None, str | None, str, str]) -> pd.DataFrame:
        rows = [
            {"row_id": "r", "obs_id": KNOWN[0], "label_id": label_id, "feature_id": feature_id, "polygons": 1,
             "reason": reason, "detail": detail, "row_sha256": "0" * 64}
            for label_id, feature_id, reason, detail in entries
        ]  # fmt: skip
        return Quarantine.checked(pd.DataFrame(rows), "quarantine")  # type: ignore[no-any-return]

    before = table(
        ("l", "same", "excluded", "pixels ignore: a"),
        ("l", "f", "excluded", "pixels ignore: a"),
        ("l", "back", "excluded", "pixels other: b"),
        ("m", None, "not_done", "d"),
    )
    after = table(
        ("l", "same", "excluded", "pixels ignore: a"),
        ("l", "f", "excluded", "pixels other: a"),
        ("m", None, "excluded", "pixels ignore: c"),
        ("n", None, "not_done", "d"),
    )
    found = changed_exclusions(before, after).astype(object).where(lambda t: t.notna(), None)
    assert sorted(map(tuple, found.drop(columns="obs_id").to_numpy().tolist()), key=str) == [
        ("l", "back", "pixels other: b", None),
        ("l", "f", "pixels ignore: a", "pixels other: a"),
        ("m", None, None, "pixels ignore: c"),
    ]
    assert changed_exclusions(before, before).empty
