"""One flow of `rdzv.core` under way on a node, carried out as a process with a real client would.

The flow sees its node's clock alone. What it asks travels to the store and comes back over the task's own connection,
in order. A wait that is over is cancelled, and its reply awaited, before anything else is asked. An effect that has no
answer by its deadline raises in the flow what the real client raises; its connection is given up then, since a late
reply must not be taken for the next one's, and the next effect opens another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.core.wire import COMMANDS, REPLY_LAYOUTS, encode
from rdzv.errors import ConnectTimeoutError, DistNetworkError
from sim.virtual.kernel import NEVER, SECOND
from sim.virtual.link import Link
from sim.virtual.store import HEAD_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.effects import Flow
    from sim.virtual.kernel import Event
    from sim.virtual.node import Node
    from sim.virtual.world import World

_CANCEL = encode(wire.CANCEL_WAIT)
_SHOWN_MAX = 200  # characters of what was asked


class Task:
    """One flow under way.

    Attributes:
        node: Where it runs.
        name: The flow's, by its function.
        ended: How it ended: ``"returned"``, ``"raised"``, ``"cancelled"`` or ``"crashed"``; empty while it runs.
        error: What the flow raised, if it did.
    """

    __slots__ = (
        "_asked",
        "_asked_at",
        "_due",
        "_effect",
        "_flow",
        "_kernel",
        "_layouts",
        "_link",
        "_on_done",
        "_result",
        "_timer",
        "_wait",
        "_when_due",
        "_world",
        "ended",
        "error",
        "name",
        "node",
    )

    def __init__(self, world: World, node: Node, flow: Flow[Any], on_done: Callable[[Task], object] | None) -> None:
        self._world, self._kernel, self.node = world, world.kernel, node
        self.name: str = getattr(flow, "__name__", "flow")
        self.ended = ""
        self.error: Exception | None = None
        self._result: Any = None
        self._flow: Any = flow
        self._on_done = on_done
        self._effect: Any = None  # what the flow has yielded
        self._asked = Effect((), 0.0)  # what that asks of the store
        self._asked_at = world.kernel.now
        self._layouts: list[str] = []  # of the replies that are to come
        self._wait = ""  # where a wait is: "open", "cancelled", "met" while it is being cancelled; or not one
        self._link: Link | None = None
        self._due = self._asked_at
        self._when_due: Callable[[Task], object] = Task._begin  # no bound method: that would be a cycle
        self._timer: Event | None = world.kernel.call_at(self._due, self._look)
        node.tasks[self] = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self.ended)

    @property
    def result(self) -> Any:
        """What the flow returned, ``None`` if it has not; if it raised, this raises the same."""
        if self.error is not None:
            raise self.error
        return self._result

    def __repr__(self) -> str:
        return f"<{self.name} of {self.node.name} {self.ended or self.describe()}>"

    def describe(self) -> str:
        """What it waits for, since when, and what stands in the way."""
        gates = {
            "it is paused": self.node.attention,
            "it is cut off": self.node.line,
            "the store is away": self._world.store.gate,
        }
        shut = [why for why, gate in gates.items() if gate.is_shut]
        effect = self._effect
        what = f"for {effect}" if type(effect) is Sleep else f"for {self._asked_text()}" if effect else "to begin"
        return f"waits {what} since {self._asked_at / SECOND:.9g} s" + f" ({', '.join(shut)})" * bool(shut)

    def cancel(self) -> None:
        """End it from outside. What it has sent is on its way."""
        self._break_off("cancelled")

    def interrupt(self, error: Exception) -> None:
        """Raise an error in the flow, whatever it waits for, as Ctrl-C does. What it has sent is on its way."""
        self._lose(error)

    def crash(self, *, loses: bool) -> None:
        """End it as a process ends that is killed: the flow has no say in it.

        Args:
            loses: Whether what is on its way to the store is lost.
        """
        self._break_off("crashed", loses=loses)

    def look_at_clock(self) -> None:
        """The node runs again: what fell due meanwhile happens now."""
        if self._timer is None and not self.ended:
            self._look()

    # The flow

    def _begin(self) -> None:
        self._run(None)

    def _go_on(self, result: Any = None) -> None:
        self._run((result, self.node.now))

    def _run(self, sent: tuple[Any, float] | None, error: Exception | None = None) -> None:
        """Let the flow run until it asks for what takes time. Hot."""
        flow = self._flow
        while True:
            try:
                effect = flow.send(sent) if error is None else flow.throw(error)
            except StopIteration as stop:
                return self._end("returned", stop.value)
            except Exception as raised:  # noqa: BLE001 - whatever it is, it is what came of the flow
                return self._end("raised", error=raised)
            if self.ended:
                return self._close()
            self._effect = effect
            self._asked_at = self._kernel.now
            if type(effect) is Sleep:
                self._record("sleep", effect.until)
                return self._set_timer(effect.until, Task._go_on)
            self._ask(effect if type(effect) is Effect else _asked_of_head(effect))
            if self._layouts:
                return None
            sent, error = ([], self.node.now), None

    def _break_off(self, how: str, *, loses: bool = False) -> None:
        running = self._flow.gi_running  # it calls this itself, by way of somebody whom it told something
        if not self.ended:
            self._end(how, loses=loses)
            if not running:
                self._close()

    def _close(self) -> None:
        try:
            self._flow.close()
        except RuntimeError:  # it would yield something on its way out; one that has crashed cannot
            if self.ended != "crashed":
                raise

    def _end(self, how: str, result: Any = None, error: Exception | None = None, *, loses: bool = False) -> None:
        if self.ended:
            return  # it was broken off just before
        self.ended, self._result, self.error = how, result, error
        self._record(how, *([type(error).__name__, str(error)] if error else []))
        if self._timer is not None:
            self._kernel.cancel(self._timer)
        if self._link is not None:
            self._link.hang_up(loses=loses)
            self._link = None
        del self.node.tasks[self]
        self._world.on_end(self)
        if self._on_done is not None and how in ("returned", "raised"):
            self._on_done(self)

    def _record(self, what: str, *details: object) -> None:
        self._world.record(self.node.name, what, self.name, *details)

    # The store

    def _ask(self, asked: Effect) -> None:
        self._asked = asked
        requests, deadline_at, wait_until, _ = asked
        self._layouts = [
            layout if layout != "V" else "v" * len(request[1])  # type: ignore[misc]
            for request in requests
            if (layout := REPLY_LAYOUTS[request[0]])
        ]
        self._record("ask", requests)
        if requests:
            self._send(b"".join([encode(*request) for request in requests]), len(requests))
        if wait_until is not None:
            self._wait = "open"
            self._set_timer(wait_until, Task._cancel_wait)
        elif self._layouts:
            self._set_timer(deadline_at, Task._give_up)

    def _send(self, data: bytes, operations: int) -> None:
        self._count(len(data), operations)
        if self._link is None:
            self._link = Link(self._world, self.node, self._receive)
        self._link.send(data)

    def _count(self, size: int, operations: int = 0) -> None:
        cost = self.node.beats if self._asked.beat else self.node.cost
        cost.operations += operations
        cost.bytes += size

    def _receive(self, data: bytes, closed: str) -> None:
        """The store has answered, or closed the connection."""
        self._count(len(data))
        if closed:
            self._lose(DistNetworkError(f"the store closed the connection: {closed}", applied="unknown"))
            return
        if self._wait:
            if self._wait == "cancelled" and data == wire.STOP_WAITING:
                self._wait = "met"  # at the last moment; that it is cancelled comes next
                return
            result: Any = [[int(data == wire.STOP_WAITING or self._wait == "met")]]
            self._wait = ""
        else:
            result = self._world.store.replies(data, self._layouts)
            if self._effect is not self._asked:
                result = _head_result(self._effect, result)
        self._record("get", result)
        self._go_on(result)

    def _cancel_wait(self) -> None:
        self._wait = "cancelled"
        self._send(_CANCEL, 1)
        self._set_timer(self._asked.deadline_at, Task._give_up)

    def _give_up(self) -> None:
        waited_s = (self._kernel.now - self._asked_at) / SECOND * self.node.rate
        why = f"the store did not answer {self._asked_text()} within {waited_s:.1f} s"
        self._lose(ConnectTimeoutError(why, waited_s=waited_s, applied="unknown"))

    def _lose(self, error: Exception) -> None:
        """The connection is of no use any more."""
        if self._link is not None:
            self._link.hang_up()
        self._link, self._wait = None, ""
        self._record("lose", str(error))
        self._run(None, error)

    def _asked_text(self) -> str:
        text = ", ".join(f"{COMMANDS[op].upper()} {str(fields)[1:-1]}" for op, *fields in self._asked.requests)
        return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."

    # The clock

    def _set_timer(self, at: float, action: Callable[[Task], object]) -> None:
        """Do something at a time of the node, unless another is set before.

        A timer that is due earlier is left as it is, and set again when it is: most deadlines never come to pass.
        """
        self._when_due = action
        due = self._due = self.node.when(at)
        timer = self._timer
        if timer is not None:
            if timer[0] <= due:
                return
            self._kernel.cancel(timer)
        self._arm()

    def _arm(self) -> None:
        self._timer = self._kernel.call_at(self._due, self._look) if self._due < NEVER else None

    def _look(self) -> None:
        """The timer: what is due happens, unless the node is paused; then `look_at_clock` comes."""
        self._timer = None
        if self.node.attention.is_shut:
            return
        if self._due > self._kernel.now:
            self._arm()
        else:
            self._when_due(self)


def _asked_of_head(effect: ReadHead | WriteHead) -> Effect:
    """What reading or writing the document asks of the store."""
    if type(effect) is ReadHead:
        return Effect(((wire.GET, HEAD_KEY),), effect.deadline_at, None, effect.beat)
    assert type(effect) is WriteHead, f"{effect!r} is no effect"
    return Effect(((wire.COMPARE_SET, HEAD_KEY, effect.token or b"", effect.state),), effect.deadline_at)


def _head_result(effect: ReadHead | WriteHead, replies: Any) -> Any:
    """What the store's reply means to the flow."""
    ((state,),) = replies
    if type(effect) is WriteHead:
        return state, state, state == effect.state
    return (state, state) if state else None
