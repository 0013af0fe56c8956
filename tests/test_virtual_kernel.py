"""The kernel of the virtual world, and its chance: the same every time, in the order that was asked for."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import given, strategies as st

from sim.virtual.kernel import SECOND, Kernel, Stalled
from sim.virtual.streams import Stream, Streams

whens = st.lists(st.integers(0, 20), max_size=30)


@given(whens=whens)
def test_events_happen_in_order_of_time_and_then_of_asking(whens):
    """Whoever asks first for a nanosecond is first in it, and the clock shows each event's own time."""
    kernel, happened = Kernel(), []
    for number, when in enumerate(whens):
        kernel.call_at(when, lambda number: happened.append((kernel.now, number)), (number,))
    kernel.run()
    assert happened == sorted((when, number) for number, when in enumerate(whens))
    assert kernel.events == len(whens)


@given(plan=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 29)), max_size=30))
def test_an_event_may_cancel_any_other_and_itself(plan):
    """What is cancelled in time does not happen; to cancel what has happened changes nothing."""
    kernel, happened, events = Kernel(), [], []

    def happen(number):
        happened.append(number)
        if (victim := plan[number][1]) < len(events):
            kernel.cancel(events[victim])

    events += [kernel.call_at(when, happen, (number,)) for number, (when, _) in enumerate(plan)]
    kernel.run()
    expected: list[int] = []
    for number in sorted(range(len(plan)), key=lambda number: plan[number][0]):
        if all(plan[earlier][1] != number for earlier in expected):
            expected.append(number)
    assert happened == expected
    assert kernel.events == len(expected)


def test_what_is_cancelled_is_not_kept_until_its_time():
    """A deadline that did not come to pass costs nothing for the rest of the run."""

    class Deadline:
        def __call__(self):
            raise AssertionError("it was cancelled")

    kernel, kept = Kernel(), []
    kernel.call_at(5, kept.append, ("it",))
    deadlines = weakref.WeakSet()
    for _ in range(50_000):
        deadline = Deadline()
        deadlines.add(deadline)
        kernel.cancel(kernel.call_at(SECOND, deadline))
    del deadline
    assert len(deadlines) < 5000
    kernel.run()
    assert (kept, kernel.now, kernel.events) == (["it"], 5, 1)


def test_a_world_is_idle_when_all_that_is_due_was_cancelled():
    """A deadline that will not come to pass is nothing to wait for."""
    kernel = Kernel()
    assert kernel.is_idle
    events = [kernel.call_at(when, lambda: None) for when in (1, 9)]
    kernel.run(until=5)
    kernel.cancel(events[0])  # it has happened
    assert not kernel.is_idle
    kernel.cancel(events[1])
    assert kernel.is_idle
    assert kernel.events == 1


def test_what_is_asked_for_in_the_past_happens_now_and_last():
    """Time does not run backwards, and nobody who was there before is overtaken."""
    kernel, happened = Kernel(), []
    kernel.call_at(7, kernel.call_at, (3, lambda: happened.append(("late", kernel.now))))
    kernel.call_at(7, lambda: happened.append(("there before", kernel.now)))
    kernel.run()
    assert happened == [("there before", 7), ("late", 7)]


@given(whens=whens, until=st.integers(0, 25))
def test_a_run_may_end_at_a_time_and_be_taken_up_again(whens, until):
    """What is due at the last nanosecond still happens; the rest is not lost."""
    kernel, happened = Kernel(), []
    for when in whens:
        kernel.call_at(when, happened.append, (when,))
    kernel.run(until)
    assert happened == sorted(when for when in whens if when <= until)
    assert kernel.now == until
    kernel.run()
    assert happened == sorted(whens)


def test_an_event_may_stop_the_run():
    """The clock stays at that event, even if others are due at the same time."""
    kernel, happened = Kernel(), []
    kernel.call_at(3, kernel.stop)
    kernel.call_at(3, happened.append, ("next",))
    kernel.run(until=100)
    assert (happened, kernel.now) == ([], 3)
    kernel.run()
    assert happened == ["next"]


def test_a_world_in_which_nothing_can_happen_is_an_error_that_says_who_waits():
    """Of many, some are shown; all can be read from the error."""
    waiting = [f"node{number} waits for its turn" for number in range(12)]
    kernel = Kernel(lambda: waiting)
    kernel.call_at(2 * SECOND, lambda: None)
    with pytest.raises(
        Stalled, match=r"(?s)at 2 s .*\n  node0 waits.*\n  node9 waits[^\n]*\n  \.\.\. and 2 more$"
    ) as stall:
        kernel.run()
    assert stall.value.waiting == tuple(waiting)
    assert stall.value.at_s == 2.0


def test_who_gives_a_time_may_have_plans_for_later():
    """A run up to a time is no stall, though nothing is due."""
    kernel = Kernel(lambda: ["node0 waits for its turn"])
    kernel.run(until=5)
    assert kernel.now == 5


def test_draws_are_the_same_on_every_python():
    """These numbers are pinned: who changes them makes every recorded seed worthless."""
    stream = Stream(7, "latency")
    assert [stream.below(1000) for _ in range(4)] == [362, 510, 80, 78]
    assert stream.fraction() == 0.7537131482684487
    assert stream.shuffled("abcdef") == list("bcfaed")
    assert stream.pick("abcdef") == "c"


@given(seed=st.integers(), drawn=st.integers(0, 50))
def test_a_stream_does_not_notice_what_others_draw(seed, drawn):
    """A fault that is added draws from a stream of its own, and all else stays as it was."""
    alone, beside = Streams(seed), Streams(seed)
    for _ in range(drawn):
        beside["fault"].below(1000)
    assert [alone["latency"].fraction() for _ in range(5)] == [beside["latency"].fraction() for _ in range(5)]
    assert alone["latency"] is alone["latency"]


def test_streams_of_other_names_or_seeds_are_others():
    """Else two faults would always strike together."""
    draws = {Stream(seed, name).fraction() for seed in range(50) for name in ("latency", "crash", "1", "11")}
    assert len(draws) == 200


@given(seed=st.integers(0, 1 << 64), end=st.integers(1, 40))
def test_every_number_below_the_end_is_drawn_about_as_often(seed, end):
    """None is left out, none is out of range."""
    stream = Stream(seed, "test")
    draws = [stream.below(end) for _ in range(200 * end)]
    assert set(draws) == set(range(end))
    assert max(map(draws.count, range(end))) < 300


@given(items=st.lists(st.integers()), low=st.floats(-1e9, 1e9), span=st.floats(0, 1e9), seed=st.integers())
def test_what_is_drawn_is_within_what_was_given(items, low, span, seed):
    """A shuffled list has the same items, a number lies between its bounds, what never happens does not."""
    stream = Stream(seed, "test")
    assert sorted(stream.shuffled(items)) == sorted(items)
    assert low <= stream.between(low, low + span) <= low + span
    assert not stream.chance(0.0)
    assert stream.chance(1.0)
