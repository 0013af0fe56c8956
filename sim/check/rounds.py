"""The invariants of elastic rounds, as pure functions over what the nodes of a job were given and what became of them.

Knows nothing of the protocol, nor of who ran the nodes: a history is a list of facts in order of time. Whoever wrote it
calls `judge`.

A node *lives* in a round from the moment it is given it until it goes on to the next, leaves, dies, or is told that it
does not belong any more. One that was held up (paused, or cut off) for about the bound is by definition not living any
more: the others may go on without it, and it is told when it is back.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.check.invariants import counted, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sim.check.invariants import Check

MARGIN_S = 7.0  # a request that was lost is asked again after 5 s, and a poll later


@dataclass(frozen=True, slots=True)
class Given:
    """A node was given its place in a round.

    Attributes:
        at_s: When.
        node: Its name.
        round: The round's number.
        rank: Its rank.
        size: How many members it was told.
        bootstrap: Where it was told that rank 0 serves.
        name: Under which name it met the others there; empty if that is its own.
    """

    at_s: float
    node: str
    round: int
    rank: int
    size: int
    bootstrap: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Out:
    """A node does not live in its round any more.

    Attributes:
        at_s: When.
        node: Its name.
        why: It re-entered, left, died, or was told that it had been evicted.
    """

    at_s: float
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """A node was paused or cut off, or that is over.

    Attributes:
        at_s: When.
        node: Its name.
        is_held: Whether it is from now on.
    """

    at_s: float
    node: str
    is_held: bool


Fact = Given | Out | Held


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the job was set to.

    Attributes:
        min_nodes: The fewest nodes of a round.
        max_nodes: The most.
        bound_s: After how long without a sign of life a node is dead, in seconds.
        margin_s: How much earlier that may be found, and how long a node may need to show life once it is back.
    """

    min_nodes: int
    max_nodes: int
    bound_s: float
    margin_s: float = MARGIN_S


def judge(history: Sequence[Fact], bounds: Bounds) -> tuple[Check, ...]:
    """The verdicts of all invariants."""
    rounds: dict[int, list[Given]] = defaultdict(list)
    for fact in history:
        if isinstance(fact, Given):
            rounds[fact.round].append(fact)
    return (
        verdict("frozen", _torn(rounds), f"{counted(len(rounds), 'round')}, each the same for all its members"),
        verdict("ranks", _bad_ranks(rounds), f"each held once, in {counted(len(rounds), 'round')}"),
        verdict("sizes", _bad_sizes(rounds, bounds), f"from {bounds.min_nodes} to {bounds.max_nodes}"),
        verdict("numbers", _shrinking(history), "each node's rounds only grow"),
        verdict("one world", _two_worlds(history, bounds), "never two live worlds"),
    )


def _torn(rounds: dict[int, list[Given]]) -> Iterator[str]:
    for number, given in rounds.items():
        if len(told := {(fact.size, fact.bootstrap) for fact in given}) > 1:
            yield f"round {number}: its members were told {sorted(told)}"


def _bad_ranks(rounds: dict[int, list[Given]]) -> Iterator[str]:
    for number, given in rounds.items():
        holders: dict[int, str] = {}
        for fact in given:
            if not 0 <= fact.rank < fact.size:
                yield f"round {number}: {fact.node} is rank {fact.rank} of {fact.size}"
            if holders.setdefault(fact.rank, fact.node) != fact.node:
                yield f"round {number}: {holders[fact.rank]} and {fact.node} are both rank {fact.rank}"


def _bad_sizes(rounds: dict[int, list[Given]], bounds: Bounds) -> Iterator[str]:
    for number, given in rounds.items():
        for size in {fact.size for fact in given}:
            if not bounds.min_nodes <= size <= bounds.max_nodes:
                yield f"round {number} has {size} members"


def _shrinking(history: Iterable[Fact]) -> Iterator[str]:
    last: dict[str, int] = {}
    for fact in history:
        if isinstance(fact, Given):
            if fact.round <= last.get(fact.node, -1):
                yield f"at {fact.at_s:g} s {fact.node} was given round {fact.round} after round {last[fact.node]}"
            last[fact.node] = fact.round


def _two_worlds(history: Iterable[Fact], bounds: Bounds) -> Iterator[str]:
    """Whoever is given a round finds nobody living in another."""
    living: dict[str, int] = {}
    held: dict[str, tuple[float, float]] = {}  # since when, with only short pauses for breath; until when, or for ever
    lives_s = bounds.bound_s - bounds.margin_s  # who is held up for longer may be taken for dead
    for fact in history:
        for node, (since, until) in held.items():
            if fact.at_s <= until and fact.at_s - since > lives_s:
                living.pop(node, None)
        if isinstance(fact, Held):
            since, until = held.get(fact.node, (float("-inf"), float("-inf")))
            if fact.is_held:
                was_short = fact.at_s - until <= bounds.margin_s
                held[fact.node] = (since if was_short else fact.at_s, float("inf"))
            else:
                held[fact.node] = (since, fact.at_s)
            continue
        if isinstance(fact, Out):
            living.pop(fact.node, None)
            continue
        others = {node: number for node, number in living.items() if number != fact.round}
        if others:
            yield f"at {fact.at_s:g} s {fact.node} was given round {fact.round}, but others live: {others}"
        since, until = held.get(fact.node, (0.0, 0.0))
        if fact.at_s - until > bounds.margin_s or until - since <= lives_s:  # else it may not live there any more
            living[fact.node] = fact.round
