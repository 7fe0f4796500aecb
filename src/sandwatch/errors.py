"""The one exception that users are meant to see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


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
