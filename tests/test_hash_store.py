"""What HashStore and PrefixStore promise beyond the contract of `sim.check.store`."""

from __future__ import annotations

import enum
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

import rdzv
from sim.check.trial import together


@pytest.fixture
def store() -> rdzv.HashStore:
    store = rdzv.HashStore()
    store.set_timeout(timedelta(seconds=10))
    return store


def test_a_clone_is_the_store_itself(store: rdzv.HashStore) -> None:
    """As upstream: the keys live in the object."""
    assert store.clone() is store
    assert store.has_extended_api()


def test_many_keys_are_set_and_read_as_one(store: rdzv.HashStore) -> None:
    """A reader never sees one half of a multi_set."""
    store.multi_set(["a", "b"], ["0", "0"])
    done = threading.Event()

    def write() -> None:
        for number in range(2000):
            store.multi_set(["a", "b"], [str(number), str(number)])
        done.set()

    def read() -> None:
        while not done.is_set():
            a, b = store.multi_get(["a", "b"])
            assert a == b

    together(write, read)


def test_a_value_and_a_queue_of_one_name_are_waited_for_apart(store: rdzv.HashStore) -> None:
    """A get is not ended by a push, nor a pop by a set; a wait, which names no kind, is ended by either."""
    store.queue_push("queue", "item")
    store.set("key", "value")
    store.wait(["queue", "key"])
    store.set_timeout(0.05)
    with pytest.raises(rdzv.StoreTimeoutError, match="/queue: still missing in this process's HashStore"):
        store.get("queue")
    with pytest.raises(rdzv.StoreTimeoutError, match="/key: still missing"):
        store.queue_pop("key")
    assert (store.queue_len("queue"), store.get("key")) == (1, b"value")


@pytest.mark.parametrize("last", ["queue", "key"])
def test_a_wait_for_both_kinds_ends_with_the_last(store: rdzv.HashStore, last: str) -> None:
    """Upstream's server does not end WAIT [queue, key] when the queue was there first."""
    works = {"queue": lambda: store.queue_push("queue", "item"), "key": lambda: store.set("key", "value")}
    works.pop("key" if last == "queue" else "queue")()
    together(lambda: store.wait(["queue", "key", "queue"]), works[last])


def test_one_set_wakes_all_who_wait(store: rdzv.HashStore) -> None:
    """However many there are, and whatever else they lack."""

    def wait() -> bytes:
        store.add("waiting", 1)
        return store.multi_get(["common", "go"])[0]

    def release() -> bytes:
        store.set("go", "1")
        while store.add("waiting", 0) < 50:
            pass
        store.set("common", "value")
        return store.get("common")

    assert set(together(release, *[wait] * 50)) == {b"value"}


def test_no_item_is_lost_to_who_gives_up(store: rdzv.HashStore) -> None:
    """Poppers time out all the time, while they are being woken; every item is popped, and once."""
    items = range(300)
    store.set_timeout(0.0001)

    def pop() -> list[bytes]:
        popped = []
        while not (store.check(["done"]) and store.queue_len("q") == 0):
            with suppress(rdzv.StoreTimeoutError):
                popped.append(store.queue_pop("q"))
        return popped

    def push() -> list[bytes]:
        for item in items:
            store.queue_push("q", str(item))
        store.set("done", "1")
        return []

    popped = [int(item) for each in together(push, pop, pop, pop) for item in each]
    assert sorted(popped) == list(items)


def test_who_gave_up_leaves_nothing_behind(store: rdzv.HashStore) -> None:
    """A loop that polls with short timeouts must not fill the memory."""
    before = store._values.stored_bytes, store._queues.stored_bytes
    store.set_timeout(0.0001)
    for attempt in (lambda: store.wait(["a", "b"]), lambda: store.get("a"), lambda: store.queue_pop("a")):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                attempt()
    assert (store._values.stored_bytes, store._queues.stored_bytes) == before


# The store behind a prefix


def test_a_prefix_may_be_bytes():
    store = rdzv.HashStore()
    rdzv.PrefixStore(b"p", store).set("k", "v")
    assert store.list_keys() == ["p/k"]


@pytest.mark.parametrize(("store", "error"), [(None, ValueError), (1, TypeError), ("store", TypeError)])
def test_a_prefix_needs_a_store(store, error):
    with pytest.raises(error, match="needs a store"):
        rdzv.PrefixStore("p", store)


def test_a_store_of_ones_own_is_asked_as_its_user_asked():
    """Upstream's, too, passes on a timeout only if there is one, so the methods that people wrote need not take it."""

    class Own(rdzv.Store):
        waited: tuple = ()

        def wait(self, keys, *timeout):
            self.waited = (keys, *timeout)

    store = Own()
    rdzv.PrefixStore("p", store).wait(["k"])
    assert store.waited == (["p/k"],)
    rdzv.PrefixStore("p", store).wait(["k"], timedelta(seconds=1.5))
    assert store.waited == (["p/k"], timedelta(seconds=1.5))


def test_a_store_of_ones_own_gets_every_timeout_as_a_timedelta():
    """As from upstream's, whose users write stores that know nothing else; however its caller put it, if he did."""

    class Own(rdzv.HashStore):
        asked: tuple = ()

        def wait(self, keys, timeout):
            self.asked += (timeout.total_seconds(),)

        def set_timeout(self, timeout):
            super().set_timeout(timeout.total_seconds())

    store = Own()
    prefixed = rdzv.PrefixStore("p", store)
    prefixed.wait(["k"], 1.5)
    prefixed.set_timeout(7)
    assert store.timeout == timedelta(seconds=7)
    prefixed.barrier("all", 1)
    store.barrier("all", 1, 5)
    assert store.asked[0] == 1.5
    assert 0 < store.asked[1] <= 7
    assert 0 < store.asked[2] <= 5


def test_a_store_of_ones_own_takes_no_single_key_for_many():
    """Without a `multi_set` of its own, too, which would store a value for each of the key's letters."""

    class Own(rdzv.HashStore):
        multi_set = rdzv.Store.multi_set

    store = Own()
    with pytest.raises(TypeError, match="not a single str"):
        store.multi_set("key", ["1", "2", "3"])
    assert store.num_keys() == 0


@pytest.mark.parametrize(("key", "end"), [("all", "/last_member"), (b"all", b"/last_member")])
def test_a_barrier_asks_a_store_of_ones_own_for_keys_of_the_kind_it_was_given(key, end):
    """Who keeps them in a dictionary, as upstream's str, would else have two entries for one key."""

    class Own(rdzv.HashStore):
        barrier = rdzv.Store.barrier
        asked: tuple = ()

        def wait(self, keys, *timeout):
            self.asked = tuple(keys)
            super().wait(keys, *timeout)

    store = Own()
    store.barrier(key, 1)
    assert store.asked == (key + end,)
    rdzv.PrefixStore("p", store).barrier("all", 1)
    assert store.asked == ("p/all/last_member",)


def test_a_key_that_is_a_member_of_an_enumeration_is_its_text():
    """With a prefix as without one, and in a barrier."""

    class Key(str, enum.Enum):
        ALL = "all"

    inner = rdzv.HashStore()
    store = rdzv.PrefixStore("p", inner)
    inner.set(Key.ALL, "")
    store.set(Key.ALL, "")
    store.barrier(Key.ALL, 1)
    assert sorted(inner.list_keys()) == ["all", "p/all", "p/all/last_member", "p/all/num_members"]


def test_a_forked_child_has_the_store_though_other_threads_were_in_it():
    """Who held its lock at that moment would never free it there; who waited would take the wakings of others."""

    class Slow:
        def __index__(self):
            is_inside.set()
            assert may_end.wait(60)
            return 1

    def in_child():
        with ThreadPoolExecutor(1) as own:
            popped = own.submit(store.queue_pop, "q")
            while not store._queues._waits:
                assert not popped.done()
            store.queue_push("q", "v")
            return popped.result(30) == b"v" and store.get("k") == b"kept"

    store, is_inside, may_end = rdzv.HashStore(), threading.Event(), threading.Event()
    store.set("k", "kept")
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(store.queue_pop, "q")
        while not store._queues._waits:
            assert not waits.done()
        pool.submit(store.add, "n", Slow())
        assert is_inside.wait(60)
        if not (child := os.fork()):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            try:
                os._exit(0 if in_child() else 1)
            finally:
                os._exit(2)
        status = os.waitpid(child, 0)[1]
        may_end.set()
        store.queue_push("q", "")
        assert waits.result(60) == b""
    assert (status, store.get("n")) == (0, b"1")
