"""Puts sites into folds, once for each replicate of a cross-validation.

No stage of ``dvc repro``: it is there while params.yaml, cv, asks for replicates (``sandwatch cv``). A stage of its
own, so that another number of folds trains nothing else anew.

Reads:
    --aoi: sites with their groups (schemas.Aoi).
    --windows: of the chips (schemas.Windows): which sites are learnt from, and how much was labelled there.

Writes:
    --folds: replicate, site_id, group, fold (schemas.Folds).
"""

from __future__ import annotations

from sandwatch import schemas
from sandwatch.cross_validation import CrossValidation, folds
from sandwatch.params import StageParams
from sandwatch.split import Split
from sandwatch.stage import Input, Output, progress, run


def main(*, aoi: Input, windows: Input, folds_file: Output) -> None:
    """Puts sites into folds, once for each replicate of a cross-validation."""
    params = StageParams.load("folds")
    cv = params[CrossValidation]
    (by,) = cv.by
    table = folds(
        schemas.Aoi.read(aoi),
        schemas.Windows.read(windows),
        by=by,
        replicates=len(cv.replicates),
        seed=params[Split].seed,
    )
    schemas.Folds.write(table, folds_file)
    for replicate, rows in table.groupby("replicate"):
        tested = ", ".join(rows["site_id"][rows["fold"] == "test"])
        progress(f"folds: replicate {replicate} tests {tested}")


if __name__ == "__main__":
    run(main)
