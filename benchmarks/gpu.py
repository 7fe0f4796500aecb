"""On a machine with a GPU: how fast is training, and do two runs give the same weights?

    python benchmarks/gpu.py

Trains on data/chips with the model and schedule of params.yaml, as the pipeline does with compute.reproducible: false:
twice in float32, once in bf16. Prints a line a run: windows a second, validation AP, the hash of the weights.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.model.network import Model, Scoring
from sandwatch.origin import About
from sandwatch.reproducible import Compute
from sandwatch.stage import run
from sandwatch.train.params import Train

PARAMS = Path("params.yaml")


def main() -> None:
    """Prints a line for each of three runs."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "torch", got="no CUDA device", expected="a GPU and a CUDA build of torch", fix="make setup TORCH=cuda"
        )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    hashes = [train("32-true") for _ in range(2)]
    print("float32: " + ("the same weights twice" if hashes[0] == hashes[1] else "other weights the second time"))
    train("bf16-mixed")


def train(precision: str) -> str:
    """Trains once; prints a line and returns the hash of the weights."""
    from sandwatch.train import data, loop

    with tempfile.TemporaryDirectory() as folder:
        models, results = Path(folder, "models"), Path(folder, "results")
        facts = loop.learn(
            chips=data.Chips(Path("data/chips")),
            bands=params.read(PARAMS, params.Bands).names,
            model=params.read(PARAMS, Model),
            train=params.read(PARAMS, Train),
            compute=Compute(reproducible=False, threads=1, precision=precision),  # type: ignore[arg-type]
            scoring=params.read(PARAMS, Scoring),
            provenance=loop.Provenance(
                about=About.read(Path("data/chips/about.json")), inputs={}, code={}, replicate=0, params_sha256="0" * 64
            ),
            work=None,
            weights=Path("data/weights"),
            models=models,
            results=results,
            report=lambda line: None,
        )
        card = json.loads((models / "model.json").read_text())
        metrics = json.loads((results / "metrics.json").read_text())
        rate = (facts or {})["training_windows_per_second"]
        print(
            f"{precision}: {rate} windows/s, validation AP {metrics['val_ap']}, weights {card['weights_sha256'][:16]}"
        )
        return str(card["weights_sha256"])


if __name__ == "__main__":
    run(main)
