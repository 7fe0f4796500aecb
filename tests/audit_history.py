"""A repository with a long history: commits and experiments whose dvc.lock names real tables in a DVC cache.

Made with git fast-import and plain files, in seconds a thousand revisions; the benchmark of the audit uses it too. The
stages behind the tables never ran: what they would have written is made up, consistently.
"""

import hashlib
import json
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from dvc.utils.serialize import dumps_yaml
from safetensors.numpy import save

from sandwatch import schemas
from sandwatch.annotations.canonical import canonical_rows, fingerprint_of
from sandwatch.audit.history import read_yaml
from sandwatch.code import meaning
from sandwatch.model.card import Card, Start, hash_params
from sandwatch.origin import Kind
from sandwatch.parquet import write_parquet
from sandwatch.share import chosen
from tests.models import fields

ROOT = Path(__file__).parents[1]
LABELS_PER_OBSERVATION = 50
WINDOWS_PER_OBSERVATION = 20
SOURCES = {"src/sandwatch/errors.py": b"errors\n", "stages/train.py": b"train\n"}
LISTING = {path: meaning(content) for path, content in SOURCES.items()}
SITES = {"data/regions/sample/sites.csv": b"sites\n"}
PARAMS = {
    "check": [],
    "aoi": ["aoi", "split"],
    "export": ["bands", "imagery", "synthetic.seed"],
    "annotations": ["annotations", "synthetic.annotator_error_m"],
    "chips": ["bands", "chips", "split.block_m"],
    "train": ["bands", "compute", "model", "scoring", "train"],
}
STAGES = {
    "check": ([*SOURCES], [f"data/code/{stage}.json" for stage in PARAMS if stage != "check"]),
    "aoi": (["data/regions/sample/sites.csv", "data/code/aoi.json"], ["data/aoi"]),
    "export": (["data/aoi", "data/code/export.json"], ["data/scenes", "data/scenes.parquet"]),
    "annotations": (
        ["data/aoi", "data/scenes.parquet", "data/code/annotations.json"],
        ["data/annotations", "data/canonical", "results/annotations/metrics.json"],
    ),
    "chips": (
        ["data/aoi", "data/canonical", "data/scenes", "data/scenes.parquet", "data/code/chips.json"],
        ["data/chips"],
    ),
    "train": (
        ["data/chips", "data/code/train.json"],
        ["models/exposures.parquet", "models/model.json", "models/model.safetensors", "results/train"],
    ),
}
"""Dependencies and outputs."""
PIPELINE = {
    "stages": {
        name: {"cmd": f"python stages/{name}.py", "params": PARAMS[name], "deps": deps, "outs": outs}
        for name, (deps, outs) in STAGES.items()
    }
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made.

    Attributes:
        root: of the repository.
        labels: of the last snapshot.
        fingerprints: of each snapshot.
        begun: SHA-256 of the weights of the last model on main, and of those that began one with the other.
    """

    root: Path
    labels: gpd.GeoDataFrame
    fingerprints: list[str]
    begun: list[str]


class Cache:
    """A DVC cache, written without DVC."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".dvc/cache/files/md5"

    def put(self, content: bytes, suffix: str = "") -> str:
        oid = hashlib.md5(content).hexdigest() + suffix
        path = self.folder / oid[:2] / oid[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return oid

    def folder_of(self, files: dict[str, str]) -> str:
        listing = [{"md5": files[path], "relpath": path} for path in sorted(files)]
        return self.put(json.dumps(listing, sort_keys=True).encode(), ".dir")

    def table(self, schema: type[schemas.Table], rows: pd.DataFrame, scratch: Path) -> tuple[str, str]:
        """MD5 and SHA-256 of a table."""
        schema.write(rows, scratch)
        content = scratch.read_bytes()
        return self.put(content), hashlib.sha256(content).hexdigest()


def write_history(
    root: Path,
    *,
    labels: int,
    revisions: int,
    experiments: int,
    snapshots: int,
    models: int,
    shifted: int = 0,
    kind: Kind = "synthetic",
    begun: int = 0,
    share: float = 1.0,
    trained: float | None = None,
) -> Made:
    """Writes a repository.

    Args:
        root: an empty folder.
        labels: in the last snapshot; the first has one ``snapshots``-th of them.
        revisions: commits on main.
        experiments: each with a model of its own, on the last commit.
        snapshots: of the labels.
        models: on main.
        shifted: labels of the last snapshot that are moved against the one before.
        kind: of imagery and labels.
        begun: more commits on main, each with a model of the first snapshot, that began with the one before it.
        share: of the training observations that train, as the params say.
        trained: that did; None for as many.
    """
    subprocess.run(["git", "init", "-q", "-b", "main", str(root)], check=True)
    (root / ".dvc/tmp").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    cache, scratch = Cache(root), root / ".dvc/tmp/scratch.parquet"
    params = dict(read_yaml((ROOT / "params.yaml").read_text()))
    params["train"]["sampling"]["observations_share"] = share
    base = _labels(labels, "synthetic" if kind == "synthetic" else "real")
    tables = [
        _snapshot(
            cache, scratch, base, max(labels * (i + 1) // snapshots, 1), params, shifted * (i == snapshots - 1), kind
        )
        for i in range(snapshots)
    ]
    locks = []
    for i in range(models):
        locks.append(_model(cache, scratch, tables[i * snapshots // models], params, i, trained or share))
    stream = [
        _blob(i, content)
        for i, content in enumerate(
            [*SOURCES.values(), *SITES.values(), dumps_yaml(params).encode(), dumps_yaml(PIPELINE).encode()], 1
        )
    ]
    paths = [*SOURCES, *SITES, "params.yaml", "dvc.yaml"]
    files = "".join(f"M 100644 :{i} {path}\n" for i, path in enumerate(paths, 1))
    mark = 1000
    for i in range(revisions):
        lock = dumps_yaml(locks[i * models // revisions]).encode()
        stream.append(
            _commit("refs/heads/main", mark + i, f"commit {i}", 1_600_000_000 + i * 3600, files, lock, i, mark)
        )
    weights = [_weights_of(cache, locks[-1])]
    for i in range(begun):
        pinned = {"name": f"before-{i}.safetensors", "sha256": weights[-1]}
        going_on = params | {"model": params["model"] | {"weights": pinned}}
        made = _model(cache, scratch, tables[0], going_on, 20_000 + i, trained or share)
        number, values = revisions + i, dumps_yaml(going_on).encode()
        changed = files.replace("M 100644 :4 params.yaml\n", "")
        assert changed != files
        commit = _commit(
            "refs/heads/main", mark + number, f"begun {i}", 1_650_000_000 + i * 3600, changed,
            dumps_yaml(made).encode(), number, mark,
        )  # fmt: skip
        stream.append(commit + f"M 100644 inline params.yaml\ndata {len(values)}\n".encode() + values + b"\n")
        weights.append(_weights_of(cache, made))
    done = _import(root, stream)
    head = done.split()[-1]
    stream = []
    for i in range(experiments):
        lock = dumps_yaml(_model(cache, scratch, tables[-1], params, 10_000 + i, trained or share)).encode()
        ref = f"refs/exps/{head[:2]}/{head[2:]}/exp-{i}"
        stream.append(
            f"commit {ref}\ncommitter t <t@e.org> {1_700_000_000 + i} +0000\ndata 3\nexp\nfrom {head}\n".encode()
            + f"M 100644 inline dvc.lock\ndata {len(lock)}\n".encode()
            + lock
            + b"\n"
        )
    if stream:
        _import(root, stream)
    subprocess.run(["git", "-C", str(root), "reset", "-q", "--hard"], check=True)
    fingerprints = [table["fingerprint"] for table in tables]
    return Made(root=root, labels=tables[-1]["labels"], fingerprints=fingerprints, begun=weights)


def _weights_of(cache: Cache, lock: dict[str, Any]) -> str:
    """SHA-256 of the weights in a lock."""
    oid = next(out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"] == "models/model.safetensors")
    return hashlib.sha256((cache.folder / oid[:2] / oid[2:]).read_bytes()).hexdigest()


def _labels(count: int, origin: str) -> gpd.GeoDataFrame:
    rng = np.random.default_rng(0)
    at = np.arange(count)
    obs = at // LABELS_PER_OBSERVATION
    vertices = 12
    angle = np.sort(rng.uniform(0, 2 * np.pi, (count, vertices)), axis=1)
    radius = rng.uniform(2e-4, 5e-4, (count, 1))
    centre = np.stack([70 + (obs % 100) * 0.1, 10 + (obs // 100) * 0.1], axis=1) + rng.uniform(0, 0.05, (count, 2))
    ring = (centre[:, None] + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=2)).round(7)
    return gpd.GeoDataFrame(
        {
            "feature_id": [f"f{i:023d}" for i in at],
            "label_id": [f"l{i:023d}" for i in obs],
            "obs_id": [f"site{i:05d}_2021-03-01" for i in obs],
            "origin": origin,
            "class_name": "Sand mine",
            "confidence": np.where(at % 4, "high", "low"),
            "area_m2": 1000.0,
            "created_by": [f"annotator{i % 7}@example.org" for i in obs],
            "created_at": [f"2021-{1 + i % 12:02d}-15T12:00:00.000+00:00" for i in obs],
            "updated_at": "2022-01-01T00:00:00.000+00:00",
            "reviews": "[]",
            "workflow_status": "DONE",
        },
        geometry=list(shapely.polygons(ring)),
        crs="EPSG:4326",
    )


def _snapshot(
    cache: Cache,
    scratch: Path,
    base: gpd.GeoDataFrame,
    count: int,
    params: dict[str, Any],
    shifted: int,
    kind: Kind,
) -> dict[str, Any]:
    labels = base.iloc[:count].copy()
    if shifted:
        moved = labels.geometry.iloc[:shifted].translate(xoff=1e-6)
        labels["geometry"] = [*moved, *labels.geometry.iloc[shifted:]]
    rows = canonical_rows(labels)
    labels["label_sha256"] = [hashlib.sha256(row).hexdigest() for row in rows]
    obs_ids = labels["obs_id"].drop_duplicates().tolist()
    raw = [json.dumps({"row": obs_id}).encode() for obs_id in obs_ids]
    raw_of = dict(zip(obs_ids, (hashlib.sha256(line).hexdigest() for line in raw), strict=True))
    labels["row_sha256"] = labels["obs_id"].map(raw_of)
    observations = pd.DataFrame(
        {
            "obs_id": [*obs_ids, "negative_2021-03-01"],
            "site_id": [*(obs_id[:9] for obs_id in obs_ids), "negative"],
            "date": "2021-03-01",
            "label_id": [*labels.drop_duplicates("obs_id")["label_id"], "lnegative"],
            "origin": labels["origin"].iloc[0],
            "has_mines": [True] * len(obs_ids) + [False],
            "polygons": [*labels.groupby("obs_id", sort=False).size(), 0],
            "created_by": "annotator0@example.org",
            "workflow_status": "DONE",
            "snapshot": "one",
        }
    )
    fingerprint = fingerprint_of(rows, observations)
    quarantine = pd.DataFrame(
        {"row_id": ["r"], "obs_id": [None], "label_id": ["lunfit"], "feature_id": ["funfit"], "polygons": [1],
         "reason": ["not_done"], "detail": ["d"], "row_sha256": [next(iter(raw_of.values()))]}
    ).astype(dict.fromkeys(("obs_id", "label_id", "feature_id"), "str"))  # fmt: skip
    windows, parts = _chips(labels, [*obs_ids, "negative_2021-03-01"])
    scenes = _scenes([*obs_ids, "negative_2021-03-01"], "synthetic" if kind == "synthetic" else "files")
    annotations = {
        "export.ndjson": cache.put(b"\n".join(raw) + b"\n"),
        "labels.parquet": cache.table(schemas.Labels, labels, scratch)[0],
        "observations.parquet": cache.table(schemas.Observations, observations, scratch)[0],
        "quarantine.parquet": cache.table(schemas.Quarantine, quarantine, scratch)[0],
    }
    chips = {
        "windows.parquet": cache.table(schemas.Windows, windows, scratch),
        "chip_labels.parquet": cache.table(schemas.ChipLabels, parts, scratch),
    }
    metrics = json.dumps({"label_fingerprint": fingerprint}).encode()
    about = json.dumps({"label_fingerprint": fingerprint, "imagery": kind, "labels": kind}).encode()
    chips["about.json"] = (cache.put(about), hashlib.sha256(about).hexdigest())
    return {
        "kind": kind,
        "labels": labels,
        "windows": windows,
        "fingerprint": fingerprint,
        "annotations": cache.folder_of(annotations),
        "chips": cache.folder_of({name: md5 for name, (md5, _) in chips.items()}),
        "metrics": cache.put(metrics),
        "scenes": cache.table(schemas.Scenes, scenes, scratch)[0],
        "canonical": cache.folder_of({"fingerprint.json": cache.put(metrics)}),
        "inputs": {f"data/chips/{name}": sha for name, (_, sha) in chips.items()},
    }


def _chips(labels: gpd.GeoDataFrame, obs_ids: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every label lies in four windows of its observation, with 10 to 40 pixels in each."""
    n = WINDOWS_PER_OBSERVATION
    obs = np.repeat(obs_ids, n)
    number = np.tile(np.arange(n), len(obs_ids))
    site = np.repeat(np.arange(len(obs_ids)), n)
    windows = pd.DataFrame(
        {
            "chip_id": [f"{o}_g{row * 160}_0" for o, row in zip(obs, number, strict=True)],
            "obs_id": obs,
            "site_id": [o[:-11] for o in obs],
            "river": "Somewhere",
            "group": site,
            "fold": np.choose(site % 5, ["train", "train", "train", "val", "test"]),
            "kind": "grid",
            "row": number * 160,
            "col": 0,
            "size_px": 160,
            "aoi_fraction": 1.0,
            "valid_fraction": 1.0,
        }
    )
    at = np.arange(len(labels))
    parts = pd.concat(
        [
            pd.DataFrame(
                {
                    "chip_id": [f"{o}_g{(i + shift) % n * 160}_0" for i, o in zip(at, labels["obs_id"], strict=True)],
                    "feature_id": labels["feature_id"].to_numpy(),
                    "pixels": 10 * (shift + 1) + at % 3,
                }
            )
            for shift in range(4)
        ]
    )
    confidence = parts["feature_id"].map(labels.set_index("feature_id")["confidence"])
    for name in ("low", "high"):
        given = parts[confidence == name].groupby("chip_id")["pixels"].sum()
        windows[f"px_{name}"] = windows["chip_id"].map(given).fillna(0).astype(np.int64)
    windows["px_ignored"] = 0
    windows["px_other"] = 160**2 - windows["px_low"] - windows["px_high"]
    return windows, parts


def _scenes(obs_ids: list[str], source: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "obs_id": obs_ids,
            "site_id": [o[:-11] for o in obs_ids],
            "date": "2021-03-01",
            "product": "s2",
            "status": "exported",
            "detail": pd.Series([None] * len(obs_ids), dtype="str"),
            "path": [f"{o}/s2.tif" for o in obs_ids],
            "bands": "B4",
            "crs": "EPSG:32643",
            "transform": "10,0,0,0,-10,0",
            "width_px": 500,
            "height_px": 3200,
            "dtype": "uint16",
            "nodata": 0.0,
            "valid_fraction": 1.0,
            "source": source,
            "source_images": '[{"id": "S2_1", "date": "2021-03-03", "processing_baseline": "05.00"}]',
            "sha256": hashlib.sha256(b"scene").hexdigest(),
        }
    )


def _model(
    cache: Cache, scratch: Path, tables: dict[str, Any], params: dict[str, Any], seed: int, share: float
) -> dict[str, Any]:
    """The dvc.lock of a model trained on tables."""
    rng = np.random.default_rng(seed)
    windows = tables["windows"][tables["windows"]["fold"] == "train"]
    mined = set(windows["obs_id"][windows["px_high"] > 0])
    kept = chosen(windows["obs_id"], mined, share=share, seed=params["train"]["seed"])
    chips = windows.loc[windows["obs_id"].isin(kept), "chip_id"].sort_values()
    write_parquet(pd.DataFrame({"chip_id": chips, "draws": rng.integers(0, 4, len(chips))}), scratch)
    exposures = cache.put(scratch.read_bytes())
    card = Card(
        **fields(
            bands=("B4",),
            size_px=160,
            overlap_px=64,
            threshold=0.5,
            label_fingerprint=tables["fingerprint"],
            imagery=tables["kind"],
            labels=tables["kind"],
        ),
        replicate=0,
        observations=len(kept),
        matched=(("B4", "B4", "matched"),),
        inputs=tables["inputs"],
        code=LISTING,
        params_sha256=hash_params({section: params[section] for section in PARAMS["train"]}),
    )
    if pinned := params["model"]["weights"]:
        begun = Start(**pinned, licence="that of the labels and imagery behind it", forbids="", model=True)
        card = card.model_copy(update={"start": begun})
    weights = save({"w": np.array([seed], np.int64)}, card.header())
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    listing = cache.put(json.dumps(LISTING).encode())
    made = {
        **dict.fromkeys(STAGES["check"][1], listing),
        "data/aoi": "0" * 32 + ".dir",
        "data/scenes": "1" * 32 + ".dir",
        "data/scenes.parquet": tables["scenes"],
        "data/annotations": tables["annotations"],
        "data/canonical": tables["canonical"],
        "results/annotations/metrics.json": tables["metrics"],
        "data/chips": tables["chips"],
        "models/exposures.parquet": exposures,
        "models/model.json": cache.put(json.dumps(card.model_dump(mode="json")).encode()),
        "models/model.safetensors": cache.put(weights),
        "results/train": hashlib.md5(str(seed).encode()).hexdigest() + ".dir",
    }
    read = {path: hashlib.md5(content).hexdigest() for path, content in (SOURCES | SITES).items()} | made

    def value(key: str) -> Any:
        section, _, rest = key.partition(".")
        return deepcopy(params[section][rest] if rest else params[section])

    return {
        "schema": "2.0",
        "stages": {
            name: {
                "cmd": f"python stages/{name}.py",
                "deps": [{"path": path, "hash": "md5", "md5": read[path], "size": 1} for path in sorted(deps)],
                **({"params": {"params.yaml": {key: value(key) for key in PARAMS[name]}}} if PARAMS[name] else {}),
                "outs": [{"path": path, "hash": "md5", "md5": made[path], "size": 1} for path in outs],
            }
            for name, (deps, outs) in STAGES.items()
        },
    }


def _blob(mark: int, content: bytes) -> bytes:
    return f"blob\nmark :{mark}\ndata {len(content)}\n".encode() + content + b"\n"


def _commit(ref: str, mark: int, message: str, time: int, files: str, lock: bytes, number: int, first: int) -> bytes:
    parent = f"from :{mark - 1}\n" if mark > first else ""
    note = f"note {number}\n"
    return (
        f"commit {ref}\nmark :{mark}\ncommitter t <t@e.org> {time} +0000\n".encode()
        + f"data {len(message)}\n{message}\n{parent}".encode()
        + files.encode()
        + f"M 100644 inline NOTES\ndata {len(note)}\n{note}\n".encode()
        + f"M 100644 inline dvc.lock\ndata {len(lock)}\n".encode()
        + lock
        + b"\n"
    )


def _import(root: Path, stream: list[bytes]) -> str:
    subprocess.run(["git", "-C", str(root), "fast-import", "--quiet"], input=b"".join(stream), check=True)
    return subprocess.run(
        ["git", "-C", str(root), "rev-parse", "main"], check=True, capture_output=True, text=True
    ).stdout
