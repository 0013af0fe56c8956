"""What happens next: events in virtual time, one after the other, in an order that depends on nothing else.

An event is a call that is due at a whole nanosecond. Of two that are due at the same one, the one that was asked for
first comes first. That is all: what the events mean is for `world` and its parts to know.

They are written down as in a diary: a page for each day on which anything is due. A page is put in order when its day
comes, and then read from the top; what is due on that very day is put where it belongs. That is much quicker than a
heap, and one heap of all would soon be larger than what a processor has at hand.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop, heappush
from operator import length_hint
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Event: TypeAlias = tuple[int, int, Callable[..., object], tuple[object, ...]]  # when, its number, what to call

SECOND = 1_000_000_000  # in nanoseconds, as all times here
NEVER = 1 << 62

_DAY_BITS = 16  # a day is so many bits of nanoseconds: short enough for a page of a large world to be small
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

    __slots__ = (
        "_cancelled",
        "_cancelled_max",
        "_coming",
        "_days",
        "_dropped",
        "_number",
        "_page",
        "_pages",
        "_today",
        "_until",
        "_waiting",
        "now",
    )

    def __init__(self, waiting: Callable[[], Sequence[str]] = tuple) -> None:
        """At time 0, with nothing due.

        Args:
            waiting: Is asked, when nothing is due any more, who still waits for what: a sentence for each.
        """
        self.now = 0
        self._waiting = waiting
        self._today = 0
        self._page: list[Event] = []  # of today and of the days before, in order
        self._coming = iter(self._page)  # those on it that have not happened
        self._pages: dict[int, list[Event]] = {}  # of the days to come
        self._days: list[int] = []  # which those are, a heap
        self._number = 0  # of the last event that was asked for
        self._cancelled: set[int] = set()
        self._cancelled_max = _CANCELLED_MIN
        self._dropped = 0  # how many were cancelled, and are on no page any more
        self._until = NEVER

    @property
    def events(self) -> int:
        """How many events have happened."""
        return self._number - self._dropped - self._left()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due any more, but for what was cancelled."""
        self._clear_away()
        return not self._left()

    def call_at(self, when: int, action: Callable[..., object], args: tuple[object, ...] = ()) -> Event:
        """Let something happen at a time, in nanoseconds; if that is past, as the last thing that happens now. Hot."""
        self._number = number = self._number + 1
        event = (when, number, action, args)
        day = when >> _DAY_BITS
        page = self._pages.get(day)
        if page is not None:
            page.append(event)
        elif day > self._today:
            self._pages[day] = [event]
            heappush(self._days, day)
        else:
            if when < self.now:
                event = (self.now, number, action, args)
            if self._page and event < self._page[-1]:
                insort(self._page, event)
            else:
                self._page.append(event)
        return event

    def cancel(self, event: Event) -> None:
        """Let it not happen. If it has happened already, nothing changes."""
        self._cancelled.add(event[1])
        if len(self._cancelled) > self._cancelled_max:
            self._clear_away()

    def run(self, until: int | None = None) -> None:
        """Let everything happen that is due, in its order.

        Args:
            until: The last nanosecond to happen, which the clock shows afterwards; if not given, there is none.

        Raises:
            Stalled: Nothing is due any more, and somebody waits. Not with ``until``: who gives it may have plans.
        """
        cancelled = self._cancelled
        self._until = NEVER if until is None else until
        while True:
            for when, number, action, args in self._coming:
                if when > self._until:
                    del self._page[: self._read() - 1]  # all but this one and the rest
                    self._coming = iter(self._page)
                    break
                if number in cancelled:
                    cancelled.remove(number)
                    self._dropped += 1
                    continue
                self.now = when
                action(*args)
            else:
                if self._turn():
                    continue
            break
        if until is not None:
            self.now = max(self.now, self._until)
        elif not self._left() and (waiting := self._waiting()):
            raise Stalled("nothing can happen any more, but somebody waits", waiting, self.now / SECOND)

    def stop(self) -> None:
        """Let `run` return after the event that is happening; the clock stays there, and the rest stays due."""
        self._until = -1

    def _turn(self) -> bool:
        """Let the next day be today; false if there is none."""
        if not self._days:
            self._page.clear()
            self._coming = iter(self._page)  # the former one has come to its end, and would see nothing that is added
            return False
        self._today = today = heappop(self._days)
        self._page = page = self._pages.pop(today)
        page.sort()
        self._coming = iter(page)
        return True

    def _read(self) -> int:
        """How many events of today's page have happened."""
        return len(self._page) - length_hint(self._coming)

    def _left(self) -> int:
        """How many events are on all pages, and have not happened."""
        return length_hint(self._coming) + sum(map(len, self._pages.values()))

    def _clear_away(self) -> None:
        """Take what is cancelled off the pages; in place, since `run` may be at one."""
        before = self._left()
        for page, read in ((self._page, self._read()), *((page, 0) for page in self._pages.values())):
            page[read:] = [event for event in page[read:] if event[1] not in self._cancelled]
        left = self._left()
        self._dropped += before - left
        self._cancelled.clear()
        self._cancelled_max = max(_CANCELLED_MIN, left // 2)
