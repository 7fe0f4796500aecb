"""What a model began with: the weights that its params pin, and where those are a model of ours, all its labels too."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console

from sandwatch import schemas
from sandwatch.audit import render
from sandwatch.audit.attest import attest
from sandwatch.audit.backward import Question, Touched, backward, through_starts
from sandwatch.audit.chain import model_of
from sandwatch.audit.croissant import Citation, publish
from sandwatch.audit.diff import diff
from sandwatch.audit.forward import _begun, audit
from sandwatch.audit.history import History
from sandwatch.audit.page import page
from sandwatch.audit.record import Audit, Link, Revision
from sandwatch.audit.release import Signer, check
from sandwatch.model.card import Card, Start
from tests.audit_history import Cache, Made
from tests.models import fields

SHA = "7" * 64
BASE, FIRST, LAST = "main~2", "main~1", "main"
"""The revisions of the fixture in_a_row: each model but the first began with the one before it."""


def card(start: Start | None) -> Card:
    made = {"inputs": {}, "code": {}, "params_sha256": SHA, "replicate": 0, "matched": ()}
    return Card(**fields(start=start) | made)


def began(start: Start | None, weights: Any) -> tuple[Link | None, Start | None]:
    params = {"model": {"kind": "smp", "weights": weights}}
    said, held = card(start), Revision(kind="commit", commit="1" * 40)
    return _begun(Audit(target="x", links=(), spec=said, card=said, revision=held, params=params))


PUBLISHED = Start(name="galileo/nano", sha256=SHA, licence="MIT", forbids="")
OURS = Start(name="before.safetensors", sha256=SHA, licence="that of the labels", forbids="", model=True)


@pytest.mark.parametrize("weights", [{"name": "galileo/nano", "sha256": SHA}, "galileo/nano"])
def test_published_weights_are_those_that_params_pin(weights: Any) -> None:
    link, start = began(PUBLISHED, weights)
    assert link is not None
    assert start is None
    assert (link.name, link.state) == ("start", "verified")
    assert all(said in link.detail for said in ("galileo/nano", "MIT", SHA))


def test_a_model_that_started_from_nothing_has_no_such_link() -> None:
    assert began(None, None) == (None, None)


@pytest.mark.parametrize(
    ("start", "weights"),
    [
        (PUBLISHED, None),
        (None, {"name": "galileo/nano", "sha256": SHA}),
        (None, {"name": "before.safetensors", "sha256": SHA}),
        (PUBLISHED, {"name": "galileo/nano", "sha256": "8" * 64}),
        (OURS, {"name": "before.safetensors", "sha256": "8" * 64}),
        (PUBLISHED, "galileo/tiny"),
        (PUBLISHED, 3),
    ],
)
def test_a_card_that_says_something_else_breaks_the_chain(start: Start | None, weights: Any) -> None:
    link, follow = began(start, weights)
    assert follow is None
    assert link is not None
    assert (link.name, link.state) == ("start", "broken")


# --- forward -----------------------------------------------------------------------------------------------------


def of_start(found: Audit) -> Link:
    (link,) = [link for link in found.links if link.name == "start"]
    return link


def test_all_that_a_model_began_with_is_followed(in_a_row: Made) -> None:
    found = audit(LAST, where=in_a_row.root, offline=True)
    assert found.state == "verified", found.verdict
    assert [start.target for start in found.starts] == ["before-1.safetensors", "before-0.safetensors"]
    assert [start.card.weights_sha256 for start in found.starts if start.card] == in_a_row.begun[1::-1]
    alone = {name: audit(at, where=in_a_row.root, offline=True) for name, at in
             (("own", LAST), ("start 1", FIRST), ("start 2", BASE))}  # fmt: skip
    assert not alone["start 2"].starts
    for name in ("labels", "windows", "chips", "observations", "quarantine", "imagery"):
        table = found.all_of(name)
        assert list(table["training"].unique()) == list(alone)
        for training, of in table.groupby("training"):
            expected = getattr(alone[str(training)], name)
            pd.testing.assert_frame_equal(
                pd.DataFrame(of.drop(columns="training")).reset_index(drop=True), pd.DataFrame(expected)
            )
    assert [len(start.labels) for start in (found, *found.starts) if start.labels is not None] == [50, 50, 150]
    link = of_start(found)
    assert link.state == "verified"
    assert "before-1.safetensors is the model of " in link.detail
    assert "made with 50 labels" in link.detail
    assert of_start(found.starts[0]).state == "verified"
    assert [link for link in found.starts[1].links if link.name == "start"] == []


def test_every_way_of_writing_it_says_which_training(in_a_row: Made, tmp_path: Path) -> None:
    found = audit(LAST, where=in_a_row.root, offline=True)
    counts = {"own": 50, "start 1": 50, "start 2": 150}
    said = json.loads(render.audit_json(found))
    assert pd.Series([row["training"] for row in said["labels"]]).value_counts().to_dict() == counts
    assert [start["training"] for start in said["starts"]] == ["start 1", "start 2"]
    assert all(start["state"] == "verified" and start["revision"]["commit"] for start in said["starts"])
    render.write_csv(render.labels_of(found), tmp_path / "labels.csv")
    assert pd.read_csv(tmp_path / "labels.csv")["training"].value_counts().to_dict() == counts
    render.write_geoparquet(found, tmp_path / "labels.parquet")
    assert gpd.read_parquet(tmp_path / "labels.parquet")["training"].value_counts().to_dict() == counts
    printed = io.StringIO()
    render.print_audit(found, Console(file=printed, width=240))
    for line in (
        "own, main: 50 labels in 1 observations",
        "start 2, before-0.safetensors: 150 labels in 3 observations",
        "labels of own (50)",
        "labels of start 1 (50)",
        "labels of start 2 (150)",
    ):
        assert line in printed.getvalue()
    shown = page(found)
    assert "Training start 2: before-0.safetensors" in shown
    assert shown.count('<td class="word">start 2</td>') == 150 + 1 + 1 + 4
    assert "is drawn once" in shown


def test_a_model_with_no_start_is_told_as_ever(in_a_row: Made) -> None:
    found = audit(BASE, where=in_a_row.root, offline=True)
    printed = io.StringIO()
    render.print_audit(found, Console(file=printed, width=240))
    for text in (page(found), printed.getvalue()):
        assert "raining own" not in text
        assert "of own" not in text
        assert "start 1" not in text
    assert set(found.all_of("labels")["training"]) == {"own"}


# --- faults ------------------------------------------------------------------------------------------------------


def forge(root: Path, revision: str, change: Callable[[dict[str, Any], Cache], None]) -> None:
    """Has a revision, and all after it, hold another dvc.lock, as whoever may write to git and the cache could."""
    from dvc.utils.serialize import dumps_yaml

    from sandwatch.audit.history import read_yaml

    def git(*arguments: str, given: str | None = None) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], input=given, check=True, capture_output=True, text=True
        ).stdout

    commits = git("rev-list", "--reverse", f"{revision}^..main").split()
    parent = git("rev-parse", f"{revision}^").strip()
    env = ["-c", "user.name=t", "-c", "user.email=t@e.org"]
    for number, commit in enumerate(commits):
        git("read-tree", commit)
        if number == 0:
            lock = json.loads(json.dumps(read_yaml(git("show", f"{commit}:dvc.lock"))))
            change(lock, Cache(root))
            blob = git("hash-object", "-w", "--stdin", given=dumps_yaml(lock)).strip()
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},dvc.lock")
        parent = git(*env, "commit-tree", git("write-tree").strip(), "-p", parent, "-m", f"forged {number}").strip()
    git("update-ref", "refs/heads/main", parent)
    git("reset", "-q", "--hard", "main")
    git("reflog", "expire", "--expire=now", "--all")


def entries(lock: dict[str, Any]) -> Any:
    for stage in lock["stages"].values():
        yield from (*stage.get("deps", ()), *stage.get("outs", ()))


def put(lock: dict[str, Any], path: str, oid: str) -> None:
    for entry in entries(lock):
        if entry["path"] == path:
            entry["md5"] = oid


def oid_of(lock: dict[str, Any], path: str) -> str:
    return next(str(entry["md5"]) for entry in entries(lock) if entry["path"] == path)


def drop_labels(lock: dict[str, Any], cache: Cache) -> None:
    oid = oid_of(lock, "data/annotations")
    listing = json.loads((cache.folder / oid[:2] / oid[2:]).read_bytes())
    files = {entry["relpath"]: entry["md5"] for entry in listing}
    labels = files["labels.parquet"]
    scratch = cache.folder / "scratch.parquet"
    rows = schemas.Labels.read(cache.folder / labels[:2] / labels[2:]).iloc[:-7]
    files["labels.parquet"], _ = cache.table(schemas.Labels, rows, scratch)
    put(lock, "data/annotations", cache.folder_of(files))


def alter_weights(lock: dict[str, Any], cache: Cache) -> None:
    oid = oid_of(lock, "models/model.safetensors")
    content = bytearray((cache.folder / oid[:2] / oid[2:]).read_bytes())
    content[-1] ^= 1
    put(lock, "models/model.safetensors", cache.put(bytes(content)))


def deny_start(lock: dict[str, Any], cache: Cache) -> None:
    oid = oid_of(lock, "models/model.json")
    said = json.loads((cache.folder / oid[:2] / oid[2:]).read_bytes())
    said["start"] = None
    put(lock, "models/model.json", cache.put(json.dumps(said).encode()))


def disown_start(lock: dict[str, Any], cache: Cache) -> None:
    oid = oid_of(lock, "models/model.json")
    said = json.loads((cache.folder / oid[:2] / oid[2:]).read_bytes())
    said["start"]["model"] = False
    put(lock, "models/model.json", cache.put(json.dumps(said).encode()))


@pytest.mark.parametrize(
    ("at", "change", "detail"),
    [
        (BASE, drop_labels, "BROKEN at fingerprint: "),
        (BASE, alter_weights, "BROKEN at weights: "),
        (FIRST, drop_labels, "BROKEN at fingerprint: "),
        (FIRST, alter_weights, "BROKEN at weights: "),
        (FIRST, deny_start, "BROKEN at card: "),
        (FIRST, disown_start, "BROKEN at card: "),
    ],
)
def test_a_fault_behind_any_start_breaks_the_chain(
    spoilt: Path, at: str, change: Callable[[dict[str, Any], Cache], None], detail: str
) -> None:
    forge(spoilt, at, change)
    found = audit(LAST, where=spoilt, offline=True)
    assert [link.name for link in found.broken] == ["start"], found.verdict
    assert found.verdict.startswith("BROKEN at start: before-1.safetensors is the model of ")
    assert detail in found.verdict


def test_a_start_that_is_disowned_is_found_among_our_models(spoilt: Path) -> None:
    forge(spoilt, LAST, disown_start)
    found = audit(LAST, where=spoilt, offline=True)
    link = of_start(found)
    assert link.state == "broken"
    assert "no model of ours; it is that of " in link.detail
    assert [len(start.labels) for start in found.starts if start.labels is not None] == [50, 150]


def lock_of(root: Path, revision: str) -> dict[str, str]:
    history = History(root)
    try:
        at = history.resolve(revision)
        assert at is not None
        model = model_of(history.lock(at))
        assert model is not None
        return dict(model.files)
    finally:
        history.git.close()


def test_a_revision_that_claims_the_start_with_another_model_breaks_nothing_that_holds(spoilt: Path) -> None:
    """A forger's commit, newer than the true one, whose card claims the hash: the true one is followed."""
    true = audit(FIRST, where=spoilt, offline=True)

    def claim(lock: dict[str, Any], cache: Cache) -> None:
        oid = oid_of(lock, "models/model.json")
        said = json.loads((cache.folder / oid[:2] / oid[2:]).read_bytes())
        assert true.card is not None
        said["weights_sha256"] = true.card.weights_sha256
        put(lock, "models/model.json", cache.put(json.dumps(said).encode()))

    last = audit(LAST, where=spoilt, offline=True)
    subprocess.run(["git", "-C", str(spoilt), "tag", "true", "main"], check=True)
    forge(spoilt, LAST, claim)
    found = audit("true", where=spoilt, offline=True)
    assert found.starts[0].revision is not None
    assert true.revision is not None
    assert found.starts[0].revision.commit == true.revision.commit
    assert found.state == last.state == "verified"


def test_a_start_that_no_revision_holds_is_not_to_be_seen(spoilt: Path) -> None:
    """As in a clone that has one branch alone."""
    whoever = ["-c", "user.name=t", "-c", "user.email=t@e.org"]
    for command in (["checkout", "-q", "--orphan", "alone"], ["commit", "-qm", "alone"], ["branch", "-qD", "main"]):
        subprocess.run(["git", "-C", str(spoilt), *whoever, *command], check=True)
    found = audit("alone", where=spoilt, offline=True)
    link = of_start(found)
    assert link.state == "unverified"
    assert "no revision in sight holds the model before-1.safetensors" in link.detail
    assert "git fetch --all" in link.remedy
    assert found.state == "unverified"
    assert found.starts == ()
    answer = backward(Question(label="f00000000000000000000149"), where=spoilt, offline=True)
    assert [model.state for model in answer.models] == ["unknown"]  # no table in sight names it, but one that isn't may
    assert "1 models that others began with are not in sight, and their labels may be what is asked" in answer.notes[-1]


def test_a_file_alone_and_a_card_out_of_reach_leave_the_start_unseen(spoilt: Path, tmp_path: Path) -> None:
    files = {name: spoilt / ".dvc/cache/files/md5" / oid[:2] / oid[2:] for name, oid in lock_of(spoilt, LAST).items()}
    alone = tmp_path / "alone" / "model.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(files["model.safetensors"].read_bytes())
    assert of_start(audit(str(alone), where=alone.parent)).state == "unverified"
    files["model.json"].unlink()
    link = of_start(audit(LAST, where=spoilt, offline=True))
    assert link.state == "unverified"
    assert "before-1.safetensors" in link.detail


def test_a_file_to_start_from_that_was_altered_where_it_lies_is_told(spoilt: Path) -> None:
    files = lock_of(spoilt, FIRST)
    content = spoilt / ".dvc/cache/files/md5" / files["model.safetensors"][:2] / files["model.safetensors"][2:]
    lying = spoilt / "data/weights/before-1.safetensors"
    lying.parent.mkdir(parents=True)
    lying.write_bytes(content.read_bytes())
    assert not audit(LAST, where=spoilt, offline=True).notes
    lying.write_bytes(content.read_bytes() + b" ")
    (note,) = audit(LAST, where=spoilt, offline=True).notes
    assert "data/weights/before-1.safetensors is no longer the file" in note


def test_models_that_began_with_each_other_are_followed_once(in_a_row: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hash can be made so; a card can say so."""
    real = Card.read.__func__  # type: ignore[attr-defined]

    def circular(cls: type[Card], path: Path) -> Card:
        read: Card = real(cls, path)
        if read.weights_sha256 == in_a_row.begun[0]:
            start = Start(name="before-1.safetensors", sha256=in_a_row.begun[1], licence="", forbids="", model=True)
            return read.model_copy(update={"start": start})
        return read

    monkeypatch.setattr(Card, "read", classmethod(circular))
    monkeypatch.setattr("sandwatch.audit.forward._begun", lambda audit: (None, audit.card and audit.card.start))
    found = audit(LAST, where=in_a_row.root, offline=True)
    assert len(found.starts) == 2
    assert of_start(found.starts[-1]).detail.startswith("before-1.safetensors is said to have begun with what began")
    assert found.state == "broken"


# --- backward ----------------------------------------------------------------------------------------------------


def test_a_label_that_was_taken_out_is_found_through_the_start(in_a_row: Made) -> None:
    """The last label is among those of the first model alone; the others began with it."""
    label = in_a_row.labels["feature_id"].iloc[-1]
    found = backward(Question(label=label), where=in_a_row.root, offline=True)
    of = {model.weights_sha256: model for model in found.models}
    base, first, last = (of[sha] for sha in in_a_row.begun)
    assert (base.state, base.own, base.starts, base.through) == ("trained", "trained", (), ())
    assert (first.state, first.own, first.labels) == ("trained", "never saw", 0)
    assert (last.state, last.own) == ("trained", "never saw")
    assert last.starts == (in_a_row.begun[1], in_a_row.begun[0])
    assert first.through == last.through == (in_a_row.begun[0],)
    others = [model.state for sha, model in of.items() if sha not in in_a_row.begun]
    assert others == ["never saw"] * 2
    printed = io.StringIO()
    render.print_backward(found, Console(file=printed, width=240))
    assert "trained: 3; never saw: 2" in printed.getvalue()
    assert "through" in printed.getvalue()
    said = json.loads(render.backward_json(found))["models"]
    assert {model["own"] for model in said if model["state"] == "trained"} == {"trained", "never saw"}
    assert set(render.backward_table(found)["through"]) == {"", in_a_row.begun[0]}


def model(name: str, own: str, *starts: str) -> Touched:
    return Touched(weights_md5=name, revisions=(), weights_sha256=name, state=own, own=own, starts=starts)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("never saw", "trained"), "trained"),
        (("trained", "unknown"), "trained"),
        (("validated", "unknown"), "unknown"),
        (("never saw", "tested"), "tested"),
        (("never saw", "never saw"), "never saw"),
    ],
)
def test_the_state_is_the_strongest_of_all_trainings(states: tuple[str, str], expected: str) -> None:
    own, start = states
    found = through_starts([model("a", own, "b"), model("b", start)], ["b"])
    assert (found[0].state, found[0].own, found[1].state) == (expected, own, start)
    assert found[0].through == (() if expected == own else ("b",))


def test_starts_that_are_not_in_sight_or_in_a_circle() -> None:
    gone, published, circle, back = through_starts(
        [model("a", "never saw", "x"), model("b", "tested", "y"), model("c", "never saw", "d"),
         model("d", "trained", "c")], ["x"],
    )  # fmt: skip
    assert (gone.state, gone.detail) == (
        "unknown",
        "it began with x, of which too little is known: no revision holds it",
    )
    assert (published.state, published.starts) == ("tested", ())
    assert (circle.state, circle.starts) == ("trained", ("d",))
    assert (back.state, back.starts) == ("trained", ("c",))


def test_a_disowned_start_is_found_backwards_too(spoilt: Path, in_a_row: Made) -> None:
    forge(spoilt, FIRST, disown_start)
    label = in_a_row.labels["feature_id"].iloc[-1]
    found = backward(Question(label=label), where=spoilt, offline=True)
    assert sum(model.state == "trained" for model in found.models) == 3


# --- what else speaks of labels -----------------------------------------------------------------------------------


def test_a_difference_names_what_is_left_through_the_start(in_a_row: Made) -> None:
    found = diff(BASE, FIRST, where=in_a_row.root, offline=True)
    assert (found.labels["change"] == "removed").sum() == 100
    said = [note for note in found.notes if "began with" in note or "taught" in note]
    assert said[0].startswith("main~1 began with start 1, before-0.safetensors of ")
    assert said[0].endswith("what is compared is its own training alone")
    assert said[1].startswith("75 labels that main~2 has and main~1 has not taught start 1 of main~1")
    told = diff(BASE, f"{BASE}^", where=in_a_row.root, offline=True).notes
    assert not any("began with" in note or "taught" in note for note in told)


def test_what_is_given_away_says_that_the_starts_labels_are_apart(in_a_row: Made, tmp_path: Path) -> None:
    done = attest(LAST, tmp_path / "release", where=in_a_row.root, offline=True)
    said = done.statement["predicate"]["buildDefinition"]["internalParameters"]
    assert [start["weights_sha256"] for start in said["starts"]] == in_a_row.begun[1::-1]
    assert said["starts"][1]["label_fingerprint"] == in_a_row.fingerprints[-1] != said["label_fingerprint"]
    assert said["starts"][1]["links"]["labels"] == "verified"
    assert said["start"]["sha256"] == in_a_row.begun[1]
    public = tmp_path / "key.pub"
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (note,) = check(tmp_path / "release", Signer(public_key=public), where=in_a_row.root).notes
    assert note.startswith("it began with before-1.safetensors of commit ")
    assert "before-0.safetensors of commit" in note
    alone = attest(BASE, tmp_path / "base", where=in_a_row.root, offline=True).folder
    assert check(alone, Signer(public_key=public), where=in_a_row.root).notes == ()
    citation = Citation(license="CC-BY-4.0", creators=("Asha Rao",), url="https://example.org")
    told = publish(LAST, tmp_path / "labels", citation, where=in_a_row.root, offline=True).metadata["description"]
    assert "began with other models, whose labels are sets of their own: " in told
    assert in_a_row.fingerprints[-1] in told
    told = publish(BASE, tmp_path / "alone", citation, where=in_a_row.root, offline=True).metadata["description"]
    assert "began with" not in told


def test_pseudonyms_reach_the_labels_of_starts(in_a_row: Made) -> None:
    from sandwatch.audit.pseudonyms import Pseudonyms

    found = audit(LAST, where=in_a_row.root, offline=True)
    veiled = Pseudonyms(hashlib.sha256(b"key").digest()).applied(replace(found, notes=("own",)), "own")
    text = render.audit_json(veiled)
    assert "@example.org" not in text
    assert '"training":"own"' in text
