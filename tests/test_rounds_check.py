"""The checker of elastic rounds: each invariant passes what is right, and names who broke it and when."""

from __future__ import annotations

import pytest

from sim.check.rounds import Bounds, Fact, Given, Held, Out, judge

BOUNDS = Bounds(min_nodes=2, max_nodes=3, bound_s=15.0, margin_s=2.0)


def given(at_s: float, node: str, round_: int, rank: int, size: int = 2, bootstrap: str = "a:1") -> Given:
    return Given(at_s, node, round_, rank, size, bootstrap)


GOOD = [given(0, "a", 0, 0), given(0, "b", 0, 1), Out(1, "a", "re-entered"), Out(2, "b", "re-entered")]


def broken(history: list[Fact]) -> dict[str, str]:
    return {check.name: check.detail for check in judge(history, BOUNDS) if not check.passed}


def test_a_good_history_passes() -> None:
    """Two rounds, one after the other."""
    assert not broken([*GOOD, given(3, "a", 1, 0), given(3, "b", 1, 1)])


@pytest.mark.parametrize(
    ("history", "name", "detail"),
    [
        ([given(0, "a", 0, 0), given(0, "b", 0, 1, size=3)], "frozen", "round 0: its members were told"),
        ([given(0, "a", 0, 0), given(0, "b", 0, 1, bootstrap="b:1")], "frozen", "b:1"),
        ([given(0, "a", 0, 0), given(0, "b", 0, 0)], "ranks", "round 0: a and b are both rank 0"),
        ([given(0, "a", 0, 2)], "ranks", "a is rank 2 of 2"),
        ([given(0, "a", 0, 0, size=4)], "sizes", "round 0 has 4 members"),
        ([given(0, "a", 0, 0, size=1)], "sizes", "round 0 has 1 members"),
        ([*GOOD, given(3, "a", 0, 0)], "numbers", "at 3 s a was given round 0 after round 0"),
        ([*GOOD[:3], given(3, "a", 1, 0)], "one world", "at 3 s a was given round 1, but others live: {'b': 0}"),
    ],
)
def test_what_breaks_an_invariant_is_named(history: list[Fact], name: str, detail: str) -> None:
    """And breaks no other."""
    faults = broken(history)
    assert list(faults) == [name]
    assert detail in faults[name]


@pytest.mark.parametrize(("held_s", "passes"), [(5.0, False), (14.0, True), (30.0, True)])
def test_who_is_held_up_for_the_bound_does_not_live_any_more(held_s: float, passes: bool) -> None:
    """Then the others may go on; earlier they may not."""
    held = [*GOOD[:3], Held(3, "b", is_held=True), given(3 + held_s, "a", 1, 0)]
    assert (broken(held) == {}) == passes


def test_who_was_held_up_long_ago_lives_again_in_its_next_round() -> None:
    """One long pause does not excuse two live worlds later on."""
    pause = [Held(3, "b", is_held=True), given(20, "a", 1, 0), Held(33, "b", is_held=False), Out(34, "b", "evicted")]
    again = [Out(39, "a", "re-entered"), given(40, "a", 2, 0), given(40, "b", 2, 1)]
    assert not broken([*GOOD[:3], *pause, *again])
    faults = broken([*GOOD[:3], *pause, *again, Out(50, "a", "re-entered"), given(51, "a", 3, 0)])
    assert faults == {"one world": "at 51 s a was given round 3, but others live: {'b': 2}"}
