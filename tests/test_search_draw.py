"""Drawn scenarios are ordinary ones: valid, writable, the same again, and of all kinds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sim import scenario_file
from sim.faults import FAULTS
from sim.faults.triggers import AtTime
from sim.scenario import ANY, Scenario
from sim.scenario_text import ScenarioError
from sim.search.draw import draw, must_settle
from sim.search.troubles import TROUBLES
from sim.strategies import scenarios
from sim.virtual.streams import Streams

SEEDS = range(400)
PROPERTY = settings(max_examples=50, suppress_health_check=list(HealthCheck))


def test_what_is_drawn_can_be_written_and_read_again() -> None:
    """A `Scenario` refuses what contradicts itself, so that each could be made says that it is valid."""
    for seed in SEEDS:
        scenario = draw(Streams(seed))
        assert scenario_file.loads(scenario_file.dumps(scenario)) == scenario == draw(Streams(seed))


def test_every_fault_is_drawn_and_so_are_runs_without_any() -> None:
    """A fault that is added to the table is drawn, too."""
    assert TROUBLES.keys() == FAULTS.keys()
    kinds = Counter(planned.fault.name for seed in SEEDS for planned in draw(Streams(seed)).faults)
    assert kinds.keys() == FAULTS.keys()
    shapes = Counter((len(s.faults) == 0, s.backend, must_settle(s)) for s in (draw(Streams(seed)) for seed in SEEDS))
    assert shapes.keys() >= {(True, "c10d", True), (False, "c10d", True), (False, "c10d", False)}
    assert shapes.keys() >= {(True, "static", False), (False, "static", False)}


def test_only_the_faults_that_are_named_are_drawn() -> None:
    """Those that cannot strike are left out."""
    for seed in SEEDS:
        names = {planned.fault.name for planned in draw(Streams(seed), ["stop", "steal"]).faults}
        assert names <= {"stop", "steal"}


def test_all_heals_in_time_for_the_job_to_be_whole_again() -> None:
    """What can heal does, and what waits for a time strikes in the time of trouble."""
    for seed in SEEDS:
        scenario = draw(Streams(seed))
        for planned in scenario.faults:
            assert (planned.lasts_s is not None) == TROUBLES[planned.fault.name].heals
            if isinstance(planned.at, AtTime):
                assert planned.at.after_s + (planned.lasts_s or 0) < 12 * scenario.bound_s
        assert scenario.expect.settled == must_settle(scenario)
        assert not scenario.expect.settled or scenario.timeout_s > 10 * scenario.bound_s


def test_nobody_is_late_twice_whatever_one_starts_from() -> None:
    """Be it among others who are: a rank that was started twice would be two, and the search would find that."""
    base = Scenario.of_rounds(3, 1, "c10d").with_faults(["late:1-2@3s"])
    drawn = [draw(Streams(seed), ["late"], base) for seed in range(40)]
    late = [[rank for planned in each.faults for rank in planned.fault.subjects(3)] for each in drawn]
    assert all(len(ranks) == len(set(ranks)) for ranks in late)
    assert any(0 in ranks for ranks in late)


@pytest.mark.parametrize("name", scenario_file.names())
def test_a_scenario_to_start_from_keeps_its_steps_and_its_faults(name: str) -> None:
    """What is drawn comes on top, and what it expected is not expected any more."""
    base = scenario_file.find(name)
    drawn = [draw(Streams(seed), base=base) for seed in range(40)]
    for scenario in drawn:
        assert (scenario.nodes, scenario.scripts, scenario.options) == (base.nodes, base.scripts, base.options)
        assert scenario.faults[: len(base.faults)] == base.faults
        assert [outcome for _, outcome in scenario.expect.outcomes] == [ANY]
    assert any(len(scenario.faults) > len(base.faults) + 2 for scenario in drawn)


@PROPERTY
@given(scenarios())
def test_hypothesis_draws_the_same_kind(scenario) -> None:
    """They can be written, too."""
    assert scenario_file.loads(scenario_file.dumps(scenario)) == scenario


@PROPERTY
@given(scenarios("kill", "stop"))
def test_hypothesis_draws_the_faults_that_are_named(scenario) -> None:
    """And no other."""
    assert {planned.fault.name for planned in scenario.faults} <= {"kill", "stop"}


def test_hypothesis_is_told_of_a_fault_that_there_is_not() -> None:
    """At once, with the one that was meant."""
    with pytest.raises(ScenarioError, match="did you mean kill"):
        scenarios("kil")


@PROPERTY
@given(st.integers(0, 2**64))
def test_any_seed_will_do(seed: int) -> None:
    """Large ones, too."""
    draw(Streams(seed))
