"""The whole pipeline through Earth Engine, a bucket and Labelbox, all three on loopback: ``make cloud``.

The real client libraries talk to the servers of ``tests/servers``. Earth Engine holds the painted world as images of
Sentinel-1 and 2; the annotators of Labelbox have drawn the mines that were painted. In a repository of its own under
.cloud/ the seven stages run, DVC pushes to the bucket, and a second clone pulls. What was to be shown is compared and
told in one line each; the first that doesn't hold ends the run with status 1.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
import yaml
from shapely.geometry import box

from sandwatch import params, raster, schemas
from sandwatch.annotations import synthetic
from sandwatch.annotations.params import Annotations
from sandwatch.grid import Grid
from sandwatch.imagery import Raster, Site, river_lines, sites
from sandwatch.imagery.params import Synthetic
from sandwatch.imagery.synthetic import Painter

from .integration.conftest import ROOT, Workspace, small_copy
from .leaks import leaks
from .servers.earthengine import EarthEngine, serve_earthengine
from .servers.ee_scenes import S2_RESOLUTIONS, Catalogue, Layer, StoredImage
from .servers.gcs import Gcs, serve_gcs
from .servers.labelbox import Labelbox, Project, serve_labelbox

STAGES = ("aoi", "export", "annotations", "chips", "train", "evaluate", "infer")
PROJECT = "clproject0000000000000001"
EXPORTS, STORAGE = "sand-exports", "sand-storage"
"""Buckets: what Earth Engine and the annotators exchange with us, and DVC's remote."""
S2, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD_FLOAT"
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
CLEAR = 0.6
PARAMS: dict[str, dict[str, Any]] = {
    "imagery": {"source": "earthengine"},
    "earthengine": {"transfer": "batch", "bucket": EXPORTS, "clear_threshold": CLEAR},
    "annotations": {"source": "labelbox", "labelbox_project": PROJECT, "snapshot": "autumn-1"},
    "train": {"epochs": 5, "windows_per_epoch": 48},
}
Pixels = npt.NDArray[Any]


class NotProvenError(Exception):
    """What was to be shown does not hold."""


def main() -> None:
    """Runs everything under .cloud/, from nothing."""
    folder = ROOT / ".cloud"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Run.servers(folder) as run:
            run.everything()
    except NotProvenError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@dataclass(kw_only=True)
class Run:
    """One run of everything.

    Attributes:
        folder: holds the repository ``work``, its clone ``colleague``, ``logs``, and what programs leave in their home.
        engine, gcs, labelbox: the servers.
        environment: of every command.
        secrets: what each is called -> its value, made up for this run alone.
        proven: what was shown so far.
    """

    folder: Path
    engine: EarthEngine
    gcs: Gcs
    labelbox: Labelbox
    environment: dict[str, str]
    secrets: dict[str, str]
    proven: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    @classmethod
    @contextmanager
    def servers(cls, folder: Path) -> Iterator[Run]:
        """Starts the servers, with secrets made up for this run; they end with the block."""
        values = {
            name: f"FAKE-{name.upper().replace(' ', '-')}-{secrets.token_hex(12)}"
            for name in ("api key", "link signature", "imagery token", "access token", "key id")
        }
        with ExitStack() as stack:
            gcs = stack.enter_context(serve_gcs(EXPORTS, STORAGE))
            engine = stack.enter_context(serve_earthengine(Catalogue(), storage_client=gcs.client()))
            labelbox = stack.enter_context(serve_labelbox(Project(id=PROJECT), api_key=values["api key"]))
            labelbox.link_signature, engine.token = values["link signature"], values["access token"]
            home, temporary = folder / "home", folder / "tmp"
            for path in (home, temporary, folder / "logs"):
                path.mkdir(parents=True)
            # The user's own file, away from what is looked through for secrets.
            keys = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            key = engine.write_key(keys / "key.json", key_id=values["key id"])
            values["private key"] = json.loads(key.read_text())["private_key"].splitlines()[3]
            environment = {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": "src",
                "HOME": str(home),
                "TMPDIR": str(temporary),
                "DVC_SITE_CACHE_DIR": str(folder / "site"),
                "GIT_AUTHOR_NAME": "sandwatch",
                "GIT_AUTHOR_EMAIL": "sandwatch@localhost",
                "GIT_COMMITTER_NAME": "sandwatch",
                "GIT_COMMITTER_EMAIL": "sandwatch@localhost",
                "GOOGLE_APPLICATION_CREDENTIALS": str(key),
                "GOOGLE_CLOUD_PROJECT": engine.project,
                "SANDWATCH_EARTHENGINE_URL": engine.url,
                "SANDWATCH_WAIT_FACTOR": "0.001",
                **gcs.environment,
                **labelbox.environment,
            }
            yield cls(folder=folder, engine=engine, gcs=gcs, labelbox=labelbox, environment=environment, secrets=values)

    def everything(self) -> None:
        """All of it, in the order of a user's work."""
        work = self.prepare()
        self.call(work, "dvc", "repro", "-q", "aoi")
        world = World.painted(work)
        self.engine.catalogue.collections.update(world.catalogue.collections)

        self.call(work, "dvc", "repro", "export")
        self.check_scenes(work, world)
        self.call(work, "sandwatch", "labelbox", "push", f"gs://{EXPORTS}/rgb", "--links", "public")
        self.annotate(work)
        self.call(work, "sandwatch", "doctor")
        self.call(work, "dvc", "repro")
        self.check_results(work)
        self.call(work, "sandwatch", "labelbox", "suggest", "--budget", "2")
        project = self.labelbox.projects[PROJECT]
        self.prove(
            project.prelabels and len(project.batches) == 1,
            f"the model's guesses wait for the annotators on {len(project.prelabels)} pictures",
        )
        self.call(work, "sandwatch", "remote", f"gs://{STORAGE}/dvc")
        self.commit(work, "Seven stages, and the bucket that holds them")

        self.point_at_the_emulator(work)
        self.call(work, "dvc", "push")
        colleague = self.folder / "colleague"
        self.call(self.folder, "git", "clone", "-q", str(work), str(colleague))
        self.point_at_the_emulator(colleague)
        self.check_clone(colleague, "a clone pulls from gs:// and dvc repro does nothing: no call reaches a service")
        self.check_collection(work, colleague)
        self.check_secrets()

    def prepare(self) -> Path:
        """A small copy of this working tree, as a git repository."""
        work = self.folder / "work"
        work.mkdir()
        small_copy(work).set_params(PARAMS)
        self.call(work, "git", "init", "-q", "-b", "main")
        self.commit(work, "Start")
        return work

    def call(self, where: Path, *command: str) -> str:
        """Runs a command, shows what it prints, and keeps that under logs.

        Raises:
            NotProvenError: it failed.
        """
        print(f"$ {' '.join(command)}", flush=True)
        lines = []
        with subprocess.Popen(
            command, cwd=where, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                print(f"    {line}", end="", flush=True)
        logs = self.folder / "logs"
        (logs / f"{len(list(logs.iterdir())):02d} {command[0]}.log").write_text("".join(lines))
        if process.returncode:
            raise NotProvenError(f"{' '.join(command)} ended with status {process.returncode}")
        return "".join(lines)

    def commit(self, where: Path, message: str) -> None:
        """Commits everything that git doesn't ignore."""
        self.call(where, "git", "add", "-A")
        self.call(where, "git", "commit", "-q", "-m", message)

    def prove(self, holds: object, line: str) -> None:
        """Tells what was shown.

        Raises:
            NotProvenError: it was not.
        """
        if not holds:
            raise NotProvenError(f"not so: {line}")
        self.proven.append(line)
        print(f"PROVEN after {time.monotonic() - self._start:.0f} s: {line}", flush=True)

    def annotate(self, work: Path) -> None:
        """The annotators draw on what was pushed, and the project's export holds it."""
        labelled = synthetic.rows(
            schemas.Aoi.read(work / "data" / "aoi" / "aoi.parquet"),
            work / "data" / "regions" / "sample" / "rivers.geojson",
            schemas.Scenes.read(work / "data" / "scenes.parquet"),
            params.read(work / "params.yaml", Synthetic),
            params.read(work / "params.yaml", Annotations),
        )
        pushed = self.labelbox.data_rows
        self.prove(
            {row["data_row"]["global_key"] for row in labelled} <= pushed.keys(),
            f"{len(pushed)} pictures are data rows of Labelbox, those of the {len(labelled)} labelled rows among them",
        )
        for row in labelled:
            (made,) = row["projects"].values()
            row["projects"] = {PROJECT: made}
            token = self.secrets["imagery token"]
            row["data_row"]["row_data"] = row["data_row"]["row_data"].replace(".png", f".png?access_token={token}")
        self.labelbox.projects[PROJECT].export = b"".join(json.dumps(row).encode() + b"\n" for row in labelled)

    def check_scenes(self, work: Path, world: World) -> None:
        """What came out is what Earth Engine holds."""
        manifest = schemas.Scenes.read(work / "data" / "scenes.parquet")
        exported = manifest[(manifest["status"] == "exported") & (manifest["product"] != "rgb")]
        started = self.engine.started()
        self.prove(
            len(started) == len(set(started)) == len(exported),
            f"each of {len(exported)} composites was one export task, started once",
        )
        seen = {1: 0, 3: 0}
        for row in exported[exported["product"] == "s2"].itertuples():
            images = world.images[row.obs_id, "s2"]
            seen[len(images)] += _check_s2(work / "data" / "scenes" / row.path, row.bands.split(","), world, images)
        self.prove(seen[1], f"scenes of one image equal it pixel for pixel on the 10 m bands ({seen[1]} values)")
        self.prove(seen[3], f"scenes of three images are numpy's median of the clear pixels ({seen[3]} values)")
        radar = sum(
            _check_s1(work / "data" / "scenes" / row.path, row.bands.split(","), world.images[row.obs_id, "s1"])
            for row in exported[exported["product"] == "s1"].itertuples()
        )
        self.prove(radar, f"backscatter is numpy's mean in linear power, in dB ({radar} values)")

    def check_results(self, work: Path) -> None:
        """The stages are done, the labels are the export's, and something was learnt."""
        lock = yaml.safe_load((work / "dvc.lock").read_text())["stages"]
        self.prove(tuple(lock) == STAGES, f"{len(STAGES)} stages done: {', '.join(STAGES)}")
        partial = [path for top in ("data", "results", "models") for path in (work / top).rglob("*.partial*")]
        self.prove(not partial, "nothing partial is left")
        exports = self.labelbox.started("export-data-rows")
        lines = self.labelbox.projects[PROJECT].export.splitlines()
        snapshot = (work / "data" / "annotations" / "export.ndjson").read_bytes().splitlines()
        labels = json.loads((work / "results" / "annotations" / "metrics.json").read_text())
        self.prove(
            len(exports) == 1 and len(snapshot) == len(lines) == labels["rows"] and labels["labels"] > 0,
            f"one Labelbox export of {len(lines)} rows, {labels['labels']} polygons kept, "
            f"{labels['quarantined_labels']} in quarantine",
        )
        found = json.loads((work / "results" / "evaluate" / "metrics.json").read_text())
        self.prove(
            found["ap"] > 1.5 * found["prevalence"],
            f"something was learnt: AP {found['ap']} on the held-out river, where chance is {found['prevalence']}",
        )

    def point_at_the_emulator(self, where: Path) -> None:
        """What DVC needs to find the bucket on loopback."""
        settings = {"endpointurl": self.gcs.url, "allow_anonymous_login": "true", "projectname": "loopback"}
        for name, value in settings.items():
            self.call(where, "dvc", "remote", "modify", "--local", "storage", name, value)

    def check_clone(self, colleague: Path, line: str) -> None:
        """``dvc pull`` brings everything, ``dvc repro`` does nothing."""
        before = len(self.engine.requests), self.labelbox.calls.total()
        self.call(colleague, "dvc", "pull", "-q")
        said = self.call(colleague, "dvc", "repro")
        after = len(self.engine.requests), self.labelbox.calls.total()
        changed = self.call(colleague, "git", "status", "--porcelain")
        self.prove("Data and pipelines are up to date." in said and before == after and not changed, line)

    def check_collection(self, work: Path, colleague: Path) -> None:
        """``dvc gc --cloud`` removes what the workspace no longer needs, and nothing else."""
        Workspace(root=work).set_params({"evaluate": {"bootstrap_samples": 21}})
        self.call(work, "dvc", "repro", "-q")
        self.commit(work, "Other intervals")
        self.call(work, "dvc", "push")
        before = self.stored()
        self.call(work, "dvc", "gc", "--workspace", "--cloud", "--force")
        needed = _needed(work)
        self.prove(
            self.stored() == needed < before,
            f"dvc gc -c leaves the {len(needed)} objects of dvc.lock in the bucket, of {len(before)}",
        )
        self.call(colleague, "git", "pull", "-q")
        self.check_clone(colleague, "what dvc gc -c left is enough for the clone")

    def stored(self) -> set[str]:
        """Hashes of the objects in DVC's remote."""
        names = [blob.name for blob in self.gcs.client().list_blobs(STORAGE)]
        return {"".join(name.split("/")[-2:]) for name in names if "/files/md5/" in name}

    def check_secrets(self) -> None:
        """None of the secrets is anywhere."""
        found = self.scan()
        line = f"none of {len(self.secrets)} secrets in repositories, logs, tables and stored URLs"
        self.prove(not found, f"{line}: {', '.join(found)}" if found else line)

    def scan(self) -> list[str]:
        """Where secrets are: the repositories with their history and caches, logs, homes, the bucket, stored URLs."""
        stored = {
            f"gs://{bucket}/{name}": content
            for bucket in (EXPORTS, STORAGE)
            for name, content in self.gcs.objects(bucket).items()
        }
        rows = {f"data row {key}": json.dumps(row).encode() for key, row in self.labelbox.data_rows.items()}
        queued = {"pre-labels": json.dumps(self.labelbox.projects[PROJECT].prelabels).encode()}
        return leaks(self.secrets, [self.folder], {**stored, **rows, **queued})


@dataclass(frozen=True, kw_only=True)
class World:
    """The painted world as Earth Engine holds it.

    Attributes:
        catalogue: all images.
        images: (obs_id, product) -> those of the month.
        scores: Cloud Score+ by the index of its Sentinel-2 image.
    """

    catalogue: Catalogue
    images: dict[tuple[str, str], list[StoredImage]]
    scores: dict[str, Layer]

    @classmethod
    def painted(cls, work: Path) -> World:
        """Images of the sites and months of ``work``: of every other observation one, of the others three."""
        world = cls(catalogue=Catalogue(), images={}, scores={})
        places = sites(schemas.Aoi.read(work / "data" / "aoi" / "aoi.parquet"))
        bands = params.read(work / "params.yaml", params.Bands)
        paint = Painter(
            rivers=river_lines(work / "data" / "regions" / "sample" / "rivers.geojson", places),
            bands=bands,
            synthetic=params.read(work / "params.yaml", Synthetic),
        )
        for number, (site, month) in enumerate((one, month) for one in places for month in one.months):
            made = paint(site, month)
            obs_id = f"{site.site_id}_{month.isoformat()}"
            assert isinstance(made.s2, Raster)
            assert isinstance(made.s1, Raster)
            rng = np.random.default_rng(number)
            for day in ((13,), (3, 13, 23))[number % 2]:
                moment = datetime(month.year, month.month, day, 5, 30, tzinfo=UTC)
                world._add_s2(obs_id, site, bands.s2, made.s2.pixels, moment, f"T{number:02d}SYN", rng)
            for day, gain in (((6, 1.0),), ((6, 0.9), (18, 1.1)))[number % 2]:
                moment = datetime(month.year, month.month, day, 12, 30, tzinfo=UTC)
                world._add_s1(obs_id, site, bands.s1, made.s1.pixels, moment, gain, number)
        return world

    def _add_s2(
        self,
        obs_id: str,
        site: Site,
        bands: tuple[str, ...],
        pixels: Pixels,
        moment: datetime,
        tile: str,
        rng: np.random.Generator,
    ) -> None:
        """An image: the painted month with a little noise, the painter's clouds, and one cloud of its own."""
        height, width = site.grid.shape
        cloudy = (pixels == 0).any(axis=0)
        row, col = rng.integers(0, height // 2), rng.integers(0, width // 2)
        cloudy[row : row + height // 5, col : col + width // 4] = True
        noisy = np.clip(pixels + np.rint(rng.normal(0.0, 12.0, pixels.shape)), 0, 16_000)
        noisy[:, cloudy] = rng.integers(6_000, 12_000, (len(bands), int(cloudy.sum())))
        score = np.where(cloudy, rng.uniform(0.0, 0.5, cloudy.shape), rng.uniform(0.65, 1.0, cloudy.shape))
        index = f"{moment:%Y%m%dT%H%M%S}_{moment:%Y%m%dT%H%M%S}_{tile}"
        layers = {
            band: _layer(noisy[number].astype(np.uint16), site.grid, S2_RESOLUTIONS[band])
            for number, band in enumerate(bands)
        }
        properties = {"CLOUDY_PIXEL_PERCENTAGE": 10.0, "PROCESSING_BASELINE": "05.09"}
        image = StoredImage(index, layers, properties, moment, _footprint(site.grid))
        self.images.setdefault((obs_id, "s2"), []).append(self.catalogue.add(S2, image))
        self.scores[index] = _layer(score, site.grid, 10)
        self.catalogue.add(CLOUD_SCORE, StoredImage(index, {"cs": self.scores[index]}, {}, moment, image.footprint))

    def _add_s1(
        self,
        obs_id: str,
        site: Site,
        bands: tuple[str, ...],
        pixels: Pixels,
        moment: datetime,
        gain: float,
        number: int,
    ) -> None:
        """A pass of Sentinel-1 in linear power."""
        power = (gain * 10.0 ** (pixels.astype(np.float64) / 10.0)).astype(np.float32)
        layers = {band: _layer(power[band_number], site.grid, 10) for band_number, band in enumerate(bands)}
        properties = {
            "instrumentMode": "IW",
            "transmitterReceiverPolarisation": ["VV", "VH"],
            "orbitProperties_pass": "ASCENDING",
        }
        index = f"S1A_IW_GRDH_1SDV_{moment:%Y%m%dT%H%M%S}_{number:02d}"
        image = StoredImage(index, layers, properties, moment, _footprint(site.grid))
        self.images.setdefault((obs_id, "s1"), []).append(self.catalogue.add(S1, image))


def _layer(pixels: Pixels, grid: Grid, resolution: int) -> Layer:
    """A band on a tile that begins at multiples of 60 m, as Sentinel-2's do; coarse ones keep a pixel in each block."""
    left, top = grid.left // 60 * 60, -(-grid.top // 60) * 60
    before = int(top - grid.top) // 10, int(grid.left - left) // 10
    size = [-(-(start + length) // 6) * 6 for start, length in zip(before, grid.shape, strict=True)]
    padding = [(start, whole - start - length) for start, length, whole in zip(before, grid.shape, size, strict=True)]
    step = resolution // 10
    values = np.pad(pixels, padding, mode="edge")[::step, ::step]
    return Layer(values, np.ones(values.shape, bool), grid.crs, left, top, resolution)


def _footprint(grid: Grid) -> shapely.geometry.base.BaseGeometry:
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform
    return shapely.transform(box(*grid.bounds), to_degrees, interleaved=False)


def _held(layer: Layer, grid: Grid) -> Pixels:
    """The stored pixels under a grid, each repeated over the 10 m pixels that it covers, without the server's help."""
    times = int(layer.resolution // 10)
    row, col = int(layer.top - grid.top) // 10, int(grid.left - layer.left) // 10
    repeated = layer.values.repeat(times, axis=0).repeat(times, axis=1)
    return repeated[row : row + grid.height, col : col + grid.width]


def _check_s2(path: Path, bands: list[str], world: World, images: list[StoredImage]) -> int:
    """Compares a scene with the images that it was made of; returns how many values were compared.

    Raises:
        NotProvenError: one differs.
    """
    grid = raster.read_grid(path)
    scene = raster.read(path, bands=tuple(bands), grid=grid)
    clear = np.stack([_held(world.scores[image.index], grid) >= CLEAR for image in images])
    compared = 0
    for number, band in enumerate(bands):
        held = np.stack([_held(image.layers[band], grid) for image in images])
        if len(images) == 1:
            expected = np.where(clear[0], np.maximum(held[0], 1), 0)
        else:
            seen = clear.any(axis=0)
            median = np.nanmedian(np.where(clear, held, np.where(seen, np.nan, 0.0)), axis=0)
            expected = np.where(seen, np.maximum(np.floor(median + 0.5), 1), 0)
        if not np.array_equal(scene[number], expected):
            raise NotProvenError(f"{path}: {int((scene[number] != expected).sum())} pixels of {band} differ")
        compared += int((expected > 0).sum()) if S2_RESOLUTIONS[band] == 10 or len(images) > 1 else 0
    return compared


def _check_s1(path: Path, bands: list[str], images: list[StoredImage]) -> int:
    """As :func:`_check_s2`."""
    grid = raster.read_grid(path)
    scene = raster.read(path, bands=tuple(bands), grid=grid)
    for number, band in enumerate(bands):
        power = np.mean([_held(image.layers[band], grid).astype(np.float64) for image in images], axis=0)
        expected = np.round(10.0 * np.log10(power.astype(np.float32).astype(np.float64)), 2).astype(np.float32)
        if not np.array_equal(scene[number], expected):
            raise NotProvenError(f"{path}: {int((scene[number] != expected).sum())} pixels of {band} differ")
    return int(scene.size)


def _needed(work: Path) -> set[str]:
    """Hashes of everything that dvc.lock names, the files of folders included."""
    stages: Mapping[str, Any] = yaml.safe_load((work / "dvc.lock").read_text())["stages"]
    hashes = {out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    for folder in [one for one in hashes if one.endswith(".dir")]:
        listing = work / ".dvc" / "cache" / "files" / "md5" / folder[:2] / folder[2:]
        hashes |= {entry["md5"] for entry in json.loads(listing.read_text())}
    return hashes


if __name__ == "__main__":
    main()
