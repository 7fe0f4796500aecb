"""Whether what is asked about is known at all: a label that no table names is a mistake, not one that no model saw."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from sandwatch.annotations import geojson, labelbox_export
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Label, MalformedError
from sandwatch.audit.chain import ANNOTATIONS, by_section
from sandwatch.audit.history import History, Lock
from sandwatch.audit.objects import CorruptError, MissingError, Objects, read_table
from sandwatch.errors import InputError
from sandwatch.params import check

RAW = "export.ndjson"
TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "labels.parquet": ("the labels", ("feature_id", "label_id")),
    "observations.parquet": ("the observations", ("label_id",)),
    "ignored.parquet": ("the areas that are not learnt from", ("feature_id",)),
    "quarantine.parquet": ("the quarantine", ("feature_id", "label_id")),
}
"""What each table of the stage annotations is called, and its columns with ids; the likelier places first."""
ALIKE = 0.8
"""Share of letters from which on a name is nearly the same: two pseudonyms have 0.4 in common to begin with."""
COMPARED = 200
"""Names that are compared letter by letter, those that share most with what was asked."""


class Snapshot:
    """The raw rows as they were frozen; ``unread`` counts those that can't be read."""

    def __init__(self, path: Path, values: Annotations) -> None:
        """Takes a snapshot, and the params that it was read with."""
        self._path, self._values = path, values
        self._parse = geojson.parse if values.source == "geojson" else labelbox_export.parse
        self.unread = 0

    def labels(self) -> Iterator[tuple[tuple[str, ...], Label]]:
        """Every label with the names that its observation may go by."""
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    row = self._parse(line, self._values)
                except MalformedError:
                    self.unread += 1
                    continue
                for label in row.labels:
                    yield row.names, label


@dataclass
class Known:
    """All that the label sets of a history name, whether a model was trained on them or not.

    Attributes:
        ids: features and labels, each with the first place that names it.
        people: who created labels, likewise.
        days: on which labels were created.
        read, unread: how many label sets could be read whole, and how many could not.
    """

    ids: dict[str, str] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    days: set[str] = field(default_factory=set)
    read: int = 0
    unread: int = 0

    @classmethod
    def of(cls, history: History, objects: Objects) -> Known:
        """Reads tables and raw snapshots of every revision, as far as they can be reached."""
        sets: dict[str, Mapping[str, Any]] = {}
        for _, (folder, params) in history.each(_label_set):
            sets.setdefault(folder, params)
        sets.pop("", None)
        objects.fetch(sets)
        found = cls()
        for folder, params in sets.items():
            try:
                files = objects.tree(folder, ANNOTATIONS)
                objects.fetch(files.values())
                found._tables(folder, files, objects)
                whole = found._raw(objects.file(folder, RAW, ANNOTATIONS), params)
            except (MissingError, CorruptError):
                whole = False
            found.read, found.unread = found.read + whole, found.unread + (not whole)
        return found

    def _tables(self, folder: str, files: Iterable[str], objects: Objects) -> None:
        for name, (place, columns) in TABLES.items():
            if name not in files:
                continue
            table = read_table(objects.file(folder, name, ANNOTATIONS))
            texts = {column: _texts(table, column) for column in (*columns, "created_by", "created_at")}
            for column in columns:
                self._add(self.ids, texts[column], place)
            self._add(self.people, texts["created_by"], place)
            self.days |= {text[:10] for text in texts["created_at"]}

    def _raw(self, path: Path, params: Mapping[str, Any]) -> bool:
        """Takes what was received, unfit rows too; false where another version's params say how to read it."""
        try:
            values = check(Annotations, params)
        except InputError:
            return False
        for _, label in Snapshot(path, values).labels():
            ids = [label.label_id, *(drawn.feature_id for drawn in label.drawn)]
            self._add(self.ids, ids, "the raw snapshot")
            self._add(self.people, [label.created_by], "the raw snapshot")
        return True

    @staticmethod
    def _add(known: dict[str, str], names: Iterable[str | None], place: str) -> None:
        for name in names:
            if name is not None:
                known.setdefault(name, place)

    @property
    def missed(self) -> str:
        """What could not be looked into, in a few words; '' where all could."""
        return f"{self.unread} of {self.read + self.unread} label sets could not be read" if self.unread else ""


def _label_set(lock: Lock) -> tuple[str, Any]:
    """The tables of labels that a lock records, and the params that they were read with; '' where there are none."""
    stage = lock.stage(lock.maker(ANNOTATIONS) or "")
    return ("", {}) if stage is None else (stage.outs[ANNOTATIONS], by_section(stage.params).get("annotations", {}))


def _texts(table: pa.Table, column: str) -> list[str]:
    """The texts in a column; none where there is no such column."""
    values = table[column].to_pylist() if column in table.column_names else []
    return [value for value in values if isinstance(value, str) and value]


def place_of(known: Known, label: str | None, annotator: str | None, who: Callable[[str], str] | None) -> str:
    """Where a label that no model has, or somebody whose labels no model has, is named.

    Args:
        known: what is named.
        label: a feature or a label.
        annotator: a person, or with ``who`` the pseudonym of one.
        who: gives a person's pseudonym; nobody is named otherwise then.

    Raises:
        InputError: it is named nowhere; says what comes nearest, and what could not be looked into.
    """
    people = known.people if who is None else {who(person): place for person, place in known.people.items()}
    asked = annotator if who is None or annotator is None else who(annotator)
    places = []
    for option, name, names in (("--label", label, known.ids), ("--annotator", asked, people)):
        if name is None:
            continue
        if name not in names:
            raise _unknown(f"{option} {name}", nearest(name, names), known)
        places.append(f"{name} is in {names[name]}")
    return " and ".join(places)


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names that begin with what was asked, or are nearly the same."""
    mine = _pieces(name)
    likely = heapq.nlargest(COMPARED, names, key=lambda one: len(mine & _pieces(one)))
    longer = [one for one in likely if one.startswith(name)]
    return list(dict.fromkeys([*longer, *get_close_matches(name, likely, cutoff=ALIKE)]))[:3]


def _pieces(name: str) -> set[str]:
    return {name[at : at + 3] for at in range(max(len(name) - 2, 1))}


def _unknown(what: str, near: list[str], known: Known) -> InputError:
    if not known.read:
        return InputError(
            what,
            got=f"no label set that can be read here ({known.missed})",
            expected="the tables of data/annotations in the cache or a remote",
            fix="run dvc pull, or dvc fetch --all-commits; until then it is unknown, not unseen",
        )
    such = f"such as {', '.join(near)}" if near else "and none is nearly the same"
    return InputError(
        what,
        got=f"a name that none of {known.read} label sets holds" + (f" ({known.missed})" if known.unread else ""),
        expected=f"one that is known, {such}",
        fix="correct it, or look it up with sandwatch audit REV --csv labels.csv"
        + ("; dvc fetch --all-commits brings what could not be read" if known.unread else ""),
    )  # fmt: skip


__all__ = ["Known", "Snapshot", "nearest", "place_of"]
