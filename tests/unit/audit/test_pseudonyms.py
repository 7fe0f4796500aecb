"""Pseudonyms: no address in any output, the same person always the same, and only with the key."""

import hashlib
import hmac
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sandwatch.audit import render
from sandwatch.audit.backward import Backward, Question, backward
from sandwatch.audit.cli import app
from sandwatch.audit.diff import Difference, diff
from sandwatch.audit.forward import audit
from sandwatch.audit.page import page
from sandwatch.audit.pseudonyms import KEY, PSEUDONYM, Pseudonyms, veiled
from sandwatch.audit.record import Audit, Holder, LabelRows, Link, Name, Revision
from sandwatch.errors import InputError
from tests.audit_history import Made

SECRET = "0123456789abcdef-of-a-test"
NAMES = Pseudonyms(SECRET.encode())
PEOPLE = (
    "annotator3@example.org",
    "Anna.Schmidt+sand@Example.org",
    "o'neil@mail.example.org",
    "rév@example.org",
    "root@localhost",
    "Jürgen Groß",
    "zoe_42",
)
REVIEWS = json.dumps(
    [{"reviewed_by": PEOPLE[5], "score": 1}, {"reviewer": {"name": PEOPLE[6], "id": "u77"}, "note": f"as {PEOPLE[1]}"}]
)


def leaks(text: str) -> list[str]:
    """People whom a text names, in whatever form: as they are, in other case, escaped for JSON, HTML or a URL."""
    forms = {}
    for person in (*PEOPLE, "u77"):
        for form in (person, json.dumps(person)[1:-1], person.replace("'", "&#39;"), person.replace("@", "%40")):
            forms[form.casefold()] = person
    return sorted({person for form, person in forms.items() if form in text.casefold()})


def text_with(i: int) -> str:
    return f"by {PEOPLE[i % len(PEOPLE)]}, ({PEOPLE[(i + 1) % len(PEOPLE)]}); '{PEOPLE[(i + 2) % len(PEOPLE)]}'."


def revision() -> Revision:
    names = (Name("branch", f"for/{PEOPLE[0]}"), Name("tag", f"{PEOPLE[1]}/1"))
    return Revision(commit="c" * 40, kind="commit", names=names, subject=text_with(3), time="2021-01-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def open_audit(made: Made) -> Audit:
    """An audit with people in every text that it can hold."""
    found = audit("main", where=made.root, offline=True)
    assert found.card is not None
    assert found.labels is not None
    assert found.observations is not None
    assert found.quarantine is not None
    assert found.imagery is not None
    assert found.chips is not None
    who = [PEOPLE[i % len(PEOPLE)] for i in range(len(found.labels))]
    ids = {name: f"{PEOPLE[0]}/{name}" for name in found.labels["feature_id"]}
    labels = found.labels.assign(created_by=who, reviews=REVIEWS, workflow_status=text_with(0), class_name=text_with(1))
    labels["feature_id"] = labels["feature_id"].map(ids)
    labels["label_id"] = [f"https://example.org/?user={person.replace('@', '%40')}" for person in who]
    labels.loc[0, "created_by"] = None
    link = Link(name="snapshot", state="broken", detail=text_with(5))
    images = json.dumps([{"id": f"gs://{PEOPLE[0]}/b.tif", "date": "2021-01-01", "processing_baseline": text_with(4)}])
    return replace(
        found,
        target=f"/home/{PEOPLE[1]}/models",
        card=found.card.model_copy(update={"inputs": {f"data/{PEOPLE[0]}.json": "0" * 64}}),
        links=(link, *found.links),
        holders=(Holder(revision=revision(), links=(link,)),),
        revision=revision(),
        params={"annotations": {"reviewers": [PEOPLE[5], PEOPLE[6]], "note": text_with(2), PEOPLE[0]: 1}},
        labels=labels,
        chips=found.chips.assign(feature_id=found.chips["feature_id"].map(ids)),
        observations=found.observations.assign(created_by=PEOPLE[1], snapshot=text_with(0), label_id=text_with(6)),
        quarantine=found.quarantine.assign(detail=text_with(1), row_id=PEOPLE[0], label_id=PEOPLE[1]),
        imagery=found.imagery.assign(source_images=images, path=f"{PEOPLE[0]}.tif"),
        notes=(text_with(4), f"mailto:{PEOPLE[0].upper()}"),
        pictures={},
    )


def printed(show: Any, answer: Any) -> str:
    console = Console(file=io.StringIO(), width=5000, highlight=False)
    show(answer, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def forms_of(answer: Audit, tmp_path: Path) -> dict[str, str]:
    """An audit in every form that it is given in."""
    render.write_csv(answer.labels, tmp_path / "labels.csv")  # type: ignore[arg-type]
    render.write_geoparquet(answer, tmp_path / "labels.parquet")
    return {
        "json": render.audit_json(answer),
        "table": printed(render.print_audit, answer),
        "proof": printed(render.print_proof, answer),
        "html": page(answer),
        "csv": (tmp_path / "labels.csv").read_text(),
        "geoparquet": gpd.read_parquet(tmp_path / "labels.parquet").to_json(),
    }


def test_no_form_of_an_audit_names_anyone(open_audit: Audit, tmp_path: Path) -> None:
    before = forms_of(open_audit, tmp_path)
    assert {name: len(leaks(text)) > 3 for name, text in before.items()} == dict.fromkeys(before, True)
    after = forms_of(NAMES.applied(open_audit), tmp_path)
    assert {name: leaks(text) for name, text in after.items()} == {name: [] for name in after}
    for name in ("json", "table", "csv", "geoparquet"):
        assert re.findall(r"\w@\w", after[name]) == []


def test_only_people_change(open_audit: Audit) -> None:
    veil = NAMES.applied(open_audit)
    assert veil.labels is not None
    assert open_audit.labels is not None
    same = ["obs_id", "confidence", "use", "fold", "pixels_drawn", "label_sha256", "geometry", "created_at"]
    pd.testing.assert_frame_equal(pd.DataFrame(veil.labels[same]), pd.DataFrame(open_audit.labels[same]))
    assert LabelRows.validate(veil.labels) is not None
    assert veil.labels.crs == open_audit.labels.crs
    assert veil.labels["created_by"].isna().sum() == 1
    assert veil.labels["created_by"].nunique() == open_audit.labels["created_by"].nunique()
    assert [link.state for link in veil.links] == [link.state for link in open_audit.links]
    assert veil.chips is not None
    assert set(veil.chips["feature_id"]) <= set(veil.labels["feature_id"]), "tables still join"
    assert json.loads(veil.labels["reviews"].iloc[0])[0]["score"] == 1
    clean = replace(open_audit, labels=None, target="models", links=(), notes=("3@",))
    assert NAMES.applied(clean).notes == ("3@",)


def test_a_person_is_the_same_everywhere_and_with_another_key_another(open_audit: Audit) -> None:
    expected = hmac.new(SECRET.encode(), b"anna.schmidt+sand@example.org", hashlib.sha256).hexdigest()
    said = f"annotator-{expected[:16]}"
    assert NAMES.of(PEOPLE[1]) == NAMES.of(f" {PEOPLE[1].upper()} ") == said
    veil = NAMES.applied(open_audit)
    assert veil.observations is not None
    assert set(veil.observations["created_by"]) == {said}
    assert veil.target == f"/home/{said}/models"
    assert veil.labels is not None
    assert said in set(veil.labels["created_by"])
    assert f"as {said}" in veil.labels["reviews"].iloc[0]
    assert f"{said}/1" in {name.name for name in veil.holders[0].revision.names}
    assert any(label.endswith(f"user={said}") for label in veil.labels["label_id"])
    assert veil.notes[1] == f"mailto:{NAMES.of(PEOPLE[0])}"
    assert Pseudonyms(SECRET.encode() + b"!").of(PEOPLE[1]) != said
    assert NAMES.of(said) == said
    assert len({NAMES.of(person) for person in PEOPLE}) == len(PEOPLE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<a.b@c.de>", ["a.b@c.de"]),
        ("a@b.c,d@e.f;g@h.i", ["a@b.c", "d@e.f", "g@h.i"]),
        ("see a@b.org. Then", ["a@b.org"]),
        ("user=a%2Bx%40b.org&x=1", ["a+x@b.org"]),
        ("HEAD@{1} and git@github.com:x/y", ["git@github.com"]),
        ("'o'neil@b.org'", ["o'neil@b.org"]),
        ("joanna@b.org", ["joanna@b.org"]),
        ("100 % @ noon", []),
    ],
)
def test_what_is_shaped_as_an_address(text: str, found: list[str]) -> None:
    expected = text
    for address in found:
        for form in (address, address.replace("+", "%2B").replace("@", "%40")):
            expected = expected.replace(form, NAMES.of(address))
    assert NAMES.applied(text, "anna@b.org") == expected


def test_names_are_whole_words(open_audit: Audit) -> None:
    assert NAMES.applied("anna, annabel, Anna-fix, hannah", "anna") == (
        f"{NAMES.of('anna')}, annabel, {NAMES.of('anna')}-fix, hannah"
    )
    high = replace(open_audit, links=(Link(name="lock", state="verified", detail="high"),))
    veil = NAMES.applied(high, "high", "verified")
    assert veil.links[0] == Link(name="lock", state="verified", detail=NAMES.of("high"))
    assert veil.labels is not None
    assert set(veil.labels["confidence"]) == {"low", "high"}
    veil = NAMES.applied(open_audit, "synthetic")
    assert veil.labels is not None
    assert set(veil.labels["origin"]) == {"synthetic"}


def test_what_nobody_has_thought_of_is_refused() -> None:
    with pytest.raises(TypeError, match="may stand in a set"):
        NAMES.applied({"a": {"b@c.de"}})


def test_backward_and_difference_name_nobody(made: Made) -> None:
    question = Question(annotator="annotator3@example.org")
    found = backward(question, where=made.root, offline=True)
    first = replace(found.models[0], revisions=(revision(),), detail=text_with(0))
    unsafe = replace(found, models=(first, *found.models), notes=(text_with(2),))
    unsafe = replace(unsafe, labels=unsafe.labels.assign(feature_id=f"{PEOPLE[0]}/1"))
    forms: dict[str, Any] = {
        "json": render.backward_json,
        "csv": lambda answer: render.backward_table(answer).to_csv(),
        "table": lambda answer: printed(render.print_backward, answer),
    }
    veil: Backward = NAMES.applied(unsafe, PEOPLE[5], PEOPLE[6])
    for name, form in forms.items():
        assert leaks(form(unsafe)), name
        assert leaks(form(veil)) == [], name
    assert veil.question.annotator == NAMES.of("annotator3@example.org")

    between = diff("HEAD~19", "main", where=made.root, offline=True)
    named = replace(
        between,
        labels=between.labels.assign(feature_id=f"{PEOPLE[0]}/1"),
        params={f"x.{PEOPLE[0]}": (PEOPLE[1], PEOPLE[2])},
        code=(f"src/{PEOPLE[1]}.py",),
        notes=(text_with(0),),
    )
    hidden: Difference = NAMES.applied(named, PEOPLE[5], PEOPLE[6])
    for show in (render.diff_json, lambda answer: printed(render.print_diff, answer)):
        assert leaks(show(named))
        assert leaks(show(hidden)) == []
    assert "annotator3@example.org" in set(between.b.labels["created_by"])  # type: ignore[index]
    assert "annotator3@example.org" not in set(hidden.b.labels["created_by"])  # type: ignore[index]


@pytest.fixture
def clone(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the history whose newest commit names somebody; the working directory."""
    import subprocess

    root = tmp_path / "clone"
    shutil.copytree(made.root, root)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@e.org")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", f"thanks, {PEOPLE[1]}"], cwd=root, check=True)
    subprocess.run(["git", "tag", PEOPLE[1]], cwd=root, check=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv(KEY, SECRET)
    return root


@pytest.mark.parametrize(
    "command",
    [
        [PEOPLE[1], "--offline"],
        [PEOPLE[1], "--offline", "--json"],
        ["main", "--offline", "--csv", "out.csv"],
        ["main", "--offline", "--html", "out.html"],
        ["main", "--offline", "--geoparquet", "out.parquet"],
        ["--annotator", "annotator3@example.org", "--offline", "--json"],
        ["--annotator", "annotator3@example.org", "--offline", "--csv", "out.csv"],
        ["--label", f"f{3:023d}", "--offline"],
        ["diff", "HEAD~20", PEOPLE[1], "--offline", "--json"],
        ["diff", "HEAD~20", PEOPLE[1], "--offline", "--csv", "out.csv"],
        ["verify", PEOPLE[1], "--keep", "aoi", "--html", "out.html"],
        ["verify", PEOPLE[1], "--keep", "aoi", "--json"],
    ],
    ids=" ".join,
)
def test_every_command(clone: Path, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--pseudonymous"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    texts = [done.output]
    for path in clone.glob("out.*"):
        if path.suffix == ".parquet":
            texts.append(gpd.read_parquet(path).to_json())
        else:
            texts.append(path.read_text())
    addresses = {a for text in texts for a in re.findall(r"[\w.+]+@(?:example|e|mail)\.[\w.]+", text, re.IGNORECASE)}
    assert addresses == set()
    assert len("".join(texts)) > 200
    csv_of_labels = command[0] == "diff" and "--csv" in command  # it names nobody
    assert any(PSEUDONYM.search(text) for text in texts) or csv_of_labels
    if "--json" in command:
        json.loads(done.stdout)


def test_errors_name_nobody_either(clone: Path) -> None:
    asked = ["--annotator", "gone@example.org", "--offline", "--pseudonymous"]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, InputError)
    assert f"--annotator {NAMES.of('gone@example.org')}" in str(done.exception)
    assert "gone@" not in str(done.exception)
    done = CliRunner().invoke(app, ["nowhere@example.org", "--offline", "--pseudonymous"])
    assert isinstance(done.exception, InputError)
    assert "@" not in str(done.exception), "names of revisions are suggested"


def test_an_annotator_is_found_by_address_and_by_pseudonym(clone: Path) -> None:
    person = "annotator3@example.org"
    by_address, by_pseudonym = (
        json.loads(CliRunner().invoke(app, ["--annotator", who, "--offline", "--json", "--pseudonymous"]).stdout)
        for who in (person, NAMES.of(person))
    )
    assert by_address == by_pseudonym
    assert by_address["labels"]
    assert by_address["question"] == {"annotator": NAMES.of(person)}
    other = backward(Question(annotator="annotator2@example.org"), where=clone, offline=True)
    assert len(other.labels) != 0
    assert set(other.labels["feature_id"]).isdisjoint(label["feature_id"] for label in by_address["labels"])


@pytest.mark.parametrize("key", [None, "", "short"])
@pytest.mark.parametrize(
    "command",
    [["main", "--offline", "--pseudonymous"], ["diff", "main", "main", "--pseudonymous"],
     ["verify", "main", "--pseudonymous"], ["--annotator", NAMES.of("x@y.z"), "--offline"]],
    ids=["forward", "diff", "verify", "annotator"],
)  # fmt: skip
def test_without_a_key_there_is_one_line(
    clone: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], key: str | None
) -> None:
    monkeypatch.delenv(KEY) if key is None else monkeypatch.setenv(KEY, key)
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError)
    got = f"{len(key)} bytes" if key else "no key"
    assert f"{KEY}: got {got}; expected a secret of at least 16 bytes; make one with:" in str(done.exception)
    assert done.stdout == ""


def test_nothing_happens_where_nobody_asks(open_audit: Audit) -> None:
    with veiled(False) as veil:
        assert veil(open_audit) is open_audit
