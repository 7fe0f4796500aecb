"""Makes ``import torchvision`` work where its wheel was linked to CUDA and torch was not.

The torchvision wheel on the package index has its operators in a library that needs CUDA. Beside a CPU build of torch
that library can't load; torchvision tolerates it, except for two operators whose shapes it registers unconditionally.
Declaring those two is enough, because nothing here calls them. Where torchvision imports as it is, nothing happens.
"""

from __future__ import annotations

import sys


def ensure_torchvision() -> None:
    """Imports torchvision, declaring the operators that its CUDA-linked wheel lacks. Call before smp, timm, lightning.

    Raises:
        RuntimeError: torchvision fails to import for any other reason.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
