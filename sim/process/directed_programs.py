"""Programs as ranks, while things go wrong: signals, a late or slow start, a way to the store that is worse than usual.

The store is served here, and each rank finds it at its own relay if something is to go wrong on the way. Knows the
director. Must not know which faults there are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rdzv.store import StoreServer
from sim.process.director import Director
from sim.process.stacks import keys_awaited
from sim.process.work import program_start, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from sim.check.history import History
    from sim.check.invariants import Check
    from sim.plan import Plan
    from sim.process.work import Crew, Start

_CHECKS = ("outcomes", "faults")  # what can be said of ranks whose steps nobody sees


class DirectedPrograms(Director):
    """One run of a program under faults. A rank that a fault kills may fail; the others go on."""

    store_kind = StoreServer  # which knows who waits for what

    def __init__(self, plan: Plan, deadline_at: float, stack: ExitStack) -> None:
        """As `Director`; the plan has a program as well."""
        super().__init__(plan, deadline_at, stack)
        self.scratch = scratch_directory(stack)

    def begin(self, crew: Crew) -> Sequence[int]:
        """As `Work.begin`: who is slow to start comes later."""
        order = super().begin(crew)
        slow = [rank for rank in order if rank in self._held_up]
        for rank in slow:
            self.begin_late(rank)
        return [rank for rank in order if rank not in slow]

    def begin_late(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        self.call_in(self._held_up.get(rank, 0.0), partial(self.crew.start, rank))

    def start(self, rank: int) -> Start:
        """As `Work.start`."""
        return program_start(self.plan, rank, self._place.port_of(rank), self.scratch)

    def awaited(self, pids: Mapping[int, int]) -> Mapping[int, Sequence[str]]:
        """As `Work.awaited`: the store knows the ends of the relays, or the ranks themselves."""
        lacking = self._place.lacking()
        by_relay = {rank: lacking[name] for name, rank in self._place.ranks_by_client().items() if name in lacking}
        return by_relay or keys_awaited(pids, lacking)

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """As `Work.checks`."""
        return tuple(check for check in super().checks(history, duration_s) if check.name in _CHECKS)
