"""What a training that gave other hashes says about a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandwatch.audit.objects import CorruptError, MissingError
from sandwatch.audit.record import Link
from sandwatch.audit.retraining import Retraining
from sandwatch.files import sha256

THERE = {"AdamW": "aa", "exp": "bb"}
METRICS = {"val_ap": 0.91, "val_f1": 0.85, "val_loss": 0.3}
MODEL = "5" * 64


class Kept:
    """Stands for DVC's objects: the recorded metrics, or why they can't be had."""

    def __init__(self, folder: Path, error: Exception | None) -> None:
        self._folder, self._error = folder, error

    def file(self, folder: str, path: str, workspace: str | None = None) -> Path:
        assert (folder, path, workspace) == ("1.dir", "metrics.json", "results/train")
        if self._error:
            raise self._error
        return self._folder / "recorded.json"


def judged(
    root: Path,
    *,
    recorded: dict[str, str] | str | None = THERE,
    of: str = MODEL,
    here: dict[str, str] | None = THERE,
    missing: Exception | None = None,
    **metrics: Any,
) -> Link:
    """Plants a record, then a training that gives other weights on some arithmetic, with some metrics."""

    def write(path: str, value: Any) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(value if isinstance(value, str) else json.dumps(value))

    write("recorded.json", METRICS)
    if recorded is not None:
        write(
            "data/arithmetic.json",
            recorded if isinstance(recorded, str) else {"weights_sha256": of, "operations": recorded},
        )
    retraining = Retraining.before(root, weights_sha256=MODEL)
    write("models/model.safetensors", "other weights")
    if here is not None:
        write("data/arithmetic.json", {"weights_sha256": sha256(root / "models/model.safetensors"), "operations": here})
    write("results/train/metrics.json", METRICS | metrics)
    return retraining.judge(
        "rebuild train",
        "models differ",
        {"models/model.safetensors": "2", "results/train": "1.dir"},
        Kept(root, missing),
    )  # type: ignore[arg-type]


def test_on_the_same_arithmetic_another_hash_breaks_the_chain(tmp_path: Path) -> None:
    assert judged(tmp_path) == Link(name="rebuild train", state="broken", detail="models differ")


def test_on_another_arithmetic_a_model_is_not_accused(tmp_path: Path) -> None:
    assert judged(tmp_path, here=THERE | {"exp": "cc", "new": "dd"}, val_ap=0.922) == Link(
        name="rebuild train",
        state="unverified",
        detail="can't be proven to the bit here: exp, new give other bits here than where it was trained; metrics "
        "agree within 0.0120 (val_ap, val_f1; arithmetic explains 0.05)",
        remedy="run it again on a processor that gives the same bits",
    )


@pytest.mark.parametrize(("val_ap", "said"), [(0.7, "0.7000"), (float("nan"), "nan")])
def test_metrics_that_arithmetic_does_not_explain_are_said_so_without_accusing(
    tmp_path: Path, val_ap: float, said: str
) -> None:
    link = judged(tmp_path, here={"AdamW": "cc", "exp": "bb"}, val_ap=val_ap)
    assert link.state == "unverified"
    assert link.detail.endswith(
        f"the metrics differ by more than arithmetic explains, 0.05: val_ap 0.9100 as recorded, {said} here"
    )


@pytest.mark.parametrize(
    "changes",
    [{"recorded": None}, {"of": "6" * 64}, {"recorded": "{"}, {"recorded": "[]"}],
    ids=["no record", "of other weights", "no JSON", "another file"],
)
def test_where_no_arithmetic_is_recorded_a_model_is_not_accused(tmp_path: Path, changes: dict[str, Any]) -> None:
    link = judged(tmp_path, **changes)
    assert link.state == "unverified"
    assert "arithmetic.json at that revision doesn't say on what arithmetic these weights were made" in link.detail
    assert "metrics agree within 0.0000" in link.detail


def test_a_training_that_records_nothing_accuses_nobody(tmp_path: Path) -> None:
    assert "did not say on what arithmetic it ran" in judged(tmp_path, here=None).detail


def test_metrics_that_can_not_be_had_are_said_so_and_spoilt_ones_break_the_chain(tmp_path: Path) -> None:
    other = {"exp": "cc"}
    link = judged(tmp_path, here=other, missing=MissingError("in no remote"))
    assert (link.state, link.detail.rpartition("; ")[2]) == (
        "unverified",
        "its metrics can't be compared: in no remote",
    )
    link = judged(tmp_path, here=other, missing=CorruptError("metrics.json is not what its hash says"))
    assert link == Link(name="rebuild train", state="broken", detail="metrics.json is not what its hash says")
