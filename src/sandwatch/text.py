"""What people's files say: the one place that turns bytes into text, and compares what was written by different hands.

A text is in UTF-8, or in UTF-16 or UTF-32 as its byte order mark or its zero bytes say. What is none of these is taken
for Windows-1252, which spreadsheets write in western Europe and America, as long as all of its signs beyond ASCII are
letters or quotes of it; a line tells that. Anything else is refused: a guess would give names other letters.

Names are in Unicode's form NFC from here on. macOS writes file names in NFD, where an accent is a sign of its own.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from sandwatch.errors import InputError
from sandwatch.stage import progress

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the codecs that take them away. Source: The Unicode Standard, 23.8."""
WINDOWS = "windows-1252"
_NO_WESTERN_LETTER = re.compile("[^\t\n\r -~\xa0°ªºšžœßŠŒÀ-ÖØ-öø-ÿ‘’“”–—]")  # noqa: RUF001
"""What no western European name is written with: where bytes of another code page are read as Windows-1252, such as
DOS's, it is nearly always among them."""

_UTF8_LETTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
"""A sign beyond ASCII in UTF-8. Source: RFC 3629, 4."""

POSING = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file", "fetch it: git lfs pull"),
    (rb"(?:md5: |outs:\s*\n|wdir: )", "a pointer of DVC, not the file", "fetch it: dvc pull"),
    (rb"(?i)(?:<!doctype html|<html|<head)", "a web page, such as a login or an error", "sign in and fetch it again"),
    (rb"(?is)<\?xml[^>]*>\s*<error", "the refusal of a storage service", "look at what it says, and fetch it again"),
    (rb"PK\x03\x04", "a ZIP archive (workbooks of spreadsheets are such too)", "unpack it, or save it as expected"),
    (rb"\x1f\x8b", "a gzip archive", "unpack it: gunzip"),
    (rb"\xd0\xcf\x11\xe0", "a workbook or document of Microsoft Office", "save it as expected"),
    (rb"%PDF-", "a PDF", "export it as expected"),
    (rb"SQLite format 3", "a database, such as a GeoPackage", "export it as expected: ogr2ogr"),
    (rb"\x89HDF|CDF[\x01\x02]", "a NetCDF or HDF5", "convert it: gdal_translate"),
    (rb"\x00\x00\x00\x0cjP|\xff\x4f\xff\x51", "a JPEG 2000", "convert it: gdal_translate"),
    (rb"\x89PNG|\xff\xd8\xff", "a picture without a place on the earth", "export it as expected"),
)
"""How content begins that stands under another file's name, what it is, and what helps."""
_HEAD = 512
"""Bytes of a file by which it is told what it is."""


def posing(head: bytes) -> tuple[str, str] | None:
    """What a file really is that isn't what its name says, and what helps; None where that isn't known.

    Args:
        head: its first bytes.
    """
    if not head:
        return "an empty file, as a copy that failed leaves it", "fetch it again"
    start = head[:_HEAD].removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.strip(b"\0"):
        return "nothing but zeros, as a copy that failed leaves it", "fetch it again"
    return next(((what, fix) for sign, what, fix in POSING if re.match(sign, start)), None)


def posing_file(path: Path) -> tuple[str, str] | None:
    """:func:`posing` of a file on this machine; None where it can't be read."""
    try:
        with path.open("rb") as file:
            return posing(file.read(_HEAD))
    except OSError:
        return None


def encoding(head: bytes) -> str | None:
    """The codec that the first bytes of a text ask for, None where they ask for none: UTF-8, then, if anything."""
    for mark, codec in MARKS:
        if head.startswith(mark):
            return codec
    # The first sign of a table or of JSON is one of ASCII.
    if len(head) > 3 and head[1] == 0 != head[0]:
        return "utf-16-le" if head[2] else "utf-32-le"
    if len(head) > 3 and head[0] == 0:
        return "utf-16-be" if head[1] else "utf-32-be"
    return None


def decode(content: bytes, name: object) -> str:
    """The text in a file's content, line breaks as they are.

    Args:
        content: of the file, whole.
        name: of the file, for people.

    Raises:
        InputError: it is no text, or in a code that can't be told; names the line.
    """
    if content and (known := posing(content)):
        raise InputError(str(name), got=known[0], expected="text in UTF-8", fix=known[1])
    codec = encoding(content[:4]) or "utf-8"
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        fault = error
    line = content.count(b"\n", 0, fault.start) + 1
    damaged = len(_UTF8_LETTER.findall(content)) > content.decode(errors="replace").count("\ufffd")
    if codec != "utf-8" or b"\0" in content or damaged:
        raise InputError(
            f"{name}, line {line}",
            got=f"bytes that are no {codec.upper()}, though the rest is",
            expected="text in UTF-8",
            fix="fetch it again, or save it as UTF-8",
        )
    text = content.decode(WINDOWS, errors="replace")
    strange = _NO_WESTERN_LETTER.search(text)
    there = strange.start() if strange else next(i for i, sign in enumerate(text) if not sign.isascii())
    line = text.count("\n", 0, there) + 1
    around = " ".join(text[max(there - 20, 0) : there + 20].split())
    if strange:
        raise InputError(
            f"{name}, line {line}",
            got=f"bytes that are no UTF-8; as Windows-1252 they would be {around!r}",
            expected="text in UTF-8",
            fix="save it as UTF-8",
        )
    progress(f"note: {name}, line {line}: read as Windows-1252: {around!r}; if that is wrong, save the file as UTF-8")
    return text


def read(path: Path) -> str:
    """The text of a file, as :func:`decode` gives it.

    Raises:
        InputError: it can't be read, or as :func:`decode`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            str(path), got=error.strerror, expected="a file that can be read", fix="check the path"
        ) from None
    return decode(content, path)


def composed(name: str) -> str:
    """A name in Unicode's form NFC, so that it is one name whoever wrote it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def alike(word: object) -> str:
    """What words have in common that mean one thing: letters in any case, ``_``, ``-`` and blanks are the same.

    ``true`` and whole numbers are words too: 1.0 is ``1``.
    """
    if isinstance(word, float) and word.is_integer():
        word = int(word)
    return " ".join(re.sub(r"[\s_\ufeff-]+", " ", composed(str(word)).casefold()).split())


def found(folder: Path, name: str) -> Path:
    """The path of a name in a folder, in whichever of Unicode's two forms a file has it; as it is where none has."""
    forms = (name, composed(name), unicodedata.normalize("NFD", name))
    for path in (folder / form for form in dict.fromkeys(forms)):
        try:
            if path.exists():
                return path
        except (OSError, ValueError):  # longer than names may be, or with a NUL
            continue
    return folder / name


def number(text: str, *, most: float = float("inf")) -> float | None:
    """The number that a text writes, with a point or a comma before its decimals; None where that can't be told.

    Args:
        text: without blanks around it.
        most: the greatest number that can be meant: ``20,123`` is none of degrees if the comma parted thousands.
    """
    plain = text.replace("\N{MINUS SIGN}", "-")
    if "," in plain:
        thousands = re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", plain)
        if plain.count(",") > 1 or "." in plain or (thousands and abs(float(plain.replace(",", ""))) <= most):
            return None
        plain = plain.replace(",", ".")
    try:
        return float(plain)
    except ValueError:
        return None
