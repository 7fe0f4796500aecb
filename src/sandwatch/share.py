"""Which observations train where only a share of those that could does: for learning curves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def chosen(obs_ids: Iterable[str], mined: Collection[str], *, share: float, seed: int) -> frozenset[str]:
    """The observations that train. Those of a share are among those of every larger one.

    They are taken in the order of a hash of each one's id and the seed, so that one that is added later moves no other.
    The first that has mines is taken before all: without one there is nothing to learn.

    Args:
        obs_ids: that could train; they may come again.
        mined: those among them with mines.
        share: of them to take, above 0 up to 1; it is rounded to whole observations, at least one.
        seed: another gives another order.
    """
    if share == 1:
        return frozenset(obs_ids)
    order = sorted(set(obs_ids), key=lambda obs_id: hashlib.sha256(f"{seed}\n{obs_id}".encode()).hexdigest())
    first = [obs_id for obs_id in order if obs_id in mined][:1]
    return frozenset(
        [*first, *(obs_id for obs_id in order if obs_id not in first)][: max(round(share * len(order)), 1)]
    )
