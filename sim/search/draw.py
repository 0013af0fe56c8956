"""A scenario from a seed: swarm testing, in which each seed leaves out another half of what could happen.

A drawn scenario has a time of trouble, in which anything may go wrong and whatever can heal does, and then so much
quiet that the job must be whole again (`sim.check.settled`). What it expects is what must hold whatever happens: the
invariants of rounds, no error but those that users are told of, and that.

Knows scenarios and faults. Draws from streams alone, so that a kind of fault more does not reshuffle the rest; what is
simplest comes first wherever there is a choice, which is what Hypothesis shrinks to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from sim.check.settled import patience_s
from sim.faults import FAULTS
from sim.faults.triggers import START, AtRound, AtStep, AtTime
from sim.scenario import ANY, Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_text import SECONDS_MAX, Ranks, ScenarioError, seconds_text
from sim.search.troubles import TROUBLES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sim.faults.triggers import Trigger

Item = TypeVar("Item")


class Chance(Protocol):
    """One stream of `sim.virtual.streams`, or what draws like it."""

    def below(self, end: int) -> int:
        """A whole number of at least 0 and less than ``end``."""

    def chance(self, probability: float) -> bool:
        """True with this probability."""

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""


class Chances(Protocol):
    """Streams by name."""

    def __getitem__(self, name: str) -> Chance:
        """The stream of that name."""


FAULTS_MAX = 10
ROUNDS_MAX = 6  # at whose phases faults wait
TROUBLE_BOUNDS = 6  # for so many bounds things happen
_CROWD = 5  # more than so many nodes are one
_AT_LAST = (0.95, 0.975)  # about when the patience of a fixed world ends, as a part of its timeout
_NEAR_S = (0.0, 0.001, 0.02, 0.3, 2.0)  # how far from each other accidents are that happen together


def draw(chances: Chances, kinds: Collection[str] = FAULTS.keys(), base: Scenario | None = None) -> Scenario:
    """Draw one.

    Args:
        chances: What to draw from, such as `sim.virtual.streams.Streams`.
        kinds: The names of the faults that may happen.
        base: What to start from; its ranks take the steps that it says, and its own faults happen, too. If they must
            be together in the end, its deadline may be put off for that.
    """
    shape = base or _shape(chances["shape"])
    trouble_s = min(SECONDS_MAX, TROUBLE_BOUNDS * shape.bound_s)
    if base is None:
        late, is_calm = _arrivals(chances["arrivals"], shape, trouble_s)
        shape = replace(_scripted(chances["scripts"], shape), faults=late if "late" in kinds else ())
        kinds = () if is_calm else kinds
    drawn = _faults(chances, shape, possible(shape, kinds), trouble_s)
    return _judged(replace(shape, faults=(*shape.faults, *drawn)), trouble_s, is_new=base is None)


def must_settle(scenario: Scenario) -> bool:
    """Whether its nodes must be together in the end: all of them launch, but for those who leave."""
    lasts = {script.steps[-1].name for script in scenario.scripts}
    return scenario.backend == "c10d" and "launch" in lasts and lasts <= {"launch", "leave"}


def possible(shape: Scenario, kinds: Collection[str]) -> list[str]:
    """Which kinds of fault can be drawn for a scenario."""
    names = (name for name, kind in FAULTS.items() if name in kinds and shape.backend in kind.backends)
    return [name for name in names if not (TROUBLES[name].spares_launchers and must_settle(shape))]


# Who takes part, and what they do


def _shape(chance: Chance) -> Scenario:
    """Nodes and options: mostly those of launchers, else of ranks that take their steps once."""
    kind = chance.pick(("launch",) * 6 + ("steps", "static"))
    if kind == "static":
        size, rounds = 1 + chance.below(5), 1 + chance.below(3)
        within = ("timeout", chance.pick((2, 5, 10)))
        return replace(Scenario.of_rounds(size, rounds), name="drawn", options=(within,))
    least = 1 + chance.pick((0, 0, 1, 2))
    most = least + chance.pick((0, 0, 1, 1, 2, 2, 4, 4, 7, 7))
    started = least + chance.below(most - least + 3)
    options = (
        ("keep_alive_interval", chance.pick((1, 1, 1, 1, 2, 5))),
        ("keep_alive_max_attempt", chance.pick((2, 3))),
        ("last_call_timeout", chance.pick((1, 5))),
        ("join_timeout", chance.pick((600, 30))),
    )
    if kind == "steps":
        started = min(started, most)
    look_s = chance.pick((0.1, 0.5, 3.0))
    steps = (Step("launch", seconds=look_s),) if kind == "launch" else Scenario.of_rounds(1, 1).scripts[0].steps
    scripts = (Script(Ranks(), steps),)
    return Scenario(name="drawn", backend="c10d", nodes=Nodes(least, most, started), options=options, scripts=scripts)


def _scripted(chance: Chance, shape: Scenario) -> Scenario:
    """Some launchers do something of their own will first: go into another round, all at the same time, or leave."""
    (script,) = shape.scripts
    (*_, last) = script.steps
    if last.name != "launch":
        return shape
    wait = Step("compute", seconds=chance.pick((0.5, 1.0, 3.0, 7.0)))
    if chance.chance(0.25):
        return replace(shape, scripts=(Script(Ranks(), (Step("join"), wait, Step("join"), last)),))
    own = {}
    for rank in range(shape.nodes.started):
        if chance.chance(0.2):
            ends = ((Step("join"), last), (Step("leave"),), (Step("leave"), last))
            own[rank] = (Step("join"), wait, *chance.pick(ends))
    return replace(shape, scripts=(script, *(Script(Ranks.of(rank), steps) for rank, steps in own.items())))


def _arrivals(chance: Chance, shape: Scenario, trouble_s: float) -> tuple[tuple[Planned, ...], bool]:
    """Who is late: by any time, or about when others give up or stop waiting; whether nothing else is to go wrong."""
    options, ranks = dict(shape.options), range(shape.nodes.started)
    is_calm = chance.chance(0.5)
    if shape.backend == "static":
        timeout_s, until_s = float(options["timeout"]), chance.pick((0.0, 1.5, 1.0))
        if until_s == 1.0:  # almost too late
            at_s = chance.pick(_AT_LAST) * timeout_s
            return _late({rank: at_s + _moment(chance, 0.02) for rank in ranks if chance.chance(0.3)}), is_calm
        moments = {rank: _moment(chance, until_s * timeout_s) for rank in ranks if chance.chance(0.5)}
        return _late(moments if until_s else {}), False
    last_call_s, join_s = float(options["last_call_timeout"]), float(options["join_timeout"])
    gap_s = chance.pick((0.3, 0.7, 0.9, 0.9)) * last_call_s
    is_stream = chance.chance(0.8 if shape.nodes.started > _CROWD else 0.2)
    if is_stream and shape.nodes.started * gap_s <= 2 * trouble_s:  # each comes within the last call for the next
        return _late({rank: rank * gap_s for rank in ranks[1:]}), is_calm
    if join_s <= trouble_s and chance.chance(0.8):
        return _late({rank: join_s - _moment(chance, last_call_s) for rank in ranks[1:]}), is_calm
    return _late({rank: _moment(chance, trouble_s) for rank in ranks if chance.chance(0.3)}), False


def _late(moments: Mapping[int, float]) -> tuple[Planned, ...]:
    late = FAULTS["late"]
    return tuple(Planned(late.parse([str(rank)]), AtTime(round(at_s, 3))) for rank, at_s in moments.items())


# What goes wrong


@dataclass(frozen=True, slots=True)
class _Moments:
    """When faults may strike: a few moments around which they gather, and any other time."""

    shape: Scenario
    trouble_s: float
    crowds: tuple[Trigger, ...]


def _faults(chances: Chances, shape: Scenario, kinds: Sequence[str], trouble_s: float) -> list[Planned]:
    swarm = chances["swarm"]
    chosen = [kind for kind in kinds if swarm.chance(0.4)]
    if not chosen:
        return []
    crowds = tuple(_trigger(swarm, shape, trouble_s) for _ in range(1 + swarm.below(3)))
    moments = _Moments(shape, trouble_s, crowds)
    drawn: list[Planned] = []
    for number in range(swarm.below(FAULTS_MAX + 1)):
        try:
            planned = _planned(chances[f"fault {number}"], chosen, moments)
            replace(shape, faults=(*shape.faults, *drawn, planned))
        except ScenarioError:  # it cannot be, or not then: a partition of one, a link of him who hosts, a second start
            continue
        drawn.append(planned)
    return drawn


def _planned(chance: Chance, kinds: Sequence[str], moments: _Moments) -> Planned:
    name = chance.pick(kinds)
    trouble = TROUBLES[name]
    kind, rank = FAULTS[name], chance.below(moments.shape.nodes.started)
    fault = kind.parse(trouble.arguments(chance, rank, moments.shape.nodes.started))
    own_steps = sorted({step.name for step in moments.shape.steps_of(rank)})
    if trouble.when == "start":
        at: Trigger = START
    elif trouble.when == "own step":
        at = AtStep(chance.pick(own_steps))
    elif trouble.when == "time":
        at = AtTime(_moment(chance, moments.trouble_s))
    elif chance.chance(0.5):
        crowd = chance.pick(moments.crowds)
        at = replace(crowd, after_s=crowd.after_s + _moment(chance, chance.pick(_NEAR_S)))
    else:
        at = _trigger(chance, moments.shape, moments.trouble_s)
    bounds = (0.05, 0.2, 0.5, 0.9, 1.1, 1.4, 2.0)
    lasts_s = round(moments.shape.bound_s * chance.pick(bounds), 3) if trouble.heals else None
    return Planned(fault, at, lasts_s)


def _trigger(chance: Chance, shape: Scenario, trouble_s: float) -> Trigger:
    kind = chance.pick(("time", "time", "round", "step"))
    if kind == "time":
        return AtTime(_moment(chance, trouble_s))
    later_s = chance.pick((0.0, 0.0, _moment(chance, 0.02), _moment(chance, trouble_s / 2)))
    if kind == "round":
        return AtRound(1 + chance.below(ROUNDS_MAX), chance.pick(("join", "met", "full")), later_s)
    rank = chance.below(shape.nodes.started)
    steps = [step.name for step in shape.steps_of(rank)]
    step = chance.pick(sorted(set(steps)))
    return AtStep(step, rank, 1 + chance.below(steps.count(step)), later_s)


def _moment(chance: Chance, until_s: float) -> float:
    """A time of whole milliseconds, which reads well."""
    return chance.below(round(until_s * 1000) + 1) / 1000


# What must hold of it


def _judged(scenario: Scenario, trouble_s: float, *, is_new: bool) -> Scenario:
    """With what must hold whatever happens, and the time that takes."""
    settled = must_settle(scenario)
    outcomes = ((Ranks(), ANY),) if scenario.faults or scenario.backend == "c10d" else ()
    expect = Expectation(outcomes=outcomes, settled=settled)
    timeout_s = min(SECONDS_MAX, trouble_s + trouble_s / 2 + patience_s(scenario))
    if is_new:
        about = f"Drawn: trouble for {seconds_text(trouble_s)}, then all is well."
        return replace(scenario, about=about, expect=expect, timeout_s=timeout_s)
    if not settled or timeout_s <= scenario.timeout_s:
        return replace(scenario, expect=expect)
    return replace(scenario, expect=expect, timeout_s=timeout_s)  # before that nobody can be asked to be together
