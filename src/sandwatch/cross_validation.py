"""Cross-validation as data: a table that puts every site into a fold, once for each replicate, and what came of them.

A replicate is a training and its test. In each, one part of the spatial groups tests, another validates (it chooses the
epoch, the calibration and the threshold), and the rest train. Groups of the fold ``test`` of the split, which hold the
rivers that are kept for the last, are in no replicate at all: cross-validation chooses between models, and the holdout
is looked at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from sandwatch.errors import InputError
from sandwatch.files import read_json
from sandwatch.params import Count, Section

if TYPE_CHECKING:
    import pandas as pd

By = Literal["groups", "rivers"]
On = Literal["holdout"]
LEAST = 3
"""Parts: one to test, one to validate, one to train."""
NONE = ""
"""The fold of a site that a replicate doesn't touch."""


class CrossValidation(Section):
    """Which replicates there are; none unless ``sandwatch cv`` asks for them."""

    section = "cv"
    by: tuple[By, ...] = Field(max_length=1, strict=False)
    replicates: tuple[Count, ...] = Field(strict=False)
    ensemble: tuple[On, ...] = Field(max_length=1, strict=False)

    @model_validator(mode="after")
    def _both_or_none(self) -> CrossValidation:
        if self.replicates != tuple(range(1, len(self.replicates) + 1)):
            raise ValueError("replicates are counted from 1: [1, 2, 3, ...]")
        if bool(self.by) != bool(self.replicates) or 0 < len(self.replicates) < LEAST:
            raise ValueError(f"by and replicates are both [], or one of groups and rivers with {LEAST} or more of them")
        if self.ensemble and not self.replicates:
            raise ValueError("an ensemble is of the models of replicates, and there are none")
        return self


def folds(aoi: pd.DataFrame, windows: pd.DataFrame, *, by: By, replicates: int, seed: int) -> pd.DataFrame:
    """Puts every site that has windows, and is not kept for the last, into a fold, in each replicate.

    With ``groups``, the groups are shared out over as many parts as there are replicates, so that each part has about
    as many observations. With ``rivers``, a part is a river: all groups with a site on it, and each river is a
    replicate. In replicate ``r`` part ``r`` tests and the one after it validates. Groups that test, and also lie on the
    river that validates, test. Sites that are for training only train in all of them.

    Args:
        aoi: schemas.Aoi.
        windows: schemas.Windows, as the split has them.
        by: what a part is made of.
        replicates: how many parts; with ``rivers``, as many as there are.
        seed: of the split: among equally good choices a hash of it and the sites decides.

    Returns:
        Rows of schemas.Folds.

    Raises:
        InputError: there are too few groups or rivers, or one group is cut into blocks.
    """
    import pandas as pd

    sites = aoi.set_index("site_id")
    kept = sorted(set(windows["site_id"][windows["fold"] != "test"]))
    group = sites.loc[kept, "group"]
    judged = sites.loc[[site_id for site_id in kept if sites.loc[site_id, "role"] != "train"]]
    seen = windows[windows["site_id"].isin(kept)].groupby("site_id")["obs_id"].nunique()
    parts = _by_river(judged) if by == "rivers" else _by_group(judged["group"], seen, replicates, seed)
    if len(parts) < LEAST or (judged["fold"] == "blocks").any():
        raise InputError(
            f"cross-validation by {by}",
            got=f"{len(parts)} of them beside the holdout rivers",
            expected=f"{LEAST} or more: one to test, one to validate, the rest to train",
            fix="label sites farther apart, or lower split.min_distance_km",
        )
    if len(parts) != replicates:
        raise InputError(
            "params.yaml: cv.replicates",
            got=f"{replicates} replicates",
            expected=f"{len(parts)}, as many as there are {by}",
            fix=f"run sandwatch cv --by {by}" + ("" if by == "rivers" else f" --folds {len(parts)}"),
        )
    rows = []
    for replicate in range(1, replicates + 1):
        test, val = parts[replicate - 1], parts[replicate % replicates]
        for site_id, number in group.items():
            fold = "test" if number in test else "val" if number in val else "train"
            rows.append((replicate, site_id, int(number), fold))
    return pd.DataFrame(rows, columns=["replicate", "site_id", "group", "fold"])


def assigned(windows: pd.DataFrame, folds: pd.DataFrame, replicate: int) -> pd.DataFrame:
    """Windows with the folds that a replicate gives them; those of sites that it doesn't touch are left out.

    What validates and tests are windows of the regular grid alone: of a site that trains in the split there are random
    ones too.

    Args:
        windows: schemas.Windows.
        folds: schemas.Folds.
        replicate: which.

    Raises:
        InputError: the table has no such replicate.
    """
    of = sites_of({name: folds[name].tolist() for name in ("replicate", "site_id", "fold")}, replicate)
    fold = windows["site_id"].map(of).fillna(NONE)
    kept = (fold == "train") | ((fold != NONE) & (windows["kind"] == "grid"))
    return windows.assign(fold=fold)[kept].reset_index(drop=True)


def held_out(windows: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Windows as the models of all replicates together have seen them.

    What the split's own fold ``test`` holds still tests. Every other site has trained or validated some of the models,
    so it is in the fold ``train``, and nothing is left to validate on.

    Args:
        windows: schemas.Windows, as the split has them.
        folds: schemas.Folds.

    Raises:
        InputError: a replicate has touched a site that tests in the split.
    """
    test = windows["fold"] == "test"
    if touched := sorted(set(windows["site_id"][test]) & set(folds["site_id"])):
        raise InputError(
            "data/folds.parquet",
            got=f"{', '.join(touched)}, which test in the split",
            expected="no site of the fold test in any replicate",
            fix="run sandwatch cv again, so that folds, chips and models are of the same params.yaml",
        )
    return windows.assign(fold=test.map({True: "test", False: "train"}))


def sites_of(table: Mapping[str, Sequence[Any]], replicate: int) -> dict[str, str]:
    """The fold of each site in a replicate, from the columns of folds.parquet.

    Raises:
        InputError: the table has no such replicate.
    """
    rows = zip(table["replicate"], table["site_id"], table["fold"], strict=True)
    found = {site_id: fold for number, site_id, fold in rows if number == replicate}
    if not found:
        raise InputError(
            "data/folds.parquet",
            got=f"replicates {sorted(set(table['replicate']))}",
            expected=f"replicate {replicate} among them",
            fix="run sandwatch cv, which makes the table before what reads it",
        )
    return found


def _by_group(group: pd.Series, seen: pd.Series, parts: int, seed: int) -> list[set[int]]:
    """Groups shared out, the largest first, each to the part that has the fewest observations."""
    members: dict[int, list[str]] = {}
    for site_id, number in group.items():
        members.setdefault(int(number), []).append(str(site_id))
    weight = {number: int(seen[sites].sum()) for number, sites in members.items()}

    def tie(number: int) -> str:
        return hashlib.sha256("\n".join((str(seed), *sorted(members[number]))).encode()).hexdigest()

    shared: list[set[int]] = [set() for _ in range(min(parts, len(members)))]
    loads = [0] * len(shared)
    for number in sorted(members, key=lambda number: (-weight[number], tie(number))):
        least = loads.index(min(loads))
        shared[least].add(number)
        loads[least] += weight[number]
    return shared


def _by_river(sites: pd.DataFrame) -> list[set[int]]:
    """The groups that have a site on each river, by its name."""
    return [
        {int(number) for number in sites.loc[sites["river"] == river, "group"]}
        for river in sorted(sites["river"].unique())
    ]


def summary(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation, least and largest of each figure over replicates.

    Args:
        results: the metrics of evaluate by replicate. Texts (what is invented) are taken where all agree.

    Returns:
        By name of the figure ``{mean, std, min, max}``; std with n - 1 in the denominator; None where a figure is
        undefined in a replicate.
    """
    made: dict[str, Any] = {"replicates": len(results)}
    for name in next(iter(results.values())):
        values = [metrics.get(name) for metrics in results.values()]
        if all(isinstance(value, str) for value in values):
            made[name] = values[0] if len(set(values)) == 1 else "mixed"
        elif any(value is None or isinstance(value, str) for value in values):
            made[name] = None
        else:
            numbers = [float(value) for value in values if value is not None]
            mean = math.fsum(numbers) / len(numbers)
            spread = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1))
            made[name] = {
                "mean": round(mean, 6),
                "std": round(spread, 6),
                "min": round(min(numbers), 6),
                "max": round(max(numbers), 6),
            }
    return made


def read_results(folder: Path, replicates: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """The metrics of evaluate of each replicate, below ``results/cv``.

    Raises:
        InputError: one of them is not there, or no JSON.
    """
    return {
        number: read_json(
            folder / str(number) / "evaluate" / "metrics.json",
            dict,
            expected="what the stage cv_evaluate wrote",
            fix="run sandwatch cv",
        )
        for number in replicates
    }
