"""Who listens to a run of the command ``rdzv-sim``, and what is printed and written of it, while it goes and after.

A run may also be cut short, by Ctrl-C or SIGTERM; then the same is told of what there was. Knows click, and the forms
that a run is told in, which are in `sim.report`. Must not know how it is carried out.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from sim.check.invariants import counted, named
from sim.process.messages import Struck
from sim.process.program import INTERRUPTED_S, prefixed, write_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from sim.plan import Plan, RunResult
    from sim.process.messages import Message
    from sim.report.folder import Folder
    from sim.report.terminal import Bar


_END_LOST = "the end of what the ranks have printed is lost"


class Telling:
    """Tells one run; entered as long as it goes."""

    def __init__(self, plan: Plan, *, as_json: bool, folder: Folder | None) -> None:
        """Prepare.

        Args:
            plan: The run's.
            as_json: Whether standard output is for one JSON object.
            folder: Where the report is written, if one is.
        """
        self._plan, self._folder = plan, folder
        self._streams = {"stdout": sys.stdout if plan.program and not as_json else sys.stderr, "stderr": sys.stderr}
        self._is_unread = False  # standard output, when the time was up: then it is written no more
        self._bar: Bar | None = None
        self._record: Callable[[RunResult], dict[str, Any]] | None = None
        if as_json:
            from sim.report.record import record  # while the keeper still loads, and not when all wait for the end

            self._record = record
        elif not plan.program:
            from sim.report import terminal

            self._bar = terminal.Bar(plan)

    def __enter__(self) -> Self:
        self._began_at = time.monotonic()
        self._write_until = self._began_at + self._plan.timeout_s
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.__exit__()

    def on_event(self, rank: int | None, message: Message) -> None:
        """As `sim.process.supervisor.run` says."""
        for listener in (self._folder, self._bar):
            if listener:
                listener.on_event(rank, message)
        if isinstance(message, Struck) and self._plan.program:
            what = "is over" if message.is_healed else "strikes"
            click.echo(f"rdzv-sim: {message.fault} {what} after {time.monotonic() - self._began_at:.2f} s", err=True)

    def on_output(self, rank: int, stream: str, lines: bytes) -> None:
        """As `sim.process.supervisor.run` says."""
        if self._folder:
            self._folder.on_output(rank, stream, lines)
        output = self._streams[stream]
        if output is sys.stdout and self._is_unread:
            return
        try:
            write_by(self._write_until, output.fileno(), prefixed(rank, lines))
        except TimeoutError:
            if output is sys.stderr:  # where all that there is to tell would be told
                raise
            self._is_unread = True
        except (KeyboardInterrupt, SystemExit):  # the run is over by that, for whoever does not read, too
            self._write_until = min(self._write_until, time.monotonic() + INTERRUPTED_S)
            raise

    def conclude(self, result: RunResult) -> None:
        """Tell what came of it."""
        self.__exit__()
        if self._is_unread:
            click.echo(f"rdzv-sim: standard output was not read by the deadline: {_END_LOST}", err=True)
        if self._plan.program:
            _tell_program(result)
        if self._record:
            click.echo(json.dumps(self._record(result)))
        elif not self._plan.program:
            from sim.report import terminal

            terminal.show(result)
        if self._folder:
            self._folder.write(result)
            click.echo(f"rdzv-sim: the report is {self._folder.page}", err=True)


def _tell_program(result: RunResult) -> None:
    from sim.report.failures import failures

    fallen = [rank.rank for rank in result.ranks if rank.expected and rank.ending.exit != 0]
    well = f"{counted(result.plan.world_size - len(fallen), 'rank')} ended with exit status 0"
    as_said = f", {named('rank', fallen)} by a fault," * bool(fallen)
    others = [f"{check.name}: {check.detail}" for check in result.checks if not check.passed]
    for paragraph in list(failures(result)) or others or [f"{well}{as_said} after {result.duration_s:.2f} s"]:
        click.echo(f"rdzv-sim: {paragraph}", err=True)
