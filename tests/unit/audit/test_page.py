"""The audit's page without a browser: what stands in it, and what no text in it can do."""

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import shapely
from typer.testing import CliRunner

from sandwatch.audit import map as maps
from sandwatch.audit import page as pages
from sandwatch.audit.cli import app
from sandwatch.audit.forward import audit
from sandwatch.audit.page import page, write_page
from sandwatch.audit.record import Audit, Link
from tests.audit_history import Made

EVIL = "</script><script>alert(1)</script><b onmouseover='alert(2)'>\"&"


class Read(HTMLParser):
    """Elements, their attributes, texts of scripts, and cells of tables by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: dict[str, int] = {}
        self.words = ""
        self._section, self._script = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag == "section":
            self._section = values.get("id") or ""
        if tag == "tr":
            self.rows[self._section] = self.rows.get(self._section, -1) + 1  # the head is a row too
        if tag == "script":
            self._script = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = self._script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        else:
            self.words += data


@pytest.fixture(scope="module")
def found(made: Made) -> Audit:
    return audit("main", where=made.root, offline=True)


def policy(read: Read) -> dict[str, list[str]]:
    text = next(a["content"] for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    return {part.split()[0]: part.split()[1:] for part in (text or "").split("; ")}


def test_a_page_holds_verdict_chain_tables_and_all_that_it_needs(found: Audit, tmp_path: Path) -> None:
    write_page(found, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    read = Read(text)
    assert found.labels is not None
    assert found.imagery is not None
    assert "Verified" in read.words
    assert found.verdict in read.words
    assert read.rows["chain"] == len(found.links)
    assert read.rows["labels"] == len(found.labels)
    assert (read.rows["negatives"], read.rows["quarantine"]) == (1, 1)
    assert read.rows["imagery"] == len(found.imagery)
    assert read.rows["revisions"] == len(found.holders)
    assert "made up by a program" in read.words
    assert all(name in text for name in found.labels["feature_id"])
    assert "S2_1" in read.words
    assert found.card is not None
    assert found.card.weights_sha256 in read.words


def test_nothing_is_loaded_from_anywhere(found: Audit) -> None:
    read = Read(page(found))
    loading = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "ping"}
    assert [(t, a) for t, a in read.tags for name in a if name in loading and a[name] not in ("data:,", "#notes")] == []
    assert not any(tag in {"iframe", "object", "embed", "base", "img"} for tag, _ in read.tags)
    style = (pages.ASSETS / "page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    rules = policy(read)
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:", "blob:"]
    assert not set(rules) - {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    inert = [a for tag, a in read.tags if tag == "script" and a.get("type") == "application/json"]
    assert len(inert) == 1
    running = read.scripts[1:]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in running]
    assert rules["script-src"] == hashes
    assert len(running) == 3


def test_text_of_others_stays_text(found: Audit) -> None:
    assert found.labels is not None
    assert found.quarantine is not None
    labels = found.labels.assign(
        class_name=EVIL, created_by=EVIL, reviews=json.dumps([{"reviewed_by": EVIL}]), workflow_status=EVIL
    )
    labels["feature_id"] = EVIL + labels["feature_id"]
    evil = replace(
        found,
        target=EVIL,
        labels=labels,
        quarantine=found.quarantine.assign(detail=EVIL, row_id=EVIL),
        links=(Link(name="labels", state="broken", detail=EVIL), *found.links),
        params={EVIL: EVIL},
        notes=(EVIL,),
    )
    plain, read = Read(page(found)), Read(page(evil))
    assert [s for s in read.scripts if "alert" in s] == read.scripts[:1], "only the data holds it"
    assert json.loads(read.scripts[0])["detail"], "which stays JSON"
    assert not any("onmouseover" in attributes for _, attributes in read.tags)
    assert policy(read) == policy(plain)
    assert read.words.count("<script>alert(1)</script>") > 5 * len(labels)


def test_words_of_each_verdict(found: Audit) -> None:
    bad = Link(name="lock", state="broken", detail="dvc.lock was edited")
    dark = Link(name="snapshot", state="unverified", detail="no remote has it")
    unverified = Read(page(replace(found, links=(*found.links, dark))))
    assert "? Can't be seen from here" in unverified.words
    assert "no remote has it" in unverified.words
    fresh = Link(name="revision", state="uncommitted", detail="only the working tree holds it")
    uncommitted = Read(page(replace(found, links=(fresh, *found.links, dark))))
    assert "+ Not committed yet" in uncommitted.words
    assert "What to do: git diff dvc.lock" in uncommitted.words
    broken = Read(page(replace(found, links=(bad, *found.links, dark))))
    assert "✕ Broken" in broken.words
    verdict = broken.words[: broken.words.index("What was asked")]
    assert "dvc.lock was edited" in verdict
    assert "no remote has it" not in verdict
    stamps = [a["class"] for tag, a in broken.tags if a.get("id") == "verdict"]
    assert stamps == ["verdict broken"]


def test_a_model_without_repository_has_a_page_without_tables(found: Audit) -> None:
    link = Link(name="revision", state="unverified", detail="there is no repository")
    text = page(Audit(target="lone.safetensors", spec=found.card, card=found.card, links=(link,)))
    assert "Can&#39;t be seen from here" in text
    assert 'id="labels"' not in text
    assert 'id="map"' not in text
    assert len(text) < 50_000, "no library for a map that is not there"


def test_what_is_too_much_is_cut_and_said(found: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.labels is not None
    monkeypatch.setattr(pages, "MOST_ROWS", 20)
    monkeypatch.setattr(maps, "MOST_LABELS", 10)
    read = Read(page(found))
    assert read.rows["labels"] == 20
    assert "Shown here: 20 of 300, those with most pixels drawn as mine." in read.words
    assert "sandwatch audit main --csv labels.csv" in read.words
    assert "10 of 300 labels are drawn" in read.words
    drawing = maps.make(found)
    assert drawing is not None
    kept = {row for place in drawing.places.values() for row in place["rows"]}
    assert kept == set(range(10))
    assert sum(place["labels"] for place in drawing.places.values()) == 300


def test_a_map_of_many_vertices_is_bounded(found: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_VERTICES", 200)
    monkeypatch.setattr(maps, "EXACT_LABELS", 100)
    drawing = maps.make(found)
    assert drawing is not None
    assert any("simplified" in note for note in drawing.notes)
    xs = _labels_of(drawing)["xs"]
    assert 100 < sum(len(ring) for shape in xs for part in shape for ring in part) <= 200


def test_places_are_those_of_scenes_and_labels(found: Audit) -> None:
    """Web Mercator by its formula; holes stay holes; an observation with nothing is said to be nowhere."""
    assert found.labels is not None
    assert found.imagery is not None
    hole = shapely.box(70.5, 10.2, 70.6, 10.4).difference(shapely.box(70.52, 10.25, 70.55, 10.3))
    two = shapely.MultiPolygon([hole, shapely.box(71.0, 11.0, 71.1, 11.2)])
    labels = found.labels.head(1).assign(use="validated+tested", confidence="low").set_geometry([two], crs="EPSG:4326")
    obs_id = labels["obs_id"].iloc[0]
    alone = replace(found, labels=labels, imagery=found.imagery[found.imagery["obs_id"] != obs_id])
    drawing = maps.make(alone)
    assert drawing is not None
    columns = _labels_of(drawing)
    assert [len(part) for part in columns["xs"][0]] == [2, 1]
    radius = 6378137.0
    left = radius * 70.5 * 3.141592653589793 / 180
    assert min(columns["xs"][0][0][0]) == pytest.approx(left, abs=0.02)
    assert drawing.places[obs_id]["bounds"][0] == pytest.approx(left, abs=0.02)
    assert columns["colour"] == [maps.COLOURS["validated"]]
    assert columns["dash"] == ["dashed"]
    negative = drawing.places["negative_2021-03-01"]
    assert (negative["mines"], negative["labels"], negative["rows"]) == (False, 0, [])
    west, south, east, north = negative["bounds"]
    # 500 by 3,200 pixels of 10 m from (0, 0) of a UTM zone southwards, 4.5 degrees west of its middle.
    assert east - west == pytest.approx(5_000, rel=0.02)
    assert north - south == pytest.approx(32_000, rel=0.02)
    nowhere = maps.make(replace(alone, imagery=found.imagery.head(0)))
    assert nowhere is not None
    assert list(nowhere.places) == [obs_id]
    assert any("have no place on the map" in note for note in nowhere.notes)


def _labels_of(drawing: maps.Map) -> dict[str, Any]:
    """Columns of the labels in Bokeh's JSON."""
    found = [node for node in _nodes(drawing.detail) if node.get("attributes", {}).get("name") == "labels"]
    return dict(found[0]["attributes"]["data"]["entries"])


def _nodes(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(node for child in value.values() for node in _nodes(child))]
    return [node for child in value for node in _nodes(child)] if isinstance(value, list) else []


def test_the_whole_page_or_none(found: Audit, tmp_path: Path) -> None:
    broken = replace(found, imagery=pd.DataFrame({"obs_id": ["a"]}))
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(KeyError, match="crs"):
        write_page(broken, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_command(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)
    done = CliRunner().invoke(app, ["main", "--offline", "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text()
    assert "no picture of an observation could be looked for" in text
    assert str(made.root) not in text
    done = CliRunner().invoke(app, ["--label", "x", "--html", str(tmp_path / "other.html")])
    assert "--html: got labels to look for" in str(done.exception)
