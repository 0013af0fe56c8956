"""The store of a virtual world: the real server core, its clients at the other ends of links.

Requests are applied whole, in one event, when they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.server import ServerCore
from rdzv.core.wire import Limits
from sim.virtual.client import read
from sim.virtual.connection import DIED
from sim.virtual.link import Gate

if TYPE_CHECKING:
    from rdzv.core import server
    from sim.virtual.connection import Connection
    from sim.virtual.world import World

_GREETING = wire.encode(wire.VALIDATE, wire.MAGIC)
_UNLIMITED = 1 << 40


class Store:
    """One store, which all nodes of a world use.

    Attributes:
        core: What holds the keys.
        open_core: The same while the gate is open, ``None`` while it is shut.
        gate: Shut while the store is away.
        is_dead: Whether nobody serves: new connections are refused.
    """

    __slots__ = ("_world", "core", "gate", "is_dead", "open_core")

    def __init__(self, world: World) -> None:
        """An empty one."""
        self._world = world
        self.core = _empty()
        self.open_core: ServerCore | None = self.core
        self.gate = Gate()
        self.is_dead = False

    def pause(self) -> None:
        """Be away: what arrives is held. The data stay."""
        self._world.record("the store", "pause")
        self.gate.shut()
        self.open_core = None

    def resume(self) -> None:
        """Be back: what was held is applied now, in order of arrival."""
        self._world.record("the store", "resume")
        self.open_core = self.core
        self.gate.open()

    def kill(self) -> None:
        """End its host: the data are lost, all connections end, new ones are refused."""
        self._world.record("the store", "kill")
        dead, self.core, self.is_dead = self.core, _empty(), True
        for far_end in dead.connections:
            far_end.channel.answer(b"", DIED)
        self.open_core = self.core
        self.gate.open()

    def restart(self) -> None:
        """Serve again at the same place, an empty store."""
        self._world.record("the store", "restart")
        self.is_dead = False

    def receive(self, connection: Connection, data: bytes) -> None:
        """Apply what came over a connection, and answer it and all whom it wakes. Hot."""
        core, far_end = self.core, connection.far_end
        if self._world.trace is not None:
            self._world.record(connection.node.name, "serve", len(data))
        if far_end is None:
            far_end = connection.far_end = core.connect(connection.node.name, 0.0)
            far_end.channel = connection
            reply, data = None, _GREETING + data
        else:
            reply = core.answer(far_end, data)
        if reply and not far_end.outgoing:
            connection.answer(reply)
        else:
            if reply is None:
                core.receive_pieces(far_end, data)
            if far_end.outgoing or far_end.closing:
                far_end.outgoing += reply or b""
                _answer(core, far_end)
        if core.touched:
            for touched in core.take_touched():
                if touched is not far_end:
                    _answer(core, touched)

    def hang_up(self, connection: Connection) -> None:
        """The node's end of a connection is closed."""
        if self._world.trace is not None:
            self._world.record(connection.node.name, "serve", 0)
        if connection.far_end is not None:
            self.core.disconnect(connection.far_end)
            connection.far_end.channel = None  # or neither would go before the garbage is collected

    def keys(self) -> list[bytes]:
        """All that it holds, as one client more is told."""
        return [key for key in self._told(wire.LIST_KEYS) if isinstance(key, bytes)]

    def value(self, key: bytes) -> bytes:
        """What it holds at a key, empty if nothing, as one client more is told."""
        (value,) = self._told(wire.GET, key)
        assert isinstance(value, bytes)
        return value

    def _told(self, op: int, *fields: bytes) -> wire.Reply:
        far_end = self.core.connect("who asks", 0.0)
        self.core.receive(far_end, _GREETING + wire.encode(op, *fields))
        (reply,) = read(bytes(far_end.outgoing), [wire.REPLY_LAYOUTS[op]]) or [[]]
        self.core.disconnect(far_end)
        return reply


def _answer(core: ServerCore, far_end: server.Connection) -> None:
    """Send all that is owed to a client, which reads on."""
    outgoing = far_end.outgoing
    answer = bytes(outgoing)
    while far_end.paused:
        core.sent(far_end, len(outgoing), 0.0)
        core.receive(far_end, b"")
        answer += outgoing
    if far_end.held_bytes:
        core.sent(far_end, len(outgoing), 0.0)
    else:
        outgoing.clear()
    far_end.channel.answer(answer, far_end.closing and f"the store closed the connection: {far_end.closing}")


def _empty() -> ServerCore:
    return ServerCore(Limits(connections_max=_UNLIMITED, held_bytes_max=_UNLIMITED))
