"""The bench of the elastic join for people: one table, what it means, and what is wanted.

Needs rich. Knows `sim.bench.join_results`; prints to a console it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim import screen
from sim.bench.join_results import INCLUDED, NODES_COMPARED, NODES_LARGEST
from sim.bench.screen import new_table, say, show_table, warn

if TYPE_CHECKING:
    from sim.bench.join_results import JoinResult, Point

_COLUMNS = ("nodes", "", "time", "operations", "requests", "bytes", "beats", "peak MB")


def show(result: JoinResult) -> None:
    """Print everything."""
    console = screen.console()
    warn(console, is_quick=result.plan.quick, load_before=result.load_before)
    table = new_table(*_COLUMNS)
    for point in sorted(result.points, key=lambda point: (point.arm, point.who, point.n)):
        table.add_row(*_row(point))
    title = "One join: its time, and what a node asks of the store for it, mean / most"
    show_table(console, title, table, INCLUDED)
    for arm, spread in result.ops_spread.items():
        flatness = f"{spread:.2f} times the least, bytes {result.bytes_spread[arm]:.2f} times"
        say(console, f"Mean operations of our nodes, {arm}: the most is {flatness}.", "both at most 1.2")
    if result.speedup:
        say(
            console,
            f"{NODES_COMPARED} nodes: {result.speedup:.0f} times as fast as torch's.",
            "at least 20 times",
        )
    if result.largest_over_torch:
        took = f"{NODES_LARGEST:,} nodes take {result.largest_over_torch:.2f} of the time of torch's {NODES_COMPARED}."
        say(console, took, "less than 1")


def _row(point: Point) -> list[str]:
    return [
        f"{point.n:,}",
        "torch's" if point.who == "torch" else f"ours, {point.arm}",
        f"{point.wall_s:.3f} s",
        f"{point.ops_per_node:.2f} / {point.ops_most:,}",
        "" if point.requests_per_node is None else f"{point.requests_per_node:.2f}",
        f"{point.bytes_per_node:,.0f} / {point.bytes_most:,}",
        f"{point.beats_per_node:.2f}",
        "" if point.peak_mb is None else f"{point.peak_mb:,.0f}",
    ]
