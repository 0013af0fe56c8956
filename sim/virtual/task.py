"""One flow of `rdzv.core` under way on a node, carried out as a process with a real client would.

The flow sees its node's clock alone. What it asks travels to the store and comes back over the task's own connection,
in order. A wait that is over is cancelled, and its reply awaited, before anything else is asked. An effect that has no
answer by its deadline raises in the flow what the real client raises; its connection is given up then, since a late
reply must not be taken for the next one's, and the next effect opens another. So it is when the connection is lost,
which a flow that awaits no reply learns as it asks for the next. Where connecting is refused it is tried again, as
`rdzv.store.connection` and `rdzv.driver` do.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.effects import Effect, Sleep, StoreGoneError
from rdzv.core.wire import COMMANDS, WireError, encode, whole_replies
from rdzv.errors import ConnectTimeoutError, DistNetworkError
from sim.virtual.client import RECONNECT_S, Tries, asked_of_head, encoded, head_result, read
from sim.virtual.connection import Connection
from sim.virtual.kernel import NEVER, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdzv.core.effects import Flow
    from rdzv.core.wire import Reply
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
        connection: Its connection to the store, if it has one.
    """

    __slots__ = (
        "_armed_at",
        "_asked",
        "_asked_at",
        "_cost",
        "_due_at",
        "_effect",
        "_flow",
        "_kernel",
        "_layouts",
        "_loss",
        "_on_done",
        "_result",
        "_timer",
        "_tries",
        "_wait",
        "_when_due",
        "_world",
        "connection",
        "ended",
        "error",
        "name",
        "node",
    )

    def __init__(
        self,
        world: World,
        node: Node,
        flow: Flow[Any],
        on_done: Callable[[Task], object] | None = None,
        connect_s: float | None = None,
    ) -> None:
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
        self._cost = node.cost  # what that counts as
        self._layouts: Sequence[str] = ()  # of the replies that are to come; none once they have
        self._wait = ""  # where a wait is: "open", "cancelled", "met" while it is being cancelled; or not one
        self.connection: Connection | None = None
        self._loss: DistNetworkError | None = None  # of the connection; the flow does not know yet
        self._tries = None if connect_s is None else Tries(node.now, connect_s, ConnectTimeoutError)
        self._due_at = self._armed_at = -inf  # when it is to do something on the node's clock, and look at it
        self._when_due: Callable[[Task], object] = _BEGIN
        self._timer: Event | None = world.kernel.call_at(self._asked_at, _LOOK, (self,))
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
        node, store = self.node, self._world.store
        obstacles = {
            "it is paused": node.attention.is_shut,
            "it is cut off": not node.is_plain and bool(node.link.cut),
            "it is not heard": not node.is_plain and node.link.is_mute,
            "the store is away": store.gate.is_shut,
            "the store is dead": store.is_dead,
        }
        why = ", ".join(what for what, is_so in obstacles.items() if is_so)
        effect = self._effect
        sleep = "to be let on" if self.is_idle else f"for {effect}"
        what = sleep if type(effect) is Sleep else f"for {self._asked_text()}" if effect else "to begin"
        return f"waits {what} since {self._asked_at / SECOND:.9g} s" + f" ({why})" * bool(why)

    @property
    def keys_awaited(self) -> tuple[str, ...]:
        """The keys that it waits for, if it waits for any, as they were written: without the "/" of the wire."""
        effect = self._effect
        if type(effect) is not Effect or effect.wait_until is None:
            return ()
        named: Any = [*effect.requests[0]][1]  # of a BARRIER it is one
        keys = named if isinstance(named, list) else [named]
        return tuple(key.removeprefix(b"/").decode(errors="replace") for key in keys)

    @property
    def is_idle(self) -> bool:
        """Whether nothing but another task can have it go on."""
        return type(self._effect) is Sleep and self._effect.until == inf

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

    def wake(self) -> None:
        """End its sleep early, with the next event; if it does anything else, nothing changes."""
        if type(self._effect) is Sleep and not self.ended and not self._flow.gi_running:
            self._set_timer(self.node.now, _GO_ON)

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
            kind = type(effect)
            if kind is Sleep:
                if self._world.trace is not None:
                    self._record("sleep", effect.until)
                return self._set_timer(effect.until, _GO_ON)
            error = self._loss
            if error is not None:
                self._hang_up(error)
                continue
            self._asked = asked = effect if kind is Effect else asked_of_head(effect)
            if self._world.trace is not None:
                self._record("ask", asked.requests)
            if asked.requests and self._ask(asked):
                return None
            sent = ([], self.node.now)

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
        if self._world.trace is not None:
            self._record(how, *([type(error).__name__, str(error)] if error else []))
        if self._timer is not None:
            self._kernel.cancel(self._timer)
        if self.connection is not None:
            self.connection.hang_up(loses=loses)
            self.connection = None
        del self.node.tasks[self]
        self._world.on_end(self)
        if self._on_done is not None and how in ("returned", "raised"):
            self._on_done(self)

    def _record(self, what: str, *details: object) -> None:
        self._world.record(self.node.name, what, self.name, *details)

    # The store

    def _ask(self, asked: Effect) -> bool:
        """Ask the store; whether anything is to be awaited. Hot."""
        connection = self.connection or self._connect()
        if connection is None:
            self._try_again()
            return True
        requests = asked.requests
        data, awaited = encoded(requests)
        self._layouts = awaited
        self._cost = cost = self.node.beats if asked.beat else self.node.cost
        cost.operations += len(requests)
        cost.bytes += len(data)
        connection.send(data)
        if asked.wait_until is not None:
            self._wait = "open"
            self._set_timer(asked.wait_until, _CANCEL_WAIT)
        elif awaited:
            self._set_timer(asked.deadline_at, _GIVE_UP)
        else:
            return False
        return True

    def receive(self, data: bytes, lost: str) -> None:
        """The store has answered, or the connection is lost, or one after the other. Hot."""
        if lost:
            self._loss = DistNetworkError(lost, applied="unknown")
        if data:
            self._cost.bytes += len(data)
            try:
                if self._wait:
                    replies = self._end_of_wait(data)
                else:
                    replies = whole_replies(self._layouts, data) or read(data, self._layouts)
            except WireError as error:
                return self._lose(DistNetworkError(f"what listens there is no store: {error}", applied="unknown"))
            if replies is not None:
                self._layouts, self._wait = (), ""
                result = replies if self._effect is self._asked else head_result(self._effect, replies)
                if self._world.trace is not None:
                    self._record("get", result)
                return self._run((result, self.node.now))
        if self._loss is not None and self._layouts:
            self._lose(self._loss)
        return None

    def _end_of_wait(self, data: bytes) -> list[Reply] | None:
        """The reply to a wait; ``None`` if another is to come: it was met while it was cancelled."""
        if data == wire.STOP_WAITING:
            if self._wait == "open":
                return [[1]]
            self._wait = "met"
            return None
        if data != wire.WAIT_CANCELED or self._wait == "open":
            raise WireError(f"it answered {data!r} to a wait")
        return [[int(self._wait == "met")]]

    def _cancel_wait(self) -> None:
        assert self.connection is not None
        self._wait = "cancelled"
        self._cost.operations += 1
        self._cost.bytes += len(_CANCEL)
        self.connection.send(_CANCEL)
        self._set_timer(self._asked.deadline_at, _GIVE_UP)

    def _give_up(self) -> None:
        waited_s = (self._kernel.now - self._asked_at) / SECOND * self.node.rate
        why = f"the store did not answer {self._asked_text()} within {waited_s:.1f} s"
        self._lose(ConnectTimeoutError(why, waited_s=waited_s, applied="unknown"))

    def _lose(self, error: Exception) -> None:
        """The connection is of no use any more."""
        self._hang_up(error)
        self._run(None, error)

    def _hang_up(self, error: Exception) -> None:
        if self.connection is not None:
            self.connection.hang_up()
        self.connection = self._loss = self._tries = None
        self._layouts, self._wait = (), ""
        self._record("lose", str(error))

    # Connecting

    def _connect(self) -> Connection | None:
        """Open a connection, unless that is refused. The greeting travels with what is asked first."""
        node = self.node
        if self._world.store.is_dead or (not node.is_plain and node.link.is_refusing):
            return None
        self.connection, self._tries = Connection(self._world, self), None
        return self.connection

    def _try_again(self) -> None:
        """After a pause, half of it at random; or raise that nobody is there."""
        node, tries = self.node, self._tries
        if tries is None:
            tries = self._tries = Tries(node.now, RECONNECT_S, StoreGoneError)
        left_s = tries.until - node.now
        if left_s > 0:
            pause_s = tries.next_pause_s(self._world.streams[f"pauses of {node.name}"])
            return self._set_timer(node.now + min(left_s, pause_s), _RECONNECT)
        self._tries, waited_s = None, node.now - tries.since
        if tries.error is StoreGoneError:
            self._lose(StoreGoneError("nobody listens where the store was", waited_s=waited_s, applied="unknown"))
        else:
            why = f"the client socket has timed out after {waited_s:.1f} s: no store answered: Connection refused"
            self._lose(ConnectTimeoutError(why, waited_s=waited_s, applied="no"))
        return None

    def _reconnect(self) -> None:
        if not self._ask(self._asked):
            self._go_on([])

    def _asked_text(self) -> str:
        text = ", ".join(f"{COMMANDS[op].upper()} {str(fields)[1:-1]}" for op, *fields in self._asked.requests)
        return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."

    # The clock

    def _set_timer(self, at: float, action: Callable[[Task], object]) -> None:
        """Do something at a time of the node, unless another is set before.

        A timer that is due earlier is left as it is, and set again when it is: most deadlines never come to pass. Hot.
        """
        self._when_due, self._due_at = action, at
        if self._timer is not None:
            if self._armed_at <= at:
                return
            self._kernel.cancel(self._timer)
        self._arm()

    def _arm(self) -> None:
        node, self._armed_at = self.node, self._due_at
        due = node.when(self._due_at) + node.lag
        self._timer = self._kernel.call_at(due, _LOOK, (self,)) if due < NEVER else None

    def _look(self) -> None:
        """The timer: what is due happens, unless the node is paused; then `look_at_clock` comes."""
        node, self._timer = self.node, None
        if node.attention.is_shut:
            return
        if self._due_at > node.now:
            self._arm()
        else:
            self._when_due(self)


# Plain functions, no bound methods: a task that kept one of its own would be a cycle.
_BEGIN, _LOOK, _GO_ON, _RECONNECT = Task._begin, Task._look, Task._go_on, Task._reconnect  # noqa: SLF001 - they are this
_CANCEL_WAIT, _GIVE_UP = Task._cancel_wait, Task._give_up  # noqa: SLF001 - module's
