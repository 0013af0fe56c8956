"""What can go wrong with the store's place: its port, its host, its name. See `sim.faults.fault` for what all share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.faults.fault import SPAN, Fault, OfRanks

if TYPE_CHECKING:
    from sim.faults.fault import Stage

_RESOLVES = "it has the machine's own resolver"


@dataclass(frozen=True, slots=True)
class Steal(Fault):
    """The port is taken before rank 0 of a static world binds it, by somebody who never answers."""

    name = "steal"
    example = "steal~1s"
    is_from_the_start = True
    not_for_programs = "its store is served before it starts"
    backends = ("static",)

    def apply(self, stage: Stage) -> None:
        """Take it."""
        stage.steal_port()

    def heal(self, stage: Stage) -> None:
        """Let go of it."""
        stage.return_port()


@dataclass(frozen=True, slots=True)
class KillStore(Fault):
    """The process that hosts the store of a c10d job is killed; when it heals, an empty one serves at the same port."""

    name = "kill-store"
    example = "kill-store@round1.full~500ms"
    backends = ("c10d",)

    def apply(self, stage: Stage) -> None:
        """Kill it."""
        stage.kill_store()

    def heal(self, stage: Stage) -> None:
        """Start another."""
        stage.restart_store()


@dataclass(frozen=True, slots=True)
class NameLate(OfRanks):
    """The store's host has a name, which the rank's resolver does not know until so long after the start.

    Attributes:
        by: How long, in seconds.
    """

    name = "name-late"
    example = "name-late:1:500ms"
    is_from_the_start = True
    not_for_programs = _RESOLVES
    by: float = field(metadata=SPAN)

    def strike(self, stage: Stage, rank: int) -> None:
        """Give it such a resolver."""
        stage.name_store(rank, late_s=self.by, is_wrong=False)


@dataclass(frozen=True, slots=True)
class NameWrong(OfRanks):
    """The store's host has a name, for which the rank's resolver gives an address where nobody serves."""

    name = "name-wrong"
    example = "name-wrong:1"
    is_from_the_start = True
    not_for_programs = _RESOLVES

    def strike(self, stage: Stage, rank: int) -> None:
        """Give it such a resolver."""
        stage.name_store(rank, late_s=0.0, is_wrong=True)
