"""A model that a share of the observations trained: the others are no part of it, whichever way one asks."""

from pathlib import Path

import pandas as pd
import pytest

from sandwatch.audit.backward import Question, backward
from sandwatch.audit.forward import audit
from tests.audit_history import Made, write_history


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("shared") / "clone"
    return write_history(root, labels=300, revisions=1, experiments=0, snapshots=1, models=1, share=0.3)


def uses(made: Made) -> "pd.Series[str]":
    found = audit("main", where=made.root, offline=True)
    assert found.state == "verified", found.verdict
    assert found.labels is not None
    return found.labels.set_index("feature_id")["use"]


def test_labels_of_the_others_are_in_no_chip(shared: Made, made: Made) -> None:
    found, whole = uses(shared), uses(made)
    could = whole.isin(["trained", "left out", "never drawn"])
    out = could & (found == "no chip")
    assert 0.3 < out.sum() / could.sum() < 0.9
    assert (found[~could] == whole[~could]).all()  # what validates and tests is as it was


def test_from_a_label_the_answer_is_the_same(shared: Made) -> None:
    found = uses(shared)
    of_model = {"trained": "trained", "no chip": "never saw", "validated": "validated"}
    for use, state in of_model.items():
        (model,) = backward(Question(label=found.index[found == use][0]), where=shared.root, offline=True).models
        assert model.state == state
        assert list(model.uses) == [use]


def test_a_model_that_more_observations_trained_than_its_params_say_is_found_out(tmp_path: Path) -> None:
    history = write_history(
        tmp_path / "clone", labels=60, revisions=1, experiments=0, snapshots=1, models=1, share=0.3, trained=0.9
    )
    found = audit("main", where=history.root, offline=True)
    (link,) = [link for link in found.links if link.name == "chips"]
    assert link.state == "broken"
    assert "observations that trained" in link.detail
