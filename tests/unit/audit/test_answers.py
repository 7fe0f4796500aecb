"""Forward, backward and difference over a made-up history, and how answers are written."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from rich.console import Console
from typer.testing import CliRunner

from sandwatch import schemas
from sandwatch.audit import render
from sandwatch.audit.backward import Question, backward
from sandwatch.audit.chain import changes
from sandwatch.audit.cli import app
from sandwatch.audit.diff import changed_labels, diff
from sandwatch.audit.forward import Parts, audit, label_rows
from sandwatch.audit.record import AllLabelRows, Audit, Link, Name
from sandwatch.errors import InputError
from sandwatch.printable import UNSEEN
from tests.audit_history import Made


@pytest.mark.parametrize("target", ["main", "exp-1", "HEAD~5"])
def test_forward(made: Made, target: str) -> None:
    found = audit(target, where=made.root, offline=True)
    assert found.state == "verified"
    assert found.card is not None
    assert found.card.label_fingerprint in made.fingerprints
    assert found.labels is not None
    assert found.observations is not None
    assert set(found.labels["fold"]) == {"train", "val", "test"} if target == "main" else True
    drawn = found.labels["pixels_drawn"].sum()
    assert found.chips is not None
    assert drawn == (found.chips["pixels"] * found.chips["draws"]).sum() > 0
    assert found.negatives is not None
    assert found.negatives["obs_id"].tolist() == ["negative_2021-03-01"]
    assert found.params["train"]["epochs"] > 0


def test_use_fold_and_counts_of_a_label() -> None:
    """Of seven labels by hand; d straddles two folds, e lies in windows that nobody drew, g in none."""
    ids = list("abcdefg")
    labels = pd.DataFrame({"feature_id": ids, "confidence": ["high", "low", "high", "high", "low", "high", "high"]})
    parts = pd.DataFrame(
        [
            ("t1", "a", "train", 5, 2), ("t2", "a", "train", 7, 0), ("t1", "b", "train", 3, 2),
            ("v1", "c", "val", 11, 0), ("t1", "d", "train", 13, 2), ("v1", "d", "val", 17, 0),
            ("t2", "e", "train", 19, 0), ("s1", "f", "test", 23, 0),
        ],
        columns=["chip_id", "feature_id", "fold", "pixels", "draws"],
    )  # fmt: skip
    placed, draws = Parts.of(parts, labels["feature_id"]), parts["draws"].to_numpy()
    rows = label_rows(labels, placed, draws, "binary").set_index("feature_id")
    assert rows["use"].to_dict() == {
        "a": "trained", "b": "left out", "c": "validated", "d": "trained+validated", "e": "never drawn",
        "f": "tested", "g": "no chip",
    }  # fmt: skip
    assert rows["fold"].to_dict() == dict(
        zip(ids, ["train", "train", "val", "train+val", "train", "test", ""], strict=True)
    )
    assert rows["chips"].tolist() == [2, 1, 1, 2, 1, 1, 0]
    assert rows["pixels_train"].tolist() == [12, 3, 0, 13, 19, 0, 0]
    assert rows["pixels_val"].tolist() == [0, 0, 11, 17, 0, 0, 0]
    assert rows["pixels_test"].tolist() == [0, 0, 0, 0, 0, 23, 0]
    assert rows["draws"].tolist() == [2, 2, 0, 2, 0, 0, 0]
    assert rows["pixels_drawn"].tolist() == [10, 6, 0, 26, 0, 0, 0]
    assert rows["positives_drawn"].tolist() == [10, 0, 0, 26, 0, 0, 0]
    three = label_rows(labels, placed, draws, "three_class").set_index("feature_id")
    assert three["use"]["b"] == "trained"
    assert three["positives_drawn"].tolist() == [10, 6, 0, 26, 0, 0, 0]


def test_backward_of_a_label_that_came_late(made: Made) -> None:
    """The last snapshot's last label: only the models since know it."""
    feature_id = made.labels["feature_id"].iloc[-1]
    found = backward(Question(label=feature_id), where=made.root, offline=True)
    assert len(found.models) == 6 + 2
    states = [model.state for model in found.models]
    assert states.count("never saw") == 4
    assert found.labels["feature_id"].tolist() == [feature_id]
    for model in found.models:
        if model.state != "never saw":
            row = audit(model.revisions[0].commit, where=made.root).labels.set_index("feature_id").loc[feature_id]  # type: ignore[union-attr]
            assert model.uses == dict.fromkeys(row["use"].split("+"), 1)
            assert model.pixels_drawn == row["pixels_drawn"]


def test_backward_of_annotators_days_and_negatives(made: Made) -> None:
    mine = made.labels[made.labels["created_by"] == "annotator3@example.org"]
    found = backward(Question(annotator="annotator3@example.org"), where=made.root, offline=True)
    assert found.labels["feature_id"].tolist() == sorted(mine["feature_id"])
    days = Question(since="2021-02-01", until="2021-02-28")
    found = backward(days, where=made.root, offline=True)
    february = made.labels["feature_id"][made.labels["created_at"].str.startswith("2021-02")]
    assert found.labels["feature_id"].tolist() == sorted(february)
    found = backward(Question(label="lnegative"), where=made.root, offline=True)
    assert found.labels.empty
    assert {model.negatives for model in found.models} == {1}
    assert "trained" in {model.state for model in found.models}
    with pytest.raises(InputError, match="a day as YYYY-MM-DD"):
        Question(since="yesterday")
    with pytest.raises(InputError, match="no model and no label"):
        Question()


def test_what_is_in_no_cache_is_unknown_not_unseen(made: Made, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    shutil.copytree(made.root, root)
    shutil.rmtree(root / ".dvc/cache")
    with pytest.raises(InputError, match=r"no label set that can be read here \(3 of 3 .*unknown, not unseen"):
        backward(Question(label="whatever"), where=root, offline=True)
    assert audit("main", where=root, offline=True).state == "unverified"


def test_difference(made: Made) -> None:
    found = diff("HEAD~19", "HEAD", where=made.root, offline=True)
    counts = found.labels["change"].value_counts().to_dict()
    assert counts == {"added": 200, "moved": 2}
    moved = found.labels[found.labels["change"] == "moved"]
    assert moved["feature_id"].tolist() == made.labels["feature_id"].iloc[:2].tolist()
    assert ((moved["iou"] > 0.98) & (moved["iou"] < 1)).all()
    assert found.windows["added"] > 0
    assert found.params == {}
    same = diff("HEAD", "HEAD", where=made.root, offline=True)
    assert same.labels.empty
    assert same.observations.empty


def test_labels_that_changed_in_every_way() -> None:
    def table(rows: dict[str, tuple[str, Any]]) -> gpd.GeoDataFrame:
        return gpd.GeoDataFrame(
            {
                "feature_id": list(rows),
                "obs_id": "a",
                "class_name": "Sand mine",
                "confidence": [confidence for confidence, _ in rows.values()],
                "fold": "train",
                "label_sha256": [f"{confidence}{shape.wkt}" for confidence, shape in rows.values()],
            },
            geometry=[shape for _, shape in rows.values()],
            crs="EPSG:4326",
        )

    unit, shifted = shapely.box(0, 0, 1, 1), shapely.box(0.5, 0, 1.5, 1)
    low, high = ("low", unit), ("high", unit)
    before = table(dict.fromkeys(["same", "gone", "moved", "class", "both"], low))
    after = table({"same": low, "new": low, "moved": ("low", shifted), "class": high, "both": ("high", shifted)})
    found = changed_labels(before, after).set_index("feature_id")
    assert found["change"].to_dict() == {
        "new": "added", "gone": "removed", "moved": "moved", "class": "reclassified", "both": "moved+reclassified",
    }  # fmt: skip
    assert found["iou"][["moved", "class"]].tolist() == [round(1 / 3, 6), 1.0]
    assert np.isnan(found["iou"]["new"])
    assert found.geometry["gone"].equals(unit)
    assert found.geometry["moved"].equals(shifted)


def test_changes_of_nested_params() -> None:
    assert changes({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": 2, "c": [1, 2]}, "e": 3}) == {
        "a.b": (1, 2),
        "d": (1, None),
        "e": (None, 3),
    }


@pytest.fixture
def found(made: Made) -> Audit:
    return audit("main", where=made.root, offline=True)


def test_answers_as_files(found: Audit, tmp_path: Path) -> None:
    render.write_geoparquet(found, tmp_path / "labels.parquet")
    back = AllLabelRows.read(tmp_path / "labels.parquet")
    assert len(back) == 300
    assert back.crs == schemas.WGS84
    render.write_csv(render.labels_of(found), tmp_path / "labels.csv")
    text = pd.read_csv(tmp_path / "labels.csv")
    assert text["positives_drawn"].tolist() == back["positives_drawn"].tolist()
    assert shapely.from_wkt(text["geometry"][0]).equals(back.geometry.iloc[0])
    values = json.loads(render.audit_json(found))
    assert len(values["labels"]) == 300
    assert shapely.from_geojson(json.dumps(values["labels"][0]["geometry"])).equals(back.geometry.iloc[0])
    assert values["holders"][0]["names"] == [{"kind": "branch", "name": "main"}]


def test_the_table_for_people_names_labels_and_verdict(found: Audit) -> None:
    console = Console(file=io.StringIO(), width=200)
    render.print_audit(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "300 labels in 6 observations, 1 negatives" in text
    assert "... and 260 more" in text
    assert text.rstrip().splitlines()[-1].startswith("VERIFIED: 13 links verified; not looked at: rebuild check, ")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["main"], 0, "VERIFIED"),
        (["--label", f"f{1:023d}"], 0, "trained"),
        (["--annotator", "annotator3@example.org", "--json"], 0, '"models"'),
        (["diff", "HEAD~19", "HEAD"], 0, "200 added"),
        (["of", "exp-1", "--json"], 0, '"state": "verified"'),
        (["--help"], 0, "verify"),
    ],
)
def test_the_command(
    made: Made, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, words: str
) -> None:
    monkeypatch.chdir(made.root)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == status, done.output
    assert words in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no such thing"], "no such file, revision or experiment"),
        (["main", "--label", "x"], "expected one of the two"),
        (["--label", "f", "--geoparquet", "x.parquet"], "use --json or --csv"),
        (["--json"], "no model and no label"),
        (["params.yaml"], "a .safetensors file|weights that sandwatch wrote"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    made: Made, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(made.root)
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError)
    with pytest.raises(InputError, match=words):
        raise done.exception


def test_what_others_wrote_can_not_hide_the_verdict(made: Made, tmp_path: Path) -> None:
    """Escapes, marks of direction and line breaks in every text of an answer: as many lines, none of them acting."""
    found = audit("main", where=made.root, offline=True)
    assert found.labels is not None
    assert found.spec is not None
    hostile = "\x1b[2J\x1b[8m\u202e\r\nVERIFIED: 99 links verified\x9b2K[/][red]:boom:"

    def poison(table: Any, *columns: str) -> Any:
        return table.assign(**{column: table[column].iloc[:1] + hostile for column in columns})

    poisoned = replace(
        found,
        target=f"main{hostile}",
        spec=found.spec.model_copy(update={"architecture": hostile, "encoder": hostile}),
        links=(Link(name="labels", state="broken", detail=hostile, remedy=hostile),),
        labels=poison(found.labels, "feature_id", "created_by", "obs_id", "class_name"),
        quarantine=poison(found.quarantine, "detail", "row_id"),
        holders=tuple(
            replace(holder, revision=replace(holder.revision, subject=hostile, names=(Name("tag", hostile),)))
            for holder in found.holders
        ),
        notes=(hostile,),
    )
    for answer in (render.print_audit, render.print_proof):
        lines = []
        for one in (replace(poisoned, target="main", notes=("fine",)), poisoned):
            console = Console(file=io.StringIO(), width=10_000, emoji=False, highlight=False)
            answer(one, console)
            lines.append(console.file.getvalue().splitlines())  # type: ignore[attr-defined]
        assert len(lines[0]) == len(lines[1])
        assert not UNSEEN.search("".join(lines[1]))
        assert not any(line.startswith("VERIFIED") for line in lines[1])
        assert any(line.startswith("BROKEN at labels") for line in lines[1])
    text = render.audit_json(poisoned)
    assert not UNSEEN.search(text.replace("\n", ""))
    assert json.loads(text)["notes"] == [hostile]


def test_a_csv_holds_no_formula(made: Made, tmp_path: Path) -> None:
    labels = audit("main", where=made.root, offline=True).labels
    assert labels is not None
    labels = labels.head(3).assign(created_by=["=1+1", "@SUM(A1)", "-fine@e.org"])
    render.write_csv(labels, tmp_path / "labels.csv")
    read = pd.read_csv(tmp_path / "labels.csv")
    assert read["created_by"].tolist() == ["'=1+1", "'@SUM(A1)", "'-fine@e.org"]
    assert read["geometry"].str.startswith("POLYGON").all()
