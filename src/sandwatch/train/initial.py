"""The network before it has learnt anything here: built, its bands matched, and the weights that it starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sandwatch.model.card import Start
from sandwatch.model.channels import Match, match
from sandwatch.model.network import Model
from sandwatch.model.weights import bands_of, fit, obtain


@dataclass(frozen=True, kw_only=True)
class Initial:
    """A network that is to learn.

    Attributes:
        network: with its first weights.
        match: what it sees of a pixel stack.
        start: the weights that it starts from; None where they are random.
    """

    network: nn.Module
    match: Match
    start: Start | None

    @property
    def told(self) -> Iterator[str]:
        """What people should know of it before it learns, line by line."""
        if self.start is None:
            return
        yield f"starts from {self.start.words}"
        for name, band, said in self.match.table:
            yield f"  {name:>4} <- {band:<4} {said}"


def initial(
    model: Model, bands: tuple[str, ...], moments: Mapping[str, tuple[float, float]], size_px: int, folder: Path
) -> Initial:
    """Builds the network of params.yaml, and gives it the weights to start from.

    Args:
        model: section of params.yaml.
        bands: of the pixel stacks.
        moments: mean and standard deviation of each band, over the training windows.
        size_px: side of the windows.
        folder: data/weights.

    Raises:
        InputError: the network can't be built, weights are not those of params.yaml, or bands don't come together.
    """
    found = None if model.weights is None else obtain(model.weights, folder)
    known = model.knows
    if found is not None and (found.known is not None or known is None):
        known = bands_of(found, bands)
    matched = match(
        bands,
        moments,
        known,
        missing_bands=model.missing_bands,
        new_bands=model.new_bands,
        extensible=model.knows is None and (found is None or found.whole is None),
        groups=tuple(model.groups.values()),
        whose=model.title if found is None else f"weights {found.start.name}",
    )
    network = model.build([channel.name for channel in matched.channels], size_px)
    if found is not None:
        fit(network, found, matched, model)
    return Initial(network=network, match=matched, start=None if found is None else found.start)
