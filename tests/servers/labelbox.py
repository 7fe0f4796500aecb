"""A Labelbox on loopback for the real SDK: projects with ontologies, exports, label versions, data rows, pre-labels.

GraphQL is executed for real against ``labelbox.graphql``, so an operation, field, argument or type that is not there is
refused as the service refuses it: status 400, code ``GRAPHQL_VALIDATION_FAILED``. What GraphQL can't check (an import's
manifest, a pre-label, a tile layer) is checked here, with the same rigour.

Places for :class:`.faults.Faults`: the operation's name as the SDK sends it (``exportDataRowsInProjectPyApi``,
``UploadFile``, ...), ``export-file`` for the download of a part of an export, and ``file`` for that of any other file.
``fail``, ``hang`` and ``slow`` at an operation that starts a task (or an import of pre-labels) befall that task.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from graphql import GraphQLError, OperationDefinitionNode, build_schema, graphql_sync, parse

from .faults import Fault, Faults, Handler, Server

SCHEMA = build_schema(Path(__file__).with_suffix(".graphql").read_text())
NOW = "2026-01-01T00:00:00.000Z"
SECRET_IN_LINKS = "FAKE-LABELBOX-LINK-SIGNATURE-0f3a"
"""What links to files end in, unless a server is given another."""
METADATA = {"captureDateTime": "CustomMetadataDateTime", "tag": "CustomMetadataString"}
"""Metadata fields that every organisation has. Source: Labelbox documentation, "Metadata", reserved fields."""
SLOW_POLLS = 2


class RefusedError(Exception):
    """The server's answer is an error with this code."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(kw_only=True)
class Project:
    """A project as the test sets it up, and what was sent to it.

    Attributes:
        id, name: as in the address of the project.
        ontology: the ontology's ``normalized`` form: tools and classifications.
        export: the rows that an export holds, as NDJSON.
        export_errors: the rows that could not be exported, as NDJSON.
        part_ends: offsets of the last byte of parts of the export that don't end with a line.
        versions: label versions, fields as in ``labelbox.graphql``, ``label`` holding the annotations as JSON text.
        batches: name -> global keys of the data rows queued by it.
        prelabels: global key -> uuid -> annotation.
        imports: name -> import of pre-labels.
    """

    id: str
    name: str = "Sand mines"
    ontology: dict[str, Any] = field(default_factory=lambda: ontology())
    export: bytes = b""
    export_errors: bytes = b""
    part_ends: tuple[int, ...] = ()
    versions: list[dict[str, Any]] = field(default_factory=list)
    batches: dict[str, list[str]] = field(default_factory=dict)
    prelabels: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    imports: dict[str, dict[str, Any]] = field(default_factory=dict)


def ontology(
    mine_class: str = "Sand mine",
    confidence: tuple[str, tuple[str, ...]] = ("Confidence", ("Low", "High")),
    activity: tuple[str, tuple[str, ...]] = ("Mine activity", ("Yes", "No")),
) -> dict[str, Any]:
    """A polygon class with a radio question on each polygon, and a radio question on each image."""
    ids = itertools.count()

    def radio(name: str, answers: tuple[str, ...]) -> dict[str, Any]:
        options = [{"label": answer, "value": _slug(answer), **_schema_ids(next(ids))} for answer in answers]
        return {
            "type": "radio", "name": _slug(name), "instructions": name, "required": True, "archived": 0,
            "scope": "global", "options": options, **_schema_ids(next(ids)),
        }  # fmt: skip

    tool = {
        "tool": "polygon", "name": mine_class, "color": "#ff0000", "required": False, "archived": 0,
        "classifications": [radio(*confidence)], **_schema_ids(next(ids)),
    }  # fmt: skip
    return {"tools": [tool], "classifications": [radio(*activity)]}


def _slug(name: str) -> str:
    return name.lower().replace(" ", "_")


def _schema_ids(number: int) -> dict[str, str]:
    return {"schemaNodeId": f"clnode{number:019d}", "featureSchemaId": f"clfeat{number:019d}"}


@dataclass(kw_only=True)
class Labelbox:
    """A running server.

    Attributes:
        url: what ``SANDWATCH_LABELBOX_URL`` must be.
        api_key: the only key that is let in.
        faults: failures to show.
        projects: id -> project.
        calls: how often each operation was carried out.
        datasets: id -> dataset.
        data_rows: global key -> data row, as received.
        integrations: the organisation's IAM integrations.
        tasks: id -> task.
        part_bytes: parts of an export end with the first line that reaches this length.
        link_signature: every link to a file that the server hands out ends in it, as the service's end in a signature.
    """

    url: str
    api_key: str
    faults: Faults = field(default_factory=Faults)
    projects: dict[str, Project] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    data_rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    integrations: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    part_bytes: int = 1 << 16
    link_signature: str = SECRET_IN_LINKS
    _files: dict[str, bytes] = field(default_factory=dict)
    _jobs: dict[str, list[str]] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this instead of the real service."""
        return {"SANDWATCH_LABELBOX_URL": self.url, "LABELBOX_API_KEY": self.api_key}

    def started(self, kind: str) -> list[dict[str, Any]]:
        """The tasks of one type, such as ``export-data-rows``, in the order in which they were started."""
        return [task for task in self.tasks.values() if task["type"] == kind]

    # What follows answers the root fields of labelbox.graphql.

    def new_id(self, kind: str) -> str:
        return f"cl{kind}{next(self._ids):0{23 - len(kind)}d}"

    def link(self, name: str) -> str:
        return f"{self.url}/files/{name}?X-Goog-Signature={self.link_signature}"

    def store(self, content: bytes) -> str:
        name = self.new_id("blob")
        self._files[name] = content
        return self.link(name)

    def stored(self, link: str) -> bytes:
        name = link.removeprefix(f"{self.url}/files/").partition("?")[0]
        if name not in self._files:
            raise RefusedError("RESOURCE_NOT_FOUND", f"no file {name}")
        return self._files[name]

    def file(self, name: str) -> bytes | None:
        """The content behind a link; parts of exports are named ``<project>-<start>-<end>``."""
        if name in self._files:
            return self._files[name]
        project, _, span = name.partition("-")
        if project not in self.projects:
            return None
        start, _, end = span.partition("-")
        return self.projects[project].export[int(start) : int(end) + 1]

    def project_of(self, project_id: str) -> Project:
        if project_id not in self.projects:
            raise RefusedError("RESOURCE_NOT_FOUND", f"no project {project_id}")
        return self.projects[project_id]

    def start(self, kind: str, name: str, fault: Fault | None, **more: Any) -> dict[str, Any]:
        """A new task: done at once, unless a fault befalls it."""
        task = {
            "id": self.new_id("task"), "type": kind, "name": name, "createdAt": NOW, "updatedAt": NOW,
            "status": "IN_PROGRESS" if fault else "COMPLETE", "completionPercentage": 0.0 if fault else 100.0,
            "result": None, "errors": None, "metadata": {}, "fault": fault, "polls": 0, **more,
        }  # fmt: skip
        if fault and fault.kind == "fail":
            task |= {"status": "FAILED", "errors": fault.message}
        self.tasks[task["id"]] = task
        return task

    def poll(self, task: dict[str, Any]) -> dict[str, Any]:
        task["polls"] += 1
        if task["status"] == "IN_PROGRESS" and task["fault"].kind == "slow" and task["polls"] > SLOW_POLLS:
            task |= {"status": "COMPLETE", "completionPercentage": 100.0}
        return task


class Root:
    """The root of one GraphQL request; methods are root fields of the schema."""

    def __init__(self, labelbox: Labelbox, fault: Fault | None) -> None:
        self._labelbox, self._fault = labelbox, fault

    def user(self, _info: Any, where: dict[str, str] | None = None) -> dict[str, Any]:
        def created_tasks(
            _info: Any, skip: int, first: int, where: dict[str, str] | None = None
        ) -> list[dict[str, Any]]:
            tasks = [task for task in self._labelbox.tasks.values() if not where or task["id"] == where["id"]]
            return [self._labelbox.poll(task) for task in tasks[skip : skip + first]]

        return {"id": "cluser", "email": "service@example.org", "createdTasks": created_tasks}

    def organization(self, _info: Any) -> dict[str, Any]:
        return {"id": "clorganisation", "name": "Organisation"}

    def project(self, _info: Any, where: dict[str, str]) -> dict[str, Any]:
        project = self._labelbox.project_of(where["id"])

        def batches(_info: Any, first: int, after: str | None = None) -> dict[str, Any]:
            names = list(project.batches)
            start = names.index(after) + 1 if after else 0
            nodes = [_batch(name, project.batches[name]) for name in names[start : start + first]]
            return {"nodes": nodes, "pageInfo": {"endCursor": nodes[-1]["name"] if len(nodes) == first else None}}

        def create_batch(_info: Any, input: dict[str, Any]) -> dict[str, Any]:
            if input["name"] in project.batches:
                raise RefusedError("RESOURCE_CONFLICT", f"batch {input['name']} is already there")
            queued = {key for keys in project.batches.values() for key in keys}
            wanted = input.get("globalKeys") or []
            failed = [key for key in wanted if key not in self._labelbox.data_rows or key in queued]
            project.batches[input["name"]] = [key for key in wanted if key not in failed]
            return {"batch": _batch(input["name"], project.batches[input["name"]]), "failedDataRowIds": failed}

        view = _project_view(project, self._labelbox)
        return view | {"batches": batches, "createBatchV2": create_batch}

    def task(self, _info: Any, where: dict[str, str]) -> dict[str, Any]:
        task = self._labelbox.tasks.get(where["id"])
        if task is None or task["type"] != "export-data-rows":
            raise RefusedError("RESOURCE_NOT_FOUND", f"no export {where['id']}")
        project = self._labelbox.projects[task["project"]]
        export = project.export

        def header(_info: Any, streamType: str) -> dict[str, Any] | None:
            content = export if streamType == "RESULT" else project.export_errors
            return {"totalSize": len(content), "totalLines": content.count(b"\n")} if content else None

        def part(_info: Any, streamType: str, offset: str) -> dict[str, Any] | None:
            start = int(offset)
            if streamType == "ERRORS" or start >= len(export):
                return None
            newline = export.find(b"\n", min(start + self._labelbox.part_bytes, len(export) - 1))
            end = next((end for end in project.part_ends if end >= start), newline if newline >= 0 else len(export) - 1)
            lines = {"start": export.count(b"\n", 0, start), "end": export.count(b"\n", 0, end)}
            link = self._labelbox.link(f"{task['project']}-{start}-{end}")
            return {"offsets": {"start": start, "end": end}, "lines": lines, "file": link}

        return task | {"exportMetadataHeader": header, "exportFileFromOffset": part}

    def exportDataRowsInProject(self, _info: Any, input: dict[str, Any]) -> dict[str, Any]:
        project = self._labelbox.project_of(input["filters"]["projectId"])
        if not input["isStreamableReady"] or not input["streamable"]:
            raise RefusedError("MALFORMED_REQUEST", "only streamable exports are left")
        task = self._labelbox.start("export-data-rows", input["taskName"], self._fault, project=project.id)
        return {"taskId": task["id"], "isStreamable": True}

    def labelVersions(
        self, _info: Any, where: dict[str, Any], first: int = 100, after: str | None = None
    ) -> dict[str, Any]:
        if not 1 <= first <= 100:
            raise RefusedError("MALFORMED_REQUEST", f"first: got {first}; expected 1 to 100")
        before = where.get("createdBefore")
        found = [
            version | {"labelJson": json.loads(version["label"])}
            for version in sorted(
                self._labelbox.project_of(where["projectId"]).versions, key=lambda version: version["createdAt"]
            )
            if (before is None or version["createdAt"] < before)
            and all(version[key] == where[key] for key in ("labelId", "dataRowId", "createdById") if where.get(key))
        ]
        start = int(after or 0)
        more = start + first < len(found)
        return {"nodes": found[start : start + first], "nextCursor": str(start + first) if more else None}

    def uploadFile(self, _info: Any, file: bytes, contentLength: int, sign: bool | None = None) -> dict[str, str]:
        if contentLength != len(file):
            raise RefusedError("MALFORMED_REQUEST", f"contentLength: got {contentLength}; expected {len(file)}")
        return {"url": self._labelbox.store(file), "filename": "upload.json"}

    def datasets(self, _info: Any, skip: int, first: int, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        name = next((part["name"] for part in (where or {}).get("AND", [where or {}]) if "name" in part), None)
        found = [d for d in self._labelbox.datasets.values() if name is None or d["name"] == name]
        return found[skip : skip + first]

    def createDataset(self, _info: Any, data: dict[str, Any]) -> dict[str, Any]:
        dataset = {"id": self._labelbox.new_id("dataset"), "signer": None, "rowCount": 0, **data}
        self._labelbox.datasets[dataset["id"]] = dataset
        return dataset

    def setSignerForDataset(self, _info: Any, data: dict[str, str], where: dict[str, str]) -> dict[str, Any]:
        if data["signerId"] not in {integration["id"] for integration in self._labelbox.integrations}:
            raise RefusedError("RESOURCE_NOT_FOUND", f"no integration {data['signerId']}")
        dataset = self._labelbox.datasets[where["id"]]
        dataset["signer"] = {"id": data["signerId"]}
        return dataset

    def iamIntegrations(self, _info: Any) -> list[dict[str, Any]]:
        settings = {"__typename": "GcpIamIntegrationSettings", "serviceAccountEmailId": "x@example.org"}
        return [
            {"provider": "GCP", "valid": True, "isOrgDefault": False, "settings": settings, **integration}
            for integration in self._labelbox.integrations
        ]

    def customMetadataOntology(self, _info: Any) -> list[dict[str, Any]]:
        return [
            {"id": _metadata_id(name), "name": name, "kind": kind, "reserved": True, "options": []}
            for name, kind in METADATA.items()
        ]

    def dataRowsForGlobalKeys(self, _info: Any, where: dict[str, list[str]]) -> dict[str, str]:
        job = self._labelbox.new_id("job")
        self._labelbox._jobs[job] = where["ids"]
        return {"jobId": job}

    def dataRowsForGlobalKeysResult(self, _info: Any, jobId: dict[str, str]) -> dict[str, Any]:
        keys, rows = self._labelbox._jobs[jobId["id"]], self._labelbox.data_rows
        data = {
            "fetchedDataRows": [{"id": rows[key]["id"] if key in rows else ""} for key in keys],
            "notFoundGlobalKeys": [key for key in keys if key not in rows],
            "accessDeniedGlobalKeys": [],
        }
        return {"jobStatus": "COMPLETE", "data": data}

    def upsertDataRows(self, _info: Any, data: dict[str, str]) -> dict[str, Any]:
        manifest = json.loads(self._labelbox.stored(data["manifestUri"]))
        if set(manifest) != {"source", "item_count", "chunk_uris"}:
            raise RefusedError("MALFORMED_REQUEST", f"manifest: got {sorted(manifest)}")
        items = [item for uri in manifest["chunk_uris"] for item in json.loads(self._labelbox.stored(uri))]
        if len(items) != manifest["item_count"]:
            raise RefusedError("MALFORMED_REQUEST", f"item_count: got {manifest['item_count']}, {len(items)} items")
        if self._fault and self._fault.kind in ("fail", "hang"):
            return self._labelbox.start("adv-upsert-data-rows", "upsert", self._fault, created=[], failed=[])
        created, failed = [], []
        for item in items:
            payload = item["payload"]
            why = self._unfit(payload) or self._placed(item["id"], payload)
            if why:
                spec = {"externalId": payload.get("external_id"), "globalKey": payload.get("global_key")}
                failed.append({"message": why, "spec": spec | {"rowData": json.dumps(payload.get("row_data"))}})
            else:
                created.append(self._labelbox.data_rows[payload["global_key"]])
        return self._labelbox.start("adv-upsert-data-rows", "upsert", self._fault, created=created, failed=failed)

    def _unfit(self, payload: dict[str, Any]) -> str | None:
        """Why a data row is refused. Source: Labelbox documentation, "Import geospatial data"."""
        row = payload.get("row_data")
        required = {"tileLayerUrl", "bounds", "minZoom", "maxZoom", "epsg", "version"}
        if not isinstance(row, dict) or not required <= set(row):
            return f"row_data: got {row}; expected the keys {sorted(required)}"
        if payload.get("media_type") != "TMS_GEO":
            return f"media_type: got {payload.get('media_type')}; expected TMS_GEO"
        if payload.get("dataset_id") not in self._labelbox.datasets or not payload.get("global_key"):
            return "a dataset and a global key are needed"
        west, south, east, north = (value for corner in row["bounds"] for value in corner)
        if row["epsg"] != "EPSG4326" or not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            return f"bounds: got {row['bounds']} in {row['epsg']}; expected [[west, south], [east, north]] in EPSG4326"
        signer = self._labelbox.datasets[payload["dataset_id"]]["signer"]
        scheme = "gs://" if signer else "https://"
        if not row["tileLayerUrl"].startswith(scheme) or not row["tileLayerUrl"].partition("?")[0].endswith(".tif"):
            return f"tileLayerUrl: got {row['tileLayerUrl']}; expected {scheme}....tif"
        known = {_metadata_id(name) for name in METADATA}
        unknown = [m["schemaId"] for m in payload.get("metadata_fields", []) if m["schemaId"] not in known]
        return f"metadata: unknown {unknown}" if unknown else None

    def _placed(self, key: dict[str, str], payload: dict[str, Any]) -> str | None:
        """Stores a data row, or says why its key is refused."""
        name, rows = payload["global_key"], self._labelbox.data_rows
        if name in rows and not (key["type"] == "GKEY" and key["value"] == name):
            return f"Duplicate global key: {name}"
        rows[name] = payload | {"id": rows[name]["id"] if name in rows else self._labelbox.new_id("row")}
        return None

    def successesfulDataRowImports(self, _info: Any, data: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"id": row["id"], "globalKey": row["global_key"], "rowData": json.dumps(row["row_data"])}
            for row in self._labelbox.tasks[data["taskId"]]["created"]
        ]
        return {"nodes": nodes, "after": None, "total": len(nodes)}

    def failedDataRowImports(self, _info: Any, data: dict[str, Any]) -> dict[str, Any]:
        failed = self._labelbox.tasks[data["taskId"]]["failed"]
        return {"results": failed, "after": None, "total": len(failed)}

    def queryAllDataRowsHaveBeenProcessed(
        self, _info: Any, dataRowIds: list[str] | None = None, globalKeys: list[str] | None = None
    ) -> dict[str, bool]:
        return {"allDataRowsHaveBeenProcessed": True}

    def createModelAssistedLabelingPredictionImport(self, _info: Any, data: dict[str, Any]) -> dict[str, Any]:
        project = self._labelbox.project_of(data["projectId"])
        if data["name"] in project.imports:
            raise RefusedError("RESOURCE_CONFLICT", f"import {data['name']} is already there")
        annotations = [json.loads(line) for line in data["filePayload"]["file"].splitlines() if line.strip()]
        statuses = [
            {"uuid": annotation.get("uuid"), "dataRow": annotation.get("dataRow")}
            | ({"status": "FAILURE", "errors": [{"name": "Invalid", "message": why}]} if why else {"status": "SUCCESS"})
            for annotation in annotations
            for why in [_unfit_annotation(annotation, project, self._labelbox)]
        ]
        lines = [json.dumps(status).encode() + b"\n" for status in statuses]
        errors = [line for line, status in zip(lines, statuses, strict=True) if status["status"] == "FAILURE"]
        state = (
            {"fail": "FAILED", "hang": "RUNNING", "slow": "RUNNING"}[self._fault.kind] if self._fault else "FINISHED"
        )
        project.imports[data["name"]] = {
            "id": self._labelbox.new_id("import"), "name": data["name"], "state": state, "progress": "100%",
            "inputFileUrl": self._labelbox.store(data["filePayload"]["file"]), "polls": 0, "fault": self._fault,
            "statusFileUrl": self._labelbox.store(b"".join(lines)),
            "errorFileUrl": self._labelbox.store(b"".join(errors)),
        }  # fmt: skip
        if state != "FAILED":
            for annotation, status in zip(annotations, statuses, strict=True):
                if status["status"] == "SUCCESS":
                    row = project.prelabels.setdefault(annotation["dataRow"]["globalKey"], {})
                    row[annotation["uuid"]] = annotation
        return project.imports[data["name"]] | {"project": _project_view(project, self._labelbox)}

    def deleteModelAssistedLabelingPredictionImport(self, _info: Any, where: dict[str, str]) -> dict[str, str]:
        for project in self._labelbox.projects.values():
            project.imports = {name: one for name, one in project.imports.items() if one["id"] != where["id"]}
        return where

    def modelAssistedLabelingPredictionImport(self, _info: Any, where: dict[str, str]) -> dict[str, Any]:
        project = self._labelbox.project_of(where["projectId"])
        if where["name"] not in project.imports:
            raise RefusedError("RESOURCE_NOT_FOUND", f"no import {where['name']}")
        found = project.imports[where["name"]]
        found["polls"] += 1
        if found["fault"] and found["fault"].kind == "slow" and found["polls"] > SLOW_POLLS:
            found["state"] = "FINISHED"
        return found | {"project": _project_view(project, self._labelbox)}


def _project_view(project: Project, labelbox: Labelbox) -> dict[str, Any]:
    return {
        "id": project.id, "name": project.name, "createdAt": NOW, "updatedAt": NOW, "allowedMediaType": "TMS_GEO",
        "editorTaskType": "MISSING", "dataRowCount": sum(map(len, project.batches.values())),
        "ontology": {
            "id": "clontology", "name": "Sand mines", "mediaType": "TMS_GEO", "normalized": project.ontology,
            "createdAt": NOW, "updatedAt": NOW,
        },
    }  # fmt: skip


def _batch(name: str, keys: list[str]) -> dict[str, Any]:
    return {"id": f"batch-{name}", "name": name, "size": len(keys), "createdAt": NOW, "updatedAt": NOW}


def _metadata_id(name: str) -> str:
    return f"clmeta{_slug(name):_>19}"[:25]


def _unfit_annotation(annotation: dict[str, Any], project: Project, labelbox: Labelbox) -> str | None:
    """Why a pre-label is refused. Source: Labelbox documentation, "Import geospatial annotations"."""
    if set(annotation) != {"uuid", "schemaId", "dataRow", "polygon", "classifications"}:
        return f"keys: got {sorted(annotation)}"
    UUID(annotation["uuid"])
    if annotation["dataRow"].get("globalKey") not in labelbox.data_rows:
        return f"dataRow: no {annotation['dataRow']}"
    tools = {tool["featureSchemaId"]: tool for tool in project.ontology["tools"] if tool["tool"] == "polygon"}
    tool = tools.get(annotation["schemaId"])
    if tool is None:
        return f"schemaId: no polygon class {annotation['schemaId']}"
    (west, south), (east, north) = labelbox.data_rows[annotation["dataRow"]["globalKey"]]["row_data"]["bounds"]
    points = annotation["polygon"]
    if len(points) < 4 or points[0] != points[-1]:
        return "polygon: not closed"
    if not all(west <= point["x"] <= east and south <= point["y"] <= north for point in points):
        return "polygon: outside the bounds of its data row"
    questions = {question["featureSchemaId"]: question for question in tool["classifications"]}
    for given in annotation["classifications"]:
        options = [option["featureSchemaId"] for option in questions.get(given["schemaId"], {"options": []})["options"]]
        if given["answer"]["schemaId"] not in options:
            return f"classification {given['schemaId']}: got {given['answer']}; expected one of {options}"
    return None


@contextmanager
def serve_labelbox(*projects: Project, api_key: str = "FAKE-LABELBOX-API-KEY-7d21") -> Iterator[Labelbox]:
    """Runs a server that holds ``projects``; it ends with the block."""

    class Labels(Handler):
        def do_GET(self) -> None:
            name, _, query = self.path.removeprefix("/files/").partition("?")
            content = labelbox.file(name)
            fault = labelbox.faults.take("file" if name in labelbox._files else "export-file")
            if fault and fault.kind == "status":
                self.answer({"message": fault.message}, status=fault.status)
            elif query != f"X-Goog-Signature={labelbox.link_signature}" or content is None:
                self.answer({"message": "no such file, or not for you"}, status=403)
            elif fault and fault.kind == "lost":
                self.hang_up()
            elif fault and fault.kind == "truncate":
                self.answer(content[: len(content) // 2])
            else:
                self.answer(content, cut=fault is not None and fault.kind == "cut")

        def do_POST(self) -> None:
            body = self.body()
            if self.path not in ("/graphql", "/_gql"):
                self.answer({"message": f"no {self.path}"}, status=404)
            elif self.headers["Authorization"] != f"Bearer {labelbox.api_key}":
                self.refuse("AUTHENTICATION_ERROR", "Invalid API key", status=401)
            elif self.headers["Content-Type"].startswith("multipart/form-data"):
                self.graphql(*_multipart(self.headers["Content-Type"], body))
            else:
                request = json.loads(body)
                self.graphql(request["query"], request["variables"])

        def graphql(self, query: str, variables: dict[str, Any] | None) -> None:
            try:
                operation = _operation(query)
            except GraphQLError as error:
                self.refuse("GRAPHQL_PARSE_FAILED", error.message, status=400)
                return
            fault = labelbox.faults.take(operation)
            if fault and fault.kind == "status":
                if fault.status == 401:
                    self.refuse("AUTHENTICATION_ERROR", fault.message, status=401)
                else:
                    self.answer({"message": _too_many(fault)}, status=fault.status)
                return
            befalls_task = fault if fault and fault.kind in ("fail", "hang", "slow") else None
            labelbox.calls[operation] += 1
            result = graphql_sync(SCHEMA, query, Root(labelbox, befalls_task), variable_values=variables)
            if fault and fault.kind == "lost":
                self.hang_up()
            elif result.errors:
                first = result.errors[0]
                match first.original_error:
                    case RefusedError(code=code):
                        self.refuse(code, first.message, status=200)
                    case None:
                        self.refuse("GRAPHQL_VALIDATION_FAILED", first.message, status=400)
                    case defect:
                        self.refuse("INTERNAL_SERVER_ERROR", repr(defect), status=200)
            else:
                self.answer({"data": result.data}, cut=fault is not None and fault.kind == "cut")

        def refuse(self, code: str, message: str, *, status: int) -> None:
            # 400: the SDK reads this status out of the error and doesn't take it for a hiccup.
            extensions = {"code": code, "exception": {"status": 400}}
            self.answer({"errors": [{"message": message, "extensions": extensions}]}, status=status)

    server = Server(Labels)
    with server.running():
        labelbox = Labelbox(url=server.url, api_key=api_key, projects={project.id: project for project in projects})
        yield labelbox


def _too_many(fault: Fault) -> str:
    return "You have exceeded your API limit" if fault.status == 429 else fault.message


def _operation(query: str) -> str:
    """The name of the operation in a request."""
    first = parse(query).definitions[0]
    if not isinstance(first, OperationDefinitionNode) or first.name is None:
        raise GraphQLError("an operation without a name")
    return first.name.value


def _multipart(content_type: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Query and variables of a request with a file. Source: GraphQL multipart request specification."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    parts: dict[Any, bytes] = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts[part.get_param("name", header="content-disposition")] = content
    operations = json.loads(parts["operations"])
    for name, (target,) in json.loads(parts["map"]).items():
        operations["variables"][target.removeprefix("variables.")] = parts[name]
    return operations["query"], operations["variables"]
