"""One TCPStore in many threads, in a forked child, and after `close`."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import signal
import socket
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_tcp_store_failures import Scripted, client

from rdzv.core import wire
from rdzv.errors import DistNetworkError, StoreTimeoutError
from rdzv.store import StoreServer, TCPStore, client as client_module

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things


@pytest.fixture
def server():
    with StoreServer() as server:
        yield server


@pytest.fixture
def store(server):
    with closing(TCPStore("127.0.0.1", server.port, timeout=GRACE_S)) as store:
        yield store


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until(is_so):
    """Look again and again until it is so."""
    deadline_at = time.monotonic() + GRACE_S
    while not is_so():
        assert time.monotonic() < deadline_at, "it did not come to pass"
        time.sleep(0.001)


def waiters(server) -> int:
    return len(server._listener._core.waiting())


def connections(server) -> int:
    return len(server._listener._core.connections)


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def have_waited(server, store, pool, key) -> None:
    """Let three threads wait at one time, so that connections for waits are idle afterwards."""
    blocked = [pool.submit(store.get, key) for _ in range(3)]
    until(lambda: waiters(server) == 3)
    store.set(key, "v")
    assert [future.result(GRACE_S) for future in blocked] == [b"v"] * 3


# Threads


def test_a_thread_that_waits_holds_up_no_other(server, store, pool):
    """A heartbeat beside a barrier, a get and a pop: with upstream it would hang until they are over."""
    blocked = [
        pool.submit(store.get, "key"),
        pool.submit(store.multi_get, ["key", "more"]),
        pool.submit(store.wait, ["key"]),
        pool.submit(store.queue_pop, "queue"),
        pool.submit(store.barrier, "barrier", 2),
    ]
    until(lambda: waiters(server) == len(blocked))
    assert [store.add("beat", 1) for _ in range(100)] == list(range(1, 101))
    store.multi_set(["key", "more"], ["v", "w"])
    store.queue_push("queue", "item")
    store.barrier("barrier", 2)
    assert [future.result(GRACE_S) for future in blocked] == [b"v", [b"v", b"w"], None, b"item", None]


def test_connections_for_waits_are_used_again(server, store, pool):
    """As many as waited at one time, and one: what is idle is taken before a new one is opened."""
    used = set()
    for round_number in range(5):
        have_waited(server, store, pool, f"{round_number}")
        used |= set(server._listener._core.connections)
    assert len(used) <= 4


def test_who_waits_alone_needs_no_second_connection(server, store):
    for key in ("a", "b"):
        with pytest.raises(StoreTimeoutError):
            store.wait([key], 0.01)
    assert store.add("n", 1) == 1
    assert connections(server) == 1


def test_a_write_that_comes_while_another_thread_borrows_its_connection_is_confirmed(pool, monkeypatch):
    """It is past its turn, up to the very end of the conversation; its thread may go on over another connection."""
    replies = {"set": b"", "ping": bytes(4), "wait": b"", "cancel_wait": wire.WAIT_CANCELED}
    with Scripted(lambda name, _: replies[name]) as server, client(server.port) as store:
        alone, write = store.client._commands_alone, ["k", "v"]

        def alone_but_for_one(deadline_at):
            if write:
                pool.submit(store.set, write.pop(0), write.pop()).result(GRACE_S)
            return alone(deadline_at)

        monkeypatch.setattr(store.client, "_commands_alone", alone_but_for_one)
        assert store.client.wait((wire.WAIT, [b"/never"]), 0.0) is None
        assert server.requests == ["set", "ping", "wait", "cancel_wait"]


def test_each_thread_reads_its_own_writes(store, pool):
    """Writes have no reply, and waits go over other connections: still none of them overtakes a write before it."""

    def work(number):
        for turn in range(30):
            key = f"{number}/{turn}"
            store.set(key, f"{turn}")
            store.append(key, "+")
            assert store.get(key) == f"{turn}+".encode()
            store.set(key, "again")
            store.wait([key])
            store.multi_set([key, key + "/2"], ["1", "2"])
            assert store.multi_get([key, key + "/2"]) == [b"1", b"2"]
            store.queue_push(key, "item")
            assert store.queue_pop(key) == b"item"
            store.set("barrier" + key, "1")
            store.barrier("barrier" + key, 2)  # passes only if the 1 is there before it
        return number

    assert sorted(pool.map(work, range(8))) == list(range(8))


def test_a_barrier_does_not_overtake_the_writes_before_it(server, store, pool):
    """Who comes out of the barrier finds what the others wrote before they went in, however long it was on its way."""
    have_waited(server, store, pool, "k")

    def meet(store):
        store.barrier("b", 2)
        return store.check(["written before"])

    with closing(store.clone()) as other:
        sees = pool.submit(meet, other)
        until(lambda: waiters(server) == 1)
        store.multi_set(["large", "written before"], [bytes(8 << 20), ""])
        assert meet(store)
        assert sees.result(GRACE_S)


def test_threads_that_count_together_lose_nothing(store, pool):
    counted = pool.map(lambda _: [store.add("n", 1) for _ in range(100)], range(8))
    assert sorted(number for numbers in counted for number in numbers) == list(range(1, 801))


def test_many_who_wait_for_items_get_each_one_once(server, store, pool):
    """E2 to E4: whoever is woken in vain waits on, and no item is left while somebody waits."""
    takers = [pool.submit(store.queue_pop, "q") for _ in range(10)]
    until(lambda: waiters(server) == 10)
    with closing(store.clone()) as other:
        for number in range(5):
            store.queue_push("q", f"{number}")
            other.queue_push("q", f"{number + 5}")
        assert sorted(future.result(GRACE_S) for future in takers) == [b"%d" % number for number in range(10)]
        assert store.queue_len("q") == 0


def test_a_wait_for_a_queue_that_takes_nothing_leaves_the_turn_to_the_next(server, store, pool):
    """E3 by way of `wait`: it is woken by the push, does not pop, and so the one that pops is woken as well."""
    with closing(store.clone()) as looker:
        looks = pool.submit(looker.wait, ["q"])
        until(lambda: waiters(server) == 1)
        pops = pool.submit(store.queue_pop, "q")
        until(lambda: waiters(server) == 2)
        with closing(store.clone()) as pusher:
            pusher.queue_push("q", "item", sync=True)
            assert pops.result(GRACE_S) == b"item"
            looks.result(GRACE_S)


def test_close_ends_the_waits_of_other_threads(server, store, pool):
    blocked = [pool.submit(store.get, "never") for _ in range(2)]
    until(lambda: waiters(server) == 2)
    store.close()
    for future in blocked:
        with pytest.raises(DistNetworkError, match="closed"):
            future.result(GRACE_S)
    until(lambda: connections(server) == 0)


@pytest.mark.parametrize("call", [lambda store: store.add("n", 1), lambda store: store.list_keys()])
@pytest.mark.parametrize("other", [lambda store: store.set("k", "v"), lambda store: store.num_keys()])
def test_a_thread_that_cannot_have_the_connection_in_time_says_so(call, other, pool):
    """However the thread that has it uses it; nothing is sent meanwhile, and both go on afterwards."""
    answers = threading.Event()

    def script(name, _):
        answers.wait(GRACE_S)
        return b"" if name == "set" else bytes(8)

    with Scripted(script) as peer, client(peer.port) as store:
        busy = pool.submit(call, store)
        until(lambda: peer.requests)
        store.set_timeout(0.05)
        with pytest.raises(StoreTimeoutError, match="other threads"):
            other(store)
        assert len(peer.requests) == 1
        answers.set()
        assert not busy.result(GRACE_S)
        assert not other(store)
        assert not call(store)


@pytest.mark.parametrize("call", [lambda store: store.add("n", 1), lambda store: store.list_keys()])
def test_close_ends_the_calls_of_other_threads_which_close_what_they_use(call, pool):
    """The descriptor is theirs until they have left: its number may be another file's right after."""
    fds = open_fds()
    with Scripted(lambda *_: b"") as peer:
        store = TCPStore("127.0.0.1", peer.port, timeout=GRACE_S)
        busy = pool.submit(call, store)
        until(lambda: peer.requests)
        store.close()
        with pytest.raises(DistNetworkError, match="closed"):
            busy.result(GRACE_S)
    until(lambda: open_fds() <= fds)


def test_close_leaves_nothing_open_when_a_call_has_just_been_answered(server, pool):
    """Whenever it comes: then that call is not told, and nobody but `close` can close what it has used."""
    draw = random.Random(1)
    for _ in range(300):
        store = TCPStore("127.0.0.1", server.port, timeout=GRACE_S)
        used = store.client._commands
        busy = pool.submit(store.add, "n", 1)
        time.sleep(draw.uniform(0, 2e-4))
        store.close()
        with contextlib.suppress(DistNetworkError):
            busy.result(GRACE_S)
        assert used._sock.fileno() == -1


def test_close_ends_a_call_that_connects_meanwhile(server, store, pool, monkeypatch):
    """It would else await a silent server until its deadline, over a connection that `close` has not seen."""
    waits, connect = pool.submit(store.get, "never"), store.client._connect
    until(lambda: waiters(server) == 1)
    monkeypatch.setattr(store.client, "_connect", lambda deadline_at: [connect(deadline_at), store.close()][0])
    for call in (lambda: store.add("n", 1), lambda: waits.result(GRACE_S)):
        with pytest.raises(DistNetworkError, match="was closed meanwhile"):
            call()


def test_threads_that_have_waited_for_each_other_take_turns_for_a_while(store, pool):
    """And need not any more once none has had to wait for long enough."""
    store.add("n", 1)
    talk = store.client.talk
    store.client._wait_for_leaving(0.0, math.inf)  # as if another thread had been in the middle of a call
    assert store.client.talk is not talk
    for _ in range(client_module._CALM_MIN):
        store.add("n", 1)
    assert store.client.talk is talk
    assert store.add("n", 0) == 1 + client_module._CALM_MIN


def test_threads_that_ask_for_one_thing_and_for_many_at_once_wait_for_each_other(store, pool):
    """Neither way is entered while the other is taken, and none is left waiting."""

    def work(number):
        for _ in range(200):
            store.add("n", 1)
            store.multi_set([f"a{number}", f"b{number}"], ["1", "2"])
            assert store.multi_get([f"a{number}", f"b{number}"]) == [b"1", b"2"]
            store.append(f"c{number}", "x")
        return len(store.get(f"c{number}"))

    works = [pool.submit(work, number) for number in range(4)]
    assert [future.result(GRACE_S) for future in works] == [200] * 4
    assert store.add("n", 0) == 800


def test_nothing_is_left_open(server, pool):
    """Neither threads nor descriptors: after close, nor when a store is merely dropped."""
    threads, fds = threading.active_count(), open_fds()
    for close in (TCPStore.close, lambda _: None):
        store = TCPStore("127.0.0.1", 0, is_master=True, timeout=GRACE_S)
        blocked = pool.submit(store.get, "k")
        until(lambda store=store: waiters(store._server) == 1)
        store.set("k", "")
        blocked.result(GRACE_S)
        close(store)
        del store, blocked
        gc.collect()
    threads += len(pool._threads)
    until(lambda: threading.active_count() <= threads)
    until(lambda: open_fds() <= fds)


# Forks


def in_child(work) -> int:
    """Do something in a forked child; its exit status, 0 if it came to the end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline_at = time.monotonic() + GRACE_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline_at:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -1
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_parent_and_child_both_go_on_after_a_fork(server, store, pool):
    """Each with connections of its own, though a thread of the parent waits at the moment of the fork."""
    store.set("before", "1", sync=True)
    blocked = pool.submit(store.get, "late")
    until(lambda: waiters(server) == 1)

    def work():
        assert store.get("before") == b"1"
        assert [store.add("child", 1) for _ in range(50)] == list(range(1, 51))
        store.set("from child", "2", sync=True)

    assert in_child(work) == 0
    assert store.get("from child") == b"2"
    assert store.add("parent", 1) == 1
    store.set("late", "v")
    assert blocked.result(GRACE_S) == b"v"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_holds_nothing_of_its_parent_open(server, store, pool):
    """No end of any connection, in use or idle, and no listening socket: each must be over when the parent is gone."""
    have_waited(server, store, pool, "k")
    blocked = pool.submit(store.get, "late")
    until(lambda: waiters(server) == 1)
    assert store.num_keys() == 1
    assert [port for port in ports_of_sockets() if port == server.port] != []

    def work():
        assert server.port not in ports_of_sockets()

    assert in_child(work) == 0
    store.set("late", "v")
    assert blocked.result(GRACE_S) == b"v"


def ports_of_sockets() -> list[int]:
    """The ports at both ends of every TCP socket of this process."""
    ports = []
    for fd in range(3, 1024):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as sock:
                    if sock.family == socket.AF_INET:
                        ports.append(sock.getsockname()[1])
                        ports.append(sock.getpeername()[1])
    return ports


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_closes_no_descriptor_that_had_been_a_stopped_server_s():
    """The numbers may have been given to something else since; a child lets go of what is ours, by object."""
    server = StoreServer()
    server.stop()
    fds = [fd for _ in range(6) for fd in os.pipe()]  # these take the numbers that the server had
    assert in_child(lambda: [os.fstat(fd) for fd in fds]) == 0
    for fd in fds:
        os.close(fd)
