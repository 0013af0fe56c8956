"""A run for people: a bar while it goes, then what failed first, a table of ranks and one of checks.

Needs rich. Knows the result and the messages of ranks; prints to the consoles it is given.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sim import screen
from sim.check.history import Meeting
from sim.check.invariants import counted, exit_text
from sim.plan import VirtualResult
from sim.report.failures import failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from sim.plan import Plan, RankResult, RunResult
    from sim.process.messages import Message

DIGEST_CHARS_SHOWN = 16
ROWS_MAX = 24  # ranks in the table; of more, those that failed and the slowest are shown


class Bar:
    """How far a run of the built-in job has come: a bar on standard error, if that is a terminal."""

    def __init__(self, plan: Plan) -> None:
        """Prepare a bar for a run; it is there while this object is entered."""
        console = screen.console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=plan.world_size * plan.rounds)
        self._rounds = plan.rounds

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_event(self, _: int | None, message: Message) -> None:
        """Take a rank's message in."""
        if isinstance(message, Meeting):
            self._progress.update(self._task, advance=1, description=f"round {message.round} of {self._rounds}")


def show(result: RunResult) -> None:
    """Print what came of a run of the built-in job: what failed first and why, then the ranks, then the checks."""
    console = screen.console()
    for number, paragraph in enumerate(failures(result)):
        console.print(Text(paragraph, "red" if number else "bold red"), soft_wrap=True)
    if result.failure:
        console.print()
    console.print(_ranks_table(result.ranks))
    console.print(_checks_table(result))
    plan = result.plan
    verdict = Text("all checks hold", "bold green") if result.ok else Text("failed", "bold red")
    much = f"{counted(plan.world_size, 'rank')}, {counted(result.rounds_held, 'round')}, {result.duration_s:.2f} s"
    if isinstance(result, VirtualResult):
        much += f" of virtual time, digest {result.digest[:DIGEST_CHARS_SHOWN]}"
    console.print(Text(f"{much}, seed {plan.seed}: ") + verdict)


def _ranks_table(ranks: Sequence[RankResult]) -> Table:
    table = Table("rank", "pid", "rounds", "slowest join", "exit", box=box.SIMPLE_HEAD)
    for column in table.columns[:4]:
        column.justify = "right"
    shown, folded = _folded(ranks)
    for rank in shown:
        table.add_row(
            str(rank.rank),
            str(rank.pid or "none"),
            str(len(rank.meetings)),
            _milliseconds(rank.join_s),
            _exit(rank),
        )
    if folded:
        table.add_section()
    for is_well, end in ((False, Text("not well", "bold red")), (True, Text("exit 0"))):
        rest = [rank for rank in folded if _is_well(rank) == is_well]
        joins = [rank.join_s for rank in rest if rank.join_s is not None]
        if rest:
            table.add_row(f"{len(rest)} more", "", "", f"median {_milliseconds(median(joins))}" if joins else "", end)
    return table


def _folded(ranks: Sequence[RankResult]) -> tuple[list[RankResult], list[RankResult]]:
    """The ranks worth a row of their own, in order, and the rest: first those that did not end well, then slow ones."""
    if len(ranks) <= ROWS_MAX:
        return list(ranks), []
    by_worth = sorted(ranks, key=lambda rank: (_is_well(rank), -(rank.join_s or 0.0)))
    return sorted(by_worth[:ROWS_MAX], key=lambda rank: rank.rank), by_worth[ROWS_MAX:]


def _is_well(rank: RankResult) -> bool:
    return rank.ending.by_itself and rank.ending.exit == 0


def _checks_table(result: RunResult) -> Table:
    table = Table("", "check", "detail", box=box.SIMPLE_HEAD)
    for check in result.checks:
        mark = Text("holds", "green") if check.passed else Text("FAILS", "bold red")
        table.add_row(mark, check.name, Text(check.detail))
    return table


def _exit(rank: RankResult) -> Text:
    if not rank.ending.by_itself:
        return Text(f"ended in {rank.ending.phase}", "yellow")
    return Text(exit_text(rank.ending.exit), "bold red" if rank.failed else "")


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.1f} ms"
