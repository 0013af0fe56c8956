"""Operations per second, contender beside contender: each round measures all of them, cell by cell, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from sim.bench.machine import cpu_s
from sim.bench.stats import Ratio, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sim.bench.helper import Helper

    Cell = tuple[str, int]  # an operation, and how many clients repeat it

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up.

    Attributes:
        host: The helper that it belongs to.
        port: Where it listens.
        pid: The process that it is in.
    """

    host: Helper
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured: a kind of client, and the server that it drives."""

    via: str
    server: Server


@dataclass(slots=True)
class Rates:
    """What a contender did in one cell, a value for each round: operations per second, and its server's effort."""

    per_s: list[float]
    server_cpu_us: list[float]  # per operation


@dataclass(frozen=True, slots=True)
class Comparison:
    """One contender against another in one cell.

    Attributes:
        op: The operation.
        clients: How many clients repeated it at the same time.
        ratio: Operations per second, ours over theirs.
        per_s: Ours, the median.
        other_per_s: Theirs.
        server_cpu_us: The processor time of our server for one operation, the median, in microseconds.
        other_server_cpu_us: That of theirs.
    """

    op: str
    clients: int
    ratio: Ratio
    per_s: float
    other_per_s: float
    server_cpu_us: float
    other_server_cpu_us: float


def measure(
    pool: Helper, contenders: Mapping[str, Contender], cells: Sequence[Cell], seconds: float, rounds: Iterable[int]
) -> dict[str, dict[Cell, Rates]]:
    """Let all contenders do everything, in rounds; by name and cell.

    Within a cell they take turns at once, so that what slows the machine down for a while hits all of them alike.

    Args:
        pool: The clients.
        contenders: By name.
        cells: What they do.
        seconds: For how long each time.
        rounds: The numbers of the rounds, from 0.
    """
    rates = {name: {cell: Rates([], []) for cell in cells} for name in contenders}
    for number in rounds:
        for cell in cells:
            for name in rotated(contenders, number):
                _take(pool, contenders[name], cell, seconds, rates[name][cell])
    return rates


def rotated(items: Iterable[Item], number: int) -> list[Item]:
    """The items, in an order that moves on from round to round, so that nobody is always the first."""
    listed = list(items)
    start = number % len(listed)
    return listed[start:] + listed[:start]


def _take(pool: Helper, contender: Contender, cell: Cell, seconds: float, rates: Rates) -> None:
    operation, clients = cell
    server = contender.server
    before_s = cpu_s(server.pid)
    done = pool.ask("run", operation=operation, via=contender.via, port=server.port, clients=clients, seconds=seconds)
    rates.per_s.append(done["operations"] / done["elapsed_s"])
    rates.server_cpu_us.append((cpu_s(server.pid) - before_s) / (done["operations"] + done["uncounted"]) * 1e6)


def compare(ours: Mapping[Cell, Rates], theirs: Mapping[Cell, Rates]) -> list[Comparison]:
    """Cell by cell, one contender over the other."""
    return [
        Comparison(
            op=cell[0],
            clients=cell[1],
            ratio=paired_ratio(mine.per_s, theirs[cell].per_s),
            per_s=median(mine.per_s),
            other_per_s=median(theirs[cell].per_s),
            server_cpu_us=median(mine.server_cpu_us),
            other_server_cpu_us=median(theirs[cell].server_cpu_us),
        )
        for cell, mine in ours.items()
    ]
