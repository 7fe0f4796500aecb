"""The whole pipeline through three services on loopback (``make cloud``), and the scan for secrets that ends it."""

import base64
import gzip
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from ..cloud import STAGES, NotProvenError, Run
from ..leaks import leaks

SECRET = "FAKE/KEY+material-58c1e0aa" + "0f3b77d2"
SECRETS = {"the key": SECRET}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Run.servers(tmp_path_factory.mktemp("cloud") / "run") as made:
        made.everything()
        yield made


@pytest.mark.slow
def test_the_whole_pipeline_runs_through_the_clouds(run: Run) -> None:
    assert len(run.proven) == 14
    assert run.labelbox.calls["exportDataRowsInProjectPyApi"] == 1
    assert len(run.engine.started()) == len(set(run.engine.started())) == 22
    assert f"{len(STAGES)} stages done" in " ".join(run.proven)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["api key", "link signature", "imagery token", "access token", "private key"])
@pytest.mark.parametrize("where", ["work", "colleague", "logs", "home", "site"])
def test_a_secret_planted_in_the_run_ends_it(run: Run, name: str, where: str) -> None:
    planted = run.folder / where / "planted.bin"
    planted.write_bytes(b"\x00 " + run.secrets[name].encode() + b"\n")
    try:
        assert run.scan() == [f"{name} in {planted}"]
        with pytest.raises(NotProvenError, match=f"not so: none of 6 secrets .*{name} in "):
            run.check_secrets()
    finally:
        planted.unlink()
    assert run.scan() == []


@pytest.mark.slow
def test_secrets_planted_in_the_bucket_and_in_stored_urls_are_found(run: Run) -> None:
    blob = run.gcs.client().bucket("sand-storage").blob("dvc/planted")
    blob.upload_from_string(gzip.compress(run.secrets["api key"].encode()))
    key, row = next(iter(run.labelbox.data_rows.items()))
    address = row["row_data"]["tileLayerUrl"]
    row["row_data"]["tileLayerUrl"] = f"{address}?access_token={run.secrets['access token']}"
    try:
        found = run.scan()
    finally:
        blob.delete()
        row["row_data"]["tileLayerUrl"] = address
    assert found == [f"access token in data row {key}", "api key in gs://sand-storage/dvc/planted"]


def test_an_incomplete_proof_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.servers(tmp_path / "run") as run:
        with pytest.raises(NotProvenError, match="not so: two is three"):
            run.prove(2 == 3, "two is three")
        with pytest.raises(NotProvenError, match="false ended with status 1"):
            run.call(tmp_path, "false")
        assert run.proven == []
        run.prove(True, "two is two")
    assert run.proven == ["two is two"]
    assert "PROVEN" in capsys.readouterr().out


def in_a_table(path: Path) -> None:
    path.write_bytes(b"")
    pd.DataFrame({"number": range(3), "url": ["a", f"https://x.example/?k={SECRET}", None]}).to_parquet(
        path, compression="zstd"
    )


def in_history(path: Path) -> None:
    """Committed once, and removed since."""
    author = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str) -> None:
        subprocess.run(("git", *words), cwd=path.parent, env={**os.environ, **author}, check=True, capture_output=True)

    git("init", "-q")
    path.write_text(SECRET)
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    path.unlink()
    git("commit", "-q", "-a", "-m", "two")


PLANTS = {
    "as it is": lambda path: path.write_text(f"x{SECRET}y"),
    "in a URL": lambda path: path.write_text(f"https://x.example/?k={quote(SECRET, safe='')}"),
    "in JSON with escapes": lambda path: path.write_text('{"k": "' + SECRET.replace("/", "\\/") + '"}'),
    "in base64": lambda path: path.write_bytes(base64.b64encode(f"key={SECRET}&".encode())),
    "in base64 a byte on": lambda path: path.write_bytes(base64.b64encode(f"keys={SECRET}&".encode())),
    "in base64 two bytes on": lambda path: path.write_bytes(base64.b64encode(f"a key={SECRET}&".encode())),
    "in gzip": lambda path: path.write_bytes(gzip.compress(SECRET.encode())),
    "in a table": in_a_table,
    "in the history of git": in_history,
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_the_scan_finds_a_secret(tmp_path: Path, plant: object) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "planted").mkdir()
    (tmp_path / "clean" / "file").write_text(SECRET[:-1])
    assert callable(plant)
    plant(tmp_path / "planted" / "file")
    assert leaks(SECRETS, [tmp_path / "clean"]) == []
    (found,) = leaks(SECRETS, [tmp_path / "clean", tmp_path / "planted"])
    assert found.startswith("the key in ")
    assert SECRET not in found
    shutil.rmtree(tmp_path / "planted")
    assert leaks(SECRETS, [tmp_path]) == []


def test_the_scan_reads_names_and_what_it_is_given(tmp_path: Path) -> None:
    name = SECRET.replace("/", "-")
    (tmp_path / f"{name}.txt").write_text("nothing")
    assert len(leaks({"a name": name}, [tmp_path])) == 1
    assert leaks(SECRETS, [], {"row 1": b"nothing", "row 2": SECRET.encode()}) == ["the key in row 2"]
