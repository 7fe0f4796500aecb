"""dvc.yaml is honest: a stage's code and params are all declared, so that `dvc repro` misses no change."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from sandwatch import code, params
from sandwatch.check import SECTIONS

ROOT = Path(__file__).parents[2]
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
SEVEN = ["aoi", "export", "annotations", "chips", "train", "evaluate", "infer"]
CROSS_VALIDATION = ["folds", "cv_train", "cv_evaluate", "cv", "cv_ensemble"]
MATRICES = ({"by": "${cv.by}"}, {"replicate": "${cv.replicates}"}, {"rivers": "${cv.ensemble}"})
STAGES = {name: DAG["stages"][name] for name in SEVEN}
VALUES = yaml.safe_load((ROOT / "params.yaml").read_text())


def sections_read(script: Path) -> set[str]:
    """Sections of params.yaml that a stage's script indexes StageParams with: ``params[Section]``."""
    known = {model.__name__: model.section for model in SECTIONS}
    return {
        known[node.slice.id]
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and node.slice.id in known
    }


def attributes_of(stage: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of all attributes that the code of a stage reads."""
    monkeypatch.chdir(ROOT)
    listed = code.listing(Path(f"stages/{stage}.py"), code.import_graph())
    trees = [ast.parse(Path(path).read_bytes()) for path in listed]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_the_helper_the_seven_and_those_of_a_cross_validation() -> None:
    assert list(DAG["stages"]) == ["check", *SEVEN, *CROSS_VALIDATION]
    assert all("matrix" not in DAG["stages"][name] for name in ("check", *SEVEN))
    for name in CROSS_VALIDATION:  # they are there for each value of a list that is empty by default
        assert DAG["stages"][name]["matrix"] in MATRICES
    assert VALUES["cv"] == {"by": [], "replicates": [], "ensemble": []}
    assert all(stage["desc"] for stage in DAG["stages"].values())


@pytest.mark.parametrize("stage", SEVEN)
def test_code_is_declared_by_its_listing_alone(stage: str) -> None:
    deps = STAGES[stage]["deps"]
    assert [dep for dep in deps if dep.startswith("data/code/")] == [f"data/code/{stage}.json"]
    assert not [dep for dep in deps if dep.endswith(".py") or dep.startswith(("src", "stages"))]


def test_the_helper_lists_each_stage() -> None:
    check = DAG["stages"]["check"]
    assert sorted(check["outs"]) == sorted(
        f"data/code/{script.name[:-3]}.json" for script in (ROOT / "stages").glob("*.py")
    )
    assert check["deps"] == ["params.yaml", "src/sandwatch", "stages"]


@pytest.mark.parametrize("stage", [*SEVEN, "folds", "cv", "cv_ensemble"])
def test_sections_are_declared_and_read(stage: str) -> None:
    script = ROOT / "stages" / f"{stage}.py"
    assert sections_read(script) == {key.split(".")[0] for key in DAG["stages"][stage]["params"]}
    assert f'StageParams.load("{stage}")' in script.read_text()


@pytest.mark.parametrize("stage", SEVEN)
def test_single_keys_are_read_and_the_others_are_not_declared_for_nothing(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is read and not declared fails at run time (test_params); one declared for nothing is seen here."""
    keys = {key.split(".")[1] for key in STAGES[stage]["params"] if "." in key}
    # aoi, chips and annotations share names of keys with others: source, seed
    assert keys <= attributes_of(stage, monkeypatch)


def test_every_key_of_params_yaml_belongs_to_a_stage() -> None:
    values = VALUES
    declared = {key for name in (*SEVEN, *CROSS_VALIDATION) for key in DAG["stages"][name]["params"]}
    every = {f"{section}.{key}" for section, keys in values.items() if isinstance(keys, dict) for key in keys}
    assert {key for key in every if key not in declared and key.split(".")[0] not in declared} == set()
    assert {key.split(".")[0] for key in declared} == set(values) - {"region"}


def test_all_sections_are_checked() -> None:
    assert {model.section for model in SECTIONS} == set(yaml.safe_load((ROOT / "params.yaml").read_text())) - {"region"}
    assert set(params.Section.__subclasses__()) == set(SECTIONS)


def test_params_in_commands_are_filled_in_by_the_audit_too() -> None:
    """The audit knows one form of interpolation (audit/chain.py); dvc.yaml uses no other."""
    found = re.findall(r"\$\{([^}]*)\}", (ROOT / "dvc.yaml").read_text())
    assert set(found) == {"region", "aoi.rivers", "item.replicate", "cv.by", "cv.replicates", "cv.ensemble"}


@pytest.mark.parametrize(("stage", "of"), [("cv_train", "train"), ("cv_evaluate", "evaluate")])
def test_a_replicate_is_what_the_stage_is_and_the_folds(stage: str, of: str) -> None:
    """What trains and judges a model of the split trains and judges one of a replicate: nothing else may differ."""
    mine, its = DAG["stages"][stage], STAGES[of]
    assert set(mine["deps"]) - {"models/cv/${item.replicate}/model.safetensors"} == {
        *its["deps"], "data/folds.parquet"
    } - {"models/model.safetensors"}  # fmt: skip
    assert set(mine["params"]) == set(its["params"]) - {"split.holdout_rivers"}
    command = mine["cmd"].split(" --folds ")[0].replace("models/cv/${item.replicate}", "models")
    assert command.replace("results/cv/${item.replicate}/", "results/") == its["cmd"].strip()


def test_no_option_switches_the_run_cache_off() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    for option in ("cache: false", "persist: true", "always_changed", "push: false"):
        assert option not in text
