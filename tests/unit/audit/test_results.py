"""Detections and STAC items found on a disk: what they say of themselves leads to the labels, or breaks."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from sandwatch import schemas
from sandwatch.audit.chain import take
from sandwatch.audit.forward import audit
from sandwatch.audit.record import Audit
from sandwatch.errors import InputError
from sandwatch.model.card import Card
from tests.audit_history import Made
from tests.servers.listener import Listener
from tests.unit.test_raster import VRT

OBS_ID = "site00000_2021-03-01"


@pytest.fixture(scope="module")
def card(made: Made) -> Card:
    found = audit("main", where=made.root, offline=True).card
    assert found is not None
    return found


def provenance(card: Card) -> dict[str, str]:
    return {
        "model_sha256": card.weights_sha256,
        "label_fingerprint": card.label_fingerprint,
        "model_imagery": card.imagery,
        "model_labels": card.labels,
    }


def write_detections(path: Path, card: Card, *obs_ids: str, **other: Any) -> Path:
    filler = obs_ids or (OBS_ID,)  # so that the types are known where there is no row
    rows = pd.DataFrame(
        [
            {
                "detection_id": f"{obs_id}/00001", "obs_id": obs_id, "site_id": obs_id[:-11], "river": "R",
                "date": "2021-03-01", "score_mean": 0.5, "score_max": 0.9, "area_m2": 5000.0, **provenance(card),
                "imagery": "synthetic", "scene_sha256": json.dumps({"s2": "a" * 64}), **other,
            }
            for obs_id in filler
        ]
    )  # fmt: skip
    shapes = [shapely.box(0, 0, 1, 1)] * len(rows)
    table = gpd.GeoDataFrame(rows, geometry=shapes, crs="EPSG:4326").iloc[: len(obs_ids)]
    schemas.Detections.write(table, path)
    return path


def write_item(path: Path, card: Card, **other: Any) -> Path:
    said = provenance(card) | {
        "threshold": card.threshold, "imagery": "synthetic", "scene_sha256": {"s2": "a" * 64},
    } | other  # fmt: skip
    properties = {f"sandwatch:{name}": value for name, value in said.items() if value is not None}
    path.write_text(json.dumps({"type": "Feature", "id": OBS_ID, "properties": properties}))
    return path


def result(found: Audit) -> tuple[str, str]:
    link = next(link for link in found.links if link.name == "result")
    return link.state, link.detail


def test_what_a_result_says_of_itself(card: Card, tmp_path: Path) -> None:
    hand = take(str(write_detections(tmp_path / "d.parquet", card, OBS_ID, "b_2021-04-01")), None, None)
    assert hand.result is not None
    assert hand.weights_sha256 == card.weights_sha256
    assert hand.result.claims == {n: v for n, v in provenance(card).items() if n != "model_sha256"}
    assert hand.result.scenes == {OBS_ID: {"s2": "a" * 64}, "b_2021-04-01": {"s2": "a" * 64}}
    assert hand.result.imagery == {OBS_ID: "synthetic", "b_2021-04-01": "synthetic"}
    hand = take(str(write_item(tmp_path / "item.json", card)), None, None)
    assert hand.result is not None
    assert hand.weights_sha256 == card.weights_sha256
    assert hand.result.claims["threshold"] == "0.5"
    assert hand.result.scenes == {OBS_ID: {"s2": "a" * 64}}
    assert hand.result.imagery == {OBS_ID: "synthetic"}


@pytest.mark.parametrize("kind", ["detections", "item"])
def test_it_leads_to_the_labels(made: Made, card: Card, tmp_path: Path, kind: str) -> None:
    """This history has no predictions: that one of its revisions holds the very file can't be told."""
    path = (
        write_item(tmp_path / "x.json", card)
        if kind == "item"
        else write_detections(tmp_path / "x.parquet", card, OBS_ID)
    )
    found = audit(str(path), where=made.root, offline=True)
    assert not found.broken
    assert result(found)[0] == "unverified"
    assert found.labels is not None
    assert len(found.labels) == 300


@pytest.mark.parametrize("name", ["label_fingerprint", "model_imagery", "model_labels", "threshold"])
def test_it_says_another_than_the_model(made: Made, card: Card, tmp_path: Path, name: str) -> None:
    other: dict[str, Any] = {name: {"label_fingerprint": "0" * 64, "threshold": 0.25}.get(name, "real")}
    paths = [write_item(tmp_path / "x.json", card, **other)]
    paths.append(write_item(tmp_path / "y.json", card, **{name: None}))
    if name != "threshold":
        paths.append(write_detections(tmp_path / "x.parquet", card, OBS_ID, **other))
    for path in paths:
        state, detail = result(audit(str(path), where=made.root, offline=True))
        assert state == "broken"
        assert detail.startswith(f"it says {name} ")


def test_a_model_that_no_revision_holds(made: Made, card: Card, tmp_path: Path) -> None:
    path = write_item(tmp_path / "x.json", card, model_sha256="f" * 64)
    found = audit(str(path), where=made.root, offline=True)
    assert found.labels is None
    assert found.verdict.startswith("CAN'T BE SEEN FROM HERE: revision")


def test_a_raster_that_names_a_server_is_refused_unasked(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "x.tif"
    path.write_text(VRT.format(url=listener.url))
    with pytest.raises(InputError, match=r"x.tif: got .*not recognized.*; expected a GeoTIFF"):
        take(str(path), None, None)
    assert listener.heard() == []


def test_what_is_no_result(card: Card, tmp_path: Path) -> None:
    fix = r"; name a score\.tif, mask\.tif, detections\.parquet or item\.json"
    with pytest.raises(InputError, match=rf"got rows of 0 models.*{fix}"):
        take(str(write_detections(tmp_path / "none.parquet", card)), None, None)
    two = write_detections(tmp_path / "two.parquet", card, OBS_ID, "b_2021-04-01")
    table = schemas.Detections.read(two)
    table.loc[0, "model_sha256"] = "0" * 64
    schemas.Detections.write(table, two)
    with pytest.raises(InputError, match=rf"got rows of 2 models{'.*'}{fix}"):
        take(str(two), None, None)
    pd.DataFrame({"obs_id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=rf"expected the columns obs_id, model_sha256.*{fix}"):
        take(str(tmp_path / "other.parquet"), None, None)
    (tmp_path / "torn.parquet").write_bytes(two.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"expected the columns.*{fix}"):
        take(str(tmp_path / "torn.parquet"), None, None)
    bad = write_detections(tmp_path / "bad.parquet", card, OBS_ID, scene_sha256="[1]")
    with pytest.raises(InputError, match=rf"expected the columns.*{fix}"):
        take(str(bad), None, None)
    (tmp_path / "item.json").write_text('{"type": "Feature", "properties": {}}')
    with pytest.raises(InputError, match=rf"got a STAC item; expected the property sandwatch:model_sha256{fix}"):
        take(str(tmp_path / "item.json"), None, None)
    for text in ("{", "[]", '{"type": "Topology"}'):
        (tmp_path / "item.json").write_text(text)
        with pytest.raises(InputError, match="expected a model card"):
            take(str(tmp_path / "item.json"), None, None)
