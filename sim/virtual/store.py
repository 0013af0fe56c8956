"""The store of a virtual world: the real server core, its clients at the other ends of links.

Requests are applied whole, in one event, when they arrive. The backend's document is one more key, as it is with the
c10d backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.server import ServerCore
from rdzv.core.wire import FrameReader, Limits
from sim.virtual.link import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rdzv.core.wire import Reply
    from sim.virtual.link import Link

HEAD_KEY = b"/rdzv/head"
_GREETING = wire.encode(wire.VALIDATE, wire.MAGIC)
_UNLIMITED = 1 << 40


class Store:
    """One store, which all nodes of a world use.

    Attributes:
        core: What holds the keys.
        gate: Shut while the store is away.
    """

    __slots__ = ("_reader", "_record", "core", "gate")

    def __init__(self, record: Callable[..., None]) -> None:
        """An empty one; ``record`` puts what happens into the world's trace."""
        self._record = record
        self.core = ServerCore(Limits(connections_max=_UNLIMITED, held_bytes_max=_UNLIMITED))
        self.gate = Gate()
        self._reader = FrameReader(Limits(value_bytes_max=_UNLIMITED, keys_per_request_max=_UNLIMITED))

    def pause(self) -> None:
        """Be away: what arrives is held. The data stay."""
        self._record("the store", "pause")
        self.gate.shut()

    def resume(self) -> None:
        """Be back: what was held is applied now, in order of arrival."""
        self._record("the store", "resume")
        self.gate.open()

    def receive(self, link: Link, data: bytes) -> None:
        """Apply what came over a link, and answer it and all whom it wakes."""
        core, connection = self.core, link.connection
        self._record(link.node.name, "serve", len(data))
        if connection is None:
            connection = link.connection = core.connect(link.node.name, 0.0)
            connection.channel = link
            core.receive(connection, _GREETING)
        if not data:
            core.disconnect(connection)
            return
        core.receive(connection, data)
        for touched in dict.fromkeys((connection, *core.take_touched())):
            if not touched.outgoing and not touched.closing:
                continue
            answer = bytes(touched.outgoing)
            core.sent(touched, len(answer), 0.0)
            while touched.paused:  # a batch with large replies; its client reads on
                core.receive(touched, b"")
                answer += touched.outgoing
                core.sent(touched, len(touched.outgoing), 0.0)
            touched.channel.answer(answer, touched.closing)

    def replies(self, data: bytes, layouts: Iterable[str]) -> list[Reply]:
        """The replies that an answer consists of, by their layouts."""
        self._reader.feed(data)
        replies = [reply for layout in layouts if (reply := self._reader.reply(layout)) is not None]
        assert self._reader.is_between_frames, "an answer is of whole replies"
        return replies
