"""Liveness and outcomes as a scenario expects them, judged over facts that were written by hand."""

from __future__ import annotations

import re

import pytest

from sim.check.expected import Seen, judge
from sim.check.rounds import Given, Out
from sim.check.settled import patience_s
from sim.scenario import ANY, ENDED, Expectation, Nodes, Scenario, Script, Step
from sim.scenario_text import Ranks

SCENARIO = Scenario(
    backend="c10d",
    nodes=Nodes(2, 3, 4),
    options=(("last_call_timeout", 1), ("keep_alive_interval", 1)),
    scripts=(Script(Ranks(), (Step("launch", seconds=0.1),)),),
    expect=Expectation(outcomes=((Ranks(), ANY),), settled=True),
)
PATIENCE_S = patience_s(SCENARIO)


def begun(*ranks: int) -> list[Out]:
    return [Out(0.0, f"rank {rank}", "re-entered") for rank in ranks]


def given(at_s: float, round_: int, *ranks: int, size: int | None = None) -> list[Given]:
    size = size or len(ranks)
    return [Given(at_s, f"rank {rank}", round_, place, size, "host:1") for place, rank in enumerate(ranks)]


def check(name: str, facts: list, outcomes: tuple[str, ...] = (ENDED,) * 4, **seen: object):
    values = {"struck_at": 0.0, "over_at": 100.0, "lost_at": (), **seen}
    whole = Seen(tuple(facts), (), outcomes, (), (), 100.0, **values)  # type: ignore[arg-type]
    return next(check for check in judge(SCENARIO, whole) if check.name == name)


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ([*begun(0, 1, 2, 3), *given(1, 1, 0, 1, 2)], ""),  # and a spare
        ([*begun(0, 1, 2, 3), *given(1, 1, 0, 1)], "2 launchers of 3 are in a round, outside are rank 2, rank 3"),
        (
            [*begun(0, 1, 2, 3), *given(1, 1, 0, 1), *given(2, 2, 2, 3)],
            "apart: rank 0, rank 1 in round 1; rank 2, rank 3 in round 2",
        ),
        ([*begun(0, 1, 2), *given(1, 1, 0, 1, 2), Out(2, "rank 2", "re-entered")], "outside are rank 2"),
        ([*begun(0), *given(1, 1, 0, size=1)], ""),  # too few for a round, of whom nothing is asked
        (begun(0, 1, 2, 3), "0 launchers of 3"),
    ],
)
def test_launchers_are_together_in_the_end_or_spares(facts: list, problem: str) -> None:
    """Those who never began are none."""
    judged = check("settled", facts)
    assert judged.passed == (not problem), judged
    if problem:
        assert re.search(problem, judged.detail)


def test_a_round_whose_member_is_gone_must_end() -> None:
    """Its other members have heard of that in good time."""
    facts = [*begun(0, 1, 2), *given(1, 1, 0, 1, 2), Out(2.0, "rank 2", "died")]
    judged = check("settled", facts, (ENDED, ENDED, "SIGKILL", ENDED))
    assert judged.detail == "at the end a round of 3 has 2 launchers left, and does not end"


@pytest.mark.parametrize("late_s", [0.1, -0.1])
def test_nothing_is_said_of_a_run_that_ended_too_soon_after_a_fault(late_s: float) -> None:
    """Nor of one in which somebody has just died; after the bound, it is."""
    facts = [*begun(0, 1, 2, 3), *given(1, 1, 0, 1)]
    struck_at = 100.0 - PATIENCE_S + late_s
    judged = check("settled", facts, struck_at=struck_at)
    assert judged.passed == judged.detail.startswith("not judged: calm for ") == (late_s > 0)
    died = [*facts, Out(struck_at, "rank 3", "died")]
    assert check("settled", died, (ENDED, ENDED, ENDED, "SIGKILL")).passed == (late_s > 0)


@pytest.mark.parametrize(
    ("outcome", "is_fine"),
    [
        *((outcome, True) for outcome in ("ok", ENDED, "SIGKILL", "Crash", "RendezvousTimeoutError", "DistStoreError")),
        *((outcome, False) for outcome in ("KeyError", "AssertionError", "exit 3", "Stalled", "Store", "rdzv")),
    ],
)
def test_any_outcome_is_one_that_users_are_told_of(outcome: str, is_fine: bool) -> None:
    """An error that is not the library's own is a mistake of the library."""
    judged = check("outcomes", begun(0, 1, 2, 3), ("ok", outcome, "ok", "ok"))
    assert judged.passed == is_fine
    assert is_fine or f"rank 1 ended with {outcome}, not any" in judged.detail


def test_rounds_of_a_store_that_was_replaced_count_anew() -> None:
    """The same number again is another round then; who had asked before may be given either, and is not judged."""
    again = [Out(11.0, f"rank {rank}", "re-entered") for rank in range(3)]
    facts = [*begun(0, 1, 2, 3), *given(1, 1, 0, 1, 2), *again, *given(12, 1, 2, 1, 0), *given(13, 1, 3, size=4)]
    assert check("frozen", facts, lost_at=((9.0, 10.0),)).passed
    assert check("numbers", facts, lost_at=((9.0, 10.0),)).passed
    assert not check("frozen", facts).passed
    assert not check("numbers", facts).passed
    torn = [*facts, Out(14.0, "rank 3", "re-entered"), *given(15, 1, 3, size=2)]
    assert not check("frozen", torn, lost_at=((9.0, 10.0),)).passed
