"""The one exception that users are meant to see, and what of others they may see."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from sandwatch.printable import printable

_WORD = re.compile(r"\S+")
_MARK = re.compile(r"(?::|%(?:25)*3a)(?:\\?/|%(?:25)*2f){2}", re.IGNORECASE)
"""What stands between scheme and host, as it is or as JSON and queries write it, queries within queries too."""
_SCHEME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+.-"
"""Letters of a scheme. Source: RFC 3986, 3.1."""

LONGEST = 600
"""Characters of one thing in a message: whoever wrote it, the message stays one that people read."""


class InputError(Exception):
    """Something the user gave can't be used; ``str()`` of it is the single line that they read.

    Stages and the command line print that line and exit with status 1, without a traceback. Any other exception is a
    defect of ours and keeps its traceback.

    Args:
        what: the thing at fault, by name: a file, a column, a params key, an observation.
        got: what was found there.
        expected: what is allowed there.
        fix: what to do next, as an imperative.
    """

    def __init__(self, what: str, *, got: object, expected: str, fix: str) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        super().__init__(printable(" ".join(f"{_short(what)}: got {_short(got)}; expected {expected}; {fix}".split())))

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[()]]:
        """Lets worker processes hand the error back."""
        return partial(InputError, self.what, got=self.got, expected=self.expected, fix=self.fix), ()


def _short(shown: object) -> str:
    text = str(shown)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"


def unsigned(message: object) -> str:
    """A client's message with every address in it cut down to scheme, host and path.

    Whoever has the rest may have access: user names and passwords, signatures, ids of uploads that can be resumed.
    Clients write addresses whole, or only from the path on. One ends at a blank: in doubt too much is left out.
    """
    return _WORD.sub(lambda word: _bare(word[0]), str(message))


def _bare(word: str) -> str:
    mark = _MARK.search(word)
    before, after = (word, "") if mark is None else (word[: mark.start()], word[mark.end() :])
    path, _, query = before.partition("?")
    if mark is None or query:
        return path if query else word
    try:
        address = urlsplit("//" + after.replace(r"\/", "/"))
    except ValueError:  # brackets that hold no IPv6 address
        return f"{before.rstrip(_SCHEME)}an address"
    host, path = address.netloc.rpartition("@")[2], address.path
    if inner := _MARK.search(path):  # an address within an address
        path = path[: inner.start()].rstrip(_SCHEME)
    return f"{before}://{host}{path}"
