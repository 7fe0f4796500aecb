"""A model card in Markdown, as the Hugging Face Hub shows one: from ``model.json`` and the metrics files, and no more.

Every figure stands as its file has it, character for character. Nothing names a person: of labels there are counts and
hashes. What others wrote (names of bands, rivers and weights) is escaped wherever the template puts it.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, for what it tells; Hugging Face Hub
documentation, "Model Cards", for the keys of the front matter.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sandwatch import origin
from sandwatch.errors import InputError
from sandwatch.files import read_json, sha256
from sandwatch.model.card import Card
from sandwatch.printable import markdown, printable

PIXELS = {
    "ap": "average precision (AP)",
    "f1": "F1 at the threshold",
    "precision": "precision",
    "recall": "recall",
    "iou": "IoU",
    "prevalence": "share of mine pixels (AP of guessing)",
    "ap_val": "AP on validation",
    "mines": "mines",
    "mines_found": "mines found",
    "false_alarms_per_100km2": "false alarms per 100 km2",
    "train_test_km": "km between training and test, at least",
}
"""What the figures of results/evaluate/metrics.json are, in the order in which they are told."""
ELSEWHERE = {"ece", "ece_uncalibrated", "threshold", "temperature", "bias", "step"}
"""Figures that have their own place in the text; ``step`` is DVCLive's own count."""
TRAINING = {
    "val_ap": "AP on validation, window by window",
    "val_f1": "F1 on validation",
    "val_loss": "loss on validation",
    "train_loss": "loss on training",
    "best_epoch": "epoch that was kept",
}
"""As :data:`PIXELS`, of results/train/metrics.json."""
LABELS = {
    "observations": "observations (a site and a month) that were looked at",
    "labels": "polygons",
    "labels_high": "of high confidence",
    "labels_low": "of low confidence",
    "negatives": "observations without any mine",
    "mine_area_km2": "km2 of mines",
    "quarantined_rows": "rows put aside as unfit",
    "exclusions": "labels excluded afterwards",
}
"""As :data:`PIXELS`, of results/annotations/metrics.json."""
FOLDS = {
    "windows_train": "windows of training sites",
    "windows_val": "windows that epoch, calibration and threshold were chosen on",
    "windows_test": "windows of test sites",
    "windows_with_mines": "windows with mines, of all folds",
    "train_test_min_distance_km": "km between training and test windows, at least",
}
"""As :data:`PIXELS`, of results/chips/metrics.json."""
HUB_METRICS = {"ap": "average_precision", "f1": "f1", "precision": "precision", "recall": "recall", "iou": "iou"}
"""What the front matter calls them."""
LOW, HIGH = "_low95", "_high95"
"""What the names of the ends of an interval end with."""

Metrics = Mapping[str, float | int | str | None]
Row = tuple[str, object, str]


def model_card(path: Path, results: Path, licence: str | None = None) -> str:
    """The card of a model, as Markdown with YAML front matter. The same files give the same text.

    Args:
        path: of model.json.
        results: folder of what the stages found out; what is not there is not told, and the card says so.
        licence: under which the model is given away, as an identifier of the Hub; None where nobody decided.

    Raises:
        InputError: a file is not what it should be, or the results are those of another model.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    card = Card.read(path)
    stages = ("annotations", "chips", "train", "evaluate")
    found = {stage: _metrics(results / stage / "metrics.json", stage) for stage in stages}
    _same_model(card, found["train"], results / "train" / "metrics.json", {"temperature": 6, "bias": 6, "threshold": 6})
    _same_model(card, found["evaluate"], results / "evaluate" / "metrics.json", {"threshold": 4})
    judged = found["evaluate"] or {}
    said = origin.words(
        imagery=_text(judged.get("imagery")),
        labels=card.labels if judged else None,
        model_imagery=card.imagery,
        model_labels=card.labels,
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=shown,
    )
    body = environment.get_template("model_card.md").render(
        card=card,
        said=said,
        licence=licence,
        found=found,
        tables={
            "labels": _table(found["annotations"], LABELS),
            "folds": _table(found["chips"], FOLDS),
            "train": _table(found["train"], TRAINING),
            "evaluate": _table(found["evaluate"], PIXELS),
        },
        rivers=_rivers(results / "evaluate" / "rivers.csv") if judged else [],
        drawn=origin.drawn(card.labels),
        radar=any(channel.band in ("VV", "VH") for channel in card.channels),
        card_sha256=sha256(path),
    )
    return f"---\n{_front(card, judged, licence, invented=said is not None)}---\n\n{body}"


def shown(value: object) -> str:
    """A value of the template as Markdown: a number as JSON has it, a text with nothing in it that acts."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return markdown(value)


def _metrics(path: Path, stage: str) -> Metrics | None:
    """The figures of a stage, None where there are none."""
    if not path.is_file():
        return None
    check = _judged if stage == "evaluate" else _figures
    return read_json(path, check, expected=f"figures by name, as {stage} wrote them", fix=f"run dvc checkout {stage}")


def _judged(content: Any) -> Metrics:
    figures = _figures(content)
    if figures["imagery"] not in origin.KINDS:
        raise ValueError(f"imagery: {figures['imagery']}")
    return figures


def _figures(content: Any) -> Metrics:
    if not isinstance(content, dict):
        raise TypeError(type(content).__name__)
    for name, value in content.items():
        if not isinstance(value, float | int | str | None) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: {value}")
    return content


def _same_model(card: Card, metrics: Metrics | None, path: Path, digits: Mapping[str, int]) -> None:
    """Makes sure that figures are of this model: these of its own numbers stand among them, rounded.

    Raises:
        InputError: they differ.
    """
    for name, places in digits.items() if metrics is not None else ():
        assert metrics is not None
        if metrics.get(name) != round(getattr(card, name), places):
            raise InputError(
                f"{path}: {name}",
                got=metrics.get(name),
                expected=f"{round(getattr(card, name), places)}, as model.json says, of this very model",
                fix="name the results of this model, or run dvc checkout and dvc repro",
            )


def _table(metrics: Metrics | None, names: Mapping[str, str]) -> list[Row]:
    """Rows of what a figure is, the figure, and its interval; those without a name here under their own, last."""
    if metrics is None:
        return []
    figures = {name: value for name, value in metrics.items() if not isinstance(value, str) and name not in ELSEWHERE}
    ends = {name for name in figures if name.endswith((LOW, HIGH))}
    known = [name for name in names if name in figures]
    others = [] if names in (LABELS, FOLDS) else [name for name in figures if name not in names and name not in ends]
    rows = list[Row]()
    for name in (*known, *others):
        low, high = (figures.get(name + end) for end in (LOW, HIGH))
        interval = "" if low is None or high is None else f"{shown(low)} to {shown(high)}"
        rows.append((names.get(name, name), figures[name], interval))
    return rows


def _rivers(path: Path) -> list[list[str]]:
    """The table of rivers as it stands in its file, head first; nothing where there is none.

    Raises:
        InputError: it is no table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("rows of unequal length")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            str(path), got=str(error)[:300], expected="the table that evaluate wrote", fix="run dvc checkout evaluate"
        ) from None
    return rows


def _front(card: Card, judged: Metrics, licence: str | None, *, invented: bool) -> str:
    """The front matter: what the Hub sorts and finds models by."""
    tags = ["image-segmentation", "remote-sensing", "earth-observation", "sentinel-2"]
    if any(channel.band in ("VV", "VH") for channel in card.channels):
        tags.append("sentinel-1")
    tags += ["sand-mining", card.model.kind, *(["synthetic-data"] if invented else [])]
    figures = [
        {"type": hub, "name": PIXELS[name], "value": judged[name]}
        for name, hub in HUB_METRICS.items()
        if judged.get(name) is not None
    ]
    front: dict[str, Any] = {
        "license": printable(licence or "unknown"),
        "library_name": "sandwatch",
        "pipeline_tag": "image-segmentation",
        "tags": tags,
        "metrics": list(HUB_METRICS.values()),
    }
    if figures:
        kind = {"synthetic": "synthetic imagery", "real": "real imagery", "mixed": "imagery, in part synthetic"}
        dataset = {"name": f"holdout rivers, {kind[str(judged['imagery'])]}", "type": "holdout-rivers"}
        result = {"task": {"type": "image-segmentation"}, "dataset": dataset, "metrics": figures}
        front["model-index"] = [{"name": f"sand mines, {printable(card.title)}", "results": [result]}]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=math.inf)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
