"""Shrinking comes down to what a failure needs, whatever it was found in; here failures are made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from sim.faults.triggers import START
from sim.scenario import Nodes, Planned, Scenario, Script, Step
from sim.scenario_text import Ranks
from sim.search.draw import draw
from sim.search.shrink import TIMEOUT_S_MIN, shrink
from sim.strategies import scenarios
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = tuple(map(Step.parse, ("join", "compute 2500ms", "barrier", "write", "read", "leave")))
LARGE = Scenario(
    backend="c10d",
    nodes=Nodes(3, 6, 8),
    options=(("join_timeout", 40), ("last_call_timeout", 3)),
    scripts=(Script(Ranks(), STEPS), Script(Ranks.of(7), STEPS[:1])),
    faults=tuple(
        map(
            Planned.parse,
            (
                "stop:2@1.234s~4567ms",
                "delay:*:20ms:30ms~3s",
                "partition:0,1,2|3,4,5@2.join+77ms~1s",
                "kill:6@round2.full+321ms",
                "clock:1:-90s",
            ),
        )
    ),
)


def kinds(scenario: Scenario) -> list[str]:
    return [planned.fault.name for planned in scenario.faults]


def test_all_that_is_not_needed_goes() -> None:
    """A failure that needs nothing is of one node that does one thing."""
    smallest = shrink(LARGE, lambda scenario: True)
    assert smallest.nodes == Nodes(1, 1, 1)
    assert (smallest.faults, smallest.options) == ((), ())
    ((script,),) = (smallest.scripts,)
    assert len(script.steps) == 1
    assert TIMEOUT_S_MIN <= smallest.timeout_s < 2 * TIMEOUT_S_MIN


@pytest.mark.parametrize("kind", ["stop", "delay", "partition", "kill", "clock"])
def test_the_fault_that_is_needed_stays_and_becomes_simple(kind: str) -> None:
    """With as few ranks as it is about; at the start, or with the round that it waited for."""
    smallest = shrink(LARGE, lambda scenario: kind in kinds(scenario))
    (planned,) = smallest.faults
    assert smallest.nodes.started == (2 if kind == "partition" else 1)
    if kind != "partition":
        assert planned.at.after_s == 0
    assert planned.lasts_s in (None, 0)
    if kind == "stop":
        assert planned.at == START


def test_what_is_needed_together_stays_together() -> None:
    """And a time that is needed is no shorter than that, nor longer."""

    def fails(scenario: Scenario) -> bool:
        lasting = [planned.lasts_s or 0 for planned in scenario.faults if planned.fault.name == "stop"]
        return "kill" in kinds(scenario) and any(lasts_s >= 0.8 for lasts_s in lasting) and scenario.nodes.started >= 3

    smallest = shrink(LARGE, fails)
    assert sorted(kinds(smallest)) == ["kill", "stop"]
    assert smallest.nodes.started == 3
    assert max(planned.lasts_s or 0 for planned in smallest.faults) < 1.2


def test_a_step_that_is_needed_stays() -> None:
    """All others go."""
    smallest = shrink(LARGE, lambda scenario: any(step.name == "write" for step in scenario.steps_of(0)))
    assert [str(step) for step in smallest.steps_of(0)] == ["write"]
    assert len(smallest.scripts) == 1


def test_it_asks_no_more_often_than_it_may_and_never_twice() -> None:
    """A run costs time; what is left then is what was smallest."""
    asked: list[Scenario] = []

    def fails(scenario: Scenario) -> bool:
        asked.append(scenario)
        return "kill" in kinds(scenario)

    assert "kill" in kinds(shrink(LARGE, fails, runs_max=25))
    assert len(asked) == len(set(asked)) == 25


def test_the_same_comes_of_the_same() -> None:
    """No chance is in it."""

    def fails(scenario: Scenario) -> bool:
        return len(scenario.faults) % 2 == 1

    assert shrink(LARGE, fails) == shrink(LARGE, fails)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_every_scenario_shrinks_to_a_valid_one(scenario: Scenario) -> None:
    """It never grows on the way."""

    def size(of: Scenario) -> tuple[int, int]:
        return of.nodes.started, len(of.faults)

    seen = [scenario]

    def fails(candidate: Scenario) -> bool:
        assert size(candidate) <= size(seen[-1])
        holds = len(candidate.faults) >= min(2, len(scenario.faults))
        if holds:
            seen.append(candidate)
        return holds

    assert len(shrink(scenario, fails).faults) == min(2, len(scenario.faults))


@pytest.mark.parametrize("fails", [lambda scenario: scenario.nodes.started > 1])
def test_drawn_scenarios_become_as_small_as_they_can(fails: Callable[[Scenario], bool]) -> None:
    """Whatever they were."""
    large = next(s for s in (draw(Streams(seed)) for seed in range(100)) if s.nodes.started > 4 and len(s.faults) > 4)
    smallest = shrink(large, fails)
    assert (smallest.nodes.started, smallest.faults) == (2, ())
