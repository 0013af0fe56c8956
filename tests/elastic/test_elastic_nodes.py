"""Nodes as processes that are killed, paused and interrupted: what the others hear, and that the job goes on."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest

from rdzv.store import TCPStore

KNOWN_S = 4.0  # the keep-alive bound and two seconds: by then all know

# Death


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_member_is_told_to_all_and_the_rest_goes_on(site, rank: int) -> None:
    """Rank 0 and the sealer are nothing special; the next round is complete as soon as the survivors are in."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 3, 2, 3)
    site.watch(*nodes)
    killed_at = site.killed(nodes.pop(rank))
    for node in nodes:
        assert node.hear("waiting")["count"] == 1
    site.assert_within(KNOWN_S, killed_at)
    assert {event["kind"] for event in site.heard("end")} == {"lost"}
    assert site.meet(*nodes)[0][1]["round"] == 1
    site.assert_within(KNOWN_S, killed_at)


def test_bootstrap_of_a_dead_rank_0_is_not_handed_out_again(site) -> None:
    """The next rank 0 serves its own, fresh store."""
    _, endpoint = site.serve()
    (first, met), *others = site.meet(*site.nodes(endpoint, 3, 2, 3))
    survivors = [node for node, _ in others]
    site.watch(*survivors)
    first.kill()
    for node in survivors:
        node.hear("waiting")
    place = site.meet(*survivors)[0][1]["bootstrap"]
    assert place != met["bootstrap"]
    with closing(TCPStore(*place)) as store:
        assert store.num_keys() == 0


def test_a_killed_leader_of_a_lobby_is_succeeded(site) -> None:
    """It was first, and would have sealed the round."""
    _, endpoint = site.serve()
    leader, *others = site.nodes(endpoint, 3, 2)
    leader.tell("join beside")
    site.until(lambda: site.told("waiting"))
    leader.kill()
    site.meet(*others)


def test_too_few_survivors_are_told_who_is_left_and_how_many_are_needed(site) -> None:
    """They do not wait for ever, and they do not make too small a world."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 3, 3, join_timeout=4)
    site.watch(*nodes)
    nodes.pop().kill()
    for node in nodes:
        node.hear("waiting")
        node.tell("join beside")
    for node in nodes:
        failed = node.hear("failed")
        assert failed["kind"] == "RendezvousTimeoutError"
        assert "of at least 3 nodes" in failed["text"]


# Pauses


def test_a_node_paused_for_too_long_is_evicted_is_told_so_and_joins_again(site) -> None:
    """At its first call. It does no harm to the round that went on without it."""
    _, endpoint = site.serve()
    *nodes, paused = site.round(endpoint, 3, 2, 3)
    site.watch(*nodes, paused)
    paused.signal(signal.SIGSTOP)
    for node in nodes:
        node.hear("waiting")
    second = site.meet(*nodes)
    site.watch(*nodes)
    paused.signal(signal.SIGCONT)
    told = paused.hear("waiting")
    assert told["phase"] == "evicted"
    assert told["asked"] <= 1
    paused.tell("join beside")
    for node in nodes:
        assert node.hear("waiting")["count"] == 1
        node.tell("join beside")
    found = [node.hear("met") for node in (*nodes, paused)]
    assert [met["rank"] for met in found] == [0, 1, 2]
    assert {met["round"] for met in found} == {second[0][1]["round"] + 1}


def test_a_short_pause_evicts_nobody(site) -> None:
    """Neither the one that was paused, nor, when it looks again, the others."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 3, 3, keep_alive_max_attempt=4)
    nodes[1].signal(signal.SIGSTOP)
    site.pass_polls(2)
    nodes[1].signal(signal.SIGCONT)
    site.pass_polls(2)
    for node in nodes:
        node.tell("status")
        status = node.hear("status")
        assert status["phase"] == "member"
        assert set(status["states"]) == {"alive"}
    assert site.told("end") == []


def test_all_nodes_paused_and_resumed_go_on(site) -> None:
    """A machine that sleeps, or a container that is frozen: who was held up itself knows nothing of the others."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 3, 3)
    for node in nodes:
        node.signal(signal.SIGSTOP)
    site.pass_polls(3)
    for node in nodes:
        node.signal(signal.SIGCONT)
    site.pass_polls(2)
    assert site.told("end") == []
    assert site.meet(*nodes)[0][1]["round"] == 1


# Going


def test_a_leave_closes_nothing_and_is_told_with_its_reason(site) -> None:
    """At once: nobody waits for a bound."""
    _, endpoint = site.serve()
    leaves, *nodes = site.round(endpoint, 3, 2, 3)
    site.watch(*nodes)
    leaves.tell("leave")
    assert leaves.hear("left")["well"]
    for node in nodes:
        assert "it was told to" in node.hear("waiting")["why"]
    site.meet(*nodes)


def test_a_join_that_is_interrupted_leaves_the_lobby(site) -> None:
    """By Ctrl-C: the others are not sealed into a round with it, and nobody waits a bound for a leader that went."""
    _, endpoint = site.serve()
    interrupted, *nodes = site.nodes(endpoint, 3, 2, keep_alive_max_attempt=600)
    interrupted.tell("join")
    site.until(lambda: site.told("waiting"))
    interrupted.signal(signal.SIGINT)
    assert interrupted.hear("failed")["kind"] == "KeyboardInterrupt"
    site.meet(*nodes)


def test_a_forked_child_that_ends_takes_nothing_with_it(site) -> None:
    """It lets go of its copy of the handler, whose thread lives in the parent."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 2, 2)
    for node in nodes:
        node.tell("fork")
        assert node.hear("forked")["status"] == 0
    site.pass_polls(3)
    assert site.told("end") == []
    site.meet(*nodes)


def test_a_forked_child_cannot_act_for_its_parent(site) -> None:
    """It left the round in its parent's name, or hung if the parent's thread had a lock just then."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 2, 2)
    for node in nodes:
        node.tell("misuse")
        refused = node.hear("refused")
        assert refused["well"]
        assert refused["kind"] == "RendezvousStateError"
        assert "forked child" in refused["text"]
    site.pass_polls(3)
    assert site.told("end") == []
    site.meet(*nodes)


def test_a_close_reaches_every_process(site) -> None:
    """Also a spare, for whom it is no failure."""
    _, endpoint = site.serve()
    nodes = site.round(endpoint, 2, 2)
    (spare,) = site.nodes(endpoint, 1, 2)
    spare.tell("join beside")
    site.until(lambda: site.told("spare"))
    for node in nodes:
        node.tell("leave")
        assert node.hear("left")["well"]
    assert spare.hear("failed")["kind"] == "RendezvousGracefulExitError"


def test_a_member_that_comes_back_alone_waits_for_those_who_still_work(site) -> None:
    """With ``min`` 1 it could make a second world; there are never two."""
    _, endpoint = site.serve()
    eager, works = site.round(endpoint, 2, 1, 2, last_call_timeout=1)
    site.watch(works)
    eager.tell("join beside")
    assert works.hear("waiting")["count"] == 1
    works.tell("status")
    assert works.hear("status")["phase"] == "member"
    works.tell("join beside")
    assert [node.hear("met")["size"] for node in (eager, works)] == [2, 2]


# What they are given


def test_settings_that_differ_are_refused_with_both_values_and_harm_nobody(site) -> None:
    """The node that came first is waited for, and meets the next one that is like it."""
    _, endpoint = site.serve()
    first, like_it = site.nodes(endpoint, 2, 2)
    (stranger,) = site.nodes(endpoint, 1, 1, 3)
    first.tell("join beside")
    site.until(lambda: site.told("in lobby"))
    stranger.tell("join")
    failed = stranger.hear("failed")
    assert failed["kind"] == "RendezvousStateError"
    assert "min_nodes is 1 here and 2 there, max_nodes is 3 here and 2 there" in failed["text"]
    like_it.tell("join beside")
    assert {node.hear("met")["size"] for node in (first, like_it)} == {2}


def test_hints_order_the_ranks_and_a_second_one_for_a_rank_is_refused_by_name(site) -> None:
    """A rank comes before a place, and a place before none."""
    _, endpoint = site.serve()
    (plain,) = site.nodes(endpoint, 1, 4)
    (placed,) = site.nodes(endpoint, 1, 4, topology="rack7")
    (second,) = site.nodes(endpoint, 1, 4, rank=1)
    asks, rival = site.nodes(endpoint, 2, 4, rank=0)
    for node in (plain, placed, asks):
        node.tell("join beside")
    site.until(lambda: len(site.told("in lobby")) == 3)
    rival.tell("join")
    assert "ask for rank 0" in rival.hear("failed")["text"]
    second.tell("join beside")
    assert [node.hear("met")["rank"] for node in (asks, second, placed, plain)] == [0, 1, 2, 3]


def test_no_round_reads_the_keys_of_another(site) -> None:
    """Of one round all read what one wrote; in the next it is as if nobody had."""
    _, endpoint = site.serve()
    nodes, seen = site.nodes(endpoint, 2, 2), []
    for _ in range(2):
        site.meet(*nodes)
        for node in nodes:
            node.tell("mark")
            seen.append(node.hear("mark")["found"])
        nodes.reverse()
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_each_arrival_extends_the_last_call(site) -> None:
    """The last one comes when the call would have been over for those who were enough."""
    _, endpoint = site.serve()
    nodes = site.nodes(endpoint, 4, 2, 4, last_call_timeout=6)
    for number, node in enumerate(nodes):
        node.tell("join beside")
        site.pass_polls(4 if number in (1, 2) else 0)
    assert {node.hear("met")["size"] for node in nodes} == {4}


@pytest.mark.parametrize("name", ["ticket", "node/1", "plan/1"])
def test_garbage_in_a_key_harms_at_most_who_meets_it(site, name: str) -> None:
    """It is told as what it is; when it is gone, or somebody has written over it, the job goes on."""
    _, endpoint = site.serve()
    nodes = site.nodes(endpoint, 3, 2, 3, last_call_timeout=1)
    host, _, port = endpoint.rpartition(":")
    with closing(TCPStore(host, int(port), timeout=20)) as store:
        store.set(f"/rdzv/job/0/{name}", b"\x80garbage", sync=True)
        for node in nodes:
            node.tell("join beside")
        failed = [said for node in nodes if (said := node.hear("met", "failed"))["event"] == "failed"]
        assert {said["kind"] for said in failed} <= {"RendezvousStateError"}
        assert len(failed) == {"ticket": 3, "plan/1": 1}.get(name, 0)
        assert all(f"'/rdzv/job/0/{name}'" in said["text"] for said in failed if name == "ticket")
