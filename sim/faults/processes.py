"""What can go wrong with a rank's process. See `sim.faults.fault` for what these have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.faults.fault import SPAN, OfRanks
from sim.faults.triggers import AtStep
from sim.scenario_text import ScenarioError, seconds, seconds_text

if TYPE_CHECKING:
    from sim.faults.fault import Stage
    from sim.faults.triggers import Trigger


def _offset(text: str) -> float:
    return -seconds(text[1:]) if text.startswith("-") else seconds(text)


def _offset_text(by: float) -> str:
    return f"-{seconds_text(-by)}" if by < 0 else seconds_text(by)


@dataclass(frozen=True, slots=True)
class Kill(OfRanks):
    """SIGKILL: the rank is gone, without a word."""

    name = "kill"
    example = "kill:2@join"
    outcome = "SIGKILL"

    def strike(self, stage: Stage, rank: int) -> None:
        """Kill it."""
        stage.kill(rank)


@dataclass(frozen=True, slots=True)
class Stop(OfRanks):
    """SIGSTOP, and SIGCONT when it heals: the rank stands still with all its connections open."""

    name = "stop"
    example = "stop:1@write~2s"

    def strike(self, stage: Stage, rank: int) -> None:
        """Stop it."""
        stage.pause(rank)

    def mend(self, stage: Stage, rank: int) -> None:
        """Let it continue."""
        stage.resume(rank)


@dataclass(frozen=True, slots=True)
class Late(OfRanks):
    """The rank's process is started only then."""

    name = "late"
    example = "late:3@500ms"
    strikes_before_start = True

    def strike(self, stage: Stage, rank: int) -> None:
        """Start it."""
        stage.begin_late(rank)

    def require(self, world_size: int, at: Trigger) -> None:
        """As `Fault.require`."""
        OfRanks.require(self, world_size, at)
        if isinstance(at, AtStep) and (at.rank is None or at.rank in self.subjects(world_size)):
            raise ScenarioError("a rank that has not started begins no step", key="at", hint=f"write {self.example}")


@dataclass(frozen=True, slots=True)
class Slow(OfRanks):
    """The rank takes so much longer before the step that it begins next; its first one, if no other is said.

    Attributes:
        by: How much longer, in seconds.
    """

    name = "slow"
    example = "slow:*:300ms"
    by: float = field(metadata=SPAN)

    def strike(self, stage: Stage, rank: int) -> None:
        """Hold it up."""
        stage.hold_up(rank, self.by)


@dataclass(frozen=True, slots=True)
class Clock(OfRanks):
    """The rank's clocks, wall and monotonic, are so far ahead of the others', or behind them with a minus, all along.

    Attributes:
        by: How far, in seconds.
    """

    name = "clock"
    example = "clock:1:-90s"
    is_from_the_start = True
    not_for_programs = "it has the machine's own clocks"
    by: float = field(metadata={"read": _offset, "write": _offset_text})

    def strike(self, stage: Stage, rank: int) -> None:
        """Set them."""
        stage.shift_clock(rank, self.by)


@dataclass(frozen=True, slots=True)
class Crash(OfRanks):
    """The rank's own code raises an error in that step, and its process ends with status 1."""

    name = "crash"
    example = "crash:0@read"
    not_for_programs = "it takes no steps that anybody sees; kill it instead"
    outcome = "Crash"

    def strike(self, stage: Stage, rank: int) -> None:
        """Let it crash."""
        stage.crash(rank)

    def require(self, world_size: int, at: Trigger) -> None:
        """As `Fault.require`."""
        OfRanks.require(self, world_size, at)
        if not isinstance(at, AtStep) or at.rank is not None or at.after_s:
            problem = "a rank crashes as it begins one of its own steps"
            raise ScenarioError(problem, key="at", hint=f"write {self.example}")
