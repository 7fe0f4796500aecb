"""What is invented is said first, in words that one module decides."""

from typing import get_args

import pytest

from sandwatch import origin


@pytest.mark.parametrize(
    ("sources", "kind"),
    [
        (["synthetic"], "synthetic"),
        (["files", "earthengine"], "real"),
        (["files", "synthetic"], "mixed"),
        (["mixed"], "mixed"),
        (["real", "mixed"], "mixed"),
        (["real", "synthetic"], "mixed"),
    ],
)
def test_kinds_of_sources_and_of_kinds(sources: list[str], kind: str) -> None:
    assert origin.kind_of(sources) == kind


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"imagery": "real", "labels": "real"}, None),
        ({}, None),
        ({"imagery": "synthetic", "labels": "synthetic"}, "SYNTHETIC imagery and labels"),
        ({"imagery": "real", "labels": "synthetic"}, "SYNTHETIC labels"),
        ({"imagery": "mixed", "labels": "real"}, "SYNTHETIC in part: imagery"),
        ({"imagery": "mixed", "labels": "synthetic"}, "SYNTHETIC labels, SYNTHETIC in part: imagery"),
        (
            {"imagery": "synthetic", "model_imagery": "synthetic", "model_labels": "synthetic"},
            "SYNTHETIC imagery, training imagery and training labels",
        ),
    ],
)
def test_words(kinds: dict[str, str], said: str | None) -> None:
    assert origin.words(**kinds) == said
    assert origin.marked("Mines", said) == ("Mines" if said is None else f"{said}. Mines")


def test_nobody_drew_what_is_synthetic() -> None:
    for kind in get_args(origin.Kind):
        assert ("drawn by nobody" in origin.drawn(kind)) == (kind != "real")
        assert ("drawn by people" in origin.drawn(kind)) == (kind != "synthetic")
