"""The weights that a model started from are a link: what the card says must be what its params pin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandwatch.audit.chain import models_in
from sandwatch.audit.forward import _start
from sandwatch.audit.history import History, Lock
from sandwatch.audit.objects import Objects
from sandwatch.audit.record import Link
from sandwatch.model.card import Card, Start
from tests.audit_history import Made
from tests.models import fields

SHA = "7" * 64


def lock(weights: Any) -> Lock:
    stage = {
        "cmd": "python stages/train.py",
        "params": {"params.yaml": {"model": {"kind": "smp", "weights": weights}}},
        "outs": [{"path": "models/model.safetensors", "hash": "md5", "md5": "1" * 32}],
    }
    return Lock(json.dumps({"schema": "2.0", "stages": {"train": stage}}))


def card(start: Start | None) -> Card:
    made = {"inputs": {}, "code": {}, "params_sha256": SHA, "replicate": 0, "matched": ()}
    return Card(**fields(start=start) | made)


def links(made: Made, start: Start | None, weights: Any) -> list[Link]:
    history = History(made.root)
    try:
        found = lock(weights)
        return _start(card(start), found, models_in(found)[0], history, Objects(made.root, offline=True))
    finally:
        history.git.close()


PUBLISHED = Start(name="galileo/nano", sha256=SHA, licence="MIT", forbids="")


@pytest.mark.parametrize("weights", [{"name": "galileo/nano", "sha256": SHA}, "galileo/nano"])
def test_published_weights_are_those_that_params_pin(made: Made, weights: Any) -> None:
    (link,) = links(made, PUBLISHED, weights)
    assert (link.name, link.state) == ("start", "verified")
    assert "galileo/nano" in link.detail
    assert "MIT" in link.detail
    assert SHA in link.detail


def test_a_model_that_started_from_nothing_has_no_such_link(made: Made) -> None:
    assert links(made, None, None) == []


@pytest.mark.parametrize(
    ("start", "weights"),
    [
        (PUBLISHED, None),
        (None, {"name": "galileo/nano", "sha256": SHA}),
        (PUBLISHED, {"name": "galileo/nano", "sha256": "8" * 64}),
        (PUBLISHED, "galileo/tiny"),
        (PUBLISHED, 3),
    ],
)
def test_a_card_that_says_something_else_breaks_the_chain(made: Made, start: Start | None, weights: Any) -> None:
    (link,) = links(made, start, weights)
    assert (link.name, link.state) == ("start", "broken")


def test_a_model_of_ours_is_named_by_the_revision_that_holds_it(made: Made) -> None:
    history = History(made.root)
    try:
        objects = Objects(made.root, offline=True)
        newest = next(r for r in history.revisions if models_in(history.lock(r)))
        files = dict(models_in(history.lock(newest))[0].files)
        before = Card.read(objects.path(files["model.json"], "model.json")).weights_sha256
    finally:
        history.git.close()
    for sha, state in ((before, "verified"), (SHA, "unverified")):
        start = Start(name="before.safetensors", sha256=sha, licence="that of the labels", forbids="", model=True)
        (link,) = links(made, start, {"name": "before.safetensors", "sha256": sha})
        assert link.state == state
        assert ("sandwatch audit names its labels too" in link.detail) == (state == "verified")
