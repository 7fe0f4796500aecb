"""Takes credentials out of addresses before anything is frozen: a snapshot is kept, copied and pushed for years.

Exports hold signed links to the imagery (Google's ``X-Goog-Signature``, Amazon's ``X-Amz-Signature``, Azure's ``sig``)
and tile addresses with access tokens. A snapshot needs none of them, and they differ at every export. No list of names
is whole, so the names don't matter: of every address stay scheme, host, port and path. User names, queries, fragments
and parameters of the path go.

An address in a row may be JSON in JSON in a string, and may be percent-encoded inside another one. So each character is
read however often it was escaped; Python's parser of addresses says what is allowed; what isn't is cut out of the bytes
as they were received.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import urlsplit

_SUSPECT = re.compile(rb'[?#&;%/\\](?:(?<=[?#&;%])|(?<=\\)u00[2-7]|(?<=/)[^/\s"@]*@)')
"""What stands in every address that holds more than is allowed: one of ``?#&;``, perhaps escaped, or a user name. Few
words have it, and the others aren't looked at. It begins with one set of characters, because that is four times as fast
as alternatives."""
_WORD = re.compile(rb'(?:[^"\\\s]+|(?<!\\)\\++(?!["nrtbf]|u00[01][0-9a-fA-F]|u002[02]))+')
"""A run without blanks and quotes, escaped ones too. Backslashes are taken all at once, so that time stays linear.
Possessive is a single character alone: of groups, Python before 3.11.5 gets that wrong (its issue 106052)."""
_ESCAPE = re.compile(r"\\++(?:u([0-9a-fA-F]{4})|(.))|%(?:25)*([0-9a-fA-F]{2})", re.DOTALL)
_PASSES = 4
"""How often a word is read, for escapes of escapes; those of one kind are read at once, however many there are."""
_AUTHORITY = re.compile("(?:^|:)//")
_UNSEEN = re.compile("[^!-~]")
_QUERY, _PARAMETER = re.compile("[?#&]"), re.compile("[;&][^;&/=]*=")


def redact(line: bytes) -> tuple[bytes, int]:
    """Cuts every address down to scheme, host, port and path.

    What looks like a query without an address before it (``name.tif?a=b``, ``&a=b``) is the end of one, and goes too.
    Everything else stays byte for byte. The time is linear in the line's length.

    Returns:
        the line, and how many addresses were shortened.
    """
    parts: list[bytes] = []
    shortened = done = 0

    def cut(match: re.Match[bytes]) -> bytes:
        nonlocal shortened
        word = match[0]
        if not _SUSPECT.search(word):
            return word
        bare = _bare(word)
        shortened += bare != word
        return bare

    for suspect in _SUSPECT.finditer(line):
        if suspect.start() < done:
            continue
        # Between two quotes at most; the second one belongs to it, since backslashes before it are the quote's.
        begin = line.rfind(b'"', done, suspect.start()) + 1 or done
        end = line.find(b'"', suspect.start()) + 1 or len(line)
        parts += line[done:begin], _WORD.sub(cut, line[begin:end])
        done = end
    return b"".join([*parts, line[done:]]), shortened


def _bare(word: bytes) -> bytes:
    """What is allowed of a word that may hold an address."""
    plain, starts = word.decode("latin-1"), list(range(len(word) + 1))
    for _ in range(_PASSES):
        plain, starts = _unescaped(plain, starts)
    characters = list(_UNSEEN.sub("_", plain))
    # A file's name may hold an encoded '?' or '#'. It begins a query where a value or an encoded address is around it.
    encoded = [mark for mark in re.finditer("[:?#]", plain) if word[starts[mark.start()]] == ord("%")]
    inner = next((mark.start() for mark in encoded if mark[0] == ":"), len(plain))
    values = plain.rfind("=")
    for mark in encoded:
        if values < mark.start() < inner:
            characters[mark.start()] = "_"
    return b"".join(word[starts[first] : starts[last]] for first, last in _allowed("".join(characters)))


def _unescaped(text: str, starts: list[int]) -> tuple[str, list[int]]:
    """Reads escapes once; ``starts`` says of each character where it stands in the word, and of the end."""
    read: list[str] = []
    places: list[int] = []
    done = 0
    for escape in _ESCAPE.finditer(text):
        unicode, escaped, percent = escape.groups()
        read += text[done : escape.start()], escaped or chr(int(unicode or percent, 16))
        places += starts[done : escape.start() + 1]
        done = escape.end()
    return "".join([*read, text[done:]]), places + starts[done:]


def _allowed(plain: str) -> Iterator[tuple[int, int]]:
    """The spans of a word in plain ASCII that stay."""
    authorities = [match.end() for match in _AUTHORITY.finditer(plain)]
    head = authorities[0] if authorities else len(plain)
    query = _QUERY.search(plain, 0, head)
    if query and "=" in plain[query.end() :]:
        yield 0, query.start()
        return
    yield 0, head
    for start, following in pairwise([*authorities, len(plain)]):
        try:
            parts = urlsplit("//" + plain[start:following])
        except ValueError:  # no host that there can be
            return
        end = start + len(parts.netloc) + len(parts.path)
        parameter = _PARAMETER.search(plain, start, end)
        yield start + len(parts.netloc) - len(parts.netloc.rpartition("@")[2]), parameter.start() if parameter else end
        if parameter or end < following:
            return
