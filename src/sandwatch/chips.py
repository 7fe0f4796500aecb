"""Labelled windows: an index table over one pixel stack and one mask an observation, and what each polygon gave.

A scene is read once and its labels are rasterised once, as ordinals: the mask, the pixel counts of every window and
the pixels that every polygon put into every window all come from that one array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from sandwatch import pools, raster, stack
from sandwatch.distance import min_distance_km
from sandwatch.errors import InputError
from sandwatch.files import write_npy
from sandwatch.grid import RESOLUTION_M, Grid, Window, tile
from sandwatch.origin import Kind, kind_of
from sandwatch.params import Bands, Count, Fraction, NotNegative, Section, Seed
from sandwatch.scene import SceneReader, exported
from sandwatch.split import Blocks, Split, blocks, check_leak, check_windows, footprints, grounds
from sandwatch.stack import HIGH, IGNORED, LOW, OTHER

CONFIDENCE = {"low": LOW, "high": HIGH}
DEGREE_DIGITS = 6
"""Labels are burnt in with vertices at this many decimals of a degree (0.11 m, a hundredth of a pixel), as annotation
tools write them. Measured: the predecessor's masks were made so; with more decimals, pixels that a label's corner
touches by a millimetre come out otherwise (12 of 35,157 and 3 of 7,815 in its two published masks, with 6 none)."""
CANDIDATES = 8
"""Random places tried for each random window wanted, because blocks refuse some."""


class Chips(Section):
    """Windows of pixels with labels."""

    section = "chips"
    size_px: Annotated[int, Field(ge=32, le=1024, multiple_of=32)]
    stride_px: Count
    random_windows_per_chip_area: NotNegative
    min_aoi_fraction: Fraction
    min_valid_fraction: Fraction
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What cutting gave, apart from the arrays that it wrote.

    Attributes:
        windows: rows of schemas.Windows.
        chip_labels: rows of schemas.ChipLabels.
        imagery: what the windows' pixels are.
        metrics: figures about them.
        notes: a line for each observation that gave no chip, for people.
    """

    windows: pd.DataFrame
    chip_labels: pd.DataFrame
    imagery: Kind
    metrics: dict[str, Any]
    notes: tuple[str, ...]


def rasterise(labels: gpd.GeoDataFrame, grid: Grid) -> npt.NDArray[np.int32]:
    """Burns labels into a grid; a pixel that a label touches is the label's.

    Where labels overlap the higher class wins, and within a class the later ``feature_id``.

    Args:
        labels: columns feature_id, confidence (low or high) and geometry, in any CRS.
        grid: in any CRS.

    Returns:
        int32 (y, x): 0 where there is no label, else 1 + the position of the label among the rows of ``labels``.
    """
    if labels.empty:
        return np.zeros(grid.shape, np.int32)
    shapes = labels.geometry
    if labels.crs.is_geographic:
        shapes = shapes.transform(lambda vertices: vertices.round(DEGREE_DIGITS))
    shapes = shapes.to_crs(grid.crs).to_numpy()
    order = sorted(
        range(len(labels)), key=lambda i: (CONFIDENCE[labels["confidence"].iloc[i]], labels["feature_id"].iloc[i])
    )
    return raster.burn([(shapes[i], i + 1) for i in order], grid)


def touched(areas: gpd.GeoDataFrame, grid: Grid) -> npt.NDArray[np.bool_]:
    """Which pixels areas touch, as labels in their place would: bool (y, x).

    Args:
        areas: column geometry, in any CRS.
        grid: in any CRS.
    """
    return rasterise(areas.assign(feature_id="", confidence="low"), grid) > 0  # names are needed; any will do


def choose(
    obs_id: str,
    in_aoi: npt.NDArray[np.bool_],
    valid: npt.NDArray[np.bool_],
    fold: Callable[[Window], str | None],
    chips: Chips,
) -> list[tuple[str, str, Window]]:
    """Chooses the windows of an observation: a regular grid, and random ones on top where it trains.

    Args:
        obs_id: gives, with ``chips.seed``, the random places.
        in_aoi: bool (y, x).
        valid: bool (y, x), where every band has data.
        fold: of a window; None where it belongs to none.
        chips: section of params.yaml.

    Returns:
        (fold, ``grid`` or ``random``, window) of each window that is inside the AOI enough, valid enough and in a fold.
    """
    size, (height, width) = chips.size_px, in_aoi.shape
    aoi_px, valid_px = _Sums(in_aoi, size), _Sums(valid, size)

    def fit(row: Any, col: Any) -> Any:
        enough_aoi = aoi_px(row, col) >= chips.min_aoi_fraction * size**2
        return enough_aoi & (valid_px(row, col) >= chips.min_valid_fraction * size**2)

    regular = [window for window in tile(height, width, size, chips.stride_px) if fit(window.row, window.col)]
    chosen = [(in_fold, "grid", window) for window in regular if (in_fold := fold(window)) is not None]

    wanted = round(chips.random_windows_per_chip_area * int(in_aoi.sum()) / size**2)
    rows, cols = (np.arange(max(length - size, 0) + 1) for length in (height, width))
    places = np.flatnonzero(fit(rows[:, None], cols[None, :]))
    seed = int.from_bytes(hashlib.sha256(f"{chips.seed}\n{obs_id}".encode()).digest())
    tried = np.random.default_rng(seed).choice(places, min(wanted * CANDIDATES, len(places)), replace=False)
    random = (Window(row=int(p) // len(cols), col=int(p) % len(cols), height=size, width=size) for p in tried)
    training = (("train", "random", window) for window in random if fold(window) == "train")
    return [*chosen, *islice(training, wanted)]


def cut(
    *,
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    scenes: Path,
    observations: pd.DataFrame,
    labels: gpd.GeoDataFrame,
    ignored: gpd.GeoDataFrame,
    bands: Bands,
    chips: Chips,
    split: Split,
    workers: int,
    out: Path,
) -> Cut:
    """Cuts windows from every observation that was looked at, has a scene and is learnt from.

    Writes ``pixels/<obs_id>.npy`` (int16 (band, y, x), as :func:`sandwatch.stack.encode`) and ``masks/<obs_id>.npy``
    (uint8 (y, x): 0 other, 1 low, 2 high, 255 where a band lacks data, or unlabelled and outside the AOI or in an
    ignored area) to ``out``. Observations are worked on in parallel; the number of workers does not change what
    comes out.

    Args:
        aoi: schemas.Aoi.
        manifest: schemas.Scenes.
        scenes: the folder that the manifest's paths start from.
        observations: schemas.CanonicalObservations.
        labels: schemas.CanonicalLabels.
        ignored: schemas.CanonicalIgnored.
        bands: what to stack.
        chips: size, number and fitness of windows.
        split: the distance that folds keep, and the blocks of a group that stands alone.
        workers: threads.
        out: folder for the arrays.

    Raises:
        InputError: folds come nearer to each other than they may, a site is not in ``aoi``, a raster is unfit or not
            the one that was exported, or there is no window at all.
    """
    sites = aoi.set_index("site_id", drop=False)
    for observation in observations.itertuples():
        if observation.site_id not in sites.index:
            raise InputError(
                f"observation {observation.obs_id}",
                got=f"site {observation.site_id}",
                expected="a site of aoi.parquet",
                fix="add the site to sites.csv, or run the annotations stage again",
            )
    placed = observations.assign(fold=sites.loc[observations["site_id"], "fold"].to_numpy())
    learnt = placed[placed["fold"] != "infer"]
    of_site = dict(zip(aoi["site_id"], grounds([Grid.of_site(site) for site in aoi.itertuples()]), strict=True))
    check_leak(
        learnt["obs_id"].tolist(),
        learnt["fold"].tolist(),
        learnt["site_id"].map(of_site).tolist(),
        min_distance_km=split.min_distance_km,
    )
    in_blocks = aoi.loc[aoi["fold"] == "blocks", "geometry"].tolist()
    strips = blocks(in_blocks, size_m=chips.size_px * RESOLUTION_M, split=split) if in_blocks else None

    rasters = exported(manifest, scenes)
    products = ["s2", "s1"] if bands.s1 else ["s2"]
    complete = learnt[[rasters.get(obs_id, {}).keys() >= set(products) for obs_id in learnt["obs_id"]]]
    drawn, left_out = (dict(tuple(table.groupby("obs_id"))) for table in (labels, ignored))

    def work(observation: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        site = sites.loc[observation.site_id]
        grid = Grid.of_site(site)
        with SceneReader(observation.obs_id, rasters[observation.obs_id], grid, bands.names) as scene:
            pixels = scene.read()
        valid, in_aoi = stack.valid(pixels), raster.inside(site["geometry"], grid)
        mine = drawn.get(observation.obs_id, labels.iloc[:0])
        ordinals = np.where(valid, rasterise(mine, grid), 0)
        mask = np.array([OTHER, *mine["confidence"].map(CONFIDENCE)], np.uint8)[ordinals]
        untold = ~in_aoi | touched(left_out.get(observation.obs_id, ignored.iloc[:0]), grid)
        mask[~valid | (untold & (mask == OTHER))] = IGNORED
        for folder, array in (("pixels", pixels), ("masks", mask)):
            write_npy(out / folder / f"{observation.obs_id}.npy", array)
        windows = _count(
            choose(observation.obs_id, in_aoi, valid, _fold(observation.fold, strips, grid), chips),
            chips.size_px,
            {f"px_{name}": mask == value for name, value in (("other", OTHER), ("low", LOW), ("high", HIGH))},
            {"aoi_fraction": in_aoi, "valid_fraction": valid},
            obs_id=observation.obs_id,
            site_id=observation.site_id,
            river=site["river"],
            group=int(site["group"]),
        )
        return windows, _attribute(windows, ordinals, mine["feature_id"].tolist())

    with pools.threads(workers) as pool:
        tables = list(pool.map(work, complete.itertuples()))
    used = {observation_id for windows, _ in tables for observation_id in windows["obs_id"]}
    without = placed[~placed["obs_id"].isin(used)]
    notes = tuple(
        f"{observation.obs_id}: no chips, because "
        + (
            "its site is only inferred"
            if observation.fold == "infer"
            else "no window is inside the AOI enough and valid enough"
            if observation.obs_id in set(complete["obs_id"])
            else f"it has no scene with all of {', '.join(products)}"
        )
        for observation in without.itertuples()
    )
    if not used:
        raise InputError(
            "params.yaml: chips",
            got=f"no window in {len(placed)} observations ({'; '.join(notes[:2])})",
            expected="at least one window",
            fix="lower chips.min_aoi_fraction, chips.min_valid_fraction or chips.size_px, or label more observations",
        )
    windows, chip_labels = (pd.concat(part, ignore_index=True) for part in zip(*tables, strict=True))
    read = footprints(windows, aoi)
    check_windows(read, split)
    return Cut(
        windows=windows,
        chip_labels=chip_labels,
        imagery=kind_of(manifest.loc[manifest["obs_id"].isin(used), "source"]),
        metrics=_metrics(windows, chip_labels, without, labels, read),
        notes=notes,
    )


class _Sums:
    """How many pixels of a mask lie in a square window, for any number of windows, out of one table of sums.

    A window that reaches beyond the mask counts the part within. Source: Crow 1984, "Summed-area tables".
    """

    def __init__(self, mask: npt.NDArray[np.bool_], size: int) -> None:
        height, width = mask.shape
        self._size = size
        self._table = np.zeros((max(height, size) + 1, max(width, size) + 1), np.int32)
        inner = self._table[1:, 1:]
        inner[:height, :width] = mask
        np.cumsum(inner, axis=0, out=inner)
        np.cumsum(inner, axis=1, out=inner)

    def __call__(self, row: Any, col: Any) -> Any:
        """Pixels in the windows whose first pixels are at ``row`` and ``col``: integers, or arrays of them."""
        table, size = self._table, self._size
        return table[row + size, col + size] - table[row, col + size] - table[row + size, col] + table[row, col]


def _fold(fold: str, strips: Blocks | None, grid: Grid) -> Callable[[Window], str | None]:
    """The fold of a window: its site's, or its block's (None between blocks)."""
    if fold == "blocks" and strips is not None:
        return lambda window: strips.fold(window, grid)
    return lambda _: fold


def _count(
    chosen: Sequence[tuple[str, str, Window]],
    size_px: int,
    pixels: dict[str, npt.NDArray[np.bool_]],
    fractions: dict[str, npt.NDArray[np.bool_]],
    **same: str | int,
) -> pd.DataFrame:
    """Rows of schemas.Windows: where each window is, how much of each mask lies in it, and what is the same in all."""
    row, col = (np.array([getattr(window, axis) for _, _, window in chosen], np.int64) for axis in ("row", "col"))
    counts = {name: _Sums(mask, size_px)(row, col).astype(np.int64) for name, mask in pixels.items()}
    table = {
        "chip_id": [f"{same['obs_id']}_{kind[0]}{window.row}_{window.col}" for _, kind, window in chosen],
        "fold": [fold for fold, _, _ in chosen],
        "kind": [kind for _, kind, _ in chosen],
        "row": row,
        "col": col,
        "size_px": np.full(len(chosen), size_px),
        **counts,
        "px_ignored": size_px**2 - np.sum(list(counts.values()), axis=0),
        **{name: _Sums(mask, size_px)(row, col) / size_px**2 for name, mask in fractions.items()},
    }
    return pd.DataFrame(table).assign(**same)


def _attribute(windows: pd.DataFrame, ordinals: npt.NDArray[np.int32], feature_ids: Sequence[str]) -> pd.DataFrame:
    """Rows of schemas.ChipLabels: the pixels that each label won in each window."""
    rows: list[tuple[str, str, int]] = []
    labelled = windows[(windows["px_low"] > 0) | (windows["px_high"] > 0)]
    for chip_id, row, col, size in labelled[["chip_id", "row", "col", "size_px"]].itertuples(index=False):
        won = np.bincount(ordinals[row : row + size, col : col + size].ravel(), minlength=len(feature_ids) + 1)
        rows += [(chip_id, feature_ids[i - 1], int(won[i])) for i in np.flatnonzero(won).tolist() if i]
    return pd.DataFrame(rows, columns=["chip_id", "feature_id", "pixels"]).astype({"pixels": np.int64})


def _metrics(
    windows: pd.DataFrame,
    chip_labels: pd.DataFrame,
    without: pd.DataFrame,
    labels: gpd.GeoDataFrame,
    read: gpd.GeoDataFrame,
) -> dict[str, Any]:
    """The figures of results/chips/metrics.json. Pixels of overlapping windows count once for each window."""
    train, test = (read.loc[read["fold"] == fold, "geometry"].tolist() for fold in ("train", "test"))
    return {
        "observations": int(windows["obs_id"].nunique()),
        "observations_without_chip": len(without),
        "labels_without_chip": int((~labels["feature_id"].isin(chip_labels["feature_id"])).sum()),
        **{f"windows_{fold}": int((windows["fold"] == fold).sum()) for fold in ("train", "val", "test")},
        "windows_with_mines": int(((windows["px_low"] + windows["px_high"]) > 0).sum()),
        **{name: int(windows[name].sum()) for name in ("px_other", "px_low", "px_high", "px_ignored")},
        "train_test_min_distance_km": round(min_distance_km(train, test), 3) if train and test else None,
    }
