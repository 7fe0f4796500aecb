"""What runs again after which edit, with the real `dvc`: no more than what the edit can change, and no less."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Workspace

pytestmark = pytest.mark.slow  # CI runs them
TRAINED = ["train", "evaluate", "infer"]


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    """Replaces a text that must be there."""

    def apply(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text, f"{path} holds no {old!r}"
        (root / path).write_text(text.replace(old, new, 1))

    return apply


def param(section: str, key: str, value: Any) -> Callable[[Path], None]:
    return lambda root: Workspace(root=root).set_params({section: {key: value}})


def rows(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Path], None]:
    """Changes rows of the labels that lie in the region's folder."""

    def apply(root: Path) -> None:
        path = root / "data/regions/sample/annotations/export.ndjson"
        found = [json.loads(line) for line in path.read_text().splitlines()]
        change(found)
        path.write_text("".join(json.dumps(row) + "\n" for row in found))

    return apply


def label_of(row: dict[str, Any]) -> dict[str, Any]:
    label: dict[str, Any] = next(iter(row["projects"].values()))["labels"][0]
    return label


def done(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with polygons that count."""
    return [
        row
        for row in found
        for project in row["projects"].values()
        if project["project_details"]["workflow_status"] == "DONE" and project["labels"][0]["annotations"]["objects"]
    ]


def one_more_quarantined(found: list[dict[str, Any]]) -> None:
    found.append(json.loads(json.dumps(found[0])))
    found[-1]["data_row"] |= {
        "id": "cl0strange",
        "global_key": "nowhere_2020-01-01",
        "external_id": "nowhere_2020-01-01",
    }


def touched_by_a_reviewer(found: list[dict[str, Any]]) -> None:
    label_of(done(found)[0])["label_details"]["updated_at"] = "2031-01-01T00:00:00.000+00:00"


def a_vertex_moved(found: list[dict[str, Any]]) -> None:
    """Of one polygon of each row, since some are in quarantine."""
    for row in done(found):
        label_of(row)["annotations"]["objects"][0]["geojson"]["coordinates"][0][1][0] += 1e-4


TABLE: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a comment in the training": (
        edit("src/sandwatch/train/loop.py", "import logging", "import logging  # why"),
        ["check"],
    ),
    "a docstring of what every stage imports": (
        edit("src/sandwatch/files.py", '"""Writing', '"""Again: writing'),
        ["check"],
    ),
    "formatting": (edit("src/sandwatch/stack.py", "NODATA = -32768", "NODATA = (\n    -32768\n)"), ["check"]),
    "a comment in params.yaml": (edit("params.yaml", "region: sample", "region: sample  # invented"), ["check"]),
    "a description in dvc.yaml": (edit("dvc.yaml", "desc: Labelled windows", "desc: Windows with labels"), []),
    "code of the audit": (edit("src/sandwatch/audit/hashes.py", "import json", "import json\nimport os"), ["check"]),
    "code of the report": (
        edit("src/sandwatch/report.py", "from pathlib", "import os\nfrom pathlib"),
        ["check", "evaluate"],
    ),
    "code of the training that changes no weight": (
        edit("src/sandwatch/train/loop.py", "import logging", "import os\nimport logging"),
        ["check", "train"],
    ),
    "the smallest detection": (param("infer", "min_object_m2", 2000.0), ["check", "infer"]),
    "a key of the evaluation": (param("evaluate", "match_iou", 0.2), ["check", "evaluate"]),
    "a training that would have waited longer": (param("train", "patience", 7), ["check", "train"]),
    "the learning rate": (param("train", "learning_rate", 0.001), ["check", *TRAINED]),
    "the overlap of windows": (param("scoring", "overlap_px", 32), ["check", *TRAINED]),
    "one more quarantined row": (rows(one_more_quarantined), ["annotations"]),
    "a label looked at again": (rows(touched_by_a_reviewer), ["annotations"]),
    "a vertex": (rows(a_vertex_moved), ["annotations", "chips", *TRAINED]),
    "the painter's annotators, who are not asked": (
        param("synthetic", "annotator_error_m", 9.0),
        ["check", "annotations"],
    ),
}


@pytest.fixture(scope="module")
def from_file(workspace: Workspace) -> Workspace:
    """A built repository whose labels are a file of the region, committed."""
    target = workspace.root / "data/regions/sample/annotations/export.ndjson"
    shutil.copyfile(workspace.root / "data/annotations/export.ndjson", target)
    workspace.set_params({"annotations": {"source": "labelbox_export"}})
    workspace.run("dvc", "repro")
    workspace.commit("labels from a file")
    return workspace


@pytest.mark.parametrize("what", TABLE)
def test_exactly_these_stages_run(from_file: Workspace, what: str) -> None:
    apply, expected = TABLE[what]
    apply(from_file.root)
    try:
        printed = from_file.run("dvc", "repro")
        assert re.findall(r"Running stage '(\w+)'", printed) == expected
    finally:
        from_file.run("git", "checkout", "-q", ".")
        from_file.run("dvc", "checkout", "-q")


def test_what_changes_no_weight_changes_no_hash_of_the_model(from_file: Workspace) -> None:
    before = from_file.lock()["train"]
    edit("src/sandwatch/train/loop.py", "import logging", "import os\nimport logging")(from_file.root)
    try:
        from_file.run("dvc", "repro", "train")
        after = from_file.lock()["train"]
        changed = {path for path in before if before[path] != after[path]}
        assert changed == {"models/model.json"}  # the card names the code that ran
    finally:
        from_file.run("git", "checkout", "-q", ".")
        from_file.run("dvc", "checkout", "-q")
