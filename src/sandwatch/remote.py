"""Where ``dvc push`` puts outputs: a bucket of the user's own, which is the default remote from then on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sandwatch.errors import InputError

NAME = "storage"
"""Of the remote in .dvc/config. A clone comes with it as an example, not as the default, so nothing asks it."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
"""Source: Google Cloud Storage, bucket naming guidelines. The example's capitals make it a name that nobody can own."""
_FOLDER = re.compile(r"(/(?!\.\.?(/|$))[\w.=+-]+)*/?", re.ASCII)


def set_default(root: Path, address: str) -> str:
    """Makes ``address`` DVC's default remote in .dvc/config, which git tracks; asks nobody.

    Args:
        root: of the clone.
        address: ``gs://bucket/folder``.

    Returns:
        The address as it was written.

    Raises:
        InputError: no address of a bucket; no clone; .dvc/config is broken; .dvc/config.local says otherwise.
    """
    from dvc.config import ConfigError

    address, config = checked(address), _config(root)
    local: dict[str, Any] = config.load_one("local")
    for option, ours, theirs in (
        ("core.remote", NAME, local["core"].get("remote")),
        (f"remote.{NAME}.url", address, local["remote"].get(NAME, {}).get("url")),
    ):
        if theirs not in (None, ours):
            raise InputError(
                ".dvc/config.local",
                got=f"{option}, which wins over .dvc/config",
                expected="none",
                fix=f"dvc config --local --unset {option}",
            )
    try:
        with config.edit("repo") as edited:
            edited["core"]["remote"] = NAME
            edited["remote"].setdefault(NAME, {})["url"] = address
    except ConfigError as error:
        fix = f"dvc remote remove {NAME}, then run this again"
        raise InputError(".dvc/config", got=str(error), expected=f"settings that fit {address}", fix=fix) from None
    return address


def default(root: Path) -> tuple[str, str] | None:
    """Name and address of the default remote; user names, passwords and signatures in the address stay unseen.

    Args:
        root: of the clone.

    Raises:
        InputError: no clone, or .dvc/config is broken.
    """
    config: dict[str, Any] = _config(root)
    name = config["core"].get("remote")
    if not name or name not in config["remote"]:
        return None
    address = urlsplit(config["remote"][name]["url"])
    host = address.netloc.rpartition("@")[2]
    return name, f"{address.scheme}://{host}{address.path}" if address.scheme else address.path


def _config(root: Path) -> Any:
    from dvc.config import Config, ConfigError

    if not (root / ".dvc").is_dir():
        raise InputError(
            "this folder", got="no folder .dvc", expected="a clone of sandwatch", fix="change into the clone's root"
        )
    try:
        return Config(str(root / ".dvc"))
    except ConfigError as error:
        raise InputError(".dvc/config", got=str(error), expected="DVC's configuration", fix="correct it") from None


def checked(address: str) -> str:
    """``gs://bucket/folder`` without a slash at its end.

    Raises:
        InputError: something else. The message repeats no address that may hold a password or a signature.
    """
    scheme, _, rest = address.partition("://")
    bucket, slash, folder = rest.partition("/")
    expected, fix = "gs://bucket/folder", "give the address of a bucket of yours"
    if set("@?#") & set(address) or ":" in address.partition("//")[2]:
        raise InputError(
            "address of the remote", got="one with a user, a port, a query or a fragment", expected=expected, fix=fix
        )
    if scheme != "gs":
        got = f"{address!r}, which is no address of Google Cloud Storage"
    elif not _BUCKET.fullmatch(bucket):
        got = f"{address!r}, whose bucket has a name that no bucket can have"
    elif not _FOLDER.fullmatch(slash + folder):
        got = f"{address!r}, whose folder is not plain letters, digits and . _ = + -"
    else:
        return address.rstrip("/")
    raise InputError("address of the remote", got=got, expected=expected, fix=fix)
