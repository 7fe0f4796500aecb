"""How calls to services are repeated: one policy for all of them, with waits that tests can shorten.

The client libraries' own retries are switched off where this one is used, so that there is one count and one clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import stamina

from sandwatch.errors import InputError

ATTEMPTS = 8
"""Waits of 1, 2, 4, ... 60 s between them: about two minutes, which outlasts a restart and a per-minute quota."""
LONGEST_WAIT_S = 60.0
WAIT_FACTOR = "SANDWATCH_WAIT_FACTOR"
"""Environment variable: every wait is multiplied by it. Results don't depend on it."""


def retrying(transient: Callable[[Exception], bool]) -> Iterator[stamina.Attempt]:
    """Attempts at one call, with exponentially growing waits between them, without jitter.

    Args:
        transient: whether an error may go away by itself; any other is raised at once.

    Yields:
        Context managers: ``for attempt in retrying(...): with attempt: call()``. The last attempt's error is raised.

    Raises:
        InputError: the factor in the environment is no number.
    """
    # It would log each error with all that the client says, links with their signatures too.
    stamina.instrumentation.set_on_retry_hooks(())
    factor = _factor()
    yield from stamina.retry_context(
        on=transient,
        attempts=ATTEMPTS,
        timeout=None,
        wait_initial=1.0 * factor,
        wait_max=LONGEST_WAIT_S * factor,
        wait_jitter=0.0,
    )


def pause(seconds: float) -> None:
    """Sleeps for ``seconds`` times the factor in the environment."""
    time.sleep(seconds * _factor())


def _factor() -> float:
    text = os.environ.get(WAIT_FACTOR, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if factor < 0:
        raise InputError(
            f"environment variable {WAIT_FACTOR}",
            got=repr(text),
            expected="a number, 0 or more",
            fix=f"run: unset {WAIT_FACTOR}",
        )
    return factor
