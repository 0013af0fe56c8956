"""The bench of the virtual arm for people: rates and joins, what they mean, and what is wanted.

Needs rich. Knows `sim.bench.virtual_results`; prints to a console it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim import screen
from sim.bench.screen import new_table, say, show_table, warn
from sim.bench.virtual_results import (
    EVENTS_PER_S_GOAL,
    INCLUDED,
    KERNEL_EVENTS_PER_S_GOAL,
    NODES_LARGEST,
    PEAK_MB_GOAL,
    POINTS_INCLUDED,
    SCHEDULES_PER_S_GOAL,
    SIMPY_RATIO_GOAL,
    SPREAD_GOAL,
    SPREADS,
    WALL_S_GOAL,
)

if TYPE_CHECKING:
    from sim.bench.virtual_results import VirtualResult

_ROWS = (
    ("kernel", "messages, our kernel alone", KERNEL_EVENTS_PER_S_GOAL),
    ("simpy", "the same messages, simpy", None),
    ("meeting", "events, static worlds", EVENTS_PER_S_GOAL),
    ("elastic", "events, an elastic job", EVENTS_PER_S_GOAL),
    ("schedules", "schedules of five nodes", SCHEDULES_PER_S_GOAL),
)


def show(result: VirtualResult) -> None:
    """Print everything."""
    console = screen.console()
    warn(console, is_quick=result.plan.quick, load_before=result.load_before)
    table = new_table("", "in a second", "goal")
    for name, what, goal in _ROWS:
        if name in result.rates:
            table.add_row(what, f"{result.rates[name]:,.0f}", f"{goal:,}" if goal else "")
    show_table(console, "What happens in a second of processor time, on one core", table, INCLUDED)
    if ratio := result.simpy_ratio:
        found = f"Our kernel over simpy: {ratio.ratio:.1f} times ({ratio.low:.1f}-{ratio.high:.1f})."
        say(console, found, f"at least {SIMPY_RATIO_GOAL} times")
    else:
        say(console, "simpy is not installed here, so there is nothing to compare the kernel with (pip install simpy).")
    table = new_table("nodes", "time", "operations", "bytes", "events", "peak MB")
    for point in result.points:
        means = f"{point.ops_per_node:.2f}", f"{point.bytes_per_node:,.0f}", f"{point.events_per_node:.1f}"
        table.add_row(f"{point.n:,}", f"{point.wall_s:.2f} s", *means, f"{point.peak_mb:,.0f}")
    show_table(console, "One elastic job joins: its time, and what each node costs", table, POINTS_INCLUDED)
    spreads = ", ".join(f"{name.removesuffix('_per_node')} {result.spread(name):.2f}" for name in SPREADS)
    say(console, f"The most for a node over the least, from first to last line: {spreads}.", f"at most {SPREAD_GOAL}")
    largest = result.points[-1]
    if largest.n == NODES_LARGEST:
        took = f"{largest.n:,} nodes take {largest.wall_s:.0f} s and {largest.peak_mb / 1000:.2f} GB."
        say(console, took, f"less than {WALL_S_GOAL} s and {PEAK_MB_GOAL / 1000:g} GB")
