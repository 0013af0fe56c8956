"""The command ``rdzv-sim``: reads a command line into a plan, runs it, and tells what came of it, also by its status.

Knows click. Must not know how a run is carried out or told: that is `sim.process` and `sim.report`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click
from click.core import ParameterSource

import rdzv
from sim.plan import TIMEOUT_S_MAX, Plan
from sim.process import descendants, door
from sim.process.machine import CannotRunError, require_linux
from sim.process.supervisor import run
from sim.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.report.folder import Folder

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
JOB_TIMEOUT_S, PROGRAM_TIMEOUT_S = 60.0, 3600.0
KILL_TIMEOUT_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status.

    Args:
        arguments: The words after the command's name; ``None`` for the process's own.
    """
    signal.signal(signal.SIGTERM, _terminated)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # who started us may have blocked them
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 -- without pathlib; for the process's life
    try:
        status: int = commands.main(arguments, prog_name="rdzv-sim", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is over but the status, which a second one must not change
        status = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; so has the point
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except OSError as error:  # of the output: what else fails has been told as what it is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"rdzv-sim: cannot write the output: {error.strerror or error}", file=sys.stderr)
        status = EXIT_FAILED
    return status


class Commands(click.Group):
    """Commands that are loaded when they are asked for: what starts ranks must start itself first."""

    elsewhere: ClassVar = {
        "bench": "sim.bench.cli:bench",
        "search": "sim.search.cli:search_command",
        "replay": "sim.search.cli:replay_command",
    }

    def list_commands(self, context: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(context), *self.elsewhere})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name, if there is one."""
        module, _, attribute = self.elsewhere.get(name, "").partition(":")
        return getattr(import_module(module), attribute) if module else super().get_command(context, name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rdzv.__version__, prog_name="rdzv-sim")
def commands() -> None:
    """Run a rendezvous with many ranks on this machine, and judge what they saw."""


class RunCommand(click.Command):
    """A command whose help has all faults and all scenarios that ship."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Read the words, ``-n`` by its long name: click takes it for a misspelt one, and looks for what is meant."""
        by_name = ["--nranks", *args[1:]] if args[:1] == ["-n"] and args[1:] else args
        announces_program = args[-1:] == ["--"]
        rest = super().parse_args(context, by_name)
        if announces_program and not context.params["program"]:
            raise click.UsageError("there is no command after --", context)
        return rest

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them below the options."""
        from sim import scenario_file
        from sim.faults import FAULTS
        from sim.faults.triggers import EXAMPLES

        del context
        summaries = {kind.example: (kind.__doc__ or "").partition("\n")[0] for kind in FAULTS.values()}
        with formatter.section("Faults, as FAULT:ARGUMENT...[@WHEN][~HOW LONG]"):
            formatter.write_dl(list(summaries.items()))
        with formatter.section("When"):
            formatter.write_dl(list(EXAMPLES.items()))
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
@click.option(
    "--backend",
    metavar="static|c10d",
    default="static",
    show_default=True,
    help="The built-in job's rendezvous; the store of c10d is served beside the ranks.",
)
@click.option("--seed", type=int, help="Draws the order of arrival and the delays  [default: a new one, reported]")
@click.option("--scenario", metavar="FILE|NAME", help="Run what a TOML file says, or one of the scenarios below.")
@click.option("--fault", "faults", metavar="FAULT", multiple=True, help="Let this go wrong, too; may be repeated.")
@click.option(
    "--virtual", "is_virtual", is_flag=True, help="Without processes, in virtual time: the seed decides all of it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write the run there: report.html, and the same as report.json, trace.json (Perfetto) and junit.xml.",
)
@click.argument("program", metavar="[-- CMD ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run_command(
    context: click.Context,
    /,
    seed: int | None,
    is_virtual: bool,
    as_json: bool,
    report: str | None,
    program: tuple[str, ...],
    **_: Any,
) -> int:
    """Start N ranks, let them meet, and check what each of them saw.

    Without CMD each rank runs the built-in job: it meets all others, writes, reads what they wrote, and leaves, R
    times over. With CMD each rank runs that program, with the environment that PyTorch's launcher would give it, the
    store already served, and every line of its output behind its rank; faults strike it at a time, as in
    --fault kill:2@1.5s, and its way to the store is the one that they are about. With --scenario the ranks take the
    steps that it says, and what came of it is compared with what it expects.

    With --virtual all of that happens in no time, without processes, and the same seed gives the same again: so says
    its digest. Programs cannot run there.

    When a rank fails, the others have a moment to end by themselves, and then have to be ended, as at the deadline:
    by SIGTERM, half a second later by SIGKILL. A Python program in that place writes its stack first: faulthandler is
    on, and SIGABRT is what it gets. Nothing that a rank has started outlives the run, daemons included; but if both
    this command and its keeper process are killed at one instant, what ranks have started lives on.

    Exit status: 0 if every check holds, 1 if one does not, 2 for bad usage, 130 and 143 after Ctrl-C and SIGTERM.
    """
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    _refuse_contradictions(given, program)
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    try:
        plan = _plan(context.params, seed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if is_virtual:
        return _run_virtually(plan, _again(context, seed), report, as_json=as_json)
    try:
        with _folder(report, plan, _again(context, seed)) as folder:
            with _nothing_left_behind(), Telling(plan, as_json=as_json, folder=folder) as telling:
                result = run(plan, telling.on_event, telling.on_output, telling.conclude)
            telling.conclude(result)
    except CannotRunError as error:
        raise click.UsageError(str(error)) from error
    return 0 if result.ok else EXIT_FAILED


def _plan(asked: dict[str, Any], seed: int) -> Plan:
    """What the options ask for.

    Raises:
        ValueError: They cannot be met.
    """
    program, scenario, faults, backend = (asked[name] for name in ("program", "scenario", "faults", "backend"))
    timeout_s = asked["timeout"] or (PROGRAM_TIMEOUT_S if program else JOB_TIMEOUT_S)
    if program and faults:
        from sim.program_scenario import scenario_of

        return replace(Plan.of(scenario_of(program, asked["nranks"], faults, timeout_s), seed=seed), program=program)
    if scenario is not None or faults or asked["is_virtual"] or backend != "static":
        from sim import scenario_file
        from sim.scenario import Scenario

        job = Scenario.of_rounds(asked["nranks"], asked["rounds"], backend)
        whole = scenario_file.find(scenario) if scenario is not None else job
        return Plan.of(whole.with_faults(faults), seed=seed, timeout_s=asked["timeout"])
    size, rounds = asked["nranks"], asked["rounds"]
    return Plan(world_size=size, rounds=rounds, timeout_s=timeout_s, seed=seed, program=program)


def _again(context: click.Context, seed: int) -> str:
    """The command line that runs the same again, if a report is to have it."""
    if not context.params["report"]:
        return ""
    from sim.report.again import again

    return again(context, seed)


def _run_virtually(plan: Plan, command: str, report: str | None, *, as_json: bool) -> int:
    from sim.scenario_text import ScenarioError
    from sim.virtual.run import run as run_virtually

    assert plan.scenario
    with _folder(report, plan, command, began_at=0.0) as folder:
        hear, timeout_s = folder.hear if folder else None, plan.timeout_s
        try:
            result = run_virtually(plan.scenario, plan.seed, timeout_s=timeout_s, is_traced=True, on_event=hear)
        except ScenarioError as error:
            raise click.UsageError(str(error)) from error
        Telling(plan, as_json=as_json, folder=folder).conclude(result)
    return 0 if result.ok else EXIT_FAILED


def _refuse_contradictions(given: set[str], program: tuple[str, ...]) -> None:
    if program and "is_virtual" in given:
        raise click.UsageError("--virtual and CMD do not go together: no virtual time can pass in a program")
    if program and "rounds" in given:
        raise click.UsageError("--rounds is for the built-in job; a program is run once")
    if program and "backend" in given:
        raise click.UsageError("--backend is for the built-in job; a program is given a store, and chooses for itself")
    if program and "scenario" in given:
        problem = "--scenario and CMD do not go together: in a scenario a program is a step, 'run CMD ARG...'"
        raise click.UsageError(problem)
    if "scenario" in given and (own := given & {"nranks", "rounds", "backend"}):
        raise click.UsageError(f"--{max(own)} is what the scenario says: leave it out")
    if program:
        from shutil import which  # here: it loads three compressors

        if which(program[0]) is None:
            raise click.UsageError(f"command not found: {program[0]} (or it is not executable)")


def _folder(
    report: str | None, plan: Plan, command: str, began_at: float | None = None
) -> contextlib.AbstractContextManager[Folder | None]:
    if report is None:
        return contextlib.nullcontext()
    from pathlib import Path

    from sim.report.folder import Folder

    try:
        return Folder(Path(report), plan.world_size, command, began_at)
    except OSError as error:
        raise click.UsageError(f"cannot write to {report}: {error.strerror}") from error


@contextlib.contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Whatever falls to this process, because even the keeper has died, is killed in the end."""
    require_linux()
    # Some are from before this process became ours: their orphans could not be told from those of the ranks.
    if set(descendants.children()) - door.pids_ahead():
        yield
        return
    descendants.adopt_orphans()
    try:
        yield
    finally:
        descendants.kill_all(KILL_TIMEOUT_S)


def _terminated(*_: Any) -> NoReturn:
    sys.exit(EXIT_TERMINATED)
