"""What happens next: events in virtual time, one after the other, in an order that depends on nothing else.

An event is a call that is due at a whole nanosecond. Of two that are due at the same one, the one that was asked for
first comes first. That is all: what the events mean is for `world` and its parts to know.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Event: TypeAlias = tuple[int, int, Callable[..., object], tuple[object, ...]]  # when, its number, what to call

SECOND = 1_000_000_000  # in nanoseconds, as all times here
NEVER = 1 << 62

_CANCELLED_MIN = 1000  # fewer are not worth clearing away
_SHOWN_MAX = 10


class Stalled(Exception):  # noqa: N818 - a finding about what was run, and this is its name in the field
    """What somebody waits for cannot happen any more, or has not happened in time.

    Attributes:
        waiting: Who waits for what, a sentence for each.
        at_s: The virtual time, in seconds.
    """

    def __init__(self, why: str, waiting: Sequence[str], at_s: float) -> None:
        more = [f"... and {len(waiting) - _SHOWN_MAX} more"] if len(waiting) > _SHOWN_MAX else []
        super().__init__("\n  ".join([f"at {at_s:.9g} s {why}:", *waiting[:_SHOWN_MAX], *more]))
        self.waiting = tuple(waiting)
        self.at_s = at_s


class Kernel:
    """A clock, and what is due on it.

    Attributes:
        now: The virtual time, in nanoseconds since the start.
    """

    __slots__ = ("_cancelled", "_dropped", "_heap", "_number", "_until", "_waiting", "now")

    def __init__(self, waiting: Callable[[], Sequence[str]] = tuple) -> None:
        """At time 0, with nothing due.

        Args:
            waiting: Is asked, when nothing is due any more, who still waits for what: a sentence for each.
        """
        self.now = 0
        self._waiting = waiting
        self._heap: list[Event] = []
        self._number = 0  # of the last event that was asked for
        self._cancelled: set[int] = set()
        self._dropped = 0  # how many were cancelled, and are not in the heap any more
        self._until = NEVER

    @property
    def events(self) -> int:
        """How many events have happened."""
        return self._number - self._dropped - len(self._heap)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due any more, but for what was cancelled."""
        self._clear_away()
        return not self._heap

    def call_at(self, when: int, action: Callable[..., object], *args: object) -> Event:
        """Let something happen at a time, in nanoseconds; if that is past, as the last thing that happens now."""
        self._number = number = self._number + 1
        event = (when if when > self.now else self.now, number, action, args)  # noqa: FURB136 - max() takes its time
        heappush(self._heap, event)
        return event

    def cancel(self, event: Event) -> None:
        """Let it not happen. If it has happened already, nothing changes."""
        self._cancelled.add(event[1])
        if len(self._cancelled) > max(_CANCELLED_MIN, len(self._heap) // 2):
            self._clear_away()

    def run(self, until: int | None = None) -> None:
        """Let everything happen that is due, in its order.

        Args:
            until: The last nanosecond to happen, which the clock shows afterwards; if not given, there is none.

        Raises:
            Stalled: Nothing is due any more, and somebody waits. Not with ``until``: who gives it may have plans.
        """
        heap, cancelled = self._heap, self._cancelled
        self._until = NEVER if until is None else until
        while heap and heap[0][0] <= self._until:
            when, number, action, args = heappop(heap)
            if number in cancelled:
                cancelled.remove(number)
                self._dropped += 1
                continue
            self.now = when
            action(*args)
        if until is not None:
            self.now = max(self.now, self._until)
        elif not heap and (waiting := self._waiting()):
            raise Stalled("nothing can happen any more, but somebody waits", waiting, self.now / SECOND)

    def stop(self) -> None:
        """Let `run` return after the event that is happening; the clock stays there, and the rest stays due."""
        self._until = -1

    def _clear_away(self) -> None:
        """Take what is cancelled out of the heap; in place, since `run` may be at it."""
        heap, size = self._heap, len(self._heap)
        heap[:] = [event for event in heap if event[1] not in self._cancelled]
        heapify(heap)
        self._dropped += size - len(heap)
        self._cancelled.clear()
