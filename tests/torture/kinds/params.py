"""``params.yaml`` with other values, other keys, other YAML, and as bytes went wrong."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from random import Random

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sandwatch.check import SECTIONS
from sandwatch.params import check, faults
from tests.torture import fuzz
from tests.torture.attack import ROOT, expect, refused

ODD = (
    "<<: *a",
    "&a",
    "*a",
    "!!python/object/apply:os.system ['true']",
    "? ",
    "- - -",
    "{",
    "'",
    "\t",
    "1_0",
    "0x1F",
    "1e999",
    ".nan",
    "- ",
    "!!binary x",
    "2024-01-01",
    "\u2028",
    "\0",
    "---",
)


class Attack:
    """Has every section looked at, as the stage ``check`` does."""

    share = 1.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Takes the repository's own params."""
        self._text = (ROOT / "params.yaml").read_text()
        self._values = YAML(typ="safe").load(self._text)

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        content = self._spoilt(draw)
        found = faults(ROOT, SECTIONS, content)
        for error in found:
            refused(error)
        if found:
            return Counter(refused=1)
        values = YAML(typ="safe").load(content.decode())
        for model in SECTIONS:
            check(model, values[model.section])
        expect((ROOT / "data/regions" / values["region"]).is_dir(), "wrong", f"region {values['region']!r} is taken")
        return Counter(right=1)

    def _spoilt(self, draw: Random) -> bytes:
        if draw.random() < 0.5:
            lines = self._text.splitlines(keepends=True)
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(lines))
                key, colon, value = lines[at].partition(":")
                odd = draw.choice((*ODD, fuzz.text(draw)))
                lines[at] = draw.choice(
                    (f"{key}{colon} {odd}\n", f"{odd}{lines[at]}", "", lines[at] * 2, f"{odd}{colon}{value}")
                )
            content = "".join(lines).encode("utf-8", "surrogatepass")
            return fuzz.spoilt_bytes(draw, content) if draw.random() < 0.3 else content
        tree = fuzz.spoilt(draw, YAML(typ="safe").load(self._text))
        out = io.StringIO()
        try:
            YAML(typ="safe").dump(tree, out)
        except (YAMLError, RecursionError, ValueError, TypeError):
            return fuzz.dumped(draw, tree)
        return out.getvalue().encode("utf-8", "surrogatepass")
