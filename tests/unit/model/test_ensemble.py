"""Several models as one: each by its own rule, the mean of their calibrated log-odds, and nobody who doesn't fit."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sandwatch.errors import InputError
from sandwatch.model.predictor import Predictor
from sandwatch.model.scoring import STEPS, Ensemble, Scored, Scorer, score
from sandwatch.stack import NODATA
from tests.models import section, spec

BANDS = ("B2", "B3", "B4")


def member(seed: int, method: str = "binary", **changes: Any) -> Predictor:
    """A network with random weights of its own."""
    torch.manual_seed(seed)
    model = section(method=method)
    return Predictor(model.build(BANDS, 32), spec(model, **changes), "cpu", precision="32-true")


def scene() -> npt.NDArray[np.int16]:
    """Higher and wider than a window, with a gap."""
    made = np.random.default_rng(5).normal(1100, 300, (3, 70, 61)).astype(np.int16)
    made[:, 30:40, 12:20] = NODATA
    return made


def whole(parts: list[Scored], name: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(part, name) for part in parts], axis=-2)


def scored(scorer: Scorer | Ensemble, region: npt.NDArray[np.bool_] | None = None) -> list[Scored]:
    return list(score(scene(), scorer, region))


def calibrated(scorer: Predictor, region: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Log-odds of a model's scores, and those of high against low confidence on the same scale."""
    log_odds = whole(scored(scorer, region), "log_odds").astype(np.float64) / scorer.spec.temperature
    log_odds[0] += scorer.spec.bias
    return log_odds


UNLIKE = {"mean": (900.0, 1000.0, 1100.0), "std": (150.0, 200.0, 250.0)}
"""Other statistics than those of ``tests.models``."""


@pytest.mark.parametrize("method", ["binary", "three_class"])
def test_an_ensemble_of_one_is_its_member(method: str) -> None:
    alone = member(1, method, temperature=1.7, threshold=0.4501, standardise="scene", **UNLIKE)
    both = [scored(one) for one in (alone, Ensemble({"one": alone}))]
    for name in ("steps", "mine", "classes"):
        np.testing.assert_array_equal(*(whole(parts, name) for parts in both))
    assert whole(both[0], "mine").any()
    assert not whole(both[0], "mine").all()


@pytest.mark.parametrize("method", ["binary", "three_class"])
def test_log_odds_are_the_mean_of_what_each_member_says_calibrated(method: str) -> None:
    """Each brought to its own mean and deviation, by its own temperature and bias, in its own views and batches."""
    members = {
        "first": member(1, method, temperature=0.8, bias=-1.5),
        "second": member(2, method, temperature=2.5, standardise="scene", views=2, batch_size=1, **UNLIKE),
        "third": member(3, method, temperature=1.1, standardise="scene"),
    }
    region = np.ones((70, 61), bool)
    region[:9, :] = False
    alone = [calibrated(one, region) for one in members.values()]
    together = Ensemble(members)
    found = scored(together, region)
    np.testing.assert_allclose(whole(found, "log_odds"), np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    logits = whole(found, "log_odds")[0]
    assert np.isnan(logits[:9]).all()
    known = ~np.isnan(logits)
    np.testing.assert_allclose(
        whole(found, "steps")[known] / STEPS, 1 / (1 + np.exp(-logits[known])), atol=0.51 / STEPS
    )
    assert (together.spec.temperature, together.spec.bias) == (1.0, 0.0)
    apart = calibrated(member(2, method, temperature=2.5, **UNLIKE), region)
    assert np.nanmax(np.abs(apart - alone[1])) > 0.01  # so it does matter how a member is scored


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ((0.25,), 0.25),
        ((0.2, 0.8), 0.5),
        ((0.9, 0.99), 0.9676),
        ((0.5, 0.5, 0.7), 0.5701),
        ((0.0,), 0.0),
        ((1.0,), 1.0),
    ],
)
def test_the_threshold_lies_at_the_mean_of_the_members_log_odds(thresholds: tuple[float, ...], expected: float) -> None:
    made = Ensemble({str(place): member(1, threshold=one) for place, one in enumerate(thresholds)}).spec.threshold
    assert made == expected
    if 0 < expected < 1:
        mean = np.mean([math.log(one / (1 - one)) for one in thresholds])
        assert made == pytest.approx(1 / (1 + math.exp(-mean)), abs=0.5 / STEPS)


def test_where_all_members_see_a_mine_or_none_does_the_ensemble_agrees() -> None:
    members = {str(seed): member(seed, temperature=0.5 * seed, threshold=0.3 + 0.1 * seed) for seed in (1, 2, 3)}
    seen = np.stack([whole(scored(one), "mine") for one in members.values()])
    steps, mine = (whole(scored(together := Ensemble(members)), name) for name in ("steps", "mine"))
    sure = np.abs(steps - together.spec.threshold * STEPS) > 1
    assert mine[seen.all(axis=0) & sure].all()
    assert not mine[~seen.any(axis=0) & sure].any()
    assert (seen.any(axis=0) & ~seen.all(axis=0)).any()  # they do differ


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": ("B3", "B2", "B4")}, "bands B3 B2 B4; expected B2 B3 B4, as cv/1 has it"),
        ({"method": "three_class"}, "method three_class; expected binary"),
        ({"size_px": 64}, "size_px 64; expected 32"),
        ({"overlap_px": 4}, "overlap_px 4; expected 8"),
        ({"without": ("B4",)}, "without B4; expected none"),
        ({"classes": ("other", "sand mine")}, "classes other sand mine; expected other "),
    ],
)
def test_members_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"ensemble, cv/3: got {message}") as caught:
        Ensemble({"cv/1": member(1), "cv/2": member(2), "cv/3": member(3, changes.pop("method", "binary"), **changes)})
    assert "\n" not in str(caught.value)


def test_what_is_invented_in_one_member_is_said() -> None:
    made = Ensemble({"1": member(1), "2": member(2, imagery="synthetic", **UNLIKE)}).spec
    assert (made.imagery, made.labels) == ("mixed", "real")
    assert made.mean == (950.0, 1000.0, 1050.0)
