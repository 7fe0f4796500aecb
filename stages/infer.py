"""Score maps, mine polygons and STAC items of the rivers to be watched.

Inputs: data/aoi/aoi.parquet (sites with role infer or both), data/scenes.parquet and data/scenes/ (their rasters),
models/model.safetensors. Outputs: data/predictions/<obs_id>/{score.tif,mask.tif,detections.parquet,item.json}, and
beside them detections.parquet of all observations, model.json and collection.json.
"""

from __future__ import annotations

from pathlib import Path

from sandwatch import reproducible
from sandwatch.infer import Infer
from sandwatch.params import StageParams
from sandwatch.reproducible import Compute
from sandwatch.stage import Input, Output, run


def main(*, aoi: Input, manifest: Input, scenes: Input, weights: Input, predictions: Output) -> None:
    """Maps every exported scene of the sites with role infer or both."""
    params = StageParams.load("infer")
    compute, settings = params[Compute], params[Infer]
    if compute.reproducible:
        reproducible.pin(compute.threads)

    import torch

    from sandwatch import arithmetic, schemas
    from sandwatch.infer import infer
    from sandwatch.model.predictor import Predictor
    from sandwatch.work import Work

    operations = arithmetic.probe() if compute.reproducible else {}
    device = "cuda" if torch.cuda.is_available() and not compute.reproducible else "cpu"
    infer(
        schemas.Aoi.read(aoi),
        schemas.Scenes.read(manifest),
        scenes,
        Predictor.load(weights, device, precision=compute.precision),
        settings,
        weights=weights,
        predictions=predictions,
        work=Work.open(Path(__file__), computed_on=f"{arithmetic.here(operations)}, {compute.precision}"),
    )


if __name__ == "__main__":
    run(main)
