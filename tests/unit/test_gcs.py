"""Objects arrive whole and as they were meant, whatever the service does; the real client talks to the emulator."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandwatch import gcs
from sandwatch.errors import InputError

from ..servers.gcs import Gcs, serve_gcs

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def running() -> Iterator[Gcs]:
    with serve_gcs("sandbar") as server:
        yield server


@pytest.fixture
def server(running: Gcs, monkeypatch: pytest.MonkeyPatch) -> Gcs:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SANDWATCH_WAIT_FACTOR", "0.001")
    gcs._client.cache_clear()
    running.faults.pending.clear()
    for blob in running.client().list_blobs("sandbar"):
        blob.delete()
    running.requests.clear()
    return running


def write(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "here.bin"
    path.write_bytes(content)
    return path


def test_what_was_uploaded_comes_back(server: Gcs, tmp_path: Path) -> None:
    thing = gcs.upload(write(tmp_path), "gs://sandbar/a/ü b.bin")
    assert (thing.size, thing.crc32c) == (len(CONTENT), gcs.crc32c(tmp_path / "here.bin"))
    gcs.download(thing, tmp_path / "new" / "back.bin")
    assert (tmp_path / "new" / "back.bin").read_bytes() == CONTENT
    assert gcs.stat("gs://sandbar/a/ü b.bin") == thing
    assert gcs.list_objects("gs://sandbar/a/") == [thing]
    assert gcs.list_objects("gs://sandbar/b") == []
    assert gcs.stat("gs://sandbar/none") is None


def test_the_same_bytes_are_not_uploaded_twice(server: Gcs, tmp_path: Path) -> None:
    first = gcs.upload(write(tmp_path), "gs://sandbar/a")
    server.requests.clear()
    assert gcs.upload(tmp_path / "here.bin", "gs://sandbar/a") == first
    assert not any(request.startswith("POST") for request in server.requests)
    assert gcs.upload(write(tmp_path, b"other"), "gs://sandbar/a").generation != first.generation


@pytest.mark.parametrize("kind", ["cut", "lost", "status"])
@pytest.mark.parametrize("place", ["GET /download/*", "POST /upload/*", "GET /storage/*/o*"])
def test_a_fault_changes_nothing(server: Gcs, tmp_path: Path, place: str, kind: str) -> None:
    server.faults.add(place, kind, times=2, status=503)  # type: ignore[arg-type]
    thing = gcs.upload(write(tmp_path), "gs://sandbar/a")
    gcs.download(thing, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == CONTENT
    assert server.faults.pending == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.bin", "here.bin"]


def test_a_service_that_stays_away_is_one_line_and_leaves_nothing(server: Gcs, tmp_path: Path) -> None:
    thing = gcs.upload(write(tmp_path), "gs://sandbar/a")
    server.faults.add("GET /download/*", "status", times=8, status=429, message="Slow down.")
    with pytest.raises(InputError, match=r"gs://sandbar/a: got TooManyRequests: .*, 8 times over; expected an answer"):
        gcs.download(thing, tmp_path / "back.bin")
    assert not (tmp_path / "back.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here.bin"]
    gcs.download(thing, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("cut", 0, r"got \w+: .*, 8 times over; expected an answer"),
        ("lost", 0, r"got \w+: .*, 8 times over; expected an answer"),
        ("status", 503, r"got ServiceUnavailable: .*, 8 times over; expected an answer"),
        ("status", 403, r"got no permission \("),
        ("status", 400, r"got BadRequest: .*; expected a request that it accepts"),
        ("status", 410, r"got \w+: 410 PUT .*; expected a request that it accepts"),
    ],
)
def test_an_upload_that_fails_half_way_is_one_line_without_its_key(
    server: Gcs, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any, status: int, message: str
) -> None:
    """Whoever has the id of a resumable upload may write to it, without any credentials."""
    server.faults.add("PUT /upload/*", kind, times=100, status=status)
    with pytest.raises(InputError, match=rf"^gs://sandbar/a: {message}") as caught:
        gcs.upload(write(tmp_path, bytes(9 << 20)), "gs://sandbar/a")  # the client sends more than 8 MiB in parts
    assert any(request.startswith("PUT /upload/") for request in server.requests)
    logged = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.levelno >= logging.INFO]
    assert not [text for text in (str(caught.value), *logged) if "upload_id" in text]
    assert kind != "status" or f"{server.url}/upload/storage/v1/b/sandbar/o" in str(caught.value)


def test_no_permission_is_one_line_at_once(server: Gcs) -> None:
    server.faults.add("GET /storage/*/o/a", "status", status=403, message="no storage.objects.get")
    with pytest.raises(InputError, match=r"gs://sandbar/a: got no permission \(.*no storage.objects.get"):
        gcs.stat("gs://sandbar/a")
    assert [request for request in server.requests if request.endswith("/o/a")] == ["GET /storage/v1/b/sandbar/o/a"]


def test_an_object_replaced_since_is_refused(server: Gcs, tmp_path: Path) -> None:
    first = gcs.upload(write(tmp_path), "gs://sandbar/a")
    gcs.upload(write(tmp_path, b"other"), "gs://sandbar/a")
    with pytest.raises(InputError, match="gs://sandbar/a: got nothing there"):
        gcs.download(first, tmp_path / "back.bin")
    assert not (tmp_path / "back.bin").exists()


def test_other_bytes_than_announced_are_refused(server: Gcs, tmp_path: Path) -> None:
    thing = gcs.upload(write(tmp_path), "gs://sandbar/a")
    forged = gcs.Object(uri=thing.uri, generation=thing.generation, crc32c="AAAAAA==", size=thing.size)
    with pytest.raises(InputError, match=r"got bytes with CRC32C .*; expected CRC32C AAAAAA=="):
        gcs.download(forged, tmp_path / "back.bin")
    assert not (tmp_path / "back.bin").exists()


def test_an_unknown_bucket_is_one_line(server: Gcs) -> None:
    with pytest.raises(InputError, match="gs://nowhere/a: got nothing there"):
        gcs.list_objects("gs://nowhere/a")


@pytest.mark.parametrize("uri", ["s3://b/a", "gs://", "gs://b", "gs:///a", "b/a"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="expected gs://bucket/name"):
        gcs.split(uri)
