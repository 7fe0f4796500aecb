"""dvc.yaml is honest: a stage's imports and params are all declared, so that no change escapes `dvc repro`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sandwatch import params

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "sandwatch"
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]


def imported_modules(tree: ast.AST) -> set[str]:
    """Dotted names of first-party modules imported anywhere in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module or "")
    return {name for name in names if name.split(".")[0] == "sandwatch"}


def files_of(name: str) -> list[Path]:
    """Files that importing a dotted name runs, the package's own __init__ aside (it is empty of code)."""
    parts = name.split(".")[1:]
    found = []
    for depth in range(1, len(parts) + 1):
        stem = PACKAGE.joinpath(*parts[:depth])
        found += [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return found


def imports_of(script: Path) -> set[Path]:
    """All first-party files that a script can import, transitively."""
    seen: set[Path] = set()
    todo = [script]
    while todo:
        tree = ast.parse(todo.pop().read_text())
        for name in imported_modules(tree):
            for path in files_of(name):
                if path not in seen:
                    seen.add(path)
                    todo.append(path)
    return seen


def sections_read(script: Path) -> set[str]:
    """Sections of params.yaml that a stage's script indexes StageParams with: ``params[Section]``."""
    known = {model.__name__: model.section for model in params.Section.__subclasses__()}
    return {
        known[node.slice.id]
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and node.slice.id in known
    }


@pytest.mark.parametrize("stage", STAGES)
def test_imports_are_declared(stage: str) -> None:
    declared = [ROOT / dep for dep in STAGES[stage]["deps"]]
    undeclared = [
        path.relative_to(ROOT)
        for path in {ROOT / "stages" / f"{stage}.py", *imports_of(ROOT / "stages" / f"{stage}.py")}
        if not any(path == dep or dep in path.parents for dep in declared)
    ]
    assert undeclared == []


@pytest.mark.parametrize("stage", STAGES)
def test_declared_modules_are_imported(stage: str) -> None:
    imported = imports_of(ROOT / "stages" / f"{stage}.py")
    idle = [
        dep
        for dep in STAGES[stage]["deps"]
        if dep.startswith("src/") and not any(ROOT / dep == path or ROOT / dep in path.parents for path in imported)
    ]
    assert idle == []


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_declared_and_read(stage: str) -> None:
    script = ROOT / "stages" / f"{stage}.py"
    assert sections_read(script) == set(STAGES[stage]["params"])
    assert f'StageParams.load("{stage}")' in script.read_text()


def test_every_key_of_params_yaml_belongs_to_a_stage() -> None:
    declared = {section for stage in STAGES.values() for section in stage["params"]}
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == declared | {"region"}


def test_every_stage_says_what_it_is_for() -> None:
    assert list(STAGES) == ["aoi", "export", "annotations", "chips", "train", "evaluate", "infer"]
    assert all(stage["desc"] for stage in STAGES.values())


def test_no_option_switches_the_run_cache_off() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    for option in ("cache: false", "persist: true", "always_changed", "push: false"):
        assert option not in text


def test_what_python_compiles_is_no_dependency() -> None:
    """Stages depend on folders of code; compiled files in them differ from clone to clone."""
    folders = [dep for stage in STAGES.values() for dep in stage["deps"] if (ROOT / dep / "__init__.py").is_file()]
    compiled = [f"{folder}/__pycache__/x.cpython-311.pyc" for folder in {*folders}]
    command = [sys.executable, "-m", "dvc", "check-ignore", *compiled]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert compiled
    assert sorted(done.stdout.split()) == sorted(compiled), done.stderr


def test_an_undeclared_import_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text("def main():\n    from sandwatch.imagery import files\n")
    assert {PACKAGE / "imagery" / "files.py"} <= imports_of(script)
