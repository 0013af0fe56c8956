"""What the store means, rule by rule: numbers, comparisons, barriers, queues, and who is woken when."""

from __future__ import annotations

import tracemalloc

import pytest

from rdzv.core.keyspace import INT64_MAX, INT64_MIN, Keyspace, NotANumberError, parse_number


def told(*operations):
    """A keyspace after some operations, each a method and its arguments, and the waiters woken by them."""
    woken = []
    keyspace = Keyspace(woken.append)
    for name, *arguments in operations:
        getattr(keyspace, name)(*arguments)
    return keyspace, woken


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"12abc", 12),
        (b"0x10", 0),
        (b"1.9", 1),
        (b" \t\n\v\f\r+12 ", 12),
        (b"-0", 0),
        (b"007", 7),
        (b"5\x006", 5),
        (b"9223372036854775807", INT64_MAX),
        (b"-9223372036854775808", INT64_MIN),
        (b"0" * 3000 + b"1", 1),
    ],
)
def test_a_number_is_read_as_strtoll_reads_it(value, number):
    assert parse_number(value) == number


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"abc",
        b"+",
        b"- 1",
        b"--1",
        b"\x001",
        b"\xa01",
        "\u0661".encode(),
        b"9223372036854775808",
        b"-9223372036854775809",
        b"9" * 10_000,
    ],
)
def test_what_is_no_number_is_refused_and_left_alone(value):
    """For ADD and for BARRIER; and nobody who waits for the key is told of anything."""
    keyspace, woken = told(("set", b"n", value), ("wait", "W", [b"m"]))
    with pytest.raises(NotANumberError):
        keyspace.add(b"n", 1)
    with pytest.raises(NotANumberError):
        keyspace.barrier("W", b"n", 1)
    assert keyspace.get(b"n") == value
    assert woken == []
    assert keyspace.is_waiting("W")


@pytest.mark.parametrize(
    ("start", "delta", "end"),
    [
        (INT64_MAX, 1, INT64_MIN),
        (INT64_MIN, -1, INT64_MAX),
        (INT64_MAX, INT64_MAX, -2),
        (INT64_MIN, INT64_MIN, 0),
    ],
)
def test_sums_wrap_around(start, delta, end):
    keyspace, _ = told(("add", b"n", start), ("add", b"n", delta))
    assert keyspace.get(b"n") == b"%d" % end


def test_a_sum_is_kept_as_plain_decimal_text_and_zero_creates_the_key():
    keyspace, woken = told(("wait", "W", [b"zero"]), ("add", b"zero", 0), ("set", b"n", b" +007"), ("add", b"n", -7))
    assert (keyspace.get(b"zero"), keyspace.get(b"n")) == (b"0", b"0")
    assert woken == ["W"]


@pytest.mark.parametrize(
    ("stored", "expected", "after", "answer"),
    [
        (None, b"", b"new", b"new"),
        (None, b"other", None, b"other"),
        (b"old", b"old", b"new", b"new"),
        (b"", b"", b"new", b"new"),
        (b"old", b"other", b"old", b"old"),
        (b"old", b"", b"old", b"old"),
    ],
)
def test_compare_set_stores_and_answers_by_the_table_and_wakes_only_if_it_stored(stored, expected, after, answer):
    """Section 3 of the protocol; that a comparison which fails wakes nobody is our mending of E1."""
    keyspace, woken = told()
    if stored is not None:
        keyspace.barrier("W", b"k", 99)  # the one way to wait for a key that is there
        keyspace.append(b"x", b"")  # of no concern to anybody
        keyspace._values[b"k"] = stored
    else:
        keyspace.wait("W", [b"k"])
    assert keyspace.compare_set(b"k", expected, b"new") == answer
    assert keyspace.get(b"k") == after
    assert woken == (["W"] if after == b"new" else [])


def test_a_key_counts_once_it_was_seen():
    """WAIT [a, b] ends when b comes, though a was deleted meanwhile."""
    _, woken = told(("wait", "W", [b"a", b"b"]), ("set", b"a", b""), ("delete", b"a"), ("set", b"b", b""))
    assert woken == ["W"]


def test_a_second_wait_replaces_the_first_whole():
    _, woken = told(("wait", "W", [b"a"]), ("wait", "W", [b"b"]), ("set", b"a", b""))
    assert woken == []


def test_a_wait_is_over_once():
    _, woken = told(("wait", "W", [b"a", b"a"]), ("set", b"a", b"1"), ("set", b"a", b"2"), ("push", b"a", b""))
    assert woken == ["W"]


@pytest.mark.parametrize(
    ("operation", "freed"),
    [
        (("set", b"k", b"1"), ["X", "Y"]),
        (("multi_set", [b"k", b"1"]), ["X", "Y"]),
        (("append", b"k", b""), ["X", "Y"]),
        (("add", b"k", 0), ["X", "Y"]),
        (("compare_set", b"k", b"2", b"x"), ["X", "Y"]),
        (("compare_set", b"k", b"0", b"x"), []),
        (("push", b"k", b""), ["X"]),
        (("delete", b"k"), []),
    ],
)
def test_who_frees_those_in_a_barrier(operation, freed):
    """Whatever stores at the key frees all, a push frees one, and a deletion none."""
    _, woken = told(("barrier", "X", b"k", 3), ("barrier", "Y", b"k", 3), operation)
    assert woken == freed


def test_a_barrier_frees_all_with_its_last_and_serves_once():
    keyspace, woken = told(("barrier", "X", b"k", 3), ("barrier", "Y", b"k", 3))
    assert keyspace.barrier("Z", b"k", 3)
    assert woken == ["X", "Y"]
    assert keyspace.get(b"k") == b"3"
    assert keyspace.barrier("W", b"k", 3)
    assert keyspace.get(b"k") == b"4"


def test_an_arrival_is_not_taken_back():
    keyspace, _ = told(("barrier", "X", b"k", 2), ("forget", "X"))
    assert keyspace.barrier("Y", b"k", 2)


def test_a_barrier_of_nobody_passes_and_counts():
    keyspace, _ = told()
    assert keyspace.barrier("X", b"k", 0)
    assert keyspace.barrier("X", b"k", -3)
    assert keyspace.get(b"k") == b"2"


def test_a_deleted_barrier_begins_anew_and_frees_those_of_before_too():
    keyspace, woken = told(("barrier", "X", b"k", 2), ("delete", b"k"), ("barrier", "Y", b"k", 2))
    assert woken == []
    assert keyspace.barrier("Z", b"k", 2)
    assert woken == ["X", "Y"]


def test_a_barrier_of_fewer_frees_one_of_more():
    keyspace, woken = told(("barrier", "X", b"k", 3))
    assert keyspace.barrier("Y", b"k", 2)
    assert woken == ["X"]


def test_a_plain_wait_sees_a_barrier_when_it_is_full_or_has_begun():
    keyspace, woken = told(("wait", "W", [b"k"]), ("barrier", "X", b"k", 2))
    assert woken == []
    assert keyspace.wait("V", [b"k"])
    keyspace.barrier("Y", b"k", 2)
    assert woken == ["W", "X"]


def test_a_push_wakes_the_first_who_asked_and_no_other():
    _, woken = told(("wait", "X", [b"q"]), ("wait", "Y", [b"q"]), ("push", b"q", b"1"))
    assert woken == ["X"]


@pytest.mark.parametrize("goes_on", [("forget", "X"), ("settle", "X"), ("wait", "X", [b"z"]), ("pop", b"other", "X")])
def test_an_item_that_the_woken_one_does_not_take_goes_to_the_next(goes_on):
    """It leaves, does something else, waits for something else, pops elsewhere: Y must not wait for ever (E3)."""
    _, woken = told(("wait", "X", [b"q"]), ("wait", "Y", [b"q"]), ("push", b"q", b"1"), goes_on)
    assert woken == ["X", "Y"]


def test_an_item_that_was_taken_is_not_passed_on():
    """Nor is one that is meant for another: Z is not woken for the item that Y is about to take."""
    waits = [("wait", waiter, [b"q"]) for waiter in "XYZ"]
    _, woken = told(*waits, ("push", b"q", b"1"), ("push", b"q", b"2"), ("pop", b"q", "X"))
    assert woken == ["X", "Y"]


def test_an_item_taken_by_another_leaves_nothing_to_pass_on():
    """Z takes what X was woken for. The next item is then Y's alone, and Y's leaving is noticed: X is owed nothing."""
    keyspace, woken = told(("wait", "X", [b"q"]), ("push", b"q", b"1"), ("pop", b"q", "Z"))
    for operation in [("wait", "Y", [b"q"]), ("wait", "W", [b"q"]), ("push", b"q", b"2"), ("forget", "Y")]:
        getattr(keyspace, operation[0])(*operation[1:])
    assert woken == ["X", "Y", "W"]


def test_an_earlier_wait_is_not_woken_by_a_later_push():
    """E2: X was served from q once, and waits elsewhere now."""
    _, woken = told(
        ("wait", "X", [b"q"]), ("push", b"q", b"1"), ("pop", b"q", "X"), ("wait", "X", [b"never"]), ("push", b"q", b"2")
    )
    assert woken == ["X"]


def test_a_queue_that_is_not_empty_counts_for_a_wait_on_more():
    """E5: with q not empty, storing k ends WAIT [q, k]; and two pushes to one queue are not one push to each of two."""
    _, woken = told(("push", b"q", b"1"), ("wait", "X", [b"q", b"k"]), ("set", b"k", b""))
    assert woken == ["X"]
    _, woken = told(("wait", "X", [b"p", b"q"]), ("push", b"p", b"1"), ("push", b"p", b"2"))
    assert woken == []


def test_appending_many_pieces_moves_each_byte_once():
    """The value grows in place: what appending costs does not grow with what is there."""
    keyspace, _ = told(("set", b"k", b"x" * 100_000), ("append", b"k", b""))
    grown = keyspace._values[b"k"]
    for _ in range(1000):
        keyspace.append(b"k", b"y")
    assert keyspace._values[b"k"] is grown
    assert keyspace.get(b"k") == b"x" * 100_000 + b"y" * 1000


KEYS = [b"/%06d" % number for number in range(10_000)]


def set_all(keyspace):
    for key in KEYS:
        keyspace.set(key, key)


def push_all(keyspace):
    for key in KEYS:
        keyspace.push(key, b"")


def push_many(keyspace):
    for key in KEYS:
        keyspace.push(b"/q", key)


def wait_for_all(keyspace):
    assert not keyspace.wait("W", KEYS)


def wait_twice_for_all(keyspace):
    assert not keyspace.wait("V", KEYS) | keyspace.wait("W", KEYS)


@pytest.mark.parametrize("fill", [set_all, push_all, push_many, wait_for_all, wait_twice_for_all])
def test_what_is_counted_is_what_it_costs(fill):
    """A limit that is counted in other bytes than the system's is none: waits had 2.4 times, queues 6 times as many."""
    keyspace, _ = told()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fill(keyspace)
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = keyspace.stored_bytes + keyspace.waiting_bytes
    assert real <= 1.25 * counted
