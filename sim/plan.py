"""What a caller asks of a run, in either arm, and what comes back: frozen values.

Knows the checks. Must not know how a plan is carried out: that is `sim.process.supervisor`, or `sim.virtual.run`.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from sim.check.invariants import Check, blame, exit_text, named, named_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from sim.check.history import Ending, Meeting
    from sim.scenario import Scenario

MARGIN_S_MAX = 1.0
TIMEOUT_S_MAX = 1_000_000  # 11 days: the system's waits count milliseconds in 31 bits
PROGRAM_BYTES_MAX = 1 << 16  # of a command line, which travels to the ranks in one packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run: how many ranks, what they do, and for how long at most.

    Attributes:
        world_size: How many ranks, 1 or more.
        rounds: How often the built-in job meets, 1 or more; a program is run once, whatever this says.
        timeout_s: When the run is ended, in seconds from its start, above 0 and up to `TIMEOUT_S_MAX`.
        seed: Draws the order in which ranks arrive, and their delays.
        delay_s_max: The longest a rank of the built-in job waits before it asks for a meeting, in seconds, 0 or more.
        grace_s: After the first rank has failed, how long the others have to end by themselves, in seconds, 0 or more.
        program: What each rank runs, with its arguments; empty for the built-in job.
        scenario: What the ranks do instead, and what goes wrong; see `Plan.of`.

    Raises:
        ValueError: One of them is out of its range.
    """

    world_size: int = 8
    rounds: int = 3
    timeout_s: float = 60.0
    seed: int = 0
    delay_s_max: float = 0.002
    grace_s: float = 0.8
    program: tuple[str, ...] = ()
    scenario: Scenario | None = None

    @classmethod
    def of(cls, scenario: Scenario, *, seed: int = 0, timeout_s: float | None = None) -> Self:
        """A run of a scenario; as many ranks, and as long, as it says, unless another deadline is given.

        ``rounds`` is how often its busiest rank joins.
        """
        size = scenario.nodes.started
        joins = (sum(step.name in ("join", "rejoin") for step in script.steps) for script in scenario.scripts)
        return cls(
            world_size=size,
            rounds=max([1, *joins]),
            timeout_s=timeout_s or scenario.timeout_s,
            seed=seed,
            scenario=scenario,
        )

    def __post_init__(self) -> None:
        for name, least in (("world_size", 1), ("rounds", 1), ("delay_s_max", 0), ("grace_s", 0)):
            if not (value := getattr(self, name)) >= least or math.isinf(value):
                raise ValueError(f"{name} must be {least} or more, not {value}")
        if not 0 < self.timeout_s <= TIMEOUT_S_MAX:
            raise ValueError(f"timeout_s must be more than 0 and at most {TIMEOUT_S_MAX} seconds, not {self.timeout_s}")
        if sum(map(len, map(os.fsencode, self.program))) > PROGRAM_BYTES_MAX:
            raise ValueError(f"the program's command line is longer than {PROGRAM_BYTES_MAX} bytes")

    @property
    def margin_s(self) -> float:
        """How much earlier than the run is ended ranks give up, in seconds: so they can say what they waited for."""
        return min(MARGIN_S_MAX, self.timeout_s / 10)

    def arrivals(self, round_number: int) -> list[int]:
        """The ranks in the order in which they are let into a round, drawn from the seed."""
        order = list(range(self.world_size))
        Random(f"{self.seed} arrivals {round_number}").shuffle(order)  # noqa: S311 -- a seed is the point
        return order

    def delay_s(self, rank: int, round_number: int) -> float:
        """How long a rank waits before it asks for the meeting of a round, drawn from the seed."""
        return Random(f"{self.seed} delay {rank} {round_number}").uniform(0, self.delay_s_max)  # noqa: S311


class RankResult(NamedTuple):
    """What became of one rank.

    Attributes:
        rank: The number it was started under.
        pid: Its process; ``None`` if it never had one.
        meetings: The rounds it completed.
        ending: How it ended.
        error: What it said about its failure, a traceback mostly; of a program, the end of what it printed. Empty if
            it said nothing.
        expected: Whether a scenario has it fail.
        stack: Where it hung, if it had to be ended and could say so: its Python stack.
        keys: What it waited for in the store then.
        is_stopped: Whether a signal had stopped it then, so that it could say nothing.
    """

    rank: int
    pid: int | None
    meetings: tuple[Meeting, ...]
    ending: Ending
    error: str
    expected: bool = False
    stack: str = ""
    keys: tuple[str, ...] = ()
    is_stopped: bool = False

    @property
    def join_s(self) -> float | None:
        """The longest it took to meet, of all rounds, in seconds; ``None`` if it never met."""
        return max((meeting.join_s for meeting in self.meetings), default=None)

    @property
    def waiting(self) -> str:
        """What held it up, as the end of a sentence; empty if that is not known."""
        stopped = ", stopped by a signal such as SIGSTOP" if self.is_stopped else ""
        return stopped + (f", waiting for {named_keys(self.keys)}" if self.keys else "")

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, and not well, and was not to."""
        return self.ending.by_itself and self.ending.exit != 0 and not self.expected


class _Run(NamedTuple):
    plan: Plan
    duration_s: float
    ranks: tuple[RankResult, ...]
    checks: tuple[Check, ...]
    interruption: str
    digest: str = ""
    events: int = 0
    trace: Sequence[tuple[object, ...]] = ()


class RunResult(_Run):
    """What became of a run.

    Attributes:
        plan: What was asked for.
        duration_s: From nothing to all gone, in seconds.
        ranks: One for each, by number.
        checks: The verdicts.
        interruption: Why the supervisor could not see the run through, such as its deadline; empty if it could.
    """

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def rounds_held(self) -> int:
        """In how many rounds somebody met the others."""
        return len({meeting.round for rank in self.ranks for meeting in rank.meetings})

    @property
    def first_failed(self) -> RankResult | None:
        """The rank that failed before all others."""
        failed = (rank for rank in self.ranks if rank.failed)
        return min(failed, key=lambda rank: blame(rank.ending), default=None)

    @property
    def failure(self) -> str:
        """What went wrong with the ranks, in a line or two for people; empty if all ended as they were to.

        The rank that failed first, the deadline if it came to that, and who had to be ended, and doing what.
        """
        if self.ok:
            return ""
        parts = [self.interruption] if self.interruption else []
        if first := self.first_failed:
            parts.append(f"rank {first.rank} failed first, in {first.ending.phase}: {exit_text(first.ending.exit)}")
        unfinished = defaultdict(list)
        for rank in self.ranks:
            if not rank.ending.by_itself:
                unfinished[f"{rank.ending.phase}{rank.waiting}"].append(rank.rank)
        parts += [f"{named('rank', ranks)} had to be ended in {where}" for where, ranks in unfinished.items()]
        return "; ".join(parts)


class VirtualResult(RunResult):
    """What became of a run in virtual time, which all times in it are of.

    Attributes:
        digest: What its trace comes to: equal if the same has happened; empty if none was kept.
        events: How many events it had.
        trace: What has happened, as `sim.virtual.world.World` keeps it; empty if that was not wanted.
    """

    __slots__ = ()

    @property
    def virtual_s(self) -> float:
        """How long it took, in seconds."""
        return self.duration_s
