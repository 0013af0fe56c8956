"""The 32 rough edges of torch's stores, each by its number: mended, or forced by the protocol and then said so.

Those that need a stopped server, a scripted peer or a host of their own have their tests where those are; the local
stores' (E26 to E31) are in ``test_rough_edges_local.py``. The last test here counts that none is missing.
"""

from __future__ import annotations

import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rdzv import net
from rdzv.core import wire
from rdzv.core.server import ServerCore
from rdzv.core.wire import encode
from rdzv.errors import DistNetworkError, QueueEmptyError, StoreTimeoutError
from rdzv.store import PrefixStore, StoreServer, TCPStore

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things
ROOT = Path(__file__).parents[1]
HELLO = encode(wire.VALIDATE, wire.MAGIC) + encode(wire.PING, 7)


@pytest.fixture
def server():
    with StoreServer() as server:
        yield server


@pytest.fixture
def connect(server):
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(TCPStore("127.0.0.1", server.port, timeout=GRACE_S)))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def dial(server):
    """Raw connections to the server."""
    with ExitStack() as stack:

        def dial() -> socket.socket:
            sock = net.connect("127.0.0.1", server.port, time.monotonic() + GRACE_S)
            sock.settimeout(GRACE_S)
            return stack.enter_context(sock)

        yield dial


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


def test_e01_a_compare_set_that_stores_nothing_wakes_nobody(server, connect, pool):
    a, b = connect(), connect()
    got = pool.submit(a.get, "k")
    until(lambda: waiters(server) == 1)
    assert b.compare_set("k", "x", "new") == b"x"
    assert waiters(server) == 1
    assert b.compare_set("k", "", "new") == b"new"
    assert got.result(GRACE_S) == b"new"


def test_e02_a_wait_that_is_over_is_not_woken_by_a_later_push(server, connect, pool):
    a, b = connect(), connect()
    popped = pool.submit(a.queue_pop, "q")
    until(lambda: waiters(server) == 1)
    b.queue_push("q", "one")
    assert popped.result(GRACE_S) == b"one"
    got = pool.submit(a.get, "late")
    until(lambda: waiters(server) == 1)
    b.queue_push("q", "two", sync=True)
    assert waiters(server) == 1
    b.set("late", "v")
    assert got.result(GRACE_S) == b"v"


def test_e03_a_push_reaches_who_waits_for_it_past_one_who_did_before(server, connect, pool):
    """Also when the first of two dies before it takes what it was woken for."""
    a, b, c = connect(), connect(), connect()
    popped = pool.submit(a.queue_pop, "q")
    until(lambda: waiters(server) == 1)
    b.queue_push("q", "one")
    assert popped.result(GRACE_S) == b"one"
    got = pool.submit(a.get, "late")
    until(lambda: waiters(server) == 1)
    popped = pool.submit(c.queue_pop, "q")
    until(lambda: waiters(server) == 2)
    b.queue_push("q", "two")
    assert popped.result(GRACE_S) == b"two"
    b.set("late", "v")
    got.result(GRACE_S)


def test_e03_an_item_for_one_that_dies_goes_to_the_next(server, connect, dial, pool):
    first = dial()
    first.sendall(HELLO + encode(wire.WAIT, [b"/q"]))
    until(lambda: waiters(server) == 1)
    popped = pool.submit(connect().queue_pop, "q")
    until(lambda: waiters(server) == 2)
    connect().queue_push("q", "item")
    assert first.recv(4, socket.MSG_WAITALL) + first.recv(1) == encode(wire.PING, 7)[1:] + wire.STOP_WAITING
    first.close()
    assert popped.result(GRACE_S) == b"item"


def test_e04_two_that_wait_for_one_item_are_served_one_after_the_other(server, connect, dial, pool):
    """A blocking pop that finds the queue emptied by a faster one waits again, and raises nothing."""
    popped = pool.submit(connect().queue_pop, "q")
    until(lambda: waiters(server) == 1)
    thief = dial()
    push_and_pop = encode(wire.QUEUE_PUSH, b"/q", b"stolen") + encode(wire.QUEUE_POP, b"/q")
    thief.sendall(HELLO + push_and_pop)
    assert thief.recv(1000)
    until(lambda: waiters(server) == 1)
    assert not popped.done()
    connect().queue_push("q", "item")
    assert popped.result(GRACE_S) == b"item"


def test_e05_a_key_and_a_queue_of_one_name(connect):
    """Forced by the protocol, whose WAIT and CHECK do not say which of the two is meant; what can be mended is.

    A blocking pop beside a key of that name raises at once, as with torch, and says why; a get of a queue's name gives
    an empty value. But a WAIT of a queue that is not empty and a key ends when the key is stored.
    """
    store = connect()
    store.set("k", "v")
    with pytest.raises(QueueEmptyError, match="a key of that name"):
        store.queue_pop("k")
    store.queue_push("q", "item")
    assert store.get("q") == b""
    store.wait(["q", "k"])


def test_e06_nothing_is_carried_out_before_the_handshake(connect, dial):
    """And a wrong peer is closed at its first byte, rather than kept for ever."""
    stranger = dial()
    stranger.sendall(encode(wire.SET, b"/k", b"v"))
    assert stranger.recv(1) == b""
    assert not connect().check(["k"])


def test_e07_a_handshake_that_is_cut_is_a_handshake(dial):
    client = dial()
    for byte in HELLO:
        client.sendall(bytes([byte]))
    assert client.recv(4, socket.MSG_WAITALL) == struct.pack("<I", 7)


def test_e08_a_multi_set_shows_whole_and_once(connect, dial, server):
    """Nothing of half of it, and its end does not undo what another wrote meanwhile to a key of its first half."""
    slow, other = dial(), connect()
    frame = encode(wire.MULTI_SET, [b"/a", b"1", b"/b", b"2"])
    slow.sendall(HELLO + frame[:-5])
    assert slow.recv(4, socket.MSG_WAITALL)
    until(lambda: any(connection.held_bytes for connection in server._listener._core.connections))
    assert not other.check(["a"])
    other.set("a", "between")
    assert other.get("a") == b"between"
    slow.sendall(frame[-5:])
    assert other.multi_get(["a", "b"]) == [b"1", b"2"]
    other.set("a", "after")
    assert other.get("a") == b"after"


def test_e09_a_large_request_costs_what_its_keys_cost():
    """Each key is looked at once, however many pieces the request comes in: counted in calls, not in seconds."""

    def calls_per_key(count: int) -> float:
        core, calls = ServerCore(), 0
        connection = core.connect("client", 0.0)
        data = HELLO + encode(wire.MULTI_SET, [b"/key-%06d" % (index // 2) for index in range(2 * count)])

        def tally(_frame, event, _argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        former = sys.getprofile()
        sys.setprofile(tally)
        try:
            for start in range(0, len(data), 4096):
                core.receive(connection, data[start : start + 4096])
        finally:
            sys.setprofile(former)
        assert len(core._keyspace) == count
        return calls / count

    assert calls_per_key(20_000) <= 1.1 * calls_per_key(2_000)


def test_e16_a_key_that_is_no_utf8_spoils_nothing_for_others(connect):
    store = connect()
    store.multi_set([b"\xff\xfe", "k"], ["1", "2"])
    listed = sorted(store.list_keys())
    assert [key.encode(errors="surrogateescape") for key in listed] == [b"k", b"\xff\xfe"]
    with pytest.raises(StoreTimeoutError, match=r"\\xff"):
        store.wait([b"\xff"], 0.01)


def test_e17_no_call_holds_the_interpreter_while_it_waits(connect):
    """The server is a thread of this very process: if a call held the interpreter, no reply would ever come."""
    store = connect()
    store.queue_push("q", "item")
    assert store.queue_len("q") == 1
    assert store.list_keys() == []


INTERRUPTED = """
import sys
from rdzv.store import TCPStore
host, port, call = sys.argv[1:]
try:
    store = TCPStore(host, int(port), timeout=300)
    eval(call)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    if call != "None":
        print(store.num_keys(), flush=True)
"""


def interrupted(port: int, call: str, is_blocked) -> str:
    """What a process prints that gets a Ctrl-C while it is blocked."""
    arguments = [sys.executable, "-c", INTERRUPTED, "127.0.0.1", str(port), call]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            until(is_blocked)
            process.send_signal(signal.SIGINT)
            return process.communicate(timeout=GRACE_S)[0]
        finally:
            process.kill()


@pytest.mark.parametrize(
    "call", ["store.get('k')", "store.wait(['k'])", "store.queue_pop('k')", "store.barrier('k', 2)"]
)
def test_e18_ctrl_c_ends_a_blocked_call_and_the_store_goes_on(server, call):
    keys = 1 if "barrier" in call else 0
    assert interrupted(server.port, call, lambda: waiters(server) == 1) == f"interrupted\n{keys}\n"
    until(lambda: connections(server) == 0)


def test_e18_ctrl_c_ends_a_constructor_that_gets_no_answer():
    with net.bind("127.0.0.1", 0, 0.0)[0] as listener, ExitStack() as stack:
        listener.listen()
        listener.settimeout(GRACE_S)

        def is_blocked():
            sock = stack.enter_context(listener.accept()[0])
            sock.settimeout(GRACE_S)
            return sock.recv(len(HELLO), socket.MSG_WAITALL)

        assert interrupted(listener.getsockname()[1], "None", is_blocked) == "interrupted\n"


def test_e19_nobody_looks_up_the_names_of_his_peers(monkeypatch, server, connect):
    """Neither server nor client; and a numeric address needs no look-up of any kind."""

    def slow(*_):
        raise AssertionError("a look-up, which may take seconds, for the sake of a log")

    for name in ("getfqdn", "getnameinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getaddrinfo"):
        monkeypatch.setattr(socket, name, slow)
    assert connect().add("n", 1) + connect().add("n", 1) == 3


def test_e20_half_a_frame_blocks_nobody(server, connect, dial):
    """Neither half a request nor half a handshake: others are served, and the server can be stopped."""
    for half in (HELLO[:3], HELLO[:7], HELLO + encode(wire.SET, b"/k", b"value")[:-2]):
        dial().sendall(half)
    until(lambda: any(connection.held_bytes for connection in server._listener._core.connections))
    assert connect().add("n", 1) == 1
    server.stop()


def test_e21_a_compare_set_that_stores_wakes_who_waits(server, connect, pool):
    got = pool.submit(connect().get, "k")
    until(lambda: waiters(server) == 1)
    connect().compare_set("k", "", "v")
    assert got.result(GRACE_S) == b"v"


def test_e22_a_barrier_serves_once(connect):
    """Forced by the protocol: the count at the key is all there is, it only grows, and no arrival is taken back.

    So a key is for one round; delete it, and it is for another. And a PrefixStore's barrier, made of other keys,
    does not meet one on the inner store.
    """
    store = connect()
    with pytest.raises(StoreTimeoutError) as raised:
        store.barrier("b", 2, timeout=0.01)
    assert raised.value.applied == "yes"
    store.barrier("b", 2)
    store.barrier("b", 2)
    store.delete_key("b")
    with pytest.raises(StoreTimeoutError):
        store.barrier("b", 2, timeout=0.01)
    with pytest.raises(StoreTimeoutError):
        PrefixStore("p", store).barrier("b", 2, timeout=0.01)


def test_e26_add_on_a_server_reads_numbers_as_c_does(connect):
    """Forced by the protocol: clients of torch's count on the server's strtoll, and on sums that wrap around."""
    store = connect()
    store.multi_set(["letters", "hex", "large"], ["12abc", "0x10", str((1 << 63) - 1)])
    assert [store.add(key, 1) for key in ("letters", "hex", "large")] == [13, 1, -(1 << 63)]


def test_e32_one_line_for_an_offender_and_none_for_what_is_no_fault(caplog, capfd, server, connect, dial):
    """A timeout is the caller's to tell, and a lost connection is an error with a text, not a stack on stderr."""
    store = connect()
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(StoreTimeoutError):
            store.wait(["never"], 0.01)
        store.set("text", "abc")
        with pytest.raises(DistNetworkError):
            store.add("text", 1)
        dial().close()
        offender = dial()
        offender.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert offender.recv(1) == b""
    (refused_add, refused_page) = [record.getMessage() for record in caplog.records if record.name == "rdzv.store"]
    assert re.fullmatch(r"closed the connection of 127\.0\.0\.1:\d+: b'abc' does not begin with a number", refused_add)
    assert re.fullmatch(r"closed the connection of 127\.0\.0\.1:\d+: its first byte, 0x47, .*", refused_page)
    assert capfd.readouterr().err == ""


def test_every_rough_edge_has_its_test():
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    numbers = {int(number) for number in re.findall(r"^def test_e(\d\d)_", tests, re.MULTILINE)}
    assert numbers == set(range(1, 33))
