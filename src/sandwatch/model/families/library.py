"""One module of a library that comes with an optional extra, without the rest of it."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.extras import need


def torchgeo(name: str, *, what: str) -> Any:
    """The module ``torchgeo.models.<name>``, read by itself.

    Imported as usual it would bring all of torchgeo's models, its datasets and a registry of downloads: 2.5 s and GDAL
    in a process that learns. The package around it holds nothing that it needs.

    Args:
        name: of the module.
        what: is wanted, for the message.

    Raises:
        InputError: the extra torchgeo is not installed, or has no such module.
    """
    need("torchgeo", "torchgeo", "einops", what=what)
    package = find_spec("torchgeo")
    places = [] if package is None else list(package.submodule_search_locations or ())
    path = Path(*places[:1], "models", f"{name}.py")
    spec = spec_from_file_location(f"torchgeo_models_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(
            what,
            got=f"a torchgeo without models/{name}.py",
            expected="0.8.1 on Python 3.11, 0.10.1 on later ones",
            fix="install the extra torchgeo again",
        )
    ensure_torchvision()
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
