"""Finished work is taken where nothing differs, and trusted only as far as its hashes hold."""

import json
import multiprocessing
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from sandwatch import work
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.work import Done, Unit, Work


class Counted:
    """A unit's function that counts how often it ran."""

    def __init__(self, content: bytes = b"pixels") -> None:
        self.content, self.runs = content, 0

    def __call__(self, folder: Path) -> Any:
        self.runs += 1
        (folder / "deep").mkdir(parents=True)
        (folder / "a.tif").write_bytes(self.content)
        (folder / "deep" / "b.tif").write_bytes(self.content[::-1])
        return {"valid": 0.1 + 0.2, "none": None}


def do(kept: Work, folder: Path, function: Any, inputs: Any = 1) -> Done:
    return kept.run(Unit(name="a_2020-01-01", inputs=lambda: inputs, function=function), folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_unit_is_done_once_and_given_whole_ever_after(tmp_path: Path) -> None:
    function, kept = Counted(), Work(tmp_path / "work", "code")
    first = do(kept, tmp_path / "one", function)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "stranger").touch()
    again = do(Work(tmp_path / "work", "code"), tmp_path / "two", function)
    assert (function.runs, first.kept, again.kept) == (1, False, True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == {"a.tif": b"pixels", "deep/b.tif": b"slexip"}
    assert first.value == again.value == {"valid": 0.1 + 0.2, "none": None}
    assert first.sha256 == again.sha256 == {name: sha256(tmp_path / "one" / name) for name in ("a.tif", "deep/b.tif")}


def test_what_is_written_to_an_output_later_does_not_reach_what_is_kept(tmp_path: Path) -> None:
    function, kept = Counted(), Work(tmp_path / "work", "code")
    for folder in ("one", "two", "three"):
        assert do(kept, tmp_path / folder, function).kept == (folder != "one")
        with (tmp_path / folder / "a.tif").open("r+b") as file:
            file.write(b"PIXELS")
    assert function.runs == 1


@pytest.mark.parametrize(("context", "inputs"), [("other code", 1), ("code", 2), ("code", [1]), ("code", None)])
def test_whatever_differs_is_done_again(tmp_path: Path, context: str, inputs: Any) -> None:
    function = Counted()
    do(Work(tmp_path / "work", "code"), tmp_path / "out", function)
    assert not do(Work(tmp_path / "work", context), tmp_path / "out", function, inputs).kept
    assert function.runs == 2


def test_inputs_that_change_meanwhile_keep_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raster, kept = tmp_path / "raster", Work(tmp_path / "work", "code")
    raster.write_bytes(b"old")

    def replaced(folder: Path) -> None:
        folder.mkdir()
        raster.write_bytes(b"new")
        (folder / "out").write_bytes(raster.read_bytes())

    unit = Unit(name="u", inputs=lambda: raster.read_bytes().hex(), function=replaced)
    kept.run(unit, tmp_path / "out")
    assert "u: its inputs changed while it was computed" in capsys.readouterr().out
    raster.write_bytes(b"old")
    assert not kept.run(unit, tmp_path / "out").kept


@pytest.mark.parametrize("where", ["files", "units"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_what_is_damaged_is_not_trusted_but_said_and_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, damage: str
) -> None:
    function, kept = Counted(), Work(tmp_path / "work", "code")
    do(kept, tmp_path / "out", function)
    before = contents(tmp_path / "out")
    path = sorted((tmp_path / "work" / where).iterdir())[0]
    content = path.read_bytes()
    path.write_bytes({"flipped": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-1], "empty": b""}[damage])
    again = do(kept, tmp_path / "out", function)
    assert (function.runs, again.kept) == (2, False)
    assert f"a_2020-01-01: {path} is damaged, so it is computed again" in capsys.readouterr().out
    assert contents(tmp_path / "out") == before
    assert do(kept, tmp_path / "out", function).kept


def test_a_record_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    function, kept = Counted(), Work(tmp_path / "work", "code")
    do(kept, tmp_path / "out", function)
    (record,) = (tmp_path / "work" / "units").iterdir()
    found = json.loads(record.read_bytes().partition(b"\n")[2])
    for files in ({"../up": found["files"]["a.tif"]}, {"a.tif": "../../precious"}):
        text = json.dumps(found | {"files": files}).encode()
        (tmp_path / "precious").write_bytes(b"mine")
        record.write_bytes(work.hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        assert not do(kept, tmp_path / "out", function).kept
        assert (tmp_path / "precious").read_bytes() == b"mine"
        assert not (tmp_path / "up").exists()


def test_a_killed_run_leaves_no_half_of_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function, kept = Counted(), Work(tmp_path / "work", "code")

    def killed(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            do(kept, tmp_path / "out", function)
    assert not do(kept, tmp_path / "out", function).kept
    assert do(kept, tmp_path / "out", function).kept


def test_work_goes_on_where_nothing_can_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    function = Counted()
    (tmp_path / "file").touch()
    done = do(Work(tmp_path / "file", "code"), tmp_path / "out", function)
    assert done.value["none"] is None
    assert "a_2020-01-01: can't be kept for a later run" in capsys.readouterr().out
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(work.shutil, "disk_usage", lambda _: usage(100, 90, 10))
    do(Work(tmp_path / "work", "code"), tmp_path / "out", function)
    assert "GB are more than the 0.0 GB it may take" in capsys.readouterr().out
    assert work.size(tmp_path / "work") == 0


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDWATCH_CACHE_GB", "0.0001")  # 100 kB
    functions = [Counted(os.urandom(20_000)) for _ in range(6)]
    for number, function in enumerate(functions):
        do(Work(tmp_path / "work", "code"), tmp_path / "out", function, number)
        if number > 0:
            do(Work(tmp_path / "work", "code"), tmp_path / "out", functions[0], 0)  # used again and again
        assert work.size(tmp_path / "work") <= 100_000
        for rank, path in enumerate(sorted((tmp_path / "work").rglob("*"), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (number * 100 + rank, number * 100 + rank))
    assert functions[0].runs == 1
    assert do(Work(tmp_path / "work", "code"), tmp_path / "out", functions[5], 5).kept
    assert not do(Work(tmp_path / "work", "code"), tmp_path / "out", functions[1], 1).kept


def test_one_file_alone_is_replaced_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Work(tmp_path / "work", "code")
    key = kept.key(1)
    assert kept.take_bytes(key, "state") is None
    for content in (b"one", b"two"):
        kept.put_bytes(key, content, "state")
        assert kept.take_bytes(key, "state") == content
    (file,) = (tmp_path / "work" / "files").iterdir()  # the first state is gone
    file.write_bytes(b"twO")
    assert kept.take_bytes(key, "state") is None
    assert "state: " in capsys.readouterr().out
    kept.put_bytes(key, b"three", "state")
    kept.drop(key)
    assert work.size(tmp_path / "work") == 0
    kept.drop(key)


def many(folder: Path, name: str) -> None:
    """Does the same fifty units as another process, at the same time."""
    kept = Work(folder / "work", "code")
    for number in range(50):
        content = bytes([number]) * 1000
        done = do(kept, folder / name / str(number), Counted(content), number)
        assert contents(folder / name / str(number)) == {"a.tif": content, "deep/b.tif": content}
        assert set(done.sha256) == {"a.tif", "deep/b.tif"}
        if number % 10 == 0:
            work.prune(folder / "work", 20_000)


@pytest.mark.slow
def test_two_runs_at_once_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=many, args=(tmp_path, name)) for name in ("one", "two")]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert not list((tmp_path / "work").rglob(".*partial*"))


def test_the_folder_is_shared_by_copies_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANDWATCH_CACHE", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert work.place() == Path(".cache/sandwatch/work")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert work.place() == tmp_path / ".cache/sandwatch/work"
    monkeypatch.setenv("SANDWATCH_CACHE", str(tmp_path / "elsewhere"))
    assert work.place() == tmp_path / "elsewhere"


def test_the_work_of_a_stage_is_bound_to_code_libraries_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work.code, "running", lambda script: {"script": script.name})
    export = Work.open(Path("stages/export.py"))
    assert export.key(1) == Work.open(Path("stages/export.py")).key(1)
    keys = {export.key(1), Work.open(Path("stages/infer.py")).key(1)}
    keys.add(Work.open(Path("stages/export.py"), computed_on="another processor").key(1))
    monkeypatch.setattr(work.metadata, "version", lambda name: "another")
    keys.add(Work.open(Path("stages/export.py")).key(1))
    assert len(keys) == 4


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SANDWATCH_CACHE_GB", given)
    with pytest.raises(InputError, match=r"variable SANDWATCH_CACHE_GB: got .*; expected a number above 0; unset it"):
        Work.open(Path("stages/export.py"))
