"""What an elastic handler refuses, which options it knows, and what its errors say."""

from __future__ import annotations

import socket
from base64 import b64encode
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

import rdzv
from rdzv.backend import RendezvousBackend
from rdzv.c10d import C10dRendezvousBackend, head_key
from rdzv.elastic import DynamicRendezvousHandler, RendezvousTimeout, create_handler
from rdzv.errors import (
    ConfigError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rdzv.store import HashStore, TCPStore

# What is refused


def test_a_member_that_can_hold_no_new_port_is_one_still_and_says_its_farewell(
    job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its resolver fails for a while: it beats on, may try again, and the others hear of its leave at once."""
    look_up = socket.getaddrinfo

    def answer(name: Any, port: int, **how: Any) -> Any:
        if name != b"node0.example":
            return look_up(name, port, **how)
        if is_down:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up("127.0.0.1", port, **how)

    is_down = False
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    node, other = job.node(2, bind="node0.example"), job.node(2)
    job.meet(node, other)
    is_down = True
    with pytest.raises(RendezvousConnectionError, match="cannot offer a port"):
        node.next_rendezvous()
    status = node.status()
    assert (status.phase, status.round) == ("member", 0)
    assert "cannot offer a port" in status.why
    is_down = False
    assert len({info.bootstrap_store_info for info in job.meet(node, other)}) == 1
    is_down = True
    with pytest.raises(RendezvousConnectionError):
        node.next_rendezvous()
    assert node.shutdown("it has no port")
    job.until(lambda: other.num_nodes_waiting() == 1)
    assert "left: it has no port" in other.status().why


def test_different_settings_are_refused_with_both_values(job) -> None:
    """Also the time-outs, since all nodes must agree on when one of them is dead."""
    job.node(1).next_rendezvous()
    with pytest.raises(RendezvousStateError) as raised:
        job.node(2, 5, keep_alive_interval=7).next_rendezvous()
    for name, mine, theirs in (("min_nodes", 2, 1), ("max_nodes", 5, 1), ("keep_alive_interval_s", 7.0, 1.0)):
        assert f"{name} is {mine} here and {theirs} there" in str(raised.value)


def test_a_time_out_says_who_is_there_how_many_are_needed_where_and_how_long(job) -> None:
    """And the error knows it as values too."""
    with pytest.raises(RendezvousTimeoutError) as raised:
        job.node(2, join_timeout=1).next_rendezvous()
    text = str(raised.value)
    assert "run 'job'" in text
    assert "round 0" in text
    assert "1 of at least 2 nodes" in text
    assert job.server
    assert job.server.endpoint in text
    assert raised.value.endpoint == job.server.endpoint


def test_a_node_that_gave_up_is_not_waited_for_and_can_come_again(job) -> None:
    """The same handler; it counts once."""
    impatient = job.node(2, join_timeout=4)
    with pytest.raises(RendezvousTimeoutError):
        impatient.next_rendezvous()
    assert impatient.status().phase == "idle"
    joins = [job.join(handler) for handler in (impatient, job.node(2, join_timeout=4))]
    assert sorted(job.result(future).rank for future in joins) == [0, 1]


@pytest.mark.parametrize("garbage", [b"x", b"{}", b"\xff\x00", b'{"protocol":1}', b"[" * 5000])
def test_a_document_that_no_node_writes_is_a_state_error(job, garbage: bytes) -> None:
    """It is never executed; the error says where it stood."""

    assert job.server
    with closing(TCPStore("127.0.0.1", job.server.port, timeout=20)) as store:
        store.set(head_key("job"), b64encode(garbage), sync=True)
        with pytest.raises(RendezvousStateError, match="'job'"):
            job.node(1).next_rendezvous()


def test_another_version_of_the_protocol_is_refused_with_both(job) -> None:
    """Before anything else of the document is looked at."""

    assert job.server
    with closing(TCPStore("127.0.0.1", job.server.port, timeout=20)) as store:
        store.set(head_key("job"), b64encode(b'{"protocol":77,"news":[]}'), sync=True)
        with pytest.raises(RendezvousStateError, match="version 77; this node speaks 1"):
            job.node(1).next_rendezvous()


def test_a_store_that_was_emptied_is_a_state_error(job) -> None:
    """The nodes must not take the new one for the old; each time that one is asked, it says of which run, and where."""
    node = job.node(1)
    node.next_rendezvous()
    assert job.server
    with closing(TCPStore("127.0.0.1", job.server.port, timeout=20)) as store:
        store.delete_key(head_key("job"))
        job.until(lambda: node.status().phase == "store lost")
        for _ in range(2):
            with pytest.raises(RendezvousStateError, match="lost or emptied") as raised:
                node.num_nodes_waiting()
            assert "run 'job'" in str(raised.value)
            assert raised.value.endpoint == job.server.endpoint in str(raised.value)
            assert raised.value.__cause__ is not raised.value  # or whoever follows the causes never comes to an end


def test_a_store_that_dies_is_told_at_once_to_who_waits_and_to_members(job) -> None:
    """With the run, the endpoint, and what to do about it."""
    member, waits = job.node(1), job.node(1)
    member.next_rendezvous()
    joins = job.join(waits)
    job.until(lambda: job.told("spare"))
    assert job.server
    job.server.stop()
    told = [job.error_of(joins)]
    job.until(lambda: member.status().phase == "store lost")
    with pytest.raises(RendezvousConnectionError) as raised:
        member.num_nodes_waiting()
    for error in (*told, raised.value):
        assert isinstance(error, RendezvousConnectionError)
        for part in ("'job'", job.server.endpoint, "rdzv serve"):
            assert part in str(error)
    assert not member.shutdown()


def test_a_handler_that_was_shut_down_says_so(job) -> None:
    """Twice is no error."""
    node = job.node(1)
    assert node.shutdown()
    assert node.shutdown()
    assert node.is_closed()
    assert node.status().phase == "left"
    with pytest.raises(RendezvousClosedError, match="shut down"):
        node.next_rendezvous()


# Options


def handler(**options: Any) -> DynamicRendezvousHandler:
    """One that is never used; the backend is somebody's own."""
    return create_handler(HashStore(), Mine(), rdzv.RendezvousParameters("mine", "", "job", 1, 2, **options))


class Mine(RendezvousBackend):
    """A backend that only has a name."""

    name = "mine"  # type: ignore[assignment]
    get_state = set_state = None  # type: ignore[assignment]


def refusal(**options: Any) -> str:
    """What is said of these options."""
    with pytest.raises(ValueError) as raised:
        handler(**options)
    return str(raised.value)


def test_options_and_their_defaults() -> None:
    """Upstream's names and values; ``heartbeat`` is the name that upstream documents."""
    settings = handler(heartbeat=3, timeout=900).settings
    timeout = settings.timeout
    assert [timeout.join, timeout.last_call, timeout.close, timeout.heartbeat] == [
        timedelta(seconds=seconds) for seconds in (600, 30, 30, 3)
    ]
    assert (settings.keep_alive_interval, settings.keep_alive_max_attempt) == (timedelta(seconds=5), 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"join_timeout": 0}, "The join timeout (0 s) must be positive."),
        ({"last_call_timeout": -1}, "The last_call timeout (-1 s) must be positive."),
        ({"join_timeout": "soon"}, "'join_timeout' does not represent a valid integer value"),
        ({"keep_alive_interval": 0}, "keep_alive_interval (0 s) must be positive"),
        ({"keep_alive_max_attempt": 0}, "keep_alive_max_attempt (0) must be at least 1"),
        ({"heartbeat_timeout": 16}, "heartbeat (16 s) must not be more than keep_alive_interval times"),
        ({"rank": -1}, "'rank' must be 0 or more, not -1"),
        ({"topology": "x" * 256}, "'topology' can have 255 characters at the most, not 256"),
        ({"linger_s": "-1"}, "'linger_s' must be from 0"),
    ],
)
def test_an_option_out_of_range_is_refused_in_words(options: dict[str, Any], text: str) -> None:
    """When the handler is made, not when it is used."""
    assert text in refusal(**options)


def test_broken_relations_are_told_together() -> None:
    """So that nobody mends one after the other."""
    text = refusal(keep_alive_interval=-1, keep_alive_max_attempt=0)
    assert "keep_alive_interval (-1 s) must be positive" in text
    assert "keep_alive_max_attempt (0) must be at least 1" in text


def test_an_unknown_option_is_refused_with_the_nearest_known_one() -> None:
    """A foreign backend's own options are its own."""
    with pytest.raises(ConfigError, match="did you mean join_timeout"):
        rdzv.get_rendezvous_handler(rdzv.RendezvousParameters("c10d", "localhost:1", "job", 1, 1, join_timeuot=1))
    assert "did you mean last_call_timeout" in refusal(last_call_timout=5)
    handler(colour="blue")


def test_a_quick_keep_alive_needs_no_other_option() -> None:
    """A heartbeat that was not given is no longer than a node may be silent; one that was given is never changed."""
    handler(keep_alive_interval=1, keep_alive_max_attempt=1)
    assert RendezvousTimeout(heartbeat=timedelta(seconds=5)).heartbeat_within(timedelta(1)) == timedelta(seconds=5)


def test_a_timeout_is_a_timedelta_or_seconds() -> None:
    """As it is for a store; what is neither is named."""
    assert RendezvousTimeout(join=2.5).join == timedelta(seconds=2.5)
    with pytest.raises(TypeError, match=r"close timeout .'5'. is none"):
        RendezvousTimeout(close="5")
    with pytest.raises(ValueError, match=r"close timeout .* must be positive"):
        RendezvousTimeout(close=0)
    for negative, shown in ((timedelta(seconds=-1), "-1 day, 23:59:59"), (-1, "-1 s")):
        with pytest.raises(ValueError, match=rf"^The join timeout \({shown}\) must be positive.$"):
            RendezvousTimeout(negative)


@pytest.mark.parametrize("run_id", ["x" * 5000, "\ud800"], ids=["long", "no text"])
def test_a_run_id_that_no_key_can_carry_is_refused_when_the_handler_is_made(run_id: str) -> None:
    """Not by the store, in the middle of a join."""
    store = HashStore()
    with pytest.raises(ValueError, match=r"run id|surrogates"):
        DynamicRendezvousHandler.from_backend(run_id, store, C10dRendezvousBackend(store, "job"), 1, 1)


@pytest.mark.parametrize("option", ["join_timeout", "keep_alive_interval", "keep_alive_max_attempt"])
def test_a_number_beyond_any_clock_is_refused_as_any_other_is(job, option: str) -> None:
    """It is no overflow in the depths of something."""
    with pytest.raises(ValueError, match="no time can be more than"):
        job.node(1, **{option: 10**15})


def test_a_reason_may_have_what_utf_8_cannot_carry(job) -> None:
    """As the text of an error has that names a file of another age."""
    handler = job.node(1)
    handler.next_rendezvous()
    assert handler.shutdown("no file \udcff")
    with pytest.raises(RendezvousClosedError):
        job.node(1).next_rendezvous()
