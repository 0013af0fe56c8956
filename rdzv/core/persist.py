"""How a flow outlives a store that is away for a while: what failed is asked again.

Every request of the elastic flows may be made twice without harm. A store that is silent (its process is stopped, its
network is cut) is asked again until it has been away for as long as a node may be without being taken for dead; then
the error is the caller's. A store that has hung up is tried once more, since only the connection may be lost; if nobody
is there any more, its host has died, and the caller learns it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.errors import ConnectTimeoutError, DistNetworkError, RendezvousError

if TYPE_CHECKING:
    from rdzv.core.documents import Settings
    from rdzv.core.effects import Flow, Result


def persist(flow: Flow[Result], settings: Settings, now: float) -> Flow[Result]:
    """Carry out a flow, asking again what a store did not answer.

    Args:
        flow: What to carry out; not started yet.
        settings: For how long a request may go unanswered, and a node without a sign of life.
        now: The time, on the driver's clock, in seconds.

    Raises:
        DistNetworkError: The store was away for too long, or is gone.
    """
    try:
        effect = next(flow)
        while True:
            try:
                answer = yield from _ask(effect, settings, now)
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


def _ask(effect: Effect | ReadHead | WriteHead | Sleep, settings: Settings, now: float) -> Flow[tuple[Any, float]]:
    failing_since, hung_up = now, False
    while True:
        try:
            return (yield effect)
        except DistNetworkError as error:
            is_silent = isinstance(error, ConnectTimeoutError)
            _, now = yield Sleep(now)  # only to know the time
            if (hung_up and not is_silent) or now - failing_since >= settings.bound_s:
                raise
            hung_up = not is_silent
        assert not isinstance(effect, Sleep)
        late_s = now + settings.heartbeat_s - effect.deadline_at
        effect = effect._replace(deadline_at=effect.deadline_at + max(0.0, late_s))
