"""Weights by name: where they are, what they are, what they know and what may be done with them. Without torch.

One entry is all that weights of a family need: nothing in the code that fetches, checks or fits them knows any by name.
Hashes are those of the files where they could be had; where only the publisher's file name tells its first digits,
those.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from sandwatch.errors import InputError
from sandwatch.model.entry import Entry, Known, clipped, radar, reflectances, spread, standardised
from sandwatch.params import RGB_BANDS

TEN = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
SATMAE_BANDS = clipped(
    spread(
        standardised(
            TEN,
            (1184.38, 1120.77, 1136.26, 1263.74, 1645.40, 1846.87, 1762.60, 1972.62, 1732.16, 1247.92),
            (650.28, 712.13, 965.23, 948.98, 1108.07, 1258.36, 1233.15, 1364.39, 1310.37, 1087.60),
        )
    )
)
"""What SatMAE sees, of top-of-atmosphere reflectance (L1C). Source: its repository, util/datasets.py, statistics of
SentinelIndividualImageDataset and SentinelNormalize, whose rounding to 256 steps is left out."""
GALILEO_BANDS = spread(
    (
        *radar(("VV", "VH"), (-11.7287, -18.8556), (4.8871, 5.7303)),
        *standardised(
            TEN,
            (1395.34, 1338.40, 1343.10, 1543.86, 2186.20, 2525.09, 2410.34, 2750.29, 2234.91, 1474.53),
            (917.70, 913.30, 1092.68, 1047.22, 1048.01, 1143.69, 1098.98, 1204.47, 1145.98, 980.24),
        ),
    )
)
"""What Galileo sees. Source: its repository, config/normalization.json and the Normalizer of src/data/dataset.py."""
PRESTO_BANDS = (*radar(("VV", "VH"), (-25.0, -25.0), (25.0, 25.0)), *reflectances(TEN))
"""What Presto sees. Source: its repository, presto/dataops/pipelines/s1_s2_era5_srtm.py, ADD_BY and DIVIDE_BY."""


def _satmae(size: str, megabytes: float) -> Entry:
    """SatMAE as its authors published it; the file holds their optimiser's state too."""
    return Entry(
        name=f"satmae/{size}/mae/l1c",
        address=f"https://zenodo.org/records/7338613/files/pretrain-vit-{size}-e199.pth",
        sha256="",
        megabytes=megabytes,
        licence="CC-BY-NC-4.0",
        forbids="commercial use",
        network={"kind": "satmae", "size": size},
        bands=SATMAE_BANDS,
        within=("model",),
        left=("mask_token", "decoder_"),
        source="Cong et al. 2022, arXiv 2207.08051; multi-spectral, 200 epochs",
    )


def _galileo(size: str, megabytes: float, sha256: str = "") -> Entry:
    """Galileo's encoder, of which the parts for what is no imagery of Sentinel-1 and Sentinel-2 are left."""
    return Entry(
        name=f"galileo/{size}",
        address=f"hub:nasaharvest/galileo/models/{size}/encoder.pt",
        sha256=sha256,
        megabytes=megabytes,
        licence="MIT",
        network={"kind": "galileo", "size": size},
        bands=GALILEO_BANDS,
        keys=((r"\.backbone", ""), (r"^month_embed\.weight$", "month_embed")),
        left=("space_embed", "time_embed", "static_embed", "sp_channel", "t_channel", "st_channel"),
        source="Tseng et al. 2025, arXiv 2502.09356",
    )


GROUPED = (
    _satmae("base", 1340),
    _satmae("large", 3950),
    _galileo("nano", 4.2, "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c"),
    _galileo("tiny", 22),
    _galileo("base", 345),
    Entry(
        name="presto",
        address="https://raw.githubusercontent.com/nasaharvest/presto/13173d028f035abcbcc3b13829314323a5c15d02/data/default_model.pt",
        sha256="559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65",
        megabytes=3.3,
        licence="MIT",
        network={"kind": "presto"},
        bands=PRESTO_BANDS,
        keys=((r"^encoder\.", ""), (r"^month_embed\.weight$", "month_embed")),
        left=(r"decoder\.", "dw_embed", r"eo_patch_embed\.(ERA5|SRTM)"),
        source="Tseng et al. 2023, arXiv 2304.14065",
    ),
)
"""Weights of networks that see bands in groups."""
ENTRIES: tuple[Entry, ...] = GROUPED
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
