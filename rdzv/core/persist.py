"""How a flow outlives a store that is away for a while: what failed is asked again.

Every request of the elastic flows may be made twice without harm. A store that is silent (its process is stopped, its
network is cut) is asked again until it has been away for as long as a node may be without being taken for dead; then
the error is the caller's. So it is with one that hangs up, since only the connection may be lost; if nobody serves it
any more, its host has died, and the caller learns it at once. One failure alone proves nothing, however long it took:
it may be this node that was paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.effects import Effect, Sleep, StoreGoneError
from rdzv.core.join import found, read
from rdzv.errors import ConnectTimeoutError, DistNetworkError, RendezvousError, RendezvousStateError

if TYPE_CHECKING:
    from rdzv.core.documents import Settings
    from rdzv.core.effects import AnyEffect, Flow, Result


def persist(flow: Flow[Result], settings: Settings, now: float, patience_s: float | None = None) -> Flow[Result]:
    """Carry out a flow, asking again what a store did not answer.

    Args:
        flow: What to carry out; not started yet.
        settings: For how long a request may go unanswered, and a node without a sign of life.
        now: The time, on the driver's clock, in seconds.
        patience_s: For how long to ask a silent store, in seconds; if not given, for as long as a node may be silent.

    Raises:
        DistNetworkError: The store was away for too long, or is gone.
    """
    patience_s = settings.bound_s if patience_s is None else patience_s
    try:
        effect = next(flow)
        while True:
            try:
                try:
                    answer = yield effect
                except DistNetworkError as error:
                    answer = yield from _ask_again(effect, error, settings, patience_s, now)
            except RendezvousError as error:  # the driver's: it ends the flow, which is to take its leave
                effect = flow.throw(error)
                continue
            now = answer[1]
            effect = flow.send(answer)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        flow.close()


def _ask_again(
    effect: AnyEffect, error: DistNetworkError, settings: Settings, patience_s: float, now: float
) -> Flow[tuple[Any, float]]:
    """Ask for what has failed, with that error, until there is an answer, or no hope."""
    failing_since, failures = now, 0
    while not isinstance(error, StoreGoneError):
        failures += 1
        _, now = yield Sleep(now)  # only to know the time
        if failures > 1 and now - failing_since >= patience_s:
            break
        if failures > 1 and not isinstance(error, ConnectTimeoutError):  # it hung up, and may do so again at once
            _, now = yield Sleep(now + settings.poll_s)
        assert not isinstance(effect, Sleep)
        late_s = now + settings.heartbeat_s - effect.deadline_at
        effect = effect._replace(deadline_at=effect.deadline_at + max(0.0, late_s))
        try:
            if failures > 1 and isinstance(effect, Effect):
                yield from _look_at_numbers(effect)
            return (yield effect)
        except DistNetworkError as another:
            error = another
    raise error


def _look_at_numbers(effect: Effect) -> Flow[None]:
    """Look whether the store is at fault, or what it holds: it hangs up on whoever adds to what is no number.

    Raises:
        RendezvousStateError: There is something else.
    """
    for op, *fields in effect.requests:
        key = fields[0]
        if op != wire.ADD or not isinstance(key, bytes):
            continue
        ((value,),), _ = yield effect._replace(requests=[read(key)], wait_until=None)
        is_there = found(value) == value
        if is_there and not value.removeprefix(b"-").isdigit():
            raise RendezvousStateError(f"{key.decode()!r} holds what no node writes there, {value[:60]!r}: no number")
