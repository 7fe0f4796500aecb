"""``dvc.lock`` as somebody's editor, merge or crash left it, in the audit's parser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

from sandwatch.audit.history import Lock, read_yaml
from sandwatch.errors import InputError
from tests.torture import fuzz
from tests.torture.attack import ROOT, expect

ODD = (
    "\n", "\n\n", " \n", "# a comment\n", "<<<<<<< HEAD\n", "=======\n", ">>>>>>> other\n", "\t\n", "---\n", "...\n",
    "\r", "\r\n", "  &a x: *a\n", "%YAML 1.1\n", "'", '"', ": ", "- ", "{", "[", "!!python/object:os.system",
    "\0", "\ufeff",
)  # fmt: skip


class Attack:
    """Reads spoilt locks, each stage of them, and what each rests on."""

    share = 1.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Takes the repository's own lock."""
        self._text = (ROOT / "dvc.lock").read_text()

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        text = self._spoilt(draw)
        read_yaml.cache_clear()
        lock = Lock(text)
        for name in lock.names:
            stage = lock.stage(name)
            assert stage is not None
            stage.command, stage.params  # noqa: B018  # parsed when asked for
            lock.upstream(name)
            for path in stage.outs:
                expect(lock.maker(path) is not None, "wrong", f"nobody makes {path!r}")
        try:
            said = read_yaml(text)["stages"]
        except InputError:
            said = None  # what the fast way reads is looser than YAML in places where DVC writes none
        if said is not None:
            expect(
                set(lock.names) == {str(name) for name in said}, "wrong", f"stages {lock.names}, YAML has {list(said)}"
            )
        return Counter(right=1)

    def _spoilt(self, draw: Random) -> str:
        lines = self._text.splitlines(keepends=True)
        for _ in range(draw.randint(1, 4)):
            at, change = draw.randrange(len(lines) + 1), draw.randrange(7)
            if change == 0:
                lines.insert(at, draw.choice(ODD))
            elif change == 1:
                lines[at:] = [draw.choice(ODD)] * draw.choice((0, 1, 50))
            elif change == 2:
                del lines[at : at + draw.choice((1, 1, 3, 20))]
            elif change == 3:
                lines[at:at] = lines[at : at + draw.choice((1, 5, 100))]
            elif change == 4:
                lines[at:at] = ["<<<<<<< HEAD\n", *lines[at : at + 5], "=======\n", *lines[at : at + 6], ">>>>>>> b\n"]
            elif change == 5 and at < len(lines):
                cut = draw.randrange(len(lines[at]))
                lines[at] = lines[at][:cut] + draw.choice((*ODD, fuzz.text(draw))) + lines[at][cut:]
            elif change == 6 and at < len(lines):
                lines[at] = lines[at].rstrip("\n") + draw.choice((" ", "  # why\n", "\r\n", ""))
        text = "".join(lines)
        if draw.random() < 0.2:
            text = fuzz.spoilt_bytes(draw, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        return text
