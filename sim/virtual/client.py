"""The client's end of a conversation with the store: effects as requests, answers as replies, connecting again.

What `rdzv.core.client`, `rdzv.store.connection` and `rdzv.driver` do for a process, for tasks whose answers come whole.
The backend's document is one more key, as it is with the c10d backend.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.effects import Effect, ReadHead, WriteHead
from rdzv.core.wire import ENCODERS, REPLY_LAYOUTS, FrameReader, Limits, WireError, encode_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.effects import AnyEffect, Flow, Result
    from rdzv.core.wire import Reply, Request
    from rdzv.errors import DistNetworkError
    from sim.virtual.streams import Stream

HEAD_KEY = b"/rdzv/head"

# As the real client connects, and the real driver after a loss.
RECONNECT_S = 1.0
_RETRY_S_MIN, _RETRY_S_MAX, _RETRY_GROWTH = 0.01, 1.0, 1.5

_LIMITS = Limits(value_bytes_max=1 << 40, keys_per_request_max=1 << 40)
_LAYOUTS = [None if layout == "V" else (layout,) if layout else () for layout in REPLY_LAYOUTS]


def read(data: bytes, layouts: Sequence[str]) -> list[Reply] | None:
    """The replies that an answer consists of, by their layouts; ``None`` if it is not all of them.

    Answers are whole, so that nothing is left over for the next.

    Raises:
        WireError: It consists of anything else.
    """
    reader = FrameReader(_LIMITS)
    replies: list[Reply] = []
    for layout in layouts:
        reply = reader.reply(layout, data)
        if reply is None:
            return None
        replies.append(reply)
        data = b""
    if not reader.is_between_frames:
        raise WireError(f"the store sent {reader.held_bytes} bytes that nobody asked for")
    return replies


class Tries:
    """Connecting, which was refused so far.

    Attributes:
        since: When it began, on the node's clock, in seconds.
        until: When to give up.
        error: What it is then.
    """

    __slots__ = ("_pause_s", "error", "since", "until")

    def __init__(self, now: float, for_s: float, error: type[DistNetworkError]) -> None:
        self.since, self.until, self.error = now, now + for_s, error
        self._pause_s = _RETRY_S_MIN

    def next_pause_s(self, chance: Stream) -> float:
        """How long to wait before the next one, half of it at random, in seconds."""
        pause_s = self._pause_s * chance.between(0.5, 1.0)
        self._pause_s = min(_RETRY_S_MAX, _RETRY_GROWTH * self._pause_s)
        return pause_s


def in_turn(flow: Flow[Result]) -> Flow[Result]:
    """Carry out a flow request by request, as a driver does for which each is a round trip: others may come between.

    Each may take as long as all of them together might: so it is with a driver whose store has a timeout for a call.
    """
    now = inf
    try:
        effect = next(flow)
        while True:
            try:
                answer = yield from _each_in_turn(effect, now)
            except Exception as error:  # noqa: BLE001 -- whatever befell the effect, it is the flow's
                effect = flow.throw(error)
            else:
                now = answer[1]
                effect = flow.send(answer)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        flow.close()


def _each_in_turn(effect: AnyEffect, asked_at: float) -> Flow[tuple[Any, float]]:
    if type(effect) is not Effect or len(effect.requests) < 2:
        return (yield effect)
    replies: list[Reply] = []
    now = asked_at
    for request in effect.requests:
        later_s = max(0.0, now - asked_at)
        found, now = yield Effect([request], effect.deadline_at + later_s, effect.wait_until, effect.beat)
        replies += found
    return replies, now


def encoded(requests: Sequence[Request]) -> tuple[bytes, Sequence[str]]:
    """Some requests as bytes, and the layouts of the replies to come, for those that have one. Hot."""
    if len(requests) == 1:
        request = requests[0]
        op = request[0]
        layouts = _LAYOUTS[op]
        if layouts is not None:
            return ENCODERS[op](request), layouts
    found = [REPLY_LAYOUTS[request[0]] for request in requests]
    if "" in found:
        found = [layout for layout in found if layout]
    if "V" in found:  # one value for each key that is asked for
        counts = iter([len(request[1]) for request in requests if request[0] == wire.MULTI_GET])  # type: ignore[misc]
        found = [layout if layout != "V" else "v" * next(counts) for layout in found]
    return encode_all(requests), found


def asked_of_head(effect: ReadHead | WriteHead) -> Effect:
    """What reading or writing the document asks of the store."""
    if type(effect) is ReadHead:
        return Effect(((wire.GET, HEAD_KEY),), effect.deadline_at, None, effect.beat)
    assert type(effect) is WriteHead, f"{effect!r} is no effect"
    return Effect(((wire.COMPARE_SET, HEAD_KEY, effect.token or b"", effect.state),), effect.deadline_at)


def head_result(effect: ReadHead | WriteHead, replies: Any) -> Any:
    """What the store's reply means to the flow."""
    ((state,),) = replies
    if type(effect) is WriteHead:
        return state, state, state == effect.state
    return (state, state) if state else None
