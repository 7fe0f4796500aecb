"""A frozen snapshot of the labels, checked; what is unfit goes to quarantine with its reason.

Inputs: data/aoi/aoi.parquet, data/scenes.parquet, the region's river geometry, and the region's folder annotations/
(exclusions.csv, where labels were taken out; export.ndjson for the source labelbox_export, annotations.csv for geojson;
the source synthetic needs neither).
Outputs: data/annotations/ with export.ndjson (the raw snapshot), labels.parquet (a row a polygon),
observations.parquet (a row an observation that was looked at), ignored.parquet (a row an area not to be learnt from),
quarantine.parquet (what was rejected, and why);
data/canonical/, what the label fingerprint covers and nothing else, which is all that the stages after this one read:
labels.parquet, observations.parquet, ignored.parquet, fingerprint.json;
results/annotations/metrics.json with the label fingerprint and the counts.
"""

from sandwatch import annotations as labelling
from sandwatch.annotations.params import Annotations
from sandwatch.files import write_json
from sandwatch.imagery.params import Synthetic
from sandwatch.params import StageParams
from sandwatch.schemas import Aoi, Scenes
from sandwatch.stage import Input, Output, progress, run


def main(
    *,
    aoi: Input,
    rivers: Input,
    manifest: Input,
    inputs: Input,
    annotations: Output,
    canonical: Output,
    metrics: Output,
) -> None:
    """Freezes, checks and tabulates the labels."""
    params = StageParams.load("annotations")
    section = params[Annotations]
    progress(f"annotations: snapshot {section.snapshot} from {section.source}")
    result = labelling.build(
        section,
        params[Synthetic],
        aoi=Aoi.read(aoi),
        manifest=Scenes.read(manifest),
        rivers=rivers,
        inputs=inputs,
        folder=annotations,
        canonical_folder=canonical,
    )
    write_json(metrics, result)
    for line in labelling.summary(result):
        progress(line)


if __name__ == "__main__":
    run(main)
