"""Whoever was given a round has done with all before it; and what a trace says was asked, in which order."""

from __future__ import annotations

import pytest

from rdzv.core import wire
from sim.check.linearizable import contradiction
from sim.check.stale import Access, stale
from sim.search.operations import accesses, operations

GIVEN = {"a": [(1.0, 1), (5.0, 3)]}


@pytest.mark.parametrize(
    ("access", "is_stale"),
    [
        (Access(4.0, "a", 1, "beat"), False),  # its round
        (Access(6.0, "a", 3, "beat"), False),
        (Access(6.0, "a", 4, "lobby"), False),
        (Access(6.0, "a", 2, "beat"), True),
        (Access(6.0, "a", 1, "end"), True),
        (Access(6.0, "a", 1, "end", deletes=True), False),  # it clears away
        (Access(6.0, "a", 1, "ticket"), False),  # as much as there is
        (Access(6.0, "b", 1, "end"), False),  # it was given none
    ],
)
def test_what_is_asked_of_a_round_that_is_over_is_named(access: Access, is_stale: bool) -> None:
    told = list(stale([access], GIVEN))
    expected = f"at 6 s a, which was given round 3, asked for {access.name} of round {access.round}"
    assert told == ([expected] if is_stale else [])


def test_a_trace_says_what_was_asked_of_which_round() -> None:
    """Of all keys of a request, whatever it is; keys of no round are nobody's."""
    requests = [
        (wire.ADD, b"/rdzv/job/0/ticket", 1),
        (wire.MULTI_SET, [b"/rdzv/job/2/node/3", b"/rdzv/job/1/x", b"/rdzv/job/2/beat/3", b"7"]),
        (wire.DELETE_KEY, b"/rdzv/job/1/end"),
        (wire.GET, b"/rdzv/head"),
    ]
    trace = [(2_000_000_000, "a", "ask", "tend", requests), (2_000_000_000, "a", "get", "tend", [])]
    assert list(accesses(trace)) == [
        Access(2.0, "a", 1, "ticket"),
        Access(2.0, "a", 3, "node"),
        Access(2.0, "a", 3, "beat"),
        Access(2.0, "a", 2, "end", deletes=True),
    ]


def test_what_was_asked_last_comes_after_what_was_asked_before() -> None:
    """Also if the trace ends before any answer: one connection has one order."""
    first, second, look = [(wire.SET, b"k", b"1")], [(wire.SET, b"k", b"2")], [(wire.GET, b"k")]
    writes = [(0, "a", "ask", "flow", first), (1, "a", "ask", "flow", second)]
    back = [
        *((2, "b", "ask", "flow", look), (3, "b", "get", "flow", [[b"2"]])),
        *((4, "b", "ask", "flow", look), (5, "b", "get", "flow", [[b"1"]])),
    ]
    assert contradiction(operations([*writes, *back])) is not None
    assert contradiction(operations([*writes, *back[2:], (6, *back[0][1:]), (7, *back[1][1:])])) is None
