"""The smallest scenario that still fails for the same cause: fewer nodes, faults and steps, then simpler times.

Delta debugging, in a fixed order: the same scenario and the same judgement give the same result. Knows scenarios, and
of a failure only whether there still is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sim.faults.fault import OfRanks
from sim.faults.links import Partition
from sim.faults.places import KillStore
from sim.faults.triggers import AtRound, AtStep
from sim.scenario import Nodes, Planned, Scenario, Script, Step
from sim.scenario_text import Ranks, ScenarioError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias, TypeVar

    from sim.faults.fault import Fault
    from sim.faults.triggers import Trigger

    Item = TypeVar("Item")
    Fails: TypeAlias = Callable[[Scenario], bool]
    Simpler: TypeAlias = Callable[[Scenario], Iterator[Scenario]]

RUNS_MAX = 1500
STORE_AWAY_S_MIN = 0.1  # no host is back sooner
TIMEOUT_S_MIN = 5.0  # in the other arm processes have to start first


class _SpentError(Exception):
    """So many runs are enough."""


def shrink(scenario: Scenario, fails: Fails, *, runs_max: int = RUNS_MAX) -> Scenario:
    """The smallest that was found.

    Args:
        scenario: One that fails.
        fails: Whether another fails for the same cause. Must depend on the scenario alone.
        runs_max: How often that is asked at most.
    """
    asked: dict[Scenario, bool] = {scenario: True}

    def is_failing(candidate: Scenario) -> bool:
        if candidate not in asked:
            if len(asked) > runs_max:
                raise _SpentError
            asked[candidate] = fails(candidate)
        return asked[candidate]

    smallest = scenario
    try:
        while True:
            before = smallest
            for simpler in PASSES:
                for better in _descent(smallest, simpler, is_failing):
                    smallest = better
            if smallest == before:
                return smallest
    except _SpentError:
        return smallest


def _descent(scenario: Scenario, simpler: Simpler, fails: Fails) -> Iterator[Scenario]:
    """Take the first simpler one that fails, and again from there; each on its way."""
    while True:
        for candidate in simpler(scenario):
            if candidate != scenario and fails(candidate):
                scenario = candidate
                yield scenario
                break
        else:
            return


# Less of it


def _fewer_faults(scenario: Scenario) -> Iterator[Scenario]:
    for faults in _without(scenario.faults):
        yield from _valid(scenario, faults=faults)


def _fewer_nodes(scenario: Scenario) -> Iterator[Scenario]:
    for rank in reversed(range(scenario.nodes.started)):
        yield from _without_rank(scenario, rank)
    if scenario.backend != "static":
        for size in _sizes(scenario.nodes, scenario.nodes.started):
            yield from _valid(scenario, nodes=size)


def _without_rank(scenario: Scenario, rank: int) -> Iterator[Scenario]:
    """One node less; those behind it move up."""
    nodes, started = scenario.nodes, scenario.nodes.started - 1
    if not started:
        return
    scripts = [Script(ranks, each.steps) for each in scenario.scripts if (ranks := _moved(each.ranks, rank))]
    faults = [
        Planned(fault, at, each.lasts_s)
        for each in scenario.faults
        if (fault := _fault_moved(each.fault, rank)) and (at := _trigger_moved(each.at, rank))
    ]
    for size in [Nodes(started, started)] if scenario.backend == "static" else _sizes(nodes, started):
        yield from _valid(scenario, nodes=size, scripts=tuple(scripts), faults=tuple(faults))


def _sizes(nodes: Nodes, started: int) -> Iterator[Nodes]:
    """The same limits of a round, or lower ones, for so many nodes."""
    for fewer, less in ((0, 0), (0, 1), (1, 1)):
        least, most = nodes.min - fewer, nodes.max - less
        if 1 <= least <= min(most, started):
            yield Nodes(least, most, started)


def _moved(ranks: Ranks, gone: int) -> Ranks | None:
    if ranks.numbers is None:
        return ranks
    left = [number - (number > gone) for number in ranks.numbers if number != gone]
    return Ranks.of(*left) if left else None


def _fault_moved(fault: Fault, gone: int) -> Fault | None:
    if isinstance(fault, OfRanks):
        ranks = _moved(fault.ranks, gone)
        return replace(fault, ranks=ranks) if ranks else None
    if isinstance(fault, Partition):
        near, far = _moved(fault.groups.near, gone), _moved(fault.groups.far, gone)
        return replace(fault, groups=replace(fault.groups, near=near, far=far)) if near and far else None
    return fault


def _trigger_moved(at: Trigger, gone: int) -> Trigger | None:
    if not isinstance(at, AtStep) or at.rank is None:
        return at
    return None if at.rank == gone else replace(at, rank=at.rank - (at.rank > gone))


def _fewer_steps(scenario: Scenario) -> Iterator[Scenario]:
    scripts = scenario.scripts
    for script in scripts[1:]:
        yield from _valid(scenario, scripts=tuple(other for other in scripts if other is not script))
    for index, script in enumerate(scripts):
        for steps in _without(script.steps):
            if steps:
                yield from _valid(scenario, scripts=_with(scripts, index, replace(script, steps=steps)))


def _fewer_options(scenario: Scenario) -> Iterator[Scenario]:
    for options in _without(scenario.options):
        yield from _valid(scenario, options=options)


# Simpler


def _simpler_faults(scenario: Scenario) -> Iterator[Scenario]:
    for index, planned in enumerate(scenario.faults):
        for simpler in (*_with_simpler_arguments(planned), *_with_simpler_times(planned)):
            yield from _valid(scenario, faults=_with(scenario.faults, index, simpler))


def _with_simpler_arguments(planned: Planned) -> Iterator[Planned]:
    """Of fewer ranks; with less of what it has beside them."""
    fault = planned.fault
    if isinstance(fault, Partition):
        for far in _without(fault.groups.far.numbers or ()):
            if far:
                yield replace(planned, fault=replace(fault, groups=replace(fault.groups, far=Ranks.of(*far))))
        if fault.groups.ways != "|":
            yield replace(planned, fault=replace(fault, groups=replace(fault.groups, ways="|")))
    for name in ("by", "jitter"):
        for value in _simpler_spans(getattr(fault, name, 0.0)):
            yield replace(planned, fault=replace(fault, **{name: value}))  # type: ignore[type-var]


def _with_simpler_times(planned: Planned) -> Iterator[Planned]:
    at = planned.at
    for after_s in _simpler_spans(at.after_s):
        yield replace(planned, at=replace(at, after_s=after_s))
    if isinstance(at, AtRound) and at.round > 1:
        yield replace(planned, at=replace(at, round=at.round - 1))
    if planned.lasts_s is not None:  # what heals must go on to heal, or the job need not be whole again
        for lasts_s in _simpler_spans(planned.lasts_s):
            if lasts_s >= STORE_AWAY_S_MIN or not isinstance(planned.fault, KillStore):
                yield replace(planned, lasts_s=lasts_s)


def _simpler_steps(scenario: Scenario) -> Iterator[Scenario]:
    for index, script in enumerate(scenario.scripts):
        for place, step in enumerate(script.steps):
            for seconds in _simpler_spans(step.seconds):
                steps = _with(script.steps, place, Step(step.name, seconds=seconds))
                yield from _valid(scenario, scripts=_with(scenario.scripts, index, replace(script, steps=steps)))


def _shorter(scenario: Scenario) -> Iterator[Scenario]:
    for timeout_s in _simpler_spans(scenario.timeout_s):
        if timeout_s >= TIMEOUT_S_MIN:
            yield from _valid(scenario, timeout_s=timeout_s)


def _simpler_spans(value: float) -> Iterator[float]:
    """Shorter ones, in whole milliseconds: none at all, then what has fewer digits, then parts of it."""
    shorter = (0.0, *(int(value / unit) * unit for unit in (10.0, 1.0, 0.1, 0.01)), value / 2, value * 3 / 4)
    for candidate in dict.fromkeys(int(each * 1000 + (1e-6 if each > 0 else -1e-6)) / 1000 for each in shorter):
        if abs(candidate) < abs(value):
            yield candidate


PASSES: tuple[Simpler, ...] = (
    _fewer_faults,
    _fewer_nodes,
    _fewer_steps,
    _fewer_options,
    _shorter,
    _simpler_faults,
    _simpler_steps,
)


# Tools


def _without(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """All but some of them: large parts first, then each by itself."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield (*items[:start], *items[start + size :])
        size //= 2


def _with(items: Sequence[Item], index: int, item: Item) -> tuple[Item, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _valid(scenario: Scenario, **changes: object) -> Iterable[Scenario]:
    """The scenario with these changes, if there can be such a one."""
    try:
        return [replace(scenario, **changes)]  # type: ignore[arg-type]
    except ScenarioError:
        return []
