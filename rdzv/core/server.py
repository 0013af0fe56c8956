"""The server without its sockets: many connections' bytes in; replies, wake-ups and closes out.

A driver owns the sockets and the clock. For each connection that it accepts it calls `connect`, for bytes `receive` (or
`answer`, which is quicker, and `receive_pieces` for what that leaves), for the end `disconnect`. After that it serves
this connection, and in its own time those that `take_touched` returns, who are owed something by what others did: it
sends from `Connection.outgoing`, reports how much went by `sent`, and closes a connection whose ``closing`` is set once
nothing is left to send. It sleeps until `next_deadline` at most, and calls `expire` then.

Most requests are small, of one key, and come and are answered alone; so a request costs little more than the kernel's
work for it only if nothing is called, counted or remembered for it that it does not need. Such a one is read and
answered as a whole, without the reader of frames. Where a condition stands before a call that would find out
for itself that there is nothing to do, this is why.

A bad frame, a passed limit or a value that is no number ends the connection that sent it, and harms nobody else: the
replies already due are sent, nothing of the bad frame is applied, and ``closing`` says why, in words for the log.

Three kinds of connection are watched by the clock: those that still owe their handshake, those that do not read what
was sent to them, and those of whose last request the rest does not come. All are given ``patience_s``, so one queue in
order of time holds all deadlines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.keyspace import ENTRY_BYTES, QUEUE_BYTES, Keyspace, NotANumberError
from rdzv.core.whole import NO_HEAD, WHOLE, read_head
from rdzv.core.wire import I64, STOP_WAITING, U32, U64, FrameReader, Limits, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdzv.core.whole import Command

_PAUSE_BYTES = 1 << 20  # unread replies beyond this: the connection's next requests wait until some are read
_WHOLE_BYTES_MAX = 4096  # of a request that is read as a whole
_GREETING = wire.encode(wire.VALIDATE, wire.MAGIC)
_pack_u64, _pack_i64 = U64.pack, I64.pack


class Connection:
    """One client, as the server sees it.

    Attributes:
        name: Who it is, for the log.
        channel: The driver's way to it; only the driver sets it and looks at it.
        outgoing: The bytes to send next.
        closing: Why the connection is to be closed, once ``outgoing`` is sent; empty while it is not.
        paused: Whether requests of it wait until ``outgoing`` is sent; `ServerCore.receive` with no bytes goes on.
        validated: Whether it has shown that it speaks the protocol.
        held_bytes: What its half-read requests and unread replies occupied when last counted; while it is 0, a driver
            that has sent all of ``outgoing`` may empty it without a word to `ServerCore.sent`.
    """

    __slots__ = ("channel", "closing", "held_bytes", "name", "outgoing", "paused", "reader", "validated")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.channel: Any = None
        self.reader = FrameReader(limits)
        self.outgoing = bytearray()
        self.closing = ""
        self.paused = False
        self.validated = False
        self.held_bytes = 0


class ServerCore:
    """One store and its clients.

    Attributes:
        connections: The clients.
        deadlines: Whom `expire` will end, and when, in order of time: each is ``patience_s`` after it was entered.
        touched: What `take_touched` would return.
    """

    def __init__(self, limits: Limits | None = None, initial: Mapping[bytes, bytes] | None = None) -> None:
        self.limits = limits or Limits()
        self.connections: dict[Connection, None] = {}
        self._keyspace = Keyspace(self._wake)
        for key, value in (initial or {}).items():
            self._keyspace.set(key, value)
        self.deadlines: dict[Connection, float] = {}
        self.touched: dict[Connection, None] = {}
        self._held_bytes = 0
        self._commands: list[Command] = [self._command(op) for op in range(len(wire.COMMANDS))]
        self._whole = {
            op: (WHOLE[layout], self._commands[op]) for op, layout in enumerate(wire.REQUEST_LAYOUTS) if layout in WHOLE
        }
        limits = self.limits
        # What is no longer than this as a whole passes no limit in any part.
        self._whole_bytes_max = min(_WHOLE_BYTES_MAX, limits.key_bytes_max, limits.value_bytes_max)
        # While no more than this is stored there is room for any request of one key.
        self._ample_bytes = limits.stored_bytes_max - limits.key_bytes_max - limits.value_bytes_max - ENTRY_BYTES

    # What the driver calls

    def connect(self, name: str, now: float) -> Connection:
        """A client has connected; if it is one too many, the connection comes back with ``closing`` set."""
        connection = Connection(name, self.limits)
        if len(self.connections) >= self.limits.connections_max:
            self._close(connection, f"there are {self.limits.connections_max} clients already, the limit")
        self.connections[connection] = None
        self.deadlines[connection] = now + self.limits.patience_s
        return connection

    def answer(self, connection: Connection, data: bytes) -> bytes | None:
        """The reply to what has come from a client, if that is one whole request of one key; to be sent at once. Hot.

        Returns:
            ``None`` if it is anything else, or if something is to be sent before: then `receive_pieces`.
        """
        if (
            not (connection.reader.is_between_frames and connection.validated and len(data) <= self._whole_bytes_max)
            or connection.outgoing
            or connection.closing
            or self._keyspace.granted
        ):
            return None
        try:
            op, number = read_head(data)
            read, command = self._whole[op]
        except NO_HEAD:
            return None
        try:
            reply = read(command, connection, data, number)
        except (WireError, NotANumberError) as error:
            self._close(connection, str(error))
            return b""
        if connection.outgoing and reply:  # it has ended its own wait, which it is told first
            connection.outgoing += reply
            return b""
        return reply

    def receive(self, connection: Connection, data: bytes) -> None:
        """Bytes have come from a client; with none, go on with those that had to wait until replies were read."""
        reply = self.answer(connection, data)
        if reply is not None:
            connection.outgoing += reply
        else:
            self.receive_pieces(connection, data)

    def receive_pieces(self, connection: Connection, data: bytes) -> None:
        """As `receive`, for what `answer` has left."""
        if connection.closing:
            return
        try:
            self._carry_out(connection, data)
        except (WireError, NotANumberError) as error:
            self._close(connection, str(error))
        if connection.held_bytes or not connection.reader.is_between_frames:
            self._account(connection)

    def _carry_out(self, connection: Connection, data: bytes) -> None:
        """Carry out what is complete with these bytes, and keep the rest."""
        reader, commands, keyspace, outgoing = connection.reader, self._commands, self._keyspace, connection.outgoing
        connection.paused = False
        if not connection.validated and data.startswith(_GREETING) and reader.is_between_frames:
            self._validate(connection, wire.MAGIC)
            data = data[len(_GREETING) :]
        elif not connection.validated:
            reader.feed(data)
            data = b""
            if reader.next_op() not in (None, wire.VALIDATE):
                raise WireError(f"its first byte, {reader.next_op():#04x}, is not this protocol's")
        request = reader.request(data)
        while request:
            op, fields = request
            if keyspace.granted and op != wire.QUEUE_POP:
                keyspace.settle(connection)
            reply = commands[op](connection, *fields)
            if reply:
                outgoing += reply
                if len(outgoing) > _PAUSE_BYTES:
                    connection.paused = True
                    break
            if reader.is_between_frames or connection.closing:
                break
            request = reader.request()

    def sent(self, connection: Connection, count: int, now: float) -> None:
        """The first ``count`` bytes of ``outgoing`` are on their way.

        With 0, it is but told the time: for a client that has sent bytes, is owed nothing and has ``held_bytes``.
        """
        outgoing = connection.outgoing
        del outgoing[:count]
        if outgoing or connection.held_bytes:  # what is sent at once is never counted
            self._account(connection)
        if outgoing:
            if count or connection not in self.deadlines:
                self.deadlines.pop(connection, None)
                self.deadlines[connection] = now + self.limits.patience_s
        elif connection.validated:
            self.deadlines.pop(connection, None)
            if not connection.reader.is_between_frames and not connection.closing:
                self.deadlines[connection] = now + self.limits.patience_s

    def disconnect(self, connection: Connection) -> None:
        """The connection is gone: what it waited for is forgotten, and what it wrote stays."""
        self.connections.pop(connection, None)
        self.deadlines.pop(connection, None)
        self.touched.pop(connection, None)
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0
        self._keyspace.forget(connection)

    def take_touched(self) -> list[Connection]:
        """The connections that have something to send, or are to be closed, since this was last asked.

        Not those that have only been answered: who calls `receive` sees to the connection himself.
        """
        touched = list(self.touched)
        self.touched.clear()
        return touched

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, or ``None``."""
        return next(iter(self.deadlines.values()), None)

    def expire(self, now: float) -> None:
        """End the connections that have used up the patience."""
        while (deadline_at := self.next_deadline()) is not None and deadline_at <= now:
            connection = next(iter(self.deadlines))
            del self.deadlines[connection]
            owed = "its replies unread" if connection.outgoing else "half a request unfinished"
            owed = owed if connection.validated else "its handshake undone"
            connection.outgoing.clear()  # it does not read, or must not: nothing more is owed to it
            self._close(connection, f"it left {owed} for {self.limits.patience_s:g} s")

    def waiting(self) -> list[Connection]:
        """The clients that wait for a key."""
        return [connection for connection in list(self.connections) if self._keyspace.is_waiting(connection)]

    def lacking(self, connection: Connection) -> list[bytes]:
        """The keys that a client waits for."""
        return self._keyspace.lacking(connection)

    # Inside

    def _close(self, connection: Connection, reason: str) -> None:
        connection.closing = connection.closing or reason
        self.touched[connection] = None

    def _wake(self, waiter: Any) -> None:
        waiter.outgoing += STOP_WAITING
        self.touched[waiter] = None

    def _account(self, connection: Connection) -> None:
        """Count what is held for the connection, and make room if it has become too much."""
        held_bytes = connection.reader.held_bytes + len(connection.outgoing)
        grown = held_bytes > connection.held_bytes
        self._held_bytes += held_bytes - connection.held_bytes
        connection.held_bytes = held_bytes
        if grown:
            self._make_room()
        elif not held_bytes and connection.validated:
            self.deadlines.pop(connection, None)

    def _make_room(self) -> None:
        """While too much is held for clients, let go of the one for whom it is most: not of whoever comes next."""
        while self._held_bytes + self._keyspace.waiting_bytes > self.limits.held_bytes_max:
            largest = max(self.connections, key=self._held_for)
            share, limit = self._held_for(largest), self.limits.held_bytes_max
            self._keyspace.forget(largest)
            self._held_bytes -= largest.held_bytes
            largest.held_bytes = 0
            largest.reader = FrameReader(self.limits)
            largest.outgoing.clear()
            self._close(
                largest, f"{share} bytes were held for it, the most, and for all more than the limit of {limit}"
            )

    def _held_for(self, connection: Connection) -> int:
        return connection.held_bytes + self._keyspace.waiting_bytes_of(connection)

    def _reserve(self, growth: int) -> None:
        """Refuse a write that takes so many bytes more, if there is no room for them."""
        stored_bytes = self._keyspace.stored_bytes + growth
        if growth > 0 and stored_bytes > self.limits.stored_bytes_max:
            raise WireError(f"{stored_bytes} bytes in the store would pass the limit of {self.limits.stored_bytes_max}")

    # The commands: each takes the fields of its layout in `wire`, and returns the reply's bytes.

    def _command(self, op: int) -> Command:
        command: Command = getattr(self, f"_{wire.COMMANDS[op]}")
        return command

    def _validate(self, connection: Connection, magic: int) -> bytes:
        if connection.validated or magic != wire.MAGIC:
            raise WireError("a second VALIDATE" if connection.validated else f"a wrong magic number, {magic:#x}")
        connection.validated = True
        del self.deadlines[connection]
        return b""

    def _set(self, _: Connection, key: bytes, value: bytes) -> bytes:
        if self._keyspace.stored_bytes > self._ample_bytes:
            self._reserve(self._keyspace.growth(key, len(value)))
        self._keyspace.set(key, value)
        return b""

    def _compare_set(self, _: Connection, key: bytes, expected: bytes, desired: bytes) -> bytes:
        if self._keyspace.stored_bytes > self._ample_bytes:
            self._reserve(self._keyspace.growth(key, len(desired)))
        value = self._keyspace.compare_set(key, expected, desired)
        return _pack_u64(len(value)) + value

    def _get(self, _: Connection, key: bytes) -> bytes:
        value = self._keyspace.get(key) or b""
        return _pack_u64(len(value)) + value

    def _add(self, _: Connection, key: bytes, delta: int) -> bytes:
        if self._keyspace.stored_bytes > self._ample_bytes:
            self._reserve(self._keyspace.growth(key, 0))
        return _pack_i64(self._keyspace.add(key, delta))

    def _check(self, _: Connection, *keys: bytes) -> bytes:
        return wire.READY if self._keyspace.has(keys) else wire.NOT_READY

    def _wait(self, connection: Connection, *keys: bytes) -> bytes:
        if self._keyspace.wait(connection, keys):
            return STOP_WAITING
        self._make_room()
        return b""

    def _getnumkeys(self, _: Connection) -> bytes:
        return _pack_i64(len(self._keyspace))

    def _delete_key(self, _: Connection, key: bytes) -> bytes:
        return _pack_i64(self._keyspace.delete(key))

    def _append(self, _: Connection, key: bytes, value: bytes) -> bytes:
        size = self._keyspace.value_length(key) + len(value)
        self._reserve(self._keyspace.growth(key, size))
        self._check_reply(size)  # what cannot be read must not be built
        self._keyspace.append(key, value)
        return b""

    def _multi_get(self, connection: Connection, *keys: bytes) -> bytes:
        values = [self._keyspace.get(key) or b"" for key in keys]
        self._check_reply(sum(map(len, values)))
        for value in values[:-1]:  # straight to where they go: they may be hundreds of megabytes together
            connection.outgoing += U64.pack(len(value))
            connection.outgoing += value
        return _packed(values[-1]) if values else b""

    def _multi_set(self, _: Connection, *items: bytes) -> bytes:
        pairs = zip(items[::2], items[1::2], strict=True)
        self._reserve(sum(self._keyspace.growth(key, len(value)) for key, value in pairs))
        self._keyspace.multi_set(items)
        return b""

    def _cancel_wait(self, connection: Connection) -> bytes:
        self._keyspace.forget(connection)
        return wire.WAIT_CANCELED

    def _ping(self, _: Connection, nonce: int) -> bytes:
        return U32.pack(nonce)

    def _queue_push(self, _: Connection, key: bytes, value: bytes) -> bytes:
        queue_bytes = 0 if self._keyspace.queue_length(key) else QUEUE_BYTES
        self._reserve(len(key) + len(value) + ENTRY_BYTES + queue_bytes)
        self._keyspace.push(key, value)
        return b""

    def _queue_pop(self, connection: Connection, key: bytes) -> bytes:
        length, value = self._keyspace.pop(key, connection)
        return _pack_i64(length) + (_packed(value) if length else b"")

    def _queue_len(self, _: Connection, key: bytes) -> bytes:
        return _pack_i64(self._keyspace.queue_length(key))

    def _list_keys(self, _: Connection) -> bytes:
        keys = self._keyspace.keys()
        self._check_reply(sum(map(len, keys)))
        return _pack_i64(len(keys)) + b"".join(map(_packed, keys))

    def _barrier(self, connection: Connection, key: bytes, world_size: int) -> bytes:
        self._reserve(self._keyspace.growth(key, 0))
        return STOP_WAITING if self._keyspace.barrier(connection, key, world_size) else b""

    def _check_reply(self, size: int) -> None:
        if size > self.limits.reply_bytes_max:
            raise WireError(f"a reply of {size} bytes passes the limit of {self.limits.reply_bytes_max}")


def _packed(value: bytes) -> bytes:
    return _pack_u64(len(value)) + value
