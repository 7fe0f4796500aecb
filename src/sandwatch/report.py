"""Pictures and the short text of an evaluation. The same content gives the same bytes.

Everything is drawn with matplotlib's Agg canvas and its default style, whatever the user's own; the PNG files carry no
metadata, because matplotlib would write its version there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd

from sandwatch.evaluate import HOLDOUT, OTHER_TEST, Evaluation, Miss, grid_of
from sandwatch.files import whole, write_bytes, write_json
from sandwatch.grid import Grid
from sandwatch.model.scoring import reaches, to_scores
from sandwatch.origin import marked
from sandwatch.printable import markdown, printable, spreadsheet

OUTLINES: dict[str, tuple[str, Literal["-", ":"]]] = {
    "high": ("#ffe100", "-"),
    "low": ("#ffe100", ":"),
    "detection": ("#00e5ff", "-"),
}
"""Colour and line of each kind of outline: yellow and cyan differ for colour-blind eyes, on sand and on water."""
SHADE = {"facecolor": "black", "alpha": 0.5, "edgecolor": "none", "pad": 1.5}
"""Behind text on a picture."""
PANEL_IN = 5.0
DPI = 110


def scene_picture(
    path: Path,
    rgb: npt.NDArray[np.uint8],
    grid: Grid,
    *,
    title: str,
    said: str | None = None,
    labels: gpd.GeoDataFrame | None = None,
    detections: gpd.GeoDataFrame | None = None,
    score: npt.NDArray[np.float32] | None = None,
) -> None:
    """Draws a scene with what is known about it.

    Args:
        path: a PNG file.
        rgb: uint8 (3, y, x), red, green, blue; 0 in all three is no data.
        grid: of the scene.
        title: written above.
        said: what of it is invented (:func:`sandwatch.origin.words`); written first.
        labels: polygons with a column ``confidence`` (low, high), any CRS; outlined in yellow, dotted where low.
        detections: polygons, any CRS; outlined in cyan.
        score: probability of mine (y, x), NaN without data; drawn beside the scene.
    """
    panels = 1 if score is None else 2
    height, width = rgb.shape[1:]
    panel_height = PANEL_IN * min(max(height / width, 0.4), 2.5)
    with _figure(path, PANEL_IN * panels + (0.9 if score is not None else 0.0), panel_height + 0.9) as figure:
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_image(axes[0], rgb)
        if score is not None:
            drawn = _draw_score(axes[1], score)
            figure.colorbar(drawn, ax=axes[1], fraction=0.045, label="probability of mine")
        for axis in axes:
            _draw_outlines(axis, grid, labels, detections)
            _draw_scale(axis, grid)
        _title(figure, title, said)
        _draw_legend(figure, labels, detections)


def write(evaluation: Evaluation, folder: Path, *, aoi: gpd.GeoDataFrame, labels: gpd.GeoDataFrame) -> None:
    """Writes an evaluation: metrics.json, tables as CSV, pictures and report.md.

    Args:
        evaluation: what to write.
        folder: where to.
        aoi: table :class:`sandwatch.schemas.Aoi`.
        labels: table :class:`sandwatch.schemas.Labels`.
    """
    write_figures(evaluation, folder)
    for name, table in (
        ("rivers", evaluation.rivers),
        ("site_counts", evaluation.site_counts),
        ("pr_curve", evaluation.pr_curve),
        ("reliability", _reliability_table(evaluation)),
        ("confusion", evaluation.confusion),
    ):
        _write_table(table, folder / f"{name}.csv")
    reliability_picture(folder / "reliability.png", evaluation)
    misses_picture(folder / "worst_misses.png", evaluation, aoi=aoi, labels=labels)
    with whole(folder / "report.md") as partial:
        partial.write_text(text(evaluation))


def write_figures(evaluation: Evaluation, folder: Path) -> None:
    """Writes metrics.json and observations.csv."""
    write_json(folder / "metrics.json", evaluation.metrics)
    _write_table(evaluation.observations, folder / "observations.csv")


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with whole(path) as partial:
        spreadsheet(table).to_csv(partial, index=False)


def reliability_picture(path: Path, evaluation: Evaluation) -> None:
    """Draws observed shares of mine pixels over scores, with and without calibration, and how many pixels there are."""
    with _figure(path, 5.0, 5.5) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
        for name, curve, colour in (
            ("without calibration", evaluation.reliability_uncalibrated, "#d95f02"),
            ("with calibration", evaluation.reliability, "#1b9e77"),
        ):
            filled = curve.pixels > 0
            top.plot(
                curve.score[filled],
                curve.observed[filled],
                marker="o",
                color=colour,
                label=f"{name}, ECE {curve.ece:.4f}",
            )
        top.set(ylabel="observed share of mine pixels", ylim=(-0.02, 1.02))
        top.legend(loc="upper left", fontsize="small")
        curve = evaluation.reliability
        bottom.bar(curve.lower, curve.pixels, width=1 / len(curve.lower), align="edge", color="#1b9e77")
        bottom.set(xlabel="score", ylabel="pixels", xlim=(0, 1), yscale="symlog")
        _title(figure, f"Reliability, {_rivers(evaluation)}", evaluation.said)


def misses_picture(path: Path, evaluation: Evaluation, *, aoi: gpd.GeoDataFrame, labels: gpd.GeoDataFrame) -> None:
    """Draws the worst misses: for each the scene with labels, and beside it the scores and what they detect."""
    misses = evaluation.misses
    rows = max(math.ceil(len(misses) / 2), 1)
    with _figure(path, 13.0, 3.5 * rows + 0.8) as figure:
        axes = figure.subplots(rows, 4, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for index, miss in enumerate(misses):
            left, right = axes[index // 2, 2 * (index % 2) : 2 * (index % 2) + 2]
            _draw_miss(left, right, miss, evaluation.threshold, aoi=aoi, labels=labels)
        _title(
            figure,
            f"Worst misses, {_rivers(evaluation)}: yellow labels (dotted: low confidence), cyan detections; "
            f"{evaluation.colours}"
            if misses
            else f"No mine was missed and there is no false alarm, {_rivers(evaluation)}",
            evaluation.said,
        )


def text(evaluation: Evaluation) -> str:
    """The report as Markdown: figures of the holdout rivers, other test sites apart, and what to keep in mind."""
    metrics, intervals = evaluation.metrics, evaluation.intervals
    labels = {
        "ap": "average precision (AP)",
        "f1": "F1 at the threshold",
        "precision": "precision",
        "recall": "recall",
        "iou": "IoU",
    }
    holdout = _rivers(evaluation, markdown)
    lines = [f"# Evaluation on {holdout}, never trained on", ""]
    if evaluation.said is not None:
        lines += [
            f"**{evaluation.said}.** What is synthetic is invented; figures that rest on it say how the pipeline "
            "works, not how well real mines are found.",
            "",
        ]
    lines += [f"| pixels, {holdout} | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {label} | {_cell(metrics[name])} | {_interval(*intervals[name])} |" for name, label in labels.items()]
    lines += [
        f"| share of mine pixels (AP of guessing) | {_cell(metrics['prevalence'])} | |",
        f"| AP on validation | {_cell(metrics['ap_val'])} | |",
        f"| calibration error (ECE) | {_cell(metrics['ece'])} | |",
        f"| the same without calibration | {_cell(metrics['ece_uncalibrated'])} | |",
        "",
        f"Objects: {metrics['mines_found']} of {metrics['mines']} mines found, "
        f"{_cell(metrics['false_alarms_per_100km2'])} false alarms per 100 km2. The threshold, "
        f"{_cell(evaluation.threshold)}, has the best F1 on validation.",
        "",
        _table(evaluation.rivers[evaluation.rivers.part != OTHER_TEST].drop(columns="fold")),
        "",
        _observations(evaluation, HOLDOUT),
        "",
        *_other_sites(evaluation),
        "## Keep in mind",
        "",
        *(f"- {caveat}" for caveat in _caveats(evaluation)),
    ]
    return "\n".join(lines) + "\n"


def summary(evaluation: Evaluation) -> str:
    """One line of the figures that matter most."""
    metrics = evaluation.metrics
    ap = "undefined (no mine pixel)" if metrics["ap"] is None else _cell(metrics["ap"])
    interval = _interval(*evaluation.intervals["ap"])
    return marked(
        f"test: {_count(evaluation.test_observations, 'observation')} of {_count(evaluation.test_sites, 'site')} "
        f"({printable(', '.join(evaluation.holdout_rivers))}), AP {ap}"
        f"{f' (95 %: {interval})' if interval else ''}, guessing has {_cell(metrics['prevalence'])}; "
        f"{metrics['mines_found']} of {metrics['mines']} mines found, "
        f"{_cell(metrics['false_alarms_per_100km2'])} false alarms per 100 km2, "
        f"{_cell(metrics['train_test_km'])} km from the nearest training site",
        evaluation.said,
    )


def _rivers(evaluation: Evaluation, shown: Callable[[object], str] = printable) -> str:
    """The holdout rivers; ``shown`` makes a name fit for where it goes."""
    rivers = [shown(river) for river in evaluation.holdout_rivers]
    return f"the holdout river{'s' if len(rivers) > 1 else ''} {' and '.join(rivers)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _observations(evaluation: Evaluation, part: str) -> str:
    observations = evaluation.observations
    return _table(observations[observations.part == part].drop(columns=["fold", "part"]))


def _other_sites(evaluation: Evaluation) -> Iterator[str]:
    """The section on test sites of other rivers; nothing where there are none."""
    rivers = evaluation.rivers[evaluation.rivers.part == OTHER_TEST]
    if rivers.empty:
        return
    trained_on = [markdown(river) for river in rivers.river[rivers.trained_on == "yes"]]
    yield "## Other test sites"
    yield ""
    yield (
        "Sites in one spatial group with the holdout river (split.min_distance_km) can't be trained on, so they are "
        "tested on too. No figure above counts them. "
        + (
            f"The model was trained on other stretches of {' and '.join(trained_on)}, so the figures of these sites "
            "say less about a river that it never saw."
            if trained_on
            else "The model was trained on no other stretch of their rivers either."
        )
    )
    yield ""
    yield _table(rivers.drop(columns=["fold", "part"]))
    yield ""
    yield _observations(evaluation, OTHER_TEST)
    yield ""


def _caveats(evaluation: Evaluation) -> Iterator[str]:
    holdout = _rivers(evaluation, markdown)
    sites, observations = evaluation.test_sites, _count(evaluation.test_observations, "observation")
    if sites == 1:
        yield (
            f"There is no interval: {holdout} has one site ({observations}), and months of one site say "
            "nothing about other sites."
        )
    else:
        yield (
            f"Intervals come from drawing the {sites} sites of {holdout} again, with replacement, each "
            f"with all its months ({observations}), because months of one site resemble each other."
            + (" With so few sites they are rough, and rather too narrow than too wide." if sites < 10 else "")
        )
    yield (
        f"The nearest windows of training and test are {_cell(evaluation.metrics['train_test_km'])} km apart "
        f"(split.min_distance_km: {evaluation.min_distance_km:g})."
    )
    if evaluation.blocks_gap_m is not None:
        rivers = " and ".join(map(markdown, evaluation.blocks_rivers))
        yield (
            f"Validation is not another river: spatial blocks of the training river ({rivers}) validate, "
            f"{evaluation.blocks_gap_m:.0f} m from the nearest training window. Early stopping, calibration and "
            "threshold were chosen on ground much like the training ground, so AP on validation flatters."
        )
    if evaluation.metrics["mines"] == 0:
        yield "There is no mine of countable size on the holdout river: recall and AP say little or nothing."
    yield "AP is empty where an observation has no mine pixel: it is undefined there, not zero."


def _reliability_table(evaluation: Evaluation) -> pd.DataFrame:
    curve = evaluation.reliability
    table = pd.DataFrame({"score": curve.score, "observed": curve.observed, "pixels": curve.pixels})
    return table[curve.pixels > 0].round(6)


def _table(rows: pd.DataFrame) -> str:
    """Rows as a Markdown table; undefined cells are empty."""
    lines = [list(rows.columns), ["---"] * len(rows.columns)]
    lines += [[_cell(value) for value in row] for row in rows.astype(object).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else markdown(value)


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


@contextmanager
def _figure(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    """A figure that is saved to ``path`` at the end, the same bytes for the same drawing."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
        write_bytes(path, content.getbuffer())


def _title(figure: Any, title: str, said: str | None) -> None:
    """The title of a figure; where anything of it is invented, white on black, and that first."""
    if said is None:
        figure.suptitle(title, parse_math=False)
        return
    wide = fill(said, int(11 * figure.get_figwidth()))
    figure.suptitle(f"{wide}\n{title}", color="white", backgroundcolor="black", parse_math=False)


def _draw_image(axis: Any, pixels: npt.NDArray[np.uint8]) -> None:
    image = np.moveaxis(pixels, 0, -1).copy()
    image[(image == 0).all(axis=-1)] = 90  # grey, so that a cloud gap is not taken for dark water
    axis.imshow(image, interpolation="nearest")
    axis.set_axis_off()


def _draw_score(axis: Any, score: npt.NDArray[np.floating[Any]]) -> Any:
    axis.set_axis_off()
    return axis.imshow(score, cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")


def _draw_outlines(axis: Any, grid: Grid, labels: gpd.GeoDataFrame | None, detections: gpd.GeoDataFrame | None) -> None:
    """Outlines polygons in pixel coordinates, each line on a dark, wider one."""
    for kind, geometries in _outlined(labels, detections).items():
        colour, line = OUTLINES[kind]
        for ring in geometries.to_crs(grid.crs).explode().boundary.explode():
            x, y = np.asarray(ring.coords)[:, :2].T
            # Pixel (0, 0) has its centre at (0, 0) in matplotlib, its corner in the grid.
            col, row = (x - grid.left) / grid.resolution - 0.5, (grid.top - y) / grid.resolution - 0.5
            axis.plot(col, row, color="black", linewidth=2.2, alpha=0.6)
            axis.plot(col, row, color=colour, linestyle=line, linewidth=1.2)
    axis.set(xlim=(-0.5, grid.width - 0.5), ylim=(grid.height - 0.5, -0.5))


def _outlined(labels: gpd.GeoDataFrame | None, detections: gpd.GeoDataFrame | None) -> dict[str, gpd.GeoSeries]:
    kinds = {}
    if labels is not None:
        kinds = {kind: labels.geometry[labels.confidence == kind] for kind in ("high", "low")}
    if detections is not None:
        kinds["detection"] = detections.geometry
    return {kind: geometries for kind, geometries in kinds.items() if len(geometries)}


def _draw_scale(axis: Any, grid: Grid) -> None:
    """A bar of 1 km, or of 200 m where the scene is narrower than 2 km."""
    length_m = 1000 if grid.width * grid.resolution >= 2000 else 200
    left, row = 0.04 * grid.width, 0.96 * grid.height
    for colour, width in (("black", 5), ("white", 3)):
        axis.plot([left, left + length_m / grid.resolution], [row, row], color=colour, linewidth=width)
    axis.text(
        left, row - 0.02 * grid.height, f"{length_m} m", color="white", va="bottom", fontsize="small", bbox=dict(SHADE)
    )


def _draw_legend(figure: Any, labels: gpd.GeoDataFrame | None, detections: gpd.GeoDataFrame | None) -> None:
    from matplotlib.lines import Line2D

    names = {"high": "label, high confidence", "low": "label, low confidence", "detection": "detection"}
    handles = [
        Line2D([], [], color=OUTLINES[kind][0], linestyle=OUTLINES[kind][1], label=names[kind])
        for kind in _outlined(labels, detections)
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3, fontsize="small", facecolor="0.35", labelcolor="white"
        )


def _draw_miss(
    left: Any,
    right: Any,
    miss: Miss,
    threshold: float,
    *,
    aoi: gpd.GeoDataFrame,
    labels: gpd.GeoDataFrame,
) -> None:
    part = grid_of(aoi, miss.obs_id.rsplit("_", 1)[0]).crop(miss.window)
    _draw_image(left, miss.image)
    _draw_score(right, to_scores(miss.steps))
    detected = reaches(miss.steps, threshold)
    if detected.any() and not detected.all():
        for axis in (left, right):
            axis.contour(detected, levels=[0.5], colors=[OUTLINES["detection"][0]], linewidths=1.0)
    for axis in (left, right):
        _draw_outlines(axis, part, labels[labels.obs_id == miss.obs_id], None)
        _draw_scale(axis, part)
    hectares = miss.area_px * part.resolution**2 / 1e4
    left.set_title(f"{miss.kind}, {hectares:.1f} ha\n{miss.obs_id}", fontsize="small")
    right.set_title("score", fontsize="small")
