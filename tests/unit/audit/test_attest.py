"""Attestations and signatures of releases: what they hold, what they refuse, and what breaks them."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.json_format import Parse, ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement
from typer.testing import CliRunner

from sandwatch import schemas
from sandwatch.audit.attest import attest, public_uri
from sandwatch.audit.cli import app
from sandwatch.audit.forward import audit
from sandwatch.audit.history import read_yaml
from sandwatch.audit.release import PASSWORD, Checked, Signer, check, with_key, with_sigstore
from sandwatch.audit.statement import attested, read_statement
from sandwatch.errors import InputError
from sandwatch.files import sha256
from tests.audit_history import Made

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILES = {"model.safetensors", "model.json", "attestation.json"}


def write_keys(folder: Path, name: str, password: str | None = None) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    how = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "mine")


@pytest.fixture
def clone(made: Made, tmp_path: Path) -> Path:
    """The history with a cache of links: a test may change its git configuration and files."""
    root = tmp_path / "clone"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(made.root / ".dvc/cache", root / ".dvc/cache", copy_function=os.link)
    return root


@pytest.fixture(scope="module")
def signed(made: Made, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "river-model"
    attest("main", folder, where=made.root, offline=True, sign=with_key(keys[0]), now=NOW)
    return folder


@pytest.fixture
def release(signed: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, in a folder of another name: releases are moved about."""
    return shutil.copytree(signed, tmp_path / "downloaded")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout[:-1]


def materials(statement: Any) -> dict[str, Any]:
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert len({material["name"] for material in found}) == len(found)
    return {material["name"]: material for material in found}


# --- what an attestation holds -----------------------------------------------------------------------------------


def test_a_statement_names_the_model_and_all_that_it_was_made_from(made: Made, tmp_path: Path) -> None:
    done = attest("main", tmp_path / "out", where=made.root, offline=True, now=NOW)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    text = (tmp_path / "out/attestation.json").read_text()
    statement = json.loads(text)
    assert statement == done.statement == read_statement(tmp_path / "out/attestation.json")
    Parse(text, Statement())  # field by field, as published
    ParseDict(statement["predicate"], Provenance())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"] for s in statement["subject"]} == {
        name: {"sha256": sha256(tmp_path / "out" / name)} for name in ("model.safetensors", "model.json")
    }
    found = audit("main", where=made.root, offline=True)
    assert found.card is not None
    assert found.revision is not None
    assert found.imagery is not None
    build, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    params = read_yaml((made.root / "params.yaml").read_text())
    sections = build["externalParameters"]["params"]
    assert build["externalParameters"]["region"] == params["region"]
    assert sections == {section: {key: params[section][key] for key in keys} for section, keys in sections.items()}
    assert {"train", "chips", "annotations", "imagery", "aoi"} <= sections.keys()
    assert build["internalParameters"]["label_fingerprint"] == made.fingerprints[-1]
    assert build["internalParameters"]["params_sha256"] == found.card.params_sha256
    assert (build["internalParameters"]["imagery"], build["internalParameters"]["labels"]) == ("synthetic", "synthetic")
    assert build["internalParameters"]["links"]["labels"] == "verified"
    by_name = materials(statement)
    assert by_name["git"] == {"name": "git", "digest": {"gitCommit": found.revision.commit}}
    tables = ("labels.parquet", "observations.parquet", "quarantine.parquet")
    cached = {f"data/annotations/{name}" for name in ("export.ndjson", *tables)} | {
        "data/scenes.parquet",
        "dvc.lock",
        "dvc.yaml",
        "params.yaml",
    }
    scenes = {f"data/scenes/{path}" for path in found.imagery["path"]}
    assert len(scenes) == 7
    assert set(by_name) == {"git", *found.card.inputs, *found.card.code, *cached, *scenes}
    for path, digest in found.card.inputs.items():
        assert by_name[path]["digest"] == {"sha256": digest}
    for path in found.card.code:  # the card has digests of what they mean, an attestation is of bytes
        assert by_name[path]["digest"] == {"sha256": sha256(made.root / path)}
    assert by_name["dvc.lock"]["digest"] == {"sha256": sha256(made.root / "dvc.lock")}
    assert all(len(m["digest"].get("sha256", "0" * 64)) == 64 for m in by_name.values())
    assert run["builder"]["id"] == "sandwatch:attesting-environment/v1"
    assert {"python", "dvc", "torch", "sandwatch"} <= run["builder"]["version"].keys()
    assert run["metadata"] == {"finishedOn": "2026-01-02T03:04:05Z"}


def test_the_same_but_for_the_time(made: Made, tmp_path: Path) -> None:
    one = attest("main", tmp_path / "one", where=made.root, offline=True, now=NOW)
    two = attest("main", tmp_path / "two", where=made.root, offline=True, now=NOW.replace(year=2027))
    assert one.statement != two.statement
    for done in (one, two):
        done.statement["predicate"]["runDetails"].pop("metadata")
    assert one.statement == two.statement


def test_an_experiment_is_a_commit_too(made: Made, tmp_path: Path) -> None:
    done = attest("exp-1", tmp_path / "out", where=made.root, offline=True)
    assert done.audit.revision is not None
    assert done.audit.revision.kind == "experiment"
    assert materials(done.statement)["git"]["digest"] == {"gitCommit": done.audit.revision.commit}


def test_neither_credentials_nor_annotators_are_attested(clone: Path, tmp_path: Path) -> None:
    url = "https://someone:s3cret-token@example.org:8443/group/rivers.git?private_token=s3cret"
    git(clone, "remote", "add", "origin", url)
    done = attest("main", tmp_path / "out", where=clone, offline=True)
    assert materials(done.statement)["git"]["uri"] == "git+https://example.org:8443/group/rivers.git"
    text = (tmp_path / "out/attestation.json").read_text()
    for secret in ("s3cret", "someone", "token", "annotator0", "@", str(clone), str(tmp_path)):
        assert secret not in text, secret


@pytest.mark.parametrize(
    ("remote", "uri"),
    [
        ("git@example.org:group/rivers.git", "git+ssh://example.org/group/rivers.git"),
        ("ssh://git@example.org:22/rivers", "git+ssh://example.org:22/rivers"),
        ("https://example.org/rivers#t0ken", "git+https://example.org/rivers"),
        ("https://t0ken@example.org/rivers", "git+https://example.org/rivers"),
        ("https://u:p@example.org:nan/rivers", None),
        ("/srv/rivers.git", None),
        ("../rivers", None),
        ("file:///srv/rivers", None),
        ("C:/rivers", None),
        ("", None),
    ],
)
def test_a_remote_without_whoever_cloned_it(remote: str, uri: str | None) -> None:
    assert public_uri(remote) == uri


# --- what is refused ---------------------------------------------------------------------------------------------


def test_an_uncommitted_model_is_refused(clone: Path, tmp_path: Path) -> None:
    refs = git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    text = git(clone, "show", f"{refs[0]}:dvc.lock") + "\n"
    for ref in refs:
        git(clone, "update-ref", "-d", ref)
    (clone / "dvc.lock").write_text(text)
    (clone / "models").mkdir()
    for out in read_yaml(text)["stages"]["train"]["outs"]:
        if out["path"].startswith("models/"):
            shutil.copyfile(clone / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:], clone / out["path"])
    with pytest.raises(
        InputError, match=r"link revision not committed yet: only the working tree holds it; .*git add dvc\.lock"
    ):
        attest(str(clone / "models"), tmp_path / "out", where=clone, offline=True)
    assert not (tmp_path / "out").exists()


def test_a_broken_link_is_refused_by_name(clone: Path, tmp_path: Path, made: Made) -> None:
    """One label of the model is another than the one that was trained on."""
    labels = made.labels.copy()
    labels.loc[labels.index[7], "confidence"] = "low"
    mine = hashlib.md5((clone / "dvc.lock").read_bytes()).hexdigest()
    lock = read_yaml((clone / "dvc.lock").read_text())
    folder = lock["stages"]["annotations"]["outs"][0]["md5"]
    cache = clone / ".dvc/cache/files/md5"
    listed = json.loads((cache / folder[:2] / folder[2:]).read_bytes())
    oid = next(entry["md5"] for entry in listed if entry["relpath"] == "labels.parquet")
    (cache / oid[:2] / oid[2:]).unlink()
    schemas.Labels.write(labels, cache / oid[:2] / oid[2:])
    with pytest.raises(InputError, match=rf"main: got link labels broken: the cache holds another file .*{oid}"):
        attest("main", tmp_path / "out", where=clone, offline=True)
    assert not (tmp_path / "out").exists()
    assert hashlib.md5((clone / "dvc.lock").read_bytes()).hexdigest() == mine


def test_of_commits_the_one_is_attested_whose_code_is_the_models(clone: Path, made: Made, tmp_path: Path) -> None:
    """Asked for HEAD, where code was changed since without training again, the commit before it is named."""
    (clone / "stages/train.py").write_text("another\n")
    before = git(clone, "rev-parse", "HEAD")
    git(clone, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "code alone")
    done = attest("HEAD", tmp_path / "out", where=clone, offline=True)
    assert materials(done.statement)["git"]["digest"] == {"gitCommit": before}


def test_without_weights_or_labels_nothing_is_attested(clone: Path, tmp_path: Path) -> None:
    """Of an empty cache nothing is left to copy."""
    found = audit("main", where=clone, offline=True)
    assert found.card is not None
    for path in (clone / ".dvc/cache").rglob("*"):
        if path.is_file() and sha256(path) == found.card.weights_sha256:
            path.unlink()
    with pytest.raises(InputError, match="is in neither cache nor remote; expected the files of models at"):
        attest("main", tmp_path / "out", where=clone, offline=True)
    assert list(tmp_path.glob("*out*")) == []


def test_outside_a_repository_there_is_nothing_to_attest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no DVC repository"):
        attest("main", tmp_path / "out", where=tmp_path)


def test_the_audit_of_a_release_says_when_and_where_it_was_attested(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    attest("main", out, where=made.root, offline=True, now=NOW)

    def said(target: Path) -> list[str]:
        return [note for note in audit(str(target), where=made.root, offline=True).notes if "attest" in note]

    (note,) = said(out)
    assert note.startswith("attested on 2026-01-02T03:04:05Z with ")
    assert f"python {platform.python_version()}" in note
    assert said(out / "model.safetensors") == [note]
    statement = (out / "attestation.json").read_text()
    (out / "attestation.json").write_text(statement.replace(sha256(out / "model.safetensors"), "0" * 64))
    assert "is about another model" in said(out)[0]
    (out / "attestation.json").write_text("{")
    assert "can't be read" in said(out)[0]
    (out / "attestation.json").unlink()
    assert said(out) == []


def test_only_an_earlier_release_of_the_same_model_is_replaced(
    made: Made, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    attest("main", out, where=made.root, offline=True, sign=with_key(keys[0]))
    attest("main", out, where=made.root, offline=True, now=NOW)
    assert {path.name for path in out.iterdir()} == FILES  # the signature was of the other attestation
    assert read_statement(out / "attestation.json")["predicate"]["runDetails"]["metadata"]["finishedOn"][:4] == "2026"
    before = {path.name: sha256(path) for path in out.iterdir()}
    with pytest.raises(InputError, match=r"got something else there: attestation\.json, .*; expected a new or empty"):
        attest("exp-0", out, where=made.root, offline=True)
    (out / "notes.txt").write_text("mine\n")
    with pytest.raises(InputError, match="something else there"):
        attest("main", out, where=made.root, offline=True)
    (out / "notes.txt").unlink()
    assert {path.name: sha256(path) for path in out.iterdir()} == before
    with pytest.raises(InputError, match="something else there: a file"):
        attest("main", out / "model.json", where=made.root, offline=True)


def test_a_signing_that_fails_leaves_nothing(made: Made, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise InputError("key", got="no", expected="yes", fix="find it")

    with pytest.raises(InputError, match="find it"):
        attest("main", tmp_path / "out", where=made.root, offline=True, sign=fail)
    assert list(tmp_path.iterdir()) == []


# --- signatures --------------------------------------------------------------------------------------------------


def test_a_release_that_nobody_touched(release: Path, keys: tuple[Path, Path], made: Made) -> None:
    found = check(release, Signer(public_key=keys[1]), where=made.root)
    assert found.verdict == "VERIFIED: 4 links verified", found.links
    assert [link.name for link in found.links] == ["signature", "statement", "subjects", "release"]
    alone = check(release, Signer(public_key=keys[1]), where=release)
    assert alone.verdict == "VERIFIED: 3 links verified; not looked at: release"
    assert "no DVC repository here" in alone.links[-1].detail


def test_a_folder_that_was_looked_at_is_still_what_was_signed(
    release: Path, keys: tuple[Path, Path], made: Made
) -> None:
    for name in (".DS_Store", "Thumbs.db"):
        (release / name).write_bytes(b"left behind")
    assert check(release, Signer(public_key=keys[1]), where=made.root).state == "verified"
    attest("main", release, where=made.root, offline=True, now=NOW)  # it is still an earlier release of the same model
    assert {path.name for path in release.iterdir()} == FILES


def broken_at(found: Checked) -> tuple[str, str]:
    link = next(link for link in found.links if link.state == "broken")
    assert found.verdict == f"BROKEN at {link.name}: {link.detail}"
    assert "\n" not in found.verdict
    return link.name, link.detail


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "attestation.json"])
@pytest.mark.parametrize("at", [0.5, 0.999])
def test_a_byte_of_a_signed_file(release: Path, keys: tuple[Path, Path], name: str, at: float) -> None:
    flip(release / name, int((release / name).stat().st_size * at))
    where, detail = broken_at(check(release, Signer(public_key=keys[1]), where=release))
    assert where == "signature"
    assert name in detail


def test_a_byte_of_the_signature(release: Path, keys: tuple[Path, Path]) -> None:
    """In the signature's own value and in what was signed; each byte in steps."""
    path = release / "model.sig"
    whole = path.read_bytes()
    parts = json.loads(whole)["dsseEnvelope"]
    for text in (parts["signatures"][0]["sig"], parts["payload"]):
        start = whole.index(text.encode())
        for at in range(start, start + len(text) - 4, 37):
            flip(path, at)
            assert broken_at(check(release, Signer(public_key=keys[1]), where=release))[0] == "signature"
            path.write_bytes(whole)
    for content in ("{}", "[" * 100_000, '{"a":' * 100_000):
        path.write_text(content)
        assert broken_at(check(release, Signer(public_key=keys[1]), where=release))[0] == "signature"
    path.unlink()
    assert broken_at(check(release, Signer(public_key=keys[1]), where=release)) == (
        "signature", "there is no model.sig: nobody signed this",
    )  # fmt: skip


def test_a_wrong_key(release: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    where, detail = broken_at(check(release, Signer(public_key=other), where=release))
    assert where == "signature"
    assert "Key mismatch" in detail


def test_what_lies_beside_a_release_was_not_signed(release: Path, keys: tuple[Path, Path]) -> None:
    (release / "run_me.py").write_text("import os\n")
    assert "run_me.py" in broken_at(check(release, Signer(public_key=keys[1]), where=release))[1]
    (release / "run_me.py").rename(release / ".gitignore")
    where, detail = broken_at(check(release, Signer(public_key=keys[1]), where=release))
    assert where == "signature"
    assert ".gitignore" in detail


def test_an_attestation_of_another_model_signed_with_this_one(
    made: Made, release: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whoever has the key can sign nonsense; the digests tell."""
    attest("exp-0", tmp_path / "other", where=made.root, offline=True)
    shutil.copyfile(tmp_path / "other/attestation.json", release / "attestation.json")
    (release / "model.sig").unlink()
    with_key(keys[0])(release)
    where, detail = broken_at(check(release, Signer(public_key=keys[1]), where=made.root))
    assert where == "subjects"
    assert detail.startswith("model.json has SHA-256 ")


def test_a_commit_that_holds_another_model(made: Made, release: Path, keys: tuple[Path, Path]) -> None:
    path = release / "attestation.json"
    text = path.read_text()
    mine = materials(json.loads(text))["git"]["digest"]["gitCommit"]
    older = git(made.root, "rev-parse", "main~19")
    for commit, state, said in ((older, "broken", "holds another"), ("f" * 40, "unverified", "no commit ffffffffff")):
        path.write_text(text.replace(mine, commit))
        (release / "model.sig").unlink()
        with_key(keys[0])(release)
        link = check(release, Signer(public_key=keys[1]), where=made.root).links[-1]
        assert (link.name, link.state) == ("release", state)
        assert said in link.detail


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v2", "Wrong statement type"),
        ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0", "predicate type"),
        ('"buildType"', '"buildTypo"', "buildTypo"),
        ('"sandwatch:dvc-pipeline/v1"', '"other"', "build type other"),
        ('"finishedOn": "2026-01-02T03:04:05Z"', '"finishedOn": "yesterday"', "finishedOn"),
        ('"subject": [', '"subjects": [', "subjects"),
    ],
)
def test_what_is_no_statement(release: Path, old: str, new: str, said: str) -> None:
    path = release / "attestation.json"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said):
        read_statement(path)


@pytest.mark.parametrize(
    "path",
    [
        ("subject",), ("subject", 0, "digest"), ("predicate",), ("predicate", "buildDefinition"),
        ("predicate", "buildDefinition", "resolvedDependencies"), ("predicate", "runDetails"),
        ("predicate", "runDetails", "builder"), ("predicate", "runDetails", "builder", "version"),
        ("predicate", "runDetails", "metadata"), ("predicate", "runDetails", "metadata", "finishedOn"),
        ("predicateType",), ("_type",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["absent", None, 3, "deep"])
def test_an_attestation_without_a_field_is_one_line(release: Path, path: tuple[str | int, ...], value: Any) -> None:
    statement = json.loads((release / "attestation.json").read_text())
    weights = statement["subject"][0]["digest"]["sha256"]
    *above, last = path
    parent = statement
    for key in above:
        parent = parent[key]
    if value == "absent":
        del parent[last]
    else:
        parent[last] = json.loads("[" * 300 + "]" * 300) if value == "deep" else value
    (release / "attestation.json").write_text(json.dumps(statement))
    said = attested(release, weights)
    assert said is not None
    assert "can't be read" in said or "is about another model" in said
    assert "\n" not in said


def test_keys_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    locked, public = write_keys(tmp_path, "locked", "open sesame")
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(InputError, match=rf"locked.pem: got .*its password goes into {PASSWORD}"):
        with_key(locked)
    monkeypatch.setenv(PASSWORD, "open barley")
    with pytest.raises(InputError, match=r"locked\.pem: got"):
        with_key(locked)
    monkeypatch.setenv(PASSWORD, "open sesame")
    attest("main", tmp_path / "out", where=made.root, offline=True, sign=with_key(locked))
    assert check(tmp_path / "out", Signer(public_key=public), where=tmp_path).verdict.startswith("VERIFIED")
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(InputError, match="expected a private key on the curve"):
        with_key(tmp_path / "none.pem")
    with pytest.raises(InputError, match="expected a private key on the curve"):
        with_key(public)
    with pytest.raises(InputError, match="expected a public key on the curve"):
        check(tmp_path / "out", Signer(public_key=locked))
    with pytest.raises(InputError, match="neither a key nor an identity with its issuer"):
        Signer(identity="me@example.org")
    with pytest.raises(InputError, match="got a key and an identity"):
        Signer(public_key=public, identity="me@example.org", issuer="https://example.org")


def test_sigstore_without_a_network_is_one_line(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there, wherever the tests run
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(InputError, match=r"Sigstore: got .*sign with --private-key"):
        with_sigstore()(release)


# --- commands ----------------------------------------------------------------------------------------------------


def test_commands(made: Made, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["attest", "main", "--out", str(out), "--private-key", str(keys[0])])
    assert done.exit_code == 0, done.output
    assert "signed" in done.output
    done = CliRunner().invoke(app, ["check", str(out), "--public-key", str(keys[1])])
    assert done.exit_code == 0, done.output
    assert "VERIFIED" in done.output
    flip(out / "model.json", 5)
    done = CliRunner().invoke(app, ["check", str(out), "--public-key", str(keys[1]), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["verdict"].startswith("BROKEN at signature")
    done = CliRunner().invoke(app, ["attest", "exp-0", "--out", str(tmp_path / "exp"), "--json", "--offline"])
    assert json.loads(done.stdout)["_type"] == "https://in-toto.io/Statement/v1"
    done = CliRunner().invoke(app, ["attest", "main", "--out", "x", "--sigstore", "--private-key", "y"])
    assert isinstance(done.exception, InputError)
