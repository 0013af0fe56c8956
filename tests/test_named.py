"""Whom the errors of a fixed world may name as missing, judged over facts that were written by hand."""

from __future__ import annotations

import pytest

from sim.check.named import Failure, hasty, misnamed
from sim.check.rounds import Fact, Given, Out

ASKED: list[Fact] = [Out(0.0, f"rank {rank}", "re-entered") for rank in (0, 1)]


def failures(*missing: tuple[int, ...], kind: str = "RendezvousTimeoutError") -> list[Failure]:
    return [Failure(5.0, rank, 1, kind, each) for rank, each in enumerate(missing)]


@pytest.mark.parametrize(
    ("missing", "facts", "what"),
    [
        ([(2,), (2,)], [], ""),
        ([(2,)], [Out(4.9, "rank 2", "re-entered")], ""),  # it has hardly come
        ([(2,)], [Out(5.1, "rank 2", "re-entered")], ""),
        ([()], [], "rank 0 names () as missing in round 1, and not [2]"),
        ([(1, 2)], [], "rank 0 names rank 1 as missing in round 1, which came at 0 s"),
        (
            [(2,), (2, 1)],
            [Out(0.0, "rank 1", "died")],
            "rank 1 names (2, 1) as missing in round 1, in which others name",
        ),
        ([(2,)], [Given(4.0, "rank 1", 1, 1, 3, "host:1")], "rank 0 names (2,) as missing in round 1, in which others"),
    ],
)
def test_all_who_are_missing_are_named_and_nobody_else(
    missing: list[tuple[int, ...]], facts: list[Fact], what: str
) -> None:
    found = list(misnamed(failures(*missing), [*ASKED, *facts], 3))
    assert found[0].startswith(what) if what else not found


def test_a_host_that_has_died_may_be_named_by_who_cannot_reach_it() -> None:
    lost = failures((0,), kind="RendezvousConnectionError")
    assert list(misnamed(lost, ASKED, 3))
    assert not list(misnamed(lost, [*ASKED, Out(1.0, "rank 0", "died")], 3))


def test_nobody_meets_before_all_have_come() -> None:
    facts = [*ASKED, Given(1.0, "rank 0", 1, 0, 3, "host:1"), Out(2.0, "rank 2", "re-entered")]
    assert list(hasty(facts, 3)) == ["rank 0 has met in round 1 at 1 s, without [2]"]
    assert not list(hasty(facts, 2))
