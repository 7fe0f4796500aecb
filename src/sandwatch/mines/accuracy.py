"""How many mines there are where so many were seen: counts and areas with the errors that the evaluation measured.

On the holdout rivers the evaluation counted mines, those of them that were found, and false alarms, site by site
(``results/evaluate/site_counts.csv``): of those seen, the share ``precision`` are mines (found over found and false
alarms), and of mines, the share ``recall`` are seen (found over mines). So where ``n`` are seen there are
``n * precision / recall`` (Source: Rogan and Gladen 1978, doi:10.1093/oxfordjournals.aje.a112510, of a test). Areas
are corrected likewise, in pixels: by mine pixels over detected pixels.

The intervals, 95 %, are of draws. Each draws the sites with replacement, as the evaluation's own intervals do
(:func:`sandwatch.model.metrics.bootstrap`), then precision and recall from what these sites say of them (Jeffreys'
beta distributions; Source: Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286), since few sites with few errors
would look surer than they are, and then how many of ``n`` are mines and how many more were missed. They hold for rivers
like those that the model was judged on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sandwatch.errors import InputError

DRAWS = 4000
"""Enough for whole numbers: the ends of an interval of thirty mines are the same with other seeds, or one off."""
LEVEL = (0.025, 0.975)
Floats = npt.NDArray[np.float64]
COUNTED = ["mines", "mines_found", "false_alarms", "mine_px", "detected_px"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What the evaluation says of counts and areas.

    Attributes:
        precision: of mines that are seen, the share that are mines.
        recall: of mines, the share that are seen.
        sites: how many this was measured on.
        mine_px_per_detected_px: by which an area is corrected; None where the evaluation detected nothing.
    """

    precision: Estimate
    recall: Estimate
    sites: int
    mine_px_per_detected_px: Estimate | None
    _drawn: tuple[Floats, Floats]

    @classmethod
    def read(cls, path: Path) -> Accuracy | None:
        """From ``site_counts.csv``; None where there is no such file, or no mine was there to be found, or none was.

        Raises:
            InputError: the file is not what ``evaluate`` writes.
        """
        if not path.is_file():
            return None
        try:
            counts = pd.read_csv(path)[COUNTED].to_numpy(np.int64)
        except (ValueError, KeyError) as error:
            raise InputError(
                str(path), got=str(error)[:200], expected="the table that evaluate writes", fix="run dvc repro evaluate"
            ) from None
        return cls.of(counts)

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64]) -> Accuracy | None:
        """As :meth:`read`, of counts (site, :data:`COUNTED`)."""
        mines, found, false_alarms, mine_px, detected_px = counts.sum(axis=0).tolist()
        if not found:
            return None
        random = np.random.default_rng(0)
        sites = len(counts)
        times = random.multinomial(sites, np.full(sites, 1 / sites), size=DRAWS)
        drawn = (times @ counts).T
        precision = random.beta(drawn[1] + 0.5, drawn[2] + 0.5)
        recall = random.beta(drawn[1] + 0.5, drawn[0] - drawn[1] + 0.5)
        some = drawn[4] > 0
        area = drawn[3][some] / drawn[4][some]
        return cls(
            precision=_estimate(found / (found + false_alarms), precision),
            recall=_estimate(found / mines, recall),
            sites=sites,
            # One site says nothing about another, and pixels of a site resemble each other.
            mine_px_per_detected_px=_estimate(mine_px / detected_px, area) if sites > 1 and detected_px else None,
            _drawn=(precision, recall),
        )

    def told(self) -> dict[str, Any]:
        """What it rests on, as plain values."""
        ratio = self.mine_px_per_detected_px
        return {
            "precision": vars(self.precision),
            "recall": vars(self.recall),
            "sites": self.sites,
            "mine_px_per_detected_px": None if ratio is None else vars(ratio),
        }

    def mines(self, seen: int) -> Estimate:
        """How many mines there are where ``seen`` are seen."""
        random = np.random.default_rng(0)
        precision, recall = self._drawn
        drawn = _with_missed(random.binomial(seen, precision), recall, random)
        return _estimate(seen * self.precision.value / self.recall.value, drawn)

    def appeared(self, seen: int, *, among: int, stayed: int) -> Estimate:
        """How many mines appeared between two months, where ``seen`` are seen in the second alone.

        The model alone makes mines appear: it misses one in the first month and finds it in the second, which happens
        ``(1 - recall) / recall`` times for each that it finds in both; and it raises false alarms in the second. What
        is left, ``seen - among * (1 - precision) - stayed * (1 - recall) / recall``, is divided by recall. That errors
        of the two months have nothing to do with each other is assumed, so this corrects for as many as there can be.
        With the months swapped it says how many disappeared.

        Args:
            seen: in the second month and not in the first, which could be looked at.
            among: all that are seen in the second month, where the first could be looked at.
            stayed: those that are seen in both.
        """
        random = np.random.default_rng(0)
        precision, recall = self._drawn
        missed = stayed * (1 - recall) / recall
        drawn = seen - random.binomial(among, 1 - precision) - random.poisson(missed)
        wrong = among * (1 - self.precision.value) + stayed * (1 - self.recall.value) / self.recall.value
        return _estimate(max(seen - wrong, 0.0) / self.recall.value, _with_missed(np.maximum(drawn, 0), recall, random))

    def area(self, detected_m2: float) -> Estimate | None:
        """The area of mines where so much was detected; a difference of areas, too. None where it can't be said."""
        ratio = self.mine_px_per_detected_px
        if ratio is None:
            return None
        low, high = sorted((detected_m2 * ratio.low, detected_m2 * ratio.high))
        return Estimate(value=detected_m2 * ratio.value, low=low, high=high)


def _with_missed(found: npt.NDArray[np.int64], recall: Floats, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Numbers of mines of which so many were found: before the last that was found, so many were missed."""
    missed = random.negative_binomial(np.maximum(found, 1), recall)
    return np.where(found > 0, found + missed, 0)


def _estimate(value: float, drawn: npt.NDArray[np.int64] | Floats) -> Estimate:
    low, high = np.quantile(drawn, LEVEL)
    return Estimate(value=float(value), low=float(low), high=float(high))
