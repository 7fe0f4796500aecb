"""Releases of which a byte, a field or a file is another: none passes for what was signed, each is told in a line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sandwatch.audit.attest import attest
from sandwatch.audit.release import Signer, check, with_key
from sandwatch.audit.statement import attested, read_statement
from sandwatch.errors import InputError
from sandwatch.model.card import Card
from tests.audit_history import write_history
from tests.torture import fuzz
from tests.torture.attack import expect, obeyed, refused

HUGE = ("9" * 5_000, "1e400", "-0.0", "NaN", "[" * 3_000, "null", '"\\ud800"', '{"a":' * 2_000)


class Attack:
    """Reads its card and its attestation, and checks all of it."""

    share = 1.5
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Signs a release of a model that a small history holds."""
        made = write_history(scratch / "clone", labels=60, revisions=2, experiments=0, snapshots=1, models=1)
        key = ec.generate_private_key(ec.SECP256R1())
        private, self._public = scratch / "key.pem", scratch / "key.pub"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self._release = scratch / "release"
        now = datetime(2026, 1, 2, tzinfo=UTC)
        attest("main", self._release, where=made.root, offline=True, sign=with_key(private), now=now)
        self._files = sorted(path.name for path in self._release.iterdir())

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        release = shutil.copytree(self._release, folder / "release")
        name = draw.choice(self._files)
        path = release / name
        before = path.read_bytes()
        self._spoil(draw, path)
        counts: Counter[str] = Counter()
        said: list[str] = []
        for read in (lambda: Card.read(release / "model.json"), lambda: read_statement(release / "attestation.json")):
            try:
                read()
                counts["right"] += 1
            except InputError as error:
                counts += refused(error)
        said.append(attested(release, "0" * 64) or "")
        try:
            found = check(release, Signer(public_key=self._public), where=folder)
        except InputError as error:
            return counts + refused(error)
        said += [link.detail for link in found.links]
        expect(not obeyed("".join(said)), "escapes", f"{sorted(obeyed(''.join(said)))} in what is said of {name}")
        same = path.is_file() and path.read_bytes() == before and len(list(release.iterdir())) == len(self._files)
        good = found.state == "verified"
        if name == "model.sig":  # a signature may be written in several ways; it must be the key's over these files
            good = False
        expect(same or not good, "false", f"VERIFIED, though {name} is another")
        counts["right"] += 1
        return counts

    def _spoil(self, draw: Random, path: Path) -> None:
        choice = draw.random()
        if choice < 0.05:
            path.unlink()
        elif choice < 0.1:
            (path.parent / draw.choice(("more.txt", ".hidden", "model.json.bak", "sub"))).write_text("x")
        elif choice < 0.6 and path.suffix in (".json", ".sig"):
            path.write_bytes(self._other_json(draw, json.loads(path.read_text())))
        else:
            path.write_bytes(fuzz.spoilt_bytes(draw, path.read_bytes()))

    def _other_json(self, draw: Random, tree: Any) -> bytes:
        if draw.random() < 0.15:
            return fuzz.dumped(draw, fuzz.value(draw))
        content = fuzz.dumped(draw, fuzz.spoilt(draw, tree))
        if draw.random() < 0.3:  # what Python's json would not write
            number = draw.choice((b"1", b"0", b"true", b'"model.json"'))
            content = content.replace(number, draw.choice(HUGE).encode(), 1)
        return content
