"""The helpers of the virtual arm: very many nodes that join, and how much happens in a second of processor time.

They run the flows of the real handlers and the real store core in virtual time, in one thread. What is measured is
processor time, so that what else the machine does weighs less; the garbage collector is off, as in every run of that
arm: a world has no cycles to speak of while it runs, and to look for them takes longer the larger it is.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv.core.documents import Settings
from rdzv.core.meeting import Meeting, meet
from sim.bench.machine import peak_rss_bytes
from sim.bench.virtual_messages import over_kernel, over_simpy
from sim.scenario import ANY, Expectation, Nodes
from sim.scenario_file import find
from sim.scenario_text import Ranks
from sim.virtual.agent import Agent
from sim.virtual.run import run
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

JOIN_S = 600.0
MEETING_RANKS, MEETINGS = 1_000, 3
ELASTIC_NODES, ELASTIC_S = 100, 30.0
MESSAGES, SIMPY_MESSAGES = 200_000, 40_000
SCHEDULES = 50


class Virtual:
    """Worlds, one after the other; the peak of the memory is that of the largest so far."""

    def join(self, nodes: int) -> dict[str, float]:
        """Let so many nodes meet, all of which begin at the same time; messages travel 0.1 to 1 ms.

        Returns:
            ``wall_s``, the time that this took; ``virtual_s``, the time that it takes; ``peak_mb``, this process's
            peak of memory; and for each node, as `sim.bench.tally.Tally.count` has it, in the mean and at most:
            ``ops_per_node``, ``ops_most``, ``bytes_per_node``, ``bytes_most``, ``beats_per_node``; and
            ``events_per_node``, the deliveries and timers that it took.
        """
        started_at = time.perf_counter()
        with _collector_off():
            world, agents = _gathered(nodes)
            _join_all(world, agents)
        wall_s = time.perf_counter() - started_at
        operations = [agent.node.cost.operations for agent in agents]
        sizes = [agent.node.cost.bytes for agent in agents]
        return {
            "wall_s": wall_s,
            "virtual_s": world.now_s,
            "peak_mb": peak_rss_bytes(os.getpid()) / 1e6,
            "ops_per_node": sum(operations) / nodes,
            "ops_most": max(operations),
            "bytes_per_node": sum(sizes) / nodes,
            "bytes_most": max(sizes),
            "beats_per_node": sum(agent.node.beats.operations for agent in agents) / nodes,
            "events_per_node": world.kernel.events / nodes,
        }

    def close(self) -> None:
        """Nothing is open."""


class Rates:
    """How much happens in a second of processor time, on one core."""

    def kernel(self) -> float:
        """Messages between actors, on the kernel alone."""
        return MESSAGES / _cpu_s(over_kernel(MESSAGES))

    def simpy(self) -> float:
        """The same messages between the same actors, on simpy."""
        return SIMPY_MESSAGES / _cpu_s(over_simpy(SIMPY_MESSAGES))

    def meeting(self) -> float:
        """Events of static worlds: their ranks meet, and that is all."""
        events, took_s = 0, 0.0
        for seed in range(MEETINGS):
            world = _static_world(seed)
            took_s += _cpu_s(world.run)
            events += world.kernel.events
        return events / took_s

    def elastic(self) -> float:
        """Events of an elastic job: its nodes join, and then beat and watch each other for a while."""
        world, agents = _gathered(ELASTIC_NODES)

        def live() -> None:
            _join_all(world, agents)
            world.run(ELASTIC_S)

        took_s = _cpu_s(live)
        return world.kernel.events / took_s

    def schedules(self, first_seed: int) -> float:
        """Whole runs of a scenario of five nodes, one of which is killed and another cut off for a while.

        Raises:
            RuntimeError: One did not come out as the scenario has it.
        """

        def run_all() -> None:
            for seed in range(first_seed, first_seed + SCHEDULES):
                if not run(scenario, seed).ok:
                    raise RuntimeError(f"the schedule of seed {seed} failed")

        killed = find("kill-a-member")
        expect = Expectation(outcomes=((Ranks.of(3), ANY),))  # the job may be over before the one cut off is back
        scenario = replace(killed, nodes=Nodes(3, 5), expect=expect).with_faults(["partition:0,1,2,4|3@round1.full~1s"])
        return SCHEDULES / _cpu_s(run_all)

    def close(self) -> None:
        """Nothing is open."""


def _static_world(seed: int) -> World:
    world = World(seed)
    for rank in range(MEETING_RANKS):
        node = world.node(f"node{rank}")
        node.spawn(meet(Meeting("bench", rank, MEETING_RANKS, node.name, node.now, JOIN_S), node.now))
    return world


def _gathered(nodes: int) -> tuple[World, list[Agent]]:
    world = World()
    settings = Settings(nodes, nodes, JOIN_S)
    return world, [Agent(world.node(f"node{number}"), settings) for number in range(nodes)]


def _join_all(world: World, agents: Sequence[Agent]) -> None:
    world.finish(*[agent.join() for agent in agents], within_s=JOIN_S)
    if sorted(agent.rounds[0].rank for agent in agents) != list(range(len(agents))):
        raise RuntimeError(f"{len(agents)} nodes have met, but not as one world")


def _cpu_s(action: Callable[[], object]) -> float:
    """The processor time that an action takes, in seconds."""
    gc.collect()
    with _collector_off():
        began_at = time.process_time()
        action()
        return time.process_time() - began_at


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
