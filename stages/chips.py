"""Cuts labelled windows out of the scenes, and records which polygon put how many pixels into which.

Reads:
    --aoi: sites with their AOIs, grids and folds (schemas.Aoi).
    --manifest: what was exported (schemas.Scenes), and --scenes, the folder of the rasters.
    --annotations: folder of labels.parquet (schemas.Labels), observations.parquet (schemas.Observations) and
        ignored.parquet (schemas.Ignored).

Writes:
    --chips: windows.parquet (schemas.Windows), chip_labels.parquet (schemas.ChipLabels), pixels/<obs_id>.npy (int16
        (band, y, x)) and masks/<obs_id>.npy (uint8 (y, x)).
    --metrics: figures about them.
"""

from __future__ import annotations

from sandwatch import schemas
from sandwatch.chips import cut
from sandwatch.files import write_json
from sandwatch.params import Bands, Chips, Split, StageParams
from sandwatch.stage import Input, Output, progress, run, workers


def main(*, aoi: Input, manifest: Input, scenes: Input, annotations: Input, chips: Output, metrics: Output) -> None:
    """Cuts labelled windows out of the scenes."""
    params = StageParams.load("chips")
    made = cut(
        aoi=schemas.Aoi.read(aoi),
        manifest=schemas.Scenes.read(manifest),
        scenes=scenes,
        observations=schemas.Observations.read(annotations / "observations.parquet"),
        labels=schemas.Labels.read(annotations / "labels.parquet"),
        ignored=schemas.Ignored.read(annotations / "ignored.parquet"),
        bands=params[Bands],
        chips=params[Chips],
        split=params[Split],
        workers=workers(),
        out=chips,
    )
    schemas.Windows.write(made.windows, chips / "windows.parquet")
    schemas.ChipLabels.write(made.chip_labels, chips / "chip_labels.parquet")
    write_json(metrics, made.metrics)
    for note in made.notes:
        progress(note)
    progress(
        f"{len(made.windows)} windows of {made.metrics['observations']} observations "
        f"({made.metrics['windows_train']} train, {made.metrics['windows_val']} val, "
        f"{made.metrics['windows_test']} test; {made.metrics['windows_with_mines']} with mines)"
    )


if __name__ == "__main__":
    run(main)
