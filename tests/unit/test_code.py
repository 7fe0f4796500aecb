"""Digests are blind to what means nothing and see everything else; listings follow the import graph."""

import json
from pathlib import Path

import pytest

from sandwatch import code
from sandwatch.errors import InputError

PLAIN = "import os\n\n\ndef f(x):\n    return [x, f'{x:>{3}}', os.sep]\n"
SAME = {
    "comment": PLAIN.replace("import os\n", "import os  # why\n"),
    "docstring of the module": '"""What it is for."""\n' + PLAIN,
    "docstring of a function": PLAIN.replace("    return", '    """Does it."""\n    return'),
    "string below an attribute": PLAIN.replace("def f", '"""said of os"""\n\n\ndef f'),
    "formatting": 'import os\ndef f( x ) :\n\n  return [ x,f"{x:>{3}}",\n    os.sep, ]\n',
    "parentheses": PLAIN.replace("[x,", "[(x),"),
    "line ends": PLAIN.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + PLAIN,
}
OTHER = {
    "name": PLAIN.replace("(x)", "(y)").replace("[x", "[y").replace("{x", "{y"),
    "number": PLAIN.replace("{3}", "{4}"),
    "number of another type": PLAIN.replace("{3}", "{3.0}"),
    "empty text in a list": PLAIN.replace("[x,", "['', x,"),
    "order": PLAIN.replace("[x, f'{x:>{3}}'", "[f'{x:>{3}}', x"),
    "import": PLAIN.replace("import os", "import os, sys"),
    "conversion": PLAIN.replace("{x:", "{x!r:"),
    "statement": PLAIN + "f(1)\n",
    "annotation": PLAIN.replace("f(x)", "f(x: int)"),
    "decorator": PLAIN.replace("def f", "@staticmethod\ndef f"),
    "default": PLAIN.replace("f(x)", "f(x=None)"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_means_nothing_is_not_seen(what: str) -> None:
    assert SAME[what] != PLAIN
    assert code.digest(SAME[what].encode()) == code.digest(PLAIN.encode())


@pytest.mark.parametrize("what", OTHER)
def test_what_means_something_is_seen(what: str) -> None:
    assert code.digest(OTHER[what]) != code.digest(PLAIN)


def test_a_docstring_that_is_read_counts() -> None:
    reads = "'''one'''\nprint(__doc__)\n"
    assert code.digest(reads) != code.digest(reads.replace("one", "two"))


def test_the_digest_is_that_of_every_python() -> None:
    """Recorded with 3.11; 3.12 and 3.13 gave the same (docs/reproducibility.md)."""
    assert code.digest(PLAIN) == "5f8b24612570ba0f581358005498ca9e88799fc8a33077f08524c8224d7c3202"


def test_no_python_is_one_line() -> None:
    assert code.meaning(b"def f(:\n") == ""
    assert code.meaning(b"\x00") == ""


def package(root: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with the package of this name, under another root, and one stage."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root / "src")
    monkeypatch.setattr(code, "PACKAGE", "watched")
    return root


FILES = {
    "src/watched/__init__.py": "",
    "src/watched/errors.py": "x = 1\n",
    "src/watched/deep/__init__.py": "from watched import errors\n",
    "src/watched/deep/tool.py": "def f():\n    from watched.late import y\n",
    "src/watched/late.py": "y = 2\n",
    "src/watched/idle.py": "z = 3\n",
    "src/watched/typed.py": "t = 4\n",
    "stages/one.py": "from typing import TYPE_CHECKING\nfrom watched.deep import tool\n",
}


def test_a_listing_follows_imports_inside_functions_and_the_packages_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, FILES, monkeypatch)
    code.write(Path("stages"), Path("out"))
    listed = json.loads(Path("out/one.json").read_text())
    assert set(listed) == {
        "stages/one.py",
        "src/watched/__init__.py",
        "src/watched/deep/__init__.py",
        "src/watched/deep/tool.py",
        "src/watched/errors.py",
        "src/watched/late.py",
    }
    assert listed["src/watched/late.py"] == code.digest("y = 2")


def test_imports_of_type_checkers_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from watched import typed\n"
    package(tmp_path, FILES | {"src/watched/late.py": only}, monkeypatch)
    code.write(Path("stages"), Path("out"))
    assert "src/watched/typed.py" not in json.loads(Path("out/one.json").read_text())


def test_a_file_that_is_no_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, FILES, monkeypatch)
    graph = code.import_graph()
    Path("src/watched/late.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"src/watched/late\.py: got .*expected Python"):
        code.listing(Path("stages/one.py"), graph)
