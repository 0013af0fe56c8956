"""The helper that serves a store and counts, for each node, what it asks and what that takes on the wire.

It is our server with an ear on each command, and it takes any client that speaks the protocol. Each node has a port of
its own, so that whatever it opens, and in whichever thread, is known to be its.
"""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rdzv.core import wire
from rdzv.core.server import Connection, ServerCore
from rdzv.store.server import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

HOST = "127.0.0.1"
_BACKLOG = 16  # connections of one node that nobody has accepted yet
_END_S = 5.0
_BEATS = b"/beat/", b"/lobby"  # in the keys that show life, as `rdzv.core.documents.Keys` has them
_LOOKS = (wire.COMPARE_SET, wire.CHECK, wire.MULTI_GET)
_PARTS = {wire.CHECK: "look", wire.WAIT: "wait", wire.GET: "read", wire.MULTI_GET: "read"}
_GOES_ON = {  # how a call goes on that began so, for the same keys: which part after which
    "wait": {("wait", "read")},  # torch's get
    "look": {("look", "wait")},  # our wait
    "read": {("read", "look"), ("look", "read"), ("read", "wait"), ("wait", "read")},  # our get of what is not there
}


class Seen(NamedTuple):
    """One thing that was seen of a node: a request with its reply, or the reply alone if that came later.

    Attributes:
        at: When, on the clock of `time.monotonic`.
        begins_call: Whether a call of the store's API began with it. Clients make more than one request of some calls:
            they look for a key, wait for it, and read it.
        is_request: Whether there was a request.
        size: Bytes, of both.
        is_beat: Whether it only showed or watched life.
    """

    at: float
    begins_call: bool
    is_request: bool
    size: int
    is_beat: bool


class CountingCore(ServerCore):
    """Counts by node. Handshakes are not counted: the VALIDATE of a connection and its first PING.

    Attributes:
        node: Whose the next connection is.
        seen: By node, in order of time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.node = 0
        self.seen: dict[int, list[Seen]] = {}
        self._owners: dict[Hashable, int] = {}
        self._greeted: set[Connection] = set()
        self._last: dict[int, tuple[str, str, Any]] = {}  # by node: how its call began, its last part, and its keys
        self._awaited: dict[int, set[bytes]] = {}  # by node: for what it waited last
        self._given_up: dict[int, set[bytes]] = {}  # by node: for what it waited until its time was over

    def connect(self, name: str, now: float) -> Connection:
        """As `ServerCore.connect`."""
        connection = super().connect(name, now)
        self._owners[connection] = self.node
        return connection

    def _command(self, op: int) -> Callable[..., bytes]:
        return partial(self._count, op, super()._command(op))

    def _count(self, op: int, command: Callable[..., bytes], connection: Connection, *fields: Any) -> bytes:
        owed_bytes = len(connection.outgoing)
        reply = command(connection, *fields)
        if op == wire.PING and connection not in self._greeted:
            self._greeted.add(connection)
        elif op != wire.VALIDATE:
            size = len(wire.encode(op, *([fields] if op in _LISTS else fields))) + len(reply)
            size += len(connection.outgoing) - owed_bytes  # of a large reply the most is there already
            node = self._owners[connection]
            begins_call, is_beat = self._begins_call(node, op, fields), self._is_beat(node, op, fields)
            seen = Seen(time.monotonic(), begins_call, is_request=True, size=size, is_beat=is_beat)
            self._note(connection, seen)
        return reply

    def _wake(self, waiter: Hashable) -> None:
        super()._wake(waiter)
        size = len(wire.STOP_WAITING)
        seen = Seen(time.monotonic(), begins_call=False, is_request=False, size=size, is_beat=False)
        self._note(waiter, seen)

    def _note(self, connection: Hashable, seen: Seen) -> None:
        self.seen.setdefault(self._owners[connection], []).append(seen)

    def _is_beat(self, node: int, op: int, fields: Any) -> bool:
        """Whether the request is one of those that a node of ours repeats while it waits, or after it has joined."""
        if op == wire.CANCEL_WAIT:
            self._given_up[node] = self._awaited[node]
            return True
        if op == wire.WAIT:
            self._awaited[node] = set(fields)
        if op in (wire.CHECK, wire.WAIT) and self._given_up.get(node, set()).issuperset(fields):
            return True
        return op in _LOOKS and bool(fields) and any(name in fields[0] for name in _BEATS)

    def _begins_call(self, node: int, op: int, keys: Any) -> bool:
        """Whether the request is the first of its call: not if it is a later part for the same keys, or for none."""
        if op == wire.MULTI_GET and not keys:
            return False
        part = _PARTS.get(op, "")
        began, last_part, last_keys = self._last.get(node, ("", "", None))
        goes_on = last_keys == keys and (last_part, part) in _GOES_ON.get(began, ())
        self._last[node] = began if goes_on else part, part, keys
        return not goes_on


_LISTS = {op for op, layout in enumerate(wire.REQUEST_LAYOUTS) if layout in ("K", "P")}


class _CountingListener(Listener):
    """Gives each node a port."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        super().__init__("the bench", sockets)
        self._core = self.core = CountingCore()
        self._nodes = {sock: node for node, sock in enumerate(sockets)}

    def _accept(self, listener: socket.socket) -> None:
        self.core.node = self._nodes[listener]
        super()._accept(listener)


class Tally:
    """One server that counts."""

    def __init__(self) -> None:
        self._listener: _CountingListener | None = None
        self._thread: threading.Thread | None = None

    def serve(self, nodes: int) -> list[int]:
        """Start; the port of each node."""
        sockets = [socket.create_server((HOST, 0), backlog=_BACKLOG) for _ in range(nodes)]
        self._listener = _CountingListener(sockets)
        ports = [sock.getsockname()[1] for sock in sockets]
        self._thread = threading.Thread(target=self._listener.serve)
        self._thread.start()
        return ports

    def count(self, windows: Sequence[Sequence[float]]) -> list[dict[str, int]]:
        """What each node asked for to join, and how much after that.

        A join that is done may still have written something that has no reply and arrives later; nodes of ours beat
        next, and so what comes before that is the join's.

        Args:
            windows: For each node when its join began and was done, on the clock of `time.monotonic`.

        Returns:
            For each node ``operations``, ``requests`` and ``bytes`` of its join without beats, and ``beats``, the
            operations that were beats or came later.
        """
        assert self._listener
        counts = []
        for node, (began_at, done_at) in enumerate(windows):
            seen = [it for it in list(self._listener.core.seen.get(node, ())) if it.at >= began_at]
            ends_at = next((it.at for it in seen if it.is_beat and it.at > done_at), done_at)
            join = [it for it in seen if it.at < ends_at and not it.is_beat]
            counts.append(
                {
                    "operations": sum(it.begins_call for it in join),
                    "requests": sum(it.is_request for it in join),
                    "bytes": sum(it.size for it in join),
                    "beats": sum(it.begins_call for it in seen) - sum(it.begins_call for it in join),
                }
            )
        return counts

    def close(self) -> None:
        """Stop."""
        if self._listener and self._thread:
            self._listener.stop()
            self._thread.join(_END_S)
