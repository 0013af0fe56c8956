"""The search finds three defects of torch's rendezvous, each planted in a model of it, from nothing but what it draws.

See `torch_model` for the model. With no defect there is nothing to find; so it is the defect that was found.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from torch_model import Defects, TorchNode

from sim.search.draw import draw
from sim.search.judge import tried
from sim.search.shrink import shrink
from sim.virtual.run import run
from sim.virtual.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.scenario import Scenario
    from sim.search.judge import Finding
    from sim.virtual.run import VirtualResult

SCHEDULES_MAX = 150  # of which the search needs a tenth


def runner(defects: Defects) -> Callable[..., VirtualResult]:
    """Runs scenarios with the model in the nodes' place.

    Torch promises neither a round as soon as it could be nor ranks that stay, so that is not asked of it.
    """

    def run_model(scenario: Scenario, seed: int, *, is_traced: bool = False) -> VirtualResult:
        result = run(scenario, seed, is_traced=is_traced, launcher=partial(TorchNode, defects=defects))
        return result._replace(checks=tuple(check for check in result.checks if check.name != "prompt"))

    return run_model


def found_and_shrunk(defects: Defects) -> tuple[Finding, Scenario]:
    """What the smallest scenario shows that comes of the first seed which shows anything, and that scenario."""
    run_model = runner(defects)
    for seed in range(SCHEDULES_MAX):
        scenario = draw(Streams(seed))
        finding = tried(run_model, scenario, seed).finding
        if finding:
            break
    else:
        pytest.fail(f"nothing was found in {SCHEDULES_MAX} schedules")

    def fails(candidate: Scenario) -> bool:
        again = tried(run_model, candidate, seed).finding
        return again is not None and again.cause == finding.cause

    smallest = shrink(scenario, fails)
    shown = tried(run_model, smallest, seed).finding
    assert shown
    return shown, smallest


def test_the_mended_model_has_nothing_to_find() -> None:
    """So what is found with a defect is the defect."""
    for seed in range(SCHEDULES_MAX):
        finding = tried(runner(Defects()), draw(Streams(seed)), seed).finding
        assert not finding, (seed, finding)


def assert_small(scenario: Scenario) -> None:
    """So few nodes, faults and steps that one sees what happens."""
    assert scenario.nodes.started <= 4
    assert len(scenario.faults) <= 1
    assert all(len(script.steps) <= 4 for script in scenario.scripts)


def test_a_torn_world_is_found_and_shrunk() -> None:
    """A member goes into the next round before the others have looked, and these count who is left."""
    finding, smallest = found_and_shrunk(Defects(tears=True))
    assert finding.cause in ("frozen", "ranks", "sizes")
    assert_small(smallest)


def test_an_unpublished_bootstrap_after_scale_up_is_found_and_shrunk() -> None:
    """Who comes later waits for what is never published, and is in no round in the end."""
    finding, smallest = found_and_shrunk(Defects(keeps_own=True))
    assert finding.cause == "settled"
    assert "outside" in finding.detail
    assert_small(smallest)


def test_a_stale_bootstrap_after_the_loss_of_rank_0_is_found_and_shrunk() -> None:
    """Rank 0 has left or died, another took its place, and a third still has the address of the first."""
    finding, smallest = found_and_shrunk(Defects(keeps_others=True))
    assert finding.cause == "frozen"
    assert len(set(re.findall(r"addr-of-rank \d+#[\d.]+", finding.detail))) > 1
    assert_small(smallest)
