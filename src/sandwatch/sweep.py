"""A search for better params: Optuna proposes, and each trial is an experiment of DVC.

What a trial is proposed depends on the sweep's file, on its number, and on how those before it ended, and on nothing
else: each has a sampler of its own, seeded by the sweep's seed and the number, which is told of the trials before. So
there is no state to lose. A sweep that goes on proposes the very trials again, takes what DVC has of them, and runs the
first that it hasn't: where that was killed, under the same number, with the same values. Only failures, of which DVC
keeps nothing, are written down, under ``.dvc/tmp``.

What is looked at is AP on validation, or the mean AP over the replicates of a cross-validation: never the holdout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from sandwatch import experiments, ids, running
from sandwatch.errors import InputError
from sandwatch.experiments import PARAMS, SPLIT, Ap, Experiment, Series, Target, crossed, setting
from sandwatch.extras import need
from sandwatch.files import read_json, write_json
from sandwatch.model.card import hash_params
from sandwatch.params import Count, Section, Seed, faults, load_yaml, read_file

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FAILURES = running.LOCKS / "sweeps"
"""Folder of what failed, a file a sweep."""
MOST_FAILED = 3
"""Failures in a row after which a sweep stops: that many have more likely one cause than their values."""
DIGITS = 4
"""Significant digits of a number that is no whole one: more would only be harder to read."""
SEARCHED = ("model", "train", "scoring")
"""Sections whose keys may be searched. Others change what there is to learn from, or on what a model is judged."""
JUDGES = ("model.method", "train.sampling.observations_share")
"""Keys of these that change that too: which pixels count, and how many labels there are."""


class Searched(BaseModel):
    """What a key of params.yaml may become: from low to high, or one of some choices.

    Attributes:
        low, high: the least and the largest; whole numbers where both are written so.
        log: whether all orders of magnitude are as likely.
        choices: any values that the key may have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[JsonValue, ...] | None = Field(default=None, min_length=1, strict=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> Searched:
        if (self.choices is None) == (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("either low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log is for numbers above 0, from low to high")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers alone are proposed."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that params.yaml must allow: all choices, or the least and the largest."""
        return self.choices if self.choices is not None else (self.low, self.high)

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna; of choices it sees the places, since it takes neither lists nor mappings."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(range(len(self.choices)))
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def rounded(self, proposed: Any) -> Any:
        """What Optuna proposed, as it is told of it later."""
        if self.choices is not None or self.whole:
            return proposed
        assert self.low is not None
        assert self.high is not None
        return min(max(float(f"{proposed:.{DIGITS}g}"), self.low), self.high)

    def value(self, proposed: Any) -> Any:
        """What params.yaml gets."""
        return proposed if self.choices is None else self.choices[proposed]


class Sweep(BaseModel):
    """A sweep's file.

    Attributes:
        target: train: validation AP of the split's training; cv: mean AP over the folds of a cross-validation.
        folds: of cv.
        trials: how many, those that fail among them.
        seed: another gives other trials.
        sampler: tpe: Optuna's tree-structured Parzen estimator, at random for its first ten; random: all at random.
        search: by the names of params.yaml, what to search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    target: Literal["train", "cv"]
    folds: int | None = Field(default=None, ge=3)
    trials: Count
    seed: Seed
    sampler: Literal["tpe", "random"] = "tpe"
    search: dict[str, Searched] = Field(min_length=1)

    @model_validator(mode="after")
    def _folds_of_cv(self) -> Sweep:
        if (self.folds is None) == (self.target == "cv"):
            raise ValueError("folds goes with the target cv, and with it alone")
        return self

    @property
    def runs(self) -> Target:
        """What each trial runs."""
        return SPLIT if self.folds is None else crossed("groups", self.folds)

    def settings(self, proposed: dict[str, Any]) -> list[str]:
        """Changes of params.yaml for a trial."""
        return [setting(key, self.search[key].value(one)) for key, one in sorted(proposed.items())]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial that has ended.

    Attributes:
        name: of its experiment.
        proposed: by key, as Optuna is told of it.
        values: by key, as params.yaml had them.
        ap: how good it was; None where it failed.
        reason: why it failed.
    """

    name: str
    proposed: dict[str, Any]
    values: dict[str, Any]
    ap: Ap | None
    reason: str = ""


def read(path: Path, sections: Sequence[type[Section]]) -> Sweep:
    """Reads a sweep's file, and makes sure that params.yaml has its keys and allows its values.

    A value is tried with all other keys as params.yaml has them.

    Raises:
        InputError: it is no such file, or a key or a value is none of params.yaml.
    """
    need("sweep", "optuna", what="sandwatch sweep")
    try:
        sweep = Sweep.model_validate(load_yaml(path.read_text()))
    except OSError as error:
        raise InputError(str(path), got=error.strerror, expected="a sweep's file", fix="name another") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("int", "float"))
        raise InputError(
            f"{path}: {where}" if where else str(path),
            got="nothing" if first["type"] == "missing" else repr(first["input"]),
            expected=first["msg"].removeprefix("Value error, ").removeprefix("Input should be "),
            fix="correct it; docs/recipes/sweep.yaml is an example",
        ) from None
    except ValueError as error:
        raise InputError(str(path), got=error, expected="YAML", fix="correct that line") from None
    values = read_file(PARAMS)
    if wrong := faults(Path(), sections):
        raise wrong[0]
    known = [key for section in SEARCHED for key in _keys(section, values[section]) if key not in JUDGES]
    for key, searched in sweep.search.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise InputError(
                f"{path}: search.{key}",
                got="a key that a sweep can't search",
                expected=f"a key of params.yaml, sections {', '.join(SEARCHED)}, but {' and '.join(JUDGES)}",
                fix=f"did you mean {near[0]}? correct it" if near else "correct it",
            )
        for value in searched.ends:
            if wrong := faults(Path(), sections, experiments.applied([setting(key, value)])):
                raise InputError(
                    f"{path}: search.{key}",
                    got=repr(value),
                    expected=f"a value that params.yaml allows beside its others ({wrong[0]})",
                    fix="correct it, or params.yaml",
                )
    return sweep


def _keys(name: str, value: Any) -> Iterator[str]:
    """The names, with dots, of all that a section holds."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield f"{name}.{key}"
            yield from _keys(f"{name}.{key}", one)


def propose(sweep: Sweep, ended: Sequence[Trial]) -> dict[str, Any]:
    """What the next trial gets, by key, as Optuna is told of it: a function of the sweep and the trials before it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: searched.distribution for key, searched in sorted(sweep.search.items())}
    seed = int(np.random.SeedSequence([sweep.seed, len(ended) + 1]).generate_state(1)[0])
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(direction="maximize", sampler=samplers[sweep.sampler](seed=seed))
    for trial in ended:
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if trial.ap is None else optuna.trial.TrialState.COMPLETE,
                value=None if trial.ap is None else trial.ap.mean,
                params=trial.proposed,
                distributions=distributions,
            )
        )
    asked = study.ask(distributions).params
    return {key: searched.rounded(asked[key]) for key, searched in sweep.search.items()}


def run(sweep: Sweep, name: str, report: Callable[[str], None]) -> list[Trial]:
    """Runs the trials of a sweep that have not ended yet.

    Args:
        sweep: what :func:`read` read.
        name: of the sweep; its experiments are called ``<name>-1``, ``<name>-2``, ...
        report: is given a line now and then.

    Returns:
        All trials, in the order of their numbers.

    Raises:
        InputError: too many failed in a row, experiments of these names are of something else, what is learnt from has
            changed since the first trial, or another process runs this sweep.
        KeyboardInterrupt: Ctrl-C.
    """
    if not ids.names_files(name):
        raise InputError("name of the sweep", got=repr(name), expected=ids.RULE, fix="name it so")
    path = FAILURES / f"{name}.json"
    going = _Going(sweep=sweep, name=name, report=report, path=path)
    with running.alone([path]):
        for _ in range(sweep.trials):
            going.next()
    return going.ended


@dataclass(kw_only=True)
class _Going:
    """A sweep that goes on.

    Attributes:
        sweep, name, report: as of :func:`run`.
        path: of what failed.
        ended: trials, in order.
        first: of the experiments.
    """

    sweep: Sweep
    name: str
    report: Callable[[str], None]
    path: Path
    ended: list[Trial] = field(default_factory=list)
    first: Experiment | None = None

    def __post_init__(self) -> None:
        self.series = Series(target=self.sweep.runs)
        self._failed: dict[str, str] = {}
        if self.path.is_file():
            fix = f"remove {self.path}: what failed is tried again"
            self._failed = read_json(self.path, dict, expected="what failed, by its params", fix=fix)

    def next(self) -> None:
        """Takes or runs the next trial.

        Raises:
            InputError: as :func:`run`.
        """
        number = len(self.ended) + 1
        name, proposed = f"{self.name}-{number}", propose(self.sweep, self.ended)
        settings = self.sweep.settings(proposed)
        # Other params, another trial: what failed for its values need not fail once they are others.
        key = f"{name} {hash_params(self.series.params(settings))}"
        found, reason = self.series.find(name, settings), self._failed.get(key, "")
        ran = found is None and not reason
        if ran:
            self.report(f"trial {number} of {self.sweep.trials}, experiment {name}: {' '.join(settings)}")
            try:
                experiments.run(name, self.series.target, settings)
            except InputError as error:
                reason = str(error.got)
            found = self.series.find(name, settings)
        ap = None
        if found is not None:
            self.first = self.first or found
            self.series.compared(found, self.first)
            ap = found.ap(self.series.target)
            reason = "" if ap else "AP is undefined: nothing tests that holds a mine"
        elif ran:
            self._failed[key] = reason
            write_json(self.path, self._failed)
        values = {key: self.sweep.search[key].value(one) for key, one in proposed.items()}
        self.ended.append(Trial(name=name, proposed=proposed, values=values, ap=ap, reason=reason))
        if ran:
            self.report(f"trial {number}: " + (f"AP {ap.mean:.4f}" if ap else f"failed: {reason}"))
        self._stop_where_all_fail()

    def _stop_where_all_fail(self) -> None:
        """Raises InputError after too many failures in a row, and forgets them, so that they are tried again."""
        row = list(takewhile(lambda trial: trial.ap is None, reversed(self.ended)))
        if len(row) >= MOST_FAILED:
            names = {trial.name for trial in row}
            write_json(self.path, {key: why for key, why in self._failed.items() if key.split()[0] not in names})
            raise InputError(
                f"sweep {self.name}",
                got=f"{len(row)} trials in a row that failed, the last because of {row[0].reason}",
                expected="trials that train",
                fix="mend that, and run the same command again: these are tried again",
            )
