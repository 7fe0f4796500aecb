"""Compares a dvc.lock made here with the committed one; `--record` writes what the comparison needs elsewhere.

Data stages must match exactly on any machine. train, evaluate and infer must match exactly on the instruction set that
the lock was made with (.ci/reference.json), and elsewhere their metrics must agree within TOLERANCE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

DATA_STAGES = ("aoi", "export", "annotations", "chips")
REFERENCE = Path(__file__).with_name("reference.json")
METRICS = Path("results/evaluate/metrics.json")
TOLERANCE = 0.05
"""Largest difference of ap, f1, precision, recall and iou on another instruction set."""
COMPARED = ("ap", "f1", "precision", "recall", "iou")


def outputs(lock: Path, stage: str) -> dict[str, str]:
    """Hash of each output of a stage."""
    return {out["path"]: out["md5"] for out in yaml.safe_load(lock.read_text())["stages"][stage]["outs"]}


def instruction_set() -> str:
    """AVX2 where this machine can run reproducible mode's instruction set, else what torch falls back to."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX2" if capability in ("AVX2", "AVX512") else capability


def record() -> None:
    """Writes the instruction set and the metrics of the results that lie here."""
    metrics = json.loads(METRICS.read_text())
    value = {"instruction_set": instruction_set(), "metrics": {key: metrics[key] for key in COMPARED}}
    REFERENCE.write_text(json.dumps(value, indent=2) + "\n")


def compare(committed: Path, made: Path) -> list[str]:
    """Lines that say what differs; empty where all agrees."""
    reference: dict[str, Any] = json.loads(REFERENCE.read_text())
    exact = instruction_set() == reference["instruction_set"]
    stages = list(yaml.safe_load(committed.read_text())["stages"])
    faults = []
    for stage in stages:
        before, after = outputs(committed, stage), outputs(made, stage)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        verdict = "same hashes" if not changed else f"differs: {', '.join(changed)}"
        print(f"{stage:12} {verdict}")
        if changed and (exact or stage in DATA_STAGES):
            faults.append(f"{stage}: {', '.join(changed)}")
    if exact:
        print(f"instruction set {reference['instruction_set']}, as the lock was made with: hashes decide")
        return faults
    print(f"instruction set {instruction_set()}, the lock was made with {reference['instruction_set']}: metrics decide")
    metrics = json.loads(METRICS.read_text())
    for key, expected in reference["metrics"].items():
        difference = abs(metrics[key] - expected)
        print(f"{key:12} {metrics[key]:.4f} here, {expected:.4f} recorded, tolerance {TOLERANCE}")
        if not difference <= TOLERANCE:
            faults.append(f"{key} is off by {difference:.4f}")
    return faults


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        record()
    else:
        found = compare(Path(sys.argv[1]), Path(sys.argv[2]))
        if found:
            sys.exit("error: dvc.lock is not reproduced: " + "; ".join(found))
