"""The bench of the elastic join: what it takes, by the number of nodes, torch's own beside ours as far as that goes.

Time and counts come from different runs: where something counts, it takes its time. What is asked and found, and what
exactly is counted: `sim.bench.join_results`. The nodes are in `sim.bench.crew`, the counting in `sim.bench.tally`, the
nodes of the virtual arm in `sim.bench.virtual_helpers`.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any

from sim.bench.helper import Helper
from sim.bench.join_results import JoinResult, Point
from sim.bench.machine import allow_all_descriptors
from sim.bench.throughput import rotated
from sim.process.machine import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sim.bench.join_results import JoinPlan, Who

NODES_PER_PROCESS = 256
_DESCRIPTORS_PER_NODE = 5  # of the server that counts: a port of its own and a few connections
_START_DELAY_S = 0.05  # from the order to start to the start, so that all processes have heard it
_VIRTUAL_ANSWER_S = 600.0
_SERVERS = {"rdzv": "process", "torch": "torch"}


def run(plan: JoinPlan, on_stage: Callable[[str], None] = lambda _: None) -> JoinResult:
    """Measure everything.

    Args:
        plan: What, and how often.
        on_stage: Is called with what begins, in words.

    Raises:
        CannotRunError: So many files cannot be open as the largest real job needs.
        HelperError: A process of the bench failed, or nodes did not meet in time.
    """
    result = JoinResult(plan, os.getloadavg()[0])
    allowed, needed = allow_all_descriptors(), _DESCRIPTORS_PER_NODE * max((*plan.beside, *plan.alone), default=0)
    if allowed < needed:
        raise CannotRunError(f"this bench needs {needed} open files, and the hard limit is {allowed} (ulimit -Hn)")
    for n in plan.virtual:
        on_stage(f"{n:,} nodes join in virtual time")
        with Helper("virtual_helpers", "Virtual", _VIRTUAL_ANSWER_S) as virtual:
            result.points.append(Point(n=n, who="rdzv", arm="virtual", **virtual.ask("join", nodes=n)))
    bench = _Bench(plan, on_stage)
    for n in (*plan.beside, *plan.alone):
        whose: list[Who] = ["rdzv", "torch"] if plan.is_against_torch and n in plan.beside else ["rdzv"]
        result.points += bench.measure(n, whose)
    return result


class _Bench:
    """Joins of real handlers. Each takes place in fresh processes and has a server of its own."""

    def __init__(self, plan: JoinPlan, on_stage: Callable[[str], None]) -> None:
        self._plan, self._on_stage = plan, on_stage
        self._runs = count(1)

    def measure(self, n: int, whose: Sequence[Who]) -> list[Point]:
        """What a join of so many nodes takes, for each whose rendezvous is wanted."""
        walls_s: dict[Who, list[float]] = {who: [] for who in whose}
        for number in range(self._plan.rounds):
            for who in rotated(whose, number):
                self._on_stage(f"{n:,} nodes join, {_NAMES[who]}, round {number + 1} of {self._plan.rounds}")
                walls_s[who].append(self._time(n, who))
        points = []
        for who in whose:
            self._on_stage(f"{n:,} nodes join, {_NAMES[who]}, counted")
            taken_s = walls_s[who]
            points.append(
                Point(
                    n=n,
                    who=who,
                    arm="real",
                    wall_s=median(taken_s),
                    wall_least_s=min(taken_s),
                    wall_most_s=max(taken_s),
                    **self._count(n, who),
                )
            )
        return points

    def _time(self, n: int, who: Who) -> float:
        with Helper("host", "Host") as host:
            port = host.ask("serve", kind=_SERVERS[who])["port"]
            with self._joined(who, [port] * n, is_watched=False) as nodes:
                return max(back_at for *_, back_at in nodes) - min(began_at for _, _, began_at, *_ in nodes)

    def _count(self, n: int, who: Who) -> dict[str, Any]:
        with Helper("tally", "Tally") as tally:
            ports = tally.ask("serve", nodes=n)
            with self._joined(who, ports, is_watched=True) as nodes:
                counts = tally.ask("count", windows=[[began_at, in_at] for _, _, began_at, in_at, _ in nodes])
        operations = [counted["operations"] for counted in counts]
        sizes = [counted["bytes"] for counted in counts]
        return {
            "ops_per_node": sum(operations) / n,
            "ops_most": max(operations),
            "bytes_per_node": sum(sizes) / n,
            "bytes_most": max(sizes),
            "beats_per_node": sum(counted["beats"] for counted in counts) / n,
            "requests_per_node": sum(counted["requests"] for counted in counts) / n,
        }

    @contextmanager
    def _joined(self, who: Who, ports: Sequence[int], *, is_watched: bool) -> Iterator[list[list[float]]]:
        """Nodes that have met; what `sim.bench.crew.Crew.meet` says of each. They leave in the end."""
        n, run_id = len(ports), f"bench{next(self._runs)}"
        shares = [ports[first : first + NODES_PER_PROCESS] for first in range(0, n, NODES_PER_PROCESS)]
        with ExitStack() as stack:
            crews = [stack.enter_context(Helper("crew", "Crew")) for _ in shares]
            for crew, share in zip(crews, shares, strict=True):
                crew.tell("gather", who=who, run_id=run_id, size=n, ports=share, is_watched=is_watched)
            for crew in crews:
                crew.answer()
            start_at = time.monotonic() + _START_DELAY_S
            for crew in crews:
                crew.tell("meet", start_at=start_at)
            nodes: list[list[float]] = [node for crew in crews for node in crew.answer()]
            if sorted(rank for rank, *_ in nodes) != list(range(n)) or {size for _, size, *_ in nodes} != {n}:
                raise RuntimeError(f"{n} nodes of {who} have met, but not as one world")
            yield nodes
            for crew in crews:
                crew.tell("part")
            for crew in crews:
                crew.answer()


_NAMES: dict[Who, str] = {"rdzv": "ours", "torch": "torch's"}
