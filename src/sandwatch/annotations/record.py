"""What every source of labels is read into, before any rule is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shapely.errors import ShapelyError

_OF_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, ShapelyError)
"""What code raises that is given values without sense: numbers of ten thousand digits, halves of characters, lists in
lists without end. ``InputError`` isn't among them: it is raised on purpose."""


class MalformedError(Exception):
    """A raw row can't be read; ``str()`` of it says why."""

    def __init__(self, detail: str, drawn: int = 0) -> None:
        """``drawn``: how many drawn objects the row holds, as far as that can be told."""
        self.drawn = drawn
        super().__init__(detail)


@contextmanager
def guarded(drawn: Callable[[], int]) -> Iterator[None]:
    """Makes what breaks on a row's values a fault of the row, so that it ends in quarantine and the stage goes on.

    Args:
        drawn: counts the row's drawn objects, once they are asked for.

    Raises:
        MalformedError: something broke; the detail says what.
    """
    try:
        yield
    except _OF_VALUES as error:
        raise MalformedError(f"can't be judged: {type(error).__name__}: {error}", drawn()) from error


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One object that a person drew.

    Attributes:
        feature_id: its id at the source.
        class_name: its class in the ontology.
        answer: what was answered to the confidence question, None where nothing was.
        geometry: a GeoJSON geometry as received (longitude, latitude), not checked yet; None where there is none.
        no_geometry, no_answer: what the source has in their place, for people; empty where there is nothing.
    """

    feature_id: str
    class_name: str
    answer: str | None
    geometry: Any
    no_geometry: str = ""
    no_answer: str = ""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one person left on one observation.

    Attributes:
        label_id: its id at the source.
        drawn: the objects drawn, in the source's order.
        mines: whether the person says that there are mines; None where they don't say.
        done: whether the source's workflow regards it as finished.
        skipped: whether the person skipped the image.
        selected: whether the source's consensus selected it.
        workflow_status: as the source names it, None where it has no workflow.
        created_by, created_at, updated_at: None where the source doesn't say; times are ISO 8601 in UTC.
        reviews: JSON list as received.
        project: its project at the source, None where there are none.
    """

    label_id: str
    drawn: tuple[Drawn, ...]
    mines: bool | None
    done: bool = True
    skipped: bool = False
    selected: bool = True
    workflow_status: str | None = None
    created_by: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    reviews: str = "[]"
    project: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One raw row of a snapshot: an image that was handed to annotators.

    Attributes:
        row_id: its id at the source.
        names: names that the observation may go by, the likeliest first.
        labels: everything that was left on it.
        empty: why there is none, for people.
    """

    row_id: str
    names: tuple[str, ...]
    labels: tuple[Label, ...]
    empty: str = "the row holds no label"
