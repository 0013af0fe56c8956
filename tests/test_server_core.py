"""The server without its sockets: bytes in, bytes out, and a clock that the test turns."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from rdzv.core import wire
from rdzv.core.keyspace import ENTRY_BYTES
from rdzv.core.server import ServerCore
from rdzv.core.wire import Limits, encode

VALIDATE = encode(wire.VALIDATE, wire.MAGIC)
PING, PONG = encode(wire.PING, 0x04030201), b"\x01\x02\x03\x04"
HELLO = VALIDATE + PING
STOP, CANCELED = b"\x00", b"\x01"
PAGE = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"


class Clock:
    now = 1000.0


class Client:
    """One connection as its driver handles it: sends all it can at once, unless the client does not read."""

    def __init__(self, core: ServerCore, hello: bytes = HELLO, clock: type[Clock] = Clock) -> None:
        self.core, self.clock = core, clock
        self.connection = core.connect(f"client {len(core.connections)}", clock.now)
        if hello:
            assert self.ask(hello) == PONG

    def ask(self, data: bytes) -> bytes:
        self.core.receive(self.connection, data)
        return self.read()

    def read(self, count_max: int = 1 << 40) -> bytes:
        """What comes when the client reads that many bytes at most."""
        got = b""
        while self.connection.outgoing and len(got) < count_max:
            data = bytes(self.connection.outgoing[: count_max - len(got)])
            got += data
            self.core.sent(self.connection, len(data), self.clock.now)
            if self.connection.paused and not self.connection.outgoing:
                self.core.receive(self.connection, b"")
        return got

    @property
    def end(self) -> str:
        """Why the server closes the connection; empty while it does not."""
        return self.connection.closing

    def leave(self) -> None:
        self.core.disconnect(self.connection)


def memory_bytes(core: ServerCore) -> int:
    return core._held_bytes + core._keyspace.stored_bytes + core._keyspace.waiting_bytes


def packed(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def number(value: int) -> bytes:
    return struct.pack("<q", value)


# The handshake


@given(st.lists(st.integers(0, len(HELLO)), max_size=4))
def test_the_handshake_may_come_in_any_pieces(cuts):
    """E7: a network that cuts VALIDATE in two is no reason to refuse."""
    client = Client(ServerCore(), b"")
    edges = [0, *sorted(cuts), len(HELLO)]
    replies = [client.ask(HELLO[start:end]) for start, end in pairwise(edges)]
    assert b"".join(replies) == PONG
    assert not client.end


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x00\x01\x02\x03\x04" + encode(wire.SET, b"k", b"v"), "magic"),
        (encode(wire.SET, b"k", b"v") + VALIDATE, "first byte, 0x01"),
        (PING, "first byte, 0x0d"),
        (PAGE, "first byte, 0x47"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "first byte, 0x53"),
        (b"\x16\x03\x01\x02\x00", "first byte, 0x16"),
        (VALIDATE + VALIDATE + encode(wire.SET, b"k", b"v"), "second VALIDATE"),
    ],
)
def test_who_does_not_speak_the_protocol_is_closed_at_once_and_changes_nothing(sent, reason):
    """E6: nothing runs before the magic number, and the wrong peer is not left hanging."""
    core = ServerCore()
    stranger = Client(core, b"")
    assert stranger.ask(sent) == b""
    assert reason in stranger.end
    assert core.take_touched() == [stranger.connection]
    assert Client(core).ask(encode(wire.GETNUMKEYS)) == number(0)


def test_no_other_first_byte_opens_a_connection():
    for first in range(1, 256):
        stranger = Client(ServerCore(), b"")
        stranger.ask(bytes([first]))
        assert f"{first:#04x}" in stranger.end


# Bad frames

BAD_FRAMES = {
    "no such command": b"\x13",
    "http": PAGE,
    "key too long": encode(wire.GET, b"")[:1] + struct.pack("<Q", 8193),
    "value too long": encode(wire.SET, b"k", b"")[:-8] + struct.pack("<Q", (8 << 20) + 1),
    "too many keys": bytes([wire.CHECK]) + struct.pack("<Q", 131073),
    "second VALIDATE": VALIDATE,
    "ADD to text": encode(wire.ADD, b"text", 1),
    "BARRIER on text": encode(wire.BARRIER, b"text", 1),
    "second pair too long": encode(wire.MULTI_SET, [b"new", b"1", b"k", b""])[:-8] + struct.pack("<Q", 1 << 62),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_ends_its_own_connection_after_the_due_replies(frame):
    """What came before it is answered, nothing of it or after it is applied, and nobody else notices."""
    core = ServerCore()
    good, bad = Client(core), Client(core)
    good.ask(encode(wire.SET, b"text", b"abc") + encode(wire.WAIT, [b"awaited"]))
    assert bad.ask(PING + encode(wire.QUEUE_LEN, b"q") + frame + encode(wire.SET, b"awaited", b"")) == PONG + number(0)
    assert bad.end
    bad.leave()
    assert good.ask(encode(wire.LIST_KEYS)) == number(1) + packed(b"text")
    assert good.ask(encode(wire.GET, b"text")) == packed(b"abc")
    assert not good.end


def test_nothing_of_half_a_frame_is_applied():
    """E8: a MULTI_SET shows whole or not at all, and a write between its pieces is not undone by the last piece."""
    core = ServerCore()
    slow, fast = Client(core), Client(core)
    frame = encode(wire.MULTI_SET, [b"a", b"1", b"b", b"2"])
    for byte in frame[:-1]:
        slow.ask(bytes([byte]))
    assert fast.ask(encode(wire.GETNUMKEYS)) == number(0)
    fast.ask(encode(wire.SET, b"a", b"between"))
    slow.ask(frame[-1:])
    assert fast.ask(encode(wire.MULTI_GET, [b"a", b"b"])) == packed(b"1") + packed(b"2")


def test_a_client_that_is_gone_in_the_middle_of_a_frame_leaves_nothing():
    core = ServerCore()
    client = Client(core)
    client.ask(encode(wire.SET, b"k", b"value")[:-1])
    client.leave()
    assert memory_bytes(core) == 0


def test_a_frame_that_is_read_is_not_held_any_more():
    core = ServerCore()
    client = Client(core)
    frame = encode(wire.SET, b"k", b"value")
    client.ask(frame[:-1])
    assert memory_bytes(core) >= len(frame) - 1
    client.ask(frame[-1:])
    assert memory_bytes(core) == len(b"kvalue") + ENTRY_BYTES


# Waits


def test_the_end_of_a_wait_comes_before_the_reply_that_ended_it():
    """A client that waits and stores the key itself: first the byte of the wait, then the reply, as torch does."""
    client = Client(ServerCore())
    assert client.ask(encode(wire.WAIT, [b"k"]) + encode(wire.ADD, b"k", 5)) == STOP + number(5)


def test_cancelling_is_always_confirmed_and_nothing_of_the_wait_comes_after():
    core = ServerCore()
    client, other = Client(core), Client(core)
    cancel = encode(wire.CANCEL_WAIT)
    assert client.ask(cancel) == CANCELED
    assert client.ask(encode(wire.WAIT, [b"k"]) + cancel) == CANCELED
    other.ask(encode(wire.SET, b"k", b""))
    assert client.read() == b""
    assert client.ask(encode(wire.WAIT, [b"k"]) + cancel) == STOP + CANCELED


def test_a_wait_met_before_its_cancelling_arrives_is_answered_by_both_bytes():
    core = ServerCore()
    client, other = Client(core), Client(core)
    assert client.ask(encode(wire.WAIT, [b"k"])) == b""
    other.ask(encode(wire.SET, b"k", b""))
    assert client.ask(encode(wire.CANCEL_WAIT)) == STOP + CANCELED


@pytest.mark.parametrize("leaves", [Client.leave, lambda client: client.ask(PING)], ids=["goes away", "goes on"])
def test_an_item_is_passed_on_if_the_woken_client_does_not_take_it(leaves):
    """E3: whoever was woken by the push and does not pop, the next one gets its turn."""
    core = ServerCore()
    first, second, pusher = Client(core), Client(core), Client(core)
    for client in (first, second):
        client.ask(encode(wire.WAIT, [b"q"]))
    pusher.ask(encode(wire.QUEUE_PUSH, b"q", b"item"))
    assert (first.read(), second.read()) == (STOP, b"")
    leaves(first)
    assert second.read() == STOP
    assert second.ask(encode(wire.QUEUE_POP, b"q")) == number(1) + packed(b"item")


def test_who_pushes_while_it_waits_for_the_queue_is_told_once_and_keeps_the_turn():
    core = ServerCore()
    first, second = Client(core), Client(core)
    assert first.ask(encode(wire.WAIT, [b"q"])) + second.ask(encode(wire.WAIT, [b"q"])) == b""
    assert first.ask(encode(wire.QUEUE_PUSH, b"q", b"item")) == STOP
    assert first.ask(encode(wire.QUEUE_POP, b"q")) == number(1) + packed(b"item")
    assert second.read() == b""


def test_the_driver_is_told_who_has_something_to_send():
    """Who was woken by what another did, and who is to be closed; each once, and nobody else."""
    core = ServerCore()
    asker, waiter, idle, stranger = Client(core), Client(core), Client(core), Client(core, b"")
    waiter.ask(encode(wire.WAIT, [b"k"]))
    core.take_touched()
    core.receive(asker.connection, encode(wire.COMPARE_SET, b"k", b"", b"v"))
    core.receive(idle.connection, encode(wire.SET, b"k", b"w"))
    core.receive(stranger.connection, PAGE)
    assert core.take_touched() == [waiter.connection, stranger.connection]
    assert core.take_touched() == []


def test_what_is_sent_at_once_is_neither_counted_nor_timed():
    """So a driver may empty ``outgoing`` itself then, and it has to report only what it could not send at once."""
    core = ServerCore()
    client = Client(core, b"")
    for data in (HELLO, encode(wire.ADD, b"n", 1), encode(wire.WAIT, [b"n"]), PING * 1000):
        core.receive(client.connection, data)
        assert client.connection.outgoing
        assert client.connection.held_bytes == 0
        client.connection.outgoing.clear()
        assert not core.deadlines
    core.receive(client.connection, PING)
    core.sent(client.connection, 1, 0.0)
    assert client.connection.held_bytes == len(PONG) - 1
    assert core.deadlines
    assert client.read() == PONG[1:]
    assert client.connection.held_bytes == 0
    assert not core.deadlines


def test_who_is_to_be_closed_is_not_heard_any_more():
    """The end may come from what others did, between the last read and the close."""
    core = ServerCore()
    client, other = Client(core), Client(core)
    core.receive(client.connection, PAGE)
    reason = client.end
    core.receive(client.connection, encode(wire.SET, b"k", b"v"))
    assert client.end == reason
    assert other.ask(encode(wire.CHECK, [b"k"])) == wire.NOT_READY


def test_the_server_knows_who_waits():
    core = ServerCore()
    client, _ = Client(core), Client(core)
    client.ask(encode(wire.WAIT, [b"k"]))
    assert core.waiting() == [client.connection]


# The clock


def test_a_handshake_that_is_owed_for_too_long_ends_the_connection():
    """Idle strangers and half handshakes go; a client that has shaken hands may idle for ever."""
    core, clock = ServerCore(Limits(patience_s=30.0)), type("Clock", (), {"now": 0.0})
    silent, half, good, mute = [Client(core, hello, clock) for hello in (b"", b"", HELLO, b"")]
    half.ask(VALIDATE[:-1])
    mute.ask(VALIDATE)  # a PING is not demanded
    assert core.next_deadline() == 30.0
    core.expire(29.999)
    assert not silent.end
    core.expire(30.0)
    assert "handshake" in silent.end
    assert "handshake" in half.end
    assert not good.end + mute.end
    assert core.next_deadline() is None


def test_half_a_request_is_waited_for_as_long_as_more_of_it_comes():
    """Each piece buys time, and a request that is whole needs none; others may idle for as long as they like."""
    core, clock = ServerCore(Limits(patience_s=30.0)), type("Clock", (), {"now": 0.0})
    slow, stuck, idle = [Client(core, HELLO, clock) for _ in range(3)]
    frame = encode(wire.SET, b"k", b"value")

    def send(client, data):
        core.receive(client.connection, data)
        core.sent(client.connection, 0, clock.now)

    send(slow, frame[:-2])
    send(stuck, frame[:-2])
    clock.now = 20.0
    send(slow, frame[-2:-1])
    core.expire(30.0)
    assert "half a request unfinished for 30 s" in stuck.end
    assert (core.next_deadline(), slow.end, idle.end) == (50.0, "", "")
    core.receive(slow.connection, frame[-1:])
    assert core.next_deadline() is None
    assert slow.ask(encode(wire.GET, b"k") + frame[:-1]).endswith(b"value")
    core.sent(slow.connection, 0, clock.now)
    assert (core.next_deadline(), slow.end) == (50.0, "")


def test_a_reader_that_never_reads_is_paused_then_given_up():
    """It can make the server keep a bounded amount of replies, for a bounded time; reading a little buys time."""
    core, clock = ServerCore(Limits(patience_s=30.0)), type("Clock", (), {"now": 0.0})
    client, other = Client(core, HELLO, clock), Client(core, HELLO, clock)
    client.ask(encode(wire.SET, b"k", bytes(1 << 19)))
    core.receive(client.connection, encode(wire.GET, b"k") * 100 + encode(wire.SET, b"after", b""))
    assert client.connection.paused
    assert len(client.connection.outgoing) < (1 << 20) + (1 << 19) + 100
    core.sent(client.connection, 0, 0.0)
    assert core.next_deadline() == 30.0
    core.sent(client.connection, 1, 20.0)
    assert core.next_deadline() == 50.0
    core.sent(client.connection, 0, 40.0)
    core.expire(49.999)
    assert not client.end
    core.expire(50.0)
    assert "unread" in client.end
    assert not client.connection.outgoing
    client.leave()
    assert other.ask(encode(wire.CHECK, [b"after"])) == wire.NOT_READY
    assert memory_bytes(core) == 1 + (1 << 19) + ENTRY_BYTES


def test_requests_that_had_to_wait_for_the_reader_go_on_in_order():
    client = Client(ServerCore())
    client.ask(encode(wire.SET, b"k", bytes(1 << 19)))
    expected = packed(bytes(1 << 19)) * 10 + number(1) + PONG
    assert client.ask(encode(wire.GET, b"k") * 10 + encode(wire.ADD, b"n", 1) + PING) == expected
    assert not client.connection.paused
    assert client.core.next_deadline() is None


# Memory


def test_after_all_is_deleted_and_all_have_left_nothing_is_counted():
    core = ServerCore()
    clients = [Client(core) for _ in range(4)]
    clients[0].ask(b"".join(encode(wire.SET, b"%d" % i, b"v" * i) for i in range(50)))
    clients[0].ask(encode(wire.APPEND, b"7", b"more") + encode(wire.ADD, b"n", 10) + encode(wire.ADD, b"n", -9))
    clients[1].ask(b"".join(encode(wire.QUEUE_PUSH, b"q", b"v" * i) for i in range(50)))
    clients[1].ask(encode(wire.WAIT, [b"never", b"ever"]))
    clients[2].ask(encode(wire.BARRIER, b"b", 9) + encode(wire.MULTI_SET, [b"x", b"1", b"y", b"2"])[:-1])
    clients[3].core.receive(clients[3].connection, encode(wire.LIST_KEYS))
    core.sent(clients[3].connection, 10, 0.0)
    assert memory_bytes(core) > 101 * ENTRY_BYTES
    clients[0].ask(b"".join(encode(wire.DELETE_KEY, b"%d" % i) for i in range(50)))
    clients[0].ask(encode(wire.DELETE_KEY, b"n") + encode(wire.DELETE_KEY, b"b") + encode(wire.QUEUE_POP, b"q") * 50)
    for client in clients:
        client.leave()
    assert memory_bytes(core) == 0
    assert core.next_deadline() is None
    assert core.take_touched() == []


# Garbage


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from([HELLO, PING, PAGE, *BAD_FRAMES.values()]),
                st.builds(lambda op, key: encode(op, b"%d" % key), st.sampled_from([wire.GET]), st.integers(0, 3)),
                st.builds(lambda keys: encode(wire.WAIT, keys), st.lists(st.sampled_from([b"0", b"n"]), max_size=2)),
            ),
        ),
        max_size=20,
    )
)
def test_whatever_others_send_a_client_gets_its_own_replies(stream):
    """No bytes from anybody raise an error in the server, and a counter that nobody else knows counts on."""
    core = ServerCore()
    good, others = Client(core), [Client(core, hello) for hello in (b"", HELLO, HELLO)]
    for count, (index, data) in enumerate(stream, 1):
        others[index].ask(data)
        if others[index].end:
            others[index].leave()
            others[index] = Client(core, b"")
        assert good.ask(encode(wire.ADD, b"my own counter", 1)) == number(count)
