"""The model card: every figure as its file has it, what is invented said first, and nothing that acts on who reads."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sandwatch import cli
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.card import Start
from sandwatch.model.channels import Channel
from sandwatch.release.model_card import model_card
from tests.unit.model.test_card import card

METRICS: dict[str, dict[str, Any]] = {
    "annotations": {"labels": 126, "labels_high": 99, "observations": 18, "mine_area_km2": 3.689},
    "chips": {"windows_train": 240, "windows_val": 100, "windows_test": 143, "train_test_min_distance_km": 351.264},
    "train": {
        "val_ap": 0.9133201, "best_epoch": 7, "temperature": 1.25, "bias": -2.25, "threshold": 0.415412, "step": 12,
    },
    "evaluate": {
        "ap": 0.936, "ap_low95": 0.9082, "ap_high95": 0.9634, "f1": 0.8573, "f1_low95": 0.833, "f1_high95": 0.894,
        "ece": 0.0104, "ece_uncalibrated": 0.0093, "iou": None, "iou_low": 0.31, "mines": 32, "threshold": 0.4154,
        "imagery": "real", "labels": "real",
    },
}  # fmt: skip
RIVERS = "river,part,sites,ap\nOndara,holdout river,3,0.936\nVelune,validation,2,\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for stage, metrics in METRICS.items():
        (folder / stage).mkdir(parents=True)
        (folder / stage / "metrics.json").write_text(json.dumps(metrics))
    (folder / "evaluate" / "rivers.csv").write_text(RIVERS)
    return folder


def model(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "model.json"
    card(**{"temperature": 1.25, "bias": -2.25, "threshold": 0.41541234} | changes).write(path)
    return path


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and body, cut where the Hub cuts them."""
    _, front, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


def tables(body: str) -> list[list[list[str]]]:
    """Rows of every table, by the rules of Markdown; a row that a blank line or a stray pipe cut off is no row."""
    found = [block.splitlines() for block in re.findall(r"(?:^\|.*\|\n)+", body, flags=re.MULTILINE)]
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in block if set(line) != set("|-")]
        for block in found
    ]


def values(body: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for table in tables(body) for row in table}


def test_every_figure_is_that_of_its_file(tmp_path: Path, results: Path) -> None:
    path = model(tmp_path)
    front, body = parts(model_card(path, results))
    rows = values(body)
    assert rows["average precision (AP)"] == ["0.936", "0.9082 to 0.9634"]
    assert rows["F1 at the threshold"] == ["0.8573", "0.833 to 0.894"]
    assert rows["IoU"] == ["undefined", ""]
    assert rows["iou_low"] == ["0.31", ""]  # what the card knows no words for
    assert rows["mines"] == ["32", ""]
    assert rows["AP on validation, window by window"] == ["0.9133201"]
    assert rows["polygons"] == ["126"]
    assert rows["windows of training sites"] == ["240"]
    assert rows["Velune"] == ["validation", "2", ""]
    assert rows["B3"] == ["B3", "1000.0", "200.0", "", "0.0"]
    assert (rows["model.json"], rows["model.safetensors"]) == ([sha256(path)], ["0" * 64])
    for said in (
        "temperature 1.25 and moved by the bias -2.25,",
        "A score of 0.41541234 or more",
        "rivers: 0.0104; without calibration: 0.0093",
    ):
        assert said in body
    (named,) = front["model-index"]
    found = {figure["type"]: figure["value"] for figure in named["results"][0]["metrics"]}
    assert found == {"average_precision": 0.936, "f1": 0.8573}


def test_views_are_told_where_there_are_several(tmp_path: Path, results: Path) -> None:
    assert "views" not in model_card(model(tmp_path), results)
    assert "Of each window, 8 views are scored" in model_card(model(tmp_path, views=8), results)


def test_the_front_matter_says_what_the_model_is(tmp_path: Path, results: Path) -> None:
    front, _ = parts(model_card(model(tmp_path), results))
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == (
        "unknown", "sandwatch", "image-segmentation",
    )  # fmt: skip
    assert "sentinel-1" not in front["tags"]
    assert "synthetic-data" not in front["tags"]
    radar = {"bands": ("B2", "VV"), "channels": [Channel(name="VV", band="VV", mean=0, std=1)]}
    front, _ = parts(model_card(model(tmp_path, **radar), results, "cc-by-4.0"))
    assert front["license"] == "cc-by-4.0"
    assert "sentinel-1" in front["tags"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"imagery": "synthetic", "labels": "synthetic"}, "SYNTHETIC labels, training imagery and training labels"),
        ({"labels": "synthetic"}, "SYNTHETIC labels and training labels"),
        ({"imagery": "mixed"}, "SYNTHETIC in part: training imagery"),
    ],
)
def test_what_is_invented_is_said_before_all_else(
    tmp_path: Path, results: Path, changes: dict[str, Any], said: str
) -> None:
    front, body = parts(model_card(model(tmp_path, **changes), results))
    assert body.split("\n\n")[1].startswith(f"**{said}.**")
    assert "synthetic-data" in front["tags"]
    assert f"**{said}: don't use it on real rivers.**" in body


def test_what_is_not_invented_is_not_said_to_be(tmp_path: Path, results: Path) -> None:
    assert "SYNTHETIC" not in model_card(model(tmp_path), results)


def test_a_licence_that_forbids_something_is_said(tmp_path: Path, results: Path) -> None:
    start = Start(name="satmae/base", sha256="2" * 64, licence="CC-BY-NC-4.0", forbids="commercial use")
    _, body = parts(model_card(model(tmp_path, start=start), results, "cc-by-4.0"))
    assert f"satmae/base, SHA-256 {'2' * 64}. Licence: CC-BY-NC-4.0." in body
    assert "**That licence forbids commercial use.**" in body
    assert values(body)["weights that it started from"] == ["2" * 64]
    assert "None: random numbers." in model_card(model(tmp_path), results)


def test_without_results_the_card_says_so(tmp_path: Path) -> None:
    front, body = parts(model_card(model(tmp_path), tmp_path / "none"))
    assert "how good the model is, is not known" in body
    assert "no figures of the stage annotations were at hand" in body
    assert "model-index" not in front


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        (
            "train",
            {"temperature": 1.26},
            r"train/metrics\.json: temperature: got 1\.26; expected 1\.25, as model\.json",
        ),
        ("evaluate", {"threshold": 0.4155}, r"evaluate/metrics\.json: threshold: got 0\.4155; expected 0\.4154"),
        ("evaluate", {"imagery": "made up"}, r"evaluate/metrics\.json: got imagery: made up"),
        ("chips", {"windows_train": [3]}, r"chips/metrics\.json: got windows_train: \[3\]; expected figures by name"),
        ("chips", {"windows_train": float("nan")}, r"chips/metrics\.json: got windows_train: nan"),
    ],
)
def test_figures_of_another_model_or_of_none_are_refused(
    tmp_path: Path, results: Path, stage: str, change: dict[str, Any], message: str
) -> None:
    (results / stage / "metrics.json").write_text(json.dumps(METRICS[stage] | change))
    with pytest.raises(InputError, match=message):
        model_card(model(tmp_path), results)


def test_a_table_of_rivers_that_is_none_is_refused(tmp_path: Path, results: Path) -> None:
    (results / "evaluate" / "rivers.csv").write_text("river,ap\nOndara\n")
    with pytest.raises(InputError, match=r"rivers\.csv: got rows of unequal length"):
        model_card(model(tmp_path), results)


EVIL = 'a|b\n\n# <img src=x onerror=1> [c](d) `e` \x1b[2J\u202e\n---\n"{{ 7*7777777 }}'


def test_hostile_names_break_no_table_and_no_front_matter(tmp_path: Path, results: Path) -> None:
    (results / "evaluate" / "rivers.csv").write_text('river,ap\n"' + EVIL.replace('"', '""') + '",0.9\n')
    (results / "evaluate" / "metrics.json").write_text(json.dumps(METRICS["evaluate"] | {EVIL: 1}))
    plain = parts(model_card(model(tmp_path), tmp_path / "none"))
    start = Start(name=EVIL, sha256="2" * 64, licence=EVIL, forbids=EVIL)
    evil = model(
        tmp_path, start=start, bands=("B2", EVIL), channels=[Channel(name=EVIL, band=EVIL, mean=0, std=1)],
        classes=(EVIL, "mine"), matched=((EVIL, EVIL, EVIL),), inputs={EVIL: "0" * 64}, code={EVIL: "0" * 64},
    )  # fmt: skip
    text = model_card(evil, results, EVIL)
    front, body = parts(text)
    assert front["tags"] == plain[0]["tags"]
    assert front["license"].startswith("a|b  # <img")
    assert not re.search(r"[<\x1b\u202e]|\]\(|54444439", body)
    assert body.count("\n---") == 0
    assert body.count("\n# ") == 1
    assert all(len({len(row) for row in table}) == 1 for table in tables(body))
    assert sum(row[0].startswith("a&#124;b") for table in tables(body) for row in table) == 4


def test_the_command_prints_the_card(tmp_path: Path, results: Path) -> None:
    path = model(tmp_path)
    done = CliRunner().invoke(cli.app, ["card", str(path), "--results", str(results), "--license", "cc-by-4.0"])
    assert (done.exit_code, done.stdout) == (0, model_card(path, results, "cc-by-4.0"))
