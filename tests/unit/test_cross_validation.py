"""Folds of a cross-validation: a table in which no group, and no site of a holdout river, is where it must not be."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandwatch import params, schemas
from sandwatch.cross_validation import CrossValidation, assigned, folds, held_out, sites_of, summary
from sandwatch.errors import InputError


def sites(groups: list[int], rivers: list[str], fold: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "role": "label",
            "site_id": [f"s{number}" for number in range(len(groups))],
            "river": rivers,
            "group": groups,
            "fold": fold or ["train"] * len(groups),
        }
    )


def windows(aoi: pd.DataFrame, months: int = 2) -> pd.DataFrame:
    """A window of the grid and a random one of each month of each site."""
    rows = [
        {
            "chip_id": f"{site.site_id}_2024-0{month + 1}-01_{kind[0]}",
            "obs_id": f"{site.site_id}_2024-0{month + 1}-01",
            "site_id": site.site_id,
            "river": site.river,
            "fold": site.fold,
            "kind": kind,
        }
        for site in aoi.itertuples()
        for month in range(months)
        for kind in ("grid", "random")
    ]
    return pd.DataFrame(rows)


AOI = sites([0, 0, 1, 2, 3, 4, 5], ["A", "A", "A", "B", "B", "C", "Hold"], ["train"] * 5 + ["val", "test"])


def test_each_part_tests_once_and_validates_once() -> None:
    table = folds(AOI, windows(AOI), by="groups", replicates=5, seed=0)
    schemas.Folds.checked(table, "folds")
    assert set(table["replicate"]) == {1, 2, 3, 4, 5}
    for fold in ("test", "val"):
        of_site = table[table["fold"] == fold].groupby("site_id")["replicate"].nunique()
        assert of_site.to_dict() == dict.fromkeys([f"s{number}" for number in range(6)], 1)
    tests, validates = (
        table[table["fold"] == fold].groupby("replicate")["site_id"].agg(set) for fold in ("test", "val")
    )
    assert [validates[r] for r in (1, 2, 3, 4, 5)] == [tests[r] for r in (2, 3, 4, 5, 1)]


def test_the_holdout_is_in_no_replicate() -> None:
    assert "s6" not in set(folds(AOI, windows(AOI), by="groups", replicates=3, seed=0)["site_id"])
    assert "s6" not in set(folds(AOI, windows(AOI), by="rivers", replicates=3, seed=0)["site_id"])


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 8), min_size=3, max_size=30),
    parts=st.integers(3, 6),
    seed=st.integers(0, 3),
)
def test_no_group_is_in_two_folds_of_a_replicate(groups: list[int], parts: int, seed: int) -> None:
    aoi = sites(groups, ["A"] * len(groups))
    if len(set(groups)) < parts:
        with pytest.raises(InputError, match=r"cross-validation by groups: got|cv\.replicates: got"):
            folds(aoi, windows(aoi), by="groups", replicates=parts, seed=seed)
        return
    table = folds(aoi, windows(aoi), by="groups", replicates=parts, seed=seed)
    assert not table.drop_duplicates(["replicate", "group", "fold"]).duplicated(["replicate", "group"]).any()
    assert (table.groupby("replicate")["site_id"].nunique() == len(groups)).all()
    assert (table.groupby("replicate")["fold"].nunique() == 3).all()
    assert table.equals(folds(aoi.iloc[::-1], windows(aoi), by="groups", replicates=parts, seed=seed))


def test_parts_have_about_as_many_observations() -> None:
    aoi = sites(list(range(12)), ["A"] * 12)
    table = folds(aoi, windows(aoi), by="groups", replicates=4, seed=1)
    assert (table[table["fold"] == "test"].groupby("replicate").size() == 3).all()
    assert not table.equals(folds(aoi, windows(aoi), by="groups", replicates=4, seed=2))


@pytest.mark.parametrize("by", ["groups", "rivers"])
def test_sites_for_training_only_train_in_every_replicate(by: str) -> None:
    aoi = AOI.assign(role=["label"] * 5 + ["label", "label"])
    more = pd.concat([aoi, sites([9, 9], ["Far", "Far"]).assign(site_id=["t0", "t1"], role="train")])
    table = folds(more, windows(more), by=by, replicates=3, seed=0)  # type: ignore[arg-type]
    assert set(table["fold"][table["site_id"].isin(["t0", "t1"])]) == {"train"}
    assert (table["site_id"] == "t0").sum() == 3
    rest = table[~table["site_id"].isin(["t0", "t1"])].reset_index(drop=True)
    assert rest.equals(folds(aoi, windows(aoi), by=by, replicates=3, seed=0))  # type: ignore[arg-type]


def test_by_river_whole_groups_test_whatever_river_their_other_sites_lie_on() -> None:
    table = folds(AOI, windows(AOI), by="rivers", replicates=3, seed=0)
    tested = table[table["fold"] == "test"].groupby("replicate")["site_id"].agg(sorted).to_dict()
    assert tested == {1: ["s0", "s1", "s2"], 2: ["s3", "s4"], 3: ["s5"]}
    shared = sites([0, 0, 1, 2], ["A", "B", "B", "C"])
    table = folds(shared, windows(shared), by="rivers", replicates=3, seed=0)
    first = table[table["replicate"] == 1].set_index("site_id")["fold"].to_dict()
    assert first == {"s0": "test", "s1": "test", "s2": "val", "s3": "train"}
    with pytest.raises(InputError, match=r"cv\.replicates: got 5 replicates; expected 3, as many as there are rivers"):
        folds(shared, windows(shared), by="rivers", replicates=5, seed=0)


def test_blocks_and_too_few_groups_are_refused() -> None:
    two = sites([0, 1, 1], ["A", "B", "B"])
    with pytest.raises(InputError, match="cross-validation by groups: got 2 of them beside the holdout rivers"):
        folds(two, windows(two), by="groups", replicates=3, seed=0)
    lone = sites([0, 1, 2], ["A", "B", "C"], ["blocks"] * 3)
    with pytest.raises(InputError, match="cross-validation by groups"):
        folds(lone, windows(lone).assign(fold="train"), by="groups", replicates=3, seed=0)


def test_windows_get_the_folds_of_a_replicate_and_random_ones_only_train() -> None:
    cut = windows(AOI)
    table = folds(AOI, cut, by="groups", replicates=5, seed=0)
    of = table[table["replicate"] == 2].set_index("site_id")["fold"]
    found = assigned(cut, table, 2)
    assert (found["fold"] == found["site_id"].map(of)).all()
    assert set(found["kind"][found["fold"] != "train"]) == {"grid"}
    assert set(found["kind"][found["fold"] == "train"]) == {"grid", "random"}
    assert set(found["site_id"]) == set(of.index)
    with pytest.raises(InputError, match=r"got replicates \[1, 2, 3, 4, 5\]; expected replicate 6"):
        assigned(cut, table, 6)
    assert sites_of(table.to_dict("list"), 1)["s0"] in ("train", "val", "test")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by", "replicates"),
    [([], [1, 2, 3]), (["groups"], []), (["groups"], [1, 2]), (["groups"], [0, 1, 2]), (["groups"], [1, 3, 2])],
)
def test_params_that_do_not_fit_are_refused(by: list[str], replicates: list[int]) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: cv"):
        params.check(CrossValidation, {"by": by, "replicates": replicates, "ensemble": []})


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        (["holdout", "holdout"], r"cv\.ensemble"),
        (["val"], r"cv\.ensemble.*expected 'holdout'"),
        (["holdout"], "an ensemble is of the models of replicates, and there are none"),
    ],
)
def test_an_ensemble_without_replicates_or_on_other_sites_is_refused(ensemble: list[str], message: str) -> None:
    with pytest.raises(InputError, match=rf"params\.yaml: .*{message}"):
        params.check(CrossValidation, {"by": [], "replicates": [], "ensemble": ensemble})


def test_an_ensemble_is_judged_on_what_none_of_its_models_has_seen() -> None:
    cut = windows(AOI)
    table = folds(AOI, cut, by="groups", replicates=3, seed=0)
    found = held_out(cut, table)
    assert set(found["site_id"][found["fold"] == "test"]) == {"s6"}
    assert set(found["fold"]) == {"train", "test"}  # what validates in the split has trained some of the models
    assert found.drop(columns="fold").equals(cut.drop(columns="fold"))
    seen = pd.concat([table, pd.DataFrame([(2, "s6", 5, "val")], columns=table.columns)])
    with pytest.raises(InputError, match=r"data/folds\.parquet: got s6, which test in the split"):
        held_out(cut, seen)


def test_the_summary_is_that_of_the_numbers() -> None:
    made = summary({1: {"ap": 0.5, "labels": "real", "n": 1}, 2: {"ap": 0.7, "labels": "real", "n": None}})
    assert made == {
        "replicates": 2,
        "ap": {"mean": 0.6, "std": 0.141421, "min": 0.5, "max": 0.7},
        "labels": "real",
        "n": None,
    }
