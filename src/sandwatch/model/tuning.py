"""How much of a network learns: ``train.tuning`` of params.yaml. :mod:`sandwatch.model.adapt` does it, with torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WrapValidator
from pydantic_core import PydanticCustomError

from sandwatch.params import Count, Fraction


def _targets(value: Any, handler: Any) -> Any:
    try:
        targets = handler(value)
        if not targets or not all([targets] if isinstance(targets, str) else targets):
            raise ValueError
        if isinstance(targets, str):
            re.compile(targets)
    except (ValueError, re.error):
        raise PydanticCustomError("targets", "a list of names of layers, or a regular expression") from None
    return targets


class Lora(BaseModel):
    """Low-rank adapters of the encoder. Source: Hu et al. 2021, LoRA.

    Attributes:
        rank: of what is added to a layer's weights.
        alpha: what is added is scaled by ``alpha / rank``.
        dropout: share of an adapter's inputs that are left out while it learns.
        targets: names of layers of the encoder (the last parts of their paths), or a regular expression that their
            whole paths match.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    rank: Count
    alpha: Count
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    targets: Annotated[str | Annotated[tuple[str, ...], Field(strict=False)], WrapValidator(_targets)]


class Tuning(BaseModel):
    """How much of a network learns, and how fast.

    Attributes:
        method: full, probe, frozen, gradual or lora.
        frozen_share: share of the epochs in which ``gradual`` leaves the encoder as it is.
        layer_decay: each block of the encoder learns at this share of the rate of the one after it.
        warmup_share: share of the steps in which the rate rises.
        lora: of method lora.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    method: Literal["full", "probe", "frozen", "gradual", "lora"]
    frozen_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)]
    warmup_share: Fraction
    lora: Lora
