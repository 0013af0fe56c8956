"""Checks of a store: who waits, for how long, and who is woken. Everything that needs a clock or a second thread."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from sim.check.trial import SHORT, Checks, Store, fails, fails_in_time, together

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKS = Checks()


@CHECKS.add
def adds_of_many_threads_all_count(store: Store) -> None:
    """Each gets a number of its own."""
    clones = [store.clone() for _ in range(4)]
    numbers = together(*(lambda clone=clone: [clone.add("n", 1) for _ in range(25)] for clone in clones))
    assert sorted(number for each in numbers for number in each) == list(range(1, 101))


@CHECKS.add
def one_of_many_compare_sets_wins(store: Store) -> None:
    """And all are told the same winner."""
    clones = [store.clone() for _ in range(4)]
    works = (lambda clone=clone, i=i: clone.compare_set("leader", "", f"{i}") for i, clone in enumerate(clones))
    (leader,) = set(together(*works))
    assert store.get("leader") == leader


@CHECKS.add
def timeouts_name_the_missing_keys(store: Store) -> None:
    """They come in time, to the tenth of a second, and name what is missing and nothing else."""
    store.set("present", "1")
    keys = ["present", "missing", "absent"]
    fails_in_time(lambda: store.wait(keys, SHORT), "missing", "absent")
    store.set_timeout(SHORT)
    assert store.timeout == SHORT
    fails_in_time(lambda: store.wait(keys), "missing", "absent")
    fails_in_time(lambda: store.multi_get(keys), "missing", "absent")
    fails_in_time(lambda: store.get("missing"), "missing")
    assert store.get("present") == b"1"


@CHECKS.add
def a_timeout_of_zero_looks_once(store: Store) -> None:
    """What is there is found, always; what is not fails at once."""
    store.set("present", "1")
    store.set_timeout(timedelta(0))
    for _ in range(20):
        assert store.get("present") == b"1"
        store.wait(["present"], timedelta(0))
    fails_in_time(lambda: store.get("missing"), "missing", after_s=0.0)


@CHECKS.add
def negative_timeouts_are_refused(store: Store) -> None:
    """Rather than waiting for ever."""
    fails(lambda: store.set_timeout(timedelta(seconds=-1)), ValueError)
    fails(lambda: store.wait(["key"], timedelta(milliseconds=-1)), ValueError)


@CHECKS.add
def every_write_wakes_who_waits(store: Store) -> None:
    """Two threads play ping-pong with each kind of write, so both are parked again and again."""
    writes: dict[str, Callable[[Store, str], object]] = {
        "set": lambda store, key: store.set(key, "1"),
        "add": lambda store, key: store.add(key, 1),
        "append": lambda store, key: store.append(key, "1"),
        "compare_set": lambda store, key: store.compare_set(key, "", "1"),
        "multi_set": lambda store, key: store.multi_set([key], ["1"]),
    }
    other = store.clone()
    for name, write in writes.items():

        def serve(write: Callable[[Store, str], object] = write, name: str = name) -> None:
            for turn in range(10):
                write(store, f"{name} ping {turn}")
                assert store.get(f"{name} pong {turn}") == b"1"

        def answer(write: Callable[[Store, str], object] = write, name: str = name) -> None:
            for turn in range(10):
                other.wait([f"{name} ping {turn}"])
                write(other, f"{name} pong {turn}")

        together(serve, answer)


@CHECKS.add
def nothing_false_ends_a_get(store: Store) -> None:
    """Not a compare_set that stores nothing, nor the coming of other keys."""
    _no_false_end(store, lambda waiting: waiting.multi_get(["missing", "other"]))


@CHECKS.add
def nothing_false_ends_a_wait(store: Store) -> None:
    """Not a compare_set that stores nothing, nor the coming of other keys."""
    _no_false_end(store, lambda waiting: waiting.wait(["missing", "other"]))


def _no_false_end(store: Store, wait: Callable[[Store], object]) -> None:
    waiting, writing = store.clone(), store.clone()
    waiting.set_timeout(SHORT)
    waited = threading.Event()

    def see() -> None:
        try:
            fails_in_time(lambda: wait(waiting), "missing")
        finally:
            waited.set()

    def write() -> None:
        while not waited.is_set():
            writing.compare_set("missing", "wrong", "new")
            writing.set("other", "1")
            writing.delete_key("missing")

    together(see, write)


@CHECKS.add
def a_wait_holds_up_no_other_thread(store: Store) -> None:
    """Of the same object: here one waits for what the other does after a whole exchange with a third."""
    other = store.clone()

    def act() -> None:
        other.set("go", "1")
        assert store.get("gone") == b"1"
        store.set("end", "1")
        store.check(["end"])

    together(
        lambda: store.wait(["end"]),
        lambda: store.get("end"),
        act,
        lambda: (other.wait(["go"]), other.add("gone", 1)),
    )


@CHECKS.add
def queues_are_first_in_first_out(store: Store) -> None:
    """Beside the keys: a queue and a key of one name do not meet."""
    if not _has_queues(store):
        return
    store.set("q", "value")
    for item in ("1", b"2", bytearray(b"")):
        store.queue_push("q", item)
    assert store.queue_len("q") == 3
    assert [store.queue_pop("q"), store.queue_pop("q", block=False), store.queue_pop("q")] == [b"1", b"2", b""]
    assert store.queue_len("q") == 0
    assert store.get("q") == b"value"


@CHECKS.add
def a_queue_that_is_not_empty_counts_as_there(store: Store) -> None:
    """For check and for wait, by the same name, until its last item is taken."""
    if not _has_queues(store):
        return
    assert not store.check(["q"])
    store.queue_push("q", "1")
    assert store.check(["q"])
    store.wait(["q"])
    store.queue_pop("q")
    assert not store.check(["q"])
    assert store.list_keys() == []


@CHECKS.add
def empty_queues_say_so(store: Store) -> None:
    """At once if told not to wait, else when the timeout has passed."""
    if not _has_queues(store):
        return
    error = fails(lambda: store.queue_pop("missing", block=False), RuntimeError)
    assert not isinstance(error, TimeoutError)
    assert "empty" in str(error)
    store.set_timeout(SHORT)
    fails_in_time(lambda: store.queue_pop("missing"), "missing")


@CHECKS.add
def each_item_goes_to_one(store: Store) -> None:
    """Poppers outnumber the items at any moment, and in the end everybody has what was pushed, once."""
    if not _has_queues(store):
        return
    clones = [store.clone() for _ in range(4)]
    pushing = store.clone()

    def push() -> list[bytes]:
        for item in range(40):
            pushing.queue_push("q", f"{item}")
        return []

    works = (lambda clone=clone: [clone.queue_pop("q") for _ in range(10)] for clone in clones)
    popped = together(push, *works)
    assert sorted(int(item) for each in popped for item in each) == list(range(40))


@CHECKS.add
def barriers_open_for_all_at_once(store: Store) -> None:
    """None passes before the last has come; who comes alone is told so."""
    clones = [store.clone() for _ in range(3)]
    come: list[int] = []

    def arrive(clone: Store, number: int) -> None:
        come.append(number)
        clone.barrier("b", 3)
        assert sorted(come) == [0, 1, 2]

    together(*(lambda clone=clone, i=i: arrive(clone, i) for i, clone in enumerate(clones)))
    fails_in_time(lambda: store.barrier("alone", 2, SHORT), "alone")


def _has_queues(store: Store) -> bool:
    try:
        store.queue_len("no queue")
    except NotImplementedError:
        return False
    return True
