"""Trains on the tiny chips with every option of ``train`` off, in reproducible mode; prints hashes as JSON.

Run as a process of its own, since reproducible mode must come before torch: ``python -m tests.recorded_training``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from sandwatch.reproducible import Compute, pin
from tests import tiny_chips, training
from tests.models import section


def weights(folder: Path, method: str, **changes: object) -> str:
    """SHA-256 over names and tensors of the weights that a training writes; their header may say more than it did."""
    from safetensors.torch import load_file

    from sandwatch.model.network import Scoring
    from sandwatch.origin import About
    from sandwatch.train.data import Chips
    from sandwatch.train.loop import Provenance, learn

    learn(
        chips=Chips(tiny_chips.write(folder / "chips")),
        bands=tiny_chips.BANDS,
        model=section(decoder_channels=[32, 16, 16], method=method),
        train=training.section(**changes),
        compute=Compute(reproducible=True, threads=2, precision="32-true"),
        scoring=Scoring(overlap_px=8, batch_size=4, views=1),
        provenance=Provenance(
            about=About(label_fingerprint="1" * 64, imagery="synthetic", labels="mixed"),
            inputs={},
            code={},
            params_sha256="2" * 64,
            replicate=0,
        ),
        work=None,
        weights=folder,
        models=folder / "models",
        results=folder / "results",
        report=lambda line: None,
    )
    hashed = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / "models/model.safetensors").items()):
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()


def main() -> None:
    pin(2)
    from sandwatch import arithmetic

    found = {"arithmetic": arithmetic.fingerprint(arithmetic.probe())}
    with tempfile.TemporaryDirectory() as folder:
        found["binary"] = weights(Path(folder), "binary")
    with tempfile.TemporaryDirectory() as folder:
        found["three_class"] = weights(Path(folder), "three_class", epochs=2, loss={"focal": 0.5, "focal_gamma": 1.5})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
