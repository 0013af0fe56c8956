"""Messages between ranks and the store: out of a trace, into the document, the page and the Chrome trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rdzv.core.wire import ADD, GET, SET, WAIT, encode
from sim import scenario_file
from sim.report.chrome import chrome_trace
from sim.report.document import document
from sim.report.page import page
from sim.report.passages import Passage, passages
from sim.report.recorder import Recorder
from sim.report.timeline import Timeline, timeline
from sim.virtual.run import run

if TYPE_CHECKING:
    from pathlib import Path

    from rdzv.core.wire import Request

MS = 1_000_000


def ask(at_ms: int, rank: int, task: str, *requests: Request) -> tuple[Any, ...]:
    return at_ms * MS, f"rank {rank}", "ask", task, requests


def serve(at_ms: int, rank: int, *requests: Request) -> tuple[Any, ...]:
    return at_ms * MS, f"rank {rank}", "serve", sum(len(encode(*request)) for request in requests)


def get(at_ms: int, rank: int, task: str, *replies: object) -> tuple[Any, ...]:
    return at_ms * MS, f"rank {rank}", "get", task, list(replies)


def test_a_request_goes_to_the_store_and_its_reply_comes_back() -> None:
    """The reply is sent when the request is served; what is for no rank is left out."""
    add = (ADD, b"counter", 1)
    trace = [ask(1, 0, "join", add), (2 * MS, "the store", "pause"), serve(3, 0, add), get(5, 0, "join", 7)]
    assert passages(trace) == [
        Passage(0, False, "ADD b'counter', 1", 0.001, 0.003),
        Passage(0, True, "[7]", 0.003, 0.005),
    ]


def test_requests_under_way_are_told_from_each_other_by_their_size() -> None:
    """Two tasks of one rank have a connection each, and the second may be served first."""
    short, long = (GET, b"k"), (GET, b"a longer key")
    trace = [ask(1, 0, "one", long), ask(2, 0, "other", short), serve(3, 0, short), serve(4, 0, long)]
    assert [(p.text, p.sent_s, p.arrived_s) for p in passages([*trace, get(9, 0, "one", b"x")])] == [
        ("GET b'a longer key'", 0.001, 0.004),
        ("GET b'k'", 0.002, 0.003),
        ("[b'x']", 0.004, 0.009),
    ]


def test_the_reply_of_a_wait_is_sent_when_somebody_ends_it() -> None:
    """Not when the wait was served."""
    wait, write = (WAIT, [b"k"]), (SET, b"k", b"v")
    trace = [ask(1, 0, "tend", wait), serve(2, 0, wait), ask(30, 1, "write", write), serve(31, 1, write)]
    (reply,) = (p for p in passages([*trace, get(32, 0, "tend", 0)]) if p.is_reply)
    assert (reply.rank, reply.sent_s, reply.arrived_s) == (0, 0.031, 0.032)


def test_what_is_never_served_never_arrives() -> None:
    """It is drawn, too."""
    (lost,) = passages([ask(1, 2, "join", (GET, b"k"))])
    assert (lost.rank, lost.arrived_s) == (2, None)


@pytest.fixture(name="drawn", scope="module")
def _drawn() -> Timeline:
    recorder = Recorder(3, began_at=0.0)
    result = run(scenario_file.find("cut-off"), 1, is_traced=True, on_event=recorder.hear)
    return timeline(result, recorder, [], "replay", ".")


def test_a_run_in_virtual_time_has_its_messages_in_the_document(drawn: Timeline) -> None:
    """Of every rank, in both directions, in the order of time; a cut link loses some."""
    told = document(drawn)["passages"]
    assert {(each["rank"], each["is_reply"]) for each in told} == {(r, d) for r in range(3) for d in (False, True)}
    assert [each["sent_s"] for each in told] == sorted(each["sent_s"] for each in told)
    assert all(each["arrived_s"] is None or each["arrived_s"] >= each["sent_s"] for each in told)
    assert any(each["arrived_s"] is None and each["rank"] == 2 for each in told)


def test_the_trace_has_an_arrow_for_each_message_that_arrives(drawn: Timeline) -> None:
    """From thread to thread, each with both ends; the store has a thread of its own."""
    events = chrome_trace(drawn)["traceEvents"]
    threads = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    store = threads["store"]
    assert store == max(threads.values())
    ends: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] in "sf":
            ends.setdefault(event["id"], []).append(event)
    arrived = [passage for passage in drawn.passages if passage.arrived_s is not None]
    assert len(ends) == len(arrived) > 20
    for start, finish in ends.values():
        assert (start["ph"], finish["ph"]) == ("s", "f")
        assert start["ts"] <= finish["ts"]
        assert (start["tid"] == store) != (finish["tid"] == store)


def test_the_page_draws_them_and_says_what_they_are(browser, drawn: Timeline, tmp_path: Path) -> None:
    """Where a rank sends something, the tip has what, and how long it took; without complaints."""
    path = tmp_path / "report.html"
    path.write_text(page(document(drawn)), "utf-8")
    browser.open(path)
    assert browser.complaints() == []
    sent = next(p for p in drawn.passages if not p.is_reply and p.rank == 1 and p.arrived_s)
    browser.run(f"chart.look({sent.sent_s} - 0.001, {sent.sent_s} + 0.001)")
    browser.frame()
    place = browser.run("document.getElementById('chart').getBoundingClientRect().toJSON()")
    x = place["x"] + browser.run(f"chart.x({sent.sent_s})")
    browser.mouse("mouseMoved", x, place["y"] + browser.run("chart.y(1) + chart.lane / 2"))
    tip = browser.run("document.getElementById('tip').textContent")
    assert f"→ store: {sent.text}" in tip
    assert "(took " in tip
