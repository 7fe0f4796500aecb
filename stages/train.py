"""Trains the segmentation model, tracked by DVCLive, and writes its card.

Reads:
    --chips: folder of windows.parquet, pixels/<obs_id>.npy and masks/<obs_id>.npy.
    --annotations-metrics: metrics of the annotations, for the label fingerprint.
    --weights: folder of files that an encoder may start from. No dependency of the stage: params.yaml names the one
        file that is read, with its SHA-256.

Writes:
    --models: model.safetensors, model.json (the card), exposures.parquet (how often each training window was drawn).
    --results: DVCLive's metrics.json, plots and images.
    runs/train.json: durations and devices of this run, for people; neither git nor DVC locks it.
"""

from __future__ import annotations

import json
from pathlib import Path

from sandwatch.errors import InputError
from sandwatch.files import write_json
from sandwatch.params import Bands, Chips, Compute, Infer, Model, StageParams, Train
from sandwatch.reproducible import pin
from sandwatch.stage import Input, Output, progress, run


def main(*, chips: Input, annotations_metrics: Input, weights: Input, models: Output, results: Output) -> None:
    """Trains the segmentation model, tracked by DVCLive, and writes its card."""
    params = StageParams.load("train")
    compute, model = params[Compute], params[Model]
    metrics = json.loads(annotations_metrics.read_text())
    if "label_fingerprint" not in metrics:
        raise InputError(
            str(annotations_metrics),
            got=f"keys {sorted(metrics)}",
            expected="label_fingerprint among them",
            fix="run dvc repro annotations",
        )
    if compute.reproducible:
        pin(compute.threads)
    from sandwatch.learn import card, data, task

    start = model.encoder_weights
    facts = task.learn(
        chips=data.Chips(chips),
        bands=params[Bands].names,
        model=model,
        train=params[Train],
        compute=compute,
        infer=params[Infer],
        provenance=task.Provenance(
            label_fingerprint=metrics["label_fingerprint"],
            inputs=card.hash_inputs([chips, annotations_metrics, *([weights / start.file] if start else [])]),
            code=card.hash_code(Path(__file__)),
            params_sha256=card.hash_params(
                [params[Bands], params[Chips], compute, params[Infer], model, params[Train]]
            ),
        ),
        weights=weights,
        models=models,
        results=results,
        report=progress,
    )
    if facts is not None:
        write_json(Path("runs/train.json"), facts)


if __name__ == "__main__":
    run(main)
