"""The client without its socket: what it asks, how it takes the replies, and which writes are not certain yet."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, strategies as st

from rdzv.core import wire
from rdzv.core.client import LOST_SHOWN_MAX, ClientCore
from rdzv.core.server import ServerCore
from rdzv.core.wire import Limits, WireError

PING = (wire.PING, 7)
PONG = struct.pack("<I", 7)
STOP, CANCELED = b"\x00", b"\x01"
WAIT, CANCEL = (wire.WAIT, [b"k"]), (wire.CANCEL_WAIT,)


def asked(*requests):
    core = ClientCore(Limits(key_bytes_max=8, value_bytes_max=16, keys_per_request_max=4))
    core.request(requests)
    return core


def test_replies_come_in_the_order_of_the_requests_whatever_the_pieces():
    core = asked(PING, (wire.SET, b"k", b"v"), (wire.MULTI_GET, [b"a", b"b"]), (wire.QUEUE_POP, b"q"))
    data = PONG + struct.pack("<Q", 2) + b"AA" + struct.pack("<Q", 0) + struct.pack("<q", 0)
    replies = [reply for index in range(len(data)) for reply in core.receive(data[index : index + 1])]
    assert replies == [[7], [b"AA", b""], [0]]
    assert not core.expected


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (CANCELED, [[1]]),
        (STOP + CANCELED, [[0], [1]]),
    ],
)
def test_a_cancelled_wait_was_met_if_its_own_byte_comes_first(data, replies):
    """The race that the protocol leaves open: the wait was met before the server saw that it was given up."""
    core = asked(WAIT, CANCEL)
    assert core.receive(data) == replies
    assert not core.expected


@pytest.mark.parametrize(
    ("requests", "data"),
    [
        ([WAIT], CANCELED),
        ([WAIT], b"\x02"),
        ([WAIT, CANCEL], b"\x02"),
        ([WAIT, PING], CANCELED),
        ([], b"\x00"),
        ([PING], PONG + b"\x00"),
        ([(wire.LIST_KEYS,)], struct.pack("<q", -1)),
        ([(wire.LIST_KEYS,)], struct.pack("<q", 1 << 62)),
        ([(wire.GET, b"k")], struct.pack("<Q", 1 << 62)),
        ([(wire.GET, b"k")], struct.pack("<q", -1)),
    ],
)
def test_a_server_that_answers_nonsense_is_found_out(requests, data):
    """A status byte out of place, bytes that nobody asked for, lengths that no memory holds."""
    with pytest.raises(WireError):
        asked(*requests).receive(data)


@given(st.binary(max_size=60), st.lists(st.sampled_from([PING, WAIT, (wire.GET, b"k"), (wire.LIST_KEYS,)]), max_size=4))
def test_whatever_a_server_answers_is_replies_or_an_error(data, requests):
    core = asked(*requests)
    with contextlib.suppress(WireError):
        assert len(core.receive(data)) <= len(requests)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ((wire.GET, b"k" * 9), "9 bytes"),
        ((wire.SET, b"k", b"v" * 17), "17 bytes"),
        ((wire.COMPARE_SET, b"k", b"v" * 17, b""), "17 bytes"),
        ((wire.CHECK, [b"k"] * 5), "5 keys"),
        ((wire.CHECK, [b"k", b"k" * 9]), "9 bytes"),
        ((wire.MULTI_SET, [b"k", b"v"] * 5), "5 keys"),
        ((wire.MULTI_SET, [b"k", b"v" * 17]), "a value of 17 bytes"),
        ((wire.MULTI_SET, [b"k" * 9, b"v"]), "a key of 9 bytes"),
    ],
)
def test_a_request_past_a_limit_is_refused_before_it_is_asked(request_, error):
    """E15: else the server would close the connection, and a later call would wonder why. What is beside it stays."""
    core = ClientCore(Limits(key_bytes_max=8, value_bytes_max=16, keys_per_request_max=4))
    with pytest.raises(ValueError, match=error):
        core.request([PING, (wire.SET, b"k", b"v"), request_])
    assert not core.expected
    assert core.unconfirmed == 0


@pytest.mark.parametrize(
    "request_",
    [
        (wire.GET, b"k" * 8),
        (wire.SET, b"k", b"v" * 16),
        (wire.CHECK, [b"k"] * 4),
        (wire.MULTI_SET, [b"k" * 8, b"v" * 16] * 4),
    ],
)
def test_a_request_at_the_limit_is_asked(request_):
    assert asked(request_)


def test_a_number_that_does_not_fit_is_refused_before_it_is_asked():
    """Else the core would await a reply to what was never sent, and take the next one for it."""
    core = ClientCore()
    with pytest.raises(struct.error):
        core.request([PING, (wire.ADD, b"k", 1 << 63)])
    assert not core.expected


def test_a_write_is_uncertain_until_the_reply_to_something_behind_it_comes():
    """Not merely until something is asked: if the connection is lost in between, nobody knows."""
    core = asked(PING, (wire.SET, b"a", b""), (wire.APPEND, b"b", b""))
    core.request([PING, (wire.QUEUE_PUSH, b"c", b""), (wire.MULTI_SET, [b"d", b"1", b"e", b"2"]), (wire.MULTI_SET, [])])
    assert (core.unconfirmed, core.unconfirmed_keys()) == (4, [b"d", b"c", b"b", b"a"])
    core.receive(PONG)
    assert core.unconfirmed == 4
    core.receive(PONG)
    assert (core.unconfirmed, core.unconfirmed_keys()) == (2, [b"d", b"c"])
    core.request([PING])
    core.receive(PONG)
    assert (core.unconfirmed, core.unconfirmed_keys()) == (0, [])


def test_of_many_uncertain_writes_the_last_are_named_and_all_are_counted():
    core = asked(*[(wire.SET, b"%d" % index, b"") for index in range(100)])
    assert core.unconfirmed == 100
    assert core.unconfirmed_keys() == [b"%d" % index for index in range(99, 99 - LOST_SHOWN_MAX, -1)]


def test_replies_may_be_larger_than_any_request():
    """APPEND grows a value beyond what can be sent at once, and it can be read back."""
    core, server = ClientCore(), ServerCore()
    connection = server.connect("client", 0.0)
    half = bytes(Limits().value_bytes_max)
    data = core.request(
        [(wire.VALIDATE, wire.MAGIC), (wire.SET, b"k", half), (wire.APPEND, b"k", half), (wire.GET, b"k")]
    )
    server.receive(connection, data)
    assert core.receive(bytes(connection.outgoing)) == [[half + half]]
