"""Predictions as a static STAC collection: an item a scene, an item for the model, relative links, nothing of the run.

Sources: STAC 1.1.0; extensions projection 2.0.0, file 2.1.0, raster 2.0.0, processing 1.2.0, eo 1.1.0,
MLM 1.4.0.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandwatch import origin
from sandwatch.files import sha256, write_json
from sandwatch.model import scoring
from sandwatch.origin import SYNTHETIC

if TYPE_CHECKING:
    import pystac

    from sandwatch.infer import Scene
    from sandwatch.model.card import Spec

COLLECTION_ID = "sandwatch-predictions"
KEYWORDS = ("sand mines", "rivers")
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
"""Where a model's bands are described: MLM 1.4.0 takes STAC 1.1's own ``bands`` only where STAC 1.1 forbids them."""
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
ALWAYS = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
"""The interval of a model that is not bound to a time. Source: MLM extension, best practices."""
MULTIHASH_SHA256 = "1220"
"""Prefix of a SHA-256 as a multihash, which file:checksum holds: code 0x12, length 0x20."""


def scene_item(scene: Scene, spec: Spec, folder: Path, detections: int) -> pystac.Item:
    """The item of a mapped scene; its datetime is the interval of the scene's month.

    Args:
        scene: what was mapped.
        spec: of the model.
        folder: with ``score.tif``, ``mask.tif`` and ``detections.parquet``.
        detections: how many.
    """
    import pystac
    import shapely
    from pystac.extensions.projection import ProjectionExtension

    said = origin.words(imagery=scene.imagery, **_learnt_from(spec))
    year, month, _ = (int(part) for part in scene.date.split("-"))
    item = pystac.Item(
        scene.obs_id,
        geometry=shapely.geometry.mapping(scene.aoi),
        bbox=list(scene.aoi.bounds),
        datetime=None,
        start_datetime=datetime(year, month, 1, tzinfo=UTC),
        end_datetime=datetime(year, month, calendar.monthrange(year, month)[1], 23, 59, 59, tzinfo=UTC),
        properties={
            **_titled(f"Sand mines on the {scene.river}, {scene.district}, {scene.date[:7]}", said),
            "processing:lineage": "Sentinel composite of a month, scored by a segmentation model in blended windows",
            "sandwatch:site_id": scene.site_id,
            "sandwatch:detections": detections,
            "sandwatch:threshold": spec.threshold,
            **_provenance(spec),
            "sandwatch:imagery": scene.imagery,
            "sandwatch:scene_sha256": scene.sha256,
        },
    )
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=scene.grid.crs, shape=list(scene.grid.shape), transform=list(scene.grid.transform)[:6]
    )
    item.stac_extensions += [RASTER, PROCESSING]
    cog, parquet = pystac.MediaType.COG, "application/vnd.apache.parquet"
    score = {"data_type": "uint16", "nodata": scoring.NODATA, "raster:scale": 1 / scoring.STEPS, "raster:offset": 0.0}
    mask = {"data_type": "uint8", "nodata": 255}
    _attach(item, "score", folder / "score.tif", "Probability of a mine", cog, "data", score)
    _attach(item, "mask", folder / "mask.tif", "Mine (1) or not (0)", cog, "data", mask)
    _attach(item, "detections", folder / "detections.parquet", "Polygons of mines", parquet, "data", {})
    return item


def _provenance(spec: Spec) -> dict[str, str]:
    """What leads from an item to the revision that made it."""
    return {f"sandwatch:{name}": value for name, value in spec.said.items()}


def _learnt_from(spec: Spec) -> dict[str, str]:
    return {"model_imagery": spec.imagery, "model_labels": spec.labels}


def _titled(title: str, said: str | None) -> dict[str, Any]:
    """Title and keywords of something, whose title says first what of it is invented."""
    return {"title": origin.marked(title, said), "keywords": [*KEYWORDS, *([SYNTHETIC] if said else [])]}


def write(items: Sequence[pystac.Item], spec: Spec, weights: Path, predictions: Path) -> None:
    """Writes ``collection.json``, ``model.json`` and each item's ``<id>/item.json``, with relative links.

    Args:
        items: of :func:`scene_item`, at least one.
        spec: of the model that made them.
        weights: of the model.
        predictions: where to write.
    """
    import pystac

    boxes = [item.bbox for item in items if item.bbox]
    starts, ends = ([item.properties[key] for item in items] for key in ("start_datetime", "end_datetime"))
    interval = [datetime.fromisoformat(text) for text in (min(starts), max(ends))]
    west, south, east, north = zip(*boxes, strict=True)
    imagery = origin.kind_of(item.properties["sandwatch:imagery"] for item in items)
    said = origin.words(imagery=imagery, **_learnt_from(spec))
    description = "Score maps, masks and polygons of sand mines on rivers, from monthly composites, by sandwatch."
    collection = pystac.Collection(
        COLLECTION_ID,
        **_titled("Sand mines on rivers", said),
        description=origin.marked(description, said),
        extent=pystac.Extent(
            pystac.SpatialExtent([[min(west), min(south), max(east), max(north)]]),
            pystac.TemporalExtent([interval]),
        ),
        license="other",
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    collection.add_asset(
        "detections",
        pystac.Asset(
            "./detections.parquet",
            "Polygons of mines of all items",
            media_type="application/vnd.apache.parquet",
            roles=["data"],
        ),
    )
    model = _model_item(spec, weights)
    homes: dict[pystac.STACObject, str] = {collection: "collection.json", model: "model.json"}
    homes |= {item: f"{item.id}/item.json" for item in items}
    collection.add_items([model, *items])
    for thing, home in homes.items():
        thing.set_self_href(str(predictions.absolute() / home))
    for item in items:
        item.add_link(pystac.Link("derived_from", "../model.json", pystac.MediaType.GEOJSON, "The model"))
    collection.make_all_asset_hrefs_relative()
    for thing, home in homes.items():
        write_json(predictions / home, thing.to_dict(include_self_link=False))


def files(items: Sequence[pystac.Item]) -> dict[str, str | None]:
    """What lies beside the collection after :func:`write`, as :func:`sandwatch.files.exactly` takes it."""
    told: dict[str, str | None] = dict.fromkeys(("collection.json", "model.json", "detections.parquet"))
    for item in items:
        told[f"{item.id}/item.json"] = None
        for asset in item.assets.values():
            told[f"{item.id}/{Path(asset.href).name}"] = asset.extra_fields["file:checksum"].removeprefix(
                MULTIHASH_SHA256
            )
    return told


def _attach(
    item: pystac.Item, key: str, path: Path, title: str, media_type: str, role: str, fields: dict[str, Any]
) -> None:
    """Adds a file as an asset with its size and hash."""
    import pystac
    from pystac.extensions.file import FileExtension

    asset = pystac.Asset(str(path.absolute()), title, media_type=media_type, roles=[role], extra_fields=fields)
    item.add_asset(key, asset)
    FileExtension.ext(asset, add_if_missing=True).apply(
        size=path.stat().st_size, checksum=MULTIHASH_SHA256 + sha256(path)
    )


def _model_item(spec: Spec, weights: Path) -> pystac.Item:
    """The model in terms of the MLM extension."""
    import pystac
    from pystac.extensions.mlm import (
        AssetGeneralMLMExtension,
        InputStructure,
        MLMExtension,
        ModelInput,
        ModelOutput,
        ResultStructure,
        TaskType,
    )
    from pystac.extensions.raster import DataType

    item = pystac.Item(
        f"model-{spec.weights_sha256[:12]}",
        geometry=None,
        bbox=None,
        datetime=None,
        start_datetime=ALWAYS[0],
        end_datetime=ALWAYS[1],
        properties={
            **_titled(f"{spec.title}, {spec.method}", origin.words(**_learnt_from(spec))),
            **_provenance(spec),
        },
    )
    task = [TaskType.SEMANTIC_SEGMENTATION]
    window = [spec.size_px, spec.size_px]
    pixels = InputStructure.create(
        [-1, len(spec.bands), *window], ["batch", "bands", "height", "width"], DataType.FLOAT32
    )
    scores = ResultStructure.create([-1, *window], ["batch", "height", "width"], DataType.FLOAT32)
    MLMExtension.ext(item, add_if_missing=True).apply(
        name="sandwatch",
        architecture=spec.title,
        tasks=task,
        framework="PyTorch",
        input=[ModelInput.create("normalised pixels", list(spec.bands), pixels)],
        output=[ModelOutput.create("calibrated probability of a mine", task, scores)],
    )
    bands = [{"name": band} for band in spec.bands]
    item.stac_extensions.append(EO)
    _attach(item, "weights", weights, "Weights", "application/octet-stream", "mlm:model", {"eo:bands": bands})
    AssetGeneralMLMExtension.ext(item.assets["weights"]).apply(artifact_type="safetensors")
    # The card says what made the model, which the maps don't depend on: it is linked, not hashed.
    card = str(weights.absolute().with_name("model.json"))
    item.add_asset("card", pystac.Asset(card, "Model card", media_type=pystac.MediaType.JSON, roles=["metadata"]))
    return item
