"""Score maps, mine polygons and STAC items of the rivers to be watched, and what each mine was from month to month.

Inputs: data/aoi/aoi.parquet (sites with role infer or both), the region's rivers, data/scenes.parquet and data/scenes/
(their rasters), models/model.safetensors. Outputs: data/predictions/<obs_id>/{score.tif,mask.tif,detections.parquet,
item.json}, and beside them detections.parquet of all observations, model.json and collection.json, mines.parquet
(schemas.Mines) and mine_months.parquet (schemas.MineMonths).
"""

from __future__ import annotations

from pathlib import Path

from sandwatch import reproducible
from sandwatch.infer import Infer
from sandwatch.mines.table import Mines
from sandwatch.params import StageParams
from sandwatch.reproducible import Compute
from sandwatch.stage import Input, Output, run


def main(*, aoi: Input, rivers: Input, manifest: Input, scenes: Input, weights: Input, predictions: Output) -> None:
    """Maps every exported scene of the sites with role infer or both, and follows their mines through the months."""
    params = StageParams.load("infer")
    compute, settings, tracking = params[Compute], params[Infer], params[Mines]
    if compute.reproducible:
        reproducible.pin(compute.threads)

    import torch

    from sandwatch import arithmetic, schemas
    from sandwatch.infer import infer
    from sandwatch.mines import table
    from sandwatch.model.predictor import Predictor
    from sandwatch.work import Work

    operations = arithmetic.probe() if compute.reproducible else {}
    device = "cuda" if torch.cuda.is_available() and not compute.reproducible else "cpu"
    sites = schemas.Aoi.read(aoi)
    infer(
        sites,
        schemas.Scenes.read(manifest),
        scenes,
        Predictor.load(weights, device, precision=compute.precision),
        settings,
        weights=weights,
        predictions=predictions,
        work=Work.open(Path(__file__), computed_on=f"{arithmetic.here(operations)}, {compute.precision}"),
    )
    table.write(sites, rivers, predictions, tracking)


if __name__ == "__main__":
    run(main)
