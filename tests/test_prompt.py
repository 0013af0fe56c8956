"""What a job must do without delay and not without need, judged over facts that were written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.check.prompt import Course, Haste, leftovers
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


def faults_of(haste: Haste, *facts: Fact) -> list[str]:
    return list(Course(sorted(facts, key=lambda fact: fact.at_s), haste, []).faults())


@pytest.mark.parametrize(
    ("died", "at_s", "is_late"),
    [
        ([], 52.0, False),
        ([], 53.0, True),
        ([Out(48.0, "rank 2", "died")], 55.0, False),  # a member, which the others have watched
        ([Out(48.0, "rank 2", "died")], 56.0, True),
        ([*asks(48.0, 2), Out(49.0, "rank 2", "died")], 58.0, False),  # it may have led the lobby
        ([*asks(48.0, 2), Out(49.0, "rank 2", "died")], 59.0, True),
    ],
)
def test_a_death_puts_a_round_off_by_so_long_as_it_takes_to_find_it(
    died: list[Fact], at_s: float, is_late: bool
) -> None:
    """One bound, or two if those who come to know of it must first find out that they are to look."""
    haste = replace(ROOMY, min_nodes=1)
    start = [*asks(0.0, 0, 1, 2), *given(0.1, 1, 0, 1, 2)]
    faults = faults_of(haste, *start, *died, *asks(50.0, 0, 1), *given(at_s, 2, 0, 1))
    assert any("were there or gone" in fault for fault in faults) == is_late


@pytest.mark.parametrize(("at_s", "is_wrong"), [(1.8, False), (1.4, True), (4.4, False), (4.6, True)])
def test_each_who_comes_is_followed_by_as_long_a_last_call(at_s: float, is_wrong: bool) -> None:
    """Up to a bound."""
    faults = faults_of(replace(ROOMY, min_nodes=1), *asks(0.0, 0), *asks(0.8, 1), *given(at_s, 1, 0, 1))
    assert any(f"given at {at_s:g} s" in fault for fault in faults) == is_wrong


@pytest.mark.parametrize(
    ("haste", "asked_s", "is_wrong"), [(ROOMY, 45.0, True), (ROOMY, 49.0, False), (HASTE, 45.0, False)]
)
def test_who_waits_is_not_left_out_of_a_round_with_room(haste: Haste, asked_s: float, is_wrong: bool) -> None:
    """Unless it came just before, or is one too many."""
    start = [*asks(0.0, 0, 1), *given(1.0, 1, 0, 1)]
    faults = faults_of(haste, *start, *asks(asked_s, 2), *asks(50.0, 0, 1), *given(50.1, 2, 0, 1))
    assert any("rank 2 had asked" in fault for fault in faults) == is_wrong


@pytest.mark.parametrize(("asked_s", "is_wrong"), [(1.2, True), (1.7, False)])
def test_the_first_round_is_not_made_without_one_who_came_at_the_end_of_the_last_call(
    asked_s: float, is_wrong: bool
) -> None:
    """Whoever leads looks once more then: a stream of arrivals is not cut off."""
    haste = replace(ROOMY, min_nodes=1)
    faults = faults_of(haste, *asks(0.0, 0), *asks(0.9, 1), *asks(asked_s, 2), *given(1.9, 1, 0, 1))
    assert any("rank 2 had asked" in fault for fault in faults) == is_wrong


@pytest.mark.parametrize(
    ("others", "is_wrong"),
    [
        (asks(28.0, 1, 2), True),
        (asks(28.0, 1), False),  # too few
        ([*asks(28.0, 1), *asks(29.8, 2)], False),  # too late to be heard of
        ([*asks(28.0, 1, 2), Out(28.5, "rank 2", "died")], False),
        (asks(0.1, 1, 2), False),  # whose own time was up, or nearly
    ],
)
def test_no_join_fails_among_enough_others(others: list[Fact], is_wrong: bool) -> None:
    """Who came first seals the round when its time is up."""
    haste = replace(HASTE, min_nodes=3, max_nodes=4, last_call_s=5.0)
    faults = faults_of(haste, *asks(0.0, 0), *others, *asks(30.1, 0))
    assert any("rank 0 asked for a place" in fault for fault in faults) == is_wrong


@pytest.mark.parametrize(
    ("gone", "is_wrong"),
    [
        ([], True),
        ([Out(9.9, "rank 2", "died")], False),
        ([*asks(0.0, 2), Out(2.0, "rank 2", "died")], True),  # that was known
        ([*asks(0.0, 2), *asks(10.1, 2)], False),  # its patience has ended
    ],
)
def test_nobody_is_made_a_member_who_was_gone(gone: list[Fact], is_wrong: bool) -> None:
    """Who never took the place that was kept for it has died, left or given up of late."""
    member = [replace(fact, size=3) for fact in given(10.0, 1, 0, 1) if isinstance(fact, Given)]
    faults = faults_of(replace(ROOMY, min_nodes=3), *asks(9.0, 0, 1), *gone, *member, Out(20.0, "rank 0", "left"))
    assert any("may have gone" in fault for fault in faults) == is_wrong


def test_newcomers_are_in_the_order_of_their_names() -> None:
    """In any round; who was there before keeps its rank."""
    start = [*asks(0.0, 3), *given(1.0, 1, 3)]
    for newcomers, is_wrong in (((1, 2), False), ((2, 1), True)):
        facts = [*start, *asks(50.0, 1, 2, 3), *given(50.1, 2, 3, *newcomers)]
        faults = faults_of(replace(ROOMY, min_nodes=1), *facts)
        assert any("those who are new" in fault for fault in faults) == is_wrong


@pytest.mark.parametrize(("names", "is_wrong"), [((9, 10), False), ((10, 9), True)])
def test_newcomers_are_in_the_order_of_the_names_that_the_others_know(names: tuple[int, int], is_wrong: bool) -> None:
    """Those of processes are not in the order in which the scenario counts its ranks."""
    met = [replace(fact, name=f"process {name}") for fact, name in zip(given(1.0, 1, 1, 0), names, strict=True)]
    assert any("those who are new" in fault for fault in faults_of(HASTE, *asks(0.0, 0, 1), *met)) == is_wrong


@pytest.mark.parametrize(
    ("names", "is_fault"),
    [
        (["0/gone"], False),  # the farewell of one that was cut off as it left
        (["0/gone", "1/end"], True),
        (["0/lobby"], True),
        (["2/gone", "3/lobby"], False),
        (["0/ticket"], False),
    ],
)
def test_what_is_left_of_old_rounds_is_at_most_one_late_farewell(names: list[str], is_fault: bool) -> None:
    """Keys count rounds from 0."""
    facts = [*asks(0.0, 0, 1), *given(1.0, 4, 0, 1)]
    keys = [f"/rdzv/run/{name}".encode() for name in names]
    assert bool(list(leftovers(keys, facts, 100.0, HASTE.bound_s))) == is_fault


def test_what_a_leader_that_was_cut_off_wrote_too_late_is_of_one_round() -> None:
    facts = [*asks(0.0, 0, 1), *given(1.0, 5, 0, 1)]
    ranks = [b"/rdzv/run/0/rank/1", b"/rdzv/run/0/outcome"]
    found = [
        list(leftovers(keys, facts, 100.0, HASTE.bound_s, is_plain=is_plain))
        for is_plain, keys in ((True, ranks), (False, ranks), (False, [*ranks, b"/rdzv/run/1/outcome"]))
    ]
    assert [bool(faults) for faults in found] == [True, False, True]
