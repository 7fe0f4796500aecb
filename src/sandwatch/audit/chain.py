"""One link at a time: what is in hand, which revisions hold it, and whether what they record agrees with git."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sandwatch import raster
from sandwatch.audit.hashes import md5
from sandwatch.audit.history import History, Lock, read_yaml
from sandwatch.audit.objects import CorruptError, MissingError, Objects, read_table
from sandwatch.audit.record import Holder, Link, Revision
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.model.card import Card, Spec, Start, hash_params

CHIPS, ANNOTATIONS, CANONICAL, REPLICATES = "data/chips", "data/annotations", "data/canonical", "data/folds.parquet"
SCENES, PREDICTIONS, CODE = "data/scenes.parquet", "data/predictions", "data/code"
"""Outputs of stages that the chain leads over, or the folder that they lie in. Source: dvc.yaml."""
OWN_WEIGHTS = "data/weights"
"""Where files lie that a training may start from. Source: dvc.yaml."""
OF_A_FILE = ".safetensors"
"""How the name of weights ends that are such a file. Source: model/network.py, ``Pinned``."""
WEIGHTS, CARD, EXPOSURES, ABOUT = "model.safetensors", "model.json", "exposures.parquet", "about.json"
CHECK, TRAIN = "check", "train"
PIPELINE = "dvc.yaml"
CLAIMS = ("label_fingerprint", "model_imagery", "model_labels")
"""What every result says of the model beside its hash, which finds it. Source: model/card.py, ``Spec.said``."""

Files = tuple[tuple[str, str], ...]
"""A model as ``dvc.lock`` holds it: names of its files and their MD5, sorted."""

verified = partial(Link, state="verified")
broken = partial(Link, state="broken")
unverified = partial(Link, state="unverified")
uncommitted = partial(Link, state="uncommitted")
skipped = partial(Link, state="skipped")
LONGEST = 4_096
"""Letters of a value that is filled into dvc.yaml: what ran has no longer one. Source: Linux, PATH_MAX."""
FETCH = "git fetch --all --tags and dvc exp pull bring the revisions of a remote"


@dataclass(frozen=True, kw_only=True)
class InHand:
    """What was asked about, as far as it says itself what it is.

    Attributes:
        target: as given.
        links: what could be checked without a repository.
        spec: what the model says of itself; None where that can't be read.
        card: of the model; None where it can't be read, or is not in hand.
        weights_sha256: of the model; '' where only its revision is known.
        files: MD5 of the model's files by name, those in hand.
        result: of ``infer``; None for a model.
        path: of the thing; None for a revision, and for weights that a model started from.
        revision: that was asked for; None for a file.
    """

    target: str
    links: tuple[Link, ...] = ()
    spec: Spec | None = None
    card: Card | None = None
    weights_sha256: str = ""
    files: Mapping[str, str]
    result: Result | None = None
    path: Path | None = None
    revision: Revision | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Something that ``infer`` wrote, and where it says that it comes from.

    Attributes:
        md5: of the file.
        claims: what it says of the model, as text, by the names of ``CLAIMS``, and the threshold where results of its
            kind give one; None where it doesn't say.
        scenes: SHA-256 by product, by observation.
        imagery: what it says that the scene is, by observation; None where it doesn't say.
    """

    md5: str
    claims: Mapping[str, str | None]
    scenes: Mapping[str, Mapping[str, str]]
    imagery: Mapping[str, str | None]


def start_of(start: Start) -> InHand:
    """The weights that a model started from as something that is asked about: nothing is known but their hash."""
    return InHand(target=start.name, weights_sha256=start.sha256, files={})


def take(target: str, history: History | None, objects: Objects | None) -> InHand:
    """Finds out what a target is: a model file or folder, a result of ``infer``, a revision or an experiment.

    Raises:
        InputError: it is none of these.
    """
    path = Path(target)
    if path.is_dir() and ((path / WEIGHTS).is_file() or (path / CARD).is_file()):
        return _model(target, path / WEIGHTS, path / CARD)
    if path.is_file():
        if path.suffix.lower() in (".tif", ".tiff"):
            return _raster(target, path)
        if path.suffix == ".parquet":
            return _detections(target, path)
        if path.suffix == ".json":
            return _item(target, path) or _model(target, path.with_name(WEIGHTS), path)
        return _model(target, path, path.with_name(CARD))
    revision = history.resolve(target) if history is not None else None
    if revision is None or history is None or objects is None:
        if history is not None and (lost := _not_pulled(path, history)) is not None:
            raise lost
        known = [name.name for r in history.revisions for name in r.names][:6] if history is not None else []
        raise InputError(
            f"audit {target}",
            got="no such file, revision or experiment" + ("" if history else ", and no DVC repository around"),
            expected=f"a model, a result of infer{', or one of ' + ', '.join(known) + ', ...' if known else ''}",
            fix="correct it; dvc exp show lists experiments",
        )
    held = model_of(history.lock(revision))
    if held is None:
        raise InputError(
            f"audit {target}",
            got=f"a dvc.lock at {revision} without the stage {TRAIN}",
            expected="a revision at which a model was trained",
            fix="run dvc repro there, or name another revision",
        )
    files = dict(held.files)
    try:
        card = read_card(files, objects)
    except MissingError as error:
        return InHand(target=target, links=_unread(unverified, str(error)), files=files, revision=revision)
    except (CorruptError, KeyError, InputError) as error:
        detail = f"nothing records {error}" if isinstance(error, KeyError) else str(error)
        return InHand(target=target, links=_unread(broken, detail), files=files, revision=revision)
    return InHand(
        target=target,
        links=tuple(kept_weights(files, card, objects)),
        spec=card,
        card=card,
        weights_sha256=card.weights_sha256,
        files=files,
        revision=revision,
    )


def read_card(files: Mapping[str, str], objects: Objects) -> Card:
    """The card among a model's files.

    Args:
        files: MD5 by name.
        objects: where it may be.

    Raises:
        MissingError, CorruptError: as :meth:`Objects.path`.
        KeyError: there is none among them.
        InputError: it is no card.
    """
    return Card.read(objects.path(files[CARD], CARD))


def _model(target: str, weights: Path, about: Path) -> InHand:
    parts = {WEIGHTS: weights, CARD: about, EXPOSURES: weights.with_name(EXPOSURES)}
    files = {name: md5(path) for name, path in parts.items() if path.is_file()}
    inside = Spec.carried(weights) if weights.is_file() else None
    card = Card.read(about) if about.is_file() else None
    spec = card or inside
    if spec is None:
        raise InputError(
            str(weights),
            got=f"weights that say nothing of themselves: no spec in their header, and no {about}",
            expected="a model that sandwatch trained",
            fix=f"put its {CARD} beside it",
        )
    links = [_weights(weights if weights.is_file() else None, spec, str(weights))]
    if inside is not None and card is not None:
        links.append(_carried(inside, card, str(about)))
    return InHand(
        target=target,
        links=tuple(links),
        spec=spec,
        card=card,
        weights_sha256=spec.weights_sha256 if inside is None else inside.weights_sha256,
        files=files,
        path=weights if weights.is_file() else about,
    )


def _unread(how: Callable[..., Link], detail: str) -> tuple[Link, ...]:
    """The links of a model whose card can't be read, and so not compared with its weights."""
    return (unverified(name="weights", detail="only the model's card could tell"), how(name="card", detail=detail))


def _not_pulled(path: Path, history: History) -> InputError | None:
    """The error for an output that dvc.lock names and that doesn't lie here; None for anything else."""
    head, named = history.resolve("HEAD"), path.absolute()
    stages = [] if head is None else [history.lock(head).stage(name) for name in history.lock(head).names]
    outs = [history.root / out for stage in stages if stage is not None for out in stage.outs]
    mine = named.is_relative_to(history.root) and any(
        named.is_relative_to(out) or (out.is_relative_to(named) and named != history.root) for out in outs
    )
    return None if not mine else InputError(
        f"audit {path}",
        got="it is among what dvc.lock names, and is not here: nobody pulled it",
        expected="a file that is here",
        fix="run dvc pull, or dvc repro; sandwatch audit HEAD says what git alone can tell",
    )  # fmt: skip


def kept_weights(
    files: Mapping[str, str], card: Card, objects: Objects, *, lying: str = WEIGHTS, pull: bool = False
) -> list[Link]:
    """Whether the weights of a revision are the card's, and say of themselves what it says.

    Args:
        files: MD5 of the model's files by name.
        card: of the revision.
        objects: where the weights may be.
        lying: where in the working tree a copy may lie.
        pull: them, where they are in neither cache nor working tree: they are large.
    """
    try:
        weights = objects.path(files[WEIGHTS], lying, pull=pull)
    except MissingError:
        return [_weights(None, card, f"the {WEIGHTS} that dvc.lock names")]
    except (CorruptError, KeyError) as error:
        return [broken(name="weights", detail=str(error))]
    links = [_weights(weights, card, f"the {WEIGHTS} that dvc.lock names")]
    try:
        inside = Spec.carried(weights)
    except InputError as error:
        return [*links, broken(name="weights", detail=str(error))]
    return links if inside is None else [*links, _carried(inside, card, CARD)]


def _carried(inside: Spec, beside: Card, name: str) -> Link:
    """The weights' own header agrees with the card; their hash is compared elsewhere."""
    if fields := [field for field in differing(inside, beside) if field != "weights_sha256"]:
        return broken(name="card", detail=f"{name} differs from what the weights say themselves: {', '.join(fields)}")
    return verified(name="card", detail=f"{name} says what the weights say themselves")


def _weights(weights: Path | None, said: Spec, name: str) -> Link:
    if weights is None:
        return unverified(name="weights", detail=f"{name} is not here; its card says {said.weights_sha256}")
    found = sha256(weights)
    if found == said.weights_sha256:
        return verified(name="weights", detail=f"SHA-256 {found}" + ", as the card says" * isinstance(said, Card))
    return broken(name="weights", detail=f"{name} has SHA-256 {found}; its card says {said.weights_sha256}")


def _raster(target: str, path: Path) -> InHand:
    tags = raster.read_tags(path)
    if "MODEL_SHA256" not in tags:
        raise _no_result(target, f"tags {', '.join(sorted(tags)) or 'none'}", "MODEL_SHA256 among them")
    scene = {
        tag.removeprefix("SCENE_").removesuffix("_SHA256").lower(): value
        for tag, value in tags.items()
        if tag.startswith("SCENE_")
    }
    claims = {name: tags.get(name.upper()) for name in (*CLAIMS, "threshold")}
    obs_id = tags.get("OBS_ID", "")
    return _result(target, path, tags["MODEL_SHA256"], claims, {obs_id: scene}, {obs_id: tags.get("IMAGERY")})


def _detections(target: str, path: Path) -> InHand:
    """A table of detections: of one scene, or of several that the same model mapped."""
    import pyarrow as pa

    of_model = ["model_sha256", *CLAIMS]
    columns = ["obs_id", *of_model, "scene_sha256", "imagery"]
    try:
        table = read_table(path, dict.fromkeys(columns, pa.string())).to_pandas().drop_duplicates()
        scenes = {obs_id: dict(json.loads(text)) for obs_id, text in table[["obs_id", "scene_sha256"]].to_numpy()}
    except (CorruptError, ValueError, TypeError, RecursionError) as error:
        raise _no_result(target, str(error)[:200], f"the columns {', '.join(columns)}") from None
    models = table[of_model].drop_duplicates().astype(str)
    if len(models) != 1:
        raise _no_result(target, f"rows of {len(models)} models", "detections of one model, at least one row")
    model, *said = models.iloc[0]
    imagery = dict(zip(table["obs_id"], table["imagery"], strict=True))
    return _result(target, path, model, dict(zip(CLAIMS, said, strict=True)), scenes, imagery)


def _item(target: str, path: Path) -> InHand | None:
    """A STAC item of a scene or of the model; None for another JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("type") != "Feature":
        return None
    properties = content.get("properties")
    said = {
        name.removeprefix("sandwatch:"): value
        for name, value in (properties.items() if isinstance(properties, dict) else ())
        if name.startswith("sandwatch:")
    }
    if "model_sha256" not in said:
        raise _no_result(target, "a STAC item", "the property sandwatch:model_sha256")
    scene = said.get("scene_sha256")  # the model's own item has neither scene nor threshold
    names = (*CLAIMS, *(["threshold"] if scene is not None else []))
    claims = {name: str(said[name]) if name in said else None for name in names}
    scenes = {str(content.get("id")): scene} if isinstance(scene, dict) else {}
    imagery = {obs_id: str(said["imagery"]) if "imagery" in said else None for obs_id in scenes}
    return _result(target, path, str(said["model_sha256"]), claims, scenes, imagery)


def _result(
    target: str,
    path: Path,
    model: str,
    claims: Mapping[str, str | None],
    scenes: Mapping[str, Mapping[str, str]],
    imagery: Mapping[str, str | None],
) -> InHand:
    result = Result(md5=md5(path), claims=claims, scenes=scenes, imagery=imagery)
    return InHand(target=target, weights_sha256=model, files={}, result=result, path=path)


def _no_result(target: str, got: str, expected: str) -> InputError:
    fix = "name a score.tif, mask.tif, detections.parquet or item.json that sandwatch infer wrote, as it wrote it"
    return InputError(target, got=got, expected=expected, fix=fix)


def differing(one: Spec, other: Spec) -> list[str]:
    """The fields in which two specs, or two cards, differ."""
    fields = Card.model_fields if isinstance(one, Card) and isinstance(other, Card) else Spec.model_fields
    return [name for name in fields if getattr(one, name) != getattr(other, name)]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model in a lock.

    Attributes:
        stage: that trained it: ``train``, or ``cv_train@<replicate>`` of a cross-validation.
        folder: that its files lie in.
        files: their names and MD5, sorted.
        chips: MD5 of the chips that it was trained on; None where the stage read none.
        folds: MD5 of the table of a cross-validation's folds; None for the split's own.
    """

    stage: str
    folder: str
    files: Files
    chips: str | None
    folds: str | None

    def path(self, name: str) -> str:
        """Of one of its files."""
        return f"{self.folder}/{name}"


def models_in(lock: Lock) -> tuple[Trained, ...]:
    """The models in a lock, that of the stage ``train`` first: whatever stage writes weights trains one."""
    found = []
    for name in sorted(lock.names, key=lambda name: (name != TRAIN, name)):
        stage = lock.stage(name)
        assert stage is not None
        weights = next((path for path in stage.outs if path.rpartition("/")[2] == WEIGHTS), None)
        if weights is not None:
            folder = weights.rpartition("/")[0]
            mine = {path.removeprefix(f"{folder}/"): oid for path, oid in stage.outs.items() if path.startswith(folder)}
            files = tuple(sorted((name, oid) for name, oid in mine.items() if "/" not in name))
            chips, folds = stage.deps.get(CHIPS), stage.deps.get(REPLICATES)
            found.append(Trained(stage=name, folder=folder, files=files, chips=chips, folds=folds))
    return tuple(found)


def trained(lock: Lock, files: Files) -> Trained:
    """The model of a lock that has these files."""
    return next(one for one in models_in(lock) if one.files == files)


def model_of(lock: Lock, stage: str = TRAIN) -> Trained | None:
    """The model of a stage, by default of the one that a revision stands for; None where there is none."""
    return next((one for one in models_in(lock) if one.stage == stage), None)


def models(history: History) -> dict[Files, list[Revision]]:
    """The models of all revisions, and the revisions that hold them, newest first."""
    found: dict[Files, list[Revision]] = {}
    for revision, held in history.each(models_in):
        for one in held:
            found.setdefault(one.files, []).append(revision)
    return found


def annotations_of(lock: Lock) -> str | None:
    """The MD5 of the tables that the chips of a lock were cut with, None where another revision's lock must tell."""
    chips, annotations = (lock.stage(lock.maker(path) or "") for path in (CHIPS, ANNOTATIONS))
    if chips is None or annotations is None or annotations.outs.get(CANONICAL) != chips.deps.get(CANONICAL):
        return None
    return annotations.outs[ANNOTATIONS]


def find(
    hand: InHand, history: History, objects: Objects
) -> tuple[dict[Files, list[Revision]], tuple[Link, ...], list[str]]:
    """The revisions that hold what is in hand.

    Returns:
        Revisions by model; links ``card`` and ``weights`` where a revision knows better; notes on what could not be
        looked into.
    """
    known = models(history)
    if hand.revision is not None:
        held = model_of(history.lock(hand.revision))
        assert held is not None
        return {held.files: known[held.files]}, (), []
    if not any(name in hand.files for name in (WEIGHTS, CARD)):
        cards, absent = _cards(known, objects)
        notes = (
            [
                f"the cards of {absent} of the {len(known)} models in the history are in neither cache nor remote: "
                "whether one of them is this one is unknown"
            ]
            if absent
            else []
        )
        said = {files: card for files, card in cards.items() if card.weights_sha256 == hand.weights_sha256}
        if len(said) > 1:  # anybody can write a card that claims weights; those that have them go first
            genuine = {files: card for files, card in said.items() if not _is_broken(files, card, objects)}
            said = genuine or said
        return {files: known[files] for files in said}, (), notes
    exact = {files: revisions for files, revisions in known.items() if hand.files.items() <= dict(files).items()}
    if exact:
        return exact, (), []
    near = _with(WEIGHTS, hand, known)
    if near:
        first, revisions = next(iter(near.items()))
        cards, _ = _cards([first], objects)
        fields = differing(hand.card, cards[first]) if hand.card is not None and first in cards else []
        differs = f"differs in {', '.join(fields)} from" if fields else "is not"
        detail = f"the card in hand {differs} the card that {revisions[0]} has for these weights"
        return near, (broken(name="card", detail=detail),), []
    near = _with(CARD, hand, known)
    if near:
        revision = next(iter(near.values()))[0]
        return near, (broken(name="weights", detail=f"the card is that of {revision}, whose weights are others"),), []
    return {}, (), []


def _is_broken(files: Files, card: Card, objects: Objects) -> bool:
    """Whether the weights that lie beside a card are not those that it speaks of."""
    return any(link.state == "broken" for link in kept_weights(dict(files), card, objects))


def _with(name: str, hand: InHand, known: Mapping[Files, list[Revision]]) -> dict[Files, list[Revision]]:
    """The models that share one file with what is in hand."""
    return {
        files: revisions
        for files, revisions in known.items()
        if name in hand.files and dict(files).get(name) == hand.files[name]
    }


def _cards(known: Iterable[Files], objects: Objects) -> tuple[dict[Files, Card], int]:
    """Cards by model, and how many could not be reached."""
    known = list(known)
    objects.fetch(dict(files)[CARD] for files in known if CARD in dict(files))
    cards, absent = {}, 0
    for files in known:
        try:
            cards[files] = read_card(dict(files), objects)
        except (MissingError, CorruptError, KeyError):
            absent += 1
        except InputError:
            continue  # a card of another version
    return cards, absent


def holders(
    card: Card | None, files: Files, revisions: Sequence[Revision], history: History, objects: Objects | None = None
) -> tuple[Holder, ...]:
    """What git alone can tell of each revision that holds a model, in the order given.

    Args:
        card: of the model; None leaves out what only it says.
        files: of the model.
        revisions: that hold it.
        history: of them.
        objects: as for :func:`git_links`.
    """
    return tuple(
        Holder(
            revision=revision,
            links=tuple(git_links(card, revision, history, objects, trained(history.lock(revision), files).stage)),
        )
        for revision in revisions
    )


def best(holders: Sequence[Holder], history: History) -> Holder:
    """The holder to follow: with the fewest broken links; then HEAD, its past, other commits, the newest."""
    return min(
        holders,
        key=lambda holder: (
            len(holder.broken),
            holder.revision.kind == "working tree",
            holder.revision.commit != history.head,
            not history.leads_to_head(holder.revision),
            holder.revision.kind != "commit",
        ),
    )


def git_links(
    card: Card | None, revision: Revision, history: History, objects: Objects | None = None, last: str = TRAIN
) -> list[Link]:
    """The links lock, pipeline, code, inputs and params at a revision.

    Args:
        card: of the model; None leaves out what only it says.
        revision: a holder.
        history: of it.
        objects: where the listings of code may be; None to do without, where the sources are those that ran byte by
            byte, or only the card tells.
        last: the stage that the chain ends with.
    """
    try:
        lock = history.lock(revision)
        stages = lock.upstream(last)
        return [
            _lock_link(lock, stages),
            _pipeline_link(lock, stages, revision, history),
            _code_link(card, lock, stages, revision, history, objects),
            _inputs_link(lock, stages, revision, history),
            _params_link(card, lock, stages, revision, history),
        ]
    except InputError as error:
        return [broken(name="lock", detail=f"at {revision}: {error}")]


def _lock_link(lock: Lock, stages: Sequence[str]) -> Link:
    """Each stage read what the stage before it wrote."""
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        for path, read in stage.deps.items():
            maker = lock.maker(path)
            wrote = None if maker is None else lock.stage(maker)
            if wrote is not None and wrote.outs[path] != read:
                detail = f"dvc.lock: {name} read another {path} ({read}) than {maker} wrote ({wrote.outs[path]})"
                return broken(name="lock", detail=detail)
    return verified(name="lock", detail=f"dvc.lock: each of {', '.join(stages)} read what the ones before it wrote")


def _pipeline_link(lock: Lock, stages: Sequence[str], revision: Revision, history: History) -> Link:
    """The stages of dvc.yaml at the revision are those that ran: commands, dependencies, outputs, params."""
    contents = history.files(revision, [PIPELINE, "params.yaml"])
    if PIPELINE not in contents:
        return unverified(name="pipeline", detail=f"not in git at {revision}: {PIPELINE}")
    try:
        defined = read_yaml(contents[PIPELINE].decode(errors="replace")).get("stages")
        values = read_yaml(contents.get("params.yaml", b"{}").decode(errors="replace"))
    except InputError as error:
        return broken(name="pipeline", detail=f"{PIPELINE} or params.yaml at {revision} can't be read: {error.got}")
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        family, _, item = name.partition("@")
        said = defined.get(family) if isinstance(defined, Mapping) else None
        if not isinstance(said, Mapping):
            detail = f"{PIPELINE} at {revision} has no stage {name}, which dvc.lock says ran"
            return broken(name="pipeline", detail=detail)
        # A stage of a matrix is its definition with an item: what dvc.lock calls it by is all that there is to one.
        filled = {**values, "item": dict.fromkeys(said.get("matrix") or (), item)}
        says = {
            "command": _words(said.get("cmd", ""), filled),
            "dependencies": _entries(said.get("deps"), filled),
            "outputs": sorted(_entries(said.get("outs"), filled) + _entries(said.get("metrics"), filled)),
            "params": _entries(said.get("params"), filled),
        }
        ran = {
            "command": " ".join(stage.command.split()),
            "dependencies": sorted(stage.deps),
            "outputs": sorted(stage.outs),
            "params": sorted(stage.params),
        }
        for what, found in says.items():
            if found != ran[what]:
                detail = f"{PIPELINE} at {revision}, {name}: {what} {_short(found)}; what ran had {_short(ran[what])}"
                return broken(name="pipeline", detail=detail)
    return verified(name="pipeline", detail=f"{PIPELINE} defines {', '.join(stages)} as they ran")


def _words(text: str, values: Mapping[str, Any]) -> str:
    """A text of dvc.yaml with its ``${section.key}`` filled in, and single spaces."""

    def fill(found: re.Match[str]) -> str:
        value: Any = values
        for key in found[1].strip().split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return str(value)[:LONGEST]

    return " ".join(re.sub(r"\$\{([^{}]*)\}", fill, str(text)).split())


def _entries(entries: Any, values: Mapping[str, Any]) -> list[str]:
    """Paths or keys of a list in dvc.yaml, sorted; DVC allows a mapping with options for each."""
    listed = entries if isinstance(entries, list) else []
    return sorted(_words(next(iter(e), "") if isinstance(e, Mapping) else e, values) for e in listed)


def _short(what: str | Sequence[str]) -> str:
    text = what if isinstance(what, str) else ", ".join(what)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _code_link(
    card: Card | None,
    lock: Lock,
    stages: Sequence[str],
    revision: Revision,
    history: History,
    objects: Objects | None,
) -> Link:
    """The sources at the revision mean what those meant that ran, whatever their comments and formatting."""
    last = stages[-1]
    listings: dict[str, Mapping[str, str]] = {} if card is None else {last: card.code}
    recorded = {
        name: (path, oid)
        for name in stages
        if (stage := lock.stage(name)) is not None
        for path, oid in stage.deps.items()
        if path.startswith(f"{CODE}/")
    }
    if objects is not None:
        objects.fetch(oid for _, oid in recorded.values())
    unseen = []
    for name, (path, oid) in recorded.items():
        try:
            if objects is None:
                raise MissingError(path)
            listing = json.loads(objects.path(oid, path, pull=False).read_bytes())
        except MissingError:
            if name not in listings:
                unseen.append(name)
            continue
        except (CorruptError, ValueError, RecursionError) as error:
            return broken(name="code", detail=f"{path}: {error}")
        if not isinstance(listing, dict) or not all(isinstance(digest, str) for digest in listing.values()):
            return broken(name="code", detail=f"{path} lists no code")
        if card is not None and name == last and listing != card.code:
            return broken(name="code", detail=f"{path} and the card name other code")
        listings[name] = listing
    said = {path: digest for listing in listings.values() for path, digest in listing.items()}
    now = history.hashes(revision, sorted(said), "meaning")
    wrong = [f"{path} is missing at {revision}" for path in sorted(said) if path not in now] + [
        f"{path} at {revision} is not the code that {name} ran with"
        for name, listing in listings.items()
        for path, digest in sorted(listing.items())
        if now.get(path, digest) != digest
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        detail = f"{wrong[0]}{more}: it ran on a tree with changes that were not committed"
        return broken(name="code", detail=detail)
    if unseen and not _same_sources(lock, revision, history):
        return unverified(name="code", detail=f"which code {', '.join(unseen)} ran is in neither cache nor remote")
    if not said:
        return verified(name="code", detail=f"the sources at {revision} are those that were listed when they ran")
    return verified(name="code", detail=f"{len(said)} source files mean what they meant when they ran")


def _same_sources(lock: Lock, revision: Revision, history: History) -> bool:
    """Whether the sources are those that were listed, byte by byte."""
    check = lock.stage(CHECK)
    if check is None:
        return False
    sources = {path: oid for path, oid in check.deps.items() if path != "params.yaml"}
    return history.hashes(revision, sorted(sources), "dvc") == sources


def _inputs_link(lock: Lock, stages: Sequence[str], revision: Revision, history: History) -> Link:
    """The files of git that the stages read, other than code, are those of the revision."""
    recorded: dict[str, tuple[str, str]] = {}
    wrong: list[str] = []
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        for path, read in stage.deps.items():
            if name == CHECK or lock.maker(path) is not None:
                continue
            if recorded.setdefault(path, (read, name))[0] != read:
                wrong.append(f"{path}: {name} read another file than {recorded[path][1]}")
    there = history.hashes(revision, list(recorded), "dvc")
    wrong += [
        f"{path} at {revision} is not the file that {stage} ran with"
        for path, (read, stage) in recorded.items()
        if there.get(path, read) != read
    ]
    absent = [path for path in recorded if path not in there]
    if wrong:
        return broken(name="inputs", detail=wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    if absent:
        detail = f"not in git at {revision}: {', '.join(absent)}"
        return unverified(name="inputs", detail=detail, remedy="commit those files with git")
    return verified(name="inputs", detail=f"{len(recorded)} files and folders are those of {revision}")


def _params_link(card: Card | None, lock: Lock, stages: Sequence[str], revision: Revision, history: History) -> Link:
    """The params that ran are those of params.yaml at the revision, and of the card."""
    content = history.files(revision, ["params.yaml"]).get("params.yaml")
    values = read_yaml(content.decode(errors="replace")) if content is not None else None
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        for key, ran in stage.params.items():
            if values is not None and (now := _value(values, key)) != ran:
                keys = list(changes(now, ran, key))[:4]
                detail = f"params.yaml at {revision} differs in {', '.join(keys)} from what {name} ran with"
                return broken(name="params", detail=detail)
    last = lock.stage(stages[-1])
    if card is None or last is None:
        if values is None:
            return unverified(name="params", detail=f"no params.yaml at {revision}, and no card to compare with")
        return verified(name="params", detail="params.yaml and dvc.lock agree; there is no card to compare with")
    found = hash_params(by_section(last.params))
    if found != card.params_sha256:
        detail = f"the params in dvc.lock hash to {found}; the card says {card.params_sha256}"
        return broken(name="params", detail=detail)
    where = "params.yaml, dvc.lock and card" if values is not None else "dvc.lock and card"
    return verified(name="params", detail=f"{where} agree on {', '.join(last.params)}")


def _value(values: Mapping[str, Any], key: str) -> Any:
    """What params.yaml says of a section, or of a key with dots."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def by_section(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params as ``dvc.lock`` records them, sections and single keys, as sections."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        section, _, rest = key.partition(".")
        values = {rest: value} if rest else value
        if isinstance(before := found.get(section), Mapping) and isinstance(values, Mapping):
            values = {**before, **values}
        found[section] = values
    return found


def changes(one: Any, other: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """The keys in which nested values differ, dotted, with both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*one, *(key for key in other if key not in one)]:
            dotted = f"{at}.{key}".strip(".")
            found |= changes(one.get(key), other.get(key), dotted)
        return found
    return {} if one == other else {at: (one, other)}
