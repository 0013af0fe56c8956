"""The bench of the virtual arm: how much happens in a second, and what a join costs as the nodes grow.

What is asked and found is in `sim.bench.virtual_results`; what is run, in `sim.bench.virtual_helpers`.
"""

from __future__ import annotations

import os
from dataclasses import fields
from statistics import median
from typing import TYPE_CHECKING

from sim.bench.helper import Helper
from sim.bench.stats import paired_ratio
from sim.bench.throughput import rotated
from sim.bench.virtual_results import VirtualPoint, VirtualResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.bench.virtual_results import VirtualPlan

_RATES = {
    "kernel": "messages on the kernel alone",
    "simpy": "the same messages on simpy",
    "meeting": "static worlds meet",
    "elastic": "an elastic job joins and beats",
    "schedules": "schedules of five nodes",
}
_ANSWER_S = 600.0


def run(plan: VirtualPlan, on_stage: Callable[[str], None] = lambda _: None) -> VirtualResult:
    """Measure everything.

    Args:
        plan: What, and how often.
        on_stage: Is called with what begins, in words.

    Raises:
        HelperError: A process of the bench failed.
    """
    result = VirtualResult(plan, os.getloadavg()[0])
    names = [name for name in _RATES if name != "simpy" or plan.is_against_simpy]
    found: dict[str, list[float]] = {name: [] for name in names}
    with Helper("virtual_helpers", "Rates") as rates:
        for number in range(plan.rounds):
            for name in rotated(names, number):
                on_stage(f"{_RATES[name]}, round {number + 1} of {plan.rounds}")
                seeds = {"first_seed": number * 1_000} if name == "schedules" else {}
                found[name].append(rates.ask(name, **seeds))
    result.rates = {name: median(values) for name, values in found.items()}
    if plan.is_against_simpy:
        result.simpy_ratio = paired_ratio(found["kernel"], found["simpy"])
    kept = {one.name for one in fields(VirtualPoint)}
    for n in plan.nodes:
        on_stage(f"{n:,} nodes join")
        with Helper("virtual_helpers", "Virtual", _ANSWER_S) as virtual:
            joined = virtual.ask("join", nodes=n)
        result.points.append(VirtualPoint(n=n, **{name: joined[name] for name in joined.keys() & kept}))
    return result
