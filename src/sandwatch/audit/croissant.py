"""The labels behind a model as a data set to be published and cited, described in Croissant.

Source: MLCommons Croissant 1.1, as the library ``mlcroissant`` writes and reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sandwatch import origin
from sandwatch.audit.attest import followed
from sandwatch.audit.folders import whole_folder
from sandwatch.audit.history import read_yaml
from sandwatch.audit.record import Audit
from sandwatch.errors import InputError
from sandwatch.files import left_behind, sha256, write_json
from sandwatch.parquet import write_parquet
from sandwatch.schemas import Labels, Observations, Table

if TYPE_CHECKING:
    import mlcroissant as mlc

METADATA, LABELS, OBSERVATIONS = "croissant.json", "labels.parquet", "observations.parquet"
COMPOSITES = {
    "real": "Sentinel composites",
    "synthetic": "pictures that the painter of the sample region made up in the form of Sentinel composites",
    "mixed": "Sentinel composites, some of them made up by the painter of the sample region",
}
PEOPLE = ("created_by", "reviews")
"""Columns that name people: who drew, who reviewed."""


@dataclass(frozen=True, kw_only=True)
class Citation:
    """What only the publisher knows.

    Attributes:
        license: of the label set, best as an address at spdx.org/licenses.
        creators: names, in the order in which to cite them.
        url: where the set will be found.
        name: of the set; None for one that names the region.
    """

    license: str
    creators: tuple[str, ...]
    url: str
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuses what mlcroissant would let pass.

        Raises:
            InputError: a blank license, no creator, or an address that is none.
        """
        if not self.license.strip():
            raise InputError("--license", got="nothing", expected="a license", fix="name the one that the labels have")
        if not self.creators or not all(creator.strip() for creator in self.creators):
            raise InputError("--creator", got="nobody", expected="at least one name", fix="name who is to be cited")
        if not self.url.startswith(("https://", "http://")):
            raise InputError("--url", got=self.url, expected="an https address", fix="say where it will be found")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was written.

    Attributes:
        folder: with ``labels.parquet``, ``observations.parquet`` and ``croissant.json``.
        metadata: the last of these.
        labels, observations: rows.
    """

    folder: Path
    metadata: dict[str, Any]
    labels: int
    observations: int


def publish(
    target: str,
    folder: Path,
    citation: Citation,
    *,
    people: bool = False,
    veil: Callable[[Any], Any] | None = None,
    where: Path | None = None,
    remote: str | None = None,
    offline: bool = False,
) -> Published:
    """Writes the label set behind a committed model, with its description; whole or not at all.

    Args:
        target: a model, a revision or an experiment.
        folder: where to write; an earlier label set in it is replaced.
        citation: license, creators, address.
        people: keep the columns that name annotators and reviewers.
        veil: is given each table and gives it back with pseudonyms (:func:`sandwatch.audit.pseudonyms.veiled`).
        where: a path in the DVC repository; None for the working directory.
        remote: of DVC; None for the default one.
        offline: don't ask any remote.

    Raises:
        InputError: a link of the chain is broken, or the labels can't be reached.
    """
    with followed(target, where=where, remote=remote, offline=offline) as (found, history, _):
        assert found.revision is not None
        settings = history.files(found.revision, ["params.yaml"]).get("params.yaml", b"{}").decode(errors="replace")
    if found.labels is None or found.observations is None:
        link = next(link for link in found.links if link.name == "labels")
        raise InputError(
            target,
            got=f"link labels {link.state}: {link.detail}",
            expected="labels in the cache or a remote",
            fix="dvc push where they are, or name a remote with --remote",
        )
    hidden = () if people else PEOPLE
    tables = {
        LABELS: (found.labels, Labels, "polygons of mines, one row each"),
        OBSERVATIONS: (found.observations, Observations, "months of sites that were looked at, negatives too"),
    }
    with whole_folder(folder, replaces=_is_label_set, of="an earlier label set") as made:
        files, records = [], []
        for name, (rows, schema, about) in tables.items():
            kept = [column for column in schema.to_schema().columns if column in rows.columns and column not in hidden]
            shown = rows[kept] if veil is None else veil(rows[kept])
            write_parquet(shown, made / name)
            files.append(_file(made / name, about))
            records.append(_records(name, shown, schema, about))
        _describe(made / METADATA, found, citation, str(read_yaml(settings).get("region")), files, records)
        _check(made / METADATA)
        metadata = json.loads((made / METADATA).read_text())
    return Published(folder=folder, metadata=metadata, labels=len(found.labels), observations=len(found.observations))


def _is_label_set(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir() if not left_behind(path.name)}
    return names == {METADATA, LABELS, OBSERVATIONS}


def _describe(
    path: Path, found: Audit, citation: Citation, region: str, files: list[mlc.FileObject], records: list[mlc.RecordSet]
) -> None:
    import mlcroissant as mlc

    assert found.card is not None
    assert found.labels is not None
    assert found.observations is not None
    assert found.revision is not None
    fingerprint, day = found.card.label_fingerprint, datetime.fromisoformat(found.revision.time)
    said = origin.words(imagery=found.card.imagery, labels=found.card.labels)
    name = citation.name or origin.marked(f"Sand mines on rivers: labels of the region {region}", said)
    mines = int(found.observations["has_mines"].sum())
    metadata = mlc.Metadata(
        name=name,
        description=origin.marked(
            f"{len(found.labels)} polygons of sand mines, {origin.drawn(found.card.labels)}, on monthly "
            f"{COMPOSITES[found.card.imagery]}, in {mines} observations with mines and "
            f"{len(found.observations) - mines} without any. The SHA-256 over the canonical rows, those of excluded "
            f"areas too, is {fingerprint}: sets with the same one hold the same labels.{_apart(found)}",
            said,
        ),
        license=[citation.license],
        creators=[mlc.Person(name=creator) for creator in citation.creators],
        url=citation.url,
        # Croissant wants semantic versions; what tells label sets apart goes where those have room for it.
        version=f"1.0.0+{fingerprint}",
        date_published=day,
        cite_as=(
            f"@misc{{sandwatch-{fingerprint[:12]}, title = {{{name}}}, author = {{{' and '.join(citation.creators)}}}, "
            f"year = {{{day.year}}}, url = {{{citation.url}}}, note = {{label fingerprint {fingerprint}}}}}"
        ),
        distribution=files,
        record_sets=records,
    )
    write_json(path, metadata.to_json())


def _apart(found: Audit) -> str:
    """What to say of the labels of the models that this one began with, which are no part of the set."""
    sets = [
        f"{start.card.label_fingerprint} (weights {start.card.weights_sha256})"
        for start in found.starts
        if start.card is not None
    ]
    unseen = found.card is not None and found.card.start is not None and found.card.start.model and not sets
    if unseen:
        return " The model behind it began with another one, whose labels are not in this set, and not known here."
    return f" It began with other models, whose labels are sets of their own: {', '.join(sets)}." if sets else ""


def _file(path: Path, about: str) -> mlc.FileObject:
    import mlcroissant as mlc

    return mlc.FileObject(
        id=path.name,
        name=path.name,
        description=about,
        content_url=path.name,
        content_size=f"{path.stat().st_size} B",
        encoding_formats=[mlc.EncodingFormat.PARQUET],
        sha256=sha256(path),
    )


def _records(name: str, rows: pd.DataFrame, schema: type[Table], about: str) -> mlc.RecordSet:
    import mlcroissant as mlc

    of = name.removesuffix(".parquet")
    columns = schema.to_schema().columns
    fields = [
        mlc.Field(
            id=f"{of}/{column}",
            name=column,
            description=MEANINGS.get(column) or columns[column].description or column.replace("_", " "),
            data_types=[_type(rows[column])],
            source=mlc.Source(file_object=name, extract=mlc.Extract(column=column)),
        )
        for column in rows.columns
    ]
    return mlc.RecordSet(id=of, name=of, description=about, key=[fields[_key(rows)].id], fields=fields)


def _key(rows: pd.DataFrame) -> int:
    return list(rows.columns).index("feature_id" if "feature_id" in rows.columns else "obs_id")


MEANINGS = {
    "feature_id": "id of the polygon",
    "label_id": "id of one piece of work on an observation",
    "obs_id": "observation: site and first day of the month",
    "site_id": "river site",
    "confidence": "of whoever drew it: low or high",
    "created_by": "who drew it; invented where the origin is synthetic",
    "created_at": "when, ISO 8601, UTC",
    "updated_at": "when it was last changed, ISO 8601, UTC",
    "reviews": "JSON list of reviews as exported",
    "workflow_status": "of the labelling project",
    "has_mines": "whether there is any mine; the negatives have none",
    "snapshot": "name of the label export",
    "geometry": "polygon as well-known binary, EPSG:4326, longitude before latitude",
}
"""Of columns that the schema doesn't describe."""


def _type(values: pd.Series) -> Any:
    import mlcroissant as mlc

    if pd.api.types.is_bool_dtype(values):
        return mlc.DataType.BOOL
    if pd.api.types.is_integer_dtype(values):
        return mlc.DataType.INTEGER
    return mlc.DataType.FLOAT if pd.api.types.is_float_dtype(values) else mlc.DataType.TEXT


def _check(path: Path) -> None:
    """Reads the description and every row back with the library that others will use.

    Raises:
        InputError: it has anything to say against them.
    """
    import mlcroissant as mlc

    logging.getLogger("absl").setLevel(logging.ERROR)
    said: Sequence[str]
    try:
        data = mlc.Dataset(jsonld=str(path))
        issues = data.metadata.ctx.issues
        said = [*issues.errors, *issues.warnings]
        for record_set in data.metadata.record_sets:
            for _ in data.records(record_set.id):
                pass
    except (mlc.ValidationError, mlc.GenerationError) as error:
        while error.__cause__ is not None:  # the one below says what it is about
            error = error.__cause__
        said = [str(error)]
    if said:
        raise InputError(
            path.name,
            got=" ".join(said[0].split())[:300],
            expected="what Croissant allows",
            fix="correct the options that it names",
        )
