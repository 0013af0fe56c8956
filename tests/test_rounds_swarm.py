"""Elastic rounds under whatever may happen: safety at every moment, and a whole job again soon after all is well."""

from __future__ import annotations

import random

import pytest

from rdzv.core.documents import Settings
from sim.virtual.job import Job
from sim.virtual.world import World

TROUBLE_S = 100.0  # for so long things happen
WELL_S = 90.0  # so long after they are over, the job must be whole: several bounds, since deaths may be found in turn

# The large ones have found bugs.
SEEDS = (*range(20), 11466, 12151, 12674)


def drive(seed: int) -> Job:
    """One job with a life full of accidents, all drawn from the seed."""
    chance = random.Random(seed)
    min_nodes = chance.choice([1, 1, 2, 3])
    max_nodes = min_nodes + chance.choice([0, 1, 2, 4])
    settings = Settings(
        min_nodes, max_nodes, join_s=chance.choice([30.0, 600.0]), last_call_s=chance.choice([1.0, 5.0])
    )
    world = World(seed, latency_s=chance.choice([(0.0001, 0.001), (0.001, 0.2)]))
    job = Job(world, settings, reaction_s=chance.choice([0.01, 0.5, 3.0]))
    names = [f"node{number}" for number in range(chance.randint(min_nodes, max_nodes + 2))]
    for name in names:
        world.node(name, offset_s=chance.uniform(-1e5, 1e5), rate=chance.uniform(0.999, 1.001))
        world.at(chance.choice([0.0, chance.uniform(0, 20)]), _ensure, job, name)
    for _ in range(chance.randint(0, 8)):
        _plan_accident(chance, job, chance.choice(names), chance.uniform(0, TROUBLE_S))
    for _ in range(chance.randint(0, 3)):
        _plan_crowd(chance, job, names, chance.uniform(0, TROUBLE_S))
    world.run(TROUBLE_S + 45)
    for name in names[: settings.min_nodes]:
        _ensure(job, name)
    world.run(TROUBLE_S + 45 + WELL_S)
    return job


def _plan_crowd(chance: random.Random, job: Job, names: list[str], at_s: float) -> None:
    """All go to the next round at once, and some accidents happen while it is made."""
    for name in names:
        job.world.at(at_s, job.reenter, name)
    for _ in range(chance.randint(1, 3)):
        _plan_accident(chance, job, chance.choice(names), at_s + chance.choice([0.02, 2.0]) * chance.random())


def _ensure(job: Job, name: str) -> None:
    if name not in job.agents:
        job.start(name)


def _plan_accident(chance: random.Random, job: Job, name: str, at_s: float) -> None:
    world, for_s = job.world, chance.choice([0.5, 3, 8, 14, 16, 20, 30])
    kind = chance.choice(["crash", "crash", "pause", "pause", "cut", "store", "leave", "reenter", "start"])
    if kind in ("pause", "cut"):
        world.at(at_s, job.hold, name, kind)
        world.at(at_s + for_s, job.free, name, {"pause": "resume", "cut": "heal"}[kind])
    elif kind == "store":
        world.at(at_s, world.store.pause)
        world.at(at_s + min(for_s, 12), world.store.resume)
    elif kind == "start":
        world.at(at_s, _ensure, job, name)
    else:
        world.at(at_s, getattr(job, kind), name)


def check(seed: int) -> None:
    job = drive(seed)
    assert not job.faults()
    agents = list(job.agents.values())
    if any("closed" in str(agent.error) for agent in agents) or len(agents) < job.settings.min_nodes:
        return
    members = [agent for agent in agents if agent.membership]
    where = {agent.rounds[-1].round for agent in members}
    assert len(where) == 1, f"{where}, errors: {[agent.error for agent in agents]}"
    assert len(members) == members[0].rounds[-1].size == min(len(agents), job.settings.max_nodes)
    assert not any(agent.num_nodes_waiting or agent.is_evicted for agent in members)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_is_safe_in_trouble_and_whole_soon_after(seed: int) -> None:
    """No round is torn, no two worlds live; when the accidents are over, every node is a member or a spare."""
    check(seed)
