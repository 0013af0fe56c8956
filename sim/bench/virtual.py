"""The helper in which very many nodes join in virtual time: the flows of the real handlers, in one thread."""

from __future__ import annotations

import gc
import os
import time

from rdzv.core.documents import Settings
from sim.bench.machine import peak_rss_bytes
from sim.virtual.agent import Agent
from sim.virtual.world import World

JOIN_S = 600.0


class Virtual:
    """Worlds, one after the other; the peak of the memory is that of the largest so far."""

    def join(self, nodes: int) -> dict[str, float]:
        """Let so many nodes meet, all of which begin at the same time; messages travel 0.1 to 1 ms.

        Returns:
            ``wall_s``, the time that this took; ``virtual_s``, the time that it takes; ``peak_mb``, this process's
            peak of memory; and for each node, as `sim.bench.tally.Tally.count` has it, in the mean and at most:
            ``ops_per_node``, ``ops_most``, ``bytes_per_node``, ``bytes_most``, ``beats_per_node``.
        """
        started_at = time.perf_counter()
        gc.disable()  # a world has no cycles to speak of, and to look for them takes longer the larger it is
        try:
            world, agents = _meet(nodes)
        finally:
            gc.enable()
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
        }

    def close(self) -> None:
        """Nothing is open."""


def _meet(nodes: int) -> tuple[World, list[Agent]]:
    world = World()
    settings = Settings(nodes, nodes, JOIN_S)
    agents = [Agent(world.node(f"node{number}"), settings) for number in range(nodes)]
    world.finish(*[agent.join() for agent in agents], within_s=JOIN_S)
    if sorted(agent.rounds[0].rank for agent in agents) != list(range(nodes)):
        raise RuntimeError(f"{nodes} nodes have met, but not as one world")
    return world, agents
