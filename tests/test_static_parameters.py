"""What the static handler makes of its parameters, and what it answers to the rest of the interface."""

from __future__ import annotations

import pytest

import rdzv
from rdzv.static import create_rdzv_handler


def parameters(rank, world_size, endpoint, **options):
    options = {"rank": rank, "hosting": "thread"} | options
    return rdzv.RendezvousParameters("static", endpoint, "job", world_size, world_size, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": None}, "'rank'"),
        ({"rank": None, "rnk": 0}, "did you mean rank"),
        ({"rank": 4}, "from 0 to 3"),
        ({"rank": -1}, "from 0 to 3"),
        ({"rank": "two"}, "'rank'"),
        ({"endpoint": "localhost"}, "port"),
        ({"endpoint": "  "}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": "::1:29500"}, r"\[::1\]"),
        ({"endpoint": "localhost:0", "rank": 1}, "port 0"),
        ({"timeout": 0}, "'timeout'"),
        ({"timeout": "5s"}, "'timeout'"),
        ({"timeuot": 5}, "timeout"),
        ({"linger_s": -1}, "'linger_s'"),
        ({"linger_s": "long"}, "'linger_s'"),
        ({"hosting": "cloud"}, "'hosting'"),
        ({"min_nodes": 2}, "min_nodes"),
    ],
)
def test_each_bad_parameter_has_its_own_error(changes, message):
    """What cannot work is refused before anything is opened, by an error that names it."""
    given = {"endpoint": "localhost:29500", "rank": 0, "min_nodes": 4} | changes
    endpoint, min_nodes = given.pop("endpoint"), given.pop("min_nodes")
    params = rdzv.RendezvousParameters("static", endpoint, "job", min_nodes, 4, **given)
    with pytest.raises(ValueError, match=message):
        create_rdzv_handler(params)


def test_a_rank_given_as_text_hosts_like_any_other():
    """A rank out of a configuration string is a number like any other (torch's hosts nothing then)."""
    handler = create_rdzv_handler(parameters("0", 1, "127.0.0.1:0"))
    assert handler.next_rendezvous().rank == 0
    handler.shutdown()


def test_a_name_that_can_never_be_one_is_refused_at_once():
    """What no resolver can take is not tried until the deadline."""
    handler = rdzv.StaticTCPRendezvous("no:name", 29500, 1, 2, "job", 600)
    with pytest.raises(ValueError, match="'no:name' is no host"):
        handler.next_rendezvous()


def test_a_handler_that_was_shut_down_says_so():
    """After shutdown the handler is closed, and shutting down again is harmless."""
    handler = create_rdzv_handler(parameters(0, 1, "127.0.0.1:0"))
    assert not handler.is_closed()
    handler.next_rendezvous()
    assert handler.shutdown()
    assert handler.shutdown()
    assert handler.is_closed()
    with pytest.raises(rdzv.RendezvousClosedError, match="'job'"):
        handler.next_rendezvous()


def test_what_a_static_handler_answers_to_the_rest_of_the_interface():
    """The parts of the interface that mean little for a fixed world answer as upstream's do."""
    handler = create_rdzv_handler(parameters(0, 1, "127.0.0.1:0"))
    assert handler.get_backend() == "static"
    assert handler.get_run_id() == "job"
    assert handler.use_agent_store
    assert handler.num_nodes_waiting() == 0
    handler.set_closed()
    assert not handler.is_closed()
    assert "rank 0 of 1" in repr(handler)
