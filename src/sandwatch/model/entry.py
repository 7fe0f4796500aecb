"""What is known of weights that a network can start from: an entry of :mod:`sandwatch.model.registry`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

CENTI = 100.0
"""A pixel stack holds backscatter in hundredths of a dB."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A band as weights, or a network, know it: ``(pixel - mean) / std``, between ``low`` and ``high``.

    Attributes:
        name: as params.yaml spells it.
        mean, std: in the unit of a pixel stack: reflectance x 10000, backscatter in centi-dB; both None for those of
            the training windows.
        low, high: limits after scaling; None for none.
    """

    name: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Weights that a network can start from.

    Attributes:
        name: in params.yaml, ``family/network/training/product``.
        address: of the file; ``hub:<owner>/<repository>/<file>`` for one of the Hugging Face Hub.
        sha256: 64 digits, or the first ones as far as the publisher tells them, or ''.
        megabytes: about how large it is; 0 where that is not known.
        licence: SPDX identifier where there is one.
        forbids: what it forbids that users of this product may want to do; '' where nothing is known to.
        network: what builds the network that they fit, as params.yaml has it: kind, and the keys that matter.
        bands: that they know, in their order.
        within: keys under which the file nests the tensors.
        keys: (pattern, replacement) of regular expressions, in turn, that make the network's names of the file's.
        left: patterns of names, in the file, that are of no use here: heads, momentum encoders.
        source: whose they are, and where that is written.
    """

    name: str
    address: str
    sha256: str
    megabytes: float
    licence: str
    forbids: str = ""
    network: dict[str, object]
    bands: tuple[Known, ...]
    within: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] = ()
    source: str = field(repr=False)


def reflectances(bands: Sequence[str], *, scale: float = 10_000.0) -> tuple[Known, ...]:
    """Bands that weights know as reflectance x 10000 divided by ``scale``."""
    return tuple(Known(name=band, mean=0.0, std=scale) for band in bands)


def standardised(bands: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> tuple[Known, ...]:
    """Bands of optical imagery that weights know by mean and standard deviation of reflectance x 10000."""
    return tuple(Known(name=b, mean=m, std=s) for b, m, s in zip(bands, mean, std, strict=True))


def radar(bands: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> tuple[Known, ...]:
    """Bands of radar that weights know by mean and standard deviation of backscatter in dB."""
    return tuple(Known(name=b, mean=m * CENTI, std=s * CENTI) for b, m, s in zip(bands, mean, std, strict=True))


def clipped(bands: Sequence[Known]) -> tuple[Known, ...]:
    """Bands that weights know between 0 and 1, after scaling."""
    return tuple(replace(one, low=0.0, high=1.0) for one in bands)


def stretched(bands: Sequence[Known], *, limited: bool = True) -> tuple[Known, ...]:
    """Bands whose mean less two deviations weights know as 0, and mean and two deviations as 1.

    Args:
        bands: by mean and deviation.
        limited: whether what lies beyond is cut off.
    """
    around = ((one, one.mean, one.std) for one in bands if one.mean is not None and one.std is not None)
    wide = tuple(replace(one, mean=mean - 2 * std, std=4 * std) for one, mean, std in around)
    return clipped(wide) if limited else wide
