"""What a training that was run again proves: bits where arithmetic is the same, and elsewhere no more than metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sandwatch.audit.chain import WEIGHTS, broken, unverified
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.record import Link
from sandwatch.files import sha256
from sandwatch.reproducible import RECORD

RESULTS, METRICS = "train", "metrics.json"
"""What the folder is called that a training's metrics lie in, and they. Source: dvc.yaml."""
COMPARED = ("val_ap", "val_f1")
TOLERANCE = 0.05
"""Largest difference of a metric between 0 and 1 that another arithmetic explains. Seen between processors of two
makers whose square roots differed in every step of a training: 0.003 in average precision."""

Operations = Mapping[str, str]
"""A hash of the results, by operation; as :func:`sandwatch.arithmetic.probe` finds them."""


def differing(there: Operations, here: Operations) -> tuple[str, ...]:
    """The operations that give other results, or that only one of the two knows."""
    return tuple(sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name)))


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A training that is about to run again in a clone of its revision.

    Attributes:
        root: of the clone.
        recorded: on what arithmetic the model was trained; None where the revision doesn't say.
    """

    root: Path
    recorded: Operations | None

    @classmethod
    def before(cls, root: Path, *, weights_sha256: str) -> Self:
        """Reads what the revision recorded, before the training overwrites it.

        Args:
            root: of the clone.
            weights_sha256: of the model.
        """
        return cls(root=root, recorded=_operations(root, weights_sha256))

    def judge(self, link: str, different: str, outs: Mapping[str, str], objects: Objects) -> Link:
        """The link of a training that gave other hashes.

        A model is accused only where the arithmetic is known to be that of its training.

        Args:
            link: its name.
            different: what differs.
            outs: of the training as recorded.
            objects: where its metrics may be.
        """
        weights = self.root / next(path for path in outs if path.rpartition("/")[2] == WEIGHTS)
        results = next((path for path in outs if path.rpartition("/")[2] == RESULTS), RESULTS)
        here = _operations(self.root, sha256(weights)) if weights.is_file() else None
        if self.recorded is None:
            reason = f"{RECORD} at that revision doesn't say on what arithmetic these weights were made"
        elif here is None:
            reason = "the training, run again, did not say on what arithmetic it ran"
        elif names := differing(self.recorded, here):
            reason = f"{', '.join(names)} give other bits here than where it was trained"
        else:
            return broken(name=link, detail=different)
        try:
            before = _metrics(objects.file(outs.get(results, ""), METRICS, results))
            metrics = _compared(before, _metrics(self.root / results / METRICS))
        except MissingError as error:
            metrics = f"its metrics can't be compared: {error}"
        except CorruptError as error:
            return broken(name=link, detail=str(error))
        detail = f"can't be proven to the bit here: {reason}; {metrics}"
        return unverified(name=link, detail=detail, remedy="run it again on a processor that gives the same bits")


def _metrics(path: Path) -> Mapping[str, float]:
    """The metrics that are compared.

    Raises:
        CorruptError: the file doesn't hold them.
    """
    try:
        said = json.loads(path.read_bytes())
        return {key: float(said[key]) for key in COMPARED}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CorruptError(f"{path.name} doesn't say {' and '.join(COMPARED)}: {error}") from None


def _compared(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    gaps = {key: abs(after[key] - before[key]) for key in COMPARED}
    beyond = [key for key, gap in gaps.items() if not gap <= TOLERANCE]  # NaN is beyond
    if beyond:
        said = ", ".join(f"{key} {before[key]:.4f} as recorded, {after[key]:.4f} here" for key in beyond)
        return f"the metrics differ by more than arithmetic explains, {TOLERANCE}: {said}"
    return f"metrics agree within {max(gaps.values()):.4f} ({', '.join(COMPARED)}; arithmetic explains {TOLERANCE})"


def _operations(root: Path, weights_sha256: str) -> Operations | None:
    """What a record says of these weights; None where there is none, or it speaks of others."""
    path = root / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return None
    match record:
        case {"weights_sha256": str(said), "operations": dict(operations)} if said == weights_sha256:
            return operations
    return None
