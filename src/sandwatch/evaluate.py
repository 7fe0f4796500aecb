"""How good a model is on observations it never saw: pixels, objects, calibration, rivers, and its worst misses.

What is judged are scores as ``infer`` stores them (:mod:`sandwatch.model.scoring`), over the pixels that a fold owns:
the union of its grid windows, where there is data and a label (mask not 255). Method ``binary`` leaves low-confidence
pixels out of every pixel metric, as training did; ``three_class`` counts both confidences as mine. The threshold and
the calibration come from the model, where training put what suited the validation fold: nothing is tuned on what
is reported.

The headline is of the holdout rivers alone, on which no window of training or validation lies. The fold test may hold
sites of other rivers too, near the former, and those rivers may be trained on elsewhere: they have rows of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from sandwatch import distance, origin, picture, split, stack
from sandwatch.errors import InputError
from sandwatch.grid import RESOLUTION_M, Grid, Window
from sandwatch.model.calibration import Reliability, ece, reliability
from sandwatch.model.metrics import Confusion, Counts, LogitHistogram, ScoreHistogram, bootstrap
from sandwatch.model.scoring import NODATA, Ensemble, Scorer, Steps, score
from sandwatch.model.stitch import Sliceable
from sandwatch.params import Count, Fraction, NotNegative, Section, Seed
from sandwatch.scene import SceneReader, exported
from sandwatch.stack import HIGH, IGNORED, LOW

if TYPE_CHECKING:
    from sandwatch.model.card import Terms

PX_KM2 = RESOLUTION_M**2 / 1e6
CROP_PX = (96, 256)
"""Least and largest side of the picture of a miss, pixels."""

HOLDOUT, OTHER_TEST, VALIDATION = "holdout river", "other test site", "validation"
"""The parts that are judged apart."""

Mask = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Kind = Literal["missed mine", "false alarm"]


class Evaluate(Section):
    """How the network is judged."""

    section = "evaluate"
    bootstrap_samples: Count
    calibration_bins: Annotated[int, Field(ge=2, le=100)]
    min_object_m2: NotNegative
    match_iou: Fraction
    worst_misses: Count
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a mine was not found, or where a detection is and no mine.

    Attributes:
        kind: which of the two.
        obs_id: the observation.
        area_px: size of the mine or of the detection.
        window: the part of the scene around it.
    """

    kind: Kind
    obs_id: str
    area_px: int
    window: Window


@dataclass(frozen=True, kw_only=True, eq=False)
class Miss(Spot):
    """A spot with what there is to see in its window.

    Attributes:
        image: uint8 (3, y, x), as :func:`sandwatch.picture.image` makes it.
        steps: scores (y, x), ``scoring.NODATA`` where the fold owns no pixel.
    """

    image: npt.NDArray[np.uint8]
    steps: Steps


S = TypeVar("S", bound=Spot)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Mines and detections of an observation, as pixels connected over edges, as the polygons out of ``infer`` are.

    Attributes:
        mines: how many there are.
        found: how many of them a detection overlaps enough.
        false_alarms: detections that overlap no mine enough and lie for the most part on no label.
        misses: the mines not found and the false alarms: (kind, area in pixels, rows and columns).
    """

    mines: int
    found: int
    false_alarms: int
    misses: tuple[tuple[Kind, int, tuple[slice, ...]], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What was measured on the pixels of one observation that a fold owns.

    Attributes:
        part: of what is judged: ``HOLDOUT``, ``OTHER_TEST`` or ``VALIDATION``.
        area_km2: of those pixels.
        histogram: of scores.
        uncalibrated: of the log-odds that they were made from.
        confusion: pixels by (actual, predicted) class, int64 (classes, classes).
    """

    obs_id: str
    site_id: str
    river: str
    fold: str
    part: str
    area_km2: float
    histogram: ScoreHistogram
    uncalibrated: LogitHistogram
    confusion: Counts
    objects: Objects


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All that ``results/evaluate`` tells.

    Attributes:
        holdout_rivers: with test observations. Nothing of them is trained or validated on. All that is not said to be
            of something else is of them alone.
        metrics: flat, rounded, and the kinds of imagery and labels; None where a figure is undefined.
        intervals: metric to (low, high), 95 %, by bootstrap over sites; NaN where undefined, as with one site.
        sites: of the holdout rivers, the scores of each, all its months together, by site_id.
        observations: a row an observation of the validation and test folds.
        rivers: a row a fold and river. Column ``part`` says what of: holdout river, other test site, validation; column
            ``trained_on`` whether any window of that river trains, ``yes`` or ``no``.
        site_counts: a row a site of the holdout rivers, with what counts and areas of mines are corrected by: mines,
            mines found and false alarms, and the pixels of mines, of detections, and of both.
        pr_curve: recall, precision and threshold, at most 201 rows.
        reliability: of scores.
        reliability_uncalibrated: of what they would be without calibration.
        confusion: rows actual, predicted, pixels, share (of the actual class).
        misses: the worst: missed mines, then false alarms, the largest of each first.
        colours: of the pictures of misses.
        threshold: of the model.
        test_observations: how many of the holdout rivers there are.
        test_sites: of how many sites.
        min_distance_km: the least train-test distance that the split was asked for.
        blocks_gap_m: distance between validation and training windows where blocks of one river validate; else None.
        blocks_rivers: the rivers that were cut into blocks.
        said: what is invented, of what is judged and of what the model learnt from (:func:`sandwatch.origin.words`).
    """

    holdout_rivers: tuple[str, ...]
    metrics: dict[str, float | int | str | None]
    intervals: dict[str, tuple[float, float]]
    sites: dict[str, ScoreHistogram]
    observations: pd.DataFrame
    rivers: pd.DataFrame
    site_counts: pd.DataFrame
    pr_curve: pd.DataFrame
    reliability: Reliability
    reliability_uncalibrated: Reliability
    confusion: pd.DataFrame
    misses: tuple[Miss, ...]
    colours: str
    threshold: float
    test_observations: int
    test_sites: int
    min_distance_km: float
    blocks_gap_m: float | None
    blocks_rivers: tuple[str, ...]
    said: str | None


def evaluate(
    *,
    aoi: gpd.GeoDataFrame,
    manifest: pd.DataFrame,
    scenes: Path,
    windows: pd.DataFrame,
    chips: Path,
    scorer: Scorer | Ensemble,
    params: Evaluate,
    holdout_rivers: Sequence[str] | None,
    min_distance_km: float,
) -> Evaluation:
    """Judges a model on the validation and test folds. One observation at a time is in memory.

    Args:
        aoi: table :class:`sandwatch.schemas.Aoi`.
        manifest: table :class:`sandwatch.schemas.Scenes`.
        scenes: the folder that the manifest's paths start from. Pixels are read there, as infer reads them.
        windows: table :class:`sandwatch.schemas.Windows`.
        chips: folder with ``masks``.
        scorer: the model, or several together.
        params: section of params.yaml.
        holdout_rivers: that the split was asked to hold out; None in a cross-validation, where all that tests is held
            out, whatever river it lies on.
        min_distance_km: what the split was asked for; only reported.

    Raises:
        InputError: no window of the test fold lies on a holdout river, or one of another fold does; a raster is not the
            one that was exported, or can't be read, or a mask is none of its scene.
    """
    if holdout_rivers is not None:
        _check(windows, holdout_rivers)
    judged = windows[windows.fold.isin(["val", "test"]) & (windows.kind == "grid")]
    rasters = exported(manifest, scenes)
    observed: list[Observed] = []
    misses: list[Miss] = []
    for obs_id in sorted(judged.obs_id.unique()):
        # The windows of an observation are all of one fold here: blocks leave train and val, of which train is out.
        own = judged[judged.obs_id == obs_id]
        grid = grid_of(aoi, own.site_id.iloc[0])
        mask = stack.load(chips / "masks" / f"{obs_id}.npy", np.uint8, grid.shape).copy()
        spec = scorer.spec
        with SceneReader(obs_id, rasters.get(obs_id, {}), grid, spec.bands, may_lack=spec.without) as scene:
            one, worst = _observe(own, scene, mask, scorer, params, holdout_rivers)
        observed.append(one)
        if one.part == HOLDOUT:
            misses = _worst([*misses, *worst], params.worst_misses)
    return _summary(
        observed,
        tuple(misses),
        trained_on=set(windows.river[windows.fold == "train"]),
        spec=scorer.spec,
        params=params,
        train_test_km=_distance_km(aoi, windows),
        min_distance_km=min_distance_km,
        blocks_gap_m=_blocks_gap_m(aoi, windows),
        blocks_rivers=tuple(sorted(aoi.river[aoi.fold == "blocks"].unique())),
        imagery=origin.kind_of(manifest.source[manifest.obs_id.isin(judged.obs_id)]),
    )


def grid_of(aoi: gpd.GeoDataFrame, site_id: str) -> Grid:
    """The grid of a site's scenes, from its row in the table of AOIs."""
    return Grid.of_site(aoi.set_index("site_id").loc[site_id])


def region_of(windows: pd.DataFrame, shape: tuple[int, int]) -> Bool:
    """The pixels that a fold owns in an observation: the union of its windows, bool (y, x)."""
    region = np.zeros(shape, np.bool_)
    for row, col, size in windows[["row", "col", "size_px"]].itertuples(index=False):
        region[row : row + size, col : col + size] = True
    return region


def match_objects(detected: Bool, mask: Mask, *, method: str, match_iou: float, min_px: float) -> Objects:
    """Compares detections with mines as objects: pixels connected over edges.

    A mine is found when a detection has ``match_iou`` of intersection over union with it. A detection is a false alarm
    when it has that with no mine, and half of it or more lies on pixels that no annotator drew, of either confidence:
    fragments of a large mine and hits of a low-confidence one are none. Polygons that touch are one mine.

    Args:
        detected: bool (y, x), false where the fold owns no pixel.
        mask: uint8 (y, x), 255 where the fold owns no pixel.
        method: which confidences make a mine.
        match_iou: above 0 or 0 for any overlap.
        min_px: objects of fewer pixels are not counted.
    """
    from scipy import ndimage

    mines, mine_count = ndimage.label(stack.mines(mask, method))
    detections, detection_count = ndimage.label(detected & (mask != IGNORED))
    mine_px = np.bincount(mines.ravel(), minlength=mine_count + 1)
    detection_px = np.bincount(detections.ravel(), minlength=detection_count + 1)
    labelled_px = np.bincount(detections[(mask == LOW) | (mask == HIGH)].ravel(), minlength=detection_count + 1)

    both = (mines > 0) & (detections > 0)
    pairs, shared = np.unique(np.stack([mines[both], detections[both]]), axis=1, return_counts=True)
    iou = shared / (mine_px[pairs[0]] + detection_px[pairs[1]] - shared)
    matched_mines, matched_detections = (set(ids[iou >= match_iou].tolist()) for ids in pairs)

    counted = [mine for mine in range(1, mine_count + 1) if mine_px[mine] >= min_px]
    missed = [mine for mine in counted if mine not in matched_mines]
    false_alarms = [
        detection
        for detection in range(1, detection_count + 1)
        if detection_px[detection] >= min_px
        and detection not in matched_detections
        and 2 * labelled_px[detection] <= detection_px[detection]
    ]
    mine_boxes, detection_boxes = ndimage.find_objects(mines), ndimage.find_objects(detections)
    misses: list[tuple[Kind, int, tuple[slice, ...]]] = [
        ("missed mine", int(mine_px[mine]), mine_boxes[mine - 1]) for mine in missed
    ]
    misses += [("false alarm", int(detection_px[one]), detection_boxes[one - 1]) for one in false_alarms]
    return Objects(
        mines=len(counted),
        found=len(counted) - len(missed),
        false_alarms=len(false_alarms),
        misses=tuple(misses),
    )


def _check(windows: pd.DataFrame, holdout_rivers: Sequence[str]) -> None:
    """Makes sure that there is something to judge, and that the holdout rivers are held out."""
    held = windows[windows.river.isin(holdout_rivers)]
    if used := sorted(set(zip(held.river[held.fold != "test"], held.fold[held.fold != "test"], strict=True))):
        raise InputError(
            "data/chips/windows.parquet",
            got=", ".join(f"windows of {river} in the fold {fold}" for river, fold in used),
            expected="those of split.holdout_rivers in the fold test alone",
            fix="run dvc repro, so that areas, chips and model are of the same params.yaml",
        )
    if held.empty:
        raise InputError(
            "data/chips/windows.parquet",
            got=f"folds {', '.join(sorted(windows.fold.unique())) or '(no window)'}",
            expected=f"windows of the fold test on {' or '.join(holdout_rivers)}",
            fix="name a river with labelled observations in params.yaml, split.holdout_rivers",
        )


def _observe(
    windows: pd.DataFrame,
    pixels: Sliceable,
    mask: Mask,
    scorer: Scorer | Ensemble,
    params: Evaluate,
    holdout_rivers: Sequence[str] | None,
) -> tuple[Observed, list[Miss]]:
    """Scores the pixels of one observation that a fold owns; ``windows`` are the fold's in it. Spoils ``mask``."""
    spec, row = scorer.spec, windows.iloc[0]
    obs_id = str(row.obs_id)
    region = region_of(windows, mask.shape) & (mask != IGNORED)
    mask[~region] = IGNORED

    histogram, uncalibrated = ScoreHistogram.empty(), LogitHistogram.empty()
    steps = np.full(mask.shape, NODATA, np.uint16)
    classes = np.zeros(mask.shape, np.uint8)
    truth, counts = stack.mines(mask, spec.method), stack.counted(mask, spec.method)
    for part in score(pixels, scorer, region):
        keep = counts[part.rows]
        histogram += ScoreHistogram.of(part.steps[keep], truth[part.rows][keep])
        uncalibrated += LogitHistogram.of(part.log_odds[0][keep], truth[part.rows][keep])
        steps[part.rows], classes[part.rows] = part.steps, part.classes
    objects = match_objects(
        classes > 0,
        mask,
        method=spec.method,
        match_iou=params.match_iou,
        min_px=params.min_object_m2 / RESOLUTION_M**2,
    )
    spots = [
        Spot(kind=kind, obs_id=obs_id, area_px=area_px, window=_around(box, mask.shape))
        for kind, area_px, box in objects.misses
    ]
    actual = mask if spec.method == "three_class" else truth
    return Observed(
        obs_id=obs_id,
        site_id=row.site_id,
        river=row.river,
        fold=row.fold,
        part=VALIDATION
        if row.fold == "val"
        else HOLDOUT
        if holdout_rivers is None or row.river in holdout_rivers
        else OTHER_TEST,
        area_km2=int(region.sum()) * PX_KM2,
        histogram=histogram,
        uncalibrated=uncalibrated,
        confusion=_cross(actual, classes, counts, len(spec.classes)),
        objects=objects,
    ), [
        Miss(
            **vars(spot),
            image=picture.image(pixels[slice(None), *spot.window.slices], spec.bands, spec.mean, spec.std),
            steps=steps[spot.window.slices].copy(),
        )
        for spot in _worst(spots, params.worst_misses)
    ]


def _cross(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], counts: Bool, classes: int) -> Counts:
    """Pixels by (actual, predicted) class, int64 (classes, classes)."""
    both = actual[counts].astype(np.int64) * classes + predicted[counts]
    return np.bincount(both, minlength=classes**2).reshape(classes, classes)


def _around(box: tuple[slice, ...], shape: tuple[int, int]) -> Window:
    """A square around a box with some of its surroundings, within the scene."""
    extent = max(edge.stop - edge.start for edge in box)
    side = min(max(2 * extent, CROP_PX[0]), CROP_PX[1])
    starts = [
        min(max((edge.start + edge.stop - side) // 2, 0), max(length - side, 0))
        for edge, length in zip(box, shape, strict=True)
    ]
    return Window(
        row=starts[0], col=starts[1], height=min(side, shape[0] - starts[0]), width=min(side, shape[1] - starts[1])
    )


def _worst(spots: Sequence[S], number: int) -> list[S]:
    """The ``number`` largest, half of them missed mines and half false alarms as far as there are any."""
    largest = sorted(spots, key=lambda spot: (-spot.area_px, spot.obs_id, spot.window.row, spot.window.col))
    kinds = [[spot for spot in largest if spot.kind == kind] for kind in ("missed mine", "false alarm")]
    first = max(number - number // 2, number - len(kinds[1]))
    chosen = kinds[0][:first]
    return [*chosen, *kinds[1][: number - len(chosen)]]


def _distance_km(aoi: gpd.GeoDataFrame, windows: pd.DataFrame) -> float:
    """Kilometres between the windows trained on and those tested on."""
    read = split.footprints(windows, aoi)
    train, test = (list(read.geometry[read.fold == fold]) for fold in ("train", "test"))
    return distance.min_distance_km(train, test)


def _blocks_gap_m(aoi: gpd.GeoDataFrame, windows: pd.DataFrame) -> float | None:
    """Metres between validation and training windows of the sites that are cut into blocks."""
    read = split.footprints(windows, aoi)
    train, val = (list(read.geometry[(read.site_fold == "blocks") & (read.fold == fold)]) for fold in ("train", "val"))
    return 1000.0 * distance.min_distance_km(train, val) if train and val else None


def _summary(
    observed: Sequence[Observed],
    misses: tuple[Miss, ...],
    *,
    trained_on: Collection[str],
    spec: Terms,
    params: Evaluate,
    train_test_km: float,
    min_distance_km: float,
    blocks_gap_m: float | None,
    blocks_rivers: tuple[str, ...],
    imagery: origin.Kind,
) -> Evaluation:
    held = [one for one in observed if one.part == HOLDOUT]
    sites = {
        site: sum((one.histogram for one in held if one.site_id == site), ScoreHistogram.empty())
        for site in sorted({one.site_id for one in held})
    }
    whole = sum(sites.values(), ScoreHistogram.empty())
    uncalibrated = sum((one.uncalibrated for one in held), LogitHistogram.empty())
    val = sum((one.histogram for one in observed if one.part == VALIDATION), ScoreHistogram.empty())
    at_threshold = whole.at(spec.threshold)
    statistics: dict[str, Callable[[ScoreHistogram], float]] = {
        "ap": ScoreHistogram.average_precision,
        "f1": lambda histogram: histogram.at(spec.threshold).f1,
        "precision": lambda histogram: histogram.at(spec.threshold).precision,
        "recall": lambda histogram: histogram.at(spec.threshold).recall,
        "iou": lambda histogram: histogram.at(spec.threshold).iou,
    }
    intervals = bootstrap(tuple(sites.values()), statistics, samples=params.bootstrap_samples, seed=params.seed)
    area_km2 = sum(one.area_km2 for one in held)
    confusion = sum((one.confusion for one in held[1:]), held[0].confusion)
    bins = params.calibration_bins
    metrics: dict[str, float | int | None] = {
        "ap": whole.average_precision(),
        "ap_low95": intervals["ap"][0],
        "ap_high95": intervals["ap"][1],
        "ap_val": val.average_precision(),
        "prevalence": whole.prevalence,
        "f1": at_threshold.f1,
        "precision": at_threshold.precision,
        "recall": at_threshold.recall,
        "iou": at_threshold.iou,
        "threshold": spec.threshold,
        "ece": ece(whole, bins),
        "ece_uncalibrated": ece(uncalibrated, bins),
        "mines": sum(one.objects.mines for one in held),
        "mines_found": sum(one.objects.found for one in held),
        "false_alarms_per_100km2": _ratio(100 * sum(one.objects.false_alarms for one in held), area_km2),
        "train_test_km": train_test_km,
    }
    if spec.method == "three_class":
        metrics |= {f"iou_{name}": _class_iou(confusion, index) for index, name in enumerate(spec.classes)}
    return Evaluation(
        holdout_rivers=tuple(sorted({one.river for one in held})),
        metrics={
            **{name: _rounded(value) for name, value in metrics.items()},
            "imagery": imagery,
            "labels": spec.labels,
        },
        intervals=intervals,
        sites=sites,
        observations=pd.DataFrame(
            [
                {
                    "obs_id": one.obs_id,
                    "river": one.river,
                    "fold": one.fold,
                    "part": one.part,
                    **_row([one], spec, bins),
                }
                for one in sorted(observed, key=lambda one: (one.part, one.obs_id))
            ]
        ),
        rivers=pd.DataFrame(
            [
                {
                    "river": river,
                    "fold": members[0].fold,
                    "part": part,
                    "trained_on": "yes" if river in trained_on else "no",
                    "sites": len({one.site_id for one in members}),
                    "observations": len(members),
                    **_row(members, spec, bins),
                }
                for part, river in sorted({(one.part, one.river) for one in observed})
                for members in [[one for one in observed if (one.part, one.river) == (part, river)]]
            ]
        ),
        site_counts=pd.DataFrame(
            [
                _counts_of(site_id, [one for one in held if one.site_id == site_id], spec)
                for site_id in sorted({one.site_id for one in held})
            ]
        ),
        pr_curve=_pr_curve(whole),
        reliability=reliability(whole, bins),
        reliability_uncalibrated=reliability(uncalibrated, bins),
        confusion=pd.DataFrame(
            [
                {
                    "actual": spec.classes[actual],
                    "predicted": spec.classes[predicted],
                    "pixels": int(confusion[actual, predicted]),
                    "share": _rounded(_ratio(int(confusion[actual, predicted]), int(confusion[actual].sum()))),
                }
                for actual in range(len(spec.classes))
                for predicted in range(len(spec.classes))
            ]
        ),
        misses=misses,
        colours=picture.colours(spec.bands)[1],
        threshold=spec.threshold,
        test_observations=len(held),
        test_sites=len(sites),
        min_distance_km=min_distance_km,
        blocks_gap_m=blocks_gap_m,
        blocks_rivers=blocks_rivers,
        said=origin.words(imagery=imagery, labels=spec.labels, model_imagery=spec.imagery),
    )


def _row(members: Sequence[Observed], spec: Terms, bins: int) -> dict[str, float | int | None]:
    """The figures of some observations together; None where undefined, such as AP where there is no mine."""
    histogram = sum((one.histogram for one in members), ScoreHistogram.empty())
    confusion: Confusion = histogram.at(spec.threshold)
    return {
        "area_km2": _rounded(sum(one.area_km2 for one in members)),
        "prevalence": _rounded(histogram.prevalence),
        "ap": _rounded(histogram.average_precision()),
        "f1": _rounded(confusion.f1),
        "precision": _rounded(confusion.precision),
        "recall": _rounded(confusion.recall),
        "iou": _rounded(confusion.iou),
        "ece": _rounded(ece(histogram, bins)),
        "mines": sum(one.objects.mines for one in members),
        "mines_found": sum(one.objects.found for one in members),
        "false_alarms": sum(one.objects.false_alarms for one in members),
    }


def _counts_of(site_id: str, members: Sequence[Observed], spec: Terms) -> dict[str, str | int]:
    """What was counted in the observations of a site."""
    confusion = sum((one.histogram for one in members), ScoreHistogram.empty()).at(spec.threshold)
    return {
        "site_id": site_id,
        "river": members[0].river,
        "observations": len(members),
        "mines": sum(one.objects.mines for one in members),
        "mines_found": sum(one.objects.found for one in members),
        "false_alarms": sum(one.objects.false_alarms for one in members),
        "mine_px": confusion.true_positives + confusion.false_negatives,
        "detected_px": confusion.true_positives + confusion.false_positives,
        "found_px": confusion.true_positives,
    }


def _pr_curve(histogram: ScoreHistogram) -> pd.DataFrame:
    """At most 201 points, even in recall, none where there is no mine."""
    thresholds, precision, recall = histogram.pr_curve()
    if np.isnan(recall).any():
        return pd.DataFrame({"recall": [], "precision": [], "threshold": []})
    points = np.unique(np.searchsorted(recall, np.linspace(0, 1, 201)))
    return pd.DataFrame({"recall": recall, "precision": precision, "threshold": thresholds}).iloc[points].round(6)


def _class_iou(confusion: Counts, index: int) -> float:
    both = int(confusion[index, index])
    return _ratio(both, int(confusion[index].sum() + confusion[:, index].sum()) - both)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _rounded(value: float | None) -> float | int | None:
    """To 4 digits after the point; None for NaN, which JSON lacks."""
    if value is None or isinstance(value, int):
        return value
    return None if math.isnan(value) else round(float(value), 4)
