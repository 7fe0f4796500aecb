"""What is different between two models: labels, chips, folds, params, code, and what it did to the metrics."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from sandwatch.audit import chain
from sandwatch.audit.chain import WEIGHTS
from sandwatch.audit.forward import follow
from sandwatch.audit.history import History
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.record import OWN, Audit
from sandwatch.errors import InputError

EVALUATE = "evaluate"
"""What the folder is called that an evaluation writes to. Source: dvc.yaml."""
"""Output of the stage that judges a model. Source: dvc.yaml."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """From A to B.

    Attributes:
        a, b: both audits.
        labels: a row a label that is not the same in both: feature_id, obs_id, change (``added``, ``removed``,
            ``moved``, ``reclassified``, ``moved+reclassified``), iou of its two outlines (1 where it did not move, NaN
            where it is in one only), class and confidence in both, the fold in both, and geometry (of B, of A where it
            was removed).
        exclusions: a row an entry of the quarantine with the reason ``excluded`` that is not the same in both:
            label_id, feature_id, obs_id, and why, in both (None where it is not excluded).
        observations: a row an observation that is not the same in both: obs_id, change (``added``, ``removed``,
            ``mines``, ``fold``), and has_mines and fold in both.
        windows: number of windows by change: ``added``, ``removed``, ``fold``, ``same``.
        params: dotted key to both values.
        code: source files that differ, as the cards record them.
        metrics: of the evaluation: name, a, b, change; None where one of them was not evaluated.
        rivers: likewise, a row a fold, river and metric.
        notes: what could not be compared.
    """

    a: Audit
    b: Audit
    labels: gpd.GeoDataFrame
    exclusions: pd.DataFrame
    observations: pd.DataFrame
    windows: Mapping[str, int]
    params: Mapping[str, tuple[Any, Any]]
    code: tuple[str, ...]
    metrics: pd.DataFrame | None
    rivers: pd.DataFrame | None
    notes: tuple[str, ...]


def diff(a: str, b: str, *, where: Path | None = None, remote: str | None = None, offline: bool = False) -> Difference:
    """Compares two models.

    Args:
        a: a model, a raster, a revision or an experiment: before.
        b: likewise: after.
        where: a path in the DVC repository; None for the working directory.
        remote: of DVC, to pull tables from; None for the default one.
        offline: don't ask any remote.

    Raises:
        InputError: there is no repository here, or one of the two can't be followed to its labels.
    """
    history = History.here(where)
    try:
        objects = Objects(history.root, remote=remote, offline=offline)
        audits = [follow(chain.take(target, history, objects), history, objects) for target in (a, b)]
        for audit in audits:
            if audit.labels is None or audit.observations is None or audit.windows is None:
                raise InputError(
                    f"audit diff, {audit.target}",
                    got=audit.verdict,
                    expected="a model whose labels can be reached",
                    fix=f"run sandwatch audit {audit.target}",
                )
        evaluations = [_evaluation(audit, history, objects) for audit in audits]
    finally:
        history.git.close()
    first, second = audits
    notes = [f"{audit.target}: {audit.verdict}" for audit in audits if audit.state in ("broken", "uncommitted")]
    notes += [f"{audit.target}: {why}" for audit, why in zip(audits, evaluations, strict=True) if isinstance(why, str)]
    notes += [note for audit, other in ((first, second), (second, first)) for note in _of_starts(audit, other)]
    metrics = rivers = None
    a_was, b_was = evaluations
    if not isinstance(a_was, str) and not isinstance(b_was, str):
        metrics, rivers = (_compared(one, other) for one, other in zip(a_was, b_was, strict=True))
    codes = [{} if audit.card is None else audit.card.code for audit in audits]
    return Difference(
        a=first,
        b=second,
        labels=changed_labels(*(_there(audit.labels) for audit in audits)),
        exclusions=changed_exclusions(*(_there(audit.quarantine) for audit in audits)),
        observations=_changed_observations(*(_there(audit.observations) for audit in audits)),
        windows=_changed_windows(*(_there(audit.windows) for audit in audits)),
        params=chain.changes(first.params, second.params),
        code=tuple(sorted(p for p in codes[0].keys() | codes[1].keys() if codes[0].get(p) != codes[1].get(p))),
        metrics=metrics,
        rivers=rivers,
        notes=tuple(notes),
    )


def _of_starts(audit: Audit, other: Audit) -> list[str]:
    """What is to be said of the models that one began with: their labels are none of the rows that are compared."""
    if not audit.starts:
        return []
    named = ", ".join(f"{name}, {start.target} of {start.revision}" for name, start in _starts(audit))
    notes = [f"{audit.target} began with {named}: what is compared is its own training alone"]
    gone = set(_there(other.labels)["feature_id"]) - set(_there(audit.labels)["feature_id"])
    for name, start in _starts(audit):
        if start.labels is None:
            notes.append(f"the labels of {name} of {audit.target} can't be seen from here")
            continue
        taught = start.labels.loc[start.labels["use"].str.contains("trained"), "feature_id"]
        if still := sorted(gone.intersection(taught)):
            notes.append(
                f"{len(still)} labels that {other.target} has and {audit.target} has not taught {name} of "
                f"{audit.target}, and so it too: {', '.join(still[:3])}{', ...' if len(still) > 3 else ''}"
            )
    return notes


def _starts(audit: Audit) -> list[tuple[str, Audit]]:
    return [(name, start) for name, start in audit.trainings.items() if name != OWN]


def _there(table: Any) -> Any:
    assert table is not None, "diff() has refused audits without it"
    return table


def changed_labels(before: gpd.GeoDataFrame, after: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The labels that differ; see :class:`Difference`. Overlap is measured in degrees, as a ratio it is the same."""
    kept = ["feature_id", "obs_id", "class_name", "confidence", "fold", "label_sha256", "geometry"]
    both = before[kept].merge(after[kept], on="feature_id", how="outer", suffixes=("_a", "_b"), indicator="where")
    there = (both["where"] == "both").to_numpy()
    named = ("class_name", "confidence", "obs_id")
    renamed = there & np.logical_or.reduce([(both[f"{n}_a"] != both[f"{n}_b"]).to_numpy() for n in named])
    touched = there & (both["label_sha256_a"] != both["label_sha256_b"]).to_numpy()
    one, other = (both[f"geometry_{side}"].to_numpy() for side in "ab")
    iou = np.full(len(both), np.nan)
    iou[there] = 1.0
    shared = shapely.area(shapely.intersection(one[touched], other[touched]))
    total = shapely.area(one[touched]) + shapely.area(other[touched]) - shared
    iou[touched] = np.round(np.divide(shared, total, out=np.zeros_like(shared), where=total > 0), 6)
    moved = np.zeros(len(both), bool)
    moved[touched] = ~shapely.equals_exact(one[touched], other[touched], tolerance=0.5e-7, normalize=True)
    change = np.select(
        [(both["where"] == "right_only"), (both["where"] == "left_only"), moved & renamed, moved, renamed],
        ["added", "removed", "moved+reclassified", "moved", "reclassified"],
        "same",
    )
    table = both.assign(change=change, iou=iou, obs_id=both["obs_id_b"].fillna(both["obs_id_a"]))
    geometry = np.where(both["where"] == "left_only", one, other)
    columns = ["feature_id", "obs_id", "change", "iou"]
    columns += [f"{name}_{side}" for name in ("class_name", "confidence", "fold") for side in "ab"]
    found = gpd.GeoDataFrame(table[columns], geometry=geometry, crs=before.crs)
    return found[found["change"] != "same"].sort_values(["change", "obs_id", "feature_id"], ignore_index=True)


def changed_exclusions(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The exclusions that differ between two tables of quarantine; see :class:`Difference`."""
    names = ["label_id", "feature_id", "obs_id"]
    a, b = (
        table.loc[table["reason"] == "excluded", [*names, "detail"]].drop_duplicates().astype(object)
        for table in (before, after)
    )
    both = a.merge(b, on=names, how="outer", suffixes=("_a", "_b")).rename(
        columns={"detail_a": "reason_a", "detail_b": "reason_b"}
    )
    return both[both["reason_a"] != both["reason_b"]].reset_index(drop=True)


def _changed_observations(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    kept = ["obs_id", "has_mines", "fold"]
    both = before[kept].merge(after[kept], on="obs_id", how="outer", suffixes=("_a", "_b"), indicator="where")
    both["change"] = np.select(
        [
            both["where"] == "right_only",
            both["where"] == "left_only",
            both["has_mines_a"] != both["has_mines_b"],
            both["fold_a"] != both["fold_b"],
        ],
        ["added", "removed", "mines", "fold"],
        "same",
    )
    columns = ["obs_id", "change", "has_mines_a", "has_mines_b", "fold_a", "fold_b"]
    return both.loc[both["change"] != "same", columns].reset_index(drop=True)


def _changed_windows(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, int]:
    a, b = (table.set_index("chip_id")["fold"] for table in (before, after))
    shared = a.index.intersection(b.index)
    moved = int((a[shared] != b[shared]).sum())
    return {
        "added": len(b) - len(shared),
        "removed": len(a) - len(shared),
        "fold": moved,
        "same": len(shared) - moved,
    }


def _evaluation(audit: Audit, history: History, objects: Objects) -> tuple[pd.Series, pd.Series] | str:
    """The figures of a model's evaluation, all and by river; or why there are none."""
    assert audit.revision is not None
    lock = history.lock(audit.revision)
    model = chain.model_of(lock, audit.stage)
    assert model is not None
    weights = model.path(WEIGHTS)
    judged = [
        (stage, out)
        for name in lock.names
        if (stage := lock.stage(name)) is not None and weights in stage.deps
        for out in stage.outs
        if out.rpartition("/")[2] == EVALUATE
    ]
    if not judged:
        return "it was not evaluated at that revision"
    stage, out = judged[0]
    if stage.deps[weights] != dict(model.files).get(WEIGHTS):
        return "the evaluation at that revision is of another model"
    try:
        folder = stage.outs[out]
        figures = json.loads(objects.file(folder, "metrics.json", out).read_bytes())
        # Of a replicate of a cross-validation there is no table by river.
        name = "rivers.csv" if "rivers.csv" in objects.tree(folder) else "observations.csv"
        table = pd.read_csv(io.BytesIO(objects.file(folder, name, out).read_bytes()))
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
    except (MissingError, CorruptError) as error:
        return f"no evaluation: {error}"
    except (ValueError, AttributeError, OverflowError, RecursionError) as error:
        return f"an evaluation that can't be read: {error}"
    names = [name for name in ("fold", "river", "obs_id") if name in table.columns]
    rows = table.melt(names, list(table.select_dtypes("number").columns), "metric")
    return pd.Series(numbers, dtype=float).rename_axis("metric"), rows.set_index([*names, "metric"])["value"]


def _compared(a: pd.Series, b: pd.Series) -> pd.DataFrame:
    both = pd.concat([a.rename("a"), b.rename("b")], axis=1)
    return both.assign(change=(both["b"] - both["a"]).round(6)).reset_index()
