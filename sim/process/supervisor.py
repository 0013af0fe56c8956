"""Runs a plan: starts the keeper and through it the ranks, hears all of them in one loop, and has the history judged.

The caller's thread is the loop. Every wait ends by the run's deadline. Knows the plan, the messages and the keeper's
door. Must not know how a rank is forked, nor print: a caller who wants to see a run as it goes gives `run` a function.

Nothing survives the call, however it ends: leaving it closes the channel to the keeper, which then ends all ranks.
"""

from __future__ import annotations

import io
import selectors
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from sim.check import invariants
from sim.check.history import Ending, History, Meeting
from sim.process import keeper
from sim.process.channel import Channel, pair
from sim.process.machine import allow_descriptors, require_linux
from sim.process.messages import Exited, Failed, Message, NotStarted, Phase, Release, Started
from sim.process.plan import Plan, RankResult, RunResult
from sim.process.program import Lines
from sim.process.work import Jobs, Programs

OnEvent: TypeAlias = Callable[[int, Message], None]
OnOutput: TypeAlias = Callable[[int, str, bytes], None]

READ_BYTES = 1 << 16
END_TIMEOUT_S = 5.0  # for the keeper to end everything and itself, which takes it half a second when ranks are stubborn


def run(plan: Plan, on_event: OnEvent | None = None, on_output: OnOutput | None = None) -> RunResult:
    """Run the ranks of a plan as processes, and return when all of them are gone.

    Args:
        plan: What to run.
        on_event: Told of every message of a rank, and of its end, before it has any effect: the rank's number and the
            message. The end may come before the last words.
        on_output: Told what a program's ranks print: the rank's number, ``"stdout"`` or ``"stderr"``, and whole lines.

    Returns:
        What became of every rank, and the verdicts. A rank that fails raises nothing here.

    Raises:
        CannotRunError: The machine cannot run it: it is not Linux, or allows too few open files.
    """
    require_linux()
    began_at = time.monotonic()
    with ExitStack() as stack:
        supervisor = _Supervisor(plan, stack, on_event or _ignore, on_output or _ignore)
        supervisor.supervise()
    ranks = tuple(rank.result() for rank in supervisor.ranks)
    history = History(
        plan.world_size,
        plan.rounds,
        tuple(meeting for rank in ranks for meeting in rank.meetings),
        tuple(rank.ending for rank in ranks),
    )
    return RunResult(
        plan=plan,
        duration_s=time.monotonic() - began_at,
        ranks=ranks,
        checks=(invariants.exits(history),) if plan.program else invariants.judge(history),
        interruption=supervisor.interruption,
    )


@dataclass(slots=True)
class _Rank:
    """What is known of a rank so far."""

    number: int
    phase: str = "the start"
    pid: int | None = None
    channel: Channel | None = None
    meetings: list[Meeting] = field(default_factory=list)
    error: str = ""
    exit: int | None = None
    ended_at: float | None = None
    told_to_end: bool = False

    def result(self) -> RankResult:
        by_itself = self.ended_at is not None and not self.told_to_end
        return RankResult(
            rank=self.number,
            pid=self.pid,
            meetings=tuple(self.meetings),
            ending=Ending(self.number, self.exit, by_itself, self.phase, self.ended_at or 0.0),
            error=self.error,
        )


class _Supervisor:
    """The loop, and what it knows."""

    def __init__(self, plan: Plan, stack: ExitStack, on_event: OnEvent, on_output: OnOutput) -> None:
        self.interruption = ""
        self.ranks = [_Rank(number) for number in range(plan.world_size)]
        self._plan = plan
        self._on_event = on_event
        self._on_output = on_output
        self._end_at = time.monotonic() + plan.timeout_s  # earlier once a rank has failed
        self._living = plan.world_size
        self._at_barrier: Counter[int] = Counter()  # how many have completed a round
        self._unstarted = iter(plan.arrivals(1))
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._work = Programs(plan, stack) if plan.program else Jobs(plan, self._end_at, stack)
        self._process, self._keeper = keeper.start(self._work.scratch)
        stack.callback(self._leave)
        # After the keeper has started, so that a program's ranks have the limit that the caller had.
        allow_descriptors(plan.world_size * self._work.descriptors_per_rank)
        self._selector.register(self._keeper, selectors.EVENT_READ | selectors.EVENT_WRITE, self._on_keeper)

    def supervise(self) -> None:
        """Start all ranks and see them through until they have ended, or have to be."""
        while self._living and self._keeper_there and self._turn(self._end_at):
            pass
        if self._living and not self._keeper_there:
            status = self._process.wait(END_TIMEOUT_S)
            self.interruption = f"the keeper process was lost ({invariants.exit_text(status)}), and the ranks with it"
        elif self._living:
            for rank in self.ranks:
                rank.told_to_end = rank.ended_at is None
            if not any(rank.ended_at is not None and rank.exit != 0 for rank in self.ranks):
                self.interruption = f"the run's deadline of {self._plan.timeout_s:g} s has passed"
        if self._keeper_there:
            self._selector.modify(self._keeper, selectors.EVENT_READ, self._on_keeper)
            self._keeper.end()
        # What else is to be heard: how those ended that had to be, and what is left in the pipes. Without a keeper
        # nobody has ended the processes that hold these open.
        end_at = time.monotonic() + (END_TIMEOUT_S if self._keeper_there else 0.0)
        while self._selector.get_map() and self._turn(end_at):
            pass

    @property
    def _keeper_there(self) -> bool:
        return self._keeper.fileno() >= 0

    def _turn(self, end_at: float) -> bool:
        """Wait for news until a moment, and take them in; whether the moment is still to come."""
        left_s = end_at - time.monotonic()
        for key, events in self._selector.select(max(0.0, left_s)):
            key.data(events)
        return left_s > 0

    def _on_keeper(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            with suppress(ConnectionError):  # it has died, as the reading below will show
                self._feed_keeper()
        if events & selectors.EVENT_READ:
            message = self._keeper.receive()
            if isinstance(message, Exited):
                self._on_ended(self.ranks[message.rank], message, message.exit, message.at)
            elif isinstance(message, NotStarted):
                self.ranks[message.rank].error = message.reason
                self._on_ended(self.ranks[message.rank], message, None, time.monotonic())
            elif message is None:
                self._forget(self._keeper)

    def _feed_keeper(self) -> None:
        """Order the next rank, or stop when all are ordered. The keeper's buffer sets the pace."""
        self._keeper.flush()
        if (number := next(self._unstarted, None)) is not None:
            self._start(self.ranks[number])
        elif not self._keeper.backlog:
            self._selector.modify(self._keeper, selectors.EVENT_READ, self._on_keeper)

    def _start(self, rank: _Rank) -> None:
        start = self._work.start(rank.number)
        rank.channel, theirs = pair()
        self._selector.register(rank.channel, selectors.EVENT_READ, partial(self._on_rank, rank))
        for stream, fd in start.outputs.items():
            pipe = io.FileIO(fd)
            self._selector.register(pipe, selectors.EVENT_READ, partial(self._on_pipe, rank, stream, pipe, Lines()))
        self._keeper.send(start.message, (theirs, *start.fds))

    def _on_rank(self, rank: _Rank, _: int) -> None:
        assert rank.channel
        message = rank.channel.receive()
        if message is None:
            self._forget(rank.channel)
            rank.channel = None
            return
        self._on_event(rank.number, message)
        if isinstance(message, Started):
            rank.pid = message.pid
            rank.phase = "the program" if self._plan.program else rank.phase
        elif isinstance(message, Phase):
            rank.phase = f"the {message.name} of round {message.round}"
        elif isinstance(message, Failed):
            rank.error = message.text
        elif isinstance(message, Meeting):
            self._on_meeting(rank, message)

    def _on_meeting(self, rank: _Rank, meeting: Meeting) -> None:
        """Take a completed round in; with the last rank's, let all into the next one, in an order of its own."""
        rank.meetings.append(meeting)
        rank.phase = f"the barrier of round {meeting.round}"
        self._at_barrier[meeting.round] += 1
        if self._at_barrier[meeting.round] == self._plan.world_size and meeting.round < self._plan.rounds:
            for number in self._plan.arrivals(meeting.round + 1):
                if channel := self.ranks[number].channel:
                    with suppress(ConnectionError):  # it has just died, as the keeper will report
                        channel.send(Release(meeting.round + 1, self._plan.delay_s(number, meeting.round + 1)))

    def _on_ended(self, rank: _Rank, message: Exited | NotStarted, status: int | None, at: float) -> None:
        self._on_event(rank.number, message)
        rank.exit, rank.ended_at = status, at
        if isinstance(message, Exited):
            rank.pid = message.pid
        self._living -= 1
        if status != 0 and not rank.told_to_end:
            self._end_at = min(self._end_at, time.monotonic() + self._plan.grace_s)

    def _on_pipe(self, rank: _Rank, stream: str, pipe: io.FileIO, lines: Lines, _: int) -> None:
        printed = pipe.read(READ_BYTES)
        if whole := lines.feed(printed) if printed else lines.flush():
            self._on_output(rank.number, stream, whole)
        if not printed:
            self._forget(pipe)

    def _forget(self, source: Channel | io.FileIO) -> None:
        self._selector.unregister(source)
        source.close()

    def _leave(self) -> None:
        """Whatever happened: have the keeper end everything, wait for that, and close what is open."""
        self._keeper.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for source in [key.fileobj for key in self._selector.get_map().values()]:
            assert isinstance(source, (Channel, io.FileIO))
            source.close()


def _ignore(*_: object) -> None:
    pass
