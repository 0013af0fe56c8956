"""One connection between a task and the store: what travels on it, in order, and what holds it up.

What is sent arrives a latency later, and never before what was sent ahead of it in the same direction. A closed end is
seen by the other as the end of the stream: no bytes. What the bytes mean is for `store` and `task` to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.server import Connection
    from sim.virtual.node import Node
    from sim.virtual.world import World


class Gate:
    """Where calls pass, or are held, in order, while it is shut.

    Attributes:
        is_shut: Whether calls are to be held; who calls looks at it first.
    """

    __slots__ = ("_held", "is_shut")

    def __init__(self) -> None:
        self.is_shut = False
        self._held: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def hold(self, action: Callable[..., object], *args: object) -> None:
        """Make the call once the gate is open."""
        self._held.append((action, args))

    def shut(self) -> None:
        """Hold calls from now on."""
        self.is_shut = True

    def open(self) -> None:
        """Make the calls that are held, now: one that is due at this very nanosecond must not overtake them."""
        self.is_shut = False
        held, self._held = self._held, []
        for action, args in held:
            action(*args)


class Link:
    """One connection of a node.

    Attributes:
        node: Whose it is.
        connection: The store's end, once anything has arrived there.
        receive: Is called with what comes back, and with why the store closed the connection, if it did; ``None``
            once nobody listens any more.
    """

    __slots__ = ("_arrives_at", "_is_lossy", "_returns_at", "_world", "connection", "node", "receive")

    def __init__(self, world: World, node: Node, receive: Callable[[bytes, str], object]) -> None:
        self._world = world
        self.node = node
        self._arrives_at = self._returns_at = 0
        self._is_lossy = False
        self.receive: Callable[[bytes, str], object] | None = receive
        self.connection: Connection | None = None

    def send(self, data: bytes) -> None:
        """From the node to the store."""
        kernel = self._world.kernel
        self._arrives_at = max(kernel.now + self._world.latency(), self._arrives_at)
        kernel.call_at(self._arrives_at, self._arrive, data)

    def hang_up(self, *, loses: bool = False) -> None:
        """Nobody listens at the node's end any more.

        Args:
            loses: Whether what is still on its way to the store is lost.
        """
        self.receive = None
        self._is_lossy = loses
        self.send(b"")

    def answer(self, data: bytes, closed: str = "") -> None:
        """From the store to the node."""
        if self.receive is not None:
            kernel = self._world.kernel
            self._returns_at = max(kernel.now + self._world.latency(), self._returns_at)
            kernel.call_at(self._returns_at, self._return, data, closed)

    def _arrive(self, data: bytes) -> None:
        line, store = self.node.line, self._world.store
        if line.is_shut:
            line.hold(self._arrive, data)
        elif store.gate.is_shut:
            store.gate.hold(self._arrive, data)
        elif not (self._is_lossy and data):
            store.receive(self, data)

    def _return(self, data: bytes, closed: str) -> None:
        node = self.node
        if node.line.is_shut:
            node.line.hold(self._return, data, closed)
        elif node.attention.is_shut:
            node.attention.hold(self._return, data, closed)
        elif self.receive is not None:
            self.receive(data, closed)
