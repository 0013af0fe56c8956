"""The bench of the store for people: a table for each thing measured, and below it what it means and what is wanted.

Needs rich. Knows `sim.bench.store_results`; prints to a console it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim import screen
from sim.bench.screen import new_table, say, show_table, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from rich.table import Table

    from sim.bench.stats import Ratio
    from sim.bench.store_results import StoreResult
    from sim.bench.throughput import Comparison

_NAMES = {"set_sync": "set, certain"}


def show(result: StoreResult) -> None:
    """Print everything, in the order in which it matters."""
    console = screen.console()
    warn(console, is_quick=result.plan.quick, load_before=result.load_before)
    _first_half(console, result)
    _effort(console, result)
    _second_half(console, result)
    _bare_client(console, result)
    _bare(console, result)
    _memory(console, result)
    _many(console, result)
    _starved(console, result)


def _first_half(console: Console, result: StoreResult) -> None:
    peer = _peer(result)
    show_table(console, f"First half: {peer}'s clients, our server over {peer}'s", _cells(result.first, _ratio))
    show_table(
        console,
        f"Noise: the same, {peer}'s server over another of its kind",
        _cells(result.first_null, _ratio, style="dim"),
        "Operations per second; in brackets, where the median of many more rounds would lie, 19 times in 20. "
        f"Geometric mean of the first half: {result.geomean:.2f}.",
        "no cell below the noise (0.85 at the least); add, get and compare_set at least 1.4 with one client; "
        "geometric mean at least 1.1",
    )


def _effort(console: Console, result: StoreResult) -> None:
    def microseconds(cell: Comparison) -> str:
        return f"{cell.server_cpu_us:.1f} / {cell.other_server_cpu_us:.1f}"

    show_table(
        console,
        f"Processor time of the server for one operation: ours / {_peer(result)}'s, us",
        _cells(result.first, microseconds),
        "With one client ours stays awake for the next request for a moment, which is why it answers sooner.",
    )


def _second_half(console: Console, result: StoreResult) -> None:
    peer = _peer(result)
    for whose, cells in result.second.items():
        server = "our" if whose == "ours" else f"{peer}'s"
        show_table(console, f"Second half: {server} server, our client over {peer}'s", _cells(cells, _ratio))
        null = _cells(result.second_null[whose], _ratio, style="dim")
        show_table(console, f"Noise: {server} server, {peer}'s client over itself", null)
    say(
        console,
        "Each client is a process of its own. A set has no reply: 100 of them are sent, then one command that has one "
        "makes them certain. In 'set, certain' each is so by itself: ours in one trip to the server, with sync=True, "
        f"{peer}'s in two.",
        "get at least 1.5, add and compare_set at least 0.95",
    )


def _bare(console: Console, result: StoreResult) -> None:
    for whose, cells in result.bare.items():
        server = "our server" if whose == "ours" else f"{_peer(result)}'s server"
        show_table(console, f"What is left: {server} over a bare TCP echo", _cells(cells, _ratio))
    say(
        console,
        "Bare sockets and bytes made beforehand, on the store and on an echo in Python, which sleeps between requests: "
        "above 1 is what staying awake gains, below 1 what the protocol and the store cost.",
    )


def _bare_client(console: Console, result: StoreResult) -> None:
    peer = _peer(result)
    show_table(
        console,
        f"What Python leaves: bare sockets over {peer}'s client, on our server",
        _cells(result.bare_client, _ratio),
        "The same bytes, sent and received in a loop of Python that does nothing else, and sleeps until they come.",
    )


def _memory(console: Console, result: StoreResult) -> None:
    table = new_table("", "after start", "per client", "per byte stored")
    for whose, memory in result.memory.items():
        use = f"{memory.start / 1e6:.1f} MB", f"{memory.per_client:.0f} bytes", f"{memory.per_stored_byte:.2f} bytes"
        table.add_row(_server(result, whose), *use)
    show_table(
        console,
        "Memory of the server's process",
        table,
        f"Resident set; ratio after start {result.rss_ratio:.3f}. Whoever hosts torch's store has torch loaded. The "
        "values stored have 1,000 bytes.",
        "at most a twelfth (0.083) of torch's",
    )


def _many(console: Console, result: StoreResult) -> None:
    table = new_table("", "clients", "ours", _peer(result), "ours over it")
    for name, duration in (("one set wakes", result.wake), ("all connect", result.crowd)):
        if duration:
            took = [f"{seconds * 1e3:.1f} ms" for seconds in (duration.seconds, duration.other_seconds)]
            table.add_row(name, f"{duration.clients:,}", *took, _range(duration.ratio))
    show_table(
        console,
        "Many clients at once",
        table,
        "Time, so less is better. Torch's server looks up the name of each client in its only thread, by default with "
        "a resolver, since it sees them at ::ffff:127.0.0.1. Here it listens on 127.0.0.1 alone, which the hosts file "
        f"has: {result.reverse_lookup_us:.0f} us each, which is taken off its time to connect. All other "
        "connections are made before the clock starts.",
        "waking takes at most 1.1 of torch's time; 10,000 clients connect in 2 s",
    )


def _starved(console: Console, result: StoreResult) -> None:
    title = "Latency while the host is busy: p50 / p99 / worst, us"
    table = new_table("", "idle", "computes", "short calls")
    for hosting in dict.fromkeys(latency.hosting for latency in result.latencies):
        seen = [latency for latency in result.latencies if latency.hosting == hosting]
        name = _server(result, hosting) if hosting == "other" else f"ours, {hosting}"
        table.add_row(name, *(f"{it.p50_us:,.0f} / {it.p99_us:,.0f} / {it.worst_us:,.0f}" for it in seen))
    ratios = ", ".join(f"{load} {_range(ratio)}" for load, ratio in result.starved_p99.items())
    show_table(
        console,
        title,
        table,
        "Another process asks once in a millisecond, while the host's main thread waits, computes in pure Python, or "
        "makes short calls that release the interpreter lock. A server in a thread must wait for that lock, one in a "
        f"process of its own need not: there, p99 over idle is {ratios}.",
        "p99 in a process of its own no worse than idle",
    )


def _cells(cells: Sequence[Comparison], shown: Callable[[Comparison], str], *, style: str = "") -> Table:
    clients = list(dict.fromkeys(cell.clients for cell in cells))
    table = new_table("", *(f"{count} client{'s' * (count > 1)}" for count in clients), style=style)
    for operation in dict.fromkeys(cell.op for cell in cells):
        row = {cell.clients: shown(cell) for cell in cells if cell.op == operation}
        table.add_row(_NAMES.get(operation, operation), *(row[count] for count in clients))
    return table


def _ratio(cell: Comparison) -> str:
    return _range(cell.ratio)


def _range(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _peer(result: StoreResult) -> str:
    return "torch" if result.plan.peer == "torch" else "itself"


def _server(result: StoreResult, whose: str) -> str:
    return "ours" if whose == "ours" else _peer(result)
