"""A canary in every place of an address where a credential may stand: none survives, and nothing else goes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from sandwatch.annotations.redact import redact
from sandwatch.errors import unsigned
from tests.torture import fuzz
from tests.torture.attack import expect

NAMES = (
    "X-Goog-Signature", "X-Amz-Signature", "X-Amz-Security-Token", "sig", "se", "sv", "token", "access_token", "key",
    "apikey", "api_key", "secret", "password", "passwd", "pwd", "jwt", "st", "hmac", "bearer", "Policy",
    "Key-Pair-Id", "auth", "code", "AWSAccessKeyId", "GoogleAccessId", "Expires", "Signature", "session", "sid",
    "ticket", "assertion", "client_secret", "q",
)  # fmt: skip
SCHEMES = ("https", "http", "HTTPS", "Http", "s3", "gs", "ftp", "wss", "postgresql", "abfss")
HOSTS = (
    "a.example",
    "tiles.example:8443",
    "bucket.s3.eu-west-1.amazonaws.com",
    "127.0.0.1",
    "[::1]:80",
    "xn--n3h.example",
)
INPUTS = 100


class Attack:
    """Redacts rows that hold such addresses, plain, escaped, encoded, within others."""

    share = 1.0
    deadline_s = 60.0

    def __init__(self, scratch: Path) -> None:
        """Nothing to prepare."""

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        for _ in range(INPUTS):
            canary = f"CANARY{draw.getrandbits(48):012X}"
            address = _address(draw, canary)
            line = json.dumps(_row(draw, address), ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
            if draw.random() < 0.3:
                line = line.replace(b"/", b"\\/")
            if draw.random() < 0.3:
                line = line.replace(b"&", b"\\u0026")
            kept, _ = redact(line + b"\n")
            expect(canary.encode() not in kept, "secret", f"kept of {line[:600]!r}: {kept[:600]!r}")
            before, after = (json.loads(text.decode("utf-8", "surrogatepass"))["plain"] for text in (line, kept))
            expect(before == after, "wrong", f"{before!r} became {after!r}")
            shown = unsigned(f"could not read {address}")
            expect(canary not in shown, "secret", f"shown of {address!r}: {shown!r}")
        return Counter(right=2 * INPUTS)


def _row(draw: Random, address: str) -> dict[str, Any]:
    held: Any = draw.choice(
        (address, {"url": address}, [address], f"see {address} there", f"<{address}>", f"({address})")
    )
    for _ in range(draw.choice((0, 0, 1, 2))):  # JSON within JSON, as Labelbox writes row_data
        held = json.dumps({"tileLayerUrl": held})
    plain = draw.choice(
        ("What? Yes & no", "50 % of it", "a@b.example", "12:30", "x=1", fuzz.text(draw).replace("/", ""))
    )
    return {"row_data": held, "plain": plain}


def _free(text: str) -> str:
    """A text without what makes an address, or the end of one."""
    return text.translate(dict.fromkeys(map(ord, "/=")))


def _address(draw: Random, canary: str) -> str:
    scheme, host = draw.choice(SCHEMES), draw.choice(HOSTS)
    base = f"{scheme}://{host}/some/path/{{z}}/{{x}}/{{y}}.png"
    parameter = f"{draw.choice(NAMES)}={canary}"
    if draw.random() < 0.2:
        parameter = f"{quote(draw.choice(NAMES))}%3D{canary}"
    others = draw.choice(("", "a=1&", "response-content-disposition=inline%3B&", "x=%26&y;"))
    choice = draw.randrange(8)
    if choice < 3:
        return f"{base}?{others}{parameter}"
    if choice == 3:
        return f"{base}#{others}{parameter}"
    if choice == 4:
        return f"{scheme}://{draw.choice(('user', '', 'a%40b'))}:{canary}@{host}/path"
    if choice == 5:
        return f"{base}?{others}{parameter}#there"
    inner = f"{base}?{others}{parameter}"
    for _ in range(draw.randint(1, 2)):
        inner = quote(inner, safe="" if draw.random() < 0.7 else "/:")
    return f"https://viewer.example/open{draw.choice(('?url=', '#url=', '?u=1&target=', '/'))}{inner}"
