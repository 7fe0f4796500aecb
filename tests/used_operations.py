"""Which operations of torch make numbers while the sample's network trains, validates and scores; prints JSON.

Run as a process of its own, since reproducible mode must come before torch: ``python -m tests.used_operations``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from sandwatch.reproducible import pin
from tests import training_steps

OPTIMIZERS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "plain": {"foreach": False},
}
"""Paths of AdamW: torch takes the last two unless told."""


def used(work: Callable[[], Any]) -> set[str]:
    """Names of the operations that gave, or wrote into, tensors of floats."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    names = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            # Operations on lists, an optimizer's among them, give nothing back.
            made = result if isinstance(result, (tuple, list)) else (result,)
            if func.namespace == "aten" and (
                result is None or any(torch.is_tensor(each) and each.is_floating_point() for each in made)
            ):
                names.add(f"{func.overloadpacket.__name__}.{func._overloadname}".removesuffix(".default"))
            return result

    with Watch():
        work()
    return names


def roots_off(**options: Any) -> int:
    """How many of AdamW's square roots are not correctly rounded.

    Without memory, decay and epsilon a step from zero is the gradient over the root of its square, and that is exactly
    1 or -1: the correctly rounded root of a rounded square is the number itself.
    """
    import torch

    weights = torch.nn.Parameter(torch.zeros(100_003))
    weights.grad = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    torch.optim.AdamW([weights], lr=1.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, **options).step()
    return int((weights != -weights.grad.sign()).sum())


def inexact() -> dict[str, int]:
    """Values that are not correctly rounded, by operation: torch's float32 against numpy's float64."""
    import numpy as np
    import torch

    draw = torch.Generator().manual_seed(0)
    a = torch.randn(100_003, generator=draw).exp()  # over several powers of two
    b = torch.randn(100_003, generator=draw)
    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    # float64 has more than twice the digits of float32, so that rounding its results again rounds them correctly.
    found = {
        "add": (a + b, x + y),
        "sub": (a - b, x - y),
        "rsub": (1 - b, 1 - y),
        "mul": (a * b, x * y),
        "div": (a / b, x / y),
        "reciprocal": (b.reciprocal(), 1 / y),
        "sqrt": (a.sqrt(), np.sqrt(x)),
    }
    return {name: int((got.numpy() != exact.astype(np.float32)).sum()) for name, (got, exact) in found.items()}


def main() -> None:
    pin(training_steps.PARAMS["compute"]["threads"])
    from sandwatch import arithmetic

    print(
        json.dumps(
            {
                "training": sorted(used(lambda: [training_steps.run(method) for method in ("binary", "three_class")])),
                "inexact": inexact(),
                "optimizers": {
                    kind: {"used": sorted(used(partial(roots_off, **options))), "roots off": roots_off(**options)}
                    for kind, options in OPTIMIZERS.items()
                },
                "operations": arithmetic.probe(),
            }
        )
    )


if __name__ == "__main__":
    main()
