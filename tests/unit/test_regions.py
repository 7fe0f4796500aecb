"""The regions in git are what they say they are."""

import csv
from pathlib import Path

import pytest

from sandwatch.aoi import read_sites

ROOT = Path(__file__).parents[2]
OBSERVATIONS = ROOT.parent / "shared" / "data" / "observations_india.csv"


def test_india_holds_the_42_sites_with_their_64_observations() -> None:
    if not OBSERVATIONS.is_file():
        pytest.skip(f"{OBSERVATIONS} is missing")
    with OBSERVATIONS.open() as file:
        rows = list(csv.DictReader(file))
    sites = read_sites(ROOT / "data" / "regions" / "india" / "sites.csv")
    assert len(sites) == 42
    assert {(site.site_id, month.isoformat()) for site in sites for month in site.months} == {
        (row["site"], row["date"]) for row in rows
    }
    facts = {
        row["site"]: (row["river"], row["district"], float(row["longitude"]), float(row["latitude"])) for row in rows
    }
    assert {site.site_id: (site.river, site.district, site.longitude, site.latitude) for site in sites} == facts
    assert len(rows) == 64
