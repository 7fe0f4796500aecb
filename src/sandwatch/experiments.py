"""Experiments of DVC: run in a copy of the working tree under a name, found again by it, and read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from sandwatch.errors import InputError
from sandwatch.params import load_yaml
from sandwatch.running import end_with_parent

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

PARAMS = Path("params.yaml")
SUMMARY = "results/cv.json"
MADE = ("models/", "results/")
"""Where training and tests write. Source: dvc.yaml."""
LINES = 200
"""Last lines of a run in which the reason of its failure is looked for."""


@dataclass(frozen=True, kw_only=True)
class Ap:
    """How good an experiment's models are, where no holdout river is: on validation, or on what tests in replicates.

    Attributes:
        mean: average precision; over replicates, their mean.
        std: over replicates; None for one training.
    """

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an experiment runs.

    Attributes:
        stages: the last ones.
        settings: changes of params.yaml that it wants, as ``dvc exp run -S`` takes them.
        replicates: trainings of a cross-validation; 0 for that of the split.
    """

    stages: tuple[str, ...]
    settings: tuple[str, ...]
    replicates: int

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of its models."""
        return tuple(f"models/cv/{number}" for number in range(1, self.replicates + 1)) or ("models",)


SPLIT = Target(stages=("train",), settings=(), replicates=0)
"""The training of the split. ``evaluate``, which looks at the holdout rivers, is no part of it."""


def crossed(by: Literal["groups", "rivers"], replicates: int, *, ensemble: bool = False) -> Target:
    """A cross-validation. The holdout rivers are in none of its replicates; only their ensemble is judged there."""
    numbers = ",".join(map(str, range(1, replicates + 1)))
    settings = (f"cv.by=[{by}]", f"cv.replicates=[{numbers}]")
    if ensemble:
        return Target(
            stages=(f"cv@{by}", "cv_ensemble@holdout"),
            settings=("cv.ensemble=[holdout]", *settings),
            replicates=replicates,
        )
    return Target(stages=(f"cv@{by}",), settings=settings, replicates=replicates)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment that DVC has.

    Attributes:
        name: of it.
        revision: its commit.
    """

    name: str
    revision: str

    @cached_property
    def _files(self) -> DVCFileSystem:
        from dvc.api import DVCFileSystem

        return DVCFileSystem(rev=self.revision)

    def read(self, path: str) -> bytes:
        """A file of its, out of git, DVC's cache or the remote.

        Raises:
            InputError: it can't be had.
        """
        from dvc.exceptions import DvcException

        try:
            file: BinaryIO
            with self._files.open(path, "rb") as file:
                return file.read()
        except (DvcException, OSError) as error:
            raise InputError(
                f"experiment {self.name}: {path}",
                got=str(error) or type(error).__name__,
                expected="a file that it made",
                fix=f"run dvc exp remove {self.name} and the same command again: what DVC's cache has is not run again",
            ) from None

    @property
    def params(self) -> Any:
        """What its params.yaml holds."""
        return load_yaml(self.read(PARAMS.as_posix()).decode())

    def made_of(self, target: Target) -> dict[str, str]:
        """Path to MD5 of all that its trainings and tests read, but for what they themselves made."""
        stages = load_yaml(self.read("dvc.lock").decode())["stages"]
        names = [name for name in stages if name in target.stages or (target.replicates and name.startswith("cv_"))]
        return {
            dep["path"]: dep["md5"]
            for name in names
            for dep in stages[name].get("deps", ())
            if not dep["path"].startswith(MADE)
        }

    def ap(self, target: Target) -> Ap | None:
        """How good its models are; None where that is undefined, as it is without a mine in what tests."""
        if not target.replicates:
            return Ap(mean=json.loads(self.read("results/train/metrics.json"))["val_ap"], std=None)
        found = json.loads(self.read(SUMMARY)).get("ap")
        return None if found is None else Ap(mean=found["mean"], std=found["std"])


def find(name: str) -> Experiment | None:
    """The experiment of a name: of the current commit, else the only one of its name; None where there is none.

    Raises:
        InputError: other commits have several.
    """
    from dvc.repo import Repo
    from dvc.repo.experiments.exceptions import AmbiguousExpRefInfo
    from dvc.repo.experiments.utils import resolve_name

    with Repo() as repo:
        try:
            ref = resolve_name(repo.scm, name)[name]
        except AmbiguousExpRefInfo:
            raise InputError(
                f"experiment {name}",
                got="several of that name, none of the current commit",
                expected="one",
                fix="choose another name",
            ) from None
        return None if ref is None else Experiment(name=name, revision=repo.scm.get_ref(str(ref)))


def applied(settings: Sequence[str]) -> bytes:
    """The content of params.yaml with changes, as ``dvc exp run -S`` writes them.

    Raises:
        InputError: DVC can't apply one.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS
        copy.write_bytes(PARAMS.read_bytes())
        try:
            apply_overrides(copy, list(settings))
        except DvcException as error:
            raise InputError(
                f"params.yaml with {', '.join(settings)}",
                got=error.__cause__ or error,
                expected="keys that it has, and values",
                fix="correct them",
            ) from None
        return copy.read_bytes()


def setting(key: str, value: Any) -> str:
    """A change of params.yaml as ``dvc exp run -S`` takes it. Source: Hydra, grammar of overrides."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        # A backslash is one, but before a quotation mark, where two are one and an odd one makes the mark a character.
        parts = value.split("'")
        return "'" + "\\'".join(part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts) + "'"
    return json.dumps(value)


def run(name: str, target: Target, changes: Sequence[str]) -> None:
    """Runs an experiment in a copy of the working tree. What DVC's cache has is not run again.

    Args:
        name: of it.
        target: what to run.
        changes: of params.yaml, as ``dvc exp run -S`` takes them, beside those that the target wants.

    Raises:
        InputError: it failed; ``got`` is the stage's own error where it had one, else DVC's.
        KeyboardInterrupt: Ctrl-C; the experiment has ended, and DVC has removed its copy.
    """
    _remove_what_was_killed(name)
    settings = (part for one in (*target.settings, *changes) for part in ("-S", one))
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *target.stages, *settings]
    told: deque[str] = deque(maxlen=LINES)
    # A group of its own: Ctrl-C comes to this process alone, which hands it on once, and waits. Without this process
    # dvc ends too, and with dvc its stage: the next run would find both at work.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
        preexec_fn=end_with_parent,
    ) as process:
        lines = _passed_on(process)
        try:
            told.extend(lines)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            for _ in _passed_on(process):
                pass
            process.wait()
            raise
    if process.returncode:
        raise InputError(
            f"experiment {name}",
            got=_reason(told) or f"dvc exp run ended with {process.returncode}",
            expected="stages that all run",
            fix="mend that and run the same command again: what was finished is not run again",
        )


def _remove_what_was_killed(name: str) -> None:
    """Removes the copies of killed runs of an experiment, which ``dvc exp show`` would list as running for ever."""
    import psutil
    from dvc.repo import Repo
    from dvc.repo.experiments.executor.base import ExecutorInfo

    with Repo() as repo:
        queue = repo.experiments.tempdir_queue
        for key in queue.proc:
            try:
                info = ExecutorInfo.load_json(queue.get_infofile_path(key))
            except (OSError, ValueError):
                continue
            copy = Path(info.root_dir)
            if info.name != name or not copy.is_dir() or not copy.is_relative_to(repo.tmp_dir):
                continue
            places = [Path(process.info["cwd"] or "/") for process in psutil.process_iter(["cwd"])]
            if not any(place.is_relative_to(copy) for place in places):  # dvc and its stages work in it
                shutil.rmtree(copy)


def _passed_on(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines of its standard error, which go to that of this process too."""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        yield line


def _reason(lines: Sequence[str]) -> str:
    """Why a run failed: what the stage says, else what DVC says."""
    for mark in ("error: ", "ERROR: "):
        if said := [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]:
            return said[-1]
    return ""


def invented() -> str:
    """A name for an experiment, as DVC makes them up."""
    from dvc.repo.experiments.utils import gen_random_name

    return str(gen_random_name())


@dataclass(frozen=True, kw_only=True)
class Series:
    """Experiments that are compared: all of the working tree's params but for their own changes, on the same data.

    Attributes:
        target: what each runs.
    """

    target: Target

    def find(self, name: str, changes: Sequence[str]) -> Experiment | None:
        """An experiment of the series that is there already.

        Raises:
            InputError: one of that name has other params.
        """
        found = find(name)
        if found is not None and found.params != self.params(changes):
            raise InputError(
                f"experiment {name}",
                got="other params than params.yaml with this experiment's changes",
                expected="none of that name, or one of the same params",
                fix=f"choose another name, or undo what changed in params.yaml, or run dvc exp remove {name}",
            )
        return found

    def params(self, changes: Sequence[str]) -> Any:
        """What the params.yaml of an experiment with these changes holds."""
        return load_yaml(applied((*self.target.settings, *changes)).decode())

    def compared(self, experiment: Experiment, first: Experiment) -> None:
        """Makes sure that an experiment learnt from the same as the first.

        Raises:
            InputError: it read other data, or other code ran.
        """
        here, there = experiment.made_of(self.target), first.made_of(self.target)
        if here != there:
            other = sorted(path for path in here.keys() | there.keys() if here.get(path) != there.get(path))
            raise InputError(
                f"experiments {first.name} and {experiment.name}",
                got=f"different {', '.join(other)}",
                expected="the same for all that are compared",
                fix="choose another name for the new ones, or run dvc exp remove on those from before the change",
            )
