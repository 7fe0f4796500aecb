"""The map of an audit's page: what is drawn, as Bokeh's own JSON, and the pictures that lie behind it.

Drawn in Web Mercator, the CRS that Bokeh labels in degrees; lengths are said in metres on the ground, by latitude.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from sandwatch.audit.record import OWN, USES, Audit, Tables
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, transformer
from sandwatch.grid import Grid

if TYPE_CHECKING:
    from pathlib import Path

    from bokeh.plotting import figure

MERCATOR = "EPSG:3857"
COLOURS = dict(zip(USES, ("#0072b2", "#cc79a7", "#56b4e9", "#e69f00", "#009e73", "#666666"), strict=True))
"""Told apart by the colour-blind. Source: Okabe and Ito, Color Universal Design, 2008; grey added."""
MOST_LABELS = 10_000
MOST_VERTICES = 250_000
EXACT_LABELS = 2_000
"""More labels than this are drawn simplified."""
SIMPLIFIED_DEGREES = 1e-5
"""A metre: a tenth of a pixel."""
PICTURES_BYTES = 20_000_000
"""Of the text of all pictures together."""
PICTURE_PX = (96, 512)
"""Least and most pixels along the longer side of a picture."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """What the page's script needs to draw, and what its words need to say of it.

    Attributes:
        overview, detail: Bokeh documents, JSON.
        places: of each observation that has one, by obs_id: bounds [left, bottom, right, top] in Web Mercator, the rows
            of its labels among those drawn, and what it is called.
        pictures: PNG as data URL with bounds, by obs_id.
        notes: what is not drawn, or not as it is.
    """

    overview: dict[str, Any]
    detail: dict[str, Any]
    places: dict[str, dict[str, Any]]
    pictures: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def make(audit: Audit) -> Map | None:
    """Draws an audit; None where it reached no labels or nothing of it has a place."""
    labels, observations = _once(audit, "labels", ["feature_id"]), _once(audit, "observations", ["obs_id"])
    imagery = _once(audit, "imagery", ["obs_id", "product"])
    if labels is None or observations is None:
        return None
    notes: list[str] = []
    if audit.starts:
        notes.append(
            "What several trainings had is drawn once, as its own training had it, or else the start that came last."
        )
    scenes = {} if imagery is None else _footprints(imagery)
    drawn = _drawn(labels, notes)
    shapes = shapely.transform(drawn["geometry"].to_numpy(), _to_mercator)
    places = _places(observations, scenes, drawn, labels)
    if not places:
        return None
    lost = len(observations) - len(places)
    if lost:
        notes.append(f"{lost} observations without windows and without labels have no place on the map.")
    pictures = _pictures(audit, places, notes)
    return Map(
        overview=_json(_overview(places)),
        detail=_json(_detail(drawn, shapes, places, list(scenes.values()))),
        places=places,
        pictures=pictures,
        notes=tuple(notes),
    )


def _once(audit: Audit, name: Tables, key: list[str]) -> Any:
    """The rows of a table of all trainings, each thing once: as the last training had it."""
    rows = audit.all_of(name)
    return rows if rows is None or not audit.starts else rows.drop_duplicates(key, ignore_index=True)


def _to_mercator(vertices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack(transformer(WGS84, MERCATOR).transform(vertices[:, 0], vertices[:, 1]))


def _footprints(imagery: pd.DataFrame) -> dict[str, Any]:
    """The outline of each observation's scene in Web Mercator."""
    found = {}
    columns = ["obs_id", "crs", "transform", "width_px", "height_px"]
    for obs_id, crs, transform, width, height in (
        imagery.drop_duplicates("obs_id")[columns].itertuples(index=False, name=None)
    ):  # fmt: skip
        a, _, c, _, e, f = (float(number) for number in transform.split(","))
        outline = shapely.segmentize(shapely.box(c, f + e * height, c + a * width, f), abs(a) * max(width, height) / 4)
        vertices = np.column_stack(transformer(crs, MERCATOR).transform(*shapely.get_coordinates(outline).T))
        if np.isfinite(vertices).all():
            found[obs_id] = shapely.Polygon(vertices)
    return found


def _drawn(labels: Any, notes: list[str]) -> Any:
    """The labels that are drawn: those that training drew most, as many as a browser can show."""
    first = labels.sort_values(["positives_drawn", "pixels_drawn"], ascending=False, kind="stable")
    first = first.head(MOST_LABELS)
    if len(labels) > EXACT_LABELS:
        simple = shapely.simplify(first["geometry"].to_numpy(), SIMPLIFIED_DEGREES, preserve_topology=True)
        first = first.set_geometry(simple, crs=first.crs)
        notes.append("Outlines are simplified by up to a metre, a tenth of a pixel.")
    vertices = np.cumsum(shapely.get_num_coordinates(first["geometry"].to_numpy()))
    first = first[vertices <= MOST_VERTICES]
    if len(first) < len(labels):
        notes.append(
            f"{len(first):,} of {len(labels):,} labels are drawn: those with most pixels drawn as mine. The others are "
            "counted in the marks of their observations."
        )
    return first.sort_values(["obs_id", "feature_id"], kind="stable", ignore_index=True)


def _places(observations: pd.DataFrame, scenes: dict[str, Any], drawn: Any, labels: Any) -> dict[str, dict[str, Any]]:
    rows = drawn.groupby("obs_id").indices
    boxes = labels.geometry.bounds.groupby(labels["obs_id"]).agg(
        {"minx": "min", "miny": "min", "maxx": "max", "maxy": "max"}
    )
    counts = labels.groupby("obs_id").size()
    positives = labels.groupby("obs_id")["positives_drawn"].sum()
    places = {}
    columns = ["obs_id", "has_mines", "fold", "windows", "draws"]
    for obs_id, mines, fold, windows, draws in observations[columns].itertuples(index=False, name=None):
        corners = [np.reshape(scenes[obs_id].bounds, (2, 2))] if obs_id in scenes else []
        if obs_id in boxes.index:
            corners.append(_to_mercator(boxes.loc[obs_id].to_numpy().reshape(2, 2)))
        if not corners:
            continue
        bounds = [*np.min(corners, axis=(0, 1)), *np.max(corners, axis=(0, 1))]
        count = int(counts.get(obs_id, 0))
        places[obs_id] = {
            "bounds": [round(float(edge), 2) for edge in bounds],
            "rows": [int(row) for row in rows.get(obs_id, ())],
            "mines": bool(mines),
            "labels": count,
            "positives": int(positives.get(obs_id, 0)),
            "fold": fold or "no windows",
            "windows": int(windows),
            "draws": int(draws),
        }
    return places


def _parts(shape: Any, axis: int) -> list[list[list[float]]]:
    """One axis of polygons with their holes, nested as Bokeh's MultiPolygons wants it."""
    return [
        [shapely.get_coordinates(ring)[:, axis].round(2).tolist() for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(shape)
        if part.geom_type == "Polygon"
    ]


def _pictures(audit: Audit, places: dict[str, dict[str, Any]], notes: list[str]) -> dict[str, dict[str, Any]]:
    """The RGB of each observation, warped and made small enough for all together to fit."""
    pictures = {obs_id: path for one in reversed(audit.trainings.values()) for obs_id, path in one.pictures.items()}
    wanted = sorted((obs_id for obs_id in pictures if obs_id in places), key=lambda o: (-places[o]["positives"], o))
    found: dict[str, dict[str, Any]] = {}
    size = 0
    least, most = PICTURE_PX
    # 3 bytes a pixel, 4 letters for 3 bytes: what a picture that can't be compressed would take.
    longest = int(np.clip(math.sqrt(PICTURES_BYTES / 4 / max(len(wanted), 1)), least, most))
    for obs_id in wanted:
        try:
            picture = _picture(pictures[obs_id], longest)
        except InputError as error:
            notes.append(f"No picture of {obs_id}: {error}")
            continue
        size += len(picture["url"])
        if size > PICTURES_BYTES:
            break
        found[obs_id] = picture
    if found:
        notes.append(
            f"Pictures are RGB rasters whose hash is that in the table of imagery, at most {longest} pixels wide here."
        )
    if without := len(places) - len(found):
        notes.append(
            f"{without:,} of {len(places):,} observations are shown without a picture: their raster lies in neither "
            "the working tree nor DVC's cache, and none is pulled for this page"
            + (f"; or the page would hold more than {PICTURES_BYTES // 1_000_000} MB of pictures." if found else ".")
        )
    return found


def _picture(path: Path, longest: int) -> dict[str, Any]:
    from PIL import Image

    from sandwatch import raster

    outline = shapely.transform(raster.footprint(path), _to_mercator)
    left, bottom, right, top = outline.bounds
    native = raster.read_grid(path)
    extent = max(right - left, top - bottom)
    resolution = extent / min(longest, max(native.width, native.height))
    grid = Grid(
        crs=MERCATOR,
        left=left,
        top=top,
        width=max(round((right - left) / resolution), 1),
        height=max(round((top - bottom) / resolution), 1),
        resolution=resolution,
    )
    bands = [values for _, values in raster.read_onto(path, grid, nodata=None, resampling="bilinear")][:3]
    there = np.all(np.isfinite(np.stack(bands)), axis=0)
    pixels = np.where(there, np.nan_to_num(bands), 0).round().clip(0, 255)
    rgba = np.stack([*pixels, np.where(there, 255.0, 0.0)]).astype(np.uint8).transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgba)).save(content, "PNG", optimize=True)
    edges = (left, top - grid.height * resolution, left + grid.width * resolution, top)
    return {
        "url": "data:image/png;base64," + base64.b64encode(content.getvalue()).decode(),
        "bounds": [round(edge, 2) for edge in edges],
    }


def _figure(name: str, bounds: tuple[float, float, float, float], height: int, tools: str) -> figure:
    from bokeh.models import Range1d
    from bokeh.plotting import figure as new_figure

    left, bottom, right, top = bounds
    plot = new_figure(
        name=name,
        x_axis_type="mercator",
        y_axis_type="mercator",
        x_range=Range1d(start=left, end=right),
        y_range=Range1d(start=bottom, end=top),
        height=height,
        sizing_mode="stretch_width",
        tools=tools,
        toolbar_location="above" if tools != "tap" else None,
        background_fill_color="#f4f3ef",
        border_fill_color="white",
        outline_line_color="#999999",
    )
    plot.toolbar.logo = None
    plot.grid.grid_line_color = "#dddbd3"
    plot.axis.major_label_text_font_size = "11px"
    plot.axis.major_label_text_color = "#444444"
    plot.axis.minor_tick_line_color = None
    return plot


def _overview(places: dict[str, dict[str, Any]]) -> figure:
    """All observations as marks, wherever they are."""
    from bokeh.models import ColumnDataSource, HoverTool

    at = np.array([place["bounds"] for place in places.values()])
    middle = (at[:, :2] + at[:, 2:]) / 2
    source = ColumnDataSource(
        {
            "x": middle[:, 0].round(2).tolist(),
            "y": middle[:, 1].round(2).tolist(),
            "obs": list(places),
            "kind": [
                f"{place['labels']} labels" if place["mines"] else "negative: no mines" for place in places.values()
            ],
            "fold": [place["fold"] for place in places.values()],
            "draws": [place["draws"] for place in places.values()],
            "windows": [place["windows"] for place in places.values()],
            "marker": ["circle" if place["mines"] else "square" for place in places.values()],
            "fill": ["#222222" if place["mines"] else "#ffffff" for place in places.values()],
        },
        name="observations",
    )
    plot = _figure("overview", _padded(at), 420, "tap")
    chosen = ColumnDataSource({"x": [], "y": []}, name="chosen")
    plot.scatter("x", "y", source=chosen, marker="circle", size=22, line_color="#d55e00", line_width=3, fill_color=None)
    marks = plot.scatter(
        "x", "y", source=source, marker="marker", size=9, fill_color="fill", line_color="#222222", line_width=1.5,
        nonselection_alpha=1.0,
    )  # fmt: skip
    plot.add_tools(
        HoverTool(
            renderers=[marks],
            tooltips=[("observation", "@obs"), ("holds", "@kind"), ("fold", "@fold"), ("windows", "@windows"),
                      ("windows drawn", "@draws times")],
        )
    )  # fmt: skip
    return plot


def _padded(at: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    left, bottom = at[:, :2].min(axis=0)
    right, top = at[:, 2:].max(axis=0)
    margin = max(right - left, top - bottom, 2_000.0) * 0.08
    return float(left - margin), float(bottom - margin), float(right + margin), float(top + margin)


def _detail(drawn: Any, shapes: npt.NDArray[Any], places: dict[str, dict[str, Any]], scenes: list[Any]) -> figure:
    """The labels in their true place, over a picture, within the outlines of the scenes."""
    from bokeh.models import BoxZoomTool, CDSView, ColumnDataSource, HoverTool, IndexFilter

    plot = _figure(
        "detail", _padded(np.array([place["bounds"] for place in places.values()])), 560, "pan,wheel_zoom,save"
    )
    plot.add_tools(BoxZoomTool(match_aspect=True), "zoom_in", "zoom_out")
    picture = ColumnDataSource({"url": [], "x": [], "y": [], "w": [], "h": []}, name="picture")
    plot.image_url("url", "x", "y", "w", "h", source=picture, anchor="top_left")
    edges = [shapely.get_coordinates(scene).round(2) for scene in scenes]
    plot.multi_line(
        [edge[:, 0].tolist() for edge in edges],
        [edge[:, 1].tolist() for edge in edges],
        line_color="#777777",
        line_width=1,
    )
    use = drawn["use"].astype(str)
    numbers = ("pixels_train", "pixels_val", "pixels_test", "pixels_drawn", "positives_drawn", "draws")
    texts = {"feature": "feature_id", "obs": "obs_id", "class": "class_name", "confidence": "confidence",
             "who": "created_by", "created": "created_at", "updated": "updated_at", "use": "use"}  # fmt: skip
    of = [("training", "@training")] if (drawn["training"] != OWN).any() else []
    texts |= {name: name for name, _ in of}
    source = ColumnDataSource(
        {
            "xs": [_parts(shape, 0) for shape in shapes],
            "ys": [_parts(shape, 1) for shape in shapes],
            "colour": [COLOURS[uses.split("+")[0]] for uses in use],
            "dash": ["solid" if confidence == "high" else "dashed" for confidence in drawn["confidence"]],
            **{name: drawn[column].astype(object).where(drawn[column].notna(), "not recorded").tolist()
               for name, column in texts.items()},
            **{name: drawn[name].tolist() for name in numbers},
        },
        name="labels",
    )  # fmt: skip
    view = CDSView(filter=IndexFilter(indices=list(range(len(drawn))), name="shown"))
    polygons = plot.multi_polygons(
        "xs", "ys", source=source, view=view, fill_color="colour", fill_alpha=0.22, line_color="colour", line_width=2,
        line_dash="dash", hover_fill_alpha=0.45, hover_line_color="colour", hover_fill_color="colour",
    )  # fmt: skip
    plot.add_tools(
        HoverTool(
            renderers=[polygons],
            tooltips=[
                ("label", "@feature"), *of, ("observation", "@obs"), ("class", "@class, @confidence confidence"),
                ("annotator", "@who"), ("created", "@created"), ("updated", "@updated"), ("use", "@use"),
                ("pixels in windows", "train @pixels_train, val @pixels_val, test @pixels_test"),
                ("windows drawn", "@draws times"), ("pixels drawn", "@pixels_drawn, as mine @positives_drawn"),
            ],
        )
    )  # fmt: skip
    return plot


def _json(plot: figure) -> dict[str, Any]:
    from bokeh.embed import json_item

    found: dict[str, Any] = json_item(plot)  # type: ignore[assignment]
    return found
