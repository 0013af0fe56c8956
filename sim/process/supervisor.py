"""Runs a plan: starts the keeper and through it the ranks, hears all of them in one loop, and has the history judged.

The caller's thread is the loop. Every wait ends by the run's deadline. Knows the plan, the messages and the keeper's
door. Must not know how a rank is forked, nor print: a caller who wants to see a run as it goes gives `run` a function.

Nothing survives the call, however it ends: leaving it closes the channel to the keeper, which then ends all ranks.
"""

from __future__ import annotations

import io
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeAlias

from sim.check import invariants
from sim.check.history import Ending, History, Meeting
from sim.plan import Plan, RankResult, RunResult
from sim.process import door
from sim.process.channel import Channel, pair
from sim.process.machine import CannotRunError, allow_descriptors, require_descriptors, require_linux, require_loopback
from sim.process.messages import Exited, Failed, Hung, Message, NotStarted, Phase, Started
from sim.process.program import Lines
from sim.process.stacks import DUMP, is_stopped, readable
from sim.process.work import HOST, Jobs, Programs, Work

OnEvent: TypeAlias = Callable[[int | None, Message], None]  # `None` for what is about all ranks
OnOutput: TypeAlias = Callable[[int, str, bytes], None]
OnCutShort: TypeAlias = Callable[[RunResult], None]

READ_BYTES = 1 << 16
TAIL_BYTES = 4000  # of what a program prints, the end that is kept
END_TIMEOUT_S = 5.0  # for the keeper to end everything and itself, which takes it half a second when ranks are stubborn


def run(
    plan: Plan,
    on_event: OnEvent | None = None,
    on_output: OnOutput | None = None,
    on_cut_short: OnCutShort | None = None,
) -> RunResult:
    """Run the ranks of a plan as processes, and return when all of them are gone.

    Args:
        plan: What to run.
        on_event: Told of every message of a rank, or to it, of its end, and of faults, before any of it has an effect:
            the rank's number and the message. The end may come before the last words.
        on_output: Told what a program's ranks print: the rank's number, ``"stdout"`` or ``"stderr"``, and whole lines.
        on_cut_short: Told what has become of the run if Ctrl-C or an exit ends it, when all ranks are gone.

    Returns:
        What became of every rank, and the verdicts. A rank that fails raises nothing here.

    Raises:
        CannotRunError: The machine cannot run it: it is not Linux, or allows too few processes or open files.
        Exception: What one of the functions above raises ends the run.
    """
    require_linux()
    began_at = time.monotonic()
    supervisor = None
    caller = _Caller()
    try:
        with ExitStack() as stack:
            with caller.refusals_named(OSError, RuntimeError):  # the latter for a thread, or for the store's process
                require_loopback(HOST)
                require_descriptors(plan.world_size)  # at least; before anything is made for that many
                supervisor = _Supervisor(plan, stack, caller.hears(on_event), caller.hears(on_output))
            with caller.refusals_named(OSError):
                supervisor.supervise()
    except (KeyboardInterrupt, SystemExit):
        if supervisor and on_cut_short:
            on_cut_short(_result(plan, supervisor, began_at))
        raise
    return _result(plan, supervisor, began_at)


def _result(plan: Plan, supervisor: _Supervisor, began_at: float) -> RunResult:
    duration_s = time.monotonic() - began_at
    ranks = tuple(supervisor.results())
    history = History(
        plan.world_size,
        plan.rounds,
        tuple(meeting for rank in ranks for meeting in rank.meetings),
        tuple(rank.ending for rank in ranks),
    )
    return RunResult(
        plan=plan,
        duration_s=duration_s,
        ranks=ranks,
        checks=supervisor.work.checks(history, duration_s),
        interruption=supervisor.interruption,
    )


class _Caller:
    """Who runs a plan: what the functions raise that it gave is its own, and no refusal of the machine."""

    def __init__(self) -> None:
        self._raised: list[Exception] = []

    def hears(self, function: Callable[..., None] | None) -> Callable[..., None]:
        """One of its functions."""

        def call(*arguments: object) -> None:
            try:
                if function:
                    function(*arguments)
            except Exception as error:
                self._raised.append(error)
                raise

        return call

    @contextmanager
    def refusals_named(self, *refusals: type[Exception]) -> Iterator[None]:
        """Name what the machine refuses here, apart from what the caller has raised.

        Raises:
            CannotRunError: It refuses something.
        """
        try:
            yield
        except CannotRunError:
            raise
        except refusals as error:
            if error in self._raised:
                raise
            raise CannotRunError(f"the machine refuses what this run needs: {error}") from error


class _Rank:
    """What is known of a rank so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.phase = "the start"
        self.pid: int | None = None
        self.channel: Channel | None = None
        self.meetings: list[Meeting] = []
        self.error = ""
        self.exit: int | None = None
        self.ended_at: float | None = None
        self.told_to_end = self.is_stopped = False
        self.tails: dict[str, bytes] = {}  # the end of what it printed, by stream
        self.stack = ""
        self.dump = b""  # the stack as a program writes it
        self.keys: tuple[str, ...] = ()

    def result(self, *, expected: bool) -> RankResult:
        by_itself = self.ended_at is not None and not self.told_to_end
        last_words = self.tails.get("stderr") or self.tails.get("stdout", b"")
        return RankResult(
            rank=self.number,
            pid=self.pid,
            meetings=tuple(self.meetings),
            ending=Ending(self.number, self.exit, by_itself, self.phase, self.ended_at or 0.0),
            error=self.error or (last_words.decode(errors="replace") if by_itself and self.exit else ""),
            expected=expected,
            stack=readable(self.stack or self.dump.decode(errors="replace").partition("\n")[2].strip()),
            keys=self.keys,
            is_stopped=self.is_stopped,
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
        self.selector: selectors.BaseSelector = stack.enter_context(selectors.DefaultSelector())
        self.work = _work_of(plan, self._end_at, stack)
        self._process, self._keeper = door.start(self.work.scratch)
        stack.callback(self._leave)
        # After the keeper has started, so that a program's ranks have the limit that the caller had.
        allow_descriptors(plan.world_size * self.work.descriptors_per_rank, or_more=bool(plan.program))
        self.selector.register(self._keeper, selectors.EVENT_READ | selectors.EVENT_WRITE, self._on_keeper)
        self._unstarted: deque[int] = deque()  # before the work begins: who is late by no time is started there
        self._unstarted.extendleft(reversed(self.work.begin(self)))

    def supervise(self) -> None:
        """Start all ranks and see them through until they have ended, or have to be."""
        began_at = time.monotonic()
        try:
            while self._living and self._keeper_there and self._turn(self._end_at):
                pass
        except (KeyboardInterrupt, SystemExit):
            self.interruption = f"the run was cut short after {time.monotonic() - began_at:.2f} s"
            self._see_out()
            raise
        self._see_out()

    def _see_out(self) -> None:
        """End the ranks that live, and take in what they have left to say."""
        self._process.resume()
        if self._living and not self._keeper_there:
            status = self._process.wait(END_TIMEOUT_S)
            self.interruption = f"the keeper process was lost ({invariants.exit_text(status)}), and the ranks with it"
        elif self._living:
            living = {rank.number: rank for rank in self.ranks if rank.ended_at is None}
            awaited = self.work.awaited({number: rank.pid for number, rank in living.items() if rank.pid})
            for number, rank in living.items():
                rank.told_to_end, rank.keys = True, tuple(awaited.get(number, ()))
                rank.is_stopped = rank.pid is not None and is_stopped(rank.pid)
            failed = (rank for rank in self.ranks if rank.ended_at is not None and rank.exit != 0)
            if not self.interruption and all(self.work.expected(rank.number) for rank in failed):
                self.interruption = f"the run's deadline of {self._plan.timeout_s:g} s has passed"
        self.work.cease()
        if self._keeper_there:
            self.selector.modify(self._keeper, selectors.EVENT_READ, self._on_keeper)
            self._keeper.end()
        # What else is to be heard: how those ended that had to be, and what is left in the pipes. Without a keeper
        # nobody has ended the processes that hold these open.
        end_at = time.monotonic() + (END_TIMEOUT_S if self._keeper_there else 0.0)
        while self._living and self._keeper_there and self._turn(end_at):  # with all that they may still wait for
            pass
        self.work.finish()
        while self.selector.get_map() and self._turn(end_at):
            pass

    def results(self) -> Iterator[RankResult]:
        """What became of the ranks."""
        return (rank.result(expected=self.work.expected(rank.number)) for rank in self.ranks)

    # What the work may have done

    def start(self, number: int) -> None:
        """As `sim.process.work.Crew`: behind all whose start is due already."""
        self._unstarted.append(number)
        self._wake_keeper()

    def tell(self, number: int, message: Message) -> None:
        """As `sim.process.work.Crew`."""
        if channel := self.ranks[number].channel:
            self._on_event(number, message)
            with suppress(ConnectionError):  # it has just died, as the keeper will report
                channel.send(message)

    def order(self, message: Message) -> None:
        """As `sim.process.work.Crew`."""
        if self._keeper_there:
            with suppress(ConnectionError):
                self._keeper.send(message)
            self._wake_keeper()

    def note(self, number: int | None, message: Message) -> None:
        """As `sim.process.work.Crew`."""
        self._on_event(number, message)

    # The loop

    def _wake_keeper(self) -> None:
        if self._keeper_there:
            self.selector.modify(self._keeper, selectors.EVENT_READ | selectors.EVENT_WRITE, self._on_keeper)

    @property
    def _keeper_there(self) -> bool:
        return self._keeper.fileno() >= 0

    def _turn(self, end_at: float) -> bool:
        """Wait for news until a moment, and take them in; whether the moment is still to come."""
        now = time.monotonic()
        for key, events in self.selector.select(max(0.0, min(end_at, self.work.due_at) - now)):
            key.data(events)
        self.work.on_time()
        return now < end_at

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
            elif isinstance(message, Failed):
                self._on_keeper_ending(message.text)
            elif message is None:
                self._forget(self._keeper)
            else:
                self.work.on_keeper(message)

    def _on_keeper_ending(self, why: str) -> None:
        """It ends the ranks now, and not this process: none of them fails by itself any more."""
        self.interruption = self.interruption or f"{why}, and ends the ranks"
        self._end_at = time.monotonic()
        for rank in self.ranks:
            rank.told_to_end = rank.told_to_end or rank.ended_at is None

    def _feed_keeper(self) -> None:
        """Order the next ranks, and stop when all are ordered. The keeper's buffer sets the pace."""
        self._keeper.flush()
        while self._unstarted and not self._keeper.backlog:
            self._start(self.ranks[self._unstarted.popleft()])
        if not self._keeper.backlog:
            self.selector.modify(self._keeper, selectors.EVENT_READ, self._on_keeper)

    def _start(self, rank: _Rank) -> None:
        start = self.work.start(rank.number)
        self._on_event(rank.number, start.message)
        rank.channel, theirs = pair()
        self.selector.register(rank.channel, selectors.EVENT_READ, partial(self._on_rank, rank))
        for stream, fd in start.outputs.items():
            pipe = io.FileIO(fd)
            self.selector.register(pipe, selectors.EVENT_READ, partial(self._on_pipe, rank, stream, pipe, Lines()))
        self._keeper.send(start.message, (theirs, *start.fds))
        self.work.on_started(rank.number)

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
        elif isinstance(message, Hung):
            rank.stack, rank.keys = message.stack, message.keys
        elif isinstance(message, Meeting):
            rank.meetings.append(message)
            rank.phase = f"the barrier of round {message.round}"
        self.work.on_message(rank.number, message)

    def _on_ended(self, rank: _Rank, message: Exited | NotStarted, status: int | None, at: float) -> None:
        self._on_event(rank.number, message)
        rank.exit, rank.ended_at = status, at
        if isinstance(message, Exited):
            rank.pid = message.pid
        self._living -= 1
        self.work.on_ended(rank.number, at)
        if status != 0 and not rank.told_to_end and not self.work.expected(rank.number):
            self._end_at = min(self._end_at, time.monotonic() + self._plan.grace_s)

    def _on_pipe(self, rank: _Rank, stream: str, pipe: io.FileIO, lines: Lines, _: int) -> None:
        printed = pipe.read(READ_BYTES)
        whole = lines.feed(printed) if printed else lines.flush()
        if rank.told_to_end and stream == "stderr" and (rank.dump or DUMP in whole):
            said, begin, dump = (b"", b"", whole) if rank.dump else whole.partition(DUMP)
            whole, rank.dump = said, rank.dump + begin + dump
        if whole:
            rank.tails[stream] = (rank.tails.get(stream, b"") + whole[-TAIL_BYTES:])[-TAIL_BYTES:]
            self._on_output(rank.number, stream, whole)
        if not printed:
            self._forget(pipe)

    def _forget(self, source: Channel | io.FileIO) -> None:
        self.selector.unregister(source)
        source.close()

    def _leave(self) -> None:
        """Whatever happened: have the keeper end everything, wait for that, and close what is open."""
        self.work.finish()
        self._keeper.close()
        door.see_off(self._process, END_TIMEOUT_S)
        for source in [key.fileobj for key in self.selector.get_map().values()]:
            assert isinstance(source, (Channel, io.FileIO, socket.socket))
            source.close()


def _work_of(plan: Plan, deadline_at: float, stack: ExitStack) -> Work:
    if plan.scenario and plan.program:
        from sim.process.directed_programs import DirectedPrograms

        return DirectedPrograms(plan, deadline_at, stack)
    if plan.scenario:
        from sim.process.director import Director

        return Director(plan, deadline_at, stack)
    return Programs(plan, stack) if plan.program else Jobs(plan, deadline_at, stack)
