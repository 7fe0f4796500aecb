"""Attestations as they are read: which files a release has, and what its attestation says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandwatch.audit.chain import CARD, WEIGHTS
from sandwatch.errors import InputError

ATTESTATION, SIGNATURE = "attestation.json", "model.sig"
SUBJECTS = (WEIGHTS, CARD)
"""The model's files in a release: what the attestation is about."""
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "sandwatch:dvc-pipeline/v1"
"""The build: the stages of dvc.yaml up to ``train``, at a commit, with the params in externalParameters."""


def read_statement(path: Path) -> dict[str, Any]:
    """An attestation, checked by the library of in-toto against the definitions of statement and provenance.

    Raises:
        InputError: it is none.
    """
    from google.protobuf.json_format import MessageToDict, Parse, ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        statement = Statement.copy_from_pb(Parse(path.read_text(), Message()))
        statement.validate()
        if statement.pb.predicate_type != PREDICATE:
            raise ValueError(f"predicate type {statement.pb.predicate_type}")
        provenance = ParseDict(MessageToDict(statement.pb.predicate), Provenance())
        for material in provenance.build_definition.resolved_dependencies:
            ResourceDescriptor.copy_from_pb(material).validate()
        if provenance.build_definition.build_type != BUILD_TYPE:
            raise ValueError(f"build type {provenance.build_definition.build_type or 'missing'}")
        for field, there in (
            ("subject.name", all(subject.name for subject in statement.pb.subject)),
            ("resolvedDependencies", provenance.build_definition.resolved_dependencies),
            ("builder.version", provenance.run_details.builder.version),
            ("metadata.finishedOn", provenance.run_details.metadata.HasField("finished_on")),
        ):
            if not there:
                raise ValueError(f"no {field}")
    except (OSError, ValueError, ParseError) as error:
        raise InputError(
            str(path),
            got=" ".join(str(error).split())[:200],
            expected="an attestation that sandwatch audit attest wrote",
            fix="get the release again from whoever made it",
        ) from None
    return {key: plain(value) for key, value in MessageToDict(statement.pb).items()}


def attested(folder: Path, weights_sha256: str) -> str | None:
    """What an attestation that lies beside a model says of when and in which environment it was made.

    Args:
        folder: of the model.
        weights_sha256: of the model.

    Returns:
        A line; None where there is no attestation.
    """
    path = folder / ATTESTATION
    if not path.is_file():
        return None
    try:
        statement = read_statement(path)
    except InputError as error:
        return f"an attestation lies beside it that can't be read: {error}"
    about = {subject["name"]: subject["digest"].get("sha256") for subject in statement["subject"]}
    if about.get(WEIGHTS) != weights_sha256:
        return f"{path} lies beside it, but is about another model"
    details: Mapping[str, Any] = statement["predicate"]["runDetails"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(details["builder"]["version"].items()))
    made = details["metadata"]["finishedOn"]
    return f"attested on {made} with {versions}: sandwatch audit check tells who signed that, and whether it holds"


def plain(value: Any) -> Any:
    """Values of protobuf's Struct, whose numbers are all floats, with whole numbers written as such."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
