"""An attestation of a committed model: an in-toto statement of what it was made from, for whoever gets the model.

Sources: in-toto Statement v1 and its ResourceDescriptor; SLSA provenance v1.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sandwatch.audit import chain
from sandwatch.audit.chain import ANNOTATIONS, CHIPS, EXPOSURES, PIPELINE, SCENES, WEIGHTS
from sandwatch.audit.folders import whole_folder
from sandwatch.audit.forward import follow
from sandwatch.audit.history import LOCK, History, read_yaml
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.record import WORDS, Audit
from sandwatch.audit.statement import ATTESTATION, BUILD_TYPE, PREDICATE, SIGNATURE, SUBJECTS, plain
from sandwatch.errors import InputError
from sandwatch.files import left_behind, sha256, write_json

BUILDER = "sandwatch:attesting-environment/v1"
"""Who says so: the environment that followed the chain after the commit. It need not be the one that trained."""
VERSIONS = ("sandwatch", "dvc", "geopandas", "numpy", "pandas", "pyarrow", "rasterio", "shapely", "torch")
"""Packages whose versions are attested."""

Sign = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Released:
    """What was written.

    Attributes:
        folder: with the model, its attestation and, where it was signed, its signature.
        audit: the chain that was followed.
        statement: the attestation.
        signed: whether there is a signature.
    """

    folder: Path
    audit: Audit
    statement: Mapping[str, Any]
    signed: bool


def attest(
    target: str,
    folder: Path,
    *,
    where: Path | None = None,
    remote: str | None = None,
    offline: bool = False,
    sign: Sign | None = None,
    now: datetime | None = None,
) -> Released:
    """Follows the chain behind a committed model and writes a release: model, attestation, signature.

    The folder is written whole or not at all; an earlier release of the same model in it is replaced.

    Args:
        target: a model, a revision or an experiment.
        folder: where to write.
        where: a path in the DVC repository; None for the working directory.
        remote: of DVC, to pull from; None for the default one.
        offline: don't ask any remote.
        sign: signs a folder, see :mod:`sandwatch.audit.release`; None leaves it unsigned.
        now: time of the attestation; None for the clock's.

    Raises:
        InputError: there is no repository, no commit holds the model, a link of its chain is broken, or the folder
            holds something else.
    """
    with followed(target, where=where, remote=remote, offline=offline) as (audit, history, objects):
        files = _files(target, audit, history, objects)
        statement = _statement(audit, history, objects, files, now or datetime.now(UTC))
    mine = sha256(files[WEIGHTS])
    with whole_folder(
        folder, replaces=lambda there: _is_release(there, mine), of="an earlier release of the same model"
    ) as made:
        for name in SUBJECTS:
            shutil.copyfile(files[name], made / name)
        write_json(made / ATTESTATION, statement)
        if sign is not None:
            sign(made)
    return Released(folder=folder, audit=audit, statement=statement, signed=sign is not None)


@contextmanager
def followed(
    target: str, *, where: Path | None, remote: str | None, offline: bool
) -> Iterator[tuple[Audit, History, Objects]]:
    """The chain behind a committed model, and the repository that it was followed in.

    Raises:
        InputError: there is no repository, no commit holds the model, or a link of its chain is broken.
    """
    history = History.here(where)
    try:
        objects = Objects(history.root, remote=remote, offline=offline)
        hand = chain.take(target, history, objects)
        if hand.result is not None:
            raise InputError(
                target, got="a result", expected="a model or a revision", fix="name the model that made it"
            )
        audit = follow(hand, history, objects)
        bad = next((link for link in audit.links if link.state == audit.state), None)
        if bad is not None and (
            audit.state in ("broken", "uncommitted") or audit.revision is None or audit.card is None
        ):
            raise InputError(
                target,
                got=f"link {bad.name} {WORDS[bad.state]}: {bad.detail}",
                expected="a model that a commit holds, with no link broken",
                fix=f"{audit.remedy}; sandwatch audit shows all",
            )
        yield audit, history, objects
    finally:
        history.git.close()


def _files(target: str, audit: Audit, history: History, objects: Objects) -> dict[str, Path]:
    """The files of a model, out of DVC.

    Raises:
        InputError: they can't be reached, or are not what the card says.
    """
    assert audit.revision is not None
    assert audit.card is not None
    model = chain.model_of(history.lock(audit.revision), audit.stage)
    assert model is not None
    held = dict(model.files)
    try:
        files = {name: objects.path(held[name], model.path(name)) for name in (*SUBJECTS, EXPOSURES)}
    except (MissingError, CorruptError, KeyError) as error:
        raise InputError(
            f"attest {target}",
            got=str(error),
            expected=f"the files of {model.folder} at {audit.revision}",
            fix="dvc push where it was trained, or name a remote with --remote",
        ) from None
    if (found := sha256(files[WEIGHTS])) != audit.card.weights_sha256:
        raise InputError(
            f"attest {target}",
            got=f"link weights broken: SHA-256 {found}",
            expected=f"{audit.card.weights_sha256}, as the card says",
            fix="train again and commit",
        )
    return files


def _is_release(folder: Path, weights_sha256: str) -> bool:
    """Whether nothing but a release of this model lies in a folder."""
    names = {path.name for path in folder.iterdir() if not left_behind(path.name)}
    return {*SUBJECTS, ATTESTATION} <= names <= {*SUBJECTS, ATTESTATION, SIGNATURE} and sha256(
        folder / WEIGHTS
    ) == weights_sha256


def _statement(
    audit: Audit, history: History, objects: Objects, files: Mapping[str, Path], now: datetime
) -> dict[str, Any]:
    """The attestation, made and validated by the library of in-toto."""
    from google.protobuf.json_format import MessageToDict, ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement

    assert audit.revision is not None
    assert audit.card is not None
    card = audit.card
    settings = history.files(audit.revision, ["params.yaml"]).get("params.yaml", b"{}")
    region = read_yaml(settings.decode(errors="replace")).get("region")
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"region": region, "params": audit.params},
            "internalParameters": {
                "stage": audit.stage,
                "label_fingerprint": card.label_fingerprint,
                "imagery": card.imagery,
                "labels": card.labels,
                "params_sha256": card.params_sha256,
                "links": {link.name: link.state for link in audit.links},
                "start": None if card.start is None else card.start.model_dump(),
                "starts": [_start(start) for start in audit.starts],
            },
            "resolvedDependencies": _materials(audit, history, objects),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": _versions()},
            "metadata": {"finishedOn": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
            "byproducts": [_resource(EXPOSURES, sha256(files[EXPOSURES]))],
        },
    }
    provenance = ParseDict(predicate, Provenance())  # refuses a field that SLSA has not
    statement = Statement(
        [_descriptor(name, {"sha256": sha256(files[name])}) for name in SUBJECTS],
        PREDICATE,
        MessageToDict(provenance),
    )
    statement.validate()
    return {key: plain(value) for key, value in MessageToDict(statement.pb).items()}


def _start(start: Audit) -> dict[str, Any]:
    """A model that the attested one began with: its materials are its own revision's, and are not repeated here."""
    assert start.revision is not None
    assert start.card is not None
    return {
        "name": start.target,
        "weights_sha256": start.card.weights_sha256,
        "label_fingerprint": start.card.label_fingerprint,
        "imagery": start.card.imagery,
        "labels": start.card.labels,
        "gitCommit": start.revision.commit,
        "stage": start.stage,
        "links": {link.name: link.state for link in start.links},
    }


def _materials(audit: Audit, history: History, objects: Objects) -> list[dict[str, Any]]:
    """Everything that its own training made the model from, with digests; the weights that it started from too."""
    assert audit.revision is not None
    assert audit.card is not None
    revision, card, lock = audit.revision, audit.card, history.lock(audit.revision)
    chips, annotations = lock.stage(lock.maker(CHIPS) or ""), chain.annotations_of(lock)
    assert chips is not None
    assert annotations is not None
    in_git = [*card.code, LOCK, PIPELINE, "params.yaml"]
    found = {**card.inputs, **history.hashes(revision, in_git, "sha256")}
    try:
        for name in objects.tree(annotations, ANNOTATIONS):
            found[f"{ANNOTATIONS}/{name}"] = sha256(objects.file(annotations, name, ANNOTATIONS))
        found[SCENES] = sha256(objects.path(chips.deps[SCENES], SCENES))
    except (MissingError, CorruptError, KeyError) as error:
        raise InputError(
            f"attest {audit.target}",
            got=f"materials out of reach: {error}",
            expected=f"{ANNOTATIONS} and {SCENES} in the cache or a remote",
            fix="dvc push where it was trained, or name a remote with --remote",
        ) from None
    scenes = audit.imagery
    if scenes is not None:
        found |= {f"data/scenes/{p}": h for p, h in zip(scenes["path"], scenes["sha256"], strict=True)}
    uri = public_uri(_remote(history))
    source = {"name": "git", "digest": {"gitCommit": revision.commit}, **({"uri": uri} if uri else {})}
    return [source, *(_resource(path, found[path]) for path in sorted(found))]


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _descriptor(name: str, digest: Mapping[str, str]) -> Any:
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor

    return ResourceDescriptor(name=name, digest=dict(digest)).pb


def _remote(history: History) -> str:
    names = (history.git.ask("remote") or "").split()
    name = "origin" if "origin" in names else next(iter(names), None)
    # As configured: `git remote get-url` would write in what a user's insteadOf holds.
    return history.git.ask("config", "--get", f"remote.{name}.url") or "" if name else ""


def public_uri(remote: str) -> str | None:
    """A git remote as ``git+https://host/path``, without user, password, token or query; None for a path on a disk."""
    scp = re.fullmatch(r"(?:[^@/]+@)?([\w.-]{2,}):(?!//)([^?#]+)", remote)
    if scp:
        return f"git+ssh://{scp[1]}/{scp[2].lstrip('/')}"
    parts = urlsplit(remote)
    if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
        return None
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return urlunsplit((f"git+{parts.scheme}", f"{parts.hostname}{port}", parts.path, "", ""))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # sandwatch may run from its sources alone
            continue
    return found
