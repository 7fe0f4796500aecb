"""Credentials leave the raw snapshot; nothing else does."""

from __future__ import annotations

import json
import re
import time
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch.annotations import freeze, labelbox_export
from sandwatch.annotations.redact import redact
from tests.unit.annotation_rows import GOOD, PARAMS, manifest

SIGNED = "https://storage.example.com/tiles/{z}/{x}.png?X-Goog-Algorithm=RSA&X-Goog-Signature=5ec2e7&x=1"


@pytest.mark.parametrize(
    ("url", "left"),
    [
        (SIGNED, "https://storage.example.com/tiles/{z}/{x}.png"),
        ("https://s3.example.com/a?X-Amz-Credential=A%2Fb&X-Amz-Date=1", "https://s3.example.com/a"),
        ("https://x.blob.example.net/a?sv=2020&sig=5ec2e7%3D", "https://x.blob.example.net/a"),
        ("http://tiles.example.com/{z}?access_token=5ec2e7", "http://tiles.example.com/{z}"),
        ("https://tiles.example.com/{z}?api_key=5ec2e7#top", "https://tiles.example.com/{z}"),
        ("https://user:5ec2e7@tiles.example.com/{z}?v=2", "https://tiles.example.com/{z}"),
        ("HTTPS://5ec2e7@tiles.example.com:8443/{z}", "HTTPS://tiles.example.com:8443/{z}"),
        ("s3://bucket/a.tif?sp=r&st=5ec2e7", "s3://bucket/a.tif"),
        ("gs://bucket/a.tif#access=5ec2e7", "gs://bucket/a.tif"),
        ("ftp://me:5ec2e7@files.example.com/a.tif", "ftp://files.example.com/a.tif"),
        ("postgresql+psycopg://me:5ec2e7@[::1]:5432/db", "postgresql+psycopg://[::1]:5432/db"),
        ("/vsicurl?pwd=5ec2e7&url=https%3A%2F%2Fexample.com%2Fa.tif", "/vsicurl"),
        ("//me:5ec2e7@files.example.com/a.tif", "//files.example.com/a.tif"),
        ("bucket/a.tif?Policy=5ec2e7", "bucket/a.tif"),
        ("https://example.com/a;jsessionid=5ec2e7/b", "https://example.com/a"),
        ("https://example.com/a&hmac=5ec2e7", "https://example.com/a"),
        ("https://example.com;bearer=5ec2e7/a", "https://example.com"),
        ("https://example.com/a%3Fjwt%3D5ec2e7", "https://example.com/a"),
        (
            "https://titiler.example.com/1/2/3.png?url=https%3A%2F%2Fexample.com%2Fa.tif%3FX-Goog-Signature%3D5ec2e7",
            "https://titiler.example.com/1/2/3.png",
        ),
        (
            "https://proxy.example.com/to/https%253A%252F%252Fme%253A5ec2e7%2540example.com%252Fa%253F5ec2e7",
            "https://proxy.example.com/to/https%253A%252F%252Fexample.com%252Fa",
        ),
        ("https://example.com/to/http://me:5ec2e7@example.org/a?5ec2e7", "https://example.com/to/http://example.org/a"),
        ("https://[example.com/a?5ec2e7", "https://"),
    ],
)
def test_a_credential_leaves_at_any_depth_of_json(url: str, left: str) -> None:
    escapes = [{}, {"/": "\\/"}, {"&": "\\u0026"}, {"?": "\\u003F", "#": "\\u0023"}]
    for depth, escape in product((0, 1, 2), escapes):

        def nested(value: str, depth: int = depth, escape: dict[str, str] = escape) -> bytes:
            text = json.dumps({"url": value, "epsg": "EPSG4326"})
            for character, escaped in escape.items():
                text = text.replace(character, escaped)
            for _ in range(depth):
                text = json.dumps({"row_data": text, "other": "kept"})
            return text.encode() + b"\n"

        assert redact(nested(url)) == (nested(left), 1)
        assert b"5ec2e7" not in redact(nested(url))[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://tiles.example.com:8443/{z}/{x}/{y}.png",
        "https://example.com/Mahānadī%20(left%20bank)/plan%20%231,%20which%3F.tif",
        "50 % of it; 3 & 4; #5; C:\\new\\folder",
        "https://example.com/token=5/page",
        "what? a token=5, not a link",
        "mail annotator@example.com about http://example.com/a@b",
    ],
)
def test_everything_else_stays_byte_for_byte(text: str) -> None:
    line = json.dumps({"note": text}).encode() + b"\r\n"
    assert redact(line) == (line, 0)


SECRET = "5ec2e7"
PARTS = st.text(st.sampled_from("abcZ019-._~{}%$!*'(),é/"), max_size=8).filter(lambda text: "%" not in text)
QUERIES = st.lists(
    st.tuples(st.sampled_from(["sig", "st", "Policy", "url", "x y", "å", "q[]"]), st.sampled_from([SECRET, "a", ""])),
    min_size=1,
    max_size=3,
).map(lambda pairs: urlencode([*pairs, ("pwd", SECRET)]))


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """An address with a secret anywhere but in its path, whole or inside another one."""
    user = draw(st.sampled_from(["", "me@", f"me:{SECRET}@", f"{SECRET}@", f"a%40b:{SECRET}@"]))
    rest = draw(st.sampled_from(["", "?{}", "#{}", "?a#{}", "&{}", ";{}"]))
    rest = rest.format(draw(QUERIES))
    scheme = draw(st.sampled_from(["https", "HTTP", "s3", "gs", "ftp", "git+ssh"]))
    address = (
        f"{scheme}://{user}{draw(st.sampled_from(['h.example', '[::1]:80', '10.0.0.1:8080']))}/{draw(PARTS)}{rest}"
    )
    for _ in range(draw(st.integers(0, 2))):
        inner = quote(address, safe="") if draw(st.booleans()) else address
        address = draw(st.sampled_from(["https://p.example/{}", "https://p.example/?url={}", "{}"])).format(inner)
    return address


@settings(max_examples=60, deadline=None)
@given(
    address=addresses(),
    around=st.tuples(st.text(max_size=5), st.text(max_size=5)),
    depth=st.integers(0, 3),
    escaped=st.lists(st.sampled_from("/:?#&@=%"), max_size=4),
    pretty=st.booleans(),
)
def test_no_secret_stays_wherever_an_address_stands(
    address: str, around: tuple[str, str], depth: int, escaped: list[str], pretty: bool
) -> None:
    value: Any = {"before": around[0], "link": address, "text": f"{around[0]} {address} {around[1]}"}
    for _ in range(depth):
        value = {"inner": json.dumps(value, indent=2 if pretty else None), "z": around[1]}
    line = json.dumps(value, ensure_ascii=pretty)
    for character in escaped:
        # In strings alone: a colon between a key and its value has a blank behind it.
        code = f"\\u{ord(character):04x}"
        line = re.sub(re.escape(character) + ("(?! )" if character == ":" else ""), lambda _, code=code: code, line)
    found = json.loads(redact(line.encode("utf-8", "surrogatepass"))[0].decode("utf-8", "surrogatepass"))
    for _ in range(depth):
        assert set(found) == {"inner", "z"}
        found = json.loads(found["inner"])
    assert SECRET not in json.dumps(found)
    assert set(found) == {"before", "link", "text"}
    # Python's parser finds nothing but what is allowed.
    parts = urlsplit(unquote(unquote(found["link"])))
    assert [parts.query, parts.fragment, parts.username, parts.password] == ["", "", None, None]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | st.text(st.sampled_from('?#&;%/:@=\\"u0023fa '), max_size=60).map(str.encode))
def test_what_is_left_was_there_before_in_this_order(line: bytes) -> None:
    left, shortened = redact(line)
    rest = iter(line)
    assert all(byte in rest for byte in left)
    assert (left == line) == (shortened == 0)
    assert redact(left)[0] == left
    text = line.replace(b'"', b"").decode("latin-1")
    for value in (text, json.dumps([text])):
        once = json.dumps({"a": value, "b": 1}).encode()
        found = json.loads(redact(once)[0])
        assert found["b"] == 1
        if value != text:
            assert len(json.loads(found["a"])) == 1


@pytest.mark.parametrize(
    "piece",
    [
        "?",
        "?a=",
        "&a=b",
        "://",
        "https://",
        "https://a?",
        "%3f",
        "%25",
        "\\",
        "\\u003f",
        "@",
        "/",
        "/@",
        ";",
        "sig",
        "=",
        '?"',
    ],
)
def test_the_time_is_linear(piece: str) -> None:
    many = piece.encode() * (60_000 // len(piece))
    start = time.process_time()
    redact(b'"https://example.com/?' + many + b'"')
    redact(b'"' + many + b'?"')
    assert time.process_time() - start < 2.5


def test_two_exports_that_differ_in_signatures_alone_freeze_to_the_same_bytes(tmp_path: Path) -> None:
    for name, signature in (("one", "5ec2e7"), ("two", "0ther")):
        row = GOOD | {"data_row": GOOD["data_row"] | {"row_data": SIGNED.replace("5ec2e7", signature)}}
        line = json.dumps(row).encode() + b"\n"
        metrics = freeze(
            [line], labelbox_export.parse, PARAMS, manifest(), tmp_path / name, tmp_path / name / "canonical", {}
        )
        assert metrics["redacted_urls"] == 1
    for file in ("export.ndjson", "labels.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert b"5ec2e7" not in (tmp_path / "one" / "export.ndjson").read_bytes()
