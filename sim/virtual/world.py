"""A world in virtual time: one store, its nodes, their network, and all chance that is in it, from one seed.

What a test or a search holds in its hand. Faults are methods of the nodes and of the store; when they happen is said
with `World.at`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sim.virtual.kernel import SECOND, Kernel, Stalled
from sim.virtual.node import Node
from sim.virtual.store import Store
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sim.virtual.task import Task


class World:
    """One store and its nodes.

    Attributes:
        kernel: What happens next.
        streams: Where chance comes from.
        store: The one store.
        nodes: By name, in order of coming.
        trace: What has happened: tuples of nanosecond, who, what, details; ``None`` if it is not kept.
        latency_min: How long a message travels at least, in nanoseconds.
        latency_span: How many values that may have, this one being the least.
    """

    def __init__(
        self, seed: int = 0, *, latency_s: tuple[float, float] = (0.0001, 0.001), is_traced: bool = False
    ) -> None:
        """An empty world at time 0.

        Args:
            seed: What all chance in it comes from.
            latency_s: How long a message travels, at least and at most, in seconds.
            is_traced: Whether to keep a trace.
        """
        self.streams = Streams(seed)
        self.store = Store(self)
        self.kernel = Kernel(self._waiting)
        self.nodes: dict[str, Node] = {}
        self.trace: list[tuple[object, ...]] | None = [] if is_traced else None
        low, high = (round(bound_s * SECOND) for bound_s in latency_s)
        if not 0 <= low <= high:
            raise ValueError(f"no message travels from {low} to {high} ns")
        self.latency_min, self.latency_span = low, high - low + 1
        self._awaited: dict[Task, None] = {}

    @property
    def now_s(self) -> float:
        """The world's time, in seconds; no node's clock shows it."""
        return self.kernel.now / SECOND

    @property
    def digest(self) -> str:
        """What the trace comes to: equal if, and only if, the same has happened."""
        assert self.trace is not None, "this world keeps no trace"
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()

    def node(self, name: str, *, offset_s: float = 0.0, rate: float = 1.0) -> Node:
        """A new node.

        Args:
            name: Unlike that of any other.
            offset_s: What its clock shows at the world's time 0, in seconds.
            rate: How many seconds it shows for one of the world.
        """
        if name in self.nodes:
            raise ValueError(f"there is a node {name!r} already")
        node = self.nodes[name] = Node(self, name, offset_s, rate)
        return node

    def at(self, when_s: float, action: Callable[..., object], *args: object) -> None:
        """Let something happen at a time of the world, in seconds."""
        self.kernel.call_at(round(when_s * SECOND), action, args)

    def run(self, until_s: float | None = None) -> None:
        """Let everything happen that is due, up to a time of the world if one is given.

        Raises:
            Stalled: Nothing can happen any more, and a task still waits; not if a time is given.
        """
        self.kernel.run(None if until_s is None else round(until_s * SECOND))

    def finish(self, *tasks: Task, within_s: float) -> None:
        """Run until all these tasks have ended.

        Raises:
            Stalled: They had not within that time.
        """
        self._awaited = {task: None for task in tasks if not task.done}
        if self._awaited:
            self.kernel.run(self.kernel.now + round(within_s * SECOND))
        late, self._awaited = self._awaited, {}
        if late:
            raise Stalled(f"not done within {within_s:.9g} s", _sentences(late), self.now_s)

    def record(self, who: str, what: str, *details: object) -> None:
        """Put it into the trace, if there is one. Details are plain values, whose text is the same everywhere."""
        if self.trace is not None:
            self.trace.append((self.kernel.now, who, what, *details))

    def on_end(self, task: Task) -> None:
        """A task has ended."""
        if task in self._awaited:
            del self._awaited[task]
            if not self._awaited:
                self.kernel.stop()

    def _waiting(self) -> list[str]:
        return _sentences(task for node in self.nodes.values() for task in node.tasks)


def _sentences(tasks: Iterable[Task]) -> list[str]:
    return [f"{task.node.name} ({task.name}) {task.describe()}" for task in tasks]
