"""The commands ``rdzv-sim bench ...``: read what is to be compared, measure, and show it.

Knows click. Must not know how anything is measured or shown: that is `sim.bench.store` and `sim.bench.tables`.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import click

from sim.process.machine import CannotRunError, require_linux

ROUNDS, ROUNDS_MIN, QUICK_ROUNDS = 7, 7, 3


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
@click.option("--quick", is_flag=True, help="Fewer rounds and cells, in less than a minute; for a first look only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def store_command(against: str, rounds: int | None, quick: bool, as_json: bool) -> int:
    """Compare the store, server and client, with torch's.

    Takes about five minutes, on a machine that does nothing else. Everything runs on the loopback address.

    Exit status: 0 once it is measured, 2 for bad usage or if there is no torch.
    """
    if against == "torch" and importlib.util.find_spec("torch") is None:
        raise click.UsageError("torch is not installed here; --against self needs none (pip install torch)")
    from sim.bench.results import Plan, record
    from sim.bench.store import run
    from sim.bench.tables import Stage, show

    plan = Plan(peer="torch" if against == "torch" else "rdzv", rounds=rounds or ROUNDS)
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
    try:
        require_linux()
        with Stage() as stage:
            result = run(plan, stage.begin)
    except CannotRunError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        print(json.dumps(record(result)))
    else:
        show(result)
    return 0
