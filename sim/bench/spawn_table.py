"""The bench of the process arm for people: one table, what it means, and what is wanted.

Needs rich. Knows `sim.bench.spawn_results`; prints to a console it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim import screen
from sim.bench.screen import new_table, say, show_table, warn
from sim.bench.spawn_results import (
    BARE_GOALS,
    FAILURE_REPORT_S_GOAL,
    INCLUDED,
    MPIEXEC_GOALS,
    PRIVATE_MB_GOAL,
    TORCH_GOALS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sim.bench.spawn_results import SpawnResult, Who

_NAMES: dict[Who, str] = {"rdzv": "ours", "bare": "bare forks", "library": "forks, by the library"}


def show(result: SpawnResult) -> None:
    """Print everything."""
    console = screen.console()
    warn(console, is_quick=result.plan.quick, load_before=result.load_before)
    table = new_table("ranks", "", "time", "least", "most", "private MB of a rank")
    for point in result.points:
        walls = [f"{seconds:.3f} s" for seconds in (point.wall_s, point.wall_least_s, point.wall_most_s)]
        table.add_row(f"{point.n:,}", _NAMES.get(point.who, point.who), *walls, f"{point.private_mb:.1f}")
    show_table(console, "Ranks from nothing to met and gone", table, INCLUDED)
    for n, most in BARE_GOALS.items():
        if speedup := result.speedup(n, "bare"):
            say(console, f"{n:,} ranks take {1 / speedup:.1f} times what bare forks do.", f"at most {most:g} times")
    memory = max(point.private_mb for point in result.points if point.who == "rdzv")
    say(console, f"A rank of ours has {memory:.1f} MB to itself.", f"at most {PRIVATE_MB_GOAL:g} MB")
    goals: tuple[tuple[Who, Mapping[int, float]], ...] = (("mpiexec", MPIEXEC_GOALS), ("torch", TORCH_GOALS))
    for who, wanted in goals:
        for n, times in wanted.items():
            if found := result.speedup(n, who):
                say(console, f"{n} ranks: {found:.1f} times as fast as {who}.", f"at least {times:g} times")
    say(console, f"An interpreter that does nothing takes {result.interpreter_s:.3f} s; ours needs one.")
    soon = f"From a killed rank to the end of the command, its report written: {result.failure_report_s:.2f} s."
    say(console, soon, f"less than {FAILURE_REPORT_S_GOAL:g} s")
    if left := result.random_faults:
        runs = (
            f"{left.runs:,} runs under random faults, {left.not_ok:,} of which failed, {left.runs_per_s:.1f} a second"
        )
        things = f"{left.processes} processes, {left.descriptors} open files, {left.files} temporary files"
        say(console, f"{runs}, have left behind: {things}.", "nothing")
