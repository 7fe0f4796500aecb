"""Single modules of libraries that come with an optional extra, without the rest of these."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from sandwatch._torchvision import ensure_torchvision
from sandwatch.errors import InputError
from sandwatch.extras import need

VERSIONS = {
    "torchgeo": "0.8.1 on Python 3.11, 0.10.1 on later ones",
    "terratorch": "1.2.11 on Python 3.11, 1.2.13 on later ones",
}


def module_of(library: Literal["torchgeo", "terratorch"], folder: str, name: str, *, what: str) -> Any:
    """A module of a library, and what it imports from its own folder; of the packages around it nothing is run.

    Imported as usual it would bring all models of the library, its datasets, GDAL and a registry of downloads: 2.5 s
    for torchgeo, 13 s for terratorch.

    Args:
        library: which; the extra has the same name.
        folder: in the library.
        name: of the module there.
        what: is wanted, for the message.

    Raises:
        InputError: the library is not installed, or has no such module.
    """
    need(library, library, "einops", what=what)
    ensure_torchvision()
    spec = find_spec(library)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    alias = f"_{library}_{folder.replace('/', '_')}"
    package = sys.modules.setdefault(alias, ModuleType(alias))
    package.__path__ = [str(Path(place, folder)) for place in places]
    try:
        return import_module(f"{alias}.{name}")
    except ModuleNotFoundError as error:
        raise InputError(
            what,
            got=f"a {library} without {folder}/{name}.py, or without what that imports: {error}",
            expected=VERSIONS[library],
            fix=f"install the extra {library} again",
        ) from None
