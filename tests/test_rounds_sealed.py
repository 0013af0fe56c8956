"""What happens to a node in the very moment in which its lobby is sealed: all agree whether it is in the round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdzv.core.documents import Settings
from rdzv.errors import RendezvousClosedError
from sim.virtual.job import Job
from sim.virtual.world import World

if TYPE_CHECKING:
    from sim.virtual.agent import Agent

BOUND_S = 15.0


def assert_at_peace(job: Job) -> None:
    """All nodes are in one round."""
    agents = job.agents.values()
    assert len({agent.rounds[-1].round for agent in agents if agent.membership}) == 1
    assert not any(agent.num_nodes_waiting or agent.is_evicted or agent.is_joining for agent in agents)
    assert not job.faults()


def test_the_sealer_whose_last_word_is_lost_with_its_connection_stays_in_its_round() -> None:
    """Who leads the lobby after it finds the round sealed, and gives the others their places in it."""
    job = Job(World(0), Settings(1, 2, last_call_s=1.0))
    sealer, look = job.start("node0"), job._look

    def lose_what_is_on_its_way(agent: Agent) -> None:
        if agent.times("joined") and not agent.rounds:
            agent.node.link.lose()
        look(agent)

    sealer.on_change = lose_what_is_on_its_way
    job.world.run(0.1)
    other = job.start("node1")
    job.world.run(2 * BOUND_S)
    assert [len(agent.rounds) for agent in (sealer, other)] == [1, 1]
    assert_at_peace(job)


def test_a_leader_that_was_paused_as_it_sealed_is_given_no_place_where_it_was_found_dead() -> None:
    """It seals its plan all the same, in which the others see that it is lost; it comes again as all of them do."""
    job = Job(World(), Settings(2, 2))
    sealer = job.start("node0")
    look = job._look

    def pause_as_it_seals(agent: Agent) -> None:
        if agent.events[-1][1] == "waiting" and "all 2 nodes" in str(agent.events[-1][2]) and not agent.times("gone"):
            job.hold("node0", "pause")
            sealer.on_change = look
            job.world.at(job.world.now_s + 20, job.free, "node0", "pause")
        look(agent)

    sealer.on_change = pause_as_it_seals
    job.world.run(0.1)
    job.start("node1")
    job.world.run(3 * BOUND_S)
    assert not sealer.times("evicted")
    assert_at_peace(job)


def test_one_that_left_the_lobby_as_it_was_sealed_is_not_waited_for_when_all_have_left() -> None:
    """The leader had not heard of it, and it is a member that nobody has counted as gone."""
    job = Job(World(), Settings(2, 3, last_call_s=1.0))
    job.is_restless = False
    leader = job.start("node0")
    look = job._look

    def interrupt_as_it_seals(agent: Agent) -> None:
        if agent.events[-1][1] == "waiting" and "all 3 nodes" in str(agent.events[-1][2]):
            job.interrupt("node1")
        look(agent)

    leader.on_change = interrupt_as_it_seals
    job.world.run(0.1)
    job.start("node1")
    job.start("node2")
    job.world.run(5.0)
    assert [agent.rounds[-1].size for agent in job.agents.values()] == [3, 3]
    for name in ("node0", "node2"):
        job.leave(name)
        job.world.run(job.world.now_s + 3)
    late = job.start("node3")
    job.world.run(job.world.now_s + 3)
    assert isinstance(late.error, RendezvousClosedError)


def test_a_leader_that_is_interrupted_while_its_notice_is_on_its_way_is_not_counted_any_more() -> None:
    """Its resignation goes over another connection, and may be there first."""
    world = World(is_traced=True)
    _visit(world)
    world.run(6.0)
    assert world.trace
    notices = [entry[0] for entry in world.trace if entry[1:3] == ("visitor", "ask") and "/lobby" in str(entry[4])]
    assert len(notices) > 1
    for number, at in enumerate(40 * notices):
        world = World()
        job = _visit(world)
        world.kernel.call_at(at + 1 + 10_000 * number % 1_000_000, job.interrupt, ("visitor",))
        world.run(12.0)
        assert [agent.num_nodes_waiting for agent in job.agents.values()] == [0, 0]


def _visit(world: World) -> Job:
    """A round with room for one more, who comes, and waits in vain, since nobody heeds it."""
    job = Job(world, Settings(2, 3, last_call_s=0.0, keep_alive_max_attempt=600))
    job.is_restless = False
    for number in range(2):
        job.start(f"node{number}")
    world.at(2.0, job.start, "visitor")
    return job
