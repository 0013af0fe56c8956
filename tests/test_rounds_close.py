"""The end of an elastic job: nodes that leave, the last of them, and a job that is closed or opened again."""

from __future__ import annotations

import pytest

from rdzv.core.documents import Settings
from rdzv.core.keyspace import Keyspace
from rdzv.errors import RendezvousClosedError, RendezvousGracefulExitError
from sim.virtual.agent import Agent
from sim.virtual.client import HEAD_KEY
from sim.virtual.job import Job
from sim.virtual.world import World

BOUND_S = 15.0


def meeting(count: int, settings: Settings | None = None, seed: int = 0) -> tuple[World, list[Agent]]:
    """So many nodes in one round."""
    world = World(seed)
    agents = [Agent(world.node(f"node{number}"), settings or Settings(count, count)) for number in range(count)]
    world.finish(*[agent.join() for agent in agents], within_s=5)
    world.run(world.now_s + 1)
    return world, agents


def stored(world: World) -> list[bytes]:
    """The keys of all rounds."""
    return [key for key in Keyspace.keys(world.store.core._keyspace) if key != HEAD_KEY]


def is_closed(world: World) -> bool:
    return b'"closed":null' not in world.store.core._keyspace.get(HEAD_KEY)


def test_a_leave_is_told_to_all_at_once_with_its_reason_and_closes_nothing() -> None:
    """One node's exit is not the job's."""
    world, agents = meeting(3)
    agents[1].leave("its workers have finished")
    world.run(world.now_s + 0.05)
    for agent in (agents[0], agents[2]):
        assert agent.num_nodes_waiting == 1
        assert str(agent.membership.end) == "node1 (rank 1) has left: its workers have finished"
    assert not is_closed(world)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_to_leave_closes(order: tuple[int, ...]) -> None:
    """And says so."""
    world, agents = meeting(3)
    for index in order:
        assert not is_closed(world)
        world.finish(agents[index].leave(), within_s=1)
    assert is_closed(world)
    late = Agent(world.node("late"), Settings(3, 3))
    late.join()
    world.run(world.now_s + 1)
    assert isinstance(late.error, RendezvousClosedError)
    assert f"closed by node{order[-1]} at today: all 3 nodes of round 0 have left or were lost" in str(late.error)


def test_all_that_leave_at_once_close_too() -> None:
    """Nobody takes another for the last."""
    world, agents = meeting(5)
    world.finish(*[agent.leave() for agent in agents], within_s=5)
    assert is_closed(world)


def test_a_leave_that_was_asked_twice_does_not_count_for_another() -> None:
    """A store that was away has heard it twice: the job must not be closed over a node that is still at work."""
    world, agents = meeting(3)
    world.store.pause()
    agents[0].leave()
    world.run(world.now_s + 12)
    world.store.resume()
    world.run(world.now_s + 3)
    world.finish(agents[1].leave(), within_s=5)
    assert not is_closed(world)
    world.finish(agents[2].leave(), within_s=5)
    assert is_closed(world)


def test_the_lost_are_not_waited_for_by_the_last_to_leave() -> None:
    """One crashed, the others leave: nobody is there any more."""
    world, agents = meeting(3)
    agents[1].node.crash()
    world.run(world.now_s + BOUND_S + 2)
    world.finish(agents[0].leave(), within_s=5)
    world.finish(agents[2].leave(), within_s=5)
    assert is_closed(world)


def test_who_has_gone_on_to_the_next_round_keeps_the_job_open() -> None:
    """It waits there for others."""
    world, agents = meeting(2, Settings(1, 2, last_call_s=1.0))
    joining = agents[0].join()
    world.run(world.now_s + 1)
    agents[1].leave()
    world.finish(joining, within_s=5)
    assert not is_closed(world)
    assert agents[0].rounds[-1].size == 1


def test_a_very_long_reason_harms_nobody() -> None:
    """Others must be able to read it."""
    world, agents = meeting(3)
    world.finish(agents[1].leave("\U0001f600" * 100_000), within_s=5)
    world.run(world.now_s + 2)
    assert all(len(agents[index].membership.end.why) <= 500 for index in (0, 2))
    world.finish(agents[0].close("\x00" * 100_000), within_s=5)
    assert is_closed(world)


# Closing


def test_closing_is_told_to_members_waiters_and_spares_at_once() -> None:
    """A spare exits in order: nothing has failed."""
    world, agents = meeting(2)
    spare = Agent(world.node("spare"), Settings(2, 2))
    spare.join()
    world.run(world.now_s + 3)
    agents[0].close("enough")
    world.run(world.now_s + 0.05)
    assert isinstance(spare.error, RendezvousGracefulExitError)
    for agent in agents:
        assert agent.membership.end.kind == "closed"
        assert agent.num_nodes_waiting == 0
    agents[1].join()
    world.run(world.now_s + 1)
    assert isinstance(agents[1].error, RendezvousClosedError)
    assert "closed by node0 at today: enough" in str(agents[1].error)


def test_a_spare_for_whom_a_place_became_free_as_the_job_ended_exits_in_order() -> None:
    """The members finish one after the other, and leave."""
    world, agents = meeting(2)
    spare = Agent(world.node("spare"), Settings(2, 2))
    spare.join()
    world.run(world.now_s + 3)
    agents[0].leave()
    world.run(world.now_s + 3)
    agents[1].leave()
    world.run(world.now_s + 1)
    assert isinstance(spare.error, RendezvousGracefulExitError)


@pytest.mark.parametrize("after", range(1, 8))
def test_a_closer_that_dies_in_between_has_closed_for_all_or_for_nobody(after: int) -> None:
    """Members and waiters look at the document from time to time."""
    world, agents = meeting(3, Settings(2, 3, last_call_s=1.0))
    late = Agent(world.node("late"), Settings(2, 3, last_call_s=1.0))
    late.join()
    world.run(world.now_s + 2.5)
    closer = Agent(world.node("closer"), agents[0].settings)
    closer.close()
    world.run(world.now_s + after * 0.0004)
    closer.node.crash(loses=True)
    world.run(world.now_s + BOUND_S + 2)
    assert {agent.membership.end is not None for agent in agents} == {is_closed(world)}
    assert isinstance(late.error, RendezvousGracefulExitError) == is_closed(world), "the round is full"


@pytest.mark.parametrize("step", range(0, 30, 2))
def test_a_close_at_any_moment_of_a_join_is_the_last_word(step: int) -> None:
    """Whoever has joined is told; whoever has not is refused. Nobody is left waiting."""
    world = World(2)
    agents = [Agent(world.node(f"node{number}"), Settings(3, 3)) for number in range(3)]
    for agent in agents:
        agent.join()
    closer = Agent(world.node("closer"), Settings(3, 3))
    world.at(step * 0.0005, closer.close)
    world.run(BOUND_S + 2)
    for agent in agents:
        assert isinstance(agent.error, RendezvousClosedError) or agent.membership.end.kind == "closed"


def test_a_closed_job_is_opened_again_only_on_demand_and_with_a_new_round() -> None:
    """Nothing of the closed one is found in it."""
    world, agents = meeting(2)
    world.finish(agents[0].close(), within_s=5)
    world.run(world.now_s + 1)
    agents[0].reopen = agents[1].reopen = True
    world.finish(agents[0].join(), agents[1].join(), within_s=5)
    assert [agent.rounds[-1].round for agent in agents] == [2, 2]
    assert [agent.rounds[-1].rank for agent in agents] == [0, 1]
    world.run(world.now_s + 3)
    assert {key.split(b"/")[3] for key in stored(world)} == {b"2"}


def test_a_closed_job_is_told_as_such_before_its_settings_and_is_opened_again_with_new_ones() -> None:
    """Whoever takes the name of a job that is over wants another job."""
    world, agents = meeting(2)
    for agent in agents:
        world.finish(agent.leave(), within_s=5)
    others = [Agent(world.node(f"other{number}"), Settings(1, 3, last_call_s=1.0)) for number in range(2)]
    others[0].join()
    world.run(world.now_s + 1)
    assert isinstance(others[0].error, RendezvousClosedError)
    for agent in others:
        agent.reopen = True
    world.finish(*[agent.join() for agent in others], within_s=5)
    assert [agent.rounds[-1].size for agent in others] == [2, 2]


def test_a_job_that_is_opened_again_makes_no_second_world_beside_one_that_still_runs() -> None:
    """A member of the closed round has not gone yet."""
    world, agents = meeting(2, Settings(1, 2, last_call_s=1.0))
    world.finish(agents[0].close(), within_s=5)
    agents[0].reopen = True
    joining = agents[0].join()
    world.run(world.now_s + 2 * BOUND_S)
    assert not joining.done
    world.finish(agents[1].leave(), within_s=1)
    world.finish(joining, within_s=5)
    assert agents[0].rounds[-1].size == 1


def test_a_job_that_begins_anew_on_the_store_of_one_that_died_waits_for_the_dead_only() -> None:
    """Every node was killed; nobody had closed."""
    job = Job(World(), Settings(3, 3))
    for number in range(3):
        job.start(f"node{number}")
    job.world.at(1.0, job.start, "late")
    job.world.run(3.0)
    for name in list(job.agents):
        job.crash(name)
    job.world.run(10.0)
    for number in range(3):
        job.start(f"new{number}")
    job.world.run(10.0 + 2 * BOUND_S + 4)
    assert [agent.rounds[-1].size for agent in job.agents.values()] == [3, 3, 3]
    assert not job.faults()


@pytest.mark.parametrize("phase_s", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_the_last_to_leave_does_not_close_what_goes_on_by_then(phase_s: float) -> None:
    """A spare may have had the place before; then it is a member of a round that nobody has left."""
    job = Job(World(latency_s=(0.2, 0.2)), Settings(1, 1))
    job.start("node0")
    job.world.run(5.0)
    spare = job.start("node1")
    job.world.run(10.0 + phase_s)
    job.leave("node0")
    job.world.run(20.0)
    assert bool(spare.rounds) is not is_closed(job.world)
