"""The bench of the virtual arm: that all that it runs runs, and the shape of what it prints. Never how fast it is."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from sim.bench import virtual_messages
from sim.bench.stats import Ratio
from sim.bench.virtual import run
from sim.bench.virtual_helpers import Rates
from sim.bench.virtual_results import VirtualPlan, VirtualPoint, VirtualResult, record
from sim.bench.virtual_table import show

RATES = {"kernel": 1.5e6, "simpy": 2e5, "meeting": 3e5, "elastic": 2e5, "schedules": 250.0}
POINT = VirtualPoint(n=100, wall_s=0.1, ops_per_node=5.0, bytes_per_node=1000.0, events_per_node=13.0, peak_mb=25.0)
needs_simpy = pytest.mark.skipif(importlib.util.find_spec("simpy") is None, reason="simpy is not installed")


@pytest.fixture
def result() -> VirtualResult:
    """One that was not measured."""
    largest = replace(POINT, n=100_000, wall_s=30.0, bytes_per_node=1100.0, peak_mb=1200.0)
    return VirtualResult(VirtualPlan(quick=True), 0.0, dict(RATES), Ratio(7.5, 7.0, 8.0), [POINT, largest])


def test_every_rate_is_of_something_that_happens() -> None:
    """All but simpy's; and each of the schedules came out as it should."""
    rates = Rates()
    for found in (rates.kernel(), rates.meeting(), rates.elastic(), rates.schedules(0)):
        assert found > 0


@needs_simpy
@pytest.mark.parametrize("side", [virtual_messages.over_kernel, virtual_messages.over_simpy])
def test_both_sides_pass_the_messages_on_and_end(side) -> None:
    """In as much virtual time: each message goes on as often, and travels as long."""
    rounds = 5
    ends = side(rounds * virtual_messages.ACTORS)
    ends()
    world = ends.__self__
    assert rounds - 1 <= world.now / virtual_messages.TRAVEL_NS <= rounds + 1


def test_joins_are_measured_in_processes_of_their_own() -> None:
    """Without simpy there is no ratio, and all else is there."""
    found = run(VirtualPlan(rounds=1, nodes=(10, 40), is_against_simpy=False))
    assert [point.n for point in found.points] == [10, 40]
    assert found.points[0].ops_per_node == 5.3
    assert found.points[1].events_per_node > 10
    assert all(point.wall_s > 0 and point.peak_mb > 1 for point in found.points)
    plain = json.loads(json.dumps(record(found)))
    assert plain["simpy_ratio"] is plain["simpy_events_per_s"] is None
    assert 1 <= plain["spread"]["events_per_node"] < 1.3


def test_the_record_has_every_figure_by_its_name(result: VirtualResult) -> None:
    """The interface of ``--json``: whoever reads it relies on these names."""
    found = record(result)
    assert found["events_per_s"] == RATES["meeting"]
    assert found["elastic_events_per_s"] == RATES["elastic"]
    assert found["kernel_events_per_s"] == RATES["kernel"]
    assert found["schedules_per_s"] == RATES["schedules"]
    assert found["simpy_ratio"] == 7.5
    assert found["spread"]["bytes_per_node"] == 1.1
    names = {"n", "wall_s", "ops_per_node", "bytes_per_node", "events_per_node", "peak_mb"}
    assert all(point.keys() == names for point in found["points"])


def test_the_tables_fit_a_terminal_and_have_the_goals_beside(
    result: VirtualResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 80 columns; and that this was only a quick look."""
    monkeypatch.setenv("COLUMNS", "80")
    show(result)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("A quick look")
    rows = [line.split() for line in lines]
    assert ["events,", "static", "worlds", "300,000", "300,000"] in rows
    assert ["schedules", "of", "five", "nodes", "250", "200"] in rows
    text = " ".join(" ".join(rows_) for rows_ in rows)
    assert "Our kernel over simpy: 7.5 times (7.0-8.0). Goal: at least 2 times." in text
    assert "100,000 nodes take 30 s and 1.20 GB. Goal: less than 60 s and 2 GB." in text
    assert "bytes 1.10" in text


def test_without_simpy_the_table_says_so(result: VirtualResult, capsys: pytest.CaptureFixture[str]) -> None:
    """And how to get it."""
    del result.rates["simpy"]
    result.simpy_ratio = None
    show(result)
    assert "simpy is not installed here" in " ".join(capsys.readouterr().out.split())
