"""An audit as one HTML file that opens anywhere, without a network: for those who hold no clone and trust nobody.

The page's security policy lets the browser run exactly the scripts written into it, known by their hashes, and load
nothing at all from elsewhere: neither a text in a label nor the map's library can make a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sandwatch.audit import map as maps
from sandwatch.audit.record import OWN, USES, WORDS, Audit, source_images
from sandwatch.files import whole

MOST_ROWS = 2_000
"""Rows of a table; a browser still sorts these at once."""
MEANINGS = {
    "trained": "its pixels were drawn in training and counted as mine",
    "left out": "its pixels were drawn, but the method ignores low confidence",
    "never drawn": "it lies in training windows that no epoch drew",
    "validated": "it lies in windows of the validation fold",
    "tested": "it lies in windows of the test fold",
    "no chip": "no pixel of it lies in any window",
}
STAMPS = {
    "verified": ("Verified", "Every link below that was looked at was computed from the files themselves, and holds."),
    "skipped": ("Not looked at", "Nothing was compared."),
    "unverified": ("Can't be seen from here", "No link is broken, but some could not be computed. They are:"),
    "uncommitted": ("Not committed yet", "No link is broken, but no revision holds all of it yet:"),
    "broken": ("Broken", "At least one link of the chain does not hold. The first one that broke:"),
}
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table on the page.

    Attributes:
        head: its title.
        kind: ``text``, ``word`` (on one line), ``number``, ``hash`` (shortened, whole in its title) or ``use``.
        values: a row each.
        below: a second, smaller line in each cell.
    """

    head: str
    kind: str
    values: list[str]
    below: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table on the page.

    Attributes:
        key: its id.
        title: its heading.
        columns: all of the same length.
        total: rows that there are; more than are shown where it was cut.
        order: what was kept where it was cut.
        whole: where the whole of it is.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    total: int
    order: str = ""
    whole: str = ""

    @property
    def cells(self) -> list[tuple[tuple[Column, str, str], ...]]:
        """Rows of (column, value, second line)."""
        lines = [
            [(column, value, below) for value, below in zip(column.values, column.below or [""] * len(column.values),
                                                            strict=True)]
            for column in self.columns
        ]  # fmt: skip
        return list(zip(*lines, strict=True))

    @property
    def shown(self) -> int:
        """Rows on the page."""
        return len(self.columns[0].values)


def write_page(audit: Audit, path: Path) -> None:
    """Writes an audit as a page, whole or not at all."""
    text = page(audit)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def page(audit: Audit) -> str:
    """An audit as HTML; see docs/audit.md."""
    from bokeh.resources import Resources
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    drawing = maps.make(audit)
    scripts = [(ASSETS / "page.js").read_text(encoding="utf-8")]
    data: dict[str, Any] = {}
    if drawing is not None:
        scripts = [*Resources(mode="inline", components=["bokeh"], log_level="error").js_raw, *scripts]
        data = {name: getattr(drawing, name) for name in ("overview", "detail", "places", "pictures")}
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template("page.html").render(
        audit=audit,
        stamp=STAMPS[audit.state],
        words=WORDS,
        stuck=[link for link in audit.links if link.state == audit.state][: 1 if audit.state == "broken" else None],
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src {' '.join(_source(script) for script in scripts)}",
                "style-src 'unsafe-inline'",
                "img-src data: blob:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(_inert(data)),
        map=drawing,
        facts=_facts(audit),
        counts=[
            (f"Training {name}: {of.target}" if audit.starts else "", _counts(of))
            for name, of in audit.trainings.items()
            if of.labels is not None and of.observations is not None
        ],
        uses=[(use, maps.COLOURS[use], MEANINGS[use]) for use in USES],
        colours=maps.COLOURS,
        tables=[table for table in _tables(audit) if table is not None],
    )


def _source(script: str) -> str:
    """What names a script in the policy. Source: Content Security Policy Level 3, hash-source."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _inert(value: Any) -> str:
    """JSON that no parser of HTML sees an end tag or a comment in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number(value: float) -> str:
    """With a narrow space between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def _facts(audit: Audit) -> list[tuple[str, str]]:
    """The model, in words."""
    spec = audit.spec
    if spec is None:
        return []
    return [
        ("Network", spec.title),
        *([("Started from", spec.start.words)] if spec.start is not None else []),
        ("Method", f"{spec.method}; classes {', '.join(spec.classes)}"),
        ("Bands", ", ".join(spec.bands)),
        ("A mine is", f"a score of {spec.threshold:.4f} or more"),
        ("Calibration", f"temperature {spec.temperature:.4f}, bias {spec.bias:.4f}"),
        ("Weights, SHA-256", spec.weights_sha256),
        ("Label fingerprint", spec.label_fingerprint),
        *((f"Label fingerprint of {name}", of.spec.label_fingerprint)
          for name, of in audit.trainings.items() if name != OWN and of.spec is not None),
        *([("Params, SHA-256", audit.card.params_sha256)] if audit.card is not None else []),
        ("Followed at", str(audit.revision) if audit.revision is not None else "no revision"),
        *((f"{name[0].upper()}{name[1:]}", f"{of.target}, followed at {of.revision}: {of.verdict}")
          for name, of in audit.trainings.items() if name != OWN),
        ("Held by", f"{len(audit.holders)} revision{'s' if len(audit.holders) != 1 else ''}, listed below"),
    ]  # fmt: skip


def _counts(audit: Audit) -> list[tuple[str, str, str]]:
    """Of one training: figure, what it counts, and more of it."""
    labels, observations = audit.labels, audit.observations
    assert labels is not None
    assert observations is not None
    people = labels["created_by"].dropna().value_counts().sort_index()
    mines = int(observations["has_mines"].sum())
    negatives = observations[~observations["has_mines"]]
    kept_out = 0 if audit.quarantine is None else int(audit.quarantine["polygons"].sum())
    windows = 0 if audit.windows is None else len(audit.windows)
    drawn = 0 if audit.windows is None else int(audit.windows["draws"].sum())
    who = ", ".join(f"{name} ({_number(count)})" for name, count in people.head(12).items())
    return [
        (_number(len(labels)), "labels", f"in {_number(mines)} observations with mines"),
        *((_number(count), use, MEANINGS[use]) for use, count in audit.uses.items()),
        (_number(len(negatives)), "negatives", f"observations without mines, {_number(int(negatives['draws'].sum()))} "
         "draws of their windows"),
        (_number(windows), "windows", f"drawn {_number(drawn)} times in training"),
        (_number(int(labels["pixels_drawn"].sum())), "label pixels drawn", "in training, as often as they were drawn"),
        (_number(int(labels["positives_drawn"].sum())), "of them as mine", "what the loss saw"),
        (_number(kept_out), "polygons in quarantine", "kept out, reasons below"),
        (_number(len(people)) if len(people) else "?", "annotators",
         (who + (", ..." if len(people) > 12 else "")) or "not recorded"),
    ]  # fmt: skip


def _texts(values: Iterable[Any]) -> list[str]:
    return ["" if value is None or value is pd.NA or value != value else str(value) for value in values]


def _numbers(values: Iterable[Any]) -> list[str]:
    return [_number(value) for value in values]


def _moments(values: Iterable[Any]) -> list[str]:
    """Moments to the minute, as recorded."""
    return [text[:16].replace("T", " ") for text in _texts(values)]


def _cut(table: pd.DataFrame) -> pd.DataFrame:
    return table.head(MOST_ROWS)


def _tables(audit: Audit) -> list[Rows | None]:
    return [
        _labels(audit),
        _negatives(audit),
        _quarantine(audit),
        _imagery(audit),
        _revisions(audit),
        _params(audit),
    ]


def _whole(audit: Audit, option: str) -> str:
    return f"sandwatch audit {audit.target} {option}"


def _of(audit: Audit, rows: pd.DataFrame) -> tuple[Column, ...]:
    """Which training each row is of, where there are several."""
    return (Column(head="Training", kind="word", values=_texts(rows["training"])),) if audit.starts else ()


def _labels(audit: Audit) -> Rows | None:
    labels = audit.all_of("labels")
    if labels is None:
        return None
    order = labels.sort_values(["positives_drawn", "pixels_drawn"], ascending=False, kind="stable")
    rows = _cut(order)
    below = [
        ", ".join(part for part in (status, _reviews(text)) if part)
        for status, text in zip(_texts(rows["workflow_status"]), rows["reviews"], strict=True)
    ]
    return Rows(
        key="labels",
        title="Labels",
        total=len(labels),
        order="those with most pixels drawn as mine",
        whole=_whole(audit, "--csv labels.csv"),
        columns=(
            Column(head="Label", kind="text", values=_texts(rows["feature_id"]), below=_texts(rows["label_id"])),
            *_of(audit, rows),
            Column(head="Observation", kind="text", values=_texts(rows["obs_id"])),
            Column(head="Use", kind="use", values=_texts(rows["use"]), below=_texts(rows["fold"])),
            Column(
                head="Class",
                kind="word",
                values=[f"{name}, {c}" for name, c in zip(rows["class_name"], rows["confidence"], strict=True)],
            ),
            Column(head="Annotator", kind="text", values=_texts(rows["created_by"]), below=below),
            Column(
                head="Created",
                kind="word",
                values=_moments(rows["created_at"]),
                below=[
                    f"updated {after}" if after not in ("", before) else ""
                    for before, after in zip(_moments(rows["created_at"]), _moments(rows["updated_at"]), strict=True)
                ],
            ),
            Column(head="Area, m²", kind="number", values=_numbers(rows["area_m2"].round().astype(np.int64))),
            Column(head="Windows", kind="number", values=_numbers(rows["chips"])),
            *(
                Column(head=f"Pixels {fold}", kind="number", values=_numbers(rows[f"pixels_{fold}"]))
                for fold in ("train", "val", "test")
            ),
            Column(head="Draws", kind="number", values=_numbers(rows["draws"])),
            Column(head="Pixels drawn", kind="number", values=_numbers(rows["pixels_drawn"])),
            Column(head="as mine", kind="number", values=_numbers(rows["positives_drawn"])),
            Column(head="SHA-256", kind="hash", values=_texts(rows["label_sha256"])),
        ),
    )


def _reviews(text: str) -> str:
    """A label's reviews in words: how many, and by whom where it is said."""
    try:
        reviews = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(reviews, list) or not all(isinstance(review, dict) for review in reviews):
        return text
    said = [
        "reviewed"
        + (f" by {review['reviewed_by']}" if review.get("reviewed_by") else "")
        + (f" on {str(review['reviewed_at'])[:10]}" if review.get("reviewed_at") else "")
        + (f", score {review['score']}" if review.get("score") is not None else "")
        for review in reviews
    ]
    return "; ".join(said)


def _negatives(audit: Audit) -> Rows | None:
    observations = audit.all_of("observations")
    if observations is None:
        return None
    negatives = observations[~observations["has_mines"]]
    rows = _cut(negatives)
    return Rows(
        key="negatives",
        title="Negatives: observations without mines",
        total=len(negatives),
        order="the first by name",
        whole=_whole(audit, "--json"),
        columns=(
            Column(head="Observation", kind="text", values=_texts(rows["obs_id"])),
            *_of(audit, rows),
            Column(head="Label row", kind="text", values=_texts(rows["label_id"])),
            Column(head="Annotator", kind="text", values=_texts(rows["created_by"])),
            Column(head="Status", kind="text", values=_texts(rows["workflow_status"])),
            Column(head="Snapshot", kind="text", values=_texts(rows["snapshot"])),
            Column(head="Fold", kind="text", values=_texts(rows["fold"])),
            Column(head="Windows", kind="number", values=_numbers(rows["windows"])),
            Column(head="Draws", kind="number", values=_numbers(rows["draws"])),
        ),
    )


def _quarantine(audit: Audit) -> Rows | None:
    quarantine = audit.all_of("quarantine")
    if quarantine is None:
        return None
    rows = _cut(quarantine)
    return Rows(
        key="quarantine",
        title="Quarantine: kept out of training",
        total=len(quarantine),
        order="the first by row",
        whole=_whole(audit, "--json"),
        columns=(
            Column(head="Row", kind="text", values=_texts(rows["row_id"])),
            *_of(audit, rows),
            Column(head="Observation", kind="text", values=_texts(rows["obs_id"])),
            Column(head="Label", kind="text", values=_texts(rows["feature_id"]), below=_texts(rows["label_id"])),
            Column(head="Polygons", kind="number", values=_numbers(rows["polygons"])),
            Column(head="Reason", kind="text", values=[text.replace("_", " ") for text in _texts(rows["reason"])]),
            Column(head="Detail", kind="text", values=_texts(rows["detail"])),
        ),
    )


def _imagery(audit: Audit) -> Rows | None:
    imagery = audit.all_of("imagery")
    if imagery is None:
        return None
    rows = _cut(imagery)
    images = []
    for text in rows["source_images"]:
        listed = source_images(text)
        baselines = sorted({str(i["processing_baseline"]) for i in listed if i.get("processing_baseline")})
        images.append(
            (", ".join(str(image.get("id")) for image in listed), baselines and f"baseline {', '.join(baselines)}")
        )
    return Rows(
        key="imagery",
        title="Imagery",
        total=len(imagery),
        order="the first by name",
        whole=_whole(audit, "--json"),
        columns=(
            Column(head="Observation", kind="text", values=_texts(rows["obs_id"])),
            *_of(audit, rows),
            Column(head="Raster", kind="text", values=_texts(rows["product"])),
            Column(head="Fold", kind="text", values=_texts(rows["fold"])),
            Column(head="Source", kind="text", values=_texts(rows["source"])),
            Column(
                head="Source images",
                kind="text",
                values=[ids for ids, _ in images],
                below=[said or "" for _, said in images],
            ),
            Column(head="SHA-256", kind="hash", values=_texts(rows["sha256"])),
        ),
    )


def _revisions(audit: Audit) -> Rows | None:
    if not audit.holders:
        return None
    shown = audit.holders[:MOST_ROWS]
    wrong = [", ".join(dict.fromkeys(link.name for link in holder.broken)) for holder in shown]
    return Rows(
        key="revisions",
        title="Revisions that hold this model",
        total=len(audit.holders),
        order="the newest",
        whole=_whole(audit, "--json"),
        columns=(
            Column(head="Commit", kind="hash", values=[h.revision.commit or h.revision.kind for h in shown]),
            Column(head="Names", kind="text",
                   values=[", ".join(f"{n.kind} {n.name}" for n in h.revision.names) for h in shown]),
            Column(head="Time, UTC", kind="word", values=_moments(h.revision.time for h in shown)),
            Column(head="Subject", kind="text", values=[h.revision.subject for h in shown]),
            Column(head="Is what made the model", kind="text",
                   values=[f"no: {w} differ" if w else "yes: code, inputs and params match" for w in wrong]),
        ),
    )  # fmt: skip


def _params(audit: Audit) -> Rows | None:
    if not audit.params:
        return None
    flat = list(_flat(audit.params))
    return Rows(
        key="params",
        title="Params",
        total=len(flat),
        columns=(
            Column(head="Key", kind="text", values=[key for key, _ in flat]),
            Column(head="Value", kind="text", values=[json.dumps(value, ensure_ascii=False) for _, value in flat]),
        ),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
