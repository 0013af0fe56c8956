"""What was seen of a run, as plain values: the input of `sim.check.invariants`.

Knows what a meeting looks like from one node. Must not know how nodes are run or how they report.
A *node* is a participant by the number it was started under; its *rank* is what a meeting gave it. Rounds count from 1.

No dataclasses, and annotations as they are, for the reason that `sim.process.messages` has.
"""

from typing import NamedTuple


class Meeting(NamedTuple):
    """One round as one node saw it.

    Attributes:
        node: Who reports, from 0.
        round: Which round, from 1.
        rank: The rank it was given.
        world_size: The number of members it was told.
        run_id: The name of the job it met under.
        master_addr: Host of the bootstrap info.
        master_port: Port of the bootstrap info.
        join_s: From asking for the meeting to being in it, in seconds.
        repeats: What asking again within the round gave: (rank, world size) each time.
        wrote: The value it wrote under its rank.
        reads: What it read: (rank, value) pairs.
        at: When it completed the round, or in a scenario was given its place in it, in seconds of the run's clock.
    """

    node: int
    round: int
    rank: int
    world_size: int
    run_id: str
    master_addr: str
    master_port: int
    join_s: float
    repeats: tuple[tuple[int, int], ...] = ()
    wrote: str = ""
    reads: tuple[tuple[int, str], ...] = ()
    at: float = 0.0


class Ending(NamedTuple):
    """How one node ended.

    Attributes:
        node: Who, from 0.
        exit: Its exit status, negative for a signal; ``None`` if nobody knows.
        by_itself: Whether it ended before anyone told it to.
        phase: What it was last seen in, such as ``"the join of round 2"``.
        at: When it ended, in seconds of the run's clock.
    """

    node: int
    exit: int | None
    by_itself: bool
    phase: str
    at: float


class History(NamedTuple):
    """A whole run: how many were to meet how often, and what came of it.

    Attributes:
        world_size: How many nodes were started, 1 or more.
        rounds: How often they were to meet, 1 or more.
        meetings: Every round every node completed, in any order.
        endings: One for each node, in any order.
    """

    world_size: int
    rounds: int
    meetings: tuple[Meeting, ...]
    endings: tuple[Ending, ...]
