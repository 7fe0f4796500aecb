"""What ``sandwatch doctor`` finds out about a checkout: what is installed, configured and done, and what comes next."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandwatch import hooks, params, remote
from sandwatch.audit.history import LOCK, Lock
from sandwatch.errors import InputError
from sandwatch.params import load_yaml

PACKAGES = (
    "dvc", "dvclive", "geopandas", "lightning", "numpy", "pandera", "pystac", "rasterio", "segmentation-models-pytorch",
    "shapely", "torch", "torchvision",
)  # fmt: skip
State = Literal["ok", "missing", "problem"]
EMPTY = "schema: '2.0'\nstages: {}\n"
OUTPUTS_ABSENT = "recorded in dvc.lock, outputs not here"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: the heading that it stands under.
        name: what was looked at.
        state: ``ok``, ``missing`` (fine unless wanted) or ``problem`` (nothing runs before it is solved).
        detail: in words; never the value of a credential.
    """

    topic: str
    name: str
    state: State
    detail: str


def examine(root: Path, environment: Mapping[str, str], home: Path) -> list[Finding]:
    """Looks at everything but the network.

    Args:
        root: of the checkout, with params.yaml and dvc.yaml.
        environment: of the process.
        home: the user's folder, where the clients of the clouds keep credentials.

    Raises:
        InputError: ``root`` holds no params.yaml or no dvc.yaml, or params.yaml is no YAML.
    """
    for name in ("params.yaml", "dvc.yaml"):
        if not (root / name).is_file():
            raise InputError(
                "this folder", got=f"no {name}", expected="a clone of sandwatch", fix="change into the clone's root"
            )
    values = params.read_file(root / "params.yaml")
    return [
        *_installed(),
        *_params(root),
        *_sources(root, values),
        *_earthengine(values, environment, home),
        *_labelbox(values, environment),
        *_credentials(environment, home),
        *_remote(root),
        *_hook(root),
        *_stages(root),
    ]


def next_step(findings: list[Finding]) -> str:
    """The next command, and why."""
    for finding in findings:
        if finding.state == "problem":
            return f"solve {finding.topic}, {finding.name}: {finding.detail}"
    stages = [finding for finding in findings if finding.topic == "stages"]
    waiting = [stage.name for stage in stages if stage.state != "ok"]
    if not waiting:
        return "sandwatch show <obs_id>, to look at a scene; dvc repro, after a change"
    remote = any(finding.topic == "DVC remote" and finding.state == "ok" for finding in findings)
    if remote and all(stage.detail == OUTPUTS_ABSENT for stage in stages if stage.state != "ok"):
        return f"dvc pull, to fetch the outputs of {', '.join(waiting)}; or dvc repro, to compute them"
    return f"dvc repro, to run {', '.join(waiting)}"


def _installed() -> Iterator[Finding]:
    yield Finding("installed", "Python", "ok", f"{platform.python_version()}, {platform.machine()}")
    for name in PACKAGES:
        try:
            yield Finding("installed", name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("installed", name, "problem", "not installed: make setup, or pip install .")
            if name == "torch":
                return
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        yield Finding("installed", "device", "ok", f"CUDA: {names}")
    else:
        yield Finding("installed", "device", "ok", f"CPU, {torch.get_num_threads()} threads; no CUDA device")


def _params(root: Path) -> Iterator[Finding]:
    from sandwatch.check import SECTIONS

    wrong = params.faults(root, SECTIONS)
    for fault in wrong:
        section = fault.what.removeprefix("params.yaml: ").partition(".")[0]
        yield Finding("params.yaml", section, "problem", str(fault))
    if not wrong:
        yield Finding("params.yaml", "all sections", "ok", ", ".join(sorted(model.section for model in SECTIONS)))


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A section as it is written; empty where it is none, which :func:`_params` tells."""
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _sources(root: Path, values: dict[str, Any]) -> Iterator[Finding]:
    region = root / "data" / "regions" / str(values.get("region"))
    if (region / "sites.csv").is_file():
        sites = len((region / "sites.csv").read_bytes().splitlines()) - 1
        yield Finding("sources", "region", "ok", f"{region.name}: {sites} sites")
    else:
        yield Finding(
            "sources", "region", "problem", f"data/regions/{region.name}/sites.csv is missing: write it, or set region"
        )
    rivers = region / str(_section(values, "aoi").get("rivers"))
    if not rivers.is_file():
        lacking = f"data/regions/{region.name}/{rivers.name} is missing: draw it, or run: sandwatch rivers"
        yield Finding("sources", "rivers", "problem", lacking)
    for section, files in (("imagery", {"files": "scenes.csv"}), ("annotations", {"labelbox_export": "export.ndjson"})):
        source = str(_section(values, section).get("source"))
        needed = files.get(source)
        if needed and not (region / section / needed).is_file():
            lacking = f"{source}, but data/regions/{region.name}/{section}/{needed} is missing"
            yield Finding("sources", section, "problem", lacking)
        else:
            yield Finding("sources", section, "ok", source)


def _earthengine(values: dict[str, Any], environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """What the source ``earthengine`` lacks."""
    if _section(values, "imagery").get("source") != "earthengine":
        return
    if not any(finding.state == "ok" for finding in _google(environment, home)):
        yield Finding("sources", "earthengine", "problem", "no credentials: run: earthengine authenticate")
    if not environment.get("GOOGLE_CLOUD_PROJECT"):
        yield Finding("sources", "earthengine", "problem", "no project: run: export GOOGLE_CLOUD_PROJECT=<id>")


def _labelbox(values: dict[str, Any], environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the source ``labelbox`` lacks."""
    section = _section(values, "annotations")
    if section.get("source") != "labelbox":
        return
    if not environment.get("LABELBOX_API_KEY"):
        yield Finding("sources", "labelbox", "problem", "no key: run: export LABELBOX_API_KEY=<key>")
    if not section.get("labelbox_project"):
        lacking = "no project: set annotations.labelbox_project in params.yaml to the id in the project's address"
        yield Finding("sources", "labelbox", "problem", lacking)


def _credentials(environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Names what is there; no value is ever read into a finding."""
    yield from _google(environment, home)
    for name in ("GOOGLE_CLOUD_PROJECT", "LABELBOX_API_KEY"):
        found = bool(environment.get(name))
        yield Finding("credentials", name, "ok" if found else "missing", "found" if found else "missing")


def _google(environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Credentials with which Google's clients come along."""
    config = Path(environment.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
    given = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    files: dict[str, Path | None] = {
        "GOOGLE_APPLICATION_CREDENTIALS": Path(given) if given else None,
        "gcloud application default": config / "application_default_credentials.json",
        "Earth Engine": home / ".config" / "earthengine" / "credentials",
    }
    for name, path in files.items():
        if path is not None and path.is_file():
            yield Finding("credentials", name, "ok", "found")
        elif path is not None and name.isupper():
            yield Finding("credentials", name, "missing", "set, but the file that it names does not exist")
        else:
            yield Finding("credentials", name, "missing", "missing")


def _remote(root: Path) -> Iterator[Finding]:
    try:
        found = remote.default(root)
    except InputError as error:
        yield Finding("DVC remote", ".dvc/config", "problem", str(error))
        return
    if found is None:
        yield Finding("DVC remote", "core.remote", "missing", "none: sandwatch remote gs://<bucket>/<folder>")
        return
    name, place = found
    try:
        yield Finding("DVC remote", name, "ok", remote.checked(place) if place.startswith("gs://") else place)
    except InputError as error:
        yield Finding("DVC remote", name, "missing", str(error))


def _hook(root: Path) -> Iterator[Finding]:
    if hooks.installed(root):
        yield Finding("git hook", "pre-commit", "ok", "refuses a commit of a params.yaml that no stage would take")
    else:
        yield Finding("git hook", "pre-commit", "missing", "none: sandwatch doctor --hooks")


def _stages(root: Path) -> Iterator[Finding]:
    pipeline = _text(root / "dvc.yaml")
    try:
        defined = load_yaml(pipeline)["stages"]
        # Those of a matrix are there only while sandwatch cv asks for them.
        names = [str(name) for name, stage in dict(defined).items() if "matrix" not in stage]
    except (ValueError, TypeError, KeyError) as error:
        yield Finding("stages", "dvc.yaml", "problem", f"no stages can be read ({error}): git restore dvc.yaml")
        return
    lock = root / LOCK
    try:
        done = Lock(_text(lock) if lock.is_file() else EMPTY)
        outs = {name: stage.outs for name in done.names if (stage := done.stage(name)) is not None}
    except InputError as error:
        detail = f"{error.got}: it is not what DVC writes: git checkout {LOCK} brings back what was committed"
        yield Finding("stages", LOCK, "problem", detail)
        return
    for name in names:
        if name not in outs:
            yield Finding("stages", name, "missing", "not run yet")
        elif all((root / path).exists() for path in outs[name]):
            yield Finding("stages", name, "ok", "outputs are here; dvc status tells whether their inputs have changed")
        else:
            yield Finding("stages", name, "missing", OUTPUTS_ABSENT)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
