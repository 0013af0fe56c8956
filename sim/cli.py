"""The command ``rdzv-sim``: reads a command line into a plan, runs it, and tells what came of it, also by its status.

Knows click. Must not know how a run is carried out or told: that is `sim.process` and `sim.report`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import rdzv
from sim.bench.cli import bench
from sim.check.invariants import counted
from sim.process import descendants
from sim.process.machine import CannotRunError, require_linux
from sim.process.plan import TIMEOUT_S_MAX, Plan, RunResult
from sim.process.program import prefixed, write_by
from sim.process.supervisor import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM
JOB_TIMEOUT_S, PROGRAM_TIMEOUT_S = 60.0, 3600.0
KILL_TIMEOUT_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status.

    Args:
        arguments: The words after the command's name; ``None`` for the process's own.
    """
    signal.signal(signal.SIGTERM, _terminated)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 -- for the process's life
    try:
        status: int = commands.main(arguments, prog_name="rdzv-sim", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; so has the point
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"rdzv-sim: cannot write the output: {error.strerror or error}", file=sys.stderr)
        status = EXIT_FAILED
    return status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rdzv.__version__, prog_name="rdzv-sim")
def commands() -> None:
    """Run a rendezvous with many ranks on this machine, and judge what they saw."""


commands.add_command(bench)


@commands.command("run", context_settings={"allow_interspersed_args": False})
@click.option("-n", "--nranks", type=click.IntRange(min=1), default=8, show_default=True, help="How many ranks.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often they meet; not with CMD."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=TIMEOUT_S_MAX),
    help=f"End the run after so many seconds  [default: {JOB_TIMEOUT_S:g}; with CMD {PROGRAM_TIMEOUT_S:g}]",
)
@click.option("--seed", type=int, help="Draws the order of arrival and the delays  [default: a new one, reported]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.argument("program", metavar="[-- CMD ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run_command(
    context: click.Context,
    nranks: int,
    rounds: int,
    timeout: float | None,
    seed: int | None,
    as_json: bool,
    program: tuple[str, ...],
) -> int:
    """Start N ranks, let them meet, and check what each of them saw.

    Without CMD each rank runs the built-in job: it meets all others through a static endpoint, writes, reads what
    they wrote, and leaves, R times over. With CMD each rank runs that program, with the environment that PyTorch's
    launcher would give it, the store already served, and every line of its output behind its rank.

    Exit status: 0 if every check holds, 1 if one does not, 2 for bad usage, 130 and 143 after Ctrl-C and SIGTERM.
    """
    if program and context.get_parameter_source("rounds") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--rounds is for the built-in job; a program is run once")
    if program and shutil.which(program[0]) is None:
        raise click.UsageError(f"command not found: {program[0]} (or it is not executable)")
    if not program and sys.argv[-1:] == ["--"]:
        raise click.UsageError("there is no command after --")
    try:
        plan = Plan(
            world_size=nranks,
            rounds=rounds,
            timeout_s=timeout or (PROGRAM_TIMEOUT_S if program else JOB_TIMEOUT_S),
            seed=secrets.randbelow(1 << 32) if seed is None else seed,
            program=program,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with _nothing_left_behind():
            result = _run_program(plan, as_json) if program else _run_job(plan, as_json)
    except CannotRunError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        from sim.report.record import record

        print(json.dumps(record(result)))
    return 0 if result.ok else EXIT_FAILED


def _run_job(plan: Plan, as_json: bool) -> RunResult:
    if as_json:
        return run(plan)
    from sim.report import terminal

    with terminal.Bar(plan) as bar:
        result = run(plan, bar.on_event)
    terminal.show(result)
    return result


def _run_program(plan: Plan, as_json: bool) -> RunResult:
    streams = {"stdout": sys.stderr if as_json else sys.stdout, "stderr": sys.stderr}
    deadline_at = time.monotonic() + plan.timeout_s

    def on_output(rank: int, stream: str, lines: bytes) -> None:
        write_by(deadline_at, streams[stream].fileno(), prefixed(rank, lines))

    result = run(plan, on_output=on_output)
    if first := result.first_failed:
        print(first.error, file=sys.stderr, end="")
    well = f"{counted(plan.world_size, 'rank')} ended with exit status 0 after {result.duration_s:.2f} s"
    print(f"rdzv-sim: {result.failure or well}", file=sys.stderr)
    return result


@contextlib.contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Whatever falls to this process, because even the keeper has died, is killed in the end."""
    require_linux()
    if descendants.children():  # from before this process became ours: its orphans could not be told from the ranks'
        yield
        return
    descendants.adopt_orphans()
    try:
        yield
    finally:
        descendants.kill_all(KILL_TIMEOUT_S)


def _terminated(*_: Any) -> NoReturn:
    sys.exit(EXIT_TERMINATED)
