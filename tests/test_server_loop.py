"""The server's loop: it sleeps when there is nothing to do, and what it does for speed shows in nothing but speed."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from rdzv.core import wire
from rdzv.core.wire import STOP_WAITING, Limits, encode
from rdzv.store.bound import bound_sockets
from rdzv.store.server import _CROWD, _SPIN_AFTER, SPIN_S, Listener

HELLO = encode(wire.VALIDATE, wire.MAGIC)
TIMEOUT_S = 20.0


@contextmanager
def serving(spin_s=0.0, limits=None):
    """A listener in a thread: both, and the way to a new, greeted client."""
    sockets = bound_sockets("127.0.0.1", 0, None, TIMEOUT_S)
    address, clients = sockets[0].getsockname(), []
    listener = Listener("the store", sockets, limits, spin_s)
    thread = threading.Thread(target=listener.serve)
    thread.start()

    def connect() -> socket.socket:
        clients.append(socket.create_connection(address, TIMEOUT_S))
        clients[-1].sendall(HELLO)
        return clients[-1]

    try:
        yield listener, thread, connect
    finally:
        for client in clients:
            client.close()
        listener.stop(TIMEOUT_S)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def received(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return bytes(data)


def added(client: socket.socket, key: bytes) -> int:
    client.sendall(encode(wire.ADD, key, 1))
    return struct.unpack("<q", received(client, 8))[0]


def until(condition) -> None:
    deadline_at = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_at
        time.sleep(0.005)


def test_a_listener_that_has_ended_may_be_told_to_once_more():
    """As by a second Ctrl-C, which may come when the loop of `rdzv serve` is over and the process is not."""
    with serving() as (listener, _, _):
        pass
    listener.stop()


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="a thread's processor time cannot be read here")
@pytest.mark.parametrize("clients", [1, 3])
def test_a_client_that_falls_silent_is_not_awaited_without_sleeping_for_long(clients):
    """However busy it was: the processor's time that the server's thread has used comes to a halt."""
    with serving(SPIN_S) as (listener, thread, connect):
        connected = [connect() for _ in range(clients)]
        for number in range(1, 50):
            assert [added(client, b"%d" % client.fileno()) for client in connected] == [number] * clients
        clock, former_s = time.pthread_getcpuclockid(thread.ident), -1.0

        def is_asleep() -> bool:
            nonlocal former_s
            before_s, former_s = former_s, time.clock_gettime(clock)
            return before_s == former_s

        until(is_asleep)
        assert listener._streak < _SPIN_AFTER  # not 0: it may have been late for the last but one
        assert added(connected[0], b"k") == 1


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("spin_s", [0.0, TIMEOUT_S], ids=["off", "on"])
def test_a_few_that_are_answered_in_turn_are_awaited_without_sleeping(spin_s, clients):
    """Nobody is, if that is turned off."""
    with serving(spin_s) as (listener, _, connect):
        connected = [connect() for _ in range(clients)]
        for number in range(1, 50):
            assert [added(client, b"%d" % client.fileno()) for client in connected] == [number] * clients
        assert (listener._streak >= _SPIN_AFTER) == bool(spin_s)


def test_many_that_ask_at_once_are_not_awaited_so():
    """While they are answered one after another, the next ones ask: who looks too soon finds but one of them."""
    sockets = bound_sockets("127.0.0.1", 0, None, TIMEOUT_S)
    address = sockets[0].getsockname()
    with closing(Listener("the store", sockets, spin_s=SPIN_S)) as listener, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, TIMEOUT_S)) for _ in range(_CROWD)]
        listener._turn()
        for client in clients:
            client.sendall(HELLO)
            listener._turn()
        assert listener._streak == 1 + _CROWD
        for client in clients:
            client.sendall(encode(wire.ADD, b"k", 1))
        listener._turn()
        assert listener._streak == 0
        assert [struct.unpack("<q", received(client, 8))[0] for client in clients] == [1, 2, 3, 4, 5]


def test_who_left_just_before_the_stop_is_not_told_to_be_connected_still(caplog):
    """That the connection has ended is there to be read, and the loop had no turn in which to do it."""
    sockets = bound_sockets("127.0.0.1", 0, None, TIMEOUT_S)
    with closing(Listener("the store", sockets)) as listener, socket.socket() as stays:
        with socket.create_connection(sockets[0].getsockname(), TIMEOUT_S):
            stays.connect(sockets[0].getsockname())
            listener._turn()
        listener.stop()
        listener.serve()
        assert caplog.text.endswith(f"still connected: 127.0.0.1:{stays.getsockname()[1]}\n")


def test_a_client_that_reads_late_gets_all_in_order_and_is_a_usual_one_afterwards():
    """What could not be sent at once is counted and timed until it is read; then nothing of that remains."""
    value = bytes(range(256)) * 4096
    with serving() as (listener, _, connect):
        client, other = connect(), connect()
        client.sendall(encode(wire.SET, b"k", value) + encode(wire.GET, b"k") * 20 + encode(wire.ADD, b"n", 1))
        until(lambda: listener._core.deadlines)
        assert added(other, b"m") == 1
        assert received(client, 20 * (8 + len(value))) == (struct.pack("<Q", len(value)) + value) * 20
        assert received(client, 8) == struct.pack("<q", 1)
        assert added(client, b"n") == 2
        assert not listener._core.deadlines
        assert [connection.held_bytes for connection in listener._core.connections] == [0, 0]


def test_who_ends_its_own_wait_is_told_so_before_the_reply():
    """As torch's server does, however the bytes come: here one request at a time."""
    with serving() as (listener, _, connect):
        client = connect()
        client.sendall(encode(wire.WAIT, [b"k"]))
        until(listener._core.waiting)
        client.sendall(encode(wire.ADD, b"k", 5))
        assert received(client, 9) == STOP_WAITING + struct.pack("<q", 5)


def test_a_client_that_writes_without_end_does_not_hold_up_another():
    """One read of it, and it is somebody else's turn."""
    with serving() as (listener, _, connect):
        flood, other = connect(), connect()
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                flood.sendall(encode(wire.SET, b"k", b"v") * 1000)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            until(lambda: len(listener._core._keyspace))
            assert [added(other, b"n") for _ in range(100)] == list(range(1, 101))
        finally:
            done.set()
            writer.join()


@pytest.mark.parametrize("patience_s", [float("inf"), 1e10, 2_147_484.0])
def test_a_patience_may_be_longer_than_the_system_can_sleep(patience_s):
    """A client that owes its handshake, and one that has done it, are waited for without an end."""
    with serving(limits=Limits(patience_s=patience_s)) as (_, thread, connect):
        client = connect()
        assert added(client, b"/n") == 1
        silent = socket.create_connection(client.getpeername(), TIMEOUT_S)
        with silent:
            assert added(client, b"/n") == 2
            assert thread.is_alive()


def test_one_that_asks_for_much_at_once_and_reads_it_does_not_keep_the_others_waiting(monkeypatch):
    """It gets one share of its replies in each turn, however much of them its socket would take."""
    monkeypatch.setattr("rdzv.core.server._PAUSE_BYTES", 1000)
    sockets = bound_sockets("127.0.0.1", 0, None, TIMEOUT_S)
    listener = Listener("the store", sockets)
    size, asked = 2000, encode(wire.GET, b"/k") * 20
    with socket.create_connection(sockets[0].getsockname(), TIMEOUT_S) as client:
        client.sendall(HELLO + encode(wire.SET, b"/k", bytes(size)) + asked)
        listener._turn()  # accepts
        listener._turn()
        assert len(client.recv(1 << 20)) == 8 + size
        for _ in range(19):
            listener._turn()
            assert len(client.recv(1 << 20)) == 8 + size
        client.sendall(encode(wire.PING, 7))
        while not select.select([client], [], [], 0)[0]:
            listener._turn()
        assert received(client, 4) == encode(wire.PING, 7)[1:]
    listener.close()


@contextmanager
def turning(clients: int, limits=None):
    """A listener that takes a turn when it is told to, and clients that it knows."""
    sockets = bound_sockets("127.0.0.1", 0, None, TIMEOUT_S)
    listener = Listener("the store", sockets, limits)
    connected = [socket.create_connection(sockets[0].getsockname(), TIMEOUT_S) for _ in range(clients)]
    try:
        for client in connected:
            client.sendall(HELLO)
        until(lambda: listener._turn() or all(known.validated for known in listener._core.connections))
        yield listener, connected
    finally:
        for client in connected:
            client.close()
        listener.close()


def filled_up(channel: socket.socket) -> int:
    """How many bytes it took until there was no room for one more."""
    count = 0
    for size in (1 << 16, 1):
        with suppress(BlockingIOError):
            while True:
                count += channel.send(bytes(size))
    return count


def test_replies_of_one_turn_are_not_all_held_before_the_first_is_sent():
    """Small ones are, until all have been read; but with large ones memory would not be bounded."""
    value, clients = bytes(4_000_000), 16
    with turning(clients, Limits(held_bytes_max=2 * len(value))) as (listener, connected):
        sender = connected[0]
        sender.setblocking(False)
        rest = encode(wire.SET, b"k", value[:-1]) + encode(wire.APPEND, b"k", value[:1])
        while rest:  # no system need have room for all of it at once
            with suppress(BlockingIOError):
                rest = rest[sender.send(rest) :]
            listener._turn()
        until(lambda: listener._turn() or listener._core._keyspace.value_length(b"k") == len(value))
        for client in connected:
            client.sendall(encode(wire.GET, b"k"))
        tracemalloc.start()
        try:
            listener._turn()
            assert tracemalloc.get_traced_memory()[1] < 6 * len(value)
        finally:
            tracemalloc.stop()


def test_a_reply_that_does_not_go_out_at_once_comes_before_what_is_owed_later():
    """Also where another client's write has woken this one in the same turn."""
    with turning(_CROWD) as (listener, (slow, other, *others)):
        other.sendall(encode(wire.SET, b"k", b"value"))
        slow.sendall(encode(wire.WAIT, [b"late"]))
        until(lambda: listener._turn() or (listener._core._keyspace.has((b"k",)) and listener._core.waiting()))
        (connection,) = listener._core.waiting()
        slow.sendall(encode(wire.GET, b"k"))
        other.sendall(encode(wire.SET, b"late", b""))
        for one_more in others:
            one_more.sendall(encode(wire.PING, 7))
        filled = filled_up(connection.channel)
        listener._turn()
        owed = struct.pack("<Q", 5) + b"value" + STOP_WAITING
        assert connection.outgoing == owed
        assert received(slow, filled) == bytes(filled)
        until(lambda: listener._turn() or not connection.outgoing)
        assert received(slow, len(owed)) == owed


def test_who_is_let_go_of_while_a_reply_is_owed_to_it_is_gone_at_once():
    """With all that it was owed: nothing of that is put back, to be waited for."""
    with turning(_CROWD + 1, Limits(held_bytes_max=1_000_000)) as (listener, (slow, other, *others)):
        other.sendall(encode(wire.SET, b"k", b"value"))
        slow.sendall(encode(wire.WAIT, [b"%d" % number for number in range(1600)]))
        until(lambda: listener._turn() or (listener._core._keyspace.has((b"k",)) and listener._core.waiting()))
        (connection,) = listener._core.waiting()
        slow.sendall(encode(wire.GET, b"k"))
        for one_more in others:
            one_more.sendall(encode(wire.PING, 7))
        other.sendall(encode(wire.WAIT, [b"x%d" % number for number in range(1550)]))
        filled_up(connection.channel)
        listener._turn()
        assert "the most" in connection.closing
        assert connection not in listener._core.connections
