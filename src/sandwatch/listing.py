"""Reading the CSV files that people write: sites, scenes, annotations, exclusions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from sandwatch.errors import InputError


def read(path: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """A CSV in UTF-8, with or without a byte order mark, with a header.

    Returns:
        the names of its columns without blanks around them, and for each line that isn't empty where it is, for
        errors, and its values by column.

    Raises:
        InputError: it isn't UTF-8 or CSV, or, as lines are asked for, one has more or fewer values than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(path), got=str(error), expected="UTF-8", fix="save it as UTF-8") from None
    # Strict: a quote that somebody forgot would otherwise make one value of all lines up to the next one.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = _rows(path, reader)
    header = [name.strip() for name in next(rows, ("", []))[1]]
    return header, _named(header, rows)


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[str, list[str]]]:
    while True:
        where = f"{path}, line {reader.line_num + 1}"  # type: ignore[attr-defined]  # typeshed hides the reader's class
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                where,
                got=f"no CSV: {error}",
                expected="values between commas, in quotes where they hold a comma",
                fix="close the quote, or double it where it belongs to a text in quotes",
            ) from None
        if row is None:
            return
        if row:
            yield f"{path}, line {reader.line_num}", row  # type: ignore[attr-defined]


def _named(header: list[str], rows: Iterator[tuple[str, list[str]]]) -> Iterator[tuple[str, dict[str, str]]]:
    for where, row in rows:
        if len(row) != len(header):
            raise InputError(
                where,
                got=f"{len(row)} values",
                expected=f"{len(header)}, as in the header",
                fix="check the commas, and quote values that hold one",
            )
        yield where, dict(zip(header, row, strict=True))
