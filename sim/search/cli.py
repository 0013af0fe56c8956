"""The commands ``rdzv-sim search`` and ``rdzv-sim replay``: read what is to be searched, search, show what was found.

Knows click. Must not know how a scenario is drawn, run or judged: that is the rest of `sim.search`.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim import scenario_file
from sim.faults import FAULTS, fault_named
from sim.scenario_text import ScenarioError

if TYPE_CHECKING:
    from sim.scenario import Scenario
    from sim.search.explore import Found, Report, Search
    from sim.search.judge import Trial

EXIT_FOUND = 1
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@click.command("search", short_help="Look for a run in virtual time that breaks something.")
@click.option("--scenario", metavar="FILE|NAME", help="Start from this one  [default: from anything]")
@click.option("--seeds", type=click.IntRange(min=1), default=10_000, show_default=True, help="How many schedules.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first one's seed.")
@click.option(
    "--faults", metavar="all|NAME,...", default="all", show_default=True, help="What may go wrong; see run --help."
)
@click.option("--keep-going", is_flag=True, help="Do not stop at the first finding; collect them by their causes.")
@click.option("--within", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds in any case.")
@click.option(
    "--into",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where to write the scenarios that were found.",
)
@_JSON
def search_command(
    scenario: str | None,
    seeds: int,
    first_seed: int,
    faults: str,
    keep_going: bool,
    within: float | None,
    into: Path,
    as_json: bool,
) -> int:
    """Draw schedules from seeds, run them in virtual time on all cores, and look for one that breaks something.

    In each, anything may go wrong for a while, at any time and in any order; then all heals, and the job must be whole
    again in time. What is found is made as small as can be, written as a scenario that runs in both arms, and printed
    as one line that replays it. If neither --scenario nor --faults says where to look, seeds also try what no scenario
    can say (all calls of the store against a model; Ctrl-C, hints of ranks, closing a job); those are replayed by their
    seed.

    The JSON object: schedules (how many were run), virtual_s, wall_s, schedules_per_s, and found, a list by cause:
    cause, detail, seed (the first), seeds (how many have shown it), scenario (the file, or null), digest, token.

    Exit status: 0 if nothing was found, 1 if something was, 2 for bad usage.
    """
    from sim.search.explore import Search

    try:
        base = scenario_file.find(scenario) if scenario else None
        kinds = (
            tuple(FAULTS) if faults == "all" else tuple(fault_named(name.strip()).name for name in faults.split(","))
        )
    except ScenarioError as error:
        raise click.UsageError(str(error)) from error
    if base and faults != "all":
        _require_possible(base, kinds)
    if base and any(step.argv for script in base.scripts for step in script.steps):
        raise click.UsageError(f"{scenario} runs a program, and no virtual time can pass in one")
    if within is not None and math.isnan(within):
        raise click.UsageError("--within takes seconds, and nan is no number of them")
    _make_directory(into)  # now: a search may take hours
    search = Search(seeds=seeds, first_seed=first_seed, base=base, kinds=kinds, keeps_going=keep_going, within_s=within)
    report = _explored(search)
    files = [_written(found, into) for found in report.found]
    if as_json:
        print(json.dumps(_record(report, files)))
    else:
        _show(report, files)
    return EXIT_FOUND if report.found else 0


def _require_possible(base: Scenario, kinds: tuple[str, ...]) -> None:
    """Refuse a fault that was asked for and is never drawn: a search that finds nothing would say that it was tried."""
    from sim.search.draw import possible

    for name in kinds:
        if not possible(base, [name]):
            where, launchers = FAULTS[name].backends, "spares ranks that launch: they could not come together again"
            other = f"is for the backend {where[0]}, not {base.backend}"
            raise click.UsageError(f"{name} {launchers if base.backend in where else other}")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"cannot write to {directory}: {error.strerror}") from error


def _explored(search: Search) -> Report:
    """Search, with a bar on standard error if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from sim import screen
    from sim.search.explore import EndlessSearchError, Looked, explore

    console = screen.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("schedules", total=search.seeds)
        count = found = 0

        def on_looked(looked: Looked) -> None:
            nonlocal count, found
            count, found = count + looked.count, found + len(looked.findings)
            speed = progress.tasks[0].speed or 0.0
            text = f"{speed:.0f} schedules/s" + (f", {found} failed" if found else "")
            progress.update(bar, advance=looked.count, description=text)

        try:
            return explore(search, on_looked)
        except KeyboardInterrupt:
            console.print(f"cut short: of {count} schedules {found or 'none'} failed", highlight=False)
            raise
        except EndlessSearchError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.UsageError(f"the machine refuses what this search needs: {error}") from error


def _written(found: Found, into: Path) -> Path | None:
    if not found.scenario:
        return None
    name, text = found.scenario.name, scenario_file.dumps(found.scenario).encode()
    try:
        for number in itertools.count(1):
            path = into / (f"{name}.toml" if number == 1 else f"{name}-{number}.toml")
            if not path.exists() or path.read_bytes() == text:  # else another search has found that
                break
        path.write_bytes(text)
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
    return path


def _record(report: Report, files: list[Path | None]) -> dict[str, Any]:
    return {
        "schedules": report.schedules,
        "virtual_s": report.virtual_s,
        "wall_s": report.wall_s,
        "schedules_per_s": report.schedules / report.wall_s,
        "found": [
            {
                **asdict(found.finding),
                "seed": found.seed,
                "seeds": len(found.seeds),
                "scenario": path and str(path),
                "digest": found.digest,
                "token": found.token,
            }
            for found, path in zip(report.found, files, strict=True)
        ],
    }


def _show(report: Report, files: list[Path | None]) -> None:
    from rich.text import Text

    from sim import screen
    from sim.search.judge import TRACED

    console = screen.console()
    for found, path in zip(report.found, files, strict=True):
        console.print(Text(f"{found.finding.cause}: ", "bold red") + Text(found.finding.detail), soft_wrap=True)
        many = f"first by seed {found.seed}" + (f", and by {len(found.seeds) - 1} more" if found.seeds[1:] else "")
        where = f"as a scenario in {path}, with --seed {found.seed}" if path else "no scenario can say it"
        if path and found.finding.cause in TRACED:
            where += ", which only a replay looks into"
        console.print(Text(f"found {many}; {where}"), soft_wrap=True)
        again = f"replay {found.token}" if path else f"search --seeds 1 --first-seed {found.seed}"
        console.print(Text(f"rdzv-sim {again}\n"), soft_wrap=True)
    rate = report.schedules / report.wall_s
    much = f"{report.schedules} schedules, {report.virtual_s / 3600:.1f} h of virtual time, in {report.wall_s:.1f} s"
    verdict = Text("nothing found", "bold green") if not report.found else Text("failed", "bold red")
    console.print(Text(f"{much} ({rate:.0f}/s): ") + verdict)


@click.command("replay")
@click.argument("token")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw the run there: report.html, and the same as report.json, trace.json (Perfetto) and junit.xml.",
)
@_JSON
def replay_command(token: str, report: Path | None, as_json: bool) -> int:
    """Run again what a token says, in virtual time, to the same digest.

    The JSON object is that of run --virtual, with cause and detail (null if nothing is wrong), and is_same: whether the
    digest is the one in the token. It is another where the code has changed since, or the token is from elsewhere.

    Exit status: 0 if all checks hold, 1 if one does not, 2 for bad usage.
    """
    from sim.search.replay import replay
    from sim.search.token import Token, TokenError

    try:
        parsed = Token.parse(token)
    except TokenError as error:
        raise click.UsageError(str(error)) from error
    try:
        trial = replay(parsed, report)
        if report:
            told = (
                f"the report is {report / 'report.html'}" if trial.result else "there is no report: the run broke off"
            )
            print(f"rdzv-sim: {told}", file=sys.stderr)
    except OSError as error:
        raise click.UsageError(f"cannot write to {report}: {error.strerror}") from error
    is_same = trial.digest.startswith(parsed.digest)
    if as_json:
        print(json.dumps(_replayed(trial, is_same=is_same)))
    else:
        _show_replay(trial, is_same=is_same)
    return EXIT_FOUND if trial.finding else 0


def _replayed(trial: Trial, *, is_same: bool) -> dict[str, Any]:
    from sim.report.record import record

    finding = trial.finding
    told = {"cause": finding and finding.cause, "detail": finding and finding.detail, "is_same": is_same}
    return {**(record(trial.result) if trial.result else {}), "digest": trial.digest, **told}


def _show_replay(trial: Trial, *, is_same: bool) -> None:
    from sim.report import terminal

    if trial.result:
        terminal.show(trial.result)
    if trial.finding:
        print(f"{trial.finding.cause}: {trial.finding.detail}")
    if not is_same:
        print("This is not quite the run that the token is of: the code is another, and so is the digest.")
    print(f"digest {trial.digest or 'none'}")
