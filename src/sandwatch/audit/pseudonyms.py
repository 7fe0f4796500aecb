"""Annotators' addresses out of an answer of the audit, before anything is made of it that is printed or written.

A person's pseudonym is an HMAC of the address under a key that only its holder has: the same person has the same
pseudonym in every answer made with that key, and nobody without it can try addresses until one fits. It is applied to
whole answers, every text in them, so that no way of writing them can forget it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from sandwatch.errors import InputError
from sandwatch.origin import Kind

KEY = "SANDWATCH_PSEUDONYM_KEY"
LEAST_BYTES = 16
PREFIX = "annotator-"
PSEUDONYM = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")
ADDRESS = re.compile(r"\w(?:[\w.!#$&*+?^~-]|%(?!40)|'(?=\w))*(?P<host>(?:@|%40)[\w-]+(?:\.[\w-]+)*)?")
"""A word, and its host where it is shaped as an address, as in a message or, encoded, in a URL; too much rather than
too little. Words without a host match too, so that no word is read again from each of its letters on."""
PERSON = re.compile(r"(?:^|_)(?:by|reviewers?|annotators?|users?|authors?|emails?|owners?|assignees?)$")
"""Names of columns and keys, in snake case, that hold a person, whatever form the person's name has."""
JSON_COLUMNS = ("reviews", "source_images")
FIXED = frozenset(
    ("state", "kind", "confidence", "use", "fold", "change", "product", "reason", "source", "method", "training")
)
"""Fields and columns that hold words of ours: somebody who is called "high" does not change them."""
NETWORK = "network"
"""The field of a card that builds its network, in words of ours alone."""
ORIGINS = frozenset(("imagery", "labels", "model_imagery", "model_labels", "origin"))
"""Fields and columns that say what of something is invented, in the words of :data:`sandwatch.origin.Kind`."""
SHORTEST = 3
"""Letters of a name that is looked for in other texts; shorter ones stand in too many words."""
T = TypeVar("T")


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes) -> None:
        """Takes the key.

        Raises:
            InputError: it is too short.
        """
        if len(key) < LEAST_BYTES:
            raise _bad_key(f"{len(key)} bytes" if key else "no key")
        self._key = key

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Pseudonyms:
        """With the key that the environment holds.

        Raises:
            InputError: it holds none, or one that is too short.
        """
        return cls(environment.get(KEY, "").encode())

    def of(self, person: str) -> str:
        """The pseudonym of an address or a name; its case and blanks around it make no difference."""
        if PSEUDONYM.fullmatch(person):
            return person
        plain = unicodedata.normalize("NFKC", person).strip().casefold()
        return PREFIX + hmac.new(self._key, plain.encode(), hashlib.sha256).hexdigest()[:16]

    def applied(self, answer: T, *people: str | None) -> T:
        """An answer of the audit, or anything that one is made of, without people.

        Replaced are: all that a column or key for people holds; those names wherever else they stand in a text; and
        whatever is shaped as an address.

        Args:
            answer: dataclasses, tables, mappings, sequences and texts, nested.
            people: who is known beside those whom the answer names.
        """
        known = {person for person in (*people, *_people(answer)) if person}
        result: T = _Veil(self, known).over(answer)
        return result


@contextmanager
def veiled(pseudonymous: bool, *people: str | None) -> Iterator[Any]:
    """Yields what takes an answer and gives it back without people, or as it is; errors on the way lose them too.

    Args:
        pseudonymous: whether to do anything.
        people: who is known beforehand.

    Raises:
        InputError: there is no key, or what the block raises.
    """
    if not pseudonymous:
        yield lambda answer: answer
        return
    names = Pseudonyms.from_environment()

    def veil(answer: T) -> T:
        return names.applied(answer, *people)

    try:
        yield veil
    except InputError as error:
        raise InputError(
            veil(error.what), got=veil(str(error.got)), expected=veil(error.expected), fix=veil(error.fix)
        ) from None


def _bad_key(got: str) -> InputError:
    return InputError(
        f"environment variable {KEY}",
        got=got,
        expected=f"a secret of at least {LEAST_BYTES} bytes",
        fix="make one with: openssl rand -hex 32; export it, and keep it: another key gives other pseudonyms",
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _names_person(name: object) -> bool:
    return isinstance(name, str) and PERSON.search(_snake(name)) is not None


def _values(column: pd.Series) -> list[str]:
    return [value for value in column.dropna().unique() if isinstance(value, str)]


def _is_text(column: pd.Series) -> bool:
    return bool(pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _people(value: Any, name: object = None) -> Iterator[str]:
    """Whom the columns and keys for people name."""
    if isinstance(value, str):
        if _names_person(name):
            yield value
    elif isinstance(value, pd.DataFrame):
        for column in value.columns:
            if column in JSON_COLUMNS:
                for text in _values(value[column]):
                    yield from _people(_parsed(text))
            elif _names_person(column):
                yield from _values(value[column])
    else:
        for key, child in _children(value, name):
            yield from _people(child, key)


def _children(value: Any, name: object) -> Iterable[tuple[object, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Mapping):
        return [(_key(name, key), child) for key, child in value.items()]
    if isinstance(value, list | tuple):
        return [(name, child) for child in value]
    return []


def _key(name: object, key: object) -> object:
    """What a mapping's value is called: all that describes a person is the person."""
    return name if _names_person(name) else key


def _is_address(person: str) -> bool:
    found = ADDRESS.fullmatch(person)
    return found is not None and found["host"] is not None


class _Veil:
    """Replaces one set of known people, and all addresses, in anything."""

    def __init__(self, names: Pseudonyms, known: Iterable[str]) -> None:
        self._names = names
        # Addresses are found by their shape; what else people are called, by itself.
        others = {p for p in known if len(p) >= SHORTEST and not _is_address(p) and not PSEUDONYM.fullmatch(p)}
        forms = {form for person in others for form in (person, quote(person), quote(person, safe=""))}
        longest = "|".join(re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form)))
        self._known = re.compile(rf"(?<!\w)(?:{longest})(?![\w@])", re.IGNORECASE) if forms else None

    def over(self, value: Any, name: object = None) -> Any:
        """The same without people; ``name`` is what the value is called where it stands."""
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, pd.DataFrame):
            return self._table(value)
        if value is None or isinstance(value, int | float | np.generic | date | Path) or callable(value):
            return value  # paths are of this machine and in no output
        if name == NETWORK:
            return value
        if isinstance(value, Mapping):
            keys = (self._text(key) if isinstance(key, str) else key for key in value)
            return dict(zip(keys, (self.over(child, key) for key, child in _children(value, name)), strict=True))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.over(child, k) for k, child in zip(value._fields, value, strict=True)))
        if isinstance(value, list | tuple):
            return type(value)(self.over(child, name) for child in value)
        if hasattr(value, "model_dump"):
            named = {field: self.over(getattr(value, field), field) for field in type(value).model_fields}
            return type(value).model_validate(named)
        if is_dataclass(value) and not isinstance(value, type):
            return type(value)(**{each.name: self.over(getattr(value, each.name), each.name) for each in fields(value)})
        raise TypeError(f"pseudonyms don't know what may stand in a {type(value).__name__}")

    def _text(self, text: str, name: object = None) -> str:
        if name in FIXED or (name in ORIGINS and text in get_args(Kind)):
            return text
        if text and _names_person(name):
            return self._names.of(text)
        if self._known is not None:
            text = self._known.sub(self._replace, text)
        if "@" not in text and "%40" not in text:
            return text
        return ADDRESS.sub(lambda word: self._replace(word) if word["host"] else word[0], text)

    def _replace(self, match: re.Match[str]) -> str:
        found = match[0]
        return self._names.of(unquote(found) if "%" in found else found)

    def _table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Each distinct text once: tables hold hundreds of thousands of rows."""
        changed = {}
        for column in table.columns:
            if column in FIXED or column == "geometry" or not _is_text(table[column]):
                continue
            values = _values(table[column])
            if column in JSON_COLUMNS:
                other = {text: self._json(text) for text in values}
            else:
                other = {text: self._text(text, column) for text in values}
            other = {text: now for text, now in other.items() if now != text}
            if other:
                changed[column] = table[column].map(lambda value, other=other: other.get(value, value))
        return table.assign(**changed)

    def _json(self, text: str) -> str:
        parsed = _parsed(text)
        if parsed is None:
            return self._text(text)
        return json.dumps(self.over(parsed), ensure_ascii=False, sort_keys=True)
