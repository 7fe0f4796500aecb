"""Which network: the section ``model`` of params.yaml, one model of its keys for each ``kind``.

A kind is a family of networks, built by its own file in :mod:`sandwatch.model.families`. Here is only what may be said
of it, without torch, so that params.yaml is checked quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from sandwatch.model.entry import Known
from sandwatch.model.registry import GALILEO_BANDS, PRESTO_BANDS, SATMAE_BANDS, find
from sandwatch.params import Count, Section

if TYPE_CHECKING:
    from torch import nn

CLASSES = {"binary": ("other", "mine"), "three_class": ("other", "low", "high")}
"""What the classes of each method are called."""
Kind = Literal[
    "smp", "vit", "swin", "satmae", "galileo", "presto", "unet", "croma", "dofa", "terramind", "prithvi"
]  # fmt: skip
Method = Literal["binary", "three_class"]
Standardise = Literal["none", "scene"]
Views = Literal[1, 2, 4, 8]
"""How many mirror images and turns of a window are scored and averaged (:mod:`sandwatch.model.views`)."""
MissingBands = Literal["refuse", "leave_out", "zero", "mean", "nearest"]
NewBands = Literal["refuse", "leave_out", "zero", "mean", "nearest"]
Decoder = Literal["unet", "fpn", "upernet", "segformer", "dpt", "linear"]
"""What makes logits of a pyramid of feature maps (:mod:`sandwatch.model.pyramid`)."""
TokenDecoder = Literal["linear", "upsample", "convolutional"]
"""Of :mod:`sandwatch.model.families.tokens`."""
Width = Annotated[int, Field(strict=True, ge=32, multiple_of=32)]
"""Channels of a decoder: in groups of 32, over which some of them normalise."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Pinned(BaseModel):
    """Weights that a network starts from, and the SHA-256 that their bytes must have.

    Attributes:
        name: in the registry, or a file of data/weights that ends with .safetensors.
        sha256: of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
    sha256: Sha256

    @property
    def is_file(self) -> bool:
        """Whether it is a file of data/weights, no entry of the registry."""
        return self.name.endswith(".safetensors")


class Model(Section):
    """The network: what all kinds share."""

    section = "model"
    kind: Kind
    weights: Pinned | None
    missing_bands: MissingBands
    new_bands: NewBands
    standardise: Standardise
    method: Method

    knows: ClassVar[tuple[Known, ...] | None] = None
    """The bands that the network itself is made for, in its order and its unit; None where it takes any."""
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Bands that it takes or leaves together, by name; none where it needs all that it knows."""

    @classmethod
    def variant(cls, values: object) -> type[Self]:
        """The model of the keys that go with the kind that is named; for any other, one that says which there are."""
        kind = values.get("kind") if isinstance(values, dict) else None
        return KINDS.get(str(kind), _Nameless)  # type: ignore[return-value]

    @field_validator("weights", mode="before")
    @classmethod
    def _pinned(cls, value: object) -> object:
        """Takes a bare name where the registry knows the hash; else what it stands for may change without a word."""
        if not isinstance(value, str):
            return value
        entry = find(value)
        if entry is not None and len(entry.sha256) == 64:
            return {"name": value, "sha256": entry.sha256}
        how = "sha256sum prints" if value.endswith(".safetensors") else f"sandwatch models {value} prints"
        raise PydanticCustomError("unpinned", f"null, or {{name: ..., sha256: ...}}, with the hash that {how}")

    @property
    def network(self) -> dict[str, Any]:
        """What builds the network, without where it starts: kind and the keys of the kind, as plain JSON."""
        return self.model_dump(mode="json", exclude=set(Model.model_fields) - {"kind"})

    @classmethod
    def of(cls, network: dict[str, Any], method: str) -> Model:
        """The section that builds a network again, which then gets its weights from elsewhere."""
        values = {
            **network,
            "weights": None,
            "missing_bands": "refuse",
            "new_bands": "refuse",
            "standardise": "none",
            "method": method,
        }
        return cls.variant(values).model_validate(values, strict=False)

    @property
    def logits(self) -> int:
        """How many a pixel has."""
        return 1 if self.method == "binary" else len(CLASSES[self.method])

    @property
    def title(self) -> str:
        """What people call it."""
        raise NotImplementedError  # each kind has its own; params.yaml makes no model without a kind

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """Builds the network with random weights, which come from torch's global generator.

        Args:
            channels: names of what it sees, in order.
            size_px: side of the windows that it will see; it is tried on one.

        Returns:
            A module with a submodule ``encoder``, from float32 (n, channel, y, x) to logits (n, 1, y, x), or (n, 3, y,
            x) with method three_class.

        Raises:
            InputError: a name is unknown, or the parts don't fit each other or the windows.
        """
        raise NotImplementedError  # as above


class _Nameless(Model):
    """Refuses an unknown kind, and nothing else: other keys can't be judged without it."""

    model_config = ConfigDict(extra="ignore")


class Smp(Model):
    """Any architecture and encoder of segmentation-models-pytorch, timm's encoders among them."""

    kind: Literal["smp"]
    architecture: Annotated[str, Field(min_length=1)]
    encoder: Annotated[str, Field(min_length=1)]
    depth: Annotated[int, Field(ge=3, le=5)]
    decoder_channels: tuple[Count, ...] = Field(strict=False)

    @property
    def title(self) -> str:
        """Architecture and encoder."""
        return f"{self.architecture} with {self.encoder}, {self.depth} stages"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import smp

        return smp.build(self, len(channels), size_px)


class OnPyramid(Model):
    """What the kinds share whose decoder stands on a pyramid of feature maps (:mod:`sandwatch.model.pyramid`)."""

    decoder: Decoder
    decoder_channels: Width


class Vit(OnPyramid):
    """Any plain vision transformer of timm, with a decoder over a pyramid of four of its blocks."""

    kind: Literal["vit"]
    backbone: Annotated[str, Field(min_length=1)]

    @property
    def title(self) -> str:
        """Backbone and decoder."""
        return f"{self.backbone} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import vit

        return vit.build(self, len(channels), size_px)


class Swin(OnPyramid):
    """A Swin transformer, second version, of torchvision, with a decoder over its four stages."""

    kind: Literal["swin"]
    backbone: Literal["swin_v2_t", "swin_v2_s", "swin_v2_b"]

    @property
    def title(self) -> str:
        """Backbone and decoder."""
        return f"{self.backbone} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import swin

        return swin.build(self, len(channels), size_px)


class Satmae(Model):
    """SatMAE's channel-grouped vision transformer (Cong et al. 2022, arXiv 2207.08051)."""

    kind: Literal["satmae"]
    size: Literal["base", "large"]
    decoder: TokenDecoder

    knows: ClassVar[tuple[Known, ...] | None] = SATMAE_BANDS

    @property
    def title(self) -> str:
        """Size and decoder."""
        return f"SatMAE {self.size} with a {self.decoder} decoder"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import satmae

        return satmae.build(self, size_px)


SENSOR_GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B2", "B3", "B4"),
    "S2_Red_Edge": ("B5", "B6", "B7"),
    "S2_NIR_10m": ("B8",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
}
"""Bands of which Galileo and Presto make one token. Source: their papers, section 3 and appendix."""


class Galileo(Model):
    """Galileo's transformer over space and groups of bands, at one time (Tseng et al. 2025, arXiv 2502.09356)."""

    kind: Literal["galileo"]
    size: Literal["nano", "tiny", "base"]
    patch_px: Annotated[int, Field(ge=1, le=8)]
    decoder: TokenDecoder

    knows: ClassVar[tuple[Known, ...] | None] = GALILEO_BANDS
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = SENSOR_GROUPS

    @property
    def title(self) -> str:
        """Size, patch and decoder."""
        return f"Galileo {self.size}, patches of {self.patch_px} px, with a {self.decoder} decoder"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import galileo

        return galileo.build(self, channels, size_px)


class Presto(Model):
    """Presto's transformer over groups of bands, pixel by pixel, at one time (Tseng et al. 2023, arXiv 2304.14065)."""

    kind: Literal["presto"]
    decoder: TokenDecoder

    knows: ClassVar[tuple[Known, ...] | None] = PRESTO_BANDS
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = SENSOR_GROUPS

    @property
    def title(self) -> str:
        """Name and decoder."""
        return f"Presto with a {self.decoder} decoder"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import presto

        return presto.build(self, channels)


class Unet(Model):
    """The U-Nets of the predecessor, with its widths."""

    kind: Literal["unet"]
    design: Literal["small", "original", "residual"]

    @property
    def title(self) -> str:
        """Name and design."""
        return f"U-Net, {self.design}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import unet

        return unet.build(self, len(channels), size_px)


class Croma(OnPyramid):
    """CROMA, for Sentinel-2, Sentinel-1 or both, by the bands that it is given. Comes with the extra torchgeo."""

    kind: Literal["croma"]
    size: Literal["base", "large"]

    @property
    def title(self) -> str:
        """Size and decoder."""
        return f"CROMA {self.size} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import croma

        return croma.build(self, channels, size_px)


class Dofa(OnPyramid):
    """DOFA, for any bands of Sentinel-2, by their wavelengths. Comes with the extra torchgeo."""

    kind: Literal["dofa"]
    size: Literal["base", "large"]

    @field_validator("new_bands")
    @classmethod
    def _by_wavelength(cls, value: NewBands) -> NewBands:
        """Its first layer is made of wavelengths, whatever a rule may say: only nearest is like that."""
        if value not in ("refuse", "leave_out", "nearest"):
            raise PydanticCustomError("by_wavelength", "refuse, leave_out or nearest, since dofa goes by wavelength")
        return value

    @property
    def title(self) -> str:
        """Size and decoder."""
        return f"DOFA {self.size} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import dofa

        return dofa.build(self, channels, size_px)


class TerraMind(OnPyramid):
    """TerraMind, for Sentinel-2, Sentinel-1 or both, by the bands that it is given. Comes with the extra terratorch."""

    kind: Literal["terramind"]
    size: Literal["tiny", "small", "base", "large"]

    @property
    def title(self) -> str:
        """Size and decoder."""
        return f"TerraMind {self.size} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import terramind

        return terramind.build(self, channels, size_px)


class Prithvi(OnPyramid):
    """Prithvi-EO, for a single date. Comes with the extra terratorch."""

    kind: Literal["prithvi"]
    size: Literal["tiny", "100m", "300m", "600m"]

    @property
    def title(self) -> str:
        """Size and decoder."""
        return f"Prithvi {self.size} with {self.decoder}"

    def build(self, channels: Sequence[str], size_px: int) -> nn.Module:
        """As :meth:`Model.build`."""
        from sandwatch.model.families import prithvi

        return prithvi.build(self, len(channels), size_px)


KINDS: dict[str, type[Model]] = {
    "smp": Smp,
    "vit": Vit,
    "swin": Swin,
    "satmae": Satmae,
    "galileo": Galileo,
    "presto": Presto,
    "unet": Unet,
    "croma": Croma,
    "dofa": Dofa,
    "terramind": TerraMind,
    "prithvi": Prithvi,
}
"""The families, by the name that params.yaml has for each."""


class Scoring(Section):
    """How a scene is scored window by window: read by training, and from then on a part of the model."""

    section = "scoring"
    overlap_px: Annotated[int, Field(ge=0)]
    batch_size: Count
    views: Views
