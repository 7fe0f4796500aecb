"""Two training steps of the sample's network, its validation and scores, as hashes; prints JSON.

Run as a process of its own, on this processor or on an emulated one: ``python -m tests.training_steps``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from sandwatch import params
from sandwatch.model.network import Model
from sandwatch.params import Bands
from sandwatch.reproducible import Compute, pin
from sandwatch.train.params import Train

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
WINDOWS, SIZE_PX = 2, 64
"""A batch that an emulated processor gets through; the probe's convolutions have the sample's size."""
STEPS = 2
"""A schedule of one cycle needs two to move the weights by more than their last digits."""
EVERY_TERM = {"focal": 0.5, "focal_gamma": 1.5}
"""Of the loss, with a power whose gradient is a square root."""


def run(method: str) -> dict[str, Any]:
    """Trains with all that a real training does, but on noise; needs reproducible mode."""
    import torch
    from torch.utils.data import DataLoader

    from sandwatch.model.channels import Channel
    from sandwatch.model.predictor import Reader, mine_logit
    from sandwatch.train import loop
    from sandwatch.train.augment import Variation

    bands = Bands(**PARAMS["bands"]).names
    values = PARAMS["train"] | {"epochs": 1, "batch_size": WINDOWS, "loss": PARAMS["train"]["loss"] | EVERY_TERM}
    train, model = Train(**values), params.check(Model, PARAMS["model"] | {"method": method})
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 3000, (WINDOWS, len(bands), SIZE_PX, SIZE_PX), generator=draw, dtype=torch.int16)
    mask = torch.randint(0, 3, (WINDOWS, SIZE_PX, SIZE_PX), generator=draw, dtype=torch.uint8)
    torch.manual_seed(train.seed)
    network = model.build(bands, SIZE_PX)
    read = Reader([Channel(name=band, band=band, mean=1500.0, std=800.0) for band in bands], bands)
    moments = [1500.0] * len(bands), [800.0] * len(bands)
    steps = loop.Segmentation(
        network, reader=read, variation=Variation(train, bands, *moments), method=method, train=train
    )
    trainer = loop._trainer(train, Compute(**PARAMS["compute"]), None)
    batches: DataLoader[Any] = DataLoader([(pixels, mask)] * STEPS, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(steps, batches, batches)
    assert trainer.global_step == STEPS
    with torch.inference_mode():
        logits = network.eval()(read(pixels))
        scores = torch.sigmoid(mine_logit(logits) / 1.3), torch.softmax(logits, dim=1)
    return {
        "weights": digest(*network.state_dict().values()),
        "loss": [steps.train_loss.value(), steps.val_loss.value()],
        "scores": digest(*scores),
    }


def digest(*tensors: Any) -> str:
    """SHA-256 over the tensors' bytes."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def main() -> None:
    pin(PARAMS["compute"]["threads"])
    from sandwatch import arithmetic

    # In this order: a probe must not depend on what the process did before, nor what follows on the probe.
    steps = run(PARAMS["model"]["method"])
    print(json.dumps({"steps": steps, "operations": arithmetic.probe()}))


if __name__ == "__main__":
    main()
