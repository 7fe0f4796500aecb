"""A kind of attack on a product that has every fault that the bench must find."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

from sandwatch.errors import InputError
from tests.torture.attack import expect

FAULTS = ("none", "refused", "traceback", "false", "two lines", "escapes", "hang", "crash", "memory")


class Attack:
    """A try has one of the faults, chosen by its chance."""

    share = 1.0
    deadline_s = 0.8

    def __init__(self, scratch: Path) -> None:
        """Nothing to prepare."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        fault = draw.choice(FAULTS)
        print(f"planted: {fault}")
        if fault == "refused":
            raise InputError("a row", got="nonsense", expected="sense", fix="mend it")
        if fault == "traceback":
            raise KeyError("a key")
        expect(fault != "false", "false", "a row is in no table")
        if fault == "two lines":
            raise InputError("a", got="b", expected="c" * 3_000, fix="d")
        if fault == "escapes":
            error = InputError("a", got="b", expected="c", fix="d")
            error.args = ("a: got \x1b[8m; expected c; d",)  # as if InputError let it through
            raise error
        if fault == "hang":
            time.sleep(60)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "memory":
            bytearray(100 << 30)
        return Counter(right=2, quarantined=1)
