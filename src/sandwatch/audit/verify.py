"""Deriving everything behind a model again, in a temporary clone, and comparing hashes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sandwatch.audit import chain, confined
from sandwatch.audit.chain import (
    ANNOTATIONS,
    CANONICAL,
    OF_A_FILE,
    OWN_WEIGHTS,
    WEIGHTS,
    broken,
    uncommitted,
    unverified,
    verified,
)
from sandwatch.audit.forward import PIXELS, follow, not_derived, pixels
from sandwatch.audit.hashes import hash_folder
from sandwatch.audit.history import LOCK, History, Lock, Stage, read_yaml
from sandwatch.audit.objects import CorruptError, MissingError, Objects
from sandwatch.audit.record import Audit, Link, Revision, in_order
from sandwatch.audit.retraining import Retraining
from sandwatch.errors import InputError
from sandwatch.files import below, sha256
from sandwatch.model.card import Card
from sandwatch.printable import printable

if TYPE_CHECKING:
    import pandas as pd

Report = Callable[[str], None]
BUCKET = "its rasters lie in a bucket: --network lets the code reach it, with your credentials; read the code first"
ONLINE = "this system has no way to switch the network off for the code that is run: it could reach what it likes"


def verify(
    target: str,
    *,
    where: Path | None = None,
    retrain: bool = False,
    keep: Sequence[str] = (),
    remote: str | None = None,
    pictures: bool = False,
    network: bool = False,
    report: Report = print,
    allow: Callable[[Foreign], bool] = lambda _: False,
) -> Audit:
    """Follows the chain behind a target, then runs its stages again where nothing of this machine's files is used.

    Stops at the first link that breaks: what comes after it would break too. Nothing is run that no link vouches for,
    and nothing that isn't in the past of what is checked out unless it is allowed.

    Args:
        target: a model, a revision or an experiment.
        where: a path in the DVC repository; None for the working directory.
        retrain: run the training again too.
        keep: stages that are not run again; what they wrote is pulled, and only its hashes are compared.
        remote: of DVC, to pull from; None for the default one.
        pictures: look for RGB rasters too, as :func:`sandwatch.audit.forward.audit` does.
        network: leave the network and this environment, with its credentials, to the code that is run.
        report: is given a line now and then.
        allow: is asked before the code of a revision is run that whoever works here never checked out.

    Returns:
        The audit, with links for what was derived again.

    Raises:
        InputError: there is no repository here, the target is nothing that can be audited, or its code may not be run.
    """
    history = History.here(where)
    try:
        objects = Objects(history.root, remote=remote)
        hand = chain.take(target, history, objects)
        audit = follow(hand, history, objects, pictures=pictures)
        links = [link for link in audit.links if not link.name.startswith("rebuild ")]
        if hand.path is not None and hand.path.resolve() in _models(history):
            links.append(_working_tree(history))
        if audit.revision is None:
            return replace(audit, links=in_order(links))
        if hand.path is None and audit.card is not None:
            links = [link for link in links if link.name not in ("weights", "card")]
            links += chain.kept_weights(hand.files, audit.card, objects, pull=True)
        lock = history.lock(audit.revision)
        if audit.imagery is not None and (scenes := _pixels(lock, audit.imagery, keep, objects)) is not None:
            links.append(scenes)
        stages = [stage for stage in lock.upstream(audit.stage) if retrain or stage != audit.stage]
        why = _not_to_be_run(audit.revision, links)
        if why is None:
            _ask(target, audit.revision, lock, stages, keep, history, allow)
            with tempfile.TemporaryDirectory(prefix="sandwatch-verify-") as folder:
                report(f"cloning {audit.revision} to {folder}")
                clone = _Clone(Path(folder), history, audit.revision.commit, network=network)
                if not network and confined.offline() is None:
                    audit = replace(audit, notes=(*audit.notes, ONLINE))
                    report(f"note: {ONLINE}")
                if retrain and (lacking := _bring_start(clone.root, audit, history, objects)) is not None:
                    stages.remove(audit.stage)
                    links.append(lacking)
                retraining = Retraining.before(
                    clone.root, weights_sha256=audit.card.weights_sha256 if audit.card else ""
                )
                rebuilt = _rebuild(clone, lock, stages, audit.stage, keep, objects, retraining, report)
                links += rebuilt
                if len(rebuilt) == len(stages) and rebuilt[-1].state != "broken" and audit.card is not None:
                    links.append(_inputs(clone.root, audit.card))
        names = {link.name for link in links}
        for link in not_derived(lock, audit.stage, why or "a stage before it was not derived again"):
            if link.name not in names:
                asked = retrain or link.name != f"rebuild {audit.stage}"
                links.append(link if asked else replace(link, detail="--retrain runs it again"))
        return replace(audit, links=in_order(links), notes=(*audit.notes, *_of_starts(audit)))
    finally:
        history.git.close()


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A revision whose code is about to be run, and which is not in the past of what is checked out here.

    Attributes:
        revision: it.
        author: who made it, as git says; anybody can write any name there.
        commands: that are run, by stage.
    """

    revision: Revision
    author: str
    commands: Mapping[str, str]

    @property
    def lines(self) -> tuple[str, ...]:
        """What to show before it is run: what others wrote can't move the cursor or hide a part of itself."""
        facts = {
            "revision": str(self.revision),
            "author": self.author,
            "date": self.revision.time,
            "subject": self.revision.subject,
            **{f"runs {stage}": command for stage, command in self.commands.items()},
        }
        return tuple(f"  {name:<17} {printable(' '.join(text.split()))}" for name, text in facts.items())


def _not_to_be_run(revision: Revision, links: Sequence[Link]) -> str | None:
    """Why nothing of a revision is run; None where it may be."""
    if any(link.state == "broken" for link in links):
        return "nothing is run where a link is broken"
    if revision.kind == "working tree":
        return "nothing is run that no revision holds"
    unseen = [link.name for link in links if link.name in ("lock", "pipeline", "code") and link.state != "verified"]
    return f"nothing is run that no link vouches for: {', '.join(unseen)}" if unseen else None


def _pixels(lock: Lock, scenes: pd.DataFrame, keep: Sequence[str], objects: Objects) -> Link | None:
    """Whether the rasters are those that the manifest names; None where they are not here and are derived again."""
    export, chips = lock.stage("export"), lock.stage("chips")
    pulled = export is None or _is_pulled("export", export, keep)
    link = pixels(scenes, "" if chips is None else chips.deps.get(PIXELS, ""), objects, pull=pulled)
    return None if link.state == "unverified" and not pulled else link


def _ask(
    target: str,
    revision: Revision,
    lock: Lock,
    stages: Sequence[str],
    keep: Sequence[str],
    history: History,
    allow: Callable[[Foreign], bool],
) -> None:
    """Asks before code is run that nobody here checked out.

    Raises:
        InputError: it may not be run.
    """
    if history.leads_to_head(revision):
        return
    ran = {name: stage for name in stages if (stage := lock.stage(name)) is not None}
    # What dvc.lock says ran is what dvc.yaml has: the link pipeline holds, or nothing is run.
    commands = {name: stage.command for name, stage in ran.items() if not _is_pulled(name, stage, keep)}
    if not allow(Foreign(revision=revision, author=history.author(revision), commands=commands)):
        raise InputError(
            f"audit verify {target}",
            got=f"no leave to run the code of {revision}, which is not in the history of what is checked out",
            expected="a revision that you checked out, or your word",
            fix=f"read it with git diff HEAD...{revision.commit[:10]}, then check it out or give --yes",
        )


def _models(history: History) -> set[Path]:
    """Where the files of the models lie that a working tree, or what is checked out, has."""
    head = history.resolve("HEAD")
    if head is None:
        return set()
    return {
        (history.root / one.path(name)).resolve()
        for one in chain.models_in(history.lock(head))
        for name, _ in one.files
    }


def _working_tree(history: History) -> Link:
    """Nothing that the pipeline made was changed where the model lies."""
    from dvc.repo import Repo

    # No remote is asked: what lies here is compared with the cache, and a remote that doesn't answer takes minutes.
    repo = Repo(str(history.root), config={"core": {"remote": ""}})
    status = repo.data_status(granular=True, untracked_files="no")
    different: Mapping[str, Sequence[object]] = status.get("uncommitted", {})
    paths = [str(path) for kind in ("modified", "added") for path in different.get(kind, [])]
    # Folders are named beside their files, and alone where the cache lacks their listing.
    folders = [path for path in paths if path.endswith("/")]
    named = {folder for folder in folders for path in paths if path != folder and path.startswith(folder)}
    changed = sorted(set(paths) - named)
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        return broken(name="working tree", detail=f"{changed[0]} is not what dvc.lock says{more}")
    if history.revisions and history.revisions[0].kind == "working tree":
        mine = history.lock(history.revisions[0])
        head = next((r for r in history.revisions if r.commit == history.head), None)
        committed = history.lock(head) if head is not None else None
        stages = [
            name
            for name in mine.names
            if committed is None or (a := mine.stage(name)) is None or (b := committed.stage(name)) is None
            or (a.deps, a.outs, a.params) != (b.deps, b.outs, b.params)
        ]  # fmt: skip
        detail = f"what lies here is what dvc.lock says, but that is not HEAD's: {', '.join(stages) or 'its text'}"
        return uncommitted(name="working tree", detail=detail)
    return verified(name="working tree", detail="dvc.lock is that of HEAD; what lies here is what it says")


class _Clone:
    """A revision checked out by itself: objects of git are shared, files and DVC's cache are not."""

    def __init__(self, folder: Path, history: History, commit: str, *, network: bool) -> None:
        self._network = network
        top = folder / "clone"
        top.mkdir()
        self._folder = folder
        objects = history.git.root / history.git.run("rev-parse", "--git-path", "objects").strip()
        self._git("init", "-q", str(top))
        (top / ".git/objects/info/alternates").write_text(f"{objects.resolve()}\n")
        shallow = history.git.root / history.git.run("rev-parse", "--git-path", "shallow").strip()
        if shallow.is_file():
            (top / ".git/shallow").write_bytes(shallow.read_bytes())
        self._git("-C", str(top), "checkout", "-q", "--detach", commit)
        self.root = top / history.root.relative_to(history.git.root)

    def repro(self, stage: str) -> str | None:
        """Runs one stage; what went wrong, or None."""
        done = self._python("dvc", "repro", "--force", "--single-item", "--no-commit", "--quiet", stage)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "no word")
        return f"{stage} can't be run again: {said}" if done.returncode else None

    def lacks_network(self, stage: str) -> bool:
        """Whether a stage reads rasters in a bucket, and was run where none can be reached."""
        listed = self.root / "data/regions" / self._region / "imagery/scenes.csv"
        return not self._network and stage == "export" and listed.is_file() and b"gs://" in listed.read_bytes()

    @property
    def _region(self) -> str:
        return str(read_yaml((self.root / "params.yaml").read_text(errors="replace")).get("region"))

    def lock(self) -> Lock:
        """Its dvc.lock as it is now."""
        path = self.root / LOCK
        return Lock(path.read_text(errors="replace") if path.is_file() else "")

    def _python(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        # DVC itself is this environment's (-E, -P): the path of Python that holds the clone is for its stages only.
        # DVC would keep its database of file hashes beside that of other clones.
        own = dict(os.environ) if self._network else confined.environment(self._folder / "home")
        before = () if self._network else confined.offline() or ()
        env = {**own, "PATH": path, "PYTHONPATH": str(self.root / "src"), "DVC_NO_ANALYTICS": "1",
               "DVC_SITE_CACHE_DIR": str(self._folder / "site"),
               # Everything is computed anew: nothing is taken that an earlier run, or the revision itself, left lying.
               "SANDWATCH_CACHE": str(self._folder / "work")}  # fmt: skip
        return subprocess.run(
            [*before, sys.executable, "-E", "-P", "-m", module, *arguments],
            cwd=self.root,
            env=env,
            text=True,
            errors="replace",
            capture_output=True,
            check=False,
        )

    def _git(self, *arguments: str) -> None:
        done = subprocess.run(["git", *arguments], text=True, errors="replace", capture_output=True, check=False)
        if done.returncode:
            raise InputError(
                f"git {arguments[-1]}", got=done.stderr.strip()[:300], expected="a clone", fix="run git fsck"
            )


def _rebuild(
    clone: _Clone,
    lock: Lock,
    stages: Sequence[str],
    training: str,
    keep: Sequence[str],
    objects: Objects,
    retraining: Retraining,
    report: Report,
) -> list[Link]:
    """Runs stages again, one after the other, until one gives something else."""
    links: list[Link] = []
    for number, name in enumerate(stages, 1):
        recorded = lock.stage(name)
        assert recorded is not None
        source, link = _source(name, recorded), f"rebuild {name}"
        if _is_pulled(name, recorded, keep):
            report(f"[{number}/{len(stages)}] {name}: pulled, not run again")
            fix = f"leave out --keep {name}" if name in keep else "none from here: what it was made from has moved on"
            links.append(_pulled(link, name, recorded.outs, clone.root, objects, fix))
        else:
            report(f"[{number}/{len(stages)}] {name}: running again")
            try:
                compared = _from_snapshot(clone, recorded, objects) if source == "labelbox" else recorded.outs
                failed = clone.repro(name)
            except (MissingError, CorruptError) as error:
                compared, failed = {}, f"{name} needs its snapshot: {error}"
            again = None
            if not failed:
                try:
                    again = clone.lock().stage(name)
                except InputError as error:
                    failed = f"{name} left a dvc.lock that can't be read: {error.got}"
            if failed and clone.lacks_network(name):
                links.append(unverified(name=link, detail=failed, remedy=BUCKET))
                break
            wrong = [failed] if failed else _different(compared, again, clone.root, objects, name)
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            how = "derived from the recorded snapshot" if source == "labelbox" else "run again"
            if not wrong:
                links.append(verified(name=link, detail=f"{how}, {', '.join(compared)}: same hashes"))
            elif name == training and not failed:
                links.append(retraining.judge(link, f"{wrong[0]}{more}", compared, objects))
            else:
                links.append(broken(name=link, detail=f"{wrong[0]}{more}"))
            rest = {path: oid for path, oid in recorded.outs.items() if path not in compared}
            if rest and not wrong and (kept := _pulled(link, name, rest, clone.root, objects, "")).state == "broken":
                links.append(kept)
        if links[-1].state == "broken" or not all((clone.root / path).exists() for path in recorded.outs):
            break
    return links


def _source(name: str, recorded: Stage) -> str | None:
    """Where a stage of the outside world reads from; None for the others."""
    section = {"export": "imagery", "annotations": "annotations"}.get(name, "")
    values = chain.by_section(recorded.params).get(section)
    return values.get("source") if isinstance(values, Mapping) else None


def _is_pulled(name: str, recorded: Stage, keep: Sequence[str]) -> bool:
    """Whether what a stage wrote is taken as recorded."""
    return name in keep or _source(name, recorded) == "earthengine"


def _from_snapshot(clone: _Clone, recorded: Stage, objects: Objects) -> dict[str, str]:
    """Has the clone read the labels from the snapshot as recorded, since the labelling project has moved on.

    Returns:
        What can be compared then: the tables. The metrics count what was taken out of the rows on their way in.
    """
    from dvc.utils.serialize import dump_yaml

    params = deepcopy(dict(read_yaml((clone.root / "params.yaml").read_text())))
    params["annotations"]["source"] = "labelbox_export"
    dump_yaml(str(_room(clone.root, "params.yaml")), params)
    snapshot = _room(clone.root, f"data/regions/{params['region']}/annotations/export.ndjson")
    snapshot.write_bytes(objects.file(recorded.outs[ANNOTATIONS], "export.ndjson", ANNOTATIONS).read_bytes())
    return {path: recorded.outs[path] for path in (ANNOTATIONS, CANONICAL)}


def _different(recorded: Mapping[str, str], again: Stage | None, root: Path, objects: Objects, name: str) -> list[str]:
    """What a stage made otherwise, by file where the recorded listing can be had."""
    wrong = []
    for path, was in recorded.items():
        now = again.outs.get(path) if again is not None else None
        if now == was:
            continue
        files = [path]
        if was.endswith(".dir"):
            made = hash_folder(root / path)
            try:
                before = objects.tree(was, path)
            except (MissingError, CorruptError):
                before = made
            files = [
                f"{path}/{file}" for file in sorted(made.keys() | before.keys()) if made.get(file) != before.get(file)
            ] or [path]
        wrong += [f"{file} is not what {name} makes of its inputs" for file in files]
    return wrong


def _pulled(link: str, name: str, outs: Mapping[str, str], root: Path, objects: Objects, fix: str) -> Link:
    """Takes what a stage wrote as recorded."""
    try:
        _put(outs, root, objects)
    except MissingError as error:
        return unverified(name=link, detail=f"{name} was to be pulled: {error}")
    except CorruptError as error:
        return broken(name=link, detail=str(error))
    detail = "taken as recorded: its files have their hashes, but were not derived again"
    return unverified(name=link, detail=detail, remedy=fix)


def _put(outs: Mapping[str, str], root: Path, objects: Objects) -> None:
    """Puts outputs where the next stages will read them; every file is hashed on the way."""
    for path, oid in outs.items():
        files = {path: oid}
        if oid.endswith(".dir"):
            files = {f"{path}/{file}": found for file, found in objects.tree(oid, path).items()}
        objects.fetch(files.values())
        for file, found in files.items():
            _room(root, file).symlink_to(objects.path(found, file).resolve())


def _room(root: Path, path: str) -> Path:
    """Makes room for a file in the clone, whose folders may be links: what is checked out was written by others.

    Raises:
        CorruptError: the path leads out of the clone.
    """
    there = root / path
    if not below(path) or not there.parent.resolve().is_relative_to(root.resolve()):
        raise CorruptError(f"{path} leads out of the clone")
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)
    return there


def _of_starts(audit: Audit) -> tuple[str, ...]:
    """A note on what trained the models that this one began with: their chains are followed, not derived again."""
    named = ", ".join(f"{start.target} of {start.revision}" for start in audit.starts)
    return (f"{named}: followed, but not derived again; verify each by its revision",) if named else ()


def _bring_start(root: Path, audit: Audit, history: History, objects: Objects) -> Link | None:
    """Puts the file that a training started from into the clone, unless git has it there.

    Returns:
        The link of the training, where the file is nowhere to be had; else None.
    """
    start = None if audit.card is None else audit.card.start
    if start is None or not start.name.endswith(OF_A_FILE) or (root / OWN_WEIGHTS / start.name).is_file():
        return None
    link, name = f"rebuild {audit.stage}", f"{OWN_WEIGHTS}/{start.name}"
    lying = history.root / name
    try:
        room = _room(root, name)
        if lying.is_file() and sha256(lying) == start.sha256:
            room.symlink_to(lying.resolve())
            return None
        before = next(iter(audit.starts), None)
        model = None if before is None or before.revision is None else history.lock(before.revision)
        if before is not None and model is not None and (made := chain.model_of(model, before.stage)) is not None:
            room.symlink_to(objects.path(dict(made.files)[WEIGHTS], name).resolve())
            return None
    except (MissingError, CorruptError, KeyError) as error:
        return unverified(name=link, detail=f"the weights that it started from are not to be had: {error}")
    detail = f"the weights that it started from are not here: {name} with the SHA-256 {start.sha256}"
    return unverified(name=link, detail=detail)


def _inputs(root: Path, card: Card) -> Link:
    """What was derived again is what the card says that training read, the weights aside that it started from."""
    # Of those the link start tells: params.yaml pins them, and no stage makes them.
    started = "" if card.start is None else f"{OWN_WEIGHTS}/{card.start.name}"
    read = {path: said for path, said in card.inputs.items() if path != started or (root / path).is_file()}
    here = {path: root / path for path in read if (root / path).is_file()}
    wrong = [path for path, file in here.items() if sha256(file) != read[path]]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return broken(name="chips", detail=f"{wrong[0]}, derived again, is not what the card says was read{more}")
    absent = sorted(read.keys() - here.keys())
    if absent:
        return unverified(name="chips", detail=f"the card says that {absent[0]} was read, which no stage made")
    return verified(name="chips", detail=f"all {len(here)} files that the card says were read, derived again")
