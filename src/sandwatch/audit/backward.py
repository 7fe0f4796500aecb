"""From labels to every model that they touched, over all of git's history and DVC's experiments."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sandwatch.audit.chain import (
    ANNOTATIONS,
    CARD,
    CHIPS,
    EXPOSURES,
    REPLICATES,
    WEIGHTS,
    Files,
    annotations_of,
    models,
    models_in,
)
from sandwatch.audit.chain import trained as trained_by
from sandwatch.audit.forward import DRAWN, FOLDS, Parts, count
from sandwatch.audit.history import History
from sandwatch.audit.known import Known, place_of
from sandwatch.audit.objects import CorruptError, MissingError, Objects, read_table
from sandwatch.audit.record import USES, Revision
from sandwatch.cross_validation import assigned
from sandwatch.errors import InputError

Said = tuple[str, ...]
STATES = ("trained", "unknown", "validated", "tested", "never saw")
"""What labels did to a model, the strongest first."""
OF_OBSERVATIONS = {"obs_id": pa.string(), "label_id": pa.string(), "created_by": pa.string(), "has_mines": pa.bool_()}
COLUMNS = ["feature_id", "label_id", "obs_id", "confidence", "created_by", "created_at"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which labels are asked about: those that fulfil all that is given.

    Attributes:
        label: a feature id, or a label id for all that it holds.
        annotator: who created them.
        since, until: first and last day on which they were created, YYYY-MM-DD.
        who: gives a person's pseudonym; with it ``annotator`` may be one.
    """

    label: str | None = None
    annotator: str | None = None
    since: str | None = None
    until: str | None = None
    who: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if not any((self.label, self.annotator, self.since, self.until)):
            raise InputError(
                "sandwatch audit",
                got="no model and no label",
                expected="a model, a raster, a revision, an experiment, or --label, --annotator, --from or --to",
                fix="name one",
            )
        for day in (self.since, self.until):
            try:
                np.datetime64(day or "2000-01-01", "D")
            except ValueError:
                raise InputError(
                    "--from, --to", got=repr(day), expected="a day as YYYY-MM-DD", fix="correct it"
                ) from None

    @property
    def asked(self) -> dict[str, str]:
        """What was given, by name."""
        names = ("label", "annotator", "since", "until")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _created(self, created_by: pa.ChunkedArray) -> Any:
        """Whether each row is the annotator's."""
        people = [self.annotator]
        if self.who is not None:
            listed = pc.unique(created_by).to_pylist()
            people += [person for person in listed if person is not None and self.who(person) == self.annotator]
        mine = [pc.fill_null(pc.equal(created_by, person), False) for person in dict.fromkeys(people)]
        return reduce(pc.or_, mine)

    def matches(self, labels: pa.Table) -> pa.Table:
        """The rows of schemas.Labels (``COLUMNS`` of them) that are meant."""
        keep = pa.scalar(True)
        if self.label is not None:
            keep = pc.or_(pc.equal(labels["feature_id"], self.label), pc.equal(labels["label_id"], self.label))
        if self.annotator is not None:
            keep = pc.and_(keep, self._created(labels["created_by"]))
        if self.since is not None or self.until is not None:
            day = pc.utf8_slice_codeunits(labels["created_at"], 0, 10)  # ISO 8601 in UTC
            inside = pc.and_(
                pc.greater_equal(day, self.since or "0000"), pc.less_equal(day, self.until or "9999-12-31")
            )
            keep = pc.and_(keep, pc.fill_null(inside, False))
        return labels.filter(keep)

    def matches_negatives(self, observations: pa.Table) -> list[str]:
        """The observations without mines that are meant; they carry no date, so none where one is asked for."""
        if self.since is not None or self.until is not None:
            return []
        keep = pc.invert(observations["has_mines"])
        if self.label is not None:
            keep = pc.and_(keep, pc.equal(observations["label_id"], self.label))
        if self.annotator is not None:
            keep = pc.and_(keep, self._created(observations["created_by"]))
        return observations.filter(keep)["obs_id"].to_pylist()  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Touched:
    """A model, and what it did with the labels asked about.

    Attributes:
        weights_md5: of the weights, as ``dvc.lock`` holds them.
        revisions: that hold it, newest first.
        weights_sha256, label_fingerprint: as its card says; None where the card can't be reached.
        state: ``trained``, ``validated``, ``tested`` (the strongest that holds of any label, in its own training or in
            that of a model that it began with), ``never saw``, or ``unknown``: of none it is known that the label
            trained it, and of one nothing is known.
        own: the same of its own training alone.
        starts: the models that it began with, nearest first, by the SHA-256 of their weights.
        through: those of them that make its state more than its own training does, or unknown.
        labels: how many of the labels of its own training are meant.
        negatives: how many of its observations without mines are meant.
        uses: number of labels by use (see ``record.USES``), of its own training, as what follows.
        pixels_drawn, positives_drawn: of those labels, as in ``record.LabelRows``.
        detail: why it is unknown.
    """

    weights_md5: str
    revisions: tuple[Revision, ...]
    weights_sha256: str | None = None
    label_fingerprint: str | None = None
    state: str = "unknown"
    own: str = "unknown"
    starts: Said = ()
    through: Said = ()
    labels: int = 0
    negatives: int = 0
    uses: Mapping[str, int] = field(default_factory=dict)
    pixels_drawn: int = 0
    positives_drawn: int = 0
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Backward:
    """What a search came to.

    Attributes:
        question: what was asked.
        models: every model of the history, newest first.
        labels: feature ids that are meant, with the observation, of all models together.
        notes: what could not be seen.
    """

    question: Question
    models: tuple[Touched, ...]
    labels: pd.DataFrame
    notes: Said


def backward(
    question: Question, *, where: Path | None = None, remote: str | None = None, offline: bool = False
) -> Backward:
    """Every model of the history, and what it did with the labels asked about.

    Args:
        question: which labels.
        where: a path in the DVC repository; None for the working directory.
        remote: of DVC, to pull tables from; None for the default one.
        offline: don't ask any remote.

    Raises:
        InputError: there is no DVC repository here, or no label set of its history knows what is asked about.
    """
    history = History.here(where)
    try:
        objects = Objects(history.root, remote=remote, offline=offline)
        search = _Search(question, history, objects)
        own = [search.of(folder, revisions) for folder, revisions in models(history).items()]
        found = through_starts(own, search.ours)
        unseen = search.ours - {model.weights_sha256 for model in own}
        elsewhere = () if search.meant or search.negatives else (_elsewhere(question, history, objects, len(unseen)),)
    finally:
        history.git.close()
    unknown = sum(model.state == "unknown" for model in found)
    missed = (f"{unknown} of {len(found)} models could not be looked into",) if unknown else ()
    labels = pd.DataFrame(sorted(search.meant.items()), columns=["feature_id", "obs_id"])
    return Backward(question=question, models=found, labels=labels, notes=(*history.notes, *missed, *elsewhere))


def through_starts(found: Sequence[Touched], ours: Collection[str]) -> tuple[Touched, ...]:
    """What labels did to models by way of those that they began with.

    Args:
        found: every model, as its own training left it, with what it started from as its only start.
        ours: the starts that are models of ours, by the word of the cards of what they started, in sight or not.
    """
    # Weights that several cards speak of are those of several trainings: any of them may have made them.
    made: dict[str, list[Touched]] = {}
    for model in found:
        if model.weights_sha256 is not None:
            made.setdefault(model.weights_sha256, []).append(model)
    return tuple(_through(model, made, ours) if model.starts else model for model in found)


def _through(model: Touched, made: Mapping[str, list[Touched]], ours: Collection[str]) -> Touched:
    """A model with the state that those give it that it began with, and those that these began with."""
    states = {"": model.own}  # '' for its own training
    ahead = list(model.starts)
    while ahead:
        sha = ahead.pop()
        mine = made.get(sha, [])
        # What others published is no model of ours: it has no labels that could be found.
        if sha not in states and sha != model.weights_sha256 and (mine or sha in ours):
            states[sha] = _strongest(one.own for one in mine) if mine else "unknown"
            ahead += [start for one in mine for start in one.starts]
    state = _strongest(states.values())
    starts = tuple(sha for sha in states if sha)
    through = tuple(sha for sha in starts if states[sha] == state != model.own)
    detail = model.detail
    if state == "unknown" != model.own:
        why = next((one.detail for one in made.get(through[0], []) if one.own == "unknown"), "no revision holds it")
        detail = f"it began with {through[0]}, of which too little is known: {why}"
    return replace(model, state=state, starts=starts, through=through, detail=detail)


def _strongest(states: Iterable[str]) -> str:
    """What trained wins; after that, what isn't known: it may have trained."""
    return min(states, key=STATES.index)


def _elsewhere(question: Question, history: History, objects: Objects, unseen: int) -> str:
    """Where what no model has is named: in quarantine, say.

    Args:
        question: what was asked.
        history: to look in.
        objects: likewise.
        unseen: how many models that others began with are in no revision: what is asked about may be theirs.

    Raises:
        InputError: it is named nowhere, or nothing was created on the days asked about, and no model is unseen.
    """
    try:
        return _place(question, Known.of(history, objects))
    except InputError as error:
        if not unseen:
            raise
        theirs = f"{unseen} models that others began with are not in sight, and their labels may be what is asked"
        return f"{error.what}: {error.got}; {theirs}"


def _place(question: Question, known: Known) -> str:
    said = place_of(known, question.label, question.annotator, question.who)
    if question.since is not None or question.until is not None:
        days = f"{min(known.days)} to {max(known.days)}" if known.days else "no day that is recorded"
        raise InputError(
            "--from, --to",
            got=f"no label created from {question.since or 'the first day'} to {question.until or 'the last'}"
            + (f" ({known.missed})" if known.unread else ""),
            expected=f"days on which the labels asked about were created; all labels are of {days}",
            fix="ask for other days",
        )
    return f"{said}, but not among the labels that any model was made with" + (
        f"; {known.missed}" if known.unread else ""
    )


class _Search:
    """Tables are read once for all models that share them."""

    def __init__(self, question: Question, history: History, objects: Objects) -> None:
        self._question, self._history, self._objects = question, history, objects
        self.meant: dict[str, str] = {}
        self.negatives: set[str] = set()
        self.ours: set[str] = set()
        self._of_annotations: dict[str, tuple[pd.DataFrame, list[str]]] = {}
        self._of_chips: dict[tuple[str, str, str, int], tuple[pd.DataFrame, pd.Series, pd.Series, Parts]] = {}
        self._places: dict[int, tuple[pa.ChunkedArray, pd.Series, Any]] = {}
        # Whoever ran a part of the stages has a lock whose chips are no longer those that training read.
        self._annotations: dict[str, str] = {}
        chips: dict[str, None] = {}
        for _, (trained, cut, labelled) in history.each(
            lambda lock: (models_in(lock), lock.stage("chips"), annotations_of(lock))
        ):
            if cut is not None and labelled is not None and CHIPS in cut.outs:
                self._annotations.setdefault(cut.outs[CHIPS], labelled)
            chips |= dict.fromkeys(one.chips for one in trained if one.chips is not None)
        self._fetch(list(chips))

    def _fetch(self, chips: list[str]) -> None:
        """Pulls all that is needed in two goes: listings, then files."""
        self._objects.fetch([*chips, *self._annotations.values()])
        held = [dict(files) for files in models(self._history)]
        wanted = [files[name] for files in held for name in (CARD, EXPOSURES) if name in files]
        for names, oids in (
            (("windows.parquet", "chip_labels.parquet"), chips),
            (("labels.parquet", "observations.parquet"), list(self._annotations.values())),
        ):
            for oid in oids:
                try:
                    files = self._objects.tree(oid)
                except (MissingError, CorruptError):
                    continue  # the model that rests on it becomes unknown
                wanted += [files[name] for name in names if name in files]
        self._objects.fetch(wanted)

    def of(self, model: Files, revisions: list[Revision]) -> Touched:
        """What one model did."""
        files = dict(model)
        base: dict[str, Any] = {"weights_md5": files[WEIGHTS], "revisions": tuple(revisions)}
        trained = trained_by(self._history.lock(revisions[0]), model)
        try:
            card = _said(self._objects.path(files[CARD], trained.path(CARD)))
            base |= {"weights_sha256": card.weights, "label_fingerprint": card.fingerprint}
            if card.start is not None:
                base["starts"] = (card.start,)
                self.ours |= {card.start} if card.is_ours else set()
            chips = trained.chips
            if chips is None:
                raise MissingError(f"{trained.stage} read no chips")
            annotations = self._annotations.get(chips)
            if annotations is None:
                raise MissingError(f"no revision says which labels the chips {chips} were cut with")
            labels, negatives = self._labels(annotations)
            base |= {"labels": len(labels), "negatives": len(negatives)}
            if labels.empty and not negatives:
                return Touched(**base, state="never saw", own="never saw")
            windows, window_ids, chip_ids, parts = self._chips(chips, annotations, trained.folds, card.replicate)
            exposures = read_table(self._objects.path(files[EXPOSURES], trained.path(EXPOSURES)), DRAWN)
        except (MissingError, CorruptError, KeyError) as error:
            return Touched(**base, detail=str(error))
        drawn = exposures["draws"].to_numpy()
        of_parts, of_windows = (self._drawn(drawn, exposures["chip_id"], ids) for ids in (chip_ids, window_ids))
        high = (labels["confidence"] == "high").to_numpy()
        # What could have trained and is not listed was left out: only a share of the observations trained.
        if (out := (of_parts < 0) & (parts.fold == FOLDS.index("train"))).any():
            parts = replace(parts, label=np.where(out, -1, parts.label))
        rows = count(parts, np.maximum(of_parts, 0), counted=np.array(card.method != "binary") | high)
        uses = Counter(use for uses, n in Counter(rows["use"]).items() for use in uses.split("+") * n)
        empty = windows[windows["obs_id"].isin(negatives)]
        trained = windows["obs_id"].isin(negatives) & (of_windows > 0)
        uses["trained"] += windows.loc[trained, "obs_id"].nunique()
        for fold, use in (("val", "validated"), ("test", "tested")):
            uses[use] += empty.loc[empty["fold"] == fold, "obs_id"].nunique()
        state = next((use for use in ("trained", "validated", "tested") if uses[use]), "never saw")
        return Touched(
            **base,
            state=state,
            own=state,
            uses={use: uses[use] for use in USES if uses[use]},
            pixels_drawn=int(rows["pixels_drawn"].sum()),
            positives_drawn=int(rows["positives_drawn"].sum()),
        )

    def _labels(self, oid: str) -> tuple[pd.DataFrame, list[str]]:
        if oid not in self._of_annotations:
            path = self._objects.file(oid, "labels.parquet", ANNOTATIONS)
            labels = self._question.matches(read_table(path, dict.fromkeys(COLUMNS, pa.string()))).to_pandas()
            if labels["feature_id"].duplicated().any():
                raise CorruptError(f"labels.parquet of {oid} names a feature twice")
            path = self._objects.file(oid, "observations.parquet", ANNOTATIONS)
            negatives = self._question.matches_negatives(read_table(path, OF_OBSERVATIONS))
            self._of_annotations[oid] = labels, negatives
            self.meant |= dict(zip(labels["feature_id"], labels["obs_id"], strict=True))
            self.negatives |= set(negatives)
        return self._of_annotations[oid]

    def _chips(
        self, oid: str, annotations: str, folds: str | None, replicate: int
    ) -> tuple[pd.DataFrame, pd.Series, pd.Series, Parts]:
        """The windows that hold labels or negatives that are meant; what those labels put into which of them.

        Args:
            oid: of the chips.
            annotations: that they were cut with.
            folds: of the table of a cross-validation's folds; None for the split's own.
            replicate: of the cross-validation.
        """
        key = (oid, annotations, folds or "", replicate)
        if key not in self._of_chips:
            labels, negatives = self._of_annotations[annotations]
            path = self._objects.file(oid, "chip_labels.parquet", CHIPS)
            table = read_table(path, {"chip_id": pa.string(), "feature_id": pa.string(), "pixels": pa.int64()})
            ids = pa.array(labels["feature_id"], pa.string())
            parts = table.filter(pc.is_in(table["feature_id"], ids)).to_pandas()
            path = self._objects.file(oid, "windows.parquet", CHIPS)
            names = ("chip_id", "obs_id", "site_id", "fold", "kind")
            table = read_table(path, dict.fromkeys(names, pa.string()))
            keep = pc.or_(
                pc.is_in(table["chip_id"], pa.array(parts["chip_id"], pa.string())),
                pc.is_in(table["obs_id"], pa.array(negatives, pa.string())),
            )
            windows = table.filter(keep).to_pandas().drop_duplicates("chip_id")
            if folds is not None:
                windows = assigned(windows, _folds(self._objects.path(folds, REPLICATES)), replicate)
                parts = parts[parts["chip_id"].isin(windows["chip_id"])].reset_index(drop=True)
            parts["fold"] = parts["chip_id"].map(windows.set_index("chip_id")["fold"])
            found = Parts.of(parts, labels["feature_id"])
            self._of_chips[key] = windows, windows["chip_id"], parts["chip_id"], found
        return self._of_chips[key]

    def _drawn(self, draws: Any, listed: pa.ChunkedArray, wanted: pd.Series) -> Any:
        """How often each of some windows was drawn, -1 where it is not listed: int64.

        Models trained on the same chips list the same windows; where each is in the list is looked up once for them.
        """
        known = self._places.get(id(wanted))
        if known is None or not known[0].equals(listed):
            places = pd.Index(listed.to_pandas()).get_indexer(pd.Index(wanted))
            known = self._places[id(wanted)] = listed, wanted, places
        return np.where(known[2] >= 0, draws[known[2]], -1) if len(draws) else np.full(len(wanted), -1)


def _folds(path: Path) -> pd.DataFrame:
    """A table of folds.

    Raises:
        CorruptError: it is none.
    """
    columns = {"replicate": pa.int64(), "site_id": pa.string(), "fold": pa.string()}
    table: pd.DataFrame = read_table(path, columns).to_pandas()
    return table


class _Said(NamedTuple):
    """What a card says, as the card calls it; of what the model began with the hash, and whether it is one of ours."""

    weights: str
    fingerprint: str
    method: str
    replicate: int
    start: str | None
    is_ours: bool


def _said(card: Path) -> _Said:
    """Reads a card, of another version too.

    Raises:
        CorruptError: it doesn't.
    """
    try:
        said = json.loads(card.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{CARD} is no JSON: {type(error).__name__}") from None
    match said:
        case {"weights_sha256": str(weights), "label_fingerprint": str(fingerprint), "method": str(method)}:
            replicate = said.get("replicate", 0)
            replicate = replicate if isinstance(replicate, int) else 0
            match said.get("start"):
                case {"sha256": str(start), "model": bool(is_ours)}:
                    return _Said(weights, fingerprint, method, replicate, start, is_ours)
            return _Said(weights, fingerprint, method, replicate, None, False)
    raise CorruptError(f"{CARD} doesn't say weights_sha256, label_fingerprint and method")
