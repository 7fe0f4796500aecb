"""One composite of each site and month, on the Sentinel-2 grid.

Inputs: data/aoi/aoi.parquet, the region's river geometry (the source synthetic paints along it), and the region's
folder imagery/ (scenes.csv for the source files).
Outputs: data/scenes/<obs_id>/{s2,s1,rgb}.tif, cloud-optimised GeoTIFFs; data/scenes.parquet (schemas.Scenes), a row
for each raster that was asked for, skipped ones too.
"""

from pathlib import Path

from sandwatch.export import export, source
from sandwatch.imagery import sites
from sandwatch.imagery.params import EarthEngine, Imagery, Synthetic
from sandwatch.params import Bands, StageParams
from sandwatch.schemas import Aoi
from sandwatch.schemas import Scenes as ScenesTable
from sandwatch.stage import Input, Output, progress, run, workers
from sandwatch.work import Work


def main(*, aoi: Input, rivers: Input, inputs: Input, scenes: Output, manifest: Output) -> None:
    """Exports the imagery of every site and month."""
    params = StageParams.load("export")
    bands, imagery = params[Bands], params[Imagery]
    places = sites(Aoi.read(aoi))
    ask = source(
        imagery,
        bands=bands,
        synthetic=params[Synthetic],
        earthengine=params[EarthEngine],
        places=places,
        river_file=rivers,
        inputs=inputs,
    )
    table = export(
        places,
        ask,
        folder=scenes,
        bands=bands,
        imagery=imagery,
        work=Work.open(Path(__file__)),
        workers=workers(),
        progress=progress,
    )
    ScenesTable.write(table, manifest)


if __name__ == "__main__":
    run(main)
