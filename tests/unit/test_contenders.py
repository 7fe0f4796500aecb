"""What the benchmarks share: contenders are params that hold, differences are paired, and what was computed is kept."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.evaluate import Evaluate
from sandwatch.model.metrics import ScoreHistogram
from sandwatch.model.network import Model, Scoring
from sandwatch.model.scoring import STEPS, to_steps
from sandwatch.origin import About
from sandwatch.stack import NODATA
from sandwatch.train.params import Train

ROOT = Path(__file__).parents[2]
ABOUT = About(label_fingerprint="0" * 64, imagery="synthetic", labels="synthetic")


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/contenders.py and benchmarks/models.py, which find each other as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("contenders"), importlib.import_module("models")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def here(scripts: tuple[ModuleType, ModuleType]) -> Any:
    values = params.read_file(ROOT / "params.yaml")
    return scripts[0].Data(values=values, aoi=None, manifest=None, windows=None, about=ABOUT)


def histogram(*scores: tuple[float, bool]) -> ScoreHistogram:
    steps, truth = zip(*scores, strict=True)
    return ScoreHistogram.of(np.rint(np.array(steps) * STEPS).astype(np.int64), np.array(truth))


def test_what_contenders_change_holds(scripts: Any, here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, models = scripts
    monkeypatch.setenv("SANDWATCH_WEIGHTS", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"weights galileo/nano: got no file .*galileo-nano-encoder\.pt"):
        models.changed(here, models.Contender.GALILEO, None, None, tmp_path, tmp_path)
    (tmp_path / "galileo-nano-encoder.pt").touch()
    monkeypatch.setattr(models, "converted", lambda file, path: "0" * 64)
    for contender in models.Contender:
        asked = models.changed(here, contender, None, None, tmp_path, tmp_path)
        for section in (Model, Train, Scoring):
            assert asked[section]
        own = asked.values["train"]["epochs"]
        assert own == (4 if contender == "galileo" else here.values["train"]["epochs"])
        assert asked.values["train"]["batch_size"] == here.values["train"]["batch_size"]
        if contender not in ("forest", "statistics"):
            assert models.changed(here, contender, 1, None, tmp_path, tmp_path)[Train].epochs == 1
    pair = [models.changed(here, one, None, None, None, tmp_path)[Model] for one in ("imagenet", "random")]
    assert pair[0].network == pair[1].network
    assert (pair[0].weights.name, pair[1].weights) == ("imagenet.safetensors", None)


def test_what_all_share_is_not_changed(
    scripts: Any, here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, models = scripts
    monkeypatch.setitem(models.CHANGES, models.Contender.RANDOM, {"chips.size_px": 320})
    with pytest.raises(InputError, match=r"contender random: got a change of chips\.size_px"):
        models.changed(here, models.Contender.RANDOM, None, None, None, tmp_path)
    other = replace(here, values={**here.values, "model": {**here.values["model"], "method": "three_class"}})
    assert (
        models.changed(other, models.Contender.PREDECESSOR, None, None, None, tmp_path)[Model].method == "three_class"
    )


def test_weights_that_are_not_there_or_others_are_refused(scripts: Any, tmp_path: Path) -> None:
    _, models = scripts
    with pytest.raises(InputError, match="--imagenet: got no file"):
        models.converted(None, tmp_path / "out")
    (tmp_path / "in.pth").write_bytes(b"other")
    with pytest.raises(
        InputError, match=r"in\.pth: got weights with the SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef2"
    ):
        models.converted(tmp_path / "in.pth", tmp_path / "out")


def test_differences_are_of_the_same_draws(scripts: Any) -> None:
    _, models = scripts
    settings = params.read(ROOT / "params.yaml", Evaluate)
    good = {f"s{n}": histogram((0.9, True), (0.2 + n / 10, False), (0.1, False)) for n in range(5)}
    # Worse by one site alone, which decides about the sign of a difference that is not paired.
    poor = good | {"s4": histogram((0.05, True), (0.6, False), (0.1, False))}
    best, other = models.Draws(good, settings), models.Draws(poor, settings)
    assert (best.ap, other.ap < 1.0, other.less(other)) == (1.0, True, "+0.000 (+0.000 to +0.000)")
    assert (best.drawn - other.drawn >= 0).all()
    assert other.less(best).endswith(" to +0.000)")
    assert other.less(best).startswith("-0.")
    with pytest.raises(ValueError, match="sites"):
        best.less(models.Draws({"s0": good["s0"], "s1": good["s1"]}, settings))


def test_what_was_computed_is_kept(scripts: Any, tmp_path: Path) -> None:
    _, models = scripts
    sites = {"a": histogram((0.9, True), (0.2, False)), "b": histogram((0.3, True))}
    models.Kept(tmp_path).add("default", 1, {"identity": "x", "ap": 0.5}, sites)
    models.Kept(tmp_path).add("default", 2, {"identity": "y", "ap": None}, {"c": sites["a"]})
    again = models.Kept(tmp_path)
    assert (again.has("default", 1, "x"), again.has("default", 1, "z"), again.has("forest", 1, "x")) == (
        True,
        False,
        False,
    )
    assert [one["ap"] for one in again.of("default", 5)] == [0.5, None]
    found = again.sites("default", 2)
    assert sorted(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["b"].positives, sites["b"].positives)


def test_statistics_leave_out_what_has_no_data(scripts: Any) -> None:
    contenders, _ = scripts
    generator = np.random.default_rng(0)
    stack = generator.integers(100, 5000, (2, 12, 14)).astype(np.int16)
    stack[:, 3, 4] = stack[0, 11, 13] = NODATA
    made = contenders.around(stack, ("B8", "B4"))
    assert made.shape == (9, 12, 14)
    known = (stack != NODATA).all(axis=0)
    half = contenders.AROUND_PX // 2
    index = np.where(known, (stack[0] - 1.0 * stack[1]) / (stack[0] + 1.0 * stack[1]), 0)
    for number, layer in enumerate((*stack.astype(float), index)):
        for row, col in ((0, 0), (4, 5), (11, 12)):
            part = np.s_[max(row - half, 0) : row + half + 1, max(col - half, 0) : col + half + 1]
            seen = layer[part][known[part]]
            expected = [layer[row, col], seen.mean(), seen.std()]
            np.testing.assert_allclose(made[3 * number : 3 * number + 3, row, col], expected, rtol=1e-4, atol=1e-4)


def test_a_classifier_of_pixels_scores_windows(scripts: Any) -> None:
    contenders, _ = scripts

    class Half:
        def predict_proba(self, seen: Any) -> Any:
            mine = seen[:, 0] / 10_000
            return np.stack([1 - mine, mine], axis=1)

    class Classes:
        classes = ("other", "mine")

    stack = np.array([[[[0, 2500], [10_000, NODATA]]]], np.int16)
    log_odds = contenders.OfPixels(Half(), lambda one: one, Classes())(stack)
    assert (log_odds.shape, log_odds.dtype, log_odds[0, 0, 1, 1]) == ((1, 1, 2, 2), np.float32, 0)
    assert to_steps(log_odds, 1.0, 0.0)[0, 0].ravel()[:3].tolist() == [0, 2500, STEPS]
