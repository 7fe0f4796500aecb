"""Files are written whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from sandwatch.files import sha256, whole, write_json


def test_whole_leaves_the_old_file_and_no_rest_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    with whole(path) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), whole(path) as partial:  # noqa: PT012
        partial.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_whole_keeps_the_suffix(tmp_path: Path) -> None:
    with whole(tmp_path / "a.tif") as partial:
        assert partial.suffix == ".tif"
        partial.touch()


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"sand" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"sand" * 100_000).hexdigest()


def test_json_has_one_form(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "Ä"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": "Ä",\n  "b": 1\n}\n'.encode()
