"""Many seeds on all cores: what was found, the smallest scenario for each cause, and its token.

A seed's verdict depends on nothing but the seed, and verdicts are taken in the order of seeds: what is found first is
the same on one core and on many. Workers are processes that do not hear of Ctrl-C, since who waits for them ends them;
each ends by itself once nobody waits any more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sim.faults import FAULTS
from sim.search.draw import draw
from sim.search.judge import Finding, beside, tried
from sim.search.shrink import RUNS_MAX, shrink
from sim.search.token import Token
from sim.virtual.run import run as run_virtually
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from sim.scenario import Scenario
    from sim.search.judge import Run

TRACED_EVERY = 16
CHUNK = 20  # seeds: a second
PATIENCE_S = 900  # with a few seeds, or with making one small: minutes at the worst


class EndlessSearchError(Exception):
    """A worker does not come to an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search.

    Attributes:
        seeds: How many schedules.
        first_seed: The first one's seed.
        base: What to start from; ``None`` for anything.
        kinds: The names of the faults that may happen.
        keeps_going: Whether to go on after a finding, and collect them by cause.
        within_s: After how long to stop in any case, in seconds; ``None`` for never.
        run: What runs a scenario. To use more than one core it must be a module's function, or made of such.
        shrinks_max: How many runs it may take to make one finding small.
    """

    seeds: int
    first_seed: int = 0
    base: Scenario | None = None
    kinds: tuple[str, ...] = tuple(FAULTS)
    keeps_going: bool = False
    within_s: float | None = None
    run: Run = run_virtually
    shrinks_max: int = RUNS_MAX

    def scenario(self, seed: int) -> Scenario:
        """What is drawn from a seed."""
        return draw(Streams(seed), self.kinds, self.base)


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of some seeds.

    Attributes:
        count: How many of them were run.
        virtual_s: How long that took in virtual time, in seconds.
        findings: Which seeds have shown something, and what.
    """

    count: int
    virtual_s: float
    findings: tuple[tuple[int, Finding], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One cause.

    Attributes:
        seed: The first seed that has shown it.
        finding: What the smallest scenario shows.
        scenario: That scenario; ``None`` if no scenario can say it: then the seed is all that there is.
        digest: What the trace of its run comes to; empty without one.
        token: Scenario, seed and digest in one word; likewise.
        seeds: All seeds that have shown it.
    """

    seed: int
    finding: Finding
    scenario: Scenario | None
    digest: str = ""
    token: str = ""
    seeds: tuple[int, ...] = ()


@dataclass(slots=True)
class Report:
    """What came of a search.

    Attributes:
        schedules: How many were run.
        virtual_s: How long they took in virtual time, in seconds.
        wall_s: How long the search took, in seconds.
        found: The causes, in the order of their first seeds.
    """

    schedules: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    found: list[Found] = field(default_factory=list)


def look(search: Search, seeds: range) -> Looked:
    """Run some seeds; unless the search keeps going, no more after the first finding."""
    count, virtual_s = 0, 0.0
    findings: list[tuple[int, Finding]] = []
    for seed in seeds:
        trial = tried(search.run, search.scenario(seed), seed, is_traced=_is_traced(seed))
        count, virtual_s = count + 1, virtual_s + trial.virtual_s
        finding = trial.finding or (beside(seed) if _looks_beside(search) else None)
        if finding:
            findings.append((seed, finding))
            if not search.keeps_going:
                break
    return Looked(count, virtual_s, tuple(findings))


def _is_traced(seed: int) -> bool:
    """Whether a seed's run is judged by its trace, too, which takes twice as long."""
    return seed % TRACED_EVERY == 0


def _looks_beside(search: Search) -> bool:
    """Whether seeds are also looked at where no scenario leads; not if the user has said where to look."""
    return search.base is None and search.kinds == tuple(FAULTS) and search.run is run_virtually


def small(search: Search, seed: int) -> Found:
    """What a seed has shown, as the smallest scenario that shows it with the same seed."""
    drawn = search.scenario(seed)
    finding = tried(search.run, drawn, seed, is_traced=_is_traced(seed)).finding
    if not finding:
        finding = beside(seed)
        assert finding, f"seed {seed} has shown something just now"
        return Found(seed, finding, None)

    def fails(scenario: Scenario) -> bool:
        other = tried(search.run, scenario, seed, is_traced=_is_traced(seed)).finding
        return other is not None and other.cause == finding.cause

    smallest = shrink(drawn, fails, runs_max=search.shrinks_max)
    about = f"Found by seed {seed}: {finding.cause}."
    smallest = replace(smallest, name=f"found-{seed}", about=about)
    trial = tried(search.run, smallest, seed, is_traced=True)
    assert trial.finding, "to be traced changes nothing"
    return Found(seed, trial.finding, smallest, trial.digest, str(Token(smallest, seed, trial.digest)))


def explore(search: Search, on_looked: Callable[[Looked], object] = id, *, processes: int = 0) -> Report:
    """Search.

    Args:
        search: What.
        on_looked: Is told of each few seeds, in their order.
        processes: On how many cores; 0 for all that this process may use.
    """
    began_at, report = time.monotonic(), Report()
    by_cause: dict[str, list[int]] = {}
    with _applied(search, processes or _cores()) as applied:
        for looked in applied(look, _chunks(search)):
            report.schedules += looked.count
            report.virtual_s += looked.virtual_s
            for seed, finding in looked.findings:
                by_cause.setdefault(finding.cause, []).append(seed)
            on_looked(looked)
            is_late = search.within_s is not None and time.monotonic() - began_at >= search.within_s
            if is_late or (by_cause and not search.keeps_going):
                break
        report.wall_s = time.monotonic() - began_at
        first = [seeds[0] for seeds in by_cause.values()]
        for found, seeds in zip(applied(small, first), by_cause.values(), strict=True):
            report.found.append(replace(found, seeds=tuple(seeds)))
    return report


def _chunks(search: Search) -> Iterator[range]:
    end = search.first_seed + search.seeds
    for first in range(search.first_seed, end, CHUNK):
        yield range(first, min(first + CHUNK, end))


def _cores() -> int:
    """How many this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# The workers


@contextmanager
def _applied(search: Search, processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """What applies a function of a search to many items, in their order: in this process, or in so many others."""
    if processes == 1:
        yield lambda function, items: (function(search, item) for item in items)
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _become_worker, (search,))
    try:
        yield lambda function, items: _in_order(pool, function, items, 3 * processes)
    finally:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, function: Callable[[Search, Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Results in the order of their items, of which no more than so many are under way."""
    under_way: deque[tuple[Any, Future[Any]]] = deque()
    for item in items:
        with _uninterrupted():
            under_way.append((item, pool.submit(_work, function, item)))
        if len(under_way) >= ahead:
            yield _verdict(under_way.popleft())
    while under_way:
        yield _verdict(under_way.popleft())


def _verdict(pending: tuple[Any, Future[Any]]) -> Any:
    item, future = pending
    try:
        return future.result(PATIENCE_S)
    except FutureTimeoutError as error:  # before Python 3.11 not the built-in one
        what = f"seeds {item[0]} to {item[-1]}" if isinstance(item, range) else f"seed {item}"
        problem = f"{what}: no verdict after {PATIENCE_S} s, so a flow may run on without ever waiting"
        raise EndlessSearchError(f"{problem}; look at them one by one, with --seeds 1 --first-seed") from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C comes later: not while a worker is started, who inherits that and never hears of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[object] = []
    handler = signal.signal(signal.SIGINT, lambda *args: heard.extend(args))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if heard:
        raise KeyboardInterrupt


_searches: list[Search] = []  # of a worker: the one that it works on


def _become_worker(search: Search) -> None:
    _searches.append(search)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _work(function: Callable[[Search, Any], Any], item: Any) -> Any:
    return function(_searches[0], item)
