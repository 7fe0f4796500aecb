"""Signing a release with OpenSSF model-signing, and checking one: signature, attestation, files, revision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandwatch.audit import chain
from sandwatch.audit.attest import Sign
from sandwatch.audit.chain import broken, skipped, unverified, verified
from sandwatch.audit.hashes import md5
from sandwatch.audit.history import History
from sandwatch.audit.record import Chain, Link
from sandwatch.audit.statement import ATTESTATION, SIGNATURE, SUBJECTS, read_statement
from sandwatch.errors import InputError
from sandwatch.files import left_behind, sha256
from sandwatch.printable import printable

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing

PASSWORD = "SANDWATCH_KEY_PASSWORD"
"""Environment variable with the password of the private key, where it has one."""


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who is believed: the owner of a key, or an identity that Sigstore vouches for.

    Attributes:
        public_key: PEM of an elliptic key; None for Sigstore.
        identity: address or URI that Sigstore's certificate must name.
        issuer: OpenID Connect issuer that must have vouched for it.
    """

    public_key: Path | None = None
    identity: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        """Refuses neither and both.

        Raises:
            InputError: so.
        """
        sigstore = self.identity is not None and self.issuer is not None
        if (self.public_key is None) != sigstore or (self.identity is None) != (self.issuer is None):
            raise InputError(
                "who signed",
                got="a key and an identity" if self.public_key else "neither a key nor an identity with its issuer",
                expected="--public-key, or --identity with --issuer",
                fix="name the one that you trust",
            )


@dataclass(frozen=True, kw_only=True)
class Checked(Chain):
    """What a check found: links signature, statement, subjects and release.

    Attributes:
        statement: the attestation; None where it could not be read.
        notes: what was not looked at.
    """

    statement: dict[str, Any] | None
    notes: tuple[str, ...] = ()


def with_key(private_key: Path) -> Sign:
    """Signs with an elliptic key (P-256, P-384 or P-521) in a PEM; its password is in ``SANDWATCH_KEY_PASSWORD``.

    Raises:
        InputError: the key can't be used.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from model_signing.signing import Config

    password = os.environ.get(PASSWORD)
    try:
        # Bytes, whatever the library's hint says: it hands them on to cryptography, which takes no text.
        secret: Any = password.encode() if password else None
        signer = Config().use_elliptic_key_signer(private_key=private_key, password=secret)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise InputError(
            str(private_key),
            got=" ".join(str(error).split())[:200],
            expected="a private key on the curve P-256, P-384 or P-521, as PEM",
            fix=f"make one with openssl ecparam -genkey -name prime256v1 -noout; its password goes into {PASSWORD}",
        ) from None
    return lambda folder: signer.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)


def with_sigstore() -> Sign:
    """Signs as whoever logs in to Sigstore, in a browser or by the environment's own identity; needs a network.

    Raises (when signing):
        InputError: Sigstore could not be reached, or gave no certificate.
    """

    def sign(folder: Path) -> None:
        from model_signing.signing import Config
        from sigstore.errors import Error
        from sigstore.oidc import IdentityError

        try:
            signer = Config().use_sigstore_signer(use_ambient_credentials=True)  # type: ignore[no-untyped-call]
            signer.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)
        except (Error, IdentityError, OSError, ValueError) as error:
            raise InputError(
                "Sigstore",
                got=" ".join(str(error).split())[:200] or type(error).__name__,
                expected="a certificate for who you are",
                fix="log in where there is a network, or sign with --private-key",
            ) from None

    return sign


def check(folder: Path, signer: Signer, *, where: Path | None = None) -> Checked:
    """Whether a release is what its signer signed, and what its attestation is about.

    Args:
        folder: of a release.
        signer: who must have signed it.
        where: a path in the DVC repository; None for the working directory.

    Raises:
        InputError: the folder is no release, or the key is none.
    """
    missing = [name for name in (*SUBJECTS, ATTESTATION) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            str(folder),
            got=f"no {', '.join(missing)}",
            expected=f"a folder with {', '.join((*SUBJECTS, ATTESTATION, SIGNATURE))}",
            fix="name the folder that sandwatch audit attest wrote",
        )
    links = [_signature(folder, signer)]
    try:
        statement = read_statement(folder / ATTESTATION)
    except InputError as error:
        rest = [skipped(name=name, detail="no attestation says what to compare") for name in ("subjects", "release")]
        return Checked(links=(*links, broken(name="statement", detail=str(error)), *rest), statement=None)
    links.append(verified(name="statement", detail="an in-toto statement with SLSA provenance"))
    links.append(_subjects(folder, statement))
    history = History.around(where or Path())
    if history is None:
        detail = "there is no DVC repository here to look for the commit in: run it in a clone"
        links.append(skipped(name="release", detail=detail))
        return Checked(links=tuple(links), statement=statement, notes=_starts(statement))
    try:
        links.append(_revision(folder, statement, history))
    finally:
        history.git.close()
    return Checked(links=tuple(links), statement=statement, notes=(*history.notes, *_starts(statement)))


def _starts(statement: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on the models that the attested one began with, as the attestation says: their materials are apart."""
    said = statement["predicate"]["buildDefinition"].get("internalParameters", {})
    start, listed = said.get("start"), said.get("starts")
    starts = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    if starts:
        named = ", ".join(f"{one.get('name')} of commit {str(one.get('gitCommit'))[:10]}" for one in starts)
        return (f"it began with {named}: their labels taught it too, and are no part of what is attested here",)
    if isinstance(start, Mapping) and start.get("model"):
        return (f"it began with {start.get('name')}, a model that was not to be seen: its labels taught it too",)
    return ()


def _hashing(folder: Path) -> Hashing:
    from model_signing.hashing import Config

    beside = [path.name for path in folder.iterdir() if left_behind(path.name)]
    return Config().set_ignored_paths(paths=[SIGNATURE, *beside], ignore_git_paths=False)  # type: ignore[no-untyped-call]


def _signature(folder: Path, signer: Signer) -> Link:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from model_signing.verifying import Config
    from sigstore.errors import Error

    config = Config().set_hashing_config(_hashing(folder))  # type: ignore[no-untyped-call]
    try:
        if signer.public_key is not None:
            config.use_elliptic_key_verifier(public_key=signer.public_key)
    except (OSError, ValueError, AttributeError, UnsupportedAlgorithm) as error:
        raise InputError(
            str(signer.public_key),
            got=" ".join(str(error).split())[:200],
            expected="a public key on the curve P-256, P-384 or P-521, as PEM",
            fix="make it from the private one with openssl ec -pubout, or get it from who signed",
        ) from None
    if not (folder / SIGNATURE).is_file():
        return broken(name="signature", detail=f"there is no {SIGNATURE}: nobody signed this")
    try:
        if signer.public_key is None:
            config.use_sigstore_verifier(identity=signer.identity or "", oidc_issuer=signer.issuer or "")
        config.verify(folder, folder / SIGNATURE)
    except InvalidSignature:
        return broken(name="signature", detail=f"{SIGNATURE} was not made with that key over what it says")
    except (Error, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        said = printable(" ".join(str(error).split())[:300]) or type(error).__name__
        return broken(name="signature", detail=f"{SIGNATURE}: {said}")
    who = signer.identity or f"the owner of {signer.public_key}"
    return verified(name="signature", detail=f"{who} signed exactly these files")


def _subjects(folder: Path, statement: dict[str, Any]) -> Link:
    said = {subject["name"]: subject["digest"].get("sha256") for subject in statement["subject"]}
    found = {name: sha256(folder / name) for name in SUBJECTS}
    wrong = [
        f"{name} has SHA-256 {found.get(name, 'none, it is missing')}; the attestation is about {said.get(name)}"
        for name in sorted({*said, *found})
        if said.get(name) != found.get(name)
    ]
    wrong += [
        f"{path.name} is no part of a release"
        for path in sorted(folder.iterdir())
        if path.name not in (*SUBJECTS, ATTESTATION, SIGNATURE) and not left_behind(path.name)
    ]
    if wrong:
        return broken(name="subjects", detail=wrong[0])
    return verified(name="subjects", detail=f"the attestation is about this {' and this '.join(SUBJECTS)}")


def _revision(folder: Path, statement: dict[str, Any], history: History) -> Link:
    """Whether the commit that the attestation names holds the model that lies in the folder."""
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    commit = next((m["digest"]["gitCommit"] for m in materials if "gitCommit" in m.get("digest", {})), "")
    revision = next((r for r in history.revisions if r.commit == commit), None)
    if revision is None or not commit:
        detail = f"this repository has no commit {commit[:10] or 'that it names'}: fetch it, with its experiments"
        return unverified(name="release", detail=detail, remedy=chain.FETCH)
    mine = {name: md5(folder / name) for name in SUBJECTS}
    held = [dict(one.files) for one in chain.models_in(history.lock(revision))]
    if not any(mine.items() <= files.items() for files in held):
        wrong = [name for name in SUBJECTS if all(files.get(name) != mine[name] for files in held)] or [*SUBJECTS]
        return broken(name="release", detail=f"dvc.lock of {revision} holds another {wrong[0]}")
    return verified(name="release", detail=f"dvc.lock of {revision} holds this model")
