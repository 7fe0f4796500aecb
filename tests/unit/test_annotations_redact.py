"""Credentials leave the raw snapshot; nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        ("https://user:5ec2e7@tiles.example.com/{z}?v=2", "https://tiles.example.com/{z}?v=2"),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("escape", ["none", "slash", "ampersand"])
def test_a_credential_leaves_at_any_depth_of_json(url: str, left: str, depth: int, escape: str) -> None:
    def nested(value: str) -> bytes:
        text = json.dumps({"url": value, "epsg": "EPSG4326"})
        if escape == "slash":
            text = text.replace("/", "\\/")
        if escape == "ampersand":
            text = text.replace("&", "\\u0026")
        for _ in range(depth):
            text = json.dumps({"row_data": text, "other": "kept"})
        return text.encode() + b"\n"

    assert redact(nested(url)) == (nested(left), 1)
    assert b"5ec2e7" not in redact(nested(url))[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://tiles.example.com/{z}/{x}/{y}.png?v=3&layer=rgb",
        "https://example.com/token=5/page",
        "what? a token=5, not a link",
        "mail annotator@example.com about http://example.com/a@b",
    ],
)
def test_everything_else_stays_byte_for_byte(text: str) -> None:
    line = json.dumps({"note": text}).encode() + b"\r\n"
    assert redact(line) == (line, 0)


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
