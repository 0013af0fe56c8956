"""Every invariant holds for a good history, and fails for the very history that breaks it, naming who and when."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sim.check.history import Ending, History, Meeting
from sim.check.invariants import INVARIANTS, blame, exit_text, judge, named, named_keys


def good(world_size: int = 4, rounds: int = 2) -> History:
    """A history without fault: everybody meets everybody, and reads what everybody wrote."""
    nodes = range(world_size)
    meetings = tuple(
        Meeting(
            node=node,
            round=number,
            rank=node,
            world_size=world_size,
            run_id="job",
            master_addr="127.0.0.1",
            master_port=4000,
            repeats=((node, world_size), (node, world_size)),
            wrote=f"{number}/{node}",
            reads=tuple((peer, f"{number}/{peer}") for peer in nodes),
            join_s=0.001,
        )
        for number in range(1, rounds + 1)
        for node in nodes
    )
    endings = tuple(Ending(node, exit=0, by_itself=True, phase="the end", at=float(node)) for node in nodes)
    return History(world_size, rounds, meetings, endings)


def with_meeting(history: History, node: int, number: int, **changes: object) -> History:
    """The history, but for one node's account of one round."""
    return history._replace(
        meetings=tuple(
            meeting._replace(**changes) if (meeting.node, meeting.round) == (node, number) else meeting  # type: ignore[arg-type]
            for meeting in history.meetings
        ),
    )


def with_ending(history: History, node: int, **changes: object) -> History:
    """The history, but for how one node ended."""
    return history._replace(
        endings=tuple(
            ending._replace(**changes) if ending.node == node else ending  # type: ignore[arg-type]
            for ending in history.endings
        ),
    )


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_a_history_without_fault_passes_every_check(world_size: int) -> None:
    """No check cries wolf."""
    checks = judge(good(world_size))
    assert [check.name for check in checks] == [invariant.__name__ for invariant in INVARIANTS]
    assert all(check.passed for check in checks)


WITHOUT_A_RANK = tuple(meeting for meeting in good().meetings if (meeting.node, meeting.round) != (3, 2))
READS_OLD = ((0, "1/0"), (1, "2/1"), (2, "2/2"), (3, "2/3"))

VIOLATIONS = {
    "two nodes hold one rank": (with_meeting(good(), 2, 2, rank=1, repeats=()), "ranks", "round 2: nodes 1-2"),
    "a rank is out of range": (with_meeting(good(), 2, 1, rank=4, repeats=()), "ranks", "round 1: node 2 got rank 4"),
    "a rank is missing": (good()._replace(meetings=WITHOUT_A_RANK), "ranks", "round 2: nobody got rank 3"),
    "a round never came": (good()._replace(rounds=3), "ranks", "round 3: nobody got ranks 0-3"),
    "the size differs": (
        with_meeting(good(), 1, 2, world_size=3, repeats=()),
        "world_size",
        "round 2: node 1 told 3, not 4",
    ),
    "the run id differs": (
        with_meeting(good(), 3, 1, run_id="other"),
        "run_id",
        "node 3 told 'other', most others 'job'",
    ),
    "the port differs": (
        with_meeting(good(), 0, 2, master_port=1),
        "bootstrap",
        "round 2: node 0 told 127.0.0.1 port 1, most others 127.0.0.1 port 4000",
    ),
    "the address differs": (with_meeting(good(), 0, 1, master_addr="::1"), "bootstrap", "round 1: node 0 told ::1"),
    "asked again, another rank": (
        with_meeting(good(), 2, 1, repeats=((2, 4), (0, 4))),
        "repeats",
        "round 1: node 2 first got rank 2 of 4, then rank 0 of 4",
    ),
    "a value of an earlier round is read": (
        with_meeting(good(), 2, 2, reads=READS_OLD),
        "values",
        "round 2: node 2 read '1/0' of rank 0, which wrote '2/0'",
    ),
    "a value nobody wrote is read": (
        with_meeting(good(), 2, 2, reads=((9, "x"),)),
        "values",
        "round 2: node 2 read 'x' of rank 9, which nobody held",
    ),
    "nobody else reads a value": (
        with_meeting(good(2), 0, 1, reads=((0, "1/0"),)),
        "values",
        "round 1: nobody read what rank 1 wrote",
    ),
    "a node fails": (
        with_ending(good(), 1, exit=3, phase="the join of round 2"),
        "exits",
        "node 1 failed in the join of round 2: exit 3",
    ),
    "a node dies of a signal": (with_ending(good(), 1, exit=-9), "exits", "node 1 failed in the end: SIGKILL"),
    "nobody knows how a node ended": (
        with_ending(good(), 1, exit=None),
        "exits",
        "node 1 failed in the end: its exit is unknown",
    ),
    "a node has to be ended": (
        with_ending(good(), 2, by_itself=False, exit=0, phase="the barrier of round 1"),
        "exits",
        "node 2 had to be ended in the barrier of round 1",
    ),
}


@pytest.mark.parametrize(("history", "name", "detail"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_fails_its_check_alone_and_is_named(history: History, name: str, detail: str) -> None:
    """Each check fails for its own violation, says who and when, and no other check is disturbed."""
    failed = {check.name: check.detail for check in judge(history) if not check.passed}
    assert detail in failed[name]
    # Who holds a wrong rank has also written under it, so that check may join in.
    assert set(failed) <= {name, "values"} if name == "ranks" else set(failed) == {name}


def test_many_faults_are_counted_rather_than_listed() -> None:
    """A detail stays readable in a large world."""
    history = good(100)
    meetings = tuple(meeting._replace(repeats=((0, 0),)) for meeting in history.meetings)
    (check,) = (check for check in judge(history._replace(meetings=meetings)) if not check.passed)
    assert check.detail.count(";") == 3
    assert check.detail.endswith("; and 197 more")


def test_of_many_keys_the_first_are_named() -> None:
    """A wait may be for a hundred thousand."""
    assert named_keys(["a", "b"]) == "the key 'a', the key 'b'"
    assert named_keys([str(number) for number in range(20_000)]).endswith("the key '7' and 19992 more")


def test_the_first_to_fail_is_blamed_and_among_equals_the_one_killed() -> None:
    """A rank that was killed makes others fail at nearly the same moment, never the other way round."""
    early = Ending(5, exit=1, by_itself=True, phase="", at=1.0)
    killed = Ending(4, exit=-9, by_itself=True, phase="", at=2.0)
    victim = Ending(3, exit=1, by_itself=True, phase="", at=2.0)
    assert sorted([victim, killed, early], key=blame) == [early, killed, victim]


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exit 0"), (3, "exit 3"), (-11, "SIGSEGV"), (-40, "signal 40"), (None, "its exit is unknown")],
)
def test_an_exit_status_reads_well(status: int | None, text: str) -> None:
    """A signal has its name."""
    assert exit_text(status) == text


@given(st.sets(st.integers(0, 50), min_size=1))
def test_named_numbers_can_be_read_back(numbers: set[int]) -> None:
    """Folding into ranges loses no number and invents none."""
    noun, text = named("rank", numbers).split(" ", 1)
    assert (noun == "ranks") == (len(numbers) > 1)
    bounds = [[int(bound) for bound in part.split("-")] for part in text.split(", ")]
    assert {number for bound in bounds for number in range(bound[0], bound[-1] + 1)} == numbers
