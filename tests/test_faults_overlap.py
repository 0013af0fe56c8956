"""Faults of one kind on one rank at the same time: each holds until it is over itself, in both arms."""

from __future__ import annotations

import os
import selectors
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from sim.plan import Plan
from sim.process.place import Place
from sim.process.relay import Relay
from sim.process.supervisor import run
from sim.scenario import Planned, Scenario
from sim.virtual.run import run as run_virtually
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.faults.fault import Link


class Loop:
    """Where a relay lives, in which nothing happens."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector

    def call_in(self, seconds: float, action: Callable[[], object]) -> None:
        raise AssertionError


class Stage:
    """Of a `sim.faults.fault.Stage`, what faults of links need."""

    def __init__(self, link: Link) -> None:
        self._link, self.holds = link, 0

    def link(self, rank: int) -> Link:
        assert rank == 1
        return self._link

    def isolate(self, rank: int, *, is_held: bool) -> None:
        assert rank == 1
        self.holds += 1 if is_held else -1


@pytest.fixture(params=["virtual", "process"])
def link(request: pytest.FixtureRequest) -> Any:
    """A way to the store, of each arm."""
    with ExitStack() as stack:
        if request.param == "virtual":
            yield World().node("a").link
        else:
            relay = Relay(Loop(stack.enter_context(selectors.DefaultSelector())), 1, "seed")
            stack.callback(relay.close)
            yield relay


def state_of(link: Any) -> tuple[object, ...]:
    """What is wrong with it."""
    if isinstance(link, Relay):
        with socket.socket() as sock:
            is_refusing = sock.connect_ex(("127.0.0.1", link.port)) != 0
    else:
        is_refusing = link.is_refusing
    return link.delay_s, link.jitter_s, link.bytes_per_s, frozenset(link.cut), link.is_mute, is_refusing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("delay:1:50ms:10ms", "delay:1:20ms"),
        ("bandwidth:1:1kB", "bandwidth:1:5kB"),
        ("partition:0|1", "partition:0>1"),
        ("partition:0<1", "partition:0|1"),
        ("half-open:1", "half-open:1"),
        ("refuse:1", "refuse:1"),
        ("delay:1:50ms", "partition:0|1"),
    ],
)
@pytest.mark.parametrize("is_first_over_first", [False, True])
def test_of_two_faults_that_overlap_the_one_that_is_left_is_there_alone(
    link: Any, one: str, other: str, is_first_over_first: bool
) -> None:
    """Whichever came first, and whichever is over first; then there is none."""
    stage: Any = Stage(link)
    faults = [Planned.parse(text).fault for text in (one, other)]
    well, alone = state_of(link), []
    for fault in faults:
        fault.apply(stage)
        alone.append((state_of(link), stage.holds))
        fault.heal(stage)
        assert (state_of(link), stage.holds) == (well, 0)
        assert alone[-1][0] != well
    for fault in faults:
        fault.apply(stage)
    ends, stays = (0, 1) if is_first_over_first else (1, 0)
    faults[ends].heal(stage)
    assert (state_of(link), stage.holds) == alone[stays]
    faults[stays].heal(stage)
    assert (state_of(link), stage.holds) == (well, 0)


@pytest.mark.parametrize("is_virtual", [False, True])
def test_of_two_that_kill_the_store_both_must_be_over_before_another_serves(is_virtual: bool) -> None:
    """Nobody takes the place of the one that serves by then."""
    job = Scenario.of_rounds(2, 1, "c10d").with_faults(["kill-store~100ms", "kill-store~1500ms"])
    result = run_virtually(job, seed=1) if is_virtual else run(Plan.of(job))
    assert result.ok, result.failure
    assert result.duration_s >= 1.5


def test_a_store_that_was_killed_is_killed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of its process may be another's by the end of the run."""
    killed: list[int] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (killed.append(pid), kill(pid, number)))
    with ExitStack() as stack:
        place = Place(Scenario.of_rounds(2, 1, "c10d"), 1, stack)
        place.kill_store()
        assert killed
        killed.clear()
    assert killed == []
