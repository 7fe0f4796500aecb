"""``sandwatch export`` and ``sandwatch card``: what leaves the house with a model. Libraries load when called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class To(StrEnum):
    """Formats that a model can be exported to."""

    onnx = "onnx"
    pt2 = "pt2"


def export(
    weights: Annotated[Path, typer.Argument(help="of a trained model: models/model.safetensors")],
    to: Annotated[To, typer.Option(help="onnx: for ONNX Runtime, in any language; pt2: for torch.export.load")],
    out: Annotated[Path, typer.Option(help="file to write, which ends with .onnx or .pt2")],
) -> None:
    """Write a model as one file that needs no sandwatch, and check that it gives the same.

    It takes pixels, float32 (n, band, y, x) in the bands' order: reflectance x 10000, backscatter in dB x 100, -32768
    without data; windows are as large as in training, n is any. It gives probability and log_odds of mine, (n, y, x),
    calibrated. Where windows overlap, blend log_odds.
    """
    from sandwatch.model.export import export as write

    done = write(weights, to.value, out)
    spec = done.spec
    print(f"{done.path}: {done.path.stat().st_size / 1e6:.1f} MB, of weights with the SHA-256 {spec.weights_sha256}")
    print(f"pixels: float32 (n, {len(spec.bands)}, {spec.size_px}, {spec.size_px}): {' '.join(spec.bands)}")
    print(
        f"log-odds differ from the model's by {done.difference:.1e} at most; a mine is at {spec.threshold:g} or above"
    )
    if spec.views > 1:
        print(
            f"note: the model's scores are means over {spec.views} views of a window (scoring.views), and temperature "
            "and threshold were fitted on those; the file scores one view: average log_odds over them yourself"
        )


def card(
    path: Annotated[Path, typer.Argument(help="of a trained model: models/model.json")],
    results: Annotated[Path, typer.Option(help="folder of the metrics that the stages wrote")] = Path("results"),
    license: Annotated[
        str | None, typer.Option(help="under which you give the model away, such as cc-by-4.0  [default: not said]")
    ] = None,
) -> None:
    """Print a model card in Markdown, as the Hugging Face Hub shows one, of model.json and the metrics. No network.

    sandwatch card models/model.json > README.md
    """
    from sandwatch.release.model_card import model_card

    print(model_card(path, results, license), end="")
