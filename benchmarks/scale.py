"""How time and memory grow with a region: sites through the stage `aoi`, labels through the stage `annotations`.

Invents sites every 3 km along the rivers of basins that lie 110 km apart, and an export as Labelbox writes it, ten
polygons an image; then does what the stages do, each in a process of its own. Prints a table of wall time, CPU time and
largest resident memory, and exits with status 1 where a limit is broken.

Run: python benchmarks/scale.py [--sizes 1000,10000,100000]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S, LIMIT_MB = 60.0, 1000.0
"""For 100,000 sites or labels and fewer, on two cores that nobody else uses."""
BASIN_SITES, RIVERS = 250, 6
"""In a basin."""
BASIN_DEGREES, GAP_DEGREES = 1.2, 1.0
STEP_DEGREES, SITE_STEPS = 0.005, 6
"""Between the vertices of a river (half a kilometre), and of those from one site to the next."""
POLYGONS, VERTICES = 10, 12
"""Drawn on an image, and of each of them."""
ZONE, WEST, SOUTH = "EPSG:32645", 84.2, 20.0
"""Where the images are: within one UTM zone."""

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    sizes: Annotated[str, typer.Option(help="numbers of sites and of labels")] = "1000,10000,100000",
) -> None:
    """Measures both stages at each size."""
    if context.invoked_subcommand:
        return
    print(f"{'stage':<12} {'number':>8} {'wall s':>7} {'CPU s':>7} {'MB':>6}")
    late = False
    for stage in ("aoi", "annotations"):
        for number in sizes.split(","):
            with tempfile.TemporaryDirectory(prefix="sandwatch-bench-") as folder:
                measure("write", stage, folder, number)
                wall, cpu, megabytes = measure("run", stage, folder)
            over = wall > LIMIT_S or megabytes > LIMIT_MB
            late |= over
            print(f"{stage:<12} {number:>8} {wall:>7.1f} {cpu:>7.1f} {megabytes:>6.0f}" + "  over the limit" * over)
    print(f"load on this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    raise typer.Exit(int(late))


def measure(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and largest resident megabytes of one of the commands below."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, *arguments], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@app.command(hidden=True)
def write(stage: str, folder: Path, number: int) -> None:
    """Writes the inputs of a stage."""
    {"aoi": write_sites, "annotations": write_labels}[stage](folder, number)


@app.command(hidden=True)
def run(stage: str, folder: Path) -> None:
    """Does what a stage does, with the values of params.yaml."""
    {"aoi": run_aoi, "annotations": run_annotations}[stage](folder)


def write_sites(folder: Path, number: int) -> None:
    """Writes sites.csv and rivers.geojson."""
    import numpy as np

    rng = np.random.default_rng(number)
    basins = max(number // BASIN_SITES, 2)
    across = int(np.ceil(basins**0.5))
    lines, features = ["site_id,river,district,longitude,latitude,months,role"], []
    for river in range(basins * RIVERS):
        basin = river // RIVERS
        corner = np.array([60.0, -across]) + (BASIN_DEGREES + GAP_DEGREES) * np.array(divmod(basin, across))
        count = number // (basins * RIVERS) + (river < number % (basins * RIVERS))
        course = (corner + meander(rng, count * SITE_STEPS + 1)).round(6).tolist()
        geometry = {"type": "LineString", "coordinates": course}
        features.append({"type": "Feature", "properties": {"river": f"River {river}"}, "geometry": geometry})
        for place, (x, y) in enumerate(course[1::SITE_STEPS]):
            role = "infer" if place % 10 == 9 else "label"
            lines.append(f"r{river}s{place},River {river},,{x},{y},2022-01;2022-05;2023-01,{role}")
    (folder / "sites.csv").write_text("\n".join(lines) + "\n")
    (folder / "rivers.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def meander(rng: Any, steps: int) -> Any:
    """A river's course in a basin, degrees (steps, 2): it wanders, and turns back at the basin's sides."""
    import numpy as np

    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, steps))
    moved = STEP_DEGREES * np.column_stack([np.cos(heading), np.sin(heading)]).cumsum(axis=0)
    return np.abs((rng.uniform(0, BASIN_DEGREES, 2) + moved) % (2 * BASIN_DEGREES) - BASIN_DEGREES)


def run_aoi(folder: Path) -> None:
    """The stage `aoi`."""
    from sandwatch import aoi, params
    from sandwatch.rivers import Rivers
    from sandwatch.schemas import Aoi
    from sandwatch.split import Split
    from sandwatch.stage import workers

    split = params.read(ROOT / "params.yaml", Split).model_copy(update={"holdout_rivers": ("River 0",)})
    sites, rivers = aoi.read_sites(folder / "sites.csv"), Rivers(folder / "rivers.geojson")
    section = params.read(ROOT / "params.yaml", aoi.Aoi)
    table = aoi.build(sites, rivers, aoi=section, split_params=split, workers=workers())
    Aoi.write(table, folder / "aoi.parquet")


def write_labels(folder: Path, number: int) -> None:
    """Writes scenes.parquet and the export of a project of Labelbox."""
    import numpy as np
    import pandas as pd

    from sandwatch.geometry import WGS84, transformer
    from sandwatch.schemas import Scenes

    rng = np.random.default_rng(number)
    images = -(-number // POLYGONS)
    names = [f"site{i // 4}_{2020 + i % 4}-01-01" for i in range(images)]
    corner = np.array([WEST, SOUTH]) + rng.uniform(0, 4.5, (images, 2))
    left, top = (np.floor(np.array(axis) / 10) * 10 for axis in transformer(WGS84, ZONE).transform(*corner.T))
    scenes = pd.DataFrame(
        {"obs_id": names, "site_id": [name[:-11] for name in names], "date": [n[-10:] for n in names]}
    )
    scenes = scenes.assign(
        status="exported", detail=None, bands="B4,B3,B2", crs=ZONE, width_px=600, height_px=600, valid_fraction=1.0,
        transform=[f"10.0,0.0,{x},0.0,-10.0,{y}" for x, y in zip(left, top, strict=True)], source="files",
        source_images="[]", sha256="0" * 64,
    )  # fmt: skip
    types = {"s2": ("uint16", 0.0), "s1": ("float32", float("nan")), "rgb": ("uint8", 0.0)}
    tables = [
        scenes.assign(product=product, dtype=dtype, nodata=nodata, path=scenes["obs_id"] + f"_{product}.tif")
        for product, (dtype, nodata) in types.items()
    ]
    Scenes.write(pd.concat(tables), folder / "scenes.parquet")
    (folder / "annotations").mkdir()
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    with (folder / "annotations" / "export.ndjson").open("w") as export:
        for i, name in enumerate(names):
            drawn = []
            for k in range(min(POLYGONS, number - i * POLYGONS)):
                centre = corner[i] + [0.004 + 0.005 * k, -rng.uniform(0.004, 0.05)]
                ring = (centre + 0.002 * rng.uniform(0.6, 1.0, (VERTICES, 1)) * circle).round(7).tolist()
                drawn.append(_object(f"{name}-{k}", [*ring, ring[0]], rng.choice(["High", "Low"])))
            export.write(json.dumps(_row(name, drawn)) + "\n")


def _answered(question: str, answer: str) -> dict[str, Any]:
    return {"name": question, "value": "q", "radio_answer": {"name": answer, "value": "a", "classifications": []}}


def _object(feature_id: str, ring: list[list[float]], confidence: str) -> dict[str, Any]:
    return {
        "feature_id": feature_id, "feature_schema_id": "c" * 25, "name": "Sand mine", "value": "sand_mine",
        "annotation_kind": "GeoPolygon", "classifications": [_answered("Confidence", confidence)],
        "geojson": {"type": "Polygon", "coordinates": [ring]},
    }  # fmt: skip


def _row(name: str, drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of an export: one done label. Source: Labelbox documentation, "Export specifications"."""
    details = {
        "created_at": "2024-04-01T10:00:00.000+00:00", "updated_at": "2024-04-08T16:21:26.000+00:00",
        "content_last_updated_at": "2024-04-08T16:21:26.000+00:00", "created_by": "annotator@example.org",
        "reviews": [{"reviewed_by": "reviewer@example.org", "score": 1}],
    }  # fmt: skip
    label = {
        "label_kind": "Default", "version": "1.0.0", "id": f"label-{name}", "label_details": details,
        "performance_details": {"seconds_to_create": 34, "skipped": False, "benchmark_reference_label": None},
        "annotations": {"objects": drawn, "classifications": [_answered("Mine activity", "Yes")], "relationships": []},
    }  # fmt: skip
    link = "https://tiles.example.org/{z}/{x}/{y}.png?X-Goog-Signature=0123456789abcdef"
    return {
        "data_row": {"id": f"row-{name}", "global_key": name, "external_id": name, "row_data": link},
        "media_attributes": {"asset_type": "tms_geo"},
        "projects": {
            "project": {
                "name": "mines", "labels": [label],
                "project_details": {"workflow_status": "DONE", "selected_label_id": f"label-{name}"},
            }
        },
    }  # fmt: skip


def run_annotations(folder: Path) -> None:
    """The stage `annotations`."""
    import geopandas as gpd

    from sandwatch import annotations, params
    from sandwatch.annotations.params import Annotations
    from sandwatch.imagery.params import Synthetic
    from sandwatch.schemas import Scenes

    said = params.read(ROOT / "params.yaml", Annotations).model_copy(update={"source": "labelbox_export"})
    annotations.build(
        said,
        params.read(ROOT / "params.yaml", Synthetic),
        aoi=gpd.GeoDataFrame(),
        manifest=Scenes.read(folder / "scenes.parquet"),
        rivers=Path(),
        inputs=folder / "annotations",
        folder=folder / "out",
        canonical_folder=folder / "canonical",
    )


if __name__ == "__main__":
    app()
