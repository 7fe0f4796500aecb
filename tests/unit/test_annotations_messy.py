"""Labels as programs and people leave them: other codes, wrappings, spellings and geometries."""

from __future__ import annotations

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from sandwatch.annotations import build, labelbox_export
from sandwatch.annotations.canonical import UnusableGeometryError, read_polygon
from sandwatch.errors import InputError
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import Labels, Quarantine
from tests.unit.annotation_rows import GOOD, KNOWN, PARAMS, drawn, label, manifest, polygon, project, radio, row, simple
from tests.unit.test_annotations import Frozen
from tests.unit.test_annotations_geojson import Imported, collection, feature, import_from

OTHER = polygon(90, 20, 9, 30)
ROWS = [simple(KNOWN[0], drawn("Río")), simple(KNOWN[1], drawn("f2")), simple(KNOWN[2])]


def ndjson(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in rows)


def exported(folder: Path, content: bytes) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "export.ndjson").write_bytes(content)
    return build(
        PARAMS,
        Synthetic(seed=0, cloud_fraction=0, annotator_error_m=0),
        aoi=None,
        manifest=manifest(),
        rivers=folder,
        inputs=folder,
        folder=folder / "out",
        canonical_folder=folder / "canonical",
    )


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + ndjson(ROWS).encode(),
        ndjson(ROWS).replace("\n", "\r\n\r\n").encode(),
        ndjson(ROWS).encode("utf-16"),
        codecs.BOM_UTF16_BE + ndjson(ROWS).encode("utf-16-be"),
        ndjson(ROWS).replace("\n", "\r\n").encode("utf-16-le"),
        ndjson(ROWS).encode("cp1252"),
        ndjson(ROWS[::-1]).encode("latin-1"),
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
        codecs.BOM_UTF8 + json.dumps(ROWS, indent=4).replace("\n", "\r\n").encode(),
        "\n".join(json.dumps(one, indent=1) for one in ROWS).encode(),
        json.dumps(ROWS, indent=2).encode("utf-16"),
        unicodedata.normalize("NFD", ndjson(ROWS)).encode(),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_an_export_is_the_same_in_every_code_and_wrapping(tmp_path: Path, content: bytes) -> None:
    healthy = exported(tmp_path / "healthy", ndjson(ROWS).encode())
    found = exported(tmp_path / "found", content)
    assert (found["label_fingerprint"], found["rows"]) == (healthy["label_fingerprint"], 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(ROWS, indent=2).encode()[:-200], r"export.ndjson, line \d+: got no JSON, or only the beginning"),
        (b"[" * 100_000, r"export.ndjson, line 1: got no JSON"),
        (b"<html>Sign in</html>", "got a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a pointer of Git LFS, .*git lfs pull"),
        (ndjson(ROWS).encode("utf-16")[:-1], r"export.ndjson, line \d: got bytes that are no UTF-16"),
    ],
)
def test_an_export_that_is_none_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        exported(tmp_path, content)
    assert "\n" not in str(error.value)


def test_one_damaged_line_costs_one_row(tmp_path: Path) -> None:
    lines = ndjson([simple(KNOWN[0], drawn("Río")), ROWS[1]]).encode() + b'{"data_row": "\xff\xfe"}\n'
    assert exported(tmp_path, lines)["quarantine_malformed_row"] == 1
    assert exported(tmp_path, lines)["labels"] == 2


@pytest.mark.parametrize("answer", ["High", "high", " HIGH "])
def test_answers_and_names_in_any_spelling(tmp_path: Path, answer: str) -> None:
    one = drawn("f1", name="SAND_MINE", confidence=answer)
    one["classifications"][0]["name"] = "confidence"
    found = Frozen(tmp_path, simple(KNOWN[0], one)).labels.iloc[0]
    assert (found.confidence, found.class_name) == ("high", "Sand mine")


@pytest.mark.parametrize(("answer", "mines"), [("yes", True), ("y", True), ("TRUE", True), ("1", True), ("n", False)])
def test_yes_and_no_in_other_words(tmp_path: Path, answer: str, mines: bool) -> None:
    one = row(KNOWN[1], project([label("l", [drawn("x")] if mines else [], activity=answer)]))
    assert bool(Frozen(tmp_path, GOOD, one).observations.loc[KNOWN[1], "has_mines"]) == mines


def test_numbers_count_where_params_name_them(tmp_path: Path) -> None:
    content = {KNOWN[0]: collection(feature(polygon(), 1), feature(OTHER, 2.0))}
    with pytest.raises(InputError, match=r"confidence_missing 2"):
        Imported(tmp_path, content)
    detail = Quarantine.read(tmp_path / "out" / "quarantine.parquet")["detail"]
    assert "Confidence: '1', where annotations.confidence_answers has Low, High" in set(detail)
    using = PARAMS.model_copy(update={"confidence_answers": {"1": "low", "2": "high"}})
    two = drawn("f2", OTHER, confidence=None)
    two["classifications"] = [{"name": "Confidence", "text_answer": {"content": "2"}}]
    found = Frozen(tmp_path / "numbers", simple(KNOWN[0], drawn("f1", confidence="1"), two), using=using)
    assert sorted(found.labels["confidence"]) == ["high", "low"]


@pytest.mark.parametrize("properties", [{"confidence": "high"}, {"CONFIDENCE ": "HIGH"}, {"Confidence": " high"}])
def test_a_property_in_another_spelling(tmp_path: Path, properties: dict[str, str]) -> None:
    content = collection({"geometry": polygon(), "properties": properties})
    assert Imported(tmp_path, {KNOWN[0]: content}).metrics["labels_high"] == 1


def test_what_is_there_instead_of_an_answer_is_told(tmp_path: Path) -> None:
    content = collection(
        {"geometry": polygon(), "properties": {"sure": "x", "confidence": "Low", "CONFIDENCE": "High"}}
    )
    found = Imported(tmp_path, {KNOWN[0]: collection(feature(OTHER)), KNOWN[1]: content}).quarantine
    assert "Confidence: None, but its properties are sure, confidence, CONFIDENCE" in set(found["detail"])


def test_a_question_under_an_answer_is_found_and_the_outer_one_counts(tmp_path: Path) -> None:
    def nested(*inner: dict[str, Any]) -> dict[str, Any]:
        outer = radio("Mine type", "River bed")
        outer["radio_answer"]["classifications"] = list(inner)
        return outer

    one, two = drawn("f1", confidence=None), drawn("f2", OTHER, confidence="Low")
    one["classifications"] = [nested(nested(radio("Confidence", "High")))]
    two["classifications"].append(nested(radio("Confidence", "High")))
    found = Frozen(tmp_path, simple(KNOWN[0], one, two)).labels.set_index("feature_id")["confidence"]
    assert dict(found) == {"f1": "high", "f2": "low"}


@pytest.mark.parametrize(
    ("instead", "detail"),
    [
        ({"mask": {"url": "https://x.example/m.png"}}, "no geometry, but a raster mask: draw polygons"),
        ({"composite_mask": {"url": "https://x.example/m.png"}}, "no geometry, but a raster mask: draw polygons"),
        ({"polygon": [{"x": 1.0, "y": 2.0}]}, "no geometry, but a polygon in pixels of an image without a place"),
        ({"bounding_box": {"top": 1}}, "no geometry, but a box in pixels"),
        ({}, "no geometry"),
    ],
)
def test_what_is_there_instead_of_a_geometry_is_told(tmp_path: Path, instead: dict[str, Any], detail: str) -> None:
    one = drawn("x")
    del one["geojson"]
    found = Frozen(tmp_path, GOOD, simple(KNOWN[1], one | instead))
    assert found.reasons == ["geometry_missing", "observation_incomplete"]
    assert found.quarantine["detail"].iloc[0].startswith(detail)


def test_rows_of_a_catalog_have_no_label(tmp_path: Path) -> None:
    of_catalog = row(KNOWN[1])
    del of_catalog["projects"]
    found = Frozen(tmp_path, GOOD, of_catalog)
    assert found.reasons == ["no_label"]
    assert "as of an export of the catalog: export the project" in found.quarantine["detail"].iloc[0]
    strange = of_catalog | {"annotations": {"objects": [1, 2]}}
    found = Frozen(tmp_path, GOOD, strange)
    assert (found.reasons, found.metrics["quarantined_labels"]) == (["malformed_row"], 2)


def test_two_projects_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = row(KNOWN[0], project([label("a", [drawn("f1")])]), project([label("b", [])]))
    two = row(KNOWN[1], project([label("c", [drawn("f2")])]))
    names = list(one["projects"])
    found = Frozen(tmp_path / "none", one, two)
    assert found.reasons == ["several_labels"] * 2
    assert f"of projects {', '.join(names)}: annotations.labelbox_project can name one" in found.quarantine["detail"][0]
    using = PARAMS.model_copy(update={"labelbox_project": names[0]})
    found = Frozen(tmp_path / "first", one, two, using=using)
    assert (list(found.labels["label_id"]), found.reasons) == (["a", "c"], ["several_labels"])
    assert "note: labels of" not in capsys.readouterr().out
    two["projects"] = {names[1]: two["projects"].popitem()[1]}
    Frozen(tmp_path / "both", simple(KNOWN[2], drawn("f3")), two)
    assert f"note: labels of 2 projects count: {', '.join(names)}" in capsys.readouterr().out


@pytest.mark.parametrize("name", [f"{KNOWN[1]}_rgb.tif", f"tiles/{KNOWN[1]}.png"])
def test_a_name_that_holds_an_observation_says_which(tmp_path: Path, name: str) -> None:
    found = Frozen(tmp_path, GOOD, row(name, project([label("l", [drawn("x")])])))
    assert f"{name!r} is not in the manifest of scenes; {KNOWN[1]!r}, with" in found.quarantine["detail"].iloc[0]


def moved(geometry: dict[str, Any], move: Any) -> dict[str, Any]:
    return geometry | {"coordinates": [[list(move(*point)) for point in ring] for ring in geometry["coordinates"]]}


@pytest.mark.parametrize(
    ("move", "slip"),
    [
        (lambda x, y: (y, x), "longitude and latitude swapped"),
        (lambda x, y: (-x, y), "the sign of its longitude turned"),
        (lambda x, y: (x, -y), "the sign of its latitude turned"),
        (lambda x, y: (x + 1, y), None),
    ],
)
def test_a_polygon_that_slipped_teaches_nothing_false(
    tmp_path: Path, move: Any, slip: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    content = collection(feature(polygon(), id=1), feature(moved(OTHER, move), id=2))
    found = Imported(tmp_path, {KNOWN[0]: collection(feature(OTHER)), KNOWN[1]: content})
    kept = [*KNOWN[:2]] if slip is None else [KNOWN[0]]
    assert sorted(found.observations.index) == sorted(kept)
    outside = found.quarantine.set_index("reason").loc["outside_scene", "detail"]
    assert (f"with {slip} it would lie in its scene: correct it" in outside) == (slip is not None)
    assert f"quarantine: outside_scene 1, such as {KNOWN[1]}/2: lies at longitude" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("coordinates", "hint"),
    [([[20, 105], [20, 105.1], [20.1, 105]], ": swapped?"), ([[5e5, 2e6], [5e5, 3e6], [6e5, 2e6]], ": metres, or pix")],
)
def test_vertices_that_are_no_degrees_are_explained(coordinates: Any, hint: str) -> None:
    with pytest.raises(
        UnusableGeometryError, match=rf"is no longitude and latitude in degrees{hint}".replace("?", ".")
    ):
        read_polygon({"type": "Polygon", "coordinates": [coordinates]}, 5000)


def test_collections_of_polygons_are_polygons() -> None:
    line = {"type": "LineString", "coordinates": polygon()["coordinates"][0][:2]}
    both = {
        "type": "GeometryCollection",
        "geometries": [polygon(), {"type": "GeometryCollection", "geometries": [OTHER]}],
    }
    found, repaired = read_polygon(both, 5000)
    assert (found.geom_type, len(found.geoms), repaired) == ("MultiPolygon", 2, False)
    found, repaired = read_polygon({"type": "GeometryCollection", "geometries": [line, polygon()]}, 5000)
    assert (found.geom_type, repaired) == ("Polygon", True)
    assert found.equals(read_polygon(polygon(), 5000)[0])
    point = {"type": "Point", "coordinates": [85, 20]}
    for members, message in (([point, polygon()], "a Point in a GeometryCollection"), ([line], "without a polygon")):
        with pytest.raises(UnusableGeometryError, match=message):
            read_polygon({"type": "GeometryCollection", "geometries": members}, 5000)


def test_many_vertices_are_kept_where_edges_keep_apart() -> None:
    from math import cos, pi, sin

    def of(radius: Any, count: int) -> dict[str, Any]:
        angles = [2 * pi * step / count for step in range(count)]
        ring = [[85 + radius(k) * cos(a), 20 + radius(k) * sin(a)] for k, a in enumerate(angles)]
        return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}

    assert not read_polygon(of(lambda k: 0.01, 20_000), 5000)[1]
    star = of(lambda k: 0.01 if k % 2 else 0.0001, 6_000)
    with pytest.raises(UnusableGeometryError, match=r"6001 vertices, where annotations.max_vertices allows 5000 for"):
        read_polygon(star, 5000)
    with pytest.raises(UnusableGeometryError, match=r"50002 vertices, where annotations.max_vertices allows 5000$"):
        read_polygon(of(lambda k: 0.01, 50_001), 5000)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1252"])
def test_annotation_files_and_their_table_in_other_codes(tmp_path: Path, codec: str) -> None:
    name = unicodedata.normalize("NFD", "Süd.geojson")
    (tmp_path / name).write_bytes(json.dumps([feature(polygon(), id="é")], ensure_ascii=False).encode(codec))
    (tmp_path / "annotations.csv").write_bytes(f"Obs ID; PATH\r\n{KNOWN[0]};Süd.geojson\r\n;\r\n".encode(codec))
    assert import_from(tmp_path)["labels"] == 1
    assert list(Labels.read(tmp_path / "out" / "labels.parquet")["feature_id"]) == [f"{KNOWN[0]}/é"]


def test_an_annotation_file_that_is_a_pointer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"south_2023-01-01.geojson: got a pointer of Git LFS"):
        Imported(tmp_path, {KNOWN[0]: collection(feature(polygon())), KNOWN[1]: "version https://git-lfs.github.com/x"})


def test_a_damaged_line_stays_as_it_was(tmp_path: Path) -> None:
    content = ndjson(ROWS).encode() + b"\xff\n"
    (tmp_path / "export.ndjson").write_bytes(content)
    assert b"".join(labelbox_export.raw_rows(tmp_path)) == content
