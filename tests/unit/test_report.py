import io
import json
import re
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from sandwatch import report
from sandwatch.evaluate import grid_of
from sandwatch.grid import Grid, Window

from .worlds import HEIGHT, TWO_MORE, WIDTH, Pointwise, World

GRID = Grid(crs="EPSG:32644", left=500_000, top=2_000_000, width=WIDTH, height=HEIGHT)


@pytest.fixture
def world(tmp_path):
    (tmp_path / "chips").mkdir()
    return World(tmp_path / "chips")


@pytest.fixture
def rgb():
    """Asymmetric: brighter to the right in red, to the bottom in green; no data in the first rows."""
    pixels = np.full((3, HEIGHT, WIDTH), 60, np.uint8)
    pixels[0] += np.arange(WIDTH, dtype=np.uint8)
    pixels[1] += np.arange(HEIGHT, dtype=np.uint8)[:, None]
    pixels[:, :4] = 0
    return pixels


def polygons(grid, boxes, **columns):
    """Polygons in EPSG:4326 over boxes of pixels (row, col, height, width)."""
    parts = [grid.crop(Window(row=row, col=col, height=height, width=width)) for row, col, height, width in boxes]
    geometry = [shapely.box(*part.bounds) for part in parts]
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=grid.crs).to_crs("EPSG:4326")


def test_scene_picture_has_the_same_bytes_twice_and_no_metadata(tmp_path, rgb):
    labels = polygons(GRID, [(10, 20, 15, 30), (40, 5, 9, 9)], confidence=["high", "low"])
    score = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    for name in ("one.png", "two.png"):
        report.scene_picture(tmp_path / name, rgb, GRID, title="a site", labels=labels, detections=labels, score=score)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    chunks = re.findall(rb"tEXt|iTXt|tIME", one)
    assert chunks == []


def outlines(path):
    """Where a picture of dull colours is yellow and where cyan: (rows, columns) as fractions, without the legend."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(int), -1, 0)
    height, width = red.shape
    for found in ((np.minimum(red, green) - blue > 80), (np.minimum(green, blue) - red > 80)):
        rows, cols = np.nonzero(found[: int(0.85 * height)])
        yield rows / height, cols / width


def test_outlines_lie_where_the_polygons_are(tmp_path, rgb):
    """A label at the upper left and a detection at the lower right end up there, in their colours."""
    rgb[:] = 60
    labels = polygons(GRID, [(8, 5, 20, 20)], confidence=["high"])
    detections = polygons(GRID, [(45, 70, 12, 15)])
    report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t", labels=labels, detections=detections)
    (yellow_rows, yellow_cols), (cyan_rows, cyan_cols) = outlines(tmp_path / "a.png")
    assert yellow_rows.size > 200
    assert cyan_rows.size > 100
    assert yellow_rows.max() < 0.5 < cyan_rows.min()
    assert yellow_cols.max() < 0.4
    assert cyan_cols.min() > 0.7


def test_a_label_changes_the_picture_and_low_confidence_looks_otherwise(tmp_path, rgb):
    pictures = []
    for confidence in ("high", "low"):
        labels = polygons(GRID, [(10, 20, 15, 30)], confidence=[confidence])
        report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t", labels=labels)
        pictures.append((tmp_path / "a.png").read_bytes())
    report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t", labels=labels.iloc[:0])
    pictures.append((tmp_path / "a.png").read_bytes())
    assert len(set(pictures)) == 3


def test_pixels_without_data_are_grey_not_black(tmp_path, rgb):
    rgb[:] = 0
    report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t")
    image = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (image[image.shape[0] // 2, image.shape[1] // 2] == 90).all()


def test_users_own_matplotlib_style_changes_nothing(tmp_path, rgb):
    import matplotlib as mpl

    report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t")
    with mpl.rc_context({"font.size": 25, "figure.facecolor": "red"}):
        report.scene_picture(tmp_path / "b.png", rgb, GRID, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture
def written(world, tmp_path):
    """A written evaluation with one missed mine and one false alarm: (evaluation, folder)."""
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.stacks[obs_id][0] = np.where(world.masks[obs_id] == 2, 9_000, 500)
    world.stacks["low_2024-01-01"][0, 40:50, 50:60] = 500
    world.stacks["low_2024-05-01"][0, 42:50, 10:19] = 9_000
    evaluation = world.evaluate(Pointwise(temperature=1.5))
    labels = polygons(grid_of(world.aoi, "low"), [(40, 50, 10, 10)], confidence=["high"], obs_id=["low_2024-01-01"])
    report.write(evaluation, tmp_path / "out", aoi=world.aoi, labels=labels)
    return evaluation, tmp_path / "out"


def test_all_files_are_written_and_metrics_are_flat_json(written):
    evaluation, folder = written
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json",
        "observations.csv",
        "rivers.csv",
        "site_counts.csv",
        "pr_curve.csv",
        "reliability.csv",
        "confusion.csv",
        "reliability.png",
        "worst_misses.png",
        "report.md",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == evaluation.metrics
    kinds = {name: metrics.pop(name) for name in ("imagery", "labels")}
    assert kinds == {"imagery": "real", "labels": "real"}
    assert all(value is None or isinstance(value, int | float) for value in metrics.values())


def test_names_do_nothing_where_they_are_shown(written, world, tmp_path):
    """In the report's Markdown, in spreadsheets, and in titles, which matplotlib would take for mathematics."""
    evaluation, folder = written
    plain = (folder / "report.md").read_text().splitlines()
    name = "=x|y\n<img src=x>![](http://e.example)\x1b[2J\u202e$a_{$"
    hostile = replace(
        evaluation,
        holdout_rivers=(name,),
        rivers=evaluation.rivers.assign(river=name),
        observations=evaluation.observations.assign(river=name),
        blocks_rivers=(name,),
    )
    labels = gpd.GeoDataFrame({"confidence": [], "obs_id": []}, geometry=[], crs="EPSG:4326")
    report.write(hostile, tmp_path / "hostile", aoi=world.aoi, labels=labels)
    shown = (tmp_path / "hostile/report.md").read_text().splitlines()
    assert len(shown) == len(plain)
    assert [line.count("|") for line in shown] == [line.count("|") for line in plain]
    assert not set("<>[]\x1b\u202e") & set("".join(shown))
    rivers = pd.read_csv(tmp_path / "hostile/rivers.csv")["river"]
    assert rivers.str.startswith("'=x|y").all()
    assert "\x1b" not in report.summary(hostile)


def test_written_files_have_the_same_bytes_twice(written, world, tmp_path):
    evaluation, folder = written
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    labels = gpd.GeoDataFrame({"confidence": [], "obs_id": []}, geometry=[], crs="EPSG:4326")
    report.write(evaluation, folder, aoi=world.aoi, labels=labels)
    second = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"worst_misses.png"}  # it drew the label


def test_undefined_cells_of_the_tables_are_empty(written, world, tmp_path):
    world.masks["low_2024-05-01"][:] = np.where(world.masks["low_2024-05-01"] == 255, 255, 0)
    evaluation = world.evaluate()
    buffer = io.StringIO()
    evaluation.observations.to_csv(buffer, index=False)
    row = next(line for line in buffer.getvalue().splitlines() if line.startswith("low_2024-05-01"))
    assert row.split(",")[evaluation.observations.columns.get_loc("ap")] == ""
    assert re.search(r"\| low_2024-05-01 \| Bera \| [\d.e-]+ \| 0 \|  \|", report.text(evaluation))


def test_the_report_says_how_far_test_is_and_why_one_site_has_no_interval(written):
    evaluation, folder = written
    text = (folder / "report.md").read_text()
    assert text.startswith("# Evaluation on the holdout river Bera, never trained on\n")
    assert "There is no interval: the holdout river Bera has one site (2 observations)" in text
    assert re.search(r"\| average precision \(AP\) \| [\d.]+ \|  \|", text)
    assert f"are {evaluation.metrics['train_test_km']:.4g} km apart (split.min_distance_km: 50)" in text
    assert "3 of 4 mines found" in text
    assert "synthetic" not in text.lower()
    assert "blocks" not in text
    assert "Other test sites" not in text
    assert report.summary(evaluation).startswith("test: 2 observations of 1 site (Bera), AP ")


@pytest.fixture
def larger(tmp_path):
    (tmp_path / "larger").mkdir()
    return World(tmp_path / "larger", TWO_MORE)


def test_the_report_says_what_intervals_draw(larger):
    text = report.text(larger.evaluate())
    assert "drawing the 2 sites of the holdout river Bera again, with replacement, each with all its months (3 " in text
    assert "rough" in text
    assert re.search(r"\| average precision \(AP\) \| [\d.]+ \| [\d.]+ to [\d.]+ \|", text)


def test_the_report_tells_other_test_sites_apart(larger):
    text = report.text(larger.evaluate())
    first, other = text.split("## Other test sites")
    assert "side_2024-01-01" not in first
    assert "| Ula | validation |" in first
    assert "| Ula | other" not in first
    assert "trained on other stretches of Ula" in other
    assert re.search(r"\| Ula \| yes \| 1 \| 1 \|", other)
    assert "side_2024-01-01" in other.split("## Keep in mind")[0]
    assert "delta_2024-03-01" not in other


def test_other_test_sites_whose_rivers_are_not_trained_on_are_said_to_be(larger):
    larger.windows.loc[larger.windows.site_id == "side", "river"] = "Far"
    other = report.text(larger.evaluate()).split("## Other test sites")[1]
    assert "trained on no other stretch of their rivers" in other


@pytest.mark.parametrize(
    ("painted", "learnt", "kinds", "said"),
    [
        ({"low_2024-01-01", "mid_2024-01-01", "low_2024-05-01"}, ("synthetic", "synthetic"),
         ("synthetic", "synthetic"), "SYNTHETIC imagery, labels and training imagery"),
        ({"low_2024-01-01"}, ("mixed", "real"), ("mixed", "real"), "SYNTHETIC in part: imagery and training imagery"),
        ({"up_2024-01-01"}, ("mixed", "real"), ("real", "real"), "SYNTHETIC in part: training imagery"),
        (set(), ("real", "synthetic"), ("real", "synthetic"), "SYNTHETIC labels"),
    ],
)  # fmt: skip
def test_an_evaluation_says_what_is_invented_in_all_that_people_look_at(world, tmp_path, painted, learnt, kinds, said):
    """Of the imagery that is judged alone, not of that which only trained."""
    world.painted = painted
    scorer, empty = Pointwise(), gpd.GeoDataFrame({"confidence": [], "obs_id": []}, geometry=[], crs="EPSG:4326")
    report.write(world.evaluate(scorer), tmp_path / "before", aoi=world.aoi, labels=empty)
    scorer.spec.imagery, scorer.spec.labels = learnt
    evaluation = world.evaluate(scorer)
    assert (evaluation.metrics["imagery"], evaluation.metrics["labels"]) == kinds
    assert f"\n**{said}.** " in report.text(evaluation)
    assert report.summary(evaluation).startswith(f"{said}. test: ")
    report.write(evaluation, tmp_path / "out", aoi=world.aoi, labels=empty)
    for name in ("reliability.png", "worst_misses.png"):
        assert banded(tmp_path / "out" / name), name
        assert banded(tmp_path / "before" / name) == bool(painted - {"up_2024-01-01"}), name


def banded(path):
    """Whether there is a black band in the uppermost part of a picture."""
    image = np.asarray(Image.open(path).convert("L"))
    dark = (image[: image.shape[0] // 8] < 10).mean(axis=1) > 0.25
    return dark.sum() > 8  # an axis is a line of one or two


def test_a_scene_picture_says_what_is_invented(tmp_path, rgb):
    report.scene_picture(tmp_path / "a.png", rgb, GRID, title="t", said="SYNTHETIC imagery, labels and training labels")
    report.scene_picture(tmp_path / "b.png", rgb, GRID, title="t")
    assert banded(tmp_path / "a.png")
    assert not banded(tmp_path / "b.png")


def test_the_report_says_that_blocks_validate(world):
    world.aoi.loc[world.aoi.site_id == "up", "fold"] = "blocks"
    cut = world.windows.obs_id == "up_2024-01-01"
    world.windows = world.windows[~cut | (world.windows.row == 0)]
    val = world.windows[world.windows.obs_id == "up_2024-01-01"].assign(row=38, fold="val")
    world.windows = pd.concat([world.windows, val], ignore_index=True)
    text = report.text(world.evaluate())
    assert re.search(r"spatial blocks of the training river \(Ula\) validate, (59|60) m from the nearest", text)


@pytest.mark.parametrize(
    ("bands", "colours"),
    [
        (("B2", "B3", "B4"), "natural colour"),
        (("B8", "B11", "VV"), r"false colour \(red VV, green B11, blue B8\)"),
        (("B8", "VV"), "B8 in grey"),
        (("B11",), "B11 in grey"),
    ],
)
def test_misses_are_drawn_whatever_the_bands(world, tmp_path, bands, colours):
    for obs_id in world.folds:
        world.stacks[obs_id] = np.concatenate([world.stacks[obs_id]] * 2)[: len(bands)]
        world.stacks[obs_id][0, 40:50, 50:60] = 500
    evaluation = world.evaluate(Pointwise(bands=bands))
    assert len(evaluation.misses) > 0
    assert re.fullmatch(colours, evaluation.colours)
    labels = gpd.GeoDataFrame({"confidence": [], "obs_id": []}, geometry=[], crs="EPSG:4326")
    report.write(evaluation, tmp_path / "out", aoi=world.aoi, labels=labels)
    assert Image.open(tmp_path / "out" / "worst_misses.png").size[0] > 500


def test_no_miss_is_a_picture_too(world, tmp_path):
    for obs_id in ("low_2024-01-01", "low_2024-05-01"):
        world.stacks[obs_id][0] = np.where(world.masks[obs_id] == 2, 9_000, 500)
    evaluation = world.evaluate()
    assert evaluation.misses == ()
    report.misses_picture(tmp_path / "a.png", evaluation, aoi=world.aoi, labels=None)
    assert Image.open(tmp_path / "a.png").size[0] > 500


def test_reliability_rows_are_the_filled_bins(written):
    evaluation, folder = written
    table = pd.read_csv(folder / "reliability.csv")
    assert list(table.columns) == ["score", "observed", "pixels"]
    assert table.pixels.sum() == evaluation.reliability.pixels.sum()
    assert (table.pixels > 0).all()
    assert not table.isna().to_numpy().any()
