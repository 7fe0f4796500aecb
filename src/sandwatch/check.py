"""All that params.yaml may hold."""

from __future__ import annotations

from sandwatch.params import (
    Annotations,
    Aoi,
    Bands,
    Chips,
    Compute,
    EarthEngine,
    Evaluate,
    Imagery,
    Infer,
    Model,
    Section,
    Split,
    Synthetic,
    Train,
)

SECTIONS: tuple[type[Section], ...] = (
    Bands, Aoi, Split, Imagery, EarthEngine, Synthetic, Annotations, Chips, Model, Train, Compute, Evaluate, Infer,
)  # fmt: skip
"""The sections of params.yaml, in its order."""
