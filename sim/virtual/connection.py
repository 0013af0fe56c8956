"""One connection between a task and the store: what travels on it, in order.

What is sent arrives a latency later, and never before what was sent ahead of it in the same direction. A closed end is
seen by the other as the end of the stream: no bytes. What the bytes mean is for `store` and `task` to know; what holds
them up, for `link`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.virtual.streams import MULTIPLIER, STATE_MAX, STEP

if TYPE_CHECKING:
    from rdzv.core import server
    from sim.virtual.link import Link
    from sim.virtual.node import Node
    from sim.virtual.task import Task
    from sim.virtual.world import World

DIED = "the store closed the connection: its host has stopped or died"
RESET = "the store is gone: Connection reset by peer"


class Connection:
    """One connection of a node.

    Attributes:
        node: Where it ends.
        core: The store that it was opened to; it may have been replaced since.
        far_end: The store's end, once anything has arrived there.
        opened_at: When it was opened, in nanoseconds.
        task: Whose it is: it receives what comes back; ``None`` once nobody listens any more.
    """

    __slots__ = (
        "_arrives_at",
        "_is_lost",
        "_kernel",
        "_returns_at",
        "_store",
        "core",
        "far_end",
        "node",
        "opened_at",
        "task",
    )

    def __init__(self, world: World, task: Task) -> None:
        self._kernel, self._store = world.kernel, world.store
        self.node: Node = task.node
        self.core = world.store.core
        self.opened_at = world.kernel.now
        self._arrives_at = self._returns_at = 0
        self._is_lost = False  # what is under way does not arrive
        self.task: Task | None = task
        self.far_end: server.Connection | None = None

    def send(self, data: bytes) -> None:
        """From the node to the store. Hot."""
        node, kernel = self.node, self._kernel
        node.chance = chance = (node.chance * MULTIPLIER + STEP) & STATE_MAX
        at = kernel.now + node.latency_min + (chance * node.latency_span >> 64)
        if not node.is_plain:
            return self._send_over(node.link, data, at)
        if at < self._arrives_at:
            at = self._arrives_at
        self._arrives_at = at
        kernel.call_at(at, _ARRIVE, (self, data))
        return None

    def answer(self, data: bytes, closed: str = "") -> None:
        """From the store to the node; with why it closes the connection, if it does. Hot."""
        if self.task is None:
            return None
        node, kernel = self.node, self._kernel
        node.chance = chance = (node.chance * MULTIPLIER + STEP) & STATE_MAX
        at = kernel.now + node.latency_min + (chance * node.latency_span >> 64) + node.lag
        if not node.is_plain:
            return self._answer_over(node.link, data, at, closed)
        if at < self._returns_at:
            at = self._returns_at
        self._returns_at = at
        kernel.call_at(at, _RETURN, (self, data, closed))
        return None

    def hang_up(self, *, loses: bool = False) -> None:
        """Nobody listens at the node's end any more.

        Args:
            loses: Whether what is still on its way to the store is lost.
        """
        self.task = None
        self._is_lost = self._is_lost or loses
        self.send(b"")

    def reset(self) -> None:
        """Both ends lose it, the node's at once. What is under way is lost."""
        self._is_lost = True
        self._kernel.call_at(self._kernel.now, self._hear, (b"", RESET))
        self.send(b"")

    def _send_over(self, link: Link, data: bytes, at: int) -> None:
        self._arrives_at, carried, is_last = link.carry("up", data, at, self._arrives_at)
        if carried or not data:
            self._kernel.call_at(self._arrives_at, self._arrive, (carried, is_last))

    def _answer_over(self, link: Link, data: bytes, at: int, closed: str) -> None:
        self._returns_at, data, is_last = link.carry("down", data, at, self._returns_at)
        if data or closed:
            self._kernel.call_at(self._returns_at, self._return, (data, closed, is_last))

    def _arrive(self, data: bytes, is_last: bool = False) -> None:
        """At the store. Hot."""
        node, store = self.node, self._store
        if data and node.is_plain and self.core is store.open_core and not self._is_lost:
            store.receive(self, data)
        elif not node.is_plain and (gate := node.link.gates["up"]).is_shut:
            gate.hold(self._arrive, data, is_last)
        else:
            self._reach(data, is_last)

    def _reach(self, data: bytes, is_last: bool) -> None:
        """At the store, whatever happens to the link from now on."""
        store = self._store
        if store.gate.is_shut:
            store.gate.hold(self._reach, data, is_last)
        elif store.core is not self.core:
            self.answer(b"", DIED)
        elif not data:
            store.hang_up(self)
        elif not self._is_lost:
            store.receive(self, data)
            if is_last:
                self.reset()

    def _return(self, data: bytes, closed: str, is_last: bool = False) -> None:
        """At the node. Hot."""
        node = self.node
        if node.is_plain:
            if self.task is not None:
                self.task.receive(data, closed)
        elif (gate := node.link.gates["down"]).is_shut:
            gate.hold(self._return, data, closed, is_last)
        elif not self._is_lost:
            self._hear(data, closed)
            if is_last:
                self.reset()

    def _hear(self, data: bytes, lost: str) -> None:
        node = self.node
        if node.attention.is_shut:
            node.attention.hold(self._hear, data, lost)
        elif self.task is not None:
            self.task.receive(data, lost)


# Plain functions, no bound methods: each message would have to have one of its own.
_ARRIVE, _RETURN = Connection._arrive, Connection._return  # noqa: SLF001 - they are this module's
