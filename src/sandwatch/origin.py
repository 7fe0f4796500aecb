"""What imagery and labels are: painted by the generator of the sample region, real, or some of each.

It is a fact that travels with every output, from the chips on, so that what was invented is never taken for a place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sandwatch.errors import InputError

Kind = Literal["synthetic", "real", "mixed"]
SYNTHETIC = "synthetic"
"""The source of imagery and of labels, in params.yaml and in the manifest, that invents them."""


class About(BaseModel):
    """data/chips/about.json: what the chips are made of.

    Attributes:
        label_fingerprint: of the labels.
        imagery: what their pixels are.
        labels: what their labels are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    label_fingerprint: str
    imagery: Kind
    labels: Kind

    @classmethod
    def read(cls, path: Path) -> About:
        """Reads it.

        Raises:
            InputError: it is no such file.
        """
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(
                str(path), got=str(error)[:300], expected="what the stage chips wrote", fix="run dvc repro chips"
            ) from None


def kind_of(sources: Iterable[str]) -> Kind:
    """What comes from these sources; at least one."""
    invented = {source == SYNTHETIC for source in sources}
    return "mixed" if len(invented) > 1 else "synthetic" if True in invented else "real"
