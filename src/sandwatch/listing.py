"""Reading the tables that people write: sites, scenes, annotations, exclusions.

Text as :mod:`sandwatch.text` reads it; between columns ``,``, ``;`` or tabs, whichever the header has most of, or what
a first line ``sep=;`` names, as spreadsheets write it. Names of columns may be in any case, with blanks for ``_``. Rows
without a value are left out, and so are empty cells behind the last column.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sandwatch import text
from sandwatch.errors import InputError

DELIMITERS = (",", ";", "\t")
PATH = "path"
"""The column whose values stay as they are written: files and objects of buckets have names in either form."""
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read(path: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """A table with a header.

    Returns:
        the names of its columns, in lower case with ``_`` for blanks, and for each line with a value where it is, for
        errors, and its values by column, in Unicode's form NFC (but for :data:`PATH`) and without blanks around them.

    Raises:
        InputError: it can't be read, is no table, has a column twice, or, as lines are asked for, one has more or fewer
            values than the header.
    """
    content = text.read(path)
    if told := re.match(r"sep=(.)\r?\n", content):
        delimiter = told[1]
    else:
        first = next((line for line in content.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=first.count)
    # Strict: a quote that somebody forgot would otherwise make one value of all lines up to the next one.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows = _rows(path, reader, delimiter)
    where, first_row = next(rows, ("", []))
    if told and first_row:
        where, first_row = next(rows, ("", []))
    header = [text.alike(name).replace(" ", "_") for name in first_row]
    while header and not header[-1]:
        header.pop()
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise InputError(
            f"{where}, columns",
            got=f"{', '.join(repr(name) for name in twice)} more than once",
            expected="each column once",
            fix="remove or rename one",
        )
    return header, _named(header, rows, delimiter)


def _rows(path: Path, reader: Iterator[list[str]], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    while True:
        where = f"{path}, line {reader.line_num + 1}"  # type: ignore[attr-defined]  # typeshed hides the reader's class
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                where,
                got=f"no CSV: {error}",
                expected=f"values between {NAMES.get(delimiter, delimiter)}, in quotes where they hold one",
                fix="close the quote, or double it where it belongs to a text in quotes",
            ) from None
        if row is None:
            return
        values = [value.strip().strip("\ufeff") for value in row]
        if any(values):
            yield f"{path}, line {reader.line_num}", values  # type: ignore[attr-defined]


def _named(
    header: list[str], rows: Iterator[tuple[str, list[str]]], delimiter: str
) -> Iterator[tuple[str, dict[str, str]]]:
    for where, row in rows:
        if len(row) < len(header) or any(row[len(header) :]):
            raise InputError(
                where,
                got=f"{len(row)} values",
                expected=f"{len(header)}, as in the header",
                fix=f"check the {NAMES.get(delimiter, delimiter)} between them, and quote values that hold one",
            )
        yield (
            where,
            {name: value if name == PATH else text.composed(value) for name, value in zip(header, row, strict=False)},
        )
