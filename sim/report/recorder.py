"""Listens to a run while it goes, and keeps what it hears; the last of what is printed, if that is much.

Knows the messages of ranks. Must not know what is made of them: that is `sim.report.timeline`. To listen costs a run
one small tuple for each message.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.process.messages import Message

LOG_BYTES_MAX = 16 << 20  # of all ranks together, in the page: one that a browser opens at once
LOG_BYTES_MIN = 16 << 10  # of each rank, however many there are
LINE_BYTES = 60  # in the page, of each line beside its text


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a rank printed.

    Attributes:
        rank: Which rank.
        stream: ``"stdout"`` or ``"stderr"``.
        text: Without its newline; bytes that are no UTF-8 are replaced.
        at_s: When it was read, in seconds since the run began.
    """

    rank: int
    stream: str
    text: str
    at_s: float


class Recorder:
    """What is heard of a run.

    Attributes:
        began_at: When it began, on the clock of the run, in seconds; mostly that is `time.monotonic`.
        began: The same moment for people.
        heard: Messages as (seconds since the beginning, rank, message): when they were sent if they say so.
        cut_bytes: How much was dropped of what a rank printed first, for those that printed too much.
    """

    def __init__(self, world_size: int, began_at: float | None = None) -> None:
        """Begin; the run begins now, unless its clock is another and shows something else then."""
        self.began_at = time.monotonic() if began_at is None else began_at
        self.began = datetime.now(timezone.utc)
        self.heard: list[tuple[float, int | None, Message]] = []
        self.cut_bytes: defaultdict[int, int] = defaultdict(int)
        self._kept_bytes_max = max(LOG_BYTES_MIN, LOG_BYTES_MAX // world_size)
        self._printed: defaultdict[int, deque[tuple[float, str, bytes]]] = defaultdict(deque)
        self._kept_bytes: defaultdict[int, int] = defaultdict(int)

    def on_event(self, rank: int | None, message: Message) -> None:
        """Take in a message of a rank, to it, or about it; about all if there is none."""
        at: float | None = getattr(message, "at", None)
        self.hear((at or time.monotonic()) - self.began_at, rank, message)

    def hear(self, at_s: float, rank: int | None, message: Message) -> None:
        """Likewise, with the time, in seconds since the run began."""
        self.heard.append((at_s, rank, message))

    def on_output(self, rank: int, stream: str, lines: bytes) -> None:
        """Take in whole lines that a rank has printed."""
        printed = self._printed[rank]
        printed.append((time.monotonic() - self.began_at, stream, lines))
        self._kept_bytes[rank] += _bytes_in_page(lines)
        while self._kept_bytes[rank] > self._kept_bytes_max and len(printed) > 1:
            dropped = printed.popleft()[2]
            self._kept_bytes[rank] -= _bytes_in_page(dropped)
            self.cut_bytes[rank] += len(dropped)

    def lines(self) -> list[Line]:
        """What is left of what was printed, in the order in which it was read."""
        return sorted(
            (
                Line(rank, stream, text, at_s)
                for rank, printed in self._printed.items()
                for at_s, stream, block in printed
                for text in block.decode(errors="replace").split("\n")[:-1]
            ),
            key=lambda line: line.at_s,
        )


def _bytes_in_page(lines: bytes) -> int:
    return len(lines) + LINE_BYTES * lines.count(b"\n")
