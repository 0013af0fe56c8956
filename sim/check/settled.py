"""Liveness of an elastic job, with an explicit bound: once nothing has gone wrong for so long, it is whole again.

Pure functions over the facts of `sim.check.rounds`. Who launches and still lived at the end is a *launcher* here; all
of them are together in one round, or wait for a place in it. What a run shows whose last fault was too short ago is
nothing, and held against nobody.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from sim.check.invariants import counted
from sim.check.rounds import Given, Out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.check.rounds import Fact
    from sim.scenario import Scenario

DEATHS_IN_TURN = 5  # one after the other has to be found
TURNS = 5  # of launchers that look again
CALLS = 4  # a last call takes as much longer for each who comes, and no more than so often
MARGIN_S = 10.0  # connections that were lost are noticed, and made again
_BAD_ENDS = ("left", "died")


def patience_s(scenario: Scenario) -> float:
    """How long its job may need after the last that has happened to it, in seconds."""
    options, bound_s = dict(scenario.options), scenario.bound_s
    heartbeat_s = min(float(options.get("heartbeat_timeout", 5)), bound_s)
    last_call_s = float(options.get("last_call_timeout", 30))
    return DEATHS_IN_TURN * bound_s + CALLS * last_call_s + 2 * heartbeat_s + TURNS * scenario.look_s + MARGIN_S


def unsettled(facts: Sequence[Fact], launchers: Sequence[str], sizes: tuple[int, int]) -> Iterator[str]:
    """What is wrong at the end with those who should be together.

    Args:
        facts: What the nodes were given and what became of them, in order of time, until the run was over.
        launchers: The names of those who launch and live.
        sizes: The fewest and the most nodes of a round.
    """
    where: dict[str, Given] = {}
    for fact in facts:
        if isinstance(fact, Given):
            where[fact.node] = fact
        elif isinstance(fact, Out):
            where.pop(fact.node, None)
    members = {name: where[name] for name in launchers if name in where}
    least, most = sizes
    if len(launchers) < least:
        return
    by_round: dict[int, list[str]] = defaultdict(list)
    for name, given in members.items():
        by_round[given.round].append(name)
    if len(by_round) > 1:
        apart = "; ".join(f"{', '.join(names)} in round {number}" for number, names in by_round.items())
        yield f"at the end launchers are apart: {apart}"
    elif len(members) != (expected := min(len(launchers), most)):
        outside = ", ".join(name for name in launchers if name not in members)
        yield f"at the end {counted(len(members), 'launcher')} of {expected} are in a round, outside are {outside}"
    elif len(members) != (size := next(iter(members.values())).size):
        yield f"at the end a round of {size} has {counted(len(members), 'launcher')} left, and does not end"


def calm_since(facts: Sequence[Fact], struck_at: float) -> float:
    """When the last has happened that a job must get over: a fault, or that somebody has left.

    Args:
        facts: As above.
        struck_at: When a fault last struck or healed, on the clock of the facts; 0 if none did.
    """
    return max([struck_at, *(fact.at_s for fact in facts if isinstance(fact, Out) and fact.why in _BAD_ENDS)])
