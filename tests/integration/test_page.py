"""The audit's page in a browser without a network: what a judge sees of a model that was really trained."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from benchmarks import real as real_run
from pyproj import Transformer
from typer.testing import CliRunner

from sandwatch.audit import map as maps
from sandwatch.audit.cli import app
from sandwatch.audit.forward import audit
from sandwatch.audit.page import page, write_page
from sandwatch.audit.record import Audit
from tests.browser import Browser, chromium

from .conftest import ROOT, Workspace

PLACE = """
const view = [...Bokeh.index].find((view) => view.model.name === arguments[0]);
const {left, top, width, height} = view.frame.bbox, at = view.el.getBoundingClientRect();
const {x_range: x, y_range: y} = view.model;
return [at.left + left, at.top + top, width, height, x.start, x.end, y.start, y.end];
"""
REAL = ROOT / ".real/models/model.json"
CHOSEN = "return document.getElementById('observation').value"
DRAWN = "return document.getElementById('map').dataset.drawn"
MARK = "document.title = 'RUN'"
EVIL = f'</script><script>{MARK}</script><img src=x onerror="{MARK}"><!--\''


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the map of the open page shows what."""

    left: float
    top: float
    width: float
    height: float
    x0: float
    x1: float
    y0: float
    y1: float

    def pixels(self, longitude: Any, latitude: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Columns and rows of a screenshot."""
        x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(longitude, latitude)
        columns = self.left + (np.asarray(x) - self.x0) / (self.x1 - self.x0) * self.width
        rows = self.top + (self.y1 - np.asarray(y)) / (self.y1 - self.y0) * self.height
        return np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)


def choose(browser: Browser, obs_id: str) -> tuple[npt.NDArray[np.int64], Frame]:
    """Chooses an observation as a reader would; what the window shows then, and where its map is."""
    browser.run(
        "const select = document.getElementById('observation'); select.value = arguments[0];"
        "select.dispatchEvent(new Event('change')); document.querySelector('figure.detail').scrollIntoView()",
        obs_id,
    )
    assert browser.run(CHOSEN) == obs_id
    shot = browser.pixels()
    for _ in range(50):  # a picture is decoded, and the map painted, in their own time
        shot, last = browser.pixels(), shot
        if (shot == last).all():
            break
    return shot, frame_of(browser, "detail")


def frame_of(browser: Browser, name: str) -> Frame:
    return Frame(**dict(zip(Frame.__annotations__, browser.run(PLACE, name), strict=True)))


def colour(text: str) -> npt.NDArray[np.int64]:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)])


def along(shot: npt.NDArray[np.int64], frame: Frame, shape: Any, wanted: str) -> float:
    """The part of a polygon's outline that is drawn in a colour, within two pixels."""
    points = shapely.get_coordinates(shapely.segmentize(shape.exterior, shape.length / 200))
    columns, rows = frame.pixels(points[:, 0], points[:, 1])
    height, width, _ = shot.shape
    there = (rows >= 2) & (rows < height - 2) & (columns >= 2) & (columns < width - 2)
    found = np.zeros(there.sum(), bool)
    for down in range(-2, 3):
        for right in range(-2, 3):
            seen = shot[rows[there] + down, columns[there] + right]
            found |= np.abs(seen - colour(wanted)).max(axis=1) <= 24
    return float(found.sum() / len(points))


def check_page(browser: Browser, found: Audit) -> None:
    """Verdict, chain, table and map of the page that is open are those of an audit, and nobody was asked anything."""
    assert browser.run("return document.querySelector('#verdict .stamp').innerText") == "✓ Verified"
    box = browser.run(
        "const b = document.querySelector('#verdict').getBoundingClientRect(); return [b.width, b.height]"
    )
    assert min(box) > 40
    assert browser.run("return document.querySelectorAll('#chain tbody tr').length") == len(found.links)
    assert found.labels is not None
    assert browser.run("return document.querySelectorAll('#labels tbody tr').length") == len(found.labels)
    browser.wait(DRAWN)
    drawn = 0
    for obs_id, labels in found.labels.groupby("obs_id"):
        shot, frame = choose(browser, str(obs_id))
        check_outlines(shot, frame, labels)
        check_picture(shot, frame, found.pictures[str(obs_id)], labels)
        drawn += len(labels)
    assert drawn == len(found.labels)
    assert browser.complaints() == []
    asked = browser.requests()
    assert any(url.startswith("file:") for url in asked), "the log of requests works"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def check_outlines(shot: npt.NDArray[np.int64], frame: Frame, labels: gpd.GeoDataFrame) -> None:
    """Outlines of the labels have the colour of their use; of those that another covers, half."""
    parts = {
        row.feature_id: along(shot, frame, part, maps.COLOURS[row.use.split("+")[0]])
        for row in labels.itertuples()
        for part in shapely.get_parts(row.geometry)
    }
    assert np.median(list(parts.values())) > 0.9, parts
    assert min(parts.values()) > 0.3, parts
    away = {
        row.feature_id: along(shot, frame, shapely.affinity.translate(row.geometry, yoff=0.004), "#0072b2")
        for row in labels.itertuples()
    }
    assert np.median(list(away.values())) < 0.3, "colours everywhere say nothing"


def check_picture(shot: npt.NDArray[np.int64], frame: Frame, path: Path, labels: gpd.GeoDataFrame) -> None:
    """Behind the labels lies the raster, where its own georeferencing says: upside down it does not fit."""
    with rasterio.open(path) as file:
        rng = np.random.default_rng(0)
        across, down = rng.integers(8, file.width - 8, 900), rng.integers(8, file.height - 8, 900)
        pixels = file.read().astype(np.int64)
        x, y = file.transform * (across + 0.5, down + 0.5)
        lon, lat = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True).transform(x, y)
    far = ~shapely.intersects_xy(shapely.buffer(shapely.union_all(labels.geometry.to_numpy()), 5e-4), lon, lat)
    smooth = np.array(
        [np.ptp(pixels[:, r - 4 : r + 5, c - 4 : c + 5], axis=(1, 2)).max() < 60
         for r, c in zip(down, across, strict=True)]
    )  # fmt: skip
    kept = far & smooth & (pixels[:, down, across] > 0).all(axis=0)
    assert kept.sum() > 40
    columns, rows = frame.pixels(lon[kept], lat[kept])
    inside = (columns < frame.left + frame.width - 180) | (rows < frame.top + frame.height - 60)  # not under the scale
    seen, true = shot[rows, columns][inside], pixels[:, down[kept], across[kept]].T[inside]
    turned = pixels[:, file.height - 1 - down[kept], across[kept]].T[inside]
    assert np.median(np.abs(seen - true).max(axis=1)) < 16
    assert np.abs(seen - true).mean() < 0.6 * np.abs(seen - turned).mean()


def test_the_page_of_the_sample_region(workspace: Workspace, browser: Browser, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        done = CliRunner().invoke(app, ["models", "--offline", "--html", str(tmp_path / "page.html")])
        assert done.exit_code == 0, done.output
        found = audit("models", offline=True, pictures=True)
    browser.open(tmp_path / "page.html")
    assert "made up by a program" in browser.run("return document.getElementById('synthetic').innerText")
    check_page(browser, found)
    check_tables(browser, found)
    assert found.negatives is not None
    check_negative(browser, found, found.negatives["obs_id"].iloc[0])
    for width in (400, 820):
        browser.open(tmp_path / "page.html", width=width)
        browser.wait(DRAWN)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


def check_tables(browser: Browser, found: Audit) -> None:
    """A table sorts by what is clicked and shows what is typed."""
    assert found.labels is not None
    first = "return document.querySelector('#labels tbody tr').cells[arguments[0]].firstChild.textContent"
    by_area = "const head = document.querySelectorAll('#labels th')[6]; head.querySelector('button').click();"
    areas = found.labels["area_m2"].round().astype(int)
    browser.run(by_area)
    assert int(browser.run(first, 6).replace("\u202f", "")) == areas.max()
    browser.run(by_area)
    assert int(browser.run(first, 6).replace("\u202f", "")) == areas.min()
    name = found.labels["feature_id"].iloc[3]
    browser.run(
        "const input = document.querySelector('#labels input'); input.value = arguments[0];"
        "input.dispatchEvent(new Event('input'))",
        name.upper(),
    )
    shown = "return [...document.querySelectorAll('#labels tbody tr')].filter((row) => row.offsetHeight).length"
    assert browser.run(shown) == 1


def check_negative(browser: Browser, found: Audit, obs_id: str) -> None:
    """A negative has its picture without any label, and each observation a mark that chooses it."""
    shot, frame = choose(browser, obs_id)
    assert found.labels is not None
    assert found.observations is not None
    check_picture(shot, frame, found.pictures[obs_id], found.labels)
    inside = shot[int(frame.top) : int(frame.top + frame.height), int(frame.left) : int(frame.left + frame.width)]
    for use in ("#0072b2", "#cc79a7", "#e69f00", "#009e73"):
        assert (np.abs(inside - colour(use)).max(axis=2) <= 4).mean() < 0.001
    frame = frame_of(browser, "overview")
    places = {}
    for name, path in found.pictures.items():
        with rasterio.open(path) as file:
            box = shapely.box(*file.bounds).centroid
            places[name] = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True).transform(box.x, box.y)
    columns, rows = frame.pixels(*np.array(list(places.values())).T)
    mark = shot[rows[list(places).index(obs_id)], columns[list(places).index(obs_id)]]
    assert mark.min() > 240, "a negative's mark is hollow"
    apart = np.hypot(columns[:, None] - columns, rows[:, None] - rows) + np.eye(len(rows)) * 1e6
    lonely = int(apart.min(axis=1).argmax())
    at = {"x": int(columns[lonely]), "y": int(rows[lonely]), "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})
    browser.wait(f"{CHOSEN} === '{list(places)[lonely]}'")


def test_text_of_labels_can_t_run(workspace: Workspace, browser: Browser, tmp_path: Path) -> None:
    found = audit(str(workspace.root / "models"), where=workspace.root, offline=True, pictures=True)
    assert found.labels is not None
    labels = found.labels.assign(
        feature_id=[f"{EVIL}{i}" for i in range(len(found.labels))],
        class_name=EVIL,
        created_by=EVIL,
        reviews=f'[{{"reviewed_by": "{MARK}</script><script>{MARK}</script>"}}]',
    )
    links = tuple(replace(link, detail=EVIL) for link in found.links)
    write_page(replace(found, target=EVIL, labels=labels, links=links, notes=(EVIL,)), tmp_path / "evil.html")
    browser.open(tmp_path / "evil.html")
    browser.wait(DRAWN)
    obs_id = labels["obs_id"].iloc[0]
    _, frame = choose(browser, obs_id)
    inside = labels[labels["obs_id"] == obs_id].geometry.representative_point()
    columns, rows = frame.pixels(inside.x.to_numpy(), inside.y.to_numpy())
    browser.driver.execute_cdp_cmd(
        "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": int(columns[0]), "y": int(rows[0])}
    )
    deep = """
    const found = [], walk = (node) => { for (const child of node.querySelectorAll("*")) {
      if (child.classList.contains("bk-Tooltip")) found.push(child.shadowRoot.textContent);
      if (child.shadowRoot) walk(child.shadowRoot); } };
    walk(document); return found.join(" ")"""
    browser.wait(f"return (() => {{ {deep} }})().includes('onerror')")
    assert browser.run("return document.title").startswith("Audit of </script>")
    assert browser.run("return document.images.length") == 0
    assert browser.complaints() == []
    assert browser.abroad() == []


def test_the_browser_s_guard_can_fail(browser: Browser, tmp_path: Path) -> None:
    """A page that asks the network is caught; with our policy, nothing in it gets that far."""
    asking = '<img src="https://example.org/a.png"><script>document.title = "RUN"</script>'
    (tmp_path / "asking.html").write_text(f"<title>page</title>{asking}")
    browser.open(tmp_path / "asking.html")
    assert browser.abroad() == ["https://example.org/a.png"]
    assert browser.complaints()
    assert browser.run("return document.title") == "RUN"
    text = page(Audit(target="models", spec=None, card=None, links=())).replace("<main>", f"<main>{asking}")
    (tmp_path / "ours.html").write_text(text)
    browser.open(tmp_path / "ours.html")
    assert browser.abroad() == []
    assert browser.run("return document.title") == "Audit of models"
    assert browser.complaints()


@pytest.fixture
def real(shared: Callable[[str], Path], tmp_path: Path) -> Workspace:
    """The two real rivers after their run: that of `make real` where it was made, else a new one."""
    own = Workspace(root=tmp_path / "own")
    if REAL.is_file():
        shutil.copytree(REAL.parents[1], own.root, symlinks=True)
    else:
        real_run.prepare(shared("data/real_labels"), None, own.root)
        real_run.settle(own.root, {}, "Real observations")
        own.run("dvc", "repro")
    own.run("git", "add", "-A")
    own.run("git", "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-q", "--allow-empty", "-m", "Run")
    return own


@pytest.mark.slow if not REAL.is_file() else lambda test: test  # it has to be run first: minutes
def test_the_page_of_the_real_rivers(real: Workspace, browser: Browser, tmp_path: Path) -> None:
    found = audit(str(real.root / "models"), where=real.root, offline=True, pictures=True)
    assert (
        subprocess.run(["git", "status", "--porcelain"], cwd=real.root, capture_output=True, check=True).stdout == b""
    )
    write_page(found, tmp_path / "page.html")
    browser.open(tmp_path / "page.html", height=1400)
    assert not browser.run("return document.getElementById('synthetic')")
    check_page(browser, found)
