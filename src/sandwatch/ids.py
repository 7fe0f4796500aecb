"""Ids of sites and observations. They name files and folders, so that nothing else may stand in them."""

from __future__ import annotations

import re
import unicodedata

RULE = "letters of any script, digits, '_', '-' and '.', a letter, a digit or '_' first, not too long to name a file"
MOST_BYTES = 180
"""Of an obs_id in UTF-8. Names of files may have 255, and ours put a product, a key or a suffix behind it."""
DAY_BYTES = len("_2023-01-01")
_ASCII = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What the rule means where all is ASCII, as nearly everywhere: ten times as fast."""


def names_files(name: str, *, most_bytes: int = MOST_BYTES) -> bool:
    """Whether a site_id or an obs_id may name files: see :data:`RULE`; marks that belong to letters count as letters.

    Separators, blanks, control characters and what can't be written in UTF-8 are none of these.
    """
    if name.isascii():
        return _ASCII.fullmatch(name) is not None and len(name) <= most_bytes
    kinds = [unicodedata.category(character)[0] for character in name]
    first = name[:1] == "_" or kinds[:1] in (["L"], ["N"])
    rest = all(kind in "LMN" or character in "_-." for kind, character in zip(kinds, name, strict=True))
    return first and rest and len(name.encode()) <= most_bytes


def names_site(site_id: str) -> bool:
    """Whether a text may be a site_id, so that the ids of its observations may name files too."""
    return names_files(site_id, most_bytes=MOST_BYTES - DAY_BYTES)
