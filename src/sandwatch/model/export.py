"""A model for programs without sandwatch: one file in ONNX or of ``torch.export``, from pixels to probabilities.

What is exported is the whole way: bands matched, scaled and filled (:class:`sandwatch.model.predictor.Reader`), the
network, the calibration. So nobody has to write any of it again, in another language and slightly otherwise. A file is
written only when it gives what the :class:`sandwatch.model.predictor.Predictor` gives. Of a model that averages several
views of a window (:mod:`sandwatch.model.views`) it gives one: whose program reads the file can turn windows itself.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sandwatch.errors import InputError
from sandwatch.extras import need
from sandwatch.files import whole
from sandwatch.model.card import HEADER, Spec
from sandwatch.model.predictor import Predictor, Reader, mine_logit
from sandwatch.stack import LARGEST, NODATA

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
PIXELS = "pixels"
OUTPUTS = ("probability", "log_odds")
"""Names of what goes in and what comes out."""
TOLERANCE = 1e-4
"""Largest difference of log-odds that is let pass: a quarter of the smallest step of a score (1 / 10,000 where the
probability is a half, :data:`sandwatch.model.scoring.STEPS`), and far above what the order of additions makes."""
LARGEST_ONNX_MB = 2000.0
"""Of one file: what holds it, a protocol buffer, ends at 2 GiB. Source: Protocol Buffers, encoding, size limits."""

Run = Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


class Whole(nn.Module):
    """A model from pixels to probabilities: what is exported.

    ``log_odds`` come along because they, not probabilities, are blended where windows overlap.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Takes a model on the CPU."""
        super().__init__()
        spec = predictor.spec
        self.reader, self.network = Reader(spec.channels, spec.bands), predictor.network
        self.temperature, self.bias = spec.temperature, spec.bias
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 (n, band, y, x), in the unit of a pixel stack and ``stack.NODATA`` without data, to two of (n, y, x).

        Returns:
            Calibrated probability of mine, and its log-odds.
        """
        log_odds = mine_logit(self.network(self.reader(pixels))) / self.temperature + self.bias
        return torch.sigmoid(log_odds), log_odds


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        spec: that it carries.
        difference: largest, of log-odds, between the file and the model.
    """

    path: Path
    spec: Spec
    difference: float


def export(weights: Path, to: Format, path: Path) -> Exported:
    """Writes a trained model as one file that needs no sandwatch; whole, and agreeing with the model, or not at all.

    Args:
        weights: model.safetensors.
        to: onnx, or pt2 for ``torch.export``.
        path: of the file, which ends with ``.`` and ``to``.

    Raises:
        InputError: the weights are none of ours, the format can't hold them, a package is missing, or the file gives
            other scores than the model.
    """
    if path.suffix != f".{to}":
        raise InputError(str(path), got=f"a name for {to}", expected=f"one that ends with .{to}", fix="rename it")
    if to == "onnx":
        need("export", "onnx", "onnxscript", "onnxruntime", what="export to ONNX")
    predictor = Predictor.load(weights, "cpu", precision="32-true")
    spec, module = predictor.spec, Whole(predictor)
    megabytes = sum(tensor.nbytes for tensor in module.state_dict().values()) / 1e6
    if to == "onnx" and megabytes > LARGEST_ONNX_MB:
        raise InputError(
            str(weights),
            got=f"{megabytes:,.0f} MB of weights",
            expected=f"at most {LARGEST_ONNX_MB:,.0f} MB, which is what a file of ONNX holds",
            fix="export it to pt2",
        )
    with whole(path, int(megabytes * 1e6)) as partial:
        run = _written(module, spec, to, partial, str(weights))
        difference = _difference(run, predictor.changed(views=1))
        if not difference <= TOLERANCE:
            raise InputError(
                str(path),
                got=f"log-odds that differ from the model's by up to {difference:.3g}",
                expected=f"{TOLERANCE:g} at most",
                fix="nothing was written; export it to the other format, or use model.safetensors",
            )
    return Exported(path=path, spec=spec, difference=difference)


def _written(module: Whole, spec: Spec, to: Format, path: Path, weights: str) -> Run:
    """Writes a model, and opens what was written."""
    # Two windows, since torch.export takes a length of 1 for one that is always 1.
    example = (torch.zeros(2, len(spec.bands), spec.size_px, spec.size_px),)
    shapes = ({0: torch.export.Dim("n", min=1)},)
    carried = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(module, example, dynamic_shapes=shapes)
            if to == "pt2":
                torch.export.save(program, path, extra_files={HEADER: carried})
                return _opened_pt2(path)
            made = torch.onnx.export(
                program,
                example,
                dynamo=True,
                verbose=False,
                input_names=[PIXELS],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: "n"},),
            )
            assert made is not None
            made.model.metadata_props[HEADER] = carried
            made.save(path, external_data=False)
    except (RuntimeError, ValueError) as error:  # all that torch.export and its translation to ONNX raise is of these
        raise InputError(
            weights,
            got=f"{spec.title}: {str(error)[:300]}",
            expected=f"a network that can be written as {to}",
            fix="export it to the other format, or use model.safetensors",
        ) from error
    return _opened_onnx(path)


def _opened_pt2(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        with torch.no_grad():
            probability, log_odds = module(torch.from_numpy(pixels))
        return probability.numpy(), log_odds.numpy()

    return run


def _opened_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(pixels: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        probability, log_odds = session.run(list(OUTPUTS), {PIXELS: pixels})
        return probability, log_odds

    return run


def _difference(run: Run, predictor: Predictor) -> float:
    """Largest difference of log-odds between a file and its model, on one window and on several.

    A difference of probabilities counts as much as the difference of log-odds that it is at least.
    """
    found = []
    for count in (1, 3):
        pixels = _pixels(predictor.spec, count)
        expected = predictor(pixels)[:, 0].astype(np.float64) / predictor.spec.temperature + predictor.spec.bias
        probability, log_odds = run(pixels.astype(np.float32))
        # The slope of a probability over its log-odds is a quarter at most.
        apart = 4 * np.abs(probability - 1 / (1 + np.exp(-expected)))
        found += [np.abs(log_odds - expected).max(), apart.max()]
    return float(np.max(found))  # NaN where there is one


def _pixels(spec: Spec, count: int) -> npt.NDArray[np.int16]:
    """Windows to compare on: pixels as in training, some far out, some without data, one corner without any."""
    random = np.random.default_rng(0)
    size = (count, len(spec.bands), spec.size_px, spec.size_px)
    mean, std = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
    pixels = np.clip(np.rint(mean + std * 2 * random.standard_normal(size)), -LARGEST, LARGEST)
    pixels[random.random(size) < 0.02] = NODATA
    pixels[..., : spec.size_px // 4, : spec.size_px // 4] = NODATA
    return pixels.astype(np.int16)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' words to their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
