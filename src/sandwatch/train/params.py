"""What params.yaml may say of training: section ``train``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from sandwatch.params import Count, NotNegative, Positive, Section, Seed


class Loss(BaseModel):
    """Weights of the terms of the loss; a weight of zero leaves the term out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bce: NotNegative
    dice: NotNegative
    focal: NotNegative
    mine_weight: Positive
    focal_gamma: NotNegative

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if self.bce + self.dice + self.focal == 0:
            raise ValueError("at least one of bce, dice and focal must be above 0")
        return self


class Train(Section):
    """How the network learns."""

    section = "train"
    epochs: Count
    windows_per_epoch: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NotNegative
    patience: Count
    loss: Loss
    flips: bool
    quarter_turns: bool
    seed: Seed
