"""Before all stages: params.yaml is whole, and which code each stage can run.

DVC runs it as the stage ``check``, which every other stage depends on, for two reasons that DVC alone has no answer to:

* DVC hashes files byte by byte, so that a comment would train a model anew. Here the files that a stage can import are
  found, and a digest of what each means is written to ``<stage>.json``; a stage depends on that file, not on sources.
* DVC removes the outputs of a stage before it runs. A mistake in params.yaml is found here, while they are all there.
"""

from __future__ import annotations

from sandwatch import code
from sandwatch.annotations.params import Annotations
from sandwatch.aoi import Aoi
from sandwatch.chips import Chips
from sandwatch.cross_validation import CrossValidation
from sandwatch.evaluate import Evaluate
from sandwatch.imagery.params import EarthEngine, Imagery, Synthetic
from sandwatch.infer import Infer
from sandwatch.mines.table import Mines
from sandwatch.model.network import Model, Scoring
from sandwatch.params import Bands, Section, faults
from sandwatch.reproducible import Compute
from sandwatch.split import Split
from sandwatch.stage import Input, Output, refuse, run
from sandwatch.train.params import Train

SECTIONS: tuple[type[Section], ...] = (
    Bands, Aoi, Split, Imagery, EarthEngine, Synthetic, Annotations, Chips, Model, Train, Scoring, Compute, Evaluate,
    Infer, Mines, CrossValidation,
)  # fmt: skip
"""The sections of params.yaml, in its order."""


def main(*, params_file: Input, stages: Input, code_folder: Output) -> None:
    """Checks params.yaml whole, and writes down which code each stage can run."""
    if wrong := faults(params_file.parent, SECTIONS):
        refuse(wrong)
    code.write(stages, code_folder)


if __name__ == "__main__":
    run(main)
