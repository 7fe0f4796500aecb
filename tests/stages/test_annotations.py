"""The stage as DVC runs it: a script, paths on its command line, params through DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
from shapely.geometry import box

from sandwatch.annotations import label_fingerprint
from sandwatch.schemas import Aoi, CanonicalLabels, CanonicalObservations, Ignored, Labels, Observations, Scenes
from tests.unit.annotation_rows import (
    CRS,
    GOOD,
    HEIGHT,
    KNOWN,
    LEFT,
    TOP,
    WIDTH,
    drawn,
    lines,
    manifest,
    polygon,
    simple,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A DVC repository without the data, and what the stage depends on."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")
    site = {
        "site_id": KNOWN[0][:-11],
        "river": "Test",
        "district": "Test",
        "role": "label",
        "longitude": 87.0,
        "latitude": 19.9,
        "months": "2023-01-01",
        "utm_crs": CRS,
        "left_m": LEFT,
        "top_m": TOP,
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "area_km2": 2.4,
        "group": 0,
        "fold": "train",
    }
    Aoi.write(
        gpd.GeoDataFrame([site], geometry=[box(87, 19.9, 87.01, 19.91)], crs="EPSG:4326"), tmp_path / "aoi.parquet"
    )
    Scenes.write(manifest(), tmp_path / "scenes.parquet")
    (tmp_path / "rivers.geojson").write_text("{}")
    (tmp_path / "inputs").mkdir()
    return tmp_path


def set_source(workspace: Path, source: str) -> None:
    params = workspace / "params.yaml"
    head, tail = params.read_text().split("\nannotations:\n")
    params.write_text(f"{head}\nannotations:\n{tail.replace('source: synthetic', f'source: {source}', 1)}")


def run(workspace: Path) -> subprocess.CompletedProcess[str]:
    options = {
        "aoi": "aoi.parquet",
        "rivers": "rivers.geojson",
        "manifest": "scenes.parquet",
        "inputs": "inputs",
        "annotations": "data/annotations",
        "canonical": "data/canonical",
        "metrics": "results/annotations/metrics.json",
    }
    command = [sys.executable, str(ROOT / "stages" / "annotations.py")]
    for name, value in options.items():
        command += [f"--{name}", value]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def test_the_stage_writes_tables_and_metrics(workspace: Path) -> None:
    set_source(workspace, "labelbox_export")
    (workspace / "inputs" / "export.ndjson").write_bytes(b"".join(lines(GOOD, simple(KNOWN[1]), b"nonsense\n")))
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    folder = workspace / "data" / "annotations"
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.ndjson",
        "ignored.parquet",
        "labels.parquet",
        "observations.parquet",
        "quarantine.parquet",
    ]
    metrics = json.loads((workspace / "results" / "annotations" / "metrics.json").read_text())
    observations = Observations.read(folder / "observations.parquet")
    assert metrics["label_fingerprint"] == label_fingerprint(Labels.read(folder / "labels.parquet"), observations)
    assert set(observations["snapshot"]) == {"sample-1"}
    assert (metrics["labels"], metrics["negatives"], metrics["quarantine_malformed_row"]) == (1, 1, 1)
    assert "snapshot sample-1 from labelbox_export" in done.stdout
    assert metrics["label_fingerprint"] in done.stdout
    canonical = workspace / "data" / "canonical"
    assert json.loads((canonical / "fingerprint.json").read_text())["label_fingerprint"] == metrics["label_fingerprint"]
    assert CanonicalLabels.read(canonical / "labels.parquet")["feature_id"].tolist() == ["good"]
    assert len(CanonicalObservations.read(canonical / "observations.parquet")) == len(observations)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_fingerprint_gives_the_same_bytes_downstream(workspace: Path) -> None:
    """Who drew what when, rejected rows, the ring's first vertex and a billionth of a degree are no labels."""
    set_source(workspace, "labelbox_export")
    ring = [[x, y] for x, y in polygon(60, 50, 12, 8)["coordinates"][0]]
    turned = [*ring[2:-1], *ring[:3]]
    turned = [[x + 1e-9, y - 1e-9] for x, y in turned]
    first = simple(KNOWN[0], drawn("x", {"type": "Polygon", "coordinates": [ring]}), drawn("y", polygon(20, 20, 9, 9)))
    second = simple(
        KNOWN[0], drawn("y", polygon(20, 20, 9, 9)), drawn("x", {"type": "Polygon", "coordinates": [turned]})
    )
    given = workspace / "inputs" / "export.ndjson"
    given.write_bytes(b"".join(lines(first, simple(KNOWN[1]))))
    assert run(workspace).returncode == 0
    before, tables = (contents(workspace / "data" / name) for name in ("canonical", "annotations"))
    given.write_bytes(b"".join(lines(b"nonsense\n", second, simple(KNOWN[1]))))
    assert run(workspace).returncode == 0
    assert contents(workspace / "data" / "canonical") == before
    assert contents(workspace / "data" / "annotations") != tables
    given.write_bytes(b"".join(lines(first)))  # one negative less
    assert run(workspace).returncode == 0
    after = contents(workspace / "data" / "canonical")
    assert {name for name in before if before[name] != after[name]} == {"fingerprint.json", "observations.parquet"}


def test_the_stage_honours_what_was_excluded_and_tells_what_it_did_not_find(workspace: Path) -> None:
    set_source(workspace, "labelbox_export")
    other = drawn("other", polygon(90, 20, 9, 30))
    (workspace / "inputs" / "export.ndjson").write_bytes(b"".join(lines(simple(KNOWN[0], drawn("x"), other))))
    record = workspace / "inputs" / "exclusions.csv"
    record.write_text("id,pixels,reason\nx,ignore,withdrawn\ngone,other,wrong\n")
    done = run(workspace)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exclusions.csv: 1 of 2 ids match nothing in this snapshot: gone\n" in done.stdout
    folder = workspace / "data" / "annotations"
    assert list(Labels.read(folder / "labels.parquet")["feature_id"]) == ["other"]
    assert list(Ignored.read(folder / "ignored.parquet")["feature_id"]) == ["x"]
    record.write_text("id,pixels,reason\nx,perhaps,withdrawn\n")
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: inputs/exclusions.csv, line 2")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("source", ["labelbox_export", "geojson"])
def test_a_missing_input_is_one_line(workspace: Path, source: str) -> None:
    set_source(workspace, source)
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: inputs/")
    assert done.stderr.count("\n") == 1
