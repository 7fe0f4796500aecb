"""The bench can fail: whatever goes wrong in a try is told, with the command that does it again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.torture.attack import drawn_from
from tests.torture.bench import known, report, torture
from tests.unit.torture.planted import FAULTS

PLANTED = "tests.unit.torture.planted"
SEED = 5
SAME = ("traceback", "false", "escapes", "hang", "crash")
WORDS = dict(zip(SAME, SAME, strict=True)) | {"memory": "traceback", "two lines": "unreadable error"}


def number_of(fault: str) -> int:
    """The first try that has a fault."""
    return next(n for n in range(1_000) if drawn_from(SEED, "planted", n).choice(FAULTS) == fault)


@pytest.mark.parametrize("fault", WORDS)
def test_a_planted_fault_fails_with_the_command_that_repeats_it(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = number_of(fault)
    for _ in range(2):
        result = torture(PLANTED, seed=SEED, seconds=0, room=tmp_path, only=number)
        assert [(n, word) for n, word, _ in result.failures] == [(number, WORDS[fault])]
        assert not report([result], SEED)
        printed = capsys.readouterr().out
        assert f"FAILED {WORDS[fault]}: " in printed
        assert f"--only planted --seed {SEED} --try {number}\n" in printed
        assert "seed 5: 1 failed" in printed


def test_what_is_right_and_what_is_refused_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = torture(PLANTED, seed=SEED, seconds=0, room=tmp_path, only=number_of("none"))
    refused = torture(PLANTED, seed=SEED, seconds=0, room=tmp_path, only=number_of("refused"))
    assert (dict(right.outcomes), dict(refused.outcomes)) == ({"right": 2, "quarantined": 1}, {"refused": 1})
    assert report([right, refused], SEED)
    printed = capsys.readouterr().out
    assert "nothing failed" in printed
    assert re.search(r"planted +1 +3 +2 +0 +1 +0 +0 ", printed)


def test_tries_go_on_after_one_that_hung_or_crashed(tmp_path: Path) -> None:
    result = torture(PLANTED, seed=SEED, seconds=3, room=tmp_path)
    assert result.tries > 6
    assert [n for n, _, _ in result.failures] == [
        n for n in range(result.tries) if drawn_from(SEED, "planted", n).choice(FAULTS) in WORDS
    ]


def test_the_kinds() -> None:
    assert set(known()) >= {"kills", "disks", "files", "rows", "geojson", "rasters", "tables", "params", "locks"}
