"""The judge of histories: it finds an order where there is one, and says what is wrong where there is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings, strategies as st

from rdzv.core.keyspace import Keyspace
from sim.check import linearizable
from sim.check.linearizable import NEVER, UNKNOWN, Call, UndecidedError, contradiction, settled
from sim.check.models import ANYTHING, IMPOSSIBLE, after, initial


def call(client, name, start, end, *arguments, result=None, key="k", **options):
    return Call(
        client=client, name=name, key=key, arguments=arguments, result=result, called_at=start, ended_at=end, **options
    )


def judged(*calls):
    found = contradiction(calls)
    return found and [(call.client, call.name, call.result) for call in found.calls]


GOOD = {
    "nothing": [],
    "a read during a write may see it or not": [
        call("a", "set", 0, 10, b"1"),
        call("b", "get", 1, 2, result=b"1"),
        call("c", "check", 1, 2, result=False),
    ],
    "adds that overlap, in either order": [call("a", "add", 0, 9, 1, result=2), call("b", "add", 0, 9, 1, result=1)],
    "a lost call may have happened": [
        call("a", "add", 0, NEVER, 5, result=UNKNOWN),
        call("b", "add", 1, 2, 1, result=6),
    ],
    "or not": [call("a", "add", 0, NEVER, 5, result=UNKNOWN), call("b", "add", 1, 2, 1, result=1)],
    "or much later": [
        call("a", "set", 0, NEVER, b"x", result=UNKNOWN),
        call("b", "set", 1, 2, b"y"),
        call("b", "get", 3, 4, result=b"y"),
        call("b", "get", 5, 6, result=b"x"),
    ],
    "a write that is certain only later": [
        call("a", "set", 0, 9, b"1"),
        call("b", "check", 2, 3, result=False),
        call("a", "get", 8, 9, result=b"1"),
    ],
    "each key by itself": [call("a", "set", 0, 1, b"1", key="x"), call("b", "check", 2, 3, result=False, key="y")],
    "keys and queues are two things": [
        call("a", "queue_push", 0, 1, b"1"),
        call("b", "check", 2, 3, result=False),
        call("b", "queue_pop", 4, 5, result=b"1"),
        call("b", "queue_pop", 6, 7, result=None),
    ],
    "every call": [
        call("a", "compare_set", 0, 1, b"", b"1", result=b"1"),
        call("a", "compare_set", 2, 3, b"x", b"y", result=b"1"),
        call("a", "append", 4, 5, b"2"),
        call("a", "add", 6, 7, -20, result=-8),
        call("a", "get", 8, 9, result=b"-8"),
        call("a", "delete_key", 10, 11, result=True),
        call("a", "delete_key", 12, 13, result=False),
        call("a", "compare_set", 14, 15, b"x", b"y", result=b"x"),
        call("a", "check", 16, 17, result=False),
        call("a", "queue_push", 18, 19, b"1"),
        call("a", "queue_len", 20, 21, result=1),
    ],
}

BAD = {
    "a lost update": (
        [call("a", "add", 0, 9, 1, result=1), call("b", "add", 0, 9, 1, result=1)],
        [("a", "add", 1), ("b", "add", 1)],
    ),
    "an old value": (
        [call("a", "set", 0, 1, b"1"), call("a", "set", 2, 3, b"2"), call("b", "get", 4, 5, result=b"1")],
        [("a", "set", None), ("b", "get", b"1")],
    ),
    "a value from nowhere": ([call("b", "get", 4, 5, result=b"1")], [("b", "get", b"1")]),
    "back and forth": (
        [
            call("a", "set", 0, 1, b"1"),
            call("b", "set", 2, 9, b"2"),
            call("c", "get", 3, 4, result=b"2"),
            call("d", "get", 5, 6, result=b"1"),
        ],
        [("c", "get", b"2"), ("d", "get", b"1")],
    ),
    "an item taken twice": (
        [
            call("a", "queue_push", 0, 1, b"1"),
            call("b", "queue_pop", 2, 9, result=b"1"),
            call("c", "queue_pop", 2, 9, result=b"1"),
        ],
        [("b", "queue_pop", b"1"), ("c", "queue_pop", b"1")],
    ),
    "items out of order": (
        [
            call("a", "queue_push", 0, 1, b"1"),
            call("a", "queue_push", 2, 3, b"2"),
            call("b", "queue_pop", 4, 5, result=b"2"),
        ],
        [("a", "queue_push", None), ("a", "queue_push", None), ("b", "queue_pop", b"2")],
    ),
    "two winners": (
        [
            call("a", "compare_set", 0, 9, b"", b"a", result=b"a"),
            call("b", "compare_set", 0, 9, b"", b"b", result=b"b"),
        ],
        [("a", "compare_set", b"a"), ("b", "compare_set", b"b")],
    ),
    "one's own write not seen": (
        [call("a", "set", 0, 9, b"1"), call("a", "check", 2, 9, result=False)],
        [("a", "set", None), ("a", "check", False)],
    ),
    "undone after it was seen": (
        [
            call("a", "add", 0, NEVER, 5, result=UNKNOWN),
            call("b", "add", 1, 2, 1, result=6),
            call("b", "add", 3, 4, 1, result=2),
        ],
        [("b", "add", 6), ("b", "add", 2)],
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_what_one_order_explains_is_accepted(history):
    assert judged(*history) is None
    assert judged(*reversed(history)) is None


@pytest.mark.parametrize(("history", "essence"), BAD.values(), ids=BAD)
def test_what_no_order_explains_is_refused_and_shown_without_what_does_not_matter(history, essence):
    noise = [call("n", "set", 100 + i, 100.5 + i, b"%d" % i, key="other") for i in range(20)]
    assert judged(*history, *noise) == essence


def test_a_short_contradiction_is_found_in_a_long_history():
    """The writes before and after it, and what other clients read meanwhile, do not hide it."""
    calls = []
    for turn in range(200):
        value = b"%d" % turn
        calls += [call("w", "set", turn, turn + 0.2, value), call("r", "get", turn + 0.3, turn + 0.4, result=value)]
        calls += [call("c", "check", turn + 0.1, turn + 0.35, result=True)]
    calls.append(call("x", "get", 150.5, 150.6, result=b"77"))
    found = contradiction(calls)
    assert found.beside == 599
    assert str(found).splitlines() == [
        "no order explains these calls, whatever 599 others on the key did:",
        "   0.000000 to  0.100000  r: get('k') -> b'150'",
        "   0.200000 to  0.300000  x: get('k') -> b'77'",
    ]


def test_what_happens_after_it_does_not_make_a_contradiction_longer():
    """Not even calls that were under way, whose results are not needed to see it."""
    calls = [call("a", "set", 0, 1, b"1"), call("b", "get", 2, 3, result=b"0"), call("c", "add", 2, 4, 1, result=2)]
    assert judged(*calls, call("d", "get", 5, 6, result=b"3")) == [("a", "set", None), ("b", "get", b"0")]


def test_a_write_without_a_reply_lasts_until_the_next_call_that_has_one():
    log = [
        call("a", "set", 0, 1, b"1"),
        call("a", "append", 2, 3, b"2"),
        call("a", "check", 4, 5, result=True),
        call("a", "set", 6, 7, b"3", certain=True),
        call("a", "queue_push", 8, 9, b"4"),
        call("a", "add", 10, NEVER, 1, result=UNKNOWN),
    ]
    assert [call.ended_at for call in settled(log)] == [5, 5, 5, 7, NEVER, NEVER]
    assert settled(settled(log)) == settled(log)


def test_a_call_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="multi_set"):
        contradiction([call("a", "multi_set", 0, 1)])


def test_a_search_that_takes_too_long_gives_up_and_says_so():
    calls = [call(f"{index}", "set", 0, 9, b"%d" % index) for index in range(12)]
    with pytest.raises(UndecidedError, match="overlap"):
        contradiction([*calls, call("a", "get", 0, 9, result=b"never")], states_max=100)


# Against an execution that is known, and against the plainest search there is

PROPERTY = settings(max_examples=300)
NAMES = ["get", "check", "set", "append", "add", "compare_set", "delete_key", "queue_push", "queue_pop", "queue_len"]
VALUES = st.sampled_from([b"1", b"2"])


@st.composite
def calls(draw, clients=3):
    name = draw(st.sampled_from(NAMES))
    arguments = {
        "add": st.tuples(st.integers(1, 2)),
        "compare_set": st.tuples(VALUES | st.just(b""), VALUES),
        **dict.fromkeys(("set", "append", "queue_push"), st.tuples(VALUES)),
    }.get(name, st.just(()))
    return name, draw(arguments), f"client {draw(st.integers(1, clients))}"


def executed(keyspace, name, arguments):
    """What our store's core returns; UNKNOWN for what could not be done then."""
    if name == "get":
        value = keyspace.get(b"k")
        return UNKNOWN if value is None else value
    if name == "queue_pop":
        length, value = keyspace.pop(b"queue")
        return value if length else None
    if name == "add":
        try:
            return keyspace.add(b"k", *arguments)
        except ValueError:
            return UNKNOWN
    methods = {"check": "has", "delete_key": "delete", "queue_push": "push", "queue_len": "queue_length"}
    method = getattr(keyspace, methods.get(name, name))
    if name == "check":
        return method([b"k"])
    return method(b"queue" if name.startswith("queue_") else b"k", *arguments)


def as_history(draw, made):
    """Each call around the moment at which it happened, longer or shorter, and some of them without an end."""
    history, over = [], {}
    for at, (name, arguments, client, result) in enumerate(made):
        start = max(at - draw(st.floats(0, 3)), over.get(client, -10.0))
        end = at + draw(st.floats(0, 0.9))
        over[client] = end
        history.append(call(client, name, start, end, *arguments, result=result))
    return history


@PROPERTY
@given(st.data(), st.lists(calls(), max_size=12))
def test_whatever_our_core_does_one_after_the_other_is_accepted(data, made):
    """Whole, and in each of the shorter forms in which a contradiction is looked for: they only allow for more."""
    keyspace = Keyspace(lambda _: None)
    made = [(name, arguments, client, executed(keyspace, name, arguments)) for name, arguments, client in made]
    history = as_history(data.draw, [one for one in made if one[3] is not UNKNOWN])
    assert judged(*history) is None
    for queues in (False, True):
        one_key = [one for one in history if one.name.startswith("queue_") == queues]
        one_key.sort(key=lambda one: one.called_at)
        for until in {one.ended_at for one in one_key}:
            seen = linearizable._seen_until(one_key, until)
            for since in {one.called_at for one in seen}:
                assert linearizable._has_order(linearizable._ended_since(seen, since), 10_000, since)
            for one in seen:
                loosened = [linearizable._loosened(one), *(other for other in seen if other is not one)]
                assert linearizable._has_order(loosened, 10_000)


def test_what_was_under_way_when_others_are_left_out_may_have_come_before_them():
    """The x may be older than the y that is left out, and so must not hide it."""
    history = [
        call("b", "set", 0, 5.5, b"x"),
        call("a", "set", 2, 3, b"y"),
        call("e", "check", 4, 4.5, result=True),
        call("c", "get", 6, 7, result=b"y"),
    ]
    assert judged(*history) is None
    assert linearizable._has_order(linearizable._ended_since(history, 4), 100, 4)


def test_what_was_under_way_is_not_left_out():
    history = [
        call("b", "set", 0, 5, b"x"),
        call("a", "check", 1, 2, result=False),
        call("c", "get", 6, 7, result=b"x"),
    ]
    assert judged(*history) is None
    assert linearizable._has_order(linearizable._ended_since(history, 1), 100, 1)


@pytest.mark.parametrize(
    ("arguments", "result", "state"),
    [
        ((b"1", b"2"), b"2", b"2"),
        ((b"1", b"2"), b"3", b"3"),
        ((b"1", b"2"), b"1", None),
        ((b"1", b"1"), b"1", ANYTHING),
    ],
)
def test_what_a_comparison_tells_of_a_key_that_nobody_knows(arguments, result, state):
    """What was expected is answered where there is nothing; where it is also what was desired, that tells nothing."""
    assert after("compare_set", arguments, result, ANYTHING) == state


def has_some_order(history) -> bool:
    """By trying them all."""
    numbers = range(len(history))
    must = {number for number in numbers if history[number].ended_at != NEVER}
    for count in range(len(must), len(history) + 1):
        for order in permutations(numbers, count):
            own = all(
                b in order[: order.index(a)] for a in order for b in range(a) if history[a].client == history[b].client
            )
            calls = [history[number] for number in order]
            in_time = all(a.called_at <= b.ended_at for i, a in enumerate(calls) for b in calls[i + 1 :])
            state = initial(history[0].name)
            for one in calls:
                state = IMPOSSIBLE if state is IMPOSSIBLE else after(one.name, one.arguments, one.result, state)
            if must <= set(order) and in_time and own and state is not IMPOSSIBLE:
                return True
    return False


@PROPERTY
@given(st.data(), st.lists(calls(), min_size=1, max_size=5), st.booleans())
def test_it_finds_an_order_just_where_one_is_found_by_trying_all(data, made, queues):
    made = [one for one in made if one[0].startswith("queue_") == queues]
    results = {
        "get": VALUES,
        "check": st.booleans(),
        "add": st.integers(1, 3),
        "compare_set": VALUES,
        "delete_key": st.booleans(),
        "queue_pop": VALUES | st.none(),
        "queue_len": st.integers(0, 2),
    }
    made = [(*one, data.draw(results.get(one[0], st.none()))) for one in made]
    history = as_history(data.draw, made)
    lost = (
        data.draw(st.sets(st.sampled_from(sorted({one.client for one in history})), max_size=1)) if history else set()
    )
    for client in lost:  # its last call
        index = max(index for index, one in enumerate(history) if one.client == client)
        history[index] = replace(history[index], ended_at=NEVER, result=UNKNOWN)
    if history:
        assert (judged(*history) is None) == has_some_order(history)
