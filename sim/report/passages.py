"""What passed between ranks and the store, out of the trace of a run in virtual time: a line from lane to lane each.

Knows the trace's entries for asking, serving and getting. Which of a rank's requests was served, its size says; of two
that are as long, the first asked is the first served. A reply is sent when its request is served; that of a wait, when
the store last served anybody before it came.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rdzv.core.wire import COMMANDS, WAIT, encode
from sim.virtual.kernel import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TEXT_CHARS_MAX = 120


class _Asked(NamedTuple):
    at: int
    task: str
    size: int
    requests: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Passage:
    """One message between a rank and the store.

    Attributes:
        rank: Whose.
        is_reply: Whether it comes from the store.
        text: What it says.
        sent_s: When it was sent, in seconds since the run began.
        arrived_s: When it arrived; ``None`` if it never did.
    """

    rank: int
    is_reply: bool
    text: str
    sent_s: float
    arrived_s: float | None


def passages(trace: Iterable[Sequence[Any]]) -> list[Passage]:
    """All messages of a trace, by the time they were sent.

    Args:
        trace: As `sim.virtual.world.World` keeps it; its nodes are called ``rank 0`` and so on.
    """
    return sorted(_passages(trace), key=lambda passage: passage.sent_s)


def _passages(trace: Iterable[Sequence[Any]]) -> Iterator[Passage]:
    asked: defaultdict[int, list[_Asked]] = defaultdict(list)  # by rank, what was not served yet
    served: dict[tuple[int, str], tuple[int, bool]] = {}  # by rank and task: when, and whether it waits
    last_at = 0  # when the store served anybody
    for at, who, what, *details in trace:
        noun, _, number = str(who).partition(" ")
        if noun != "rank":
            continue
        rank = int(number)
        if what == "ask" and details[1]:
            task, requests = details
            asked[rank].append(_Asked(at, task, sum(len(encode(*request)) for request in requests), requests))
        elif what == "serve":
            last_at = at
            found = next((each for each in asked[rank] if each.size == details[0]), None)
            if found:
                asked[rank].remove(found)
                served[rank, found.task] = at, any(request[0] == WAIT for request in found.requests)
                yield Passage(rank, False, _text(found.requests), found.at / SECOND, at / SECOND)
        elif what == "get" and (rank, details[0]) in served:
            served_at, waits = served.pop((rank, details[0]))
            sent_at = last_at if waits else served_at
            yield Passage(rank, True, _cut(repr(details[1])), sent_at / SECOND, at / SECOND)
    for rank, lost in asked.items():
        yield from (Passage(rank, False, _text(each.requests), each.at / SECOND, None) for each in lost)


def _text(requests: Sequence[Sequence[Any]]) -> str:
    return _cut(
        ", ".join(f"{COMMANDS[op].upper()} {str(tuple(fields))[1:-1]}".rstrip(" ,") for op, *fields in requests)
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "..."
