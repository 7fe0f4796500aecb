"""What params.yaml may say of labels: section ``annotations``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sandwatch.params import Section


class Annotations(Section):
    """Where labels come from and which of them count."""

    section = "annotations"
    source: Literal["synthetic", "labelbox", "labelbox_export", "geojson"]
    labelbox_project: str
    snapshot: Annotated[str, Field(min_length=1)]
    mine_class: Annotated[str, Field(min_length=1)]
    confidence_question: Annotated[str, Field(min_length=1)]
    confidence_answers: dict[str, Literal["low", "high"]] = Field(min_length=2)
    activity_question: Annotated[str, Field(min_length=1)]
    activity_answers: dict[str, bool] = Field(min_length=2)
    done_statuses: tuple[str, ...] = Field(min_length=1, strict=False)
    consensus: Literal["refuse", "selected", "latest"]
    max_vertices: Annotated[int, Field(ge=4)] = 5000
    """With a default, because the audit reads snapshots that were frozen before there was such a limit."""
