"""Runs aoi, export and annotations on small messy inputs, each in a scratch folder, without DVC.

A case is a folder with ``region/`` and ``params.json`` (values by dotted name, laid over params.yaml).
``python -m tests.cases <case folder>...`` prints what became of each.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio

from sandwatch import params
from sandwatch.errors import InputError

from .conftest import ROOT

OK = "ok"


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        stages: of each stage that ran, ``ok``, else the line that a user reads, or a traceback.
        said: what the stages printed.
        quarantine, observations, labels, manifest: tables, empty where there is none.
        scenes: pixels of each s2.tif by observation, (band, y, x).
    """

    stages: dict[str, str] = field(default_factory=dict)
    crashed: bool = False
    said: str = ""
    quarantine: pd.DataFrame = field(default_factory=pd.DataFrame)
    observations: pd.DataFrame = field(default_factory=pd.DataFrame)
    labels: pd.DataFrame = field(default_factory=pd.DataFrame)
    manifest: pd.DataFrame = field(default_factory=pd.DataFrame)
    scenes: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return list(self.stages.values()) == [OK] * 3

    @property
    def valid(self) -> float:
        """Share of the first scene's pixels that are valid in all bands."""
        (pixels, *_) = self.scenes.values()
        return float((pixels > 0).all(axis=0).mean())

    def lines(self) -> Iterator[str]:
        for stage, outcome in self.stages.items():
            yield f"  {stage}: {outcome}"
        for line in self.said.splitlines():
            if line.startswith(("note: ", "warning: ")) or "match nothing" in line:
                yield f"  {line}"
        for name, columns in (
            ("quarantine", ["obs_id", "feature_id", "polygons", "reason", "detail"]),
            ("observations", ["obs_id", "has_mines", "polygons"]),
        ):
            table = getattr(self, name)
            if len(table):
                yield from (f"  -- {name}: {', '.join(map(str, row))}" for row in table[columns].to_numpy())
        for obs_id, pixels in self.scenes.items():
            valid = (pixels > 0).all(axis=0)
            medians = [int(np.median(band[valid])) for band in pixels] if valid.any() else None
            ones = (pixels[:, valid] == 1).any(0).mean()
            yield f"  -- {obs_id}: valid {valid.mean():.3f}, at 1 {ones:.3f}, {medians}"


def run(region: Path, changes: dict[str, Any], scratch: Path) -> Outcome:
    """Runs the stages over a copy of a region.

    Args:
        region: folder with sites.csv and all else.
        changes: values of params.yaml by dotted name.
        scratch: an empty folder.
    """
    values = params.read_file(ROOT / "params.yaml")
    for name, value in changes.items():
        *path, last = name.split(".")
        at = values
        for key in path:
            at = at[key]
        at[last] = value
    here = scratch / "data/regions" / str(values["region"])
    shutil.copytree(region, here)
    rivers, aoi = here / values["aoi"]["rivers"], scratch / "data/aoi/aoi.parquet"
    scenes, manifest = scratch / "data/scenes", scratch / "data/scenes.parquet"
    annotations, canonical = scratch / "data/annotations", scratch / "data/canonical"
    steps: dict[str, dict[str, Path]] = {
        "aoi": {"sites": here / "sites.csv", "rivers": rivers, "aoi": aoi},
        "export": {"aoi": aoi, "rivers": rivers, "inputs": here / "imagery", "scenes": scenes, "manifest": manifest},
        "annotations": {
            "aoi": aoi, "rivers": rivers, "manifest": manifest, "inputs": here / "annotations",
            "annotations": annotations, "canonical": canonical, "metrics": scratch / "metrics.json",
        },
    }  # fmt: skip
    outcome, said = Outcome(), io.StringIO()
    environment = {"SANDWATCH_WORKERS": "1", "SANDWATCH_CACHE": str(scratch / "work")}
    with (
        mock.patch.object(params.StageParams, "load", return_value=params.StageParams(values, values)),
        mock.patch.dict("os.environ", environment),
        contextlib.redirect_stdout(said),
    ):
        for name, paths in steps.items():
            try:
                _stage(name).main(**paths)
                outcome.stages[name] = OK
            except InputError as error:
                outcome.stages[name] = str(error).replace(str(here), "<region>").replace(str(scratch), "<scratch>")
                break
            except Exception:  # noqa: BLE001  # a traceback is what this looks for
                outcome.stages[name], outcome.crashed = f"CRASH {traceback.format_exc()}", True
                break
    outcome.said = said.getvalue()
    for table, path in (
        ("manifest", manifest),
        *((name, annotations / f"{name}.parquet") for name in ("quarantine", "observations", "labels")),
    ):
        if path.exists():
            setattr(outcome, table, pd.read_parquet(path))
    for path in sorted(scenes.rglob("s2.tif")):
        with rasterio.open(path) as file:
            outcome.scenes[path.parent.name] = file.read()
    return outcome


def run_case(case: Path, scratch: Path) -> Outcome:
    """Runs a case's folder."""
    return run(case / "region", json.loads((case / "params.json").read_text()), scratch)


def _stage(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    for case in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as scratch:
            print(f"== {case.name}", *run_case(case, Path(scratch)).lines(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
