"""What a procedure of the core asks for: store requests, and waits with a deadline.

A procedure that would block is a generator. It yields an `Effect` and is sent ``(replies, now)``: what came of it, and
the time then. Who drives it owns the connection and the clock: a real client, or a simulated world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import TypeVar

    from rdzv.core.wire import Reply, Request

    Result = TypeVar("Result")
    Flow = Generator["Effect", tuple[list[Reply], float], Result]


class Effect(NamedTuple):
    """One thing to be done.

    Attributes:
        requests: What to ask the store, together; for a wait, the one WAIT or BARRIER.
        deadline_at: When it must be over, on the driver's clock, in seconds; a missed deadline is the driver's error.
        wait_until: For a wait: until when to wait. The reply is ``[[1]]`` if it was met, ``[[0]]`` if it was not.
    """

    requests: Sequence[Request]
    deadline_at: float
    wait_until: float | None = None
