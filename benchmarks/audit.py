"""How long the audit takes over a long history, and how much memory: forward, its page, backward, difference.

Writes a repository with 100,000 labels, 1,000 revisions and 200 experiments (made-up tables, real files, real git),
then runs `sandwatch audit` as a user would, each command in a process of its own. Prints a table of wall time, CPU time
and largest resident memory, and exits with status 1 where a limit is broken.

Run: python benchmarks/audit.py [--folder FOLDER] [--labels N] ...
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"forward": 5.0, "backward": 15.0}
"""Seconds of wall time, on two cores that nobody else uses."""
LIMIT_MB = 1000.0


def main(
    folder: Annotated[Path | None, typer.Option(help="use the repository here, made if missing, and keep it")] = None,
    labels: int = 100_000,
    revisions: int = 1_000,
    experiments: int = 200,
    snapshots: Annotated[int, typer.Option(help="of the labels, each with more than the last")] = 20,
    models: Annotated[int, typer.Option(help="on the main branch")] = 100,
) -> None:
    """Measures the audit over a long history."""
    with tempfile.TemporaryDirectory(prefix="sandwatch-bench-") as scratch:
        root = folder or Path(scratch) / "history"
        if not (root / "dvc.lock").is_file():
            began = time.perf_counter()
            size = {"labels": labels, "revisions": revisions, "experiments": experiments, "snapshots": snapshots,
                    "models": models}  # fmt: skip
            # Elsewhere: the system counts the memory of whoever starts a process as that process's.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(make, root, size).result()
            print(f"history of {revisions} revisions and {experiments} experiments made in "
                  f"{time.perf_counter() - began:.0f} s")  # fmt: skip
        label, page = f"f{7:023d}", Path(scratch) / "page.html"
        asked = {
            "forward, revision": ["HEAD"],
            "forward, experiment": [f"exp-{experiments // 2}"],
            "all of it as JSON": ["HEAD", "--json"],
            "page": ["HEAD", "--html", str(page)],
            "backward, one label": ["--label", label],
            "backward, annotator": ["--annotator", "annotator3@example.org"],
            "difference": ["diff", "HEAD~200", "HEAD"],
        }
        print(f"{'':<22} {'wall s':>7} {'CPU s':>7} {'MB':>6}")
        late = False
        for name, arguments in asked.items():
            wall, cpu, megabytes = measure(root, arguments)
            limit = LIMITS.get(name.split(",")[0], float("inf"))
            over = wall > limit or megabytes > LIMIT_MB
            late |= over
            print(f"{name:<22} {wall:>7.2f} {cpu:>7.2f} {megabytes:>6.0f}" + "  over the limit" * over)
        print(f"the page has {page.stat().st_size / 1e6:.1f} MB")
        print(f"load on this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        raise typer.Exit(int(late))


def make(root: Path, size: dict[str, Any]) -> None:
    """Writes the history to a folder."""
    sys.path.insert(0, str(ROOT))
    from tests.audit_history import write_history

    root.mkdir(parents=True, exist_ok=True)
    write_history(root, **size, shifted=10, kind="synthetic")


def measure(root: Path, arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and largest resident megabytes of one `sandwatch audit`."""
    code = "from sandwatch.cli import main; main()"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, "audit", *arguments], cwd=root, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"sandwatch audit {' '.join(arguments)} failed")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
