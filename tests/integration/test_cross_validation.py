"""`sandwatch cv` as a user drives it: replicates are cached stages of one experiment, and each model is followed."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from .conftest import Workspace

pytestmark = pytest.mark.slow  # trains a model a replicate


@pytest.fixture(scope="module")
def crossed(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A repository in which all stages ran, and then a cross-validation."""
    workspace = built.copy(tmp_path_factory.mktemp("crossed") / "clone")
    printed = workspace.run("sandwatch", "cv", "--folds", "3", "--ensemble", "--name", "three")
    assert "3 replicates, imagery synthetic, labels synthetic" in printed
    assert "together" in printed
    return workspace


def test_mean_and_spread_are_columns_of_the_experiment(crossed: Workspace) -> None:
    assert crossed.run("git", "status", "--porcelain") == ""  # it ran in a copy
    rows = {r["Experiment"]: r for r in csv.DictReader(io.StringIO(crossed.run("dvc", "exp", "show", "--csv")))}
    of = {name.rpartition(":")[2]: value for name, value in rows["three"].items()}
    assert 0 < float(of["ensemble.ap"]) <= 1
    figures = [float(of[f"ap.{what}"]) for what in ("min", "mean", "max")]
    assert figures == sorted(figures)
    assert 0 < figures[0] < figures[2] <= 1
    assert float(of["ap.std"]) > 0


def test_what_ran_is_not_run_again(crossed: Workspace) -> None:
    printed = crossed.run("sandwatch", "cv", "--folds", "3", "--name", "again")
    assert printed.count("is cached - skipping run") >= 6
    assert "epoch 1/" not in printed


def test_no_site_trains_and_tests_and_each_tests_once(crossed: Workspace) -> None:
    crossed.run("dvc", "exp", "apply", "three")
    table = pd.read_parquet(crossed.root / "data/folds.parquet")
    assert not table.drop_duplicates(["replicate", "group", "fold"]).duplicated(["replicate", "group"]).any()
    tested = []
    for replicate in (1, 2, 3):
        of = table[table["replicate"] == replicate].set_index("site_id")["fold"]
        rows = pd.read_csv(crossed.root / f"results/cv/{replicate}/evaluate/observations.csv")
        judged = {obs_id.rpartition("_")[0]: fold for obs_id, fold in zip(rows["obs_id"], rows["fold"], strict=True)}
        assert judged == {site: fold for site, fold in of.items() if fold != "train"}
        tested += [site for site, fold in judged.items() if fold == "test"]
    assert sorted(tested) == sorted(set(table["site_id"]))
    assert not any("Ondara" in site for site in tested)


def test_the_ensemble_is_judged_on_the_holdout_river_alone_beside_its_members(crossed: Workspace) -> None:
    crossed.run("dvc", "exp", "apply", "three")
    folder = crossed.root / "results/cv_ensemble"
    parts = ["", "1", "2", "3"]
    assert {river for part in parts for river in pd.read_csv(folder / part / "observations.csv")["river"]} == {"Ondara"}
    together, *alone = (json.loads((folder / part / "metrics.json").read_text())["ap"] for part in parts)
    made = json.loads((crossed.root / "results/cv_ensemble.json").read_text())
    assert made["ensemble"]["ap"] == together
    assert made["alone"]["ap"]["max"] == max(alone)


def test_the_audit_follows_a_replicate_as_it_follows_the_model(crossed: Workspace) -> None:
    crossed.run("dvc", "exp", "apply", "three")
    table = pd.read_parquet(crossed.root / "data/folds.parquet")
    answer = json.loads(crossed.run("sandwatch", "audit", "models/cv/2/model.safetensors", "--json"))
    states = {link["name"]: link["state"] for link in answer["links"]}
    assert {states[name] for name in ("weights", "card", "lock", "pipeline", "code", "params", "chips", "labels")} == {
        "verified"
    }
    of = table[table["replicate"] == 2].set_index("site_id")["fold"]
    used = {row["obs_id"].rpartition("_")[0]: row["fold"] for row in answer["labels"] if row["fold"]}
    assert used
    assert used == {site: of[site] for site in used}
    assert {row["fold"] for row in answer["labels"] if row["use"] == "trained"} == {"train"}


def test_from_a_label_to_the_models_is_the_same_way_as_back(crossed: Workspace) -> None:
    crossed.run("dvc", "exp", "apply", "three")
    answers = [
        json.loads(crossed.run("sandwatch", "audit", f"models/cv/{replicate}", "--json")) for replicate in (1, 2, 3)
    ]
    uses = [{row["feature_id"]: row["use"].split("+") for row in answer["labels"]} for answer in answers]
    label = next(name for name in uses[0] if {"trained", "validated", "tested"} <= {u for of in uses for u in of[name]})
    states = ("trained", "validated", "tested")
    expected = {
        answer["model"]["weights_sha256"]: next((s for s in states if s in of[label]), "never saw")
        for answer, of in zip(answers, uses, strict=True)
    }
    touched = json.loads(crossed.run("sandwatch", "audit", "--label", label, "--json"))
    found = {model["weights_sha256"]: model["state"] for model in touched["models"]}
    assert {sha: state for sha, state in found.items() if sha in expected} == expected


@pytest.mark.parametrize("path", ["data/folds.parquet", "models/cv/2/model.json"])
def test_a_replicate_whose_folds_or_card_were_changed_is_found_out(
    crossed: Workspace, tmp_path: Path, path: str
) -> None:
    crossed.run("dvc", "exp", "apply", "three")
    copy = crossed.copy(tmp_path / "copy")
    copy.run("dvc", "exp", "remove", "-A")  # they hold it as it was, and the audit would find them
    file = copy.root / path
    if path.endswith(".json"):
        card = json.loads(file.read_text())
        file.unlink()
        file.write_text(json.dumps(card | {"replicate": 3}))
    else:
        table = pd.read_parquet(file)
        table.loc[(table["replicate"] == 2) & (table["fold"] == "train"), "fold"] = "val"
        file.unlink()
        table.to_parquet(file)
        copy.run("dvc", "commit", "-f", "folds@groups")
    copy.run("git", "commit", "-qam", "changed")
    answer = json.loads(copy.run("sandwatch", "audit", "models/cv/2/model.safetensors", "--json", fails=True))
    assert [link["name"] for link in answer["links"] if link["state"] == "broken"]
