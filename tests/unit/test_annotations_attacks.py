"""Inputs that stopped the stage, leaked, or took minutes: each ends in the right value or in quarantine, and soon."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sandwatch.annotations import freeze, geojson, labelbox_export
from sandwatch.grid import Grid
from sandwatch.schemas import Quarantine, Scenes
from tests.unit.annotation_rows import GOOD, KNOWN, lines, manifest, params

OBS_ID = "Karsho_Heron_2022-02-01"
"""The observation of the sample region that the inputs are of."""


@pytest.fixture(scope="module")
def scenes() -> pd.DataFrame:
    """Those of the other tests, and one that covers the inputs' polygons."""
    grid = Grid.covering((640_000, 7_270_000, 680_000, 7_300_000), "EPSG:32728")
    known = manifest()
    more = known[known["obs_id"] == KNOWN[0]].assign(
        obs_id=OBS_ID,
        site_id=OBS_ID[:-11],
        date="2022-02-01",
        crs=grid.crs,
        transform=",".join(map(str, grid.transform[:6])),
        width_px=grid.width,
        height_px=grid.height,
    )
    return Scenes.checked(pd.concat([known, more], ignore_index=True), "scenes")


class Judged:
    """What became of one input beside a good row; within two seconds and 200 MB."""

    def __init__(self, line: bytes, scenes: pd.DataFrame, folder: Path, **changes: Any) -> None:
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        using = params(**changes)
        raw, parse = [*lines(GOOD), line], labelbox_export.parse
        if using.source == "geojson":
            good = GOOD["projects"]["project0"]["labels"][0]["annotations"]["objects"][0]["geojson"]
            content = json.dumps({"features": [{"geometry": good, "properties": {"Confidence": "High"}}]})
            row = {"path": "good.geojson", "obs_id": KNOWN[0], "content": content, "sha256": "0" * 64}
            raw, parse = [*lines(row | {"confidence_property": "Confidence"}), line], geojson.parse
        self.metrics = freeze(raw, parse, using, scenes, folder, folder / "canonical", {})
        assert time.process_time() - start < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
        self.raw = (folder / "export.ndjson").read_bytes()
        self.quarantine = Quarantine.read(folder / "quarantine.parquet")

    @property
    def reasons(self) -> set[str]:
        return set(self.quarantine["reason"])


@pytest.mark.parametrize(
    ("name", "changes", "reasons", "detail"),
    [
        ("date_overflow", {}, {"malformed_row"}, "updated_at: .* is beyond the calendar in UTC"),
        ("scrib_2000", {}, {"geometry_invalid", "observation_incomplete"}, "too tangled to be repaired"),
        ("comb_24000", {}, set(), ""),
        (
            "comb_24000",
            {"max_vertices": 2_000},
            {"geometry_invalid", "observation_incomplete"},
            "24002 vertices, where",
        ),
        ("redact_leak", {}, set(), ""),
        ("redact_30000", {}, set(), ""),
    ],
)
def test_a_row_of_an_export(
    name: str,
    changes: dict[str, Any],
    reasons: set[str],
    detail: str,
    shared: Callable[[str], Path],
    scenes: pd.DataFrame,
    tmp_path: Path,
) -> None:
    line = shared(f"cases-attacks/{name}.ndjson").read_bytes()
    judged = Judged(line, scenes, tmp_path, **changes)
    assert judged.reasons == reasons
    assert judged.metrics["observations"] == 1 + (not reasons)
    assert not reasons or judged.quarantine["detail"].str.contains(detail).any()
    drawn = sum(
        len(label["annotations"]["objects"])
        for project in json.loads(line)["projects"].values()
        for label in project["labels"]
    )
    assert judged.metrics["labels"] + judged.metrics["quarantined_labels"] == 1 + drawn
    assert b"CANARY" not in judged.raw
    assert judged.metrics["redacted_urls"] == name.startswith("redact")
    assert json.loads(judged.raw.splitlines()[1])["data_row"] == json.loads(line)["data_row"]


@pytest.mark.parametrize("name", ["gj_surrogate_id", "gj_surrogate_id_bad"])
def test_an_annotation_file(name: str, shared: Callable[[str], Path], scenes: pd.DataFrame, tmp_path: Path) -> None:
    content = shared(f"cases-attacks/{name}.geojson").read_text()
    row = {"path": f"{name}.geojson", "obs_id": OBS_ID, "content": content, "sha256": "0" * 64}
    judged = Judged(lines(row | {"confidence_property": "Confidence"})[0], scenes, tmp_path, source="geojson")
    (rejected,) = judged.quarantine.itertuples()
    assert (rejected.row_id, rejected.obs_id, rejected.polygons) == (f"{name}.geojson", OBS_ID, 1)
    assert (rejected.reason, judged.metrics["observations"]) == ("malformed_row", 1)
    assert "surrogates not allowed" in rejected.detail
