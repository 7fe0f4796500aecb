"""Weights by name: where they are, what they are, what they know and what may be done with them. Without torch.

One entry is all that weights of a family need: nothing in the code that fetches, checks or fits them knows any by name.
Hashes are those of the files where they could be had; where only the publisher's file name tells its first digits,
those.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from sandwatch.errors import InputError
from sandwatch.model.entry import Entry, Known
from sandwatch.params import RGB_BANDS

ENTRIES: tuple[Entry, ...] = ()
"""All of them, in the order in which they are listed."""


def find(name: str) -> Entry | None:
    """The entry of a name, or None.

    Beside those that are listed there are ``smp/<encoder>/<name>`` and ``timm/<model>/<tag>``, what these libraries
    have on the Hugging Face Hub for photographs: red, green and blue, each by the statistics of the training windows.
    """
    if (hub := re.fullmatch(r"(smp|timm)/([\w-]+)/([\w.-]+)", name)) is None:
        return next((entry for entry in ENTRIES if entry.name == name), None)
    library, network, tag = hub.groups()
    return Entry(
        name=name,
        address=f"hub:{'smp-hub' if library == 'smp' else 'timm'}/{network}.{tag}/model.safetensors",
        sha256="",
        megabytes=0,
        licence="see its page on the Hugging Face Hub",
        network={"kind": "smp", "encoder": network if library == "smp" else f"tu-{network}"},
        bands=tuple(Known(name=band) for band in RGB_BANDS),
        left=("fc\\.", "classifier\\.", "head\\.", "last_linear\\.", "conv_head\\.", "norm_head\\.", "bn2\\."),
        source="segmentation-models-pytorch" if library == "smp" else "timm",
    )


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        InputError: there is none; it tells the nearest names.
    """
    found = find(name)
    if found is None:
        near = get_close_matches(name, [one.name for one in ENTRIES], n=3, cutoff=0.3)
        raise InputError(
            f"weights {name}",
            got="no such name",
            expected=f"one of the {len(ENTRIES)} that sandwatch models lists"
            + (f", such as {', '.join(near)}" if near else ""),
            fix="correct the name, or name a file of data/weights that ends with .safetensors",
        )
    return found
