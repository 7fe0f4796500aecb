"""Git read through its plumbing: every revision, its ``dvc.lock``, its files. Nothing is ever checked out.

Experiments of DVC are commits under ``refs/exps``: those of ``dvc exp run``, with ``--queue`` and ``--temp`` too. What
DVC keeps there for itself (stashes, queues, heads of running experiments) is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pathspec import GitIgnoreSpec

from sandwatch.audit.hashes import MD5, folder_md5, md5
from sandwatch.audit.record import Name, Revision
from sandwatch.code import meaning
from sandwatch.errors import InputError
from sandwatch.files import below
from sandwatch.params import load_yaml

LOCK, IGNORE = "dvc.lock", ".dvcignore"
EXPERIMENT = re.compile(r"^refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(?P<name>.+)$")
"""Source: dvc.repo.experiments.refs."""
ARTIFACT = re.compile(r"^(?:.+=)?[a-z][a-z0-9-/]*[a-z0-9](?:@v\d+\.\d+\.\d+.*|#[a-z0-9-]+(?:#\d+)?|@deprecated.*)$")
"""Tags that DVC's model registry (GTO) makes. Source: gto.constants."""
ENTRY = re.compile(
    r"^    - path: ([^'\"&*!|>%@`\n]+)\n(?:      \w+: .*\n)*?      md5: ([0-9a-f]{32}(?:\.dir)?)\n", re.MULTILINE
)
"""A dependency or an output, as DVC writes them."""
PIPED = 4_000
"""Letters that are asked of git at once: what it answers repeats them, and must fit into a pipe that nobody reads yet.
Source: POSIX, PIPE_BUF is the least that a pipe holds; Linux holds 16 times that."""
MOST_WILDCARDS = 3
"""In a line of .dvcignore: matching takes the length of a name to the power of their number."""
LATEST = int(datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp())
NAMED = 20
"""Revisions that a note names; of more it gives the number."""
T = TypeVar("T")


class Stage:
    """What ``dvc.lock`` records of a stage.

    Attributes:
        deps, outs: MD5 by path, '.dir' at its end for a folder.
    """

    def __init__(self, block: str) -> None:
        """Takes the stage's YAML.

        Raises:
            InputError: it is not what DVC writes.
        """
        self._block = block
        self.deps, self.outs = self._entries("deps"), self._entries("outs")
        for path in self.outs:
            if not below(str(path)):
                raise _no_lock(f"an output {path!r}, which does not lie in the repository")

    @cached_property
    def command(self) -> str:
        """What ran."""
        return str(self._values.get("cmd", ""))

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """Values by section or key of params.yaml, as dvc.yaml declares them: ``bands``, ``chips.size_px``.

        Raises:
            InputError: they are not what DVC writes.
        """
        files = self._values.get("params") or {}
        values = files.get("params.yaml") or {} if isinstance(files, Mapping) else files
        if not isinstance(values, Mapping):
            raise _no_lock(f"params {values!r}")
        return values

    def _entries(self, key: str) -> Mapping[str, str]:
        """Without a parser where DVC's layout allows it: histories hold thousands of stages."""
        part = re.search(rf"^    {key}:\n((?:    [- ].*\n)*)", self._block, re.MULTILINE)
        if part is None and not re.search(rf"\b{key}\b", self._block):
            return {}
        if part is not None:
            found = ENTRY.findall(part[1])
            if len(found) == part[1].count("path:"):
                return dict(found)
        try:
            read = {entry["path"]: entry["md5"] for entry in self._values.get(key) or []}
            wrong = [oid for oid in read.values() if not MD5.fullmatch(oid.removesuffix(".dir"))]
        except KeyError as error:
            raise _no_lock(f"an entry without {error} among the {key} of a stage") from None
        except (TypeError, AttributeError) as error:
            raise _no_lock(error) from None
        if wrong:
            raise _no_lock(f"an MD5 {wrong[0]!r}")
        return read

    @cached_property
    def _values(self) -> Mapping[str, Any]:
        return read_yaml(self._block)


class Lock:
    """A ``dvc.lock``. Stages are parsed when asked for: histories hold thousands of locks that share most of theirs."""

    def __init__(self, text: str) -> None:
        """Takes the file's text.

        Raises:
            InputError: it is no lock of DVC.
        """
        self.text = text
        self._blocks = _blocks(text)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages."""
        return tuple(self._blocks)

    def stage(self, name: str) -> Stage | None:
        """A stage, None where the lock has none of that name."""
        return _stage(self._blocks[name]) if name in self._blocks else None

    def maker(self, path: str) -> str | None:
        """The stage that makes an output, None where no stage does."""
        return self._makers.get(path)

    def upstream(self, name: str) -> tuple[str, ...]:
        """A stage and the stages that it rests on, in the order in which they run.

        Raises:
            InputError: they rest on each other, or one of them is not what DVC writes.
        """
        ordered: dict[str, None] = {}
        visited = {name: self._before(name)} if name in self._blocks else {}
        while visited:
            last, before = next(reversed(visited.items()))
            maker = next((maker for maker in before if maker not in ordered), None)
            if maker is None:
                ordered[last] = None
                del visited[last]
            elif maker in visited:
                raise _no_lock(f"stages that rest on each other: {last} and {maker}")
            else:
                visited[maker] = self._before(maker)
        return tuple(ordered)

    def _before(self, name: str) -> Iterator[str]:
        """The stages whose outputs a stage read."""
        return (self._makers[path] for path in _stage(self._blocks[name]).deps if path in self._makers)

    @cached_property
    def _makers(self) -> Mapping[str, str]:
        return {path: name for name in reversed(self._blocks) for path in _stage(self._blocks[name]).outs}


class Git:
    """A repository, by its commands.

    Attributes:
        root: its work tree.
    """

    def __init__(self, root: Path) -> None:
        """Takes the root of a work tree."""
        self.root = root

    def run(self, *arguments: str, given: str = "") -> str:
        """What a command prints.

        Raises:
            InputError: it fails.
        """
        done = self._run(arguments, given.encode())
        if done.returncode:
            raise InputError(
                f"git {' '.join(arguments[:2])} in {self.root}",
                got=done.stderr.decode(errors="replace").strip()[:300],
                expected="a readable repository",
                fix="run git fsck",
            )
        return done.stdout.decode(errors="replace")

    def ask(self, *arguments: str) -> str | None:
        """What a command prints, stripped; None where it fails."""
        done = self._run(arguments, b"")
        return None if done.returncode else done.stdout.decode(errors="replace").strip()

    def oids(self, names: Iterable[str]) -> list[str | None]:
        """The objects that names such as ``<commit>:<path>`` stand for; None where there is none."""
        found: list[str | None] = []
        for some in batched(names):
            asked = [name for name in some if "\n" not in name]  # git would take it for two
            self._ask(self._check, *asked)
            lines = {name: self._answer(self._check) for name in asked}
            known = (lines.get(name, " missing") for name in some)
            found += [None if line.endswith((" missing", " ambiguous")) else line.split(" ")[0] for line in known]
        return found

    def kind(self, oid: str) -> str:
        """``blob``, ``tree``, ``commit`` or ``tag``."""
        self._ask(self._check, oid)
        return self._answer(self._check).split(" ")[1]

    def blobs(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The contents of objects, each with its hash; those that the repository lacks are left out."""
        for oid in oids:
            self._ask(self._contents, oid)
            header = self._answer(self._contents)
            if not header.endswith(" missing"):
                size = int(header.split(" ")[2])
                assert self._contents.stdout is not None
                yield oid, self._contents.stdout.read(size + 1)[:-1]

    def close(self) -> None:
        """Ends the processes that answer."""
        for name in ("_check", "_contents"):
            if name in vars(self):
                process: subprocess.Popen[bytes] = vars(self).pop(name)
                process.communicate()

    @cached_property
    def _check(self) -> subprocess.Popen[bytes]:
        return self._answering("--batch-check")

    @cached_property
    def _contents(self) -> subprocess.Popen[bytes]:
        return self._answering("--batch")

    def _answering(self, how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["git", "cat-file", how],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _ask(self, process: subprocess.Popen[bytes], *names: str) -> None:
        assert process.stdin is not None
        process.stdin.write("".join(f"{name}\n" for name in names).encode(errors="replace"))
        process.stdin.flush()

    def _answer(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().decode(errors="replace").rstrip("\n")
        if not line:
            raise InputError(
                f"git cat-file in {self.root}", got="no answer", expected="a readable repository", fix="run git fsck"
            )
        return line

    def _run(self, arguments: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["git", *arguments], cwd=self.root, input=given, capture_output=True, check=False)


class History:
    """All revisions of a DVC repository, newest first, the working tree before them where its lock is not HEAD's.

    Attributes:
        root: of the DVC repository.
        git: the git repository around it.
        head: the commit that is checked out; '' before the first.
        revisions: those with a ``dvc.lock``.
        unread: of them, those whose lock can't be read, as far as :meth:`each` came upon them, and why.
    """

    def __init__(self, root: Path) -> None:
        """Reads refs, commits and the names of locks; contents are read when asked for."""
        self.root = root.resolve()
        top = Git(self.root).ask("rev-parse", "--show-toplevel")
        if top is None:
            raise InputError(
                str(root), got="no git repository", expected="a clone", fix="run it in a clone, or git init"
            )
        self.git = Git(Path(top))
        below = self.root.relative_to(self.git.root).as_posix()
        self._prefix = "" if below == "." else f"{below}/"
        self.head = self.git.ask("rev-parse", "--verify", "--quiet", "HEAD") or ""
        commits = self._commits()
        locks = self.git.oids(f"{revision.commit}:{self._prefix}{LOCK}" for revision in commits)
        self._lock_oid = {r.commit: oid for r, oid in zip(commits, locks, strict=True) if oid is not None}
        self.revisions = [revision for revision in commits if revision.commit in self._lock_oid]
        mine = self._working_lock()
        if mine is not None and mine != self._text(self._lock_oid.get(self.head)):
            self.revisions.insert(0, Revision(kind="working tree", commit=""))
        self.unread: dict[Revision, str] = {}
        self._unseen = self._blind_spots(commits)

    @classmethod
    def around(cls, path: Path) -> History | None:
        """The history of the DVC repository that a path lies in, None outside any."""
        root = next((p for p in (path.resolve(), *path.resolve().parents) if (p / ".dvc").is_dir()), None)
        return None if root is None else cls(root)

    @classmethod
    def here(cls, where: Path | None = None) -> History:
        """The history of the DVC repository around a path, by default the working directory.

        Raises:
            InputError: there is none.
        """
        path = where or Path()
        found = cls.around(path)
        if found is None:
            raise InputError(
                str(path.resolve()),
                got="no DVC repository",
                expected="the clone that models were trained in",
                fix="run it in a clone; sandwatch audit FILE reads a model's own card without one",
            )
        return found

    def lock(self, revision: Revision) -> Lock:
        """The lock of one of ``revisions``.

        Raises:
            InputError: it is no lock of DVC.
        """
        if revision.kind == "working tree":
            return Lock(self._working_lock() or "")
        return self._lock(self._lock_oid[revision.commit])

    def each(self, read: Callable[[Lock], T]) -> Iterator[tuple[Revision, T]]:
        """What a function finds in the lock of every revision, newest first.

        A lock that can't be read is left out, and named in ``notes``: a commit on some branch, or a merge that isn't
        done, keeps nobody from the others.
        """
        for revision in self.revisions:
            if revision in self.unread:
                continue
            try:
                found = read(self.lock(revision))
            except InputError as error:
                self.unread[revision] = str(error.got)
            else:
                yield revision, found

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the history can't be seen, and how to see it."""
        if not self.unread:
            return self._unseen
        named = ", ".join(map(str, islice(self.unread, NAMED)))
        more = f" and {len(self.unread) - NAMED} more" if len(self.unread) > NAMED else ""
        why = next(iter(self.unread.values()))
        return (*self._unseen, f"{LOCK} can't be read at {named}{more}, and was not looked into there: {why}")

    def resolve(self, name: str) -> Revision | None:
        """The revision that a name stands for (anything that git understands, or an experiment's name), else None."""
        for revision in self.revisions:
            if any(name == known.name for known in revision.names):
                return revision
        commit = self.git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return next((r for r in self.revisions if r.commit == commit), None) if commit else None

    def leads_to_head(self, revision: Revision) -> bool:
        """Whether a revision is what is checked out, or lies in its past: whoever works here chose to have it."""
        return revision.commit in self._own

    def author(self, revision: Revision) -> str:
        """Who wrote a commit, with address, as git says."""
        return self.git.run("log", "-1", "--format=%an <%ae>", revision.commit).strip()

    @cached_property
    def _own(self) -> frozenset[str]:
        return frozenset(self.git.run("rev-list", self.head).split() if self.head else [])

    def files(self, revision: Revision, paths: Sequence[str]) -> dict[str, bytes]:
        """Contents of files at a revision, by path from the DVC root; those that it lacks are left out."""
        if revision.kind == "working tree":
            return {path: (self.root / path).read_bytes() for path in paths if (self.root / path).is_file()}
        oids = self.git.oids(f"{revision.commit}:{self._prefix}{path}" for path in paths)
        known = dict(zip(paths, oids, strict=True))
        contents = dict(self.git.blobs(sorted({oid for oid in oids if oid is not None})))
        return {path: contents[oid] for path, oid in known.items() if oid in contents}

    def hashes(self, revision: Revision, paths: Sequence[str], algorithm: str) -> dict[str, str]:
        """Hex digests of files at a revision; those that it lacks are left out.

        Args:
            revision: any.
            paths: from the DVC root.
            algorithm: of hashlib, ``meaning`` for the digest of :mod:`sandwatch.code`, or ``dvc`` for what DVC records:
                MD5, of a folder the MD5 of its listing.
        """
        if revision.kind == "working tree":
            if algorithm == "dvc":
                return {path: found for path in paths if (found := self._lying(path)) is not None}
            return {path: _hash(content, algorithm) for path, content in self.files(revision, paths).items()}
        if algorithm == "dvc":
            return {path: found for path in paths if (found := self._dvc_hash(revision.commit, path)) is not None}
        oids = self.git.oids(f"{revision.commit}:{self._prefix}{path}" for path in paths)
        self._digest([oid for oid in oids if oid is not None], algorithm)
        return {
            path: self._digests[oid, algorithm]
            for path, oid in zip(paths, oids, strict=True)
            if (oid, algorithm) in self._digests and oid is not None
        }

    @cached_property
    def _digests(self) -> dict[tuple[str, str], str]:
        return {}

    def _digest(self, oids: Sequence[str], algorithm: str) -> None:
        """Hashes objects not hashed yet."""
        wanted = sorted({oid for oid in oids if (oid, algorithm) not in self._digests})
        for oid, content in self.git.blobs(wanted):
            self._digests[oid, algorithm] = _hash(content, algorithm)

    def _lying(self, path: str) -> str | None:
        """The hash of what lies in the working tree; of a folder without what DVC is told to ignore."""
        lying = self.root / path
        if not lying.is_dir():
            return md5(lying) if lying.is_file() else None
        ignored = _ignored((self.root / IGNORE).read_text() if (self.root / IGNORE).is_file() else "")
        names = (file.relative_to(lying).as_posix() for file in lying.rglob("*") if file.is_file())
        return folder_md5({name: md5(lying / name) for name in names if not ignored.match_file(f"{path}/{name}")})

    def _dvc_hash(self, commit: str, path: str) -> str | None:
        oid, ignore = self.git.oids([f"{commit}:{self._prefix}{path}", f"{commit}:{self._prefix}{IGNORE}"])
        return None if oid is None else self._object_hash(oid, path, ignore)

    @cache  # noqa: B019 - a history lives as long as its command
    def _object_hash(self, oid: str, path: str, ignore: str | None) -> str | None:
        """As DVC hashes a file or folder: MD5, of a folder over its listing, without what ``.dvcignore`` names."""
        if self.git.kind(oid) == "blob":
            self._digest([oid], "md5")
            return self._digests[oid, "md5"]
        text = b"".join(content for _, content in self.git.blobs([ignore] if ignore else []))
        ignored = _ignored(text.decode(errors="replace"))
        lines = self.git.run("ls-tree", "-r", "-z", oid).split("\0")[:-1]
        entries = [(line.split("\t", 1)[1], line.split(" ", 2)[2][:40]) for line in lines]
        self._digest([blob for _, blob in entries], "md5")
        kept = {name: blob for name, blob in entries if not ignored.match_file(f"{path}/{name}")}
        return folder_md5({name: self._digests[blob, "md5"] for name, blob in kept.items()})

    @lru_cache(maxsize=64)  # noqa: B019
    def _lock(self, oid: str) -> Lock:
        return Lock(self._text(oid) or "")

    def _text(self, oid: str | None) -> str | None:
        return None if oid is None else self._texts.get(oid)

    @cached_property
    def _texts(self) -> dict[str, str]:
        oids = sorted(set(self._lock_oid.values()))
        return {oid: content.decode(errors="replace") for oid, content in self.git.blobs(oids)}

    def _working_lock(self) -> str | None:
        path = self.root / LOCK
        return path.read_text(errors="replace") if path.is_file() else None

    def _commits(self) -> list[Revision]:
        names: dict[str, list[Name]] = {}
        tips: dict[str, list[str]] = {"commit": [self.head] if self.head else [], "experiment": []}
        printed = self.git.run(
            "for-each-ref",
            "--format=%(objecttype) %(objectname) %(*objecttype) %(*objectname) %(refname)",
            "refs/heads",
            "refs/remotes",
            "refs/tags",
            "refs/exps",
        )
        for line in _lines(printed):
            kind, oid, behind_kind, behind, ref = line.split(" ", 4)
            commit = oid if kind == "commit" else behind if behind_kind == "commit" else None
            experiment = EXPERIMENT.match(ref)
            if commit is None or (ref.startswith("refs/exps/") and not experiment):
                continue
            tips["experiment" if experiment else "commit"].append(commit)
            if not ref.endswith("/HEAD"):
                names.setdefault(commit, []).append(_name(ref, experiment))
        reachable = self._log(tips["commit"], [])
        experiments = self._log(tips["experiment"], tips["commit"])
        revisions = [
            Revision(
                commit=commit,
                kind="experiment" if i else "commit",
                names=tuple(sorted(names.get(commit, []))),
                time=_moment(seconds),
                subject=subject,
            )
            for i, log in enumerate((reachable, experiments))
            for commit, seconds, subject in log
        ]
        return sorted(revisions, key=lambda revision: revision.time, reverse=True)

    def _log(self, tips: Sequence[str], without: Sequence[str]) -> list[tuple[str, int, str]]:
        if not tips:
            return []
        given = "".join(f"{tip}\n" for tip in dict.fromkeys(tips)) + "".join(
            f"^{tip}\n" for tip in dict.fromkeys(without)
        )
        printed = self.git.run("log", "--topo-order", "--format=%H %ct %s", "--stdin", given=given)
        lines = (line.split(" ", 2) for line in _lines(printed))
        return [(commit, int(seconds), subject) for commit, seconds, subject in lines]

    def _blind_spots(self, commits: Sequence[Revision]) -> tuple[str, ...]:
        notes = []
        if self.git.ask("rev-parse", "--is-shallow-repository") == "true":
            notes.append(
                f"this clone is shallow: only {len(commits)} commits can be seen; run git fetch --unshallow to see all"
            )
        if self.git.ask("remote") and not any(name.kind == "experiment" for r in commits for name in r.names):
            notes.append("no experiment can be seen; run dvc exp pull to see those of a remote")
        return tuple(notes)


def batched(names: Iterable[str]) -> Iterator[list[str]]:
    """Some at a time: few enough to fit into a pipe that nobody reads yet."""
    some: list[str] = []
    for name in names:
        if some and sum(map(len, some)) + len(name) > PIPED:
            yield some
            some = []
        some.append(name)
    if some:
        yield some


def _lines(printed: str) -> list[str]:
    """The lines that git printed: what others wrote may hold what ends a line elsewhere."""
    return printed.split("\n")[:-1]


def _moment(seconds: int) -> str:
    """Seconds of a commit as ISO 8601 in UTC; git takes more of them than there are days."""
    return datetime.fromtimestamp(min(seconds, LATEST), UTC).isoformat()


def _hash(content: bytes, algorithm: str) -> str:
    return meaning(content) if algorithm == "meaning" else hashlib.new(algorithm, content).hexdigest()


@lru_cache(maxsize=64)
def _ignored(text: str) -> GitIgnoreSpec:
    """What a ``.dvcignore`` at the root keeps from DVC.

    Raises:
        InputError: a line of it would take for ever, or is no pattern.
    """
    lines = text.splitlines()
    slow = next((line for line in lines if not line.startswith("#") and _wildcards(line) > MOST_WILDCARDS), None)
    if slow is None:
        try:
            return GitIgnoreSpec.from_lines(lines)
        except ValueError as error:
            slow = str(error)
    raise InputError(
        IGNORE, got=slow[:200], expected=f"patterns with up to {MOST_WILDCARDS} wildcards", fix="write them plainer"
    )


def _wildcards(pattern: str) -> int:
    return len(re.findall(r"\*+", pattern))


def _name(ref: str, experiment: re.Match[str] | None) -> Name:
    if experiment:
        return Name("experiment", experiment["name"])
    name = ref.split("/", 2)[2]
    if not ref.startswith("refs/tags/"):
        return Name("branch", name)
    return Name("artifact" if ARTIFACT.match(name) else "tag", name)


def _blocks(text: str) -> dict[str, str]:
    """The text of each stage. DVC's own layout is cut without a parser; any other is parsed and written out again."""
    head, _, body = text.partition("stages:\n")
    plain = not re.search(r": [&*]\w", text)  # an alias may stand for what another stage holds
    # There is one way only to match a line: with two, what isn't plain would take ages to refuse.
    if plain and re.fullmatch(r"schema: '2\.0'\n", head) and re.fullmatch(r"(?:  \S[^\n]*:\n(?:   [^\n]*\n)+)*", body):
        parts = re.split(r"^  (?=\S)", body, flags=re.MULTILINE)[1:]
        return {name.strip("'\""): block for name, _, block in (part.partition(":\n") for part in parts)}
    stages = read_yaml(text).get("stages")
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise _no_lock(stages)
    try:
        # JSON is YAML: one way to read a stage is enough.
        return {str(name): json.dumps(stage) for name, stage in stages.items()}
    except TypeError as error:
        raise _no_lock(error) from None


@lru_cache(maxsize=512)
def read_yaml(text: str) -> Mapping[str, Any]:
    """A mapping, read as DVC reads it: YAML 1.2, where ``Yes`` is a word.

    Raises:
        InputError: it is none.
    """
    try:
        values = load_yaml(text) or {}
    except ValueError as error:
        raise _no_lock(error) from None
    if not isinstance(values, dict):
        raise _no_lock(values)
    return values


_stage = lru_cache(maxsize=8192)(Stage)


def _no_lock(error: object) -> InputError:
    return InputError(
        LOCK, got=" ".join(str(error).split())[:200], expected="a lock of DVC 3", fix="run git checkout dvc.lock"
    )
