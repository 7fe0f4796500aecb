"""Maps of rivers: scores, masks and polygons of mines of every scene to be watched, with where they came from.

No scene is ever whole in memory: rows of blocks go in, finished rows of scores come out.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from sandwatch import raster, stac
from sandwatch.errors import InputError
from sandwatch.files import exactly, sha256
from sandwatch.geometry import WGS84, reproject, snap
from sandwatch.grid import Grid, Window
from sandwatch.model import scoring
from sandwatch.model.scoring import Scorer
from sandwatch.origin import Kind, kind_of
from sandwatch.params import S1_BANDS, NotNegative, Section
from sandwatch.scene import Raster, SceneReader, exported
from sandwatch.schemas import Detections
from sandwatch.stage import progress
from sandwatch.work import Unit, Work

if TYPE_CHECKING:
    from sandwatch.model.card import Spec

SCORE_BAND = "probability of a mine"
MASK_NODATA = 255


class Infer(Section):
    """How scores become polygons."""

    section = "infer"
    min_object_m2: NotNegative


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An observation to be mapped.

    Attributes:
        obs_id, site_id, river, district, date: whose it is; ``date`` is the first day of its month.
        grid: of its rasters.
        aoi: what to map, EPSG:4326.
        rasters: by product, ``s2`` and, where the model uses radar, ``s1``.
        imagery: what its rasters are.
    """

    obs_id: str
    site_id: str
    river: str
    district: str
    date: str
    grid: Grid
    aoi: BaseGeometry
    rasters: Mapping[str, Raster]
    imagery: Kind

    @property
    def sha256(self) -> dict[str, str]:
        """Hash by product."""
        return {product: one.sha256 for product, one in sorted(self.rasters.items())}


def infer(
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    scenes: Path,
    scorer: Scorer,
    settings: Infer,
    *,
    weights: Path,
    predictions: Path,
    work: Work | None = None,
) -> None:
    """Maps every exported scene of the sites with role ``infer`` or ``both``.

    Writes ``<obs_id>/{score.tif,mask.tif,detections.parquet,item.json}`` for each, ``detections.parquet`` of all of
    them, and the STAC collection with the model's own item.

    Args:
        aoi: rows of :class:`sandwatch.schemas.Aoi`.
        manifest: rows of :class:`sandwatch.schemas.Scenes`.
        scenes: the folder that the manifest's paths are relative to.
        scorer: the model.
        settings: the smallest detection.
        weights: the model's file, for the link in its STAC item.
        predictions: where to write.
        work: keeps each map, so that it is made once, whatever becomes of the run; None to keep nothing.

    Raises:
        InputError: no scene can be mapped, a scene lacks a band that the model needs or is not what was exported, or
            ``predictions`` holds in the end what this run did not write.
    """
    found = scenes_to_map(aoi, manifest, scenes, scorer.spec.bands, may_lack=scorer.spec.without)
    tables, items = [], []
    for number, scene in enumerate(found, 1):
        folder = predictions / scene.obs_id
        unit = _unit(scene, scorer, settings)
        done = work.run(unit, folder) if work else None
        mapped = done.value if done else unit.function(folder)
        table = Detections.read(folder / "detections.parquet")
        tables.append(table)
        items.append(stac.scene_item(scene, scorer.spec, folder, len(table)))
        said = " (by an earlier run)" if done and done.kept else ""
        progress(f"[{number}/{len(found)}] {scene.obs_id}: {mapped:.1f} km2 mapped, {len(table)} detections{said}")
    Detections.write(gpd.GeoDataFrame(pd.concat(tables), crs=WGS84), predictions / "detections.parquet")
    stac.write(items, scorer.spec, weights, predictions)
    exactly(predictions, stac.files(items))


def _unit(scene: Scene, scorer: Scorer, settings: Infer) -> Unit:
    """The work of a scene: its map and its detections; its value is the area that got a score, km2."""

    def inputs() -> Any:
        try:
            # Of what lies there, not only of what the manifest says: nothing is taken for a scene that is another now.
            rasters = {product: sha256(one.path) for product, one in sorted(scene.rasters.items())}
        except OSError:  # reading it says so
            return None
        return {
            "scene": [scene.obs_id, scene.site_id, scene.river, scene.district, scene.date, scene.imagery],
            "grid": asdict(scene.grid),
            "aoi": scene.aoi.wkb_hex,
            "rasters": [rasters, scene.sha256],
            "model": scorer.spec.model_dump(mode="json"),
            "min_object_m2": settings.min_object_m2,
        }

    def function(folder: Path) -> float:
        mapped = map_scene(scene, scorer, folder)
        table = detections(scene, scorer.spec, folder, settings.min_object_m2)
        Detections.write(table, folder / "detections.parquet")
        return mapped

    return Unit(name=scene.obs_id, inputs=inputs, function=function)


def scenes_to_map(
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    folder: Path,
    bands: Sequence[str],
    *,
    may_lack: Sequence[str] = (),
) -> list[Scene]:
    """The scenes to be mapped, sorted; those that were not exported are named in a line each.

    Args:
        aoi: rows of :class:`sandwatch.schemas.Aoi`.
        manifest: rows of :class:`sandwatch.schemas.Scenes`.
        folder: what the manifest's paths are relative to.
        bands: what the model needs.
        may_lack: those of them without which it maps all the same.

    Raises:
        InputError: there is none, or one lacks a band that the model needs.
    """
    radar = [band for band in bands if band in S1_BANDS]
    needed = {"s2": [band for band in bands if band not in S1_BANDS], **({"s1": radar} if radar else {})}
    sites: dict[str, Any] = {row.site_id: row for row in aoi.itertuples() if row.role in ("infer", "both")}
    asked: dict[str, dict[str, dict[Hashable, Any]]] = {}
    for row in manifest.sort_values("obs_id").to_dict("records"):
        if row["site_id"] in sites and row["product"] in needed:
            asked.setdefault(row["obs_id"], {})[row["product"]] = row
    found, rasters = [], exported(manifest, folder)
    for obs_id, products in asked.items():
        absent = {product: _why_absent(products.get(product)) for product in needed}
        spared = {product for product, names in needed.items() if set(names) <= set(may_lack)}
        if reasons := [f"{product} {why}" for product, why in absent.items() if why and product not in spared]:
            progress(f"{obs_id}: not mapped: {'; '.join(reasons)}")
            continue
        there = {product: names for product, names in needed.items() if not absent[product]}
        for product, names in there.items():
            has = products[product]["bands"].split(",")
            if missing := [name for name in names if name not in has]:
                raise InputError(
                    f"scene {obs_id}, {product}",
                    got=f"bands {', '.join(has)}",
                    expected=f"{', '.join(missing)} among them, which the model was trained on",
                    fix="export it again with these bands, or train again without them (params.yaml, section bands)",
                )
        site = sites[products["s2"]["site_id"]]
        found.append(
            Scene(
                obs_id=obs_id,
                site_id=site.site_id,
                river=site.river,
                district=site.district,
                date=products["s2"]["date"],
                grid=Grid.of_site(site),
                aoi=site.geometry,
                rasters={product: rasters[obs_id][product] for product in there},
                imagery=kind_of(products[product]["source"] for product in there),
            )
        )
    if not found:
        raise InputError(
            "scenes to map",
            got=f"none exported among {len(asked)} observations of {len(sites)} sites",
            expected="at least one exported scene of a site with role infer or both",
            fix="give a site the role infer or both in sites.csv, with months that have imagery, and run dvc repro",
        )
    return found


def map_scene(scene: Scene, scorer: Scorer, folder: Path) -> float:
    """Writes ``score.tif`` and ``mask.tif`` of a scene.

    ``score.tif`` is uint16, the score in steps (:mod:`sandwatch.model.scoring`; its band scale says so), 65535 where
    there is none: outside the AOI, or where a band lacks data. ``mask.tif`` is uint8, 1 where the stored score reaches
    the model's threshold, 0 where not, 255 without a score. Both carry their provenance as tags.

    Returns:
        Area that got a score, km2.

    Raises:
        InputError: a raster is not the one that was exported, or can't be read; nothing is written then.
    """
    spec = scorer.spec
    tags = {
        "SOFTWARE": "sandwatch",
        "OBS_ID": scene.obs_id,
        **{name.upper(): value for name, value in spec.said.items()},
        "THRESHOLD": repr(spec.threshold),
        "IMAGERY": scene.imagery,
        **{f"SCENE_{product.upper()}_SHA256": value for product, value in scene.sha256.items()},
    }
    scored_px = 0
    with (
        raster.cog_by_rows(
            folder / "score.tif",
            scene.grid,
            band=SCORE_BAND,
            dtype=np.uint16,
            nodata=scoring.NODATA,
            scale=1 / scoring.STEPS,
            tags=tags,
        ) as write_scores,
        raster.cog_by_rows(
            folder / "mask.tif", scene.grid, band="mine", dtype=np.uint8, nodata=MASK_NODATA, tags=tags
        ) as write_mask,
        SceneReader(scene.obs_id, scene.rasters, scene.grid, spec.bands, may_lack=spec.without) as stack,
    ):
        for part in scoring.score(stack, scorer, Region(scene.aoi, scene.grid)):
            scored = part.steps != scoring.NODATA
            scored_px += int(scored.sum())
            write_scores(part.rows.start, part.steps)
            write_mask(part.rows.start, np.where(scored, part.mine, MASK_NODATA).astype(np.uint8))
    return scored_px * scene.grid.resolution**2 / 1e6


def detections(scene: Scene, spec: Spec, folder: Path, min_object_m2: float) -> gpd.GeoDataFrame:
    """Polygons of mines of a mapped scene: the mask's regions, joined over pixel edges.

    Args:
        scene: the scene.
        spec: of the model that mapped it.
        folder: with its ``score.tif`` and ``mask.tif``.
        min_object_m2: smaller ones are dropped; areas are measured in the scene's UTM zone.

    Returns:
        Rows of :class:`sandwatch.schemas.Detections`, numbered from the top down, EPSG:4326.
    """
    found = [polygon for polygon in raster.polygons(folder / "mask.tif", 1) if polygon.area >= min_object_m2]
    mean, largest = _scores_under(found, folder / "score.tif", scene.grid)
    table = gpd.GeoDataFrame(
        {
            "detection_id": pd.Series([f"{scene.obs_id}/{n:05d}" for n in range(1, len(found) + 1)], dtype="str"),
            "score_mean": mean,
            "score_max": largest,
            "area_m2": np.array([polygon.area for polygon in found], np.float64),
        },
        geometry=[shapely.normalize(snap(reproject(polygon, scene.grid.crs, WGS84))) for polygon in found],
        crs=WGS84,
    )
    return table.assign(
        obs_id=scene.obs_id,
        site_id=scene.site_id,
        river=scene.river,
        date=scene.date,
        **spec.said,
        imagery=scene.imagery,
        scene_sha256=json.dumps(scene.sha256, sort_keys=True),
    )


def read_score(path: Path) -> npt.NDArray[np.float32]:
    """Probabilities of a ``score.tif``, float32 (y, x), NaN where there is no score.

    Raises:
        InputError: the file can't be read or is no score.
    """
    return scoring.to_scores(raster.read(path, bands=[SCORE_BAND])[0])


class Region:
    """An AOI as bool (y, x) on a grid, drawn when asked: pixels whose centre lies inside."""

    def __init__(self, aoi: BaseGeometry, grid: Grid) -> None:
        """Draws nothing yet.

        Args:
            aoi: EPSG:4326.
            grid: to draw on.
        """
        self.shape = grid.shape
        self._aoi, self._grid = aoi, grid

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[np.bool_]:
        """The part under two slices."""
        rows, cols = key
        first, last, _ = rows.indices(self.shape[0])
        part = Window(row=first, col=0, height=last - first, width=self._grid.width)
        return raster.inside(self._aoi, self._grid.crop(part))[:, cols]


def _why_absent(row: dict[Hashable, Any] | None) -> str | None:
    """Why the product of a row of the manifest can't be used, or None if it can."""
    if row is None:
        return "was not asked for"
    return None if row["status"] == "exported" else f"skipped: {row['detail']}"


def _scores_under(
    found: Sequence[shapely.Polygon], path: Path, grid: Grid
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and largest probability in each polygon; sums are of integers, so exact."""
    total, count = np.zeros(len(found)), np.zeros(len(found))
    largest = np.zeros(len(found))
    for owners, steps in steps_under(found, path, grid):
        total += np.bincount(owners, steps, len(found))
        count += np.bincount(owners, minlength=len(found))
        np.maximum.at(largest, owners, steps)
    return np.round(total / count / scoring.STEPS, 6), largest / scoring.STEPS


def steps_under(
    shapes: Sequence[BaseGeometry], path: Path, grid: Grid
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]:
    """The pixels of a ``score.tif`` whose centre lies in a shape, a row of blocks at a time.

    Args:
        shapes: in the grid's CRS; of those that overlap, the last has a pixel.
        path: of the score.
        grid: of the score.

    Yields:
        For each such pixel which shape it lies in, and its score in steps (:mod:`sandwatch.model.scoring`), float64.
    """
    from rasterio.features import rasterize

    tree = shapely.STRtree(shapes)
    for row in range(0, grid.height, raster.BLOCK_PX):
        window = Window(row=row, col=0, height=min(raster.BLOCK_PX, grid.height - row), width=grid.width)
        part = grid.crop(window)
        touching = np.sort(tree.query(shapely.box(*part.bounds)))
        if not len(touching):
            continue
        owner = rasterize(
            [(shapes[number], number + 1) for number in touching], part.shape, transform=part.transform, dtype=np.int32
        )
        inside = owner > 0
        steps = raster.read(path, bands=[SCORE_BAND], window=window)[0][inside]
        yield owner[inside] - 1, steps.astype(np.float64)
