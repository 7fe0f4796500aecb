"""The audit over a repository whose stages really ran: the chain, faults planted one by one, experiments, clones."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from dvc.utils.serialize import dump_yaml
from safetensors.numpy import load_file, save_file

from sandwatch import schemas
from sandwatch.audit.backward import Question, backward
from sandwatch.audit.diff import diff
from sandwatch.audit.forward import audit
from sandwatch.audit.hashes import folder_md5, hash_folder
from sandwatch.audit.history import read_yaml
from sandwatch.audit.record import Audit, Link
from sandwatch.audit.verify import verify
from sandwatch.files import sha256
from sandwatch.model.card import Spec

from .conftest import Workspace

LABELS = "data/annotations/labels.parquet"
OBSERVATIONS = "data/annotations/observations.parquet"


def quiet(_: str) -> None:
    """No progress."""


def prove(workspace: Workspace, target: str = "models", **options: Any) -> Audit:
    path = workspace.root / target
    return verify(str(path) if path.exists() else target, where=workspace.root, report=quiet, **options)


def forge(workspace: Workspace, *outs: str) -> None:
    """Writes changed outputs into cache and dvc.lock, wherever the lock names them, and commits: as a forger would."""
    lock = (workspace.root / "dvc.lock").read_text()
    for out in outs:
        path = workspace.root / out
        before = next(made[out] for made in workspace.lock().values() if out in made)
        if path.is_dir():
            files = hash_folder(path)
            listing = [{"md5": files[name], "relpath": name} for name in sorted(files)]
            keep(workspace, json.dumps(listing, sort_keys=True).encode(), ".dir")
            for name in files:
                keep(workspace, (path / name).read_bytes())
            after = folder_md5(files)
        else:
            after = keep(workspace, path.read_bytes())
        assert after != before
        lock = lock.replace(before, after)
    (workspace.root / "dvc.lock").write_text(lock)
    workspace.run("git", "commit", "-q", "--amend", "-a", "-m", "forged")


def keep(workspace: Workspace, content: bytes, suffix: str = "") -> str:
    oid = hashlib.md5(content).hexdigest() + suffix
    path = workspace.root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
    return oid


def change_labels(workspace: Workspace, change: Callable[[gpd.GeoDataFrame], gpd.GeoDataFrame]) -> None:
    path = workspace.root / LABELS
    schemas.Labels.write(change(schemas.Labels.read(path)), path)


def first_broken(found: Audit) -> Link:
    assert found.broken, found.verdict
    assert found.verdict.startswith(f"BROKEN at {found.broken[0].name}: ")
    return found.broken[0]


# --- nothing planted ---------------------------------------------------------------------------------------------


def test_a_model_nobody_touched_is_proven(workspace: Workspace) -> None:
    """Looking at results is no touching: GDAL writes statistics beside a raster that it was asked for them."""
    for path in (*workspace.root.glob("data/scenes/*/s2.tif"), *workspace.root.glob("data/predictions/*/score.tif")):
        with rasterio.open(path) as file:
            file.statistics(1, approx=False)
        assert path.with_name(f"{path.name}.aux.xml").is_file()
    for folder in ("data/chips/masks", "models"):
        (workspace.root / folder / ".DS_Store").write_bytes(b"left behind")
    found = prove(workspace)
    assert found.state == "verified", found.verdict
    assert {f"rebuild {stage}" for stage in ("aoi", "export", "annotations", "chips")} <= {x.name for x in found.links}
    assert all(line.endswith(".DS_Store") for line in workspace.run("git", "status", "--porcelain").splitlines())


def test_the_training_is_proven_too_where_it_is_asked_for(workspace: Workspace) -> None:
    found = prove(workspace, "main", retrain=True)
    assert found.state == "verified", found.verdict
    assert "rebuild train" in {link.name for link in found.links}


# --- ten faults --------------------------------------------------------------------------------------------------


def test_fault_1_a_vertex_moved_by_a_millionth_of_a_degree(copy: Workspace) -> None:
    def move(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        from shapely.geometry import Polygon

        ring = list(labels.geometry.iloc[3].exterior.coords)
        ring[1] = (ring[1][0] + 1e-6, ring[1][1])
        geometry = labels.geometry.copy()
        geometry.iloc[3] = Polygon(ring)
        return labels.set_geometry(geometry)

    change_labels(copy, move)
    link = first_broken(prove(copy))
    assert link.name == "working tree"
    assert LABELS in link.detail
    forge(copy, "data/annotations")
    link = first_broken(prove(copy))
    assert link.name == "fingerprint"
    assert "the labels have the fingerprint" in link.detail


def test_fault_2_a_label_dropped(copy: Workspace) -> None:
    change_labels(copy, lambda labels: labels.drop(index=5))
    forge(copy, "data/annotations")
    assert first_broken(prove(copy)).name == "fingerprint"


def test_fault_3_two_labels_classes_swapped(copy: Workspace) -> None:
    def swap(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        low, high = (labels.index[labels["confidence"] == name][0] for name in ("low", "high"))
        labels.loc[[low, high], "confidence"] = ["high", "low"]
        return labels

    change_labels(copy, swap)
    forge(copy, "data/annotations")
    assert first_broken(prove(copy)).name == "fingerprint"


def test_fault_4_the_table_edited_without_the_raw_snapshot(copy: Workspace) -> None:
    # Nothing that the fingerprint holds: only the annotator.
    change_labels(copy, lambda labels: labels.assign(created_by="somebody@example.org"))
    forge(copy, "data/annotations")
    link = first_broken(prove(copy, keep=["export"]))
    assert link.name == "rebuild annotations"
    assert link.detail == f"{LABELS} is not what annotations makes of its inputs"


def test_fault_5_a_chip_mask_edited(copy: Workspace) -> None:
    path = sorted((copy.root / "data/chips/masks").glob("*.npy"))[0]
    mask = np.load(path)
    mask[np.unravel_index(mask.argmin(), mask.shape)] = 2
    np.save(path, mask)
    forge(copy, "data/chips")
    link = first_broken(prove(copy, keep=["export"]))
    assert link.name == "rebuild chips"
    assert link.detail == f"data/chips/masks/{path.name} is not what chips makes of its inputs"


def test_fault_6_the_weights_replaced(copy: Workspace) -> None:
    path = copy.root / "models/model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[0]] = tensors[sorted(tensors)[0]] + 1
    spec = Spec.carried(path)
    assert spec is not None
    save_file(tensors, path, spec.header())
    link = first_broken(audit(str(path), where=copy.root))
    assert link.name == "weights"
    assert "its card says" in link.detail
    forge(copy, "models/model.safetensors")
    assert first_broken(prove(copy)).name == "weights"


def test_fault_7_the_card_edited(copy: Workspace) -> None:
    path = copy.root / "models/model.json"
    card = json.loads(path.read_text())
    card["threshold"] = 0.25
    path.write_text(json.dumps(card))
    link = first_broken(audit(str(copy.root / "models"), where=copy.root))
    assert link.name == "card"
    assert "threshold" in link.detail
    forge(copy, "models/model.json")
    for target in ("models", "main"):
        link = first_broken(prove(copy, target))
        assert link.name == "card"
        assert link.detail.endswith("threshold")


def test_fault_8_the_lock_edited(copy: Workspace) -> None:
    path = copy.root / "dvc.lock"
    chips = copy.lock()["chips"]["data/chips"]
    path.write_text(path.read_text().replace(chips, "0" * 32 + ".dir", 1))
    assert first_broken(prove(copy)).name == "working tree"
    copy.run("git", "commit", "-q", "--amend", "-a", "-m", "edited")
    assert first_broken(prove(copy)).detail == "data/chips/ is not what dvc.lock says"
    link = first_broken(prove(copy, "main"))
    assert link.name == "lock"
    assert "data/chips" in link.detail


def test_fault_8_a_param_in_the_lock_edited(copy: Workspace) -> None:
    path = copy.root / "dvc.lock"
    text = path.read_text()
    assert text.count("min_valid_fraction: 0.75") == 1
    path.write_text(text.replace("min_valid_fraction: 0.75", "min_valid_fraction: 0.7"))
    copy.run("git", "commit", "-q", "--amend", "-a", "-m", "edited")
    link = first_broken(prove(copy))
    assert link.name == "params"
    assert "chips.min_valid_fraction" in link.detail


def test_fault_9_trained_on_a_dirty_tree(copy: Workspace) -> None:
    path = copy.root / "src/sandwatch/model/calibration.py"
    committed = path.read_text()
    path.write_text(committed + "\nTRIED = 'something'\n")
    copy.run("dvc", "repro", "-q", "train")
    path.write_text(committed)
    copy.run("git", "commit", "-q", "-a", "-m", "trained")
    link = first_broken(prove(copy))
    assert link.name == "code"
    assert "src/sandwatch/model" in link.detail
    assert "changes that were not committed" in link.detail
    # Whoever commits the code later still has no revision that made this model before it was there.
    path.write_text(committed + "\nTRIED = 'something'  # a comment is no other code\n")
    copy.run("git", "commit", "-q", "-a", "-m", "what it was trained with")
    found = audit(str(copy.root / "models"), where=copy.root)
    assert found.revision is not None
    assert found.revision.subject == "what it was trained with"
    assert not found.broken
    assert [bool(holder.broken) for holder in found.holders] == [False, True]


def test_a_comment_that_came_later_is_no_other_code(copy: Workspace) -> None:
    path = copy.root / "src/sandwatch/model/calibration.py"
    path.write_text(f'"""Said anew."""\n# why\n{path.read_text()}')
    copy.run("git", "commit", "-q", "-a", "-m", "a comment")
    found = audit("HEAD", where=copy.root)
    assert found.revision is not None
    assert found.revision.subject == "a comment"
    assert found.state == "verified", found.verdict


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("stages/train.py --chips", "stages/train.py  --epochs 90 --chips", "train: command .*--epochs 90"),
        ("      - data/canonical\n      - data/scenes\n", "      - data/scenes\n", "chips: dependencies"),
        ("      - data/canonical\n    metrics", "    metrics", "annotations: outputs"),
        ("      - split.block_gap_m\n", "", "chips: params"),
    ],
)
def test_fault_11_the_pipeline_altered(copy: Workspace, old: str, new: str, what: str) -> None:
    path = copy.root / "dvc.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    copy.run("git", "commit", "-q", "--amend", "-a", "-m", "another pipeline")
    link = first_broken(audit("main", where=copy.root))
    assert link.name == "pipeline"
    assert re.search(rf"dvc\.yaml at .*, {what}", link.detail)


def test_fault_10_a_scene_replaced(copy: Workspace) -> None:
    """One that the model learnt from, and one that was mapped: an audit of the map finds that one."""
    learnt = pd.read_parquet(copy.root / "data/chips/windows.parquet")["obs_id"].min()
    mapped = min(path.parent.name for path in copy.root.glob("data/predictions/*/item.json"))
    for obs_id in (learnt, mapped):
        with rasterio.open(copy.root / f"data/scenes/{obs_id}/s2.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            pixels = file.read(1)
            pixels[0, 0] += 1
            file.write(pixels, 1)
    forge(copy, "data/scenes")
    found = (prove(copy), audit(str(copy.root / f"data/predictions/{mapped}/item.json"), where=copy.root))
    for obs_id, link in zip((learnt, mapped), map(first_broken, found), strict=True):
        assert link.name == "imagery"
        assert link.detail.startswith(f"data/scenes/{obs_id}/s2.tif was replaced: SHA-256 ")


def test_an_object_of_the_cache_that_is_not_its_name_is_named(copy: Workspace) -> None:
    oid = hash_folder(copy.root / "data/annotations")["labels.parquet"]
    shutil.rmtree(copy.root / "data/annotations")
    path = copy.root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b" ")
    link = first_broken(audit("main", where=copy.root))
    assert link.name == "labels"
    assert oid in link.detail


# --- exactness ---------------------------------------------------------------------------------------------------


def test_pixels_per_label_equal_an_independent_recount(workspace: Workspace) -> None:
    found = audit(str(workspace.root / "models/model.safetensors"), where=workspace.root)
    assert found.labels is not None
    windows = pd.read_parquet(workspace.root / "data/chips/windows.parquet")
    draws = pd.read_parquet(workspace.root / "models/exposures.parquet").set_index("chip_id")["draws"]
    owners = {obs_id: owner(workspace, str(obs_id)) for obs_id in windows["obs_id"].unique()}
    recount = {name: dict.fromkeys(found.labels["feature_id"], 0) for name in ("train", "val", "test", "drawn")}
    for window in windows.itertuples():
        part = owners[window.obs_id][window.row : window.row + 160, window.col : window.col + 160]
        for feature_id in found.labels["feature_id"][found.labels["obs_id"] == window.obs_id]:
            pixels = int((part == feature_id).sum())
            recount[str(window.fold)][feature_id] += pixels
            recount["drawn"][feature_id] += pixels * int(draws.get(window.chip_id, 0))
    rows = found.labels.set_index("feature_id")
    for fold in ("train", "val", "test"):
        assert rows[f"pixels_{fold}"].to_dict() == recount[fold]
        assert sum(recount[fold].values()) > 0
    assert rows["pixels_drawn"].to_dict() == recount["drawn"]
    high = rows.index[rows["confidence"] == "high"]
    assert rows["positives_drawn"].sum() == sum(recount["drawn"][i] for i in high)


def owner(workspace: Workspace, obs_id: str) -> npt.NDArray[np.object_]:
    """Which label each labelled pixel of the mask is of: burnt a label at a time, without the code under test."""
    from rasterio.features import geometry_mask

    labels = schemas.Labels.read(workspace.root / LABELS)
    mine = labels[labels["obs_id"] == obs_id]
    mask = np.load(workspace.root / f"data/chips/masks/{obs_id}.npy")
    with rasterio.open(workspace.root / f"data/scenes/{obs_id}/s2.tif") as file:
        transform, crs = file.transform, file.crs
    owners = np.full(mask.shape, "", object)
    for name, value in (("low", 1), ("high", 2)):
        part = mine[mine["confidence"] == name].sort_values("feature_id")
        shapes = part.geometry.transform(lambda xy: xy.round(6)).to_crs(crs)
        for feature_id, shape in zip(part["feature_id"], shapes, strict=True):
            inside = geometry_mask([shape], mask.shape, transform, all_touched=True, invert=True)
            owners[inside & (mask == value)] = feature_id
    return owners


def test_positives_drawn_are_those_that_the_loss_saw(workspace: Workspace) -> None:
    """Counts mine pixels in the very batches that training drew, epoch by epoch, augmented."""
    import torch

    from sandwatch.stack import counted, mines
    from sandwatch.train.augment import augment
    from sandwatch.train.data import Batches, Chips, TrainingBatches, WindowSampler

    found = audit("main", where=workspace.root)
    assert found.labels is not None
    params = found.params["train"]
    chips = Chips(workspace.root / "data/chips")
    training = chips.of("train")
    mined = chips.mine_px("binary")[training] > 0
    windows = WindowSampler(
        training,
        mined,
        per_epoch=params["windows_per_epoch"],
        mine_share=params["sampling"]["mine_share"],
        seed=params["seed"],
    )
    metrics = json.loads((workspace.root / "results/train/metrics.json").read_text())
    seen = 0
    sampler = TrainingBatches(windows, batch_size=params["batch_size"], rank=0, world=1)
    for epoch in range(metrics["best_epoch"]):
        sampler.set_epoch(epoch)
        for indices in sampler:
            pixels, mask = Batches(chips)[indices]
            _, mask = augment(pixels, mask, torch.Generator().manual_seed(epoch), flips=True, quarter_turns=True)
            seen += int((mines(mask, "binary") & counted(mask, "binary")).sum())
    assert found.labels["positives_drawn"].sum() == seen
    assert seen > 0


# --- rasters, experiments, clones, files on their own -----------------------------------------------------------


@pytest.mark.parametrize(
    "which", ["*/score.tif", "*/mask.tif", "*/detections.parquet", "*/item.json", "detections.parquet", "model.json"]
)
def test_a_result_leads_to_its_labels(workspace: Workspace, tmp_path: Path, which: str) -> None:
    predictions = workspace.root / "data/predictions"
    path = next(p for p in sorted(predictions.glob(which)) if p.suffix != ".parquet" or len(pd.read_parquet(p)))
    elsewhere = tmp_path / f"found on a disk{path.suffix}"
    shutil.copyfile(path, elsewhere)
    found = audit(str(elsewhere), where=workspace.root)
    assert found.state == "verified", found.verdict
    assert found.links[0].name == "result"
    assert path.relative_to(predictions).as_posix() in found.links[0].detail
    assert found.labels is not None
    assert len(found.labels) > 0


def test_a_raster_with_other_tags(workspace: Workspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "found on a disk.tif"
    shutil.copyfile(sorted((workspace.root / "data/predictions").glob("*/score.tif"))[0], elsewhere)
    with rasterio.open(elsewhere, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(LABEL_FINGERPRINT="0" * 64)
    assert first_broken(audit(str(elsewhere), where=workspace.root)).name == "result"


def test_a_lone_model_file_says_what_its_card_says_and_what_is_unverified(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "somebody sent this.safetensors"
    shutil.copyfile(workspace.root / "models/model.safetensors", path)
    found = audit(str(path), where=tmp_path)
    assert found.card is None
    assert found.spec == Spec.carried(workspace.root / "models/model.safetensors")
    assert found.labels is None
    assert found.verdict.startswith("CAN'T BE SEEN FROM HERE: revision")
    assert audit(str(path), where=workspace.root).labels is not None


def test_git_gc_takes_nothing_from_the_audit(copy: Workspace) -> None:
    copy.run("git", "gc", "-q", "--prune=now")
    assert audit("main", where=copy.root).state == "verified"


def test_a_shallow_clone_with_an_empty_cache_pulls_tables_only(
    copy: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, clone = tmp_path / "remote", Workspace(root=tmp_path / "clone")
    copy.run("git", "commit", "-q", "--allow-empty", "-m", "one more")
    copy.run("dvc", "remote", "add", "-f", "-d", "storage", str(remote))
    copy.run("git", "commit", "-q", "-a", "-m", "a remote")
    copy.run("dvc", "push", "-q")
    copy.run("git", "clone", "-q", "--depth", "1", f"file://{copy.root}", str(clone.root))
    offline = audit("HEAD", where=copy.root, offline=True)
    found = audit("HEAD", where=clone.root)
    unseen = [link.name for link in found.links if link.state not in ("verified", "skipped")]
    assert unseen == ["weights"], "the weights are large: they stay where they are"
    assert offline.labels is not None
    assert found.labels is not None
    pd.testing.assert_frame_equal(pd.DataFrame(found.labels), pd.DataFrame(offline.labels))
    assert any("shallow" in note for note in found.notes)
    pulled = {
        path.parent.name + path.name for path in (clone.root / ".dvc/cache/files/md5").rglob("*") if path.is_file()
    }
    tables = hash_folder(copy.root / "data/annotations") | {
        name: md5
        for folder in ("models", "data/chips")
        for name, md5 in hash_folder(copy.root / folder).items()
        if name.endswith((".parquet", "model.json", "about.json"))
    }
    listings = {oid for oid in pulled if oid.endswith(".dir")}
    behind = ("aoi", "export", "annotations", "chips", "train")
    others = {
        hash_folder(copy.root / "data")["scenes.parquet"],
        *(hash_folder(copy.root / "data/code")[f"{stage}.json"] for stage in behind),
    }
    assert pulled - listings == set(tables.values()) | others


def test_experiments_in_the_queue_and_in_a_folder_of_their_own_are_found(copy: Workspace) -> None:
    copy.run("dvc", "exp", "run", "-q", "--temp", "-n", "apart", "-S", "train.epochs=1", "train")
    copy.run(
        "dvc", "exp", "run", "-q", "--queue", "-n", "queued", "-S", "train.seed=1", "-S", "train.epochs=1", "train"
    )
    copy.run("dvc", "exp", "run", "-q", "--run-all")
    for name in ("apart", "queued"):
        found = audit(name, where=copy.root)
        assert found.state == "verified", found.verdict
        assert found.revision is not None
        assert found.revision.kind == "experiment"
    feature_id = found.labels["feature_id"][found.labels["fold"] == "train"].iloc[0]  # type: ignore[index]
    models = backward(Question(label=feature_id), where=copy.root).models
    assert sorted(name.name for model in models for r in model.revisions for name in r.names) == [
        "apart",
        "main",
        "queued",
    ]
    assert diff("apart", "queued", where=copy.root).params == {"train.seed": (0, 1)}


def test_a_difference_holds_the_metrics_a_river_at_a_time(workspace: Workspace) -> None:
    found = diff("main", str(workspace.root / "models"), where=workspace.root)
    assert found.labels.empty
    assert found.metrics is not None
    assert found.rivers is not None
    assert "ap" in set(found.metrics["metric"])
    assert "Ondara" in set(found.rivers["river"])
    assert (found.metrics["change"].dropna() == 0).all()


# --- attestations and label sets ----------------------------------------------------------------------------------


def test_an_attestation_names_every_file_by_the_hash_that_it_has(copy: Workspace, tmp_path: Path) -> None:
    """Its materials are those that lie in the workspace that the stages ran in; signed, checked, then spoilt."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    out = tmp_path / "release"
    copy.run("sandwatch", "audit", "attest", "models", "--out", str(out), "--private-key", str(private))
    statement = json.loads((out / "attestation.json").read_text())
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    git, *files = materials
    assert git["digest"] == {"gitCommit": copy.run("git", "rev-parse", "HEAD").strip()}
    for material in files:
        assert material["digest"] == {"sha256": sha256(copy.root / material["name"])}, material["name"]
    windows = pd.read_parquet(copy.root / "data/chips/windows.parquet")
    scenes = {path for path in (m["name"] for m in files) if path.startswith("data/scenes/")}
    assert {path.split("/")[2] for path in scenes} == set(windows["obs_id"])
    assert {path.split("/")[3] for path in scenes} >= {"s1.tif", "s2.tif"}
    check = ("sandwatch", "audit", "check", str(out), "--public-key", str(public))
    assert "VERIFIED: 4 links verified" in copy.run(*check)
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    assert "BROKEN at signature" in copy.run(*check, fails=True)


def test_a_published_label_set_holds_the_labels_and_no_annotator(workspace: Workspace, tmp_path: Path) -> None:
    import mlcroissant

    out = tmp_path / "labels"
    workspace.run(
        "sandwatch", "audit", "croissant", "main", "--out", str(out), "--license", "CC-BY-4.0",
        "--creator", "Asha Rao", "--url", "https://example.org/labels",
    )  # fmt: skip
    labels = schemas.Labels.read(workspace.root / LABELS)
    data = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not data.metadata.ctx.issues.errors
    assert {row["labels/feature_id"].decode() for row in data.records("labels")} == set(labels["feature_id"])
    assert len(list(data.records("observations"))) == len(pd.read_parquet(workspace.root / OBSERVATIONS))
    people = set(labels["created_by"].dropna())
    assert people
    for path in out.iterdir():
        assert not any(name.encode() in path.read_bytes() for name in people)


# --- sources that ask the outside world ---------------------------------------------------------------------------


def test_labels_of_a_labelling_project_are_derived_from_the_snapshot(copy: Workspace) -> None:
    """The lock says that imagery and labels came from accounts; verify asks neither."""
    for name in ("params.yaml", "dvc.lock"):
        values = json.loads(json.dumps(read_yaml((copy.root / name).read_text())))
        stages = values["stages"].values() if name == "dvc.lock" else [{"params": {"params.yaml": values}}]
        for stage in stages:
            read = stage.get("params", {}).get("params.yaml", {})
            for section, source in (("imagery", "earthengine"), ("annotations", "labelbox")):
                if section in read:
                    read[section]["source"] = source
                if f"{section}.source" in read:
                    read[f"{section}.source"] = source
        dump_yaml(str(copy.root / name), values)
    for table, path in ((schemas.Labels, LABELS), (schemas.Observations, OBSERVATIONS)):
        table.write(table.read(copy.root / path).assign(origin="real"), copy.root / path)
    forge(copy, "data/annotations")
    found = prove(copy, "main")
    made = {link.name: link for link in found.links}
    assert made["rebuild export"].state == "unverified"
    assert made["rebuild annotations"].state == "verified"
    assert "derived from the recorded snapshot" in made["rebuild annotations"].detail
    assert first_broken(found).detail.startswith("data/chips/about.json")  # it still says that labels are invented
    change_labels(copy, lambda labels: labels.assign(created_by="somebody@example.org"))
    forge(copy, "data/annotations")
    assert first_broken(prove(copy, "main")).name == "rebuild annotations"
