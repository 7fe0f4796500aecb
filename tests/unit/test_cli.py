"""The command line: quick to start, clear about what is there, silent about secrets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import yaml
from PIL import Image

from sandwatch import cli, doctor, raster, remote, report, schemas, work
from sandwatch.errors import InputError
from sandwatch.files import sha256
from sandwatch.grid import Grid
from sandwatch.work import Work

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "rasterio",
    "geopandas",
    "pandas",
    "numpy",
    "pandera",
    "pystac",
    "matplotlib",
    "dvc",
    "sklearn",
    "yaml",
)
SECRET = "s3cr3t-value"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A checkout with nothing run, and a user without credentials."""
    root = tmp_path / "clone"
    for name in ("params.yaml", "dvc.yaml", ".dvc/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "data" / "regions", root / "data" / "regions")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "GOOGLE_CLOUD_PROJECT", "LABELBOX_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)
    return root


def call(*arguments, monkeypatch, capsys):
    """Runs the command line in this process; returns exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["sandwatch", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def examined(root, environment=None, home=Path("/nonexistent")):
    return {(finding.topic, finding.name): finding for finding in doctor.examine(root, environment or {}, home)}


def lock(root, stages, present=True):
    outs = {name: [f"data/{name}"] for name in stages}
    record = {
        name: {"cmd": "x", "outs": [{"path": path, "md5": "0" * 32} for path in paths]} for name, paths in outs.items()
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": record}))
    for (path,) in outs.values():
        if present:
            (root / path).mkdir(parents=True, exist_ok=True)


ALL = ("check", "aoi", "export", "annotations", "chips", "train", "evaluate", "infer")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom sandwatch.cli import main\nsys.argv = ['sandwatch', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('imported:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("doctor", "show", "migrate"))
    assert "imported: []" in done.stdout


def test_doctor_on_a_fresh_clone_says_repro(clone, monkeypatch, capsys):
    code, out, err = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (0, "")
    assert "torch" in out
    assert "synthetic" in out
    assert "core.remote                    none: sandwatch remote gs://<bucket>/<folder>" in out
    assert "pre-commit                     none" in out
    assert out.rstrip().endswith("dvc repro, to run check, aoi, export, annotations, chips, train, evaluate, infer")


def test_doctor_finds_credentials_and_never_shows_them(clone, tmp_path, monkeypatch, capsys):
    key = tmp_path / f"{SECRET}.json"
    key.write_text(SECRET)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("LABELBOX_API_KEY", SECRET)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", SECRET)
    for path in (".config/earthengine/credentials", ".config/gcloud/application_default_credentials.json"):
        file = tmp_path / "home" / path
        file.parent.mkdir(parents=True)
        file.write_text(SECRET)
    (clone / ".dvc/config").write_text(
        f"[core]\n    remote = web\n['remote \"web\"']\n    url = https://me:{SECRET}@host.example/store?sig={SECRET}\n"
    )
    _, out, err = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert SECRET not in out + err
    lines = {line.strip()[3:33].strip(): line for line in out.splitlines()}
    for name in (
        "GOOGLE_APPLICATION_CREDENTIALS", "gcloud application default", "Earth Engine", "GOOGLE_CLOUD_PROJECT",
        "LABELBOX_API_KEY",
    ):  # fmt: skip
        assert lines[name].split() == ["ok", *name.split(), "found"]
    assert "https://host.example/store" in out


def test_doctor_says_that_a_named_credential_file_is_not_there(clone):
    found = examined(clone, {"GOOGLE_APPLICATION_CREDENTIALS": f"/nonexistent/{SECRET}.json"})
    assert (
        found["credentials", "GOOGLE_APPLICATION_CREDENTIALS"].detail
        == "set, but the file that it names does not exist"
    )
    assert found["credentials", "LABELBOX_API_KEY"].detail == "missing"


def test_doctor_shows_the_line_of_a_wrong_key(clone, monkeypatch, capsys):
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("overlap_px: 64", "overlap_px: wide"))
    code, out, _ = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    line = "params.yaml: scoring.overlap_px: got 'wide'; expected a valid integer; edit params.yaml"
    assert f"!! scoring                        {line}" in out
    assert out.rstrip().endswith(f"solve params.yaml, scoring: {line}")


@pytest.mark.parametrize(
    ("text", "message"),
    [("infer: [1\nmodel: 2", r"params.yaml: got expected ',' or .* in line 2"), ("", r"params.yaml: got NoneType")],
)
def test_doctor_refuses_params_that_are_no_yaml(clone, text, message):
    (clone / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        doctor.examine(clone, {}, clone)


def test_doctor_outside_a_clone_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (1, "")
    assert (
        err == "error: this folder: got no params.yaml; expected a clone of sandwatch; change into the clone's root\n"
    )


@pytest.mark.parametrize(
    ("section", "source", "file"),
    [("imagery", "files", "imagery/scenes.csv"), ("annotations", "labelbox_export", "annotations/export.ndjson")],
)
def test_doctor_misses_the_files_of_a_source(clone, section, source, file):
    params = clone / "params.yaml"
    text = params.read_text()
    values = yaml.safe_load(text)
    values[section]["source"] = source
    params.write_text(yaml.safe_dump(values))
    finding = examined(clone)["sources", section]
    assert (finding.state, finding.detail) == ("problem", f"{source}, but data/regions/sample/{file} is missing")
    path = clone / "data" / "regions" / "sample" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert examined(clone)["sources", section].state == "ok"


def test_doctor_misses_a_region(clone):
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("region: sample", "region: nile"))
    finding = examined(clone)["sources", "region"]
    assert finding.state == "problem"
    assert finding.detail.startswith("data/regions/nile/sites.csv is missing")


def test_next_is_what_is_not_done(clone):
    lock(clone, ALL[:4])
    findings = doctor.examine(clone, {}, clone)
    assert doctor.next_step(findings) == "dvc repro, to run chips, train, evaluate, infer"


def test_next_is_to_look_when_all_is_done(clone):
    lock(clone, ALL)
    assert doctor.next_step(doctor.examine(clone, {}, clone)).startswith("sandwatch show <obs_id>")


def test_next_is_to_pull_where_a_remote_can_have_the_outputs(clone):
    lock(clone, ALL, present=False)
    assert doctor.next_step(doctor.examine(clone, {}, clone)).startswith("dvc repro, to run check, aoi")
    remote.set_default(clone, "gs://sand/dvc")
    assert doctor.next_step(doctor.examine(clone, {}, clone)).startswith("dvc pull, to fetch the outputs of check, aoi")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("stages:\n", "stages:\n<<<<<<< HEAD\n=======\n>>>>>>> theirs\n"),
        lambda text: text[: text.rindex("md5") + 3],
        lambda text: text + "\0",
        lambda text: "",
        lambda text: "[" * 400,
        lambda text: "stages: 3",
    ],
)
def test_a_dvc_lock_that_is_none_is_a_problem_by_name(clone, spoil, monkeypatch, capsys):
    lock(clone, ALL)
    (clone / "dvc.lock").write_text(spoil((clone / "dvc.lock").read_text()))
    code, out, err = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (1, "")
    assert "!! dvc.lock" in out
    assert "git checkout dvc.lock" in out.splitlines()[-1]


def test_a_dvc_yaml_that_is_none_is_a_problem_by_name(clone):
    (clone / "dvc.yaml").write_text("stages: [")
    assert examined(clone)["stages", "dvc.yaml"].state == "problem"
    (clone / "dvc.yaml").write_bytes(b"stages: \xff")
    assert examined(clone)["stages", "dvc.yaml"].state == "problem"


def test_doctor_says_what_others_wrote_without_doing_it(clone, monkeypatch, capsys):
    (clone / "params.yaml").write_text((clone / "params.yaml").read_text() + '"a\\e[2J\\u202eb": 1\n')
    code, out, _ = call("doctor", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "a�[2J�b" in out
    assert "\x1b" not in out


def test_a_broken_dvc_config_is_a_problem(clone):
    (clone / ".dvc/config").write_text("[core\n")
    finding = examined(clone)["DVC remote", ".dvc/config"]
    assert finding.state == "problem"


def test_an_example_that_became_the_default_is_no_remote(clone):
    config = clone / ".dvc/config"
    config.write_text(config.read_text().replace("[core]\n", "[core]\n    remote = storage\n"))
    finding = examined(clone)["DVC remote", "storage"]
    assert finding.state == "missing"
    assert "gs://YOUR-BUCKET/sandwatch', whose bucket has a name that no bucket can have" in finding.detail


def test_remote_says_what_it_did_and_what_comes_next(clone, monkeypatch, capsys):
    code, out, err = call("remote", "gs://sand/dvc/", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == ".dvc/config: the default remote is storage, gs://sand/dvc"
    assert "git commit .dvc/config" in out
    assert "gcloud auth application-default login" in out
    assert examined(clone)["DVC remote", "storage"] == doctor.Finding("DVC remote", "storage", "ok", "gs://sand/dvc")
    _, out, _ = call("remote", "gs://other/dvc", monkeypatch=monkeypatch, capsys=capsys)
    assert out.splitlines()[0] == "the default remote was storage, gs://sand/dvc; what lies there stays there"


def test_a_bad_remote_is_one_line(clone, monkeypatch, capsys):
    code, out, err = call("remote", f"gs://me:{SECRET}@sand/dvc", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: address of the remote: got one with a user, a port, a query or a fragment")
    assert SECRET not in err


def test_params_says_every_fault_on_a_line_of_its_own(clone, monkeypatch, capsys):
    assert call("params", monkeypatch=monkeypatch, capsys=capsys)[::2] == (0, "")
    path = clone / "params.yaml"
    path.write_text(
        path.read_text().replace("learning_rate:", "learning_rte:").replace("match_iou: 0.1", "match_iou: 2")
    )
    code, out, err = call("params", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (1, "")
    unknown, missing, wrong = err.splitlines()
    assert unknown.startswith("error: params.yaml: train.learning_rte: got a key that does not exist")
    assert unknown.endswith("; did you mean learning_rate? correct or remove it")
    assert missing.startswith("error: params.yaml: train.learning_rate: got nothing")
    assert wrong.startswith("error: params.yaml: evaluate.match_iou: got 2; expected less than or equal to 1")


def test_params_outside_a_clone_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("params", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert err == (
        "error: params.yaml: got No such file or directory; expected the params of a clone; "
        "change into the clone's root\n"
    )


@pytest.mark.parametrize("section", ["aoi", "imagery", "annotations"])
def test_doctor_survives_a_section_that_is_none(clone, section):
    values = yaml.safe_load((clone / "params.yaml").read_text())
    (clone / "params.yaml").write_text(yaml.safe_dump(values | {section: ["x"]}))
    finding = examined(clone)["params.yaml", section]
    assert finding.state == "problem"
    assert finding.detail == f"params.yaml: {section}: got ['x']; expected keys with values; edit params.yaml"


def test_doctor_installs_the_hook(clone, monkeypatch, capsys):
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    code, out, _ = call("doctor", "--hooks", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "ok pre-commit                     refuses a commit of a params.yaml" in out
    assert (clone / ".git/hooks/pre-commit").is_file()


@pytest.fixture
def scene(clone):
    """An exported scene with a label, without prediction."""
    grid = Grid(crs="EPSG:32644", left=500_000.0, top=2_500_000.0, width=80, height=60)
    obs_id = "kanhan_2023-02-01"
    rgb = np.stack([np.full((60, 80), value, np.uint8) for value in (200, 40, 90)])
    rgb[:, :20, :10] = 250
    path = clone / "data" / "scenes" / obs_id / "rgb.tif"
    raster.write_cog(path, rgb, grid, bands=("B4", "B3", "B2"), nodata=0)
    row = {
        "obs_id": obs_id, "site_id": "kanhan", "date": "2023-02-01", "product": "rgb", "status": "exported",
        "detail": None, "path": f"{obs_id}/rgb.tif", "bands": "red,green,blue", "crs": grid.crs,
        "transform": ",".join(str(value) for value in grid.transform[:6]), "width_px": 80, "height_px": 60,
        "dtype": "uint8", "nodata": 0.0, "valid_fraction": 1.0, "source": "synthetic", "source_images": "[]",
        "sha256": sha256(path),
    }  # fmt: skip
    schemas.Scenes.write(pd.DataFrame([row]), clone / "data" / "scenes.parquet")
    square = gpd.GeoSeries([shapely.box(500_200, 2_499_600, 500_500, 2_499_900)], crs=grid.crs).to_crs(4326)
    label = {
        "feature_id": "f1", "label_id": "l1", "obs_id": obs_id, "origin": "real",
        "class_name": "Sand mine", "confidence": "high", "area_m2": 90_000.0,
        "created_by": None, "created_at": None, "updated_at": None, "reviews": "[]",
        "workflow_status": "DONE", "row_sha256": "0" * 64, "label_sha256": "0" * 64, "geometry": square[0],
    }  # fmt: skip
    schemas.Labels.write(gpd.GeoDataFrame([label], crs=4326), clone / "data" / "annotations" / "labels.parquet")
    return clone, obs_id, grid, square[0]


def predict(root, obs_id, grid, polygon):
    folder = root / "data" / "predictions" / obs_id
    score = np.full((1, 60, 80), 9000, np.uint16)
    score[:, :, 60:] = 65535
    raster.write_cog(folder / "score.tif", score, grid, bands=("probability of a mine",), nodata=65535)
    row = {
        "detection_id": f"{obs_id}/00001", "obs_id": obs_id, "site_id": "kanhan", "river": "Kanhan",
        "date": "2023-02-01", "score_mean": 0.9, "score_max": 0.9, "area_m2": 90_000.0, "model_sha256": "0" * 64,
        "label_fingerprint": "0" * 64, "model_imagery": "real", "model_labels": "real", "imagery": "real",
        "scene_sha256": "{}", "geometry": polygon,
    }  # fmt: skip
    schemas.Detections.write(gpd.GeoDataFrame([row], crs=4326), folder / "detections.parquet")


def test_show_draws_a_scene_without_natural_colours(scene, monkeypatch, capsys):
    root, obs_id, grid, _ = scene
    s2 = np.random.default_rng(0).integers(900, 1_100, (3, 60, 80)).astype(np.uint16)
    s2[2, 20:] += 900  # red, in the lower part
    path = root / "data" / "scenes" / obs_id / "s2.tif"
    raster.write_cog(path, s2, grid, bands=("B8", "B11", "B12"), nodata=0)
    manifest = schemas.Scenes.read(root / "data" / "scenes.parquet").assign(
        product="s2", path=f"{obs_id}/s2.tif", bands="B8,B11,B12", dtype="uint16", sha256=sha256(path)
    )
    schemas.Scenes.write(manifest, root / "data" / "scenes.parquet")
    assert call("show", obs_id, monkeypatch=monkeypatch, capsys=capsys)[:2] == (0, f"{obs_id}.png\n")
    drawn = np.asarray(Image.open(root / f"{obs_id}.png").convert("RGB")).astype(int)
    assert (drawn[..., 0] - drawn[..., 1] > 20).mean() > 0.15


@pytest.mark.parametrize(
    ("imagery", "labels", "learnt", "said"),
    [
        ("files", "real", None, None),
        ("synthetic", "real", None, "SYNTHETIC imagery"),
        ("files", "synthetic", ("real", "mixed"), "SYNTHETIC labels, SYNTHETIC in part: training labels"),
        ("synthetic", "synthetic", ("synthetic", "synthetic"), "SYNTHETIC imagery, labels, training imagery and "
         "training labels"),
    ],
)  # fmt: skip
def test_show_says_what_is_invented(scene, monkeypatch, capsys, imagery, labels, learnt, said):
    root, obs_id, grid, polygon = scene
    path = root / "data/scenes.parquet"
    schemas.Scenes.write(schemas.Scenes.read(path).assign(source=imagery), path)
    path = root / "data/annotations/labels.parquet"
    schemas.Labels.write(schemas.Labels.read(path).assign(origin=labels), path)
    if learnt is not None:
        predict(root, obs_id, grid, polygon)
        path = root / "data/predictions" / obs_id / "score.tif"
        tags = dict(zip(("MODEL_IMAGERY", "MODEL_LABELS"), learnt, strict=True))
        raster.write_cog(
            path, raster.read(path, bands=["probability of a mine"]), grid, bands=("probability of a mine",),
            nodata=65535, tags=tags,
        )  # fmt: skip
    told = []
    draw = report.scene_picture
    monkeypatch.setattr(report, "scene_picture", lambda *a, **k: (told.append(k["said"]), draw(*a, **k)))
    assert call("show", obs_id, monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    assert told == [said]


def test_show_draws_a_scene_and_its_prediction_once_there_is_one(scene, monkeypatch, capsys):
    root, obs_id, grid, polygon = scene
    assert call("show", obs_id, monkeypatch=monkeypatch, capsys=capsys)[:2] == (0, f"{obs_id}.png\n")
    alone = np.asarray(Image.open(root / f"{obs_id}.png").convert("RGB"))
    assert (np.abs(alone.astype(int) - (200, 40, 90)).max(axis=2) < 12).mean() > 0.2
    predict(root, obs_id, grid, polygon)
    code, out, _ = call("show", obs_id, "--out", "here/it.png", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (0, "here/it.png\n")
    both = np.asarray(Image.open(root / "here" / "it.png").convert("RGB"))
    assert both.shape[1] > 1.5 * alone.shape[1]


def test_show_draws_the_labels(scene, monkeypatch, capsys):
    root, obs_id, *_ = scene
    call("show", obs_id, monkeypatch=monkeypatch, capsys=capsys)
    (root / "data" / "annotations" / "labels.parquet").unlink()
    call("show", obs_id, "--out", "bare.png", monkeypatch=monkeypatch, capsys=capsys)
    assert (root / f"{obs_id}.png").read_bytes() != (root / "bare.png").read_bytes()


def test_show_names_near_matches_of_an_unknown_observation(scene, monkeypatch, capsys):
    code, out, err = call("show", "kanham_2023-02-01", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (1, "")
    assert err.startswith("error: observation kanham_2023-02-01: got no such picture among the 1 of")
    assert "such as kanhan_2023-02-01;" in err
    assert err.count("\n") == 1


def test_show_before_any_export_is_one_line(clone, monkeypatch, capsys):
    code, _, err = call("show", "kanhan_2023-02-01", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert err.startswith("error: data/scenes.parquet: got")
    assert err.count("\n") == 1


def test_migrate_refuses_a_folder_without_the_predecessors_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "old").mkdir()
    code, _, err = call("migrate", str(tmp_path / "old"), str(tmp_path / "new"), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert err.startswith(f"error: {tmp_path / 'old'}: got no raster of an observation")
    assert err.count("\n") == 1


def test_migrate_says_what_it_made_and_what_comes_next(tmp_path, monkeypatch, capsys):
    real = ROOT.parent / "shared" / "data" / "real_labels"
    if not real.is_dir():
        pytest.skip(f"SKIPPED LOUDLY: {real} is missing, so no real files to migrate")
    region = tmp_path / "regions" / "real"
    code, out, _ = call("migrate", str(real), str(region), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "2 sites, 2 rasters, 2 annotation files" in out
    assert out.splitlines()[-1].startswith("next: in params.yaml set region: real, imagery.source: files")
    assert (region / "sites.csv").is_file()


def test_doctor_says_what_earth_engine_lacks(clone):
    params = clone / "params.yaml"
    values = yaml.safe_load(params.read_text())
    values["imagery"]["source"] = "earthengine"
    values["aoi"]["rivers"] = "jrc_gsw.geojson"
    params.write_text(yaml.safe_dump(values))
    lacking = [finding.detail for finding in doctor.examine(clone, {}, clone.parent) if finding.state == "problem"]
    assert lacking == [
        "data/regions/sample/jrc_gsw.geojson is missing: draw it, or run: sandwatch rivers",
        "no credentials: run: earthengine authenticate",
        "no project: run: export GOOGLE_CLOUD_PROJECT=<id>",
    ]
    key = clone / "key.json"
    key.write_text(SECRET)
    given = {"GOOGLE_APPLICATION_CREDENTIALS": str(key), "GOOGLE_CLOUD_PROJECT": "a-project"}
    found = [finding for finding in doctor.examine(clone, given, clone.parent) if finding.state == "problem"]
    assert [finding.name for finding in found] == ["rivers"]


def test_doctor_says_what_labelbox_lacks(clone):
    params = clone / "params.yaml"
    values = yaml.safe_load(params.read_text())
    values["annotations"] |= {"source": "labelbox", "labelbox_project": ""}
    params.write_text(yaml.safe_dump(values))
    lacking = [finding.detail for finding in doctor.examine(clone, {}, clone.parent) if finding.state == "problem"]
    assert lacking == [
        "no key: run: export LABELBOX_API_KEY=<key>",
        "no project: set annotations.labelbox_project in params.yaml to the id in the project's address",
    ]
    values["annotations"]["labelbox_project"] = "clproject"
    params.write_text(yaml.safe_dump(values))
    findings = doctor.examine(clone, {"LABELBOX_API_KEY": SECRET}, clone.parent)
    assert [finding for finding in findings if finding.state == "problem"] == []
    assert SECRET not in str(findings)


def test_finished_work_that_is_kept_is_measured_and_removed(clone, monkeypatch, capsys):
    kept = Work(work.place(), "code")
    kept.put_bytes(kept.key(1), b"0" * 2_000_000, "state")
    status, said, _ = call("cache", monkeypatch=monkeypatch, capsys=capsys)
    assert (status, said.split(" of at most ")[0]) == (0, ".cache/sandwatch/work: 2.0 MB")
    assert call("cache", "--prune", monkeypatch=monkeypatch, capsys=capsys)[1] == (
        ".cache/sandwatch/work: 2.0 MB removed\n"
    )
    assert call("cache", monkeypatch=monkeypatch, capsys=capsys)[1].startswith(".cache/sandwatch/work: 0.0 MB")
    assert kept.take_bytes(kept.key(1), "state") is None
