"""The label set behind a model, published: as mlcroissant reads it, without people unless asked."""

import io
import json
from pathlib import Path

import geopandas as gpd
import mlcroissant as mlc
import pandas as pd
import pytest
import shapely
from rich.console import Console
from typer.testing import CliRunner

from sandwatch.audit import render
from sandwatch.audit.cli import app
from sandwatch.audit.croissant import Citation, _check, publish
from sandwatch.audit.forward import audit
from sandwatch.audit.page import page
from sandwatch.audit.pseudonyms import Pseudonyms
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.origin import Kind
from tests.audit_history import Made, write_history

CITATION = Citation(
    license="https://spdx.org/licenses/CC-BY-4.0.html",
    creators=("Asha Rao", "River Watch"),
    url="https://example.org/labels",
)


@pytest.fixture(scope="module")
def published(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "labels"
    publish("main", folder, CITATION, where=made.root, offline=True)
    return folder


def test_what_mlcroissant_reads(published: Path, made: Made) -> None:
    assert {path.name for path in published.iterdir()} == {"croissant.json", "labels.parquet", "observations.parquet"}
    data = mlc.Dataset(jsonld=str(published / "croissant.json"))
    about = data.metadata
    assert not about.ctx.issues.errors
    assert not about.ctx.issues.warnings
    assert about.version == f"1.0.0+{made.fingerprints[-1]}"
    assert about.license == [CITATION.license]
    assert [person.name for person in about.creators] == ["Asha Rao", "River Watch"]
    assert about.url == CITATION.url
    assert about.name.startswith("SYNTHETIC imagery and labels. ")
    assert about.description.startswith("SYNTHETIC imagery and labels. 300 polygons")
    assert "drawn by nobody" in about.description
    assert "people" not in about.description
    assert {row["labels/origin"] for row in data.records("labels")} == {b"synthetic"}
    assert {row["observations/origin"] for row in data.records("observations")} == {b"synthetic"}
    assert "1 without any" in about.description
    assert "Asha Rao and River Watch" in about.cite_as
    found = audit("main", where=made.root, offline=True)
    assert found.revision is not None
    assert about.date_published.date().isoformat() == found.revision.time[:10]
    assert {f.id: f.sha256 for f in about.distribution} == {
        name: sha256(published / name) for name in ("labels.parquet", "observations.parquet")
    }
    labels = list(data.records("labels"))
    assert [row["labels/feature_id"].decode() for row in labels] == found.labels["feature_id"].tolist()  # type: ignore[index]
    first = made.labels.set_index("feature_id").loc[labels[0]["labels/feature_id"].decode()]
    assert shapely.from_wkb(labels[0]["labels/geometry"]).equals(first.geometry)
    assert labels[0]["labels/area_m2"] == first["area_m2"]
    observations = list(data.records("observations"))
    assert len(observations) == 7
    assert [row["observations/obs_id"] for row in observations if not row["observations/has_mines"]] == [
        b"negative_2021-03-01"
    ]


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("real", "Sand mines on rivers", "polygons of sand mines, drawn by people, on monthly Sentinel composites, in"),
        ("mixed", "SYNTHETIC in part: imagery and labels. Sand mines", "drawn by nobody, in part drawn by people, on"),
    ],
)
def test_people_drew_what_is_not_synthetic(tmp_path: Path, kind: Kind, name: str, words: str) -> None:
    """And terminal, JSON, page say no more than that of it."""
    made = write_history(tmp_path / "clone", labels=60, revisions=1, experiments=0, snapshots=1, models=1, kind=kind)
    publish("main", tmp_path / "set", CITATION, where=made.root, offline=True)
    about = mlc.Dataset(jsonld=str(tmp_path / "set/croissant.json")).metadata
    assert about.name.startswith(name)
    assert words in about.description
    found = audit("main", where=made.root, offline=True)
    console = Console(file=io.StringIO(), width=200)
    render.print_audit(found, console)
    said = json.loads(render.audit_json(found))["origin"]
    texts = [console.file.getvalue(), page(found)]  # type: ignore[attr-defined]
    if kind == "real":
        assert said is None
        assert not any("SYNTHETIC" in text for text in texts)
    else:
        assert said.startswith("SYNTHETIC in part: imagery and labels. Its labels were in part generated")
        assert all(said in text for text in texts)


def test_labels_are_geoparquet(published: Path, made: Made) -> None:
    labels = gpd.read_parquet(published / "labels.parquet")
    assert labels.crs == "EPSG:4326"
    assert len(labels) == len(made.labels)
    assert set(labels["label_sha256"]) == set(made.labels["label_sha256"])


def test_nobody_is_named_unless_asked(published: Path, made: Made, tmp_path: Path) -> None:
    for path in published.iterdir():
        assert b"example.org" not in path.read_bytes().replace(b"https://example.org/labels", b""), path
    assert "reviews" not in pd.read_parquet(published / "labels.parquet").columns
    publish("main", tmp_path / "named", CITATION, people=True, where=made.root, offline=True)
    named = pd.read_parquet(tmp_path / "named/labels.parquet")
    assert set(named["created_by"]) == set(made.labels["created_by"])
    data = mlc.Dataset(jsonld=str(tmp_path / "named/croissant.json"))
    assert next(iter(data.records("observations")))["observations/created_by"] == b"annotator0@example.org"


def test_people_by_pseudonym(made: Made, tmp_path: Path) -> None:
    names = Pseudonyms(b"0123456789abcdef")
    publish("main", tmp_path / "set", CITATION, people=True, veil=names.applied, where=made.root, offline=True)
    for path in (tmp_path / "set").iterdir():
        assert b"example.org" not in path.read_bytes().replace(b"https://example.org/labels", b""), path
    shown = pd.read_parquet(tmp_path / "set/labels.parquet")
    assert set(shown["created_by"]) == {names.of(person) for person in made.labels["created_by"]}


def test_the_same_labels_the_same_bytes(published: Path, made: Made, tmp_path: Path) -> None:
    publish("main", tmp_path / "again", CITATION, where=made.root, offline=True)
    for path in published.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    publish("exp-0", tmp_path / "again", CITATION, where=made.root, offline=True)  # another model, the same labels
    assert sha256(published / "labels.parquet") == sha256(tmp_path / "again/labels.parquet")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"license": " "}, "--license: got nothing"),
        ({"creators": ()}, "--creator: got nobody"),
        ({"url": "labels"}, "--url: got labels; expected an https address"),
    ],
)
def test_what_only_the_publisher_knows(fields: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Citation(**{**vars(CITATION), **fields})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["distribution"][0].update(sha256="0" * 64), "Hash of downloaded file .* is not identical"),
        (lambda d: d.pop("license"), "license"),
        (lambda d: d["recordSet"][0]["field"][0]["source"]["extract"].update(column="nowhere"), "nowhere"),
        (lambda d: d["recordSet"][1]["field"][0]["source"].update(fileObject={"@id": "x"}), "x"),
        (lambda d: d.update(version="abc"), "abc"),
    ],
)
def test_a_fault_in_the_description_is_seen(published: Path, tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    for path in published.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = json.loads((tmp_path / "croissant.json").read_text())
    change(about)
    (tmp_path / "croissant.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=said):
        _check(tmp_path / "croissant.json")


def test_refusals(made: Made, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years\n")
    with pytest.raises(InputError, match=r"something else there: thesis\.tex; .* or an earlier label set"):
        publish("main", tmp_path / "full", CITATION, where=made.root, offline=True)
    assert (tmp_path / "full/thesis.tex").read_text() == "years\n"
    weights = publish_model(made, tmp_path)
    with pytest.raises(InputError, match="got no DVC repository; expected the clone"):
        publish(str(weights), tmp_path / "out", CITATION, where=tmp_path)
    with pytest.raises(InputError, match="audit nowhere: got no such file, revision or experiment"):
        publish("nowhere", tmp_path / "out", CITATION, where=made.root, offline=True)
    assert not (tmp_path / "out").exists()


def publish_model(made: Made, folder: Path) -> Path:
    from sandwatch.audit.attest import attest

    attest("main", folder / "alone", where=made.root, offline=True)
    return folder / "alone/model.safetensors"


def test_command(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)
    command = ["croissant", "main", "--out", str(tmp_path / "o"), "--creator", "A", "--url", "https://example.org/x"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "--license" in done.output
    done = CliRunner().invoke(app, [*command, "--license", "CC-BY-4.0", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["license"] == "CC-BY-4.0"
