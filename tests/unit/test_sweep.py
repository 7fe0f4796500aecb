"""What a sweep proposes, what its file may say, and how values come into params.yaml."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandwatch import sweep
from sandwatch.check import SECTIONS
from sandwatch.errors import InputError
from sandwatch.experiments import Ap, Series, applied, crossed, setting
from sandwatch.params import load_yaml
from sandwatch.sweep import Sweep, Trial, propose

pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]
FILE: dict[str, Any] = {
    "target": "train",
    "trials": 16,
    "seed": 3,
    "search": {
        "train.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
        "train.batch_size": {"low": 2, "high": 16},
        "model.decoder_channels": {"choices": [[16, 8, 8], [32, 16, 8]]},
    },
}


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def judged(plan: Sweep, proposed: dict[str, Any]) -> Trial:
    """A trial of which every third fails, and the others are the better the nearer their rate is to 0.003."""
    far = abs(math.log10(proposed["train.learning_rate"] / 0.003))
    values = {key: plan.search[key].value(one) for key, one in proposed.items()}
    failed = proposed["train.batch_size"] % 3 == 0
    return Trial(name="t", proposed=proposed, values=values, ap=None if failed else Ap(mean=1 / (1 + far), std=None))


def whole(plan: Sweep) -> list[Trial]:
    trials: list[Trial] = []
    for _ in range(plan.trials):
        trials.append(judged(plan, propose(plan, trials)))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_follow_from_the_number_and_the_trials_before(sampler: str) -> None:
    plan = Sweep.model_validate(FILE | {"sampler": sampler})
    trials = whole(plan)
    assert {trial.ap is None for trial in trials} == {True, False}
    for number in (0, 1, 7, 15):  # as a sweep that goes on asks, which has seen none of the proposals before
        assert propose(plan, trials[:number]) == trials[number].proposed
    assert len({str(trial.values) for trial in trials}) == len(trials)
    assert whole(Sweep.model_validate(FILE | {"sampler": sampler, "seed": 4}))[0].proposed != trials[0].proposed
    turned = dict(reversed(FILE["search"].items()))  # the order of the file is no part of it
    assert (
        propose(Sweep.model_validate(FILE | {"sampler": sampler, "search": turned}), trials[:12]) == trials[12].proposed
    )


def test_tpe_learns_from_the_trials_before_and_random_does_not() -> None:
    for sampler, learns in (("tpe", True), ("random", False)):
        plan = Sweep.model_validate(FILE | {"sampler": sampler})
        trials = whole(plan)[:14]
        other = [
            Trial(
                name=one.name,
                proposed=one.proposed,
                values=one.values,
                ap=one.ap and Ap(mean=1 - one.ap.mean, std=None),
            )
            for one in trials
        ]
        assert (propose(plan, trials) != propose(plan, other)) == learns


def test_values_are_within_bounds_and_of_their_kind() -> None:
    plan = Sweep.model_validate(FILE)
    for trial in whole(plan):
        rate, size = trial.values["train.learning_rate"], trial.values["train.batch_size"]
        assert 0.0001 <= rate <= 0.1
        assert float(f"{rate:.4g}") == rate
        assert isinstance(size, int)
        assert 2 <= size <= 16
        assert trial.values["model.decoder_channels"] in ([16, 8, 8], [32, 16, 8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"train.lerning_rate": {"low": 0.1, "high": 0.2}}}, "did you mean train.learning_rate"),
        ({"search": {"split.val_fraction": {"low": 0.1, "high": 0.2}}}, "a key that a sweep can't search"),
        ({"search": {"model.method": {"choices": ["binary"]}}}, "a key that a sweep can't search"),
        ({"search": {"train.learning_rate": {"low": -1.0, "high": 0.2}}}, r"learning_rate: got -1.0; .*greater than 0"),
        ({"search": {"train.epochs": {"low": 1.5, "high": 3.5}}}, r"train.epochs: got 1.5; .*integer"),
        ({"search": {"train.optimizer": {"choices": ["adamw", "adam"]}}}, r"train.optimizer: got 'adam'; .*'sgd'"),
        ({"search": {"train.epochs": {"low": 3, "high": 2}}}, "search.train.epochs: .*low must be below high"),
        ({"search": {"train.epochs": {"low": 3}}}, "either low and high, or choices"),
        ({"search": {"train.ema": {"low": 0, "high": 0.9, "log": True}}}, "log is for numbers above 0"),
        ({"search": {}}, "search: got {}"),
        ({"trial": 3}, "trial: got 3; .*Extra"),
        ({"trials": 0}, "trials: got 0; .*greater than or equal to 1"),
        ({"target": "evaluate"}, "target: got 'evaluate'; .*'train' or 'cv'"),
        ({"target": "cv"}, "folds goes with the target cv"),
        ({"folds": 5}, "folds goes with the target cv"),
        ({"seed": None}, "seed: got None"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_before_anything_runs(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(FILE | change))
    with pytest.raises(InputError, match=message):
        sweep.read(path, SECTIONS)


def test_no_file_and_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        sweep.read(tmp_path / "none.yaml", SECTIONS)
    (tmp_path / "sweep.yaml").write_text("target: [")
    with pytest.raises(InputError, match="YAML"):
        sweep.read(tmp_path / "sweep.yaml", SECTIONS)


def test_the_recipe_can_be_run() -> None:
    assert sweep.read(ROOT / "docs/recipes/sweep.yaml", SECTIONS).runs.stages == ("train",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 1e-05),
        ("train.patience", 4),
        ("train.flips", False),
        ("model.encoder", "tu-mobilenetv3_small_050"),
        ("train.tuning.lora.targets", r"blocks\.\d+\.(attn|mlp), 'it''s' \\"),
        ("train.tuning.lora.targets", ["qkv", "proj"]),
        ("train.loss.mine_weight", "from_data"),
        ("model.weights", {"name": "ssl4eo-s12/resnet50/moco/l1c", "sha256": "0" * 64}),
        ("model.weights", None),
    ],
)
def test_a_value_comes_into_params_yaml_as_it_is(key: str, value: Any) -> None:
    held: Any = load_yaml(applied([setting(key, value)]).decode())
    for part in key.split("."):
        held = held[part]
    assert held == value
    assert type(held) is type(value)


def test_a_setting_that_dvc_cannot_apply_is_refused() -> None:
    with pytest.raises(InputError, match="no_such"):
        applied(["train.no_such=1"])


def test_the_params_of_a_cross_validation_are_those_that_cv_asks_for() -> None:
    params = Series(target=crossed("groups", 4)).params([setting("train.epochs", 7)])
    assert params["cv"] == {"by": ["groups"], "replicates": [1, 2, 3, 4], "ensemble": []}
    assert params["train"]["epochs"] == 7
    assert json.loads(json.dumps(params)) == params
