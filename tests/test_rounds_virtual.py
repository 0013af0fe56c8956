"""Elastic rounds in virtual time, when nobody dies: who is in, with which rank, and who waits."""

from __future__ import annotations

import pytest

from rdzv.core.documents import Settings
from rdzv.errors import RendezvousStateError, RendezvousTimeoutError
from sim.virtual.agent import Agent
from sim.virtual.job import Job
from sim.virtual.world import World


def start(settings: Settings, count: int, *, seed: int = 0, restless: bool = False) -> Job:
    """A job of which so many nodes have started, in one moment."""
    job = Job(World(seed), settings)
    job.is_restless = restless
    for number in range(count):
        job.start(f"node{number}")
    return job


def ranks(job: Job) -> dict[str, int]:
    return {name: agent.rounds[-1].rank for name, agent in job.agents.items() if agent.membership}


def go(job: Job, for_s: float) -> None:
    job.world.run(job.world.now_s + for_s)


# Frozen rounds


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_member_that_reenters_at_once_tears_no_round(rank: int) -> None:
    """Torch gives the others ranks 1 and 2 of a world of 2. Here all were given one world, and meet again in one."""
    job = start(Settings(3, 3), 3, restless=True)
    once: list[str] = []

    def reenter_at_once() -> None:
        for name, agent in job.agents.items():
            if agent.membership and agent.rounds[-1].rank == rank and not once:
                once.append(name)
                job.reenter(name)

    for millisecond in range(100):
        job.world.at(millisecond / 1000, reenter_at_once)
    go(job, 5.0)
    assert once
    assert [agent.rounds[-1].round for agent in job.agents.values()] == [1, 1, 1]
    assert [agent.rounds[-1].size for agent in job.agents.values()] == [3, 3, 3]
    assert not job.faults()


def test_with_min_1_a_member_that_reenters_makes_no_second_world_while_others_run() -> None:
    """It waits for them, is counted meanwhile, and gives up with an error that names them."""
    job = start(Settings(1, 3, join_s=20.0), 3)
    go(job, 1.0)
    job.reenter("node1")
    go(job, 3.0)
    assert [job.agents[name].num_nodes_waiting for name in ("node0", "node2")] == [1, 1]
    assert job.agents["node0"].membership.end.kind == "next"
    go(job, 30.0)
    error = job.agents["node1"].error
    assert isinstance(error, RendezvousTimeoutError)
    assert "round 0 still has node0, node2" in str(error)
    assert not job.faults()


def test_bootstrap_is_that_of_rank_0_and_fresh_in_every_round() -> None:
    """Also for a newcomer, and when rank 0 was lost."""
    job = start(Settings(1, 4, last_call_s=1.0), 2, restless=True)
    go(job, 3.0)
    job.start("node2")
    go(job, 5.0)
    job.crash("node0")
    go(job, 25.0)
    given: dict[int, set[tuple[str, int]]] = {}
    for agent in job.agents.values():
        for place in agent.rounds:
            given.setdefault(place.round, set()).add((place.addr, place.port))
    assert given[0] == {("addr-of-node0", 1)}
    assert given[1] == {("addr-of-node0", 2)}
    assert given[2] == {("addr-of-node2", 2)} or given[2] == {("addr-of-node1", 3)}


def test_each_round_has_one_number_for_all_and_its_keys_are_its_own() -> None:
    """Nothing of a round is found under another: the second barrier does not pass on the first one's keys."""
    job = start(Settings(2, 2), 2)
    go(job, 1.0)
    job.reenter("node0")
    go(job, 5.0)
    assert job.agents["node0"].is_joining, "round 0 is complete, and that is nothing to round 1"
    job.reenter("node1")
    go(job, 1.0)
    assert [[place.round for place in agent.rounds] for agent in job.agents.values()] == [[0, 1], [0, 1]]


# Clocks


def test_clocks_hours_apart_and_drifting_evict_nobody() -> None:
    """No node's calendar or clock is compared with another's."""
    job = Job(World(), Settings(4, 4))
    for number in range(4):
        node = job.world.node(f"node{number}", offset_s=(-1) ** number * 7200.0 * number, rate=1 + 0.01 * number)
        job.start(node.name, node)
    go(job, 1000.0)
    assert all(len(agent.rounds) == 1 and not agent.num_nodes_waiting for agent in job.agents.values())


@pytest.mark.parametrize(("interval_s", "attempts"), [(1.0, 1), (0.2, 1), (1.0, 2)])
def test_the_shortest_bounds_evict_nobody_who_lives(interval_s: float, attempts: int) -> None:
    """Between two looks of a neighbour a living node need not have beaten, if both do so at the same pace."""
    settings = Settings(3, 3, heartbeat_s=0.2, keep_alive_interval_s=interval_s, keep_alive_max_attempt=attempts)
    job = start(settings, 3)
    go(job, 200.0)
    assert all(len(agent.rounds) == 1 and not agent.num_nodes_waiting for agent in job.agents.values())


# Late ones and spares


def test_a_late_arrival_is_counted_and_admitted_by_the_next_round() -> None:
    """And no more counted when it has died."""
    job = start(Settings(2, 4, last_call_s=1.0), 2)
    go(job, 3.0)
    job.start("node2")
    go(job, 2.0)
    assert [job.agents[name].num_nodes_waiting for name in ("node0", "node1")] == [1, 1]
    job.crash("node2")
    go(job, 17.0)
    assert [agent.num_nodes_waiting for agent in job.agents.values()] == [0, 0]
    job.start("node3")
    go(job, 18.0)
    assert [job.agents[name].num_nodes_waiting for name in ("node0", "node1")] == [1, 1]
    job.reenter("node0")
    job.reenter("node1")
    go(job, 3.0)
    assert ranks(job) == {"node0": 0, "node1": 1, "node3": 2}


def test_spares_wait_without_a_word_and_step_in_when_one_leaves() -> None:
    """They do not disturb the round while it is full, however long that is; and never time out meanwhile."""
    job = start(Settings(2, 2, join_s=20.0), 2, restless=True)
    go(job, 1.0)
    job.start("node2")
    go(job, 1.0)
    job.start("node3")
    go(job, 100.0)
    assert [job.agents[name].num_nodes_waiting for name in ("node0", "node1")] == [0, 0]
    assert all(job.agents[name].is_joining and job.agents[name].standing.is_spare for name in ("node2", "node3"))
    assert all(len(job.agents[name].rounds) == 1 for name in ("node0", "node1"))
    job.leave("node0")
    go(job, 3.0)
    assert ranks(job) == {"node2": 0, "node1": 1}
    assert job.agents["node3"].is_joining
    assert not job.faults()


# Ranks


def test_ranks_are_natural_at_first_and_stay_where_they_can() -> None:
    """node7 comes before node66; then holes are filled with the fewest moves."""
    job = Job(World(1), Settings(1, 9, last_call_s=1.0))
    for number in (66, 7, 100, 8):
        job.start(f"node{number}")
    go(job, 3.0)
    assert ranks(job) == {"node7": 0, "node8": 1, "node66": 2, "node100": 3}
    job.crash("node8")
    go(job, 18.0)
    job.start("node1")
    go(job, 3.0)
    assert ranks(job) == {"node7": 0, "node100": 1, "node66": 2, "node1": 3}


def test_a_hint_goes_first_and_a_second_one_for_the_same_rank_is_refused_by_name() -> None:
    """The one that was first stays."""
    job = start(Settings(3, 3), 0)
    job.start("node5", rank=0)
    job.start("node1")
    go(job, 2.5)
    late = [job.start(name, rank=0) for name in ("node9", "node10")]
    go(job, 8.0)
    for agent in late:
        assert isinstance(agent.error, RendezvousStateError)
        assert f"both node5 and {agent.node.name} ask for rank 0, and node5 was first" in str(agent.error)
    job.start("node3", rank=1)
    go(job, 4.0)
    assert ranks(job) == {"node5": 0, "node3": 1, "node1": 2}


def test_a_leader_is_refused_like_any_other_whatever_its_clock_shows() -> None:
    """It came to lead after the first leader died; its clock, which is the faster, stands far below zero."""
    job = start(Settings(2, 2, last_call_s=1.0, keep_alive_interval_s=1.0), 1)
    go(job, 0.3)
    job.crash("node0")
    was_first = job.start("node1", job.world.node("node1", offset_s=-1e6), rank=0)
    go(job, 0.1)
    leads = job.start("node2", job.world.node("node2", offset_s=-1e6, rate=1.3), rank=0)
    go(job, 20.0)
    assert "both node1 and node2 ask for rank 0, and node1 was first" in str(leads.error)
    assert not was_first.error
    job.start("node3")
    go(job, 10.0)
    assert ranks(job) == {"node1": 0, "node3": 1}


def test_the_hint_of_a_dead_node_is_free_again() -> None:
    """A successor of the node asks for the same rank before anybody knows of the death: it waits, and gets it."""
    job = start(Settings(3, 3, join_s=60.0), 0)
    job.start("node1")
    job.start("node0", rank=0)
    go(job, 2.0)
    job.crash("node0")
    job.start("heir", rank=0)
    job.start("node2")
    go(job, 18.0)
    assert ranks(job) == {"heir": 0, "node1": 1, "node2": 2}


# Settings and time-outs


def test_other_settings_are_refused_with_both_values() -> None:
    """The others do not notice."""
    job = start(Settings(2, 2, last_call_s=30.0), 1)
    go(job, 1.0)
    stranger = Agent(job.world.node("stranger"), Settings(1, 2, last_call_s=5.0))
    stranger.join()
    go(job, 1.0)
    assert isinstance(stranger.error, RendezvousStateError)
    assert "min_nodes is 1 here and 2 there" in str(stranger.error)
    assert "last_call_s is 5.0 here and 30.0 there" in str(stranger.error)
    job.start("node1")
    go(job, 1.0)
    assert ranks(job) == {"node0": 0, "node1": 1}


def test_too_few_is_an_error_that_names_who_is_here_and_how_many_are_needed() -> None:
    """For everybody who waits, each in its own time."""
    job = start(Settings(3, 4, join_s=20.0), 2)
    go(job, 25.0)
    for agent in job.agents.values():
        assert isinstance(agent.error, RendezvousTimeoutError)
        assert "round 0 was not complete after 20" in str(agent.error)
    assert any("2 of at least 3 nodes are here (node" in str(agent.error) for agent in job.agents.values())


def test_too_few_are_left_is_an_error_that_names_the_lost() -> None:
    """Who is left, who is missing, how many are needed."""
    job = start(Settings(2, 2, join_s=20.0), 2)
    go(job, 1.0)
    job.crash("node1")
    go(job, 17.0)
    job.reenter("node0")
    go(job, 21.0)
    text = str(job.agents["node0"].error)
    assert "1 of at least 2 nodes are here (node0); node1 of round 0 are gone" in text


@pytest.mark.parametrize("gap_s", [6.0, 9.9])
def test_arrivals_extend_the_last_call(gap_s: float) -> None:
    """Each within it gives the next one as much time again: nobody of a slow stream is shut out, nor at the last."""
    job = start(Settings(1, 9, last_call_s=10.0), 1)
    for number in range(1, 5):
        job.world.at(number * gap_s, job.start, f"node{number}")
    go(job, 4 * gap_s + 12.0)
    assert len(ranks(job)) == 5


# What it costs


def test_a_join_costs_each_node_the_same_however_many_there_are() -> None:
    """5 operations for a follower, 8 for the leader of a first round; a mean that is flat within 20 %."""
    means = {}
    for count in (4, 1024):
        world = World()
        agents = [Agent(world.node(f"node{number}"), Settings(count, count)) for number in range(count)]
        world.finish(*[agent.join() for agent in agents], within_s=60)
        operations = sorted(agent.node.cost.operations for agent in agents)
        assert operations[:-1] == [5] * (count - 1)
        assert operations[-1] <= 8 + count // 250
        means[count] = (
            sum(operations) / count,
            sum(agent.node.cost.bytes for agent in agents) / count,
        )
    for small, large in zip(means[4], means[1024], strict=True):
        assert large <= small * 1.2
        assert large >= small * 0.8


def test_a_store_that_is_slow_to_answer_hides_no_death() -> None:
    """A leader asks much in each poll: with 0.4 s for each answer its polls are seconds apart, and still on time."""
    job = Job(World(latency_s=(0.2, 0.2)), Settings(1, 2, last_call_s=1.0))
    for number in range(2):
        job.start(f"node{number}")
    go(job, 10.0)
    for name in ("node0", "node1"):
        job.crash(name)
    job.start("node2")
    go(job, 40.0)
    assert ranks(job) == {"node2": 0}


def test_a_node_that_tries_again_alone_is_not_taken_for_its_former_self() -> None:
    """It leads a lobby in which its own old records are."""
    job = start(Settings(2, 2, join_s=5.0), 1, restless=True)
    go(job, 12.0)
    job.start("node1")
    go(job, 5.0)
    assert ranks(job) == {"node0": 0, "node1": 1}


def test_rank_0_beats_while_it_clears_old_rounds_away_over_a_slow_link() -> None:
    """Its driver may need a round trip for each key, and there are as many as would take longer than the bound."""
    world = World(0, latency_s=(0.05, 0.05))
    job = Job(world, Settings(5, 5, last_call_s=1.0, keep_alive_interval_s=1.0, keep_alive_max_attempt=2))
    for number in range(5):
        node = world.node(f"node{number}")
        node.asks_in_turn = True
        job.start(node.name, node)
    world.run(10.0)
    for name in list(job.agents):
        job.reenter(name)
    world.run(40.0)
    assert [[place.round for place in agent.rounds] for agent in job.agents.values()] == [[0, 1]] * 5
    left = world.store.keys()
    assert not [key for key in left if key.startswith(b"/rdzv/run/0/")]
