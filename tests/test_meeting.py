"""How a fixed world meets, in virtual time: the real flow, over the real client and server cores, without a socket."""

from __future__ import annotations

import heapq
from itertools import count

import pytest
from hypothesis import given, settings, strategies as st

from rdzv.core import wire
from rdzv.core.client import ClientCore
from rdzv.core.meeting import COUNT_KEY, Meeting, Outcome, meet
from rdzv.core.server import ServerCore

SLICE_S_MAX = 1.0


class Peer:
    """A client core wired straight to the server core."""

    def __init__(self, world, name):
        self.server, self.core = world.server, ClientCore()
        self.connection = world.server.connect(name, world.now)
        self.ask([(wire.VALIDATE, wire.MAGIC)])

    def ask(self, requests):
        self.server.receive(self.connection, self.core.request(requests))
        return self.collect()

    def collect(self):
        data = bytes(self.connection.outgoing)
        self.server.sent(self.connection, len(data), 0.0)
        return self.core.receive(data) if data else []


class Rank:
    """One member: its flow, and the connection on which it waits."""

    def __init__(self, world, meeting):
        self.world, self.meeting = world, meeting
        self.commands, self.waits = Peer(world, f"{meeting.rank}"), Peer(world, f"{meeting.rank} waits")
        self.requests = 0
        self.outcome: Outcome | None = None
        self.ended_at = 0.0
        self.waiting_for = 0  # the number of the wait that is open; 0 if none
        self.flow = meet(meeting, world.now)
        self.go_on(lambda: next(self.flow))

    def go_on(self, step):
        """Carry out effects until one of them has to wait."""
        while True:
            try:
                effect = step()
            except StopIteration as stop:
                self.outcome, self.ended_at = stop.value, self.world.now
                return
            self.requests += len(effect.requests)
            if effect.wait_until is None:
                replies = self.commands.ask(effect.requests)
            else:
                if not (replies := self.waits.ask(effect.requests)):
                    self.waiting_for = next(self.world.numbers)
                    self.world.at(effect.wait_until, self.time_out, self.waiting_for)
                    return
                replies = [[1]]
            step = self.resume(replies)

    def resume(self, replies):
        return lambda: self.flow.send((replies, self.world.now))

    def wake(self):
        if self.waiting_for and self.waits.collect():
            self.waiting_for = 0
            self.go_on(self.resume([[1]]))

    def time_out(self, number):
        if self.waiting_for == number:
            self.waiting_for = 0
            met = len(self.waits.ask([(wire.CANCEL_WAIT,)])) > 1
            self.go_on(self.resume([[int(met)]]))


class World:
    """One store and its members under one virtual clock."""

    def __init__(self):
        self.now = 0.0
        self.server = ServerCore()
        self.numbers = count(1)
        self.ranks: list[Rank] = []
        self._events = []

    def at(self, when, action, *args):
        heapq.heappush(self._events, (when, next(self.numbers), action, args))

    def arrives(self, rank, world_size, at, timeout_s, token=None, run_id="job"):
        meeting = Meeting(run_id, rank, world_size, token or f"process {rank}", at, at + timeout_s)
        self.at(at, lambda: self.ranks.append(Rank(self, meeting)))

    def torch_arrives(self, at):
        """A member that runs torch's handler: it counts itself in, and that is all."""
        self.at(at, lambda: Peer(self, "torch").ask([(wire.ADD, COUNT_KEY, 1)]))

    def run(self):
        while self._events:
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)
            while self.server.take_touched():
                for rank in list(self.ranks):
                    rank.wake()
        return self.ranks


times = st.floats(0, 20, allow_nan=False).map(lambda seconds: round(seconds, 3))


@settings(max_examples=200)
@given(arrivals=st.lists(times, min_size=1, max_size=8), timeout_s=st.floats(1, 30))
def test_all_meet_as_soon_as_the_last_has_come_or_all_fail_in_time(arrivals, timeout_s):
    """Either everybody meets at the moment of the last arrival, or nobody meets, and each ends by its own deadline."""
    world = World()
    for rank, at in enumerate(arrivals):
        world.arrives(rank, len(arrivals), at, timeout_s)
    ranks = world.run()
    met = {rank.outcome.met for rank in ranks}
    patience_s = timeout_s - min(0.25, 0.05 * timeout_s)
    assert met == {max(arrivals) < min(arrivals) + patience_s} or max(arrivals) == pytest.approx(
        min(arrivals) + patience_s
    )
    for rank in ranks:
        assert rank.ended_at <= rank.meeting.deadline_at
        if rank.outcome.met:
            assert rank.ended_at == max(arrivals)


@settings(max_examples=200)
@given(data=st.data(), world_size=st.integers(2, 12), timeout_s=st.floats(1, 60))
def test_who_is_missing_is_named_to_everybody(data, world_size, timeout_s):
    """When some ranks never come, every one that came ends by its deadline and knows exactly who is missing."""
    here = data.draw(st.sets(st.integers(0, world_size - 1), min_size=1, max_size=world_size - 1))
    world = World()
    for rank in here:
        world.arrives(rank, world_size, data.draw(st.floats(0, timeout_s * 0.9)), timeout_s)
    first_to_give_up = None
    for rank in world.run():
        assert not rank.outcome.met
        assert set(rank.outcome.missing) == set(range(world_size)) - here
        assert rank.outcome.unmarked == 0
        assert rank.ended_at <= rank.meeting.deadline_at
        first_to_give_up = first_to_give_up if first_to_give_up is not None else rank.outcome.gave_up
        assert rank.outcome.gave_up == first_to_give_up


@settings(max_examples=200)
@given(ours=st.lists(times, min_size=1, max_size=5), torchs=st.lists(times, min_size=1, max_size=5))
def test_a_world_with_members_that_run_torch_meets_within_a_slice(ours, torchs):
    """A member that leaves only a count is noticed at most one slice after it came last."""
    world = World()
    for rank, at in enumerate(ours):
        world.arrives(rank, len(ours) + len(torchs), at, 100.0)
    for at in torchs:
        world.torch_arrives(at)
    last = max(ours + torchs)
    for rank in world.run():
        assert rank.outcome.met
        assert last <= rank.ended_at <= last + SLICE_S_MAX


@given(ours=st.integers(1, 5), torchs=st.integers(1, 5), absent=st.integers(1, 5))
def test_members_without_a_name_are_counted(ours, torchs, absent):
    """Where torch's members make it impossible to name who is missing, the number of those missing is right."""
    world = World()
    for rank in range(ours):
        world.arrives(rank, ours + torchs + absent, 0.0, 5.0)
    for _ in range(torchs):
        world.torch_arrives(1.0)
    for rank in world.run():
        assert not rank.outcome.met
        assert len(rank.outcome.missing) - rank.outcome.unmarked == absent


def test_two_processes_that_claim_one_rank_do_not_both_meet():
    """The second is told who holds the rank, and is not counted."""
    world = World()
    world.arrives(0, 2, 0.0, 5.0)
    world.arrives(1, 2, 1.0, 5.0, token="the one")
    world.arrives(1, 2, 2.0, 5.0, token="the other")
    first, second, third = world.run()
    assert first.outcome.met
    assert second.outcome.met
    assert third.outcome == Outcome(met=False, refused="this rank is held by the one")


@given(
    members=st.lists(
        st.tuples(st.sampled_from(["A", "B"]), st.integers(1, 4), st.integers(0, 3), times), min_size=2, max_size=8
    )
)
def test_only_a_complete_world_of_one_run_and_one_size_meets(members):
    """Whoever comes to one store, in whatever order: those who meet are all ranks of one world, each held once."""
    world = World()
    for number, (run_id, world_size, rank, at) in enumerate(members):
        world.arrives(rank % world_size, world_size, at, 5.0, token=f"process {number}", run_id=run_id)
    met = [rank.meeting for rank in world.run() if rank.outcome.met]
    assert len({(meeting.run_id, meeting.world_size) for meeting in met}) <= 1
    if met:
        assert sorted(meeting.rank for meeting in met) == list(range(met[0].world_size))


def test_who_comes_to_the_store_of_another_run_is_told_whose_it_is():
    """The stranger leaves no trace: the run that was there first meets as if nobody had come."""
    world = World()
    world.arrives(0, 2, 0.0, 5.0)
    world.arrives(1, 2, 1.0, 5.0, run_id="other")
    world.arrives(1, 3, 2.0, 5.0)
    world.arrives(1, 2, 3.0, 5.0)
    first, other_run, other_size, last = world.run()
    assert first.outcome.met
    assert last.outcome.met
    assert first.ended_at == 3.0
    assert other_run.outcome.refused == other_size.outcome.refused == "the store there is that of run 'job' of 2"


@pytest.mark.parametrize("world_size", [2, 10, 100, 1000])
def test_the_cost_per_rank_does_not_grow_with_the_world(world_size):
    """When all come within a slice, no rank asks for more than six things, however many they are."""
    world = World()
    for rank in range(world_size):
        world.arrives(rank, world_size, rank * 0.01 / world_size, 60.0)
    assert max(rank.requests for rank in world.run()) <= 6


def test_a_large_world_does_not_keep_the_store_busy_while_it_waits():
    """Who waits for the last of a thousand looks so rarely that all together ask for less than 500 things a second."""
    world, size, late_s = World(), 1000, 10
    for rank in range(size):
        world.arrives(rank, size, late_s if rank == size - 1 else rank * 0.01 / size, 60.0)
    assert sum(rank.requests for rank in world.run()) <= 6 * size + 500 * late_s


def test_a_key_that_holds_garbage_is_an_error_and_no_hang():
    """What no member writes is refused as soon as it is read."""
    outcome = b"/rdzv/2/job/outcome"
    bad_outcomes = [b"\xff{", b"[]", b"{}", b"", b"[" * 100_000, b'{"missing": 5, "unmarked": 0}']
    for key, value in [(COUNT_KEY, b"lots"), *((outcome, bad) for bad in bad_outcomes)]:
        world = World()
        vandal = Peer(world, "vandal")
        world.arrives(0, 2, 0.0, 5.0)
        world.at(0.01, lambda vandal=vandal, key=key, value=value: vandal.ask([(wire.SET, key, value)]))
        with pytest.raises(ValueError, match=r"lots|outcome"):
            world.run()
