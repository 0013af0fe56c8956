"""The server's driver: sockets, a clock and a thread around `rdzv.core.server.ServerCore`.

`Listener` is the loop itself, for whoever has a thread or a process to give; `StoreServer` runs it in a thread of this
process. A thread must wait for the interpreter lock like any other, so a rank that computes hosts its store in a
process of its own: see `rdzv.store.host`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING

from rdzv import net
from rdzv.core.server import Connection, ServerCore
from rdzv.store.base import to_text
from rdzv.store.bound import bound_sockets
from rdzv.store.poller import IN, NEWS, OUT, Poller

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from rdzv.core.wire import Limits

logger = logging.getLogger("rdzv.store")

READ_BYTES = 1 << 16  # larger reads cost more than the rest of a small request
SPIN_S = 50e-6  # how long a few busy clients are awaited without sleeping: about what waking up costs
_SPIN_AFTER = 4  # turns in a row that served but a few before they are awaited so
# So many clients that ask at once are all read before the first is answered: who is woken by his reply may take the
# processor from us, and asks again. With fewer, the first had better go on at once, on another processor.
_CROWD = 5
_ACCEPTS_AT_ONCE = 64  # so that a flood of new clients does not hold up those that are there
_NAMES_MAX = 8  # of clients, in one line of the log
_ACCEPT_PAUSE_S = 0.2  # after a failure, such as too few descriptors, that may pass

_EVENTS_AT_ONCE = 256


class Listener:
    """Serves one store on sockets that listen already, until told to stop. Not thread-safe but for `stop`."""

    def __init__(
        self,
        endpoint: str,
        sockets: Sequence[socket.socket],
        limits: Limits | None = None,
        spin_s: float = 0.0,
        initial: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Take over the sockets; clients are served while `serve` runs.

        Args:
            endpoint: How to call this store in the log.
            sockets: Listening sockets; this object closes them.
            limits: How much the store holds.
            spin_s: For how long to await the next request of a few busy clients without sleeping, in seconds.
            initial: What it holds at first, by key as clients send it.
        """
        self._endpoint = endpoint
        self._core = ServerCore(limits, initial)
        self._poller = Poller()
        self._spin_s = spin_s
        self._streak = 0  # turns in a row that served but a few
        self._listeners = {sock.fileno(): sock for sock in sockets}
        self._clients: dict[int, Connection] = {}
        self._asleep_until: float | None = None  # no accepting before this
        self._is_short = False  # whether not all who want to connect could be accepted, since the log last said so
        self._stop_at: float | None = None  # when to close the clients that are still there
        self._wake_rx, self._wake_tx = socket.socketpair()
        for end in (self._wake_rx, self._wake_tx):
            end.setblocking(False)
        self._poller.register(self._wake_rx, IN)
        for fd, sock in self._listeners.items():
            sock.setblocking(False)
            self._poller.register(fd, IN)

    @property
    def waker(self) -> int:
        """A descriptor that does not block: whatever is written there ends a wait."""
        return self._wake_tx.fileno()

    def stop(self, linger_s: float = 0.0) -> None:
        """End when the last client has gone, or after ``linger_s``. From any thread; if it has ended, nothing happens.

        Until then everything is served as before, new connections too: a client that is still here may need one more.
        """
        self._stop_at = time.monotonic() + linger_s
        with contextlib.suppress(OSError):  # it has ended
            self._wake_tx.send(b"\0")

    def serve(self) -> None:
        """Serve until stopped."""
        try:
            while self._stop_at is None or (self._clients and time.monotonic() < self._stop_at):
                self._turn()
            if self._clients:
                self._turn()  # it does not wait: who left before the stop may not have been noticed yet
            if self._clients:
                names = [connection.name for connection in self._clients.values()]
                more = f" and {len(names) - _NAMES_MAX} more" * (len(names) > _NAMES_MAX)
                left = ", ".join(names[:_NAMES_MAX]) + more
                logger.warning("the store at %s stopped while still connected: %s", self._endpoint, left)
        finally:
            self.close()

    def lacking(self) -> dict[str, list[bytes]]:
        """Which clients wait, as ``host:port``, and for which keys. From any thread; it may be stale in a moment."""
        return {client.name: self._core.lacking(client) for client in self._core.waiting()}

    def close(self) -> None:
        """Close every socket at once; also for a process that was forked and must not hold them."""
        clients = [connection.channel for connection in self._clients.values()]
        for sock in [*self._listeners.values(), *clients, self._wake_rx, self._wake_tx]:
            sock.close()
        self._listeners.clear()
        self._clients.clear()
        self._poller.close()

    # One turn of the loop

    def _turn(self) -> None:
        core, clients = self._core, self._clients
        is_timed = core.deadlines or self._asleep_until is not None or self._stop_at is not None
        events = self._spin() if self._streak >= _SPIN_AFTER else None
        events = events or self._poller.poll(self._timeout_s() if is_timed else None, _EVENTS_AT_ONCE)
        if self._spin_s:
            self._streak = self._streak + 1 if len(events) < _CROWD else 0
        owed: list[tuple[Connection, bytes]] = []
        is_crowd = _CROWD <= len(events) <= _EVENTS_AT_ONCE  # poll tells of all at once, however many
        for fd, event in events:
            connection = clients.get(fd)
            if connection is not None:
                if event & OUT:
                    self._poller.modify(connection.channel, NEWS)
                    self._flush(connection)
                elif reply := self._serve_client(connection, event):
                    if is_crowd and len(reply) < READ_BYTES:  # many large ones must not be held at once
                        owed.append((connection, reply))
                    else:
                        self._send(connection, reply)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake_rx.recv(4096)
        for connection, reply in owed:
            self._send(connection, reply)
        if core.touched:
            self._flush_touched()
        if is_timed:
            self._expire()

    def _spin(self) -> list[tuple[int, int]]:
        """Await the few clients awake: to be woken takes longer, on a processor that has gone to sleep meanwhile.

        They may need this processor to ask, so it is theirs in between. Of many, one has always something already.
        """
        until = time.monotonic() + self._spin_s
        while not (events := self._poller.poll(0, _EVENTS_AT_ONCE)) and time.monotonic() < until:
            os.sched_yield()
        if not events:
            self._streak = 0
        return events

    def _timeout_s(self) -> float:
        """For how long nothing has to be done unless a client wants something; asked only if something is timed."""
        moments = [at for at in (self._core.next_deadline(), self._asleep_until, self._stop_at) if at is not None]
        return min(1e6, max(0.0, min(moments) - time.monotonic()))  # the system counts milliseconds in 31 bits

    def _expire(self) -> None:
        now = time.monotonic()
        deadline_at = self._core.next_deadline()
        if deadline_at is not None and deadline_at <= now:
            self._core.expire(now)
            self._flush_touched()
        if self._asleep_until is not None and self._asleep_until <= now:
            self._asleep_until = None
            for fd in self._listeners:
                self._poller.modify(fd, IN)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                if self._is_short:
                    logger.warning("clients are accepted again")
                    self._is_short = False
                return
            except ConnectionAbortedError:
                return
            except OSError as error:  # no descriptors or memory left, or a failure of the network that accept passes on
                if not self._is_short:
                    logger.warning("cannot accept more clients for now: %s", error.strerror)
                    self._is_short = True
                self._asleep_until = time.monotonic() + _ACCEPT_PAUSE_S
                for fd in self._listeners:
                    self._poller.modify(fd, 0)
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # some systems refuse it on a connection that has ended already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._core.connect(net.join_host_port(*address[:2]), time.monotonic())
            connection.channel = sock
            self._clients[sock.fileno()] = connection
            self._poller.register(sock, NEWS)

    def _serve_client(self, connection: Connection, event: int) -> bytes | None:
        """Read what has come, and carry it out; what is still to be sent, if it is one whole reply. Hot."""
        sock: socket.socket = connection.channel
        try:
            data = sock.recv(READ_BYTES)
            if event != IN or len(data) == READ_BYTES:  # there is more to read: be told again
                self._poller.modify(sock, NEWS)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return None
        reply = self._core.answer(connection, data)
        if reply:
            return reply
        if reply is None:
            self._core.receive_pieces(connection, data)
        if connection.outgoing or connection.closing:
            self._flush(connection)
        elif connection.held_bytes:  # it has begun a request
            self._core.sent(connection, 0, time.monotonic())
        return None

    def _send(self, connection: Connection, reply: bytes) -> None:
        """Send a reply whose turn is before all that is in ``outgoing``. Hot."""
        try:
            count = connection.channel.send(reply)
        except OSError:  # it is told again, if it is more than that there is no room now
            count = 0
        if count < len(reply) and not connection.closing:  # else it was let go of meanwhile, with all it was owed
            connection.outgoing[:0] = reply[count:]
            self._flush(connection)

    def _flush_touched(self) -> None:
        while touched := self._core.take_touched():  # to flush one may wake another
            for connection in touched:
                self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        """Send what the client is owed, and go on with the requests that had to wait for that."""
        sock, outgoing = connection.channel, connection.outgoing
        if sock is None:  # dropped meanwhile
            return
        if outgoing:
            try:
                count = sock.send(outgoing)
            except BlockingIOError:
                count = 0
            except OSError:
                self._drop(connection)
                return
            if count == len(outgoing) and not connection.held_bytes:  # nearly always, and 0.2 microseconds cheaper
                outgoing.clear()
            else:
                self._core.sent(connection, count, time.monotonic())
            if connection.paused and not outgoing:  # the others have their turn before what it asked next is sent
                self._core.receive(connection, b"")
                self._core.sent(connection, 0, time.monotonic())
            if outgoing:
                self._poller.modify(sock, OUT)  # and read no more of it until it has read this
                return
        if connection.closing:
            logger.warning("closed the connection of %s: %s", connection.name, connection.closing)
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        sock, connection.channel = connection.channel, None
        del self._clients[sock.fileno()]
        self._poller.unregister(sock)
        self._core.disconnect(connection)
        sock.close()


class StoreServer:
    """A store's server in a thread of this process.

    It serves from construction until `stop`, or until this object is collected. A forked child does not inherit it.

    Attributes:
        host: The host that it was given.
        local_host: An address at which this machine itself reaches it.
        port: The port that it listens on, never 0.
        endpoint: Both, as ``host:port``.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        listen_fd: int | None = None,
        limits: Limits | None = None,
        timeout_s: float = 30.0,
        initial: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Bind, listen and serve.

        Args:
            host: What to listen on: an address of this machine, ``localhost`` (both loopback addresses), a name, or a
                wildcard by its own name, ``0.0.0.0`` or ``::``.
            port: 0 to 65535; with 0 the system chooses.
            listen_fd: The descriptor of a bound socket to listen on, in place of host and port; it is duplicated, and
                the caller keeps its own.
            limits: How much the store holds.
            timeout_s: For how long the look-up of a name may take, in seconds.
            initial: What the store holds before the first client can ask, by key as clients send it.

        Raises:
            TypeError: The port is no int, or out of range.
            OSError: The address is taken or is not of this machine; the message has it. Or the descriptor is bad.
        """
        self.host = host
        sockets = bound_sockets(host, port, listen_fd, timeout_s)
        self.local_host, self.port = net.local_address(sockets[0])
        self.endpoint = net.join_host_port(host, self.port)
        self._listener = listener = Listener(self.endpoint, sockets, limits, initial=initial)
        self._thread = threading.Thread(target=listener.serve, name="rdzv-store", daemon=True)
        _of_this_process.add(listener)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, listener, self._thread, 0.0)

    def stop(self, linger_s: float = 0.0) -> None:
        """Wait for the clients to leave, serving them as before, then close.

        Args:
            linger_s: For how long to wait for them, in seconds; those left then are cut off, and named in the log.
        """
        if self._finalizer.detach():
            _stop(self._listener, self._thread, linger_s)

    def lacking(self) -> dict[str, list[str]]:
        """The clients that wait at this moment, by their own ``host:port``, and the keys that each of them lacks."""
        return {
            name: [to_text(key.removeprefix(b"/")) for key in keys] for name, keys in self._listener.lacking().items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint} {'up' if self._finalizer.alive else 'stopped'}>"


_of_this_process: weakref.WeakSet[Listener] = weakref.WeakSet()


def _stop(listener: Listener, thread: threading.Thread, linger_s: float) -> None:
    if thread.is_alive():
        listener.stop(linger_s)
        if thread is not threading.current_thread():  # whose garbage collection may have found the server
            thread.join(linger_s + 5.0)


def _close_in_child() -> None:
    """A forked child has the sockets but not the thread: without this, clients would knock at a dead door."""
    for listener in _of_this_process:
        listener.close()
    _of_this_process.clear()


os.register_at_fork(after_in_child=_close_in_child)

# The first finalizer has those of servers that are still up at exit called behind whatever a program registers with
# atexit from now on, which may need its store, and not only behind what it registers once it has one.
weakref.finalize(StoreServer, bool)
