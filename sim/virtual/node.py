"""Nodes: each has a clock of its own, tasks, a cost, and faults.

What a task does is for `task` to know; a node is where it runs, and what can happen to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.virtual.client import in_turn
from sim.virtual.kernel import NEVER, SECOND
from sim.virtual.link import Gate, Link
from sim.virtual.streams import STATE_MAX, seed_of
from sim.virtual.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.effects import Flow
    from sim.virtual.connection import Connection
    from sim.virtual.world import World


class Cost:
    """What was asked of the store, and what crossed the wire for it.

    Attributes:
        operations: How many requests.
        bytes: Those of the requests, and of the replies that came.
    """

    __slots__ = ("bytes", "operations")

    def __init__(self) -> None:
        self.operations = 0
        self.bytes = 0

    def __repr__(self) -> str:
        return f"{self.operations} operations, {self.bytes} bytes"


class Node:
    """One host of a world.

    Attributes:
        name: Who it is, unlike any other.
        offset_s: What its clock shows at the world's time 0, in seconds.
        rate: How many seconds it shows for one of the world.
        tasks: What runs on it, in order of starting.
        cost: What its effects cost, beats apart.
        beats: What its beats cost.
        attention: Shut while it is paused.
        chance: The state of Knuth's generator, see `sim.virtual.streams`, from which its connections draw latencies.
        latency_min: How long a message of it travels at least, in nanoseconds.
        latency_span: How many values that may have, this one being the least.
        lag: How much later than others it does whatever it does, in nanoseconds; see `slow`.
        asks_in_turn: Whether its tasks ask each request by itself, not all those of an effect together: drivers
            do either.
        is_plain: Whether it was never paused, and no fault has ever asked for its `link`.
    """

    __slots__ = (
        "_kernel",
        "_link",
        "_world",
        "asks_in_turn",
        "attention",
        "beats",
        "chance",
        "cost",
        "is_plain",
        "lag",
        "latency_min",
        "latency_span",
        "name",
        "offset_s",
        "rate",
        "tasks",
    )

    def __init__(self, world: World, name: str, offset_s: float, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"the clock of {name} must run forward, not at a rate of {rate}")
        self._world = world
        self._kernel = world.kernel
        self.name = name
        self.offset_s = offset_s
        self.rate = rate
        self.tasks: dict[Task, None] = {}
        self.cost = Cost()
        self.beats = Cost()
        self.attention = Gate()
        self.lag = 0
        self.chance = seed_of(world.streams.seed, f"latency of {name}") & STATE_MAX
        self.latency_min, self.latency_span = world.latency_min, world.latency_span
        self.asks_in_turn = False
        self.is_plain = True
        self._link: Link | None = None

    @property
    def now(self) -> float:
        """What its clock shows, in seconds."""
        return self.offset_s + self._kernel.now / SECOND * self.rate

    def when(self, at: float) -> int:
        """The first nanosecond of the world at which its clock shows ``at`` or more, `NEVER` if that is too far off."""
        world_s = (at - self.offset_s) / self.rate
        if not world_s < NEVER / SECOND:
            return NEVER
        when = round(world_s * SECOND)
        while self.offset_s + when / SECOND * self.rate < at:  # rounding took some
            when += 1
        return when

    @property
    def link(self) -> Link:
        """Its way to the store, for faults."""
        if self._link is None:
            self.is_plain = False
            self._link = Link(self, self._world.streams[f"link of {self.name}"])
        return self._link

    def connections(self) -> list[Connection]:
        """Those that are in use, the oldest first."""
        found = [task.connection for task in self.tasks if task.connection is not None]
        return sorted(found, key=lambda connection: connection.opened_at)

    def record(self, what: str, *details: object) -> None:
        """Put what happens to it into the world's trace."""
        self._world.record(self.name, what, *details)

    def spawn(
        self, flow: Flow[Any], on_done: Callable[[Task], object] | None = None, connect_s: float | None = None
    ) -> Task:
        """Start a task that carries out a flow: it begins with the next event.

        Args:
            flow: What to carry out. A flow that is given the time when it is made is to be given `now`.
            on_done: Is called with the task when the flow has returned or raised.
            connect_s: For how long it tries to connect to the store at first, in seconds, as who opens a store does; if
                not given, as after the loss of a connection.
        """
        if self.asks_in_turn:
            turned: Any = in_turn(flow)
            turned.__name__ = flow.__name__  # type: ignore[attr-defined]
            flow = turned
        return Task(self._world, self, flow, on_done, connect_s)

    def pause(self) -> None:
        """Stop running, until `resume`. What it has sent is on its way."""
        self.record("pause")
        self.is_plain = False
        self.attention.shut()

    def resume(self) -> None:
        """Run on: first it reads what has come meanwhile, then it looks at the clock."""
        self.record("resume")
        self.attention.open()
        for task in list(self.tasks):
            task.look_at_clock()

    def slow(self, by_s: float) -> None:
        """Do from now on everything so much later: see what comes, and what falls due. 0 for at once."""
        self.record("slow", by_s)
        self.lag = round(by_s * SECOND)

    def cut(self) -> None:
        """Lose the network, until `heal`: whatever would arrive, in either direction, is held back."""
        self.link.cut = {"up", "down"}
        self.link.change()

    def heal(self) -> None:
        """Have the network again: what was held back arrives now, in order."""
        self.link.cut = set()
        self.link.change()

    def crash(self, *, loses: bool | None = None) -> None:
        """Let every task vanish without another word. The node can be used again then, as after a restart.

        Args:
            loses: Whether what is on its way to the store is lost; if not given, that is drawn.
        """
        if loses is None:
            loses = self._world.streams[f"crash of {self.name}"].chance(0.5)
        self.record("crash", loses)
        for task in list(self.tasks):
            task.crash(loses=loses)
        self.attention.open()
