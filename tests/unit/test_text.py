"""Bytes become the text that was meant, or one line says which file and line they are in."""

import codecs
import unicodedata
from pathlib import Path

import pytest

from sandwatch import listing, text
from sandwatch.errors import InputError

SITES = "site_id,river\nmün_1,Río Grande\n"


@pytest.mark.parametrize(
    "content",
    [
        SITES.encode(),
        codecs.BOM_UTF8 + SITES.encode(),
        SITES.encode("utf-16"),
        codecs.BOM_UTF16_BE + SITES.encode("utf-16-be"),
        SITES.encode("utf-16-le"),
        SITES.encode("utf-16-be"),
        SITES.encode("utf-32"),
        SITES.encode("utf-32-be"),
        SITES.encode("latin-1"),
        SITES.encode("cp1252"),
        unicodedata.normalize("NFD", SITES).replace("\n", "\r\n").encode(),
        SITES.replace(",", ";").encode(),
        SITES.replace(",", "\t").encode(),
        f"sep=;\r\n{SITES.replace(',', ';')}".encode(),
        f"\n{SITES},,\n;\n \n".replace(";", ",").encode(),
        SITES.replace("site_id,river", " Site ID , RIVER,,").encode(),
        SITES.replace("\n", "\r").encode(),
    ],
    ids=lambda content: repr(content[:14]),
)
def test_a_table_is_read_whatever_program_wrote_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sites.csv").write_bytes(content)
    header, rows = listing.read(tmp_path / "sites.csv")
    assert header == ["site_id", "river"]
    assert [values for _, values in rows] == [{"site_id": "mün_1", "river": "Río Grande"}]


def test_what_is_no_utf_8_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert text.decode("a\nÉ’t\n".encode("cp1252") + "Río".encode("cp1252"), "x.csv") == "a\nÉ’t\nRío"  # noqa: RUF001
    assert "note: x.csv, line 2: read as Windows-1252: " in capsys.readouterr().out
    text.decode(SITES.encode(), "x.csv")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nRío".encode("cp437"), r"x.csv, line 2: got bytes that are no UTF-8; as Windows-1252 .*'a R¡o'; .*save it"),
        ("a\nMédano".encode("mac-roman") + b"\x81", r"x.csv, line 2: got bytes that are no UTF-8"),
        ("Río\nLü".encode() + b"\xe9", r"x.csv, line 2: got bytes that are no UTF-8, though the rest is; .* fetch it"),
        ("Río".encode("utf-16")[:-1], r"x.csv, line 1: got bytes that are no UTF-16, though"),
        (b"abc\0\0\xff", r"x.csv, line 1: got bytes that are no UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS.*git lfs pull"),
        (b"outs:\n- md5: 9a0364b9e99bb480dd25e1f0284c8555\n", "a pointer of DVC.*dvc pull"),
        (b"\n <!DOCTYPE html><html>", "a web page, such as a login or an error; .*sign in"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<Error><Code>AccessDenied", "the refusal of a storage service"),
        (b"PK\x03\x04\x14", "a ZIP archive .workbooks"),
        (b"\0" * 900, "nothing but zeros"),
    ],
)
def test_what_is_no_text_is_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        text.decode(content, "x.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,a\n1,2,3", "line 1, columns: got 'a' more than once"),
        ("a;b\n1;2;3", "line 2: got 3 values; expected 2, as in the header; check the semicolons"),
        ("a\tb\n1", "line 2: got 1 values"),
        ('a;b\n1;"2', "line 2: got no CSV: .*; expected values between semicolons"),
    ],
)
def test_a_broken_table_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=rf"t\.csv, {message}"):
        list(listing.read(tmp_path / "t.csv")[1])


def test_paths_stay_as_they_are_and_files_are_found_in_either_form(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Río.tif") for form in ("NFC", "NFD"))
    (tmp_path / "t.csv").write_text(f"path,river\n{nfd},{nfd}\n")
    (_, row), *_ = listing.read(tmp_path / "t.csv")[1]
    assert (row["path"], row["river"]) == (nfd, nfc)
    for there, asked in ((nfc, nfd), (nfd, nfc)):
        (tmp_path / there).touch()
        assert text.found(tmp_path, asked).exists()
        (tmp_path / there).unlink()
    assert text.found(tmp_path, "x" * 999) == tmp_path / ("x" * 999)


@pytest.mark.parametrize(
    ("written", "most", "value"),
    [
        ("85.1", 180, 85.1),
        ("85,1", 180, 85.1),
        ("20,123", 180, 20.123),
        ("20,123", float("inf"), None),
        ("-1,000", float("inf"), None),
        ("0,0001", float("inf"), 0.0001),
        ("\N{MINUS SIGN}81,5", 180, -81.5),
        ("1.234,5", 180, None),
        ("1,2,3", 180, None),
        ("85°", 180, None),
        ("", 180, None),
    ],
)
def test_numbers_with_a_comma_are_read_where_they_are_clear(written: str, most: float, value: float | None) -> None:
    assert text.number(written, most=most) == value


def test_words_that_mean_one_thing_are_alike() -> None:
    assert {text.alike(word) for word in ("Sand mine", "sand_mine", " SAND  MINE", "Sand-Mine\ufeff")} == {"sand mine"}
    assert [text.alike(word) for word in (1, 1.0, "1", True)] == ["1", "1", "1", "true"]
