"""Judges the model on rivers it never saw, and shows where it fails.

Reads:
    --aoi: sites with their AOIs and folds (schemas.Aoi).
    --manifest: what was exported (schemas.Scenes), and --scenes, the folder of the rasters.
    --canonical: folder of labels.parquet (schemas.CanonicalLabels), drawn into the pictures.
    --chips: folder of windows.parquet (schemas.Windows) and masks/<obs_id>.npy.
    --weights: of the model.
    --folds, --replicate: a table (schemas.Folds) and which of its replicates; the stages ``cv_evaluate`` have them.
        What tests there is judged as a whole, and only metrics.json and observations.csv are written.

Writes:
    --results: metrics.json, observations.csv, rivers.csv, site_counts.csv, pr_curve.csv, reliability.csv,
        confusion.csv, reliability.png, worst_misses.png and report.md.
"""

from __future__ import annotations

from sandwatch.evaluate import Evaluate
from sandwatch.params import StageParams
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stage import Folds, Input, Output, Replicate, progress, run


def main(
    *,
    aoi: Input,
    manifest: Input,
    scenes: Input,
    canonical: Input,
    chips: Input,
    weights: Input,
    results: Output,
    folds: Folds = None,
    replicate: Replicate = 0,
) -> None:
    """Judges the model on rivers it never saw, and shows where it fails."""
    params = StageParams.load("evaluate")
    compute, split = params[Compute], params[Split]
    if compute.reproducible:
        pin(compute.threads)
    import torch

    from sandwatch import report, schemas
    from sandwatch.cross_validation import assigned
    from sandwatch.evaluate import evaluate
    from sandwatch.model.predictor import Predictor

    sites = schemas.Aoi.read(aoi)
    windows = schemas.Windows.read(chips / "windows.parquet")
    if folds is not None:
        windows = assigned(windows, schemas.Folds.read(folds), replicate)
    evaluation = evaluate(
        aoi=sites,
        manifest=schemas.Scenes.read(manifest),
        scenes=scenes,
        windows=windows,
        chips=chips,
        scorer=Predictor.load(
            weights,
            "cuda" if torch.cuda.is_available() and not compute.reproducible else "cpu",
            precision=compute.precision,
        ),
        params=params[Evaluate],
        holdout_rivers=None if folds else split.holdout_rivers,
        min_distance_km=split.min_distance_km,
    )
    if folds is not None:
        report.write_figures(evaluation, results)
        progress(f"replicate {replicate}: {report.summary(evaluation)}")
        return
    labels = schemas.CanonicalLabels.read(canonical / "labels.parquet")
    report.write(evaluation, results, aoi=sites, labels=labels)
    progress(report.summary(evaluation))


if __name__ == "__main__":
    run(main)
