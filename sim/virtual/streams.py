"""Where chance comes from: for each name a stream of its own, all from one seed.

Who draws from one stream does not disturb another, so a fault that is added to a world does not reshuffle the rest. A
stream rests on the two methods of `random.Random` whose results are the same in every version of Python, ``random``
and ``getrandbits``, and its seed on a hash that knows no PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = TypeVar("Item")

# The step of Knuth's generator for MMIX: state = (state * MULTIPLIER + STEP) & STATE_MAX, of which the upper bits are
# the better. Where a node draws for every message, a stream would be too slow and too large.
MULTIPLIER, STEP, STATE_MAX = 6364136223846793005, 1442695040888963407, (1 << 64) - 1


def seed_of(seed: int, name: str) -> int:
    """What the chance of that name begins with: 256 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest(), "big")


class Stream:
    """Draws, one after the other.

    Attributes:
        fraction: Draws a number of at least 0 and less than 1.
    """

    __slots__ = ("_bits", "fraction")

    def __init__(self, seed: int, name: str) -> None:
        source = random.Random(seed_of(seed, name))  # noqa: S311 - to be repeated, not to be secret
        self.fraction = source.random
        self._bits = source.getrandbits

    def below(self, end: int) -> int:
        """A whole number of at least 0 and less than ``end``, which is 1 or more; each as likely."""
        bits = (end - 1).bit_length()
        while bits:
            number = self._bits(bits)
            if number < end:
                return number
        return 0

    def chance(self, probability: float) -> bool:
        """True with this probability, 0 to 1."""
        return self.fraction() < probability

    def between(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return min(high, low + (high - low) * self.fraction())

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely; there must be one."""
        return items[self.below(len(items))]

    def bytes(self, count: int) -> bytes:
        """So many bytes, each as likely; at least one."""
        return self._bits(8 * count).to_bytes(count, "big")

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in another order, each order as likely."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]


class Streams:
    """All streams of one seed; the same name is the same stream."""

    __slots__ = ("_streams", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Stream] = {}

    def __getitem__(self, name: str) -> Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(self.seed, name)
        return stream
