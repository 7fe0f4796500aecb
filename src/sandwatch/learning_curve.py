"""A learning curve: how good a model becomes with how many labels. Each point is an experiment of DVC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import fmean
from typing import TYPE_CHECKING

from sandwatch import experiments, ids
from sandwatch.errors import InputError
from sandwatch.experiments import Ap, Experiment, Series, Target, setting

if TYPE_CHECKING:
    import pandas as pd

KEY = "train.sampling.observations_share"
PERCENTAGES = (10, 20, 40, 70, 100)


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a share of the labelled observations comes to. Over replicates, numbers are means.

    Attributes:
        percent: of the training observations.
        name: of the experiment.
        observations: that trained.
        sites: that they are of.
        mines: polygons of mines in their windows, of high and of low confidence.
        ap: on validation, or over replicates; None where it is undefined.
    """

    percent: int
    name: str
    observations: float
    sites: float
    mines: float
    ap: Ap | None


def points(
    name: str, target: Target, percentages: Sequence[int], changes: Sequence[str], report: Callable[[str], None]
) -> Iterator[Point]:
    """Trains on each share, the smallest first; what ran before is not run again.

    Args:
        name: of the curve; its experiments are called ``<name>-10`` for 10 per cent, and so on.
        target: what to run.
        percentages: of the training observations, 1 to 100.
        changes: of params.yaml for all, as ``dvc exp run -S`` takes them.
        report: is given a line now and then.

    Raises:
        InputError: an experiment failed, one of that name is of something else, or what is learnt from has changed.
    """
    if not ids.names_files(name):
        raise InputError("name of the curve", got=repr(name), expected=ids.RULE, fix="name it so")
    if not percentages or not all(1 <= percent <= 100 for percent in percentages):
        raise InputError("shares", got=list(percentages), expected="per cent, from 1 to 100", fix="correct them")
    series, first = Series(target=target), None
    for percent in sorted(set(percentages)):
        settings, point = [*changes, setting(KEY, percent / 100)], f"{name}-{percent}"
        found = series.find(point, settings)
        if found is None:
            report(f"experiment {point}: {percent} % of the training observations")
            experiments.run(point, target, settings)
            found = series.find(point, settings)
            assert found is not None
        first = first or found
        series.compared(found, first)
        observations, sites, mines = _counts(found, target)
        yield Point(
            percent=percent, name=point, observations=observations, sites=sites, mines=mines, ap=found.ap(target)
        )


def _counts(experiment: Experiment, target: Target) -> tuple[float, float, float]:
    """How many observations, sites and polygons of mines trained, by what training wrote down of its windows."""
    windows = _table(experiment, "data/chips/windows.parquet", ["chip_id", "obs_id", "site_id"])
    labels = _table(experiment, "data/chips/chip_labels.parquet", ["chip_id", "feature_id"])
    counts = []
    for folder in target.folders:
        trained = _table(experiment, f"{folder}/exposures.parquet", ["chip_id"])["chip_id"]
        of = windows[windows["chip_id"].isin(trained)]
        polygons = labels["feature_id"][labels["chip_id"].isin(trained)]
        counts.append([float(column.nunique()) for column in (of["obs_id"], of["site_id"], polygons)])
    observations, sites, mines = (fmean(values) for values in zip(*counts, strict=True))
    return observations, sites, mines


def _table(experiment: Experiment, path: str, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(BytesIO(experiment.read(path)), columns=columns)
