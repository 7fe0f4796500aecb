"""params.yaml: every mistake is one clear line that names the key, what it got and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sandwatch import params
from sandwatch.annotations.params import Annotations
from sandwatch.aoi import Aoi
from sandwatch.check import SECTIONS
from sandwatch.chips import Chips
from sandwatch.errors import InputError
from sandwatch.imagery.params import Imagery
from sandwatch.learn.params import Train
from sandwatch.split import Split

ROOT = Path(__file__).parents[2]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("model", SECTIONS)
def test_the_default_is_valid(model: type[params.Section]) -> None:
    section = params.read(ROOT / "params.yaml", model)
    assert section.model_dump(mode="json") == VALUES[model.section]


@pytest.mark.parametrize("model", SECTIONS)
def test_every_key_is_needed_and_strangers_are_refused(model: type[params.Section]) -> None:
    for key in VALUES[model.section]:
        rest = {name: value for name, value in VALUES[model.section].items() if name != key}
        with pytest.raises(InputError, match=rf"params.yaml: {model.section}.{key}: got nothing; expected a value"):
            params.check(model, rest)
        with pytest.raises(InputError, match=rf"{model.section}.{key}_: got a key that does not exist; .*\b{key}\b"):
            params.check(model, {**VALUES[model.section], f"{key}_": 1})


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        (Aoi, "buffer_m", "wide", "aoi.buffer_m: got 'wide'; expected a valid number"),
        (Aoi, "extent_m", 0, "aoi.extent_m: got 0; expected greater than 0"),
        (Aoi, "buffer_m", True, "aoi.buffer_m: got True; expected a valid number"),
        (params.Bands, "s2", ["B4", "B99"], "bands.s2.1: got 'B99'; expected 'B1', 'B2'"),
        (params.Bands, "s2", [], r"bands.s2: got \[\]; expected"),
        (params.Bands, "s2", ["B4", "B4"], "bands: got .*; expected Value error, a band is listed twice"),
        (Split, "val_fraction", 1.0, "split.val_fraction: got 1.0; expected less than 1"),
        (Split, "seed", 1.5, "split.seed: got 1.5; expected a valid integer"),
        (Imagery, "source", "magic", "imagery.source: got 'magic'; expected 'synthetic', 'files' or"),
        (Chips, "size_px", 100, "chips.size_px: got 100; expected a multiple of 32"),
        (Train, "loss", {"bce": 1.0}, r"train.loss.dice: got nothing; .*\(3 more after this one\)"),
        (
            Annotations,
            "consensus",
            "vote",
            "annotations.consensus: got 'vote'; expected 'refuse', 'selected' or",
        ),
    ],
)
def test_a_wrong_value_is_named(model: type[params.Section], key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        params.check(model, {**VALUES[model.section], key: value})
    assert "\n" not in str(error.value)


def test_an_unknown_key_in_a_nested_section_names_its_siblings() -> None:
    values = {**VALUES["train"], "loss": {**VALUES["train"]["loss"], "hinge": 1.0}}
    with pytest.raises(
        InputError, match=r"train.loss.hinge: got a key .*; expected one of bce, dice, focal, focal_gamma"
    ):
        params.check(Train, values)


def test_a_loss_of_nothing_is_refused() -> None:
    loss = {**VALUES["train"]["loss"], "bce": 0.0, "dice": 0.0, "focal": 0.0}
    with pytest.raises(InputError, match="at least one of bce, dice and focal must be above 0"):
        params.check(Train, {**VALUES["train"], "loss": loss})


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_a_section_that_is_no_mapping_is_refused(values: object) -> None:
    with pytest.raises(InputError, match=r"params.yaml: aoi: got"):
        params.check(Aoi, values)


def test_a_section_that_dvc_yaml_does_not_declare_is_refused() -> None:
    with pytest.raises(InputError, match=r"dvc.yaml, params of .*: got no section chips; .* add '- chips'"):
        params.StageParams("aoi", {"aoi": VALUES["aoi"]}, VALUES)[Chips]


def test_a_key_that_dvc_yaml_does_not_declare_cannot_be_read() -> None:
    declared = {"split": {"seed": VALUES["split"]["seed"]}}
    section = params.StageParams("aoi", declared, VALUES)[Split]
    assert section.seed == VALUES["split"]["seed"]
    with pytest.raises(InputError, match=r"got no split\.block_m; .* add '- split\.block_m'"):
        _ = section.block_m
    with pytest.raises(AttributeError, match="blok_m"):
        _ = section.blok_m  # type: ignore[attr-defined]


def test_a_key_that_is_wrong_is_named_although_another_is_declared() -> None:
    values = VALUES | {"split": VALUES["split"] | {"block_m": -1}}
    with pytest.raises(InputError, match=r"params\.yaml: split\.block_m: got -1"):
        params.StageParams("aoi", {"split": {"seed": 0}}, values)[Split]


def test_a_missing_section_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("aoi: {}\n")
    with pytest.raises(InputError, match=r"got no section chips; expected sections annotations, aoi, bands, chips"):
        params.read(tmp_path / "params.yaml", Chips)


def test_sections_are_frozen() -> None:
    section = params.check(Aoi, VALUES["aoi"])
    with pytest.raises(ValueError, match="frozen"):
        section.buffer_m = 3.0  # type: ignore[misc]


def test_a_file_that_dvc_wrote_reads_as_dvc_reads_it(tmp_path):
    """`dvc exp run -S` writes YAML 1.2, in which Yes and No are words."""
    path = tmp_path / "params.yaml"
    path.write_text("annotations:\n  activity_answers: {Yes: true, No: false}\n")
    assert params.read_file(path) == {"annotations": {"activity_answers": {"Yes": True, "No": False}}}


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "expected YAML; correct that line"), ("1", "got int; expected sections")]
)
def test_a_file_that_is_no_params_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        params.read_file(path)
    assert "\n" not in str(error.value)
