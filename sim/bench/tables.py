"""The bench of the store for people: a table for each thing measured, and below it what it means and what is wanted.

Needs rich. Knows `sim.bench.results`; prints to the consoles it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from sim.bench.results import StoreResult
    from sim.bench.stats import Ratio
    from sim.bench.throughput import Comparison

QUIET_LOAD = 0.5  # above it the machine has something else to do, and the figures show that too
_NAMES = {"set_sync": "set, certain"}


class Stage:
    """What is measured now: a line on standard error, if that is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
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


def show(result: StoreResult) -> None:
    """Print everything, in the order in which it matters."""
    console = Console()
    if result.plan.quick:
        console.print(Text("A quick look: fewer rounds, shorter and fewer cells. Do not quote it.", "yellow"))
    if result.load_before > QUIET_LOAD:
        busy = f"The machine was busy (load {result.load_before:.1f} before): the figures are worth less for it."
        console.print(Text(busy, "yellow"))
    _first_half(console, result)
    _effort(console, result)
    _second_half(console, result)
    _bare(console, result)
    _memory(console, result)
    _many(console, result)
    _starved(console, result)


def _first_half(console: Console, result: StoreResult) -> None:
    peer = _peer(result)
    console.print(_cells(f"First half: {peer}'s clients on our server over {peer}'s", result.first, _ratio))
    console.print(_cells(f"Noise: the same on two servers of {peer}", result.first_null, _ratio, dim=True))
    _say(
        console,
        f"Operations per second, ours over {peer}'s; in brackets, where the median of many more rounds would lie. "
        f"Geometric mean {result.geomean:.2f}.",
        "no cell below the noise (0.85 at the least); add, get and compare_set at least 1.4 with one client; "
        "geometric mean at least 1.1",
    )


def _effort(console: Console, result: StoreResult) -> None:
    def microseconds(cell: Comparison) -> str:
        return f"{cell.server_cpu_us:.1f} / {cell.other_server_cpu_us:.1f}"

    peer = _peer(result)
    console.print(
        _cells(f"Processor time of the server for one operation, us, ours / {peer}", result.first, microseconds)
    )
    _say(console, "With one client ours spends some awaiting the next request; that is what makes it fast there.")


def _second_half(console: Console, result: StoreResult) -> None:
    peer = _peer(result)
    for whose, cells in result.second.items():
        server = "our" if whose == "ours" else f"{peer}'s"
        console.print(_cells(f"Second half: our client over {peer}'s, both on {server} server", cells, _ratio))
        console.print(_cells(f"Noise: {peer}'s client over itself", result.second_null[whose], _ratio, dim=True))
    _say(
        console,
        "Each client is a process of its own. A set has no reply: 100 of them are sent, then one command that has one "
        "makes them certain. In 'set, certain' each is so by itself: ours in one trip to the server, with sync=True, "
        f"{peer}'s in two.",
        "get at least 1.5, add and compare_set at least 0.95",
    )


def _bare(console: Console, result: StoreResult) -> None:
    for whose, cells in result.bare.items():
        server = "Our server" if whose == "ours" else f"{_peer(result)}'s server"
        console.print(_cells(f"{server} over a bare TCP echo", cells, _ratio))
    _say(
        console,
        "Bare sockets and ready-made bytes, on the store and on an echo server in Python that sleeps between requests. "
        "1 is what the kernel allows without spinning.",
    )


def _memory(console: Console, result: StoreResult) -> None:
    table = _table("Memory of the server's process", "", "after start", "per client", "per byte stored")
    for whose, memory in result.memory.items():
        table.add_row(
            _server(result, whose),
            f"{memory.start / 1e6:.1f} MB",
            f"{memory.per_client:.0f} bytes",
            f"{memory.per_stored_byte:.2f} bytes",
        )
    console.print(table)
    _say(
        console,
        f"Resident set; ratio after start {result.rss_ratio:.3f}. {_peer(result)}'s process has torch loaded, as "
        "whoever hosts its store must. Values of 1,000 bytes were stored.",
        "at most 1/12 (0.083) of torch's",
    )


def _many(console: Console, result: StoreResult) -> None:
    table = _table("Many clients at once", "", "clients", "ours", _peer(result), "ours over it")
    for name, duration in (("one set wakes", result.wake), ("all connect", result.crowd)):
        if duration:
            table.add_row(
                name,
                f"{duration.clients}",
                f"{duration.seconds * 1e3:.1f} ms",
                f"{duration.other_seconds * 1e3:.1f} ms",
                _range(duration.ratio),
            )
    console.print(table)
    _say(
        console,
        "Seconds, so less is better. Torch's server looks up the name of each client in its only thread. Here it "
        f"listens on 127.0.0.1, whose name takes {result.reverse_lookup_us:.0f} us and no resolver (by default it asks "
        "one for ::ffff:127.0.0.1), and those look-ups are taken off its time. All other connections are made before "
        "the clock starts.",
        "waking takes at most 1.1 of torch's time; 10,000 clients connect in 2 s",
    )


def _starved(console: Console, result: StoreResult) -> None:
    table = _table("Latency while the host is busy, p50 / p99 in us", "server", "idle", "computes", "short calls")
    for hosting in dict.fromkeys(latency.hosting for latency in result.latencies):
        seen = [latency for latency in result.latencies if latency.hosting == hosting]
        name = _server(result, hosting) if hosting == "other" else f"ours, {hosting}"
        table.add_row(name, *(f"{latency.p50_us:,.0f} / {latency.p99_us:,.0f}" for latency in seen))
    console.print(table)
    ratios = ", ".join(f"{load} {_range(ratio)}" for load, ratio in result.starved_p99.items())
    _say(
        console,
        "Another process adds to a number, again and again, while the host's main thread waits, computes in pure "
        "Python, or makes short calls that release the interpreter lock. In a thread the server must wait for that "
        f"lock; in a process of its own it need not. There, p99 over idle: {ratios}.",
        "p99 in a process of its own no worse than idle",
    )


def _cells(title: str, cells: Sequence[Comparison], shown: Callable[[Comparison], str], *, dim: bool = False) -> Table:
    clients = list(dict.fromkeys(cell.clients for cell in cells))
    table = _table(title, "", *(f"{count} client{'s' * (count > 1)}" for count in clients))
    table.style = "dim" if dim else ""
    for operation in dict.fromkeys(cell.op for cell in cells):
        row = {cell.clients: shown(cell) for cell in cells if cell.op == operation}
        table.add_row(_NAMES.get(operation, operation), *(row[count] for count in clients))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _say(console: Console, meaning: str, goal: str = "") -> None:
    console.print(Text(meaning) + Text(f" Goal: {goal}." if goal else "", "italic"))


def _ratio(cell: Comparison) -> str:
    return _range(cell.ratio)


def _range(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _peer(result: StoreResult) -> str:
    return "torch" if result.plan.peer == "torch" else "itself"


def _server(result: StoreResult, whose: str) -> str:
    return "ours" if whose == "ours" else _peer(result)
