"""Compares a dvc.lock made here with the committed one; `--record` writes what the comparison needs elsewhere.

The stages before train must match exactly on any machine. train, evaluate and infer must match exactly where arithmetic
is that of the machine that made the lock (.ci/reference.json, by operation); elsewhere their metrics must agree within
TOLERANCE, and what is said names the operations that differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sandwatch.audit.history import Lock
from sandwatch.audit.retraining import TOLERANCE, differing

REFERENCE = Path(__file__).with_name("reference.json")
METRICS = Path("results/evaluate/metrics.json")
COMPARED = ("ap", "f1", "precision", "recall", "iou")


def probe() -> dict[str, str]:
    """What this machine computes in reproducible mode with the threads of params.yaml."""
    from sandwatch.reproducible import pin

    pin(yaml.safe_load(Path("params.yaml").read_text())["compute"]["threads"])
    from sandwatch import arithmetic

    return arithmetic.probe()


def record() -> None:
    """Writes this machine's arithmetic and the metrics of the results that lie here."""
    metrics = json.loads(METRICS.read_text())
    value = {"operations": probe(), "metrics": {key: metrics[key] for key in COMPARED}}
    REFERENCE.write_text(json.dumps(value, indent=2) + "\n")


def compare(
    committed: Lock, made: Lock, *, reference: Mapping[str, Any], here: Mapping[str, str], metrics: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """Whether a lock is reproduced.

    Args:
        committed: the lock as committed.
        made: the one made here.
        reference: what was recorded with the committed one.
        here: what :func:`probe` found.
        metrics: of the evaluation made here.

    Returns:
        Lines that say what was compared, and faults: none where all agrees.
    """
    others = differing(reference["operations"], here)
    data = set(committed.upstream("train")) - {"train"}
    lines, faults = [], []
    for name in dict.fromkeys((*committed.names, *made.names)):
        before, after = (stage.outs if (stage := lock.stage(name)) else {} for lock in (committed, made))
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        lines.append(f"{name:12} " + (f"differs: {', '.join(changed)}" if changed else "same hashes"))
        if changed and (name in data or not others):
            faults.append(f"{name}: {', '.join(changed)}")
    if not others:
        return [*lines, f"arithmetic as the lock was made with, {len(here)} operations: hashes decide"], faults
    lines.append(f"arithmetic differs from that of the lock in {', '.join(others)}: metrics decide")
    for key, expected in reference["metrics"].items():
        lines.append(f"{key:12} {metrics[key]:.4f} here, {expected:.4f} recorded, tolerance {TOLERANCE}")
        if not abs(metrics[key] - expected) <= TOLERANCE:  # NaN is beyond
            faults.append(f"{key} is off by {abs(metrics[key] - expected):.4f}")
    return lines, faults


def main() -> None:
    """Compares the two locks that are named, or records."""
    if sys.argv[1:] == ["--record"]:
        record()
        return
    committed, made = (Lock(Path(path).read_text()) for path in sys.argv[1:])
    reference, metrics = (json.loads(path.read_text()) for path in (REFERENCE, METRICS))
    lines, faults = compare(committed, made, reference=reference, here=probe(), metrics=metrics)
    print("\n".join(lines))
    if faults:
        sys.exit("error: dvc.lock is not reproduced: " + "; ".join(faults))


if __name__ == "__main__":
    main()
