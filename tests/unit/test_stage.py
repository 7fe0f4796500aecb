"""Stages under the real dvc: killed, beside another, on a full disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from sandwatch.storage import shortage
from tests.disks import small_disk
from tests.unit.test_running import lives, until, written

SCRIPT = """
import os, time
from pathlib import Path
from sandwatch.files import whole
from sandwatch.stage import Input, Output, run

def main(*, names: Input, out: Output) -> None:
    Path("pid").write_text(str(os.getpid()))
    for name in names.read_text().split():
        with whole(out / name) as partial:
            partial.write_bytes(os.urandom(3_000_000))
        time.sleep(float(os.environ.get("SLEEP", "0")))

run(main)
"""


class Repository:
    """A DVC repository with one stage, which writes a file for each name in ``names``."""

    def __init__(self, root: Path, names: str) -> None:
        self.root, self.started = root, list["subprocess.Popen[str]"]()
        (root / "stage.py").write_text(SCRIPT)
        (root / "names").write_text(names)
        command = f"{sys.executable} stage.py --names names --out out"
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": {"cmd": command, "outs": ["out"]}}}))
        (root / ".dvc").mkdir(exist_ok=True)
        (root / ".dvc" / "config").write_text("[core]\nno_scm = true\nanalytics = false\n")

    def dvc(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        started = subprocess.Popen(
            [sys.executable, "-m", "dvc", *command], cwd=self.root, env=os.environ | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.started.append(started)
        return started

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / "out").iterdir()}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Callable[[str], Repository]]:
    made: list[Repository] = []

    def make(names: str) -> Repository:
        made.append(Repository(tmp_path, names))
        return made[-1]

    yield make
    for process in (process for repository in made for process in repository.started):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_what_a_killed_dvc_began_does_not_reach_the_next_run(repository: Callable[[str], Repository]) -> None:
    made = repository("a b c d e f g h")
    dvc = made.dvc("repro", SLEEP="3")
    stage = written(made.root / "pid")
    dvc.kill()
    dvc.wait()
    assert until(lambda: not lives(stage), 5)
    (made.root / "names").write_text("x y")
    printed, _ = made.dvc("repro", "--force", SLEEP="1").communicate()
    assert sorted(made.files()) == ["x", "y"], printed


def test_a_stage_by_hand_beside_one_under_dvc_is_refused(repository: Callable[[str], Repository]) -> None:
    made = repository("a b")
    dvc = made.dvc("repro", SLEEP="60")
    stage = written(made.root / "pid")
    beside = subprocess.run(
        [sys.executable, "-c", "import sandwatch.running as r; r.PATIENCE_S = 0; exec(open('stage.py').read())",
         "--names", "names", "--out", "out"],
        cwd=made.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    dvc.kill()
    dvc.wait()
    assert beside.returncode == 1
    assert beside.stderr.startswith(f"error: out: got another process that writes to it: {stage}; expected one at")
    assert beside.stderr.count("\n") == 1


def test_what_the_cache_has_no_room_for_is_kept_all_the_same(
    repository: Callable[[str], Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = repository("a b")
    with small_disk(made.root / ".dvc" / "cache", 16 << 20) as disk:
        disk.leave(8_000_000)
        dvc = made.dvc("repro")
        printed, _ = dvc.communicate()
        assert dvc.returncode, printed
        (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert "MB free; expected 10.0 MB, to keep what make has made, which is whole; free some" in line
        assert line.endswith("run: dvc commit -f make")
        assert "dvc checkout" not in printed
        before = made.files()
        disk.leave(15_000_000)
        assert made.dvc("commit", "-f", "make").wait() == 0
        assert made.files() == before
        monkeypatch.chdir(made.root)
        with Repo(made.root) as repo:
            assert repo.status() == {}
        disk.leave(4_500_000)
        assert shortage("make") is None  # what the cache has already takes no room
        disk.leave(3_500_000)
        assert "got 3.5 MB free; expected 4.0 MB" in str(shortage("make"))


def test_a_disk_without_room_for_dvc_itself_is_told(
    repository: Callable[[str], Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = repository("a")
    monkeypatch.chdir(made.root)
    monkeypatch.setattr("sandwatch.storage.SPARE", 10**15)
    assert "this folder: got" in str(shortage("make"))
