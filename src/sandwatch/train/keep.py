"""The state of a training, kept after each epoch, so that a run goes on where one was killed. Never an output."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch

from sandwatch._torchvision import ensure_torchvision
from sandwatch.work import Work

ensure_torchvision()
# After the guard, because it imports torchvision.
import lightning  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint  # noqa: E402
from lightning.pytorch.plugins.io import CheckpointIO  # noqa: E402

STATE = "state of the training"
"""What a kept state is called."""


class Kept(CheckpointIO):
    """The state of a training, kept among finished work, for a run that goes on where this one is killed."""

    def __init__(self, work: Work) -> None:
        """Takes where to keep it."""
        self._work = work

    def find(self, inputs: Any) -> bool:
        """Whether an earlier run of this very training left a state; if so, it is loaded.

        Args:
            inputs: all that the training depends on, as plain JSON.
        """
        self._key = self._work.key(inputs)
        content = self._work.take_bytes(self._key, STATE)
        # A state holds numbers and names; nothing else is loaded, since unpickling could run anything.
        if content is not None:
            self._state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        return content is not None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """What :meth:`find` found."""
        return self._state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keeps a state in place of the one before. Where that can't be, a line says so, and training goes on."""
        content = BytesIO()
        torch.save(checkpoint, content)
        self._work.put_bytes(self._key, content.getbuffer(), STATE)

    def remove_checkpoint(self, path: Any = None) -> None:
        """Once the training is over and what it made is written."""
        self._work.drop(self._key)


class AfterEachEpoch(Checkpoint):
    """Has the state of a training kept after each epoch.

    It is all that the next epoch depends on: weights, optimizer, schedule, early stopping, and what the tracker holds.
    What an epoch draws, windows and random numbers, depends on its number and the seed alone.
    """

    def __init__(self) -> None:
        """Begins with nothing over."""
        self._over = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Trains no further where early stopping had ended it."""
        trainer.should_stop = self._over

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Runs last, after early stopping."""
        self._over = trainer.should_stop
        trainer.save_checkpoint(STATE)

    def state_dict(self) -> dict[str, Any]:
        """Whether it was the last epoch."""
        return {"over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What an earlier run told."""
        self._over = state_dict["over"]
