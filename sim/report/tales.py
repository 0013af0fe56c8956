"""What nodes themselves tell of a run, through the file that ``RDZV_EVENTS`` names; see `rdzv.events`.

Knows that file's format, and expects anything in it: programs under test write there. Must not know the messages
between the processes of a run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ALWAYS = ("at", "event", "run_id", "by", "pid", "round")


@dataclass(frozen=True, slots=True)
class Tale:
    """One event as a node told it.

    Attributes:
        at_s: When, in seconds since the run began.
        event: Its name, such as ``"connected"`` or ``"met"``.
        by: The node that tells.
        pid: Its process.
        round: Which round it is about, if any.
        text: The event's other facts, for people.
    """

    at_s: float
    event: str
    by: str
    pid: int
    round: int | None
    text: str


def read_tales(lines: Iterable[bytes], began: datetime) -> Iterator[Tale]:
    """The events in a file, in the order of its lines; what is none is passed over.

    Args:
        lines: The file's.
        began: When the run began, with its time zone.
    """
    for line in lines:
        try:
            told: dict[str, Any] = json.loads(line)
            at_s = (datetime.fromisoformat(told["at"]) - began).total_seconds()
            event, by, pid, number = str(told["event"]), str(told["by"]), int(told["pid"]), told.get("round")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            continue
        shown = {name: value for name, value in told.items() if name not in _ALWAYS}
        facts = ", ".join(str(value) if name == "why" else f"{name} {value}" for name, value in shown.items())
        yield Tale(at_s, event, by, pid, number if type(number) is int else None, facts)
