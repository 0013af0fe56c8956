"""Nodes as processes whose store dies, is paused, or is cut off: what they hear, and that the rounds go on."""

from __future__ import annotations

import signal
import time

from rdzv import net

BOUND_S = 2.0


def test_the_death_of_the_stores_host_is_told_at_once_with_what_to_do(site) -> None:
    """To members and to those who wait: nobody sits out a time-out."""
    store, endpoint = site.serve()
    member, waits = site.nodes(endpoint, 2, 1)
    site.meet(member)
    waits.tell("join beside")
    site.until(lambda: site.told("spare"))
    site.watch(member)
    killed_at = time.monotonic()
    store.kill()
    for said in (member.hear("lost"), waits.hear("failed")):
        assert said["kind"] == "RendezvousConnectionError"
        for part in ("'job'", endpoint, "rdzv serve"):
            assert part in said["text"]
    site.assert_within(2, killed_at)


def test_the_death_of_a_node_that_hosts_the_store_is_told_to_the_others(site) -> None:
    """Its store dies with it."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as held:
        endpoint = f"127.0.0.1:{held.getsockname()[1]}"
    (host,) = site.nodes(endpoint, 1, 2, is_host="1", hosting="process")
    (guest,) = site.nodes(endpoint, 1, 2)
    site.meet(host, guest)
    site.watch(guest)
    host.kill()
    assert guest.hear("lost")["kind"] == "RendezvousConnectionError"


def test_a_store_that_was_away_for_less_than_the_bound_costs_no_round(site) -> None:
    """Its process was paused, or its machine was; nobody is evicted, and the rounds go on."""
    store, endpoint = site.serve()
    nodes = site.round(endpoint, 3, 3, keep_alive_max_attempt=5)
    site.watch(*nodes)
    store.send_signal(signal.SIGSTOP)
    site.pass_polls(3)
    store.send_signal(signal.SIGCONT)
    site.pass_polls(3)
    assert site.told("end") == site.told("store lost") == []
    assert site.meet(*nodes)[0][1]["round"] == 1


def test_a_store_that_was_away_for_longer_is_told(site) -> None:
    """Also to who waits in a lobby; a request is not waited for longer than it may take."""
    store, endpoint = site.serve()
    member, waits = site.nodes(endpoint, 2, 1)
    site.meet(member)
    waits.tell("join beside")
    site.until(lambda: site.told("spare"))
    site.watch(member)
    paused_at = time.monotonic()
    store.send_signal(signal.SIGSTOP)
    for said in (member.hear("lost"), waits.hear("failed")):
        assert said["kind"] == "RendezvousConnectionError"
        assert endpoint in said["text"]
    site.assert_within(2 * BOUND_S, paused_at)
    store.send_signal(signal.SIGCONT)


def test_cut_connections_are_opened_again_and_cost_nothing(site) -> None:
    """A switch that restarts, a table of connections that overflows: of members and of those who wait in a lobby."""
    _, endpoint = site.serve()
    proxy = site.proxy(endpoint)
    nodes = site.round(proxy.endpoint, 2, 2)
    site.watch(*nodes)
    (waits,) = site.nodes(proxy.endpoint, 1, 2)
    waits.tell("join beside")
    site.until(lambda: site.told("spare"))
    for _ in range(2):
        proxy.cut(at_least=3)
        site.pass_polls(2)
    assert site.told("end") == site.told("store lost") == []
    nodes[1].kill()
    nodes[0].hear("waiting")
    nodes[0].tell("join beside")
    assert sorted(node.hear("met")["rank"] for node in (nodes[0], waits)) == [0, 1]
