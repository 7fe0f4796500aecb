"""``sandwatch mines`` and ``sandwatch changes``: what is where since when, and what changed between two months."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

    from sandwatch.mines.accuracy import Accuracy

PREDICTIONS = Path("data/predictions")
COUNTS = Path("results/evaluate/site_counts.csv")
WIDTH = 120
"""Characters of a line of a table."""
ALL = "all rivers"
Sort = Literal["id", "area", "growth", "score", "first", "last", "status", "river"]
ORDERS: Mapping[Sort, tuple[str, bool]] = {
    "id": ("mine_id", True),
    "area": ("area_m2", False),
    "growth": ("growth_m2_per_year", False),
    "score": ("score_mean", False),
    "first": ("first_seen", True),
    "last": ("last_seen", False),
    "status": ("status", True),
    "river": ("river", True),
}
"""The column that each orders by, and whether the smallest comes first."""
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead, with all that is known")]


def mines(
    sort: Annotated[
        Sort, typer.Option(help="area, growth, score and last: largest or latest first; status: confirmed first")
    ] = "id",
    river: Annotated[str | None, typer.Option(help="only the mines of this river")] = None,
    status: Annotated[
        Literal["possible", "confirmed"] | None,
        typer.Option(help="possible: seen in one month; confirmed: a later clear month saw it again"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the mines that infer found: since when, how large, how sure (docs/mines.md)."""
    table, _ = _tables()
    said = _said(table)
    if river is not None:
        table = table[table["river"] == river]
    if status is not None:
        table = table[table["status"] == status]
    column, ascending = ORDERS[sort]
    table = table.sort_values([column, "mine_id"], ascending=[ascending, True], na_position="last")
    if as_json:
        rows = table.drop(columns="geometry").to_dict("records")
        outlines = table["geometry"].map(lambda outline: outline.__geo_interface__)
        _print_json(
            {"said": said, "mines": [{**row, "geometry": one} for row, one in zip(rows, outlines, strict=True)]}
        )
        return
    _say(said)
    _print_table(
        ["mine", "river", "status", "state", "first", "last", "seen", "ha", "growth", "river m"],
        [
            [
                row.mine_id,
                row.river,
                row.status,
                row.state,
                row.first_seen[:7],
                row.last_seen[:7],
                f"{row.months_seen}/{row.months_clear}",
                f"{row.area_m2 / 1e4:.2f}",
                "" if math.isnan(row.growth_m2_per_year) else f"{row.growth_m2_per_year / 1e4:+.2f}",
                f"{row.river_m:.0f}",
            ]
            for row in table.itertuples()
        ],
        words=6,
    )
    confirmed = int((table["status"] == "confirmed").sum())
    print(
        f"\n{len(table)} mines, {confirmed} of them confirmed. state: in the last month. seen: months seen / clear "
        "there.\nha: when last seen. growth: ha a year over clear months. river m: metres to the river"
    )


def changes(
    before: Annotated[str, typer.Argument(metavar="FROM", help="the earlier month, YYYY-MM")],
    after: Annotated[str, typer.Argument(metavar="TO", help="the later month, YYYY-MM")],
    as_json: AsJson = False,
    csv: Annotated[Path | None, typer.Option(help="a CSV to write too: a row a river, and one of all")] = None,
) -> None:
    """Say what changed between two months: mines new, back, gone, grown, shrunk, unchanged, or not observable.

    Counts and areas come with the errors that the evaluation measured; docs/mines.md has the formulas.
    """
    from sandwatch.mines import changes as compared
    from sandwatch.mines.accuracy import Accuracy

    table, months = _tables()
    first, second = compared.month(before), compared.month(after)
    rivers = compared.compare(table, months, first, second)
    accuracy = Accuracy.read(COUNTS)
    found = {river: compared.told(one, accuracy) for river, one in rivers.items()}
    whole = compared.together(rivers)
    found[ALL] = compared.told(whole, accuracy)
    if csv is not None:
        _write_csv(csv, found, first[:7], second[:7])
    said = _said(table)
    if as_json:
        _print_json(
            {
                "from": first[:7],
                "to": second[:7],
                "said": said,
                "evaluation": accuracy and accuracy.told(),
                "all": found.pop(ALL),
                "rivers": found,
                "mines": [vars(change) for change in whole.changes],
            }
        )
        return
    _say(said)
    _print_changes(found, first[:7], second[:7])
    print(_judged(accuracy))


def _tables() -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """The tables of mines and of their months.

    Raises:
        InputError: they aren't there.
    """
    from sandwatch import schemas

    return (
        schemas.Mines.read(PREDICTIONS / "mines.parquet"),
        schemas.MineMonths.read(PREDICTIONS / "mine_months.parquet"),
    )


def _said(table: pd.DataFrame) -> str | None:
    """What of the mines is invented; None where there is no mine, too."""
    from sandwatch import origin

    if table.empty:
        return None
    kinds = {name: origin.kind_of(table[name]) for name in ("imagery", "model_imagery", "model_labels")}
    return origin.words(**kinds)


def _say(said: str | None) -> None:
    if said is not None:
        print(f"{said}. What is synthetic is invented.\n")


def _print_changes(found: Mapping[str, Mapping[str, Any]], before: str, after: str) -> None:
    """What was seen in the two months, and what changed."""
    from sandwatch.mines.changes import KINDS

    _print_table(
        ["river", "month", "mines seen", "confirmed", "mines", "hectares seen", "hectares"],
        [
            [
                river,
                month,
                one[when]["mines"],
                one[when]["confirmed"],
                _about(one[when]["mines_estimated"]),
                f"{one[when]['area_m2'] / 1e4:.1f}",
                _about_hectares(one[when]["area_m2_estimated"]),
            ]
            for river, one in found.items()
            for when, month in (("before", before), ("after", after))
        ],
        words=2,
    )
    print()
    _print_table(
        ["mines (hectares)", *KINDS],
        [[river, *(_changed(one["changes"][kind]) for kind in KINDS)] for river, one in found.items()],
        words=1,
    )
    whole = found[ALL]
    print(f"\nall that could be looked at in both months: {whole['difference_m2'] / 1e4:+.1f} ha", end="")
    if whole["difference_m2_estimated"] is not None:
        print(f", {_about_hectares(whole['difference_m2_estimated'], sign='+')}", end="")
    print()
    if whole["appeared_estimated"] is not None:
        print(
            "beyond what the model misses and wrongly takes for mines: "
            f"{_about(whole['appeared_estimated'])} appeared, {_about(whole['disappeared_estimated'])} disappeared"
        )


def _about(estimate: Mapping[str, float] | None) -> str:
    return (
        "" if estimate is None else f"about {estimate['value']:.0f} ({estimate['low']:.0f} to {estimate['high']:.0f})"
    )


def _about_hectares(estimate: Mapping[str, float] | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{estimate[name] / 1e4:{sign}.1f}" for name in ("value", "low", "high"))
    return f"about {value} ({low} to {high})"


def _changed(change: Mapping[str, float]) -> str:
    """How many mines, and by how much their area differs."""
    number, difference_m2 = change["mines"], change["after_m2"] - change["before_m2"]
    return f"{number} ({difference_m2 / 1e4:+.1f})" if number and difference_m2 else f"{number}"


def _judged(accuracy: Accuracy | None) -> str:
    """What the estimates rest on."""
    if accuracy is None:
        return "counts and areas are as seen: there is no evaluation (results/evaluate) that found a mine"
    precision, recall = (
        f"{100 * one.value:.0f} % ({100 * one.low:.0f} to {100 * one.high:.0f})"
        for one in (accuracy.precision, accuracy.recall)
    )
    return (
        f"about: with the errors on the holdout rivers, {accuracy.sites} site{'' if accuracy.sites == 1 else 's'}: of "
        f"mines seen {precision} are mines,\nof mines {recall} are seen (95 % intervals); other rivers may have others"
    )


def _print_table(header: Sequence[str], rows: Sequence[Sequence[object]], words: int) -> None:
    """A table of which the first ``words`` columns are words, the others numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sandwatch.printable import printable

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    Console(width=WIDTH, highlight=False, emoji=False).print(table)


def _print_json(content: Any) -> None:
    from sandwatch.printable import json_printable

    print(json_printable(json.dumps(_plain(content), indent=2, ensure_ascii=False)))


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_csv(path: Path, found: Mapping[str, Mapping[str, Any]], before: str, after: str) -> None:
    import pandas as pd

    from sandwatch.files import whole
    from sandwatch.printable import spreadsheet

    rows = [{"river": river, "from": before, "to": after, **one} for river, one in found.items()]
    with whole(path) as partial:
        spreadsheet(pd.json_normalize(rows, sep="_").rename(columns=lambda name: name.replace(" ", "_"))).to_csv(
            partial, index=False
        )
