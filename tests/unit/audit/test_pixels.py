"""A raster that was replaced, with the cache and dvc.lock forged to agree, is not what the manifest names."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandwatch.audit.forward import audit
from sandwatch.audit.history import Lock, read_yaml
from sandwatch.audit.record import Audit
from sandwatch.audit.verify import verify
from tests.audit_history import Cache, Made

OBS_ID = "site00000_2021-03-01"
RASTERS = [*(f"site{i:05d}_2021-03-01/s2.tif" for i in range(6)), "negative_2021-03-01/s2.tif"]


def git(root: Path, *arguments: str) -> None:
    name = ["-c", "user.name=t", "-c", "user.email=t@e.org"]
    subprocess.run(["git", "-C", str(root), *name, *arguments], check=True, capture_output=True)


class Clone:
    """The history with rasters, and a map of one of them."""

    def __init__(self, root: Path, rasters: dict[str, bytes]) -> None:
        self.root, self.cache = root, Cache(root)
        found = audit("main", where=root, offline=True)
        assert found.card is not None
        assert found.imagery is not None
        sha = found.imagery.set_index("obs_id")["sha256"][OBS_ID]
        said = found.card.said | {"threshold": found.card.threshold, "imagery": "synthetic"}
        item = {f"sandwatch:{name}": value for name, value in said.items()} | {"sandwatch:scene_sha256": {"s2": sha}}
        self.item = root / "item.json"
        self.item.write_text(json.dumps({"type": "Feature", "id": OBS_ID, "properties": item}))
        predictions = self.cache.folder_of({f"{OBS_ID}/item.json": self.cache.put(self.item.read_bytes())})
        self.scenes = {path: self.cache.put(content) for path, content in rasters.items()}
        folder = self.cache.folder_of(self.scenes)
        text = (root / "dvc.lock").read_text().replace("1" * 32 + ".dir", folder)
        manifest = Lock(text).stage("export").outs["data/scenes.parquet"]  # type: ignore[union-attr]
        entries = {"data/scenes": folder, "data/scenes.parquet": manifest}
        lock = dict(read_yaml(text))
        lock["stages"]["infer"] = {
            "cmd": "x",
            "deps": [{"path": path, "md5": oid} for path, oid in entries.items()],
            "outs": [{"path": "data/predictions", "md5": predictions}],
        }
        (root / "dvc.lock").write_text(json.dumps(lock))
        git(root, "commit", "-q", "-a", "-m", "mapped")

    def audit(self) -> Audit:
        return audit(str(self.item), where=self.root, offline=True)


@pytest.fixture
def root(made: Made, tmp_path: Path) -> Path:
    shutil.copytree(made.root, tmp_path / "clone", ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", tmp_path / "clone/.dvc/cache", copy_function=os.link)
    return tmp_path / "clone"


def imagery(found: Audit) -> list[tuple[str, str]]:
    return [(link.state, link.detail) for link in found.links if link.name == "imagery"]


def test_rasters_as_they_were_exported(root: Path) -> None:
    clone = Clone(root, dict.fromkeys(RASTERS, b"scene"))
    found = clone.audit()
    assert found.state == "verified", found.verdict
    assert ("verified", "1 rasters, read, are those that data/scenes.parquet names") in imagery(found)
    proof = verify("HEAD", where=root, report=lambda _: None)
    assert ("verified", "7 rasters, read, are those that data/scenes.parquet names") in imagery(proof)


def test_a_replaced_raster_breaks_what_was_made_of_it(root: Path) -> None:
    clone = Clone(root, dict.fromkeys(RASTERS, b"scene") | {f"{OBS_ID}/s2.tif": b"scenf"})
    other = hashlib.sha256(b"scenf").hexdigest()
    for found in (clone.audit(), verify("HEAD", where=root, report=lambda _: None)):
        assert found.verdict.startswith(f"BROKEN at imagery: data/scenes/{OBS_ID}/s2.tif was replaced: SHA-256 {other}")


def test_a_replaced_raster_of_another_place_breaks_nothing_but_the_model(root: Path) -> None:
    clone = Clone(root, dict.fromkeys(RASTERS, b"scene") | {"site00001_2021-03-01/s2.tif": b"scenf"})
    assert clone.audit().state == "verified"
    assert "site00001" in verify("HEAD", where=root, report=lambda _: None).verdict


def test_a_raster_that_is_not_here_is_not_said_to_be_right(root: Path) -> None:
    clone = Clone(root, dict.fromkeys(RASTERS, b"scene"))
    oid = clone.scenes[f"{OBS_ID}/s2.tif"]
    (clone.cache.folder / oid[:2] / oid[2:]).unlink()
    found = clone.audit()
    assert found.state == "unverified"
    assert "is not here" in imagery(found)[-1][1] or "is not here" in imagery(found)[0][1]
    assert "dvc pull data/scenes" in found.remedy
