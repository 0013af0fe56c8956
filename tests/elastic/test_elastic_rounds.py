"""With real stores, threads and sockets: what the nodes of a round take home, and how they come and go."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import rdzv
from rdzv.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousStateError,
)
from rdzv.store import StoreServer, TCPStore

if TYPE_CHECKING:
    from rdzv.elastic import DynamicRendezvousHandler

everywhere = pytest.mark.parametrize("job", ["tcp", "hash", "file", "prefix", "own", "silent"], indirect=True)


# What they take home


@everywhere
def test_all_take_home_the_same_world(job) -> None:
    """Ranks without holes, one size, one bootstrap address, and a store in which they find each other."""
    infos = job.meet(*[job.node(3) for _ in range(3)])
    assert sorted(info.rank for info in infos) == [0, 1, 2]
    assert {info.world_size for info in infos} == {3}
    assert len({info.bootstrap_store_info for info in infos}) == 1
    for info in infos:
        info.store.set(f"from {info.rank}", str(info.rank))
    assert [infos[0].store.get(f"from {rank}") for rank in range(3)] == [b"0", b"1", b"2"]


@everywhere
def test_rounds_share_no_key(job) -> None:
    """Nothing of one can be read in the next, so a second barrier never passes on the first one's keys."""
    nodes = [job.node(2) for _ in range(2)]
    for _ in range(3):
        infos = job.meet(*nodes)
        assert infos[0].store.compare_set("barrier", "", "passed") == b"passed"
        assert infos[1].store.compare_set("barrier", "", "twice") == b"passed"


def test_ranks_stay_from_round_to_round(job) -> None:
    """Whatever the order in which the nodes come back."""
    nodes = [job.node(4) for _ in range(4)]
    first = [info.rank for info in job.meet(*nodes)]
    for _ in range(3):
        assert [info.rank for info in reversed(job.meet(*reversed(nodes)))] == first


def test_each_round_has_a_fresh_bootstrap_store_that_rank_0_serves(job) -> None:
    """A client reaches it; the one of the round before is gone with all its keys."""
    nodes, seen = [job.node(2) for _ in range(2)], set()
    for _ in range(3):
        place = job.meet(*nodes)[1].bootstrap_store_info
        seen.add(place.master_port)
        with closing(TCPStore(place.master_addr, place.master_port, timeout=20)) as client:
            assert client.num_keys() == 0
            client.set("stale", "")
    for handler in nodes:
        handler.shutdown()
    with pytest.raises(OSError):
        socket.create_connection((place.master_addr, place.master_port), timeout=1).close()


def test_without_an_agent_store_the_port_is_left_to_the_users_own_server(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is given the port between the round and its use by a child that binds it."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    node = job.node(1)
    assert not node.use_agent_store
    place = node.next_rendezvous().bootstrap_store_info
    with closing(TCPStore(place.master_addr, place.master_port, is_master=True, timeout=20)) as host:
        assert host.hosts


def test_the_bootstrap_address_is_the_one_that_the_node_was_given(job) -> None:
    """Or else the one from which it reaches the store, so the way there is known to work."""
    assert job.node(1, local_addr="127.0.0.2").next_rendezvous().bootstrap_store_info.master_addr == "127.0.0.2"
    job.end()
    with StoreServer(port=0) as server:
        params = rdzv.RendezvousParameters("c10d", server.endpoint, "other", 1, 1, is_host="0", hosting="thread")
        handler = rdzv.get_rendezvous_handler(params)
        assert handler.next_rendezvous().bootstrap_store_info.master_addr == "127.0.0.1"
        handler.shutdown()


def test_an_address_that_is_not_this_machines_is_refused_unless_bind_says_what_to_listen_on(job) -> None:
    """A node behind a service address says both."""
    with pytest.raises(RendezvousConnectionError, match=r"'192\.0\.2\.1'.*bind=ADDRESS"):
        job.node(1, local_addr="192.0.2.1").next_rendezvous()
    place = job.node(1, local_addr="192.0.2.1", bind="127.0.0.1").next_rendezvous().bootstrap_store_info
    assert place.master_addr == "192.0.2.1"
    with closing(TCPStore("127.0.0.1", place.master_port, timeout=20)) as client:
        client.set("key", "value", sync=True)


# Ranks


def test_a_rank_hint_comes_first_then_topology_then_natural_order(job) -> None:
    """node7 stands before node66, as people sort."""
    hints = {"rack2/node66": {}, "rack2/node7": {}, "rack10/node1": {}, "": {"rank": 5}}
    nodes = {name: job.node(4, topology=name, **hint) for name, hint in hints.items()}
    ranks = dict(zip(nodes, (info.rank for info in job.meet(*nodes.values())), strict=True))
    assert sorted(ranks, key=lambda name: ranks[name]) == ["", "rack2/node7", "rack2/node66", "rack10/node1"]


def test_two_nodes_that_ask_for_one_rank_are_told_by_name(job) -> None:
    """The later one is refused; the other goes on waiting, and is not harmed."""
    first = job.join(job.node(2, rank=1))
    job.until(lambda: job.told("in lobby"))
    second = job.node(2, rank=1)
    with pytest.raises(RendezvousStateError, match="ask for rank 1"):
        second.next_rendezvous()
    third = job.join(job.node(2, rank=0))
    assert {job.result(first).rank, job.result(third).rank} == {0, 1}


# Coming and going


def test_a_late_node_is_counted_and_let_in_by_the_next_round(job) -> None:
    """It does not disturb the round that runs."""
    early = job.node(1, 2, last_call_timeout=1)
    assert early.next_rendezvous().world_size == 1
    assert early.num_nodes_waiting() == 0
    late = job.join(job.node(1, 2, last_call_timeout=1))
    job.until(lambda: early.num_nodes_waiting() == 1)
    assert not late.done()
    assert (early.next_rendezvous().rank, job.result(late).rank) == (0, 1)
    assert early.num_nodes_waiting() == 0


def test_a_spare_is_not_counted_until_a_place_is_free(job) -> None:
    """It steps in when a member leaves, and never disturbs the round meanwhile."""
    stays, leaves, spare = [job.node(2) for _ in range(3)]
    job.meet(stays, leaves)
    joins = job.join(spare)
    job.until(lambda: job.told("spare"))
    assert stays.num_nodes_waiting() == 0
    leaves.shutdown("it is repaired")
    job.until(lambda: stays.num_nodes_waiting() > 0)
    assert "it is repaired" in str(job.heard("end"))
    assert (stays.next_rendezvous().world_size, job.result(joins).world_size) == (2, 2)


def test_a_spare_ends_gracefully_with_the_job(job) -> None:
    """Nothing has failed: it was not needed."""
    members, spare = [job.node(2) for _ in range(2)], job.node(2)
    job.meet(*members)
    joins = job.join(spare)
    job.until(lambda: job.told("spare"))
    for member in members:
        assert member.shutdown()
    assert isinstance(job.error_of(joins), RendezvousGracefulExitError)


def test_the_last_to_leave_closes_and_nobody_before(job) -> None:
    """Whoever comes afterwards is told who closed, when and why; opening the job again is explicit."""
    nodes = [job.node(3) for _ in range(3)]
    job.meet(*nodes)
    for handler in nodes[:-1]:
        handler.shutdown()
        assert not nodes[-1].is_closed()
    nodes[-1].shutdown()
    stranger = job.node(3)
    assert stranger.is_closed()
    with pytest.raises(
        RendezvousClosedError, match=r"'job' is closed by \S+ at 2\S+: all 3 nodes of round 0 have left"
    ):
        stranger.next_rendezvous()
    again = [job.node(3, reopen=True) for _ in range(3)]
    assert sorted(info.rank for info in job.meet(*again)) == [0, 1, 2]
    assert again[0].status().round not in (None, 0)


@everywhere
def test_set_closed_ends_everything(job) -> None:
    """Members hear of it, and who waits is told by whom, and why; a second time changes nothing."""
    members, waits = [job.node(2, 3, last_call_timeout=1) for _ in range(2)], job.node(2, 3, last_call_timeout=1)
    job.meet(*members)
    joins = job.join(waits)
    job.until(lambda: job.told("in lobby")[2:])
    members[0].set_closed("the loss is low enough")
    members[1].set_closed("too late")
    assert all(member.is_closed() for member in members)
    assert isinstance(job.error_of(joins), RendezvousClosedError)
    for error in (job.error_of(joins), *(closed(member) for member in members)):
        assert "the loss is low enough" in str(error)
    assert waits.is_closed()
    assert waits.status().phase == "closed"


def closed(handler: DynamicRendezvousHandler) -> BaseException:
    with pytest.raises(RendezvousClosedError) as raised:
        handler.next_rendezvous()
    return raised.value


def test_what_is_closed_under_a_member_is_not_opened_by_it(job) -> None:
    """To open a job again is for those who come to a closed one: else who came so could never be told to end."""
    members = [job.node(2, reopen=True) for _ in range(2)]
    job.meet(*members)
    members[0].set_closed("that was all")
    for member in members:
        assert "that was all" in str(closed(member))


def test_a_member_hears_of_a_close_without_asking(job) -> None:
    """Within a poll; it does not take the close for a node that waits."""
    members = [job.node(2) for _ in range(2)]
    job.meet(*members)
    members[0].set_closed("enough")
    job.until(members[1].is_closed)
    assert members[1].num_nodes_waiting() == 0
    assert "enough" in members[1].status().why
