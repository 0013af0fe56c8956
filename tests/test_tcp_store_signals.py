"""TCPStore when signals come in the middle of a call: no reply is taken for another one's, and nothing hangs."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_tcp_store_failures import GRACE_S, HANG_S, Scripted, client

from rdzv.errors import ConnectTimeoutError, DistNetworkError, DistStoreError, StoreTimeoutError
from rdzv.store import TCPStore, connection

INTERRUPTIONS = 3000


class InterruptionError(Exception):
    """What a handler raises here."""


@contextmanager
def alarms(handler):
    """Have the handler called for each alarm, and leave none behind."""
    former = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


ERRORS = [
    DistNetworkError("of another store"),
    StoreTimeoutError("of another store"),
    DistStoreError("of another store"),
    TimeoutError("of a watchdog"),
    struct.error("of the handler's own work"),
    ValueError("of the handler's own work"),
    BlockingIOError("of the handler's own work"),
    BlockingIOError(11, "of the handler's own work"),
    OSError(5, "of the handler's own work"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("call", [lambda store: store.add("a", 1), lambda store: store.append("a", "1", sync=True)])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_call_that_a_handler_s_exception_breaks_into_is_over(call, error):
    """Whatever it raises: it comes out as it is, and the late reply is nobody's."""
    goes_on = threading.Event()

    def script(name, _):
        goes_on.wait(GRACE_S)
        return {"add": (41).to_bytes(8, "little"), "ping": bytes(4), "append": b""}[name]

    def break_in(*_):
        raise error

    with Scripted(script) as server, client(server.port) as store, alarms(break_in):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(type(error)) as caught:
            call(store)
        goes_on.set()
        assert caught.value is error
        with pytest.raises(DistNetworkError, match="was broken off by an exception"):
            store.add("b", 0)


@pytest.mark.parametrize("call", [lambda store: store.add("a", 1), lambda store: store.list_keys()])
def test_a_second_exception_that_comes_before_the_first_has_closed_anything_changes_nothing(monkeypatch, call):
    """As when two signals come together, and the handlers of both raise."""
    goes_on, break_off = threading.Event(), connection.Connection._break_off

    def script(name, _):
        goes_on.wait(GRACE_S)
        return bytes(8) if name == "list_keys" else (41).to_bytes(8, "little")

    def break_in(*_):
        raise InterruptionError

    with Scripted(script) as server, client(server.port) as store, alarms(break_in):
        monkeypatch.setattr(connection.Connection, "_break_off", break_in)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(InterruptionError):
            call(store)
        monkeypatch.setattr(connection.Connection, "_break_off", break_off)
        goes_on.set()
        with pytest.raises(DistNetworkError, match="was broken off by an exception"):
            store.add("b", 0)


@pytest.mark.parametrize("call", [lambda store: store.add("a", 1), lambda store: store.flush()])
def test_signals_that_do_nothing_do_not_put_off_the_deadline(call):
    """Even if they come so often that no second passes without one."""
    hangs_at = time.monotonic() + HANG_S

    def tick(*_):
        assert time.monotonic() < hangs_at

    with Scripted(lambda *_: b"") as server, client(server.port, 2.1) as store, alarms(tick):
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        with pytest.raises(ConnectTimeoutError, match="did not answer"):
            call(store)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there a handler may run between any two steps of a function")
def test_an_exception_of_a_handler_leaves_the_connection_free_for_the_next_call():
    """At whatever moment it comes: thousands do. Before the lock was taken as it is, one in a hundred left it taken."""

    def break_in(*_):
        raise InterruptionError

    draw = random.Random(1)
    with closing(TCPStore("127.0.0.1", 0, is_master=True, timeout=GRACE_S)) as store, alarms(break_in):
        for number in range(INTERRUPTIONS):
            with suppress(InterruptionError, DistNetworkError):
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(5e-6, 2e-4))
                while True:
                    store.set("k", str(number))
                    assert store.get("k") == str(number).encode()
                    assert store.compare_set("c", f"{number}", "never") == f"{number}".encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not store.client._lock.locked()
            store.reconnect(GRACE_S)


def test_a_connection_is_given_back_if_an_exception_comes_before_it_is_waited_on(monkeypatch):
    """Else it would be open, and of no use, until the store is dropped."""
    with closing(TCPStore("127.0.0.1", 0, is_master=True, timeout=GRACE_S)) as store:
        in_turn, connection_before = store.client._in_turn, store.client._commands

        def break_in(*args):
            monkeypatch.undo()
            in_turn(*args)
            raise InterruptionError

        monkeypatch.setattr(store.client, "_in_turn", break_in)
        with pytest.raises(InterruptionError):
            store.barrier("b", 2)
        assert not store.client._waiting
        assert store.add("n", 1) == 1
        assert store.client._commands is connection_before


@pytest.mark.parametrize(
    ("call", "result"), [(lambda store: store.add("a", 1), 41), (lambda store: store.barrier("b", 2), None)]
)
def test_a_child_that_a_handler_forks_in_the_middle_of_a_call_is_told_that_the_call_is_lost(call, result):
    """And both go on: the parent has its reply, and the child connects anew."""
    goes_on, is_child = threading.Event(), False

    def script(name, _):
        goes_on.wait(GRACE_S)
        return b"\0" if name == "barrier" else (41).to_bytes(8, "little")

    def fork(*_):
        nonlocal is_child
        is_child = not (pid := os.fork())
        if pid:
            goes_on.set()
            assert os.waitpid(pid, 0)[1] == 0

    with Scripted(script) as server, client(server.port) as store, alarms(fork):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            total, status = call(store), 1
        except DistNetworkError:
            total, status = "lost", int(store.add("a", 0) != 41)
        except BaseException:
            status = 2
            if not is_child:
                raise
        finally:
            if is_child:
                os._exit(status)
        assert total == result
