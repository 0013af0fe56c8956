"""One client of a server, for all threads of a process: one connection for commands, and one for each wait.

The end of a wait is one byte that could be the start of any other reply, so nothing else may be asked on a connection
that waits. Commands go over one connection, which threads take in turn. A wait takes that very connection if no other
is idle, so a process with one thread needs no second one; whoever wants to ask something meanwhile gets another.

Turns are taken in two ways. Who asks enters the connection's `conversation`, which has room for one thread. Who finds
another thread in there takes the lock. So does who waits, and ends the conversation first.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from rdzv import net
from rdzv.core import wire
from rdzv.core.effects import Effect
from rdzv.errors import DistNetworkError, StoreTimeoutError, is_from_within
from rdzv.store.arrival import connect
from rdzv.store.base import shown_keys, to_text
from rdzv.store.connection import ANSWER_S, TOGETHER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdzv.core.effects import Flow
    from rdzv.core.wire import Reply, Request
    from rdzv.store.arrival import Flag
    from rdzv.store.connection import Connection, Conversation


Result = TypeVar("Result")

_LEAVING_S_MIN, _LEAVING_S_MAX = 50e-6, 5e-3  # between two looks whether a thread has left a conversation
_LEFT_S = 0.1  # by then it has, once its connection was shut down
_CALM_MIN = 100  # times in a row that no thread waited for another, before threads need not take turns again
_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()  # without, a generator may be entered by two threads


def _end(conversation: Conversation) -> bool:
    """End it, if it has not ended; false if a thread is in the middle of it.

    Not by its method for that, which may crash Python 3.11 if it is not suspended; it is asked nothing instead.
    """
    try:
        next(conversation, None)
    except ValueError as error:
        if is_from_within(error):
            raise
        return False
    return True


def _ended() -> Conversation:
    return
    yield


def _tell_of_wait(error: DistNetworkError, request: Request, began_at: float) -> None:
    """Have an error say what was waited for, and for how long, when the connection was lost."""
    op, *fields = request
    awaited = fields[0] if isinstance(fields[0], list) else fields
    names = [name.removeprefix(b"/") for name in awaited if isinstance(name, bytes)]
    waited_s = time.monotonic() - began_at
    error.args = (f"{error}; waited {waited_s:.1f} s, keys: {shown_keys(names)}",)
    error.keys, error.waited_s = tuple(map(to_text, names)), waited_s
    if op == wire.WAIT:  # which changes nothing; an arrival at a barrier may count
        error.applied = "no"


_ENDED = _ended()  # a conversation that is over
next(_ENDED, None)


class StoreClient:
    """A client of the store's server at one address.

    After a fork, the child's object lets go of the parent's connections, and connects anew when it is first used.

    Attributes:
        host: Whom to reach.
        port: The server's port.
        endpoint: Both, as ``host:port``.
        spin: As it was given.
        talk: A conversation over the connection for commands. Who enters it must be ready to find another thread in it
            (ValueError) or that it has ended (StopIteration); `ask_one` is.
    """

    def __init__(self, host: str, port: int, timeout_s: float, *, spin: bool = True, give_up: Flag = None) -> None:
        """Connect, trying again until the server is there.

        Args:
            host: Whom to reach: a name, or an address without brackets.
            port: 1 to 65535.
            timeout_s: For how long to try, in seconds.
            spin: Whether to await replies awake at first, as `rdzv.store.arrival.connect` says.
            give_up: Whether to stop trying, as it says there, too.

        Raises:
            ConnectTimeoutError: No store answered in time.
        """
        self.host, self.port, self.spin = host, port, spin
        self.endpoint = net.join_host_port(host, port)
        self._lock = threading.Lock()  # who has it has its turn at the connection for commands
        connection = connect(host, port, timeout_s, spin=spin, give_up=give_up)
        self._commands: Connection | None = connection
        self._idle: list[Connection] = []  # neither for commands nor waited on now
        self._waiting: set[Connection] = set()
        self._begin(connection)
        self.talk = self._conversation if _HAS_GIL else _ENDED
        self._calm = _CALM_MIN  # how often in a row no thread has waited for another
        self._timeout_s = max(timeout_s, ANSWER_S)
        self._closed = False
        self._lost = ""
        _of_this_process.add(self)

    def __repr__(self) -> str:
        return f"TCPClient({self._commands or self.endpoint})"

    @property
    def unconfirmed(self) -> int:
        """How many writes have been sent for which no later reply has come yet."""
        return self._commands.unconfirmed if self._commands else 0

    def ask(self, requests: Sequence[Request], deadline_at: float) -> list[Reply]:
        """Send requests together, and return the replies of those that have one.

        Raises:
            StoreTimeoutError: Other threads kept the connection busy; nothing was sent.
            DistStoreError: A request passes a limit of the protocol; nothing was sent.
            DistNetworkError: The server is gone or silent, or was before.
        """
        request = (TOGETHER, requests, deadline_at)
        try:
            return self.talk.send(request)  # type: ignore[no-any-return]
        except (ValueError, StopIteration) as error:
            if is_from_within(error):
                raise
        return self._in_turn(deadline_at, self._talk_alone, request)

    def ask_one(self, request: Request) -> Any:
        """Send one request, and return its reply, as `rdzv.core.client.only_reply` does. Hot.

        Raises what `ask` does, within the time of `set_timeout`, and as much again if other threads go first.

        Args:
            request: One for which nobody has to be waited for, and whose reply is one number or value, or only values;
                or a write of one key.
        """
        try:
            return self.talk.send(request)
        except (ValueError, StopIteration) as error:
            if is_from_within(error):
                raise
        return self._in_turn(time.monotonic() + self._timeout_s, self._talk_alone, request)

    def set_timeout(self, timeout_s: float) -> None:
        """For how long `ask_one` waits, but `ANSWER_S` at least, in seconds."""
        self._timeout_s = max(timeout_s, ANSWER_S)
        if commands := self._commands:  # which another thread may borrow meanwhile
            commands.timeout_s = self._timeout_s

    def wait(
        self,
        request: Request,
        wait_until: float,
        deadline_at: float | None = None,
        then: Sequence[Request] = (),
        began_at: float | None = None,
    ) -> list[Reply] | None:
        """Send a WAIT or a BARRIER; ``None`` if it was not met until then. Holds up no other thread.

        Args:
            request: The WAIT or BARRIER.
            wait_until: Until when to wait, on the clock of `time.monotonic`, in seconds.
            deadline_at: Until when the server must have confirmed that the wait is cancelled; by default, 1 s later.
                Until then it also must be connected to, if no connection is idle.
            then: What to ask if the wait was met; the replies are what is returned.
            began_at: Since when the caller waits, on that clock, if that is not now.

        Raises:
            DistStoreError: The request passes a limit of the protocol; nothing was sent.
            DistNetworkError: The server is gone or silent; of what was waited for, the error has keys and time.
        """
        began_at = time.monotonic() if began_at is None else began_at
        if deadline_at is None:
            deadline_at = max(wait_until, time.monotonic()) + ANSWER_S
        lent: list[Connection] = []  # it is given back even if a handler's exception comes before it is used
        try:
            commands = self._in_turn(deadline_at, self._borrow, lent)
            (connection,) = lent
            if self._closed:
                connection.shut_down()  # `close` may have come in between
            try:
                is_met = connection.wait(request, wait_until, deadline_at)
            except DistNetworkError as error:
                _tell_of_wait(error, request, began_at)
                if connection in self._waiting:  # else a handler has forked, and its child may connect anew
                    self._lost = connection.lost
                    if connection is commands and self._commands is None:
                        self._commands = connection  # lost for good: who asks next is told why
                raise
        finally:
            for connection in lent:
                self._give_back(connection)
        if not is_met:
            return None
        return self.ask(then, max(deadline_at, time.monotonic() + ANSWER_S)) if then else []

    def run(self, flow: Flow[Result]) -> Result:
        """Carry out a procedure of the core: its requests on this client, its time on this clock; its result."""
        effect = next(flow)
        while True:
            assert isinstance(effect, Effect), f"a store alone cannot do this: {effect!r}"
            if effect.wait_until is None:
                replies = self.ask(effect.requests, effect.deadline_at)
            else:
                met = self.wait(effect.requests[0], effect.wait_until, effect.deadline_at)
                replies = [[0 if met is None else 1]]
            try:
                effect = flow.send((replies, time.monotonic()))
            except StopIteration as stop:
                result: Result = stop.value
                return result

    @property
    def lost(self) -> str:
        """Why one of the connections cannot be used any more; empty while all can."""
        return self._lost or (self._commands.lost if self._commands else "")

    def has_ended(self) -> bool:
        """Whether one of the connections is lost, also if no call has met with that yet."""
        commands = self._commands
        return bool(self.lost) or (commands is not None and commands.has_ended())

    def close(self) -> None:
        """Close every connection, and end the calls of other threads; the object cannot be used any more."""
        self._closed, self.talk = True, _ENDED
        _of_this_process.discard(self)
        for connection in [*self._waiting, *([self._commands] if self._commands else [])]:
            connection.shut_down()
        self._let_go()

    def _connect(self, deadline_at: float) -> Connection:
        if self._closed:
            raise DistNetworkError(f"this client of {self.endpoint} is closed", endpoint=self.endpoint)
        beside = self._commands or next(iter(self._waiting), None)
        timeout_s = max(0.0, deadline_at - time.monotonic())
        return connect(self.host, self.port, timeout_s, beside, spin=self.spin)

    def _in_turn(self, deadline_at: float, does: Callable[..., Result], *told: object) -> Result:
        """Do what needs the connection for commands, while no other thread does; what it returns.

        It is told the deadline, and what else there is to tell. No closure: to make one costs a fresh process more
        than to call it.

        An exception of a signal's handler must not come between the taking of the lock and the ``try``, or it would
        never be free again. It may come behind any call; so the lock is taken by none, but by the unpacking of an
        iterator, which none can follow. In a child that such a handler forks, the lock is another one by then.
        """
        lock = self._lock
        (is_ours,) = map(lock.acquire, (False,))  # mostly it is free, and then nobody needs the time
        was_free = is_ours
        if not is_ours:
            (is_ours,) = map(lock.acquire, (True,), (max(0.0, deadline_at - time.monotonic()),))
        if not is_ours:
            raise self._busy()
        try:
            self._calm = self._calm + 1 if was_free else 0
            result = does(deadline_at, *told)
            if self._conversation is _ENDED and self._commands:
                with contextlib.suppress(DistNetworkError):  # it was closed meanwhile
                    self._begin(self._commands)
            return result
        finally:
            if self._calm >= _CALM_MIN and not self._closed and _HAS_GIL:
                self.talk = self._conversation
            lock.release()
            if self._closed:
                self._let_go()

    def _talk_alone(self, deadline_at: float, request: tuple[Any, ...]) -> Any:
        """Ask in the conversation, as `ask_one`; to be called in turn."""
        pause_s = 0.0
        while True:
            try:
                return self._conversation.send(request)
            except StopIteration as error:
                if is_from_within(error):
                    raise
                self._begin(self._connected(deadline_at))
            except ValueError as error:
                if is_from_within(error):
                    raise
                pause_s = self._wait_for_leaving(pause_s, deadline_at)

    def _begin(self, commands: Connection) -> None:
        conversation = commands.conversation()
        next(conversation)  # before a signal's handler can leave it to others
        self._conversation = conversation

    def _commands_alone(self, deadline_at: float) -> Connection:
        """The connection for commands, over which no conversation goes on any more; to be called in turn."""
        pause_s = 0.0
        while not _end(self._conversation):
            pause_s = self._wait_for_leaving(pause_s, deadline_at)
        self.talk = self._conversation = _ENDED
        return self._connected(deadline_at)

    def _wait_for_leaving(self, pause_s: float, deadline_at: float) -> float:
        """Let no thread into the conversation, and wait a bit for the one that is in it; how long to wait next."""
        self.talk, self._calm = _ENDED, 0
        if time.monotonic() > deadline_at:
            raise self._busy()
        time.sleep(pause_s)  # and no event: to tell of one would cost each call what a conversation saves
        return min(_LEAVING_S_MAX, 1.5 * pause_s + _LEAVING_S_MIN)

    def _connected(self, deadline_at: float) -> Connection:
        if self._commands is None:
            self._commands = self._idle.pop() if self._idle else self._connect(deadline_at)
            if self._closed:
                self._commands.shut_down()  # `close` may have come in between
        self._commands.timeout_s = self._timeout_s
        return self._commands

    def _busy(self) -> StoreTimeoutError:
        return StoreTimeoutError("other threads of this process kept the connection busy", endpoint=self.endpoint)

    def _borrow(self, deadline_at: float, lent: list[Connection]) -> Connection:
        """Lend a connection to wait on, over which no earlier write of this client is on its way; that for commands.

        To be called in turn.
        """
        commands = self._commands_alone(deadline_at)
        if commands.unconfirmed:  # to be asked only here: until then other threads may write, and past their turn
            self._talk_alone(deadline_at, (TOGETHER, [(wire.PING, 0)], deadline_at))
            commands = self._commands_alone(deadline_at)
        connection = self._idle.pop() if self._idle else commands
        self._waiting.add(connection)  # first, so that a child that a handler forks lets go of it
        if connection is commands:
            self._commands = None
        lent.append(connection)
        return commands

    def _give_back(self, connection: Connection) -> None:
        self._waiting.discard(connection)
        if connection.lost:
            connection.close()  # `close` may have come while the wait was met, and only shuts down
        else:
            self._idle.append(connection)
            if self._commands is None:  # then it is that for commands again, unless others are about to see to one
                with contextlib.suppress(StoreTimeoutError, DistNetworkError):
                    self._in_turn(0.0, self._connected)
        if self._closed:
            self._let_go()

    def _let_go(self) -> None:
        """Close the connections that no thread uses; whoever uses one comes here when it is done."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        lock = self._lock
        (is_ours,) = map(lock.acquire, (False,))
        if is_ours:
            try:
                if self._commands:
                    # Who is in a conversation leaves at once, since its connection is shut down; but it does not come
                    # here. Unless it is this very thread, in whose call a signal's handler closes.
                    with contextlib.suppress(StoreTimeoutError):
                        self._commands_alone(time.monotonic() + _LEFT_S).close()
            finally:
                lock.release()

    def _after_fork(self) -> None:
        """In a forked child: the replies on the parent's connections are not ours, nor is the state of its lock."""
        self._lock = threading.Lock()
        self.talk = self._conversation = _ENDED
        for connection in self._waiting:
            connection.close()
        self._waiting = set()
        self._let_go()
        self._commands, self._lost = None, ""


_of_this_process: weakref.WeakSet[StoreClient] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for client in list(_of_this_process):
        client._after_fork()  # noqa: SLF001


os.register_at_fork(after_in_child=_let_go_in_child)
