"""That no operation behind an output computes what only this processor computes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandwatch.imagery.earthengine import decibel

ROOT = Path(__file__).parents[2]
REFERENCE = json.loads((ROOT / ".ci/reference.json").read_text())["operations"]

MOVED = {
    "_to_copy", "batch_norm", "cat", "clone", "contiguous", "conv2d", "detach", "empty", "expand", "fill_", "index",
    "lift_fresh", "masked_fill_", "new_empty", "new_zeros", "ones", "ones_like", "resolve_conj", "resolve_neg",
    "scalar_tensor", "select", "set_", "slice", "slice_backward", "softmax", "squeeze", "stack", "to", "unsqueeze",
    "where", "zero_", "zeros", "zeros_like",
}  # fmt: skip
"""Values are put elsewhere, or the operation is a name for others, which are seen too."""
CHOSEN = {
    "abs", "clamp", "max_pool2d", "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "neg", "relu_",
    "threshold_backward", "upsample_nearest2d",
}  # fmt: skip
"""A value is kept or not, or its sign changes: nothing is rounded."""
ROUNDED = {
    "_foreach_add_", "_foreach_mul_", "add", "add_", "div", "mul", "reciprocal", "rsub", "sub",
}  # fmt: skip
"""One operation of arithmetic, which IEEE 754 says how to round."""
PROBED = {
    "_foreach_norm": "norm",
    "_fused_adamw_": "AdamW",
    "_log_softmax": "log-softmax",
    "_log_softmax_backward_data": "log-softmax",
    "_softmax": "softmax",
    "convolution": "convolution 3x3",
    "convolution_backward": "convolution 3x3",
    "exp": "exp",
    "linalg_vector_norm": "norm",
    "logsumexp": "logsumexp",
    "mean": "sum",
    "native_batch_norm": "batch norm",
    "native_batch_norm_backward": "batch norm",
    "normal_": "random normal",
    "pow.Tensor_Tensor": "power",
    "sigmoid": "sigmoid",
    "sum": "sum",
    "uniform_": "random uniform",
    "upsample_nearest2d_backward": "upsampling",
}
"""What rounds more than once, and the operation of the probe that stands for it."""


def unaccounted(used: list[str]) -> set[str]:
    """Operations of which nothing says that every processor gives the same."""
    known = MOVED | CHOSEN | ROUNDED | PROBED.keys()
    return {name for name in used if name not in known and name.split(".")[0] not in known}


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What a process in reproducible mode found out."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.used_operations"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_operation_of_training_and_scoring_is_rounded_by_a_rule_or_probed(seen: dict[str, Any]) -> None:
    assert unaccounted(seen["training"]) == set()
    assert {"_fused_adamw_", "convolution_backward", "pow.Tensor_Tensor", "logsumexp"} <= set(seen["training"])
    assert set(PROBED.values()) <= REFERENCE.keys()


def test_the_root_of_torchs_other_optimizers_would_be_found(seen: dict[str, Any]) -> None:
    kinds = seen["optimizers"]
    assert not unaccounted(kinds["fused"]["used"]) - {"randn.generator", "sign"}
    assert "_foreach_sqrt" in unaccounted(kinds["foreach"]["used"])
    assert "sqrt" in unaccounted(kinds["plain"]["used"])


def test_operations_with_a_rule_follow_it(seen: dict[str, Any]) -> None:
    assert {name: off for name, off in seen["inexact"].items() if name != "sqrt"} == dict.fromkeys(
        ("add", "sub", "rsub", "mul", "div", "reciprocal"), 0
    )
    assert seen["optimizers"]["fused"]["roots off"] == 0


def test_an_approximate_root_would_be_seen(seen: dict[str, Any]) -> None:
    """Reproducible mode makes torch's own root one; where it no longer does, the checks above prove less."""
    assert seen["inexact"]["sqrt"] > 0
    assert seen["optimizers"]["foreach"]["roots off"] > 0
    assert seen["optimizers"]["plain"]["roots off"] > 0


def test_this_machine_computes_what_was_recorded_with_the_lock(seen: dict[str, Any]) -> None:
    assert seen["operations"] == REFERENCE


def test_a_process_that_is_not_in_reproducible_mode_has_no_fingerprint() -> None:
    code = "from sandwatch import arithmetic; arithmetic.probe()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "RuntimeError: pin() must be called before arithmetic is probed" in done.stderr


# --- numpy: which functions depend on the width of the processor's vectors ---------------------------------------

WIDTH_DEPENDENT = {
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "cbrt", "cosh", "exp", "exp2", "expm1",
    "float_power", "log", "log10", "log1p", "log2", "logaddexp", "logaddexp2", "power", "sinh", "tan", "tanh", "sin",
    "cos", "dot", "inner", "matmul", "vdot", "tensordot", "einsum", "convolve", "correlate",
}  # fmt: skip
"""Numpy has them from Intel's vector library where the processor has AVX-512, or from a BLAS: other bits elsewhere."""
ALLOWED = {
    ("src/sandwatch/imagery/earthengine/__init__.py", "log10"),  # rounded: see the test below
    ("src/sandwatch/model/export.py", "exp"),  # in no output: what was exported is compared within a tolerance
    ("src/sandwatch/labelbox_suggest.py", "log2"),  # rounded, and no output: it orders images for annotators
    ("src/sandwatch/distance.py", "sin"),  # float64 sine and cosine were the same with and without
    ("src/sandwatch/distance.py", "cos"),
}


def test_stages_use_no_function_of_numpy_whose_last_digit_depends_on_the_processor() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), node.attr)
        for folder in ("src", "stages")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
        if node.attr in WIDTH_DEPENDENT
    }
    assert found == ALLOWED


def test_decibels_are_rounded_where_no_last_digit_can_tip_them() -> None:
    """Backscatter is float32: none of its values comes so near to the middle between two hundredths of a decibel."""
    middle = np.arange(-100_00, 50_00) / 100 + 0.005
    power = 10.0 ** (middle / 10)
    nearest = power.astype(np.float32)
    for candidate in (np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(np.inf))):
        away_db = np.abs(10 * np.log10(candidate.astype(np.float64)) - middle)
        assert away_db.min() > 1e-12  # a last digit of a logarithm here is 1e-14
    below, above = np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(np.inf))
    np.testing.assert_allclose(decibel(above) - decibel(below), 0.01, atol=1e-4)
