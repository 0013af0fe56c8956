"""What is the same in both arms of a run: which faults wait for what, who goes on when, and what is noted of it all.

A direction is told what ranks say and what becomes of them, in the words of `sim.process.messages`. It lets them take
their steps, strikes when it is time, and in the end has judged what was seen. A rank announces each step and waits; so
a fault at a step is there before the step begins, and no race decides. It knows no process, no socket and no clock: an
arm derives its own `sim.faults.fault.Stage` from this class, with the methods that are left open here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from sim.check.expected import Seen, judge
from sim.check.history import Meeting
from sim.check.invariants import exit_text
from sim.check.named import Failure
from sim.check.prompt import PLAIN
from sim.check.rounds import Given, Held, Out
from sim.faults.places import KillStore
from sim.faults.triggers import AtRound, AtStep, AtTime
from sim.process.messages import Asks, Failed, Left, Phase, Read, Struck, Wrote
from sim.scenario import ENDED, OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sim.check.history import Ending
    from sim.check.invariants import Check
    from sim.check.rounds import Fact
    from sim.faults.fault import Stage
    from sim.process.messages import Message
    from sim.scenario import Planned, Scenario


class Crash(Exception):  # noqa: N818 -- its name is the outcome that a scenario speaks of
    """The scenario lets the rank fail here."""


class Direction:
    """One run of a scenario.

    Attributes:
        scenario: Which.
        late: The ranks that are not started before their fault strikes.
        struck_at: When a fault last struck or healed, on the run's clock; at first, when the run began.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._size = size = scenario.nodes.started
        is_static = scenario.backend == "static"
        self._parts = [(planned, _spread(planned, size, is_static=is_static)) for planned in scenario.faults]
        self._waiting = [each for _, parts in self._parts for each in parts]
        self._idle = list(self._waiting)  # what has not struck yet
        late = (each.fault for each in self._waiting if each.fault.strikes_before_start)
        self.late = {rank for fault in late for rank in fault.subjects(size)}
        self._steps: Counter[tuple[int, str]] = Counter()
        barriers = (sum(step.name == "barrier" for step in scenario.steps_of(rank)) for rank in range(size))
        self._barriers = dict(enumerate(barriers))  # how many each rank has before it
        self._at_barrier: set[int] = set()
        self._expected = {rank for rank, ahead in self._barriers.items() if ahead}  # the others there wait for them
        self._held_up: defaultdict[int, float] = defaultdict(float)  # seconds, by rank
        self._holds: Counter[int] = Counter()
        self._stops: Counter[int] = Counter()
        self._kills = 0  # of the store, which are not over
        self._crashing: set[int] = set()
        self._phases: set[tuple[int, str]] = set()
        self._facts: list[Fact] = []
        self._meetings: dict[tuple[int, int], Meeting] = {}  # by node and round
        self._rounds: dict[int, int] = {}  # each rank's last
        self._met: Counter[int] = Counter()  # how many ranks, by round
        self._failures: dict[int, Failure] = {}
        self.struck_at = 0.0
        self._struck: list[float] = []  # when anything struck or healed but starts and deaths
        self._lost_at: list[tuple[float, float]] = []  # when the store was killed, and when another served

    # What an arm has of its own, besides the rest of `sim.faults.fault.Stage`

    def now(self) -> float:
        """The time, on the run's clock, in seconds."""
        raise NotImplementedError

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later."""
        raise NotImplementedError

    def let_go_on(self, rank: int, *, crashes: bool) -> None:
        """Let a rank begin what it has announced; or fail there."""
        raise NotImplementedError

    def note(self, rank: int | None, message: Message) -> None:
        """Say something of a rank, or of all, to whoever looks on."""
        raise NotImplementedError

    def name_of(self, rank: int) -> str:
        """Under which name a rank meets the others, or one that sorts as that does; empty if it is the rank's own."""
        del rank
        return ""

    @property
    def stage(self) -> Stage:
        """This object as faults see it."""
        return self  # type: ignore[return-value]  # whoever derives from this class makes it one

    # What it is told

    def on_begin(self) -> None:
        """The run begins: faults of the very start strike, and others at a time will."""
        self.struck_at = self.now()
        self._fire(lambda at: isinstance(at, AtTime))

    def on_message(self, rank: int, message: Message) -> None:
        """A rank has said something."""
        if isinstance(message, Phase):
            self._on_step(rank, message.name)
        elif isinstance(message, Asks):
            self._note_out(rank, "re-entered", self.now())
            self._on_phase(message.round, "join")
            self.let_go_on(rank, crashes=False)
        elif isinstance(message, Meeting):
            self._on_meeting(rank, message)
        elif isinstance(message, Wrote | Read):
            key = rank, self._rounds[rank]
            news = {"wrote": message.value} if isinstance(message, Wrote) else {"reads": message.values}
            self._meetings[key] = self._meetings[key]._replace(**news)
        elif isinstance(message, Left):
            self._note_out(rank, "left", self.now())
        elif isinstance(message, Failed):
            number = self._rounds.get(rank, 0) + 1
            self._failures[rank] = Failure(self.now(), rank, number, message.kind, message.missing)

    def on_ended(self, rank: int, at: float) -> None:
        """A rank has ended."""
        self._note_out(rank, "died", at)
        self._expected.discard(rank)
        self._at_barrier.discard(rank)
        self._open_barrier()

    def is_to_fail(self, rank: int) -> bool:
        """Whether a rank may fail, without the run being over."""
        return self.scenario.outcome_of(rank) != OK

    def verdicts(self, endings: Sequence[Ending], duration_s: float, over_at: float) -> tuple[Check, ...]:
        """What must hold of rounds, and what the scenario expects.

        Args:
            endings: How each rank ended, in order of their numbers.
            duration_s: How long the run took, in seconds.
            over_at: When those who still lived were ended, on the run's clock.
        """
        seen = Seen(
            facts=tuple(sorted(self._facts, key=lambda fact: fact.at_s)),
            meetings=tuple(self._meetings.values()),
            outcomes=tuple(map(self._outcome_of, endings)),
            failures=tuple(self._failures.values()),
            idle=tuple(map(str, self._never_struck())),
            duration_s=duration_s,
            struck_at=self.struck_at,
            struck=tuple(self._struck),
            over_at=over_at,
            lost_at=tuple(self._lost_at),
        )
        return judge(self.scenario, seen)

    # The part of `sim.faults.fault.Stage` that is done here

    def crash(self, rank: int) -> None:
        """As `sim.faults.fault.Stage`."""
        self._crashing.add(rank)

    def hold_up(self, rank: int, for_s: float) -> None:
        """As `sim.faults.fault.Stage`."""
        self._held_up[rank] += for_s

    def isolate(self, rank: int, *, is_held: bool) -> None:
        """As `sim.faults.fault.Stage`; who is held up twice is free when both are over."""
        self._holds[rank] += 1 if is_held else -1
        if self._holds[rank] == is_held:
            self._facts.append(Held(self.now(), f"rank {rank}", is_held))

    def stop(self, rank: int, *, is_held: bool) -> bool:
        """Note that a rank is stopped, or that this is over; whether it is still, for another reason."""
        self.isolate(rank, is_held=is_held)
        self._stops[rank] += 1 if is_held else -1
        return self._stops[rank] > is_held

    # Steps

    def _outcome_of(self, ending: Ending) -> str:
        if not ending.by_itself:
            return ENDED
        failure = self._failures.get(ending.node)
        return OK if ending.exit == 0 else (failure and failure.kind) or exit_text(ending.exit)

    def _on_step(self, rank: int, step: str) -> None:
        self._steps[rank, step] += 1
        count = self._steps[rank, step]
        self._fire(lambda at: isinstance(at, AtStep) and (at.rank, at.step, at.count) == (rank, step, count))
        if for_s := self._held_up.pop(rank, 0.0):
            self.call_in(for_s, partial(self._let_begin, rank, step))
        else:
            self._let_begin(rank, step)

    def _let_begin(self, rank: int, step: str) -> None:
        if step == "barrier":
            self._barriers[rank] -= 1
            self._expected.discard(rank)
            self._at_barrier.add(rank)
            self._open_barrier()
        else:
            self.let_go_on(rank, crashes=rank in self._crashing)

    def _open_barrier(self) -> None:
        """Let all on who are at the barrier once nobody is left who has yet to come to it."""
        if self._expected:
            return
        arrived, self._at_barrier = self._at_barrier, set()
        self._expected = {rank for rank in arrived if self._barriers[rank]}
        for rank in sorted(arrived):
            self.let_go_on(rank, crashes=rank in self._crashing)

    def _on_meeting(self, rank: int, meeting: Meeting) -> None:
        self._meetings[rank, meeting.round] = meeting
        self._rounds[rank] = meeting.round
        self._met[meeting.round] += 1
        bootstrap, name = f"{meeting.master_addr}:{meeting.master_port}", self.name_of(rank)
        self._facts.append(
            Given(meeting.at, f"rank {rank}", meeting.round, meeting.rank, meeting.world_size, bootstrap, name)
        )
        self._on_phase(meeting.round, "met")
        if self._met[meeting.round] == meeting.world_size:
            self._on_phase(meeting.round, "full")

    def _note_out(self, rank: int, why: str, at: float) -> None:
        self._facts.append(Out(at, f"rank {rank}", why))

    # Faults

    def _on_phase(self, number: int, phase: str) -> None:
        if (number, phase) not in self._phases:
            self._phases.add((number, phase))
            self._fire(lambda at: isinstance(at, AtRound) and (at.round, at.phase) == (number, phase))

    def _fire(self, is_due: Callable[[object], bool]) -> None:
        """The moment of some faults has come, but for the time that each waits then."""
        for planned in [each for each in self._waiting if is_due(each.at)]:
            self._waiting.remove(planned)
            if planned.at.after_s:
                self.call_in(planned.at.after_s, partial(self._apply, planned))
            else:
                self._apply(planned)

    def _never_struck(self) -> Iterator[Planned]:
        """The faults that have not struck, as they were written; of one that has struck some ranks, what is left."""
        for planned, parts in self._parts:
            idle = [each for each in parts if each in self._idle]
            yield from [planned] if idle and idle == parts else idle

    def _apply(self, planned: Planned) -> None:
        self._tell(planned, is_healed=False)
        self._idle.remove(planned)
        if isinstance(planned.fault, KillStore):
            self._kills += 1
            self._lost_at.append((self.now(), inf))
        planned.fault.apply(self.stage)
        self._hold(planned, is_held=True)
        if planned.lasts_s is not None:
            self.call_in(planned.lasts_s, partial(self._heal, planned))

    def _heal(self, planned: Planned) -> None:
        self._tell(planned, is_healed=True)
        if isinstance(planned.fault, KillStore):
            self._kills -= 1
            if self._kills:  # as long as it is to be gone for another reason, none serves
                return
            self._lost_at = [(killed_at, min(served_at, self.now())) for killed_at, served_at in self._lost_at]
        planned.fault.heal(self.stage)
        self._hold(planned, is_held=False)

    def _hold(self, planned: Planned, *, is_held: bool) -> None:
        """Whoever has a bad link for a while may be so slow, or so silent, that the others take it for dead."""
        if planned.fault.is_of_links and planned.lasts_s is not None:
            for rank in planned.fault.subjects(self._size):
                self.isolate(rank, is_held=is_held)

    def _tell(self, planned: Planned, *, is_healed: bool) -> None:
        self.struck_at = self.now()
        if planned.fault.name not in PLAIN:
            self._struck.append(self.struck_at)
        struck = Struck(str(planned.fault), is_healed)
        for rank in planned.fault.subjects(self._size) or (None,):
            self.note(rank, struck)


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
