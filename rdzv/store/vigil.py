"""Whether a server awaits a client awake or asleep: what pays is found out by trying. Knows no socket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SPELL = 32  # requests of a lone client between two decisions whether to await the next ones so
_SPELLS_MAX = 64  # after so many the other way is tried again


class Vigil:
    """Decides whether to await the next request of a lone, busy client awake: as long as more come so than asleep.

    Which of the two is quicker depends on the machine: on how long it takes to wake a process, and on whether the two
    run on one processor or on two. So both are tried, a spell of requests at a time, and from time to time again.

    Attributes:
        spin_s: For how long to be awake at most, in seconds.
        is_awake: Whether to be so now.
    """

    __slots__ = ("_client", "_clock", "_requests", "_since", "_spells", "_took_s", "is_awake", "spin_s")

    def __init__(self, spin_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.spin_s, self._clock = spin_s, clock
        self._client = -1
        self.end()

    def end(self) -> None:
        """Nothing has come: that was no busy client."""
        self.is_awake = False
        self._requests = self._spells = 0
        self._took_s = [0.0, 0.0]  # by the last spell of each kind; 0 as long as there was none
        self._since = 0.0

    def note(self, events: list[tuple[int, int]]) -> None:
        """Take in what has come. Hot."""
        if len(events) != 1 or events[0][0] != self._client:
            self._client = events[0][0] if len(events) == 1 else -1
            if self._requests:
                self.end()
            return
        self._requests += 1
        if self._requests % _SPELL == 0:
            self._decide(self._clock())

    def _decide(self, now: float) -> None:
        """A spell is over: how long it took says how to spend the next."""
        if self._since:
            took_s, awake = self._took_s, self.is_awake
            took_s[awake] = now - self._since
            self._spells += 1
            is_other_better = took_s[not awake] < took_s[awake]  # also if it was not tried yet
            if is_other_better or self._spells >= _SPELLS_MAX:
                self.is_awake, self._spells = not awake, 0
        self._since = now
