"""A section ``train`` of params.yaml, for tests: everything that is an option is off."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from sandwatch.train.params import Train

SECTION: dict[str, Any] = {
    "epochs": 3,
    "windows_per_epoch": 32,
    "sampling": {"balance": "none", "mine_share": 0.5, "observations_share": 1.0},
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "weight_decay_on": "all",
    "tuning": {
        "method": "full",
        "frozen_share": 0.2,
        "layer_decay": 1.0,
        "warmup_share": 0.3,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["qkv"]},
    },
    "ema": 0.0,
    "patience": 6,
    "loss": {
        "bce": 1.0,
        "dice": 0.5,
        "focal": 0.0,
        "lovasz": 0.0,
        "tversky": 0.0,
        "mine_weight": 6.0,
        "focal_gamma": 2.0,
        "tversky_alpha": 0.3,
        "tversky_beta": 0.7,
        "edge_smoothing_px": 0,
    },
    "flips": True,
    "quarter_turns": True,
    "radiometry": {"gain": 0.0, "offset": 0.0, "noise": 0.0, "gamma": 0.0},
    "radar_dropout": 0.0,
    "seed": 0,
}


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    inside = {
        key: _changed(values[key], change)
        for key, change in changes.items()
        if isinstance(change, dict) and isinstance(values.get(key), dict)
    }
    return values | changes | inside


def section(**changes: Any) -> Train:
    """The section with changes; of a key that holds keys, those that are named change."""
    return Train.model_validate(_changed(SECTION, changes))


def want_peft() -> None:
    """Skips a test of adapters where their library, which is optional, is not installed."""
    if find_spec("peft") is None:
        pytest.skip("the optional library peft isn't installed: LoRA is not tested")
