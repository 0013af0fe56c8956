"""How results of benches look: tables, what they mean, what is wanted, and a line that tells what is measured now.

Needs rich. Knows nothing of what is measured; prints to the consoles that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from sim import screen

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Self

QUIET_LOAD = 0.5  # above it the machine has something else to do, and the figures show that too


class Stage:
    """What is measured now: a line on standard error, if that is a terminal."""

    def __init__(self) -> None:
        console = screen.console(stderr=True)
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def begin(self, what: str) -> None:
        """Show what begins."""
        if self._status:
            self._status.update(what)


def warn(console: Console, *, is_quick: bool, load_before: float) -> None:
    """Say first what the figures are worth less for."""
    if is_quick:
        console.print(Text("A quick look: fewer rounds, shorter and fewer cells. Do not quote it.", "yellow"))
    if load_before > QUIET_LOAD:
        busy = f"The machine was busy (load {load_before:.1f} before): the figures are worth less for it."
        console.print(Text(busy, "yellow"))


def new_table(*columns: str, style: str = "") -> Table:
    """A table whose columns but the first are numbers."""
    table = Table(*columns, box=box.SIMPLE_HEAD, style=style)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def show_table(console: Console, title: str, table: Table, meaning: str = "", goal: str = "") -> None:
    """Print a table, what it means, and what is wanted."""
    console.print(Text(title, "bold"))
    console.print(table)
    if meaning:
        say(console, meaning, goal)


def say(console: Console, meaning: str, goal: str = "") -> None:
    """Print what something means, and what is wanted."""
    console.print(Text(meaning) + Text(f" Goal: {goal}." if goal else "", "italic"))
    console.print()
