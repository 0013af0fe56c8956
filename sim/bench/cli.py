"""The commands ``rdzv-sim bench ...``: read what is to be compared, measure, and show it.

Knows click. Must not know how anything is measured or shown: for each NAME, that is ``NAME`` and ``NAME_table`` beside
this file.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import click

from sim.process.machine import CannotRunError, require_linux

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

ROUNDS, ROUNDS_MIN, QUICK_ROUNDS = 9, 7, 3
QUICK_NODES = 10_000
SPAWN_PEERS = ("mpiexec", "torch")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


@click.group()
def bench() -> None:
    """Measure this library side by side with what it replaces."""


@bench.command("store")
@click.option(
    "--against",
    type=click.Choice(["torch", "self"]),
    required=True,
    help="Whom to compare with; a store compared with itself shows the noise of the machine.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=ROUNDS_MIN),
    help=f"How often everything is measured  [default: {ROUNDS}; with --quick {QUICK_ROUNDS}]",
)
@click.option("--quick", is_flag=True, help="Fewer rounds and cells, in about a minute; for a first look only.")
@_JSON
def store_command(against: str, rounds: int | None, quick: bool, as_json: bool) -> int:
    """Compare the store, server and client, with torch's.

    Takes about thirteen minutes, on a machine that does nothing else. Everything runs on the loopback address.

    Exit status: 0 once it is measured, 2 for bad usage or if there is no torch.
    """
    if against == "torch":
        _require_torch("--against self needs none")
    from sim.bench.store import run
    from sim.bench.store_results import StorePlan, record
    from sim.bench.store_table import show

    plan = StorePlan(peer="torch" if against == "torch" else "rdzv", rounds=rounds or ROUNDS)
    if quick:
        plan = replace(
            plan,
            rounds=rounds or QUICK_ROUNDS,
            slice_s=0.1,
            clients=(1, 32),
            crowd=1_000,
            stored_mb=16,
            quick=True,
        )
    return _carry_out(lambda on_stage: run(plan, on_stage), record if as_json else None, show)


@bench.command("join", short_help="Measure what it takes to join an elastic job.")
@click.option("--against", type=click.Choice(["torch"]), help="Whom to measure beside ours, for up to 64 nodes.")
@click.option("--quick", is_flag=True, help="Fewer rounds and nodes, in about a minute; for a first look only.")
@_JSON
def join_command(against: str | None, quick: bool, as_json: bool) -> int:
    """Measure what it takes to join an elastic job: time, store operations and bytes, from 4 nodes to 100,000.

    Real handlers up to 1,024, on the loopback address; in virtual time beyond. Takes about two minutes, and four with
    torch, on a machine that does nothing else.

    Exit status: 0 once it is measured, 2 for bad usage or if there is no torch.
    """
    if against:
        _require_torch("without --against, ours alone is measured")
    from sim.bench.join import run
    from sim.bench.join_results import JoinPlan, record
    from sim.bench.join_table import show

    plan = JoinPlan(is_against_torch=against is not None)
    if quick:
        virtual = tuple(n for n in plan.virtual if n <= QUICK_NODES)
        plan = replace(plan, rounds=1, beside=(4, 16), alone=(64, 256), virtual=virtual, quick=True)
    return _carry_out(lambda on_stage: run(plan, on_stage), record if as_json else None, show)


def _peers(_: click.Context, __: click.Parameter, text: str | None) -> frozenset[str]:
    """The names of a list with commas."""
    names = frozenset(text.split(",")) if text else frozenset()
    if unknown := sorted(names - set(SPAWN_PEERS)):
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(SPAWN_PEERS)}")
    return names


@bench.command("spawn", short_help="Measure how soon ranks are up, have met and are gone.")
@click.option(
    "--against",
    metavar="mpiexec,torch",
    callback=_peers,
    help="Whom to measure beside ours: mpiexec up to 256 ranks, torch's static handler up to 16.",
)
@click.option("--quick", is_flag=True, help="Fewer rounds, ranks and runs, in about a minute; for a first look.")
@_JSON
def spawn_command(against: frozenset[str], quick: bool, as_json: bool) -> int:
    """Measure how soon ranks are up, have met and are gone, from 2 to 1,000, and what they occupy.

    Also how soon a report is there when a rank is killed, and what very many runs under random faults leave behind.
    Takes about four minutes, and six with both of the others, on a machine that does nothing else.

    Exit status: 0 once it is measured, 2 for bad usage or if one of the others is not here.
    """
    if "torch" in against:
        _require_torch("leave it out of --against")
    if "mpiexec" in against and (missing := [name for name in ("mpiexec", "mpicc") if shutil.which(name) is None]):
        raise click.UsageError(f"{missing[0]} is not installed here; leave mpiexec out of --against, or install MPICH")
    from sim.bench.spawn import run
    from sim.bench.spawn_results import SpawnPlan, record
    from sim.bench.spawn_table import show

    plan = SpawnPlan(
        mpiexec={2: 9, 8: 5, 64: 3, 256: 1} if "mpiexec" in against else {},
        torch={2: 3, 8: 1, 16: 1} if "torch" in against else {},
    )
    if quick:
        plan = replace(
            plan,
            rounds={2: 5, 8: 3, 64: 3, 1000: 1},
            forks={64: 3, 1000: 1},
            mpiexec={n: 1 for n in plan.mpiexec if n <= 64},
            torch={n: 1 for n in plan.torch if n <= 2},
            kills=1,
            storms=20,
            quick=True,
        )
    return _carry_out(lambda on_stage: run(plan, on_stage), record if as_json else None, show)


@bench.command("virtual", short_help="Measure the virtual arm's speed, beside simpy.")
@click.option("--quick", is_flag=True, help="Fewer rounds and nodes, in about a minute; for a first look only.")
@_JSON
def virtual_command(quick: bool, as_json: bool) -> int:
    """Measure the virtual arm: events and schedules in a second on one core, beside simpy, and a join of 100,000 nodes.

    Takes about two minutes. Without simpy (pip install simpy) its figures are left out.

    Exit status: 0 once it is measured, 2 for bad usage.
    """
    from sim.bench.virtual import run
    from sim.bench.virtual_results import VirtualPlan, record
    from sim.bench.virtual_table import show

    plan = VirtualPlan(is_against_simpy=importlib.util.find_spec("simpy") is not None)
    if quick:
        plan = replace(plan, rounds=3, nodes=tuple(n for n in plan.nodes if n <= QUICK_NODES), quick=True)
    return _carry_out(lambda on_stage: run(plan, on_stage), record if as_json else None, show)


def _carry_out(
    run: Callable[[Callable[[str], None]], Result],
    record: Callable[[Result], object] | None,
    show: Callable[[Result], object],
) -> int:
    """Run a bench, showing what is under way, and tell what came of it: as JSON, if that is how to record it."""
    from sim.bench.screen import Stage

    try:
        require_linux()
        with Stage() as stage:
            result = run(stage.begin)
    except CannotRunError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"this machine cannot measure it: {error}") from error
    if record:
        print(json.dumps(record(result)))
    else:
        show(result)
    return 0


def _require_torch(instead: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise click.UsageError(f"torch is not installed here; {instead} (pip install torch)")
