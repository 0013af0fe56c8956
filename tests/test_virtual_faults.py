"""Faults of the virtual world: each is what it says it is, and what comes of them depends on the seed alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rdzv.core import wire
from rdzv.core.effects import Effect, Sleep
from rdzv.core.meeting import Meeting, meet
from rdzv.errors import ConnectTimeoutError
from sim.virtual.world import World

NEVER_S = float("inf")
FIXED = (0.001, 0.001)  # each message travels a millisecond


def ask(*requests, deadline_at=NEVER_S):
    """A flow that asks, and returns the replies."""
    replies, _ = yield Effect(requests, deadline_at)
    return replies


def wait(*keys, until=NEVER_S):
    """A flow that waits, and returns whether that was met, and its node's time then."""
    ((met,),), now = yield Effect([(wire.WAIT, list(keys))], NEVER_S, until)
    return met, now


def sleep(until):
    _, now = yield Sleep(until)
    return now


def value_of(world, key):
    """What the store holds, asked over a node that no fault has touched."""
    task = world.node(f"reader of {key} at {world.kernel.now}").spawn(ask((wire.GET, key)))
    world.finish(task, within_s=10)
    ((value,),) = task.result
    return value


def test_a_store_that_is_away_costs_the_deadline_and_keeps_what_it_has():
    """The flow is told at its deadline, by its own clock; what it asked is applied late, as if it were still there."""
    world = World(latency_s=FIXED)
    node = world.node("a", offset_s=100, rate=2)
    world.store.pause()
    task = node.spawn(ask((wire.ADD, b"n", 1), deadline_at=103))
    patient = node.spawn(ask((wire.ADD, b"n", 1)))
    world.run(until_s=60)
    assert isinstance(task.error, ConnectTimeoutError)
    assert str(task.error) == "the store did not answer ADD b'n', 1 within 3.0 s"
    assert (task.error.waited_s, task.error.applied) == (3.0, "unknown")
    assert not patient.done
    world.store.resume()
    world.finish(patient, within_s=1)
    assert patient.result == [[2]]


def test_a_wait_that_the_store_does_not_even_cancel_is_given_up():
    """What the store held of it is gone with its connection, and the next thing asked is answered."""
    world = World(latency_s=FIXED)

    def flow():
        try:
            yield Effect([(wire.WAIT, [b"k"])], 2, 1)
        except ConnectTimeoutError as error:
            replies, now = yield Effect([(wire.CHECK, [b"k"])], 9)
            return str(error), replies, now

    world.at(0.5, world.store.pause)
    world.at(3.0, world.store.resume)
    task = world.node("a").spawn(flow())
    world.run()
    assert task.result == ("the store did not answer WAIT [b'k'] within 2.0 s", [[1]], 3.001)
    assert world.store.core.waiting() == []


def test_a_late_reply_is_not_taken_for_the_next_one():
    """After a missed deadline the flow asks again while the first request is still under way."""
    world = World(latency_s=FIXED)
    world.store.pause()

    def flow():
        try:
            yield Effect([(wire.ADD, b"n", 10)], 1)
        except ConnectTimeoutError:
            replies, _ = yield Effect([(wire.ADD, b"n", 1)], 9)
            return replies

    task = world.node("a").spawn(flow())
    world.at(2.0, world.store.resume)
    world.run()
    assert task.result == [[11]]


def test_nothing_of_a_paused_node_runs_and_what_it_sent_is_applied():
    """When it runs on, it reads what has come before it looks at the clock: it finds its wait met, not over."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    adds, naps = node.spawn(ask((wire.ADD, b"n", 1), deadline_at=5)), node.spawn(sleep(2))
    waits = node.spawn(wait(b"k", until=3))
    world.at(0.0001, node.pause)
    world.at(1.0, lambda: world.node("b").spawn(ask((wire.SET, b"k", b"v"))))
    world.at(1.5, lambda: node.spawn(ask((wire.ADD, b"n", 1))))
    world.run(until_s=10)
    assert value_of(world, b"n") == b"1"
    assert not any(task.done for task in (adds, naps, waits))
    world.at(20.0, node.resume)
    world.run()
    assert (adds.result, naps.result, waits.result) == ([[1]], 20.0, (1, 20.0))
    assert value_of(world, b"n") == b"2"


def test_a_node_that_is_cut_off_is_heard_when_healed_and_in_order():
    """Meanwhile nobody sees what it wrote, and it sees nothing; what it wrote first arrives first."""
    world = World(latency_s=(0.001, 0.5))
    node = world.node("a")
    node.cut()

    def write():
        for number in range(50):
            yield Effect([(wire.SET, b"k", b"%d" % number)], 99)

    writes = node.spawn(write())
    reads = node.spawn(ask((wire.GET, b"k"), deadline_at=100))
    world.run(until_s=5)
    assert writes.done  # a write has no reply to wait for
    assert not reads.done
    assert value_of(world, b"k") == b""
    node.heal()
    world.run()
    assert reads.done
    assert value_of(world, b"k") == b"49"


def test_a_reply_on_its_way_is_cut_off_too():
    """The request was applied, the node does not know it until it is healed."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    task = node.spawn(ask((wire.ADD, b"n", 1), deadline_at=100))
    world.at(0.0015, node.cut)
    world.run(until_s=5)
    assert (value_of(world, b"n"), task.done) == (b"1", False)
    node.heal()
    assert task.result == [[1]]


def test_what_has_reached_a_paused_store_is_applied_when_that_goes_on_though_the_node_is_cut_off_since():
    """It is not held on the link again, where the end of its connection would come before it."""
    world = World(latency_s=FIXED)
    node = world.node("a")
    world.store.pause()
    node.spawn(ask((wire.ADD, b"n", 1)))
    world.run(until_s=1)
    node.cut()
    node.crash(loses=False)
    world.run(until_s=2)
    world.store.resume()
    assert value_of(world, b"n") == b"1"
    node.heal()
    world.run()
    assert value_of(world, b"n") == b"1"


@pytest.mark.parametrize(("loses", "value"), [(False, b"1"), (True, b"")])
def test_a_crash_leaves_what_it_sent_applied_or_lost(loses, value):
    """Its flows never hear of it; the store forgets that they waited; the node can be used again."""
    world = World(latency_s=FIXED)
    node, ended = world.node("a"), []
    waits = node.spawn(wait(b"k"), ended.append)
    world.run(until_s=0.5)
    assert len(world.store.core.waiting()) == 1
    sends = node.spawn(ask((wire.ADD, b"n", 1)), ended.append)
    world.run(until_s=0.5005)
    node.crash(loses=loses)
    world.run()
    assert (waits.ended, sends.ended, ended) == ("crashed", "crashed", [])
    assert world.store.core.waiting() == []
    assert value_of(world, b"n") == value
    again = node.spawn(sleep(7))
    world.run()
    assert again.result == 7


def test_whether_a_crash_loses_what_it_sent_is_drawn():
    """Over some seeds, both come to pass."""
    values = set()
    for seed in range(20):
        world = World(seed, latency_s=FIXED)
        world.node("a").spawn(ask((wire.ADD, b"n", 1)))
        world.at(0.0005, world.nodes["a"].crash)
        world.run()
        values.add(value_of(world, b"n"))
    assert values == {b"", b"1"}


@pytest.mark.parametrize(("method", "ended"), [("crash", "crashed"), ("cancel", "cancelled")])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_fault_may_strike_at_a_step_of_the_flow(method, ended, is_last):
    """Who is told of a step, as by a report, can break the task off there: what it would do next is not done."""
    world = World()
    node = world.node("a")

    def flow():
        yield from ask((wire.ADD, b"n", 1))
        node.crash() if method == "crash" else task.cancel()
        if not is_last:
            yield from ask((wire.ADD, b"n", 1))
        return "it"

    task = node.spawn(flow())
    world.run()
    assert (task.ended, task.result) == (ended, None)
    assert value_of(world, b"n") == b"1"


def test_a_flow_has_no_say_in_a_crash():
    """One that would say good-bye on its way out crashes all the same; to cancel it so is a fault of its own."""
    world = World()
    node = world.node("a")

    def flow():
        try:
            yield Sleep(5)
        finally:
            yield from ask((wire.SET, b"bye", b""))

    crashed, cancelled = node.spawn(flow()), world.node("b").spawn(flow())
    world.run(until_s=1)
    node.crash()
    assert crashed.ended == "crashed"
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        cancelled.cancel()


def test_a_cancelled_task_ends_and_its_node_goes_on():
    """The flow may clean up after itself; the store forgets it."""
    world = World()
    node, cleaned = world.node("a"), []

    def flow():
        try:
            yield from wait(b"k")
        finally:
            cleaned.append(True)

    task, other = node.spawn(flow()), node.spawn(sleep(2))
    world.at(1.0, task.cancel)
    world.run()
    assert (task.ended, task.result, cleaned, other.result) == ("cancelled", None, [True], 2.0)
    assert world.store.core.waiting() == []


faults = st.tuples(
    st.sampled_from(["pause", "resume", "cut", "heal", "crash", "store away", "store back"]),
    st.integers(0, 3),
    st.floats(0, 2),
)


def tickets(now):
    """A flow that draws numbers until its time is up, whatever happens to the store."""
    drawn, until = [], now + 3
    while now < until:
        try:
            ((number,),), now = yield Effect([(wire.ADD, b"n", 1)], now + 0.1)
            drawn.append(number)
        except ConnectTimeoutError:
            _, now = yield Sleep(now + 0.1)
    return drawn


@given(seed=st.integers(0, 1 << 32), plan=st.lists(faults, max_size=8))
def test_whatever_fails_no_request_is_applied_twice_and_none_is_made_up(seed, plan):
    """Numbers drawn are unlike and ascend for each node; those that nobody saw are no more than the requests lost."""
    world = World(seed, latency_s=(0.001, 0.05))
    nodes = [world.node(f"n{number}") for number in range(4)]
    tasks = [node.spawn(tickets(node.now)) for node in nodes]
    for what, number, at_s in plan:
        target = world.store if what.startswith("store") else nodes[number]
        method = {"store away": "pause", "store back": "resume"}.get(what, what)
        world.at(at_s, getattr(target, method))
    for heal in (world.store.resume, *(method for node in nodes for method in (node.resume, node.heal))):
        world.at(2.5, heal)
    world.run()
    assert all(task.done for task in tasks)
    whole = [task.result for task in tasks if task.ended == "returned"]
    drawn = [number for numbers in whole for number in numbers]
    assert len(drawn) == len(set(drawn))
    assert all(numbers == sorted(numbers) for numbers in whole)
    applied = int(value_of(world, b"n") or 0)
    assert len(drawn) <= applied <= sum(node.cost.operations for node in nodes)
    assert set(drawn) <= set(range(1, applied + 1))


def stormy(seed):
    """A world in which everything happens that can."""
    world = World(seed, is_traced=True)
    nodes = [world.node(f"n{number}", offset_s=1e4 * number, rate=1 + number / 50) for number in range(10)]
    chance = world.streams["faults"]
    for rank, node in enumerate(nodes):
        meeting = Meeting("job", rank, 10, node.name, node.now, node.now + 20)
        node.spawn(meet(meeting, node.now))
        fault, mend = chance.pick([("pause", "resume"), ("cut", "heal"), ("crash", "resume")])
        world.at(chance.between(0, 0.003), getattr(node, fault))
        world.at(chance.between(1, 30), getattr(node, mend))
    world.at(chance.between(0, 5), world.store.pause)
    world.at(chance.between(5, 10), world.store.resume)
    world.run()
    return world


def test_the_same_seed_gives_the_same_trace_in_another_process():
    """Neither the order of hashes nor anything else of the process takes part; another seed is another world."""
    program = f"import runpy; print(runpy.run_path({__file__!r})['stormy'](5).digest)"
    digests = [stormy(5).digest]
    for hash_seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=True
        )
        digests.append(done.stdout.strip())
    assert digests == digests[:1] * 3
    assert stormy(6).digest != digests[0]


def test_the_same_seed_gives_the_same_trace_on_every_python():
    """This digest is pinned, to be met by every version that the tests run on; a new trace format is a new one."""
    world = World(7, is_traced=True)
    nodes = [world.node(f"n{number}", offset_s=1e4 * number, rate=1 + number / 7) for number in range(3)]
    for node in nodes:
        node.spawn(tickets(node.now))
    for at_s, fault in ((0.1, nodes[0].cut), (0.4, nodes[0].heal), (0.2, nodes[1].pause), (0.9, nodes[1].resume)):
        world.at(at_s, fault)
    world.at(0.5, nodes[2].crash)
    world.run(until_s=1.0)
    assert world.digest == "c9f778e4e6d1754125bcae5723cc6481c9c63a78924adb1a2a9506a5c5aa283c"
