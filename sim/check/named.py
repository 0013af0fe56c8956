"""Whom the errors of a fixed world name as missing: all who are, nobody else, every error the same; and who met alone.

Pure functions over the facts of `sim.check.rounds` and what ranks failed with, where nothing but starts and deaths has
happened: a rank is missing in a round that it has not asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.check.rounds import Given, Out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.check.rounds import Fact

ON_THE_WAY_S = 1.0  # who has asked so short a time before may have been heard of or not


@dataclass(frozen=True, slots=True)
class Failure:
    """A rank has failed.

    Attributes:
        at_s: When.
        rank: Which.
        round: In which round, or on its way there.
        kind: The name of the error's class.
        missing: The ranks that the error names.
    """

    at_s: float
    rank: int
    round: int
    kind: str
    missing: tuple[int, ...]


def misnamed(failures: Sequence[Failure], facts: Sequence[Fact], size: int) -> Iterator[str]:
    """What is wrong with the names.

    Args:
        failures: Of all ranks.
        facts: What ranks asked for, were given and became, in order of time.
        size: How many ranks there are.
    """
    asked = _asked_at(facts)
    met = {fact.round for fact in facts if isinstance(fact, Given)}
    died_at = {fact.node: fact.at_s for fact in facts if isinstance(fact, Out) and fact.why == "died"}
    first: dict[int, tuple[int, ...]] = {}
    for failure in failures:
        number, missing = failure.round, failure.missing
        for rank in missing:
            node = f"rank {rank}"
            here_at = asked.get((node, number), failure.at_s)
            if here_at < failure.at_s - ON_THE_WAY_S and died_at.get(node, failure.at_s) >= failure.at_s:
                yield f"rank {failure.rank} names {node} as missing in round {number}, which came at {here_at:g} s"
        if failure.kind != "RendezvousTimeoutError":
            continue
        absent = {rank for rank in range(size) if asked.get((f"rank {rank}", number), failure.at_s) >= failure.at_s}
        if unnamed := sorted(absent - {*missing}):
            yield f"rank {failure.rank} names {missing} as missing in round {number}, and not {unnamed}"
        if number in met or first.setdefault(number, missing) != missing:
            others = "have met" if number in met else f"name {first[number]}"
            yield f"rank {failure.rank} names {missing} as missing in round {number}, in which others {others}"


def hasty(facts: Sequence[Fact], size: int) -> Iterator[str]:
    """Who has met in a round that not all have asked for. Arguments as above."""
    asked = _asked_at(facts)
    for fact in facts:
        if isinstance(fact, Given):
            absent = [rank for rank in range(size) if asked.get((f"rank {rank}", fact.round), fact.at_s) >= fact.at_s]
            if absent:
                yield f"{fact.node} has met in round {fact.round} at {fact.at_s:g} s, without {absent}"


def _asked_at(facts: Sequence[Fact]) -> dict[tuple[str, int], float]:
    """When each rank has asked for each round."""
    asked: dict[tuple[str, int], float] = {}
    counts: Counter[str] = Counter()
    for fact in facts:
        if isinstance(fact, Out) and fact.why == "re-entered":
            counts[fact.node] += 1
            asked[fact.node, counts[fact.node]] = fact.at_s
    return asked
