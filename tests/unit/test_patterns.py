"""No pattern takes longer than its text is long: what others wrote is matched against every one of them."""

import ast
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest

from sandwatch.annotations.redact import redact
from sandwatch.audit.history import Lock, _ignored
from sandwatch.audit.pseudonyms import Pseudonyms
from sandwatch.errors import InputError, unsigned
from sandwatch.printable import json_printable, markdown, printable
from sandwatch.remote import checked

SOURCES = Path(__file__).parents[2] / "src/sandwatch"
LONG = 10_000
"""Repetitions. What takes their square needs seconds; what is linear, a thousandth of one."""
MOST_S = 1.0
CALLS = ("compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")


def patterns() -> dict[str, Any]:
    """Every pattern in the sources that is a text there, by place; names and values in f-strings stand for a letter."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        texts = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            of_re = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "re"
            given = [node.args[0]] if of_re and called.attr in CALLS else []  # type: ignore[attr-defined]
            given += [keyword.value for keyword in node.keywords if keyword.arg in ("pattern", "str_matches")]
            for argument in given:
                text = _text(argument, texts)
                if text is not None:
                    found[f"{path.relative_to(SOURCES)}:{node.lineno}"] = (
                        re.compile(text, re.MULTILINE),
                        _how(node, path),
                    )
    return found


def _how(node: ast.Call, path: Path) -> list[str]:
    """How a pattern is used: as it is called, or, compiled, as its file calls any."""
    name = getattr(node.func, "attr", "")
    if name in ("search", "match", "fullmatch", "sub"):
        return [name]
    used = [way for way in ("search", "match", "fullmatch", "sub") if f".{way}(" in path.read_text()]
    return used or ["fullmatch"]


def _text(node: ast.expr, texts: dict[str, ast.expr]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _text(texts[node.id], texts) if node.id in texts else "x"
    if isinstance(node, ast.JoinedStr):
        return "".join(str(_text(part, texts)) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, texts)
    if isinstance(node, ast.BinOp):
        parts = [_text(side, texts) for side in (node.left, node.right)]
        return None if None in parts else parts[0] + parts[1]
    return "x" if isinstance(node, ast.Attribute | ast.Subscript) else None


def hostile(letters: str) -> Iterator[str]:
    """One letter, or two in turn, for ever, and then something that nothing ends with."""
    for one, other in combinations_with_replacement(letters, 2):
        yield (one + other) * LONG + "\n\0"


@contextmanager
def in_time(what: str) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"{what}: still at it after 10 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 10)
    start = time.thread_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.thread_time() - start < MOST_S, what


PATTERNS = patterns()


def test_the_patterns_are_found() -> None:
    assert len(PATTERNS) > 40
    assert any(place.startswith("audit/history.py") for place in PATTERNS)


@pytest.mark.parametrize("place", PATTERNS)
def test_a_pattern_is_linear(place: str) -> None:
    pattern, ways = PATTERNS[place]
    source = pattern.pattern.decode() if isinstance(pattern.pattern, bytes) else pattern.pattern
    own = [letter for letter in dict.fromkeys(re.sub(r"\\.", "", source)) if letter not in "()[]|^$\n"]
    letters = "".join(dict.fromkeys(["a", "0", " ", *own[:3], *own[-2:]]))
    for text in hostile(letters):
        subject = text.encode() if isinstance(pattern.pattern, bytes) else text
        with in_time(f"{pattern.pattern!r} against {text[:10]!r}..."):
            for way in ways:
                getattr(pattern, way)(*[subject[:0]] * (way == "sub"), subject)


def ignore(text: str) -> None:
    with suppress(InputError):
        _ignored("a*b*c*\n").match_file(text.strip("\n\0")[:255])


def lock(text: str) -> None:
    with suppress(InputError):
        Lock(f"schema: '2.0'\nstages:\n  a:\n    deps:\n    - path: {text}")


def bucket(text: str) -> None:
    with suppress(InputError):
        checked(f"gs://{text}")


FUNCTIONS = {
    "unsigned": unsigned,
    "pseudonyms": lambda text: Pseudonyms(b"k" * 32).applied(f"{text}@%40"),
    "redact": lambda text: redact(text.encode()),
    "printable": printable,
    "json": json_printable,
    "markdown": markdown,
    "dvcignore": ignore,
    "lock": lock,
    "bucket": bucket,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_reads_others_texts_is_linear(name: str) -> None:
    for text in hostile("a0 .@%?/:=&_\\\x1b"):
        with in_time(f"{name} of {text[:10]!r}..."):
            FUNCTIONS[name](text)
