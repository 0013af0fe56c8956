"""The server's limits, each by its name: what is at the limit passes, and one more ends the connection that sent it."""

from __future__ import annotations

import dataclasses

import pytest

from rdzv.core import wire
from rdzv.core.keyspace import ENTRY_BYTES, WAITED_BYTES
from rdzv.core.server import Connection, ServerCore
from rdzv.core.wire import Limits, encode

HELLO = encode(wire.VALIDATE, wire.MAGIC)
PING = encode(wire.PING, 7)


def joined(core: ServerCore) -> Connection:
    connection = core.connect("somebody", 0.0)
    core.receive(connection, HELLO)
    return connection


def asked(core: ServerCore, connection: Connection, *requests) -> bytes:
    """The replies to some requests, all read at once."""
    core.receive(connection, b"".join(encode(*request) for request in requests))
    replies = bytes(connection.outgoing)
    core.sent(connection, len(replies), 0.0)
    return replies


# The limit, by which command; what is stored before; a request at the limit; one past it
CASES = [
    ({"key_bytes_max": 10}, [], (wire.SET, b"k" * 10, b""), (wire.SET, b"k" * 11, b"")),
    ({"value_bytes_max": 10}, [], (wire.SET, b"k", b"v" * 10), (wire.SET, b"k", b"v" * 11)),
    ({"keys_per_request_max": 10}, [], (wire.CHECK, [b"k"] * 10), (wire.CHECK, [b"k"] * 11)),
    (
        {"reply_bytes_max": 10},
        [(wire.SET, b"k", b"12345")],
        (wire.MULTI_GET, [b"k"] * 2),
        (wire.MULTI_GET, [b"k"] * 3),
    ),
    (
        {"reply_bytes_max": 10},
        [(wire.SET, b"k", b"12345")],
        (wire.APPEND, b"k", b"67890"),
        (wire.APPEND, b"k", b"1"),
    ),
    *[
        (
            {"stored_bytes_max": 2 * ENTRY_BYTES + 20},
            [(wire.SET, b"0123456789", b"")],
            (wire.SET, b"01234", b"56789"),
            one_more,
        )
        for one_more in [
            (wire.SET, b"", b""),
            (wire.APPEND, b"", b""),
            (wire.ADD, b"", 0),
            (wire.COMPARE_SET, b"", b"", b""),
            (wire.MULTI_SET, [b"", b""]),
            (wire.QUEUE_PUSH, b"", b""),
            (wire.BARRIER, b"", 1),
        ]
    ],
]


@pytest.mark.parametrize(
    ("limits", "before", "at", "past"), CASES, ids=lambda case: next(iter(case)) if isinstance(case, dict) else ""
)
def test_at_the_limit_a_request_passes_and_one_past_it_ends_its_connection(limits, before, at, past):
    core = ServerCore(Limits(**limits))
    client, other = joined(core), joined(core)
    asked(core, client, *before, at)
    assert not client.closing
    asked(core, client, past)
    assert str(*limits.values()) in client.closing
    core.disconnect(client)
    assert asked(core, other, (wire.PING, 7)) == PING[1:]


def test_a_list_of_all_keys_at_the_limit_passes_and_one_past_it_ends_the_connection():
    core = ServerCore(Limits(reply_bytes_max=10))
    client = joined(core)
    assert asked(core, client, (wire.SET, b"12345", b""), (wire.SET, b"6789a", b""), (wire.LIST_KEYS,))
    assert not client.closing
    assert not asked(core, client, (wire.SET, b"b", b""), (wire.LIST_KEYS,))
    assert "limit of 10" in client.closing


def test_as_many_clients_as_the_limit_are_served_and_one_more_is_closed():
    """And when one leaves, another may come."""
    core = ServerCore(Limits(connections_max=3))
    clients = [joined(core) for _ in range(3)]
    one_too_many = joined(core)
    assert not any(client.closing for client in clients)
    assert "3 clients already" in one_too_many.closing
    assert asked(core, one_too_many, (wire.SET, b"k", b"")) == b""
    core.disconnect(one_too_many)
    core.disconnect(clients[0])
    assert asked(core, joined(core), (wire.CHECK, [b"k"])) == wire.NOT_READY


def test_patience_lasts_as_long_as_it_says():
    core = ServerCore(Limits(patience_s=5.0))
    silent = core.connect("silent", 100.0)
    core.expire(104.999)
    assert not silent.closing
    core.expire(105.0)
    assert "for 5 s" in silent.closing


def test_every_limit_has_its_test():
    tested = {name for limits, *_ in CASES for name in limits} | {"connections_max", "held_bytes_max", "patience_s"}
    assert tested == {field.name for field in dataclasses.fields(Limits)}


def holds_half_a_request(core, size):
    connection = joined(core)
    core.receive(connection, encode(wire.SET, b"k", bytes(2 * size))[:size])
    return connection


def holds_a_wait(core, size):
    connection = joined(core)
    count = size // (WAITED_BYTES + 10)
    asked(core, connection, (wire.WAIT, [b"%010d" % number for number in range(count)]))
    return connection


def holds_unread_replies(core, size):
    connection = joined(core)
    asked(core, connection, (wire.SET, b"k", bytes(size)))
    core.receive(connection, encode(wire.GET, b"k"))
    core.sent(connection, 8, 0.0)
    return connection


HOLD = pytest.mark.parametrize("hold", [holds_half_a_request, holds_a_wait, holds_unread_replies])


@HOLD
def test_as_much_as_the_limit_is_held_and_with_more_the_largest_share_is_let_go(hold):
    """Not that of whoever comes next: a client with a small request must not pay for one who has filled the room."""
    core = ServerCore(Limits(held_bytes_max=10_000))
    large = hold(core, 6_000)
    small = [holds_half_a_request(core, 500) for _ in range(7)]
    assert not large.closing
    late = holds_half_a_request(core, 1_500)
    assert "limit of 10000" in large.closing
    assert not any(connection.closing for connection in [*small, late])
    assert not large.outgoing
    for connection in [large, *small, late]:
        core.disconnect(connection)
    assert core._held_bytes + core._keyspace.waiting_bytes == 0


@HOLD
def test_what_one_client_makes_the_server_hold_is_bounded(hold):
    core = ServerCore(Limits(held_bytes_max=10_000))
    assert not hold(core, 9_500).closing
    core = ServerCore(Limits(held_bytes_max=10_000))
    assert "limit of 10000" in hold(core, 10_500).closing


def test_what_is_held_takes_no_room_from_what_is_stored():
    core = ServerCore(Limits(held_bytes_max=10_000, stored_bytes_max=10_000))
    holds_half_a_request(core, 9_900)
    client = joined(core)
    assert asked(core, client, (wire.SET, b"k", bytes(9_000)), (wire.PING, 7)) == PING[1:]


def test_who_gives_back_is_not_let_go():
    """Reading on can but help, even where there is too much already."""
    core = ServerCore(Limits(held_bytes_max=10_000))
    reads = holds_unread_replies(core, 9_900)
    core.limits = Limits(held_bytes_max=1_000)
    core.sent(reads, 100, 0.0)
    assert not reads.closing


def test_what_takes_no_room_is_served_when_there_is_none():
    """At the limit one can still read, ask for what is there and delete: so there comes to be room again."""
    core = ServerCore(Limits(stored_bytes_max=ENTRY_BYTES + 10))
    client = joined(core)
    asked(core, client, (wire.SET, b"01234", b"56789"))
    assert asked(core, client, (wire.GET, b"01234")).endswith(b"56789")
    assert asked(core, client, (wire.CHECK, [b"01234"])) == wire.READY
    assert asked(core, client, (wire.DELETE_KEY, b"01234"))[0] == 1
    assert asked(core, client, (wire.SET, b"56789", b"01234"), (wire.PING, 7)) == PING[1:]


@pytest.mark.parametrize(
    "write",
    [
        (wire.SET, b"key", b"98765"),
        (wire.SET, b"key", b"9"),
        (wire.COMPARE_SET, b"key", b"12345", b"54321"),
        (wire.ADD, b"key", 1),
        (wire.APPEND, b"key", b""),
        (wire.MULTI_SET, [b"key", b"98765"]),
        (wire.BARRIER, b"key", 1),
    ],
)
def test_what_takes_the_place_of_a_value_needs_room_only_for_what_it_is_longer(write):
    """A heartbeat goes on in a full store."""
    core = ServerCore(Limits(stored_bytes_max=ENTRY_BYTES + 8))
    client, other = joined(core), joined(core)
    asked(core, client, (wire.SET, b"key", b"12345"), write)
    assert not client.closing
    asked(core, client, (wire.SET, b"key", b"123456"))
    assert "limit of" in client.closing
    core.disconnect(client)
    assert asked(core, other, (wire.PING, 7)) == PING[1:]
