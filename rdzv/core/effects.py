"""What a procedure of the core asks for: store requests, waits with a deadline, the head's document, sleep.

A procedure that would block is a generator. It yields an effect and is sent ``(result, now)``: what came of it, and
the time then. Who drives it owns the connection and the clock: a real client, or a simulated world. What cannot be
carried out by its deadline, or not at all, is the driver's error, a `DistNetworkError`. A driver may throw it into the
procedure; all let it pass but `persist`, which asks again.
"""

# Annotations are not put off here: for a named tuple each would be compiled by itself, and every start waits for that.
from typing import TYPE_CHECKING, Any, NamedTuple

from rdzv.errors import DistNetworkError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import TypeAlias, TypeVar

    from rdzv.core.wire import Request

    Result = TypeVar("Result")
    AnyEffect: TypeAlias = "Effect | ReadHead | WriteHead | Sleep"
    Flow = Generator[AnyEffect, tuple[Any, float], Result]


class StoreGoneError(DistNetworkError):
    """A driver's word that nobody serves the store any more: to ask again is of no use."""


class Effect:
    """Requests to the store; the result is the list of the replies, for those requests that have one.

    Attributes:
        requests: What to ask, together and in order; for a wait, the one WAIT or BARRIER.
        deadline_at: When it must be over, on the driver's clock, in seconds.
        wait_until: For a wait: until when to wait. The result is ``[[1]]`` if it was met, ``[[0]]`` if it was not.
        beat: Whether this only shows or watches life: it is counted apart from what a join costs.
    """

    __slots__ = ("beat", "deadline_at", "requests", "wait_until")

    def __init__(
        self, requests: "Sequence[Request]", deadline_at: float, wait_until: float | None = None, beat: bool = False
    ) -> None:
        self.requests, self.deadline_at, self.wait_until, self.beat = requests, deadline_at, wait_until, beat

    def _replace(self, **changes: object) -> "Effect":
        """The same but for some of it, as of a named tuple, which takes twice as long to make and to look at."""
        return Effect(**({name: getattr(self, name) for name in self.__slots__} | changes))


class ReadHead(NamedTuple):
    """Read the backend's document; the result is ``(state, token)``, or ``None`` if there is none yet.

    Attributes:
        deadline_at: When it must be over, on the driver's clock, in seconds.
        beat: As in `Effect`.
    """

    deadline_at: float
    beat: bool = False


class WriteHead(NamedTuple):
    """Replace the backend's document if it is still the one that the token is of.

    The result is ``(state, token, written)``: what the document is now; or ``None`` if there is none.

    Attributes:
        state: The document to write.
        token: That of the document to replace; ``None`` if there must be none.
        deadline_at: When it must be over, on the driver's clock, in seconds.
    """

    state: bytes
    token: Any
    deadline_at: float


class Sleep(NamedTuple):
    """Do nothing for a while; the result is ``None``.

    Attributes:
        until: Until when, on the driver's clock, in seconds.
    """

    until: float
