"""Maps, polygons and STAC items of scenes: true to the model, bounded in memory, the same bytes twice."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pystac
import pytest
import rasterio
import shapely
from pystac.validation import JsonSchemaSTACValidator
from rasterio.features import rasterize
from scipy import ndimage

from sandwatch import raster, schemas
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Grid
from sandwatch.infer import Infer, Region, Scene, infer, map_scene, read_score
from sandwatch.scene import exported
from sandwatch.stack import NODATA, encode
from sandwatch.work import Work
from tests.models import spec

BANDS = ("B2", "B3", "B8", "VV")
CRS = "EPSG:32644"
SETTINGS = Infer(min_object_m2=1000.0)
SPEC = spec(
    bands=BANDS,
    overlap_px=12,
    batch_size=3,
    threshold=0.6,
    label_fingerprint="1" * 64,
    weights_sha256="3" * 64,
    imagery="mixed",
)


class Pointwise:
    """A model that looks at one pixel: the more near infrared over blue, the likelier."""

    spec = SPEC

    def __call__(self, pixels):
        values = pixels.astype(np.float32)
        return (values[:, 2:3] - values[:, :1]) / np.float32(200)


def make_site(folder, site_id="kanhan", role="infer", *, width=150, height=301, left=500_000.0, months=("2023-02-01",)):
    """A site with an AOI that is no rectangle, and its scenes; returns rows for aoi and manifest."""
    grid = Grid(crs=CRS, left=left, top=2_500_000.0, width=width, height=height)
    west, south, east, north = grid.bounds
    aoi = shapely.Polygon(
        [(west + 45, south + 105), (east - 95, south + 35), (east - 5, north - 15), (west + 405, north)]
    )
    rows = []
    for month in months:
        obs_id = f"{site_id}_{month}"
        rng = np.random.default_rng(len(site_id) + width)
        y, x = np.mgrid[:height, :width]
        s2 = np.stack([rng.integers(900, 1100, (height, width)) for _ in range(3)]).astype(np.uint16)
        for row, col, radius in ((60, 50, 9), (180, 90, 17), (256, 70, 12), (20, 120, 1)):
            s2[2][(y - row) ** 2 + 2 * (x - col) ** 2 < radius**2] += 900
        s2[1, 175:180, 85:88] = 0
        s1 = np.round(rng.normal(-12, 2, (1, height, width)), 2).astype(np.float32)
        s1[0, :, 30:33] = np.nan
        for product, pixels, bands, nodata in (("s2", s2, BANDS[:3], 0), ("s1", s1, BANDS[3:], np.nan)):
            path = folder / obs_id / f"{product}.tif"
            raster.write_cog(path, pixels, grid, bands=bands, nodata=nodata)
            rows.append(
                {
                    "obs_id": obs_id, "site_id": site_id, "date": month, "product": product, "status": "exported",
                    "detail": None, "path": f"{obs_id}/{product}.tif", "bands": ",".join(bands), "crs": CRS,
                    "transform": ",".join(str(value) for value in grid.transform[:6]), "width_px": width,
                    "height_px": height, "dtype": str(pixels.dtype), "nodata": float(nodata), "valid_fraction": 0.97,
                    "source": "files", "source_images": "[]", "sha256": sha256(path),
                }
            )  # fmt: skip
    place = gpd.GeoSeries([aoi], crs=CRS).to_crs("EPSG:4326").set_precision(1e-7)[0]
    site = {
        "site_id": site_id, "river": "Kanhan", "district": "Nagpur", "role": role, "longitude": place.centroid.x,
        "latitude": place.centroid.y, "months": ";".join(months), "utm_crs": CRS, "left_m": grid.left,
        "top_m": grid.top, "width_px": width, "height_px": height, "area_km2": aoi.area / 1e6, "group": 0,
        "fold": "infer", "geometry": place,
    }  # fmt: skip
    return site, rows, grid, place


def tables(*sites):
    aoi = gpd.GeoDataFrame([site for site, *_ in sites], crs="EPSG:4326")
    return schemas.Aoi.checked(aoi, "aoi"), schemas.Scenes.checked(
        pd.DataFrame([row for _, rows, *_ in sites for row in rows]), "scenes"
    )


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "models" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def mapped(tmp_path, weights):
    site = make_site(tmp_path / "scenes")
    aoi, manifest = tables(site, make_site(tmp_path / "scenes", "labelled", role="label"))
    predictions = tmp_path / "predictions"
    infer(aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS, weights=weights, predictions=predictions)
    return SimpleNamespace(site=site, scenes=tmp_path / "scenes", predictions=predictions, obs_id="kanhan_2023-02-01")


def test_a_scene_is_mapped_once_until_something_of_it_changes(tmp_path, weights, capsys):
    months = ("2023-02-01", "2023-03-01", "2023-04-01")
    site = make_site(tmp_path / "scenes", width=60, height=60, months=months)

    class Killed(Pointwise):
        """Dies in the third scene."""

        def __call__(self, pixels):
            if "[2/3]" in capsys.readouterr().out:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    def run(name, scorer, *, settings=SETTINGS, work="work"):
        """Hashes of what it wrote, and which scenes it took."""
        aoi, manifest = tables(site)
        infer(
            aoi, manifest, tmp_path / "scenes", scorer, settings, weights=weights, predictions=tmp_path / name,
            work=Work(tmp_path / work, "code"),
        )  # fmt: skip
        lines = capsys.readouterr().out.splitlines()
        files = {str(path.relative_to(tmp_path / name)): sha256(path) for path in (tmp_path / name).rglob("*.*")}
        return files, [line[1:4] for line in lines if line.endswith(" (by an earlier run)")]

    with pytest.raises(KeyboardInterrupt):
        run("killed", Killed())
    whole, none = run("whole", Pointwise(), work="other")
    resumed, taken = run("resumed", Pointwise())
    assert (none, taken) == ([], ["1/3", "2/3"])
    assert resumed == whole
    assert len(whole) == 3 * 4 + 3
    assert run("again", Pointwise()) == (whole, ["1/3", "2/3", "3/3"])
    other = Pointwise()
    other.spec = SPEC.model_copy(update={"threshold": 0.4})
    assert run("model", other)[1] == []
    assert run("settings", Pointwise(), settings=Infer(min_object_m2=2000.0))[1] == []
    raster.write_cog(
        tmp_path / "scenes" / "kanhan_2023-03-01" / "s1.tif", np.full((1, 60, 60), -9, np.float32), site[2],
        bands=BANDS[3:], nodata=np.nan,
    )  # fmt: skip
    site[1][3]["sha256"] = sha256(tmp_path / "scenes" / "kanhan_2023-03-01" / "s1.tif")
    assert run("scene", Pointwise())[1] == ["1/3", "3/3"]


def expected_scores(mapped):
    """Whole-scene steps by another road: everything in memory, the AOI drawn at once, an exponential a pixel."""
    _, _, grid, place = mapped.site
    folder = mapped.scenes / mapped.obs_id
    s2, s1 = raster.read(folder / "s2.tif", bands=BANDS[:3]), raster.read(folder / "s1.tif", bands=BANDS[3:])
    stack = encode(s2, s1)
    inside = rasterize([gpd.GeoSeries([place], crs=4326).to_crs(CRS)[0]], grid.shape, transform=grid.transform) == 1
    scored = inside & (stack != NODATA).all(axis=0)
    logits = Pointwise()(stack[None])[0, 0].astype(np.float64) / SPEC.temperature + SPEC.bias
    return np.where(scored, np.rint(10_000 / (1 + np.exp(-logits))), 65535), scored


def test_scores_are_those_of_the_model_and_only_inside_the_aoi(mapped):
    expected, scored = expected_scores(mapped)
    with rasterio.open(mapped.predictions / mapped.obs_id / "score.tif") as file:
        score = file.read(1)
        assert (file.nodata, file.dtypes[0], file.scales[0]) == (65535, "uint16", 1e-4)
        assert raster.read_grid(Path(file.name)) == mapped.site[2]
    np.testing.assert_array_equal(score == 65535, ~scored)
    assert 0.3 < scored.mean() < 0.95
    assert np.abs(score.astype(int) - expected)[scored].max() <= 1


def test_mask_is_the_stored_score_at_the_threshold(mapped):
    folder = mapped.predictions / mapped.obs_id
    score, mask = (rasterio.open(folder / name).read(1) for name in ("score.tif", "mask.tif"))
    expected = np.where(score == 65535, 255, score / 10_000 >= SPEC.threshold)
    np.testing.assert_array_equal(mask, expected)
    assert 500 < (mask == 1).sum() < 5000


@pytest.mark.parametrize("name", ["score.tif", "mask.tif"])
def test_rasters_say_where_they_come_from(mapped, name):
    tags = raster.read_tags(mapped.predictions / mapped.obs_id / name)
    del tags["AREA_OR_POINT"]
    assert tags == {
        "SOFTWARE": "sandwatch",
        "OBS_ID": "kanhan_2023-02-01",
        "MODEL_SHA256": "3" * 64,
        "LABEL_FINGERPRINT": "1" * 64,
        "MODEL_IMAGERY": "mixed",
        "MODEL_LABELS": "real",
        "THRESHOLD": "0.6",
        "IMAGERY": "real",
        "SCENE_S2_SHA256": sha256(mapped.scenes / mapped.obs_id / "s2.tif"),
        "SCENE_S1_SHA256": sha256(mapped.scenes / mapped.obs_id / "s1.tif"),
    }


@pytest.mark.parametrize(
    ("sources", "learnt", "imagery", "title"),
    [
        (("synthetic",), ("synthetic", "synthetic"), "synthetic", "SYNTHETIC imagery, training imagery and training "
         "labels. "),
        (("synthetic",), ("real", "real"), "synthetic", "SYNTHETIC imagery. "),
        (("files",), ("real", "synthetic"), "real", "SYNTHETIC training labels. "),
        (("files", "earthengine"), ("mixed", "real"), "real", "SYNTHETIC in part: training imagery. "),
        (("files", "synthetic"), ("real", "real"), "mixed", "SYNTHETIC in part: imagery. "),
        (("earthengine",), ("real", "real"), "real", ""),
    ],
)  # fmt: skip
def test_all_that_is_written_says_what_is_invented(tmp_path, weights, sources, learnt, imagery, title):
    """Of the scene's imagery, and of what the model learnt from."""
    aoi, manifest = tables(make_site(tmp_path / "scenes"))
    manifest["source"] = (sources * 2)[:2]
    scorer = Pointwise()
    scorer.spec = SPEC.model_copy(update=dict(zip(("imagery", "labels"), learnt, strict=True)))
    predictions = tmp_path / "predictions"
    infer(aoi, manifest, tmp_path / "scenes", scorer, SETTINGS, weights=weights, predictions=predictions)
    folder = predictions / "kanhan_2023-02-01"
    expected = {"imagery": imagery, "model_imagery": learnt[0], "model_labels": learnt[1]}
    for name in ("score.tif", "mask.tif"):
        tags = raster.read_tags(folder / name)
        assert {key: tags[key.upper()] for key in expected} == expected
    for path in (folder / "detections.parquet", predictions / "detections.parquet"):
        table = schemas.Detections.read(path)
        assert len(table) > 0
        assert table[list(expected)].drop_duplicates().to_dict("records") == [expected]
    item, collection, model = (
        json.loads(path.read_text())
        for path in (folder / "item.json", predictions / "collection.json", predictions / "model.json")
    )
    assert {key: item["properties"][f"sandwatch:{key}"] for key in expected} == expected
    assert item["properties"]["title"] == f"{title}Sand mines on the Kanhan, Nagpur, 2023-02"
    assert collection["title"] == f"{title}Sand mines on rivers"
    assert collection["description"].startswith(f"{title}Score maps")
    for keywords in (item["properties"]["keywords"], collection["keywords"]):
        assert ("synthetic" in keywords) == bool(title)
    assert [model["properties"][f"sandwatch:model_{name}"] for name in ("imagery", "labels")] == list(learnt)
    invented = learnt != ("real", "real")
    assert model["properties"]["title"].startswith("SYNTHETIC") == invented
    assert ("synthetic" in model["properties"]["keywords"]) == invented


def test_the_collection_of_scenes_of_both_kinds_is_synthetic_in_part(tmp_path, weights):
    aoi, manifest = tables(make_site(tmp_path / "scenes"), make_site(tmp_path / "scenes", "other", left=600_000.0))
    manifest.loc[manifest["site_id"] == "other", "source"] = "synthetic"
    scorer = Pointwise()
    scorer.spec = SPEC.model_copy(update={"imagery": "real"})
    infer(aoi, manifest, tmp_path / "scenes", scorer, SETTINGS, weights=weights, predictions=tmp_path / "p")
    collection = json.loads((tmp_path / "p" / "collection.json").read_text())
    assert collection["description"].startswith("SYNTHETIC in part: imagery. ")
    together = schemas.Detections.read(tmp_path / "p" / "detections.parquet")
    assert together.groupby("site_id")["imagery"].unique().map(list).to_dict() == {
        "kanhan": ["real"], "other": ["synthetic"],
    }  # fmt: skip


def test_rasters_are_cloud_optimised(mapped):
    from rio_cogeo import cog_validate

    for name in ("score.tif", "mask.tif"):
        valid, errors, _ = cog_validate(mapped.predictions / mapped.obs_id / name)
        assert valid, errors


def test_detections_are_the_regions_of_the_mask(mapped):
    folder = mapped.predictions / mapped.obs_id
    table = schemas.Detections.read(folder / "detections.parquet")
    score, mask = (rasterio.open(folder / name).read(1) for name in ("score.tif", "mask.tif"))
    regions, number = ndimage.label(mask == 1)
    index = range(1, number + 1)
    oracle = pd.DataFrame(
        {
            "area_m2": ndimage.sum_labels(mask == 1, regions, index) * 100.0,
            "score_mean": np.round(ndimage.mean(score, regions, index) / 10_000, 6),
            "score_max": ndimage.maximum(score, regions, index) / 10_000,
        }
    )
    large = oracle[oracle["area_m2"] >= 1000].sort_values(["area_m2", "score_mean"])
    assert 3 <= len(large) < len(oracle)
    found = table.sort_values(["area_m2", "score_mean"])[["area_m2", "score_mean", "score_max"]]
    np.testing.assert_allclose(found.to_numpy(), large.to_numpy(), rtol=1e-12)


def test_detections_lie_on_the_mask_and_are_numbered_from_the_top(mapped):
    table = schemas.Detections.read(mapped.predictions / mapped.obs_id / "detections.parquet")
    with rasterio.open(mapped.predictions / mapped.obs_id / "mask.tif") as file:
        drawn = rasterize(table.to_crs(CRS).geometry, file.shape, transform=file.transform)
        mask = file.read(1)
    assert drawn[mask != 1].sum() == 0
    assert drawn.sum() * 100 == table["area_m2"].sum()
    assert list(table["detection_id"]) == [f"{mapped.obs_id}/{n:05d}" for n in range(1, len(table) + 1)]
    assert table.geometry.bounds["maxy"].is_monotonic_decreasing
    assert set(table["model_sha256"]) == {"3" * 64}
    rows = {row["product"]: row["sha256"] for row in mapped.site[1]}
    assert [json.loads(text) for text in table["scene_sha256"]] == [rows] * len(table)
    coordinates = shapely.get_coordinates(table.geometry) * 1e7
    np.testing.assert_allclose(coordinates, np.rint(coordinates), atol=1e-5)


def test_same_bytes_twice(tmp_path, weights):
    aoi, manifest = tables(make_site(tmp_path / "scenes", months=("2023-02-01", "2023-03-01")))
    hashes = []
    for run in ("one", "another"):
        predictions = tmp_path / run / "predictions"
        shutil.copytree(weights.parent, tmp_path / run / "models")
        infer(
            aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS,
            weights=tmp_path / run / "models" / "model.safetensors", predictions=predictions,
        )  # fmt: skip
        files = sorted(path for path in predictions.rglob("*") if path.is_file())
        hashes.append({str(path.relative_to(predictions)): sha256(path) for path in files})
    assert hashes[0] == hashes[1]
    names = {"score.tif", "mask.tif", "detections.parquet", "item.json"}
    assert set(hashes[0]) == {"detections.parquet", "collection.json", "model.json"} | {
        f"kanhan_2023-0{month}-01/{name}" for month in (2, 3) for name in names
    }


def test_all_detections_stand_in_one_table_too(tmp_path, weights, capsys):
    aoi, manifest = tables(
        make_site(tmp_path / "scenes"), make_site(tmp_path / "scenes", "waiganga", role="both", left=600_000.0)
    )
    infer(aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")
    together = schemas.Detections.read(tmp_path / "p" / "detections.parquet")
    parts = [
        schemas.Detections.read(tmp_path / "p" / f"{site}_2023-02-01" / "detections.parquet")
        for site in ("kanhan", "waiganga")
    ]
    assert len(together) == sum(len(part) for part in parts) > len(parts[0]) > 0
    assert "[2/2] waiganga_2023-02-01: 3.5 km2 mapped, 3 detections" in capsys.readouterr().out


def test_a_river_without_mines_has_an_empty_table(tmp_path, weights):
    class Nothing(Pointwise):
        def __call__(self, pixels):
            return np.full((len(pixels), 1, 32, 32), -99, np.float32)

    aoi, manifest = tables(make_site(tmp_path / "scenes"))
    infer(aoi, manifest, tmp_path / "scenes", Nothing(), SETTINGS, weights=weights, predictions=tmp_path / "p")
    assert len(schemas.Detections.read(tmp_path / "p" / "detections.parquet")) == 0
    assert len(schemas.Detections.read(tmp_path / "p" / "kanhan_2023-02-01" / "detections.parquet")) == 0


def test_stac_is_valid_relative_and_whole(mapped):
    collection = pystac.Collection.from_file(str(mapped.predictions / "collection.json"))
    documents = {path.name: json.loads(path.read_text()) for path in mapped.predictions.rglob("*.json")}
    # Offline: the core schemas ship with pystac, those of the extensions do not.
    validator = JsonSchemaSTACValidator()
    for name, document in documents.items():
        kind = pystac.STACObjectType.COLLECTION if name == "collection.json" else pystac.STACObjectType.ITEM
        assert validator.validate_core(document, kind, "1.1.0")
    items = {item.id: item for item in collection.get_items()}
    assert set(items) == {mapped.obs_id, "model-333333333333"}
    hrefs = [link["href"] for document in documents.values() for link in document["links"]]
    hrefs += [asset["href"] for document in documents.values() for asset in document["assets"].values()]
    assert [href for href in hrefs if not href.startswith(("./", "../"))] == []
    for item in items.values():
        for name, asset in item.assets.items():
            if name == "card":  # says what made the model: it may change where the maps do not
                assert asset.href == "../models/model.json"
                continue
            path = Path(asset.get_absolute_href())
            assert asset.extra_fields["file:checksum"] == "1220" + sha256(path)
            assert asset.extra_fields["file:size"] == path.stat().st_size
    item = items[mapped.obs_id]
    assert item.datetime is None
    assert item.properties["start_datetime"] == "2023-02-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2023-02-28T23:59:59Z"
    assert item.properties["proj:code"] == CRS
    assert item.properties["proj:shape"] == [301, 150]
    model = item.get_single_link("derived_from").resolve_stac_object().target
    assert model.properties["mlm:architecture"] == SPEC.title
    provenance = {"model_sha256": "3" * 64, "label_fingerprint": "1" * 64}
    for found in items.values():
        assert {name: found.properties[f"sandwatch:{name}"] for name in provenance} == provenance
    assert item.properties["sandwatch:scene_sha256"] == {row["product"]: row["sha256"] for row in mapped.site[1]}
    # The MLM extension demands that the bands of the model's input are described.
    assert [band["name"] for band in documents["model.json"]["assets"]["weights"]["eo:bands"]] == list(BANDS)
    assert shapely.geometry.shape(item.geometry).equals(mapped.site[3])


SCHEMAS = Path(os.environ.get("SANDWATCH_STAC_SCHEMAS", Path(__file__).parents[3] / "shared" / "stac-schemas"))
"""The published schemas of STAC's extensions, as <name>/v<version>/schema.json; no installed package ships them."""


@pytest.fixture(scope="module")
def published():
    """A validator that knows the core's schemas, those in SCHEMAS, and no network."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no published schemas of STAC extensions in {SCHEMAS}; SANDWATCH_STAC_SCHEMAS may name another")
    validator = JsonSchemaSTACValidator()
    for path in SCHEMAS.glob("*/v*/schema.json"):
        uri = f"https://stac-extensions.github.io/{path.relative_to(SCHEMAS).as_posix()}"
        validator.schema_cache[uri] = json.loads(path.read_text())
    projjson = Path(pyproj.datadir.get_data_dir()) / "projjson.schema.json"
    validator.schema_cache[json.loads(projjson.read_text())["$id"]] = json.loads(projjson.read_text())
    return validator


def extensions(document, validator):
    kind = pystac.STACObjectType.ITEM
    return [validator.validate_extension(document, kind, "1.1.0", uri) for uri in document["stac_extensions"]]


def test_items_fulfil_the_published_schemas_of_their_extensions(mapped, published):
    done = [
        uri.split("/")[-3]
        for path in (mapped.predictions / "model.json", mapped.predictions / mapped.obs_id / "item.json")
        for uri in extensions(json.loads(path.read_text()), published)
    ]
    assert sorted(done) == ["eo", "file", "file", "mlm", "processing", "projection", "raster"]


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("model.json", ("properties", "mlm:architecture"), 5),
        ("model.json", ("properties", "mlm:tasks"), ["guessing"]),
        ("model.json", ("properties", "mlm:input", 0, "input", "shape"), "wide"),
        ("model.json", ("assets", "weights", "eo:bands", 0, "center_wavelength"), "green"),
        ("item.json", ("assets", "score", "file:checksum"), "none"),
        ("item.json", ("assets", "score", "file:size"), "big"),
        ("item.json", ("assets", "score", "raster:scale"), "small"),
        ("item.json", ("properties", "processing:lineage"), 3),
        ("item.json", ("properties", "proj:code"), 32644),
        ("item.json", ("properties", "proj:shape"), [1]),
    ],
)
def test_the_published_schemas_refuse_a_fault(mapped, published, name, keys, value):
    path = mapped.predictions / (name if name == "model.json" else f"{mapped.obs_id}/{name}")
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    of = next(str(key) for key in reversed(keys) if ":" in str(key)).split(":")[0]
    extension = {"proj": "projection"}.get(of, of)
    with pytest.raises(pystac.STACValidationError, match=f"schema at https://stac-extensions.github.io/{extension}/"):
        extensions(document, published)


def test_a_raster_that_is_not_the_one_that_was_exported_is_not_mapped(tmp_path, weights):
    site = make_site(tmp_path / "scenes", months=("2023-02-01", "2023-03-01"))
    aoi, manifest = tables(site)
    shutil.copy(tmp_path / "scenes/kanhan_2023-02-01/s2.tif", tmp_path / "s2.tif")
    raster.write_cog(
        tmp_path / "scenes/kanhan_2023-03-01/s2.tif",
        raster.read(tmp_path / "s2.tif", bands=BANDS[:3]) + np.uint16(1),
        site[2],
        bands=BANDS[:3],
        nodata=0,
    )
    said = (
        r"observation kanhan_2023-03-01, .*s2.tif: got SHA-256 .{64}; expected SHA-256 .{64}, .*; .* dvc checkout exp"
    )
    with pytest.raises(InputError, match=said):
        infer(aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")
    assert not list((tmp_path / "p" / "kanhan_2023-03-01").glob("*"))


def test_the_region_drawn_in_parts_is_the_region_drawn_whole(tmp_path):
    _, _, grid, place = make_site(tmp_path)
    region = Region(place, grid)
    whole = region[0:301, 0:150]
    np.testing.assert_array_equal(np.concatenate([region[row : row + 7, 0:150] for row in range(0, 301, 7)]), whole)
    assert whole[0, 60] and not whole[0, 2] and whole[280, 20] and not whole[280, 147]  # noqa: PT018


def test_memory_stays_below_the_scene(tmp_path):
    _, rows, grid, place = make_site(tmp_path, width=200, height=8_000)
    rasters = exported(pd.DataFrame(rows), tmp_path)["kanhan_2023-02-01"]
    scene = Scene(
        obs_id="kanhan_2023-02-01", site_id="kanhan", river="Kanhan", district="Nagpur", date="2023-02-01", grid=grid,
        aoi=place, rasters=rasters, imagery="real",
    )  # fmt: skip
    tracemalloc.start()
    try:
        map_scene(scene, Pointwise(), tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.3 * 4 * 200 * 8_000 * 2


def test_what_was_not_exported_is_named(tmp_path, weights, capsys):
    site = make_site(tmp_path / "scenes", months=("2023-02-01", "2023-03-01", "2023-04-01"))
    site[1][3].update(status="skipped", detail="covers 0.41 of its AOI", path=None, sha256=None)
    aoi, manifest = tables((site[0], site[1][:5]))
    infer(aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")
    said = capsys.readouterr().out
    assert "kanhan_2023-03-01: not mapped: s1 skipped: covers 0.41 of its AOI" in said
    assert "kanhan_2023-04-01: not mapped: s1 was not asked for" in said
    assert [path.name for path in (tmp_path / "p").iterdir() if path.is_dir()] == ["kanhan_2023-02-01"]


def test_a_model_that_learnt_to_do_without_radar_maps_a_scene_that_has_none(tmp_path, weights, capsys):
    """Its own gap in the radar is no gap then, and the other scene's map is as it was."""
    site = make_site(tmp_path / "scenes", months=("2023-02-01", "2023-03-01"))
    aoi, manifest = tables(site)
    scorer = Pointwise()
    scorer.spec = SPEC.model_copy(update={"without": ("VV",)})
    gone = (manifest["obs_id"] == "kanhan_2023-03-01") & (manifest["product"] == "s1")
    manifest.loc[gone, ["status", "detail"]] = ["skipped", "no image"]
    infer(aoi, manifest, tmp_path / "scenes", scorer, SETTINGS, weights=weights, predictions=tmp_path / "out")
    with_radar, without = (
        rasterio.open(tmp_path / "out" / f"kanhan_{month}" / "score.tif").read(1)
        for month in ("2023-02-01", "2023-03-01")
    )
    np.testing.assert_array_equal(with_radar, without)  # this model looks at no radar
    assert (with_radar[:, 30:33] != 65535).any()
    item = json.loads((tmp_path / "out/kanhan_2023-03-01/item.json").read_text())
    assert set(item["properties"]["sandwatch:scene_sha256"]) == {"s2"}
    infer(aoi, manifest, tmp_path / "scenes", Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "refused")
    assert "kanhan_2023-03-01: not mapped: s1 skipped: no image" in capsys.readouterr().out
    assert not (tmp_path / "refused/kanhan_2023-03-01").exists()


def test_refuses_when_there_is_nothing_to_map(tmp_path, weights):
    aoi, manifest = tables(make_site(tmp_path, role="label"))
    with pytest.raises(
        InputError, match=r"scenes to map: got none exported among 0 observations of 0 sites; .*sites.csv"
    ):
        infer(aoi, manifest, tmp_path, Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")


def test_refuses_a_scene_without_a_band_of_the_model(tmp_path, weights):
    site = make_site(tmp_path)
    site[1][0]["bands"] = "B2,B3"
    aoi, manifest = tables(site)
    with pytest.raises(InputError, match=r"scene kanhan_2023-02-01, s2: got bands B2, B3; expected B8 among them"):
        infer(aoi, manifest, tmp_path, Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")


def test_refuses_a_scene_on_another_grid(tmp_path, weights):
    site = make_site(tmp_path)
    site[0]["left_m"] += 10
    aoi, manifest = tables(site)
    with pytest.raises(InputError, match=r"s2.tif: got Grid.*left=500000.0.*expected Grid.*left=500010.0"):
        infer(aoi, manifest, tmp_path, Pointwise(), SETTINGS, weights=weights, predictions=tmp_path / "p")
    assert not list((tmp_path / "p").rglob("*.tif"))


def test_refuses_an_overlap_as_wide_as_a_window_and_leaves_nothing_behind(tmp_path, weights):
    aoi, manifest = tables(make_site(tmp_path / "scenes"))
    wide = Pointwise()
    wide.spec = SPEC.model_copy(update={"overlap_px": 32})
    with pytest.raises(InputError, match=r"scoring.overlap_px: got 32; expected 0 to 31"):
        infer(aoi, manifest, tmp_path / "scenes", wide, SETTINGS, weights=weights, predictions=tmp_path / "p")
    assert [path for path in (tmp_path / "p").rglob("*") if path.is_file()] == []


def test_a_stored_score_reads_back_as_a_probability(mapped):
    expected, scored = expected_scores(mapped)
    score = read_score(mapped.predictions / mapped.obs_id / "score.tif")
    assert score.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(score), ~scored)
    np.testing.assert_allclose(score[scored], expected[scored] / 10_000, atol=1.1e-4)
