"""The keeper: the process between supervisor and ranks, which forks the ranks and lets nothing outlive the supervisor.

It starts as a fresh interpreter where the supervisor has threads, since a fork copies one of them; in a session of its
own, so that a terminal's Ctrl-C reaches the supervisor alone. It has one thread, has imported all that the ranks need
before it forks the first, and adopts whatever a rank leaves behind. When the supervisor closes its socket, or dies
in whatever way, the keeper ends every process below it, and then itself.

Knows how a rank begins and ends. Must not know when, or why: that is the supervisor's business.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
import traceback
from _signal import pthread_sigmask  # type: ignore[import-not-found]  # without the enums that `signal` makes of sets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from sim.process import boot, descendants, rehearsal
from sim.process.channel import DESCRIPTORS_MAX, Channel
from sim.process.messages import (
    Exited,
    Failed,
    Hung,
    Message,
    NotStarted,
    Scratch,
    Signal,
    Signalled,
    StartActor,
    Started,
    StartJob,
    StartProgram,
)
from sim.process.program import asked_for_stack, asked_to_end, become
from sim.process.rank import handler_of, run_job
from sim.process.stacks import keys_of_frame, of_frame

if TYPE_CHECKING:
    from types import FrameType

TERM_GRACE_S = 0.5  # from SIGTERM on: nothing may be alive a second after the supervisor has gone
STACK_GRACE_S = 0.2  # for a rank that has not heeded that to write its stack, before SIGKILL
KILL_TIMEOUT_S = 30.0  # after which a process that cannot be killed is given up
_ORDERS_MAX = 64  # taken in at once, with the descriptors of each, as far as it may open so many
_SPARE = 16  # open files beside those
_ASKS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (signal.SIGCHLD, *_ASKS_TO_END)
_STATUS_NOT_EXECUTED = 126  # what a shell gives
_Call: TypeAlias = tuple[Callable[..., Any], tuple[object, ...]]
Start: TypeAlias = StartJob | StartProgram | StartActor
_FAILURE_CHARS_MAX = 10_000  # of a traceback, which must fit a packet; the end of it says most


def main(channel_fd: str, lifeline: str) -> NoReturn:
    """Be the keeper, until the supervisor has had enough.

    Args:
        channel_fd: The inherited descriptor of the channel to the supervisor.
        lifeline: The inherited descriptor of the supervisor's process.
    """
    descendants.adopt_orphans()
    keeper = Keeper(Channel.of(int(channel_fd)), int(lifeline))
    try:
        keeper.serve()
    finally:
        keeper.end_all()
        if keeper.scratch:
            import shutil

            shutil.rmtree(keeper.scratch, ignore_errors=True)
    os._exit(0)


class _Order(NamedTuple):
    """What the supervisor asks for, and, if that is a rank, what it will need first.

    That is made before any rank of a batch is forked, once: in a fork, to make it would copy the memory of all that
    makes it.

    Attributes:
        message: What to do; ``None`` for nothing any more.
        fds: The descriptors that came with it; a rank's channel is on the first.
        channel: A rank's.
        task: What a rank does; it returns the rank's exit status, if that is not 0.
        first_calls: What a rank calls before.
    """

    message: Message | None
    fds: list[int]
    channel: Channel | None = None
    task: _Call = (int, ())
    first_calls: tuple[_Call, ...] = ()

    def close(self) -> None:
        """Close the descriptors here."""
        if self.channel:
            self.channel.close()
        for fd in self.fds[1:]:
            os.close(fd)


class Keeper:
    """Forks ranks when asked to, reports their ends, and ends what is left.

    Attributes:
        scratch: A directory to remove in the end; empty for none.
    """

    scratch = ""

    def __init__(self, channel: Channel, lifeline: int) -> None:
        """Take over this process's signals.

        Args:
            channel: To the supervisor.
            lifeline: A descriptor of the supervisor's process. The channel alone may not tell of its death: what the
                supervisor has forked may hold the other end open.
        """
        self._channel = channel
        self._lifeline = lifeline
        self._pid = os.getpid()
        # Ranks inherit the limit on open files, which is the caller's: so it stays as it is, however low.
        most = os.sysconf("SC_OPEN_MAX")
        self._orders_max = _ORDERS_MAX if most < 0 else min(_ORDERS_MAX, max(1, (most - _SPARE) // DESCRIPTORS_MAX))
        self._ranks: dict[int, int] = {}  # by pid; only processes that have not been waited for
        # What every fork calls first, with its arguments; see `_first_calls`.
        self._calls: tuple[_Call, ...] = (
            descendants.death_with_parent(),
            (signal.set_wakeup_fd, (-1,)),  # that one is ours
            (pthread_sigmask, (signal.SIG_UNBLOCK, _ASKS_TO_END)),
            (os.setsid, ()),  # so that a rank which signals its process group does not end the others
        )
        self._talkative: set[int] = set()  # of these, those that have something to say on SIGABRT, too
        self._confidant: Channel | None = None  # in a rank of ours: whom it tells where it is when it has to end
        self._wake_rx, self._wake_tx = os.pipe()
        for fd in (channel.fileno(), self._wake_rx, self._wake_tx):
            os.set_blocking(fd, False)
        # The interpreter writes there itself, since it calls a handler too late where a wait is just about to begin.
        signal.set_wakeup_fd(self._wake_tx, warn_on_full_buffer=False)
        for signum in _HANDLED:
            signal.signal(signum, self._end_rank)
        pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)  # who started the supervisor may have blocked them

    def serve(self) -> None:
        """Do as told, until the supervisor is gone or says so, or a signal does."""
        poller = select.poll()
        poller.register(self._lifeline, select.POLLIN)
        poller.register(self._wake_rx, select.POLLIN)
        while True:
            poller.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.backlog else 0))
            ready = dict(poller.poll())
            if self._wake_rx in ready and not self._on_signals():
                return
            events = ready.get(self._channel.fileno(), 0)
            if events & select.POLLOUT:
                self._tell()
            if events & ~select.POLLOUT and not self._on_messages():
                return
            if self._lifeline in ready:  # but not before it has heard what it is to remove
                return

    def end_all(self) -> None:
        """Ask the ranks to end, and where they are, wait a moment, and then kill everything below this process."""
        for signal_for, grace_s in ((asked_to_end, TERM_GRACE_S), (asked_for_stack, STACK_GRACE_S)):
            for pid in self._ranks:
                number = signal_for(pid) if pid in self._talkative else signal.SIGTERM
                with contextlib.suppress(PermissionError):  # it became another user's
                    os.kill(pid, number)
            deadline_at = time.monotonic() + grace_s
            while self._ranks and (left_s := deadline_at - time.monotonic()) > 0:
                if select.select([self._wake_rx], [], [], left_s)[0]:
                    self._on_signals()
        descendants.kill_all(KILL_TIMEOUT_S, self._on_ended)

    def _on_messages(self) -> bool:
        """Do what the supervisor asks for; whether there is a supervisor that can ask for more.

        Several messages are taken at once, since every page of memory that is written after a fork has to be copied
        first: what is done between two forks is dear.
        """
        orders: list[_Order] = []
        with contextlib.suppress(BlockingIOError):
            while len(orders) < self._orders_max and (not orders or orders[-1].message):
                orders.append(self._order(*self._channel.receive_with_fds()))
        self._start([order for order in orders if order.channel])
        return all(self._obey(order.message) for order in orders if not order.channel)

    def _order(self, message: Message | None, fds: list[int]) -> _Order:
        """What the supervisor asks for, with all that can be made ready for it."""
        if not isinstance(message, Start):
            return _Order(message, fds)
        if isinstance(message, StartJob) and message.world_size >= rehearsal.WORTH_IT_FROM:
            boot.load_what_failures_need()
            rehearsal.rehearse(self._play)
        channel = Channel.of(fds[0])
        return _Order(message, fds, channel, _task_of(message, channel, *fds[1:]))

    def _obey(self, message: Message | None) -> bool:
        """Do something else than to start a rank; whether there was anything to do."""
        if isinstance(message, Scratch):
            self.scratch = message.directory
        elif isinstance(message, Signal):
            self._signal(message)
        return message is not None

    def _end_rank(self, signum: int, frame: FrameType | None) -> None:
        """In a rank, do what it would do without this handler; the keeper's own loop sees to its signals.

        A rank keeps these handlers, which a program loses when it is executed: to put each back took as long as to
        connect to the store. On SIGTERM a rank of ours says where it is before it ends.
        """
        if os.getpid() == self._pid or signum == signal.SIGCHLD:
            return
        if signum == signal.SIGTERM and self._confidant:
            with contextlib.suppress(OSError):
                stack = of_frame(frame)[:_FAILURE_CHARS_MAX]  # the innermost first
                self._confidant.send_past(Hung(stack, tuple(keys_of_frame(frame))))
        _end_of(signum)

    def _on_signals(self) -> bool:
        """Reap what has ended; whether no signal asks this process to end."""
        signums = os.read(self._wake_rx, 4096)
        with contextlib.suppress(ChildProcessError):
            for pid, status in descendants.reap():
                self._on_ended(pid, status)
        asked = set(signums) - {signal.SIGCHLD}
        if asked:  # before a rank ends of it, which would look as if it had failed by itself
            self._tell(Failed(f"the keeper process was asked to end by {signal.Signals(min(asked)).name}"))
        return not asked

    def _on_ended(self, pid: int, status: int) -> None:
        rank = self._ranks.pop(pid, None)
        if rank is not None:  # and not one of the orphans
            self._tell(Exited(rank, pid, status, time.monotonic()))

    def _tell(self, *messages: Message) -> None:
        """Send to the supervisor what it will take now."""
        with contextlib.suppress(ConnectionError):  # it is gone, which `serve` finds out
            for message in messages:
                self._channel.send(message)
            self._channel.flush()

    def _signal(self, message: Signal) -> None:
        """Only here is it certain that the number is still that of the rank: nobody else reaps it.

        The signal is for all of its group: what it has started stops, and goes, as it would on a machine of its own.
        """
        for pid, rank in self._ranks.items():
            if rank == message.rank:
                with contextlib.suppress(PermissionError):  # it became another user's
                    try:
                        os.killpg(pid, message.number)
                    except ProcessLookupError:  # it has not come so far as to have a group
                        os.kill(pid, message.number)
        self._tell(Signalled(message.rank))

    def _first_calls(self, fds: list[int], fds_end: int) -> tuple[_Call, ...]:
        """What a fork with these descriptors calls first.

        Made for all ranks of a batch before the first is forked: what a fork looks up, and what it has not called
        before, lies in memory that it has to copy.

        Args:
            fds: The rank's own.
            fds_end: No descriptor that is open then is as high as this.
        """
        # What is open and not this rank's is the others', or ours.
        return (*self._calls, *((os.closerange, gap) for gap in boot.gaps(fds, fds_end)))

    def _keep(self, pid: int, order: _Order) -> None:
        """Take a new rank into the books."""
        assert isinstance(order.message, Start)
        self._ranks[pid] = order.message.rank
        if isinstance(order.message, StartActor) or (
            isinstance(order.message, StartProgram) and order.message.says_where
        ):
            self._talkative.add(pid)

    def _refuse(self, order: _Order, error: OSError) -> None:
        assert isinstance(order.message, Start)
        self._tell(NotStarted(order.message.rank, f"the machine refuses another process: {error.strerror}"))

    def _start(self, orders: list[_Order]) -> None:
        """Fork a rank for each of these orders.

        There is next to nothing between two forks, and what a rank does first is rehearsed: what is written for the
        first time after a fork lies on pages that have to be copied.
        """
        ours = (self._channel.fileno(), self._lifeline, self._wake_rx, self._wake_tx)
        fds_end = 1 + max(*ours, *(fd for order in orders for fd in order.fds))
        ready = [order._replace(first_calls=self._first_calls(order.fds, fds_end)) for order in orders]
        forked: list[tuple[int, _Order]] = []
        run, keeper_pid, status = self._run, self._pid, 1  # looked up here, and not in each fork
        gc.freeze()  # the collector would touch, and so copy, every page in every rank
        # Python forgets the signals that come before it knows that it was forked; this one must not be lost.
        pthread_sigmask(signal.SIG_BLOCK, _ASKS_TO_END)
        try:
            for order in ready:
                try:
                    pid = os.fork()
                except OSError as error:
                    self._refuse(order, error)
                    continue
                if pid == 0:
                    try:
                        status = run(order, keeper_pid)
                    finally:  # and never go on as a keeper
                        os._exit(status)
                forked.append((pid, order))
        finally:
            pthread_sigmask(signal.SIG_UNBLOCK, _ASKS_TO_END)
            for pid, order in forked:
                self._keep(pid, order)
            for order in orders:
                order.close()

    def _run(self, order: _Order, parent_pid: int) -> int:
        """Be the rank that an order describes, and return its exit status; the supervisor is told why if it fails."""
        for call, arguments in order.first_calls:
            call(*arguments)
        if os.getppid() != parent_pid:  # nobody would see that this process ends
            return 1
        channel = self._confidant = order.channel
        task, arguments = order.task
        try:
            return task(*arguments) or 0
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the rank's last word
            assert channel
            text = traceback.format_exc()[-_FAILURE_CHARS_MAX:]
            channel.send(Failed(text, type(error).__name__, tuple(getattr(error, "missing", ()))))
            return 1

    def _play(self, job: StartJob, channel: Channel, *fds: int) -> int:
        """Be a rank of a rehearsal, in this process; its exit status."""
        order = _Order(job, [], channel, _task_of(job, channel, *fds), ((os.getpid, ()),))
        try:
            return self._run(order, os.getppid())
        finally:
            self._confidant = None


def _task_of(start: Start, channel: Channel, *fds: int) -> _Call:
    """What a rank does that is started so, with all loaded and made that it will need first."""
    if isinstance(start, StartJob):
        return run_job, (start, channel, handler_of(start, *fds), *fds)
    if isinstance(start, StartProgram):
        boot.load_what_programs_need()
        return _be_program, (start, channel, *fds)
    from sim.process.actor import perform

    boot.load_what_failures_need()
    return perform, (start, channel, *fds)


def _be_program(start: StartProgram, channel: Channel, *fds: int) -> int:
    channel.send(Started(os.getpid(), time.monotonic()))
    channel.send(Failed(become(start, *fds)))
    return _STATUS_NOT_EXECUTED


def _end_of(signum: int) -> None:
    """End of a signal, as without a handler for it."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
