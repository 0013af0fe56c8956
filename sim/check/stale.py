"""No message from an earlier round is acted on in a later one, as a pure function over what nodes have asked the store.

Whoever was given a round has done with all before it: what is left there is only to be cleared away, and how much that
is, is counted by the tickets that were drawn. What it still read there, or wrote, would be of the past.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

COUNTER = "ticket"


@dataclass(frozen=True, slots=True)
class Access:
    """A node has asked for a key of a round.

    Attributes:
        at_s: When.
        node: Its name.
        round: The round, from 1.
        name: What the key is called there.
        deletes: Whether it is to be deleted.
    """

    at_s: float
    node: str
    round: int
    name: str
    deletes: bool = False


def stale(accesses: Iterable[Access], given: Mapping[str, Sequence[tuple[float, int]]]) -> Iterator[str]:
    """What was asked of rounds that were over.

    Args:
        accesses: In order of time.
        given: For each node the rounds that it was given, and when, in order of time.
    """
    for access in accesses:
        rounds = [number for at_s, number in given.get(access.node, ()) if at_s <= access.at_s]
        if rounds and access.round < rounds[-1] and not access.deletes and access.name != COUNTER:
            where = f"{access.name} of round {access.round}"
            yield f"at {access.at_s:g} s {access.node}, which was given round {rounds[-1]}, asked for {where}"
