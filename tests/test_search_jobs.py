"""The searches of whole jobs and of the store's calls: nothing is left to find in what they have looked through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rdzv.core import lobby, tend
from rdzv.core.decide import Pulse
from rdzv.core.documents import Plan
from rdzv.core.join import heard
from rdzv.core.lobby import Leadership
from rdzv.core.meeting import Outcome
from sim.search import worlds
from sim.search.calls import check_calls
from sim.search.jobs import check_job
from sim.search.worlds import check_world

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rdzv.core.documents import Assignment, Settings
    from rdzv.core.tend import Membership


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_the_store_answers_all_calls_as_the_reference_does(first: int) -> None:
    """Commands of all kinds, in pieces, within small limits and beyond them."""
    for seed in range(first, first + 100):
        assert not check_calls(seed), seed


@pytest.mark.parametrize(
    "seed",
    [
        2443,  # the reference: a client that a push has woken, and that is refused what it asks next, has let it pass
        17337,  # the harness: what has no reply is done at once, however much lies unread
        37226,  # the harness: who is refused, and let go for its size too, passes on also what it was only woken for
    ],
)
def test_what_the_search_of_calls_has_found_stays_mended(seed: int) -> None:
    assert not check_calls(seed)


@pytest.mark.parametrize("first", range(0, 32, 8))
def test_a_job_is_whole_after_its_accidents_and_ends_as_it_should(first: int) -> None:
    """Hints, interrupts, strangers and rivals among them; in the end it is closed, or all leave."""
    for seed in range(first, first + 8):
        assert not check_job(seed), seed


@pytest.mark.parametrize(
    "seed",
    [
        6,  # two nodes with one hint took turns in an endless row of rounds: who was refused never heard why
        7,  # a leader that came late took the living for dead: a beat must be seen to follow another, on slow links too
        14,  # a job that was opened again was closed by the last member of the closed round as it left; and who was
        # passed over by a round blamed the store, since that round's keys had been cleared away already
        1000752,  # a leader whose record was lost with a connection had no beat in its round, and was found dead there
        10324,  # on slow links leaders gave up one after the other, each just before it knew that one was dead
    ],
)
def test_what_the_search_of_jobs_has_found_stays_mended(seed: int) -> None:
    assert not check_job(seed)


def test_what_only_large_rounds_do_is_tried_by_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some seeds, nodes ask for two or three keys at once; a last one of a batch that is lost is missed."""
    read_records = Leadership.read_records

    def forgetful(self: Leadership, tickets: Sequence[int], now: float, *, is_proven: bool) -> Any:
        kept = [ticket for place, ticket in enumerate(tickets, 1) if place % lobby.BATCH]
        return read_records(self, kept, now, is_proven=is_proven)

    monkeypatch.setattr(Leadership, "read_records", forgetful)
    assert any(map(check_job, range(64)))
    assert lobby.BATCH == 1000


def _observed_asleep(pulse: Pulse, value: bytes, now: float, _: Settings) -> None:
    """An observer that was held up counts that time, too."""
    if value != pulse.value:
        pulse.beat_at = now if pulse.value else pulse.beat_at
        pulse.value, pulse.silent_s = value, 0.0
    elif pulse.seen_at > float("-inf"):
        pulse.silent_s += now - pulse.seen_at
    pulse.seen_at = now


def _counted_for_ever(membership: Membership, notice: Pulse) -> None:
    """What a leader has said is true when it is dead."""
    told = heard(notice.value)
    membership.waiting = told.waiting if told else 0


def _elsewhere(plan: Plan, round_: int, rank: int, assign: Any = Plan.assignment) -> Assignment:
    return assign(Plan(plan.members, "elsewhere", plan.port), round_, rank)


@pytest.mark.parametrize(
    ("where", "name", "bug"),
    [
        (Pulse, "observe", _observed_asleep),
        (tend, "_count_waiting", _counted_for_ever),
        (Plan, "assignment", _elsewhere),
    ],
)
def test_what_no_scenario_shows_is_found_in_a_jobs_life(
    where: Any, name: str, bug: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a whole machine has slept, who is counted as waiting, and where rank 0 is."""
    monkeypatch.setattr(where, name, bug)
    assert any(map(check_job, range(160)))


def test_fixed_worlds_meet_as_they_should_and_let_in_nobody_else() -> None:
    """Two that claim one rank, and other runs, come to their store as well."""
    for seed in range(1000):
        assert not check_world(seed), seed


def test_a_world_that_lets_everybody_in_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who met without whom, or beside whom."""

    def welcome(*_: object) -> Iterator[object]:
        yield from ()
        return Outcome(met=True)

    monkeypatch.setattr(worlds, "meet", welcome)
    assert any(map(check_world, range(16)))
