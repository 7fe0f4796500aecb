"""`sandwatch mines` and `sandwatch changes`: their output fits, says what is invented and acts on nothing."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from sandwatch import cli, schemas
from sandwatch.cli_mines import WIDTH
from tests.unit.mines.places import place, square, tables

M1, M2 = "2023-01-01", "2023-02-01"
EVIL = '=HYPERLINK("x")[bold]\x1b[31m<b>'


def say(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["sandwatch", *arguments])
    try:
        cli.main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    out, err = capsys.readouterr()
    return status, out, err


def write(root, *places):
    mines, months = tables(*places)
    schemas.Mines.write(mines, root / "data/predictions/mines.parquet")
    schemas.MineMonths.write(months, root / "data/predictions/mine_months.parquet")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with mines of two rivers, one of them with a hostile name, and an evaluation."""
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        place({M1: [square(0), square(400, 60)], M2: [square(0, 200), square(600)]}),
        place({M1: [square(0, 300)], M2: [square(0, 300)]}, site_id="Ash_" + "Long" * 9, river=EVIL),
    )
    (tmp_path / "results/evaluate").mkdir(parents=True)
    (tmp_path / "results/evaluate/site_counts.csv").write_text(
        "site_id,river,observations,mines,mines_found,false_alarms,mine_px,detected_px,found_px\n"
        "a,A,2,10,9,1,900,1000,850\nb,A,2,20,19,1,2000,2050,1900\n"
    )
    return tmp_path


def test_a_list_of_mines_that_fits(root, monkeypatch, capsys):
    status, out, _ = say(monkeypatch, capsys, "mines", "--sort", "area")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "SYNTHETIC imagery, training imagery and training labels. What is synthetic is invented."
    assert max(map(len, lines)) <= WIDTH == 120
    assert "\x1b" not in out
    table = [line for line in lines if line.startswith(("bend_", "Ash_"))]
    assert [line.split()[-3] if "+" in line else line.split()[-2] for line in table] == ["9.00", "4.00", "1.00", "0.36"]
    assert "4 mines, 2 of them confirmed" in out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sort", "growth"], [4.0, 9.0, 0.36, 1.0]),
        (["--sort", "status"], [4.0, 9.0, 0.36, 1.0]),
        (["--status", "possible", "--sort", "area"], [1.0, 0.36]),
        (["--river", "Wain", "--sort", "last"], [1.0, 4.0, 0.36]),
        (["--river", "Nowhere"], []),
    ],
)
def test_sorted_and_chosen_as_json(root, monkeypatch, capsys, options, expected):
    status, out, _ = say(monkeypatch, capsys, "mines", *options, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["said"].startswith("SYNTHETIC imagery")
    areas = [mine["area_m2"] / 1e4 for mine in told["mines"]]
    if "status" in options or "last" in options:  # the ids decide among equals
        assert sorted(areas) == sorted(expected)
    else:
        assert areas == expected
    for mine in told["mines"]:
        assert mine["geometry"]["type"] == "MultiPolygon"
        assert set(mine) == set(schemas.Mines.to_schema().columns)


def test_changes_in_a_table_that_fits_and_as_csv(root, monkeypatch, capsys):
    status, out, _ = say(monkeypatch, capsys, "changes", "2023-01", "2023-02", "--csv", "changes.csv")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("SYNTHETIC imagery")
    assert max(map(len, lines)) <= WIDTH
    assert "\x1b" not in out
    (whole,) = [line for line in lines if line.startswith("all rivers") and "about" not in line]
    assert whole.split()[2:] == ["1", "(+1.0)", "0", "1", "(-0.4)", "1", "(+3.0)", "0", "1", "0"]
    assert "of mines seen 93 % (" in out
    assert "2 sites" in out
    rows = list(csv.DictReader((root / "changes.csv").open()))
    assert [row["river"] for row in rows] == ["'" + EVIL, "Wain", "all rivers"]
    assert rows[-1]["changes_new_mines"] == "1"
    assert float(rows[-1]["before_mines_estimated_low"]) < 3 < float(rows[-1]["before_mines_estimated_high"])


def test_changes_as_json(root, monkeypatch, capsys):
    status, out, _ = say(monkeypatch, capsys, "changes", "2023-01-01", "2023-02", "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["from"], told["to"]) == ("2023-01", "2023-02")
    assert list(told["rivers"]) == [EVIL, "Wain"]
    assert {mine["kind"] for mine in told["mines"]} == {"new", "gone", "grown", "unchanged"}
    assert sum(len(mine["mine_ids"]) for mine in told["mines"]) == 4
    assert told["evaluation"]["recall"]["value"] == pytest.approx(28 / 30)
    assert "\x1b" not in out


def test_without_an_evaluation_it_says_so(root, monkeypatch, capsys):
    (root / "results/evaluate/site_counts.csv").unlink()
    status, out, _ = say(monkeypatch, capsys, "changes", "2023-01", "2023-02")
    assert status == 0
    assert "about" not in out
    assert "there is no evaluation" in out
    assert json.loads(say(monkeypatch, capsys, "changes", "2023-01", "2023-02", "--json")[1])["evaluation"] is None


def test_no_mine_and_no_table(root, monkeypatch, capsys):
    write(root, place({M1: []}))
    assert "0 mines" in say(monkeypatch, capsys, "mines")[1]
    assert say(monkeypatch, capsys, "changes", "2023-01", "2023-02")[0] == 0
    (root / "data/predictions/mines.parquet").unlink()
    status, out, err = say(monkeypatch, capsys, "mines")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: data/predictions/mines.parquet: got")
