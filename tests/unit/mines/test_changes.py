"""The change table: each kind of change, what merges and splits, clouds, rivers, and what is told of it."""

from __future__ import annotations

import numpy as np
import pytest
from shapely import box

from sandwatch.errors import InputError
from sandwatch.mines.accuracy import Accuracy
from sandwatch.mines.changes import KINDS, compare, month, together, told
from tests.unit.mines.places import at, place, square, tables

M0, M1, M2, M3, M4 = "2022-12-01", "2023-01-01", "2023-02-01", "2023-03-01", "2023-04-01"


def kinds(places, before=M1, after=M2):
    """Kind, area before and after of each change, by river."""
    return {
        river: sorted(
            (one.kind, *np.nan_to_num([one.before_m2, one.after_m2], nan=-1).tolist()) for one in found.changes
        )
        for river, found in compare(*tables(*places), before, after).items()
    }


def test_each_kind_of_change():
    first = {M0: [square(1000)], M1: [square(0), square(200), square(400), square(600)]}
    then = [square(0), square(200, 130), square(400, 70), square(800), square(1000)]
    assert kinds([place({**first, M2: then})]) == {
        "Wain": [
            ("back", 0.0, 10_000.0),
            ("gone", 10_000.0, 0.0),
            ("grown", 10_000.0, 16_900.0),
            ("new", 0.0, 10_000.0),
            ("shrunk", 10_000.0, 4_900.0),
            ("unchanged", 10_000.0, 10_000.0),
        ]
    }


def test_half_a_pixel_along_the_edge_is_no_change():
    sides = {"unchanged": 108, "grown": 112}  # of 100 m: 1,664 and 2,544 m2 more, where an edge makes 1,914 and 1,985
    for kind, side in sides.items():
        assert kinds([place({M1: [square(0)], M2: [square(0, side)]})])["Wain"][0][0] == kind
        reverse = {"unchanged": "unchanged", "grown": "shrunk"}[kind]
        assert kinds([place({M1: [square(0, side)], M2: [square(0)]})])["Wain"][0][0] == reverse


def test_what_could_not_be_looked_at_is_neither_new_nor_gone_nor_shrunk():
    clear = {M0: 1.0, M1: 0.2, M2: 1.0}
    place_of = {M0: [square(0)], M1: [], M2: [square(0), square(300)]}
    assert kinds([place(place_of, clear=clear.get)]) == {"Wain": [("not observable", -1.0, 10_000.0)] * 2}
    assert kinds([place({M1: [square(0)], M2: None, M3: []})]) == {"Wain": [("not observable", 10_000.0, -1.0)]}
    partly = {M1: [square(0)], M2: [at(box(0, 0, 60, 100))]}
    assert kinds([place(partly)])["Wain"][0][0] == "shrunk"
    assert kinds([place(partly, clear=lambda date: 0.7 if date == M2 else 1.0)])["Wain"][0][0] == "unchanged"
    back = {M1: partly[M2], M2: partly[M1]}
    assert kinds([place(back, clear=lambda date: 0.7 if date == M1 else 1.0)])["Wain"][0][0] == "unchanged"


def test_a_month_that_a_site_was_not_asked_for_is_not_observable_there():
    found = kinds(
        [place({M1: [square(0)], M3: [square(0)]}), place({M1: [square(0)], M2: []}, site_id="other", river="Ash")]
    )
    assert found == {"Ash": [("gone", 10_000.0, 0.0)], "Wain": [("not observable", 10_000.0, -1.0)]}


def test_mines_that_merge_or_split_are_compared_as_one():
    one, other, both = square(0), square(150), at(box(0, 0, 250, 100))
    assert kinds([place({M1: [one, other], M2: [both]})]) == {"Wain": [("grown", 20_000.0, 25_000.0)]}
    assert kinds([place({M1: [both], M2: [one, other]})]) == {"Wain": [("shrunk", 25_000.0, 20_000.0)]}
    world = {M0: [one, other], M1: [one, other], M2: [both], M3: [both]}
    assert kinds([place(world)], M1, M3) == {"Wain": [("grown", 20_000.0, 25_000.0)]}
    assert kinds([place({**world, M4: [both]})], M1, M4) == {"Wain": [("grown", 20_000.0, 25_000.0)]}
    assert kinds([place({**world, M4: [both]})], M3, M4) == {"Wain": [("unchanged", 25_000.0, 25_000.0)]}
    assert kinds([place(world)], M0, M1) == {"Wain": [("unchanged", 10_000.0, 10_000.0)] * 2}
    world = {M0: [both], M1: [both], M2: [one, other], M3: [one, other]}
    assert kinds([place(world)], M1, M3) == {"Wain": [("shrunk", 25_000.0, 20_000.0)]}
    assert kinds([place(world)], M0, M1) == {"Wain": [("unchanged", 25_000.0, 25_000.0)]}


def test_what_is_told():
    places = [
        place({M1: [square(0), square(300)], M2: [square(0), square(300), square(600)]}),
        place({M1: [square(0)], M2: []}, site_id="other", river="Ash"),
    ]
    rivers = compare(*tables(*places), M1, M2)
    whole = told(together(rivers), None)
    assert {kind: of["mines"] for kind, of in whole["changes"].items()} == {
        "new": 1, "back": 0, "gone": 1, "grown": 0, "shrunk": 0, "unchanged": 2, "not observable": 0
    }  # fmt: skip
    assert list(whole["changes"]) == list(KINDS)
    assert whole["before"] == {
        "mines": 3, "confirmed": 0, "possible": 3, "area_m2": 30_000.0, "mines_estimated": None,
        "area_m2_estimated": None,
    }  # fmt: skip
    assert (whole["after"]["confirmed"], whole["after"]["possible"], whole["after"]["mines"]) == (2, 1, 3)
    assert whole["difference_m2"] == 0.0
    accuracy = Accuracy.of(np.array([[10, 8, 2, 900, 1000], [20, 18, 3, 2100, 2000]]))
    estimated = told(together(rivers), accuracy)
    assert estimated["before"]["mines_estimated"]["value"] == round(accuracy.mines(3).value, 1)
    assert estimated["appeared_estimated"]["value"] == round(accuracy.appeared(1, among=3, stayed=2).value, 1)
    assert estimated["disappeared_estimated"]["value"] == round(accuracy.appeared(1, among=3, stayed=2).value, 1)
    assert told(rivers["Ash"], accuracy)["difference_m2_estimated"]["value"] == round(accuracy.area(-10_000).value, 1)


def test_a_mine_that_begins_later_is_not_told():
    assert kinds([place({M1: [], M2: [], M3: [square(0)]})]) == {"Wain": []}


def test_no_mine_at_all():
    assert compare(*tables(place({M1: []})), M1, M2) == {}
    assert told(together({}), None)["before"]["mines"] == 0


@pytest.mark.parametrize("text", ["2023-13", "2023", "2023-01-02", "January", "2023-1", "2023-01\n"])
def test_months_are_written_one_way(text):
    assert month("2023-01") == month("2023-01-01") == M1
    with pytest.raises(InputError, match="expected a month such as 2024-03"):
        month(text)


def test_months_in_the_wrong_order_or_unknown():
    made = tables(place({M1: [square(0)], M2: []}))
    with pytest.raises(InputError, match="got 2023-02 and 2023-01; expected the earlier one first"):
        compare(*made, M2, M1)
    with pytest.raises(InputError, match=r"month 2023-03: got no site .*expected one of 2023-01, 2023-02"):
        compare(*made, M1, M3)
