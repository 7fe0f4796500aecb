"""What params.yaml may say of training: section ``train``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from sandwatch.model.tuning import Tuning
from sandwatch.params import Count, Fraction, NotNegative, Positive, Section, Seed

Below1 = Annotated[float, Field(ge=0.0, lt=1.0)]


def _weight(value: Any, handler: Any) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError("weight", "a number greater than 0, or from_data") from None


class Part(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Loss(Part):
    """Weights of the terms of the loss, of which zero leaves a term out, and what the terms go by.

    Attributes:
        bce, dice, focal, lovasz, tversky: weights of the terms.
        mine_weight: of mine pixels in bce and focal; ``from_data``: as many times as others outnumber them.
        focal_gamma: how much focal loss discounts what is easy.
        tversky_alpha, tversky_beta: weights of false alarms and of misses.
        edge_smoothing_px: how far from a label's edge targets are softened, pixels.
    """

    bce: NotNegative
    dice: NotNegative
    focal: NotNegative
    lovasz: NotNegative
    tversky: NotNegative
    mine_weight: Annotated[Positive | Literal["from_data"], WrapValidator(_weight)]
    focal_gamma: NotNegative
    tversky_alpha: NotNegative
    tversky_beta: NotNegative
    edge_smoothing_px: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.bce + self.dice + self.focal + self.lovasz + self.tversky == 0:
            raise ValueError("at least one of bce, dice, focal, lovasz and tversky must be above 0")
        return self


class Sampling(Part):
    """Which windows an epoch draws.

    Attributes:
        balance: none, or what is drawn as often as any other of its kind: river, group (of sites near each other) or
            site.
        mine_share: share of windows that hold a mine, where there are both kinds.
        observations_share: share of the training observations that train at all (:mod:`sandwatch.share`).
    """

    balance: Literal["none", "river", "group", "site"]
    mine_share: Fraction
    observations_share: Annotated[float, Field(gt=0.0, le=1.0)]


class Radiometry(Part):
    """How far each band of each window is changed, by draws of its own (:mod:`sandwatch.train.augment`)."""

    gain: Below1
    offset: NotNegative
    noise: NotNegative
    gamma: NotNegative


class Train(Section):
    """How the network learns."""

    section = "train"
    epochs: Count
    windows_per_epoch: Count
    sampling: Sampling
    batch_size: Count
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Positive
    weight_decay: NotNegative
    weight_decay_on: Literal["all", "matrices"]
    tuning: Tuning
    ema: Below1
    patience: Count
    loss: Loss
    flips: bool
    quarter_turns: bool
    radiometry: Radiometry
    radar_dropout: Below1
    seed: Seed
