"""Random fields that are the same bits on every machine: integers, polynomials and square roots only.

Functions whose last bit depends on the processor (exp, sin, normal deviates from libm) are kept out, since a field that
is compared with a threshold would turn a last bit into another pixel.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def generator(*names: object) -> np.random.Generator:
    """A generator seeded by names alone: the same names, the same stream, in any process and on any machine."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Deviates of mean 0 and variance 1, float64: sums of four 16-bit uniforms (Irwin-Hall), within 3.47 of 0."""
    raw = rng.bit_generator.random_raw(math.prod(shape)).reshape(shape)
    low = np.uint64(0xFFFF)
    total = (raw & low) + (raw >> np.uint64(16) & low) + (raw >> np.uint64(32) & low) + (raw >> np.uint64(48))
    # Mean 4 * 65535 / 2 and variance 4 * (65536^2 - 1) / 12 of the sum.
    deviates: Floats = (total.astype(np.float64) - 131070.0) / 37837.22
    return deviates


def smooth(rng: np.random.Generator, y: Floats, x: Floats, *, cell_y: float, cell_x: float) -> Floats:
    """Value noise in about -1 to 1 at any points: random values on a lattice, joined by cubic ramps.

    Args:
        rng: draws the lattice.
        y: coordinates, an array of any shape; (height, 1) where the points are a grid.
        x: coordinates, an array of the same shape; (1, width) where the points are a grid, which is quicker.
        cell_y: distance between lattice nodes along y, in the unit of ``y``.
        cell_x: the same along x.
    """
    row, col = y / cell_y, x / cell_x
    row, col = row - np.floor(row.min()), col - np.floor(col.min())
    top, left = np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)
    lattice = 2.0 * rng.random((int(top.max()) + 2, int(left.max()) + 2)) - 1.0
    down, right = _ramp(row - top), _ramp(col - left)
    field: Floats
    if row.shape[1:] == (1,) and col.shape[:1] == (1,):
        lines = lattice[top[:, 0]] * (1.0 - down) + lattice[top[:, 0] + 1] * down
        field = lines[:, left[0]] * (1.0 - right) + lines[:, left[0] + 1] * right
        return field
    corner = top * lattice.shape[1] + left
    flat = lattice.ravel()
    above = flat[corner] * (1.0 - right) + flat[corner + 1] * right
    corner += lattice.shape[1]
    below = flat[corner] * (1.0 - right) + flat[corner + 1] * right
    field = above * (1.0 - down) + below * down
    return field


def rank(values: Floats) -> Floats:
    """Each value's rank, scaled to above 0 and below 1; ties in order of position. One-dimensional."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    return ranks


def triangle(phase: Floats) -> Floats:
    """Triangle wave of period 1 between -1 (at whole numbers) and 1."""
    wave: Floats = 1.0 - np.abs(2.0 * (phase - np.floor(phase)) - 1.0) * 2.0
    return wave


def _ramp(t: Floats) -> Floats:
    return t * t * (3.0 - 2.0 * t)
