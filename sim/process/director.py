"""Carries out a scenario with processes: starts and signals them, and lets them on when `sim.direction` says so.

What reaches the ranks goes through the supervisor; signals through it to the keeper, which alone knows whether a
process is still the rank it was. Nobody goes on while a signal is under way. Must not know how ranks are forked.
"""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from rdzv.store.host import StoreProcess
from sim.check.history import Meeting
from sim.direction import Direction
from sim.process.messages import Phase, Proceed, Resolver, Signal, Signalled, StartActor, Started
from sim.process.place import Place
from sim.process.work import Start, Work, output_pipes, run_id

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from rdzv.store.host import Server
    from sim.check.history import History
    from sim.check.invariants import Check
    from sim.plan import Plan
    from sim.process.messages import Message
    from sim.process.relay import Relay
    from sim.process.work import Crew


class Director(Direction, Work):
    """One run of a scenario. It is the `sim.faults.fault.Stage` on which faults play."""

    descriptors_per_rank = 8  # both ends of two outputs and of the channel, and two clients of the store
    store_kind: type[Server] = StoreProcess

    def __init__(self, plan: Plan, deadline_at: float, stack: ExitStack) -> None:
        """Have the store's place ready.

        Args:
            plan: What to run; it has a scenario.
            deadline_at: When the run is ended.
            stack: Closes what is opened here.
        """
        assert plan.scenario
        Direction.__init__(self, plan.scenario)
        Work.__init__(self, plan)
        self._deadline_at = deadline_at - plan.margin_s
        self._place = Place(self.scenario, plan.seed, stack, self.store_kind)
        self.selector: selectors.BaseSelector
        self._ordinals = itertools.count()  # of two timers for one moment, the first that was set goes first
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._ordered: set[int] = set()  # the ranks whose start was ordered
        self._early: dict[int, list[Signal]] = defaultdict(list)  # signals for the others
        self._unconfirmed = 0  # signals under way; nobody goes on meanwhile
        self._granted: list[tuple[int, Proceed]] = []  # who may go on then
        self._clock_offsets: dict[int, float] = {}
        self._pids: dict[int, int] = {}
        self._over_at = 0.0

    # As the supervisor sees it

    def begin(self, crew: Crew) -> Sequence[int]:
        """As `Work.begin`: all but those who are late, once the faults of the very start are there."""
        order = super().begin(crew)
        self.selector = crew.selector
        self._place.open(self)
        self.on_begin()
        return [rank for rank in order if rank not in self.late]

    def start(self, rank: int) -> Start:
        """As `Work.start`."""
        scenario = self.scenario
        outputs, fds = output_pipes()
        message = StartActor(
            rank=rank,
            nodes_min=scenario.nodes.min,
            nodes_max=scenario.nodes.max,
            backend=scenario.backend,
            endpoint=self._place.endpoint_of(rank),
            run_id=run_id(self.plan),
            options=scenario.options,
            steps=tuple(map(str, scenario.steps_of(rank))),
            resolver=self._place.resolvers.get(rank),
            clock_offset_s=self._clock_offsets.get(rank, 0.0),
            join_timeout_s=max(1, int(self.plan.timeout_s)),
            deadline_at=self._deadline_at,
        )
        if listener := self._place.listener_of(rank):
            fds.append(os.dup(listener.fileno()))
        return Start(message, tuple(fds), outputs)

    def on_started(self, rank: int) -> None:
        """As `Work.on_started`."""
        self._ordered.add(rank)
        for order in self._early.pop(rank, []):
            self.crew.order(order)

    @property
    def due_at(self) -> float:
        """As `Work.due_at`."""
        return self._timers[0][0] if self._timers else super().due_at

    def on_time(self) -> None:
        """As `Work.on_time`."""
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ordinals), action))

    def cease(self) -> None:
        """As `Work.cease`: nothing strikes any more, and what has gone wrong stays so."""
        self._over_at = time.monotonic()
        self._timers.clear()

    def finish(self) -> None:
        """As `Work.finish`."""
        self._place.close()

    def on_message(self, rank: int, message: Message) -> None:
        """As `Work.on_message`; what a rank has sent before it announces a step has set out before that."""
        if isinstance(message, Started):
            self._pids[rank] = message.pid
        if isinstance(message, Phase) and rank in self._place.relays:
            self._place.relays[rank].take_in()
        super().on_message(rank, self._place.as_hosted(rank, message) if isinstance(message, Meeting) else message)

    def on_keeper(self, message: Message) -> None:
        """As `Work.on_keeper`: with the last signal, those who may go on do."""
        if isinstance(message, Signalled):
            self._unconfirmed -= 1
            self._let_go()

    def expected(self, rank: int) -> bool:
        """As `Work.expected`."""
        return self.is_to_fail(rank)

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """As `Work.checks`: what must hold of rounds, and what the scenario expects."""
        return self.verdicts(history.endings, duration_s, self._over_at)

    # As `sim.direction` sees it

    def now(self) -> float:
        """The machine's clock."""
        return time.monotonic()

    def let_go_on(self, rank: int, *, crashes: bool) -> None:
        """As `Direction.let_go_on`."""
        self._granted.append((rank, Proceed(crashes)))
        self._let_go()

    def name_of(self, rank: int) -> str:
        """As `Direction.name_of`: the nodes' own names are those of the machine and of the process."""
        return f"process {self._pids[rank]}"

    def note(self, rank: int | None, message: Message) -> None:
        """As `Direction.note`."""
        self.crew.note(rank, message)

    # As faults see it

    def begin_late(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        self.crew.start(rank)

    def kill(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        self._signal(rank, signal.SIGKILL)

    def pause(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        if not self.stop(rank, is_held=True):
            self._signal(rank, signal.SIGSTOP)

    def resume(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        if not self.stop(rank, is_held=False):
            self._signal(rank, signal.SIGCONT)

    def steal_port(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self._place.is_stolen = True

    def return_port(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self._place.free_port()

    def kill_store(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self._place.kill_store()

    def restart_store(self) -> None:
        """As `sim.faults.fault.Stage`."""
        self._place.serve()

    def name_store(self, rank: int, *, late_s: float, is_wrong: bool) -> None:
        """As `sim.faults.fault.Stage`."""
        self._place.resolvers[rank] = Resolver(time.monotonic() + late_s, is_wrong)

    def shift_clock(self, rank: int, by_s: float) -> None:
        """As `sim.faults.fault.Stage`."""
        self._clock_offsets[rank] = by_s

    def link(self, rank: int) -> Relay:
        """As `sim.faults.fault.Stage`."""
        return self._place.relays[rank]

    # Inside

    def _signal(self, rank: int, number: signal.Signals) -> None:
        order = Signal(rank, number)
        self._unconfirmed += 1
        if rank in self._ordered:
            self.crew.order(order)
        else:
            self._early[rank].append(order)

    def _let_go(self) -> None:
        if self._unconfirmed - sum(map(len, self._early.values())):
            return
        granted, self._granted = self._granted, []
        for rank, proceed in granted:
            self.crew.tell(rank, proceed)
