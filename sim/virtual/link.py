"""A node's way to the store, and what can go wrong on it: it satisfies `sim.faults.fault.Link`.

It does to the bytes what the relay of the process arm does, `sim.process.relay.Relay`, and like it lies at the node's
end. Conditions strike what sets out from then on; what is cut off is held where it would arrive. A node has none until
a fault asks for it, so that a world without faults pays nothing. What the bytes mean is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sim.virtual.kernel import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.faults.fault import Fault
    from sim.virtual.node import Node
    from sim.virtual.streams import Stream


class Gate:
    """Where calls pass, or are held, in order, while it is shut.

    Attributes:
        is_shut: Whether calls are to be held; who calls looks at it first.
    """

    __slots__ = ("_held", "is_shut")

    def __init__(self) -> None:
        self.is_shut = False
        self._held: list[tuple[Callable[..., object], tuple[object, ...]]] | tuple[()] = ()  # as most have, for ever

    def hold(self, action: Callable[..., object], *args: object) -> None:
        """Make the call once the gate is open."""
        if not self._held:
            self._held = []
        self._held.append((action, args))

    def shut(self) -> None:
        """Hold calls from now on."""
        self.is_shut = True

    def open(self) -> None:
        """Make the calls that are held, now: one that is due at this very nanosecond must not overtake them."""
        self.is_shut = False
        held, self._held = self._held, ()
        for action, args in held:
            action(*args)


class Carried(NamedTuple):
    """What becomes of some bytes on the way: when they arrive, as what, and whether the connection ends with them."""

    at: int
    data: bytes
    is_last: bool


class Link:
    """The way of one node.

    Attributes:
        struck: What it suffers from, in order; for `sim.faults.links`.
        delay_s: How long everything takes longer, in seconds, each way.
        jitter_s: How much longer than that it may take; nothing overtakes on its connection.
        bytes_per_s: How much passes on a connection, each way; 0 for as much as comes.
        cut: Which flows stand still: ``up`` to the store, ``down`` from it. To be followed by `change`.
        is_mute: Whether what the node sends is lost, so that nothing comes back.
        spoil: What becomes of the next bytes of a flow: ``truncate`` or ``garble``, by the flow's name.
        is_refusing: Whether new connections are refused.
        gates: Where what arrives is held, by flow.
    """

    __slots__ = (
        "_chance",
        "_node",
        "bytes_per_s",
        "cut",
        "delay_s",
        "gates",
        "is_mute",
        "is_refusing",
        "jitter_s",
        "spoil",
        "struck",
    )

    def __init__(self, node: Node, chance: Stream) -> None:
        """One on which nothing goes wrong.

        Args:
            node: Whose it is.
            chance: Draws what is random on it.
        """
        self._node, self._chance = node, chance
        self.struck: list[Fault] = []
        self.delay_s = self.jitter_s = self.bytes_per_s = 0.0
        self.cut: set[str] = set()
        self.is_mute = self.is_refusing = False
        self.spoil: dict[str, str] = {}
        self.gates = {"up": Gate(), "down": Gate()}

    def change(self) -> None:
        """What stood still may go on, or the other way round."""
        self._node.record("link", sorted(self.cut))
        for flow, gate in self.gates.items():
            if flow in self.cut:
                gate.shut()
            elif gate.is_shut:
                gate.open()

    def refuse(self) -> None:
        """Refuse new connections."""
        self._node.record("refuse")
        self.is_refusing = True

    def admit(self) -> None:
        """Let the node connect again."""
        self._node.record("admit")
        self.is_refusing = False

    def lose(self, count: int | None = None) -> None:
        """Reset the oldest connections, so many; all if no number is given. What is under way on them is lost."""
        self._node.record("lose", count)
        for connection in self._node.connections()[:count]:
            connection.reset()

    def carry(self, flow: str, data: bytes, at: int, last_at: int) -> Carried:
        """What becomes of some bytes that set out now: if they are lost, none arrive.

        Args:
            flow: ``up`` or ``down``.
            data: The bytes; none for the end of the stream, to which only time can be done.
            at: When they would arrive, in nanoseconds.
            last_at: When what was sent before them on the same connection arrives.
        """
        if self.is_mute:
            data = b""
        how = self.spoil.pop(flow, "") if data else ""
        if how == "garble":
            data = self._chance.bytes(len(data))
        elif how == "truncate":
            data = data[: max(1, len(data) // 2)]
        at += round(SECOND * self.delay_s)
        if self.jitter_s:
            at += round(SECOND * self._chance.between(0.0, self.jitter_s))
        at = max(at, last_at)
        if self.bytes_per_s:
            at += round(SECOND * len(data) / self.bytes_per_s)
        return Carried(at, data, how == "truncate")
