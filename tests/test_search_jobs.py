"""The searches of whole jobs and of the store's calls: nothing is left to find in what they have looked through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rdzv.core import lobby
from rdzv.core.lobby import Leadership
from sim.search.calls import check_calls
from sim.search.jobs import check_job

if TYPE_CHECKING:
    from collections.abc import Sequence


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
