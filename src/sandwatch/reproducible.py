"""The same bits on x86-64 machines with AVX2, whoever made them: must run before numpy or torch is imported.

Measured on a ResNet-18 U-Net in float32: the same settings give the same bits; another thread count or another
instruction set gives others. So both are pinned here, through the environment variables that the libraries read once,
when they load. Whether a machine then computes what another does, :mod:`sandwatch.arithmetic` finds out. Sources:
PyTorch notes on reproducibility; oneDNN developer guide, "CPU dispatcher control"; oneMKL, "conditional numerical
reproducibility".
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from pydantic import model_validator

from sandwatch.params import Count, Section

PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # The only setting that MKL promises on processors of every maker. Its square root is the one operation found that
    # it does not hold for: nothing here may use it.
    "MKL_CBWR": "COMPATIBLE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""What libraries are told when they load."""
RECORD = "data/arithmetic.json"
"""Where a training writes on what arithmetic (:mod:`sandwatch.arithmetic`) it made which weights: beside ``dvc.lock``,
and committed with it. It is no output of DVC, since machines that differ where a training doesn't look make the same
outputs."""


Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


class Compute(Section):
    """How numbers are computed where that changes them. Device and worker counts are not here: see docs."""

    section = "compute"
    reproducible: bool
    threads: Count
    precision: Precision

    @model_validator(mode="after")
    def _exact(self) -> Compute:
        if self.reproducible and self.precision != "32-true":
            raise ValueError(f"reproducible is true, which wants precision 32-true, not {self.precision}")
        return self


def pin(threads: int) -> None:
    """Pins instruction set and thread count for this process and its children.

    Args:
        threads: CPU threads of torch, BLAS and OpenMP.

    Raises:
        RuntimeError: torch is already imported, so its instruction set is chosen.
    """
    if "torch" in sys.modules:
        raise RuntimeError("pin() must be called before torch is imported")
    os.environ.update(
        PINNED,
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        OPENBLAS_NUM_THREADS=str(threads),
        # Changes no bit: threads that wait give their core away. Measured on a machine that others use too: a training
        # step takes a quarter of the time.
        OMP_WAIT_POLICY="PASSIVE",
    )
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def pinned() -> bool:
    """Whether :func:`pin` was called in this process."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and torch.are_deterministic_algorithms_enabled()
        and all(os.environ.get(name) == value for name, value in PINNED.items())
    )
