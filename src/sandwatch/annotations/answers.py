"""What annotators answered, however it is written: ``High``, ``high`` and `` HIGH `` are one answer.

The exact word goes first; only where there is none are words compared as :func:`sandwatch.text.alike` does. A word that
could be two things is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sandwatch.text import alike

T = TypeVar("T")

YES_NO: dict[str, bool] = {
    **dict.fromkeys(("yes", "y", "true", "1"), True),
    **dict.fromkeys(("no", "n", "false", "0"), False),
}
"""What answers about yes or no mean that params.yaml doesn't name. Source: YAML 1.1, bool; 1 and 0 beside."""
LOW_HIGH: dict[str, Literal["low", "high"]] = {"low": "low", "high": "high"}
"""As params.yaml calls them. A number is neither: whether 1 is low or high, params.yaml must say."""


def meaning(answers: Mapping[str, T], answer: str | None, others: Mapping[str, T]) -> T | None:
    """What an answer means; None where there is none, or nobody knows.

    Args:
        answers: meanings by answer, as params.yaml has them.
        answer: as received.
        others: meanings of words, in lower case, that ``answers`` needs not name.
    """
    if answer is None or answer in answers:
        return None if answer is None else answers[answer]
    word = alike(answer)
    meant = {value for known, value in answers.items() if alike(known) == word}
    if len(meant) == 1:
        return meant.pop()
    return None if meant else others.get(word)


def named(values: Mapping[str, Any], name: str) -> Any:
    """The value under a name; None where there is none, or several that differ."""
    if name in values:
        return values[name]
    found = [value for key, value in values.items() if alike(key) == alike(name)]
    return found[0] if found and all(value == found[0] for value in found) else None
