"""One client of a server, for all threads of a process: one connection for commands, and one for each wait.

The end of a wait is one byte that could be the start of any other reply, so nothing else may be asked on a connection
that waits. Commands go over one connection, which threads take in turn. A wait takes that very connection if no other
is idle, so a process with one thread needs no second one; whoever wants to ask something meanwhile gets another.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from rdzv import net
from rdzv.core import wire
from rdzv.core.effects import Effect
from rdzv.errors import DistNetworkError, StoreTimeoutError
from rdzv.store.connection import Connection, connect, only_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.effects import Flow
    from rdzv.core.wire import Reply, Request
    from rdzv.store.connection import Flag

Result = TypeVar("Result")

_NO_WAITING = (False,)
ANSWER_S = 1.0  # how long the server may take at least to answer what it need not wait for, however short a timeout


class StoreClient:
    """A client of the store's server at one address.

    After a fork, the child's object lets go of the parent's connections, and connects anew when it is first used.

    Attributes:
        host: Whom to reach.
        port: The server's port.
        endpoint: Both, as ``host:port``.
        spin: As it was given.
    """

    def __init__(self, host: str, port: int, timeout_s: float, *, spin: bool = True, give_up: Flag = None) -> None:
        """Connect, trying again until the server is there.

        Args:
            host: Whom to reach: a name, or an address without brackets.
            port: 1 to 65535.
            timeout_s: For how long to try, in seconds.
            spin: Whether to await replies awake at first, as `rdzv.store.connection.connect` says.
            give_up: Whether to stop trying, as it says there, too.

        Raises:
            ConnectTimeoutError: No store answered in time.
        """
        self.host, self.port, self.spin = host, port, spin
        self.endpoint = net.join_host_port(host, port)
        self._lock = threading.Lock()  # whoever has it uses the connection for commands
        self._commands: Connection | None = connect(host, port, timeout_s, spin=spin, give_up=give_up)
        self._idle: list[Connection] = []  # neither for commands nor waited on now
        self._waiting: set[Connection] = set()
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
        lock = self._take_lock(deadline_at)
        try:
            return (self._commands or self._for_commands(deadline_at)).ask(requests, deadline_at)
        finally:
            lock.release()

    def ask_one(self, request: Request, timeout_s: float) -> Any:
        """Send one request, and return the number or the value that is its whole reply; ``None`` of a write. Hot.

        Raises what `ask` does.

        Args:
            request: One with such a reply, for which nobody has to be waited for; or a write of one key.
            timeout_s: For how long to wait, but `ANSWER_S` at least, in seconds.
        """
        if timeout_s < ANSWER_S:
            timeout_s = ANSWER_S
        lock = self._lock
        (is_ours,) = map(lock.acquire, _NO_WAITING)  # as `_take_lock` does, which says why
        if not is_ours:
            return only_reply(self.ask((request,), time.monotonic() + timeout_s))
        try:
            if self._commands is None:
                deadline_at = time.monotonic() + timeout_s
                return only_reply(self._for_commands(deadline_at).ask((request,), deadline_at))
            return self._commands.ask_one(request, timeout_s)
        finally:
            lock.release()

    def wait(
        self,
        request: Request,
        wait_until: float,
        deadline_at: float | None = None,
        then: Sequence[Request] = (),
    ) -> list[Reply] | None:
        """Send a WAIT or a BARRIER; ``None`` if it was not met until then. Holds up no other thread.

        Args:
            request: The WAIT or BARRIER.
            wait_until: Until when to wait, on the clock of `time.monotonic`, in seconds.
            deadline_at: Until when the server must have confirmed that the wait is cancelled; by default, 1 s later.
                Until then it also must be connected to, if no connection is idle.
            then: What to ask over the same connection if the wait was met; the replies are what is returned.

        Raises:
            DistStoreError: The request passes a limit of the protocol; nothing was sent.
            DistNetworkError: The server is gone or silent.
        """
        if deadline_at is None:
            deadline_at = max(wait_until, time.monotonic()) + ANSWER_S
        connection, commands = self._borrow(deadline_at)
        try:
            if not connection.wait(request, wait_until, deadline_at):
                return None
            return connection.ask(then, max(deadline_at, time.monotonic() + ANSWER_S)) if then else []
        except DistNetworkError:
            self._lost = connection.lost
            if connection is commands and self._commands is None:
                self._commands = connection  # lost for good: who asks next is told why
            raise
        finally:
            self._give_back(connection)

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

    def close(self) -> None:
        """Close every connection, and end the waits of other threads; the object cannot be used any more."""
        self._closed = True
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

    def _take_lock(self, deadline_at: float) -> threading.Lock:
        """Take the lock; to be followed by the ``try`` that gives it back, with nothing in between.

        It is returned, since it is another one by then in a child that a signal's handler has forked in between.
        An exception of such a handler must not come between the two, or the lock would never be free again. It may come
        behind any call; so the lock is taken by none, but by the unpacking of an iterator, which none can follow.
        """
        lock = self._lock
        (is_ours,) = map(lock.acquire, _NO_WAITING)  # mostly it is free, and then nobody needs the time
        if not is_ours:
            (is_ours,) = map(lock.acquire, (True,), (max(0.0, deadline_at - time.monotonic()),))
        if not is_ours:
            raise StoreTimeoutError("other threads of this process kept the connection busy", endpoint=self.endpoint)
        return lock

    def _for_commands(self, deadline_at: float) -> Connection:
        """The connection for commands; to be called by who has the lock."""
        if self._commands is None:
            self._commands = self._idle.pop() if self._idle else self._connect(deadline_at)
        return self._commands

    def _borrow(self, deadline_at: float) -> tuple[Connection, Connection]:
        """A connection to wait on, over which no earlier write of this client is on its way; and that for commands."""
        lock = self._take_lock(deadline_at)
        try:
            commands = self._for_commands(deadline_at)
            if commands.unconfirmed:
                commands.ask([(wire.PING, 0)], deadline_at)
            connection = self._idle.pop() if self._idle else commands
            self._waiting.add(connection)
            if connection is commands:
                self._commands = None
        finally:
            lock.release()
        if self._closed:
            connection.shut_down()  # `close` may have come in between
        return connection, commands

    def _give_back(self, connection: Connection) -> None:
        self._waiting.discard(connection)
        if connection.lost:
            connection.close()  # `close` may have come while the wait was met, and only shuts down
        else:
            self._idle.append(connection)
        if self._closed:
            self._let_go()

    def _let_go(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._commands:
            self._commands.close()

    def _after_fork(self) -> None:
        """In a forked child: the replies on the parent's connections are not ours, nor is the state of its lock."""
        self._lock = threading.Lock()
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
