"""Annotation files listed in annotations.csv, the predecessor's among them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch.annotations import build, freeze, geojson
from sandwatch.errors import InputError
from sandwatch.features import GEOMETRIES
from sandwatch.grid import Grid, utm_crs
from sandwatch.imagery.params import Synthetic
from sandwatch.schemas import Labels, Observations, Quarantine, Scenes
from tests.unit.annotation_rows import KNOWN, NEVER_ASKED_FOR, SKIPPED, manifest, params, polygon, ring
from tests.unit.test_annotations import ANY_JSON, MANIFEST, mutated

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_labels"
OTHER = polygon(90, 20, 9, 30)


def feature(geometry: Any, confidence: Any = "High", **members: Any) -> dict[str, Any]:
    """As the predecessor writes it: without ``type``."""
    return {"geometry": geometry, "properties": {"Confidence": confidence}} | members


def collection(*features: Any, **members: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(features)} | members)


class Imported:
    """What ``build`` makes of files, given as {obs_id: content}."""

    def __init__(self, folder: Path, files: dict[str, str], scenes: pd.DataFrame | None = None) -> None:
        folder.mkdir(exist_ok=True)
        for obs_id, content in files.items():
            (folder / f"{obs_id}.geojson").write_text(content)
        listing = "".join(f"{obs_id},{obs_id}.geojson\n" for obs_id in files)
        (folder / "annotations.csv").write_text(f"obs_id,path\n{listing}")
        self.run(folder, scenes)

    def run(self, folder: Path, scenes: pd.DataFrame | None = None) -> None:
        out = folder / "out"
        self.metrics = import_from(folder, scenes)
        self.labels = Labels.read(out / "labels.parquet")
        self.observations = Observations.read(out / "observations.parquet").set_index("obs_id")
        self.quarantine = Quarantine.read(out / "quarantine.parquet")
        self.raw = [json.loads(line) for line in (out / "export.ndjson").read_text().splitlines()]


def import_from(folder: Path, scenes: pd.DataFrame | None = None) -> dict[str, Any]:
    return build(
        params(source="geojson"),
        Synthetic(seed=0, cloud_fraction=0, annotator_error_m=0),
        aoi=None,
        manifest=manifest() if scenes is None else scenes,
        rivers=folder,
        inputs=folder,
        folder=folder / "out",
        canonical_folder=folder / "canonical",
    )


def test_features_without_type_and_files_without_features(tmp_path: Path) -> None:
    content = collection(feature(polygon()), feature(OTHER, "Low"))
    imported = Imported(tmp_path, {KNOWN[0]: content, KNOWN[1]: collection()})
    assert sorted(imported.labels["confidence"]) == ["high", "low"]
    assert set(imported.labels["class_name"]) == {"Sand mine"}
    assert imported.labels["created_by"].isna().all()
    assert list(imported.observations["has_mines"]) == [True, False]
    assert imported.raw[0]["content"] == content
    assert imported.raw[0]["path"] == f"{KNOWN[0]}.geojson"


def test_a_single_feature_is_a_file_too(tmp_path: Path) -> None:
    assert Imported(tmp_path, {KNOWN[0]: json.dumps(feature(polygon()))}).metrics["labels"] == 1


def test_ids_do_not_depend_on_order_or_vertices_and_doubles_show(tmp_path: Path) -> None:
    turned = {"type": "Polygon", "coordinates": [[*ring()[2:], *ring()[1:3]][::-1]]}
    one = Imported(tmp_path / "one", {KNOWN[0]: collection(feature(polygon()), feature(OTHER))})
    two = Imported(tmp_path / "two", {KNOWN[0]: collection(feature(OTHER), feature(turned), feature(polygon()))})
    assert one.metrics["label_fingerprint"] == two.metrics["label_fingerprint"]
    assert list(two.quarantine["reason"]) == ["duplicate_feature_id"]
    assert two.metrics["observations"] == 1


def test_the_same_outline_with_another_confidence_is_another_feature(tmp_path: Path) -> None:
    imported = Imported(tmp_path, {KNOWN[0]: collection(feature(polygon(), "Low"), feature(polygon(), "High"))})
    assert sorted(imported.labels["confidence"]) == ["high", "low"]


def test_a_feature_with_its_own_id_keeps_it(tmp_path: Path) -> None:
    imported = Imported(tmp_path, {KNOWN[0]: collection(feature(polygon(), id=7))})
    assert list(imported.labels["feature_id"]) == [f"{KNOWN[0]}/7"]


def test_another_property_may_hold_the_confidence_and_a_path_may_be_absolute_or_lead_deeper(tmp_path: Path) -> None:
    elsewhere = tmp_path / "deeper" / "elsewhere.geojson"
    elsewhere.parent.mkdir()
    elsewhere.write_text(collection({"geometry": polygon(), "properties": {"sure": "Low"}}))
    (tmp_path / "annotations.csv").write_text(f"obs_id,path,confidence_property\n{KNOWN[0]},{elsewhere},sure\n")
    assert import_from(tmp_path)["labels_low"] == 1
    assert str(tmp_path) not in (tmp_path / "out" / "export.ndjson").read_text()
    (tmp_path / "annotations.csv").write_text(
        f"obs_id,path,confidence_property\n{KNOWN[0]},deeper/{elsewhere.name},sure"
    )
    assert import_from(tmp_path)["labels_low"] == 1


@pytest.mark.parametrize("crs", ["urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:EPSG::4326", "EPSG:4326", None])
def test_a_crs_that_means_longitude_and_latitude_is_read(tmp_path: Path, crs: str | None) -> None:
    member = {"type": "name", "properties": {"name": crs}} if crs else None
    assert Imported(tmp_path, {KNOWN[0]: collection(feature(polygon()), crs=member)}).metrics["labels"] == 1


@pytest.mark.parametrize("crs", [{"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32645"}}, "odd"])
def test_any_other_crs_is_refused_by_name(tmp_path: Path, crs: Any) -> None:
    named = "crs urn:ogc:def:crs:EPSG::32645" if isinstance(crs, dict) else "crs odd"
    with pytest.raises(InputError, match=rf"{KNOWN[0]}\.geojson: got {named}; expected longitude and latitude"):
        Imported(tmp_path, {KNOWN[0]: collection(feature(polygon()), crs=crs)})


@pytest.mark.parametrize(
    ("obs_id", "content", "reason", "polygons"),
    [
        (KNOWN[1], "", "malformed_row", 0),
        (KNOWN[1], "{not json", "malformed_row", 0),
        (KNOWN[1], "[]", "malformed_row", 0),
        (KNOWN[1], '{"type": "FeatureCollection"}', "malformed_row", 0),
        (KNOWN[1], collection(3, 4), "malformed_row", 2),
        (KNOWN[1], collection(feature(polygon()))[:-40], "malformed_row", 0),
        (KNOWN[1], "[" * 100_000, "malformed_row", 0),
        (KNOWN[1], collection(feature(polygon(), id="\ud800")), "malformed_row", 1),
        (KNOWN[1], collection(feature({"type": "\udfff", "coordinates": []}, id=1)), "geometry_not_polygon", 1),
        (KNOWN[1], '{"features": [{"geometry": null, "id": ' + "9" * 5000 + "}]}", "malformed_row", 0),
        (KNOWN[1], '{"features": [{"geometry": {"type": ' + "[" * 900 + "]" * 900 + "}}]}", "geometry_not_polygon", 1),
        (KNOWN[1], collection(feature({"type": "Polygon", "coordinates": [[True, 1]]})), "geometry_invalid", 1),
        (KNOWN[1], collection(feature({"type": "Polygon", "coordinates": [[[85, True]] * 4]})), "geometry_invalid", 1),
        (SKIPPED, collection(feature(polygon())), "scene_missing", 1),
        (NEVER_ASKED_FOR, collection(feature(polygon())), "unknown_observation", 1),
        (KNOWN[1], collection(feature(None)), "geometry_missing", 1),
        (KNOWN[1], collection(feature(polygon(), None)), "confidence_missing", 1),
        (KNOWN[1], collection({"geometry": polygon()}), "confidence_missing", 1),
        (KNOWN[1], collection(feature(polygon(), 3)), "confidence_missing", 1),
        (KNOWN[1], collection(feature({"type": "Point", "coordinates": ring()[0]})), "geometry_not_polygon", 1),
    ],
)
def test_what_is_unfit_goes_to_quarantine(
    tmp_path: Path, obs_id: str, content: str, reason: str, polygons: int
) -> None:
    imported = Imported(tmp_path, {KNOWN[0]: collection(feature(polygon())), obs_id: content})
    assert list(imported.observations.index) == [KNOWN[0]]
    rejected = imported.quarantine.set_index("reason").loc[reason]
    assert rejected["polygons"] == polygons
    assert rejected["row_id"] == f"{obs_id}.geojson" or rejected["detail"].startswith(f"{obs_id}.geojson: ")
    assert imported.metrics["quarantined_labels"] == polygons


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (None, r"annotations\.csv: got no such file; expected a CSV with the columns obs_id and path"),
        ("", r"annotations\.csv: got columns none; .*; add obs_id, path"),
        ("obs_id,file\n", r"annotations\.csv: got columns obs_id, file; .*; add path"),
        (
            "obs_id,path\n\na,missing.geojson\n",
            r"annotations\.csv, line 3: got obs_id 'a', path 'missing\.geojson'; .*",
        ),
        ("obs_id,path\n,x.geojson\n", r"annotations\.csv, line 2: got obs_id '', path 'x\.geojson'; .*"),
        ("obs_id,path\na\n", r"annotations\.csv, line 2: got 1 values; expected 2, as in the header; .*"),
        ("obs_id,path\na," + "x" * 250 + ".geojson\n", r"line 2: got obs_id 'a', path 'xxx.*; .* on this machine"),
        ("obs_id,path\na,.\n", r"line 2: got obs_id 'a', path '\.'; .* on this machine"),
        ('obs_id,path\na,"x".geojson\nb,y.geojson\n', r"annotations\.csv, line 2: got no CSV: .*; .* close the quote"),
        ('obs_id,path\na,"x.geojson\nb,y.geojson\n', r"annotations\.csv, line 2: got no CSV: unexpected end of data; "),
        (
            "obs_id,path\na,Mahānadī§.geojson\n".encode("cp1257"),
            r"annotations\.csv, line 2: got bytes that are no UTF-8; .*a,Mahânadî§.*; save it as UTF-8",
        ),
        (
            "obs_id,path\na,../secret.txt\n",
            r"line 2: got path '\.\./secret\.txt', which leads out of .*; copy the file",
        ),
        ("obs_id,path\na,{outside}/secret.txt\n", r"line 2: got path '/.*secret\.txt', which leads out of .*; copy"),
        ("obs_id,path\na,link.geojson\n", r"line 2: got path 'link\.geojson', which leads out of .*; copy the file"),
        ("obs_id,path\na,gs://bucket/x.geojson\n", r"line 2: got .*gs://bucket/x\.geojson.*; .* fetch the file first"),
        (
            "obs_id,path\na,latin.geojson\n",
            r"latin\.geojson, line 1: got bytes that are no UTF-8; .*; save it as UTF-8",
        ),
    ],
)
def test_a_bad_manifest_is_one_clear_line(tmp_path: Path, listing: str | bytes | None, message: str) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("a key of somebody's")
    (folder / "link.geojson").symlink_to(tmp_path / "secret.txt")
    (folder / "latin.geojson").write_bytes('{"name": "Ж"}'.encode("cp866"))
    if isinstance(listing, bytes):
        (folder / "annotations.csv").write_bytes(listing)
    elif listing is not None:
        (folder / "annotations.csv").write_text(listing.replace("{outside}", str(tmp_path)))
    with pytest.raises(InputError, match=message) as caught:
        import_from(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "out" / "export.ndjson").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Both real observations, the files as the predecessor wrote them, on scenes that cover their images."""
    if not REAL.is_dir():
        pytest.skip(f"real labels are not there: {REAL}")
    import rasterio
    from rasterio.warp import transform_bounds

    scenes, files = [], {}
    template = manifest().query("obs_id == @KNOWN[0] and product == 's2'").iloc[0].to_dict()
    template |= dict.fromkeys(("detail", "path", "sha256"))
    for folder in sorted(path for path in REAL.iterdir() if path.is_dir()):
        with rasterio.open(folder / "rgb.tif") as image:
            bounds = image.bounds
        crs = utm_crs(bounds.left, bounds.bottom)
        grid = Grid.covering(transform_bounds("EPSG:4326", crs, *bounds), crs)
        scenes.append(
            template
            | {"obs_id": folder.name, "site_id": folder.name[:-11], "date": folder.name[-10:], "crs": crs}
            | {"transform": ",".join(map(str, grid.transform[:6])), "width_px": grid.width, "height_px": grid.height}
        )
        files[folder.name] = (folder / "annotations_original.geojson").read_text()
    return Imported(tmp_path_factory.mktemp("real"), files, Scenes.checked(pd.DataFrame(scenes), "scenes"))


def test_all_36_real_polygons_are_accounted_for(real: Imported) -> None:
    drawn = [len(json.loads(row["content"])["features"]) for row in real.raw]
    assert drawn == [29, 7]
    assert real.metrics["labels"] + real.metrics["quarantined_labels"] == 36
    assert list(real.observations["polygons"]) == [29, 7]
    assert (real.metrics["labels_low"], real.metrics["labels_high"]) == (17, 19)


def test_real_labels_rasterise_to_the_reference_masks(real: Imported) -> None:
    """The references were made of coordinates with six decimals, as the zero differences show."""
    import numpy as np
    import rasterio
    import shapely
    from rasterio.features import rasterize

    for obs_id, labels in real.labels.groupby("obs_id"):
        with rasterio.open(REAL / obs_id / "labels_mask.tif") as file:
            reference, transform = file.read(1) > 0, file.transform
        six_decimals = shapely.transform(labels.geometry.to_numpy(), lambda xy: xy.round(6))
        mask = rasterize(six_decimals, reference.shape, transform=transform, all_touched=True) > 0
        assert np.array_equal(mask, reference)


SOUND = st.builds(
    lambda features, members: {"type": "FeatureCollection", "features": features} | members,
    st.lists(
        st.builds(feature, st.sampled_from([polygon(), OTHER, None]), st.sampled_from(["High", "Low", None])),
        max_size=3,
    ),
    st.sampled_from([{}, {"name": "a"}]),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(SOUND | mutated(SOUND) | ANY_JSON, min_size=1, max_size=5), st.integers(0, 30))
def test_whatever_a_file_holds_every_feature_is_accounted_for(contents: list[Any], cut: int) -> None:
    texts = [json.dumps(content) for content in contents]
    texts.append(texts[0][: len(texts[0]) * cut // 30])
    names = [f"{number}.geojson" for number in range(len(texts))]
    rows = [
        {
            "obs_id": KNOWN[number % 3],
            "path": name,
            "sha256": "0" * 64,
            "confidence_property": "Confidence",
            "content": c,
        }
        for number, (name, c) in enumerate(zip(names, texts, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        lines = [json.dumps(row).encode() + b"\n" for row in rows]
        kept = 0
        with contextlib.suppress(InputError):
            kept = freeze(lines, geojson.parse, params(source="geojson"), MANIFEST, out, out / "c", {})["labels"]
        quarantine = Quarantine.read(out / "quarantine.parquet")
    features = 0
    for text in texts:
        with contextlib.suppress(ValueError):
            content = json.loads(text)
            found = content
            if isinstance(content, dict):
                found = content.get("features", [content] if "geometry" in content else None)
                found = [content] if found is None and content.get("type") in GEOMETRIES else found
            features += len(found) if isinstance(found, list) else 0
    assert kept + quarantine["polygons"].sum() == features
