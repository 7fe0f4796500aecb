"""What params.yaml may say of imagery: sections ``imagery``, ``earthengine`` and ``synthetic``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sandwatch.params import Fraction, NotNegative, Section, Seed


class Imagery(Section):
    """Where pixels come from."""

    section = "imagery"
    source: Literal["synthetic", "files", "earthengine"]
    min_coverage: Fraction


class EarthEngine(Section):
    """What Google Earth Engine composites, and how it comes here. Who asks is in the environment: see docs."""

    section = "earthengine"
    s2_level: Literal["L2A", "L1C"]
    cloud_mask: Literal["cloud_score_plus", "scene_filter"]
    clear_threshold: Fraction
    max_cloudy_percent: Annotated[float, Field(ge=0.0, le=100.0)]
    s1_orbit: Literal["ascending", "descending", "both"]
    transfer: Literal["auto", "batch", "compute_pixels"]
    bucket: str | None

    @model_validator(mode="after")
    def _bucket_for_batch(self) -> EarthEngine:
        if self.transfer == "batch" and self.bucket is None:
            raise ValueError("transfer is batch, which needs the name of a bucket in earthengine.bucket")
        return self


class Synthetic(Section):
    """The generator of the sample region: shared by imagery.source and annotations.source ``synthetic``."""

    section = "synthetic"
    seed: Seed
    cloud_fraction: Fraction
    annotator_error_m: NotNegative
