"""Pictures pushed, windows suggested: the real SDK and the real storage client against loopback, every fault once."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from shapely.geometry import MultiPolygon, Polygon, box
from typer.testing import CliRunner

from sandwatch import cli_labelbox, gcs, labelbox_push, labelbox_suggest, raster, schemas
from sandwatch.annotations import labelbox
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Grid, Window
from sandwatch.infer import SCORE_BAND
from sandwatch.labelbox_push import Pushed
from sandwatch.model.scoring import NODATA

from ..servers.gcs import Gcs, serve_gcs
from ..servers.labelbox import SECRET_IN_LINKS, Labelbox, Project, serve_labelbox
from .conftest import ROOT, matrix
from .test_labelbox import KEY, PROJECT, section

OBS = ("east_2023-01-01", "west_2023-01-01", "west_2023-02-01")
GRID = Grid(crs="EPSG:32644", left=700_000.0, top=2_400_000.0, width=30, height=20)
PUSH_PLACES = (
    "getDataRowsForGlobalKeysPyApi",
    "getDataRowsForGlobalKeysResultPyApi",
    "GetOrganizationPyApi",
    "getAllIntegrationsPyApi",
    "GetDatasetsPyApi",
    "CreateDatasetPyApi",
    "GetMetadataOntologyBetaPyApi",
    "UploadFile",
    "UpsertDataRowsPyApi",
    "GetUserPyApi",
    "GetUserCreatedTasksPyApi",
    "FailedDataRowImportsPyApi",
)
QUEUE_PLACES = (
    "GetProjectPyApi",
    "GetProjectOntologyPyApi",
    "getDataRowsForGlobalKeysPyApi",
    "GetProjectBatchesPyApi",
    "CheckAllDataRowsHaveBeenProcessedPyApi",
    "createBatchV2PyApi",
    "getModelAssistedLabelingPredictionImportPyApi",
    "createMALPredictionImportByFilePyApi",
    "file",
)


@pytest.fixture(scope="module")
def storage() -> Iterator[Gcs]:
    with serve_gcs("pictures") as running:
        yield running


@pytest.fixture
def bucket(storage: Gcs, monkeypatch: pytest.MonkeyPatch) -> Gcs:
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    gcs._client.cache_clear()
    for blob in storage.client().list_blobs("pictures"):
        blob.delete()
    storage.requests.clear()
    return storage


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Labelbox]:
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0")
    monkeypatch.setattr(labelbox, "TIMEOUT_S", 120.0)  # of waits that take no time here; hundreds of polls would
    with serve_labelbox(Project(id=PROJECT), api_key=KEY) as running:
        running.integrations += [{"id": "clother", "name": "other"}, {"id": "clgcp", "name": "our bucket"}]
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
    shown = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [line for line in shown if KEY in line or SECRET_IN_LINKS in line]


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[pd.DataFrame, Path]:
    """Three pictures, and one that was skipped."""
    rows = []
    for number, obs_id in enumerate((*OBS, "west_2023-03-01")):
        pixels = np.arange(3 * 20 * 30, dtype=np.int64).reshape(3, 20, 30) % 250 + number
        skipped = number == 3
        if not skipped:
            raster.write_cog(
                tmp_path / obs_id / "rgb.tif",
                pixels.astype(np.uint8),
                GRID,
                bands=("B4", "B3", "B2"),
                nodata=0,
            )
        site, _, date = obs_id.partition("_")
        rows.append(
            {
                "obs_id": obs_id,
                "site_id": site,
                "date": date,
                "product": "rgb",
                "status": "skipped" if skipped else "exported",
                "path": None if skipped else f"{obs_id}/rgb.tif",
                "crs": GRID.crs,
                "transform": "10.0,0.0,700000.0,0.0,-10.0,2400000.0",
                "width_px": 30,
                "height_px": 20,
                "detail": "clouds" if skipped else None,
                "bands": "red,green,blue",
                "dtype": "uint8",
                "nodata": 0.0,
                "valid_fraction": 1.0,
                "source": "synthetic",
                "source_images": "[]",
                "sha256": None if skipped else sha256(tmp_path / obs_id / "rgb.tif"),
            }
        )
    return pd.DataFrame(rows), tmp_path


def pushed(scenes: tuple[pd.DataFrame, Path], **changes: Any) -> Pushed:
    options: dict[str, Any] = {"dataset": "rivers", "links": "iam", "integration": "our bucket", "renew": False}
    return labelbox_push.push(*scenes, "gs://pictures/rgb/", **options | changes)


def test_every_exported_picture_becomes_a_data_row(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]
) -> None:
    assert pushed(scenes) == Pushed(created=OBS, there=(), failed={})
    row = server.data_rows["west_2023-02-01"]
    assert row["external_id"] == "west_2023-02-01"
    assert row["row_data"]["tileLayerUrl"] == "gs://pictures/rgb/west_2023-02-01/rgb.tif"
    (west, south), (east, north) = row["row_data"]["bounds"]
    assert (82.9 < west < east < 83.0, 21.6 < south < north < 21.8) == (True, True)
    values = {field["value"] for field in row["metadata_fields"]}
    assert any(value.startswith("2023-02-01T00:00:00") for value in values)
    assert "SYNTHETIC imagery. west" in values
    (dataset,) = server.datasets.values()
    assert (dataset["name"], dataset["signer"]) == ("rivers", {"id": "clgcp"})
    held = bucket.objects("pictures")
    assert held == {f"rgb/{obs_id}/rgb.tif": (scenes[1] / obs_id / "rgb.tif").read_bytes() for obs_id in OBS}


def test_what_is_there_is_left(server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]) -> None:
    manifest, folder = scenes
    pushed((manifest[manifest["obs_id"] == OBS[1]], folder))
    assert pushed(scenes) == Pushed(created=(OBS[0], OBS[2]), there=(OBS[1],), failed={})
    assert pushed(scenes) == Pushed(created=(), there=OBS, failed={})
    assert (server.calls["CreateDatasetPyApi"], server.calls["UpsertDataRowsPyApi"]) == (1, 2)


def test_public_addresses(server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]) -> None:
    pushed(scenes, links="public", integration=None)
    url = server.data_rows[OBS[0]]["row_data"]["tileLayerUrl"]
    assert url == f"https://storage.googleapis.com/pictures/rgb/{OBS[0]}/rgb.tif"


def test_signed_addresses_hold_no_key_and_can_be_renewed(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(user_credentials(tmp_path)))
    with pytest.raises(InputError, match="no credentials that can sign addresses; expected a service account's key"):
        pushed(scenes, links="signed", integration=None)
    assert server.data_rows == {}
    key = service_account(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    assert pushed(scenes, links="signed", integration=None).created == OBS
    first = server.data_rows[OBS[0]]
    assert "X-Goog-Signature=" in first["row_data"]["tileLayerUrl"]
    assert "X-Goog-Expires=604800" in first["row_data"]["tileLayerUrl"]
    secrets = (json.loads(key.read_text())["private_key"][40:80], "FAKE-REFRESH-TOKEN", "FAKE-KEY-ID", "access_token")
    assert not [secret for secret in secrets if secret in json.dumps(server.data_rows)]
    assert pushed(scenes, links="signed", integration=None, renew=True) == Pushed(created=OBS, there=(), failed={})
    assert server.data_rows[OBS[0]]["id"] == first["id"]


def test_a_refused_row_is_reported_without_the_signature_of_its_link(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset with an integration takes no signed links, and Labelbox says which it was given."""
    pushed(scenes)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path)))
    failed = pushed(scenes, links="signed", integration=None, renew=True).failed
    assert sorted(failed) == sorted(OBS)
    for obs_id, message in failed.items():
        assert f"tileLayerUrl: got https://storage.googleapis.com/pictures/rgb/{obs_id}/rgb.tif" in message
        assert "X-Goog" not in message


def service_account(folder: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    content = {
        "type": "service_account",
        "project_id": "loopback",
        "private_key_id": "FAKE-KEY-ID",
        "private_key": pem,
        "client_email": "robot@loopback.example.org",
        "token_uri": "http://127.0.0.1:9/token",
    }
    (folder / "key.json").write_text(json.dumps(content))
    return folder / "key.json"


def user_credentials(folder: Path) -> Path:
    content = {
        "type": "authorized_user",
        "client_id": "x",
        "client_secret": "FAKE-CLIENT-SECRET",
        "refresh_token": "FAKE-REFRESH-TOKEN",
    }
    (folder / "user.json").write_text(json.dumps(content))
    return folder / "user.json"


def test_an_unknown_integration_is_one_line(server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]) -> None:
    with pytest.raises(InputError, match="IAM integration: got 'ours'; expected one of 'other', 'our bucket'"):
        pushed(scenes, integration="ours")
    assert bucket.objects("pictures") == {}


def test_a_refused_row_is_reported_and_the_others_are_made(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]
) -> None:
    manifest, folder = scenes
    beyond_the_pole = "1.0,0.0,80.0,0.0,-1.0,120.0"
    changed = manifest["obs_id"] == OBS[1]
    wrong = manifest.assign(
        crs=manifest["crs"].mask(changed, "EPSG:4326"), transform=manifest["transform"].mask(changed, beyond_the_pole)
    )
    result = pushed((wrong, folder))
    assert result.created == (OBS[0], OBS[2])
    assert list(result.failed) == [OBS[1]]
    assert "bounds: got" in result.failed[OBS[1]]
    assert pushed(scenes).created == (OBS[1],)


@pytest.mark.parametrize(("place", "kind"), matrix(PUSH_PLACES, "cut", "lost", 429, 503))
def test_a_push_survives_a_fault(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path], place: str, kind: Any
) -> None:
    """It completes, or stops with one line and completes when run again; nothing is there twice."""
    add(server, place, kind)
    with contextlib.suppress(InputError):
        pushed(scenes)
    assert len(server.faults.struck) == 1
    result = pushed(scenes)
    assert result.failed == {}
    assert sorted({*result.created, *result.there}) == list(OBS)
    assert sorted(server.data_rows) == list(OBS)
    assert len(server.datasets) == 1
    assert all(dataset["signer"] == {"id": "clgcp"} for dataset in server.datasets.values())


def add(server: Labelbox, place: str, kind: Any) -> None:
    if isinstance(kind, int):
        server.faults.add(place, "status", status=kind)
    else:
        server.faults.add(place, kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("fail", "Labelbox, data rows: got status FAILED"), ("hang", "Labelbox, data rows: got still running")],
)
def test_an_upload_that_fails_or_hangs_is_one_line(
    server: Labelbox,
    bucket: Gcs,
    scenes: tuple[pd.DataFrame, Path],
    kind: Literal["fail", "hang"],
    message: str,
) -> None:
    server.faults.add("UpsertDataRowsPyApi", kind)
    with pytest.raises(InputError, match=message):
        pushed(scenes)
    assert pushed(scenes).created == OBS


def test_a_bucket_that_fails_in_passing_changes_nothing(
    server: Labelbox, bucket: Gcs, scenes: tuple[pd.DataFrame, Path]
) -> None:
    bucket.faults.add("POST /upload/*", "status", status=503)
    bucket.faults.add("POST /upload/*", "lost")
    assert pushed(scenes).created == OBS
    assert len(bucket.objects("pictures")) == 3


BIG = Grid(crs="EPSG:32644", left=700_000.0, top=2_400_000.0, width=640, height=320)
SIZE = 32


def write_scores(folder: Path, obs_id: str, patches: dict[tuple[int, int], int], grid: Grid = BIG) -> None:
    """Scores that are sure everywhere but on patches of a window's size: (row, column) -> stored score."""
    scores = np.zeros((1, *grid.shape), dtype=np.uint16)
    scores[:, :, -100:] = NODATA
    for (row, col), value in patches.items():
        scores[0, row : row + SIZE, col : col + SIZE] = value
    raster.write_cog(folder / obs_id / "score.tif", scores, grid, bands=[SCORE_BAND], nodata=NODATA)


def detection(obs_id: str, number: int, geometry: Polygon | MultiPolygon) -> dict[str, Any]:
    return {
        "detection_id": f"{obs_id}_{number}",
        "obs_id": obs_id,
        "site_id": obs_id.partition("_")[0],
        "river": "Ondara",
        "date": obs_id.partition("_")[2],
        "score_mean": 0.5,
        "score_max": 0.6,
        "area_m2": 1000.0,
        "model_sha256": "a" * 64,
        "label_fingerprint": "b" * 64,
        "model_imagery": "real",
        "model_labels": "real",
        "imagery": "real",
        "scene_sha256": "{}",
        "geometry": geometry,
    }


def write_detections(folder: Path, obs_id: str, geometries: list[Any]) -> None:
    drawn = [*geometries, box(0, 0, 1, 1)]  # so that the types are known where there is none
    rows = [detection(obs_id, number, geometry) for number, geometry in enumerate(drawn)]
    table = gpd.GeoDataFrame(rows, geometry="geometry", crs="EPSG:4326").iloc[:-1]
    schemas.Detections.write(table, folder / obs_id / "detections.parquet")


def test_the_least_sure_windows_come_first_one_a_neighbourhood(tmp_path: Path) -> None:
    write_scores(tmp_path, "west_2023-01-01", {(0, 24): 4000, (0, 0): 5000, (0, 320): 3000, (256, 480): 100})
    write_scores(tmp_path, "west_2023-02-01", {(0, 0): 4900})
    write_scores(tmp_path, "west_2023-03-01", {(0, 0): 5000})
    far = Grid(crs="EPSG:32645", left=300_000.0, top=2_400_000.0, width=640, height=320)
    write_scores(tmp_path, "east_2023-01-01", {(96, 96): 5000}, far)
    found = labelbox_suggest.rank(tmp_path, {"west_2023-03-01"}, size_px=SIZE, budget=4)
    assert [(one.obs_id, one.window) for one in found] == [
        ("east_2023-01-01", Window(row=96, col=96, height=SIZE, width=SIZE)),
        ("west_2023-01-01", Window(row=0, col=0, height=SIZE, width=SIZE)),
        ("west_2023-01-01", Window(row=0, col=320, height=SIZE, width=SIZE)),
        ("west_2023-01-01", Window(row=256, col=480, height=SIZE, width=SIZE)),
    ]
    assert [one.uncertainty for one in found[:3]] == [1.0, 1.0, pytest.approx(0.881291)]
    assert labelbox_suggest.rank(tmp_path, {"west_2023-03-01"}, size_px=SIZE, budget=2) == found[:2]


def test_nothing_unlabelled_is_one_line(tmp_path: Path) -> None:
    write_scores(tmp_path, "west_2023-01-01", {(0, 0): 5000})
    with pytest.raises(InputError, match="got no scores of an observation without labels"):
        labelbox_suggest.rank(tmp_path, {"west_2023-01-01"}, size_px=SIZE, budget=1)


BOUNDS = (82.93, 21.65), (82.99, 21.70)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores and polygons of the three pictures."""
    folder = tmp_path_factory.mktemp("predictions")
    x, y = (sum(axis) / 2 for axis in zip(*BOUNDS, strict=True))
    hole = box(x - 4e-4, y - 4e-4, x + 4e-4, y + 4e-4).difference(box(x, y, x + 1e-4, y + 1e-4))
    two = MultiPolygon([box(x, y, x + 1e-4, y + 1e-4), box(x + 2e-4, y, x + 3e-4, y + 1e-4)])
    for obs_id, patch, geometries in zip(
        OBS, ({(0, 0): 5000}, {(0, 320): 4000}, {(0, 96): 3000}), ([hole, two], [], [two]), strict=True
    ):
        write_scores(folder, obs_id, patch)
        write_detections(folder, obs_id, geometries)
    return folder


@pytest.fixture
def predicted(server: Labelbox, predictions: Path, tmp_path: Path) -> Path:
    """The same, and Labelbox has the pictures."""
    dataset = {"id": "cldataset", "name": "rivers", "signer": None}
    server.datasets["cldataset"] = dataset
    for number, obs_id in enumerate(OBS):
        row_data = {
            "tileLayerUrl": f"https://x.example.org/{obs_id}.tif",
            "bounds": [list(corner) for corner in BOUNDS],
        }
        server.data_rows[obs_id] = {"id": f"clrow{number}", "global_key": obs_id, "row_data": row_data}
    return Path(shutil.copytree(predictions, tmp_path / "predictions"))


def queued(folder: Path, budget: int = 2) -> labelbox_suggest.Queued:
    suggestions = labelbox_suggest.rank(folder, {}, size_px=SIZE, budget=budget)
    return labelbox_suggest.queue(section(), suggestions, folder)


def test_suggestions_are_queued_with_the_model_s_polygons(server: Labelbox, predicted: Path) -> None:
    result = queued(predicted)
    project = server.projects[PROJECT]
    assert (result.polygons, result.not_queued, result.failed) == (3, (), {})
    assert project.batches == {result.batch: [OBS[0], OBS[1]]}
    assert {key: len(row) for key, row in project.prelabels.items()} == {OBS[0]: 3}
    (west, _), (east, _) = server.data_rows[OBS[0]]["row_data"]["bounds"]
    first = next(iter(project.prelabels[OBS[0]].values()))
    assert all(west < point["x"] < east for point in first["polygon"])
    assert first["schemaId"] == project.ontology["tools"][0]["featureSchemaId"]
    assert queued(predicted) == result
    assert (len(project.batches), len(project.imports)) == (1, 1)


def test_what_is_queued_already_is_said(server: Labelbox, predicted: Path) -> None:
    queued(predicted, budget=1)
    assert queued(predicted, budget=2).not_queued == (OBS[0],)


def test_a_picture_that_was_not_pushed_is_one_line(server: Labelbox, predicted: Path) -> None:
    del server.data_rows[OBS[1]]
    with pytest.raises(InputError, match=rf"data row {OBS[1]}: got no such row .1 of 2 are missing.*labelbox push"):
        queued(predicted)
    assert server.projects[PROJECT].batches == {}


def test_a_refused_prelabel_is_reported(server: Labelbox, predicted: Path) -> None:
    write_detections(predicted, OBS[1], [box(10, 10, 10.1, 10.1)])
    result = queued(predicted)
    assert list(result.failed.values()) == ["polygon: outside the bounds of its data row"]
    assert result.polygons == 3


@pytest.mark.parametrize(("place", "kind"), matrix(QUEUE_PLACES, "cut", "lost", 429, 503))
def test_a_queue_survives_a_fault(server: Labelbox, predicted: Path, place: str, kind: Any) -> None:
    add(server, place, kind)
    result = queued(predicted)
    assert server.faults.struck[0][0] == place
    project = server.projects[PROJECT]
    assert (result.polygons, result.failed) == (3, {})
    assert project.batches == {result.batch: [OBS[0], OBS[1]]}
    assert len(project.imports) == 1
    assert {key: len(row) for key, row in project.prelabels.items()} == {OBS[0]: 3}


@pytest.mark.parametrize(("kind", "message"), [("fail", "got a failed import"), ("hang", "got still running")])
def test_an_import_that_fails_or_hangs_is_one_line(
    server: Labelbox, predicted: Path, kind: Literal["fail", "hang"], message: str
) -> None:
    server.faults.add("createMALPredictionImportByFilePyApi", kind)
    with pytest.raises(InputError, match=message):
        queued(predicted)
    project = server.projects[PROJECT]
    if kind == "hang":
        next(iter(project.imports.values()))["state"] = "FINISHED"
    assert queued(predicted).polygons == 3
    assert len(project.imports) == 1
    assert server.calls["createMALPredictionImportByFilePyApi"] == (1 if kind == "hang" else 2)


def test_a_slow_import_is_waited_for(server: Labelbox, predicted: Path) -> None:
    server.faults.add("createMALPredictionImportByFilePyApi", "slow")
    assert queued(predicted).polygons == 3


def test_the_server_refuses_malformed_imports(server: Labelbox, predicted: Path) -> None:
    client = labelbox.connect()
    rows = [{"row_data": {"tileLayerUrl": "https://x/y.tif"}, "global_key": "g", "media_type": "TMS_GEO"}]
    home = next(iter(client.get_datasets()))
    task = home.create_data_rows(rows)
    task.wait_till_done()
    assert "expected the keys ['bounds'" in task.errors[0]["message"]
    whole = {"epsg": "EPSG4326", "minZoom": 8, "maxZoom": 18, "version": 2, **server.data_rows[OBS[0]]["row_data"]}
    task = home.create_data_rows([{"row_data": whole, "global_key": OBS[0], "media_type": "TMS_GEO"}])
    assert f"Duplicate global key: {OBS[0]}" in task.errors[0]["message"]


def test_the_commands(
    server: Labelbox,
    predicted: Path,
    scenes: tuple[pd.DataFrame, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    schemas.Scenes.write(scenes[0], work / "data" / "scenes.parquet")
    (work / "data" / "annotations").mkdir()
    schemas.Observations.empty().to_parquet(work / "data" / "annotations" / "observations.parquet")
    (work / "data" / "scenes").symlink_to(scenes[1])
    (work / "data" / "predictions").symlink_to(predicted)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["annotations"]["labelbox_project"] = PROJECT
    values["chips"]["size_px"] = SIZE
    (work / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(work)

    def run(*command: str) -> str:
        done = CliRunner().invoke(cli_labelbox.app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return str(done.output)

    server.data_rows.pop(OBS[2])
    options = ("--links", "iam", "--integration", "our bucket", "--dataset", "rivers")
    assert run("push", "gs://pictures/rgb", *options).endswith("1 made, 2 there before, 0 failed\n")
    assert "1  1.0000  east_2023-01-01  row 0, column 0" in run("suggest", "--budget", "1", "--dry-run")
    assert server.projects[PROJECT].batches == {}
    assert "3 pre-labels, 0 refused; 0 observations were queued before" in run("suggest", "--budget", "1")
    assert list(server.projects[PROJECT].batches.values()) == [[OBS[0]]]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".tif")
    assert KEY.encode() not in written
    assert SECRET_IN_LINKS.encode() not in written
