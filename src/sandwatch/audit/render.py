"""Answers of the audit as JSON, CSV, GeoParquet, and tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sandwatch.audit.backward import Backward
from sandwatch.audit.diff import Difference
from sandwatch.audit.record import OWN, AllLabelRows, Audit, Chain, Link, Revision, Tables, source_images
from sandwatch.errors import InputError
from sandwatch.files import whole
from sandwatch.printable import json_printable, printable, spreadsheet

if TYPE_CHECKING:
    from rich.console import Console

    from sandwatch.audit.attest import Released
    from sandwatch.audit.croissant import Published
    from sandwatch.audit.exclude import Outcome
    from sandwatch.audit.release import Checked

TABLES: tuple[Tables, ...] = ("labels", "chips", "observations", "quarantine", "imagery")
"""Of an audit, in the order in which JSON has them."""
SHOWN = 40
"""Rows of a table on the terminal; files hold all."""
MARKS = {
    "verified": "[green]ok[/]",
    "skipped": "[dim]--[/]",
    "unverified": "[yellow]??[/]",
    "uncommitted": "[yellow]++[/]",
    "broken": "[red]!![/]",
}
COLOURS = {"verified": "green", "broken": "red"}
"""Of verdicts; yellow else."""


def audit_json(audit: Audit) -> str:
    """An audit as JSON; geometries as GeoJSON."""
    return _json(
        {
            "target": audit.target,
            **_came_to(audit),
            "model": None if audit.spec is None else audit.spec.model_dump(mode="json"),
            "origin": audit.origin,
            "revision": None if audit.revision is None else _revision(audit.revision),
            "holders": [
                {**_revision(holder.revision), "links": [vars(link) for link in holder.links]}
                for holder in audit.holders
            ],
            "params": audit.params,
            "starts": [_start(name, start) for name, start in audit.trainings.items() if name != OWN],
            **{name: audit.all_of(name) for name in TABLES},
            "notes": audit.notes,
        }
    )


def _start(name: str, start: Audit) -> dict[str, Any]:
    """A model that the one asked about began with; the rows of its training are among those of the tables."""
    return {
        "training": name,
        "name": start.target,
        **_came_to(start),
        "model": None if start.spec is None else start.spec.model_dump(mode="json"),
        "revision": None if start.revision is None else _revision(start.revision),
        "stage": start.stage,
        "params": start.params,
    }


def backward_json(found: Backward) -> str:
    """An answer of the backward audit as JSON."""
    return _json(
        {
            "question": found.question.asked,
            "labels": found.labels,
            "models": [
                {**vars(model), "uses": dict(model.uses), "revisions": [_revision(r) for r in model.revisions]}
                for model in found.models
            ],
            "notes": found.notes,
        }
    )


def backward_table(found: Backward) -> pd.DataFrame:
    """A row a model."""
    rows = [
        {
            **vars(model),
            "uses": json.dumps(model.uses),
            "revisions": " ".join(revision.commit for revision in model.revisions),
            "starts": " ".join(model.starts),
            "through": " ".join(model.through),
        }
        for model in found.models
    ]
    return pd.DataFrame(rows)


def diff_json(found: Difference) -> str:
    """A difference as JSON."""
    return _json(
        {
            "a": {"target": found.a.target, "verdict": found.a.verdict},
            "b": {"target": found.b.target, "verdict": found.b.verdict},
            "labels": found.labels,
            "exclusions": found.exclusions,
            "observations": found.observations,
            "windows": dict(found.windows),
            "params": found.params,
            "code": found.code,
            "metrics": found.metrics,
            "rivers": found.rivers,
            "notes": found.notes,
        }
    )


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV, geometry as WKT in longitude and latitude; texts like formulas get an apostrophe."""
    import geopandas as gpd

    values = table.to_wkt(rounding_precision=-1) if isinstance(table, gpd.GeoDataFrame) else table
    with whole(path) as partial:
        spreadsheet(values).to_csv(partial, index=False)


def write_geoparquet(audit: Audit, path: Path) -> None:
    """Writes the labels of an audit, rows of :class:`sandwatch.audit.record.AllLabelRows`.

    Raises:
        InputError: the audit did not reach the labels.
    """
    AllLabelRows.write(labels_of(audit), path)


def labels_of(audit: Audit) -> Any:
    """The labels of an audit, of all trainings whose labels it reached.

    Raises:
        InputError: it did not reach those of the model's own training.
    """
    if audit.labels is None:
        raise InputError(
            f"the labels behind {audit.target}",
            got=audit.verdict,
            expected="a model whose labels can be reached",
            fix="run it in the clone that the model was trained in, with its remote",
        )
    return audit.all_of("labels")


def print_audit(audit: Audit, console: Console) -> None:
    """An audit for people."""
    console.print(f"[bold]{_shown(audit.target)}[/]")
    if audit.spec is not None:
        spec = audit.spec
        console.print(
            f"{_shown(spec.title)}, {spec.method}, {len(spec.bands)} bands, "
            f"threshold {spec.threshold:.3f}\nweights {spec.weights_sha256}\nlabels  {spec.label_fingerprint}"
        )
        if spec.start is not None:
            console.print(f"started from {_shown(spec.start.words)}")
    if audit.origin is not None:
        console.print(f"[bold]{_shown(audit.origin)}[/]")
    _chain(audit.links, console)
    if audit.holders:
        console.print("\n[bold]revisions that hold this model[/]")
        for holder in audit.holders[:SHOWN]:
            wrong = ", ".join(dict.fromkeys(link.name for link in holder.broken))
            said = f"differs in {wrong}" if wrong else "code, inputs and params match"
            revision = holder.revision
            console.print(f"  {_shown(revision)}  {revision.time[:10]}  {_shown(revision.subject[:50])}  {said}")
        _more(console, len(audit.holders))
    _counts(audit, console)
    for training, one in audit.trainings.items():
        _tables(one, f" of {training}" if audit.starts else "", console)
    _notes(console, audit.notes)
    _verdict(console, audit)


def _tables(audit: Audit, whose: str, console: Console) -> None:
    """The rows behind one training."""
    if audit.labels is not None:
        columns = {"feature_id": "feature", "class_name": "class", "confidence": "confidence",
                   "created_by": "annotator", "created_at": "created", "area_m2": "area m2", "obs_id": "observation",
                   "use": "use", "chips": "chips", "draws": "draws", "positives_drawn": "positives drawn"}  # fmt: skip
        ordered = audit.labels.sort_values("positives_drawn", ascending=False, kind="stable")
        _table(console, f"labels{whose}", ordered, columns)
    if audit.negatives is not None:
        _table(console, f"negatives{whose}", audit.negatives, {"obs_id": "observation", "created_by": "annotator",
               "fold": "fold", "windows": "windows", "draws": "draws"})  # fmt: skip
    if audit.quarantine is not None and len(audit.quarantine):
        _table(console, f"quarantine{whose}: kept out", audit.quarantine, {"row_id": "row", "obs_id": "observation",
               "feature_id": "feature", "polygons": "polygons", "reason": "reason", "detail": "detail"})  # fmt: skip
    if audit.imagery is not None:
        shown = audit.imagery.assign(
            images=[
                ", ".join(str(image.get("id")) for image in source_images(t)[:3])
                for t in audit.imagery["source_images"]
            ]
        )
        _table(console, f"imagery{whose}", shown, {"obs_id": "observation", "product": "product", "fold": "fold",
               "source": "source", "images": "source images"})  # fmt: skip


def print_proof(audit: Audit, console: Console) -> None:
    """A verification for people: the chain and the verdict."""
    _chain(audit.links, console)
    _notes(console, audit.notes)
    _verdict(console, audit)


def print_released(done: Released, console: Console) -> None:
    """What was attested, for people."""
    materials = done.statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    _notes(console, done.audit.notes)
    console.print(_shown(f"{done.folder}: {done.audit.revision}, made from {len(materials)} materials"))
    console.print("signed" if done.signed else "not signed: --private-key or --sigstore does")


def print_published(done: Published, console: Console) -> None:
    """What was published, for people."""
    console.print(
        f"{_shown(done.folder)}: {done.labels} labels, {done.observations} observations\n"
        f"{_shown(done.metadata['citeAs'])}"
    )


def checked_json(found: Checked) -> str:
    """A check of a release as JSON."""
    return _json(
        {
            **_came_to(found),
            "statement": found.statement,
            "notes": found.notes,
        }
    )


def print_checked(found: Checked, console: Console) -> None:
    """A check of a release for people."""
    _chain(found.links, console)
    _notes(console, found.notes)
    _verdict(console, found)


def print_backward(found: Backward, console: Console) -> None:
    """An answer of the backward audit for people."""
    console.print(f"[bold]{len(found.labels)} labels[/] in {len(found.models)} models")
    rows = pd.DataFrame(
        {
            "state": [model.state for model in found.models],
            "model": [(model.weights_sha256 or model.weights_md5)[:12] for model in found.models],
            "revisions": [_revisions(model.revisions) for model in found.models],
            "labels": [model.labels for model in found.models],
            "negatives": [model.negatives for model in found.models],
            "use": [", ".join(f"{n} {use}" for use, n in model.uses.items()) or model.detail for model in found.models],
            "own training": [model.own for model in found.models],
            "through": [", ".join(sha[:12] for sha in model.through) for model in found.models],
            "positives drawn": [model.positives_drawn for model in found.models],
        }
    )
    begun = ["own training", "through"] if any(model.through for model in found.models) else []
    columns = {name: name for name in rows.columns if name in begun or name not in ("state", "own training", "through")}
    for state in ("trained", "validated", "tested", "unknown", "never saw"):
        part = rows[rows["state"] == state]
        if len(part):
            _table(console, state, part, columns)
    _notes(console, found.notes)
    counts = {state: int((rows["state"] == state).sum()) for state in dict.fromkeys(rows["state"])}
    console.print(_shown("; ".join(f"{state}: {count}" for state, count in counts.items())))


def print_diff(found: Difference, console: Console) -> None:
    """A difference for people."""
    console.print(f"[bold]{_shown(found.a.target)}[/] to [bold]{_shown(found.b.target)}[/]")
    counts = found.labels["change"].value_counts().sort_index()
    console.print("labels: " + (", ".join(f"{n} {change}" for change, n in counts.items()) or "the same"))
    if len(found.labels):
        _table(console, "labels", found.labels, {"feature_id": "feature", "obs_id": "observation", "change": "change",
               "iou": "IoU", "confidence_a": "before", "confidence_b": "after"})  # fmt: skip
    if len(found.exclusions):
        _table(console, "excluded", found.exclusions, {"feature_id": "feature", "label_id": "label",
               "obs_id": "observation", "reason_a": "before", "reason_b": "after"})  # fmt: skip
    if len(found.observations):
        _table(console, "observations", found.observations, {name: name for name in found.observations.columns})
    console.print("windows: " + ", ".join(f"{n} {change}" for change, n in found.windows.items()))
    for key, (a, b) in found.params.items():
        console.print(f"param {_shown(f'{key}: {a} -> {b}')}")
    for path in found.code:
        console.print(f"code {_shown(path)} differs")
    for name, table in (("metrics", found.metrics), ("rivers", found.rivers)):
        if table is not None and len(changed := table[table["change"] != 0]):
            _table(console, name, changed, {column: column for column in table.columns})
    _notes(console, found.notes)


def print_outcome(outcome: Outcome, console: Console) -> None:
    """What was excluded, for people."""
    for one in outcome.excluded[:SHOWN]:
        drawn = f"label with {one.polygons} polygons, {len(one.learnt)} learnt from" if one.whole else "polygon"
        drawn += ", not learnt from as it is" if not one.whole and not one.learnt else ""
        drawn += "; its observation is a negative" if one.negative else ""
        was = (
            "" if one.before is None else f"; updated, was {one.before}" if one.before != one.exclusion else "; as was"
        )
        console.print(f"  {_shown(f'{one.exclusion.id}  {one.obs_id}  {drawn}{was}')}")
    _more(console, len(outcome.excluded), f"{outcome.file} holds all")
    observations = len({one.obs_id for one in outcome.excluded})
    learnt = frozenset[str]().union(*(one.learnt for one in outcome.excluded))
    negatives = sum(one.negative for one in outcome.excluded)
    console.print(
        f"{len(outcome.excluded)} ids in {observations} observations: {len(learnt)} labels and {negatives} negatives "
        f"are taken out, {_shown(outcome.excluded[0].exclusion)}"
    )
    console.print(f"{_shown(outcome.file)}: {outcome.recorded} ids")
    _notes(console, outcome.notes)
    console.print(f"next: git add {_shown(outcome.file)} && dvc repro")


def _shown(text: object) -> str:
    """A text as console.print() takes it: what others wrote is seen, and neither markup nor anything else acts."""
    from rich.markup import escape

    return escape(printable(text))


def _chain(links: Iterable[Link], console: Console) -> None:
    console.print("\n[bold]chain[/]")
    for link in links:
        console.print(f"  {MARKS[link.state]} {_shown(link.name):<19} {_shown(link.detail)}")


def _counts(audit: Audit, console: Console) -> None:
    """What each training was made of; nothing where no label could be reached."""
    followed = [(name, one, one.labels, one.observations) for name, one in audit.trainings.items()]
    if all(labels is None or observations is None for _, _, labels, observations in followed):
        return
    console.print("\n[bold]what it was made of[/]")
    for name, one, labels, observations in followed:
        whose = f"{name}, {one.target}: " * bool(audit.starts)
        if labels is None or observations is None:
            console.print(f"  {_shown(whose)}its labels can't be seen from here")
            continue
        people = ", ".join(sorted(labels["created_by"].dropna().unique())) or "not recorded"
        console.print(
            f"  {_shown(whose)}{len(labels)} labels in {observations['has_mines'].sum()} observations, "
            f"{(~observations['has_mines']).sum()} negatives; "
            + ", ".join(f"{count} {use}" for use, count in one.uses.items())
        )
        console.print(
            f"  {labels['pixels_drawn'].sum()} label pixels drawn in training, {labels['positives_drawn'].sum()} of "
            f"them as mine; annotators: {_shown(people)}"
        )


def _table(console: Console, title: str, rows: pd.DataFrame, columns: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table(title=f"{title} ({len(rows)})", title_justify="left", title_style="bold", box=None, pad_edge=False)
    numeric = {name for name in columns if pd.api.types.is_numeric_dtype(rows[name])}
    for name, head in columns.items():
        table.add_column(head, justify="right" if name in numeric else "left", overflow="fold")
    for row in rows[list(columns)].head(SHOWN).itertuples(index=False, name=None):
        table.add_row(*(_shown(_text(value)) for value in row))
    console.print()
    console.print(table)
    _more(console, len(rows))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _more(console: Console, count: int, where: str = "--json or --csv give all") -> None:
    if count > SHOWN:
        console.print(f"  ... and {count - SHOWN} more: {where}")


def _notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"note: {_shown(note)}")


def _came_to(chain: Chain) -> dict[str, Any]:
    return {
        "state": chain.state,
        "verdict": chain.verdict,
        "remedy": chain.remedy,
        "links": [vars(link) for link in chain.links],
    }


def _verdict(console: Console, chain: Chain) -> None:
    console.print(f"[bold {COLOURS.get(chain.state, 'yellow')}]{_shown(chain.verdict)}[/]")
    if chain.remedy:
        console.print(f"what to do: {_shown(chain.remedy)}")


def _revisions(revisions: Iterable[Revision]) -> str:
    names = [f"{name.kind} {name.name}" for revision in revisions for name in revision.names]
    first = next(iter(revisions))
    return ", ".join(names[:4]) + (f", {len(names) - 4} more" if len(names) > 4 else "") if names else str(first)


def _revision(revision: Revision) -> dict[str, Any]:
    return {**vars(revision), "names": [name._asdict() for name in revision.names]}


def _json(values: Mapping[str, Any]) -> str:
    """One key a line; tables as lists of objects, a row a line: hundreds of thousands of rows take no time."""
    texts = {
        name: _rows(value)
        if isinstance(value, pd.DataFrame)
        else json.dumps(value, ensure_ascii=False, allow_nan=False)
        for name, value in values.items()
    }
    # Put together at once: a part may have a hundred megabytes, and each step on the way would be one more copy.
    pieces = [piece for name, text in texts.items() for piece in (",\n", json.dumps(name), ": ", text)]
    return json_printable("".join(["{\n", *pieces[1:], "\n}"]))


def _rows(table: pd.DataFrame) -> str:
    plain = pd.DataFrame(table.drop(columns="geometry", errors="ignore"))
    # 15 digits give back every number in these tables; dates are strings in them.
    lines = plain.to_json(orient="records", lines=True, double_precision=15, force_ascii=False).splitlines()
    if "geometry" in table.columns:
        import shapely

        shapes = shapely.to_geojson(table["geometry"].to_numpy())
        lines = [f'{line[:-1]},"geometry":{shape}}}' for line, shape in zip(lines, shapes, strict=True)]
    return "[\n" + ",\n".join(lines) + "\n]"
