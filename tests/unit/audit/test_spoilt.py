"""Files that are cut off or something else, committed with hashes that agree: a link by name, never a traceback."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandwatch.audit import render
from sandwatch.audit.backward import Question, backward
from sandwatch.audit.forward import audit
from sandwatch.audit.history import Lock
from sandwatch.errors import InputError
from tests.audit_history import Cache, Made

FILES = {
    "data/chips/windows.parquet": "chips",
    "data/chips/chip_labels.parquet": "chips",
    "data/chips/about.json": "fingerprint",
    "data/annotations/labels.parquet": "labels",
    "data/annotations/observations.parquet": "labels",
    "data/annotations/quarantine.parquet": "labels",
    "data/scenes.parquet": "imagery",
    "data/code/chips.json": "code",
    "models/exposures.parquet": "chips",
    "models/model.json": "card",
    "models/model.safetensors": "weights",
}
"""And the link that each breaks."""
DEEP = b"[" * 50_000


@pytest.fixture(scope="module")
def root(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spoilt") / "clone"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    return root


def spoil(root: Path, path: str, content: bytes | None) -> None:
    """Commits another content of a file, half of it where none is given, and everything that names its hash."""
    cache = Cache(root)
    text = subprocess.run(["git", "-C", str(root), "show", "main:dvc.lock"], capture_output=True, check=True).stdout
    lock = Lock(text.decode())
    outs = {out: oid for name in lock.names for out, oid in lock.stage(name).outs.items()}  # type: ignore[union-attr]
    out = path if path in outs else path.rpartition("/")[0]
    files = {"": outs[out]}
    if out != path:
        listing = json.loads((cache.folder / outs[out][:2] / outs[out][2:]).read_bytes())
        files = {entry["relpath"]: entry["md5"] for entry in listing}
    name = path.removeprefix(out).strip("/")
    was = (cache.folder / files[name][:2] / files[name][2:]).read_bytes()
    files[name] = cache.put(was[: len(was) // 2] if content is None else content)
    now = files[name] if out == path else cache.folder_of(files)
    # Only this output: code of all stages has one listing.
    entry = f"    - path: {out}\n"
    parts = text.decode().split(entry)
    new = entry.join([parts[0], *(part.replace(outs[out], now, 1) for part in parts[1:])])
    (root / "dvc.lock").write_text(new)
    for command in (["add", "dvc.lock"], ["commit", "-q", "-m", f"another {path}"]):
        subprocess.run(["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@e", *command], check=True)


@pytest.mark.parametrize(
    ("path", "content"), [(path, content) for path in FILES for content in (None, DEEP if "json" in path else b"")]
)
def test_a_spoilt_file_breaks_its_link(root: Path, path: str, content: bytes | None) -> None:
    subprocess.run(["git", "-C", str(root), "checkout", "-q", "-f", "-B", "theirs", "main"], check=True)
    spoil(root, path, content)
    found = audit("theirs", where=root, offline=True)
    mine = next(holder for holder in found.holders if "theirs" in str(holder.revision))
    assert FILES[path] in {link.name for link in (*found.broken, *mine.broken)}, found.verdict
    assert all("\n" not in link.detail for link in found.links)
    json.loads(render.audit_json(found))


@pytest.mark.parametrize("path", ["models/exposures.parquet", "data/annotations/labels.parquet", "models/model.json"])
def test_a_spoilt_file_leaves_the_other_models_known(root: Path, path: str) -> None:
    subprocess.run(["git", "-C", str(root), "checkout", "-q", "-f", "-B", "theirs", "main"], check=True)
    spoil(root, path, None)
    found = backward(Question(label="f00000000000000000000001"), where=root, offline=True)
    assert {model.state for model in found.models} >= {"trained"}
    with pytest.raises(InputError, match="got a name that none of"):
        backward(Question(label="nothing"), where=root, offline=True)
