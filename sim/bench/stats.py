"""Ratios of two contenders that were measured in the same rounds, and how sure they are. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the rounds' ratios, and the bounds within which the true median lies, 19 times in 20.

    With fewer than six rounds nothing is that sure: the bounds are then the smallest and the largest ratio.
    """

    ratio: float
    low: float
    high: float


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, round by round, so that what slows both down for a while cancels out."""
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    outside = _outside(len(ratios))
    return Ratio(median(ratios), ratios[outside], ratios[-1 - outside])


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean for ratios: twice as fast here and half as fast there is 1."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the ordered values does not exceed."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _outside(count: int) -> int:
    """How many values at each end may be left out, and the rest still encloses the true median.

    Each value is below the true median with probability 1/2, whatever the distribution; so the chance that it lies
    outside of what is left is a binomial one.
    """
    outside, miss = 0, 0.5**count
    while 2 * (miss + math.comb(count, outside + 1) * 0.5**count) <= 1 - CONFIDENCE:
        outside += 1
        miss += math.comb(count, outside) * 0.5**count
    return outside
