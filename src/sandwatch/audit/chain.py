"""One link at a time: what is in hand, which revisions hold it, and whether what they record agrees with git."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sandwatch.audit.hashes import folder_md5, md5
from sandwatch.audit.history import History, Lock, read_yaml
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.record import Holder, Link, Revision
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.learn.card import Card, hash_params
from sandwatch.params import Section, check

MODELS, CHIPS, ANNOTATIONS = "models", "data/chips", "data/annotations"
METRICS, SCENES, PREDICTIONS = "results/annotations/metrics.json", "data/scenes.parquet", "data/predictions"
"""Outputs of stages that the chain leads over. Source: dvc.yaml."""
WEIGHTS, CARD, EXPOSURES = "model.safetensors", "model.json", "exposures.parquet"
TRAIN = "train"

verified = partial(Link, state="verified")
broken = partial(Link, state="broken")
unverified = partial(Link, state="unverified")
uncommitted = partial(Link, state="uncommitted")
skipped = partial(Link, state="skipped")
FETCH = "git fetch --all --tags and dvc exp pull bring the revisions of a remote"


@dataclass(frozen=True, kw_only=True)
class InHand:
    """What was asked about, as far as it says itself what it is.

    Attributes:
        target: as given.
        links: what could be checked without a repository.
        card: of the model; None where it can't be read.
        weights_sha256: of the model; '' where only its revision is known.
        files: MD5 of the model's files by name, those in hand.
        result: of ``infer``; None for a model.
        path: of the thing; None for a revision.
        revision: that was asked for; None for a file.
    """

    target: str
    links: tuple[Link, ...] = ()
    card: Card | None = None
    weights_sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    result: Result | None = None
    path: Path | None = None
    revision: Revision | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Something that ``infer`` wrote, and where it says that it comes from.

    Attributes:
        md5: of the file.
        claims: by the field of the model's card that they must equal, as text; None where it doesn't say.
        scenes: SHA-256 by product, by observation.
    """

    md5: str
    claims: Mapping[str, str | None]
    scenes: Mapping[str, Mapping[str, str]]


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
    stage = history.lock(revision).stage(TRAIN)
    if stage is None or MODELS not in stage.outs:
        raise InputError(
            f"audit {target}",
            got=f"a dvc.lock at {revision} without the stage {TRAIN}",
            expected="a revision at which a model was trained",
            fix="run dvc repro there, or name another revision",
        )
    try:
        files = objects.tree(stage.outs[MODELS], MODELS)
        card = Card.read(objects.path(files[CARD], f"{MODELS}/{CARD}"))
    except MissingError as error:
        return InHand(target=target, links=_unread(unverified, str(error)), revision=revision)
    except (CorruptError, KeyError, InputError) as error:
        detail = f"nothing records {error}" if isinstance(error, KeyError) else str(error)
        return InHand(target=target, links=_unread(broken, detail), revision=revision)
    return InHand(
        target=target,
        links=tuple(kept_weights(files, card, objects)),
        card=card,
        weights_sha256=card.weights_sha256,
        files=files,
        revision=revision,
    )


def _model(target: str, weights: Path, about: Path) -> InHand:
    # All that the stage writes: of the whole folder the hash is in dvc.lock.
    parts = {WEIGHTS: weights, CARD: about, EXPOSURES: weights.with_name(EXPOSURES)}
    files = {name: md5(path) for name, path in parts.items() if path.is_file()}
    inside = Card.carried(weights) if weights.is_file() else None
    beside = Card.read(about) if about.is_file() else None
    card = beside or inside
    if card is None:
        raise InputError(
            str(weights),
            got=f"weights without a card: nothing in their header, and no {about}",
            expected="a model that sandwatch trained",
            fix=f"put its {CARD} beside it",
        )
    links = [_weights(weights if weights.is_file() else None, card, str(weights))]
    if inside is not None and beside is not None:
        links.append(_carried(inside, beside, str(about)))
    found = sha256(weights) if weights.is_file() else card.weights_sha256
    return InHand(
        target=target,
        links=tuple(links),
        card=card,
        weights_sha256=found,
        files=files,
        path=weights if weights.is_file() else about,
    )


def _unread(how: Callable[..., Link], detail: str) -> tuple[Link, ...]:
    """The links of a model whose card can't be read, and so not compared with its weights."""
    return (unverified(name="weights", detail="only the model's card could tell"), how(name="card", detail=detail))


def _not_pulled(path: Path, history: History) -> InputError | None:
    """The error for an output that dvc.lock names and that doesn't lie here; None for anything else."""
    head = history.resolve("HEAD")
    named = path.absolute()
    stages = [] if head is None else [history.lock(head).stage(name) for name in history.lock(head).names]
    outs = [out for stage in stages if stage is not None for out in stage.outs]
    mine = next((out for out in outs if history.root / out in (named, *named.parents)), None)
    return None if mine is None else InputError(
        f"audit {path}",
        got=f"{mine} is named by dvc.lock and is not here: nobody pulled it",
        expected="a file that is here",
        fix="run dvc pull, or dvc repro; sandwatch audit HEAD says what git alone can tell",
    )  # fmt: skip


def kept_weights(files: Mapping[str, str], card: Card, objects: Objects, *, pull: bool = False) -> list[Link]:
    """Whether the weights of a revision are the card's, and carry it.

    Args:
        files: MD5 of the model's files by name.
        card: of the revision.
        objects: where the weights may be.
        pull: them, where they are in neither cache nor working tree: they are large.
    """
    try:
        weights = objects.path(files[WEIGHTS], f"{MODELS}/{WEIGHTS}", pull=pull)
    except MissingError:
        return [_weights(None, card, f"the {WEIGHTS} that dvc.lock names")]
    except (CorruptError, KeyError) as error:
        return [broken(name="weights", detail=str(error))]
    links = [_weights(weights, card, f"the {WEIGHTS} that dvc.lock names")]
    inside = Card.carried(weights)
    return links if inside is None else [*links, _carried(inside, card, CARD)]


def _carried(inside: Card, beside: Card, name: str) -> Link:
    if fields := differing(inside.model_copy(update={"weights_sha256": beside.weights_sha256}), beside):
        return broken(name="card", detail=f"{name} differs from the card that the weights carry: {', '.join(fields)}")
    return verified(name="card", detail=f"{name} is the card that the weights carry")


def _weights(weights: Path | None, card: Card, name: str) -> Link:
    if weights is None:
        return unverified(name="weights", detail=f"{name} is not here; its card says {card.weights_sha256}")
    found = sha256(weights)
    if found == card.weights_sha256:
        return verified(name="weights", detail=f"SHA-256 {found}, as the card says")
    return broken(name="weights", detail=f"{name} has SHA-256 {found}; its card says {card.weights_sha256}")


def _raster(target: str, path: Path) -> InHand:
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as file:
            tags = file.tags()
    except RasterioIOError as error:
        raise InputError(target, got=str(error), expected="a raster", fix="name a score.tif of sandwatch") from None
    if "MODEL_SHA256" not in tags:
        raise _no_result(target, f"tags {', '.join(sorted(tags)) or 'none'}", "MODEL_SHA256 among them")
    scene = {
        tag.removeprefix("SCENE_").removesuffix("_SHA256").lower(): value
        for tag, value in tags.items()
        if tag.startswith("SCENE_")
    }
    claims = {name: tags.get(name.upper()) for name in ("label_fingerprint", "params_sha256", "threshold")}
    return _result(target, path, tags["MODEL_SHA256"], claims, {tags.get("OBS_ID", ""): scene})


def _detections(target: str, path: Path) -> InHand:
    """A table of detections: of one scene, or of several that the same model mapped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["obs_id", "model_sha256", "label_fingerprint", "params_sha256", "scene_sha256"]
    try:
        table = pq.read_table(path, columns=columns).to_pandas()[columns].drop_duplicates()
        scenes = {obs_id: dict(json.loads(text)) for obs_id, text in table[["obs_id", "scene_sha256"]].to_numpy()}
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError) as error:
        raise _no_result(target, str(error)[:200], f"the columns {', '.join(columns)}") from None
    models = table[columns[1:4]].drop_duplicates().astype(str)
    if len(models) != 1:
        raise _no_result(target, f"rows of {len(models)} models", "detections of one model, at least one row")
    model, *claims = models.iloc[0]
    return _result(target, path, model, dict(zip(columns[2:4], claims, strict=True)), scenes)


def _item(target: str, path: Path) -> InHand | None:
    """A STAC item of a scene or of the model; None for another JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("type") != "Feature":
        return None
    said = {
        name.removeprefix("sandwatch:"): value
        for name, value in (content.get("properties") or {}).items()
        if name.startswith("sandwatch:")
    }
    if "model_sha256" not in said:
        raise _no_result(target, "a STAC item", "the property sandwatch:model_sha256")
    scene = said.get("scene_sha256")  # the model's own item has neither scene nor threshold
    names = ("label_fingerprint", "params_sha256", *(["threshold"] if scene is not None else []))
    claims = {name: str(said[name]) if name in said else None for name in names}
    scenes = {str(content.get("id")): scene} if isinstance(scene, dict) else {}
    return _result(target, path, str(said["model_sha256"]), claims, scenes)


def _result(
    target: str, path: Path, model: str, claims: Mapping[str, str | None], scenes: Mapping[str, Mapping[str, str]]
) -> InHand:
    result = Result(md5=md5(path), claims=claims, scenes=scenes)
    return InHand(target=target, weights_sha256=model, files={}, result=result, path=path)


def _no_result(target: str, got: str, expected: str) -> InputError:
    fix = "name a score.tif, mask.tif, detections.parquet or item.json that sandwatch infer wrote, as it wrote it"
    return InputError(target, got=got, expected=expected, fix=fix)


def differing(one: Card, other: Card) -> list[str]:
    """The fields in which two cards differ."""
    return [name for name in Card.model_fields if getattr(one, name) != getattr(other, name)]


def model_of(lock: Lock) -> str | None:
    """The MD5 of the model's folder in a lock, None where there is none."""
    stage = lock.stage(TRAIN)
    return None if stage is None else stage.outs.get(MODELS)


def models(history: History) -> dict[str, list[Revision]]:
    """The models of all revisions: MD5 of the folder to the revisions that hold it, newest first."""
    found: dict[str, list[Revision]] = {}
    for revision in history.revisions:
        folder = model_of(history.lock(revision))
        if folder is not None:
            found.setdefault(folder, []).append(revision)
    return found


def find(
    hand: InHand, history: History, objects: Objects
) -> tuple[dict[str, list[Revision]], tuple[Link, ...], list[str]]:
    """The revisions that hold what is in hand.

    Returns:
        Revisions by the MD5 of the model's folder; links ``card`` and ``weights`` where a revision knows better; notes
        on what could not be looked into.
    """
    known = models(history)
    if hand.revision is not None:
        folder = model_of(history.lock(hand.revision))
        assert folder is not None
        return {folder: known[folder]}, (), []
    if hand.files and (whole := folder_md5(hand.files)) in known:
        return {whole: known[whole]}, (), []
    trees, absent = _trees(known, objects)
    notes = (
        [
            f"{absent} of the {len(known)} models in the history are in neither cache nor remote: "
            "whether one of them is this one is unknown"
        ]
        if absent
        else []
    )
    mine = {name: hand.files[name] for name in (WEIGHTS, CARD) if name in hand.files}
    if not mine:
        cards = _cards(trees, objects)
        exact = {folder: known[folder] for folder, card in cards.items() if card.weights_sha256 == hand.weights_sha256}
        return exact, (), notes
    exact = {folder: known[folder] for folder, files in trees.items() if mine.items() <= files.items()}
    if exact:
        return exact, (), notes
    near = {folder: known[folder] for folder, files in trees.items() if files.get(WEIGHTS) == mine.get(WEIGHTS, "")}
    if near:
        cards = _cards({folder: trees[folder] for folder in near}, objects)
        first = next(iter(near))
        fields = differing(hand.card, cards[first]) if hand.card is not None and first in cards else []
        differs = f"differs in {', '.join(fields)} from" if fields else "is not"
        detail = f"the card in hand {differs} the card that {near[first][0]} has for these weights"
        return near, (broken(name="card", detail=detail),), notes
    near = {folder: known[folder] for folder, files in trees.items() if files.get(CARD) == mine.get(CARD, "")}
    if near:
        revision = next(iter(near.values()))[0]
        link = broken(name="weights", detail=f"the card is that of {revision}, whose weights are others")
        return near, (link,), notes
    return {}, (), notes


def _trees(known: Iterable[str], objects: Objects) -> tuple[dict[str, Mapping[str, str]], int]:
    known = list(known)
    objects.fetch(known)
    trees, absent = {}, 0
    for folder in known:
        try:
            trees[folder] = objects.tree(folder, MODELS)
        except (MissingError, CorruptError):
            absent += 1
    return trees, absent


def _cards(trees: Mapping[str, Mapping[str, str]], objects: Objects) -> dict[str, Card]:
    objects.fetch(files[CARD] for files in trees.values() if CARD in files)
    cards = {}
    for folder, files in trees.items():
        try:
            cards[folder] = Card.read(objects.path(files[CARD], f"{MODELS}/{CARD}"))
        except (MissingError, CorruptError, KeyError, InputError):
            continue  # counted as not seen by the caller, or a card of another version
    return cards


def holders(card: Card | None, revisions: Sequence[Revision], history: History) -> tuple[Holder, ...]:
    """What git alone can tell of each revision, in the order given."""
    return tuple(Holder(revision=r, links=tuple(git_links(card, r, history))) for r in revisions)


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


def git_links(card: Card | None, revision: Revision, history: History, last: str = TRAIN) -> list[Link]:
    """The links lock, code, inputs and params at a revision.

    Args:
        card: of the model; None leaves out what only it says.
        revision: a holder.
        history: of it.
        last: the stage that the chain ends with.
    """
    try:
        lock = history.lock(revision)
        stages = lock.upstream(last)
        return [
            _lock_link(lock, stages),
            *_file_links(card, lock, stages, revision, history),
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


def _file_links(
    card: Card | None, lock: Lock, stages: Sequence[str], revision: Revision, history: History
) -> list[Link]:
    """The files of git that the stages read are those of the revision, as lock and card record them."""
    recorded: dict[str, tuple[str, str]] = {}
    clash: list[str] = []
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        for path, read in stage.deps.items():
            if lock.maker(path) is not None:
                continue
            if recorded.setdefault(path, (read, name))[0] != read:
                clash.append(f"{path}: {name} read another file than {recorded[path][1]}")
    there = history.hashes(revision, list(recorded), "dvc")
    links = []
    for link in ("code", "inputs"):
        paths = {path: value for path, value in recorded.items() if _is_code(path) == (link == "code")}
        wrong = [line for line in clash if _is_code(line.split(":")[0]) == (link == "code")] + [
            f"{path} at {revision} is not the file that {stage} ran with"
            for path, (read, stage) in paths.items()
            if path in there and there[path] != read
        ]
        if link == "code" and card is not None:
            now = history.hashes(revision, list(card.code), "sha256")
            wrong += [f"{path} is missing at {revision}" for path in card.code if path not in now]
            wrong += [
                f"{path} at {revision} is not the file that the card says made the model"
                for path, found in now.items()
                if found != card.code[path]
            ]
        absent = [path for path in paths if path not in there]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            detail = wrong[0] + more + ": it ran on a tree with changes that were not committed" * (link == "code")
            links.append(broken(name=link, detail=detail))
        elif absent:
            detail = f"not in git at {revision}: {', '.join(absent)}"
            links.append(unverified(name=link, detail=detail, remedy="commit those files with git"))
        else:
            count = len(paths) + (len(card.code) if card is not None and link == "code" else 0)
            links.append(verified(name=link, detail=f"{count} files and folders are those of {revision}"))
    return links


def _is_code(path: str) -> bool:
    return path.startswith(("src/", "stages/")) or path.endswith(".py")


def _params_link(card: Card | None, lock: Lock, stages: Sequence[str], revision: Revision, history: History) -> Link:
    """The params that ran are those of params.yaml at the revision, and of the card."""
    content = history.files(revision, ["params.yaml"]).get("params.yaml")
    values = read_yaml(content.decode()) if content is not None else None
    for name in stages:
        stage = lock.stage(name)
        assert stage is not None
        for section, ran in stage.params.items():
            if values is not None and values.get(section) != ran:
                keys = list(changes(values.get(section), ran, section))[:4]
                detail = f"params.yaml at {revision} differs in {', '.join(keys)} from what {name} ran with"
                return broken(name="params", detail=detail)
    last = lock.stage(stages[-1])
    if card is None or last is None:
        if values is None:
            return unverified(name="params", detail=f"no params.yaml at {revision}, and no card to compare with")
        return verified(name="params", detail="params.yaml and dvc.lock agree; there is no card to compare with")
    models = {model.section: model for model in Section.__subclasses__()}
    try:
        found = hash_params([check(models[section], ran) for section, ran in last.params.items()])
    except (InputError, KeyError) as error:
        detail = f"another version's params, which this one can't hash: {error}"
        return unverified(name="params", detail=detail, remedy=f"use the sandwatch of {revision}")
    if found != card.params_sha256:
        detail = f"the params in dvc.lock hash to {found}; the card says {card.params_sha256}"
        return broken(name="params", detail=detail)
    where = "params.yaml, dvc.lock and card" if values is not None else "dvc.lock and card"
    return verified(name="params", detail=f"{where} agree on {len(last.params)} sections")


def changes(one: Any, other: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """The keys in which nested values differ, dotted, with both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*one, *(key for key in other if key not in one)]:
            dotted = f"{at}.{key}".strip(".")
            found |= changes(one.get(key), other.get(key), dotted)
        return found
    return {} if one == other else {at: (one, other)}
