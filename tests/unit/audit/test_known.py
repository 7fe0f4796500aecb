"""A label that nobody knows is a mistake of whoever asks; it is no label that no model saw."""

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandwatch.audit.backward import Question, backward
from sandwatch.audit.chain import annotations_of, model_of
from sandwatch.audit.cli import app
from sandwatch.audit.history import History
from sandwatch.audit.known import Known, nearest
from sandwatch.audit.pseudonyms import Pseudonyms
from sandwatch.errors import InputError
from tests.audit_history import Made
from tests.unit.annotation_rows import GOOD, PARAMS, lines

FEATURE = f"f{7:023d}"


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Path:
    """A clone in which the oldest model's card is nowhere: most histories have such models."""
    root = tmp_path / "clone"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    history = History(root)
    model = model_of(history.lock(history.revisions[-1]))
    assert model is not None
    oid = dict(model.files)["model.json"]
    (root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]).unlink()
    return root


@pytest.mark.parametrize(
    ("question", "near"),
    [
        (Question(label="nope"), "none is nearly the same"),
        (Question(label="lnegativ"), "such as lnegative"),
        (Question(label=FEATURE + "0"), FEATURE),
        (Question(annotator="annotator3@example.com"), r"annotator3@example\.org"),
        (Question(since="2031-01-01"), "all labels are of 2021-01-15 to 2021-06-15"),
        (Question(label=FEATURE, annotator="nobody"), "--annotator nobody"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(clone: Path, question: Question, near: str) -> None:
    with pytest.raises(InputError, match=near):
        backward(question, where=clone, offline=True)


@pytest.mark.parametrize("option", [["--label", "nope"], ["--annotator", "nope"], ["--from", "2031-01-01"]])
def test_the_command_ends_with_status_1(clone: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    monkeypatch.chdir(clone)
    done = CliRunner().invoke(app, [*option, "--offline"])
    assert done.exit_code == 1
    assert isinstance(done.exception, InputError)
    assert "never saw" not in done.output


def test_what_is_kept_out_is_known_and_was_never_seen(clone: Path) -> None:
    found = backward(Question(label="funfit"), where=clone, offline=True)
    assert found.labels.empty
    assert {model.state for model in found.models} == {"never saw", "unknown"}
    assert found.notes[-1] == "funfit is in the quarantine, but not among the labels that any model was made with"


def test_where_not_all_could_be_read_it_says_so(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(clone)
    oid = annotations_of(history.lock(history.revisions[-1])) or ""
    (clone / ".dvc/cache/files/md5" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(InputError, match=r"none of 2 label sets holds \(1 of 3 label sets could not be read\).*fetch"):
        backward(Question(label="nope"), where=clone, offline=True)
    monkeypatch.chdir(clone)
    done = CliRunner().invoke(app, ["--label", FEATURE, "--offline"])
    assert done.exit_code == 2, "an answer in which models are unknown is no whole answer"


def test_the_nearest_people_are_pseudonyms_where_nobody_is_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDWATCH_PSEUDONYM_KEY", "k" * 32)
    monkeypatch.chdir(clone)
    pseudonym = Pseudonyms.from_environment().of("annotator3@example.org")
    mistyped = pseudonym[:-1] + ("0" if pseudonym[-1] != "0" else "1")
    for given in (mistyped, "annotator3@example.com"):
        done = CliRunner().invoke(app, ["--annotator", given, "--pseudonymous", "--offline"])
        assert isinstance(done.exception, InputError)
        assert "@" not in str(done.exception)
        assert (pseudonym in str(done.exception)) == (given == mistyped)


def test_the_nearest_begin_with_what_was_asked_or_are_nearly_the_same() -> None:
    many = [f"c{i:x}{i * 7919:019x}" for i in range(50_000)]
    assert nearest(many[777][:-1], many)[0] == many[777]
    assert nearest(many[777][:9] + many[777][10:], many)[0] == many[777]
    alike = [f"f{i:023d}" for i in range(100_000)]
    assert nearest(f"g{77777:023d}", alike)[0] == f"f{77777:023d}", "and many that look alike take no time"


def test_label_sets_from_before_there_was_a_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "export.ndjson").write_bytes(lines(GOOD)[0])
    found = Known()
    assert found._raw(tmp_path / "export.ndjson", PARAMS.model_dump(exclude={"max_vertices"}))
    assert "good" in found.ids
