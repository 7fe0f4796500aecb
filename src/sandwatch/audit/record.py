"""What an audit says: links that were checked one by one, revisions, and the tables of everything behind a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import geopandas as gpd
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from sandwatch.learn.card import Card, Spec
from sandwatch.schemas import OBS_ID, PRODUCTS, SHA256, Geometries, Table

State = Literal["verified", "broken", "unverified"]
LINKS = (
    "signature",
    "statement",
    "subjects",
    "release",
    "result",
    "weights",
    "card",
    "working tree",
    "revision",
    "lock",
    "pipeline",
    "code",
    "inputs",
    "params",
    "chips",
    "fingerprint",
    "labels",
    "snapshot",
    "imagery",
    "rebuild aoi",
    "rebuild export",
    "rebuild annotations",
    "rebuild chips",
    "rebuild train",
)
"""The links of the chain, from the thing in hand back to where it came from: the order of a report, and what "first"
means in "the first link that broke"."""
USES = ("trained", "left out", "never drawn", "validated", "tested", "no chip")
"""What a model did with a label; a label whose windows lie in two folds has two of these, '+' between.

trained: pixels of it were drawn and counted as mine by the loss. left out: its pixels were drawn, but method binary
ignores low confidence. never drawn: it lies in training windows that no epoch drew. validated, tested: it lies in
windows of that fold. no chip: no pixel of it is in any window."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of the chain, and whether it holds.

    Attributes:
        name: one of ``LINKS``.
        state: verified (a hash or a count was computed and agrees), broken (it disagrees), unverified (it could not be
            computed).
        detail: what was compared, what differs, or why it could not be told.
    """

    name: str
    state: State
    detail: str


class Name(NamedTuple):
    """A name that points at a revision.

    Attributes:
        kind: ``branch``, ``tag``, ``artifact`` (a tag of DVC's model registry) or ``experiment``.
        name: without its namespace.
    """

    kind: Literal["branch", "tag", "artifact", "experiment"]
    name: str


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A commit, an experiment, or the files that lie there uncommitted.

    Attributes:
        commit: its hash; '' for the working tree.
        kind: ``commit`` (reachable from a branch, a tag or HEAD), ``experiment`` (of DVC) or ``working tree``.
        names: what points at it.
        time: of the commit, ISO 8601 in UTC; '' for the working tree.
        subject: first line of its message.
    """

    commit: str
    kind: Literal["commit", "experiment", "working tree"]
    names: tuple[Name, ...] = ()
    time: str = ""
    subject: str = ""

    def __str__(self) -> str:
        names = f" ({', '.join(name.name for name in self.names)})" if self.names else ""
        return f"{self.commit[:10] or self.kind}{names}"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A revision whose ``dvc.lock`` holds a model.

    Attributes:
        revision: it.
        links: what could be checked in git alone: lock, pipeline, code, inputs, params.
    """

    revision: Revision
    links: tuple[Link, ...]

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that don't hold."""
        return tuple(link for link in self.links if link.state == "broken")


class LabelRows(Table):
    """A label behind a model: what a person drew, and what the model did with it."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "feature_id"]
    feature_id: Series[str] = pa.Field(unique=True)
    label_id: Series[str]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    class_name: Series[str]
    confidence: Series[str] = pa.Field(isin=["low", "high"])
    created_by: Series[str] = pa.Field(nullable=True, description="the annotator")
    created_at: Series[str] = pa.Field(nullable=True, description="ISO 8601, UTC")
    updated_at: Series[str] = pa.Field(nullable=True)
    reviews: Series[str] = pa.Field(description="JSON list as exported")
    workflow_status: Series[str] = pa.Field(nullable=True)
    area_m2: Series[float] = pa.Field(gt=0)
    fold: Series[str] = pa.Field(description="of the windows it lies in, '+' between; '' without any")
    use: Series[str] = pa.Field(description="of USES, '+' between")
    chips: Series[int] = pa.Field(ge=0, description="windows that hold pixels of it")
    pixels_train: Series[int] = pa.Field(ge=0, description="in training windows; once for each window")
    pixels_val: Series[int] = pa.Field(ge=0)
    pixels_test: Series[int] = pa.Field(ge=0)
    draws: Series[int] = pa.Field(ge=0, description="how often training windows with pixels of it were drawn")
    pixels_drawn: Series[int] = pa.Field(ge=0, description="pixels in training windows times their draws")
    positives_drawn: Series[int] = pa.Field(ge=0, description="those that the loss counted as mine")
    label_sha256: Series[str] = pa.Field(str_matches=SHA256)
    row_sha256: Series[str] = pa.Field(str_matches=SHA256, description="of the raw row in export.ndjson")
    geometry: Geometries


class ChipRows(Table):
    """Pixels that a label put into a window, and how often training drew that window."""

    _sort_by: ClassVar[list[str]] = ["chip_id", "feature_id"]
    chip_id: Series[str]
    feature_id: Series[str]
    fold: Series[str] = pa.Field(isin=["train", "val", "test"])
    pixels: Series[int] = pa.Field(ge=1)
    draws: Series[int] = pa.Field(ge=0, description="0 outside training")


class ObservationRows(Table):
    """An observation that was looked at; those without mines are the negatives."""

    _sort_by: ClassVar[list[str]] = ["obs_id"]
    obs_id: Series[str] = pa.Field(unique=True, str_matches=OBS_ID)
    site_id: Series[str]
    has_mines: Series[bool]
    polygons: Series[int] = pa.Field(ge=0)
    label_id: Series[str]
    created_by: Series[str] = pa.Field(nullable=True)
    workflow_status: Series[str] = pa.Field(nullable=True)
    snapshot: Series[str]
    fold: Series[str] = pa.Field(description="of its windows, '+' between; '' without any")
    windows: Series[int] = pa.Field(ge=0)
    draws: Series[int] = pa.Field(ge=0, description="how often training windows of it were drawn")


class SceneRows(Table):
    """A raster behind a model: of an observation that has windows."""

    _sort_by: ClassVar[list[str]] = ["obs_id", "product"]
    obs_id: Series[str] = pa.Field(str_matches=OBS_ID)
    product: Series[str] = pa.Field(isin=PRODUCTS)
    fold: Series[str]
    path: Series[str]
    sha256: Series[str] = pa.Field(str_matches=SHA256)
    source: Series[str]
    source_images: Series[str] = pa.Field(description="JSON list of {id, date, processing_baseline}")
    crs: Series[str]
    transform: Series[str] = pa.Field(description="the six affine coefficients a..f, ',' between")
    width_px: Series[int] = pa.Field(ge=1)
    height_px: Series[int] = pa.Field(ge=1)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything behind a model, as far as it could be followed.

    Attributes:
        target: what was asked about, as given.
        spec: what the model says of itself; None where only its hash is known.
        card: of the model, which says what made it; None where no card could be read.
        links: the chain, in the order of ``LINKS``.
        holders: every revision that holds the model, newest first.
        revision: the one whose files were followed; None for a model outside any repository.
        params: of the stages behind the model, by section.
        labels: rows of :class:`LabelRows`; None where the table could not be reached, like the others.
        windows: rows of :class:`sandwatch.schemas.Windows` with ``draws``: how often training drew each.
        chips: rows of :class:`ChipRows`.
        observations: rows of :class:`ObservationRows`.
        quarantine: rows of :class:`sandwatch.schemas.Quarantine`.
        imagery: rows of :class:`SceneRows`.
        notes: what could not be seen, and how to see it.
        pictures: RGB rasters of observations that lie on this machine and have the hash that ``imagery`` gives, by
            obs_id; empty unless asked for. No output names these paths.
    """

    target: str
    spec: Spec | None
    card: Card | None
    links: tuple[Link, ...]
    holders: tuple[Holder, ...] = ()
    revision: Revision | None = None
    params: dict[str, Any] = field(default_factory=dict)
    labels: gpd.GeoDataFrame | None = None
    windows: pd.DataFrame | None = None
    chips: pd.DataFrame | None = None
    observations: pd.DataFrame | None = None
    quarantine: pd.DataFrame | None = None
    imagery: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that don't hold, the first one first."""
        return tuple(link for link in self.links if link.state == "broken")

    @property
    def verdict(self) -> str:
        """One line."""
        return verdict(self.links)

    @property
    def uses(self) -> dict[str, int]:
        """How many labels have each of ``USES``, in that order; a label that has two counts in both."""
        combined = {} if self.labels is None else self.labels["use"].value_counts().to_dict()
        counts = {use: sum(n for text, n in combined.items() if use in text.split("+")) for use in USES}
        return {use: count for use, count in counts.items() if count}

    @property
    def negatives(self) -> pd.DataFrame | None:
        """The observations without mines."""
        return None if self.observations is None else self.observations[~self.observations["has_mines"]]


def verdict(links: tuple[Link, ...]) -> str:
    """What a chain comes to, in one line."""
    broken = [link for link in links if link.state == "broken"]
    unverified = [link for link in links if link.state == "unverified"]
    if broken:
        return f"BROKEN at {broken[0].name}: {broken[0].detail}"
    if unverified:
        return f"UNVERIFIED in part: {', '.join(dict.fromkeys(link.name for link in unverified))}; the rest holds"
    return "VERIFIED: every link holds"


def in_order(links: list[Link]) -> tuple[Link, ...]:
    """Links in the order of ``LINKS``, and within a name in the order given."""
    return tuple(sorted(links, key=lambda link: LINKS.index(link.name)))


__all__ = [
    "LINKS",
    "USES",
    "Audit",
    "ChipRows",
    "Holder",
    "LabelRows",
    "Link",
    "Name",
    "ObservationRows",
    "Revision",
    "SceneRows",
    "in_order",
    "verdict",
]
