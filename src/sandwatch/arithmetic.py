"""Which bits this machine computes: a hash for each operation that training, calibration and inference rest on.

Reproducible mode (:mod:`sandwatch.reproducible`) pins what libraries let one pin. Whether two machines then compute the
same is found out, in about a second, by computing: between machines with one :func:`fingerprint`, hashes of outputs
decide; between others, only metrics can be compared.

An operation that nothing here uses is left out, so that what differs there doesn't set machines apart: torch's square
root, for one, which is no processor's own (see :meth:`sandwatch.train.loop.Segmentation.configure_optimizers`).

Import it after :func:`sandwatch.reproducible.pin`, because it imports torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sandwatch import reproducible
from sandwatch.files import write_json

CONVOLUTIONS = {
    "convolution 7x7, stride 2": ((2, 14, 160, 160), (64, 14, 7, 7), 2),
    "convolution 3x3": ((2, 64, 40, 40), (64, 64, 3, 3), 1),
    "convolution 3x3, stride 2": ((2, 64, 40, 40), (128, 64, 3, 3), 2),
    "convolution 1x1, stride 2": ((2, 64, 40, 40), (128, 64, 1, 1), 2),
    "convolution 3x3, narrowing": ((2, 192, 40, 40), (32, 192, 3, 3), 1),
    "convolution 3x3 of a wide image": ((2, 16, 160, 160), (1, 16, 3, 3), 1),
}
"""Image, kernel and stride, as in the sample's network: how the library cuts the work up depends on them."""


def probe() -> dict[str, str]:
    """Computes every operation on fixed inputs; torch's global generator is left alone.

    Returns:
        A hash of the results, by operation.

    Raises:
        RuntimeError: this process is not in reproducible mode, so what it computes says nothing about outputs.
    """
    if not reproducible.pinned():
        raise RuntimeError("pin() must be called before arithmetic is probed")
    return {name: _digest(results()) for name, results in _operations().items()}


def fingerprint(operations: Mapping[str, str]) -> str:
    """SHA-256 over what :func:`probe` returned."""
    lines = (f"{name}\t{operations[name]}\n" for name in sorted(operations))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def here(operations: Mapping[str, str]) -> str:
    """What results depend on of this machine: its arithmetic, or outside reproducible mode its device.

    Args:
        operations: of :func:`probe`; empty outside reproducible mode.
    """
    if operations:
        return fingerprint(operations)
    return torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()


def record(operations: Mapping[str, str], *, weights_sha256: str) -> None:
    """Writes ``data/arithmetic.json`` to the working directory: the weights that a training on this arithmetic made."""
    write_json(
        Path(reproducible.RECORD),
        {"weights_sha256": weights_sha256, "fingerprint": fingerprint(operations), "operations": dict(operations)},
    )


def _operations() -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """What is computed, by name. Each gets inputs from a generator of its own, so that they can be reordered."""
    wide = torch.linspace(-30, 30, 100_003)
    share = torch.linspace(0, 1, 100_003)
    image = _drawn(2, 2, 160, 160)
    small: dict[str, Callable[[], tuple[Tensor, ...]]] = {
        "exp": lambda: (wide.exp(),),
        "log": lambda: (wide.exp().log(),),
        "sigmoid": lambda: (wide.sigmoid(),),
        "power": lambda: tuple(share.pow(torch.tensor(to)) for to in (0.5, 1.5, 2.0)),
        "log-softmax": lambda: _with_gradients(lambda x: functional.log_softmax(x, dim=1), image),
        "softmax": lambda: (torch.softmax(image, dim=1),),
        "logsumexp": lambda: (torch.logsumexp(image, dim=1),),
        "sum": lambda: (image.sum(), image.sum(dim=(0, 2, 3)), image.mean()),
        "norm": lambda: (torch.linalg.vector_norm(image), *torch._foreach_norm([image, wide])),
        "matrix product": lambda: (_drawn(128, 170) @ _drawn(170, 75),),
        "batch norm": lambda: _batch_norm(_drawn(2, 64, 40, 40)),
        "upsampling": lambda: _with_gradients(lambda x: functional.interpolate(x, scale_factor=2.0), image),
        "random normal": lambda: (_drawn(100_003),),
        "random uniform": lambda: (torch.rand(100_003, generator=torch.Generator().manual_seed(0)),),
        "AdamW": _adamw,
        "numpy": _numpy,
        "libm": _libm,
    }
    return small | {
        name: lambda shape=shape, kernel=kernel, stride=stride: _with_gradients(
            lambda x, weight: functional.conv2d(x, weight, stride=stride, padding=kernel[-1] // 2),
            *(_drawn(*of).contiguous(memory_format=torch.channels_last) for of in (shape, kernel)),
        )
        for name, (shape, kernel, stride) in CONVOLUTIONS.items()
    }


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of the inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*leaves)
    return result, *torch.autograd.grad(result, leaves, _drawn(*result.shape))


def _batch_norm(x: Tensor) -> tuple[Tensor, ...]:
    layer = nn.BatchNorm2d(x.shape[1])
    results = _with_gradients(layer, x.contiguous(memory_format=torch.channels_last))
    assert layer.running_var is not None
    return *results, layer.running_var, layer.eval()(x)


def _adamw() -> tuple[Tensor, ...]:
    """Steps as :class:`sandwatch.train.loop.Segmentation` takes them."""
    weights = nn.Parameter(_drawn(1003))
    optimizer = torch.optim.AdamW([weights], lr=1e-3, fused=True)
    for gradient in _drawn(5, 1003):
        weights.grad = gradient.clone()
        optimizer.step()
    return (weights,)


def _numpy() -> tuple[Tensor, ...]:
    """What is made of scores after torch: sums, shares, quantiles, interpolation."""
    values = np.random.default_rng(0).normal(size=10_007)
    results = (values.sum(), np.sqrt(np.abs(values)), np.cumsum(values), np.quantile(values, [0.025, 0.975]))
    weighed = np.bincount(np.arange(10_007) % 7, weights=values)
    return tuple(torch.from_numpy(np.atleast_1d(result)) for result in (*results, weighed))


def _libm() -> tuple[Tensor, ...]:
    """The C library's, in float64: learning rates, the optimizer's corrections, edges of score bins."""
    at = [i / 97 for i in range(1, 2000)]
    functions = (math.exp, math.log, math.cos, math.sqrt, lambda x: 0.999**x)
    return tuple(torch.tensor([function(x) for x in at], dtype=torch.float64) for function in functions)


def _digest(results: tuple[Tensor, ...]) -> str:
    hashed = hashlib.sha256()
    for result in results:
        hashed.update(result.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]
