"""params.yaml: every mistake is one clear line that names the key, what it got and what is allowed."""

import re
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
from sandwatch.reproducible import Compute
from sandwatch.split import Split
from sandwatch.train.params import Train

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
        (Train, "loss", {"bce": 1.0}, r"train.loss.dice: got nothing; .*\(8 more after this one\)"),
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
        InputError,
        match=r"train.loss.hinge: got a key .*; expected one of bce, dice, edge_smoothing_px, focal, focal_gamma",
    ):
        params.check(Train, values)


def test_a_loss_of_nothing_is_refused() -> None:
    loss = {**VALUES["train"]["loss"], "bce": 0.0, "dice": 0.0, "focal": 0.0}
    with pytest.raises(InputError, match="at least one of bce, dice, focal, lovasz and tversky must be above 0"):
        params.check(Train, {**VALUES["train"], "loss": loss})


def test_mixed_precision_in_reproducible_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"compute: got .*reproducible is true, which wants .* not bf16-mixed"):
        params.check(Compute, {"reproducible": True, "threads": 2, "precision": "bf16-mixed"})
    params.check(Compute, {"reproducible": False, "threads": 2, "precision": "bf16-mixed"})


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_a_section_that_is_no_mapping_is_refused(values: object) -> None:
    with pytest.raises(InputError, match=r"params.yaml: aoi: got"):
        params.check(Aoi, values)


def test_a_section_that_dvc_yaml_does_not_declare_is_refused() -> None:
    with pytest.raises(InputError, match=r"dvc.yaml, params of .*: got no section chips; .* add '- chips'"):
        params.StageParams({"aoi": VALUES["aoi"]}, VALUES)[Chips]


def test_a_key_that_dvc_yaml_does_not_declare_cannot_be_read() -> None:
    declared = {"split": {"seed": VALUES["split"]["seed"]}}
    section = params.StageParams(declared, VALUES)[Split]
    assert section.seed == VALUES["split"]["seed"]
    with pytest.raises(InputError, match=r"got no split\.block_m; .* add '- split\.block_m'"):
        _ = section.block_m
    with pytest.raises(AttributeError, match="blok_m"):
        _ = section.blok_m  # type: ignore[attr-defined]


def test_a_key_that_is_wrong_is_named_although_another_is_declared() -> None:
    values = VALUES | {"split": VALUES["split"] | {"block_m": -1}}
    with pytest.raises(InputError, match=r"params\.yaml: split\.block_m: got -1"):
        params.StageParams({"split": {"seed": 0}}, values)[Split]


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


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the default params and the folders of the regions."""
    for region in ("india", "sample"):
        (tmp_path / "data/regions" / region).mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def lines(root: Path, changed: dict[str, Any]) -> list[str]:
    """The faults of the default params with some of their top-level keys changed; None takes one away."""
    values = {key: value for key, value in (VALUES | changed).items() if value is not None}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    found = [str(fault) for fault in params.faults(root, SECTIONS)]
    assert all("\n" not in line for line in found)
    return found


def renamed(section: str, old: str, new: str) -> dict[str, Any]:
    return {section: {(new if key == old else key): value for key, value in VALUES[section].items()}}


def test_the_default_has_no_fault(clone: Path) -> None:
    assert params.faults(clone, SECTIONS) == []
    assert params.faults(ROOT, SECTIONS) == []


def test_a_misspelt_key_is_told_before_the_one_that_is_missing(clone: Path) -> None:
    unknown, missing = lines(clone, renamed("train", "learning_rate", "learning_rte"))
    assert unknown.startswith(
        "params.yaml: train.learning_rte: got a key that does not exist; expected one of batch_size"
    )
    assert unknown.endswith("; did you mean learning_rate? correct or remove it")
    assert missing == "params.yaml: train.learning_rate: got nothing; expected a value for this key; edit params.yaml"


def test_all_faults_of_all_sections_are_told_unknown_keys_first(clone: Path) -> None:
    found = lines(
        clone,
        {
            "region": "smaple",
            "aoi": {**VALUES["aoi"], "extent_m": 0},
            "trian": 1,
            "split": None,
            **renamed("evaluate", "seed", "sed"),
        },
    )
    assert [line.split(": got")[0] for line in found] == [
        "params.yaml: trian",
        "params.yaml: evaluate.sed",
        "params.yaml: split",
        "params.yaml: evaluate.seed",
        "params.yaml: aoi.extent_m",
        "params.yaml: region",
    ]
    assert found[0].endswith("did you mean train? correct or remove it")
    assert found[2] == "params.yaml: split: got nothing; expected a section; edit params.yaml"
    assert found[5] == (
        "params.yaml: region: got 'smaple'; expected a folder under data/regions: india, sample; "
        "did you mean sample? correct it"
    )


def test_a_key_of_another_section_is_pointed_there(clone: Path) -> None:
    (line,) = lines(clone, {"chips": {**VALUES["chips"], "mine_class": "x"}})
    assert line.endswith("; did you mean annotations.mine_class? correct or remove it")


def test_a_key_like_no_other_is_only_refused(clone: Path) -> None:
    (line,) = lines(clone, {"chips": {**VALUES["chips"], "qqqq": 1}})
    assert line.endswith("; correct or remove it")


@pytest.mark.parametrize("section", [model.section for model in SECTIONS])
@pytest.mark.parametrize("value", [[], "text", 3, {1: 2}])
def test_a_section_that_is_none_is_told(clone: Path, section: str, value: object) -> None:
    found = lines(clone, {section: value})
    assert found
    assert all(line.startswith(f"params.yaml: {section}") for line in found)


@pytest.mark.parametrize("value", ["nile", "", "..", ["sample"], 3, {"a": 1}])
def test_a_region_without_a_folder_is_told(clone: Path, value: object) -> None:
    (line,) = lines(clone, {"region": value})
    assert line.startswith(f"params.yaml: region: got {value!r}; expected a folder under data/regions: india, sample; ")


@pytest.mark.parametrize(
    "name", ["a b", "a;touch x", "$(id)", "`id`", "a'b", 'a"b', "a&b", "a|b", "-a", "a\nb", "~", "*"]
)
def test_a_name_that_a_shell_would_take_for_its_own_is_refused(clone: Path, name: str) -> None:
    """dvc.yaml writes both into commands."""
    (clone / "data/regions" / name).mkdir()
    (line,) = lines(clone, {"region": name})
    assert line.startswith("params.yaml: region: got ")
    assert line.endswith("rename that folder, and set region")
    for rivers in (name, f"folder/{name}", f"../{name}", "/etc/rivers", "a//b", "", "."):
        (line,) = lines(clone, {"aoi": VALUES["aoi"] | {"rivers": rivers}})
        assert line.startswith("params.yaml: aoi.rivers: got ")
        assert "expected a path of plain names: letters of any script, digits" in line


@pytest.mark.parametrize("name", ["São_Francisco", "नर्मदा", "india-2", "a.b"])
def test_letters_of_any_script_are_plain(clone: Path, name: str) -> None:
    (clone / "data/regions" / name).mkdir()
    assert lines(clone, {"region": name, "aoi": VALUES["aoi"] | {"rivers": f"{name}/{name}.geojson"}}) == []


def test_nothing_else_is_written_into_commands() -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    written = {key for stage in pipeline["stages"].values() for key in re.findall(r"\$\{(.*?)\}", stage["cmd"])}
    assert written == {"region", "aoi.rivers", "item.replicate"}  # the last is a number of the list cv.replicates


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "a: !!bool x", "a: !!int x", "a: !!timestamp x", "a: 2020-99-99", f"a: {'9' * 5000}",
     "a: " + "[" * 400,
     "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10 * (i > 0)}]\n" for i in range(9)), "a: " + "x" * 1_000_001,
     "".join(f"a{i}: &a{i} {{b{i}: 1, <<: [{f'*a{i - 1},' * 9 * (i > 0)}]}}\n" for i in range(9))],
)  # fmt: skip
def test_params_that_stand_for_too_much_or_for_nothing_are_one_line(clone: Path, text: str) -> None:
    (clone / "params.yaml").write_text(text)
    (fault,) = params.faults(clone, SECTIONS)
    assert str(fault).startswith(f"{clone / 'params.yaml'}: got ")
    assert "expected YAML" in str(fault)


def test_a_file_without_a_region_is_told(clone: Path) -> None:
    assert lines(clone, {"region": None}) == [
        "params.yaml: region: got nothing; expected a folder under data/regions: india, sample; edit params.yaml"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 1\na: 2\n", 'got found duplicate key "a" with value "2" .original value: "1". in line 3'),
        (b"a:\n  b: 1\n  b: 1\n", 'got found duplicate key "b" .* in line 3'),
        (b"a:\n\tb: 1\n", r"got found character '\\t' that cannot start any token in line 2"),
        (b"a: 1\n---\nb: 1\n", "found another document in line 2"),
        (b"a: \x00\n", "unacceptable character"),
        (b"a: 1\nb: \xff\n", "got bytes that are no UTF-8 in line 2; expected YAML; save it as UTF-8"),
        (b"a: !!python/object:os.system x\n", "could not determine a constructor"),
        (b"", "got NoneType; expected sections"),
        (b"- a\n", "got list; expected sections"),
    ],
)
def test_a_file_that_is_no_mapping_of_sections_is_one_line(clone: Path, content: bytes, message: str) -> None:
    (clone / "params.yaml").write_bytes(content)
    (fault,) = params.faults(clone, SECTIONS)
    assert "\n" not in str(fault)
    with pytest.raises(InputError, match=message):
        params.read_file(clone / "params.yaml")
    assert [str(again) for again in params.faults(clone, SECTIONS, content)] == [str(fault)]


def test_a_byte_order_mark_is_nothing_wrong(clone: Path) -> None:
    """DVC reads such a file too."""
    (clone / "params.yaml").write_bytes(b"\xef\xbb\xbf" + (ROOT / "params.yaml").read_bytes())
    assert params.faults(clone, SECTIONS) == []
