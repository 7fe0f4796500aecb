"""Cuts labelled windows out of the scenes, and records which polygon put how many pixels into which.

Reads:
    --aoi: sites with their AOIs, grids and folds (schemas.Aoi).
    --manifest: what was exported (schemas.Scenes), and --scenes, the folder of the rasters.
    --canonical: folder of labels.parquet (schemas.CanonicalLabels), observations.parquet
        (schemas.CanonicalObservations), ignored.parquet (schemas.CanonicalIgnored) and fingerprint.json.

Writes:
    --chips: windows.parquet (schemas.Windows), chip_labels.parquet (schemas.ChipLabels), pixels/<obs_id>.npy (int16
        (band, y, x)), masks/<obs_id>.npy (uint8 (y, x)) and about.json (origin.About).
    --metrics: figures about them.
"""

from __future__ import annotations

from sandwatch import schemas
from sandwatch.annotations.params import Annotations
from sandwatch.chips import Chips, cut
from sandwatch.files import read_json, write_json
from sandwatch.origin import About, kind_of
from sandwatch.params import Bands, StageParams
from sandwatch.split import Split
from sandwatch.stage import Input, Output, progress, run, workers


def main(*, aoi: Input, manifest: Input, scenes: Input, canonical: Input, chips: Output, metrics: Output) -> None:
    """Cuts labelled windows out of the scenes."""
    params = StageParams.load("chips")
    made = cut(
        aoi=schemas.Aoi.read(aoi),
        manifest=schemas.Scenes.read(manifest),
        scenes=scenes,
        observations=schemas.CanonicalObservations.read(canonical / "observations.parquet"),
        labels=schemas.CanonicalLabels.read(canonical / "labels.parquet"),
        ignored=schemas.CanonicalIgnored.read(canonical / "ignored.parquet"),
        bands=params[Bands],
        chips=params[Chips],
        split=params[Split],
        workers=workers(),
        out=chips,
    )
    schemas.Windows.write(made.windows, chips / "windows.parquet")
    schemas.ChipLabels.write(made.chip_labels, chips / "chip_labels.parquet")
    about = About(
        label_fingerprint=read_json(
            canonical / "fingerprint.json",
            lambda content: str(content["label_fingerprint"]),
            expected="what the stage annotations wrote",
            fix="run dvc checkout annotations or dvc repro annotations",
        ),
        imagery=made.imagery,
        labels=kind_of([params[Annotations].source]),
    )
    write_json(chips / "about.json", about.model_dump())
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
