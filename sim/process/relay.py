"""A rank's way to the store: a relay on the loopback address, which can be slow, cut, deaf, or worse.

It lives in the supervisor's loop and has no thread. Each connection has two flows, ``up`` from the rank to the store
and ``down`` from the store to the rank. Must not know what the bytes mean, nor who asks for the trouble.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Protocol

from sim.process.work import HOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.faults.fault import Fault

READ_BYTES = 1 << 16
QUEUE_BYTES_MAX = 1 << 20  # of a flow; who sends more has to wait
_RESET = struct.pack("ii", 1, 0)  # close at once, with a reset


class Loop(Protocol):
    """Where a relay lives."""

    selector: selectors.BaseSelector

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later."""


class Relay:
    """The way of one rank, which it takes for the store itself.

    Attributes:
        port: Where the rank connects to.
        struck: What it suffers from, in order; for `sim.faults.links`.
        delay_s: How long everything takes longer, in seconds, each way.
        jitter_s: How much longer than that it may take; nothing overtakes.
        bytes_per_s: How much passes, each way; 0 for as much as comes.
        cut: Which flows stand still.
        is_mute: Whether what the rank sends is lost, so that nothing comes back.
        spoil: What becomes of the next bytes of a flow: ``truncate`` or ``garble``, by the flow's name.
    """

    def __init__(self, loop: Loop, store_port: int, seed: str) -> None:
        self.loop, self.store_port = loop, store_port
        self.struck: list[Fault] = []
        self.delay_s = self.jitter_s = self.bytes_per_s = 0.0
        self.cut: set[str] = set()
        self.is_mute = False
        self.spoil: dict[str, str] = {}
        self.random = Random(seed)  # noqa: S311 -- a seed is the point
        self.connections: list[Connection] = []
        self.port = 0
        self._listener: socket.socket | None = None
        self.admit()

    def admit(self) -> None:
        """Let the rank connect, at the same port as ever."""
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=64)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self.loop.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def refuse(self) -> None:
        """Refuse new connections."""
        if self._listener is not None:
            self.loop.selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def lose(self, count: int | None = None) -> None:
        """Reset the oldest connections, so many; all if no number is given."""
        for connection in self.connections[:count]:
            connection.reset()

    def take_in(self) -> None:
        """Take what the rank has sent by now, before anything happens that is to strike only what comes after it."""
        for connection in list(self.connections):
            connection.take_in()

    def change(self) -> None:
        """Conditions have changed: what stood still may go on, or the other way round."""
        for connection in list(self.connections):
            connection.update()

    def clients(self) -> list[str]:
        """What the store knows the rank's connections as: each as ``host:port``."""
        return [connection.client for connection in self.connections]

    def close(self) -> None:
        """End it."""
        self.refuse()
        self.lose()

    def _accept(self, _: int) -> None:
        if self._listener is None:  # closed since, by what came first in this turn of the loop
            return
        with suppress(BlockingIOError, ConnectionError):
            near, _address = self._listener.accept()
            try:
                far = socket.create_connection((HOST, self.store_port), timeout=1.0)  # on one machine, at once or never
            except OSError:
                _reset(near)
                return
            self.connections.append(Connection(self, near, far))


class Connection:
    """One connection through a relay: the rank's end is near, the store's is far."""

    def __init__(self, relay: Relay, near: socket.socket, far: socket.socket) -> None:
        self._relay = relay
        self.client = "{}:{}".format(*far.getsockname()[:2])
        self._flows = (Flow("up", relay, near, far, self.update), Flow("down", relay, far, near, self.update))
        self._near, self._far = near, far
        self._masks = {near: 0, far: 0}
        for sock in self._masks:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.update()

    def take_in(self) -> None:
        """As `Relay.take_in`."""
        self._ready(self._near)(selectors.EVENT_READ)
        self._ready(self._far)(selectors.EVENT_WRITE)

    def update(self) -> None:
        """Listen for what can be done next, and end when there is nothing more."""
        if all(flow.is_over for flow in self._flows):
            self.reset()
            return
        masks = dict.fromkeys(self._masks, 0)
        for flow in self._flows:
            masks[flow.source] |= selectors.EVENT_READ if flow.wants_to_read else 0
            masks[flow.sink] |= selectors.EVENT_WRITE if flow.wants_to_write else 0
        for sock, mask in masks.items():
            self._listen(sock, mask)

    def reset(self) -> None:
        """Close both ends at once; what is under way is lost."""
        if self in self._relay.connections:
            self._relay.connections.remove(self)
        for sock in self._masks:
            self._listen(sock, 0)
            if sock.fileno() >= 0:
                _reset(sock)
        for flow in self._flows:
            flow.end()

    def _listen(self, sock: socket.socket, mask: int) -> None:
        selector, before = self._relay.loop.selector, self._masks[sock]
        if mask == before:
            return
        self._masks[sock] = mask
        if not mask:
            selector.unregister(sock)
        elif before:
            selector.modify(sock, mask, self._ready(sock))
        else:
            selector.register(sock, mask, self._ready(sock))

    def _ready(self, sock: socket.socket) -> Callable[[int], None]:
        def on_ready(events: int) -> None:
            try:
                for flow in self._flows:
                    if flow.source is sock and events & selectors.EVENT_READ and flow.wants_to_read:
                        flow.read()
                    elif flow.sink is sock and events & selectors.EVENT_WRITE and flow.wants_to_write:
                        flow.write()
            except BlockingIOError:
                pass
            except (OSError, _TruncatedError):
                self.reset()
                return
            self.update()

        return on_ready


class Flow:
    """One direction of a connection."""

    def __init__(
        self, name: str, relay: Relay, source: socket.socket, sink: socket.socket, on_due: Callable[[], None]
    ) -> None:
        self.source, self.sink = source, sink
        self._name, self._relay, self._on_due = name, relay, on_due
        self._queue: deque[tuple[float, bytes]] = deque()  # when each piece may go on; an empty one ends the flow
        self._queued_bytes, self._last_at = 0, 0.0
        self._has_ended = self.is_over = False

    @property
    def wants_to_read(self) -> bool:
        """Whether more may come."""
        return not self._has_ended and self._name not in self._relay.cut and self._queued_bytes < QUEUE_BYTES_MAX

    @property
    def wants_to_write(self) -> bool:
        """Whether something may go on."""
        return bool(self._queue) and self._name not in self._relay.cut and self._queue[0][0] <= time.monotonic()

    def read(self) -> None:
        """Take what has come."""
        data, relay = self.source.recv(READ_BYTES), self._relay
        self._has_ended = not data
        if relay.is_mute and data:
            return
        if data and self._name in relay.spoil:
            data = _spoilt(data, relay.spoil.pop(self._name), relay.random)
        now = time.monotonic()
        due_at = now + relay.delay_s + relay.random.uniform(0, relay.jitter_s)
        if relay.bytes_per_s:
            due_at = max(due_at, self._last_at) + len(data) / relay.bytes_per_s
        self._last_at = due_at = max(due_at, self._last_at)
        self._queue.append((due_at, data))
        self._queued_bytes += len(data)
        if due_at > now:
            relay.loop.call_in(due_at - now, self._on_due)

    def write(self) -> None:
        """Send what is due."""
        due_at, data = self._queue[0]
        if not data:
            self.sink.shutdown(socket.SHUT_WR)
            self.end()
            return
        sent = self.sink.send(data)
        self._queued_bytes -= sent
        if sent < len(data):
            self._queue[0] = (due_at, data[sent:])
        else:
            self._queue.popleft()
        if isinstance(data, _Truncated):
            raise _TruncatedError

    def end(self) -> None:
        """Nothing more comes of it."""
        self._queue.clear()
        self._has_ended = self.is_over = True


class _Truncated(bytes):
    """The first half of something; the connection ends behind it."""

    __slots__ = ()


class _TruncatedError(Exception):
    """The connection is to end here."""


def _spoilt(data: bytes, how: str, random: Random) -> bytes:
    return random.randbytes(len(data)) if how == "garble" else _Truncated(data[: max(1, len(data) // 2)])


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
