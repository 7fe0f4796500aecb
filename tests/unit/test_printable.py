"""What others wrote does nothing where it is shown."""

import csv
import io
import json
import sys
import unicodedata

import pandas as pd
import pytest

from sandwatch.printable import UNSEEN, json_printable, markdown, printable, spreadsheet

JOINERS = "\u200c\u200d"
HOSTILE = "a\x1b[31m\x9b2K\r\u202eb\u2066c\u200e\x00\udce9\u2028d\U000e0041"


def test_all_that_is_not_seen_is_known() -> None:
    """Later versions of Unicode know more of them; those of this one must be there."""
    letters = [chr(point) for point in range(sys.maxunicode + 1)]
    unseen = {letter for letter in letters if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    found = {letter for letter in letters if UNSEEN.fullmatch(letter)}
    assert unseen - found == set(JOINERS)
    assert not {unicodedata.category(letter)[0] for letter in found - unseen} - {"C", "M"}


def test_a_text_is_one_line_of_what_is_seen() -> None:
    assert printable(HOSTILE) == "a�[31m�2K �b�c��� d�"
    assert printable("नर्म\u200dदा, Kå ￥ ok") == "नर्म\u200dदा, Kå ￥ ok"


def test_json_says_the_same() -> None:
    value = {"a": [HOSTILE, "é", "नर्म\u200dदा"], HOSTILE: 1}
    text = json.dumps(value, ensure_ascii=False, indent=1)
    shown = json_printable(text)
    assert json.loads(shown) == value
    assert not UNSEEN.search(shown.replace("\n", ""))
    assert "é" in shown
    assert json_printable('{"a": "b\x7fc"}') == '{"a": "b\\u007fc"}'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])  # noqa: RUF001
def test_a_spreadsheet_calculates_no_text(start: str) -> None:
    table = pd.DataFrame({"text": [f"{start}cmd|' /C calc'!A0", "fine", None], "number": [-1.5, 2.0, -3.0]})
    written = spreadsheet(table).to_csv(index=False)
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[1][0] == f"'{start}cmd|' /C calc'!A0".replace("\r", "\n")
    assert [row[1] for row in rows[1:]] == ["-1.5", "2.0", "-3.0"]
    plain = table[1:]
    assert spreadsheet(plain).to_csv() == plain.to_csv()


def test_markdown_shows_a_text_as_it_is() -> None:
    shown = markdown("x|y\n<img src=x onerror=1> ![](http://e.example/a) `c` \\")
    assert not set("|<>[]`\\\n") & set(shown)
    assert markdown("Kali_2 site-1 (A, B.c)") == "Kali_2 site-1 (A, B.c)"
