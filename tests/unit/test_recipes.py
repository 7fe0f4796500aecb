"""Recipes: what of params.yaml they change, and what they leave."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandwatch import params, recipes
from sandwatch.check import SECTIONS
from sandwatch.errors import InputError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/recipes"
TEXT = """# Before.
region: sample

model:
  # Which.
  kind: smp # as ever
  encoder: resnet18
  answers: {'Yes': true}

# How it learns.
train:
  rate: 0.002
  loss:
    bce: 1.0
    # Overlap.
    dice: 0.5
  # Thereafter.
  seed: 0
"""


def written(tmp_path: Path, changes: dict[str, object], text: str = TEXT) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return recipes.rewritten(path, {Path("a.yaml"): changes}).decode()


def test_a_value_changes_and_all_else_stays_to_the_byte(tmp_path: Path) -> None:
    assert written(tmp_path, {"train.rate": 1e-5}) == TEXT.replace("0.002", "1e-05")
    assert written(tmp_path, {"model.answers": {"Yes": False}}) == TEXT.replace("{'Yes': true}", "{Yes: false}")
    assert written(tmp_path, {"train.seed": None}) == TEXT.replace("seed: 0", "seed: null")
    assert written(tmp_path, {"train.seed": 7}, TEXT.replace("\n", "\r\n")) == TEXT.replace("\n", "\r\n").replace(
        "seed: 0", "seed: 7"
    )


def test_a_section_is_replaced_as_a_whole_with_its_comments(tmp_path: Path) -> None:
    made = written(tmp_path, {"model": {"kind": "unet", "design": "original", "of": {"a": [1, 2]}}})
    before, after = TEXT.split("  # Which.\n")[0], TEXT.split("{'Yes': true}")[1]
    assert made == f"{before}  # Which.\n  kind: unet\n  design: original\n  of: {{a: [1, 2]}}{after}"
    made = written(tmp_path, {"train.loss": {"focal": 2.0}})
    assert made == TEXT.replace("bce: 1.0\n    # Overlap.\n    dice: 0.5", "focal: 2.0")


def test_later_changes_see_earlier_ones(tmp_path: Path) -> None:
    made = written(tmp_path, {"model": {"kind": "unet", "design": "original"}, "model.design": "small"})
    assert params.load_yaml(made)["model"] == {"kind": "unet", "design": "small"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.rat", r"a\.yaml: train\.rat: got no rat in train.*did you mean rate"),
        ("trian.rate", r"no trian in params\.yaml.*did you mean train"),
        ("train.rate.most", r"no most in train\.rate.*which is a value"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        written(tmp_path, {name: 1})
    with pytest.raises(InputError, match=expected):
        recipes.changed(params.load_yaml(TEXT), {name: 1}, "a.yaml")


def test_values_that_were_given_stay_as_they_were() -> None:
    values = params.load_yaml(TEXT)
    loss = {"focal": 1.0}
    made = recipes.changed(values, {"train.loss": loss, "train.loss.focal": 2.0}, "a.yaml")
    assert (made["train"]["loss"], values, loss) == ({"focal": 2.0}, params.load_yaml(TEXT), {"focal": 1.0})


def test_what_an_alias_shares_is_not_changed_in_silence(tmp_path: Path) -> None:
    shared = "one: &it {a: 1}\ntwo: *it\n"
    with pytest.raises(InputError, match="aliases"):
        written(tmp_path, {"two.a": 2}, shared)


NAMES = re.findall(r"^\| `([\w-]+\.yaml)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)


def test_there_are_recipes() -> None:
    assert "predecessor.yaml" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_the_params_of_a_clone(name: str) -> None:
    content = recipes.rewritten(ROOT / "params.yaml", {FOLDER / name: recipes.read(FOLDER / name)})
    assert params.faults(ROOT, SECTIONS, content) == []


def test_the_command_writes_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "data/regions/sample").mkdir(parents=True)
    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    (tmp_path / "good.yaml").write_text("train.epochs: 3\n")
    (tmp_path / "bad.yaml").write_text("train.learning_rate: -1.0\n")

    def run(*names: str) -> subprocess.CompletedProcess[str]:
        options = [part for name in names for part in ("--with", name)]
        command = [sys.executable, "-c", "from sandwatch.cli import main; main()", "params", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = run("good.yaml", "bad.yaml")
    assert (refused.returncode, (tmp_path / "params.yaml").read_text()) == (1, before)
    assert "train.learning_rate" in refused.stderr
    assert run("good.yaml").returncode == 0
    assert (tmp_path / "params.yaml").read_text() == before.replace("epochs: 12", "epochs: 3")
