"""The decisions of the elastic rounds: each is a pure function, tried for all that it can be given."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rdzv.core.decide import (
    LAST_CALL_EXTENSIONS_MAX,
    Candidate,
    Lobby,
    Pulse,
    assign_ranks,
    decide,
    find_rivals,
    natural,
    was_member,
)
from rdzv.core.documents import Record, Settings

SETTINGS = Settings(2, 4, last_call_s=30.0)
FORMER = 6  # the number of the round before


def node(ticket: int, name: str = "", *, was_rank: int | None = None, rank: int | None = None, topology: str = ""):
    was_round, was_rank = (-1, 0) if was_rank is None else (FORMER, was_rank)
    record = Record(name or f"node{ticket}", f"token{ticket}", "addr", 1, rank, topology, was_round, was_rank)
    return Candidate(ticket, record, came_at=0.0)


@st.composite
def lobbies(draw: st.DrawFn) -> list[Candidate]:
    """Nodes of which some were in the round before, some have a place in the parameters, in any order of coming."""
    count = draw(st.integers(1, 12))
    former_ranks = draw(st.lists(st.none() | st.integers(0, 15), min_size=count, max_size=count))
    ranks = draw(st.lists(st.none() | st.integers(0, 15), min_size=count, max_size=count))
    seen: set[tuple[str, int]] = set()
    nodes = []
    for ticket in range(1, count + 1):
        was_rank, rank = former_ranks[ticket - 1], ranks[ticket - 1]
        was_rank = None if ("was", was_rank) in seen else was_rank
        rank = None if ("rank", rank) in seen else rank
        seen |= {("was", was_rank), ("rank", rank)}
        name = f"node{draw(st.integers(0, 99))}"
        nodes.append(
            node(ticket, name, was_rank=was_rank, rank=rank, topology=draw(st.sampled_from(["", "", "a1", "a10"])))
        )
    return draw(st.permutations(nodes))


def has_place(candidate: Candidate) -> bool:
    return candidate.record.rank is not None or bool(candidate.record.topology)


@given(lobbies(), st.integers(1, 12))
def test_ranks_are_a_permutation_of_the_chosen_whoever_they_are(lobby: list[Candidate], max_nodes: int) -> None:
    """Nobody is there twice; members of the round before are chosen first, then who came first."""
    ranked = assign_ranks(lobby, FORMER, max_nodes)
    assert len(ranked) == min(len(lobby), max_nodes)
    assert len({candidate.ticket for candidate in ranked}) == len(ranked)
    out = [candidate for candidate in lobby if candidate not in ranked]
    first_to_last = [(not was_member(candidate, FORMER), candidate.ticket) for candidate in ranked]
    assert all((not was_member(candidate, FORMER), candidate.ticket) > max(first_to_last) for candidate in out)


@given(lobbies())
def test_those_with_a_place_come_first_and_in_its_order(lobby: list[Candidate]) -> None:
    """A rank goes before a topology, and the topology is in natural order."""
    ranked = assign_ranks(lobby, FORMER, 99)
    placed = [candidate for candidate in lobby if has_place(candidate)]
    assert set(map(id, ranked[: len(placed)])) == set(map(id, placed))
    keys = [(c.record.rank is None, c.record.rank or 0, natural(c.record.topology)) for c in ranked[: len(placed)]]
    assert keys == sorted(keys)


@given(lobbies())
def test_no_member_moves_that_could_have_stayed(lobby: list[Candidate]) -> None:
    """The fewest moves: a former member whose rank still exists, and is nobody's by the parameters, keeps it."""
    ranked = assign_ranks(lobby, FORMER, 99)
    placed = sum(map(has_place, lobby))
    for candidate in lobby:
        if was_member(candidate, FORMER) and not has_place(candidate):
            was_rank = candidate.record.was_rank
            if placed <= was_rank < len(lobby):
                assert ranked[was_rank] is candidate


def test_strangers_are_ranked_in_natural_order() -> None:
    """Not in the order of the text."""
    ranked = assign_ranks([node(1, "node66"), node(2, "node7"), node(3, "node10")], -1, 9)
    assert [candidate.record.name for candidate in ranked] == ["node7", "node10", "node66"]


def test_a_hole_is_filled_by_the_last_and_nobody_else_moves() -> None:
    """Rank 1 is gone: rank 3 does not exist any more, and takes it."""
    ranked = assign_ranks([node(1, was_rank=3), node(2, was_rank=0), node(3, was_rank=2)], FORMER, 9)
    assert [candidate.record.was_rank for candidate in ranked] == [0, 3, 2]


@given(st.text(), st.text())
def test_natural_order_takes_any_text(one: str, other: str) -> None:
    """Any two names can be compared, and only equal texts are equal but for zeros before a number."""
    assert (natural(one) < natural(other)) + (natural(other) < natural(one)) + (natural(one) == natural(other)) == 1


def test_two_that_ask_for_one_rank_are_named_in_order() -> None:
    """The one that was first, and the one that must go."""
    first, second = node(1, rank=3), node(2, rank=3)
    assert find_rivals([first, node(3, rank=4), second]) == (first, second)
    assert find_rivals([first, node(3)]) is None


# Whether to seal


def test_no_round_is_sealed_while_a_member_of_the_one_before_may_be_at_work() -> None:
    """However many are here: there must not be two live worlds."""
    lobby = Lobby([node(ticket, was_rank=ticket) for ticket in range(1, 9)], running=["node9"], former_round=FORMER)
    decision = decide(lobby, SETTINGS, 1e9)
    assert not decision.seal
    assert "round 6 still has node9" in decision.why


def test_no_round_is_sealed_while_two_ask_for_one_rank() -> None:
    """Not even one that is full; the reason names both."""
    one, other = node(1, "node4", rank=0), node(2, "node5", rank=0)
    lobby = Lobby([one, other, *map(node, range(3, 9))], rivals=(one, other))
    decision = decide(lobby, SETTINGS, 1e9)
    assert not decision.seal
    assert "both node4 and node5 ask for rank 0" in decision.why


def test_enough_is_not_reached_by_names_but_by_living_nodes() -> None:
    """Too few: the reason names who is here, who is gone, and how many are needed."""
    decision = decide(Lobby([node(1)], gone=["node7"], former_round=FORMER), SETTINGS, 0.0)
    assert not decision.seal
    assert decision.why == "1 of at least 2 nodes are here (node1); node7 of round 6 are gone"
    assert decision.need == 1


def test_all_that_may_come_are_enough_at_once() -> None:
    """No last call for a full round."""
    assert decide(Lobby([node(ticket) for ticket in range(4)]), SETTINGS, 0.0).seal


def test_records_alone_are_not_enough() -> None:
    """Those whom nobody has seen alive are waited for: a new leader finds the records of the dead too."""
    lobby = Lobby([node(1), node(2)], unproven=["node3"], enough_since=0.0, last_arrival_at=0.0)
    decision = decide(lobby, SETTINGS, 1e9)
    assert not decision.seal
    assert "node3" in decision.why


def test_the_last_call_is_for_strangers_only() -> None:
    """Members of the round before who live are back: nobody else is waited for."""
    lobby = Lobby(
        [node(1, was_rank=0), node(2, was_rank=1)], former_round=FORMER, enough_since=5.0, last_arrival_at=5.0
    )
    assert decide(lobby, SETTINGS, 5.0).seal


@given(st.lists(st.floats(0.1, 29.9), max_size=30))
def test_an_arrival_extends_the_last_call_up_to_a_bound(gaps_s: list[float]) -> None:
    """Who comes in one stream with others is not shut out; a stream without end does not hold up the round."""
    now = closes_at = 30.0
    for gap_s in gaps_s:
        if now + gap_s >= closes_at:
            break
        now += gap_s
        lobby = Lobby([node(1), node(2)], enough_since=0.0, last_arrival_at=now)
        decision = decide(lobby, SETTINGS, now)
        assert not decision.seal
        closes_at = decision.until
        assert closes_at == pytest.approx(min(now + 30.0, 30.0 * LAST_CALL_EXTENSIONS_MAX))
    last = Lobby([node(1), node(2)], enough_since=0.0, last_arrival_at=now)
    assert decide(last, SETTINGS, 30.0 * LAST_CALL_EXTENSIONS_MAX).seal


def test_the_last_call_does_not_outlast_the_leader_s_patience() -> None:
    """Else it would give up a round that could be sealed."""
    lobby = Lobby([node(1), node(2)], enough_since=0.0, last_arrival_at=0.0, give_up_at=7.0)
    assert decide(lobby, SETTINGS, 0.0).until == 7.0
    assert decide(lobby, SETTINGS, 7.0).seal


# Who is alive


@given(st.lists(st.floats(0.01, 40.0), min_size=1, max_size=60))
def test_silence_is_what_polls_on_time_have_seen_for_the_bound(gaps_s: list[float]) -> None:
    """Whatever the gaps: a node is silent only after 15 s in which no poll was late, and then it is."""
    pulse, now, silent_since = Pulse(), 1000.0, 1000.0
    pulse.observe(b"5", now, SETTINGS)
    for gap_s in gaps_s:
        now += gap_s
        silent_since = now if gap_s > 7.5 else silent_since
        pulse.observe(b"5", now, SETTINGS)
        if now - silent_since < SETTINGS.bound_s - 1:
            assert not pulse.is_silent(SETTINGS)
        elif now - silent_since >= SETTINGS.bound_s:
            assert pulse.is_silent(SETTINGS)


def test_a_beat_ends_the_silence() -> None:
    """One is enough; and it shows that the node lives."""
    pulse = Pulse()
    for second in range(30):
        pulse.observe(b"5", float(second), SETTINGS)
    assert pulse.is_silent(SETTINGS)
    assert pulse.beat_at < 0
    pulse.observe(b"6", 30.0, SETTINGS)
    assert not pulse.is_silent(SETTINGS)
    assert pulse.beat_at == 30.0


@pytest.mark.parametrize(
    ("value", "is_gone", "has_moved_on"),
    [
        (b"left: done", True, False),
        (b"lost: x", True, False),
        (b"next", False, True),
        (b"12", False, False),
        (b"", False, False),
    ],
)
def test_who_goes_says_so_in_place_of_a_beat(value: bytes, is_gone: bool, has_moved_on: bool) -> None:
    """For good, or to the next round."""
    pulse = Pulse()
    pulse.observe(value, 0.0, SETTINGS)
    assert (pulse.is_gone, pulse.has_moved_on) == (is_gone, has_moved_on)
