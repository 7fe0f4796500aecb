"""Taking labels out: what ids or an annotator mean in the current snapshot, written to the record that is honoured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sandwatch import params, schemas
from sandwatch.annotations import exclusions
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Label
from sandwatch.audit.backward import Question
from sandwatch.audit.chain import ANNOTATIONS, OF_A_FILE, OWN_WEIGHTS
from sandwatch.audit.known import Snapshot
from sandwatch.errors import InputError
from sandwatch.model.card import Spec


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """One id that was written to the record.

    Attributes:
        exclusion: what was written.
        before: what the record said of the id; None where it is new.
        obs_id: of the observation that it is on, '' where its row names none.
        whole: whether it is a label id: all that a person left on an image.
        polygons: how many mines were drawn under it.
        learnt: those of them that are among the labels of the snapshot, by feature id.
        negative: whether it is a label that makes its observation a negative of the snapshot.
    """

    exclusion: Exclusion
    before: Exclusion | None
    obs_id: str
    whole: bool
    polygons: int
    learnt: frozenset[str]
    negative: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was done.

    Attributes:
        file: the record.
        recorded: how many ids it holds now.
        excluded: those asked for, sorted by observation and id.
        notes: what could not be looked into, and what to mind.
    """

    file: Path
    recorded: int
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...]


def exclude(
    root: Path,
    *,
    labels: Sequence[str] = (),
    annotator: str | None = None,
    since: str | None = None,
    until: str | None = None,
    pixels: str = "ignore",
    reason: str,
) -> Outcome:
    """Records labels of the current snapshot as excluded; ids already recorded are updated.

    An annotator's labels are looked up in the raw snapshot, so those in quarantine too, which might leave it one day;
    what is recorded is their label ids, never the address.

    Args:
        root: of the clone, with ``params.yaml`` and the snapshot in ``data/annotations``.
        labels: feature ids and label ids.
        annotator: instead: everything that this person created ...
        since: ... on this day, YYYY-MM-DD, or later ...
        until: ... and on this day or before.
        pixels: ``ignore`` or ``other``, see ``exclusions.py``.
        reason: why, on one line.

    Raises:
        InputError: an id is not in the snapshot, the annotator has nothing there, ``other`` is asked of a label without
            polygons, the reason names the annotator, or what is given doesn't go together; nothing is written then.
    """
    template = _template(labels, annotator, since, until, pixels, reason)
    if not (root / "params.yaml").is_file():
        raise InputError(str(root.resolve()), got="no params.yaml", expected="the root of a clone", fix="change to it")
    values = params.read(root / "params.yaml", Annotations)
    inputs = root / "data/regions" / str(params.read_file(root / "params.yaml")["region"]) / "annotations"
    recorded = exclusions.read(inputs)
    folder = root / ANNOTATIONS
    if not (folder / "export.ndjson").is_file():
        raise InputError(
            str(folder), got="no snapshot", expected="export.ndjson and the tables made of it",
            fix="run dvc pull data/annotations, or dvc repro annotations",
        )  # fmt: skip
    used = schemas.Labels.read(folder / "labels.parquet")
    observations = schemas.Observations.read(folder / "observations.parquet")
    features, negatives = frozenset(used["feature_id"]), set(observations["label_id"][~observations["has_mines"]])
    known = set(observations["obs_id"])

    found: dict[str, Excluded] = {}
    snapshot = Snapshot(folder / "export.ndjson", values)
    for names, label in snapshot.labels():
        mines = [drawn.feature_id for drawn in label.drawn if drawn.class_name == values.mine_class]
        everything = annotator is not None and _meant(label, annotator, since, until)
        ids = {label.label_id: mines} if everything or label.label_id in labels else {}
        ids |= {drawn.feature_id: [drawn.feature_id] for drawn in label.drawn if drawn.feature_id in labels}
        for name, under in ids.items():
            whole = name == label.label_id
            found[name] = Excluded(
                exclusion=replace(template, id=name),
                before=recorded.get(name),
                obs_id=next((name for name in names if name in known), next(iter(names), "")),
                whole=whole,
                polygons=len(under),
                learnt=features.intersection(under),
                negative=whole and name in negatives,
            )
    _refuse(found, labels, annotator, pixels, values.snapshot)
    recorded |= {name: one.exclusion for name, one in found.items()}
    notes = [f"{snapshot.unread} raw rows can't be read: what they hold was not looked at"] if snapshot.unread else []
    if values.source == "labelbox":
        notes.append(
            "annotations will ask Labelbox again: unless annotations.snapshot is a moment, newer labels come along"
        )
    notes += _of_start(root)
    return Outcome(
        file=exclusions.write(inputs, recorded.values()),
        recorded=len(recorded),
        excluded=tuple(sorted(found.values(), key=lambda one: (one.obs_id, one.exclusion.id))),
        notes=tuple(notes),
    )


def _of_start(root: Path) -> list[str]:
    """A note where params.yaml has training begin with a model of ours, which may have learnt from the labels."""
    section = params.read_file(root / "params.yaml").get("model")
    weights = section.get("weights") if isinstance(section, Mapping) else None
    name = weights.get("name") if isinstance(weights, Mapping) else None
    if not isinstance(name, str) or not name.endswith(OF_A_FILE):
        return []
    path = root / OWN_WEIGHTS / name
    if path.is_file() and Spec.carried(path) is None:
        return []  # an encoder of somebody's own, not a model of ours
    return [
        f"params.yaml, model.weights: training begins with {name}. What that model learnt from these labels stays in "
        "whatever begins with it: sandwatch audit --label ID says whether it did; if so, train it again too, first"
    ]


def _template(
    labels: Sequence[str], annotator: str | None, since: str | None, until: str | None, pixels: str, reason: str
) -> Exclusion:
    """What is recorded of each id, once the arguments are known to go together."""
    if bool(labels) == (annotator is not None) or ((since or until) and annotator is None):
        raise InputError(
            "sandwatch audit exclude",
            got=" and ".join(
                [f"{len(labels)} --label"]
                + [
                    name
                    for name, value in (("--annotator", annotator), ("--from", since), ("--to", until))
                    if value is not None
                ]
            ),
            expected="--label, once or more, or --annotator, with --from and --to if wanted",
            fix="ask for one kind at a time",
        )
    if annotator is not None:
        Question(annotator=annotator, since=since, until=until)  # checks the days
        if annotator.casefold() in reason.casefold():
            raise InputError(
                "--reason", got="the annotator's name in it", expected="a reason that names nobody: it goes into git",
                fix="leave it out",
            )  # fmt: skip
    return Exclusion(id="-", pixels=pixels, reason=" ".join(reason.split()))  # type: ignore[arg-type]


def _meant(label: Label, annotator: str, since: str | None, until: str | None) -> bool:
    if label.created_by != annotator:
        return False
    day = (label.created_at or "")[:10]  # ISO 8601 in UTC
    return (since is None and until is None) or (day != "" and (since or "") <= day <= (until or "9999-12-31"))


def _refuse(
    found: dict[str, Excluded], labels: Sequence[str], annotator: str | None, pixels: str, snapshot: str
) -> None:
    """Refuses what the snapshot doesn't hold, and ``other`` where there is no polygon to be wrong."""
    unknown = [name for name in dict.fromkeys(labels) if name not in found]
    if unknown or not found:
        raise InputError(
            f"snapshot {snapshot}",
            got=f"no feature and no label {', '.join(unknown)}" if unknown else f"no label created by {annotator} then",
            expected="ids or an annotator of the snapshot in data/annotations",
            fix="look them up with sandwatch audit HEAD --csv labels.csv; nothing was written",
        )
    empty = sorted(name for name, one in found.items() if not one.polygons)
    if pixels == "other" and empty:
        raise InputError(
            "--pixels other",
            got=f"label {empty[0]}, which has no polygon" + (f" (and {len(empty) - 1} more)" if empty[1:] else ""),
            expected="polygons that are proven to be no mines",
            fix="exclude it with --pixels ignore; nothing was written",
        )
