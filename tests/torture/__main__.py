"""``python -m tests.torture``: see the package."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

from tests.torture.bench import known, report, torture, torture_all


def main() -> int:
    """Runs the bench; 1 where something failed."""
    modules = known()
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Attacks the pipeline in many ways.")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long in all, without preparations [2]")
    parser.add_argument("--seed", type=int, default=None, help="of all tries [a new one, which is printed]")
    parser.add_argument(
        "--only", action="append", choices=sorted(modules), help="this kind; may be given several times"
    )
    parser.add_argument("--try", dest="number", type=int, help="one try alone, as a failure's line names it")
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)), help="kinds at once [processors]")
    given = parser.parse_args()
    names = given.only or list(modules)
    seed = secrets.randbelow(10**9) if given.seed is None else given.seed
    if given.number is not None and len(names) != 1:
        parser.error("--try wants one kind: --only")
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        room = Path(folder)
        if given.number is not None:
            results = [torture(modules[names[0]], seed=seed, seconds=0, room=room, only=given.number)]
        else:
            chosen = [modules[name] for name in names]
            results = torture_all(chosen, seed=seed, minutes=given.minutes, lanes=given.lanes, room=room)
    return 0 if report(results, seed) else 1


if __name__ == "__main__":
    sys.exit(main())
