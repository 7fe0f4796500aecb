"""What an audit says: links that were checked one by one, revisions, and the tables of everything behind a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import geopandas as gpd
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from sandwatch.model.card import Card, Spec
from sandwatch.origin import drawn, marked, words
from sandwatch.reproducible import RECORD
from sandwatch.schemas import LABEL_ORIGINS, OBS_ID, PRODUCTS, SHA256, Geometries, Table

Tables = Literal["labels", "windows", "chips", "observations", "quarantine", "imagery"]
"""The tables of an audit."""
State = Literal["verified", "skipped", "unverified", "uncommitted", "broken"]
WORDS: Mapping[State, str] = {
    "verified": "verified",
    "skipped": "not looked at",
    "unverified": "can't be seen from here",
    "uncommitted": "not committed yet",
    "broken": "broken",
}
"""What each state is called, the better ones first: a chain is as good as the worst of its links, those aside that
nobody looked at."""
STATUS: Mapping[State, int] = {"verified": 0, "broken": 1, "unverified": 2, "skipped": 2, "uncommitted": 3}
"""Exit statuses of the commands that give a verdict."""
LINKS = (
    "signature",
    "statement",
    "subjects",
    "release",
    "result",
    "weights",
    "card",
    "working tree",
    "revision",
    "lock",
    "pipeline",
    "code",
    "inputs",
    "params",
    "start",
    "chips",
    "fingerprint",
    "labels",
    "snapshot",
    "imagery",
    "rebuild",
)
"""The links of the chain, from the thing in hand back to where it came from: the order of a report, and what "first"
means in "the first link that broke". Of ``rebuild`` there is one a stage, with the stage's name behind it."""
AGAIN = "dvc checkout brings back what was committed; else dvc repro there, and commit"
REMEDIES: Mapping[str, str] = {
    "signature": "take nothing from this folder; get the release again from who signed it",
    "statement": "take nothing from this folder; get the release again from who signed it",
    "subjects": "take nothing from this folder; get the release again from who signed it",
    "release": "ask who signed it which repository and commit they mean",
    "result": "take the file from the revision that made it, or run dvc repro infer and commit",
    "weights": AGAIN,
    "card": AGAIN,
    "working tree": "dvc checkout brings back what dvc.lock says; dvc repro and git commit keep what was meant",
    "revision": "git fetch --all --tags and dvc exp pull bring revisions that may hold it; else train again and commit",
    "lock": "run dvc repro there, and commit dvc.lock as DVC writes it",
    "code": "commit the code that it ran with, or run dvc repro there and commit dvc.lock",
    "inputs": "commit the files that it read, or run dvc repro there and commit dvc.lock",
    "params": "commit the params that it ran with, or run dvc repro there and commit dvc.lock",
    "start": "don't rely on what was recorded; train it again, and commit",
    "imagery": "rely on nothing made of it; run dvc repro export there, compare, and commit",
    "rebuild": "don't rely on what was recorded; run dvc repro there, commit, and compare with sandwatch audit diff",
}
"""What to do about a link that is broken; where none is named, ``AGAIN``."""
SEE = "run dvc pull, or dvc repro, and ask again"
COMMIT = (
    f"git diff dvc.lock shows it; git add dvc.lock {RECORD} and git commit keep it, "
    f"git checkout dvc.lock {RECORD} and dvc checkout undo it"
)
USES = ("trained", "left out", "never drawn", "validated", "tested", "no chip")
"""What a model did with a label; a label whose windows lie in two folds has two of these, '+' between.

trained: pixels of it were drawn and counted as mine by the loss. left out: its pixels were drawn, but method binary
ignores low confidence. never drawn: it lies in training windows that no epoch drew. validated, tested: it lies in
windows of that fold. no chip: no pixel of it is in any window."""
OWN = "own"
"""The training that made a model, where that of the one that it began with is told too."""
MOST_STARTS = 100
"""Models, each begun with the one before, that are followed: far more than anybody trains in a row."""


def start_number(number: int) -> str:
    """What the training of a model's start is called: 1 is what it began with, 2 what that one began with."""
    return f"start {number}"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of the chain, and whether it holds.

    Attributes:
        name: one of ``LINKS``; of a rebuild with the stage behind it.
        state: verified (a hash or a count was computed and agrees), skipped (nobody looked), unverified (it could not
            be computed), uncommitted (it agrees, but no revision holds it), broken (it disagrees).
        detail: what was compared, what differs, or why it could not be told.
        remedy: what to do about it where that is not what the state and the name of the link say.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


class Name(NamedTuple):
    """A name that points at a revision.

    Attributes:
        kind: ``branch``, ``tag``, ``artifact`` (a tag of DVC's model registry) or ``experiment``.
        name: without its namespace.
    """

    kind: Literal["branch", "tag", "artifact", "experiment"]
    name: str


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A commit, an experiment, or the files that lie there uncommitted.

    Attributes:
        commit: its hash; '' for the working tree.
        kind: ``commit`` (reachable from a branch, a tag or HEAD), ``experiment`` (of DVC) or ``working tree``.
        names: what points at it.
        time: of the commit, ISO 8601 in UTC; '' for the working tree.
        subject: first line of its message.
    """

    commit: str
    kind: Literal["commit", "experiment", "working tree"]
    names: tuple[Name, ...] = ()
    time: str = ""
    subject: str = ""

    def __str__(self) -> str:
        names = f" ({', '.join(name.name for name in self.names)})" if self.names else ""
        return f"{self.commit[:10] or self.kind}{names}"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A revision whose ``dvc.lock`` holds a model.

    Attributes:
        revision: it.
        links: what could be checked in git alone: lock, pipeline, code, inputs, params.
    """

    revision: Revision
    links: tuple[Link, ...]

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that don't hold."""
        return tuple(link for link in self.links if link.state == "broken")


class LabelRows(Table):
    """A label behind a model: what a person drew, or a generator, and what the model did with it."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "feature_id"]
    feature_id: Series[str] = pa.Field(unique=True)
    label_id: Series[str]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    origin: Series[str] = pa.Field(isin=LABEL_ORIGINS, description="synthetic: generated, drawn by nobody")
    class_name: Series[str]
    confidence: Series[str] = pa.Field(isin=["low", "high"])
    created_by: Series[str] = pa.Field(nullable=True, description="the annotator")
    created_at: Series[str] = pa.Field(nullable=True, description="ISO 8601, UTC")
    updated_at: Series[str] = pa.Field(nullable=True)
    reviews: Series[str] = pa.Field(description="JSON list as exported")
    workflow_status: Series[str] = pa.Field(nullable=True)
    area_m2: Series[float] = pa.Field(gt=0)
    fold: Series[str] = pa.Field(description="of the windows it lies in, '+' between; '' without any")
    use: Series[str] = pa.Field(description="of USES, '+' between")
    chips: Series[int] = pa.Field(ge=0, description="windows that hold pixels of it")
    pixels_train: Series[int] = pa.Field(ge=0, description="in training windows; once for each window")
    pixels_val: Series[int] = pa.Field(ge=0)
    pixels_test: Series[int] = pa.Field(ge=0)
    draws: Series[int] = pa.Field(ge=0, description="how often training windows with pixels of it were drawn")
    pixels_drawn: Series[int] = pa.Field(ge=0, description="pixels in training windows times their draws")
    positives_drawn: Series[int] = pa.Field(ge=0, description="those that the loss counted as mine")
    label_sha256: Series[str] = pa.Field(str_matches=SHA256)
    row_sha256: Series[str] = pa.Field(str_matches=SHA256, description="of the raw row in export.ndjson")
    geometry: Geometries


class AllLabelRows(LabelRows):
    """The labels of a model's own training, and of those of the models that it began with: a row a training."""

    _sort_by: ClassVar[list[str]] = ["training", "obs_id", "feature_id"]
    training: Series[str] = pa.Field(isin=[OWN, *map(start_number, range(1, MOST_STARTS + 1))])
    feature_id: Series[str]

    class Config:  # noqa: D106
        unique: ClassVar[list[str]] = ["training", "feature_id"]


class ChipRows(Table):
    """Pixels that a label put into a window, and how often training drew that window."""

    _sort_by: ClassVar[list[str]] = ["chip_id", "feature_id"]
    chip_id: Series[str]
    feature_id: Series[str]
    fold: Series[str] = pa.Field(isin=["train", "val", "test"])
    pixels: Series[int] = pa.Field(ge=1)
    draws: Series[int] = pa.Field(ge=0, description="0 outside training")


class ObservationRows(Table):
    """An observation that was looked at; those without mines are the negatives."""

    _sort_by: ClassVar[list[str]] = ["obs_id"]
    obs_id: Series[str] = pa.Field(unique=True, str_matches=OBS_ID)
    site_id: Series[str]
    origin: Series[str] = pa.Field(isin=LABEL_ORIGINS, description="synthetic: generated, looked at by nobody")
    has_mines: Series[bool]
    polygons: Series[int] = pa.Field(ge=0)
    label_id: Series[str]
    created_by: Series[str] = pa.Field(nullable=True)
    workflow_status: Series[str] = pa.Field(nullable=True)
    snapshot: Series[str]
    fold: Series[str] = pa.Field(description="of its windows, '+' between; '' without any")
    windows: Series[int] = pa.Field(ge=0)
    draws: Series[int] = pa.Field(ge=0, description="how often training windows of it were drawn")


class SceneRows(Table):
    """A raster behind a model: of an observation that has windows."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "product"]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    product: Series[str] = pa.Field(isin=PRODUCTS)
    fold: Series[str]
    path: Series[str]
    sha256: Series[str] = pa.Field(str_matches=SHA256)
    source: Series[str]
    source_images: Series[str] = pa.Field(description="JSON list of {id, date, processing_baseline}")
    crs: Series[str]
    transform: Series[str] = pa.Field(description="the six affine coefficients a..f, ',' between")
    width_px: Series[int] = pa.Field(ge=1)
    height_px: Series[int] = pa.Field(ge=1)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Links, and what they come to.

    Attributes:
        links: in the order of ``LINKS``.
    """

    links: tuple[Link, ...]

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that don't hold, the first one first."""
        return tuple(link for link in self.links if link.state == "broken")

    @property
    def state(self) -> State:
        """Of the worst link."""
        return state(self.links)

    @property
    def verdict(self) -> str:
        """One line."""
        return verdict(self.links)

    @property
    def remedy(self) -> str:
        """What to do about it, in one line; '' where nothing is to be done."""
        return remedy(self.links)


@dataclass(frozen=True, kw_only=True)
class Audit(Chain):
    """Everything behind a model, as far as it could be followed.

    Attributes:
        target: what was asked about, as given.
        spec: what the model says of itself; None where that can't be read.
        card: of the model, which says what made it; None where no card could be read.
        holders: every revision that holds the model, newest first.
        revision: the one whose files were followed; None for a model outside any repository.
        stage: of that revision, which trained it.
        starts: the models of ours that it began with, followed likewise: the one that it started from, the one that
            that one started from, and so on.
        params: of the stages behind the model, by section.
        labels: rows of :class:`LabelRows`, of its own training alone, as in all tables here (:meth:`all_of` has those
            of its starts too); None where the table could not be reached, like the others.
        windows: rows of :class:`sandwatch.schemas.Windows` with ``draws``: how often training drew each.
        chips: rows of :class:`ChipRows`.
        observations: rows of :class:`ObservationRows`.
        quarantine: rows of :class:`sandwatch.schemas.Quarantine`.
        imagery: rows of :class:`SceneRows`.
        notes: what could not be seen, and how to see it.
        pictures: RGB rasters of observations that lie on this machine and have the hash that ``imagery`` gives, by
            obs_id; empty unless asked for. No output names these paths.
    """

    target: str
    spec: Spec | None
    card: Card | None
    holders: tuple[Holder, ...] = ()
    revision: Revision | None = None
    stage: str = "train"
    starts: tuple[Audit, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    labels: gpd.GeoDataFrame | None = None
    windows: pd.DataFrame | None = None
    chips: pd.DataFrame | None = None
    observations: pd.DataFrame | None = None
    quarantine: pd.DataFrame | None = None
    imagery: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def trainings(self) -> dict[str, Audit]:
        """What was followed, by the training that it tells of: the own one first, then those of the starts."""
        return {OWN: self} | {start_number(number): start for number, start in enumerate(self.starts, 1)}

    def all_of(self, name: Tables) -> Any:
        """A table of all trainings, whose column ``training``, the first, says which one a row is of.

        Args:
            name: of the table.

        Returns:
            Its rows, training by training; None where it could be reached of none.
        """
        tables = [
            table.assign(training=training)[["training", *table.columns]]
            for training, audit in self.trainings.items()
            if (table := getattr(audit, name)) is not None
        ]
        return None if not tables else tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)

    @property
    def origin(self) -> str | None:
        """What is invented of what the model learnt from, in a sentence; None where nothing is, or nobody knows."""
        said: dict[str, str] = {}  # a start whose sentence would be another's is left out
        for training, audit in self.trainings.items():
            spec = audit.spec
            if spec is not None and (invented := words(imagery=spec.imagery, labels=spec.labels)) is not None:
                whose = "Its labels" if training == OWN else f"The labels of {training}, which it began with,"
                said.setdefault(invented, marked(f"{whose} were {drawn(spec.labels)}", invented))
        return ". ".join(said.values()) or None

    @property
    def uses(self) -> dict[str, int]:
        """How many labels of its own training have each of ``USES``, in that order; one that has two counts in both."""
        combined = {} if self.labels is None else self.labels["use"].value_counts().to_dict()
        counts = {use: sum(n for text, n in combined.items() if use in text.split("+")) for use in USES}
        return {use: count for use, count in counts.items() if count}

    @property
    def negatives(self) -> pd.DataFrame | None:
        """The observations of its own training without mines."""
        return None if self.observations is None else self.observations[~self.observations["has_mines"]]


def source_images(text: str) -> list[dict[str, Any]]:
    """The images in a cell of :class:`SceneRows`; none where it holds something else."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [image for image in listed if isinstance(image, dict)] if isinstance(listed, list) else []


def state(links: Iterable[Link]) -> State:
    """The state of a chain: that of its worst link. What nobody looked at makes it no worse."""
    return max((link.state for link in links if link.state != "skipped"), key=list(WORDS).index, default="skipped")


def verdict(links: Iterable[Link]) -> str:
    """What a chain comes to, in one line: the word for its state, why, and how many links hold."""
    links = list(links)
    found = state(links)
    first = next((link for link in links if link.state == found), None)
    if found == "broken" and first is not None:
        return f"BROKEN at {first.name}: {first.detail}"
    named = {one: [name for name in dict.fromkeys(x.name for x in links) if _of(links, name) == one] for one in WORDS}
    count = len(named["verified"])
    parts = [f"{count} link{'s' * (count != 1)} verified"]
    if found == "uncommitted" and first is not None:
        parts = [first.detail, *parts]
    parts += [
        f"{WORDS[one]}: {', '.join(named[one])}"
        for one in ("unverified", "skipped")
        if named[one] and one != found
    ]  # fmt: skip
    if found == "unverified":
        parts = [", ".join(named[found]), *parts]
    return f"{WORDS[found].upper()}: {'; '.join(parts)}"


def _of(links: Iterable[Link], name: str) -> State:
    """The state of a link that may have several parts."""
    mine = [link.state for link in links if link.name == name]
    return max(mine, key=list(WORDS).index)


def remedy(links: Iterable[Link]) -> str:
    """What to do about the worst link, the first one of that state; '' where every link that was looked at holds."""
    links = list(links)
    found = state(links)
    first = next((link for link in links if link.state == found), None)
    if first is None or found in ("verified", "skipped"):
        return ""
    own = {"broken": REMEDIES.get(_kind(first.name), AGAIN), "uncommitted": COMMIT, "unverified": SEE}[found]
    return first.remedy or own


def in_order(links: Iterable[Link]) -> tuple[Link, ...]:
    """Links in the order of ``LINKS``, and within a name, or among rebuilds, in the order given."""
    return tuple(sorted(links, key=lambda link: LINKS.index(_kind(link.name))))


def _kind(name: str) -> str:
    return "rebuild" if name.startswith("rebuild ") else name


__all__ = [
    "LINKS",
    "MOST_STARTS",
    "OWN",
    "STATUS",
    "USES",
    "WORDS",
    "AllLabelRows",
    "Audit",
    "Chain",
    "ChipRows",
    "Holder",
    "LabelRows",
    "Link",
    "Name",
    "ObservationRows",
    "Revision",
    "SceneRows",
    "State",
    "Tables",
    "in_order",
    "remedy",
    "source_images",
    "start_number",
    "state",
    "verdict",
]
