"""TCPStore against servers that stop, stall, die, lie or come back: an error by the deadline, and one that says all."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest

from rdzv import net
from rdzv.core import wire
from rdzv.core.wire import FrameReader, Limits
from rdzv.errors import ConnectTimeoutError, DistNetworkError, DistStoreError, StoreTimeoutError
from rdzv.store import StoreServer, TCPStore, connection
from rdzv.store.host import StoreProcess

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things
HANG_S = 20.0  # what would be a hang, where a second or so is the limit


class Scripted:
    """A peer that shakes hands, then answers each request by the script: bytes, or None to hang up.

    The script is called with the command's name, and how many requests came before on any connection.
    """

    def __init__(self, script, greeting=None):
        self.script, self.greeting = script, greeting
        self.requests, self.accepted = [], []
        self.is_over = False
        (self.listener,) = net.bind("127.0.0.1", 0, 0.0)
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def accept(self):
        threads = []
        while True:
            sock, _ = self.listener.accept()
            if self.is_over:
                sock.close()
                break
            self.accepted.append(sock)
            threads.append(threading.Thread(target=self.serve, args=(sock,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def serve(self, sock):
        reader = FrameReader(Limits())
        with sock, suppress(OSError):
            while data := sock.recv(1 << 16):
                reader.feed(data)
                while (request := reader.request()) is not None:
                    op, fields = request
                    reply = self.reply(wire.COMMANDS[op], fields)
                    if reply is None:
                        return
                    sock.sendall(reply)

    def reply(self, name, fields):
        if name == "validate":
            return b""
        if name == "ping" and fields != [0]:
            return fields[0].to_bytes(4, "little") if self.greeting is None else self.greeting
        self.requests.append(name)
        return self.script(name, len(self.requests) - 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_over = True
        net.connect("127.0.0.1", self.port, time.monotonic() + GRACE_S).close()
        for sock in self.accepted:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(GRACE_S)
        self.listener.close()


def client(port, timeout=GRACE_S):
    return closing(TCPStore("127.0.0.1", port, timeout=timeout))


# Silence

CALLS = [
    (lambda store: store.get("here"), "GET"),
    (lambda store: store.wait(["never"], 0.1), "CHECK"),
    (lambda store: store.queue_pop("q"), "QUEUE_POP, CHECK"),
    (lambda store: store.barrier("b", 2, 0.1), "BARRIER"),
    (lambda store: store.add("n", 1), "ADD"),
    (lambda store: store.num_keys(), "GETNUMKEYS"),
    (lambda store: store.flush(), "PING"),
    (lambda store: [store.set("k", bytes(8 << 20)) for _ in range(9)], "does not read"),
]


def test_e10_a_server_that_does_not_run_is_an_error_by_the_deadline():
    """In every call, however long it is stopped: after the timeout or one second; then the store is lost for good."""
    with ExitStack() as stack:
        server = stack.enter_context(StoreProcess())
        stores = [stack.enter_context(client(server.port)) for _ in CALLS]
        pool = stack.enter_context(ThreadPoolExecutor(len(CALLS)))
        os.kill(server.pid, signal.SIGSTOP)
        stack.callback(os.kill, server.pid, signal.SIGCONT)
        for store in stores:
            store.set_timeout(0.2)
        started_at = time.monotonic()
        futures = [pool.submit(call, store) for (call, _), store in zip(CALLS, stores, strict=True)]
        failures = [future.exception(GRACE_S) for future in futures]
        assert time.monotonic() - started_at < HANG_S
        for (_, asked), store, failure in zip(CALLS, stores, failures, strict=True):
            assert isinstance(failure, ConnectTimeoutError)
            assert asked in str(failure)
            assert failure.applied == "unknown"
            assert failure.endpoint == f"127.0.0.1:{server.port}"
            assert 0.2 <= failure.waited_s < HANG_S
            with pytest.raises(DistNetworkError, match=asked) as raised:
                store.num_keys()
            assert raised.value.applied == "no"


def test_e10_a_listener_that_accepts_and_never_answers_is_an_error_by_the_deadline():
    with net.bind("127.0.0.1", 0, 0.0)[0] as listener:
        listener.listen()
        with pytest.raises(ConnectTimeoutError, match="PING") as raised:
            TCPStore("127.0.0.1", listener.getsockname()[1], timeout=0.2)
    assert 0.2 <= raised.value.waited_s < HANG_S


def test_e10_a_full_backlog_is_an_error_by_the_deadline():
    """The system does not even say that it refuses: connecting hangs, and still ends in time."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as listener:
        listener.listen(0)
        port = listener.getsockname()[1]
        with net.connect("127.0.0.1", port, time.monotonic() + GRACE_S), pytest.raises(ConnectTimeoutError):
            TCPStore("127.0.0.1", port, timeout=0.2)


def test_e11_nobody_there_is_an_error_at_the_deadline_not_long_after():
    """The default of 300 s must not become ten minutes: the last pause ends with the time."""
    sock = net.get_socket_with_port()  # bound, so that it is nobody else's, and nobody listens
    with sock, pytest.raises(ConnectTimeoutError, match="refused") as raised:
        TCPStore("127.0.0.1", sock.getsockname()[1], timeout=0.5)
    assert 0.5 <= raised.value.waited_s < 1.5


def test_a_server_that_comes_late_is_found():
    with net.get_socket_with_port() as sock:
        late = threading.Timer(0.2, lambda: servers.append(StoreServer(listen_fd=sock.fileno())))
        servers = []
        late.start()
        with client(sock.getsockname()[1]) as store:
            assert store.num_keys() == 0
        late.join()
        servers[0].stop()


# Waits that end at the last moment


@pytest.mark.parametrize("call", [lambda store: store.wait(["k"]), lambda store: store.barrier("k", 2)])
def test_e14_a_wait_that_is_met_at_the_last_moment_is_met(call):
    """The server saw the key before it saw us give up: all others have passed, so have we."""
    answers = {"check": b"\x01", "wait": b"", "barrier": b"", "cancel_wait": b"\x00\x01", "multi_get": b""}
    with Scripted(lambda name, _: answers[name]) as peer, client(peer.port) as store:
        store.set_timeout(0.05)
        call(store)
        assert "cancel_wait" in peer.requests


def test_a_wait_that_is_cancelled_is_a_timeout():
    answers = {"check": b"\x01", "wait": b"", "cancel_wait": b"\x01"}
    with Scripted(lambda name, _: answers[name]) as peer, client(peer.port) as store:
        store.set_timeout(0.05)
        with pytest.raises(StoreTimeoutError):
            store.wait(["k"])


def test_e25_a_key_that_is_deleted_between_two_requests_is_waited_for_again():
    """An empty value is looked at twice: it may be none at all. Large requests leave that gap."""
    met, ready, missing, nothing, value = b"\x00", b"\x00", b"\x01", bytes(8), (1).to_bytes(8, "little") + b"v"
    script = [nothing, met, ready, nothing, missing, met, ready, value]
    with Scripted(lambda _, index: script[index]) as peer, client(peer.port) as store:
        assert store.get("k") == b"v"
        assert peer.requests == ["get", "wait", "check", "get", "check", "wait", "check", "get"]


# Death


def test_a_server_that_dies_wakes_every_waiter_with_an_error_that_says_so():
    with StoreProcess() as server, client(server.port) as store:
        failures = []

        def wait(call):
            with pytest.raises(DistNetworkError) as raised:
                call()
            failures.append(raised.value)

        calls = [lambda: store.get("k"), lambda: store.barrier("b", 9), lambda: store.queue_pop("q")]
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        while store.check(["b"]) is False:  # one of them waits; the others may yet have to find out by asking
            pass
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(GRACE_S)
        assert len(failures) == 3
        assert all(not isinstance(failure, TimeoutError) for failure in failures)
        assert all(f"127.0.0.1:{server.port}" in str(failure) for failure in failures)
        assert any("instead of answering BARRIER" in str(failure) for failure in failures)


def test_writes_that_may_be_lost_are_named_by_the_next_call():
    """What a write promises: it is certain when a later call has been answered; the others are counted and named."""
    answers = {"set": b"", "append": b"", "check": b"\x00", "getnumkeys": None}
    with Scripted(lambda name, _: answers[name]) as peer, client(peer.port) as store:
        store.set("certain", "1")
        assert store.check(["x"])
        store.set("a", "1")
        store.append("b", "2")
        with pytest.raises(DistNetworkError, match="the last 2 writes may be lost: '/b', '/a'") as raised:
            store.num_keys()
        assert "certain" not in str(raised.value)
        with pytest.raises(DistNetworkError, match="2 writes"):
            store.get("a")


def test_sync_and_flush_make_a_write_certain_or_raise():
    with Scripted(lambda name, _: b"" if name == "set" else None) as peer:
        with client(peer.port) as store, pytest.raises(DistNetworkError, match="'/a'"):
            store.set("a", "1", sync=True)
        with client(peer.port) as store:
            store.set("b", "1")
            with pytest.raises(DistNetworkError, match="'/b'"):
                store.flush()


def test_e24_a_write_after_the_server_has_gone_is_an_error_if_that_is_known():
    """With upstream the first write after the loss vanishes without a word."""
    server = StoreServer()
    with client(server.port) as store:
        store.set("a", "1", sync=True)
        server.stop()
        for write in (lambda: store.set("b", "2"), lambda: store.queue_push("q", "3"), lambda: store.append("b", "4")):
            with pytest.raises(DistNetworkError) as raised:
                write()
            assert raised.value.applied == "no"


def test_e24_a_store_does_not_take_another_server_for_its_own():
    """A server that is started again on the same port knows nothing of before: the old client stays lost, by name."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        port = sock.getsockname()[1]
        first = StoreServer(listen_fd=sock.fileno())
        with client(port) as store:
            store.set("k", "v", sync=True)
            first.stop()
            with StoreServer(listen_fd=sock.fileno()):
                for _ in range(2):
                    with pytest.raises(DistNetworkError, match="closed the connection"):
                        store.get("k")
                with closing(TCPStore("127.0.0.1", port, timeout=GRACE_S)) as fresh:
                    assert not fresh.check(["k"])


@pytest.mark.parametrize(
    ("call", "asked"),
    [(lambda store: store.add("text", 1), "ADD"), (lambda store: store.barrier("text", 1), "BARRIER")],
)
def test_e15_to_count_with_what_is_no_number_says_so(call, asked):
    """The server can only hang up; the error names the request and what may be wrong with it."""
    with StoreServer() as server, client(server.port) as store:
        store.set("text", "abc")
        with pytest.raises(DistNetworkError, match=f"answering {asked}.*no number"):
            call(store)
        with client(server.port) as other:
            assert other.get("text") == b"abc"


# Nonsense


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (lambda store: store.check(["k"]), b"\x00\x00"),
        (lambda store: store.barrier("k", 2), b"\x01"),
        (lambda store: store.barrier("k", 2), b"\x07"),
        (lambda store: store.compare_set("k", "", ""), b"\xff" * 8),
        (lambda store: store.compare_set("k", "", ""), (1 << 62).to_bytes(8, "little")),
        (lambda store: store.list_keys(), b"\xff" * 8),
    ],
)
def test_a_server_that_answers_nonsense_is_found_out_and_not_asked_again(call, reply):
    with Scripted(lambda *_: reply) as peer, client(peer.port) as store:
        with pytest.raises(DistNetworkError, match="no store"):
            call(store)
        with pytest.raises(DistNetworkError, match="no store"):
            store.num_keys()
        assert len(peer.requests) == 1


@pytest.mark.parametrize("greeting", [b"\x00\x00\x00\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_a_peer_that_is_no_store_is_refused_by_the_deadline(greeting):
    """It greets wrongly, speaks something else, or hangs up: tried again, as it may be a port that changes hands."""
    reply = Scripted.reply if greeting else lambda *_: None
    with Scripted(None, greeting) as peer:
        peer.reply = lambda *arguments: reply(peer, *arguments)
        with pytest.raises(ConnectTimeoutError, match=f"127.0.0.1:{peer.port}"):
            TCPStore("127.0.0.1", peer.port, timeout=0.2)
        assert len(peer.accepted) > 1


# Waiting awake


@pytest.mark.parametrize(("spin", "burnt_s_max"), [(True, 0.22), (False, 0.05)])
def test_who_waits_for_slow_replies_sleeps(monkeypatch, spin, burnt_s_max):
    """Awake for a moment at most, and more and more seldom: after the first of eight, the third and the seventh."""
    monkeypatch.setattr(connection, "SPIN_S", 0.05)
    with ExitStack() as stack:
        peer = stack.enter_context(Scripted(lambda *_: time.sleep(0.06) or bytes(8)))
        store = stack.enter_context(closing(TCPStore("127.0.0.1", peer.port, timeout=GRACE_S, spin=spin)))
        clone = stack.enter_context(closing(store.clone()))
        started_s = time.thread_time()
        for _ in range(8):
            clone.add("n", 1)
        assert time.thread_time() - started_s < burnt_s_max


def test_a_value_that_is_there_costs_one_exchange():
    with Scripted(lambda *_: (1).to_bytes(8, "little") + b"v") as peer, client(peer.port) as store:
        assert store.get("k") == b"v"
        assert store.multi_get(["k"]) == [b"v"]
        assert peer.requests == ["get", "multi_get"]


def test_a_name_that_nobody_knows_is_an_error_that_has_the_name(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "unknown")))
    with pytest.raises(ConnectTimeoutError, match=r"nowhere\.invalid:1234.*unknown"):
        TCPStore("nowhere.invalid", 1234, timeout=0.1)


@pytest.mark.parametrize(
    ("said", "is_client"), [("True", True), ("1", True), ("yes", True), ("False", False), ("", False), (None, False)]
)
def test_a_master_whose_launcher_serves_the_store_is_a_client(monkeypatch, said, is_client):
    """In all the words that torch's own store takes for yes; torchrun writes ``True``."""
    with StoreServer("127.0.0.1", 0) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.port))
        if said is None:
            monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        else:
            monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", said)
        if is_client:
            store = TCPStore("127.0.0.1", server.port, is_master=True)
            assert not store.hosts
            store.close()
        else:
            with pytest.raises(DistNetworkError, match="failed to listen"):
                TCPStore("127.0.0.1", server.port, is_master=True)


def test_a_client_cannot_connect_to_port_0():
    with pytest.raises(DistNetworkError, match="port 0") as raised:
        TCPStore("127.0.0.1", 0)
    assert not isinstance(raised.value, DistStoreError)


@pytest.mark.parametrize("is_prompt", [True, False])
def test_a_reset_is_told_as_a_loss_however_the_reply_is_awaited(is_prompt):
    """With what may be lost; where the last reply came late, the system's own error came through."""

    def script(name, _):
        if name == "set":
            return b""
        server.accepted[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return None

    with Scripted(script) as server, client(server.port) as store:
        store.set("k", "v")
        store.client._commands._is_prompt = is_prompt
        with pytest.raises(DistNetworkError, match="reset by peer; the last 1 write may be lost: '/k'"):
            store.add("n", 1)
