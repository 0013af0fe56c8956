"""Carries out a scenario with processes: lets ranks take their steps, strikes when it is time, and notes what happens.

A rank announces each step and waits. So a fault at a step is there before the step begins, and no race decides. What
reaches the ranks goes through the supervisor; signals through it to the keeper, which alone knows whether a process is
still the rank it was. Knows the scenario and the messages. Must not know how ranks are forked.
"""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sim.check.expected import Seen, judge
from sim.check.history import Meeting
from sim.check.invariants import exit_text
from sim.check.rounds import Given, Held, Out
from sim.process.messages import (
    Asks,
    Failed,
    Left,
    Phase,
    Proceed,
    Read,
    Resolver,
    Signal,
    Signalled,
    StartActor,
    Struck,
    Wrote,
)
from sim.process.place import Place
from sim.process.work import JOIN_MARGIN_S_MAX, Start, Work, output_pipes, run_id
from sim.scenario import OK
from sim.triggers import AtRound, AtStep, AtTime

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from sim.check.history import Ending, History
    from sim.check.invariants import Check
    from sim.check.rounds import Fact
    from sim.process.messages import Message
    from sim.process.plan import Plan
    from sim.process.relay import Relay
    from sim.process.work import Crew
    from sim.scenario import Planned

ENDED = "ended"  # the outcome of a rank that had to be
MARGIN_S = 7.0  # how much earlier than its bound a node may be found dead: a store's silence, and a poll


class Director(Work):
    """One run of a scenario. It is the `sim.fault.Stage` on which faults play."""

    descriptors_per_rank = 8  # both ends of two outputs and of the channel, and two clients of the store

    def __init__(self, plan: Plan, deadline_at: float, stack: ExitStack) -> None:
        """Have the store's place ready.

        Args:
            plan: What to run; it has a scenario.
            deadline_at: When the run is ended.
            stack: Closes what is opened here.
        """
        super().__init__(plan)
        assert plan.scenario
        self._scenario = plan.scenario
        self._deadline_at = deadline_at - min(JOIN_MARGIN_S_MAX, plan.timeout_s / 10)
        self._place = Place(self._scenario, plan.seed, stack)
        self.selector: selectors.BaseSelector
        self._ordinals = itertools.count()  # of two timers for one moment, the first that was set goes first
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        is_static = self._scenario.backend == "static"
        self._waiting = [
            each for planned in self._scenario.faults for each in _spread(planned, plan.world_size, is_static=is_static)
        ]
        self._idle = list(self._waiting)  # what has not struck yet
        late = (each.fault for each in self._waiting if each.fault.strikes_before_start)
        self._late = {rank for fault in late for rank in fault.subjects(plan.world_size)}
        self._ordered: set[int] = set()  # the ranks whose start was ordered
        self._early: dict[int, list[Signal]] = defaultdict(list)  # signals for the others
        self._unconfirmed = 0  # signals under way; nobody goes on meanwhile
        self._granted: list[int] = []  # who may go on then
        self._steps: Counter[tuple[int, str]] = Counter()
        self._at_barrier: set[int] = set()
        self._barriers: Counter[int] = Counter()  # how many a rank has come to
        self._held_up: defaultdict[int, float] = defaultdict(float)  # seconds, by rank
        self._holds: Counter[int] = Counter()
        self._clock_offsets: dict[int, float] = {}
        self._crashing: set[int] = set()
        self._gone: set[int] = set()
        self._phases: set[tuple[int, str]] = set()
        self._facts: list[tuple[float, Fact]] = []
        self._meetings: dict[tuple[int, int], Meeting] = {}  # by node and round
        self._failures: dict[int, Failed] = {}

    # As the supervisor sees it

    def begin(self, crew: Crew) -> Sequence[int]:
        """As `Work.begin`: all but those who are late, once the faults of the very start are there."""
        order = super().begin(crew)
        self.selector = crew.selector
        self._place.open(self)
        for planned in [each for each in self._waiting if isinstance(each.at, AtTime)]:
            self._strike(planned)
        return [rank for rank in order if rank not in self._late]

    def start(self, rank: int) -> Start:
        """As `Work.start`."""
        scenario = self._scenario
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

    def finish(self) -> None:
        """As `Work.finish`."""
        self._timers.clear()
        self._place.close()

    def on_message(self, rank: int, message: Message) -> None:
        """As `Work.on_message`."""
        if isinstance(message, Phase):
            self._on_step(rank, message)
        elif isinstance(message, Asks):
            self._out(rank, "re-entered", time.monotonic())
            self._on_phase(message.round, "join")
            self._grant(rank)
        elif isinstance(message, Meeting):
            self._on_meeting(rank, message)
        elif isinstance(message, Wrote | Read):
            key = max(key for key in self._meetings if key[0] == rank)
            news = {"wrote": message.value} if isinstance(message, Wrote) else {"reads": message.values}
            self._meetings[key] = replace(self._meetings[key], **news)
        elif isinstance(message, Left):
            self._out(rank, "left", time.monotonic())
        elif isinstance(message, Failed):
            self._failures[rank] = message

    def on_keeper(self, message: Message) -> None:
        """As `Work.on_keeper`: with the last signal, those who may go on do."""
        if isinstance(message, Signalled):
            self._unconfirmed -= 1
            self._let_go()

    def on_ended(self, rank: int, at: float) -> None:
        """As `Work.on_ended`."""
        self._gone.add(rank)
        self._out(rank, "died", at)
        self._open_barrier()

    def expected(self, rank: int) -> bool:
        """As `Work.expected`."""
        return self._scenario.outcome_of(rank) != OK

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """As `Work.checks`: what must hold of rounds, and what the scenario expects."""
        missing = {rank for failure in self._failures.values() for rank in failure.missing}
        facts = tuple(fact for _, fact in sorted(self._facts, key=lambda pair: pair[0]))
        outcomes = tuple(map(self._outcome_of, history.endings))
        seen = Seen(
            facts, tuple(self._meetings.values()), outcomes, frozenset(missing), tuple(map(str, self._idle)), duration_s
        )
        options = dict(self._scenario.options)
        bound_s = float(options.get("keep_alive_interval", 5)) * float(options.get("keep_alive_max_attempt", 3))
        return judge(self._scenario, seen, bound_s, MARGIN_S)

    # As faults see it

    def begin_late(self, rank: int) -> None:
        """As `sim.fault.Stage`."""
        self.crew.start(rank)

    def kill(self, rank: int) -> None:
        """As `sim.fault.Stage`."""
        self._signal(rank, signal.SIGKILL)

    def pause(self, rank: int) -> None:
        """As `sim.fault.Stage`."""
        self.isolate(rank, is_held=True)
        self._signal(rank, signal.SIGSTOP)

    def resume(self, rank: int) -> None:
        """As `sim.fault.Stage`."""
        self.isolate(rank, is_held=False)
        self._signal(rank, signal.SIGCONT)

    def crash(self, rank: int) -> None:
        """As `sim.fault.Stage`."""
        self._crashing.add(rank)

    def hold_up(self, rank: int, for_s: float) -> None:
        """As `sim.fault.Stage`."""
        self._held_up[rank] += for_s

    def steal_port(self) -> None:
        """As `sim.fault.Stage`."""
        self._place.is_stolen = True

    def return_port(self) -> None:
        """As `sim.fault.Stage`."""
        self._place.free_port()

    def kill_store(self) -> None:
        """As `sim.fault.Stage`."""
        self._place.kill_store()

    def restart_store(self) -> None:
        """As `sim.fault.Stage`."""
        self._place.serve()

    def name_store(self, rank: int, *, late_s: float, is_wrong: bool) -> None:
        """As `sim.fault.Stage`."""
        self._place.resolvers[rank] = Resolver(time.monotonic() + late_s, is_wrong)

    def shift_clock(self, rank: int, by_s: float) -> None:
        """As `sim.fault.Stage`."""
        self._clock_offsets[rank] = by_s

    def isolate(self, rank: int, *, is_held: bool) -> None:
        """As `sim.fault.Stage`; who is held up twice is free when both are over."""
        self._holds[rank] += 1 if is_held else -1
        if self._holds[rank] == is_held:
            at = time.monotonic()
            self._facts.append((at, Held(at, f"rank {rank}", is_held)))

    def link(self, rank: int) -> Relay:
        """As `sim.fault.Stage`."""
        return self._place.relays[rank]

    # Inside

    def _outcome_of(self, ending: Ending) -> str:
        if not ending.by_itself:
            return ENDED
        failure = self._failures.get(ending.node)
        return OK if ending.exit == 0 else (failure and failure.kind) or exit_text(ending.exit)

    def _on_step(self, rank: int, phase: Phase) -> None:
        self._steps[rank, phase.name] += 1
        count = self._steps[rank, phase.name]
        self._fire(lambda at: isinstance(at, AtStep) and (at.rank, at.step, at.count) == (rank, phase.name, count))
        if for_s := self._held_up.pop(rank, 0.0):
            self.call_in(for_s, partial(self._let_begin, rank, phase.name))
        else:
            self._let_begin(rank, phase.name)

    def _let_begin(self, rank: int, step: str) -> None:
        if step == "barrier":
            self._at_barrier.add(rank)
            self._barriers[rank] += 1
            self._open_barrier()
        else:
            self._grant(rank)

    def _open_barrier(self) -> None:
        """Let all on who are at the barrier once nobody is left who has yet to come to it."""
        for rank in set(range(self.plan.world_size)) - self._gone - self._at_barrier:
            if self._is_on_its_way(rank):
                return
        arrived, self._at_barrier = self._at_barrier, set()
        for rank in sorted(arrived):
            self._grant(rank)

    def _is_on_its_way(self, rank: int) -> bool:
        """Whether it has yet to come to a barrier: then others wait for it."""
        return sum(step.name == "barrier" for step in self._scenario.steps_of(rank)) > self._barriers[rank]

    def _on_meeting(self, rank: int, meeting: Meeting) -> None:
        meeting = self._place.as_hosted(rank, meeting)
        self._meetings[rank, meeting.round] = meeting
        bootstrap = f"{meeting.master_addr}:{meeting.master_port}"
        given = Given(meeting.at, f"rank {rank}", meeting.round, meeting.rank, meeting.world_size, bootstrap)
        self._facts.append((meeting.at, given))
        self._on_phase(meeting.round, "met")
        if sum(number == meeting.round for _, number in self._meetings) == meeting.world_size:
            self._on_phase(meeting.round, "full")

    def _on_phase(self, number: int, phase: str) -> None:
        if (number, phase) not in self._phases:
            self._phases.add((number, phase))
            self._fire(lambda at: isinstance(at, AtRound) and (at.round, at.phase) == (number, phase))

    def _fire(self, is_due: Callable[[object], bool]) -> None:
        for planned in [each for each in self._waiting if is_due(each.at)]:
            self._strike(planned)

    def _strike(self, planned: Planned) -> None:
        """The fault's moment has come, but for the time that it waits then."""
        self._waiting.remove(planned)
        if planned.at.after_s:
            self.call_in(planned.at.after_s, partial(self._apply, planned))
        else:
            self._apply(planned)

    def _apply(self, planned: Planned) -> None:
        self._note(planned, is_healed=False)
        self._idle.remove(planned)
        planned.fault.apply(self)
        if planned.lasts_s is not None:
            self.call_in(planned.lasts_s, partial(self._heal, planned))

    def _heal(self, planned: Planned) -> None:
        self._note(planned, is_healed=True)
        planned.fault.heal(self)

    def _note(self, planned: Planned, *, is_healed: bool) -> None:
        for rank in planned.fault.subjects(self.plan.world_size) or (None,):
            self.crew.note(rank, Struck(str(planned.fault), is_healed))

    def _signal(self, rank: int, number: signal.Signals) -> None:
        order = Signal(rank, number)
        self._unconfirmed += 1
        if rank in self._ordered:
            self.crew.order(order)
        else:
            self._early[rank].append(order)

    def _grant(self, rank: int) -> None:
        self._granted.append(rank)
        self._let_go()

    def _let_go(self) -> None:
        if self._unconfirmed - sum(map(len, self._early.values())):
            return
        granted, self._granted = self._granted, []
        for rank in granted:
            self.crew.tell(rank, Proceed(rank in self._crashing))

    def _out(self, rank: int, why: str, at: float) -> None:
        self._facts.append((at, Out(at, f"rank {rank}", why)))


def _spread(planned: Planned, world_size: int, *, is_static: bool) -> list[Planned]:
    """A fault for each rank that it is about, each at that rank's own step if no other is said."""
    spread = []
    for fault in planned.fault.each(world_size):
        if is_static and fault.is_of_links and 0 in fault.subjects(world_size):
            continue  # rank 0 hosts the store
        at = planned.at
        if isinstance(at, AtStep) and at.rank is None:
            at = replace(at, rank=fault.subjects(world_size)[0])
        spread.append(replace(planned, fault=fault, at=at))
    return spread
