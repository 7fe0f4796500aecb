"""Mean and spread of what the replicates of a cross-validation came to.

No stage of ``dvc repro``: it is there while params.yaml, cv, asks for replicates (``sandwatch cv``).

Reads:
    --results: folder of <replicate>/evaluate/metrics.json.

Writes:
    --summary: of each figure its mean, standard deviation, least and largest over the replicates.
"""

from __future__ import annotations

from sandwatch.cross_validation import CrossValidation, read_results, summary
from sandwatch.files import write_json
from sandwatch.params import StageParams
from sandwatch.stage import Input, Output, progress, run


def main(*, results: Input, summary_file: Output) -> None:
    """Mean and spread of what the replicates of a cross-validation came to."""
    params = StageParams.load("cv")
    made = summary(read_results(results, params[CrossValidation].replicates))
    write_json(summary_file, made)
    ap = made["ap"]
    progress(f"cv: AP {ap['mean']:.4f} +- {ap['std']:.4f} over {made['replicates']} replicates")


if __name__ == "__main__":
    run(main)
