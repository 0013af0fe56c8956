"""What no node writes, in each kind of key: who reads it is told, nobody else is harmed; and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given, strategies as st

from rdzv.core.documents import (
    TEXT_BYTES_MAX,
    Assignment,
    Closed,
    Document,
    End,
    Head,
    Keys,
    Notice,
    Plan,
    Record,
    Settings,
)
from rdzv.core.keyspace import Keyspace
from rdzv.errors import RendezvousStateError
from sim.virtual.client import HEAD_KEY
from sim.virtual.job import Job
from sim.virtual.world import World

GARBAGE = [
    b"",
    b"{}",
    b"\x80\x04\x95pickle",
    b"null",
    b"[" * 5000,
    b'{"a":' * 900,
    b"1" * 5000,
    b'"' + b"x" * TEXT_BYTES_MAX + b'"',
]
DOCUMENTS = [Settings, Closed, Head, Record, Assignment, Notice, End]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.__name__)
@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: repr(text[:8]))
def test_garbage_is_an_error_that_says_where(document: type[Document], text: bytes) -> None:
    """Of one class, whatever it is."""
    with pytest.raises(RendezvousStateError, match="this place holds what no node writes there"):
        document.load(text, "this place")


@given(
    st.sampled_from(DOCUMENTS),
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())),
)
def test_no_json_raises_anything_else(document: type[Document], fields: dict) -> None:
    """Whatever its fields are."""
    for extra in ({}, dict.fromkeys(document.__slots__, 1), dict.fromkeys(document.__slots__)):
        with contextlib.suppress(RendezvousStateError):
            document.load(json.dumps({**extra, **fields}).encode(), "here")


@given(st.binary())
def test_no_bytes_are_a_plan_by_chance(text: bytes) -> None:
    """A plan has its own form."""
    with contextlib.suppress(RendezvousStateError):
        Plan.load(text, "here")


def test_another_version_of_the_protocol_is_told_as_such() -> None:
    """Before anything else of the document is looked at."""
    with pytest.raises(RendezvousStateError, match="protocol version 2; this node speaks 1"):
        Head.load(b'{"protocol":2}', "here")


def job_of(count: int, settings: Settings | None = None) -> Job:
    job = Job(World(), settings or Settings(2, count, last_call_s=1.0))
    for number in range(count):
        job.start(f"node{number}")
    return job


def write(job: Job, key: bytes, value: bytes) -> None:
    job.world.store.core._keyspace.set(key, value)


def test_a_garbage_document_is_told_to_all_who_read_it() -> None:
    """To members, and to those who come."""
    job = job_of(3)
    job.is_restless = False
    job.world.run(3.0)
    write(job, HEAD_KEY, b"\x80\x04garbage")
    job.world.run(20.0)
    assert all(isinstance(agent.error, RendezvousStateError) for agent in job.agents.values())
    late = job.start("late")
    job.world.run(21.0)
    assert isinstance(late.error, RendezvousStateError)


@pytest.mark.parametrize("name", ["node/1", "node/2", "node/4", "beat/1", "beat/2", "lobby", "rank/2", "plan/1"])
@pytest.mark.parametrize("at_s", [0.0, 0.0025, 0.004, 0.3, 1.5])
def test_garbage_in_a_lobby_harms_at_most_who_reads_it(name: str, at_s: float) -> None:
    """A node that meets it in its own key fails or begins anew; all others, and soon all, are in a round."""
    job = job_of(3)
    key = f"/rdzv/run/0/{name}".encode()
    job.world.at(at_s, write, job, key, b"\x00garbage")
    job.world.run(45.0)
    members = [agent for agent in job.agents.values() if agent.membership]
    assert len(members) == 3
    assert {agent.rounds[-1].size for agent in members} == {3}
    assert not job.faults()


@pytest.mark.parametrize("name", ["lobby", "end", "beat/1", "beat/2", "gone", "outcome", "rank/1", "node/1"])
@pytest.mark.parametrize("round_", [0, 1])
def test_garbage_in_a_running_round_ends_it_at_the_worst(name: str, round_: int) -> None:
    """The members go on, or meet again."""
    job = job_of(3)
    job.world.run(3.0)
    if (name, round_) != ("outcome", 1):
        write(job, f"/rdzv/run/{round_}/{name}".encode(), b"\x00garbage")
    job.world.run(45.0)
    assert {agent.rounds[-1].size for agent in job.agents.values() if agent.membership} == {3}
    assert sum(agent.membership is not None for agent in job.agents.values()) == 3
    assert not job.faults()


@pytest.mark.parametrize("count", [-5, 1 << 20, 10**15, (1 << 63) - 2])
def test_tickets_that_nobody_drew_are_an_error(count: int) -> None:
    """Of the class that is for what no node writes."""
    job = job_of(1, Settings(1, 1))
    job.is_restless = False
    write(job, Keys("run", 0).key("ticket"), b"%d" % count)
    job.world.run(2.0)
    (error,) = (agent.error for agent in job.agents.values())
    assert isinstance(error, RendezvousStateError)
    assert f"the tickets of round 0 are no node's: they have come to {count + 1}" in str(error)


@pytest.mark.parametrize("value", [b"", b"garbage"])
def test_a_counter_that_is_no_number_is_an_error_and_not_taken_for_a_lost_store(value: bytes) -> None:
    """The store hangs up on whoever adds to it, again and again."""
    job = job_of(1, Settings(1, 1))
    job.is_restless = False
    write(job, Keys("run", 0).key("ticket"), value)
    job.world.run(5.0)
    (error,) = (agent.error for agent in job.agents.values())
    assert isinstance(error, RendezvousStateError)
    assert "'/rdzv/run/0/ticket' holds what no node writes there" in str(error)


def test_a_counter_that_runs_away_in_a_lobby_harms_nobody_in_it() -> None:
    """Nobody looks for the records of a million nodes that are not there."""
    job = job_of(2, Settings(3, 3))
    job.world.run(2.0)
    for count in (10**15, 2):
        write(job, Keys("run", 0).key("ticket"), b"%d" % count)
        job.world.run(job.world.now_s + 2.0)
    job.start("late")
    job.world.run(10.0)
    assert [agent.rounds[-1].size for agent in job.agents.values()] == [3, 3, 3]


def test_a_round_is_not_sealed_with_a_plan_that_nobody_can_read() -> None:
    """Else the job could have no later one. Whoever meets the garbage fails, and the next leader writes its own."""
    job = job_of(2, Settings(2, 2))
    write(job, Keys("run", 0).key("plan", 1), b"garbage")
    job.world.run(20.0)
    for name in job.agents:
        job.reenter(name)
    job.world.run(25.0)
    assert [agent.rounds[-1].round for agent in job.agents.values()] == [1, 1]


def test_an_outcome_that_nobody_decided_is_an_error_and_no_endless_loop() -> None:
    """The lobby can come to no other."""
    job = job_of(1, Settings(3, 3))
    job.is_restless = False
    job.world.run(2.0)
    write(job, Keys("run", 0).key("outcome"), b"garbage")
    late = job.start("late")
    job.world.run(3.0)
    assert isinstance(late.error, RendezvousStateError)
    assert "the outcome of round 0 of run 'run' holds what no node writes there" in str(late.error)


# Memory


@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_rounds_of_churn_leave_the_keys_of_two_rounds(seed: int) -> None:
    """With deaths, of rank 0 among them, with leaves and with spares."""
    chance = random.Random(seed)
    job = Job(World(seed), Settings(2, 4, last_call_s=0.5, keep_alive_interval_s=1.0))
    for number in range(5):
        job.start(f"node{number}")
    number = 5
    while max((agent.rounds[-1].round for agent in job.agents.values() if agent.rounds), default=0) < 50:
        job.world.run(job.world.now_s + chance.choice([1.0, 2.0, 6.0]))
        name = chance.choice(list(job.agents))
        getattr(job, chance.choice(["crash", "leave", "reenter", "reenter"]))(name)
        if len(job.agents) < 5:
            job.start(f"node{number}")
            number += 1
        assert len(job.world.store.core._keyspace) < 2 * (4 * 12 + 6)
    job.world.run(job.world.now_s + 30)
    round_ = max(agent.rounds[-1].round for agent in job.agents.values() if agent.rounds)
    keys = Keyspace.keys(job.world.store.core._keyspace)
    kept = {int(key.split(b"/")[3]) for key in keys if key != HEAD_KEY}
    assert kept <= {round_, round_ + 1}
    assert not job.faults()


def test_a_farewell_that_comes_when_its_round_has_been_cleared_away_goes_with_the_next() -> None:
    """A job needs the memory of two rounds, however many there were, and whenever who has left has told."""
    job = job_of(2)
    job.is_restless = False
    job.world.run(3.0)
    for round_ in (1, 2, 3):
        for name in job.agents:
            job.reenter(name)
        job.world.run(3.0 + 3 * round_)
        write(job, f"/rdzv/run/{round_ - 1}/gone".encode(), b"1")
        there = job.world.store.keys()
        held = {key.split(b"/")[3] for key in there if key.startswith(b"/rdzv/run/")}
        assert held <= {b"%d" % number for number in (round_ - 1, round_)}
