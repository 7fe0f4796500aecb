"""Labels taken out: after `exclude` and `dvc repro` no mask holds them, and the difference names exactly them."""

import geopandas as gpd
import numpy as np
import pytest

from sandwatch import schemas
from sandwatch.audit.backward import Question, backward
from sandwatch.audit.diff import diff
from sandwatch.audit.forward import audit

from .conftest import Workspace
from .test_audit import owner, prove

RECORD = "data/regions/sample/annotations/exclusions.csv"


@pytest.fixture
def two(copy: Workspace) -> gpd.GeoDataFrame:
    """The label with the most pixels that the loss saw, and that of another observation, by feature id."""
    labels = audit("main", where=copy.root).labels
    assert labels is not None
    chosen = labels.sort_values("positives_drawn", ascending=False).drop_duplicates("obs_id").head(2)
    assert (chosen["positives_drawn"] > 0).all()
    return chosen.set_index("feature_id")


def test_an_excluded_label_is_gone_and_the_difference_names_it(copy: Workspace, two: gpd.GeoDataFrame) -> None:
    ignored, other = two.index
    obs_ids = two["obs_id"].tolist()
    owners = {obs_id: owner(copy, obs_id) for obs_id in obs_ids}
    masks = {path.stem: np.load(path) for path in (copy.root / "data/chips/masks").glob("*.npy")}
    before = copy.run("git", "rev-parse", "HEAD").strip()
    exclude = ("sandwatch", "audit", "exclude", "--label")
    copy.run(*exclude, ignored, "--reason", "they withdrew, sadly")
    assert copy.run(*exclude, other, "--reason", "a pond", "--pixels", "other").endswith("&& dvc repro\n")
    assert copy.run("git", "status", "--porcelain").split() == ["??", RECORD]
    copy.run("dvc", "repro", "-q", "train")
    copy.commit("without them")

    parts = schemas.ChipLabels.read(copy.root / "data/chips/chip_labels.parquet")
    windows = schemas.Windows.read(copy.root / "data/chips/windows.parquet").set_index("chip_id")
    assert not parts["feature_id"].isin([ignored, other]).any()
    given = parts.groupby("chip_id")["pixels"].sum().reindex(windows.index, fill_value=0)
    assert (given == windows["px_low"] + windows["px_high"]).all()
    for obs_id, mask in masks.items():
        now = np.load(copy.root / f"data/chips/masks/{obs_id}.npy")
        if obs_id not in obs_ids:
            np.testing.assert_array_equal(now, mask)
            continue
        left = owner(copy, obs_id)
        held = owners[obs_id] == (feature_id := two.index[obs_ids.index(obs_id)])
        bare = held & (left == "")
        assert bare.sum() > 20
        assert set(now[bare]) == ({255} if feature_id == ignored else {0, 255} & set(now[bare]))
        assert (now[bare] == 0).sum() > 20 or feature_id == ignored
        np.testing.assert_array_equal(now[~held], mask[~held])
        assert feature_id not in set(left[held])

    found = diff(before, "main", where=copy.root)
    assert dict(zip(found.labels["feature_id"], found.labels["change"], strict=True)) == {
        ignored: "removed",
        other: "removed",
    }
    reasons = found.exclusions.set_index("feature_id")["reason_b"].to_dict()
    assert reasons == {ignored: "pixels ignore: they withdrew, sadly", other: "pixels other: a pond"}
    assert found.exclusions["reason_a"].isna().all()
    assert found.observations.empty
    assert (found.windows["added"], found.windows["removed"], found.windows["fold"]) == (0, 0, 0)
    assert (found.params, found.code) == ({}, ())
    states = {
        r.subject: m.state for m in backward(Question(label=ignored), where=copy.root).models for r in m.revisions
    }
    assert states == {"without them": "never saw", "repro": "trained"}

    for revision, areas in ((before, ""), ("main", " and 1 ignored areas")):
        link = next(link for link in audit(revision, where=copy.root).links if link.name == "fingerprint")
        assert (link.state, "ignored" in link.detail) == ("verified", bool(areas))
        assert link.detail.endswith(f"labels{areas}")


def test_a_model_without_excluded_labels_is_proven(copy: Workspace, two: gpd.GeoDataFrame) -> None:
    copy.run("sandwatch", "audit", "exclude", "--label", two.index[0], "--reason", "withdrawn")
    copy.run("dvc", "repro", "-q", "train")
    copy.run("git", "commit", "-q", "-a", "-m", "without it, and without the record")
    link = next(link for link in audit("main", where=copy.root).links if link.name == "inputs")
    assert (link.state, RECORD.rpartition("/")[0] in link.detail) == ("broken", True)
    copy.run("git", "add", RECORD)
    copy.run("git", "commit", "-q", "--amend", "-m", "without it")
    proof = prove(copy, "main", keep=["aoi", "export"])
    assert not proof.broken, proof.verdict
    assert {"rebuild annotations", "rebuild chips"} <= {x.name for x in proof.links if x.state == "verified"}
