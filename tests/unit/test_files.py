"""Files are written whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from sandwatch.errors import InputError
from sandwatch.files import read_json, sha256, whole, write_json


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


@pytest.mark.parametrize(
    "content", [None, b"", b'{"a": ', b"null", b"[1]", b"{}", b'{"a": "x"}', b"[" * 100_000, b"\xff"]
)
def test_json_that_is_not_what_is_expected_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.json: got .+; expected a number; run dvc repro") as error:
        read_json(path, lambda found: int(found["a"]), expected="a number", fix="run dvc repro")
    assert "\n" not in str(error.value)
    path.write_bytes(b'{"a": 1}')
    assert read_json(path, lambda found: int(found["a"]), expected="a number", fix="run dvc repro") == 1
