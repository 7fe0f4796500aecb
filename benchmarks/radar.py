"""What a model that has learnt to do without radar loses where there is none, and what it costs where there is.

    python benchmarks/radar.py [--dropout 0.3] [--root DIR]

Run it after `dvc repro`, with data/ and models/ in place. The model of params.yaml is trained on the same folds with
train.radar_dropout, and judged on the holdout rivers twice: on their scenes as they are, and with VV and VH taken away.
Beside it the present model, with radar alone: it is refused where there is none (tests/unit/test_infer.py).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

import contenders
from contenders import Data
from sandwatch import recipes
from sandwatch.model.scoring import Scorer
from sandwatch.params import S1_BANDS
from sandwatch.reproducible import Compute, pin
from sandwatch.split import Split
from sandwatch.stack import NODATA
from sandwatch.stage import progress, run


class WithoutRadar:
    """A model whose scenes have lost their radar (:class:`sandwatch.model.scoring.Scorer`)."""

    def __init__(self, scorer: Scorer) -> None:
        """Takes the model."""
        self._scorer, self.spec = scorer, scorer.spec
        self._radar = [place for place, band in enumerate(self.spec.bands) if band in S1_BANDS]

    def __call__(self, pixels: npt.NDArray[np.int16], /) -> npt.NDArray[np.float32]:
        """Log-odds of windows without radar, as the model's own."""
        blind = pixels.copy()
        blind[:, self._radar] = NODATA
        return self._scorer(blind)


def main(
    *,
    dropout: Annotated[float, typer.Option(min=0.01, max=0.99, help="train.radar_dropout")] = 0.3,
    root: Annotated[Path, typer.Option(exists=True, file_okay=False, help="a repository after dvc repro")] = Path(),
) -> None:
    """Compares a model that has learnt to do without radar with one that has not."""
    os.chdir(root)
    here = Data.here()
    if here[Compute].reproducible:
        pin(here[Compute].threads)
    from sandwatch.model.predictor import Predictor
    from sandwatch.train.data import Chips

    asked = Data(
        **{**vars(here), "values": recipes.changed(here.values, {"train.radar_dropout": dropout}, "--dropout")}
    )
    with tempfile.TemporaryDirectory() as folder:
        learnt = contenders.network(asked, Chips(contenders.CHIPS), Path(folder)).scorer
        present = Predictor.load(Path("models/model.safetensors"), "cpu", precision=here[Compute].precision)
        rows = {
            "as params.yaml, with radar": ap(here, present),
            f"radar_dropout {dropout:g}, with radar": ap(here, learnt),
            f"radar_dropout {dropout:g}, without": ap(here, WithoutRadar(learnt)),
        }
    if present.spec.without or set(learnt.spec.without) != set(S1_BANDS) & set(learnt.spec.bands):
        raise AssertionError(f"models that say of themselves: {present.spec.without}, {learnt.spec.without}")
    print("| on the holdout rivers | AP | 95 % interval |\n|---|---|---|")
    for name, metrics in rows.items():
        print(f"| {name} | {metrics['ap']} | {metrics['ap_low95']} to {metrics['ap_high95']} |")
    seen, blind = (metrics["ap"] for metrics in list(rows.values())[1:])
    print(f"\nwithout radar it loses {1 - blind / seen:.1%} of its AP ({here.about.imagery} imagery)")


def ap(data: Data, scorer: Scorer) -> dict[str, Any]:
    """The metrics of a model on the holdout rivers."""
    progress("judging ...")
    return dict(contenders.judged(data, data.windows, scorer, data[Split].holdout_rivers).metrics)


if __name__ == "__main__":
    run(main)
