"""Which code makes which output: the source files that a stage can import, each with a digest of what it means.

The import graph says which files a stage's script can reach, inside functions too; imports for type checkers alone
don't run and don't count. A file's digest is taken of its syntax tree without comments, docstrings and formatting, in
a form that no version of Python changes, so that only a change that can change an output changes it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grimp

from sandwatch.errors import InputError
from sandwatch.files import write_json

PACKAGE = "sandwatch"
SOURCES = "src"
"""Folder of the package in the repository."""
NOT_MEANT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of a syntax tree that say nothing, or repeat what its place says. Source: the library reference, ``ast``."""


def digest(source: str | bytes) -> str:
    """SHA-256 of what Python source means, 64 hexadecimal digits.

    Strings that stand alone as a statement (docstrings, and those below attributes) are left out, unless the file
    reads ``__doc__``.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(source)
    names = {getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr")}
    return hashlib.sha256(json.dumps(_plain(tree, keep_strings="__doc__" in names)).encode()).hexdigest()


def _plain(node: Any, *, keep_strings: bool) -> Any:
    """A syntax tree as lists and strings. What is empty is left out: later versions of Python add fields."""
    if isinstance(node, ast.Constant):
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 adds empty texts to some, others don't
        texts = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return ["JoinedStr", _plain(texts, keep_strings=True)]
    if isinstance(node, ast.AST):
        fields = (
            (name, _plain(value, keep_strings=keep_strings))
            for name, value in ast.iter_fields(node)
            if name not in NOT_MEANT and value is not None and value != []
        )
        return [type(node).__name__, *map(list, fields)]
    if isinstance(node, list):
        return [_plain(part, keep_strings=keep_strings) for part in node if keep_strings or not _string(part)]
    return repr(node)


def _string(node: Any) -> bool:
    """Whether a statement is nothing but a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def listing(script: Path, graph: grimp.ImportGraph) -> dict[str, str]:
    """The files that a stage can run, with their digests, by path in the repository.

    Args:
        script: of the stage, ``stages/<stage>.py``.
        graph: of the package, which must lie in ``SOURCES`` under the working directory.

    Raises:
        InputError: one of them is no Python.
    """
    found = {}
    for path in sorted([script.as_posix(), *map(_path, _reached(script, graph))]):
        try:
            found[path] = digest(Path(path).read_bytes())
        except SyntaxError as error:
            raise InputError(path, got=str(error), expected="Python", fix="correct that line") from None
    return found


def running(script: Path) -> dict[str, str]:
    """What :func:`listing` says of the code that this process can run, wherever it runs.

    Args:
        script: of a stage.

    Returns:
        Digests by module, that of the script as ``script``.
    """
    sources = Path(__file__).parents[1]
    files = {module: _path(module, sources) for module in _reached(script, import_graph())} | {"script": script}
    return {name: digest(Path(path).read_bytes()) for name, path in files.items()}


def import_graph() -> grimp.ImportGraph:
    """The import graph of the package, without imports that only type checkers follow."""
    return grimp.build_graph(PACKAGE, cache_dir=None, exclude_type_checking_imports=True)


def write(stages: Path, folder: Path) -> None:
    """Writes ``<stage>.json`` for every script of a stage: path to digest.

    Args:
        stages: folder of the scripts.
        folder: gets the files.

    Raises:
        InputError: as :func:`listing`.
    """
    graph = import_graph()
    for script in sorted(stages.glob("*.py")):
        write_json(folder / f"{script.stem}.json", listing(script, graph))


def meaning(source: bytes) -> str:
    """The digest of a file, '' where it is no Python."""
    try:
        return digest(source)
    except (SyntaxError, ValueError):
        return ""


def _reached(script: Path, graph: grimp.ImportGraph) -> set[str]:
    """The modules that a script can import: importing one runs the packages that it lies in, too."""
    reached: set[str] = set()
    todo = _imported(ast.parse(script.read_bytes()), graph.modules)
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo |= graph.find_modules_directly_imported_by(module)
            if "." in module:
                todo.add(module.rpartition(".")[0])
    return reached


def _imported(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    """The modules of the package that a script imports itself."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update([node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names & set(modules)


def _path(module: str, sources: Path = Path(SOURCES)) -> str:
    """The file of a module below the folder of the package: as a rule from the root of the repository."""
    stem = Path(sources, *module.split("."))
    package = stem / "__init__.py"
    return (package if package.is_file() else stem.with_suffix(".py")).as_posix()
