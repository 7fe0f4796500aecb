"""From a model, a raster, a revision or an experiment to the labels behind it, each hash verified on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sandwatch import schemas
from sandwatch.annotations.canonical import canonical_rows, fingerprint_of
from sandwatch.audit import chain
from sandwatch.audit.chain import (
    ABOUT,
    ANNOTATIONS,
    CHIPS,
    EXPOSURES,
    OF_A_FILE,
    OWN_WEIGHTS,
    PREDICTIONS,
    REPLICATES,
    SCENES,
    WEIGHTS,
    InHand,
    Trained,
    broken,
    skipped,
    uncommitted,
    unverified,
    verified,
)
from sandwatch.audit.history import History, Lock, Stage
from sandwatch.audit.objects import CorruptError, MissingError, Objects, read_table
from sandwatch.audit.record import (
    MOST_STARTS,
    SEE,
    Audit,
    ChipRows,
    Holder,
    LabelRows,
    Link,
    ObservationRows,
    SceneRows,
    in_order,
)
from sandwatch.audit.statement import attested
from sandwatch.cross_validation import assigned
from sandwatch.errors import InputError
from sandwatch.files import below, sha256
from sandwatch.model.card import Card, Start
from sandwatch.origin import About, kind_of
from sandwatch.share import chosen

FOLDS = ("train", "val", "test")
PIXELS = "data/scenes"
"""Output of the stage that exports rasters. Source: dvc.yaml."""
DRAWN = {"chip_id": pa.string(), "draws": pa.int64()}
"""Columns of models/exposures.parquet. Source: train/loop.py."""
NOT_READ = "not run again, and its pixels not read: sandwatch audit verify does"
PINNED = "params.yaml pins it, and training refuses other bytes"
BEHIND_CARD = ("chips", "fingerprint", "labels", "snapshot", "imagery")
"""The links that only the model's card leads to."""


def audit(
    target: str,
    *,
    where: Path | None = None,
    remote: str | None = None,
    offline: bool = False,
    pictures: bool = False,
) -> Audit:
    """Everything behind a target.

    Args:
        target: a model file or folder, a raster, detections or item of ``infer``, a revision, or an experiment's name.
        where: a path in the DVC repository to look in; None for the working directory, else the target's own.
        remote: of DVC, to pull tables from; None for the default one.
        offline: don't ask any remote.
        pictures: look for RGB rasters too, in cache and working tree only.

    Raises:
        InputError: the target is none of these, or is no model of ours.
    """
    history = _history(target, where)
    try:
        objects = Objects(history.root, remote=remote, offline=offline) if history else None
        hand = chain.take(target, history, objects)
        if history is None or objects is None:
            why = "there is no DVC repository here: nothing but the file itself could be checked"
            answer = _alone(hand, why, "run it in a clone of the repository that it was trained in")
        else:
            answer = follow(hand, history, objects, pictures=pictures)
        said = None if hand.path is None else attested(hand.path.parent, hand.weights_sha256)
        return answer if said is None else replace(answer, notes=(*answer.notes, said))
    finally:
        if history is not None:
            history.git.close()


def follow(hand: InHand, history: History, objects: Objects, *, pictures: bool = False) -> Audit:
    """The audit of what is in hand, in a repository, and of the models of ours that it began with."""
    found, own = [_followed(hand, history, objects, pictures)], list[Link | None]()
    # One after the other, not within each other: what somebody made up may be long.
    while True:
        link, start = _begun(found[-1])
        before = None
        if start is not None:
            link, before = _before(start, found, history, objects, pictures)
        own.append(link)
        if before is None:
            break
        found.append(before)
    answer = _with(found.pop(), own.pop())
    for audit in reversed(found):
        begun = _with(audit, own.pop() or _begun_with(answer))
        notes = dict.fromkeys([*audit.notes, *_lying(answer, history), *answer.notes])
        answer = replace(begun, starts=(answer, *answer.starts), notes=tuple(notes))
    return answer


def _with(audit: Audit, link: Link | None) -> Audit:
    return audit if link is None else replace(audit, links=in_order([*audit.links, link]))


def _followed(hand: InHand, history: History, objects: Objects, pictures: bool) -> Audit:
    """The audit of what is in hand, without what it began with."""
    models, links, notes = chain.find(hand, history, objects)
    if not models:
        dark = (*notes, *history.notes[-1:]) if history.unread else notes
        searched = f"no revision holds it ({len(history.revisions)} searched)"
        return _alone(
            hand,
            f"whether a revision holds it can't be told: {dark[0]}" if dark else searched,
            SEE if notes else chain.FETCH,
            history.notes,
        )
    # The same weights may have several cards: other code or params that came to the same.
    asked = hand.revision is not None  # then its card is in hand, or can't be read
    cards = {files: hand.card if asked else hand.card or chain.read_card(dict(files), objects) for files in models}
    held = {
        files: chain.holders(cards[files], files, revisions, history, objects) for files, revisions in models.items()
    }
    chosen = chain.best([holder for holders in held.values() for holder in holders], history)
    files = next(files for files, holders in held.items() if chosen in holders)
    card, lock = cards[files], history.lock(chosen.revision)
    trained = chain.trained(lock, files)
    behind, behind_notes, tables = _behind(hand, card, trained, lock, chosen, objects, pictures)
    everyone = tuple(holder for holders in held.values() for holder in holders)
    order = {revision: i for i, revision in enumerate(history.revisions)}
    # The working tree is no revision: nobody else can find it.
    committed = chosen.revision.kind != "working tree"
    exact = not any(link.state == "broken" for link in links)
    if not committed:
        found = uncommitted(name="revision", detail="only the working tree holds it")
    elif exact:
        others = f", and that of {len(everyone) - 1} more," if len(everyone) > 1 else ""
        found = verified(name="revision", detail=f"dvc.lock of {chosen.revision}{others} holds it")
    else:
        found = broken(name="revision", detail=f"no revision holds it as it is; the nearest is {chosen.revision}")
    return Audit(
        target=hand.target,
        spec=card,
        card=card,
        links=in_order(
            [*hand.links, *links, found, *chosen.links, *behind, *not_derived(lock, trained.stage, NOT_READ)]
        ),
        holders=tuple(sorted(everyone, key=lambda holder: order[holder.revision])),
        revision=chosen.revision,
        stage=trained.stage,
        params=_params(lock, trained.stage),
        notes=(*history.notes, *notes, *behind_notes),
        **tables,
    )


def not_derived(lock: Lock, last: str, why: str) -> list[Link]:
    """The links of stages, up to the last one, that nobody ran again."""
    return [skipped(name=f"rebuild {stage}", detail=why) for stage in lock.upstream(last)]


def _begun(audit: Audit) -> tuple[Link | None, Start | None]:
    """How a model began, as its card and its params say.

    Returns:
        What can be told at once, and the file that may be a model of ours, to be followed. Neither, where it started
        from random numbers, or no revision says what it started from.
    """
    if audit.revision is None:
        return None, None
    model = audit.params.get("model")
    pinned = model.get("weights") if isinstance(model, Mapping) else None
    if audit.card is None:
        detail = f"dvc.lock says that it started from {pinned}; only the model's card leads there"
        return (None if pinned is None else unverified(name="start", detail=detail)), None
    start = audit.card.start
    if isinstance(pinned, str):  # the registry knows the hash of what this names
        pinned = {"name": pinned, "sha256": "" if start is None else start.sha256}
    said = None if start is None else {"name": start.name, "sha256": start.sha256}
    if said != pinned:
        detail = f"the card says that it started from {said}; dvc.lock, from {pinned}"
        return broken(name="start", detail=detail), None
    if start is None or start.model or start.name.endswith(OF_A_FILE):
        return None, start
    return verified(name="start", detail=f"{start.words}; {PINNED}"), None


def _before(
    start: Start, found: Sequence[Audit], history: History, objects: Objects, pictures: bool
) -> tuple[Link | None, Audit | None]:
    """Follows the file that a model started from to the training that made it.

    Args:
        start: what the last of ``found`` started from.
        found: what was followed so far.
        history: to look in.
        objects: likewise.
        pictures: as :func:`audit`.

    Returns:
        The link, where it is more than what the chain behind the start comes to; and that chain, where there is one.
    """
    if any(audit.card is not None and audit.card.weights_sha256 == start.sha256 for audit in found):
        detail = f"{start.name} is said to have begun with what began with it: {start.sha256}"
        return broken(name="start", detail=detail), None
    if len(found) > MOST_STARTS:
        detail = f"{MOST_STARTS} models were followed, each begun with the one before: {start.name} was not"
        return unverified(name="start", detail=detail, remedy="sandwatch audit it by itself"), None
    before = _followed(chain.start_of(start), history, objects, pictures)
    if before.revision is not None:
        detail = f"the card says that {start.name} is no model of ours; it is that of {before.revision}"
        return (None if start.model else broken(name="start", detail=detail)), before
    if not start.model:
        return verified(name="start", detail=f"{start.words}; {PINNED}"), None
    unheld = next(link for link in before.links if link.name == "revision")
    detail = f"no revision in sight holds the model {start.name} that it started from, {start.sha256}: {unheld.detail}"
    return unverified(name="start", detail=f"{detail}; its labels can't be named", remedy=unheld.remedy), None


def _begun_with(before: Audit) -> Link:
    """The link to a model that another began with: it holds where all of that one's chain does."""
    how = {"verified": verified, "uncommitted": uncommitted, "broken": broken}.get(before.state, unverified)
    count = sum(link.state == "verified" for link in before.links)
    said = f"{count} links verified" if before.state == "verified" else before.verdict
    labels = "" if before.labels is None else f", made with {len(before.labels)} labels"
    detail = f"{before.target} is the model of {before.revision}{labels}; its own chain: {said}"
    return how(name="start", detail=detail, remedy=before.remedy)


def _lying(start: Audit, history: History) -> list[str]:
    """A note where the file of a start that lies in the working tree is not the start."""
    path = history.root / OWN_WEIGHTS / start.target
    if start.card is None or not below(start.target) or not path.is_file() or sha256(path) == start.card.weights_sha256:
        return []
    return [f"{OWN_WEIGHTS}/{start.target} is no longer the file that was started from: a training would refuse it"]


def _history(target: str, where: Path | None) -> History | None:
    if where is not None:
        return History.around(where)
    return History.around(Path()) or (History.around(Path(target).parent) if Path(target).exists() else None)


def _alone(hand: InHand, why: str, fix: str, notes: tuple[str, ...] = ()) -> Audit:
    """What can be said of a file that no revision in sight holds."""
    begun = ["start"] if hand.spec is not None and hand.spec.start is not None else []
    silent = ("lock", "pipeline", "code", "inputs", "params", *begun, *BEHIND_CARD)
    revision = unverified(name="revision", detail=why, remedy=fix)
    rest = [unverified(name=name, detail="only a revision that holds the model could tell") for name in silent]
    links = in_order([*hand.links, revision, *rest])
    return Audit(target=hand.target, spec=hand.spec, card=hand.card, links=links, notes=notes)


def _params(lock: Lock, last: str) -> dict[str, Any]:
    """What the stages behind a model ran with, by section."""
    stages = (lock.stage(name) for name in lock.upstream(last))
    return chain.by_section(
        {key: value for stage in stages if stage is not None for key, value in stage.params.items()}
    )


def _behind(
    hand: InHand,
    card: Card | None,
    trained: Trained,
    lock: Lock,
    holder: Holder,
    objects: Objects,
    pictures: bool,
) -> tuple[list[Link], list[str], dict[str, Any]]:
    """Links, notes and tables of what the model's card leads to."""
    if card is None:
        return [unverified(name=name, detail="only the model's card leads there") for name in BEHIND_CARD], [], {}
    walk = _Walk(hand, card, trained, lock, holder, objects, pictures)
    walk.go()
    return walk.links, walk.notes, walk.tables


@dataclass(frozen=True, kw_only=True)
class _Annotated:
    """The tables of the stage annotations; ``ignored`` is None at revisions from before it was made."""

    labels: gpd.GeoDataFrame
    observations: pd.DataFrame
    ignored: gpd.GeoDataFrame | None
    quarantine: pd.DataFrame


@dataclass
class _Walk:
    """Follows one lock from the model's card to the snapshot of its labels, and keeps what it finds."""

    hand: InHand
    card: Card
    trained: Trained
    lock: Lock
    holder: Holder
    objects: Objects
    pictured: bool
    links: list[Link] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)

    def go(self) -> None:
        train, chips = self._stage(self.trained.stage), self._stage(self.lock.maker(CHIPS) or "")
        if self.hand.result is not None:
            self._try("result", self._result)
        if not self.hand.files:  # what is in hand has no weights of its own: a result, or the word of another model
            self._try("weights", self._weights)
        labelled = chain.annotations_of(self.lock) or ""
        annotated = self._try("labels", lambda: self._annotated(labelled))
        with ThreadPoolExecutor(1) as pool:  # labels are put in canonical form while the tables of chips are read
            rows = None if annotated is None else pool.submit(canonical_rows, annotated.labels)
            windows = self._try("chips", lambda: self._chips(train))
        self._try("fingerprint", lambda: self._about(train))
        if annotated is not None and rows is not None:
            self._fingerprint(annotated, rows.result())
            self._labels(annotated, rows.result(), windows)
            self._try("snapshot", lambda: self._snapshot(labelled, annotated))
        if windows is not None:
            self._try("imagery", lambda: self._imagery(chips.deps[SCENES], windows[0]))
            if self.pictured and "imagery" in self.tables:
                self._pictures(chips.deps.get(PIXELS, ""))

    def _stage(self, name: str) -> Stage:
        stage = self.lock.stage(name)
        if stage is None:
            raise InputError(
                f"dvc.lock at {self.holder.revision}",
                got="a chain of stages with a gap",
                expected=f"a stage that makes what {self.trained.stage} read",
                fix="run dvc repro there",
            )
        return stage

    def _try(self, name: str, step: Callable[[], Any]) -> Any:
        """Runs a step; what it could not reach leaves its link unverified, what is not what it claims breaks it."""
        try:
            return step()
        except MissingError as error:
            self.links.append(unverified(name=name, detail=str(error)))
        except (CorruptError, InputError) as error:
            self.links.append(broken(name=name, detail=str(error)))
        except KeyError as error:
            self.links.append(broken(name=name, detail=f"nothing records {error}"))
        return None

    def _note(self, name: str, wrong: list[str], right: str) -> None:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        self.links.append(broken(name=name, detail=wrong[0] + more) if wrong else verified(name=name, detail=right))

    def _weights(self) -> None:
        lying = self.trained.path(WEIGHTS) if self.hand.result is not None else f"{OWN_WEIGHTS}/{self.hand.target}"
        self.links += chain.kept_weights(dict(self.trained.files), self.card, self.objects, lying=lying)

    def _result(self) -> None:
        result = self.hand.result
        assert result is not None
        truth = {**self.card.said, "threshold": str(self.card.threshold)}
        wrong = [
            f"it says {name} {said}; the model's card says {truth[name]}"
            for name, said in result.claims.items()
            if said != truth[name]
        ]
        infer = self.lock.stage("infer")
        if infer is not None and SCENES in infer.deps and not wrong:
            manifest = schemas.Scenes.read(self.objects.path(infer.deps[SCENES], SCENES))
            there = manifest.set_index(["obs_id", "product"])["sha256"].to_dict()
            wrong = [
                f"it says {obs_id}, {product} is {said}; that revision's is {there.get((obs_id, product))}"
                for obs_id, products in result.scenes.items()
                for product, said in products.items()
                if there.get((obs_id, product)) != said
            ]
            claimed = [product in result.scenes.get(obs_id, ()) for obs_id, product in there]
            if result.scenes and not wrong:
                self.links.append(pixels(manifest[claimed], infer.deps.get(PIXELS, ""), self.objects, pull=False))
            kinds = manifest.groupby("obs_id")["source"].agg(kind_of).to_dict()
            wrong += [
                f"it says {obs_id} is {said} imagery; that revision's is {kinds.get(obs_id)}"
                for obs_id, said in result.imagery.items()
                if kinds.get(obs_id) != said
            ]
        held = None
        if infer is not None:
            files = self.objects.tree(infer.outs[PREDICTIONS], PREDICTIONS)
            held = next((path for path, found in files.items() if found == result.md5), None)
        if held is None and not wrong:
            detail = f"what it says agrees with the model, but {self.holder.revision} holds no such file"
            fix = "run dvc repro infer there and compare, or find the file as infer wrote it"
            self.links.append(unverified(name="result", detail=detail, remedy=fix))
            return
        self._note("result", wrong, f"it is {PREDICTIONS}/{held} of {self.holder.revision}; what it says agrees")

    def _chips(self, train: Stage) -> tuple[pd.DataFrame, pd.DataFrame]:
        oid = train.deps[CHIPS]
        listed = {f"{CHIPS}/{path}" for path in self.objects.tree(oid, CHIPS)}
        claimed = {path for path in self.card.inputs if path.startswith(f"{CHIPS}/")}
        wrong = [f"the card and dvc.lock disagree on whether {path} was read" for path in sorted(listed ^ claimed)]
        paths = {name: self.objects.file(oid, name, CHIPS) for name in ("windows.parquet", "chip_labels.parquet")}
        for name, path in paths.items():
            if (found := sha256(path)) != (said := self.card.inputs.get(f"{CHIPS}/{name}")):
                wrong.append(f"{CHIPS}/{name} has SHA-256 {found}; the card says {said}")
        cut = _windows(paths["windows.parquet"])
        windows = self._that_train(self._in_folds(cut), chain.by_section(train.params).get("train", {}))
        parts = schemas.ChipLabels.read(paths["chip_labels.parquet"])
        exposures = self.trained.path(EXPOSURES)
        path = self.objects.path(dict(self.trained.files)[EXPOSURES], exposures)
        draws = read_table(path, DRAWN).to_pandas().drop_duplicates("chip_id")
        trained = windows["fold"] == "train"
        if set(draws["chip_id"]) != set(windows["chip_id"][trained]):
            wrong.append(f"{exposures} counts other windows than the {int(trained.sum())} for training")
        windows["draws"] = windows["chip_id"].map(draws.set_index("chip_id")["draws"]).fillna(0).astype(np.int64)
        labelled = windows.set_index("chip_id")[["px_low", "px_high"]].sum(axis=1)
        given = parts.groupby("chip_id")["pixels"].sum().reindex(labelled.index, fill_value=0)
        wrong += [f"window {chip} has {labelled[chip]} labelled pixels; its labels gave {given[chip]}"
                  for chip in labelled.index[labelled != given][:9]]  # fmt: skip
        self._note("chips", wrong, f"{len(windows)} windows as the card says; their labels give all labelled pixels")
        if len(windows) < len(cut):  # those that this training left out, and the labels in them with them
            parts = parts[parts["chip_id"].isin(windows["chip_id"])].reset_index(drop=True)
        parts = parts.join(windows.set_index("chip_id")[["fold", "draws"]], on="chip_id")
        self.tables["windows"] = windows
        self.tables["chips"] = _in_order(ChipRows, parts)
        return windows, self.tables["chips"]

    def _in_folds(self, windows: pd.DataFrame) -> pd.DataFrame:
        """The windows in the folds that the model was trained in: the split's, or those of a replicate."""
        folds, replicate = self.trained.folds, self.card.replicate
        if (folds is None) != (replicate == 0):
            raise InputError(
                f"stage {self.trained.stage}",
                got="a table of folds" if folds is not None else "no table of folds",
                expected=f"what the card says: replicate {replicate} of a cross-validation, 0 for none",
                fix="train it again",
            )
        if folds is None:
            return windows
        path = self.objects.path(folds, REPLICATES)
        if (found := sha256(path)) != (said := self.card.inputs.get(REPLICATES)):
            raise InputError(
                REPLICATES, got=f"SHA-256 {found}", expected=f"{said}, as the card says", fix="train again"
            )
        return assigned(windows, schemas.Folds.read(path), replicate)

    def _that_train(self, windows: pd.DataFrame, train: Mapping[str, Any]) -> pd.DataFrame:
        """The windows without those of observations that could have trained and didn't, as the params of train say.

        Raises:
            InputError: the card tells another number of observations that trained.
        """
        could = windows["fold"] == "train"
        counts = windows["px_high"] + (0 if self.card.method == "binary" else windows["px_low"])
        kept = chosen(
            windows.loc[could, "obs_id"],
            set(windows.loc[could & (counts > 0), "obs_id"]),
            # Revisions from before there was a share have none.
            share=train.get("sampling", {}).get("observations_share", 1.0),
            seed=train.get("seed", 0),
        )
        if self.card.observations not in (None, len(kept)):
            raise InputError(
                self.trained.path(chain.CARD),
                got=f"{self.card.observations} observations that trained",
                expected=f"{len(kept)}, as the params and the chips say",
                fix="train it again",
            )
        return windows[~could | windows["obs_id"].isin(kept)].reset_index(drop=True)

    def _about(self, train: Stage) -> None:
        """What the chips say of themselves is what the card says."""
        path = self.objects.file(train.deps[CHIPS], ABOUT, CHIPS)
        said = About.read(path).model_dump()
        wrong = [
            f"{CHIPS}/{ABOUT} says {name} {value}; the card says {getattr(self.card, name)}"
            for name, value in said.items()
            if getattr(self.card, name) != value
        ]
        if (found := sha256(path)) != (claimed := self.card.inputs.get(f"{CHIPS}/{ABOUT}")):
            wrong.append(f"{CHIPS}/{ABOUT} has SHA-256 {found}; the card says {claimed}")
        if wrong:
            self._note("fingerprint", wrong, "")

    def _annotated(self, oid: str) -> _Annotated:
        def read(table: type[schemas.Table], name: str) -> Any:
            return table.read(self.objects.file(oid, name, ANNOTATIONS))

        # Revisions from before labels could be excluded have no such table.
        has_ignored = "ignored.parquet" in self.objects.tree(oid, ANNOTATIONS)
        return _Annotated(
            labels=read(schemas.Labels, "labels.parquet"),
            observations=read(schemas.Observations, "observations.parquet"),
            ignored=read(schemas.Ignored, "ignored.parquet") if has_ignored else None,
            quarantine=read(schemas.Quarantine, "quarantine.parquet"),
        )

    def _fingerprint(self, annotated: _Annotated, rows: list[bytes]) -> None:
        ignored = annotated.ignored
        areas = f" and {len(ignored)} ignored areas" if ignored is not None and len(ignored) else ""
        found, said = fingerprint_of(rows, annotated.observations, ignored), self.card.label_fingerprint
        wrong = [] if found == said else [f"the labels have the fingerprint {found}; the card says {said}"]
        self._note("fingerprint", wrong, f"{said}, computed from {len(rows)} labels{areas}")

    def _labels(
        self, annotated: _Annotated, rows: list[bytes], chips: tuple[pd.DataFrame, pd.DataFrame] | None
    ) -> None:
        labels = annotated.labels
        hashes = np.array([hashlib.sha256(row).hexdigest() for row in rows], object)
        wrong = [
            f"label {feature_id} is not the one that its hash was made of"
            for feature_id in labels["feature_id"][labels["label_sha256"].to_numpy(object) != hashes]
        ]
        if chips is not None:
            windows, parts = chips
            placed = Parts.of(parts, labels["feature_id"])
            wrong += [f"label {i} put pixels into chips but is not among the labels"
                      for i in parts["feature_id"][placed.label < 0].unique()]  # fmt: skip
            for name in ("low", "high"):
                of_class = np.append(labels["confidence"] == name, False)  # where the label is -1, unknown
                given = parts[of_class[placed.label]].groupby("chip_id")["pixels"].sum()
                held = windows.set_index("chip_id")[f"px_{name}"]
                off = held.index[held != given.reindex(held.index, fill_value=0)]
                wrong += [f"window {chip}: {held[chip]} px of {name} confidence, its labels gave {given.get(chip, 0)}"
                          for chip in off[:9]]  # fmt: skip
            self.tables["labels"] = _in_order(
                LabelRows, label_rows(labels, placed, parts["draws"].to_numpy(), self.card.method)
            )
            self.tables["observations"] = _in_order(ObservationRows, observation_rows(annotated.observations, windows))
        self._note("labels", wrong, f"{len(labels)} labels are what their hashes were made of, and what the chips hold")
        self.tables["quarantine"] = annotated.quarantine

    def _snapshot(self, oid: str, annotated: _Annotated) -> None:
        path = self.objects.file(oid, "export.ndjson", ANNOTATIONS)
        with path.open("rb") as lines:
            raw = {hashlib.sha256(line.rstrip(b"\r\n")).hexdigest() for line in lines if line.strip()}
        wrong = [
            f"{what} {row} comes from a raw row that export.ndjson lacks"
            for what, table, name in (
                ("label", annotated.labels, "feature_id"),
                ("quarantined row", annotated.quarantine, "row_id"),
            )
            for row in table[name][~table["row_sha256"].isin(raw)]
        ]
        self._note("snapshot", wrong, f"every label comes from one of the {len(raw)} raw rows")

    def _imagery(self, oid: str, windows: pd.DataFrame) -> None:
        manifest = schemas.Scenes.read(self.objects.path(oid, SCENES))
        folds = _folds(windows, "obs_id")
        rows = manifest[(manifest["status"] == "exported") & manifest["obs_id"].isin(folds.index)]
        self.tables["imagery"] = _in_order(SceneRows, rows.assign(fold=rows["obs_id"].map(folds)))
        without = sorted(set(folds.index) - set(rows["obs_id"]))
        wrong = [f"observation {obs_id} has windows but no scene in {SCENES}" for obs_id in without]
        self._note(
            "imagery", wrong, f"{SCENES} names the {len(rows)} rasters and their source images; verify reads them"
        )

    def _pictures(self, oid: str) -> None:
        """Finds RGB rasters without pulling any; those that are not what the manifest says are left out."""
        rows = self.tables["imagery"]
        rows = rows[rows["product"] == "rgb"]
        found: dict[str, Path] = {}
        other = []
        try:
            files = self.objects.tree(oid, pull=False)
        except (MissingError, CorruptError) as error:
            self.notes.append(f"no picture of an observation could be looked for: {error}")
            return
        for obs_id, path, said in rows[["obs_id", "path", "sha256"]].itertuples(index=False, name=None):
            try:
                picture = self.objects.path(files.get(path, ""), f"{PIXELS}/{path}", pull=False)
            except MissingError:
                continue
            except CorruptError:
                other.append(obs_id)
                continue
            if sha256(picture) == said:
                found[obs_id] = picture
            else:
                other.append(obs_id)
        if other:
            self.notes.append(f"the pictures of {len(other)} observations are not what {SCENES} says: {other[0]} first")
        self.tables["pictures"] = found


def _windows(path: Path) -> pd.DataFrame:
    """Rows of schemas.Windows; without a group, where the revision is from before they had one."""
    try:
        grouped = "group" in pq.read_schema(path).names
    except pa.ArrowException as error:
        raise CorruptError(f"{path} is no table of Parquet: {error}") from None
    table: pd.DataFrame = (schemas.Windows if grouped else schemas.UngroupedWindows).read(path)
    return table


def pixels(scenes: pd.DataFrame, folder: str, objects: Objects, *, pull: bool) -> Link:
    """Whether rasters are those that the manifest names, each read and hashed.

    What a result or a model was made from is known by the manifest's hashes: whoever replaced a raster, in the cache
    and in ``dvc.lock`` too, did not replace these.

    Args:
        scenes: rows of schemas.Scenes that were exported.
        folder: MD5 of ``data/scenes`` as the stage read it.
        objects: where they may be.
        pull: those that are not here; they are large.
    """
    wrong, absent = [], []
    try:
        files = objects.tree(folder)
        objects.fetch(files[path] for path in scenes["path"] if pull and path in files)
        for path, said in scenes[["path", "sha256"]].itertuples(index=False, name=None):
            if path not in files:
                wrong.append(f"{SCENES} names {path}, which is not among the rasters that dvc.lock names")
                continue
            try:
                found = sha256(objects.path(files[path], f"{PIXELS}/{path}", pull=pull))
            except MissingError:
                absent.append(path)
                continue
            if found != said:
                wrong.append(f"{PIXELS}/{path} was replaced: SHA-256 {found}; {SCENES} says {said}")
    except MissingError as error:
        return unverified(name="imagery", detail=f"which rasters there were can't be told: {error}")
    except CorruptError as error:
        wrong.append(str(error))
    if wrong:
        return broken(name="imagery", detail=wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        detail = (
            f"{PIXELS}/{absent[0]} is not here{more}: whether its pixels are those that {SCENES} says can't be told"
        )
        return unverified(name="imagery", detail=detail, remedy="run dvc pull data/scenes, and ask again")
    return verified(name="imagery", detail=f"{len(scenes)} rasters, read, are those that {SCENES} names")


def label_rows(labels: gpd.GeoDataFrame, parts: Parts, draws: npt.NDArray[np.int64], method: str) -> gpd.GeoDataFrame:
    """What a model did with each label.

    Args:
        labels: rows of schemas.Labels.
        parts: what they put into which windows.
        draws: of the window of each row of ``parts``.
        method: of the model; ``binary`` leaves low confidence out.

    Returns:
        Rows of :class:`LabelRows`.
    """
    counts = count(
        parts,
        draws,
        counted=np.array(method != "binary") | (labels["confidence"] == "high").to_numpy(),
    )
    kept = [column for column in LabelRows.to_schema().columns if column in labels.columns]
    return labels[kept].assign(**counts)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Rows of schemas.ChipLabels with their folds, as arrays.

    Attributes:
        label: position of the label of each row among ``labels`` labels.
        labels: how many labels there are.
        fold: of each row, position in ``FOLDS``.
        pixels: of each row.
    """

    label: npt.NDArray[np.int64]
    labels: int
    fold: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: pd.DataFrame, feature_ids: pd.Series) -> Parts:
        """Takes columns feature_id, fold and pixels, and the labels' ids in order; other labels' rows are left out."""
        label = pd.Index(feature_ids).get_indexer(pd.Index(parts["feature_id"]))
        fold = pd.Index(FOLDS).get_indexer(pd.Index(parts["fold"]))
        return cls(label=label, labels=len(feature_ids), fold=fold, pixels=parts["pixels"].to_numpy())


def count(parts: Parts, draws: npt.NDArray[np.int64], *, counted: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The columns of :class:`LabelRows` that say what a model did with each label.

    Args:
        parts: which label put how many pixels into which window.
        draws: of the window of each row of ``parts``.
        counted: of each label, whether the loss counts its class as mine.
    """
    mine = parts.label >= 0

    def total(values: npt.NDArray[Any], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        kept = kept & mine
        sums = np.bincount(parts.label[kept], weights=values[kept], minlength=parts.labels)
        return sums.astype(np.int64)  # sums of integers below 2**53 are exact

    everywhere = np.ones(len(parts.label), bool)
    pixels = {fold: total(parts.pixels, parts.fold == place) for place, fold in enumerate(FOLDS)}
    drawn = total(parts.pixels * draws, everywhere)
    trains, validates, tests = (pixels[fold] > 0 for fold in FOLDS)
    uses = {
        "trained": (drawn > 0) & counted,
        "left out": (drawn > 0) & ~counted,
        "never drawn": trains & (drawn == 0),
        "validated": validates,
        "tested": tests,
        "no chip": ~(trains | validates | tests),
    }
    return {
        "fold": _joined({fold: pixels[fold] > 0 for fold in FOLDS}),
        "use": _joined(uses),
        "chips": total(np.ones(len(parts.label)), everywhere),
        **{f"pixels_{fold}": values for fold, values in pixels.items()},
        "draws": total(draws, everywhere),
        "pixels_drawn": drawn,
        "positives_drawn": np.where(counted, drawn, 0),
    }


def observation_rows(observations: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """What a model did with each observation: rows of :class:`ObservationRows`.

    Args:
        observations: rows of schemas.Observations.
        windows: rows of schemas.Windows, with draws.
    """
    ids = pd.Index(observations["obs_id"])
    grouped = windows.groupby("obs_id")
    kept = [column for column in ObservationRows.to_schema().columns if column in observations.columns]
    return observations[kept].assign(
        fold=_folds(windows, "obs_id").reindex(ids, fill_value="").to_numpy(),
        windows=grouped.size().reindex(ids, fill_value=0).to_numpy(np.int64),
        draws=grouped["draws"].sum().reindex(ids, fill_value=0).to_numpy(np.int64),
    )


def _in_order(table: type[schemas.Table], rows: Any) -> Any:
    """Rows with a table's columns in order; they are sorted, as what they are made of was when it was read."""
    return rows[list(table.to_schema().columns)].reset_index(drop=True)


def _folds(rows: pd.DataFrame, by: str) -> pd.Series:
    """The folds that something has rows in, '+' between, by its name."""
    found: dict[str, str] = {}
    for name, fold in rows[[by, "fold"]].drop_duplicates().sort_values([by, "fold"]).to_numpy(object).tolist():
        found[name] = f"{found[name]}+{fold}" if name in found else fold
    return pd.Series(found, dtype="str")


def _joined(flags: dict[str, Any]) -> list[str]:
    """The names whose flags are set, '+' between, one string a row."""
    names = list(flags)
    codes = sum(np.asarray(flag).astype(np.int64) << bit for bit, flag in enumerate(flags.values()))
    texts = ["+".join(name for bit, name in enumerate(names) if code >> bit & 1) for code in range(1 << len(names))]
    return [texts[code] for code in np.atleast_1d(codes).tolist()]
