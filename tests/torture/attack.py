"""What a kind of attack is, and what becomes of one try."""

from __future__ import annotations

import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from sandwatch.errors import InputError

OUTCOMES = ("right", "refused", "quarantined", "skipped")
ROOT = Path(__file__).parents[2]
LONGEST_LINE = 2_000
"""Characters of an error: more is no line that anybody reads."""


class Kind(Protocol):
    """A way to attack; one instance makes many tries, each in a folder of its own, which is removed after it.

    A module of :mod:`tests.torture.kinds` has a class ``Attack`` of this shape.

    Attributes:
        share: of the time, against the other kinds.
        deadline_s: a try that takes longer hangs.
    """

    share: float
    deadline_s: float

    def __init__(self, scratch: Path) -> None:
        """Prepares what all tries share, in a folder that lasts as long as they do."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        """One try.

        Returns:
            How many inputs came to which of ``OUTCOMES``.

        Raises:
            Failure: something else came of one.
            InputError: it was refused.
        """


class Failure(Exception):
    """The product failed; ``word`` says how, ``str()`` of it what was seen."""

    def __init__(self, word: str, detail: str) -> None:
        self.word = word
        super().__init__(detail)


def expect(holds: bool, word: str, detail: object) -> None:
    """Raises a failure where something does not hold."""
    if not holds:
        raise Failure(word, str(detail))


def drawn_from(seed: int, kind: str, number: int) -> Random:
    """The one source of chance of a try."""
    return Random(f"{seed}/{kind}/{number}")


def refused(error: InputError) -> Counter[str]:
    """Counts an error, if a person can read it.

    Raises:
        Failure: it is no line, or holds what a terminal would obey.
    """
    said = str(error)
    expect(
        "\n" not in said and len(said) <= LONGEST_LINE, "unreadable error", f"{len(said)} characters: {said[:300]!r}"
    )
    expect(not obeyed(said), "escapes", f"an error with {sorted(obeyed(said))[:5]}: {said[:300]!r}")
    return Counter(refused=1)


def obeyed(text: str) -> set[str]:
    """The characters of a text that a terminal would obey rather than show: controls, directions, lone surrogates.

    Source: Unicode's general categories Cc and Cs, and bidirectional formatting (UAX 9, 2).
    """
    directions = {*"\u061c\u200e\u200f", *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
    return {c for c in text if c != "\n" and (unicodedata.category(c) in ("Cc", "Cs") or c in directions)}


def attempt(kind: Kind, draw: Random, folder: Path) -> Counter[str]:
    """One try, judged: any exception but an ``InputError`` is a defect.

    Raises:
        Failure: so.
    """
    try:
        return kind.attempt(draw, folder)
    except InputError as error:
        return refused(error)
    except Exception as error:
        raise failure(error) from error


def failure(error: Exception) -> Failure:
    """An exception as a failure, with the place in the product that raised it."""
    if isinstance(error, Failure):
        return error
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/sandwatch/" in frame.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "the bench"
    said = " ".join(str(error).split())[:200].encode("ascii", "backslashreplace").decode()
    return Failure("traceback", f"{type(error).__name__} at {where}: {said}")


def together(inputs: Sequence[bytes], judge: Callable[[Sequence[bytes]], Counter[str]]) -> Counter[str]:
    """Judges many inputs at once; where they fail, one of those that do is found by halving and told.

    Raises:
        Failure: they fail.
        InputError: they are refused.
    """
    try:
        return judge(inputs)
    except InputError:
        raise
    except Exception as error:
        first = failure(error)
        while len(inputs) > 1:
            half = inputs[: len(inputs) // 2]
            inputs = half if _fails(half, judge) else inputs[len(half) :]
        lone = f"{inputs[0][:200]!r}" if _fails(inputs, judge) else "only together"
        raise Failure(first.word, f"{first}; {lone}") from error


def _fails(inputs: Sequence[bytes], judge: Callable[[Sequence[bytes]], Counter[str]]) -> bool:
    try:
        judge(inputs)
    except InputError:
        return False
    except Exception:  # noqa: BLE001  # whatever it is: it was raised before, and is told
        return True
    return False
