"""What others wrote, made fit for where it is shown: nothing of it acts on a terminal, in a spreadsheet or in Markdown.

Names, labels, messages of commits and contents of files reach people through these; each says what it does to them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""Characters that are not seen but do something: controls, marks of direction and format, lone surrogates, breaks of
lines; not the two joiners, which some scripts are written with. Source: Unicode, categories Cc, Cf, Cs, Zl and Zp."""
BLANKS = frozenset("\t\n\v\f\r\x85\u2028\u2029")
FORMULAS = tuple("=+-@\t\n＝＋－＠")  # noqa: RUF001
"""What a cell begins with that spreadsheets calculate. Source: OWASP, CSV injection."""
MARKUP = str.maketrans({letter: f"&#{ord(letter)};" for letter in "&<>|[]`\\"})
"""Of Markdown and the HTML in it: what could end a cell, link, load or run something."""


def printable(text: object) -> str:
    """A text on one line in which every character is seen: nothing moves the cursor, turns or hides what is around."""
    return UNSEEN.sub(lambda found: " " if found[0] in BLANKS else "\N{REPLACEMENT CHARACTER}", str(text))


def json_printable(text: str) -> str:
    """JSON that says the same, with what is not seen written as escapes; line breaks between values stay."""
    if text.isascii() and "\x7f" not in text:  # JSON escapes the other controls
        return text
    return UNSEEN.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)


def spreadsheet(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet calculates: those that it would take for formulas begin with an apostrophe."""

    def plain(value: object) -> object:
        if not isinstance(value, str):
            return value
        text = value.replace("\r\n", "\n").replace("\r", "\n")  # pandas quotes the one, not the other
        return f"'{text}" if text.startswith(FORMULAS) else text

    texts = table.select_dtypes(["object", "string", "category"]).columns
    return table.assign(**{name: table[name].map(plain) for name in texts})


def markdown(text: object) -> str:
    """A text that Markdown shows as it is, in a cell of a table too."""
    return printable(text).translate(MARKUP)
