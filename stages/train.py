"""Trains the segmentation model, tracked by DVCLive, and writes its card.

Reads:
    --chips: folder of windows.parquet, pixels/<obs_id>.npy, masks/<obs_id>.npy and about.json (what they are made of).
    --code: which code this stage can run.
    --weights: folder of files that an encoder may start from. No dependency of the stage: params.yaml names the one
        file that is read, with its SHA-256.
    --folds, --replicate: a table (schemas.Folds) and which of its replicates; the stages ``cv_train`` have them.

Writes:
    --models: model.safetensors, model.json (the card), exposures.parquet (how often each training window was drawn).
    --results: DVCLive's metrics.json, plots and images; with method lora adapter.safetensors (model/adapter.py).
    runs/train.json: durations, devices and arithmetic of this run, for people; neither git nor DVC locks it.
    data/arithmetic.json, in reproducible mode: on what arithmetic these weights were made. Git tracks it, DVC doesn't.
    Where either can't be written, a note says so, and the stage has not failed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from sandwatch.files import read_json, sha256, write_json
from sandwatch.model.network import Model, Scoring, Sha256
from sandwatch.origin import About
from sandwatch.params import Bands, StageParams
from sandwatch.reproducible import Compute, pin
from sandwatch.stage import Folds, Input, Output, Replicate, aside, progress, run
from sandwatch.train.params import Train


def main(
    *,
    chips: Input,
    code: Input,
    weights: Input,
    models: Output,
    results: Output,
    folds: Folds = None,
    replicate: Replicate = 0,
) -> None:
    """Trains the segmentation model, tracked by DVCLive, and writes its card."""
    params = StageParams.load("train")
    compute, model = params[Compute], params[Model]
    if compute.reproducible:
        pin(compute.threads)
    from sandwatch import arithmetic
    from sandwatch.model import card
    from sandwatch.train import data, loop
    from sandwatch.work import Work

    operations = arithmetic.probe() if compute.reproducible else {}
    start = model.weights
    facts = loop.learn(
        chips=data.Chips(chips, data.folds_of(folds, replicate)),
        bands=params[Bands].names,
        model=model,
        train=params[Train],
        compute=compute,
        scoring=params[Scoring],
        provenance=loop.Provenance(
            about=About.read(chips / "about.json"),
            inputs=card.hash_inputs(
                [chips, *([folds] if folds else []), *([weights / start.name] if start and start.is_file else [])]
            ),
            code=read_json(
                code,
                TypeAdapter(dict[str, Sha256]).validate_python,
                expected="the list that the stage check wrote",
                fix="run dvc repro check",
            ),
            params_sha256=card.hash_params(params.values),
            replicate=replicate,
        ),
        work=Work.open(Path(__file__), computed_on=arithmetic.here(operations)),
        weights=weights,
        models=models,
        results=results,
        report=progress,
    )
    if facts is None:
        return
    if replicate:
        with aside():
            write_json(Path(f"runs/cv/{replicate}.json"), facts)
        return
    if compute.reproducible:
        facts["arithmetic"] = {"fingerprint": arithmetic.fingerprint(operations), "operations": operations}
        with aside():
            arithmetic.record(operations, weights_sha256=sha256(models / "model.safetensors"))
    with aside():
        write_json(Path("runs/train.json"), facts)


if __name__ == "__main__":
    run(main)
