"""Judges the model on rivers it never saw, and shows where it fails.

Reads:
    --aoi: sites with their AOIs and folds (schemas.Aoi).
    --manifest: what was exported (schemas.Scenes).
    --annotations: folder of labels.parquet (schemas.Labels), drawn into the pictures.
    --chips: folder of windows.parquet (schemas.Windows), pixels/<obs_id>.npy and masks/<obs_id>.npy.
    --models: weights and card.

Writes:
    --results: metrics.json, observations.csv, rivers.csv, pr_curve.csv, reliability.csv, confusion.csv,
        reliability.png, worst_misses.png and report.md.
"""

from __future__ import annotations

from sandwatch.params import Compute, Evaluate, Infer, Split, StageParams
from sandwatch.reproducible import pin
from sandwatch.stage import Input, Output, progress, run


def main(
    *,
    aoi: Input,
    manifest: Input,
    annotations: Input,
    chips: Input,
    models: Input,
    results: Output,
) -> None:
    """Judges the model on rivers it never saw, and shows where it fails."""
    params = StageParams.load("evaluate")
    compute, infer, split = params[Compute], params[Infer], params[Split]
    if compute.reproducible:
        pin(compute.threads)
    import torch

    from sandwatch import report, schemas
    from sandwatch.evaluate import evaluate
    from sandwatch.learn.model import Predictor

    sites = schemas.Aoi.read(aoi)
    evaluation = evaluate(
        aoi=sites,
        manifest=schemas.Scenes.read(manifest),
        windows=schemas.Windows.read(chips / "windows.parquet"),
        chips=chips,
        scorer=Predictor.load(
            models,
            "cuda" if torch.cuda.is_available() and not compute.reproducible else "cpu",
            precision=compute.precision,
            overlap_px=infer.overlap_px,
            batch_size=infer.batch_size,
        ),
        params=params[Evaluate],
        holdout_rivers=split.holdout_rivers,
        min_distance_km=split.min_distance_km,
    )
    labels = schemas.Labels.read(annotations / "labels.parquet")
    report.write(evaluation, results, aoi=sites, labels=labels)
    progress(report.summary(evaluation))


if __name__ == "__main__":
    run(main)
