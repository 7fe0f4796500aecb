"""Judges the models of all replicates of a cross-validation together, and each alone, on the holdout rivers.

No stage of ``dvc repro``: it is there while params.yaml, cv, asks for an ensemble (``sandwatch cv --ensemble``).

Reads:
    --aoi: sites with their AOIs and folds (schemas.Aoi).
    --manifest: what was exported (schemas.Scenes), and --scenes, the folder of the rasters.
    --chips: folder of windows.parquet (schemas.Windows) and masks/<obs_id>.npy.
    --folds: which sites each replicate has touched (schemas.Folds).
    --models: folder of <replicate>/model.safetensors.

Writes:
    --results: metrics.json and observations.csv of the ensemble, and the same of each member in <replicate>/.
    --summary-file: figures of the ensemble, and of each figure of its members alone mean, standard deviation, least and
        largest.
"""

from __future__ import annotations

from functools import partial

from sandwatch.cross_validation import CrossValidation, held_out, summary
from sandwatch.evaluate import Evaluate
from sandwatch.files import write_json
from sandwatch.params import StageParams
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stage import Input, Output, progress, run


def main(
    *,
    aoi: Input,
    manifest: Input,
    scenes: Input,
    chips: Input,
    folds: Input,
    models: Input,
    results: Output,
    summary_file: Output,
) -> None:
    """Judges the models of all replicates together, and each alone, on the holdout rivers."""
    params = StageParams.load("cv_ensemble")
    compute, split = params[Compute], params[Split]
    if compute.reproducible:
        pin(compute.threads)
    import torch

    from sandwatch import report, schemas
    from sandwatch.evaluate import evaluate
    from sandwatch.model.predictor import Predictor
    from sandwatch.model.scoring import Ensemble

    device = "cuda" if torch.cuda.is_available() and not compute.reproducible else "cpu"
    files = {number: models / str(number) / "model.safetensors" for number in params[CrossValidation].replicates}
    members = {number: Predictor.load(path, device, precision=compute.precision) for number, path in files.items()}
    judge = partial(
        evaluate,
        aoi=schemas.Aoi.read(aoi),
        manifest=schemas.Scenes.read(manifest),
        scenes=scenes,
        windows=held_out(schemas.Windows.read(chips / "windows.parquet"), schemas.Folds.read(folds)),
        chips=chips,
        params=params[Evaluate],
        holdout_rivers=split.holdout_rivers,
        min_distance_km=split.min_distance_km,
    )
    together = judge(scorer=Ensemble({files[number].as_posix(): member for number, member in members.items()}))
    alone = {number: judge(scorer=member) for number, member in members.items()}
    report.write_figures(together, results)
    for number, evaluation in alone.items():
        report.write_figures(evaluation, results / str(number))
        progress(f"replicate {number} alone: {report.summary(evaluation)}")
    progress(f"all {len(members)} together: {report.summary(together)}")
    made = summary({number: evaluation.metrics for number, evaluation in alone.items()})
    write_json(summary_file, {"ensemble": together.metrics, "alone": made})


if __name__ == "__main__":
    run(main)
