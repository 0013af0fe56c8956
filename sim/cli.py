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
from click.core import ParameterSource

import rdzv
from sim import scenario_file
from sim.bench.cli import bench
from sim.check.invariants import counted
from sim.faults import FAULTS
from sim.process import descendants
from sim.process.machine import CannotRunError, require_linux
from sim.process.plan import TIMEOUT_S_MAX, Plan, RunResult
from sim.process.program import prefixed, write_by
from sim.process.supervisor import run
from sim.report.again import again
from sim.scenario import Scenario
from sim.triggers import EXAMPLES as TRIGGER_EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sim.report.folder import Folder

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


class RunCommand(click.Command):
    """A command whose help has all faults and all scenarios that ship."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them below the options."""
        del context
        summaries = {kind.example: (kind.__doc__ or "").partition("\n")[0] for kind in FAULTS.values()}
        with formatter.section("Faults, as FAULT:ARGUMENT...[@WHEN][~HOW LONG]"):
            formatter.write_dl(list(summaries.items()))
        with formatter.section("When"):
            formatter.write_dl(list(TRIGGER_EXAMPLES.items()))
        with formatter.section("Scenarios"):
            formatter.write_dl([(name, scenario_file.find(name).about) for name in scenario_file.names()])


@commands.command("run", cls=RunCommand, context_settings={"allow_interspersed_args": False})
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
@click.option("--scenario", metavar="FILE|NAME", help="Run what a TOML file says, or one of the scenarios below.")
@click.option("--fault", "faults", metavar="FAULT", multiple=True, help="Let this go wrong, too; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the run there: report.html, and the same as report.json, trace.json (Perfetto) and junit.xml.",
)
@click.argument("program", metavar="[-- CMD ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run_command(
    context: click.Context,
    nranks: int,
    rounds: int,
    timeout: float | None,
    seed: int | None,
    scenario: str | None,
    faults: tuple[str, ...],
    as_json: bool,
    report: Path | None,
    program: tuple[str, ...],
) -> int:
    """Start N ranks, let them meet, and check what each of them saw.

    Without CMD each rank runs the built-in job: it meets all others through a static endpoint, writes, reads what
    they wrote, and leaves, R times over. With CMD each rank runs that program, with the environment that PyTorch's
    launcher would give it, the store already served, and every line of its output behind its rank. With --scenario the
    ranks take the steps that it says, and what came of it is compared with what it expects.

    Exit status: 0 if every check holds, 1 if one does not, 2 for bad usage, 130 and 143 after Ctrl-C and SIGTERM.
    """
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    _refuse_contradictions(given, program)
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    try:
        if scenario or faults:
            whole = scenario_file.find(scenario) if scenario else Scenario.of_rounds(nranks, rounds)
            plan = Plan.of(whole.with_faults(faults), seed=seed, timeout_s=timeout)
        else:
            timeout_s = timeout or (PROGRAM_TIMEOUT_S if program else JOB_TIMEOUT_S)
            plan = Plan(world_size=nranks, rounds=rounds, timeout_s=timeout_s, seed=seed, program=program)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with _nothing_left_behind():
            folder = _folder(report, plan, again(context, seed))
            result = (_run_program if program else _run_job)(plan, as_json, folder)
    except CannotRunError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        from sim.report.record import record

        print(json.dumps(record(result)))
    if folder:
        folder.write(result)
        print(f"rdzv-sim: the report is {folder.page}", file=sys.stderr)
    return 0 if result.ok else EXIT_FAILED


def _refuse_contradictions(given: set[str], program: tuple[str, ...]) -> None:
    if program and "rounds" in given:
        raise click.UsageError("--rounds is for the built-in job; a program is run once")
    if program and (alone := given & {"scenario", "faults"}):
        option = "--scenario" if "scenario" in alone else "--fault"
        raise click.UsageError(
            f"{option} is for ranks that take steps; a scenario runs a program as one: run CMD ARG..."
        )
    if "scenario" in given and (own := given & {"nranks", "rounds"}):
        raise click.UsageError(f"--{max(own)} is what the scenario says")
    if program and shutil.which(program[0]) is None:
        raise click.UsageError(f"command not found: {program[0]} (or it is not executable)")
    if not program and sys.argv[-1:] == ["--"]:
        raise click.UsageError("there is no command after --")


def _folder(report: Path | None, plan: Plan, command: str) -> Folder | None:
    if report is None:
        return None
    from sim.report.folder import Folder

    try:
        return Folder(report, plan.world_size, command)
    except OSError as error:
        raise click.UsageError(f"cannot write to {report}: {error.strerror}") from error


def _each(*listeners: Callable[..., None] | None) -> Callable[..., None]:
    """A listener that passes on what it hears to those that are there."""
    there = [listener for listener in listeners if listener]

    def listen(*news: Any) -> None:
        for listener in there:
            listener(*news)

    return listen


def _run_job(plan: Plan, as_json: bool, folder: Folder | None) -> RunResult:
    deadline_at = time.monotonic() + plan.timeout_s

    def on_output(rank: int, _: str, lines: bytes) -> None:
        write_by(deadline_at, sys.stderr.fileno(), prefixed(rank, lines))

    heard, printed = (folder.on_event, folder.on_output) if folder else (None, None)
    if as_json:
        return run(plan, heard, _each(printed, on_output))
    from sim.report import terminal

    with terminal.Bar(plan) as bar:
        result = run(plan, _each(heard, bar.on_event), _each(printed, on_output))
    terminal.show(result)
    return result


def _run_program(plan: Plan, as_json: bool, folder: Folder | None) -> RunResult:
    streams = {"stdout": sys.stderr if as_json else sys.stdout, "stderr": sys.stderr}
    deadline_at = time.monotonic() + plan.timeout_s

    def on_output(rank: int, stream: str, lines: bytes) -> None:
        write_by(deadline_at, streams[stream].fileno(), prefixed(rank, lines))

    heard, printed = (folder.on_event, folder.on_output) if folder else (None, None)
    result = run(plan, heard, _each(printed, on_output))
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
