"""The one exception that users are meant to see, and what of others they may see."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit, urlunsplit

# Clients write addresses whole, or only from the path on. A query ends at a blank: in doubt too much is left out.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+|\S*\?\S+")


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
        super().__init__(" ".join(f"{what}: got {got}; expected {expected}; {fix}".split()))

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[()]]:
        """Lets worker processes hand the error back."""
        return partial(InputError, self.what, got=self.got, expected=self.expected, fix=self.fix), ()


def unsigned(message: object) -> str:
    """A client's message with every address in it cut down to scheme, host and path.

    Whoever has the rest may have access: user names and passwords, signatures, ids of uploads that can be resumed.
    """
    return _ADDRESS.sub(lambda found: _bare(found[0]), str(message))


def _bare(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that hold no IPv6 address
        return "an address"
    if not parts.netloc:
        return address.partition("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
