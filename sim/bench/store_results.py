"""What the bench of the store is asked for and what it found, as values, and as plain data for ``--json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sim.bench.stats import geometric_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.bench.stats import Ratio
    from sim.bench.throughput import Comparison

    Peer = Literal["torch", "rdzv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """What to measure, and for how long.

    Attributes:
        peer: Whom to compare with; ``rdzv`` is compared with itself, which shows the noise.
        rounds: How often everything is measured; medians are taken.
        slice_s: For how long a cell is measured in a round, in seconds.
        clients: How many clients at the same time, for the throughput.
        crowd: How many clients to connect; fewer if the limit of open files is lower.
        waiters: How many clients to wake with one set.
        stored_mb: How much to store to see what it occupies, in millions of bytes.
        quick: Whether this is less than the whole bench; only told.
    """

    peer: Peer
    rounds: int = 15
    slice_s: float = 0.3
    clients: tuple[int, ...] = (1, 4, 32, 256)
    crowd: int = 10_000
    waiters: int = 1_000
    stored_mb: int = 64
    quick: bool = False


@dataclass(slots=True)
class Memory:
    """What a server's process occupies, in bytes: after start, for each client more, and for each byte stored."""

    start: int
    per_client: float = 0.0
    per_stored_byte: float = 0.0


@dataclass(frozen=True, slots=True)
class Duration:
    """How long ours and theirs took for the same thing with so many clients: medians in seconds, ours over theirs."""

    clients: int
    seconds: float
    other_seconds: float
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class Latency:
    """What a client of another process saw of a server, asking once in a millisecond while the host did something.

    Attributes:
        hosting: ``process``, ``thread``, or ``other``: the other's server in the process of its host.
        load: What the host did, one of `sim.bench.host.LOADS`.
        count: How many requests there were, in all rounds.
        p50_us: The median of the latency, in microseconds; of the rounds' values, the median.
        p99_us: What one in a hundred exceeds, likewise.
        worst_us: The longest of all rounds; it cannot pass the length of a round by much.
    """

    hosting: str
    load: str
    count: int
    p50_us: float
    p99_us: float
    worst_us: float


@dataclass(slots=True)
class StoreResult:
    """What was found. Ratios are ours over theirs: of operations per second, or of seconds or bytes.

    Attributes:
        plan: What was asked for.
        load_before: How many processes wanted to run before, on average (the load of the last minute).
        reverse_lookup_us: How long the look-up of a client's name takes here, in microseconds.
        first: The other's clients on our server, over them on theirs.
        first_null: The same on two servers of theirs.
        second: Our client over theirs, by whose server both drove, ``ours`` or ``other``.
        second_null: Their client over itself, likewise.
        bare: Bare sockets on a server, by whose it is, over bare sockets on an echo.
        bare_client: Bare sockets over the other's client, on our server.
        memory: By whose server.
        crowd: To connect very many clients; theirs without its look-ups of names.
        wake: To wake many waiters with one set.
        latencies: With a busy host.
        starved_p99: By load, the p99 of our server in a process of its own, over what it is with an idle host.
    """

    plan: StorePlan
    load_before: float
    reverse_lookup_us: float
    first: Sequence[Comparison] = ()
    first_null: Sequence[Comparison] = ()
    second: dict[str, Sequence[Comparison]] = field(default_factory=dict)
    second_null: dict[str, Sequence[Comparison]] = field(default_factory=dict)
    bare: dict[str, Sequence[Comparison]] = field(default_factory=dict)
    bare_client: Sequence[Comparison] = ()
    memory: dict[str, Memory] = field(default_factory=dict)
    crowd: Duration | None = None
    wake: Duration | None = None
    latencies: Sequence[Latency] = ()
    starved_p99: dict[str, Ratio] = field(default_factory=dict)

    @property
    def geomean(self) -> float:
        """The geometric mean of the first half."""
        return geometric_mean([cell.ratio.ratio for cell in self.first])

    @property
    def rss_ratio(self) -> float:
        """What our server's process occupies after start, over theirs."""
        return self.memory["ours"].start / self.memory["other"].start

    @property
    def starved_p99_ratio(self) -> float:
        """The worse of the loads."""
        return max(ratio.ratio for ratio in self.starved_p99.values())


def record(result: StoreResult) -> dict[str, Any]:
    """The result as nested dicts and lists. The names are an interface: whoever reads the JSON relies on them.

    A cell has ``half`` (1 or 2), ``server`` (whose it is; in the first half ``both``), ``op``, ``clients``, ``ratio``,
    ``low``, ``high``, and for ours and the ``other``: operations ``per_s`` and the server's ``cpu_us`` for each.
    """
    assert result.crowd
    assert result.wake
    return {
        "cells": _halves(result.first, result.second),
        "null": _halves(result.first_null, result.second_null),
        "geomean": result.geomean,
        "rss_ratio": result.rss_ratio,
        "starved_p99_ratio": result.starved_p99_ratio,
        "fanout_ratio": result.wake.ratio.ratio,
        "crowd_ratio": result.crowd.ratio.ratio,
        "plan": asdict(result.plan),
        "load_before": result.load_before,
        "reverse_lookup_us": result.reverse_lookup_us,
        "bare": [{"server": server} | _cell(cell) for server, cells in result.bare.items() for cell in cells],
        "bare_client": [_cell(cell) for cell in result.bare_client],
        "memory": {whose: asdict(memory) for whose, memory in result.memory.items()},
        "fanout": asdict(result.wake),
        "crowd": asdict(result.crowd),
        "latencies": [asdict(latency) for latency in result.latencies],
        "starved_p99": {load: asdict(ratio) for load, ratio in result.starved_p99.items()},
    }


def _halves(first: Sequence[Comparison], second: dict[str, Sequence[Comparison]]) -> list[dict[str, Any]]:
    halves = [(1, "both", first), *((2, server, cells) for server, cells in second.items())]
    return [{"half": half, "server": server} | _cell(cell) for half, server, cells in halves for cell in cells]


def _cell(cell: Comparison) -> dict[str, Any]:
    """One level: the ratio's fields stand beside the others."""
    return asdict(cell) | asdict(cell.ratio)
