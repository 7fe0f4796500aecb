"""Whose code `audit verify` runs, and whose it doesn't."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandwatch.audit.cli import app
from sandwatch.audit.confined import offline
from sandwatch.audit.forward import audit
from sandwatch.audit.history import History
from sandwatch.audit.record import Audit
from sandwatch.audit.verify import verify
from sandwatch.errors import InputError
from tests.audit_history import Made
from tests.servers.listener import listen


def git(root: Path, *arguments: str) -> str:
    mallory = ["-c", "user.name=Mallory", "-c", "user.email=mallory@example.org"]
    return subprocess.run(
        ["git", "-C", str(root), *mallory, *arguments], check=True, capture_output=True, text=True
    ).stdout[:-1]


@dataclass(frozen=True)
class Clone:
    """A clone in which somebody's branch holds a model, with commands that leave a trace.

    Attributes:
        root: of it.
        trace: a file that is there once a command ran.
    """

    root: Path
    trace: Path

    def verify(self, target: str = "theirs", **options: object) -> Audit:
        return verify(target, where=self.root, report=lambda _: None, **options)  # type: ignore[arg-type]


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Clone:
    root, trace = tmp_path / "clone", tmp_path / "ran"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    for ref in git(root, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        git(root, "update-ref", "-d", ref)
    git(root, "checkout", "-q", "-b", "theirs")
    for path in (root / "dvc.yaml", root / "dvc.lock"):
        path.write_text(re.sub(r"python stages/\w+\.py", f"touch {trace} && false", path.read_text()))
    git(root, "add", "-f", ".dvc/config")
    git(root, "commit", "-q", "-a", "-m", "better\u202eweights")
    git(root, "checkout", "-q", "-b", "mine", "main~5")
    return Clone(root, trace)


def test_nothing_of_a_branch_that_was_only_fetched_is_run_unasked(clone: Clone) -> None:
    git(clone.root, "branch", "-q", "-D", "main")
    with pytest.raises(InputError, match=r"no leave to run the code of [0-9a-f]{10} \(theirs\).*git diff HEAD.*--yes"):
        clone.verify()
    assert not clone.trace.exists()


def test_it_is_run_where_it_is_allowed_or_checked_out(clone: Clone) -> None:
    asked = []
    found = clone.verify(allow=lambda foreign: asked.append(foreign) or True)  # type: ignore[func-returns-value]
    assert clone.trace.exists()
    assert found.broken[0].name == "rebuild check"
    shown = "\n".join(asked[0].lines)
    assert "Mallory <mallory@example.org>" in shown
    assert f"touch {clone.trace} && false" in shown
    assert "runs chips" in shown
    assert "runs train" not in shown, "without --retrain it isn't run"
    assert "better\N{REPLACEMENT CHARACTER}weights" in shown, "nothing that is shown can turn the text around"
    clone.trace.unlink()
    git(clone.root, "checkout", "-q", "theirs")
    assert clone.verify("HEAD").broken[0].name == "rebuild check"
    assert clone.trace.exists(), "what is checked out was chosen by whoever works here"


def test_finished_work_that_lies_somewhere_is_not_taken(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    git(clone.root, "checkout", "-q", "theirs")
    for path in (clone.root / "dvc.yaml", clone.root / "dvc.lock"):
        path.write_text(path.read_text().replace(f"touch {clone.trace}", f"echo $SANDWATCH_CACHE > {clone.trace}"))
    git(clone.root, "commit", "-q", "-a", "-m", "where is it kept?")
    monkeypatch.setenv("SANDWATCH_CACHE", "/kept/elsewhere")
    clone.verify("HEAD")
    told = Path(clone.trace.read_text().strip())
    assert told.name == "work"
    assert "elsewhere" not in told.parts
    assert not told.exists(), "it went with the clone"


def test_what_is_in_the_past_of_head_is_followed_first(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two branches hold the model with every link intact; the newer one was only fetched."""
    git(clone.root, "checkout", "-q", "-B", "mine", "main")
    git(clone.root, "commit", "-q", "--allow-empty", "-m", "more of mine")
    git(clone.root, "rm", "-q", "--cached", "dvc.lock")
    git(clone.root, "commit", "-q", "-m", "no lock")
    git(clone.root, "checkout", "-q", "-f", "theirs")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2030-01-01T00:00:00+0000")
    git(clone.root, "commit", "-q", "--allow-empty", "-m", "newer")
    git(clone.root, "checkout", "-q", "mine")
    found = audit("theirs", where=clone.root, offline=True)
    assert found.holders[0].revision.subject == "newer"
    assert found.revision is not None
    assert found.revision.subject == "more of mine"
    assert History(clone.root).leads_to_head(found.revision)


def test_nothing_is_run_where_a_link_is_broken(clone: Clone) -> None:
    git(clone.root, "checkout", "-q", "--orphan", "alone", "theirs")
    (clone.root / "src/sandwatch/errors.py").write_text("other\n")
    git(clone.root, "commit", "-q", "-a", "-m", "edited")
    for branch in ("theirs", "main", "mine"):
        git(clone.root, "branch", "-q", "-D", branch)
    found = clone.verify("alone", allow=lambda _: True)
    assert found.broken[0].name == "code"
    assert not clone.trace.exists()
    assert {link.detail for link in found.links if link.name == "rebuild check"} == {
        "nothing is run where a link is broken"
    }


def test_nothing_is_run_that_no_link_vouches_for(clone: Clone) -> None:
    git(clone.root, "checkout", "-q", "--orphan", "alone", "theirs")
    git(clone.root, "rm", "-q", "-f", "stages/train.py", "src/sandwatch/errors.py")
    lock = clone.root / "dvc.lock"
    lock.write_text(lock.read_text() + "\n")
    git(clone.root, "commit", "-q", "-a", "-m", "code that git does not hold")
    for branch in ("theirs", "main", "mine"):
        git(clone.root, "branch", "-q", "-D", branch)
    shutil.rmtree(clone.root / ".dvc/cache")  # the card would say that the code is missing
    found = clone.verify("alone", allow=lambda _: True)
    assert not found.broken
    assert not clone.trace.exists()
    assert "no link vouches for: code" in next(link.detail for link in found.links if link.name == "rebuild check")


def test_dvc_itself_is_not_taken_from_the_revision(clone: Clone) -> None:
    """Python would take a module from the folder that it starts in, and from the path that the stages need."""
    git(clone.root, "checkout", "-q", "theirs")
    other = clone.trace.with_name("imported")
    for path in ("dvc.py", "src/sitecustomize.py"):
        (clone.root / path).write_text(f"open({str(other)!r}, 'w')\n")
    git(clone.root, "add", "-f", "dvc.py", "src/sitecustomize.py")
    git(clone.root, "commit", "-q", "-m", "modules")
    clone.verify("HEAD")
    assert clone.trace.exists()
    assert not other.exists()


def test_the_command_refuses_without_a_terminal_and_names_the_remedy(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone.root)
    git(clone.root, "branch", "-q", "-D", "main")
    done = CliRunner().invoke(app, ["verify", "theirs"])
    assert isinstance(done.exception, InputError)
    assert "give --yes" in str(done.exception)
    assert "Mallory <mallory@example.org>" in done.stderr
    assert not clone.trace.exists()
    done = CliRunner().invoke(app, ["verify", "theirs", "-y"])
    assert done.exit_code == 1
    assert "BROKEN at rebuild check" in done.stdout
    assert clone.trace.exists()
    monkeypatch.setenv("SANDWATCH_PSEUDONYM_KEY", "k" * 32)
    done = CliRunner().invoke(app, ["verify", "theirs", "--pseudonymous"])
    assert "allory" not in done.stderr
    assert "annotator-" in done.stderr


def ran(clone: Clone, command: str) -> str:
    """What a command of somebody's branch says, run by verify."""
    git(clone.root, "checkout", "-q", "theirs")
    for path in (clone.root / "dvc.yaml", clone.root / "dvc.lock"):
        path.write_text(path.read_text().replace(f"touch {clone.trace} && false", command))
    git(clone.root, "commit", "-q", "-a", "-m", "looks around")
    clone.verify("HEAD")
    return clone.trace.read_text()


def test_the_code_gets_no_secrets(clone: Clone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine x password SECRET")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "LABELBOX_API_KEY", "SANDWATCH_PSEUDONYM_KEY", "X", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "SECRET")
    monkeypatch.setenv("LC_MEASUREMENT", "seen")
    said = ran(clone, f"sh -c 'env; cat ~/.netrc' > {clone.trace} 2>&1")
    assert "SECRET" not in said
    assert "LC_MEASUREMENT=seen" in said
    assert "LABELBOX" not in said


@pytest.mark.skipif(offline() is None, reason="users may not make namespaces here")
def test_the_code_reaches_no_network(clone: Clone) -> None:
    with listen() as listener:
        port = listener.url.rpartition(":")[2]
        look = f"import socket; socket.create_connection((str(0x7F000001), {port}), 5)"
        said = ran(clone, f'python -c "{look}" > {clone.trace} 2>&1')
        assert not listener.heard()
    assert "unreachable" in said


def test_where_the_network_stays_on_it_is_said(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandwatch.audit.confined.offline", lambda: None)
    git(clone.root, "checkout", "-q", "theirs")
    lines: list[str] = []
    found = verify("HEAD", where=clone.root, report=lines.append)
    assert any("no way to switch the network off" in line for line in lines)
    assert any("no way to switch the network off" in note for note in found.notes)
