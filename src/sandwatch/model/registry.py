"""Weights by name: where they are, what they are, what they know and what may be done with them. Without torch.

One entry is all that weights of a family need: nothing in the code that fetches, checks or fits them knows any by name.
Hashes are those of the files where they could be had; where only the publisher's file name tells its first digits,
those.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from sandwatch.errors import InputError
from sandwatch.model.entry import (
    Entry,
    Known,
    clipped,
    radar,
    reflectances,
    standardised,
    stretched,
)
from sandwatch.params import RGB_BANDS

L1C = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
S1 = ("VV", "VH")
TEN = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
"""Of Sentinel-2: those of 10 m and of 20 m."""
SATLAS = ("B4", "B3", "B2", "B5", "B6", "B7", "B8", "B11", "B12")

TO_ONE = clipped(reflectances(L1C))
"""Source: zhu-xlab/SSL4EO-S12, README ("input clip to [0,1] by dividing 10000") and issue 28; for DeCUR and FG-MAE,
whose code takes the same files, torchgeo too."""
TO_ONE_S1 = stretched(radar(S1, (-12.54847273, -20.19237134), (5.25697717, 5.91150917)))
"""Source: zhu-xlab/SSL4EO-S12 and zhu-xlab/FGMAE, ssl4eo_dataset_lmdb.py: S1_MEAN, S1_STD and normalize(); issue 17 of
the former: its 0 to 255 became 0 to 1. torchgeo standardises instead, which the networks never saw."""
DECUR_S1 = stretched(radar(S1, (-12.59, -20.26), (5.26, 5.91)))
"""Source: zhu-xlab/DeCUR, ssl4eo_dataset_lmdb_mm_norm.py: S1_MEAN, S1_STD and normalize()."""
SOFTCON_L1C = stretched(
    standardised(
        L1C,
        (1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4),
        (791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9),
    )
)
"""Source: zhu-xlab/softcon, README, "Data normalization": normalize() by the statistics of SSL4EO-S12, which torchgeo
has. That its 0 to 255 become 0 to 1 is as in the same authors' SSL4EO-S12, and not said there."""
SATLAS_RGB = clipped(reflectances(SATLAS[:3], scale=3558.0))
"""Red, green and blue of L1C's 8-bit picture, / 255. Source: allenai/satlas, Normalization.md; ESA, Sentinel-2 MSI user
guide, definitions, true colour image: 255 stands for a reflectance of 0.3558 in L1C."""
SATLAS_MS = (*SATLAS_RGB, *clipped(reflectances(SATLAS[3:], scale=8160.0)))
"""Source: allenai/satlas, Normalization.md."""

NETWORKS = {
    "resnet18": ("smp", "resnet18", 45),
    "resnet50": ("smp", "resnet50", 94),
    "resnet152": ("smp", "resnet152", 233),
    "vit-s16": ("vit", "vit_small_patch16_224", 91),
    "vit-b16": ("vit", "vit_base_patch16_224", 351),
    "vit-l16": ("vit", "vit_large_patch16_224", 1224),
    "vit-s14": ("vit", "vit_small_patch14_dinov2", 90),
    "vit-b14": ("vit", "vit_base_patch14_dinov2", 349),
    "swin-v2-t": ("swin", "swin_v2_t", 114),
    "swin-v2-b": ("swin", "swin_v2_b", 353),
}
"""Kind, name in its library, and megabytes with all optical bands as torch stores them, counted from shapes."""
HEADS = {"smp": (r"fc\.",), "vit": (r"head\.",), "swin": (r"norm\.", r"head\.")}
"""What of each kind's files classifies whole images."""


def _published(name: str, address: str, *, licence: str, bands: tuple[Known, ...], source: str) -> Entry:
    """Weights whose file holds an encoder's tensors under timm's or torchvision's names, and maybe those of a head.

    Args:
        name: of the entry; its second part names the network.
        address: on the Hugging Face Hub; where the file's name ends with eight digits, they begin its SHA-256.
        licence: as of an entry.
        bands: as of an entry.
        source: whose they are.
    """
    kind, network, megabytes = NETWORKS[name.split("/")[1]]
    digits = re.search(r"-([0-9a-f]{8})\.pth$", address)
    return Entry(
        name=name,
        address=f"hub:{address}",
        sha256=digits[1] if digits else "",
        megabytes=megabytes,
        licence=licence,
        network={"kind": kind, "encoder" if kind == "smp" else "backbone": network},
        bands=bands,
        left=HEADS[kind],
        source=f"{source}; address, names and order of bands: torchgeo 0.8, torchgeo/models",
    )


def _ssl4eo(network_and_training: str, l1c: str, s1: str = "") -> tuple[Entry, ...]:
    """Weights that were trained on SSL4EO-S12 in one way: those that see L1C and, where there are any, those for S1."""
    training = network_and_training.split("/")[1]
    optical, backscatter, source = {
        "softcon": (SOFTCON_L1C, DECUR_S1, "Wang et al., arXiv 2405.20462, zhu-xlab/softcon"),
        "decur": (TO_ONE, DECUR_S1, "Wang et al., arXiv 2309.05300, zhu-xlab/DeCUR"),
        "fg-mae": (TO_ONE, TO_ONE_S1, "Wang et al., arXiv 2310.18653, zhu-xlab/FGMAE"),
    }.get(training, (TO_ONE, TO_ONE_S1, "Wang et al., arXiv 2211.07044, zhu-xlab/SSL4EO-S12"))
    licence = "Apache-2.0" if training == "decur" else "CC-BY-4.0"
    return tuple(
        _published(f"ssl4eo-s12/{network_and_training}/{product}", address, licence=licence, bands=b, source=source)
        for product, address, b in (("l1c", l1c, optical), ("s1", s1, backscatter))
        if address
    )


CROMA = {
    "l2a": ((*L1C[:10], *L1C[11:]), (r"s1_", r"joint_", r"s2_GAP_FFN\.")),
    "s1": (S1, (r"s2_", r"joint_", r"s1_GAP_FFN\.")),
    "l2a-s1": ((*L1C[:10], *L1C[11:], *S1), (r"s[12]_GAP_FFN\.",)),
}
"""Bands of each product, and what of the one file it has no use for. Their scale is the image's own
(:mod:`sandwatch.model.families.croma`); where there are no data, it is the mean of the training windows."""
DOFA_MEAN = (
    114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168, 103.94461911, 101.435633, 72.32804172,
    56.66528851,
)  # fmt: skip
DOFA_STD = (
    77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487, 61.34187099, 60.29744676, 47.88519516, 42.55886798,
)  # fmt: skip
DOFA_BANDS = tuple(
    Known(name=band, mean=mean * scale / 255, std=std * scale / 255, low=-mean / std, high=(255 - mean) / std)
    for band, mean, std, scale in zip(SATLAS, DOFA_MEAN, DOFA_STD, (3558.0,) * 3 + (8160.0,) * 6, strict=True)
)
"""Source: zhu-xlab/DOFA, README, S2_MEAN and S2_STD, of the 8-bit pictures of SatlasPretrain, which it was trained on;
from those to reflectance as :data:`SATLAS_MS`. Its statistics of radar are left out, as Satlas's are."""

TERRAMIND = {
    "l2a": (
        "untok_sen2l2a@224",
        standardised(
            (*L1C[:10], *L1C[11:]),
            (1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975, 2987.011, 3083.234, 3132.22, 3162.988, 2424.884,
             1857.648),
            (2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926, 1820.257, 1871.918, 1753.829, 1797.379,
             1434.261, 1334.311),
        ),
    ),
    "l1c": (
        "untok_sen2l1c@224",
        standardised(
            L1C,
            (2357.089, 2137.385, 2018.788, 2082.986, 2295.651, 2854.537, 3122.849, 3040.56, 3306.481, 1473.847, 506.07,
             2472.825, 1838.929),
            (1624.683, 1675.806, 1557.708, 1833.702, 1823.738, 1733.977, 1732.131, 1679.732, 1727.26, 1024.687, 442.165,
             1331.411, 1160.419),
        ),
    ),
    "s1": ("untok_sen1grd@224", radar(S1, (-12.599, -20.293), (5.195, 5.89))),
}  # fmt: skip
"""What sees each product, and its scale. Source: terratorch, terramind_register.py, v1_pretraining_mean and _std."""
PRITHVI_BANDS = ("B2", "B3", "B4", "B8A", "B11", "B12")
"""Source: terratorch, prithvi_vit.py, PRETRAINED_BANDS: blue, green, red, narrow near infrared, two of short wave."""
PRITHVI = {
    "v1": standardised(
        PRITHVI_BANDS,
        (775.0, 1081.0, 1229.0, 2497.0, 2204.0, 1611.0),
        (1282.0, 1270.0, 1399.0, 1368.0, 1292.0, 1155.0),
    ),
    "v2": standardised(
        PRITHVI_BANDS,
        (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
        (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
    ),
}
"""Source: terratorch, prithvi_vit.py, PRITHVI_V1_MEAN to PRITHVI_V2_STD."""


def _terramind(size: str) -> tuple[Entry, ...]:
    """Weights of TerraMind 1.0: one file for all that it sees, each alone, or radar beside one of the others."""
    return tuple(
        Entry(
            name=f"terramind/{size}/v1/{product}",
            address=f"hub:ibm-esa-geospatial/TerraMind-1.0-{size}/TerraMind_v1_{size}.pt",
            sha256="",
            megabytes=0,
            licence="Apache-2.0",
            network={"kind": "terramind", "size": size},
            bands=tuple(band for part in product.split("-") for band in TERRAMIND[part][1]),
            left=(
                r"(?!encoder\.|encoder_norm\.|"
                + "|".join(rf"encoder_embeddings\.{TERRAMIND[part][0]}\." for part in product.split("-"))
                + ")",
            ),
            source="Jakubik et al., arXiv 2504.11171; address: terratorch 1.2, terramind_register.py",
        )
        for product in ("l2a", "l1c", "s1", "l2a-s1", "l1c-s1")
    )


def _prithvi(version: str, size: str, repository: str, file: str, megabytes: float) -> Entry:
    """Weights of Prithvi-EO, of which place and time are left out; megabytes are counted from terratorch's shapes."""
    return Entry(
        name=f"prithvi/{size}/{version}/hls",
        address=f"hub:ibm-nasa-geospatial/{repository}/{file}",
        sha256="",
        megabytes=megabytes,
        licence="Apache-2.0",
        network={"kind": "prithvi", "size": size},
        bands=PRITHVI[version],
        keys=((r"^encoder\.", ""),),
        left=(r"decoder", r"mask_token$", r"temporal_embed_enc\.", r"location_embed_enc\."),
        source="Jakubik et al., arXiv 2310.18660 (1), Szwarcman et al., arXiv 2412.02732 (2); address: terratorch 1.2",
    )


def _croma(size: str, digits: str, megabytes: float) -> tuple[Entry, ...]:
    """Weights of CROMA: one file for the optical, the radar and the joint transformer."""
    return tuple(
        Entry(
            name=f"croma/{size}/ssl4eo-s12/{product}",
            address=f"hub:torchgeo/croma/CROMA_{size}-{digits}.pt",
            sha256=digits,
            megabytes=megabytes,
            licence="CC-BY-4.0",
            network={"kind": "croma", "size": size},
            bands=tuple(Known(name=band) for band in bands),
            left=left,
            source="Fuller et al., arXiv 2311.00566, antofuller/CROMA; address: torchgeo 0.8, torchgeo/models/croma.py",
        )
        for product, (bands, left) in CROMA.items()
    )


def _dofa(size: str, digits: str, megabytes: float) -> Entry:
    """Weights of DOFA, for the bands of Sentinel-2 that it was trained with."""
    return Entry(
        name=f"dofa/{size}/mae/l1c",
        address=f"hub:torchgeo/dofa/dofa_{size}_patch16_224-{digits}.pth",
        sha256=digits,
        megabytes=megabytes,
        licence="CC-BY-4.0",
        network={"kind": "dofa", "size": size},
        bands=DOFA_BANDS,
        left=(r"mask_token$", r"norm\.", r"projector\.", r"fc_norm\.", r"head\."),
        source="Xiong et al., arXiv 2403.15356, zhu-xlab/DOFA; address: torchgeo 0.8, torchgeo/models/dofa.py",
    )


def _satlas(network: str, file: str, **digits: str) -> tuple[Entry, ...]:
    """Weights of SatlasPretrain for Sentinel-2: si saw one image of a place, mi the maximum of features of several.

    Those for Sentinel-1 are left out: they were trained on digital numbers that no scale makes of decibels.
    """
    return tuple(
        _published(
            f"satlas/{network}/{way.replace('_', '/')}",
            f"torchgeo/satlas/sentinel2_{file}_{way}-{sha256}.pth",
            licence="ODC-By-1.0",
            bands=SATLAS_RGB if way.endswith("rgb") else SATLAS_MS,
            source="Bastani et al., arXiv 2211.15660, allenai/satlaspretrain_models",
        )
        for way, sha256 in digits.items()
    )


SATMAE_BANDS = stretched(
    standardised(
        TEN,
        (1184.38, 1120.77, 1136.26, 1263.74, 1645.40, 1846.87, 1762.60, 1972.62, 1732.16, 1247.92),
        (650.28, 712.13, 965.23, 948.98, 1108.07, 1258.36, 1233.15, 1364.39, 1310.37, 1087.60),
    )
)
"""What SatMAE sees, of top-of-atmosphere reflectance (L1C). Source: its repository, util/datasets.py, statistics of
SentinelIndividualImageDataset and SentinelNormalize, whose rounding to 256 steps is left out."""
GALILEO_BANDS = stretched(
    (
        *radar(S1, (-11.7287, -18.8556), (4.8871, 5.7303)),
        *standardised(
            TEN,
            (1395.34, 1338.40, 1343.10, 1543.86, 2186.20, 2525.09, 2410.34, 2750.29, 2234.91, 1474.53),
            (917.70, 913.30, 1092.68, 1047.22, 1048.01, 1143.69, 1098.98, 1204.47, 1145.98, 980.24),
        ),
    ),
    limited=False,
)
"""What Galileo sees. Source: its repository, config/normalization.json and the Normalizer of src/data/dataset.py."""
PRESTO_BANDS = (*radar(S1, (-25.0, -25.0), (25.0, 25.0)), *reflectances(TEN))
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

ENTRIES: tuple[Entry, ...] = (
    *_ssl4eo("resnet18/moco", "torchgeo/resnet18_sentinel2_all_moco/resnet18_sentinel2_all_moco-59bfdff9.pth"),
    *_ssl4eo(
        "resnet50/moco",
        "torchgeo/resnet50_sentinel2_all_moco/resnet50_sentinel2_all_moco-df8b932e.pth",
        "torchgeo/resnet50_sentinel1_all_moco/resnet50_sentinel1_all_moco-906e4356.pth",
    ),
    *_ssl4eo("resnet50/dino", "torchgeo/resnet50_sentinel2_all_dino/resnet50_sentinel2_all_dino-d6c330e9.pth"),
    *_ssl4eo(
        "resnet50/decur",
        "torchgeo/decur/rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth",
        "torchgeo/decur/rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth",
    ),
    *_ssl4eo("resnet50/softcon", "wangyi111/softcon/B13_rn50_softcon.pth", "wangyi111/softcon/B2_rn50_softcon.pth"),
    *_ssl4eo(
        "vit-s16/moco",
        "torchgeo/vit_small_patch16_224_sentinel2_all_moco/vit_small_patch16_224_sentinel2_all_moco-67c9032d.pth",
    ),
    *_ssl4eo(
        "vit-s16/dino",
        "torchgeo/vit_small_patch16_224_sentinel2_all_dino/vit_small_patch16_224_sentinel2_all_dino-36bcc127.pth",
    ),
    *_ssl4eo(
        "vit-s16/decur",
        "wangyi111/DeCUR/vits16_ssl4eo-s12_ms_decur_ep100.pth",
        "wangyi111/DeCUR/vits16_ssl4eo-s12_sar_decur_ep100.pth",
    ),
    *_ssl4eo(
        "vit-s14/softcon",
        "wangyi111/softcon/B13_vits14_softcon_enc.pth",
        "wangyi111/softcon/B2_vits14_softcon_enc.pth",
    ),
    *_ssl4eo(
        "vit-b14/softcon",
        "wangyi111/softcon/B13_vitb14_softcon_enc.pth",
        "wangyi111/softcon/B2_vitb14_softcon_enc.pth",
    ),
    *(
        entry
        for size in "sbl"
        for training, repository, file in (("mae", "SSL4EO-S12", "mae"), ("fg-mae", "FGMAE", "fgmae"))
        for entry in _ssl4eo(
            f"vit-{size}16/{training}",
            f"wangyi111/{repository}/B13_vit{size}16_{file}_ep99_enc.pth",
            f"wangyi111/{repository}/B2_vit{size}16_{file}_ep99_enc.pth",
        )
    ),
    *_satlas("resnet50", "resnet50", si_ms="1f454cc6", si_rgb="45fc6972", mi_ms="da5413d2", mi_rgb="e79bb7fe"),
    *_satlas("resnet152", "resnet152", si_ms="4500c6cb", si_rgb="f4d24c3c", mi_ms="fd35b4bb", mi_rgb="67563ac5"),
    *_satlas("swin-v2-t", "swint", si_ms="bc68e396", si_rgb="0c1a96e0", mi_ms="d8c659e3", mi_rgb="424d91f4"),
    *_satlas("swin-v2-b", "swinb", si_ms="fe22a12c", si_rgb="156a98d5", mi_ms="39c86721", mi_rgb="4efa210c"),
    *GROUPED,
    *_croma("base", "0238d814", 776),
    *_croma("large", "921e69ad", 2690),
    _dofa("base", "a0275954", 445),
    _dofa("large", "0ff904d3", 1350),
    *(entry for size in ("tiny", "small", "base", "large") for entry in _terramind(size)),
    _prithvi("v1", "100m", "Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt", 454),
    _prithvi("v2", "tiny", "Prithvi-EO-2.0-tiny-TL", "Prithvi_EO_V2_tiny_TL.pt", 128),
    _prithvi("v2", "100m", "Prithvi-EO-2.0-100M-TL", "Prithvi_EO_V2_100M_TL.pt", 455),
    _prithvi("v2", "300m", "Prithvi-EO-2.0-300M", "Prithvi_EO_V2_300M.pt", 1327),
    _prithvi("v2", "600m", "Prithvi-EO-2.0-600M", "Prithvi_EO_V2_600M.pt", 2638),
)
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
