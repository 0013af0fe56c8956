"""What a member that asks who is there is told, whatever happens while it asks."""

from __future__ import annotations

import pytest

from rdzv.core.documents import Settings
from rdzv.core.persist import persist
from rdzv.core.survey import Sightings, survey
from sim.virtual.job import Job
from sim.virtual.world import World

STEP_S = 0.0005  # a message's way


@pytest.mark.parametrize("step", range(12))
def test_a_round_that_is_over_and_cleared_away_as_it_is_asked_for_has_no_members(step: int) -> None:
    """Whoever is held up between two of its questions waits for no key that is gone, and does not blame the store."""
    job = Job(World(latency_s=(STEP_S, STEP_S)), Settings(1, 3, last_call_s=1.0))
    for number in range(3):
        job.start(f"node{number}")
    world = job.world
    world.run(10.0)
    asks = job.agents["node1"]
    assert asks.membership
    flow = survey(asks.membership, Sightings(), asks.node.now)
    task = asks.node.spawn(persist(flow, job.settings, asks.node.now))
    world.at(world.now_s + (step + 0.5) * STEP_S, job.hold, "node1", "pause")
    world.run(world.now_s + 60)
    job.is_restless = False
    job.free("node1", "pause")
    world.finish(task, within_s=2)
    has_asked = step >= 6  # the last of four questions has been sent: the round was not over yet
    assert [member.name for member in task.result] == (["node0", "node1", "node2"] if has_asked else [])
