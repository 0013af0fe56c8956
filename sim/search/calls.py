"""A search of the store's core alone: calls of all kinds by several clients, drawn from a seed, against the reference.

Rounds use but a few of the store's commands, so a search of rounds cannot find what is wrong with the others. Here the
clients come, go, send whole requests and pieces of them, leave replies unread, pass limits and speak garbage; after
each step everybody must have been sent just what `sim.check.reference` says, and nobody let go but who must be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.server import ServerCore
from rdzv.core.wire import Limits, encode
from sim.check.reference import PAUSE_BYTES, Reference, RefusedError
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from rdzv.core.server import Connection
    from rdzv.core.wire import Request
    from sim.virtual.streams import Stream

STEPS = 150
CLIENTS_MIN = 4
KEYS = (b"a", b"b", b"", b"a longer key")
QUEUE = b"q"  # has no value, so that one waits for it
VALUES = (
    b"",
    b"1",
    b" -7x",
    b"text",
    b"9223372036854775807",
    b"9" * 19,
    b"1" * 30,
    b"+" + b"0" * 5000 + b"1",
    b"y" * 700,
)
NUMBERS = (b"1", b" -7x", b"+3")
_OF_QUEUES = (wire.WAIT, wire.QUEUE_PUSH, wire.QUEUE_POP, wire.QUEUE_LEN)
_CROWDED = (*[wire.WAIT] * 4, wire.QUEUE_PUSH, wire.QUEUE_POP, wire.QUEUE_LEN)  # many wait for few items
THEMES = ((), (), (), _OF_QUEUES, _CROWDED, _CROWDED)
"""Few kinds of calls, about one thing, by clients that come and go; or of any kinds."""

LARGE = b"z" * 300_000  # a few of these are more than what may lie unread
_FRAME_BYTES = 4000  # what a request of a few keys may occupy beside its bytes, and more


@dataclass(slots=True)
class Client:
    """One client, on both sides.

    Attributes:
        name: Who.
        connection: The core's side.
        requests: What it has begun to send and was not applied yet, each with its bytes; no fields for a bad one.
        unsent: Those of the bytes that the core does not have yet.
        waits_since: Since when it owes its handshake, to read, or the rest of a request.
    """

    name: str
    connection: Connection
    requests: list[tuple[Request | None, int]] = field(default_factory=list)
    unsent: bytes = b""
    waits_since: float | None = 0.0
    is_closing: bool = False

    @property
    def received(self) -> int:
        """How many bytes of its requests the core has, and has not applied."""
        return sum(size for _, size in self.requests) - len(self.unsent)


class Trial:
    """One core, its reference, and some clients."""

    def __init__(self, seed: int) -> None:
        streams = Streams(seed)
        self.chance: Stream = streams["calls"]
        pick, swarm = streams["limits"].pick, streams["swarm"]
        every = range(1, len(wire.COMMANDS))
        few = [op for op in every if swarm.chance(0.5)]  # kinds of calls, often: other things happen
        self.theme = streams["theme"].pick(THEMES)
        self.ops = self.theme or few or every
        self.keys = KEYS[: 1 + swarm.below(len(KEYS))]
        self.is_tame = swarm.chance(0.5)  # nobody does what he is let go for, so that long stories come of it
        self.values = NUMBERS if self.is_tame else VALUES
        self.is_fat = swarm.chance(0.15)  # so large values that soon more lies unread than may
        self.limits = (
            Limits()
            if self.is_tame
            else Limits(
                key_bytes_max=pick((8192, 8192, 12)),
                value_bytes_max=pick((8 << 20, 8 << 20, 600)),
                keys_per_request_max=pick((131072, 2)),
                reply_bytes_max=pick((256 << 20, 1500)),
                connections_max=pick((65536, 65536, 3)),
                stored_bytes_max=pick((4 << 30, 4 << 30, 1000, 3000)),
                held_bytes_max=pick((1 << 30, 1 << 30, 5000)),
            )
        )
        self.core, self.reference = ServerCore(self.limits), Reference(self.limits)
        self._keyspace = self.core._keyspace  # noqa: SLF001 -- nothing else tells what it holds
        self.clients: dict[str, Client] = {}
        self.now = 0.0
        self.count = 0

    def run(self) -> str:
        """What is wrong, empty if nothing is."""
        actions = (self._call,) * (8 if self.theme else 12) + (self._come, self._go, self._wait_a_while)
        for number in range(STEPS):
            what = self.chance.pick(actions)() or self._difference()
            if what:
                return f"step {number}: {what}"
        return ""

    # What happens

    def _come(self) -> str:
        self.count += 1
        name = f"client {self.count}"
        connection = self.core.connect(name, self.now)
        client = self.clients[name] = Client(name, connection, waits_since=self.now)
        self.reference.owed[name] = bytearray()
        client.is_closing = len(self.clients) > self.limits.connections_max
        self._queue(client, [(wire.VALIDATE, wire.MAGIC if self.is_tame or self.chance.below(9) else 1)])
        return self._told([name] * client.is_closing)

    def _go(self, name: str = "") -> str:
        if not self.clients:
            return ""
        client = self.clients.pop(name or self.chance.pick(list(self.clients)))
        self.core.disconnect(client.connection)
        self.reference.forget(client.name)
        return self._told([])

    def _wait_a_while(self) -> str:
        self.now += self.chance.pick((1.0, 10.0, 30.0))
        patience_s = self.limits.patience_s
        late = {
            client.name: client.waits_since
            for client in self.clients.values()
            if client.waits_since is not None and client.waits_since + patience_s <= self.now
        }
        due = [client.waits_since for client in self.clients.values() if client.waits_since is not None]
        if self.core.next_deadline() != (min(due) + patience_s if due else None):
            return f"the next deadline is {self.core.next_deadline()}"
        self.core.expire(self.now)
        for name in late:
            self.clients[name].is_closing, self.clients[name].waits_since = True, None
            self.reference.owed[name].clear()
        return self._told(sorted(late, key=lambda name: (late[name], self._order(name))), is_ordered=False)

    def _call(self) -> str:
        """Somebody sends something, and perhaps reads what it was sent."""
        if len(self.clients) < CLIENTS_MIN:
            return self._come()
        client = self.clients[self.chance.pick(list(self.clients))]
        if client.is_closing and self.chance.chance(0.5):
            return self._go(client.name)
        if not client.unsent:
            self._queue(client, [self._draw() for _ in range(self.chance.pick((1, 1, 1, 2, 9)))])
        size = len(client.unsent)
        has_bad = any(request is None for request, _ in client.requests)
        if not has_bad and self.chance.below(4) == 0:
            size = self.chance.below(size + 1)
        data, client.unsent = client.unsent[:size], client.unsent[size:]
        held_before = self._held()
        self.core.receive(client.connection, data)
        if what := self._expect(client, held_before + len(data)):
            return what
        if not client.connection.outgoing and client.connection.held_bytes and not client.is_closing:
            self.core.sent(client.connection, 0, self.now)  # as a driver does, for whom nothing is to be sent
            self._owes_no_reading(client)
        return self._read(client)

    def _owes_no_reading(self, client: Client) -> None:
        """It has read all, or is owed nothing any more: then it owes the rest of a request that it has begun."""
        if client.name in self.reference.validated:
            client.waits_since = self.now if client.received and not client.is_closing else None

    def _queue(self, client: Client, requests: list[Request]) -> None:
        for request in requests:
            text = encode(*request)
            is_bad = not self._fits(request)
            client.requests.append((None if is_bad else request, len(text)))
            client.unsent += text
        if not self.is_tame and self.chance.below(60) == 0:
            client.requests.append((None, 1))
            client.unsent += bytes([len(wire.COMMANDS) + self.chance.below(200)])

    def _fits(self, request: Request) -> bool:
        """Whether it passes none of the limits that hold for any request."""
        op, *fields = request
        layout = wire.REQUEST_LAYOUTS[op]
        if layout in ("K", "P"):
            fields, layout = list(fields[0]), {"K": "k", "P": "kv"}[layout] * len(fields[0])  # type: ignore[arg-type]
            if len(fields) > self.limits.keys_per_request_max * (1 + (op == wire.MULTI_SET)):
                return False
        most = {"k": self.limits.key_bytes_max, "v": self.limits.value_bytes_max}
        return all(
            len(part) <= most[kind] for kind, part in zip(layout, fields, strict=False) if isinstance(part, bytes)
        )

    def _draw(self) -> Request:
        chance = self.chance
        op = chance.pick(self.ops) if self.is_tame or chance.below(50) else wire.VALIDATE
        keys = [chance.pick(self.keys) for _ in range(chance.below(4))]
        key, value = chance.pick(self.keys), self._value()
        if op in _OF_QUEUES and (self.theme or chance.chance(0.5)):
            key, keys = QUEUE, [QUEUE]
        match wire.REQUEST_LAYOUTS[op]:
            case "kv":
                return op, key, value
            case "kvv":
                return op, key, chance.pick((b"", *self.values)), value
            case "ki":
                return op, key, chance.pick((0, 1, 2, -5, 2**63 - 1, -(2**63)) if op == wire.ADD else (-1, 1, 2, 3))
            case "k":
                return op, key
            case "K":
                return op, keys
            case "P":
                return op, [part for key in keys for part in (key, self._value())]
            case "n":
                return op, chance.pick((wire.MAGIC, chance.below(1 << 32)))
        return (op,)

    def _value(self) -> bytes:
        if self.is_fat:
            return self.chance.pick((LARGE, *self.values[:2]))
        return self.chance.pick(self.values) if self.is_tame or self.chance.below(25) else LARGE

    # What must come of it

    def _expect(self, client: Client, held: int) -> str:
        """Let the reference take what the core has been able to take."""
        closed: list[str] = []
        if not client.is_closing:
            owed = self.reference.owed[client.name]
            while client.requests and client.requests[0][1] <= client.received:
                request, _ = client.requests.pop(0)
                try:
                    if request is None:
                        raise RefusedError
                    op, *fields = request
                    layout = wire.REQUEST_LAYOUTS[op]
                    is_answered = self.reference.apply(client.name, op, fields[0] if layout in ("K", "P") else fields)  # type: ignore[arg-type]
                except RefusedError:
                    client.is_closing = True
                    closed.append(client.name)
                    break
                if op == wire.VALIDATE:
                    client.waits_since = None
                if is_answered and len(owed) > PAUSE_BYTES:
                    break
            if not owed and not client.received and client.name in self.reference.validated:
                client.waits_since = None
        return self._let_go(max(held, self._held())) or self._told(closed)

    def _let_go(self, held: int) -> str:
        """Those for whom too much was held: they are let go, the largest first, and only if it was too much."""
        for client in self.clients.values():
            connection, owed = client.connection, self.reference.owed[client.name]
            was_let_go = "were held for it" in connection.closing
            # Of one that was to be closed anyway, it can be seen only by what is forgotten.
            had = owed or self.reference.lacking(client.name) or self.reference.is_granted(client.name)
            has = connection.outgoing or self.core.lacking(connection) or connection in self._keyspace.granted
            is_forgotten = client.is_closing and had and not has and self.limits.held_bytes_max < PAUSE_BYTES
            if not was_let_go and not is_forgotten:
                continue
            if not client.is_closing:
                client.is_closing = True
                self.reference.woken.append(client.name)
                if held + _FRAME_BYTES * len(self.clients) <= self.limits.held_bytes_max:
                    return f"{client.name} was let go, with {held} bytes held for all"
            client.requests, client.unsent = [], b""
            owed.clear()
            self.reference.forget(client.name)
        return ""

    def _held(self) -> int:
        return sum(
            client.received * (not client.is_closing)
            + len(self.reference.owed[client.name])
            + self.reference.waiting_bytes_of(client.name)
            for client in self.clients.values()
        )

    def _read(self, client: Client) -> str:
        """The client reads all, some or nothing of what it was sent; then the core goes on with what had to wait."""
        for other in [client, *self.clients.values()]:
            owed = self.reference.owed[other.name]
            if not owed or (other is not client and self.chance.below(3)):
                continue
            count = self.chance.pick((len(owed), len(owed), self.chance.below(len(owed) + 1)))
            held = self._held()
            self.core.sent(other.connection, count, self.now)
            del owed[:count]
            if owed and (count or other.waits_since is None):
                other.waits_since = self.now
            if what := self._let_go(held):
                return what
            if len(owed) > other.connection.held_bytes:
                return f"{len(owed)} bytes lie unread by {other.name}, and {other.connection.held_bytes} are counted"
            if not owed:
                self._owes_no_reading(other)
            if not owed and other.connection.paused:
                self.core.receive(other.connection, b"")
                if what := self._expect(other, held):
                    return what
        return ""

    def _told(self, closed: list[str], *, is_ordered: bool = True) -> str:
        """Who was told by what others did, or is to be let go, is to be touched; nobody else is."""
        expected = [name for name in dict.fromkeys([*self.reference.woken, *closed]) if name in self.clients]
        self.reference.woken.clear()
        touched = [connection.name for connection in self.core.take_touched()]
        # Who is let go for its size may be so at any moment.
        if touched != expected and self.limits.held_bytes_max > PAUSE_BYTES:
            if not is_ordered and sorted(touched) == sorted(expected):
                return ""
            return f"{touched} have something to hear, and {expected} should"
        return ""

    def _difference(self) -> str:
        """In what the core differs from what it should be."""
        for client in self.clients.values():
            connection, owed = client.connection, self.reference.owed[client.name]
            if connection.outgoing != owed:
                return f"{client.name} is sent {bytes(connection.outgoing[:80])!r}, and should be {bytes(owed[:80])!r}"
            if bool(connection.closing) != client.is_closing:
                return f"{client.name} is let go: {connection.closing!r}; should be: {client.is_closing}"
            if self.core.lacking(connection) != self.reference.lacking(client.name):
                return f"{client.name} waits for {self.core.lacking(connection)}"
        # What limits rest on: a count that is a little wrong shows only after a long life.
        keyspace, held_bytes = self._keyspace, self.core._held_bytes  # noqa: SLF001 -- nothing else tells it
        counted = keyspace.stored_bytes, keyspace.waiting_bytes, held_bytes
        waits = {client.connection: self.reference.waiting_bytes_of(name) for name, client in self.clients.items()}
        if any(keyspace.waiting_bytes_of(connection) != size for connection, size in waits.items()):
            return f"the waits occupy {list(waits.values())} bytes, and are counted otherwise"
        waiting_bytes = sum(waits.values())
        held_bytes = sum(client.connection.held_bytes for client in self.clients.values())
        if counted != (expected := (self.reference.stored_bytes, waiting_bytes, held_bytes)):
            return f"stored, waiting and held bytes are counted as {counted} and are {expected}"
        if (held := self._held()) > self.limits.held_bytes_max + _FRAME_BYTES * len(self.clients):
            return f"{held} bytes are held"
        return ""

    def _order(self, name: str) -> int:
        return list(self.clients).index(name)


def check_calls(seed: int) -> str:
    """What is wrong with the store's core, as the calls of one seed show it; empty if nothing is."""
    return Trial(seed).run()
