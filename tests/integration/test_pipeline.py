"""The whole pipeline as a user drives it: `dvc repro`, `dvc exp run`, `dvc plots diff`, `dvc push`."""

import csv
import io
import json
import shutil
from pathlib import Path

import yaml

from .conftest import ROOT, Workspace

STAGES = ["check", "aoi", "export", "annotations", "chips", "train", "evaluate", "infer"]


def test_seven_stages_run_and_a_second_repro_does_nothing(workspace: Workspace) -> None:
    assert list(workspace.lock()) == STAGES
    for path in ("models/model.safetensors", "models/model.json", "results/evaluate/metrics.json"):
        assert (workspace.root / path).is_file()
    assert "Data and pipelines are up to date." in workspace.run("dvc", "repro")
    assert workspace.run("git", "status", "--porcelain") == ""


def test_running_again_gives_the_same_hashes(workspace: Workspace) -> None:
    before = workspace.lock()
    shutil.rmtree(workspace.root / ".cache", ignore_errors=True)  # what was done is done again
    workspace.run("dvc", "repro", "--force")
    assert workspace.lock() == before


def test_metrics_name_the_labels(workspace: Workspace) -> None:
    metrics = json.loads((workspace.root / "results/annotations/metrics.json").read_text())
    card = json.loads((workspace.root / "models/model.json").read_text())
    assert metrics["label_fingerprint"] == card["label_fingerprint"]


def test_experiments_are_compared_with_the_fingerprint_among_the_columns(workspace: Workspace) -> None:
    for name, rate in (("slow", "0.0005"), ("fast", "0.004")):
        workspace.run("dvc", "exp", "run", "-q", "-n", name, "-S", f"train.learning_rate={rate}", "evaluate")
    shown = list(csv.DictReader(io.StringIO(workspace.run("dvc", "exp", "show", "--csv"))))
    rows = {row["Experiment"]: row for row in shown}
    assert {"slow", "fast"} <= rows.keys()
    assert float(rows["slow"]["train.learning_rate"]) == 0.0005
    fingerprint = json.loads((workspace.root / "results/annotations/metrics.json").read_text())["label_fingerprint"]
    assert rows["fast"]["label_fingerprint"] == rows["slow"]["label_fingerprint"] == fingerprint
    assert 0 <= float(rows["fast"]["ap"]) <= 1
    workspace.run("dvc", "plots", "diff", "slow", "fast", "-o", "plots")
    page = (workspace.root / "plots" / "index.html").read_text()
    assert "precision" in page
    assert "slow" in page
    assert "fast" in page
    shutil.rmtree(workspace.root / "plots")
    workspace.run("git", "checkout", "-q", ".")
    workspace.run("dvc", "checkout", "-q")


def files_of(remote: Path) -> dict[str, int]:
    """Object (hash) -> bytes in a local DVC remote."""
    return {path.parent.name + path.name: path.stat().st_size for path in remote.rglob("*") if path.is_file()}


def test_one_polygon_changed_uploads_no_imagery(workspace: Workspace, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    workspace.run("dvc", "remote", "add", "--local", "-f", "here", str(remote))
    inputs = workspace.root / "data/regions/sample/annotations/export.ndjson"
    shutil.copyfile(workspace.root / "data/annotations/export.ndjson", inputs)
    workspace.set_params({"annotations": {"source": "labelbox_export"}})
    workspace.run("dvc", "repro")
    workspace.commit("labels from a file")
    before = workspace.lock()
    workspace.run("dvc", "push", "-r", "here")
    pushed = files_of(remote)

    rows = [json.loads(line) for line in inputs.read_text().splitlines()]
    polygon = next(
        thing["geojson"]["coordinates"][0]
        for row in rows
        for project in row["projects"].values()
        for label in project["labels"]
        for thing in label["annotations"]["objects"]
        if project["project_details"]["workflow_status"] == "DONE"
    )
    polygon[1][0] += 1e-4
    inputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = workspace.run("dvc", "repro")
    after = workspace.lock()
    assert "Stage 'export' didn't change, skipping" in printed
    assert after["export"] == before["export"]
    assert after["annotations"] != before["annotations"]
    workspace.run("dvc", "push", "-r", "here")

    new = {name: size for name, size in files_of(remote).items() if name not in pushed}
    imagery = {
        yaml_entry["md5"]
        for out in ("data/scenes", "data/chips")
        for yaml_entry in json.loads((cached(workspace, after, out)).read_text())
        if out == "data/scenes" or yaml_entry["relpath"].startswith("pixels/")
    }
    assert new
    assert not imagery & new.keys()
    scenes = sum(path.stat().st_size for path in (workspace.root / "data/scenes").rglob("*.tif"))
    masks = sum(path.stat().st_size for path in (workspace.root / "data/chips/masks").iterdir())
    assert scenes > 0
    assert sum(new.values()) < masks + scenes


def cached(workspace: Workspace, lock: dict[str, dict[str, str]], out: str) -> Path:
    """The cache's listing of a folder that is an output."""
    digest = next(outs[out] for outs in lock.values() if out in outs)
    return workspace.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def test_an_unknown_key_is_one_line(workspace: Workspace) -> None:
    params = (workspace.root / "params.yaml").read_text()
    workspace.set_params({"aoi": {"bufer_m": 3}})
    printed = workspace.run("dvc", "repro", fails=True)
    (workspace.root / "params.yaml").write_text(params)
    assert "error: params.yaml: aoi.bufer_m: got a key that does not exist; expected one of" in printed
    assert "Traceback" not in printed


def test_params_of_the_workspace_are_those_of_the_repository() -> None:
    """The small workspace differs from the default only in size: no section was renamed behind its back."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    from .conftest import SMALL

    assert all(set(keys) <= set(values[section]) for section, keys in SMALL.items())
