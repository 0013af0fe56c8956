"""A timeline as Chrome trace events, which Perfetto and ``chrome://tracing`` open: a thread for each rank.

Knows that format (times in microseconds, a letter for each kind of event). Must not know the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.report.passages import Passage
    from sim.report.timeline import Timeline

_SERVED_S = 2e-6  # how long a message is drawn at its ends, where arrows need something to hold on to
_PROCESS = 1  # the ranks are drawn as the threads of one process; thread 1 is the world, rank 0 is thread 2


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The trace, ready for JSON."""
    return {
        "displayTimeUnit": "ms",
        "otherData": {"command": timeline.command, "began": timeline.began},
        "traceEvents": list(_events(timeline)),
    }


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    ranks = [rank.rank for rank in timeline.result.ranks]
    yield _named("process_name", 1, name=timeline.command)
    for rank in (None, *ranks):
        yield _named("thread_name", _thread(rank), name="rounds" if rank is None else f"rank {rank}")
        yield _named("thread_sort_index", _thread(rank), sort_index=_thread(rank))
    for span in timeline.spans:
        name = f"round {span.round}" if span.rank is None else span.name
        yield _event(
            "X",
            span.rank,
            name,
            span.begin_s,
            cat=span.name,
            dur=round((span.end_s - span.begin_s) * 1e6, 3),
            args={} if span.round is None else {"round": span.round},
        )
    for mark in timeline.marks:
        scope = "t" if mark.rank is not None else "g"
        yield _event("i", mark.rank, mark.name, mark.at_s, cat="mark", s=scope, args={"text": mark.text})
    yield from _flows(timeline.passages, _thread(len(ranks)))


def _flows(passages: Sequence[Passage], store: int) -> Iterator[dict[str, Any]]:
    """An arrow for each message, from rank to store or back; one that is lost ends where it was sent."""
    if passages:
        yield _named("thread_name", store, name="store")
        yield _named("thread_sort_index", store, sort_index=store)
    for number, passage in enumerate(passages):
        threads = [_thread(passage.rank), store]
        ends = [(threads[passage.is_reply], passage.sent_s), (threads[not passage.is_reply], passage.arrived_s)]
        name = "reply" if passage.is_reply else "request"
        for (thread, at_s), phase in zip(ends, "sf", strict=True):
            if at_s is None:
                continue
            place = {"name": name, "cat": "message", "pid": _PROCESS, "tid": thread, "ts": round(at_s * 1e6, 3)}
            if thread == store:
                yield {**place, "ph": "X", "dur": _SERVED_S * 1e6, "args": {"text": passage.text}}
            if passage.arrived_s is not None:
                yield {**place, "ph": phase, "id": number, "bp": "e"}


def _named(kind: str, thread: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": thread, "args": args}


def _event(phase: str, rank: int | None, name: str, at_s: float, **rest: Any) -> dict[str, Any]:
    return {"ph": phase, "name": name, "pid": _PROCESS, "tid": _thread(rank), "ts": round(at_s * 1e6, 3), **rest}


def _thread(rank: int | None) -> int:
    return 1 if rank is None else rank + 2
