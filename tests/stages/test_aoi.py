"""The stage aoi as DVC runs it: a script, paths on its command line, params through DVC."""

from pathlib import Path

from sandwatch.files import sha256
from sandwatch.schemas import Aoi
from tests.conftest import ROOT, Workspace

REGION = ROOT / "data" / "regions" / "sample"


def run(workspace: Workspace, out: str = "aoi.parquet", sites: Path = REGION / "sites.csv"):
    return workspace.run("aoi", sites=str(sites), rivers=str(REGION / "rivers.geojson"), aoi=out)


def test_the_sample_region_twice(workspace: Workspace) -> None:
    for name in ("one", "two"):
        done = run(workspace, f"{name}/aoi.parquet")
        assert done.returncode == 0, done.stderr
    assert "aoi: 11 sites, rivers from rivers.geojson" in done.stdout
    assert sha256(workspace.root / "one/aoi.parquet") == sha256(workspace.root / "two/aoi.parquet")
    table = Aoi.read(workspace.root / "one/aoi.parquet")
    assert set(table["fold"]) == {"train", "val", "test", "infer"}
    assert set(table.loc[table["fold"] == "test", "river"]) == {"Ondara"}


def test_a_mistake_is_one_line(workspace: Workspace) -> None:
    sites = workspace.root / "sites.csv"
    sites.write_text((REGION / "sites.csv").read_text().replace(",both", ",bth"))
    done = run(workspace, sites=sites)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "role: got 'bth'; expected one of label, train, infer, both; correct it" in done.stderr
    assert not (workspace.root / "aoi.parquet").exists()


def test_params_come_from_the_working_directory(workspace: Workspace) -> None:
    workspace.set_params(split={"holdout_rivers": ["Nile"]})
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: split.holdout_rivers: got 'Nile'")
