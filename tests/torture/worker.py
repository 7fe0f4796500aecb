"""The process in which tries are made: the bench kills it where one hangs, and learns of it where one crashes.

It reads the number of a try from standard input and answers with a line of JSON, as often as it is asked. Whatever the
product prints goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.torture.attack import Failure, Kind, attempt, drawn_from

MOST_MEMORY = 10 << 30
"""Bytes that a try may take: more than that at once is an attack on the machine."""


def main() -> None:
    """Answers until there is nothing more to read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", help="a module with a class Attack")
    parser.add_argument("seed", type=int)
    parser.add_argument("scratch", type=Path)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, resource.RLIM_INFINITY))
    kind: Kind = importlib.import_module(given.kind).Attack(given.scratch)
    name = given.kind.rpartition(".")[2]
    print(json.dumps({"deadline_s": kind.deadline_s}), file=answers, flush=True)
    for line in sys.stdin:
        number, folder = int(line), Path(tempfile.mkdtemp(prefix="try", dir=given.scratch))
        try:
            answer: dict[str, object] = {"outcomes": attempt(kind, drawn_from(given.seed, name, number), folder)}
        except Failure as failed:
            traceback.print_exception(failed.__cause__ or failed)
            answer = {"failure": failed.word, "detail": str(failed)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
