"""Packages that only some uses need, and that come with an optional extra of this one."""

from __future__ import annotations

from importlib.util import find_spec

from sandwatch.errors import InputError


def need(extra: str, *modules: str, what: str) -> None:
    """Makes sure that the packages of an extra are installed, before anything is begun that needs them.

    Args:
        extra: its name in pyproject.toml.
        modules: top-level modules of these packages.
        what: is wanted, for the message.

    Raises:
        InputError: one is missing.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise InputError(
            what,
            got=f"no package {', '.join(missing)}",
            expected=f"the packages of the optional extra {extra}",
            fix=f"run: python -m pip install --constraint constraints/cpu.txt --editable '.[{extra}]'",
        )
