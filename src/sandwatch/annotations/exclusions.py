"""Labels that people took out, each with its reason: ``exclusions.csv`` in the region's folder ``annotations``, in git.

A line names a ``feature_id``, or a ``label_id`` for all that a person left on an image; ``pixels`` says what becomes of
the ground under it, ``rules.py`` what follows. Without the file nothing is excluded.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from sandwatch import listing, text
from sandwatch.errors import InputError
from sandwatch.files import whole

FILE = "exclusions.csv"
PIXELS = ("ignore", "other")
"""ignore: a mine may well be there; its pixels count in neither loss nor metric. other: the label is proven wrong and
there is no mine; its pixels teach that."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """One thing that must not be learnt from.

    Attributes:
        id: a feature id, or a label id.
        pixels: one of ``PIXELS``.
        reason: why, in a person's words, on one line; it is public wherever the repository is.
    """

    id: str
    pixels: Literal["ignore", "other"] = "ignore"
    reason: str

    def __post_init__(self) -> None:
        if not self.id or self.id != self.id.strip():
            raise InputError("exclusion", got=f"id {self.id!r}", expected="a feature id or a label id", fix="name one")
        if self.pixels not in PIXELS:
            raise InputError(
                f"exclusion of {self.id}, pixels",
                got=repr(self.pixels),
                expected="ignore (a mine may be there) or other (there is none)",
                fix="choose one",
            )
        if not self.reason.strip() or len(self.reason.splitlines()) > 1:
            raise InputError(
                f"exclusion of {self.id}, reason", got=repr(self.reason), expected="one line of text", fix="say why"
            )

    def __str__(self) -> str:
        return f"pixels {self.pixels}: {self.reason}"


COLUMNS = tuple(field.name for field in fields(Exclusion))


def read(inputs: Path) -> dict[str, Exclusion]:
    """The exclusions of a region by id; none where there is no file.

    Args:
        inputs: the region's folder ``annotations``.

    Raises:
        InputError: another column, a value that is not allowed, or an id that is there twice; names the line.
    """
    path = inputs / FILE
    if not path.is_file():
        return {}
    header, rows = listing.read(path)
    if sorted(header) != sorted(COLUMNS):
        raise InputError(
            str(path),
            got=f"columns {', '.join(header) or 'none'}",
            expected=", ".join(COLUMNS),
            fix="correct the first line",
        )
    found: dict[str, Exclusion] = {}
    for where, entry in rows:
        try:
            one = Exclusion(**entry | {"pixels": text.alike(entry["pixels"])})  # type: ignore[arg-type]  # it checks its pixels
        except InputError as error:
            raise InputError(f"{where}: {error.what}", got=error.got, expected=error.expected, fix=error.fix) from None
        if one.id in found:
            raise InputError(where, got=f"id {one.id} again", expected="an id once", fix="delete one of the two")
        found[one.id] = one
    return found


def write(inputs: Path, exclusions: Iterable[Exclusion]) -> Path:
    """Writes the exclusions of a region, sorted by id: the same exclusions, the same bytes.

    Returns:
        The file, in the folder ``inputs``.
    """
    path = inputs / FILE
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(one) for one in sorted(exclusions, key=lambda one: one.id))
    return path
