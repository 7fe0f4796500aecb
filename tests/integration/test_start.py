"""A model that began with another: first cross-validated, then trained on with a training-only site, less a label."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from sandwatch.audit.backward import Question, backward
from sandwatch.audit.chain import Trained, model_of
from sandwatch.audit.diff import diff
from sandwatch.audit.forward import audit
from sandwatch.audit.history import History
from sandwatch.audit.record import Audit
from sandwatch.files import sha256

from .conftest import Workspace
from .test_audit import first_broken, forge, prove

pytestmark = pytest.mark.slow  # trains four models

REPLICATE, MIXED = "cv_train@2", "Mirembo_LongBar"
"""What trained the first model, and the site that is there for training only in the second training."""
FILE = "data/weights/replicate.safetensors"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What was made.

    Attributes:
        workspace: whose main holds the second model; the experiment three holds the first.
        first: the first, as the lock of the experiment has it.
        label: that taught the first and was excluded before the second.
    """

    workspace: Workspace
    first: Trained
    label: str

    def copied(self, root: Path) -> Workspace:
        return self.workspace.copy(root)


def held(workspace: Workspace, name: str, stage: str) -> Trained:
    history = History(workspace.root)
    try:
        revision = history.resolve(name)
        assert revision is not None
        found = model_of(history.lock(revision), stage)
        assert found is not None
        return found
    finally:
        history.git.close()


def kept(workspace: Workspace, oid: str) -> Path:
    return workspace.root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]


@pytest.fixture(scope="module")
def begun(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    workspace = built.copy(tmp_path_factory.mktemp("begun") / "clone")
    workspace.run("sandwatch", "cv", "--folds", "3", "--name", "three")
    first = held(workspace, "three", REPLICATE)
    # Nobody keeps the file in git, and whoever clones the repository has it from DVC alone.
    (workspace.root / ".git/info/exclude").write_text(f"/{FILE}\n")
    shutil.copyfile(kept(workspace, dict(first.files)["model.safetensors"]), workspace.root / FILE)
    labels = of_first(workspace, first).labels
    assert labels is not None
    label = str(labels.sort_values("positives_drawn")["feature_id"].iloc[-1])
    pinned = {"name": Path(FILE).name, "sha256": sha256(workspace.root / FILE)}
    workspace.set_params({"model": {"weights": pinned}})
    sites = workspace.root / "data/regions/sample/sites.csv"
    with sites.open() as file:
        rows = list(csv.DictReader(file))
    assert MIXED in {row["site_id"] for row in rows}
    with sites.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"role": "train"} if row["site_id"] == MIXED else row for row in rows)
    said = workspace.run("sandwatch", "audit", "exclude", "--label", label, "--reason", "withdrawn")
    assert "note: params.yaml, model.weights: training begins with replicate.safetensors" in said
    workspace.run("dvc", "repro", "-q", "train")
    workspace.commit("begun")
    return Begun(workspace=workspace, first=first, label=label)


def of_first(workspace: Workspace, first: Trained) -> Audit:
    """The audit of the first model by itself: of the file, wherever it lies."""
    path = workspace.root / "first.safetensors"
    shutil.copyfile(kept(workspace, dict(first.files)["model.safetensors"]), path)
    found = audit(str(path), where=workspace.root)
    path.unlink()
    return found


def test_every_label_of_both_trainings_is_named(begun: Begun) -> None:
    workspace = begun.workspace
    found, alone = audit("main", where=workspace.root), of_first(workspace, begun.first)
    assert found.state == "verified", found.verdict
    (start,) = found.starts
    assert start.stage == REPLICATE
    assert start.revision is not None
    assert [name.name for name in start.revision.names] == ["three"]
    for name in ("labels", "windows", "chips", "observations", "quarantine", "imagery"):
        pd.testing.assert_frame_equal(getattr(start, name), getattr(alone, name))
    rows = found.all_of("labels").set_index(["training", "feature_id"])
    assert rows.loc[("start 1", begun.label), "use"] == "trained"
    assert ("own", begun.label) not in rows.index
    assert {label for training, label in rows.index if training == "start 1"} - {begun.label} == {
        label for training, label in rows.index if training == "own"
    }
    of_site = rows[rows["obs_id"].str.startswith(MIXED)]
    assert set(of_site.loc["own", "fold"]) == {"train"}
    assert "trained" in set(of_site.loc["own", "use"])
    printed = json.loads(workspace.run("sandwatch", "audit", "main", "--json"))
    assert pd.Series([row["training"] for row in printed["labels"]]).value_counts().to_dict() == (
        rows.groupby("training").size().to_dict()
    )
    assert begun.label in {row["feature_id"] for row in printed["quarantine"] if row["training"] == "own"}
    (said,) = printed["starts"]
    assert (said["training"], said["state"], said["stage"]) == ("start 1", "verified", REPLICATE)


def test_a_label_that_was_excluded_is_found_through_the_start(begun: Begun) -> None:
    found = backward(Question(label=begun.label), where=begun.workspace.root)
    first = sha256(begun.workspace.root / FILE)
    (second,) = [model for model in found.models if model.starts]
    assert (second.state, second.own, second.through) == ("trained", "never saw", (first,))
    (held_first,) = [model for model in found.models if model.weights_sha256 == first]
    assert (held_first.state, held_first.own) == ("trained", "trained")
    notes = diff("main~1", "main", where=begun.workspace.root).notes
    assert any("began with start 1, replicate.safetensors" in note for note in notes)
    assert any(begun.label in note for note in notes)


def test_the_training_is_proven_with_what_it_started_from(begun: Begun, tmp_path: Path) -> None:
    """The file isn't in git: where it lies, or out of DVC's cache, it is brought to where the training runs again."""
    copy = begun.copied(tmp_path / "copy")
    (copy.root / FILE).unlink()
    found = prove(copy, "main", retrain=True)
    links = {link.name: link for link in found.links}
    assert links["rebuild train"].state == "verified", links["rebuild train"].detail
    assert found.state == "verified", found.verdict
    assert any("replicate.safetensors of" in note and "not derived again" in note for note in found.notes)


def corrupt(name: str) -> Callable[[Workspace, Begun], None]:
    """Another file under the name that DVC has for one of the first model's."""

    def change(copy: Workspace, begun: Begun) -> None:
        path = kept(copy, dict(begun.first.files)[name])
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content + b" ")

    return change


def forget(copy: Workspace, begun: Begun) -> None:
    copy.run("dvc", "exp", "remove", "-A")


def claim_another(copy: Workspace, begun: Begun) -> None:
    """The second model's card says that it began with the split's model, of another revision."""
    path = copy.root / "models/model.json"
    card = json.loads(path.read_text())
    path.unlink()
    main = kept(copy, dict(held(copy, "main~1", "train").files)["model.safetensors"])
    path.write_text(json.dumps(card | {"start": card["start"] | {"sha256": sha256(main)}}))
    forge(copy, "models/model.json")


@pytest.mark.parametrize(
    ("change", "link", "detail"),
    [
        (corrupt("model.safetensors"), "start", "BROKEN at weights"),
        (corrupt("exposures.parquet"), "start", "BROKEN at chips"),
        (claim_another, "card", "start"),
    ],
)
def test_faults_behind_the_start_are_found(
    begun: Begun, tmp_path: Path, change: Callable[[Workspace, Begun], None], link: str, detail: str
) -> None:
    copy = begun.copied(tmp_path / "copy")
    change(copy, begun)
    broken = first_broken(audit("main", where=copy.root))
    assert broken.name == link
    assert detail in broken.detail


def test_a_start_that_nobody_fetched_is_not_to_be_seen(begun: Begun, tmp_path: Path) -> None:
    copy = begun.copied(tmp_path / "copy")
    forget(copy, begun)
    found = audit("main", where=copy.root)
    assert found.verdict.startswith("CAN'T BE SEEN FROM HERE: start")
    (second,) = [m for m in backward(Question(label=begun.label), where=copy.root).models if m.starts]
    assert (second.state, second.own) == ("unknown", "never saw")
