"""The bench of the store: ours and another's, side by side in one run. Here is what is done, and in which order.

Two halves of throughput: in the first, the other's clients drive both servers, so that only the server differs; in the
second, both clients drive the same server. Beside each stands the other against itself, the band of noise. Then what
remains: bare sockets, memory, a crowd, a wake-up of many, and a host that is busy with something else.

What a cell is: `sim.bench.throughput`. What is asked and found: `sim.bench.store_results`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from sim.bench.helper import Helper
from sim.bench.host import LOADS
from sim.bench.machine import allow_all_descriptors, reverse_lookup_s, rss_bytes
from sim.bench.stats import paired_ratio
from sim.bench.store_results import Duration, Latency, Memory, StoreResult
from sim.bench.throughput import Contender, Server, compare, measure, rotated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sim.bench.store_results import StorePlan
    from sim.bench.throughput import Cell, Rates

OPERATIONS = ("add", "get", "set", "compare_set")
_SPARE_DESCRIPTORS = 200
_STARVE_SLICES = 3  # who is starved may not be served at all for a while


def run(plan: StorePlan, on_stage: Callable[[str], None] = lambda _: None) -> StoreResult:
    """Measure everything.

    Args:
        plan: What, and for how long.
        on_stage: Is called with what begins, in words.

    Raises:
        HelperError: A process of the bench failed.
    """
    with ExitStack() as stack:
        bench = _Bench(plan, stack, on_stage)
        for section in (
            bench.gather_crowd,
            bench.wake_many,
            bench.first_half,
            bench.second_half,
            bench.bare_sockets,
            bench.fill,
            bench.starve,
        ):
            section()
    return bench.result


class _Bench:
    """All processes of a run, and what they have found so far."""

    def __init__(self, plan: StorePlan, stack: ExitStack, on_stage: Callable[[str], None]) -> None:
        self._plan, self._on_stage = plan, on_stage
        self.result = StoreResult(plan, os.getloadavg()[0], reverse_lookup_s() * 1e6)
        self._descriptors = allow_all_descriptors()
        on_stage("starting servers and clients")
        other = "torch" if plan.peer == "torch" else "process"
        kinds = {
            "ours": "process",
            "spare": "process",  # whose memory has seen no other work
            "thread": "thread",
            "other": other,
            "again": other,
            "echo": "echo",
        }
        hosts = {name: stack.enter_context(Helper("host", "Host")) for name in kinds}
        self._pool = stack.enter_context(Helper("pool", "Pool"))
        self._crowd = stack.enter_context(Helper("crowd", "Crowd"))
        for name, kind in kinds.items():
            hosts[name].tell("serve", kind=kind)
        self._pool.tell("start", clients=max(plan.clients), torch=plan.peer == "torch")
        self._servers = {name: Server(host, **host.answer()) for name, host in hosts.items()}
        self._pool.answer()
        for name in ("ours", "other"):
            self.result.memory[name] = Memory(rss_bytes(self._servers[name].pid))

    def gather_crowd(self) -> None:
        """Connect very many clients; in the first round, see what each of them occupies."""
        clients = min(self._plan.crowd, self._descriptors - _SPARE_DESCRIPTORS)
        seconds: dict[str, list[float]] = {"ours": [], "other": []}
        for number in self._rounds(f"{clients} clients connect"):
            for name in rotated(seconds, number):
                server = self._servers[name]
                before_bytes = rss_bytes(server.pid)
                seconds[name].append(self._crowd.ask("gather", port=server.port, clients=clients))
                if not number:
                    self.result.memory[name].per_client = (rss_bytes(server.pid) - before_bytes) / clients
                self._crowd.ask("dismiss", port=server.port)
        looked_up_s = clients * self.result.reverse_lookup_us * 1e-6 if self._plan.peer == "torch" else 0.0
        self.result.crowd = _duration(clients, seconds["ours"], [took - looked_up_s for took in seconds["other"]])

    def wake_many(self) -> None:
        """One set wakes many waiters."""
        seconds: dict[str, list[float]] = {"ours": [], "other": []}
        for name in seconds:
            self._crowd.ask("gather", port=self._servers[name].port, clients=self._plan.waiters)
        for number in self._rounds(f"one set wakes {self._plan.waiters} waiters"):
            for name in rotated(seconds, number):
                seconds[name].append(self._crowd.ask("wake", port=self._servers[name].port))
        for name in seconds:
            self._crowd.ask("dismiss", port=self._servers[name].port)
        self.result.wake = _duration(self._plan.waiters, seconds["ours"], seconds["other"])

    def first_half(self) -> None:
        """The other's clients drive both servers."""
        contenders = {name: Contender(self._plan.peer, self._servers[name]) for name in ("ours", "other", "again")}
        rates = self._measure("first half", contenders, OPERATIONS)
        self.result.first = compare(rates["ours"], rates["other"])
        self.result.first_null = compare(rates["again"], rates["other"])

    def second_half(self) -> None:
        """Both clients drive the same server, ours and then the other's."""
        for name in ("ours", "other"):
            server = self._servers[name]
            vias = {"ours": "rdzv", "other": self._plan.peer, "again": self._plan.peer}
            contenders = {contender: Contender(via, server) for contender, via in vias.items()}
            rates = self._measure(f"second half, {name} server", contenders, (*OPERATIONS, "set_sync"))
            self.result.second[name] = compare(rates["ours"], rates["other"])
            self.result.second_null[name] = compare(rates["again"], rates["other"])

    def bare_sockets(self) -> None:
        """Bare sockets drive both servers and an echo: what the protocol, the store and the loop add to that.

        And beside them the other's client drives ours: what of it a client in Python can reach.
        """
        contenders = {
            "ours": Contender("raw", self._servers["ours"]),
            "other": Contender("raw", self._servers["other"]),
            "echo": Contender("echo", self._servers["echo"]),
            "client": Contender(self._plan.peer, self._servers["ours"]),
        }
        rates = self._measure("bare sockets", contenders, ["add"])
        for name in ("ours", "other"):
            self.result.bare[name] = compare(rates[name], rates["echo"])
        self.result.bare_client = compare(rates["ours"], rates["client"])

    def fill(self) -> None:
        """Store much, and see what it occupies."""
        self._on_stage(f"storing {self._plan.stored_mb} MB")
        for whose, name in (("ours", "spare"), ("other", "again")):
            server = self._servers[name]
            before_bytes = rss_bytes(server.pid)
            self._crowd.ask("fill", port=server.port, megabytes=self._plan.stored_mb)
            grown_bytes = rss_bytes(server.pid) - before_bytes
            self.result.memory[whose].per_stored_byte = grown_bytes / (self._plan.stored_mb * 1_000_000)

    def starve(self) -> None:
        """A client asks one thing after another while the host waits, computes, or makes short calls."""
        hosts = {"process": "ours", "thread": "thread", "other": "other"}
        seen: dict[tuple[str, str], list[dict[str, float]]]
        seen = {(hosting, load): [] for hosting in hosts for load in LOADS}
        seconds = _STARVE_SLICES * self._plan.slice_s
        for number in self._rounds("busy hosts"):
            for hosting, load in rotated(seen, number):
                server = self._servers[hosts[hosting]]
                server.host.tell("load", kind=load, seconds=seconds)
                seen[hosting, load].append(self._crowd.ask("latencies", port=server.port, seconds=seconds))
                server.host.answer()
        self.result.latencies = [_latency(hosting, load, rounds) for (hosting, load), rounds in seen.items()]
        idle_us = [found["p99_us"] for found in seen["process", "idle"]]
        for load in [load for load in LOADS if load != "idle"]:
            self.result.starved_p99[load] = paired_ratio([found["p99_us"] for found in seen["process", load]], idle_us)

    # Inside

    def _rounds(self, what: str) -> Iterator[int]:
        for number in range(self._plan.rounds):
            self._on_stage(f"{what}, round {number + 1} of {self._plan.rounds}")
            yield number

    def _measure(
        self, what: str, contenders: dict[str, Contender], operations: Sequence[str]
    ) -> dict[str, dict[Cell, Rates]]:
        cells = [(operation, clients) for operation in operations for clients in self._plan.clients]
        return measure(self._pool, contenders, cells, self._plan.slice_s, self._rounds(what))


def _duration(clients: int, ours_s: Sequence[float], others_s: Sequence[float]) -> Duration:
    return Duration(clients, median(ours_s), median(others_s), paired_ratio(ours_s, others_s))


def _latency(hosting: str, load: str, rounds: Sequence[Mapping[str, float]]) -> Latency:
    return Latency(
        hosting,
        load,
        count=sum(int(found["count"]) for found in rounds),
        p50_us=median(found["p50_us"] for found in rounds),
        p99_us=median(found["p99_us"] for found in rounds),
        worst_us=max(found["worst_us"] for found in rounds),
    )
