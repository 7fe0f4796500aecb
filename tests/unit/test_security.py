"""SECURITY.md promises nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.torture.bench import known

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


def test_every_test_that_it_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 30
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert not test or f"\ndef {test}(" in (ROOT / path).read_text(), (path, test)


def test_every_kind_of_the_bench_that_it_names_is_there_and_none_is_left_out() -> None:
    groups = re.findall(r"bench: ([a-z, ]+?)(?=;|,? which| \|)", PAGE)
    named = {kind for group in groups for kind in group.split(", ")}
    kinds = re.search(r"\(kinds ([a-z, ]+)\)", PAGE)
    assert kinds is not None
    assert named | set(kinds[1].split(", ")) == known().keys() - {"params"}
