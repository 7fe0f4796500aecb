"""What changed between two months: mines that are new, back, gone, grown, shrunk, unchanged, or not observable.

Mines that are one polygon in either month, or one of which split off the other in between, are compared as one: that
polygons meet or part is no change of what is mined. A mine of which too little could be looked at in a month is not
observable, not gone; and one that a cloud covers in part has not shrunk by what the cloud may hide.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sandwatch.errors import InputError
from sandwatch.grid import RESOLUTION_M
from sandwatch.mines.accuracy import Accuracy, Estimate
from sandwatch.schemas import CONFIRMED, NOT_OBSERVABLE, NOT_SEEN, SEEN

NEW, BACK, GONE, GROWN, SHRUNK, UNCHANGED = CHANGES = ("new", "back", "gone", "grown", "shrunk", "unchanged")
"""``new``: not seen in the first month, nor before it. ``back``: not seen in the first month, but before it."""
KINDS = (*CHANGES, NOT_OBSERVABLE)
STAYED = (GROWN, SHRUNK, UNCHANGED)
EDGE_M = RESOLUTION_M / 2
"""Areas differ where they differ by more than this along the outline: half a pixel. Source: the registration of months
of Sentinel-2 to each other is good to half a pixel (ESA, Sentinel-2 MSI annual performance reports)."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Mines that are compared as one, between two months.

    Attributes:
        mine_ids: which.
        kind: one of :data:`KINDS`.
        status: possible, or confirmed where one of them was by the second month.
        before_m2, after_m2: their area in the two months; NaN where it could not be observed.
    """

    mine_ids: tuple[str, ...]
    site_id: str
    river: str
    kind: str
    status: str
    before_m2: float
    after_m2: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Mines that were seen in a month, those within another counted with it."""

    mines: int
    confirmed: int
    area_m2: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was seen in two months on some rivers, and what changed."""

    before: Seen
    after: Seen
    changes: tuple[Change, ...]

    def count(self, *kinds: str) -> int:
        """How many changes are of these kinds."""
        return sum(one.kind in kinds for one in self.changes)

    def areas(self, *kinds: str) -> tuple[float, float]:
        """The area before and after of the changes of these kinds, m2."""
        of_kind = [one for one in self.changes if one.kind in kinds]
        return (
            sum(0.0 if math.isnan(one.before_m2) else one.before_m2 for one in of_kind),
            sum(0.0 if math.isnan(one.after_m2) else one.after_m2 for one in of_kind),
        )


def month(text: str) -> str:
    """The first day of a month that somebody wrote as ``YYYY-MM`` or as that day.

    Raises:
        InputError: it is neither.
    """
    if not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])(-01)?", text):
        raise InputError("month", got=repr(text), expected="a month such as 2024-03", fix="write it so")
    return f"{text[:7]}-01"


def compare(mines: pd.DataFrame, months: pd.DataFrame, before: str, after: str) -> dict[str, Comparison]:
    """Compares two months.

    Args:
        mines: rows of :class:`sandwatch.schemas.Mines`.
        months: rows of :class:`sandwatch.schemas.MineMonths`.
        before: the first day of the earlier month.
        after: that of the later one.

    Returns:
        By river, in the order of their names.

    Raises:
        InputError: the months are in another order, or no site was asked for one of them.
    """
    if before >= after:
        raise InputError(
            "months", got=f"{before[:7]} and {after[:7]}", expected="the earlier one first", fix="swap them"
        )
    for wanted in (before, after):
        if len(mines) and wanted not in set(months["date"]):
            raise InputError(
                f"month {wanted[:7]}",
                got="no site with a mine that was asked for it",
                expected=f"one of {', '.join(date[:7] for date in sorted(months['date'].unique()))}",
                fix="take one of those, or add it to the months in sites.csv and run dvc repro",
            )
    at = {
        date: {row["mine_id"]: row for row in months[months["date"] == date].to_dict("records")}
        for date in (before, after)
    }
    known = {row["mine_id"]: row for row in mines.to_dict("records") if row["first_seen"] <= after}
    changes = [
        found
        for family in _families(known, at, before, after)
        if (found := _change([known[mine_id] for mine_id in family], at, before, after)) is not None
    ]
    return {
        river: Comparison(
            before=_seen(at[before], river),
            after=_seen(at[after], river),
            changes=tuple(one for one in changes if one.river == river),
        )
        for river in sorted(mines["river"].unique())
    }


def together(rivers: Mapping[str, Comparison]) -> Comparison:
    """The comparison of all rivers."""
    parts = list(rivers.values())
    before, after = (
        Seen(
            mines=sum(one.mines for one in months),
            confirmed=sum(one.confirmed for one in months),
            area_m2=sum(one.area_m2 for one in months),
        )
        for months in ([one.before for one in parts], [one.after for one in parts])
    )
    return Comparison(before=before, after=after, changes=tuple(change for one in parts for change in one.changes))


def told(one: Comparison, accuracy: Accuracy | None) -> dict[str, Any]:
    """A comparison as plain values: what was seen, and what that comes to with the evaluation's errors.

    Args:
        one: what to tell.
        accuracy: of the evaluation; without it, nothing is estimated (None).
    """
    stayed = one.count(*STAYED)
    appeared, disappeared = one.count(NEW, BACK), one.count(GONE)
    before_m2, after_m2 = one.areas(*CHANGES)
    return {
        "before": _told_month(one.before, accuracy),
        "after": _told_month(one.after, accuracy),
        "changes": {
            kind: {"mines": one.count(kind), "before_m2": one.areas(kind)[0], "after_m2": one.areas(kind)[1]}
            for kind in KINDS
        },
        "appeared_estimated": _plain(
            accuracy.appeared(appeared, among=appeared + stayed, stayed=stayed) if accuracy else None
        ),
        "disappeared_estimated": _plain(
            accuracy.appeared(disappeared, among=disappeared + stayed, stayed=stayed) if accuracy else None
        ),
        "difference_m2": after_m2 - before_m2,
        "difference_m2_estimated": _plain(accuracy.area(after_m2 - before_m2) if accuracy else None),
    }


def _told_month(month: Seen, accuracy: Accuracy | None) -> dict[str, Any]:
    return {
        "mines": month.mines,
        "confirmed": month.confirmed,
        "possible": month.mines - month.confirmed,
        "area_m2": month.area_m2,
        "mines_estimated": _plain(accuracy.mines(month.mines) if accuracy else None),
        "area_m2_estimated": _plain(accuracy.area(month.area_m2) if accuracy else None),
    }


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {name: round(value, 1) for name, value in vars(estimate).items()}


def _seen(rows: Mapping[Any, Mapping[Any, Any]], river: str) -> Seen:
    own = [row for row in rows.values() if row["river"] == river and row["state"] == SEEN and pd.isna(row["within"])]
    return Seen(
        mines=len(own),
        confirmed=sum(row["status"] == CONFIRMED for row in own),
        area_m2=float(sum(row["area_m2"] for row in own)),
    )


def _families(
    known: Mapping[Any, Mapping[Any, Any]], at: Mapping[str, Mapping[Any, Mapping[Any, Any]]], before: str, after: str
) -> list[list[str]]:
    """Mines that are to be compared as one."""
    head = {mine_id: mine_id for mine_id in known}

    def top(mine_id: str) -> str:
        while head[mine_id] != mine_id:
            mine_id = head[mine_id]
        return mine_id

    links = [(mine_id, row["within"]) for rows in at.values() for mine_id, row in rows.items()]
    links += [(mine_id, row["split_from"]) for mine_id, row in known.items() if row["first_seen"] > before]
    links += [(mine_id, row["merged_into"]) for mine_id, row in known.items() if before < row["last_seen"] <= after]
    for mine_id, other in links:
        if mine_id in known and not pd.isna(other):
            head[max(top(mine_id), top(other))] = min(top(mine_id), top(other))
    families: dict[str, list[str]] = defaultdict(list)
    for mine_id in sorted(known):
        families[top(mine_id)].append(mine_id)
    return list(families.values())


def _change(
    family: Sequence[Mapping[Any, Any]], at: Mapping[str, Mapping[Any, Mapping[Any, Any]]], before: str, after: str
) -> Change | None:
    """What became of mines that are compared as one; None where they were seen in neither month, which could be."""
    states, areas, clear, statuses = [], [], [], []
    for date in (before, after):
        # One that split off later, or merged before, is a part of the others then.
        there = [
            one
            for one in family
            if (pd.isna(one["split_from"]) or one["first_seen"] <= date)
            and (pd.isna(one["merged_into"]) or one["last_seen"] >= date)
        ]
        rows = [at[date].get(one["mine_id"]) for one in there]
        known = [row for row in rows if row is not None]
        found = {row["state"] for row in known}
        hidden = len(known) < len(rows) or NOT_OBSERVABLE in found
        states.append(NOT_OBSERVABLE if hidden else SEEN if SEEN in found else NOT_SEEN)
        areas.append(
            math.nan if hidden else float(sum(0 if pd.isna(row["area_m2"]) else row["area_m2"] for row in known))
        )
        clear.append(min((row["clear_share"] for row in known), default=0.0))
        statuses += [row["status"] for row in known]
    if states == [NOT_SEEN, NOT_SEEN]:
        return None
    if NOT_OBSERVABLE in states:
        kind = NOT_OBSERVABLE
    elif states[0] == NOT_SEEN:
        kind = NEW if min(one["first_seen"] for one in family) > before else BACK
    elif states[1] == NOT_SEEN:
        kind = GONE
    else:
        kind = _size(areas[0], areas[1], clear[0], clear[1])
    return Change(
        mine_ids=tuple(one["mine_id"] for one in family),
        site_id=family[0]["site_id"],
        river=family[0]["river"],
        kind=kind,
        status=CONFIRMED if CONFIRMED in statuses else "possible",
        before_m2=areas[0],
        after_m2=areas[1],
    )


def _size(before_m2: float, after_m2: float, clear_before: float, clear_after: float) -> str:
    """Whether an area grew or shrank by more than an edge is known to, and a cloud could hide."""
    edge_m2 = EDGE_M * 2 * math.sqrt(math.pi * max(before_m2, after_m2))  # a circle has the shortest outline
    if after_m2 - before_m2 > edge_m2 + (1 - clear_before) * after_m2:
        return GROWN
    if before_m2 - after_m2 > edge_m2 + (1 - clear_after) * before_m2:
        return SHRUNK
    return UNCHANGED
