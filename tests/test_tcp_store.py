"""TCPStore over real sockets: its methods, its arguments, and what its errors know."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta

import pytest

import rdzv
from rdzv.errors import ConnectTimeoutError, DistNetworkError, DistStoreError, QueueEmptyError, StoreTimeoutError
from rdzv.store import PrefixStore, StoreServer, TCPStore


@pytest.fixture
def server():
    with StoreServer() as server:
        yield server


@pytest.fixture
def connect(server):
    """Makes clients of the server, and closes them in the end."""
    with ExitStack() as stack:

        def make(**options):
            store = TCPStore("127.0.0.1", server.port, **{"timeout": 20.0, **options})
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture
def store(connect):
    return connect()


def test_every_method_does_what_its_name_says(store):
    store.set("text", "value")
    store.append("text", b" and more")
    assert store.get(b"text") == b"value and more"
    assert store.add("n", 5) + store.add("n", -7) == 3
    assert store.add("n", True) == -1
    assert store.compare_set("cas", "", "first") == b"first"
    assert store.compare_set("cas", bytearray(b"wrong"), "second") == b"first"
    store.multi_set(("a", "b"), iter(["1", b""]))
    assert store.multi_get(["b", "a", "b"]) == [b"", b"1", b""]
    assert store.multi_get([]) == []
    assert store.check(["a", "b"])
    assert store.check([])
    assert not store.check(["a", "none"])
    store.wait({"a", "b"})
    store.wait(["a"], timedelta(seconds=1))
    assert store.num_keys() == 5
    assert sorted(store.list_keys()) == ["a", "b", "cas", "n", "text"]
    assert store.delete_key("a")
    assert not store.delete_key("a")
    store.queue_push("q", "one")
    store.queue_push("q", b"")
    assert store.queue_len("q") == 2
    assert [store.queue_pop("q"), store.queue_pop(key="q", block=False)] == [b"one", b""]
    store.barrier("alone", 1)
    store.barrier(key="alone", world_size=1, timeout=timedelta(seconds=1))
    assert store.has_extended_api()
    store.flush()


@pytest.mark.parametrize(
    "key", ["", "a/b\0c", "clé-☃", b"\xff\xfe", "k" * 8191], ids=["empty", "nul", "utf8", "raw", "long"]
)
def test_any_key_works(store, key):
    """Also what is no UTF-8, which then comes out of `list_keys` as surrogate escapes (E16)."""
    store.set(key, b"\x00\xff")
    assert store.get(key) == b"\x00\xff"
    (listed,) = store.list_keys()
    assert listed.encode(errors="surrogateescape") == (key if isinstance(key, bytes) else key.encode())


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.set("k", memoryview(b"v")),
        lambda store: store.set("k", 1),
        lambda store: store.set("k", None),
        lambda store: store.set(1, "v"),
        lambda store: store.set("k", "\ud800"),
        lambda store: store.get(None),
        lambda store: store.add("k", 1.0),
        lambda store: store.add("k", "1"),
        lambda store: store.add("k", 1 << 63),
        lambda store: store.add("k", -(1 << 63) - 1),
        lambda store: store.barrier("k", 1 << 63),
        lambda store: store.barrier("k", 1.0),
        lambda store: store.check("k"),
        lambda store: store.wait(b"k"),
        lambda store: store.wait(["k"], "1"),
        lambda store: store.multi_get("k"),
        lambda store: store.multi_set("k", ["v"]),
        lambda store: store.set_timeout(None),
        lambda store: store.set_timeout(True),
    ],
)
def test_wrong_types_are_refused_before_anything_is_sent(store, call):
    """And the connection is as good as before: no reply is awaited that will never come."""
    with pytest.raises(TypeError):
        call(store)
    assert store.num_keys() == 0


@pytest.mark.parametrize("port", [-1, 65536, 1.5, "29500", None, True])
def test_a_port_is_a_number_in_range(port):
    with pytest.raises(TypeError):
        TCPStore("127.0.0.1", port)


def test_a_world_of_nobody_cannot_be():
    with pytest.raises(ValueError, match="0"):
        TCPStore("127.0.0.1", 1, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.set("k" * 8192, ""),
        lambda store: store.get("k" * 8192),
        lambda store: store.barrier("k" * 8192, 2),
        lambda store: store.wait(["k" * 8192]),
        lambda store: store.set("k", bytes((8 << 20) + 1)),
        lambda store: store.queue_push("k", bytes((8 << 20) + 1)),
        lambda store: store.compare_set("k", "", bytes((8 << 20) + 1)),
        lambda store: store.check([""] * 131073),
        lambda store: store.multi_set(["a", "b"], ["1"]),
        lambda store: PrefixStore("p" * 8000, store).set("k" * 200, ""),
    ],
)
def test_e15_what_passes_a_limit_is_refused_by_the_call_itself(store, call):
    """With upstream it was sent, and the next call wondered why the connection was gone."""
    with pytest.raises(DistStoreError, match=r"limit|1 values") as raised:
        call(store)
    assert raised.value.applied == "no"
    assert store.num_keys() == 0


def test_values_up_to_the_limit_and_appended_beyond_it_come_back(store):
    large = bytes(range(256)) * (1 << 15)
    store.set("k", large)
    store.append("k", large)
    assert store.get("k") == large + large


def test_pairs_of_unequal_number_name_their_keys_as_the_user_wrote_them(store):
    with pytest.raises(DistStoreError) as raised:
        store.multi_set(["a", "b"], ["1"])
    assert {key.decode() if isinstance(key, bytes) else key for key in raised.value.keys} == {"a", "b"}


# Timeouts


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (lambda store: store.get("a"), {"a"}),
        (lambda store: store.wait(["here", "b", "a"]), {"a", "b"}),
        (lambda store: store.multi_get(["a", "here"]), {"a"}),
        (lambda store: store.queue_pop("q"), {"q"}),
        (lambda store: PrefixStore("p", store).get("a"), {"p/a"}),
    ],
)
def test_a_wait_that_times_out_names_what_is_missing_where_and_how_long(server, store, call, missing):
    store.set_timeout(0.05)
    store.set("here", "")
    with pytest.raises(StoreTimeoutError) as raised:
        call(store)
    error = raised.value
    assert isinstance(error, (DistStoreError, TimeoutError))
    assert set(error.keys) == missing
    assert error.endpoint == f"127.0.0.1:{server.port}"
    assert 0.05 <= error.waited_s < 15
    assert error.applied == "no"
    assert error.endpoint in str(error)
    assert all(key in str(error) for key in missing)
    assert store.check(["here"])


@pytest.mark.parametrize(
    ("call", "keys", "applied"),
    [
        (lambda store: store.get("a"), ("a",), "no"),
        (lambda store: store.multi_get(["a", b"\xff"]), ("a", "\udcff"), "no"),
        (lambda store: store.queue_pop("q"), ("q",), "no"),
        (lambda store: store.barrier("b", 2), ("b",), "unknown"),
    ],
)
def test_a_wait_whose_server_is_gone_names_what_was_awaited_where_and_how_long(server, store, call, keys, applied):
    """What has not come, a pop for one, has not been taken; an arrival at a barrier counts, if anybody is left."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, store)
        while not server.lacking():
            assert not future.done()
        server.stop()
        error = future.exception(20)
    assert isinstance(error, DistNetworkError)
    assert error.keys == keys
    assert error.endpoint == f"127.0.0.1:{server.port}"
    assert 0 < error.waited_s < 20
    assert error.applied == applied
    assert re.search(rf"stopped or died.*; waited \d+\.\d s, keys: /{keys[0]}", str(error))
    with pytest.raises(DistNetworkError, match="stopped or died") as raised:
        store.num_keys()
    assert "waited" not in str(raised.value)


def test_a_barrier_that_times_out_says_that_the_arrival_counts(store):
    with pytest.raises(StoreTimeoutError) as raised:
        store.barrier("b", 2, timeout=0.05)
    assert raised.value.applied == "yes"
    assert raised.value.keys == ("b",)
    store.barrier("b", 2)


def test_e13_a_timeout_of_zero_looks_once(store):
    """What is there is read, what is not is an error, every time and at once; and the store goes on."""
    store.set_timeout(0)
    store.set("here", "v")
    for _ in range(20):
        assert store.get("here") == b"v"
        store.wait(["here"])
        with pytest.raises(StoreTimeoutError):
            store.get("a")
        with pytest.raises(StoreTimeoutError):
            store.queue_pop("q")
        store.barrier("alone", 1)


def test_a_timeout_may_be_given_to_one_call(store):
    started_at = time.monotonic()
    with pytest.raises(StoreTimeoutError):
        store.wait(["a"], timedelta(milliseconds=50))
    with pytest.raises(StoreTimeoutError):
        PrefixStore("p", store).barrier("b", 2, timeout=0.05)
    assert time.monotonic() - started_at < 10
    assert store.timeout == timedelta(seconds=20)


@pytest.mark.parametrize("timeout", [-1, -0.001, -(10**400), timedelta(microseconds=-1), float("nan")])
def test_e12_a_negative_timeout_is_refused_everywhere(store, timeout):
    """To upstream it means to wait for ever."""
    for call in (
        lambda: store.set_timeout(timeout),
        lambda: store.wait(["a"], timeout),
        lambda: store.barrier("b", 2, timeout=timeout),
        lambda: TCPStore("127.0.0.1", store.port, timeout=timeout),
    ):
        with pytest.raises(ValueError, match="negative"):
            call()
    assert store.num_keys() == 0


@pytest.mark.parametrize("timeout", [timedelta.max, float("inf"), 1e300, 10**400])
def test_e12_a_timeout_of_for_ever_is_very_long(connect, store, timeout):
    """Longer than any clock can count must not become short, negative or an error."""
    store.set_timeout(timeout)
    store.set("a", "v")
    store.wait(["a"], timeout)
    assert store.get("a") == b"v"
    with closing(connect(timeout=timeout).clone()) as clone:
        assert clone.timeout > timedelta(days=20)


def test_a_constructor_without_time_fails_at_once(server):
    """Whether or not the server is up."""
    with pytest.raises(ConnectTimeoutError):
        TCPStore("127.0.0.1", server.port, timeout=0)
    with pytest.raises(DistNetworkError):
        TCPStore("127.0.0.1", rdzv.get_free_port(), timeout=timedelta(0))


# Values that are gone again, queues that are emptied again


@pytest.mark.parametrize(
    "arguments",
    [
        (None, 1),
        (b"localhost", 1),
        ("localhost", "1"),
        ("localhost", 1.0),
        ("localhost", 65536),
        ("localhost", 1, 1.0),
        ("localhost", 1, "1"),
        ("localhost", 1, 2, 1),  # a rank, where older releases of torch took one
        ("localhost", 1, 2, None),
    ],
    ids=str,
)
def test_a_constructor_refuses_what_is_of_another_type(arguments):
    with pytest.raises(TypeError):
        TCPStore(*arguments, timeout=0)


def test_an_empty_value_is_a_value(store):
    store.set("k", "")
    assert store.get("k") == b""
    assert store.multi_get(["k"]) == [b""]


def test_a_pop_that_may_not_wait_says_that_the_queue_is_empty(store):
    with pytest.raises(QueueEmptyError) as raised:
        store.queue_pop("q", False)
    assert raised.value.keys == ("q",)


def test_queues_and_keys_of_one_name_are_two_things(store):
    """E5: a blocking pop cannot wait beside a key of the queue's name, and says so rather than spin."""
    store.set("k", "v")
    store.queue_push("k", "item")
    assert store.queue_pop("k") == b"item"
    with pytest.raises(QueueEmptyError, match="a key of that name"):
        store.queue_pop("k")
    assert store.get("k") == b"v"


# Worlds and clones


def test_the_master_waits_for_its_workers_and_says_how_many_came():
    with pytest.raises(
        DistStoreError, match=r"Timed out after \d+ seconds waiting for clients. 1/2 clients joined"
    ) as raised:
        TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=0.5)
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.waited_s >= 0.5


def test_a_worker_does_not_wait_for_the_others(server, connect):
    worker = connect(world_size=3)
    assert worker.num_keys() == 1
    assert worker.list_keys() == []
    connect(world_size=3, wait_for_workers=False)
    assert connect(world_size=-1).num_keys() == 1


def test_a_clone_has_a_connection_and_a_timeout_of_its_own(store):
    store.set_timeout(7)
    with closing(store.clone()) as clone:
        store.set_timeout(8)
        assert clone.timeout == timedelta(seconds=7)
        assert not clone.hosts
        store.close()
        assert clone.num_keys() == 0


def test_old_servers_are_known_by_a_flag(connect):
    """Upstream's old server knows no queues, and hangs up on who reads what is not there."""
    store = connect(use_libuv=False)
    store.set_timeout(0.05)
    assert not store.libuvBackend
    for call in (store.queue_len, store.queue_pop, lambda key: store.queue_push(key, "")):
        with pytest.raises(NotImplementedError):
            call("q")
    with pytest.raises(StoreTimeoutError):
        store.get("k")
    store.set("k", "v")
    assert store.get("k") == b"v"
    assert store.multi_get(["k", "k"]) == [b"v", b"v"]


def test_a_store_shows_where_it_is(server, store):
    """In upstream's words, with both ends of the connection; a loopback address has its name without a look-up."""
    client = r"TCPClient\(SocketImpl\(fd=\d+, addr=localhost:\d+, remote=localhost:{}\)\)"
    assert re.fullmatch(rf"TCPStore\(client={client.format(server.port)}, server=<nullptr>\)", repr(store))
    with closing(TCPStore("localhost", 0, is_master=True)) as host:
        port = host.port
        assert re.fullmatch(rf"TCPStore\(client={client.format(port)}, server=TCPServer\(port={port}\)\)", repr(host))
        with closing(host.clone()) as clone:
            assert clone.host == "localhost"
    assert "TCPClient(closed)" in repr(host)
    assert (store.host, store.port, store.libuvBackend) == ("127.0.0.1", server.port, True)


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(DistNetworkError, match="closed"):
        store.get("k")
    with pytest.raises(DistNetworkError, match="closed"):
        store.set("k", "v")
