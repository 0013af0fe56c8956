"""What a job must do without delay and not without need, judged over facts that were written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.check.prompt import Course, Haste
from sim.check.rounds import Fact, Given, Out

HASTE = Haste(min_nodes=2, max_nodes=2, bound_s=3.0, last_call_s=1.0, join_s=30.0, look_s=0.1)
ROOMY = replace(HASTE, max_nodes=3)


def asks(at_s: float, *ranks: int) -> list[Fact]:
    return [Out(at_s, f"rank {rank}", "re-entered") for rank in ranks]


def given(at_s: float, round_: int, *ranks: int) -> list[Fact]:
    return [Given(at_s, f"rank {rank}", round_, place, len(ranks), "host:1") for place, rank in enumerate(ranks)]


FIRST = [*asks(0.0, 0, 1, 2), *given(1.0, 1, 0, 1)]


@pytest.mark.parametrize("between", [[], [Out(33.0, "rank 1", "died")]])
def test_a_spares_patience_does_not_end_while_the_round_is_full(between: list[Fact]) -> None:
    """It begins when a place becomes free."""
    facts = [*FIRST, *between, *asks(35.0, 2), Out(36.0, "rank 2", "died")]
    faults = list(Course(facts, HASTE, []).faults())
    assert faults == ([] if between else ["rank 2 asked for a place at 0 s and, without one, at 35 s"])


@pytest.mark.parametrize(
    ("haste", "between", "is_needless"),
    [
        (HASTE, [], True),
        (HASTE, asks(50.0, 2), True),  # a spare, for whom there is no place
        (ROOMY, asks(50.0, 2), False),  # for whom there was one, but it did not stay
        (HASTE, [Out(50.0, "rank 1", "died"), *asks(50.1, 1)], False),
        (replace(HASTE, wilful=frozenset({"rank 1"})), [], False),
    ],
)
def test_a_round_of_the_same_nodes_needs_a_reason(haste: Haste, between: list[Fact], is_needless: bool) -> None:
    """That somebody was gone, or could have joined; or a node's own will."""
    facts = [*asks(0.0, 0, 1), *given(1.0, 1, 0, 1), *between, *asks(60.0, 0, 1), *given(60.5, 2, 0, 1)]
    needless = "round 2 has the nodes of the one before, of whom none was gone, and no other had come"
    assert (needless in Course(facts, haste, []).faults()) == is_needless


def test_nothing_is_held_against_a_job_in_trouble() -> None:
    """What has struck may be felt for some bounds."""
    facts = [*asks(0.0, 0, 1), *given(1.0, 1, 0, 1), *asks(60.0, 0, 1), *given(60.5, 2, 0, 1)]
    assert not list(Course(facts, HASTE, [55.0]).faults())
