"""Bands by name: what of a pixel stack a network sees, in which order, and scaled to which unit, once.

A scene's pixel stack holds bands in the order of params.yaml (reflectance x 10000, backscatter in centi-dB). Weights
know bands by name, in an order and a unit of their own. :func:`match` brings the two together; what comes of it is a
list of :class:`Channel`, which is all that the model needs to see a pixel stack from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sandwatch.errors import InputError
from sandwatch.model.entry import Known
from sandwatch.model.network import MissingBands, NewBands

WAVELENGTH_NM = {
    "B1": 442.7, "B2": 492.7, "B3": 559.8, "B4": 664.6, "B5": 704.1, "B6": 740.5, "B7": 782.8, "B8": 832.8,
    "B8A": 864.7, "B9": 945.1, "B10": 1373.5, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip
"""Central wavelengths of Sentinel-2A. Source: ESA, Sentinel-2 MSI user guide, spectral response functions 3.0."""


class Channel(BaseModel):
    """One channel of what a network sees: ``(pixel - mean) / std``, between ``low`` and ``high``.

    Attributes:
        name: of the band that the network takes it for.
        band: of the pixel stack that it is made of; None where the stack has nothing for it.
        mean, std: in the unit of a pixel stack.
        low, high: limits after scaling; None for none.
        fill: its value where there is no data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str
    band: str | None
    mean: float
    std: Annotated[float, Field(gt=0)]
    low: float | None = None
    high: float | None = None
    fill: float = 0.0

    def scaled(self, value: float) -> float:
        """A pixel's value as the network sees it."""
        seen = (value - self.mean) / self.std
        seen = seen if self.low is None else max(seen, self.low)
        return seen if self.high is None else min(seen, self.high)


@dataclass(frozen=True, kw_only=True)
class Match:
    """How the bands of scenes and those of weights came together.

    Attributes:
        channels: what the network sees; first what the weights know, in their order, then what they don't.
        known: how many of them the weights know.
        nearest: of each channel that they don't, the place of the known one that is nearest in wavelength.
        table: what happened to each band, for people: (band of the network, band of the scene, what was done).
    """

    channels: tuple[Channel, ...]
    known: int
    nearest: tuple[int, ...]
    table: tuple[tuple[str, str, str], ...]


def match(
    bands: Sequence[str],
    moments: Mapping[str, tuple[float, float]],
    known: Sequence[Known] | None,
    *,
    missing_bands: MissingBands,
    new_bands: NewBands,
    extensible: bool,
    groups: Sequence[Sequence[str]] = (),
    whose: str,
) -> Match:
    """Decides what a network sees of a pixel stack.

    Args:
        bands: of the pixel stack, in its order.
        moments: mean and standard deviation of each, over the training windows.
        known: the bands that the network must be given, in its order; None for those of the stack as they are.
        missing_bands: what stands for a known band that scenes lack: nothing (refuse), reflectance or backscatter zero,
            the mean that the weights know, or the nearest band of the same sensor; with leave_out the network goes
            without, and without the others of its group.
        new_bands: what happens to a band that is not known: refuse, leave_out, or a channel of the first layer whose
            weights are zero, the mean of the known ones, or those of the nearest.
        extensible: whether the network's first layer can get more channels.
        groups: of known bands that the network takes or leaves together; none where it needs all.
        whose: that knows the bands, for messages.

    Raises:
        InputError: a rule says refuse, or can't be followed.
    """
    if known is None:
        own = tuple(_by_moments(band, band, moments) for band in bands)
        return Match(channels=own, known=len(own), nearest=(), table=tuple((band, band, "matched") for band in bands))
    names = [one.name for one in known]
    lacking = _lacking(names, bands, groups, whose) if missing_bands == "leave_out" else {}
    channels, table = list[Channel](), []
    for one in known:
        band = one.name if one.name in bands else None
        if one.name in lacking:
            table.append((one.name, band or "-", f"left out: no {', '.join(lacking[one.name])}"))
            continue
        said = "matched" if band else f"missing: {missing_bands}"
        if band is None:
            if missing_bands == "refuse":
                raise InputError(
                    f"{whose}: band {one.name}",
                    got=f"scenes with {', '.join(bands)}",
                    expected=f"all of {', '.join(names)}",
                    fix="add it to params.yaml, bands, or say what stands for it: model.missing_bands",
                )
            if missing_bands == "nearest":
                band = _nearest(one.name, bands, f"{whose}: band {one.name}")
                said = f"missing: {band} is nearest"
        channels.append(_known(one, band, moments, zero=missing_bands == "zero"))
        table.append((one.name, band or "-", said))
    kept = len(channels)
    new = [band for band in bands if band not in names]
    if new and new_bands == "refuse":
        raise InputError(
            f"{whose}: band{'s' * (len(new) > 1)} {', '.join(new)}",
            got="nothing that knows them",
            expected=f"only {', '.join(names)}",
            fix="take them out of params.yaml, bands, or say what to do with them: model.new_bands",
        )
    if new and new_bands != "leave_out" and not extensible:
        raise InputError(
            f"params.yaml: model.new_bands: {whose}",
            got=f"{new_bands}, for {', '.join(new)}",
            expected=f"leave_out or refuse, since this network sees {', '.join(names)} and nothing else",
            fix="set it to leave_out",
        )
    nearest = []
    for band in new:
        if new_bands == "leave_out":
            table.append(("-", band, "new: left out"))
            continue
        channels.append(_by_moments(band, band, moments))
        near = _nearest(band, names, f"{whose}: new band {band}") if new_bands == "nearest" else names[0]
        nearest.append(names.index(near))
        table.append((band, band, f"new: {near} is nearest" if new_bands == "nearest" else f"new: {new_bands}"))
    return Match(channels=tuple(channels), known=kept, nearest=tuple(nearest), table=tuple(table))


def _lacking(
    names: Sequence[str], bands: Sequence[str], groups: Sequence[Sequence[str]], whose: str
) -> dict[str, list[str]]:
    """What scenes lack of its group, for each known band that is left out."""
    if not groups:
        raise InputError(
            "params.yaml: model.missing_bands",
            got=f"leave_out, for {whose}",
            expected="another rule, since it needs all of its bands",
            fix="set it to refuse, zero, mean or nearest",
        )
    lacking = {}
    for group in groups:
        if absent := [band for band in group if band not in bands]:
            lacking.update({band: absent for band in group if band in names})
    if len(lacking) == len(names):
        raise InputError(
            f"{whose}: its bands",
            got=f"scenes with {', '.join(bands)}",
            expected=f"all of at least one of {'; '.join(', '.join(group) for group in groups)}",
            fix="add bands to params.yaml, bands, or choose another rule: model.missing_bands",
        )
    return lacking


def _by_moments(name: str, band: str, moments: Mapping[str, tuple[float, float]]) -> Channel:
    mean, std = moments[band]
    return Channel(name=name, band=band, mean=mean, std=std)


def _known(one: Known, band: str | None, moments: Mapping[str, tuple[float, float]], *, zero: bool) -> Channel:
    """A known band's channel; where scenes have no data, it has what they have on average."""
    if one.mean is None or one.std is None:
        if band is None:
            return Channel(name=one.name, band=None, mean=0.0, std=1.0)
        return _by_moments(one.name, band, moments)
    channel = Channel(name=one.name, band=band, mean=one.mean, std=one.std, low=one.low, high=one.high)
    typical = moments[band][0] if band is not None else 0.0 if zero else one.mean
    return channel.model_copy(update={"fill": round(channel.scaled(typical), 6)})


def _nearest(band: str, among: Sequence[str], what: str) -> str:
    """The band nearest in wavelength; of radar, the other polarisation."""
    if band not in WAVELENGTH_NM:
        others = [other for other in among if other not in WAVELENGTH_NM]
    else:
        others = [other for other in among if other in WAVELENGTH_NM]
        others.sort(key=lambda other: abs(WAVELENGTH_NM[other] - WAVELENGTH_NM[band]))
    if not others:
        raise InputError(
            what,
            got=f"only {', '.join(among)}",
            expected="a band of the same sensor, to be the nearest",
            fix="choose another rule in params.yaml: model.missing_bands or model.new_bands",
        )
    return others[0]
