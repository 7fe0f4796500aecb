"""Where the code of a revision runs: without this environment's secrets, and without a network where the system can.

It is no jail: the code reads and writes whatever files the user may. What it finds there has no way out while the
network is off; the variables, and the home folder that clients of clouds look into, are not handed to it at all.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from sandwatch.retries import WAIT_FACTOR

KEPT = frozenset((
    "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "GDAL_DATA", "PROJ_DATA", "PROJ_LIB",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "SANDWATCH_WORKERS",
))  # fmt: skip
"""Variables that are handed on, with those that begin as ``KEPT_PREFIX``: they say where programs are and how text and
devices are used. Anything else may be a secret."""
KEPT_PREFIX = "LC_"


def environment(home: Path, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that the code gets, with an empty folder for its home.

    Args:
        home: a folder; made. It holds nothing but a link to what ``pip install --user`` put into the real one.
        given: variables to choose from.
    """
    home.mkdir(parents=True, exist_ok=True)
    packages = Path(site.getusersitepackages())
    if site.ENABLE_USER_SITE and packages.is_dir() and packages.is_relative_to(Path.home()):
        link = home / packages.relative_to(Path.home())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(packages)
    kept = {name: value for name, value in given.items() if name in KEPT or name.startswith(KEPT_PREFIX)}
    return kept | {"HOME": str(home), WAIT_FACTOR: "0"}  # nobody will answer, however long one waits


@cache
def offline() -> tuple[str, ...] | None:
    """What a command begins with to run without a network, not even loopback; None where this system has no such thing.

    Linux has, unless users may not make namespaces. Source: unshare(1), user_namespaces(7).
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    for user in (("--user", "--map-current-user"), ("--user", "--map-root-user"), ()):
        prefix = (unshare, *user, "--net", "--")
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        except OSError:
            return None
    return None
