"""Each verdict has its own word, its remedy and its exit status; what nobody looked at counts as nothing."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandwatch.audit.cli import app
from sandwatch.audit.forward import audit
from sandwatch.audit.history import History
from sandwatch.audit.record import LINKS, STATUS, WORDS, Link, in_order, remedy, state, verdict
from sandwatch.audit.verify import verify
from sandwatch.errors import InputError
from tests.audit_history import Made

OK = Link(name="card", state="verified", detail="fine")
LEFT = Link(name="rebuild train", state="skipped", detail="--retrain runs it again")
DARK = Link(name="labels", state="unverified", detail="nobody has them")
NEW = Link(name="revision", state="uncommitted", detail="only the working tree holds it")
BAD = Link(name="lock", state="broken", detail="edited")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout[:-1]


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Path:
    """The history with a cache of links, which a test may change."""
    root = tmp_path / "clone"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    return root


@pytest.fixture
def fresh(made: Made, tmp_path: Path) -> Path:
    """What `git clone` gives: no cache, nothing pulled."""
    root = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", str(made.root), str(root)], check=True)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    return root


def restore(clone: Path) -> None:
    """Puts the files of the working tree's model where they belong."""
    from sandwatch.audit.history import Lock

    train = Lock((clone / "dvc.lock").read_text()).stage("train")
    assert train is not None
    cache = clone / ".dvc/cache/files/md5"
    (clone / "models").mkdir()
    for path, oid in train.outs.items():
        if path.startswith("models/"):
            shutil.copyfile(cache / oid[:2] / oid[2:], clone / path)


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "found", "line"),
    [
        ((OK,), "verified", "VERIFIED: 1 link verified"),
        ((OK, LEFT), "verified", "VERIFIED: 1 link verified; not looked at: rebuild train"),
        ((OK, DARK, LEFT), "unverified",
         "CAN'T BE SEEN FROM HERE: labels; 1 link verified; not looked at: rebuild train"),
        ((OK, DARK, NEW), "uncommitted",
         "NOT COMMITTED YET: only the working tree holds it; 1 link verified; can't be seen from here: labels"),
        ((OK, DARK, NEW, BAD), "broken", "BROKEN at lock: edited"),
    ],
)  # fmt: skip
def test_what_a_chain_comes_to(links: tuple[Link, ...], found: str, line: str) -> None:
    assert state(links) == found
    assert verdict(links) == line
    assert ("\n" in remedy(links)) is False
    assert bool(remedy(links)) == (found != "verified"), "each has its remedy"
    assert len({STATUS[one] for one in ("verified", "broken", "unverified", "uncommitted")}) == 4


def test_a_link_of_several_parts_is_as_good_as_the_worst() -> None:
    half = Link(name="card", state="unverified", detail="its weights are not here", remedy="go and get them")
    assert verdict((OK, half)) == "CAN'T BE SEEN FROM HERE: card; 0 links verified"
    assert remedy((OK, half)) == "go and get them"
    assert list(WORDS) == ["verified", "skipped", "unverified", "uncommitted", "broken"]


def test_links_are_in_order_whatever_the_stages_are_called() -> None:
    other = Link(name="rebuild code", state="verified", detail="")
    assert [link.name for link in in_order([other, LEFT, DARK, BAD, OK])] == [
        "card", "lock", "labels", "rebuild code", "rebuild train",
    ]  # fmt: skip
    assert len(set(LINKS)) == len(LINKS)


# --- not committed yet --------------------------------------------------------------------------------------------


def test_what_only_the_working_tree_holds_is_not_broken(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `dvc repro` on a machine with other bits: all of it agrees, and nobody committed it."""
    refs = git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    text = git(clone, "show", f"{refs[0]}:dvc.lock") + "\n"
    for ref in refs:
        git(clone, "update-ref", "-d", ref)
    (clone / "dvc.lock").write_text(text)
    restore(clone)
    monkeypatch.chdir(clone)
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 3, done.output
    last = done.output.rstrip().splitlines()[-2:]
    assert last[0].startswith("NOT COMMITTED YET: only the working tree holds it; 12 links verified; not looked at: ")
    assert "git add dvc.lock" in last[1]
    values = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert values["state"] == "uncommitted"
    assert "git add dvc.lock" in values["remedy"]
    said: list[str] = []
    found = verify("models", where=clone, report=said.append)
    assert found.state == "uncommitted"
    assert said == [], "there is no revision to derive it from"
    assert "rebuild train" in found.verdict
    git(clone, "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-q", "-a", "-m", "mine")
    assert CliRunner().invoke(app, ["models"]).exit_code == 0


# --- can't be seen from here --------------------------------------------------------------------------------------


def test_a_fresh_clone_answers_with_what_git_alone_says(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audit("main", where=fresh, offline=True)
    states = {link.name: link.state for link in found.links}
    git_alone = ("revision", "lock", "pipeline", "code", "inputs", "params")
    assert {name for name, one in states.items() if one == "verified"} == set(git_alone)
    assert {"weights", "card", "labels", "snapshot"} <= {n for n, one in states.items() if one == "unverified"}
    assert found.params["train"]["epochs"] > 0
    assert found.card is None
    assert len(found.holders) > 0
    monkeypatch.chdir(fresh)
    done = CliRunner().invoke(app, ["main", "--offline"])
    assert done.exit_code == 2, done.output
    assert "CAN'T BE SEEN FROM HERE: weights, card" in done.output
    assert "6 links verified" in done.output
    assert "dvc pull, or dvc repro" in done.output


def test_an_edited_lock_is_found_out_in_a_fresh_clone_too(fresh: Path) -> None:
    lock = (fresh / "dvc.lock").read_text()
    (fresh / "dvc.lock").write_text(lock.replace("epochs: ", "epochs: 1", 1))
    git(fresh, "checkout", "-q", "--orphan", "alone")
    git(fresh, "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-q", "-a", "-m", "edited")
    git(fresh, "branch", "-q", "-D", "main")
    git(fresh, "remote", "remove", "origin")
    found = audit("alone", where=fresh, offline=True)
    assert [link.name for link in found.broken] == ["params"]


def test_a_card_that_is_not_what_it_is_kept_as_is_broken_not_unseen(clone: Path) -> None:
    from sandwatch.audit.chain import model_of

    history = History(clone)
    revision = history.resolve("main")
    assert revision is not None
    model = model_of(history.lock(revision))
    assert model is not None
    oid = dict(model.files)["model.json"]
    path = clone / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    path.unlink()
    path.write_text("{}")
    found = audit("main", where=clone, offline=True)
    assert [link.name for link in found.broken] == ["card"]


def test_a_model_that_nobody_pulled_is_told_from_one_that_is_not(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    with pytest.raises(InputError, match=r"nobody pulled it.*sandwatch audit HEAD"):
        audit("models")
    with pytest.raises(InputError, match="no such file, revision or experiment"):
        audit("model")


def test_whether_a_result_is_of_a_revision_cannot_be_told_without_cards(fresh: Path, tmp_path: Path) -> None:
    item = {"type": "Feature", "id": "x", "properties": {"sandwatch:model_sha256": "0" * 64}}
    (tmp_path / "item.json").write_text(json.dumps(item))
    found = audit(str(tmp_path / "item.json"), where=fresh, offline=True)
    link = next(link for link in found.links if link.name == "revision")
    assert link.detail.startswith("whether a revision holds it can't be told")
    assert found.state == "unverified"


# --- not looked at ------------------------------------------------------------------------------------------------


def test_after_an_experiment_became_a_branch_it_is_still_seen(clone: Path) -> None:
    """`dvc exp branch` points a branch at an experiment's commit, which is then as good as any other commit."""
    git(clone, "remote", "add", "origin", "https://example.org/x")
    for ref in git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        git(clone, "branch", ref.rsplit("/", 1)[1] + "-branch", ref)
    found = audit("exp-1", where=clone, offline=True)
    assert {name.kind for name in found.revision.names} == {"branch", "experiment"}  # type: ignore[union-attr]
    assert not any("no experiment" in note for note in found.notes)


def test_what_is_not_derived_again_is_said_and_not_counted(made: Made) -> None:
    found = audit("main", where=made.root, offline=True)
    skipped = [link.name for link in found.links if link.state == "skipped"]
    assert skipped == [f"rebuild {name}" for name in ("check", "aoi", "export", "annotations", "chips", "train")]
    verified = {link.name for link in found.links if link.state == "verified"}
    assert found.verdict == f"VERIFIED: {len(verified)} links verified; not looked at: {', '.join(skipped)}"


def test_the_command_counts_what_it_verified(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)
    done = CliRunner().invoke(app, ["main"])
    assert done.exit_code == 0
    assert "every link holds" not in done.output
    assert "not looked at: rebuild check, rebuild aoi" in done.output
